"""The sizes that generated tests run at, and inputs by a rule that no library version can change."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparank_gen.ir.mode import Mode
from sparank_gen.ir.parameters import state_key
from sparank_gen.ir.views import FEATURES
from sparank_gen.lang.extents import Extent

Array = NDArray[np.float64]

BATCH = 3
SMALLEST_DIM = 6
LARGEST_DIM = 256
LARGEST_OPTION = 5
PRIME = 10007


@dataclass(frozen=True)
class Case:
    """One set of sizes."""

    dim: int
    n_modalities: int
    options: tuple[tuple[str, int | float], ...]

    def sizes(self, batch: int) -> dict[str, int | float]:
        """The names that extents and numbers in the math are made of."""
        return {"dim": self.dim, "modalities": self.n_modalities, "batch": batch, **dict(self.options)}


def cases(mode: Mode) -> tuple[Case, ...]:
    """Sizes for one mode: small ones that its hyper-parameters allow, and one or two numbers of modalities."""
    count = mode.spec.modalities
    least = max(count.minimum, 2) if count.maximum is None or count.maximum > 1 else 1
    most = least if count.maximum is not None and count.maximum <= least else least + 1
    return tuple(_smallest(mode, n) for n in range(least, most + 1))


def _smallest(mode: Mode, n_modalities: int) -> Case:
    """A small width with hyper-parameters that are small too where the extents allow it, else with the defaults."""
    defaults = tuple((h.name.value, h.default) for h in mode.spec.hyperparameters)
    small = tuple(
        (h.name.value, min(h.default, max(LARGEST_OPTION, h.minimum or 0)) if h.type == "int" else h.default)
        for h in mode.spec.hyperparameters
    )
    for options in (small, defaults):
        for case in _fitting(mode, n_modalities, options):
            return case
    raise ValueError(f"mode {mode.name}: no dim below {LARGEST_DIM} fits its hyper-parameters")


def ragged_cases(mode: Mode) -> tuple[Case, ...]:
    """The same with as few sizes as can be that are powers of two, which fill the lanes of a kernel and need no mask."""

    def full_lanes(case: Case, extents: Iterable[Extent]) -> int:
        sizes = [extent.value(case.sizes(BATCH)) for extent in extents]
        return sum(size & (size - 1) == 0 for size in sizes)

    extents = mode.program.extents.values()
    of_any_width = [extent for extent in extents if "dim" not in extent.symbols]
    found = []
    for case in cases(mode):
        least = {h.name.value: h.minimum or 0 for h in mode.spec.hyperparameters}
        fewer = tuple(
            (name, x - 1 if isinstance(x, int) and x & (x - 1) == 0 and x - 1 >= max(3, least[name]) else x)
            for name, x in case.options
        )
        best, fewest = case, len(extents) + 1
        for fitting in _fitting(mode, case.n_modalities, fewer):
            full = full_lanes(fitting, extents)
            if full < fewest:
                best, fewest = fitting, full
            if full == full_lanes(fitting, of_any_width):
                break  # No other width has fewer.
        found.append(best)
    return tuple(found)


def _fitting(mode: Mode, n_modalities: int, options: tuple[tuple[str, int | float], ...]) -> Iterator[Case]:
    """The small widths that hyper-parameters allow, smallest first."""
    for dim in range(SMALLEST_DIM, LARGEST_DIM):
        case = Case(dim, n_modalities, options)
        try:
            for extent in mode.program.extents.values():
                extent.value(case.sizes(BATCH))
        except ValueError:
            continue
        yield case


def rule(key: str, shape: tuple[int, ...]) -> Array:
    """Numbers in [-1, 1) from a name and positions alone: integer arithmetic, then one division."""
    offset = sum((position + 1) * ord(character) for position, character in enumerate(key))
    count = int(np.prod(shape, dtype=np.int64))
    numbers = (np.arange(count, dtype=np.int64) * 7919 + offset * 104729) % PRIME
    return (numbers / PRIME * 2 - 1).reshape(shape)


def present_rule(n_modalities: int) -> NDArray[np.bool_]:
    """Which modalities each of ``BATCH`` samples has: all but the first, none, and the first alone."""
    later = np.arange(n_modalities) > 0
    return np.stack([later, np.zeros_like(later), ~later])


def stored_tensors(mode: Mode, case: Case) -> Iterator[tuple[str, str, int | None, tuple[int, ...]]]:
    """Every parameter tensor as it is stored: state-dict key, name in the math, modality, shape."""
    sizes = case.sizes(BATCH)
    for module in mode.modules:
        for parameter in module.parameters:
            shape = tuple(
                int(np.prod([mode.program.extents[axis].value(sizes) for axis in dimension]))
                for dimension in parameter.layout.without(module.per)
            )
            name = parameter.layout.name
            if module.per is None:
                yield state_key(module, parameter), name, None, shape
            else:
                for m in range(case.n_modalities):
                    yield state_key(module, parameter, str(m)), name, m, shape


def tensors(mode: Mode, case: Case, batch: int = BATCH) -> Mapping[str, Array]:
    """What the evaluator reads: features ``(batch, m, dim)``, and parameters with one dimension for each index."""
    sizes = case.sizes(batch)
    features = [rule(f"features.{m}", (batch, case.dim)) for m in range(case.n_modalities)]
    apart = [mode.program.extents[axis].value(sizes) for axis in mode.features.dimensions[-1]]
    found: dict[str, Array] = {FEATURES: np.stack(features, axis=1).reshape(batch, case.n_modalities, *apart)}
    parts: dict[str, list[Array]] = {}
    for key, name, _, shape in stored_tensors(mode, case):
        parts.setdefault(name, []).append(rule(key, shape))
    for module in mode.modules:
        for parameter in module.parameters:
            layout = parameter.layout
            inner = [mode.program.extents[a].value(sizes) for a in layout.axes if a != module.per]
            pieces = [part.reshape(inner) for part in parts[layout.name]]
            found[layout.name] = pieces[0] if module.per is None else np.stack(pieces, layout.axes.index(module.per))
    return found
