"""Lists whose elements differ in size, as the widths of modalities do: taken from joined tensors, and joined again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from sparank_gen.backends.torch.emit import WIDTHS
from sparank_gen.backends.torch.values import Dense, Listed, Value, composed, composed_dimensions, index_dense
from sparank_gen.ir.node import Node
from sparank_gen.lang.layouts import Layout
from sparank_gen.lang.ops import OPERATORS
from sparank_gen.lang.widths import width_name

if TYPE_CHECKING:
    from sparank_gen.backends.torch.lower import Lowering


def _of_each(lowering: Lowering, owner: str, code: str) -> str:
    """The numbers that ``code``, made of a modality's width, is for each of them."""
    widths, variable = lowering.emitter.symbols[WIDTHS], lowering.emitter.symbols[width_name(owner)]
    return widths if code == variable else f"[{code} for {variable} in {widths}]"


def number_of_each(lowering: Lowering, owner: str, code: str) -> Dense:
    """A number for each modality, made of its width, as a tensor."""
    return Dense(f"h[0].new_tensor({_of_each(lowering, owner, code)})", (owner,))


def split_apart(lowering: Lowering, code: str, name: str, layout: Layout, owner: str, indices: Sequence[str | int]) -> Value:
    """A tensor laid out as pieces of a size for each modality, as the list of them; ``name`` is in that of a piece."""
    place = next(place for place, dimension in enumerate(layout.dimensions) if owner in dimension)
    dimension, slot = layout.dimensions[place], layout.axes.index(owner)
    position = dimension.index(owner)
    if position:
        code = f"{code}.unflatten({place}, ({lowering.sizes(dimension[:position])[1:-1].rstrip(',')}, -1))"
    sizes = _of_each(lowering, owner, lowering.emitter.extents_code(dimension[position + 1 :]))
    code = f"{code}.split({sizes}, {place + position})"
    rest = [index for k, index in enumerate(indices) if k != slot]
    dimensions = [tuple(axis for axis in axes if axis != owner) for axes in layout.dimensions]
    apart = [*dimensions[:place], *((axis,) for axis in dimension[:position]), dimension[position + 1 :], *dimensions[place + 1 :]]
    axes = tuple(axis for axis in layout.axes if axis != owner)
    which = indices[slot]
    element = f"{code}[{which}]" if isinstance(which, int) else lowering.emitter.element(f"{name}_{which}", code)
    dense = index_dense(lowering.unpacked(element, apart, axes), rest)
    return dense if isinstance(which, int) else Listed(which, dense, ((element, code),))


def over_joined(lowering: Lowering, node: Node, value: Listed) -> Value:
    """An operator over modalities and what they have, joined; of a normalisation the pieces are taken apart again."""
    joined, inner = _joined(value, node.over)
    operator = OPERATORS[node.op]
    if node.op == "layernorm":
        return _taken_apart(lowering, node, value, lowering.layer_norm(replace(node, over=joined.axes[-1:]), joined), inner)
    code = Dense(operator.torch.format(joined.atom, dim=-1), joined.axes)
    if node.op == "product_of_others":
        code = lowering.dense_over_axes(node.op, joined, joined.axes[-1:])
    if operator.kind == "normalisation":
        return _taken_apart(lowering, node, value, code, inner)
    return Dense(code.code, joined.axes[:-1])


def _joined(value: Listed, over: Sequence[str]) -> tuple[Dense, tuple[str, ...]]:
    """The elements of a list one after another in one last dimension, and the axes that each has there."""
    rest = tuple(axis for axis in value.element.axes if axis not in over)
    inner = tuple(axis for axis in value.element.axes if axis in over)
    element = value.element.ordered((*rest, *inner))
    element = element if len(inner) == 1 else Dense(f"{element.atom}.flatten({-len(inner)})", element.axes)
    sequence = replace(value, element=element).sequence
    return Dense(f"torch.cat({sequence}, -1)", (*rest, composed((value.axis, *inner)))), inner


def _taken_apart(lowering: Lowering, node: Node, value: Listed, joined: Dense, inner: tuple[str, ...]) -> Listed:
    """The pieces of ``node``, joined as its operand ``value`` was, the axes ``inner`` of each a dimension."""
    sizes = _of_each(lowering, value.axis, lowering.emitter.extents_code(inner))
    piece = lowering.emitter.unique(f"{node.op}_part")
    code = piece if len(inner) == 1 else f"{piece}.unflatten(-1, {lowering.sizes(inner)})"
    source = (piece, f"{joined.atom}.split({sizes}, -1)")
    return lowering.emitter.with_widths(Listed(value.axis, Dense(code, (*joined.axes[:-1], *inner)), (source,)))


def laid_out(lowering: Lowering, value: Listed, layout: Layout) -> str:
    """Code for a list whose elements differ in size, one after another as ``layout`` says."""
    axes = tuple(axis for axis in layout.axes if axis != value.axis)
    element = value.element
    if set(element.axes) != set(axes):
        sizes = ", ".join(lowering.emitter.extent_code(axis) for axis in axes)
        element = Dense(f"{element.aligned(axes).atom}.expand({sizes})", axes)
    code = element.ordered(axes).atom
    place = next(place for place, dimension in enumerate(layout.dimensions) if value.axis in dimension)
    before = layout.dimensions[place].index(value.axis)
    groups = [*layout.dimensions[:place], *((axis,) for axis in layout.dimensions[place][:before])]
    groups += [layout.dimensions[place][before + 1 :], *layout.dimensions[place + 1 :]]
    code = composed_dimensions(code, groups)
    made = lowering.emitter.with_widths(replace(value, element=Dense(code, axes)))
    dim = place + before
    code = f"torch.cat({made.sequence}, {-1 if dim == len(groups) - 1 else dim})"
    return f"{code}.flatten({place}, {dim})" if before else code
