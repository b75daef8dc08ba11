"""Sums of linear maps as maps of sums: what is pooled first is multiplied once, and not once for each of its parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sparank_gen.ir import node as ir
from sparank_gen.ir.node import BATCH, Node, Program
from sparank_gen.ir.rewrite import Rule, rewrite
from sparank_gen.ir.simplify import factors_of, product_of
from sparank_gen.ir.template import broadcast_reduce
from sparank_gen.lang.extents import Extent

LINEAR = ("sum", "mean")


@dataclass(frozen=True)
class LinearMap:
    """``sum[inner](weight[outer, inner] * operand[…, inner])``, with a weight that has no rows."""

    weight: Node
    operand: Node
    inner: tuple[str, ...]

    @property
    def outer(self) -> frozenset[str]:
        return self.weight.axes - set(self.inner)


def pool_first(program: Program) -> Program:
    """``program`` with sums and means over axes that a linear map does not have moved into the map's operand.

    ``sum[m](g[m] * (sum[j](W[i,j] * x[m,j]) + c[i]))`` is ``sum[j](W[i,j] * sum[m](g[m] * x[m,j])) + c[i] * sum[m](g[m])``,
    and without the last sum where ``g`` is a softmax. A map that anything else reads stays as it is: it is computed anyway.
    """
    while True:
        nodes = list(ir.reachable(program[name].node for name in program.outputs))
        uses = Counter(arg for node in nodes for arg in node.args)
        uses.update(program[name].node for name in program.outputs)
        better = rewrite(program, [_rule(uses, program.extents)])
        if better == program:
            return program
        program = better


def _rule(uses: Mapping[Node, int], extents: Mapping[str, Extent]) -> Rule:
    """What moves a sum into the maps below it that ``uses`` counts once."""

    def pooled(op: str, factors: Sequence[Node], over: tuple[str, ...]) -> Node | None:
        """A sum of a product with a map among its factors, as a map."""
        for position, factor in enumerate(factors):
            rest = [*factors[:position], *factors[position + 1 :]]
            found = _linear_map(factor) if uses[factor] == 1 else None
            if found is not None and _goes_below(rest, over, found):
                operand = broadcast_reduce(op, product_of([*rest, found.operand]), over, extents)
                return ir.reduce("sum", ir.apply("mul", found.weight, operand), found.inner)
        return None

    def distributed(op: str, factors: Sequence[Node], over: tuple[str, ...]) -> Node | None:
        """A sum of a product with a sum of terms among its factors, term by term, where a term is a map."""
        for position, factor in enumerate(factors):
            if factor.op not in ("add", "sub") or uses[factor] != 1:
                continue
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
        return broadcast_reduce(op, product_of(list(factors)), over, extents)

    def rule(node: Node) -> Node | None:
        if node.op not in LINEAR or node not in uses:
            return None
        factors = factors_of(node.args[0])
        return pooled(node.op, factors, node.over) or distributed(node.op, factors, node.over)

    return rule


def _linear_map(node: Node) -> LinearMap | None:
    """The linear map that ``node`` is, if it is one."""
    if node.op != "sum" or BATCH not in node.axes:
        return None
    factors, inner = factors_of(node.args[0]), node.over
    for position, weight in enumerate(factors):
        rest = [*factors[:position], *factors[position + 1 :]]
        if weight.op != "leaf" or BATCH in weight.axes or not rest:
            continue
        found = LinearMap(weight, product_of(rest), inner)
        if set(inner) <= weight.axes & found.operand.axes and found.outer and not found.outer & found.operand.axes:
            return found
    return None


def _goes_below(factors: Sequence[Node], over: Sequence[str], found: LinearMap) -> bool:
    """Whether a sum over ``over`` of a map times ``factors`` is a map of fewer rows."""
    axes = frozenset[str]().union(*(factor.axes for factor in factors))
    rows = found.operand.axes - set(found.inner)
    return not set(over) & found.weight.axes and set(over) <= rows and axes <= rows
