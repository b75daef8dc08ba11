"""Sums of products: linear maps where the math has them, broadcast products or einsum elsewhere."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sparank_gen.backends.torch.gemm import factors, is_outer, linear, listed_axis, match_gemm
from sparank_gen.backends.torch.memory import call
from sparank_gen.backends.torch.values import Dense, Listed, Scalar, Value, einsum, parenthesised
from sparank_gen.ir import node as ir
from sparank_gen.ir.node import BATCH, Node
from sparank_gen.ir.pairs import cheapest_pair, is_small
from sparank_gen.plan.stacking import has_matrices

if TYPE_CHECKING:
    from sparank_gen.backends.torch.lower import Lowering


def contraction(lowering: Lowering, node: Node) -> Value:
    """A sum over axes."""
    gemm = match_gemm(lowering, node)
    if gemm is not None:
        return linear(lowering, gemm, stacked=gemm.listed is not None and lowering.is_stacked(node, gemm.listed))
    own = _gemm_of_each(lowering, node)
    if own is not None:
        return own
    operands = [node.args[0]] if _is_kept(lowering, node.args[0]) else factors(lowering, node.args[0])
    if len(operands) == 1:
        return _sum(lowering, lowering.lower(node.args[0]), node.over)
    values = [lowering.shortened(operand, lowering.lower(operand)) for operand in operands]
    lists = {value.axis for value in values if isinstance(value, Listed)}
    apart = {value.axis for value in values if isinstance(value, Listed) and lowering.emitter.differs(value)}
    if len(apart or lists) == 1:
        (axis,) = apart or lists
        if axis in node.over and (apart or not _spans_modalities(lowering, values, lists)):
            return _over_list(lowering, values, axis, node.over, bool(apart))
        if not apart and _meets_matrices(lowering, values, node.over):
            return product_sum(lowering, [_as_rows(lowering, value, axis, node.over) for value in values], node.over)
    return lowering.lift(lambda *xs: product_sum(lowering, list(xs), node.over), *values)


def _over_list(lowering: Lowering, values: Sequence[Value], axis: str, over: Sequence[str], differs: bool) -> Value:
    """A sum of products over the axis of lists, and further axes; ``differs`` is whether their elements do in size."""
    rest = [other for other in over if other != axis]
    tensors = [value for value in values if not isinstance(value, Scalar)]
    is_pair = len(tensors) == len(values) == 2
    if is_pair and not differs and _has_matrices(lowering, tensors[0], tensors[1], over):
        return product_sum(lowering, [_as_rows(lowering, value, axis, over) for value in tensors], over)
    if not rest and is_pair and _element(tensors[0], axis) == _element(tensors[1], axis):
        pair = [_sequence(lowering, value, axis) for value in tensors]
        return Dense(call(lowering, "sum_of_products", [value.sequence for value in pair]), pair[0].element.axes)
    inner = lowering.lift(lambda *xs: product_sum(lowering, list(xs), rest), *values)
    return _sum(lowering, inner, (axis,))


def _meets_matrices(lowering: Lowering, values: Sequence[Value], over: Sequence[str]) -> bool:
    """Whether a list is multiplied with matrices of each row as the rows of one matrix: as its tensors are summed with the rest
    of what is contracted, or as they are vectors that all meet the same matrix."""
    if len(values) != 2 or not any(isinstance(value, Listed) for value in values):
        return False
    rows, matrix = sorted(values, key=lambda value: isinstance(value, Dense))
    if not isinstance(rows, Listed) or not isinstance(matrix, Dense):
        return False
    are_vectors = rows.axis not in matrix.axes and set(rows.element.axes) <= set(matrix.axes)
    return (rows.axis in over or are_vectors) and _has_matrices(lowering, rows, matrix, over)


def _as_rows(lowering: Lowering, value: Value, axis: str, over: Sequence[str]) -> Dense:
    """One tensor for a factor; a list becomes the rows of matrices, beside what is contracted."""
    assert not isinstance(value, Scalar)
    if isinstance(value, Dense) or value.axis != axis or len(value.element.axes) < 2:
        return lowering.dense(value)
    axes = value.element.axes
    place = next((position for position, other in enumerate(axes) if other in over), len(axes) - 1)
    dim = -2 if place == len(axes) - 1 else place
    return Dense(f"torch.stack({value.sequence}, {dim})", (*axes[:place], axis, *axes[place:]))


def _is_kept(lowering: Lowering, product: Node) -> bool:
    """Whether a product that others read too is computed; one that is larger than its factors is not for sums alone."""
    if not lowering.has_variable(product):
        return False
    is_summed = not lowering.is_result(product) and all(reader.op == "sum" for reader in lowering.readers.get(product, []))
    return not (is_outer(product) and is_summed)


def _gemm_of_each(lowering: Lowering, node: Node) -> Value | None:
    """``sum[m,j](W[m,i,j] * x[m,j])`` with one weight for each modality: the sum of what each makes of its own operand."""
    for axis in node.over:
        rest = [other for other in node.over if other != axis]
        gemm = match_gemm(lowering, ir.reduce("sum", node.args[0], rest)) if rest else None
        if gemm is not None and listed_axis(lowering, gemm.weight) == axis:
            return _sum(lowering, linear(lowering, gemm), (axis,))
    return None


def _spans_modalities(lowering: Lowering, values: Sequence[Value], lists: set[str]) -> bool:
    """Whether a dense factor runs over a modality axis other than that of the lists."""
    axes = {axis for value in values if isinstance(value, Dense) for axis in value.axes}
    return bool(axes & lowering.program.modality_axes - lists) or not any(isinstance(v, Listed) for v in values)


def _element(value: Dense | Listed, axis: str) -> tuple[str, ...]:
    """The dimensions of an element along ``axis``, which what is the same for all may lack."""
    return tuple(other for other in value.axes if other != axis)


def _sequence(lowering: Lowering, value: Dense | Listed, axis: str) -> Listed:
    if isinstance(value, Listed):
        return value
    if axis in value.axes:
        return lowering.as_list(value, axis)
    named = lowering.emitter.name_for(value, "shared")
    assert isinstance(named, Dense)
    return Listed(axis, named, (("_", "h"),))


def _sum(lowering: Lowering, value: Value, over: Sequence[str]) -> Value:
    if isinstance(value, Listed) and value.axis in over:
        rest = [axis for axis in over if axis != value.axis]
        element = lowering.dense_over_axes("sum", value.element, rest) if rest else value.element
        return Dense(f"sum_all({Listed(value.axis, element, value.sources).generator})", element.axes)
    return lowering.lift(lambda x: lowering.dense_over_axes("sum", x, over), value)


def product_sum(lowering: Lowering, values: list[Dense | Scalar], over: Sequence[str]) -> Dense:
    """A sum of products of dense values: a broadcast product where that stays small, else a contraction."""
    tensors = [value for value in values if isinstance(value, Dense)]
    scalars = [value for value in values if isinstance(value, Scalar)]
    result = _contracted(lowering, tensors, over) if over else product_code(lowering, tensors)
    for scalar in scalars:
        result = Dense(f"{parenthesised(result, 7)} * {parenthesised(scalar, 8)}", result.axes, 7)
    return result


def _contracted(lowering: Lowering, tensors: Sequence[Dense], over: Sequence[str]) -> Dense:
    """A sum over axes of a product of tensors."""
    tensors = _multiplied(lowering, tensors)
    axes = [frozenset(value.axes) for value in tensors]
    if len(tensors) == 1:
        return lowering.dense_over_axes("sum", tensors[0], over)
    rest = tuple(axis for axis in lowering.result_axes(tensors) if axis not in over)
    is_broadcast = is_small([*axes, rest], lowering.program)
    if not is_broadcast and len(tensors) > 2 and lowering.usual is not None:
        # The library takes factors as they come.
        known = [frozenset(lowering.emitter.known(value.axes)) for value in tensors]
        return _pair_by_pair(lowering, tensors, *cheapest_pair(known, over, lowering.program, lowering.usual), over)
    if not is_broadcast or (len(tensors) == 2 and _has_matrices(lowering, tensors[0], tensors[1], over)):
        rest = _as_multiplied(tensors, rest)
        return _matrix_product(tensors, over, rest) or _rows_summed(tensors, over) or einsum(_vector_first(tensors), rest)
    if len(tensors) == 2:
        return _dots_of_pairs(lowering, tensors, over) or _dot(lowering, tensors, over)
    first = _first_pair(tensors, over)
    if first is not None:
        return _pair_by_pair(lowering, tensors, *first, over)
    return lowering.dense_over_axes("sum", product_code(lowering, tensors), over)


def _has_matrices(lowering: Lowering, one: Dense | Listed, other: Dense | Listed, over: Sequence[str]) -> bool:
    return has_matrices(lowering.program, frozenset(one.axes), frozenset(other.axes), over, lowering.usual)


def _multiplied(lowering: Lowering, tensors: Sequence[Dense]) -> list[Dense]:
    """Of more than two factors, those multiplied that others broadcast over, the smallest products first."""
    found = list(tensors)
    while len(found) > 2:
        places = itertools.permutations(range(len(found)), 2)
        pairs = [(small, large) for small, large in places if set(found[small].axes) <= set(found[large].axes)]
        if not pairs:
            break
        small, large = min(pairs, key=lambda pair: len(found[pair[1]].axes))
        found[large] = product_code(lowering, [found[place] for place in sorted((small, large))])
        del found[small]
    return found


def _pair_by_pair(
    lowering: Lowering, tensors: Sequence[Dense], places: tuple[int, int], alone: Sequence[str], over: Sequence[str]
) -> Dense:
    """A sum of a product of several tensors, of which the pair at ``places`` is summed over ``alone`` first."""
    pair = product_sum(lowering, [tensors[place] for place in places], alone)
    others = [tensor for place, tensor in enumerate(tensors) if place not in places]
    return product_sum(lowering, [pair, *others], [axis for axis in over if axis not in alone])


def _first_pair(tensors: Sequence[Dense], over: Sequence[str]) -> tuple[tuple[int, int], list[str]] | None:
    """Which two of several factors have axes of a sum that no other has, and these: summed first, they make no larger product.

    Of several pairs it is that whose sum has the fewest axes.
    """
    found: list[tuple[int, tuple[int, int], list[str]]] = []
    for places in itertools.combinations(range(len(tensors)), 2):
        own = [set(tensors[place].axes) for place in places]
        others = set().union(*(tensor.axes for place, tensor in enumerate(tensors) if place not in places))
        alone = [axis for axis in over if axis in own[0] & own[1] - others]
        if alone and len(alone) < len(over):
            found.append((len((own[0] | own[1]) - set(alone)), places, alone))
    return min(found)[1:] if found else None


def _dots_of_pairs(lowering: Lowering, values: Sequence[Dense], over: Sequence[str]) -> Dense | None:
    """The dot products of the vectors of modalities with those of other ones, by the function that multiplies large matrices."""
    axes = lowering.result_axes(values)
    left, right = sorted(values, key=lambda value: [axes.index(axis) for axis in value.axes])
    vector = {BATCH, *over}
    modalities = [tuple(axis for axis in value.axes if axis not in vector) for value in (left, right)]
    are_modalities = all(len(own) == 1 and set(own) <= lowering.program.modality_axes for own in modalities)
    is_pair = len(over) == 1 and BATCH not in over and len(set(modalities)) == 2 and are_modalities
    if not is_pair or not all({*own, *vector} == set(value.axes) for own, value in zip(modalities, (left, right), strict=True)):
        return None
    codes = [value.ordered((*own, BATCH, *over)).code for own, value in zip(modalities, (left, right), strict=True)]
    return Dense(f"dots_of_pairs({', '.join(codes)})", (*modalities[0], *modalities[1], BATCH))


def _dot(lowering: Lowering, values: Sequence[Dense], over: Sequence[str]) -> Dense:
    """A sum of broadcast products of two, by the function that keeps half-precision products exact."""
    axes = lowering.result_axes(values)
    left, right = (value.aligned(axes).code for value in values)
    dims = tuple(sorted(axes.index(axis) for axis in over))
    dim = str(Dense("", axes).dim(over[0])) if len(dims) == 1 else str(dims)
    return Dense(f"dot({left}, {right}, {dim})", tuple(axis for axis in axes if axis not in over))


def product_code(lowering: Lowering, values: Sequence[Dense]) -> Dense:
    """The broadcast product of dense values."""
    axes = lowering.result_axes(values)
    if len(values) == 1:
        return values[0]
    code = " * ".join(parenthesised(value.aligned(axes), 7 if k == 0 else 8) for k, value in enumerate(values))
    return Dense(code, axes, 7)


def _matrix_product(values: Sequence[Dense], over: Sequence[str], result: tuple[str, ...]) -> Dense | None:
    """A contraction of two tensors along one axis as ``left @ right``, where it is a product of matrices as they lie."""
    if len(values) != 2 or len(over) != 1:
        return None
    for left, right in (values, values[::-1]):
        shared = tuple(axis for axis in left.axes if axis in right.axes and axis not in over)
        rows = tuple(axis for axis in left.axes if axis not in right.axes)
        columns = tuple(axis for axis in right.axes if axis not in left.axes)
        count = len(shared)
        is_product = len(columns) == 1 and (len(rows) == 1 or not shared and BATCH in rows)
        if is_product and (*shared, *rows, *columns) == result and left.axes[:count] == right.axes[:count] == shared:
            matrices = (left.ordered((*shared, *rows, *over)), right.ordered((*shared, *over, *columns)))
            return Dense(f"{parenthesised(matrices[0], 8)} @ {parenthesised(matrices[1], 8)}", result, 7)
    return None


def _rows_summed(values: Sequence[Dense], over: Sequence[str]) -> Dense | None:
    """A contraction of two tensors along all their first axes, which einsum would copy to sum them in another order."""
    if len(values) != 2 or len(over) < 2:
        return None
    left, right = values
    first, count = left.axes[: len(over)], len(over)
    if set(first) != set(over) or right.axes[:count] != first or set(left.axes[count:]) & set(right.axes[count:]):
        return None
    code = f"torch.tensordot({left.code}, {right.code}, ({list(range(count))}, {list(range(count))}))"
    return Dense(code, left.axes[count:] + right.axes[count:])


def _as_multiplied(values: Sequence[Dense], result: tuple[str, ...]) -> tuple[str, ...]:
    """The dimensions of a result, if it is a product of matrices in each row, in an order in which the library writes it."""
    shared = tuple(axis for axis in result if all(axis in value.axes for value in values))
    if len(values) != 2 or BATCH not in shared:
        return result
    own = [tuple(axis for axis in result if axis in value.axes and axis not in shared) for value in values]
    rows, columns = sorted(own, key=lambda axes: [result.index(axis) for axis in axes])
    return *shared, *rows, *columns


def _vector_first(values: Sequence[Dense]) -> Sequence[Dense]:
    """A vector before its matrix: the library multiplies a row by a matrix up to five times faster than that by a column."""
    return values[::-1] if len(values) == 2 and set(values[1].axes) < set(values[0].axes) else values
