"""Sums of products of several factors, two of them at a time: no more is multiplied out at once than has to be."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence

from sparank_gen.ir import node as ir
from sparank_gen.ir.node import BATCH, Node, Program
from sparank_gen.ir.parts import factors_of, product_of
from sparank_gen.ir.rewrite import rewrite
from sparank_gen.ir.sizes import elements
from sparank_gen.ir.verify import verified

# The rows by which what has rows is compared with what has none.
USUAL_ROWS = 4096


@verified
def contract_in_pairs(program: Program, sizes: Mapping[str, int | float]) -> Program:
    """``program`` with contractions of three or more factors summed over what two of them have alone, one pair after the other.

    ``sum[j,k,r](A[r,j] * x[j] * C[r,k] * y[k])`` is ``sum[r](sum[j](A[r,j] * x[j]) * sum[k](C[r,k] * y[k]))``. Products that
    are as large as one of their factors, but for modalities, stay, and so do forms in two vectors: they are one matrix product of
    the vectors' products.

    Args:
        program: any program.
        sizes: those of a usual layer.
    """
    named = {definition.node for definition in program.definitions}

    def rule(node: Node) -> Node | None:
        if node.op != "sum" or node.args[0] in named:
            return None
        factors = factors_of(node.args[0], whole=named)
        axes = [factor.axes for factor in factors]
        if len(factors) < 3 or is_small([node.axes, *axes], program) or _is_form(factors, node):
            return None
        places, alone = cheapest_pair(axes, node.over, program, sizes)
        if not alone:
            return None
        pair = ir.reduce("sum", product_of([factors[place] for place in places]), alone)
        rest = [axis for axis in node.over if axis not in alone]
        product = product_of([pair, *(factor for place, factor in enumerate(factors) if place not in places)])
        return ir.reduce("sum", product, rest) if rest else product

    return rewrite(program, (rule,))


def is_small(tensors: Sequence[Collection[str]], program: Program) -> bool:
    """Whether a product is as large as one of its factors, or as its sum, but for modalities: the axes of all of these."""
    union = _union(tensors, range(len(tensors)))
    return any(union - set(axes) <= program.modality_axes for axes in tensors)


def _is_form(factors: Sequence[Node], node: Node) -> bool:
    """Whether one weight is contracted along all axes of two factors that have rows."""
    rows = frozenset[str]().union(*(factor.axes for factor in factors if BATCH in factor.axes))
    return len(factors) == 3 and rows - {BATCH} == set(node.over) and sum(BATCH not in factor.axes for factor in factors) == 1


def cheapest_pair(
    factors: Sequence[Collection[str]], over: Sequence[str], program: Program, sizes: Mapping[str, int | float]
) -> tuple[tuple[int, int], list[str]]:
    """Which two of several factors with these axes to contract first, and the axes that no other has, over which they are summed.

    It is the pair whose result is smallest beside what it is made of, as greedy planners of einsum choose.
    """

    def size(axes: Collection[str]) -> float:
        return float(elements(frozenset(axes), program).number_for(sizes)) * (USUAL_ROWS if BATCH in axes else 1)

    def gain(places: tuple[int, int]) -> float:
        return size(_union(factors, places) - set(_alone(factors, places, over))) - sum(size(factors[place]) for place in places)

    places = min(itertools.combinations(range(len(factors)), 2), key=gain)
    return places, _alone(factors, places, over)


def _alone(factors: Sequence[Collection[str]], places: tuple[int, int], over: Sequence[str]) -> list[str]:
    """The axes of a sum that of all factors these two have, or one of them."""
    others = _union(factors, [place for place in range(len(factors)) if place not in places])
    return [axis for axis in over if axis in _union(factors, places) - others]


def _union(factors: Sequence[Collection[str]], places: Sequence[int]) -> frozenset[str]:
    return frozenset[str]().union(*(factors[place] for place in places))
