"""Sums in which matrix products take up what is added to them, and layer normalisations with a scale and a shift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from sparank_gen.backends.torch import memory
from sparank_gen.backends.torch.gemm import (
    Gemm,
    as_matrix,
    joined_slot,
    linear,
    listed_axis,
    match_gemm,
    with_rows,
)
from sparank_gen.backends.torch.values import Dense, Listed, Scalar, Value, parenthesised
from sparank_gen.ir.node import BATCH, Node

if TYPE_CHECKING:
    from sparank_gen.backends.torch.lower import Lowering


def affine(lowering: Lowering, node: Node) -> Value | None:
    """A sum of terms in which a GEMM takes up its bias, or a layer normalisation its scale and shift."""
    if node.op not in ("add", "sub"):
        return None
    normalised = _scaled_layer_norm(lowering, node)
    if normalised is not None:
        return normalised
    mapped = _sum_of_maps(lowering, node)
    if mapped is not None:
        return mapped
    terms = _terms(lowering, node)
    for position, (sign, term) in enumerate(terms):
        gemm = match_gemm(lowering, term) if sign > 0 and term not in lowering.values else None
        if gemm is None or lowering.uses[term] > 1:
            continue
        for other, (bias_sign, bias) in enumerate(terms):
            if bias_sign > 0 and other != position and _is_bias(lowering, bias, gemm):
                rest = [pair for k, pair in enumerate(terms) if k not in (position, other)]
                stacked = gemm.listed is not None and not rest and lowering.is_stacked(node, gemm.listed)
                value = linear(lowering, gemm, bias, stacked=stacked)
                return _added(lowering, value, rest)
    return _added_to(lowering, terms) if lowering.temporaries else None


def _added_to(lowering: Lowering, terms: Sequence[tuple[int, Node]]) -> Value | None:
    """A sum with a linear map of rows, which is added to the rest in the call that computes it."""
    found = [(k, gemm) for k, (_, term) in enumerate(terms) if (gemm := _map_of_each_row(lowering, term)) is not None]
    place, gemm = found[-1] if found else (0, None)
    rest = [pair for k, pair in enumerate(terms) if k != place]
    if gemm is None or not rest or rest[0][0] < 0:
        return None
    (_, first), *others = rest
    sign, term = terms[place]
    rows = (BATCH, *(axis for axis in term.axes if axis not in (BATCH, gemm.listed)))
    if frozenset().union(*(other.axes for _, other in rest)) - {gemm.listed} != set(rows):
        return None
    is_apart = gemm.listed is not None and first.op in memory.METHODS and not lowering.has_variable(first)
    is_map = _map_of_each_row(lowering, first) is not None
    total = lowering.pointwise(first, apart=gemm.listed) if is_apart else lowering.lower(first)
    total = _as_temporary(total) if is_map and not total.is_name else total
    total = _added(lowering, total, others)
    operand = lowering.shortened(gemm.operand, lowering.lower(gemm.operand))
    weight = as_matrix(lowering, gemm.weight, gemm.inner, gemm.outer, gemm.listed)

    def combine(total: Dense, operand: Dense, matrix: Dense) -> Dense:
        total = total.ordered(rows)
        code = f"{with_rows(lowering, operand, (BATCH,), gemm.inner).code}, {matrix.code}{', alpha=-1' if sign < 0 else ''}"
        code = f"{total.atom}.addmm_({code})" if total.is_temporary else f"torch.addmm({total.code}, {code})"
        return Dense(code, rows, is_temporary=True)

    return lowering.lift(combine, total, operand, weight)


def _as_temporary(value: Value) -> Value:
    """The result of a matrix product that is part of an expression alone."""
    if isinstance(value, Listed):
        return replace(value, element=replace(value.element, is_temporary=True))
    return replace(value, is_temporary=True) if isinstance(value, Dense) else value


def _map_of_each_row(lowering: Lowering, term: Node) -> Gemm | None:
    """The linear map that a term is, where it takes the rows of the batch to vectors, those of each modality by themselves."""
    if term in lowering.values or lowering.uses[term] > 1:
        return None
    gemm = match_gemm(lowering, term.args[0] if term.op == "rename" else term)
    if gemm is None or len(gemm.outer) != 1 or joined_slot(lowering, gemm.weight) is not None:
        return None
    modality = {gemm.listed} if gemm.listed is not None else set[str]()
    is_row = gemm.operand.axes == {BATCH, *gemm.inner, *modality} and not lowering.program.modality_axes & {*gemm.inner, *gemm.outer}
    return gemm if is_row and {BATCH, *modality} <= term.axes else None


def _sum_of_maps(lowering: Lowering, node: Node) -> Value | None:
    """A sum of linear maps of several vectors: every further product is added to the result of the one before."""
    terms = sorted(_terms(lowering, node, within_subtracted=True), key=lambda term: -term[0])
    maps = [(sign, term, gemm) for sign, term in terms if (gemm := _map_of_rows(lowering, term)) is not None]
    if len(maps) < 2 or maps[0][0] < 0:
        return None
    (_, _, first), *others = maps
    biases = [(sign, term) for sign, term in terms if _is_bias(lowering, term, first)]
    value = linear(lowering, first, constant=_sum_of_vectors(lowering, biases))
    for sign, _, gemm in others:
        value = lowering.named(node, value)
        operand = lowering.shortened(gemm.operand, lowering.lower(gemm.operand))
        assert isinstance(value, Dense) and isinstance(operand, Dense)
        rows = with_rows(lowering, operand, (BATCH,), gemm.inner)
        weight = as_matrix(lowering, gemm.weight, gemm.inner, gemm.outer, None)
        scale = ", alpha=-1" if sign < 0 else ""
        code = f"torch.addmm({value.code}, {rows.code}, {_code(weight)}{scale})"
        value = Dense(code, value.axes, over=(value.code, "in_place") if lowering.writes else None)
    taken = {term for _, term, _ in maps}
    rest = [pair for pair in terms if pair[1] not in taken and pair not in biases]
    return _added(lowering, value, rest)


def _map_of_rows(lowering: Lowering, term: Node) -> Gemm | None:
    """The linear map that a term is, where it takes each row of the batch to a vector that nothing else reads."""
    gemm = match_gemm(lowering, term) if term not in lowering.values and lowering.uses[term] == 1 else None
    if gemm is None or gemm.listed is not None or len(gemm.outer) != 1:
        return None
    is_row = gemm.operand.axes == {BATCH, *gemm.inner} and not lowering.program.modality_axes & set(gemm.inner)
    return gemm if is_row and joined_slot(lowering, gemm.weight) is None else None


def _sum_of_vectors(lowering: Lowering, terms: Sequence[tuple[int, Node]]) -> Dense | None:
    """Signed vectors of parameters as one; None where there are none."""
    if not terms:
        return None
    (sign, first), *others = terms
    start = lowering.lower(first)
    assert isinstance(start, Dense)
    total = _added(lowering, start if sign > 0 else Dense(f"-{start.code}", start.axes, 8), others)
    assert isinstance(total, Dense)
    return total


def _terms(lowering: Lowering, node: Node, sign: int = 1, within_subtracted: bool = False) -> list[tuple[int, Node]]:
    """The signed terms of a sum; sums that are variables of their own are not taken apart, nor subtracted ones unless asked."""
    if node.op not in ("add", "sub"):
        return [(sign, node)]
    found = []
    for position, argument in enumerate(node.args):
        is_subtracted = node.op == "sub" and position == 1
        is_variable = lowering.uses[argument] > 1 or argument in lowering.definitions
        inner = -sign if is_subtracted else sign
        if is_variable or (is_subtracted and not within_subtracted):
            found.append((inner, argument))
        else:
            found += _terms(lowering, argument, inner, within_subtracted)
    return found


def _is_bias(lowering: Lowering, bias: Node, gemm: Gemm) -> bool:
    if bias.op != "leaf" or bias.data[0] not in lowering.parameters or not gemm.outer:
        return False
    if joined_slot(lowering, bias) is not None:
        return False
    listed = listed_axis(lowering, bias, [gemm.listed] if gemm.listed else ())
    return bias.axes - {listed} == set(gemm.outer) and listed == gemm.listed


def _added(lowering: Lowering, value: Value, rest: Sequence[tuple[int, Node]]) -> Value:
    for sign, term in rest:
        other = lowering.lower(term)

        def combine(a: Dense | Scalar, b: Dense | Scalar, symbol: str = "+" if sign > 0 else "-") -> Dense:
            axes = lowering.result_axes([x for x in (a, b) if isinstance(x, Dense)])
            left, right = (x.aligned(axes) if isinstance(x, Dense) else x for x in (a, b))
            return Dense(f"{parenthesised(left, 6)} {symbol} {parenthesised(right, 7)}", axes, 6)

        value = lowering.lift(combine, value, other)
    return value


def _scaled_layer_norm(lowering: Lowering, node: Node) -> Value | None:
    """``layernorm[i](x) * scale[i] + shift[i]`` as one call."""
    if node.op != "add":
        return None
    for scaled, shift in (node.args, node.args[::-1]):
        if scaled.op != "mul" or not _is_vector(lowering, shift):
            continue
        for normal, scale in (scaled.args, scaled.args[::-1]):
            over = set(normal.over)
            is_plain = normal.op == "layernorm" and len(over) == 1 and normal not in lowering.definitions
            if is_plain and _is_vector(lowering, scale) and scale.axes == over == shift.axes:
                codes = [_code(lowering.lower(vector)) for vector in (scale, shift)]
                value = lowering.lower(normal.args[0])
                return lowering.lift(lambda x, n=normal, c=codes: lowering.layer_norm(n, x, *c), value)
    return None


def _is_vector(lowering: Lowering, node: Node) -> bool:
    is_parameter = node.op == "leaf" and node.data[0] in lowering.parameters and len(node.axes) == 1
    return is_parameter and lowering.parameters[node.data[0]][1] is None


def _code(value: Value) -> str:
    assert isinstance(value, Dense)
    return value.code
