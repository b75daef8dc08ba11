"""What the template of a mode's documentation page lays out."""

from __future__ import annotations

from dataclasses import dataclass

from sparank_gen.formulas.latex import formulas, index_symbol, indexed
from sparank_gen.formulas.shared import adjoint_program, formula_program
from sparank_gen.ir.mode import Mode
from sparank_gen.ir.node import BATCH
from sparank_gen.ir.views import FEATURES
from sparank_gen.lang.extents import largest
from sparank_gen.plan.schedule import only_moves
from sparank_gen.plan.stages import whole_tiles
from sparank_gen.trial.cases import width_near

EXAMPLE_WIDTH = 64


@dataclass(frozen=True)
class Page:
    """What a mode's page says.

    Attributes:
        modalities, width: of the layer that is its example.
        formulas, adjoints: equations of the mode and of its derived gradients.
        features: the features with their indices.
        axes: each index with its extent.
        out, weights, diagnostics: the layouts of what it returns.
        held: how many numbers of a row a kernel must hold.
        only_moves: whether it computes nothing.
    """

    modalities: int
    width: int
    formulas: tuple[str, ...]
    adjoints: tuple[str, ...]
    features: str
    axes: tuple[tuple[str, str], ...]
    out: str
    weights: str | None
    diagnostics: tuple[tuple[str, str], ...]
    held: str
    only_moves: bool


def mode_page(mode: Mode) -> Page:
    """The page of a mode."""
    forward, adjoints = formula_program(mode), adjoint_program(mode)
    modalities = max(mode.spec.modalities.minimum, 2)
    return Page(
        modalities=modalities,
        width=width_near(EXAMPLE_WIDTH, mode, modalities),
        formulas=formulas(forward),
        adjoints=formulas(adjoints, forward.definitions) if adjoints else (),
        features=indexed(FEATURES, [index_symbol(axis) for axis in mode.features.axes if axis != BATCH]),
        axes=tuple((axis, str(extent)) for axis, extent in forward.extents.items() if axis != BATCH),
        out=str(mode.out),
        weights=str(mode.weights) if mode.weights else None,
        diagnostics=tuple((diagnostic.key, str(diagnostic.layout)) for diagnostic in mode.diagnostics),
        held=largest(whole_tiles(forward), {}),
        only_moves=only_moves(forward),
    )
