"""Algebra that makes a program smaller without changing what it means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sparank_gen.ir import node as ir
from sparank_gen.ir.linear import taken_apart
from sparank_gen.ir.node import Node, Program, Window
from sparank_gen.ir.parts import sum_of, terms_of
from sparank_gen.ir.rewrite import Rule, is_tensor, pattern_rule, rewrite
from sparank_gen.ir.verify import verified
from sparank_gen.lang.extents import Extent
from sparank_gen.lang.ops import OPERATORS
from sparank_gen.lang.widths import owner_of


def _multiplied_back(node: Node) -> Node | None:
    """``a / 2 * 2``, as derivatives have it, for any number but zero."""
    if node.op != "mul":
        return None
    for quotient, number in (node.args, node.args[::-1]):
        if number.op == "constant" and number.data and quotient.op == "div" and quotient.args[1] is number:
            return quotient.args[0]
    return None


IDENTITIES = (
    *(
        pattern_rule(pattern, replacement)
        for pattern, replacement in (
            ("a + 0", "a"),
            ("a - 0", "a"),
            ("a * 1", "a"),
            ("a / 1", "a"),
            ("a ** 1", "a"),
            ("-(-a)", "a"),
            ("a + -b", "a - b"),
            ("a - -b", "a + b"),
        )
    ),
    _multiplied_back,
)
MIXTURES = (
    pattern_rule("sigmoid(c) * b + sigmoid(-c) * a", "lerp(a, b, sigmoid(c))", tensors_only=True),
    pattern_rule("c * b + (1 - c) * a", "lerp(a, b, c)", tensors_only=True),
    pattern_rule("a + c * (b - a)", "lerp(a, b, c)", tensors_only=True),
)


def fold_constants(node: Node) -> Node | None:
    """A pointwise operation on numbers, done once and for all."""
    operator = OPERATORS.get(node.op)
    if operator is None or operator.kind != "pointwise" or not all(arg.op == "constant" for arg in node.args):
        return None
    with np.errstate(all="ignore"):
        value = float(operator.meaning(*(np.float64(arg.data) for arg in node.args)))
    return ir.constant(value) if np.isfinite(value) else None


def fold_choice(node: Node) -> Node | None:
    """A choice that numbers alone decide, as what they choose."""
    if node.op != "where":
        return None
    condition = node.args[0]
    if condition.op not in OPERATORS or any(arg.op != "constant" for arg in condition.args):
        return None
    holds = OPERATORS[condition.op].meaning(*(np.float64(arg.data) for arg in condition.args))
    return branch(node, bool(holds))


def branch(choice: Node, holds: bool) -> Node | None:
    """What a choice is where its condition holds everywhere, or nowhere; None where that lacks an axis of the choice."""
    chosen = choice.args[1 if holds else 2]
    return chosen if chosen.axes == choice.axes else None


def expand_number_lerp(node: Node) -> Node | None:
    """A mixture with a plain number in it, written out: the fused operation takes tensors."""
    if node.op != "lerp" or all(map(is_tensor, node.args)):
        return None
    start, end, weight = node.args
    return ir.apply("add", start, ir.apply("mul", weight, ir.apply("sub", end, start)))


def merge_views(extents: Mapping[str, Extent]) -> Rule:
    """A rule: views of views as one; views of stacks as the piece."""
    return lambda node: _merged(node, extents)


def _merged(node: Node, extents: Mapping[str, Extent]) -> Node | None:
    if node.op == "rename" and node.args[0].op == "rename":
        inner = node.args[0]
        outer = dict(node.data)
        names = {old: outer.get(new, new) for old, new in inner.data}
        names |= {old: new for old, new in outer.items() if old in inner.args[0].axes and old not in dict(inner.data)}
        return ir.rename(inner.args[0], names)
    if node.op == "select" and node.args[0].op == "stack" and node.args[0].over == node.over:
        piece = node.args[0].args[node.data]
        return piece if piece.axes == node.axes else None
    if node.op == "rename" and node.args[0].op == "slice":
        return _rename_slice(node.args[0], dict(node.data), extents)
    if node.op == "slice" and node.args[0].op == "slice" and node.over == (node.args[0].data.axis,):
        inner, window = node.args[0], node.data
        return ir.slice_of(inner.args[0], inner.over[0], Window(window.axis, window.shift + inner.data.shift))
    if node.op in ("rename", "select") and node.args[0].op == "leaf" and not isinstance(node.data, Extent):
        name, indices = node.args[0].data
        changes = {node.over[0]: node.data} if node.op == "select" else dict(node.data)
        return ir.leaf(name, [changes.get(index, index) for index in indices])
    return None


def _rename_slice(node: Node, names: dict[str, str], extents: Mapping[str, Extent]) -> Node | None:
    """A renamed slice as a slice of what is renamed.

    None where a name would meet one that is cut, or where it stands for as many positions as a modality has that is not
    there to say how many.
    """
    (axis,), (argument,), window = node.over, node.args, node.data
    inner = {old: new for old, new in names.items() if old != window.axis}
    owner = owner_of(extents[names.get(window.axis, window.axis)])
    # The axis that is cut keeps its own owner's name.
    if axis in inner.values() or owner_of(extents[axis]) in inner or owner not in (None, *(names.get(other, other) for other in node.axes)):
        return None
    return ir.slice_of(ir.rename(argument, inner), axis, Window(names.get(window.axis, window.axis), window.shift))


def join_pads(extents: Mapping[str, Extent]) -> Rule:
    """A rule: a sum of pieces, each zero outside its own part of an axis, is one concatenation where they fill the axis."""

    def rule(node: Node) -> Node | None:
        if node.op != "add":
            return None
        terms = terms_of(node)
        for axis in sorted({term.over[0] for term in terms if term.op == "pad"}):
            pieces, rest = _filling(axis, terms, extents)
            if pieces:
                parts = [piece.data.axis if piece.op == "pad" else None for piece in pieces]
                joined = ir.concat([piece.args[0] for piece in pieces], axis, parts)
                return sum_of([joined, *rest])
        return None

    return rule


def _filling(axis: str, terms: Sequence[Node], extents: Mapping[str, Extent]) -> tuple[list[Node], list[Node]]:
    """Those of ``terms`` that fill ``axis`` one after another, and the rest; no pieces where a gap is left."""
    pieces, rest, start = list[Node](), list(terms), Extent.number(0)
    while start != extents[axis]:
        found = next((term for term in rest if term.op in ("pad", "place") and term.over == (axis,) and _start(term) == start), None)
        if found is None:
            return [], rest
        rest.remove(found)
        pieces.append(found)
        start = start + (extents[found.data.axis] if found.op == "pad" else Extent.number(1))
    parts = {piece.data.axis for piece in pieces if piece.op == "pad"}
    is_mixed = any(piece.args[0].axes & parts - {piece.data.axis if piece.op == "pad" else ""} for piece in pieces)
    return ([], rest) if is_mixed else (pieces, rest)


def _start(node: Node) -> Extent:
    """The first position at which a padded or placed node is not zero."""
    place: Extent | int = node.data.shift if node.op == "pad" else node.data
    return place if isinstance(place, Extent) else Extent.number(place)


@verified
def tidy(program: Program) -> Program:
    """``program`` with constants folded, neutral elements gone and views merged; products stay as they are written."""
    return rewrite(program, (fold_constants, fold_choice, *IDENTITIES, merge_views(program.extents), join_pads(program.extents)))


@verified
def simplify(program: Program) -> Program:
    """``program`` tidied, with sums of products taken apart and mixtures of two recognised."""
    extents = program.extents
    views = (merge_views(extents), join_pads(extents))
    return rewrite(program, (fold_constants, fold_choice, *IDENTITIES, *views, *taken_apart(extents), *MIXTURES, expand_number_lerp))
