"""Adjoints in terms of what is known: sums that the forward pass has, and factors that terms share taken out of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from sparank_gen.ir import node as ir
from sparank_gen.ir.node import BATCH, Node, Program
from sparank_gen.ir.parts import factors_of, product_of, sum_of, terms_of
from sparank_gen.ir.rewrite import Rule, rewrite
from sparank_gen.ir.simplify import IDENTITIES
from sparank_gen.ir.template import instantiate
from sparank_gen.ir.verify import verified
from sparank_gen.lang.ops import OPERATORS

# Operators whose derivative is a product with what follows from their result.
FROM_RESULT = ("sigmoid", "tanh")
# Gradients through operators, from their results.
THROUGH = frozenset(f"{name}_backward" for name in (*FROM_RESULT, "relu"))
ONE = ir.constant(1)
Key = tuple[tuple[str, ...], frozenset[tuple[Node, int]]]


@verified
def reuse(adjoints: Program, forward: Program, count: int | None = None) -> Program:
    """``adjoints`` with fewer operations.

    What is a sum of products in ``forward`` is read from there, whatever the order of its factors, and
    ``a * x - a * y`` becomes ``a * (x - y)``.

    Args:
        adjoints: derived from ``forward``, and simplified.
        forward: a program.
        count: the number of modalities, where ``forward`` is for that alone.
    """
    nodes = list(ir.reachable(definition.node for definition in forward.definitions))
    known = {_key(node): node for node in nodes if node.op == "sum"}
    results = {node.args[0]: node for node in nodes if node.op == "relu"}
    sizes = {axis: count if axis in forward.modality_axes else extent.constant for axis, extent in forward.extents.items()}
    rules = (partial(_known, known), _factored, _negated_last, partial(_filled, sizes), partial(_through_relu, results))
    return rewrite(adjoints, (*rules, *map(_through, FROM_RESULT), *IDENTITIES))


def _key(node: Node) -> Key:
    """What two sums have in common that are the same but for the order of factors."""
    return node.over, frozenset(Counter(factors_of(node.args[0])).items())


def _known(known: Mapping[Key, Node], node: Node) -> Node | None:
    return known.get(_key(node)) if node.op == "sum" else None


def _factored(node: Node) -> Node | None:
    """``a * x - a * y`` as ``a * (x - y)``: one product instead of two."""
    if node.op not in ("add", "sub"):
        return None
    left, right = (Counter(factors_of(arg)) for arg in node.args)
    shared = Counter({factor: count for factor, count in (left & right).items() if BATCH in factor.axes})
    rest = [list((factors - shared).elements()) for factors in (left, right)]
    if not shared or not all(rest):
        return None
    return ir.apply("mul", product_of(list(shared.elements())), ir.apply(node.op, *map(product_of, rest)))


def _negated_last(node: Node) -> Node | None:
    """``sum(-x * y)`` is ``-sum(x * y)``, so that what is added is subtracted."""
    negative = [position for position, arg in enumerate(node.args) if arg.op == "neg"]
    if node.op not in ("mul", "sum", "rename") or not negative:
        return None
    # One of them: both operands of a square are the same node.
    args = list(node.args)
    args[negative[0]] = args[negative[0]].args[0]
    return ir.apply("neg", ir.rebuild(node, args))


def _filled(sizes: Mapping[str, int | None], node: Node) -> Node | None:
    """A sum of pieces, each zero but at its own position of an axis, is a stack where they fill the axis."""
    terms = terms_of(node) if node.op == "add" else []
    for axis in sorted({term.over[0] for term in terms if term.op == "place"}):
        places = [term for term in terms if term.op == "place" and term.over == (axis,)]
        pieces: dict[Any, list[Node]] = {}
        for term in places:
            pieces.setdefault(term.data, []).append(term.args[0])
        if set(pieces) == set(range(sizes[axis] or 0)):
            stacked = ir.stack([sum_of(pieces[position]) for position in range(len(pieces))], axis)
            return sum_of([*(term for term in terms if term not in places), stacked])
    return None


def _through_relu(results: Mapping[Node, Node], node: Node) -> Node | None:
    """The gradient through a relu by its result, which is there anyway."""
    if node.op != "where" or node.args[0].op != "gt" or node.args[2] != ir.constant(0):
        return None
    operand, bound = node.args[0].args
    if bound != ir.constant(0) or operand not in results:
        return None
    return ir.apply("relu_backward", node.args[1], results[operand])


def _through(operator: str) -> Rule:
    """A rule: a product that is the gradient through an operator, as one operation on its result."""
    (derivative,) = OPERATORS[operator].derivative
    assert derivative is not None

    def rule(node: Node) -> Node | None:
        if node.op != "mul":
            return None
        factors = Counter(factors_of(node))
        for result in _within(factors):
            if result.op != operator:
                continue
            parts = Counter(factors_of(instantiate(derivative, {"g": ONE, "y": result}, {}))) - Counter([ONE])
            if parts < factors:
                return ir.apply(f"{operator}_backward", product_of(list((factors - parts).elements())), result)
        return None

    return rule


def _within(factors: Iterable[Node]) -> Iterator[Node]:
    """Factors, and what they and their operands are made of."""
    for factor in factors:
        yield factor
        for arg in factor.args:
            yield from (arg, *arg.args)
