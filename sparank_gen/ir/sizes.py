"""How large tensors are: for one row of a batch, and in a layer of a usual width."""

from __future__ import annotations

from collections.abc import Iterable

from sparank_gen.ir.node import BATCH, Program
from sparank_gen.lang.extents import Extent
from sparank_gen.lang.widths import sizes_of, widest
from sparank_gen.spec.model import Hyperparameter

USUAL_WIDTH = 128


def elements(axes: frozenset[str], program: Program) -> Extent:
    """How many numbers a tensor with these axes has for one row of the batch."""
    total = Extent.number(1)
    for axis in sorted(axes - {BATCH}):
        total = total * widest(program.extents[axis])
    return total


def usual_sizes(n_modalities: int, hyperparameters: Iterable[Hyperparameter]) -> dict[str, int | float]:
    """The names in extents, for a layer of a usual width and the defaults."""
    sizes: dict[str, int | float] = {"dim": USUAL_WIDTH, "modalities": n_modalities, **sizes_of([USUAL_WIDTH] * n_modalities)}
    return sizes | {hyperparameter.name.value: hyperparameter.default for hyperparameter in hyperparameters}
