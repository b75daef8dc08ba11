"""What the template of a mode's documentation page lays out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from sparank_gen.backends.docs.latex import SHARED, equation
from sparank_gen.backends.tests.cases import width_near
from sparank_gen.ir import node as ir
from sparank_gen.ir.derive import derive
from sparank_gen.ir.mode import Mode
from sparank_gen.ir.node import BATCH, Definition, Node, Program
from sparank_gen.ir.simplify import tidy
from sparank_gen.ir.views import FEATURES
from sparank_gen.lang.extents import largest
from sparank_gen.lang.ops import OPERATORS
from sparank_gen.plan.schedule import only_moves
from sparank_gen.plan.stages import whole_tiles

EXAMPLE_WIDTH = 64


@dataclass(frozen=True)
class Page:
    """What a mode's page says.

    Attributes:
        modalities, width: of the layer that is its example.
        formulas, adjoints: equations of the mode and of its derived gradients.
        axes: each index with its extent.
        out, weights, diagnostics: the layouts of what it returns.
        held: how many numbers of a row a kernel must hold.
        only_moves: whether it computes nothing.
    """

    modalities: int
    width: int
    formulas: tuple[str, ...]
    adjoints: tuple[str, ...]
    axes: tuple[tuple[str, str], ...]
    out: str
    weights: str | None
    diagnostics: tuple[tuple[str, str], ...]
    held: str
    only_moves: bool


def mode_page(mode: Mode) -> Page:
    """The page of a mode."""
    forward = mode.program
    names: dict[Node, Definition] = {d.node: d for d in forward.definitions}
    modalities = max(mode.spec.modalities.minimum, 2)
    return Page(
        modalities=modalities,
        width=width_near(EXAMPLE_WIDTH, mode, modalities),
        formulas=tuple(equation(forward, definition, names) for definition in forward.definitions),
        adjoints=adjoints(mode, names),
        axes=tuple((axis, str(extent)) for axis, extent in forward.extents.items() if axis != BATCH),
        out=str(mode.out),
        weights=str(mode.weights) if mode.weights else None,
        diagnostics=tuple((diagnostic.key, str(diagnostic.layout)) for diagnostic in mode.diagnostics),
        held=largest(whole_tiles(forward), {}),
        only_moves=only_moves(forward),
    )


def adjoints(mode: Mode, forward: dict[Node, Definition]) -> tuple[str, ...]:
    """The equations of the derived adjoints of the output."""
    if not mode.program.outputs or mode.out.name == FEATURES:
        return ()
    derived = tidy(derive(mode.program, mode.slots, mode.program.outputs[:1]))
    definitions = with_shared(derived, forward)
    names = dict(forward) | {definition.node: definition for definition in definitions}
    return tuple(equation(derived, definition, names) for definition in definitions)


def with_shared(program: Program, known: dict[Node, Definition]) -> tuple[Definition, ...]:
    """The definitions, and before the first use of each long expression that stands in several places, its own."""
    definitions = program.definitions
    named = set(known) | {definition.node for definition in definitions}
    uses: Counter[Node] = Counter()
    for node in ir.reachable(definition.node for definition in definitions):
        uses.update(set(node.args))
    result: list[Definition] = []
    given: set[Node] = set()
    for definition in definitions:
        for node in ir.reachable([definition.node]):
            is_long = node.op in OPERATORS and len([arg for arg in node.args if arg.args and arg not in known]) > 0
            if uses[node] > 1 and is_long and node not in named and node not in given:
                given.add(node)
                axes = tuple(axis for axis in program.extents if axis in node.axes and axis != BATCH)
                result.append(Definition(f"s{SHARED}{len(given)}", axes, node))
        result.append(definition)
    return tuple(result)
