"""What every graph must be, whatever a pass made of it: one table of rules by operator, checked between passes.

A pass that breaks a rule is a bug of the compiler, and is told here, by its name and the node, and not by what later
stages make of it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ParamSpec

from sparank_gen.ir.node import BATCH, FIXED, Node, Program, axis_of, reachable
from sparank_gen.lang.extents import Extent
from sparank_gen.lang.ops import OPERATORS, Operator
from sparank_gen.lang.widths import owner_of, widest

P = ParamSpec("P")


class InvalidGraph(Exception):
    """A pass made a graph that breaks a rule."""


@dataclass(frozen=True)
class Rule:
    """What holds of an operation.

    Attributes:
        operands: how many it has; None where one or more.
        over: how many axes it is over; None where one or more.
        axes: the axes of its result.
        requires: what else holds.
    """

    operands: int | None
    over: int | None
    axes: Callable[[Node], Iterable[str]]
    requires: Callable[[Node], bool] = lambda node: True


def _below(node: Node) -> frozenset[str]:
    """The axes of the operands together."""
    return frozenset[str]().union(*(arg.axes for arg in node.args))


def _kept(node: Node) -> frozenset[str]:
    return _below(node) - set(node.over)


def _made(node: Node) -> frozenset[str]:
    return _below(node) | set(node.over)


def _is_there(node: Node) -> bool:
    """Whether the operand has the axes that an operation is over."""
    return set(node.over) <= _below(node)


def _is_reduced(node: Node) -> bool:
    return _is_there(node) and list(node.over) == sorted(node.over)


def _is_new(node: Node) -> bool:
    return not set(node.over) & _below(node)


def _renamed(node: Node) -> list[str]:
    names = dict(node.data)
    return [names.get(axis, axis) for axis in _below(node)]


def _is_renaming(node: Node) -> bool:
    """Whether what is renamed is there, and no two axes become one."""
    return dict(node.data).keys() <= _below(node) and len(set(_renamed(node))) == len(_below(node))


def _named(node: Node) -> list[str]:
    """The indices of a leaf that are axes."""
    return [axis_of(index) for index in node.data[1] if not isinstance(index, FIXED)]


def _is_window(node: Node) -> bool:
    """Whether an axis that is there is read through a window on one that is not."""
    return _is_there(node) and node.data.axis not in _kept(node)


def _parts(node: Node) -> set[str]:
    return {part for part in node.data if part}


def _is_joined(node: Node) -> bool:
    """Whether each piece of a concatenation has a part, and none has the joined axis or the part of another."""
    others = [_parts(node) - {part} | set(node.over) for part in node.data]
    return len(node.data) == len(node.args) and not any(arg.axes & axes for arg, axes in zip(node.args, others, strict=True))


RULES = {
    "leaf": Rule(0, 0, _named, lambda node: len(set(_named(node))) == len(_named(node))),
    "constant": Rule(0, 0, lambda node: (), lambda node: isinstance(node.data, float)),
    "extent": Rule(0, 0, lambda node: filter(None, [owner_of(node.data)])),
    "position": Rule(0, 1, _made),
    "rename": Rule(1, 0, _renamed, _is_renaming),
    "select": Rule(1, 1, _kept, _is_there),
    "place": Rule(1, 1, _made, _is_new),
    "stack": Rule(None, 1, _made, _is_new),
    "slice": Rule(1, 1, lambda node: _kept(node) | {node.data.axis}, _is_window),
    # Of an operand that lacks an axis each position along it is the same.
    "pad": Rule(1, 1, lambda node: _made(node) - {node.data.axis}, _is_new),
    "concat": Rule(None, 1, lambda node: _made(node) - _parts(node), _is_joined),
}


def _rule_of(operator: Operator) -> Rule:
    if operator.kind in ("pointwise", "comparison"):
        return Rule(operator.arity, 0, _below)
    return Rule(1, None, _kept if operator.kind == "reduction" else _below, _is_reduced)


RULES |= {operator.name: _rule_of(operator) for operator in OPERATORS.values()}


def verified(run: Callable[P, Program]) -> Callable[P, Program]:
    """A pass whose result is verified."""

    @functools.wraps(run)
    def checked(*args: P.args, **kwargs: P.kwargs) -> Program:
        found = run(*args, **kwargs)
        verify(found, run.__name__)
        return found

    return checked


def verify(program: Program, stage: str, roots: Iterable[Node] = ()) -> None:
    """Check every node of a program against the rules.

    Args:
        program: what a pass made.
        stage: the pass.
        roots: nodes that it made beside the definitions.

    Raises:
        InvalidGraph: naming the pass, the node, and what is wrong with it.
    """
    known = program.extents.keys() | {BATCH}
    for node in reachable([*(definition.node for definition in program.definitions), *roots]):
        wrong = _wrong(node) or _wrong_extents(node, program.extents, known)
        if not wrong and node.op == "leaf" and node.data[0] in program.tensors:
            wrong = _wrong_slots(node, program)
        if wrong:
            args = [f"{arg.op}[{','.join(sorted(arg.axes))}]" for arg in node.args]
            raise InvalidGraph(f"{stage}: {wrong}: {node.op} of {args}, over {node.over}, with {node.data}")
    for definition in program.definitions:
        if extra := definition.node.axes - {BATCH, *definition.axes}:
            raise InvalidGraph(f"{stage}: {definition.name} has no index for {sorted(extra)}")


def _wrong(node: Node) -> str:
    """What is wrong with an operation by itself."""
    rule = RULES.get(node.op)
    if rule is None:
        return "no operation"
    if not _counts(rule.operands, node.args):
        return "wrong number of operands"
    if not _counts(rule.over, node.over) or len(set(node.over)) < len(node.over):
        return "wrong number of axes"
    if not rule.requires(node):
        return "operands and axes do not fit"
    wanted = frozenset(rule.axes(node))
    return "" if node.axes == wanted else f"axes are {sorted(node.axes)} and not {sorted(wanted)}"


def _counts(wanted: int | None, found: tuple[object, ...]) -> bool:
    return len(found) == wanted if wanted is not None else bool(found)


def _wrong_extents(node: Node, extents: Mapping[str, Extent], known: set[str]) -> str:
    """What is wrong with the extents of an operation's axes."""
    if not node.axes <= known or not known.issuperset(node.over):
        return f"no extent is known for {sorted({*node.axes, *node.over} - known)}"
    if node.op == "rename" and any(BATCH in pair or not _is_same(*(extents[axis] for axis in pair)) for pair in node.data):
        return "an axis is renamed to one of another extent"
    limit = extents[node.over[0]].constant if node.op in ("select", "place", "stack") else None
    last = len(node.args) - 1 if node.op == "stack" else node.data
    return "position outside the axis" if limit is not None and isinstance(last, int) and not 0 <= last < limit else ""


def _is_same(left: Extent, right: Extent) -> bool:
    """Whether two extents are the same for some modality, and for some number of modalities: a mode may be for exactly two."""
    return widest(left) == widest(right) or "modalities" in left.symbols | right.symbols


def _wrong_slots(node: Node, program: Program) -> str:
    """What is wrong with the indices of a tensor."""
    name, indices = node.data
    slots = [slot for slot in program.tensors[name].slots if slot != Extent.symbol("batch")]
    read = [index for index in indices if index != BATCH]
    if len(slots) != len(read):
        return f"{name} has {len(slots)} dimensions"
    for slot, index in zip(slots, read, strict=True):
        if isinstance(index, str) and not _is_same(program.extents[index], slot):
            return f"index {index} does not run over {slot}"
        if isinstance(index, int) and slot.constant is not None and not 0 <= index < slot.constant:
            return f"position {index} is outside {slot}"
    return ""

