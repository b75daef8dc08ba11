"""A checked mode: the graph of its math, its modules, and the layouts of what it returns."""

from __future__ import annotations

from dataclasses import dataclass

from sparank_gen.ir.node import BATCH, Node, Program
from sparank_gen.ir.parameters import Holder
from sparank_gen.ir.views import FEATURES
from sparank_gen.lang.extents import Division, Extent
from sparank_gen.lang.layouts import Layout
from sparank_gen.lang.widths import ONE_WIDTH, size_of
from sparank_gen.spec.model import FusionSpec


@dataclass(frozen=True)
class Property:
    """A comparison that holds for every input; ``source`` is how the spec writes it."""

    source: str
    relation: str
    left: Node
    right: Node


@dataclass(frozen=True)
class Result:
    """Something that a mode returns: ``out``, or an entry of the dictionary of ``return_gates``, and its layout."""

    key: str
    layout: Layout


@dataclass(frozen=True)
class Mode:
    """Everything that is known of one fusion mode.

    Attributes:
        spec: the file it came from.
        program: its definitions; the features are the leaf ``h``.
        modules: what holds its parameters, in the order of construction.
        features: the layout of the features, one tensor for each modality: ``(modality, b, …)``.
        out: the layout of the output, ``b`` first and one dimension more.
        weights: the layout of the fusion weights, or None.
        diagnostics: what it returns beside them.
        divisions: what must come out for given sizes.
        uncertain: the axes whose extent is below 1 for some sizes and hyper-parameters that are allowed each by itself.
        properties: what the generated tests assert.
    """

    spec: FusionSpec
    program: Program
    modules: tuple[Holder, ...]
    features: Layout
    out: Layout
    weights: Layout | None
    diagnostics: tuple[Result, ...]
    divisions: tuple[Division, ...]
    uncertain: tuple[str, ...]
    properties: tuple[Property, ...]

    @property
    def name(self) -> str:
        return self.spec.mode.value

    @property
    def extras(self) -> tuple[Result, ...]:
        """What it returns beside its output, where it is asked to."""
        weights = (Result("weights", self.weights),) if self.weights is not None else ()
        return (*weights, *self.diagnostics)

    @property
    def results(self) -> tuple[Result, ...]:
        """Everything it returns, the output first."""
        return (Result("out", self.out), *self.extras)

    @property
    def slots(self) -> dict[str, tuple[str, ...]]:
        """The axes that name the dimensions of each tensor: the features, and every parameter."""
        slots = {FEATURES: (BATCH, *(axis for axis in self.features.axes if axis != BATCH))}
        return slots | {p.layout.name: p.layout.axes for module in self.modules for p in module.parameters}

    @property
    def out_extent(self) -> Extent:
        """The extent of the output's feature dimension."""
        return size_of(self.out.dimensions[1], self.program.extents)

    @property
    def one_width(self) -> str | None:
        """The index that needs all modalities to have one width, ``dim``; None where each may have its own."""
        extents, one = self.program.extents, Extent.symbol(ONE_WIDTH)
        whole = [axis for axis, extent in extents.items() if extent == one]
        return next(iter([*whole, *(axis for axis, extent in extents.items() if ONE_WIDTH in extent.symbols)]), None)
