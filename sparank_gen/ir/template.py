"""Expressions of the compiler's own tables, filled in with nodes: derivatives and rewrite rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache

from sparank_gen.ir import node as ir
from sparank_gen.ir.lower import PAIRWISE
from sparank_gen.ir.node import Node
from sparank_gen.lang.extents import Extent
from sparank_gen.lang.ops import OPERATORS
from sparank_gen.lang.parse import expression_of
from sparank_gen.lang.syntax import Expression, Number, Reference
from sparank_gen.lang.widths import owners, size_of

parsed = cache(expression_of)


def broadcast_reduce(op: str, node: Node, over: Iterable[str], extents: Mapping[str, Extent]) -> Node:
    """A sum or mean of ``node`` seen as broadcast along the axes of ``over`` that it lacks."""
    over = list(over)
    absent = [axis for axis in over if axis not in node.axes]
    present = [axis for axis in over if axis in node.axes]
    differing = owners(over, extents)
    own = set(differing.values()) & set(over)
    if own and (len(differing) > 1 or own & set(present) and set(differing) & set(absent)):
        # So many entries for each modality: they count before modalities are summed over.
        inner = [axis for axis in over if axis not in own]
        part = broadcast_reduce("sum", node, inner, extents)
        total = broadcast_reduce("sum", part, own, extents)
        return total if op == "sum" else ir.apply("div", total, ir.extent(size_of(over, extents)))
    if present:
        node = ir.reduce(op, node, present)
    return ir.apply("mul", node, ir.extent(size_of(absent, extents))) if absent and op == "sum" else node


def instantiate(
    source: str, names: Mapping[str, Node], extents: Mapping[str, Extent], axes: Iterable[str] = ()
) -> Node:
    """The expression ``source`` with ``names`` put in, and ``axes`` for the axis placeholder ``A``."""
    over = tuple(axes)

    def fill(expression: Expression) -> Node:
        if isinstance(expression, Number):
            return ir.constant(expression.value)
        if isinstance(expression, Reference):
            return ir.extent(size_of(over, extents)) if expression.name == "size" else names[expression.name]
        arguments = [fill(argument) for argument in expression.arguments]
        if not expression.axes:
            return ir.apply(PAIRWISE.get(expression.function, expression.function), *arguments)
        if expression.function in ("sum", "mean"):
            return broadcast_reduce(expression.function, arguments[0], over, extents)
        assert OPERATORS[expression.function].kind in ("normalisation", "reduction")
        return ir.reduce(expression.function, arguments[0], over)

    return fill(parsed(source))
