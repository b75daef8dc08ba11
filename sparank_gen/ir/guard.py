"""Choices whose gradients choose too: what stands below a branch that is not taken is computed at a harmless place.

The derivative of a choice sends 0 to the branch that was not taken, and below it ``log(x)`` would make 0 / 0 of that at
``x = 0``. So in ``where(c, log(x), y)`` the logarithm is taken of ``where(c, x, 1)``: nothing changes where ``c`` holds.
Where ``c`` has axes that ``x`` lacks, the logarithm matters if ``c`` holds anywhere along them, and is computed no more
often than it was; all but the batch, over which there is no reduction.

What is read wherever the choice is stays as it is: in ``x / (1 + sqrt(max(1 - x ** 2, 0.1)))`` an infinite derivative of
``x`` is one in the quotient already. So each of many such steps, one after another, is computed once.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from sparank_gen.ir import node as ir
from sparank_gen.ir.node import BATCH, Node, Program
from sparank_gen.ir.rewrite import is_tensor
from sparank_gen.ir.signs import Signs
from sparank_gen.ir.template import instantiate
from sparank_gen.ir.verify import verified
from sparank_gen.lang.ops import OPERATORS
from sparank_gen.lang.widths import owners

# Operators that choose, as choices: nan is passed on, and ties are as their derivatives have them.
CHOICES = {
    "clamp_min": "where(a < b, b, a)",
    "clamp_max": "where(a > b, b, a)",
    "relu": "where(a <= 0, 0, a)",
    "maximum": "where(a > b, a, where(a < b, b, a / 2 + b / 2))",
    "minimum": "where(a < b, a, where(a > b, b, a / 2 + b / 2))",
}

# The derivative of a square is a number wherever the base is one; of a higher power it may be larger than all.
MOST_HARMLESS = 2

# What reads its operands in part.
PARTS = frozenset({"where", "max", "min", "select", "slice", "concat", "pad", "place", *CHOICES})

# A node, and a condition under the names of axes there.
Place = tuple[Node, Node]


@verified
def guard(program: Program) -> Program:
    """``program`` with every choice guarded."""
    guards, done = _Guards(program), dict[Node, Node]()
    for node in ir.reachable(definition.node for definition in program.definitions):
        rebuilt = ir.rebuild(node, [done[arg] for arg in node.args])
        if node.op == "where" or node.op in CHOICES:
            needed = {done[other] for other in guards.needed_with(node) if other in done}
            rebuilt = guards.guarded(rebuilt, needed) if node.op == "where" else guards.as_choice(rebuilt, needed)
        done[node] = rebuilt
    return replace(program, definitions=tuple(replace(d, node=done[d.node]) for d in program.definitions))


class _Guards:
    """The guards of one program.

    Attributes:
        own: what the program has itself.
        decided: choices that matter where their condition decides them, which another choice guards with its branch.
        needed: for each output and each branch of a choice, what is read wherever it is.
    """

    def __init__(self, program: Program) -> None:
        self.extents = program.extents
        self.signs = Signs(program.least)
        self.own = set(ir.reachable(definition.node for definition in program.definitions))
        self.decided = self.decided_above(program)
        branches = [node.args[node.op == "where" :] for node in self.own if node.op == "where" or node.op in CHOICES]
        roots = {*(program[name].node for name in program.outputs), *itertools.chain.from_iterable(branches)}
        self.needed = [_needed(root) for root in roots]

    def needed_with(self, choice: Node) -> set[Node]:
        """What is read wherever ``choice`` is."""
        found = [needed for needed in self.needed if choice in needed]
        return set.intersection(*found) if found else set()

    def guarded(self, node: Node, needed: Collection[Node]) -> Node:
        """A choice between guarded branches. What both have, and what is ``needed`` wherever the choice is, stays as it is."""
        if node in self.decided:
            return node
        condition, chosen, other = node.args
        first, second = self.reached(chosen, condition), self.reached(other, condition)
        kept = first & second | {place for place in first | second if place[0] in needed}
        branches = _Branch(self, condition, True).guarded(chosen, kept), _Branch(self, condition, False).guarded(other, kept)
        return ir.apply("where", condition, *branches)

    def as_choice(self, node: Node, needed: Collection[Node]) -> Node:
        """An operator that chooses, written as a choice where one of its operands needs a guard."""
        choice = instantiate(CHOICES[node.op], dict(zip("ab", node.args, strict=False)), {})
        own = [arg.op == "where" and arg not in node.args for arg in choice.args]
        args = [self.guarded(arg, needed) if is_own else arg for arg, is_own in zip(choice.args, own, strict=True)]
        inside = ir.rebuild(choice, args)
        guarded = self.guarded(inside, needed)
        return node if guarded is choice else guarded

    def reached(self, node: Node, condition: Node) -> set[Place]:
        """What a branch has, each with the condition under the names of axes that it has there."""
        found: dict[Place, None] = {}
        ir.bottom_up((node, condition), self.below, lambda place: None, found)
        return set(found)

    def below(self, place: Place) -> list[Place]:
        """The operands that matter under the condition alone."""
        node, condition = place
        if node.op == "rename":
            back = {new: old for old, new in node.data}
            is_met = any(old in condition.axes and old not in back for old in back.values())
            return [] if is_met else [(node.args[0], ir.rename(condition, back))]
        kept = 1 if node.op == "where" else 0
        return [(arg, condition) for arg in node.args[kept:]] if self.reaches_below(node, condition) else []

    def reaches_below(self, node: Node, condition: Node) -> bool:
        """Whether each position of ``node`` depends on such positions of its operands as the condition is the same for."""
        bound = set(node.over)
        if node.op in ("slice", "pad"):
            bound |= {node.data.axis}
        elif node.op == "concat":
            bound |= {part for part in node.data if part}
        elif node.op == "select":
            # What is below is of all modalities, and their widths are not that of the one.
            bound |= {axis for axis, owner in owners(condition.axes, self.extents).items() if owner in bound}
        return not bound & condition.axes

    def is_harmless(self, node: Node, position: int) -> bool:
        """Whether values and derivatives of an operator are seen to be finite at whatever its operand may be."""
        operand = node.args[position]
        if node.op == "exp":
            return operand.op == "neg" and self.signs.is_not_negative(operand.args[0])
        if node.op == "pow" and self.signs.is_smooth_power(*node.args):
            return bool(node.args[1].data <= MOST_HARMLESS)
        return self.signs.is_positive(operand)

    def decided_above(self, program: Program) -> set[Node]:
        """The choices between a branch and a number that all that reads them reads under their condition."""
        roots = [program[name].node for name in program.outputs]
        known: dict[Node, set[tuple[Node, bool]]] = {root: set() for root in roots}
        found: set[Node] = set()
        for node in reversed(list(ir.reachable(roots))):
            passed = {(below[0][1], holds) for condition, holds in known[node] if (below := self.below((node, condition)))}
            if any((node.args[0], holds) in known[node] for holds in _numbers(node)):
                found.add(node)
            for position, arg in enumerate(node.args):
                holding = passed
                if node.op == "where":
                    holding = passed | {(node.args[0], position == 1)} if position else set()
                known[arg] = known[arg] & holding if arg in known else holding
        return found


def _needed(root: Node) -> set[Node]:
    """What is read, at all its positions, wherever ``root`` is: what no choice and no view of a part stands above."""
    found, pending = set[Node](), [root]
    while pending:
        node = pending.pop()
        if node not in found:
            found.add(node)
            pending += () if node.op in PARTS else node.args
    return found


def _numbers(choice: Node) -> list[bool]:
    """For a choice of a number, whether its condition holds where that is not chosen."""
    return [holds for holds, arg in ((False, 1), (True, 2)) if choice.op == "where" and choice.args[arg].op == "constant"]


@dataclass(frozen=True)
class _Branch:
    """One branch of a choice: it matters where ``condition`` holds, or where it does not."""

    guards: _Guards
    condition: Node
    holds: bool

    def guarded(self, node: Node, kept: Collection[Place]) -> Node:
        """``node`` with the same values where it matters, and finite derivatives elsewhere; what is ``kept`` stays."""
        done = {place: place[0] for place in kept}
        return ir.bottom_up((node, self.condition), self.guards.below, lambda place: self.inside(place, done), done)

    def inside(self, place: Place, done: Mapping[Place, Node]) -> Node:
        """A node of operands that are ``done``."""
        node, condition = place
        below = self.guards.below(place)
        if not below:
            return node
        args = [*node.args[: len(node.args) - len(below)], *(done[other] for other in below)]
        safe = OPERATORS[node.op].safe if node.op in OPERATORS else ()
        for position, number in enumerate(safe):
            if number is not None and not self.guards.is_harmless(node, position):
                args[position] = self.chosen(args[position], number, condition)
        made = ir.rebuild(node, args)
        return self.decided(made) if node in self.guards.decided else made

    def chosen(self, operand: Node, number: float, condition: Node) -> Node:
        """The operand where it matters, a number elsewhere."""
        condition, safe = self.condition_for(operand.axes, condition), ir.constant(number)
        if not is_tensor(operand) or self.is_chosen(operand, condition, safe):
            return operand
        return self.decided(ir.apply("where", condition, *((operand, safe) if self.holds else (safe, operand))))

    def is_chosen(self, operand: Node, condition: Node, safe: Node) -> bool:
        """Whether an operand is such a choice already, itself or inside those of other conditions."""
        while operand.op == "where" and safe in operand.args:
            _, chosen, other = operand.args
            if operand.args[0] is condition and safe is (other if self.holds else chosen):
                return True
            operand = chosen if other is safe else other
        return False

    def decided(self, choice: Node) -> Node:
        """A choice that this branch decides, unless the program has the same one elsewhere."""
        if choice not in self.guards.own:
            self.guards.decided.add(choice)
        return choice

    def condition_for(self, axes: frozenset[str], condition: Node) -> Node:
        """The condition for what has only ``axes``: it matters where it does so at any position along the others."""
        others = sorted(condition.axes - axes - {BATCH})
        if not others:
            return condition
        source = "max[A](where(c, 1, 0)) > 0" if self.holds else "min[A](where(c, 1, 0)) > 0"
        return instantiate(source, {"c": condition}, {}, others)
