"""Sums and products of many: their terms and factors, and what is made of those."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from sparank_gen.ir import node as ir
from sparank_gen.ir.node import Node

SIGNED = ("add", "sub")


def sum_of(terms: Sequence[Node]) -> Node:
    """The sum of one or more nodes."""
    total = terms[0]
    for term in terms[1:]:
        total = ir.apply("add", total, term)
    return total


def factors_of(node: Node, whole: Collection[Node] = ()) -> list[Node]:
    """The factors of a product, from left to right; those of ``whole``, and products that are in it more than once, are one."""
    return [factor for _, factor in _parts(node, ("mul",), whole)]


def product_of(factors: list[Node]) -> Node:
    """The product of one or more nodes."""
    product = factors[0]
    for factor in factors[1:]:
        product = ir.apply("mul", product, factor)
    return product


def terms_of(node: Node) -> list[Node]:
    """The terms of a sum, from left to right; sums that are in it more than once are one."""
    return [term for _, term in _parts(node, ("add",), ())]


def signed_terms(node: Node) -> list[tuple[str, Node]]:
    """The terms of sums and differences, from left to right, each with ``add`` or ``sub``, which joins it to those before."""
    return _parts(node, SIGNED, ())


def _parts(root: Node, ops: Collection[str], whole: Collection[Node]) -> list[tuple[str, Node]]:
    """What ``ops`` join in ``root``. As nothing is taken apart twice, there are no more parts than operands in the graph."""

    def is_joint(node: Node) -> bool:
        return node.op in ops and node not in whole

    readers: Counter[Node] = Counter()
    joints = [root] if is_joint(root) else []
    for joint in joints:
        joints += [arg for arg in dict.fromkeys(joint.args) if is_joint(arg) and not readers[arg]]
        readers.update(joint.args)
    parts, pending = list[tuple[str, Node]](), [("add", root)]
    while pending:
        sign, node = pending.pop()
        if is_joint(node) and readers[node] < 2:
            left, right = node.args
            turned = {"add": "sub", "sub": "add"}[sign] if node.op == "sub" else sign
            pending += [(turned, right), (sign, left)]
        else:
            parts.append((sign, node))
    return parts
