"""Linear maps with stored weights: which sums are one, the weights as matrices, and the calls that apply them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sparank_gen.backends.torch import leaves, memory
from sparank_gen.backends.torch.values import Dense, Listed, Value, composed, einsum, parenthesised
from sparank_gen.backends.torch.views import MOST_PARTS
from sparank_gen.ir.node import BATCH, Node
from sparank_gen.ir.parts import product_of
from sparank_gen.lang.widths import owner_among, owners

if TYPE_CHECKING:
    from sparank_gen.backends.torch.lower import Lowering


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
    operands = factors(lowering, node.args[0])
    for position, weight in enumerate(operands):
        if weight.op != "leaf" or weight.data[0] not in lowering.parameters:
            continue
        rest = [*operands[:position], *operands[position + 1 :]]
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
        # Rows of a size for each modality are a list, which meets no second one along another axis.
        if listed is not None and set(owners(operand_axes, lowering.program.extents).values()) - {listed, *node.over}:
            continue
        inner = tuple(axis for axis in layout_axes if axis in node.over)
        joined = joined_slot(lowering, weight)
        if joined is not None and (not inner or weight.data[1][joined] != inner[0]):
            continue
        outer = tuple(axis for axis in layout_axes if axis not in node.over and axis != listed)
        return Gemm(weight, product_of(rest), outer, inner, listed)
    return None


def factors(lowering: Lowering, product: Node) -> list[Node]:
    """The factors of a product; a product among them that has a variable is one, unless it is an outer product."""

    def is_whole(node: Node) -> bool:
        return not is_outer(node) and lowering.has_variable(node)

    def apart(node: Node) -> list[Node]:
        return [node] if node.op != "mul" or is_whole(node) else [factor for arg in node.args for factor in apart(arg)]

    return [factor for arg in product.args for factor in apart(arg)] if product.op == "mul" else [product]


def is_outer(product: Node) -> bool:
    """Whether a product is larger than each of its operands."""
    return all(arg.axes < product.axes for arg in product.args)


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
    vectors = _side_by_side(lowering, operand, gemm.inner)
    if vectors is not None:
        joined = _joined(vectors, gemm.inner)
        is_of_rows = joined.axes[:-1] == (BATCH,) and len(gemm.inner) > 1 and len(gemm.outer) == 1
        if lowering.writes and is_of_rows and isinstance(matrix, Dense) and lowering.multiplied[gemm.operand] < 2:
            codes = [vectors.sequence, matrix.code, *([offset.code] if isinstance(offset, Dense) else [])]
            return Dense(memory.call(lowering, "joined_linear", codes), (BATCH, *gemm.outer))
        operand = _kept_join(lowering, gemm.operand, joined)
    elif isinstance(operand, Listed) and operand.axis in gemm.inner:
        operand = lowering.dense(operand)

    if isinstance(operand, Listed):
        matrix = _named(lowering, gemm.weight, matrix, (gemm.outer, gemm.inner))
        offset = _named(lowering, bias, offset, (gemm.outer,)) if bias is not None and offset is not None else None

    def call(x: Dense, weight: Dense, constant: Dense | None = None) -> Dense:
        if _lies_inside(x, gemm):
            return _along_inside(x, weight, constant, gemm)
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
        lowering.multiplied_lists.add(sequences[0])
        return Dense(memory.call(lowering, "stacked_linear", sequences), (matrix.axis, BATCH, *gemm.outer))
    return listed


def _lies_inside(operand: Dense, gemm: Gemm) -> bool:
    """Whether an operand would have to be transposed, and its result once more, for rows along what is contracted."""
    return len(gemm.inner) == len(gemm.outer) == 1 and gemm.inner[0] in operand.axes[:-1]


def _along_inside(operand: Dense, weight: Dense, constant: Dense | None, gemm: Gemm) -> Dense:
    """The linear map along a dimension that is not the last, which stays in its place."""
    axes = tuple(gemm.outer[0] if axis in gemm.inner else axis for axis in operand.axes)
    mapped = einsum((weight, operand), axes)
    return Dense(f"{mapped.code} + {constant.aligned(axes).code}", axes, 6) if constant else mapped


def with_rows(lowering: Lowering, value: Dense, rest: Sequence[str], inner: Sequence[str]) -> Dense:
    """A value with the axes that a matrix product contracts in one last dimension, which may be there still."""
    value = value.ordered((*rest, *inner))
    if len(inner) == 1:
        return value
    apart = f".unflatten(-1, {lowering.sizes(inner)})"
    code = value.atom.removesuffix(apart) if value.atom.endswith(apart) else f"{value.atom}.flatten({-len(inner)})"
    return Dense(code, value.axes)


def _side_by_side(lowering: Lowering, operand: Value, inner: tuple[str, ...]) -> Listed | None:
    """A list that is contracted along its own axis too, with rows of what else is: one GEMM instead of one for each modality."""
    if not isinstance(operand, Listed) or operand.axis not in inner:
        return None
    element = operand.element
    if lowering.emitter.differs(operand):
        element = element.ordered((*(axis for axis in element.axes if axis not in inner), *inner[1:]))
    rest, tail = _split(element.axes, inner)
    if inner != (operand.axis, *tail):
        return None
    return replace(operand, element=with_rows(lowering, element, rest, tail) if tail else element)


def _joined(vectors: Listed, inner: tuple[str, ...]) -> Dense:
    """A list side by side in one tensor."""
    rest, tail = _split(vectors.element.axes, inner)
    return Dense(f"torch.{'cat' if tail else 'stack'}({vectors.sequence}, -1)", (*rest, composed(inner)))


def _split(axes: tuple[str, ...], inner: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The axes of an element of a list, and of them those at the end that ``inner`` has beside the list's own."""
    count = len(axes) - len(inner) + 1
    return axes[:count], axes[count:]


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
    element = name if per is None else f"{name}[{indices[layout.axes.index(per)]}]"
    element = lowering.emitter.element(f"{name}_{axis}", name) if axis else element
    code, kept = _sliced(lowering, element, stored, read, leaf)
    if kept == groups:
        value = Dense(code, tuple(outer + inner))
    elif kept == groups[::-1]:
        value = Dense(f"{code}.t()", tuple(outer + inner))
    elif (found := _in_groups(kept, groups)) is not None:
        order, counts = found
        dimensions = [composed(axes) for axes in kept]
        code = Dense(code, tuple(dimensions)).ordered(tuple(dimensions[k] for k in order)).atom
        value = Dense(_flattened(code, counts), tuple(outer + inner))
    else:
        code = leaves.stored(lowering, element, layout, per, plain).ordered(outer + inner).atom
        value = Dense(_flattened(code, [len(group) for group in groups]), tuple(outer + inner))
    return Listed(axis, value, ((element, name),)) if axis else value


def _in_groups(kept: Sequence[tuple[str, ...]], groups: Sequence[tuple[str, ...]]) -> tuple[list[int], list[int]] | None:
    """The order of dimensions in which each of ``groups`` is some of them, one after another, and how many; or None."""
    order: list[int] = []
    counts: list[int] = []
    for group in groups:
        start, left = len(order), group
        while left:
            fitting = (k for k, axes in enumerate(kept) if k not in order and left[: len(axes)] == axes)
            found = next(fitting, None)
            if found is None:
                return None
            order.append(found)
            left = left[len(kept[found]) :]
        counts.append(len(order) - start)
    return order, counts


def _flattened(code: str, counts: Sequence[int]) -> str:
    """A tensor whose dimensions, so many in each group, are one for each group."""
    for position in reversed(range(len(counts))):
        if counts[position] > 1:
            start = sum(counts[:position])
            end = "" if position == len(counts) - 1 else f", {start + counts[position] - 1}"
            code = f"{code}.flatten({start}{end})"
    return code


def _sliced(
    lowering: Lowering,
    element: str,
    stored: Sequence[tuple[str, ...]],
    read: Sequence[tuple[str | int, ...]],
    leaf: Node,
) -> tuple[str, tuple[tuple[str, ...], ...]]:
    """A stored tensor at the positions that ``read`` fixes: its code, and the axes that each remaining dimension holds."""
    code = element
    shown: list[str | int] = []
    kept: list[tuple[str, ...]] = []
    for position in reversed(range(len(stored))):
        runs = _runs(stored[position], read[position])
        if len(runs) > 1:
            sizes = ", ".join(lowering.emitter.extents_code(axes) for axes, _ in runs)
            code = f"{code}.unflatten({position}, ({sizes}))"
        shown[:0] = [":" if isinstance(at, tuple) else at for _, at in runs]
        kept[:0] = [at for _, at in runs if isinstance(at, tuple)]
    count = _all_positions(lowering, leaf)
    if count and code != element:
        return _unbound(lowering, element, code, shown, kept, count), tuple(kept)
    while shown and shown[-1] == ":":
        shown.pop()
    return f"{code}[{', '.join(map(str, shown))}]" if shown else code, tuple(kept)


def _all_positions(lowering: Lowering, leaf: Node) -> int:
    """The length of an axis at each of whose positions a parameter is read, one after the other and not otherwise; else 0."""
    name = leaf.data[0]
    layout, per = lowering.parameters[name]
    reads = lowering.positions.get(name, set())
    slots = {tuple(slot for slot, _ in read) for read in reads}
    if per is not None or len(slots) != 1 or len(fixed := next(iter(slots))) != 1:
        return 0
    count = lowering.program.extents[layout.axes[fixed[0]]].constant or 0
    return count if 2 <= count == len(reads) <= MOST_PARTS else 0


def _unbound(
    lowering: Lowering, element: str, code: str, shown: Sequence[str | int], kept: Sequence[tuple[str, ...]], count: int
) -> str:
    """The variable of one of the parts into which a parameter is taken apart, all at once."""
    place = next(dim for dim, index in enumerate(shown) if isinstance(index, int))
    if code not in lowering.unbound:
        part = Dense("", tuple(composed(group) for group in kept))
        names = [f"{element}_{position}" for position in range(count)]
        parts = lowering.emitter.unpack(part, f"{code}.unbind({place})", names, [""] * count)
        lowering.unbound[code] = [part.code for part in parts]
    return lowering.unbound[code][int(shown[place])]


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
