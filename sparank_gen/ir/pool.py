"""Sums of linear maps as maps of sums: what is pooled first is mapped once, and not once for each of its parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sparank_gen.ir import node as ir
from sparank_gen.ir.node import BATCH, Node, Program
from sparank_gen.ir.parts import factors_of, product_of
from sparank_gen.ir.rewrite import Rule, rewrite
from sparank_gen.ir.template import broadcast_reduce
from sparank_gen.ir.verify import verified

LINEAR = ("sum", "mean")
# Of a product with more sums among its factors there are too many products of their terms.
MOST_SUMS = 3


@dataclass(frozen=True)
class LinearMap:
    """``sum[inner](weight[outer, inner] * operand[…, inner])``; weight and operand may have further axes in common."""

    weight: Node
    operand: Node
    inner: tuple[str, ...]


@verified
def pool_first(program: Program) -> Program:
    """``program`` with sums and means over axes that a linear map does not have moved into the map's operand.

    ``sum[m](g[m] * (sum[j](W[i,j] * x[m,j]) + c[i]))`` is ``sum[j](W[i,j] * sum[m](g[m] * x[m,j])) + c[i] * sum[m](g[m])``,
    and without the last sum where ``g`` is a softmax. A map that anything else reads stays as it is: it is computed anyway.
    """
    while True:
        nodes = list(ir.reachable(program[name].node for name in program.outputs))
        uses = Counter(arg for node in nodes for arg in node.args)
        uses.update(program[name].node for name in program.outputs)
        better = rewrite(program, [_rule(uses, program)])
        if better == program:
            return program
        program = better


def _rule(uses: Mapping[Node, int], program: Program) -> Rule:
    """What moves a sum into the maps below it that ``uses`` counts once."""

    def pooled(op: str, factors: Sequence[Node], over: tuple[str, ...]) -> Node | None:
        """A sum of a product with a map among its factors, as a map."""
        for position, factor in enumerate(factors):
            rest = [*factors[:position], *factors[position + 1 :]]
            found = _linear_map(factor, over, program.modality_axes) if uses[factor] == 1 else None
            if found is not None and _goes_below(rest, found):
                operand = broadcast_reduce(op, product_of([*rest, found.operand]), over, program.extents)
                return ir.reduce("sum", ir.apply("mul", found.weight, operand), found.inner)
        return None

    def distributed(op: str, factors: Sequence[Node], over: tuple[str, ...]) -> Node | None:
        """A sum of a product with a sum of terms among its factors, term by term, where a term is a map."""
        sums = [position for position, factor in enumerate(factors) if factor.op in ("add", "sub") and uses[factor] == 1]
        for position in sums if len(sums) <= MOST_SUMS else ():
            factor = factors[position]
            products = [[*factors[:position], *factors_of(term), *factors[position + 1 :]] for term in factor.args]
            found = [pooled(op, product, over) or distributed(op, product, over) for product in products]
            if any(found):
                terms = [better or total(op, product, over) for better, product in zip(found, products, strict=True)]
                return ir.apply(factor.op, *terms)
        return None

    def total(op: str, factors: Sequence[Node], over: tuple[str, ...]) -> Node:
        """A sum of a product. Weights that sum to one do so here too: what stands beside it is nan where they are."""
        rest = [factor for factor in factors if not set(over) & factor.axes]
        weights = [factor for factor in factors if factor not in rest]
        if op == "sum" and rest and len(weights) == 1 and weights[0].op == "softmax" and weights[0].over == over:
            return product_of(rest)
        return broadcast_reduce(op, product_of(list(factors)), over, program.extents)

    def rule(node: Node) -> Node | None:
        if node.op not in LINEAR or node not in uses:
            return None
        factors = factors_of(node.args[0])
        return pooled(node.op, factors, node.over) or distributed(node.op, factors, node.over)

    return rule


def _linear_map(node: Node, over: Sequence[str], modality_axes: Collection[str]) -> LinearMap | None:
    """The linear map that ``node`` is of something with the axes ``over``, which its weight lacks.

    A weight that differs from row to row is one of attention: it maps modalities.
    """
    if node.op != "sum":
        return None
    factors, inner, outside = factors_of(node.args[0]), set(node.over), set(over)
    weights = [factor for factor in factors if not outside & factor.axes]
    operands = [factor for factor in factors if outside & factor.axes]
    if not weights or not operands:
        return None
    weight, operand = product_of(weights), product_of(operands)
    is_map = inner <= weight.axes & operand.axes and weight.axes - operand.axes and {BATCH, *over} <= operand.axes - inner
    is_weight = BATCH not in weight.axes or outside <= set(modality_axes)
    return LinearMap(weight, operand, node.over) if is_map and is_weight else None


def _goes_below(factors: Sequence[Node], found: LinearMap) -> bool:
    """Whether a sum of a map times ``factors`` is a map of fewer rows: they have no axes of the map's own."""
    axes = frozenset[str]().union(*(factor.axes for factor in factors))
    return axes <= found.operand.axes - set(found.inner)
