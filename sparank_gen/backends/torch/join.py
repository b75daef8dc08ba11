"""Axes that are cut, and joined: views of a part, padding with zeros, concatenation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparank_gen.backends.torch.values import Dense, Listed, Scalar, Value
from sparank_gen.ir.node import Node, Window
from sparank_gen.lang.extents import Extent
from sparank_gen.lang.widths import owner_of

if TYPE_CHECKING:
    from sparank_gen.backends.torch.lower import Lowering


def cut_or_joined(lowering: Lowering, node: Node) -> Value:
    """A slice, a pad or a concatenation. A list along the axis in question becomes a tensor first."""
    axes: Sequence[str | None] = node.data if node.op == "concat" else [node.data.axis if node.op == "pad" else node.over[0]]
    values = []
    for argument, axis in zip(node.args, axes, strict=True):
        value = lowering.lower(argument)
        values.append(lowering.dense(value) if isinstance(value, Listed) and value.axis == axis else value)
    if node.op == "slice":
        return lowering.lift(lambda x: _slice(lowering, x, node.over[0], node.data), *values)
    if node.op == "pad":
        value, owner = lowering.tensor(values[0]), owner_of(lowering.program.extents[node.data.axis])

        def pad(x: Dense) -> Dense:
            return _pad(lowering, x, node.over[0], node.data)

        # What is padded to the width of each modality is a list, where it was the same for all of them too.
        return lowering.each(owner, pad, value) if owner is not None else lowering.lift(pad, value)
    return lowering.lift(lambda *xs: _concat(lowering, xs, node.over[0], node.data), *values)


def _slice(lowering: Lowering, value: Dense, axis: str, window: Window) -> Dense:
    extents, symbols = lowering.program.extents, lowering.emitter.symbols
    end = window.shift + extents[window.axis]
    start = window.shift.code(symbols) if window.shift.terms else ""
    stop = end.code(symbols) if end != extents[axis] else ""
    part = f"{start} : {stop}".strip() if " " in start + stop else f"{start}:{stop}"
    position = value.axes.index(axis)
    before = ["..."] if 1 < position == len(value.axes) - 1 else [":"] * position
    axes = tuple(window.axis if other == axis else other for other in value.axes)
    return Dense(f"{value.atom}[{', '.join([*before, part])}]", axes)


def _pad(lowering: Lowering, value: Dense, axis: str, window: Window) -> Dense:
    """Zeros before and after; only derivatives have them."""
    extents = lowering.program.extents
    value = _expanded(lowering, value, lowering.sorted({*value.axes, window.axis}))
    after = extents[axis] - window.shift - extents[window.axis]
    return _padded(lowering, value, window.axis, axis, (window.shift, after))


def _padded(
    lowering: Lowering, value: Dense, part: str, axis: str, around: tuple[Extent, Extent], number: str = ""
) -> Dense:
    """``value`` with so many entries of a number, by default 0, before and after it."""
    axes = tuple(axis if other == part else other for other in value.axes)
    counts = ["0, 0"] * (len(axes) - 1 - axes.index(axis))
    counts.append(", ".join(extent.code(lowering.emitter.symbols) for extent in around))
    return Dense(f"F.pad({value.code}, ({', '.join(counts)}){', value=' + number if number else ''})", axes)


def _expanded(lowering: Lowering, value: Dense, axes: tuple[str, ...]) -> Dense:
    """``value`` with all of ``axes`` at full size."""
    if set(value.axes) == set(axes):
        return value.ordered(axes)
    sizes = ", ".join(lowering.emitter.extent_code(axis) for axis in axes)
    return Dense(f"{value.aligned(axes).atom}.expand({sizes})", axes)


@dataclass(frozen=True)
class _Piece:
    """A piece, the axis that it lies along (None: it is one position), and how many positions it takes."""

    value: Dense | Scalar
    part: str | None
    count: Extent


def _concat(lowering: Lowering, values: Sequence[Dense | Scalar], axis: str, parts: Sequence[str | None]) -> Dense:
    extents = lowering.program.extents
    counts = [extents[part] if part else Extent.number(1) for part in parts]
    pieces = [_Piece(*each) for each in zip(values, parts, counts, strict=True)]
    tensors = [piece for piece in pieces if isinstance(piece.value, Dense)]
    rest = set().union(*(set(piece.value.axes) - {piece.part} for piece in tensors))
    axes = lowering.sorted(rest | {axis})
    padded = _numbers_around(lowering, pieces, axis)
    if padded is not None:
        return padded
    codes = ", ".join(_laid_out(lowering, piece, axis, axes).code for piece in pieces)
    dim = Dense("", axes).dim(axis)
    return Dense(f"torch.cat(({codes}{',' if len(pieces) == 1 else ''}), {dim})", axes)


def _numbers_around(lowering: Lowering, pieces: Sequence[_Piece], axis: str) -> Dense | None:
    """One tensor with the same number before and after it, as padding; None where there is more."""
    (position, *others) = [k for k, piece in enumerate(pieces) if isinstance(piece.value, Dense)] or [-1]
    numbers = {piece.value.code for piece in pieces if isinstance(piece.value, Scalar)}
    if position < 0 or others or len(numbers) != 1:
        return None
    value, part = pieces[position].value, pieces[position].part
    if not isinstance(value, Dense) or part not in value.axes:
        return None
    zero = Extent.number(0)
    around = [sum((piece.count for piece in some), zero) for some in (pieces[:position], pieces[position + 1 :])]
    return _padded(lowering, value, str(part), axis, (around[0], around[1]), numbers.pop())


def _laid_out(lowering: Lowering, piece: _Piece, axis: str, axes: tuple[str, ...]) -> Dense:
    """A piece with all of ``axes``, its own part under the name of the joined one."""
    value, count = piece.value, piece.count.code(lowering.emitter.symbols)
    sizes = ", ".join(count if other == axis else lowering.emitter.extent_code(other) for other in axes)
    if isinstance(value, Scalar):
        return Dense(f"h[0].new_full(({sizes}{',' if len(axes) == 1 else ''}), {value.code})", axes)
    value = Dense(value.code, tuple(axis if other == piece.part else other for other in value.axes), value.precedence)
    if set(value.axes) == set(axes):
        return value.ordered(axes)
    if piece.part is None and {*value.axes, axis} == set(axes):
        ordered = value.ordered([other for other in axes if other != axis])
        return Dense(f"{ordered.atom}.unsqueeze({Dense('', axes).dim(axis)})", axes)
    return Dense(f"{value.aligned(axes).atom}.expand({sizes})", axes)
