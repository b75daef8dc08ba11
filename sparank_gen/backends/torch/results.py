"""Results, as their layouts say: dimensions in order and composed, lists stacked or concatenated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparank_gen.backends.torch.pieces import laid_out
from sparank_gen.backends.torch.values import Dense, Listed, composed, composed_dimensions
from sparank_gen.ir.node import Node
from sparank_gen.lang.layouts import Layout

if TYPE_CHECKING:
    from sparank_gen.backends.torch.lower import Lowering


def realise(lowering: Lowering, node: Node, layout: Layout) -> str:
    """Code for ``node`` laid out as ``layout`` says."""
    if node.op == "stack" and lowering.uses[node] == 1:
        side_by_side = _pieces_side_by_side(lowering, node, layout)
        if side_by_side is not None:
            return side_by_side
    value = lowering.tensor(lowering.lower(node))
    if isinstance(value, Listed):
        joined = _concatenated(lowering, value, layout)
        if joined is not None:
            return joined
    dense = lowering.dense(value)
    if any(axis not in dense.axes for axis in layout.axes):
        wanted = [lowering.emitter.extent_code(axis) for axis in layout.axes]
        dense = Dense(f"{dense.aligned(layout.axes).atom}.expand({', '.join(wanted)})", layout.axes)
    dense = dense.ordered(layout.axes)
    if len(layout.dimensions) == len(layout.axes):
        return dense.code
    return composed_dimensions(dense.atom, layout.dimensions)


def _pieces_side_by_side(lowering: Lowering, node: Node, layout: Layout) -> str | None:
    """A layout that composes the axis of a stack with those after it, as ``torch.cat`` of the pieces."""
    (axis,) = node.over
    position, dimension = next((k, d) for k, d in enumerate(layout.dimensions) if axis in d)
    others = [other for other in layout.dimensions if other != dimension]
    is_plain = all(len(other) == 1 for other in others) and all(piece.axes == node.axes - {axis} for piece in node.args)
    if dimension[0] != axis or len(dimension) == 1 or not is_plain or node.axes != set(layout.axes):
        return None
    dimensions = [dimension[1:] if d == dimension else d for d in layout.dimensions]
    axes = [other for d in dimensions for other in d]
    pieces = [lowering.dense(lowering.tensor(lowering.lower(piece))).ordered(axes) for piece in node.args]
    codes = [composed_dimensions(x.atom, dimensions) if len(dimension) > 2 else x.code for x in pieces]
    dim = -1 if position == len(dimensions) - 1 else position
    value = Dense(f"torch.cat(({', '.join(codes)}), {dim})", tuple(composed(d) for d in layout.dimensions))
    definition = lowering.definitions.get(node)
    named = lowering.emitter.assign(value, definition.name, definition.source) if definition else value
    assert isinstance(named, Dense)
    return named.code


def _concatenated(lowering: Lowering, value: Listed, layout: Layout) -> str | None:
    """A layout that composes the list's axis with the one after it, as ``torch.cat`` of the elements."""
    for position, joined in enumerate(layout.dimensions):
        if joined[0] == value.axis and len(joined) == 2:
            flat = [axis for axis in layout.axes if axis != value.axis]
            if tuple(flat) == value.element.axes and all(len(d) == 1 for d in layout.dimensions if d != joined):
                dim = -1 if position == len(layout.dimensions) - 1 else position
                return f"torch.cat({value.sequence}, {dim})"
    return laid_out(lowering, value, layout) if lowering.emitter.differs(value) else None
