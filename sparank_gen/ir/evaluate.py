"""The reference evaluator: numpy float64, one node at a time. It is the meaning of the language.

It is small and naive on purpose, and shares nothing with the backends: goldens come from it, and every backend is
compared with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparank_gen.ir.node import Node, Window, axis_of, reachable
from sparank_gen.lang.extents import Extent
from sparank_gen.lang.ops import OPERATORS

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Value:
    """An array and the name of each of its dimensions."""

    array: Array
    axes: tuple[str, ...]

    def along(self, axes: tuple[str, ...]) -> Array:
        """The array with its dimensions in the order of ``axes``, of size 1 where it has none."""
        order = [self.axes.index(axis) for axis in axes if axis in self.axes]
        array = np.transpose(self.array, order)
        return array.reshape([array.shape[[a for a in axes if a in self.axes].index(x)] if x in self.axes else 1 for x in axes])


def evaluate(
    roots: Iterable[Node], tensors: Mapping[str, Array], extents: Mapping[str, Extent], sizes: Mapping[str, int | float]
) -> dict[Node, Value]:
    """The value of every node that ``roots`` depend on.

    Args:
        roots: the nodes to evaluate.
        tensors: float64 arrays, one for each tensor that the leaves name, dimensions in the order of their indices.
        extents: the extent of each axis.
        sizes: the value of each name that extents are made of (``dim``, ``modalities``, ``batch``, hyper-parameters).
    """
    values: dict[Node, Value] = {}
    with np.errstate(all="ignore"):
        for node in reachable(roots):
            values[node] = _value(node, [values[arg] for arg in node.args], tensors, extents, sizes)
    return values


def evaluate_at(
    node: Node, axes: tuple[str, ...], values: Mapping[Node, Value], extents: Mapping[str, Extent], sizes: Mapping[str, int | float]
) -> Array:
    """A value with its dimensions in the order of ``axes``, broadcast along those that it lacks."""
    shape = [extents[axis].value(sizes) if extents[axis].symbols != {"batch"} else int(sizes["batch"]) for axis in axes]
    return np.array(np.broadcast_to(values[node].along(axes), shape))


def _value(
    node: Node, args: list[Value], tensors: Mapping[str, Array], extents: Mapping[str, Extent], sizes: Mapping[str, int | float]
) -> Value:
    if node.op == "leaf":
        return _leaf(node, tensors, extents, sizes)
    if node.op == "constant":
        return Value(np.asarray(node.data, dtype=np.float64), ())
    if node.op == "extent":
        return Value(np.asarray(float(node.data.number_for(sizes))), ())
    if node.op == "rename":
        names = dict(node.data)
        return Value(args[0].array, tuple(names.get(axis, axis) for axis in args[0].axes))
    if node.op == "select":
        (axis,) = node.over
        remaining = tuple(other for other in args[0].axes if other != axis)
        return Value(np.asarray(args[0].array.take(_whole(node.data, sizes), args[0].axes.index(axis))), remaining)
    if node.op == "place":
        (axis,) = node.over
        array = np.zeros((extents[axis].value(sizes), *args[0].array.shape))
        array[_whole(node.data, sizes)] = args[0].array
        return Value(array, (axis, *args[0].axes))
    if node.op in ("slice", "pad", "concat", "position"):
        return _along_axis(node, args, extents, sizes)
    union = tuple(dict.fromkeys(axis for arg in args for axis in arg.axes))
    aligned = [arg.along(union) for arg in args]
    if node.op == "stack":
        return Value(np.stack(np.broadcast_arrays(*aligned)), (*node.over, *union))
    operator = OPERATORS[node.op]
    if operator.kind in ("pointwise", "comparison"):
        return Value(np.asarray(operator.meaning(*aligned)), union)
    dimensions = tuple(union.index(axis) for axis in node.over)
    array = operator.meaning(aligned[0], dimensions, **dict(node.data or ()))
    if operator.kind == "normalisation":
        return Value(array, union)
    return Value(np.asarray(array), tuple(axis for axis in union if axis not in node.over))


def _whole(number: int | Extent, sizes: Mapping[str, int | float]) -> int:
    return number if isinstance(number, int) else int(number.number_for(sizes))


def _leaf(
    node: Node, tensors: Mapping[str, Array], extents: Mapping[str, Extent], sizes: Mapping[str, int | float]
) -> Value:
    """A tensor at its indices; outside the tensor a window reads zeros."""
    name, indices = node.data
    array = tensors[name][tuple(index if isinstance(index, int) else slice(None) for index in indices)]
    axes = [index for index in indices if not isinstance(index, int)]
    for dimension, index in enumerate(axes):
        if isinstance(index, Window):
            places = np.arange(extents[index.axis].value(sizes)) + _whole(index.shift, sizes)
            inside = (places >= 0) & (places < array.shape[dimension])
            shape = [-1 if k == dimension else 1 for k in range(array.ndim)]
            array = np.where(inside.reshape(shape), array.take(places, dimension, mode="clip"), 0.0)
    return Value(array, tuple(map(axis_of, axes)))


def _along_axis(
    node: Node, args: list[Value], extents: Mapping[str, Extent], sizes: Mapping[str, int | float]
) -> Value:
    """What cuts an axis, or makes one of pieces."""
    (axis,) = node.over
    if node.op == "position":
        return Value(np.arange(float(extents[axis].value(sizes))), (axis,))
    if node.op == "slice":
        start, dimension = _whole(node.data.shift, sizes), args[0].axes.index(axis)
        places = np.arange(start, start + extents[node.data.axis].value(sizes))
        axes = tuple(node.data.axis if other == axis else other for other in args[0].axes)
        return Value(args[0].array.take(places, dimension), axes)
    parts = (node.data.axis,) if node.op == "pad" else node.data
    rest = tuple(dict.fromkeys(other for arg in args for other in arg.axes if other not in parts))
    counts = [extents[part].value(sizes) if part else 1 for part in parts]
    aligned = [arg.along((part, *rest)) if part else arg.along(rest)[None] for arg, part in zip(args, parts, strict=True)]
    shape = np.broadcast_shapes(*(array.shape[1:] for array in aligned))
    pieces = [np.broadcast_to(array, (count, *shape)) for array, count in zip(aligned, counts, strict=True)]
    if node.op == "concat":
        return Value(np.concatenate(pieces), (axis, *rest))
    array = np.zeros((extents[axis].value(sizes), *pieces[0].shape[1:]))
    start = _whole(node.data.shift, sizes)
    array[start : start + counts[0]] = pieces[0]
    return Value(array, (axis, *rest))
