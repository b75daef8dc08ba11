"""Views: axes renamed, positions and parts of tensors, and tensors made of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from sparank_gen.backends.torch.values import Dense, Listed, Value, index_dense
from sparank_gen.ir.node import Definition, Node
from sparank_gen.lang.extents import Extent
from sparank_gen.lang.widths import owners

if TYPE_CHECKING:
    from sparank_gen.backends.torch.lower import Lowering

# More of them are read one by one: a statement with that many names reads badly.
MOST_PARTS = 8


def rename(lowering: Lowering, node: Node) -> Value:
    value, names = lowering.lower(node.args[0]), dict(node.data)
    if isinstance(value, Listed):
        element = replace(value.element, axes=tuple(names.get(axis, axis) for axis in value.element.axes))
        return Listed(names.get(value.axis, value.axis), element, value.sources)
    assert isinstance(value, Dense)
    return replace(value, axes=tuple(names.get(axis, axis) for axis in value.axes))


def select(lowering: Lowering, node: Node) -> Value:
    (axis,), (whole,) = node.over, node.args
    if whole.op == "stack" and whole.over == node.over:
        # A piece that is the same along an axis of others has none there; in the stack it would have to be as long as they are.
        return lowering.lower(whole.args[node.data])
    value = lowering.lower(whole)
    if isinstance(value, Listed) and value.axis == axis:
        sequence = lowering.emitter.name_for(value, whole.op)
        assert isinstance(sequence, Listed)
        return Dense(f"{sequence.sequence}[{_position(lowering, node.data)}]", value.element.axes)
    if isinstance(value, Dense):
        parts = _parts(lowering, whole, value, axis)
        if parts:
            position: int = node.data
            return parts[position]

    def pick(x: Dense) -> Dense:
        if isinstance(node.data, Extent):
            rest = tuple(other for other in x.axes if other != axis)
            return Dense(f"{x.atom}.select({x.dim(axis)}, {_position(lowering, node.data)})", rest)
        return index_dense(x, [node.data if a == axis else a for a in x.axes])

    return lowering.lift(pick, value)


def _parts(lowering: Lowering, whole: Node, value: Dense, axis: str) -> list[Dense]:
    """A tensor at all positions of an axis, by one ``unbind``; none unless each is read.

    One operation has one gradient, which is written once. Those of views by an index are as large as the tensor, each.
    """
    if (whole, axis) not in lowering.taken_apart:
        reads = {
            reader.data: reader for reader in lowering.readers.get(whole, []) if reader.op == "select" and reader.over == (axis,)
        }
        count = lowering.program.extents[axis].constant or 0
        is_whole = 2 <= count <= MOST_PARTS and set(reads) == set(range(count))
        found = _unbound(lowering, whole, value, axis, [reads[k] for k in range(count)]) if is_whole else []
        lowering.taken_apart[whole, axis] = found
    return lowering.taken_apart[whole, axis]


def _unbound(lowering: Lowering, whole: Node, value: Dense, axis: str, reads: Sequence[Node]) -> list[Dense]:
    name = re.sub(r"\[(\d+)\]", r"_\1", value.code)
    if not name.isidentifier():
        named = lowering.emitter.name_for(value, whole.op)
        assert isinstance(named, Dense)
        value, name = named, named.code
    found: list[Definition | None] = []
    for read in reads:
        shown = [read, *(reader for reader in lowering.readers.get(read, []) if reader.op == "rename")]
        found.append(next((lowering.definitions[node] for node in shown if node in lowering.definitions), None))
    names = [definition.name if definition else f"{name}_{k}" for k, definition in enumerate(found)]
    part = Dense("", tuple(other for other in value.axes if other != axis))
    code = f"{value.code}.unbind({value.dim(axis)})"
    return lowering.emitter.unpack(part, code, names, [definition.source if definition else "" for definition in found])


def stack(lowering: Lowering, node: Node) -> Value:
    values = [lowering.tensor(lowering.lower(piece)) for piece in node.args]
    apart = next((value.axis for value in values if isinstance(value, Listed) and lowering.emitter.differs(value)), None)
    if apart is not None:
        return lowering.each(apart, lambda *pieces: _stacked(lowering, node, pieces), *values)
    return _stacked(lowering, node, [lowering.dense(value) for value in values])


def _stacked(lowering: Lowering, node: Node, pieces: Sequence[Dense]) -> Dense:
    """The pieces of a stack along its new axis."""
    axes = lowering.sorted(set().union(*(piece.axes for piece in pieces)))
    if len(pieces) == 1:
        return Dense(f"{pieces[0].ordered(axes).atom}.unsqueeze(0)", (*node.over, *axes))
    if all(set(piece.axes) == set(axes) for piece in pieces):
        codes = ", ".join(piece.ordered(axes).code for piece in pieces)
        return Dense(f"torch.stack(({codes}))", (*node.over, *axes))
    codes = ", ".join(piece.aligned(axes).code for piece in pieces)
    return Dense(f"torch.stack(torch.broadcast_tensors({codes}))", (*node.over, *axes))


def place(lowering: Lowering, node: Node) -> Value:
    """A value at one position of a new first dimension, zero elsewhere; only derivatives have it."""
    (axis,) = node.over
    value = lowering.tensor(lowering.lower(node.args[0]))
    position = _position(lowering, node.data)
    if axis in owners(node.axes, lowering.program.extents).values():
        named = lowering.emitter.name_for(lowering.dense(value), "placed")
        assert isinstance(named, Dense)
        sizes = ", ".join(lowering.emitter.extent_code(other) for other in named.axes)
        positions = f"range({lowering.emitter.extent_code(axis)})"
        own = lowering.emitter.element(axis, positions)
        element = Dense(f"{named.code} if {own} == {position} else {named.code}.new_zeros({sizes})", named.axes, 0)
        return lowering.emitter.with_widths(Listed(axis, element, ((own, positions),)))

    def placed(x: Dense) -> Dense:
        return Dense(f"place({x.code}, 0, {position}, {lowering.emitter.extent_code(axis)})", (axis, *x.axes))

    is_apart = isinstance(value, Listed) and lowering.emitter.differs(value)
    return lowering.lift(placed, value) if is_apart else placed(lowering.dense(value))


def _position(lowering: Lowering, position: int | Extent) -> str:
    return str(position) if isinstance(position, int) else position.code(lowering.emitter.symbols)


def shown_view(view: Dense) -> str:
    """A name for a view: that of the tensor, with the positions at which it is read."""
    assert view.picked is not None
    tensor, indices = view.picked
    return "_".join([tensor if tensor.isidentifier() else "part", *(str(index) for index in indices if isinstance(index, int))])
