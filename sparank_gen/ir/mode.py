"""A checked mode: the graph of its math, its modules, and the layouts of what it returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sparank_gen.ir.node import Node, Program
from sparank_gen.lang.extents import Division, Extent
from sparank_gen.lang.layouts import Layout
from sparank_gen.lang.modules import Module
from sparank_gen.spec.model import FusionSpec


@dataclass(frozen=True)
class Property:
    """A comparison that holds for every input; ``source`` is how the spec writes it."""

    source: str
    relation: str
    left: Node
    right: Node


@dataclass(frozen=True)
class Mode:
    """Everything that is known of one fusion mode.

    Attributes:
        spec: the file it came from.
        program: its definitions; the features are the leaf ``h``.
        modules: the torch modules that hold its parameters, in the order of construction.
        features: the layout of the features, one tensor for each modality: ``(modality, b, …)``.
        out: the layout of the output, ``b`` first and one dimension more.
        weights: the layout of the fusion weights, or None.
        divisions: what must come out for given sizes.
        known: fixed values of extents (the number of modalities of a mode for exactly two).
        properties: what the generated tests assert.
    """

    spec: FusionSpec
    program: Program
    modules: tuple[Module, ...]
    features: Layout
    out: Layout
    weights: Layout | None
    divisions: tuple[Division, ...]
    known: Mapping[str, int]
    properties: tuple[Property, ...]

    @property
    def name(self) -> str:
        return self.spec.mode.value

    @property
    def out_extent(self) -> Extent:
        """The extent of the output's feature dimension."""
        total = Extent.number(1)
        for axis in self.out.dimensions[1]:
            total = total * self.program.extents[axis]
        return total
