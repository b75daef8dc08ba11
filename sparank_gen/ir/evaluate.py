"""The reference evaluator: numpy float64, one node at a time. It is the meaning of the language.

It is small and naive on purpose, and shares nothing with the backends: goldens come from it, and every backend is
compared with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from sparank_gen.ir.node import BATCH, FIXED, Node, Window, axis_of, leaf, reachable
from sparank_gen.lang.extents import Extent
from sparank_gen.lang.ops import OPERATORS
from sparank_gen.lang.widths import owners, width_name

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


@dataclass(frozen=True)
class Apart:
    """One value for each position of the axis ``owner``, where their sizes differ."""

    owner: str
    parts: tuple[Value, ...]

    @property
    def axes(self) -> tuple[str, ...]:
        return (self.owner, *dict.fromkeys(axis for part in self.parts for axis in part.axes))


@dataclass(frozen=True)
class Pieces:
    """A tensor with one array for each position of its dimension ``slot``, where their sizes differ."""

    slot: int
    arrays: tuple[Array, ...]


Tensors = Mapping[str, Array | Pieces]
Sizes = Mapping[str, int | float]


def evaluate(
    roots: Iterable[Node],
    tensors: Tensors,
    extents: Mapping[str, Extent],
    sizes: Sizes,
    range_of: type[np.floating[Any]] = np.float64,
) -> dict[Node, Value | Apart]:
    """The value of every node that ``roots`` depend on.

    Args:
        roots: the nodes to evaluate.
        tensors: float64 arrays, one for each tensor that the leaves name, dimensions in the order of their indices.
        extents: the extent of each axis.
        sizes: the value of each name that extents are made of (``dim``, ``modalities``, ``batch``, hyper-parameters).
        range_of: a type in whose range values stay: those beyond it are infinite, those too small for it zero. Precision is
            that of float64 nevertheless.
    """
    evaluator = _Evaluator(tensors, extents, sizes)
    values: dict[Node, Value | Apart] = {}
    with np.errstate(all="ignore"):
        for node in reachable(roots):
            value = evaluator.value(node, [values[arg] for arg in node.args])
            values[node] = value if range_of is np.float64 else _in_range(value, range_of)
    return values


def evaluate_at(
    node: Node, axes: tuple[str, ...], values: Mapping[Node, Value | Apart], extents: Mapping[str, Extent], sizes: Sizes
) -> Array:
    """A value with its dimensions in the order of ``axes``, broadcast along those that it lacks."""
    return evaluate_in(node, [(axis,) for axis in axes], values, extents, sizes)


def evaluate_in(
    node: Node,
    dimensions: Sequence[tuple[str, ...]],
    values: Mapping[Node, Value | Apart],
    extents: Mapping[str, Extent],
    sizes: Sizes,
) -> Array:
    """A value as a layout says, broadcast along the axes that it lacks; what differs in size is joined."""
    value = values[node]
    axes = tuple(axis for dimension in dimensions for axis in dimension)
    owner = value.owner if isinstance(value, Apart) else next((o for o in owners(axes, extents).values() if o in axes), None)
    if owner is None:
        assert isinstance(value, Value)
        counts = {axis: int(sizes["batch"]) if extents[axis].symbols == {"batch"} else extents[axis].value(sizes) for axis in axes}
        array = np.broadcast_to(value.along(axes), [counts[axis] for axis in axes])
        return np.array(array).reshape([math.prod(counts[axis] for axis in dimension) for dimension in dimensions])
    joined = next(place for place, dimension in enumerate(dimensions) if owner in dimension)
    position = dimensions[joined].index(owner)
    before, after = dimensions[joined][:position], dimensions[joined][position + 1 :]
    own = [*dimensions[:joined], *((axis,) for axis in before), after, *dimensions[joined + 1 :]]
    whole = np.concatenate(evaluate_apart(node, owner, own, values, extents, sizes), joined + position)
    end = joined + position + 1
    return whole.reshape((*whole.shape[:joined], math.prod(whole.shape[joined:end]), *whole.shape[end:]))


def evaluate_apart(
    node: Node,
    owner: str,
    dimensions: Sequence[tuple[str, ...]],
    values: Mapping[Node, Value | Apart],
    extents: Mapping[str, Extent],
    sizes: Sizes,
) -> list[Array]:
    """A value at each position of a modality axis, as a layout says that lacks it."""
    evaluator = _Evaluator({}, extents, sizes)
    return [
        evaluate_in(node, dimensions, {node: evaluator.part(values[node], owner, m)}, extents, evaluator.sizes_of(owner, m))
        for m in range(evaluator.count)
    ]


@dataclass(frozen=True)
class _Evaluator:
    """Evaluates one node after another, for given tensors and sizes."""

    tensors: Tensors
    extents: Mapping[str, Extent]
    sizes: Sizes

    @property
    def count(self) -> int:
        return int(self.sizes["modalities"])

    def sizes_of(self, owner: str, m: int) -> Sizes:
        """The sizes where ``owner`` is modality ``m``."""
        width = self.sizes.get(width_name(m))
        return self.sizes if width is None else {**self.sizes, width_name(owner): width}

    def part(self, value: Value | Apart, owner: str, m: int) -> Any:
        """What a value is for modality ``m``; in pieces if it is along another axis."""
        if isinstance(value, Apart) and value.owner != owner:
            return Apart(value.owner, tuple(self.part(part, owner, m) for part in value.parts))
        if isinstance(value, Apart):
            return value.parts[m]
        if owner not in value.axes:
            return value
        rest = tuple(axis for axis in value.axes if axis != owner)
        return Value(np.asarray(value.array.take(m, value.axes.index(owner))), rest)

    def value(self, node: Node, args: list[Value | Apart]) -> Value | Apart:
        """The value of a node; where sizes differ, of one modality after another."""
        differing = [owner for owner in owners(node.axes - {BATCH}, self.extents).values() if owner in node.axes]
        apart = next((arg.owner for arg in args if isinstance(arg, Apart)), next(iter(differing), None) if args else None)
        if node.op == "leaf" and isinstance(self.tensors[node.data[0]], Pieces):
            return self.pieces(node)
        if node.op == "extent" and node.axes:
            (owner,) = node.axes
            numbers = [node.data.number_for(self.sizes_of(owner, m)) for m in range(self.count)]
            return Value(np.array([float(number) for number in numbers]), (owner,))
        if apart is not None and node.op == "rename":
            names = dict(node.data)
            parts = tuple(Value(p.array, tuple(names.get(axis, axis) for axis in p.axes)) for p in args[0].parts)  # type: ignore[union-attr]
            return Apart(names.get(apart, apart), parts)
        if apart is not None and node.op == "select" and node.over == (apart,):
            return cast(Value, self.part(args[0], apart, _whole(node.data, self.sizes)))
        if node.op == "place" and node.over[0] in owners(node.axes - {BATCH}, self.extents).values():
            return self.placed(node, args[0])
        if apart is None:
            return _value(node, args, self.tensors, self.extents, self.sizes)  # type: ignore[arg-type]
        if apart in node.over:
            return self.over_joined(node, args[0])
        parts = tuple(
            _value(node, [self.part(arg, apart, m) for arg in args], {}, self.extents, self.sizes_of(apart, m))
            for m in range(self.count)
        )
        return self.together(node, apart, parts)

    def together(self, node: Node, owner: str, parts: tuple[Value, ...]) -> Value | Apart:
        """One value for each modality, as one array where their sizes are the same."""
        if owners(node.axes - {BATCH}, self.extents):
            return Apart(owner, parts)
        axes = parts[0].axes
        return Value(np.stack([part.along(axes) for part in parts]), (owner, *axes))

    def pieces(self, node: Node) -> Value | Apart:
        """A tensor that comes in pieces, at its indices."""
        name, indices = node.data
        tensor = self.tensors[name]
        assert isinstance(tensor, Pieces)
        slot, rest = tensor.slot, (*indices[: tensor.slot], *indices[tensor.slot + 1 :])
        which = indices[slot]
        numbers = range(self.count) if isinstance(which, str) else [_whole(which, self.sizes)]
        parts = []
        for m in numbers:
            sizes = self.sizes_of(which, m) if isinstance(which, str) else self.sizes
            parts.append(_leaf(leaf(name, rest), {name: tensor.arrays[m]}, self.extents, sizes))
        return self.together(node, which, tuple(parts)) if isinstance(which, str) else parts[0]

    def placed(self, node: Node, arg: Value | Apart) -> Apart:
        """A value at one modality, zeros of its own size for each other."""
        (owner,) = node.over
        own = self.part(arg, owner, _whole(node.data, self.sizes))
        differing = owners(node.axes - {BATCH}, self.extents)
        parts = []
        for m in range(self.count):
            sizes = self.sizes_of(owner, m)
            shape = [self.extents[a].value(sizes) if a in differing else own.array.shape[k] for k, a in enumerate(own.axes)]
            parts.append(own if m == _whole(node.data, self.sizes) else Value(np.zeros(shape), own.axes))
        return Apart(owner, tuple(parts))

    def over_joined(self, node: Node, arg: Value | Apart) -> Value | Apart:
        """An operator over modalities and what they have, one after another, along one dimension."""
        assert isinstance(arg, Apart)
        operator, inner = OPERATORS[node.op], tuple(axis for axis in node.over if axis != arg.owner)
        rest = tuple(axis for axis in arg.axes if axis not in node.over)
        flat = []
        for part in arg.parts:
            array = part.along((*rest, *inner))
            flat.append(array.reshape((*array.shape[: len(rest)], -1)))
        array = operator.meaning(np.concatenate(flat, -1), (len(rest),), **dict(node.data or ()))
        if operator.kind != "normalisation":
            return Value(np.asarray(array), rest)
        ends = np.cumsum([part.shape[-1] for part in flat])[:-1]
        shapes = [part.along((*rest, *inner)).shape for part in arg.parts]
        pieces = np.split(array, ends, -1)
        return Apart(arg.owner, tuple(Value(x.reshape(shape), (*rest, *inner)) for x, shape in zip(pieces, shapes, strict=True)))


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


def _in_range(value: Value | Apart, dtype: type[np.floating[Any]]) -> Value | Apart:
    """A value as it is where ``dtype`` has such numbers, and what that has instead elsewhere."""
    if isinstance(value, Apart):
        return Apart(value.owner, tuple(cast(Value, _in_range(part, dtype)) for part in value.parts))
    if value.array.dtype == np.bool_:
        return value
    held = value.array.astype(dtype)
    return Value(np.where(np.isfinite(held) & (held != 0), value.array, held), value.axes)


def _whole(number: int | Extent, sizes: Mapping[str, int | float]) -> int:
    return number if isinstance(number, int) else int(number.number_for(sizes))


def _leaf(
    node: Node, tensors: Mapping[str, Array], extents: Mapping[str, Extent], sizes: Mapping[str, int | float]
) -> Value:
    """A tensor at its indices; outside the tensor a window reads zeros."""
    name, indices = node.data
    array = tensors[name][tuple(_whole(index, sizes) if isinstance(index, FIXED) else slice(None) for index in indices)]
    axes = [index for index in indices if not isinstance(index, FIXED)]
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
