"""Reverse-mode derivation: the adjoints of a program, as a program in the same IR.

For every definition ``x`` on the way from the outputs to the tensors there is an adjoint definition ``x_bar``, the
derivative of the outputs, contracted with their cotangents, with respect to ``x``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sparank_gen.ir import node as ir
from sparank_gen.ir.guard import guard
from sparank_gen.ir.node import BATCH, Definition, Node, Program, Window
from sparank_gen.ir.template import broadcast_reduce, instantiate
from sparank_gen.ir.verify import verified
from sparank_gen.lang.extents import Extent
from sparank_gen.lang.ops import OPERATORS
from sparank_gen.lang.widths import owner_of, width_of

ADJOINT = "_bar"
ARGUMENTS = ("a", "b", "c")


@verified
def derive(program: Program, slots: Mapping[str, tuple[str, ...]], outputs: Sequence[str]) -> Program:
    """The adjoint program.

    Args:
        program: the forward program; its choices are guarded first.
        slots: for each tensor to differentiate, the axes that name its dimensions.
        outputs: the definitions that have cotangents; the cotangent of ``x`` is the tensor ``x_bar``, dimensions
            ``(b, *axes)``.

    Returns:
        A program whose definitions are the adjoints, outputs first and tensors last; its outputs are the adjoints of
        the tensors of ``slots`` that the outputs depend on.
    """
    program = guard(program)
    adjoints: dict[Node, Node] = {}
    names = {definition.node: definition for definition in program.definitions}
    for name in outputs:
        definition = program[name]
        cotangent = ir.leaf(name + ADJOINT, (BATCH, *definition.axes))
        # What does not depend on the features is the same in every row.
        shared = BATCH not in definition.node.axes
        _add(adjoints, definition.node, ir.reduce("sum", cotangent, [BATCH]) if shared else cotangent)
    order = list(ir.reachable(program[name].node for name in outputs))
    relevant = _dependents(order, slots)
    definitions: list[Definition] = []
    by_tensor: dict[str, Node] = {}
    for node in reversed(order):
        if node not in relevant or node not in adjoints:
            continue
        adjoint = adjoints[node]
        if node in names and names[node].name not in outputs:
            definitions.append(Definition(names[node].name + ADJOINT, names[node].axes, adjoint))
        if node.op == "leaf":
            name = node.data[0]
            part = _to_slots(adjoint, node, slots[name], program)
            by_tensor[name] = ir.apply("add", by_tensor[name], part) if name in by_tensor else part
            continue
        for position, argument in enumerate(node.args):
            added = _contribution(node, position, adjoint, program.extents) if argument in relevant else None
            if added is not None:
                _add(adjoints, argument, added)
    for name, adjoint in by_tensor.items():
        definitions.append(Definition(name + ADJOINT, tuple(axis for axis in slots[name] if axis != BATCH), adjoint))
    return Program(program.extents, program.tensors, tuple(definitions), tuple(name + ADJOINT for name in by_tensor))


def _dependents(order: Sequence[Node], slots: Mapping[str, tuple[str, ...]]) -> set[Node]:
    """The nodes that depend on a tensor of ``slots``."""
    relevant: set[Node] = set()
    for node in order:
        if node.op == "leaf" and node.data[0] in slots or any(arg in relevant for arg in node.args):
            relevant.add(node)
    return relevant


def _add(adjoints: dict[Node, Node], node: Node, contribution: Node) -> None:
    adjoints[node] = ir.apply("add", adjoints[node], contribution) if node in adjoints else contribution


def _contribution(node: Node, position: int, adjoint: Node, extents: Mapping[str, Extent]) -> Node | None:
    """What ``node`` adds to the adjoint of its operand at ``position``; None where it adds nothing."""
    argument = node.args[position]
    if node.op == "rename":
        return ir.rename(adjoint, {new: old for old, new in node.data})
    if node.op in ("select", "slice"):
        (axis,) = node.over
        adjoint = _along_owner(adjoint, owner_of(extents[axis]))
        return ir.place(adjoint, axis, node.data) if node.op == "select" else ir.pad(adjoint, axis, node.data)
    if node.op in ("stack", "pad", "concat"):
        return _of_piece(node, position, adjoint, extents)
    operator = OPERATORS[node.op]
    if not operator.differentiable:
        raise ValueError(f"{node.op} stands in derivatives alone, and has none itself")
    source = operator.derivative[position]
    if source is None:
        return None
    names = dict(zip(ARGUMENTS, node.args, strict=False)) | {"y": node, "g": adjoint}
    names |= {name: ir.constant(value) for name, value in node.data or ()}
    part = instantiate(source, names, extents, node.over)
    if operator.kind == "pointwise":
        return broadcast_reduce("sum", part, node.axes - argument.axes, extents)
    return part


def _of_piece(node: Node, position: int, adjoint: Node, extents: Mapping[str, Extent]) -> Node:
    """The adjoint of one piece of an axis that ``node`` makes."""
    (axis,), argument = node.over, node.args[position]
    place: int | Extent | Window = position
    if node.op == "pad":
        place = node.data
    elif node.op == "concat":
        place = ir.windows_of(node, extents)[position]
    kept = node.axes - {axis}
    if isinstance(place, Window):
        kept |= {place.axis}
    if axis in adjoint.axes:
        cut = ir.slice_of(adjoint, axis, place) if isinstance(place, Window) else ir.select(adjoint, axis, place)
    else:
        cut = adjoint
    return broadcast_reduce("sum", cut, kept - argument.axes, extents)


def _along_owner(adjoint: Node, owner: str | None) -> Node:
    """An adjoint that goes to a part of an axis with another extent for each position of ``owner``, with that axis.

    One that is the same for all has it by a factor of one: widths are at least that.
    """
    if owner is None or owner in adjoint.axes:
        return adjoint
    one = ir.apply("minimum", ir.extent(width_of(owner)), ir.constant(1))
    return ir.apply("mul", adjoint, one)


def _to_slots(adjoint: Node, leaf: Node, slots: tuple[str, ...], program: Program) -> Node:
    """The adjoint of one reading of a tensor, as an adjoint of the whole tensor."""
    indices = leaf.data[1]
    names = {index: slot for slot, index in zip(slots, indices, strict=True) if isinstance(index, str)}
    adjoint = ir.rename(adjoint, names)
    owners = {slot: owner_of(program.extents[slot]) for slot, index in zip(slots, indices, strict=True) if isinstance(index, int)}
    # A modality first, then a position in what has its width.
    for slot in sorted(owners, key=lambda slot: owners[slot] is not None):
        adjoint = ir.place(_along_owner(adjoint, owners[slot]), slot, indices[slots.index(slot)])
    return adjoint
