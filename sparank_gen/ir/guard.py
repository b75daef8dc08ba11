"""Choices whose gradients choose too: what stands below a branch that is not taken is computed at a harmless place.

The derivative of a choice sends 0 to the branch that was not taken, and below it ``log(x)`` would make 0 / 0 of that at
``x = 0``. So in ``where(c, log(x), y)`` the logarithm is taken of ``where(c, x, 1)``: nothing changes where ``c`` holds.
Where ``c`` has axes that ``x`` lacks, the logarithm matters if ``c`` holds anywhere along them, and is computed no more
often than it was; all but the batch, over which there is no reduction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from sparank_gen.ir import node as ir
from sparank_gen.ir.node import BATCH, Node, Program
from sparank_gen.ir.rewrite import is_tensor, rewrite
from sparank_gen.ir.template import instantiate
from sparank_gen.ir.zeros import is_not_negative, is_positive
from sparank_gen.lang.extents import Extent
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


def guard(program: Program) -> Program:
    """``program`` with every choice guarded."""
    return rewrite(program, (partial(_guarded_choice, program.extents), partial(_as_choice, program.extents)))


def _guarded_choice(extents: Mapping[str, Extent], node: Node) -> Node | None:
    if node.op != "where":
        return None
    condition, chosen, other = node.args
    branches = _Branch(condition, True, extents).guarded(chosen), _Branch(condition, False, extents).guarded(other)
    return ir.apply("where", condition, *branches)


def _as_choice(extents: Mapping[str, Extent], node: Node) -> Node | None:
    """An operator that chooses, written as a choice where one of its operands needs a guard."""
    if node.op not in CHOICES:
        return None
    choice = instantiate(CHOICES[node.op], dict(zip("ab", node.args, strict=False)), {})
    return choice if _guarded_choice(extents, choice) is not choice else None


class _Branch:
    """One branch of a choice: it matters where ``condition`` holds, or where it does not."""

    def __init__(self, condition: Node, holds: bool, extents: Mapping[str, Extent]) -> None:
        self.condition = condition
        self.holds = holds
        self.extents = extents
        self.done: dict[Node, Node] = {}

    def guarded(self, node: Node) -> Node:
        """``node`` with the same values where it matters, and finite derivatives elsewhere."""
        if node not in self.done:
            self.done[node] = self.renamed(node) if node.op == "rename" else self.inside(node)
        return self.done[node]

    def renamed(self, node: Node) -> Node:
        """A renamed node, guarded under the condition with the names that stand below."""
        back = {new: old for old, new in node.data}
        if any(old in self.condition.axes and old not in back for old in back.values()):
            return node
        below = _Branch(ir.rename(self.condition, back), self.holds, self.extents)
        return ir.rebuild(node, [below.guarded(node.args[0])])

    def inside(self, node: Node) -> Node:
        if not node.args or not self.reaches_below(node):
            return node
        kept = 1 if node.op == "where" else 0
        args = [*node.args[:kept], *map(self.guarded, node.args[kept:])]
        safe = OPERATORS[node.op].safe if node.op in OPERATORS else ()
        for position, number in enumerate(safe):
            if number is not None and not _is_harmless(node, position):
                args[position] = self.chosen(args[position], number)
        return ir.rebuild(node, args)

    def reaches_below(self, node: Node) -> bool:
        """Whether each position of ``node`` depends on such positions of its operands as the condition is the same for."""
        bound = set(node.over)
        if node.op in ("slice", "pad"):
            bound |= {node.data.axis}
        elif node.op == "concat":
            bound |= {part for part in node.data if part}
        elif node.op == "select":
            # What is below is of all modalities, and their widths are not that of the one.
            bound |= {axis for axis, owner in owners(self.condition.axes, self.extents).items() if owner in bound}
        return not bound & self.condition.axes

    def chosen(self, operand: Node, number: float) -> Node:
        """The operand where it matters, a number elsewhere."""
        condition = self.condition_for(operand.axes)
        if condition in _conditions(operand) or not is_tensor(operand):
            return operand
        safe = ir.constant(number)
        return ir.apply("where", condition, *((operand, safe) if self.holds else (safe, operand)))

    def condition_for(self, axes: frozenset[str]) -> Node:
        """The condition for what has only ``axes``: it matters where it does so at any position along the others."""
        others = sorted(self.condition.axes - axes - {BATCH})
        if not others:
            return self.condition
        source = "max[A](where(c, 1, 0)) > 0" if self.holds else "min[A](where(c, 1, 0)) > 0"
        return instantiate(source, {"c": self.condition}, {}, others)


def _conditions(operand: Node) -> Iterator[Node]:
    """The conditions under which guards already leave an operand as it is."""
    while operand.op == "where":
        yield operand.args[0]
        operand = operand.args[2 if operand.args[1].op == "constant" else 1]


def _is_harmless(node: Node, position: int) -> bool:
    """Whether values and derivatives of an operator are seen to be finite at whatever its operand may be."""
    operand = node.args[position]
    if node.op == "exp":
        return operand.op == "neg" and is_not_negative(operand.args[0])
    if node.op == "pow":
        exponent = node.args[1]
        return exponent.op == "constant" and exponent.data >= 1 or is_positive(operand)
    return is_positive(operand)
