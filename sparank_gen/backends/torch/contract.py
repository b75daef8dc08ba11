"""Sums of products: GEMMs on the stored weights where the math has them, broadcast products or einsum elsewhere."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparank_gen.backends.torch import leaves
from sparank_gen.backends.torch.values import Dense, Listed, Scalar, Value, composed, parenthesised
from sparank_gen.ir import node as ir
from sparank_gen.ir.node import BATCH, Node
from sparank_gen.ir.simplify import product_of
from sparank_gen.lang.widths import owner_among
from sparank_gen.plan.schedule import elements

if TYPE_CHECKING:
    from sparank_gen.backends.torch.lower import Lowering

# So many products make a matrix for each row that is better multiplied by the library than entry by entry.
LEAST_PRODUCTS = 1024


@dataclass(frozen=True)
class Gemm:
    """``sum[inner](W[outer, inner] · x[…, inner])``: a linear map with a stored weight.

    Attributes:
        weight: the leaf of the weight.
        operand: what it is applied to.
        outer: the axes of the result that come from the weight, in its order.
        inner: the contracted axes, in the weight's order.
        listed: the modality axis along which there is one weight for each index, or None.
    """

    weight: Node
    operand: Node
    outer: tuple[str, ...]
    inner: tuple[str, ...]
    listed: str | None


def match_gemm(lowering: Lowering, node: Node) -> Gemm | None:
    """The linear map that ``node`` is, if it is one."""
    if node.op != "sum" or node.args[0].op != "mul":
        return None
    factors = _factors(lowering, node.args[0])
    for position, weight in enumerate(factors):
        if weight.op != "leaf" or weight.data[0] not in lowering.parameters:
            continue
        rest = [*factors[:position], *factors[position + 1 :]]
        operand_axes = frozenset().union(*(factor.axes for factor in rest))
        layout_axes = [index for index in weight.data[1] if isinstance(index, str)]
        listed = listed_axis(lowering, weight, (operand_axes - set(node.over)) & lowering.program.modality_axes)
        shared = (weight.axes & operand_axes) - set(node.over) - {listed}
        is_wide = len(rest) > 1 and not any(factor.axes == operand_axes for factor in rest)
        if is_wide and _is_form(lowering, node, weight, operand_axes):
            is_wide = False
        if not rest or shared or is_wide or not set(node.over) <= weight.axes & operand_axes or listed in node.over:
            continue
        if any(factor.op == "leaf" and factor.data[0] in lowering.parameters for factor in rest):
            continue
        inner = tuple(axis for axis in layout_axes if axis in node.over)
        joined = joined_slot(lowering, weight)
        if joined is not None and (not inner or weight.data[1][joined] != inner[0]):
            continue
        outer = tuple(axis for axis in layout_axes if axis not in node.over and axis != listed)
        return Gemm(weight, product_of(rest), outer, inner, listed)
    return None


def _factors(lowering: Lowering, product: Node) -> list[Node]:
    """The factors of a product; a product among them that has a variable is one, unless it is an outer product."""

    def is_whole(node: Node) -> bool:
        is_outer = all(arg.axes < node.axes for arg in node.args)
        return not is_outer and (node in lowering.definitions or lowering.uses[node] > 1)

    def apart(node: Node) -> list[Node]:
        return [node] if node.op != "mul" or is_whole(node) else [factor for arg in node.args for factor in apart(arg)]

    return [factor for arg in product.args for factor in apart(arg)] if product.op == "mul" else [product]


def joined_slot(lowering: Lowering, leaf: Node) -> int | None:
    """The slot of a parameter along which pieces of a size for each modality are joined, or None."""
    layout, per = lowering.parameters[leaf.data[0]]
    owner = owner_among(layout.axes, lowering.program.extents)
    return layout.axes.index(owner) if owner not in (None, per) else None


def _is_form(lowering: Lowering, node: Node, weight: Node, operand_axes: frozenset[str]) -> bool:
    """Whether ``node`` is a form in several vectors whose products are no more numbers than any way around them makes.

    ``sum[i,j](W[o,i,j] * x[i] * y[j])`` is one GEMM on the products ``x[i] * y[j]``, or has ``W[o,i,j] * x[i]`` summed
    over ``i`` first; where ``o`` is as long as ``i``, the products are as few.
    """
    extents = lowering.program.extents
    lengths = {extents[axis] for axis in weight.axes - set(node.over)}
    return operand_axes - {BATCH} == set(node.over) and bool(lengths & {extents[axis] for axis in node.over})


def listed_axis(lowering: Lowering, weight: Node, others: Collection[str] = ()) -> str | None:
    """The axis along which a parameter is a list, or reads as one: that of its first dimension, where ``others`` have it."""
    layout, per = lowering.parameters[weight.data[0]]
    if not layout.axes or per is None and len(layout.dimensions[0]) > 1:
        return None
    index = weight.data[1][layout.axes.index(per) if per is not None else 0]
    return index if isinstance(index, str) and (per is not None or index in others) else None


def linear(
    lowering: Lowering, gemm: Gemm, bias: Node | None = None, constant: Dense | None = None, stacked: bool = False
) -> Value:
    """``F.linear`` with the stored weight, taking composed axes together and apart again.

    Args:
        lowering: what lowers the operand.
        gemm: the linear map.
        bias: a parameter that is added.
        constant: any offset that is added.
        stacked: whether what would be a list is needed as one tensor.
    """
    matrix = as_matrix(lowering, gemm.weight, gemm.outer, gemm.inner, gemm.listed)
    offset = as_matrix(lowering, bias, gemm.outer, (), gemm.listed) if bias is not None else constant
    operand = lowering.shortened(gemm.operand, lowering.lower(gemm.operand))
    joined = _joined_list(lowering, operand, gemm.inner)
    if joined is not None:
        operand = _kept_join(lowering, gemm.operand, joined)
    elif isinstance(operand, Listed) and operand.axis in gemm.inner:
        operand = lowering.dense(operand)

    if isinstance(operand, Listed):
        matrix = _named(lowering, gemm.weight, matrix, (gemm.outer, gemm.inner))
        offset = _named(lowering, bias, offset, (gemm.outer,)) if bias is not None and offset is not None else None

    def call(x: Dense, weight: Dense, constant: Dense | None = None) -> Dense:
        rest = tuple(axis for axis in x.axes if axis not in gemm.inner and axis != composed(gemm.inner))
        if set(gemm.inner) <= set(x.axes):
            x = with_rows(lowering, x, rest, gemm.inner)
        if not gemm.outer:
            return Dense(f"{parenthesised(x, 7)} @ {weight.atom}", rest, 7)
        arguments = ", ".join([x.code, weight.code, *([constant.code] if constant else [])])
        code = f"F.linear({arguments})"
        if len(gemm.outer) > 1:
            code = f"{code}.unflatten(-1, {lowering.sizes(gemm.outer)})"
        return Dense(code, (*rest, *gemm.outer))

    operands = [operand, matrix, *([offset] if offset is not None else [])]
    if not isinstance(matrix, Listed):
        return lowering.lift(call, *operands)
    listed = lowering.each(matrix.axis, call, *operands)
    sequences = [x.sequence for x in operands if isinstance(x, Listed)]
    is_of_rows = len(sequences) == len(operands) and operand.axes == (matrix.axis, BATCH, *gemm.inner)
    if stacked and is_of_rows and not lowering.emitter.differs(listed) and len(gemm.outer) == len(gemm.inner) == 1:
        return Dense(f"stacked_linear({', '.join(sequences)})", (matrix.axis, BATCH, *gemm.outer))
    return listed


def with_rows(lowering: Lowering, value: Dense, rest: Sequence[str], inner: Sequence[str]) -> Dense:
    """A value with the axes that a matrix product contracts in one last dimension; features as they come, if it is they."""
    value = value.ordered((*rest, *inner))
    if len(inner) == 1:
        return value
    apart = f".unflatten(-1, {lowering.sizes(inner)})"
    code = value.atom.removesuffix(apart) if value.atom.endswith(apart) else f"{value.atom}.flatten({-len(inner)})"
    return Dense(code, value.axes)


def _joined_list(lowering: Lowering, operand: Value, inner: tuple[str, ...]) -> Dense | None:
    """A list that is contracted along its own axis too, concatenated: one GEMM instead of one for each modality."""
    if not isinstance(operand, Listed) or operand.axis not in inner:
        return None
    element = operand.element
    if lowering.emitter.differs(operand):
        element = element.ordered((*(axis for axis in element.axes if axis not in inner), *inner[1:]))
    tail = element.axes[len(element.axes) - len(inner) + 1 :]
    if inner != (operand.axis, *tail):
        return None
    rest = element.axes[: len(element.axes) - len(tail)]
    if len(tail) > 1:
        element = Dense(f"{element.atom}.flatten({-len(tail)})", element.axes)
    sequence = Listed(operand.axis, element, operand.sources).sequence
    join = "cat" if tail else "stack"
    return Dense(f"torch.{join}({sequence}, -1)", (*rest, composed(inner)))


def _named(lowering: Lowering, leaf: Node, matrix: Value, groups: Sequence[tuple[str, ...]]) -> Value:
    """A matrix that a loop reads, as a variable: the parameter's name, with the positions at which it is read."""
    if not isinstance(matrix, Dense) or matrix.is_name:
        return matrix
    name = "_".join([lowering.variables[leaf.data[0]], *(str(index) for index in leaf.data[1] if isinstance(index, int))])
    shown = Dense(matrix.code, tuple(composed(group) for group in groups if group))
    return lowering.emitter.assign(shown, name)


def _kept_join(lowering: Lowering, operand: Node, joined: Dense) -> Dense:
    """A joined list, as a variable where several matrix products have it as their operand."""
    if lowering.multiplied[operand] < 2:
        return joined
    key = (operand, joined.axes)
    if key not in lowering.joins:
        value = lowering.emitter.assign(joined, "joined")
        assert isinstance(value, Dense)
        lowering.joins[key] = value
    return lowering.joins[key]


def as_matrix(
    lowering: Lowering, leaf: Node, outer: tuple[str, ...], inner: tuple[str, ...], axis: str | None
) -> Value:
    """A parameter as a matrix ``(outer, inner)``, or as a vector where one of the two is empty; a list along ``axis``."""
    name, indices = leaf.data
    layout, per = lowering.parameters[name]
    name = lowering.variables[name]
    per = layout.axes[0] if per is None and axis is not None else per
    stored = layout.without(per)
    groups = tuple(group for group in (outer, inner) if group)
    plain = [index for k, index in enumerate(indices) if layout.axes[k] != per]
    position = 0
    read: list[tuple[str | int, ...]] = []
    for dimension in stored:
        read.append(tuple(plain[position : position + len(dimension)]))
        position += len(dimension)
    element = name if per is None else f"{name}_{axis}" if axis else f"{name}[{indices[layout.axes.index(per)]}]"
    code, kept = _sliced(lowering, element, stored, read)
    if kept == groups:
        value = Dense(code, tuple(outer + inner))
    elif kept == groups[::-1]:
        value = Dense(f"{code}.t()", tuple(outer + inner))
    else:
        code = leaves.stored(lowering, element, layout, per, plain).ordered(outer + inner).atom
        if len(inner) > 1:
            code = f"{code}.flatten({len(outer)})"
        if len(outer) > 1:
            code = f"{code}.flatten(0, {len(outer) - 1})"
        value = Dense(code, tuple(outer + inner))
    return Listed(axis, value, ((element, name),)) if axis else value


def _sliced(
    lowering: Lowering, element: str, stored: Sequence[tuple[str, ...]], read: Sequence[tuple[str | int, ...]]
) -> tuple[str, tuple[tuple[str, ...], ...]]:
    """A stored tensor at the positions that ``read`` fixes: its code, and the axes that each remaining dimension holds."""
    code = element
    shown: list[str] = []
    kept: list[tuple[str, ...]] = []
    for position in reversed(range(len(stored))):
        runs = _runs(stored[position], read[position])
        if len(runs) > 1:
            sizes = ", ".join(lowering.emitter.extents_code(axes) for axes, _ in runs)
            code = f"{code}.unflatten({position}, ({sizes}))"
        shown[:0] = [":" if isinstance(at, tuple) else str(at) for _, at in runs]
        kept[:0] = [at for _, at in runs if isinstance(at, tuple)]
    while shown and shown[-1] == ":":
        shown.pop()
    return f"{code}[{', '.join(shown)}]" if shown else code, tuple(kept)


def _runs(axes: tuple[str, ...], read: tuple[str | int, ...]) -> list[tuple[tuple[str, ...], int | tuple[str, ...]]]:
    """One dimension taken apart no more than the positions in it need: axes, and their position or their names."""
    runs: list[tuple[tuple[str, ...], int | tuple[str, ...]]] = []
    for axis, index in zip(axes, read, strict=True):
        if isinstance(index, int):
            runs.append(((axis,), index))
        elif runs and isinstance(runs[-1][1], tuple):
            runs[-1] = ((*runs[-1][0], axis), (*runs[-1][1], index))
        else:
            runs.append(((axis,), (index,)))
    return runs


def contraction(lowering: Lowering, node: Node) -> Value:
    """A sum over axes."""
    gemm = match_gemm(lowering, node)
    if gemm is not None:
        return linear(lowering, gemm, stacked=gemm.listed is not None and lowering.is_stacked(node, gemm.listed))
    own = _gemm_of_each(lowering, node)
    if own is not None:
        return own
    factors = _factors(lowering, node.args[0]) if node.args[0] not in lowering.definitions else [node.args[0]]
    if len(factors) == 1:
        return _sum(lowering, lowering.lower(node.args[0]), node.over)
    values = [lowering.shortened(factor, lowering.lower(factor)) for factor in factors]
    lists = {value.axis for value in values if isinstance(value, Listed)}
    apart = {value.axis for value in values if isinstance(value, Listed) and lowering.emitter.differs(value)}
    lists = apart or lists
    if len(lists) == 1 and lists <= set(node.over) and (apart or not _spans_modalities(lowering, values, lists)):
        (axis,) = lists
        rest = [other for other in node.over if other != axis]
        tensors = [value for value in values if not isinstance(value, Scalar)]
        is_pair = len(tensors) == len(values) == 2
        if is_pair and not apart and _has_matrices(lowering, tensors[0], tensors[1], node.over):
            return product_sum(lowering, [lowering.dense(value) for value in tensors], node.over)
        if not rest and is_pair and _element(tensors[0], axis) == _element(tensors[1], axis):
            pair = [_sequence(lowering, value, axis) for value in tensors]
            return Dense(f"sum_of_products({', '.join(value.sequence for value in pair)})", pair[0].element.axes)
        inner = lowering.lift(lambda *xs: product_sum(lowering, list(xs), rest), *values)
        return _sum(lowering, inner, (axis,))
    return lowering.lift(lambda *xs: product_sum(lowering, list(xs), node.over), *values)


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
    modality, union = lowering.program.modality_axes, frozenset().union(*axes)
    rest = tuple(axis for axis in lowering.result_axes(tensors) if axis not in over)
    is_small = any(union - own <= modality for own in [*axes, set(rest)])
    if not is_small or (len(tensors) == 2 and _has_matrices(lowering, tensors[0], tensors[1], over)):
        return _einsum(tensors, rest)
    if len(tensors) == 2:
        return _dot(lowering, tensors, over)
    return lowering.dense_over_axes("sum", product_code(lowering, tensors), over)


def _has_matrices(lowering: Lowering, one: Dense | Listed, other: Dense | Listed, over: Sequence[str]) -> bool:
    """Whether each row of two tensors has matrices, or a matrix and a vector, large enough for the library to multiply."""
    left, right = frozenset(one.axes), frozenset(other.axes)
    if BATCH not in left & right or BATCH in over or not set(over) <= left & right:
        return False
    modality = lowering.program.modality_axes
    is_outer = not left - right <= modality and not right - left <= modality
    if lowering.usual is None or not (is_outer or left < right or right < left):
        return is_outer
    return elements((left ^ right) | set(over), lowering.program).number_for(lowering.usual) >= LEAST_PRODUCTS


def _multiplied(lowering: Lowering, tensors: Sequence[Dense]) -> list[Dense]:
    """Of more than two factors, those multiplied that others broadcast over, the smallest products first."""
    factors = list(tensors)
    while len(factors) > 2:
        places = itertools.permutations(range(len(factors)), 2)
        pairs = [(small, large) for small, large in places if set(factors[small].axes) <= set(factors[large].axes)]
        if not pairs:
            break
        small, large = min(pairs, key=lambda pair: len(factors[pair[1]].axes))
        factors[large] = product_code(lowering, [factors[place] for place in sorted((small, large))])
        del factors[small]
    return factors


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


def _einsum(values: Sequence[Dense], result: tuple[str, ...]) -> Dense:
    """A contraction by its equation; axes with names of one letter keep them."""
    axes = list(dict.fromkeys(axis for value in values for axis in value.axes))
    letters = {axis: axis for axis in axes if len(axis) == 1}
    spare = (letter for letter in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" if letter not in letters)
    for axis in axes:
        letters.setdefault(axis, next(spare))

    def subscripts(names: Sequence[str]) -> str:
        return "".join(letters[name] for name in names)

    equation = f"{','.join(subscripts(value.axes) for value in values)}->{subscripts(result)}"
    return Dense(f'torch.einsum("{equation}", {", ".join(value.code for value in values)})', result)
