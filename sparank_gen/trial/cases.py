"""The sizes that generated tests run at, and inputs by a rule that no library version can change."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sparank_gen.ir.evaluate import Pieces
from sparank_gen.ir.mode import Mode
from sparank_gen.ir.node import reachable
from sparank_gen.ir.parameters import state_key
from sparank_gen.ir.views import FEATURES
from sparank_gen.lang.extents import Division, Extent
from sparank_gen.lang.widths import has_widths, owner_among, read_at, size_of, sizes_of, widest
from sparank_gen.spec import errors
from sparank_gen.spec.source import Span

Array = NDArray[np.float64]

BATCH = 3
WIDTHS = range(6, 256)
LARGEST_OPTION = 5
MOST_NUMBERS = 10_000_000
PRIME = 10007


@dataclass(frozen=True)
class Case:
    """One set of sizes; ``dim`` is one width, or one for each modality."""

    dim: int | tuple[int, ...]
    n_modalities: int
    options: tuple[tuple[str, int | float], ...]

    @property
    def dims(self) -> tuple[int, ...]:
        """The width of each modality."""
        return self.dim if isinstance(self.dim, tuple) else (self.dim,) * self.n_modalities

    @property
    def dim_code(self) -> str:
        """The argument of a layer's constructor."""
        return repr(list(self.dim) if isinstance(self.dim, tuple) else self.dim)

    def sizes(self, batch: int) -> dict[str, int | float]:
        """The names that extents and numbers in the math are made of."""
        one = {} if isinstance(self.dim, tuple) else {"dim": self.dim}
        return {**one, **sizes_of(self.dims), "modalities": self.n_modalities, "batch": batch, **dict(self.options)}


def cases(mode: Mode) -> tuple[Case, ...]:
    """Sizes for one mode: small ones that its hyper-parameters allow, and one or two numbers of modalities."""
    count = mode.spec.modalities
    least = max(count.minimum, 2) if count.maximum is None or count.maximum > 1 else 1
    most = least if count.maximum is not None and count.maximum <= least else least + 1
    found = tuple(_smallest(mode, n) for n in range(least, most + 1))
    return found if mode.one_width is not None or most == 1 else (*found, _differing(mode, found[-1]))


def _differing(mode: Mode, case: Case) -> Case:
    """The same sizes with widths that differ where enough of them fit, the first neither the least nor the most."""
    fitting = _fitting(mode, case.n_modalities, case.options)
    first, *others = itertools.islice(itertools.chain(fitting, itertools.repeat(case.dims[0])), case.n_modalities + 1)
    widths = [*others[:1], first, *others[1:]][: case.n_modalities]
    return replace(case, dim=tuple(widths))


def _smallest(mode: Mode, n_modalities: int) -> Case:
    """A small width with hyper-parameters that are small too where the extents allow it, else with the defaults."""
    defaults = tuple((h.name.value, h.default) for h in mode.spec.hyperparameters)
    small = tuple(
        (h.name.value, min(h.default, max(LARGEST_OPTION, h.minimum or 0)) if h.type == "int" else h.default)
        for h in mode.spec.hyperparameters
    )
    for options in (small, defaults):
        for dim in _fitting(mode, n_modalities, options):
            return Case(dim, n_modalities, options)
    raise _misfit(mode, Case(WIDTHS[0], n_modalities, defaults))


def width_near(wanted: int, mode: Mode, n_modalities: int) -> int:
    """The width next to ``wanted`` that fits a mode's extents with its default hyper-parameters, or ``wanted`` if none does."""
    defaults = tuple((h.name.value, h.default) for h in mode.spec.hyperparameters)
    return min(_fitting(mode, n_modalities, defaults), key=lambda dim: abs(dim - wanted), default=wanted)


def _misfit(mode: Mode, case: Case) -> errors.BadValue:
    """What to say where no small width fits: of an index that has no extent at any of them, if there is one."""
    remedy = "a width in that range has to fit, with the default hyper-parameters, as generated tests run at one"
    for name, extent in mode.program.extents.items():
        if not any(_fits([extent], (), replace(case, dim=dim)) for dim in WIDTHS):
            message = f"no width from {WIDTHS[0]} to {WIDTHS[-1]} makes the extent of {name!r} a whole number of at least 1"
            return errors.BadValue(message, _place(mode, name), remedy)
    message = f"no width from {WIDTHS[0]} to {WIDTHS[-1]} fits the extents of all indices together, and their divisions"
    return errors.BadValue(message, mode.spec.mode.span(), remedy)


def _place(mode: Mode, axis: str) -> Span:
    """Where a spec gives an index its extent, or the name of the mode where it does not."""
    return next((extent.span() for name, extent in mode.spec.axes if name.value == axis), mode.spec.mode.span())


def require_sizes(mode: Mode) -> None:
    """Raise a SpecError unless there are sizes at which generated tests can run and goldens can be computed."""
    for case in cases(mode):
        sizes = case.sizes(BATCH)
        counts = {axis: _count(widest(extent), sizes) for axis, extent in mode.program.extents.items()}
        for node in reachable(definition.node for definition in mode.program.definitions):
            numbers = math.prod(counts[axis] for axis in node.axes)
            if numbers > MOST_NUMBERS:
                message = f"over {', '.join(sorted(node.axes))} there are {numbers:,} numbers, at the smallest sizes that the spec allows"
                remedy = f"generated tests hold at most {MOST_NUMBERS:,}; a hyper-parameter as an extent can be small in them"
                raise errors.BadValue(message, _place(mode, max(node.axes, key=lambda axis: counts[axis])), remedy)


def ragged_cases(mode: Mode) -> tuple[Case, ...]:
    """The same with as few sizes as can be that are powers of two, which fill the lanes of a kernel and need no mask."""

    def full_lanes(case: Case, extents: Iterable[Extent]) -> int:
        sizes = [extent.value(case.sizes(BATCH)) for extent in extents]
        return sum(size & (size - 1) == 0 for size in sizes)

    extents = [widest(extent) for extent in mode.program.extents.values()]
    of_any_width = [extent for extent in extents if "dim" not in extent.symbols and not has_widths([extent])]
    found = []
    for case in cases(mode):
        least = {h.name.value: h.minimum or 0 for h in mode.spec.hyperparameters}
        fewer = tuple(
            (name, x - 1 if isinstance(x, int) and x & (x - 1) == 0 and x - 1 >= max(3, least[name]) else x)
            for name, x in case.options
        )
        best, fewest = case, len(extents) + 1
        for dim in _fitting(mode, case.n_modalities, fewer):
            fitting = Case(dim, case.n_modalities, fewer)
            full = full_lanes(fitting, extents)
            if full < fewest:
                best, fewest = fitting, full
            if full == full_lanes(fitting, of_any_width):
                break  # No other width has fewer.
        found.append(_differing(mode, best) if isinstance(case.dim, tuple) else best)
    return tuple(found)


def _fitting(mode: Mode, n_modalities: int, options: tuple[tuple[str, int | float], ...]) -> Iterator[int]:
    """The small widths that hyper-parameters allow, smallest first."""
    extents = mode.program.extents.values()
    return (dim for dim in WIDTHS if _fits(extents, mode.divisions, Case(dim, n_modalities, options)))


def _fits(extents: Iterable[Extent], divisions: Iterable[Division], case: Case) -> bool:
    """Whether the extents are whole numbers of at least 1, and all divisions come out."""
    sizes = case.sizes(BATCH)
    try:
        for division in divisions:
            if widest(division.whole).number_for(sizes) % widest(division.part).value(sizes):
                return False
        for extent in extents:
            widest(extent).value(sizes)
    except ValueError:
        return False
    return True


def rule(key: str, shape: tuple[int, ...]) -> Array:
    """Numbers in [-1, 1) from a name and positions alone: integer arithmetic, then one division.

    Cubes, which are all different modulo this prime: differences of evenly spaced numbers would be the same everywhere.
    """
    offset = sum((position + 1) * ord(character) for position, character in enumerate(key))
    count = int(np.prod(shape, dtype=np.int64))
    numbers = (np.arange(count, dtype=np.int64) * 7919 + offset * 104729) % PRIME
    return (numbers**3 % PRIME / PRIME * 2 - 1).reshape(shape)


def present_rule(n_modalities: int) -> NDArray[np.bool_]:
    """Which modalities each of ``BATCH`` samples has: all but the first, none, and the first alone."""
    later = np.arange(n_modalities) > 0
    return np.stack([later, np.zeros_like(later), ~later])


def stored_tensors(mode: Mode, case: Case) -> Iterator[tuple[str, str, int | None, tuple[int, ...]]]:
    """Every parameter tensor as it is stored: state-dict key, name in the math, modality, shape."""
    sizes = case.sizes(BATCH)
    for module in mode.modules:
        for parameter in module.parameters:
            name, dimensions = parameter.layout.name, parameter.layout.without(module.per)
            extents = [size_of(dimension, mode.program.extents) for dimension in dimensions]
            if module.per is None:
                yield state_key(module, parameter), name, None, tuple(extent.value(sizes) for extent in extents)
                continue
            for m in range(case.n_modalities):
                shape = tuple(read_at(extent, {module.per: m}).value(sizes) for extent in extents)
                yield state_key(module, parameter, str(m)), name, m, shape


def tensors(mode: Mode, case: Case, batch: int = BATCH) -> dict[str, Array | Pieces]:
    """What the evaluator reads: features ``(batch, m, dim)``, and parameters with one dimension for each index.

    What has another size for each modality comes in pieces.
    """
    parts: dict[str, list[Array]] = {}
    for key, name, _, shape in stored_tensors(mode, case):
        parts.setdefault(name, []).append(rule(key, shape))
    extents, sizes = mode.program.extents, case.sizes(batch)
    modality, rows, own = mode.features.dimensions
    features = [rule(f"features.{m}", (batch, width)) for m, width in enumerate(case.dims)]
    found = {FEATURES: indexed(features, (rows, own), (*rows, *modality, *own), modality[0], extents, sizes)}
    for module in mode.modules:
        for parameter in module.parameters:
            layout = parameter.layout
            dimensions = layout.without(module.per)
            found[layout.name] = indexed(parts[layout.name], dimensions, layout.axes, module.per, extents, sizes)
    return found


def indexed(
    stored: Sequence[Array],
    dimensions: Sequence[tuple[str, ...]],
    indices: tuple[str, ...],
    per: str | None,
    extents: Mapping[str, Extent],
    sizes: Mapping[str, int | float],
) -> Array | Pieces:
    """Stored arrays, one or one for each index of ``per``, as one with a dimension for each of ``indices``."""
    owner = owner_among(indices, extents)
    if owner is None or owner == per:
        inner = [axis for axis in indices if axis != per]
        found = []
        for m, array in enumerate(stored):
            moves = {per: m} if per is not None else {}
            found.append(array.reshape([_count(read_at(extents[axis], moves), sizes) for axis in inner]))
        if per is None:
            return found[0]
        return np.stack(found, indices.index(per)) if owner is None else Pieces(indices.index(per), tuple(found))
    place = next(place for place, dimension in enumerate(dimensions) if owner in dimension)
    before, after = _split_at(dimensions[place], owner)
    each = [read_at(size_of(after, extents), {owner: m}).value(sizes) for m in range(int(sizes["modalities"]))]
    rest = tuple(axis for axis in indices if axis != owner)
    apart = [_taken_apart(array, place, [extents[axis].value(sizes) for axis in before], each) for array in stored]
    pieces = []
    for m, parts in enumerate(zip(*apart, strict=True)):
        own = {axis: read_at(extents[axis], {owner: m}) for axis in rest}
        pieces.append(indexed(parts, (), rest, per, own, sizes))
    return Pieces(indices.index(owner), tuple(piece for piece in pieces if not isinstance(piece, Pieces)))


def _taken_apart(array: Array, place: int, before: Sequence[int], sizes: Sequence[int]) -> list[Array]:
    """The pieces of these sizes that one dimension joins, after what comes before them in it."""
    whole = array.reshape((*array.shape[:place], *before, sum(sizes), *array.shape[place + 1 :]))
    return np.split(whole, np.cumsum(sizes)[:-1], place + len(before))


def _split_at(axes: tuple[str, ...], axis: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The axes before and after one of them."""
    position = axes.index(axis)
    return axes[:position], axes[position + 1 :]


def _count(extent: Extent, sizes: Mapping[str, int | float]) -> int:
    return int(sizes["batch"]) if extent.symbols == {"batch"} else extent.value(sizes)
