"""A program in torch as it is written: one operation for each of the math's, one equation for each sum of products.

What one would write first, with all features in one tensor: what generated code is compared with, and timed against.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparank_gen.backends.torch.values import Dense, einsum
from sparank_gen.ir.mode import Mode
from sparank_gen.ir.node import BATCH, Node, Program
from sparank_gen.ir.parts import factors_of
from sparank_gen.lang.layouts import Layout
from sparank_gen.lang.ops import OPERATORS
from sparank_gen.trial.cases import Case, stored_tensors

NAMES = {"torch": torch, "F": torch.nn.functional, "lerp": torch.lerp}
METHODS: dict[str, Callable[..., Tensor]] = {
    "sum": torch.sum,
    "mean": torch.mean,
    "max": torch.amax,
    "min": torch.amin,
    "logsumexp": torch.logsumexp,
}


@dataclass(frozen=True)
class Named:
    """A tensor and the name of each of its dimensions."""

    tensor: Tensor
    axes: tuple[str, ...]

    def along(self, axes: Sequence[str]) -> Tensor:
        """The tensor with its dimensions in the order of ``axes``, of size 1 where it has none."""
        moved = self.tensor.permute([self.axes.index(axis) for axis in axes if axis in self.axes])
        return moved[tuple(slice(None) if axis in self.axes else None for axis in axes)]


def parameters_of(layer: nn.Module, mode: Mode, case: Case) -> dict[str, Tensor]:
    """The parameters of a generated layer, by their names in the math, with a dimension for each of their indices."""
    parts: dict[str, list[Tensor]] = {}
    held = dict(layer.named_parameters())
    for key, name, _, _ in stored_tensors(mode, case):
        parts.setdefault(name, []).append(held[key])
    found = {}
    for module in mode.modules:
        for layout in (parameter.layout for parameter in module.parameters):
            shape = [mode.program.extents[axis].value(case.sizes(1)) for axis in layout.axes if axis != module.per]
            pieces = [piece.reshape(shape) for piece in parts[layout.name]]
            found[layout.name] = pieces[0] if module.per is None else torch.stack(pieces, layout.axes.index(module.per))
    return found


class PlainLayer:
    """The output of a mode, computed by a program that no pass has changed.

    Args:
        mode: any mode without windows.
        case: the sizes.
        parameters: each parameter, with a dimension for each of its indices.
    """

    def __init__(self, mode: Mode, case: Case, parameters: Mapping[str, Tensor]) -> None:
        self.program: Program = mode.program
        self.features: Layout = mode.features
        self.layout: Layout = mode.out
        self.sizes = case.sizes(1)
        self.parameters = parameters
        self.root = self.program[mode.out.name].node

    def __call__(self, features: Sequence[Tensor]) -> Tensor:
        """The output, ``(B, out_dim)``, of one tensor ``(B, dim)`` for each modality."""
        sizes = [self.size(axis) for axis in self.features.dimensions[2]]
        tensors = {**self.parameters, "h": torch.stack(list(features), 1).unflatten(-1, sizes)}
        found: dict[Node, Named] = {}
        out = self.value(self.root, found, tensors)
        axes = [axis for dimension in self.layout.dimensions for axis in dimension]
        shape = [len(features[0]) if axis == BATCH else self.size(axis) for axis in axes]
        return out.along(axes).expand(shape).reshape(len(features[0]), -1)

    def size(self, axis: str) -> int:
        return self.program.extents[axis].value(self.sizes)

    def value(self, node: Node, found: dict[Node, Named], tensors: Mapping[str, Tensor]) -> Named:
        """The value of a node; what is known stands in ``found``."""
        if node not in found:
            factors = factors_of(node.args[0]) if node.op in ("sum", "mean") else []
            args = [self.value(arg, found, tensors) for arg in (factors if len(factors) > 1 else node.args)]
            found[node] = self.contracted(node, args) if len(factors) > 1 else self.applied(node, args, tensors)
        return found[node]

    def contracted(self, node: Node, factors: Sequence[Named]) -> Named:
        """A sum of products, by one equation."""
        result = self.ordered(factors, node.over)
        code = einsum([Dense(f"f[{k}]", factor.axes) for k, factor in enumerate(factors)], result).code
        total: Tensor = eval(code, {**NAMES, "f": [factor.tensor for factor in factors]})
        count = math.prod(self.size(axis) for axis in node.over)
        return Named(total / count if node.op == "mean" else total, result)

    def applied(self, node: Node, args: Sequence[Named], tensors: Mapping[str, Tensor]) -> Named:
        """Any other node."""
        like = next(iter(tensors.values()))
        if node.op == "leaf":
            name, indices = node.data
            at = tuple(index if isinstance(index, int) else slice(None) for index in indices)
            return Named(tensors[name][at], tuple(index for index in indices if isinstance(index, str)))
        if node.op in ("constant", "extent"):
            number = node.data if node.op == "constant" else node.data.number_for(self.sizes)
            return Named(like.new_tensor(float(number)), ())
        if node.op == "rename":
            names = dict(node.data)
            return Named(args[0].tensor, tuple(names.get(axis, axis) for axis in args[0].axes))
        if node.op == "select":
            rest = tuple(axis for axis in args[0].axes if axis not in node.over)
            return Named(args[0].tensor.select(args[0].axes.index(node.over[0]), node.data), rest)
        if node.op == "concat":
            return self.joined(node, args)
        operator = OPERATORS[node.op]
        if operator.kind in ("pointwise", "comparison"):
            axes = self.ordered(args)
            operands: dict[str, Any] = {"x": [arg.along(axes) for arg in args]}
            return Named(eval(operator.torch.format(*(f"(x[{k}])" for k in range(len(args)))), NAMES | operands), axes)
        return self.over_axes(node, args[0])

    def over_axes(self, node: Node, arg: Named) -> Named:
        """A reduction or a normalisation."""
        dims = tuple(arg.axes.index(axis) for axis in node.over)
        rest = tuple(axis for axis in arg.axes if axis not in node.over)
        if node.op in METHODS:
            return Named(METHODS[node.op](arg.tensor, dims), rest)
        last = arg.tensor.permute([*(arg.axes.index(axis) for axis in rest), *dims]).flatten(-len(dims))
        if node.op == "prod":
            return Named(last.prod(-1), rest)
        if node.op == "softmax":
            normalised = last.softmax(-1)
        else:
            normalised = torch.nn.functional.layer_norm(last, last.shape[-1:], eps=dict(node.data)["eps"])
        return Named(normalised.unflatten(-1, [self.size(axis) for axis in node.over]), (*rest, *node.over))

    def joined(self, node: Node, args: Sequence[Named]) -> Named:
        """Pieces one after another along the last dimension."""
        rest = tuple(axis for axis in self.ordered(args) if axis not in node.data)
        pieces = [
            arg.along((*rest, part)) if part else arg.along(rest).unsqueeze(-1)
            for arg, part in zip(args, node.data, strict=True)
        ]
        shape = torch.broadcast_shapes(*(piece.shape[:-1] for piece in pieces))
        return Named(torch.cat([piece.expand(*shape, -1) for piece in pieces], -1), (*rest, *node.over))

    def ordered(self, values: Sequence[Named], without: Sequence[str] = ()) -> tuple[str, ...]:
        """All axes of some values: the batch first, the others in the order of their declarations."""
        axes = {axis for value in values for axis in value.axes} - set(without)
        return tuple(axis for axis in (BATCH, *(a for a in self.program.extents if a != BATCH)) if axis in axes)
