"""Normalisations and compound reductions written out as simple reductions, for code that has no primitive for them."""

from __future__ import annotations

import math
from collections.abc import Callable

from sparank_gen.ir import node as ir
from sparank_gen.ir.node import Node, Program
from sparank_gen.ir.parts import factors_of, product_of
from sparank_gen.ir.rewrite import rewrite
from sparank_gen.ir.simplify import IDENTITIES, fold_constants, merge_views
from sparank_gen.ir.template import instantiate
from sparank_gen.ir.verify import verified
from sparank_gen.lang.extents import Extent
from sparank_gen.lang.ops import OPERATORS

# A layer norm over fewer numbers is faster in operations on all rows at once than in one that takes row after row.
LEAST_NORMALISED = 16


@verified
def expand(program: Program) -> Program:
    """``program`` with every operator that has an expansion replaced by it."""
    return _expanded(program, lambda node: True)


@verified
def expand_short_norms(program: Program) -> Program:
    """``program`` with layer norms over modalities, or over few numbers, replaced by their expansion."""

    def is_short(node: Node) -> bool:
        lengths = [program.extents[axis].substitute("modalities", Extent.number(1)).constant for axis in node.over]
        return node.op == "layernorm" and math.prod(length or LEAST_NORMALISED for length in lengths) < LEAST_NORMALISED

    return _expanded(program, is_short)


@verified
def divide_last(program: Program) -> Program:
    """``program`` with what a softmax gate is multiplied by summed before it is divided.

    A sum of softmaxes whose divisor is as large as the sum, as of ``exp(x - peak) / total * h``, is a quotient of sums: one
    multiplication for each of its numbers, and not one for each of its terms. Other dividends than those exponentials may be
    larger than one, so that the sum would overflow before it is divided.
    """
    return rewrite(program, (_quotient_of_sum,))


def _quotient_of_sum(node: Node) -> Node | None:
    if node.op != "sum":
        return None
    factors = factors_of(node.args[0])
    position = next((k for k, factor in enumerate(factors) if _is_softmax(factor) and factor.args[1].axes == node.axes), None)
    if position is None or len(factors) == 1:
        return None
    # One of them: both factors of a square are the same node.
    dividend, divisor = factors[position].args
    total = ir.reduce("sum", product_of([*factors[:position], dividend, *factors[position + 1 :]]), node.over)
    return ir.apply("mul", total, ir.apply("div", ir.constant(1), divisor))


def _is_softmax(node: Node) -> bool:
    """Whether a node is an expanded softmax."""
    if node.op != "div" or node.args[0].op != "exp" or node.args[1].op != "sum":
        return False
    (dividend, total), (below,) = node.args, node.args[0].args
    return total.args[0] is dividend and below.op == "sub" and below.args[1] is ir.reduce("max", below.args[0], total.over)


def _expanded(program: Program, is_wanted: Callable[[Node], bool]) -> Program:
    def expansion(node: Node) -> Node | None:
        source = OPERATORS[node.op].expansion if node.op in OPERATORS else ""
        if not source or not is_wanted(node):
            return None
        names = {"a": node.args[0]} | {name: ir.constant(value) for name, value in node.data or ()}
        return instantiate(source, names, program.extents, node.over)

    return rewrite(program, (expansion, fold_constants, *IDENTITIES, merge_views(program.extents)))
