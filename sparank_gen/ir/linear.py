"""Rules for sums and means, which are linear: what they need not run over is taken out of them, and they run over less at once."""

from __future__ import annotations

from collections.abc import Mapping

from sparank_gen.ir import node as ir
from sparank_gen.ir.node import BATCH, Node
from sparank_gen.ir.parts import SIGNED, factors_of, product_of, signed_terms
from sparank_gen.ir.rewrite import Rule
from sparank_gen.lang.extents import Extent
from sparank_gen.lang.widths import owners, size_of


def taken_apart(extents: Mapping[str, Extent]) -> tuple[Rule, ...]:
    """The rules, for axes of these extents."""
    return (mean_of_outer_product(extents), pull_factors, pull_divisors, sum_factors_apart(extents), sums_apart(extents))


def pull_factors(node: Node) -> Node | None:
    """``sum[j](a[i] * x[j])`` is ``a[i] * sum[j](x[j])``."""
    if node.op not in ("sum", "mean"):
        return None
    factors = factors_of(node.args[0])
    inside = [factor for factor in factors if factor.axes & set(node.over)]
    outside = [factor for factor in factors if factor not in inside]
    if not outside:
        return None
    return ir.apply("mul", product_of(outside), ir.reduce(node.op, product_of(inside), node.over, node.data))


def sum_factors_apart(extents: Mapping[str, Extent]) -> Rule:
    """A rule: ``sum[m,i](a[m] * x[m,i])`` is ``sum[m](a[m] * sum[i](x[m,i]))``: what one factor has alone is summed first.

    A mean over as many numbers as each modality has is no mean of the modalities' means.
    """

    def rule(node: Node) -> Node | None:
        if node.op not in ("sum", "mean") or node.args[0].op != "mul":
            return None
        factors = factors_of(node.args[0])
        for position, factor in enumerate(factors):
            others = frozenset().union(*(other.axes for k, other in enumerate(factors) if k != position))
            alone = [axis for axis in node.over if axis in factor.axes - others]
            rest = [axis for axis in node.over if axis not in alone]
            differs = node.op == "mean" and bool(set(owners(alone, extents).values()) & set(rest))
            if alone and BATCH in factor.axes and not differs:
                factors[position] = ir.reduce(node.op, factor, alone, node.data)
                return ir.reduce(node.op, product_of(factors), rest, node.data) if rest else product_of(factors)
        return None

    return rule


def mean_of_outer_product(extents: Mapping[str, Extent]) -> Rule:
    """A rule: a mean of a product that is larger than each of its factors is a contraction, divided by a number."""

    def rule(node: Node) -> Node | None:
        product = node.args[0] if node.op == "mean" else node
        if node.op != "mean" or any(factor.axes == product.axes for factor in factors_of(product)):
            return None
        return ir.apply("div", ir.reduce("sum", product, node.over), ir.extent(size_of(node.over, extents)))

    return rule


def pull_divisors(node: Node) -> Node | None:
    """``sum[j](W[i,j] * x[j] / 3)`` is ``sum[j](W[i,j] * x[j]) / 3``, a contraction; and so is ``sum[j](W[i,j] / 3 * x[j])``.

    A number that divides rows, of which there are fewer than products, stays there.
    """
    if node.op not in ("sum", "mean"):
        return None
    factors = factors_of(node.args[0])
    for position, factor in enumerate(factors):
        if factor.op == "div" and not factor.args[1].axes and (BATCH not in factor.axes or _is_outer(factor.args[0], factor)):
            factors[position] = factor.args[0]
            return ir.apply("div", ir.reduce(node.op, product_of(factors), node.over, node.data), factor.args[1])
    return None


def sums_apart(extents: Mapping[str, Extent]) -> Rule:
    """A rule: ``sum[j](W[i,j] * x[j] + y[j])`` is ``sum[j](W[i,j] * x[j]) + sum[j](y[j])``, a contraction and a smaller sum.

    So is ``sum[j](W[i,j] * (x[j] + V[i,j]))``. It applies where terms, or products, are larger than all that they are made of;
    over modalities alone, of which there are few, sums stay as they are written.
    """

    def rule(node: Node) -> Node | None:
        if node.op not in ("sum", "mean") or BATCH not in node.args[0].axes:
            return None
        if all(extents[axis] == extents["m"] for axis in node.over):
            return None
        terms = signed_terms(node.args[0])
        if len(terms) == 1:
            terms = _distributed(node.args[0])
        elif not all(_is_smaller(term, node.args[0]) for _, term in terms) and not any(_is_outer(term, node.args[0]) for _, term in terms):
            return None
        reduced = [(sign, _reduced(node, term, extents)) for sign, term in terms]
        known = [(sign, term) for sign, term in reduced if term is not None]
        if len(known) < max(2, len(reduced)):
            return None
        # The first term of sums and differences is one that is added.
        (_, total), *rest = known
        for sign, term in rest:
            total = ir.apply(sign, total, term)
        return total

    return rule


def _distributed(product: Node) -> list[tuple[str, Node]]:
    """The terms of a product just one of whose factors is a sum that is larger than all that its terms are made of."""
    factors = factors_of(product)
    sums = [position for position, factor in enumerate(factors) if _is_larger_sum(factor)]
    if len(factors) < 2 or len(sums) != 1:
        return [("add", product)]
    before, after = factors[: sums[0]], factors[sums[0] + 1 :]
    return [(sign, product_of([*before, term, *after])) for sign, term in signed_terms(factors[sums[0]])]


def _is_larger_sum(node: Node) -> bool:
    """Whether a node is a sum that has more axes than each of its terms, or than the factors of those."""
    return node.op in SIGNED and all(_is_smaller(term, node) or _is_outer(term, node) for _, term in signed_terms(node))


def _is_smaller(node: Node, whole: Node) -> bool:
    """Whether ``whole`` has axes beside those of ``node``."""
    return node.axes < whole.axes


def _is_outer(term: Node, whole: Node) -> bool:
    """Whether a term is a product of factors each of which has fewer axes than ``whole``, which has all of them."""
    factors = factors_of(term)
    return len(factors) > 1 and term.axes == whole.axes and all(_is_smaller(factor, whole) for factor in factors)


def _reduced(node: Node, term: Node, extents: Mapping[str, Extent]) -> Node | None:
    """The sum or mean ``node`` of one of its terms, which may lack some of the axes; None where that weighs modalities by widths."""
    lacking = [axis for axis in node.over if axis not in term.axes]
    rest = [axis for axis in node.over if axis in term.axes]
    if lacking and node.op == "sum":
        term = ir.apply("mul", term, ir.extent(size_of(lacking, extents)))
    elif lacking and owners(node.over, extents):
        return None
    return ir.reduce(node.op, term, rest, node.data) if rest else term
