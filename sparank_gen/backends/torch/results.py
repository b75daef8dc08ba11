"""Results, as their layouts say: dimensions in order and composed, lists stacked or concatenated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparank_gen.backends.torch.pieces import laid_out
from sparank_gen.backends.torch.values import Dense, Listed, Value, composed_dimensions
from sparank_gen.lang.layouts import Layout

if TYPE_CHECKING:
    from sparank_gen.backends.torch.lower import Lowering


def realise(lowering: Lowering, value: Value, layout: Layout) -> str:
    """Code for ``value`` laid out as ``layout`` says."""
    value = lowering.tensor(value)
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


def _concatenated(lowering: Lowering, value: Listed, layout: Layout) -> str | None:
    """A layout that composes the list's axis with the one after it, as ``torch.cat`` of the elements."""
    for position, joined in enumerate(layout.dimensions):
        if joined[0] == value.axis and len(joined) == 2:
            flat = [axis for axis in layout.axes if axis != value.axis]
            if tuple(flat) == value.element.axes and all(len(d) == 1 for d in layout.dimensions if d != joined):
                dim = -1 if position == len(layout.dimensions) - 1 else position
                return f"torch.cat({value.sequence}, {dim})"
    return laid_out(lowering, value, layout) if lowering.emitter.differs(value) else None
