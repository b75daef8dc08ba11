"""What the template of a mode's documentation page lays out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from sparank_gen.backends.docs.latex import BAR, by_node, formulas, index_symbol, indexed
from sparank_gen.backends.tests.cases import width_near
from sparank_gen.ir import node as ir
from sparank_gen.ir.derive import ADJOINT, derive
from sparank_gen.ir.mode import Mode
from sparank_gen.ir.node import BATCH, Definition, Node, Program
from sparank_gen.ir.simplify import tidy
from sparank_gen.ir.views import FEATURES
from sparank_gen.lang.extents import largest
from sparank_gen.lang.ops import OPERATORS
from sparank_gen.plan.schedule import only_moves
from sparank_gen.plan.stages import whole_tiles

EXAMPLE_WIDTH = 64
# Those of parts that gradients share; the first one is the usual one.
LETTERS = "szvqyxrwpluktgfdcabmnijoeh"


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
    forward, adjoints = mode.program, adjoint_program(mode)
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


def adjoint_program(mode: Mode) -> Program | None:
    """The derived adjoints of the output, with what they share; None where there is nothing to derive."""
    if not mode.program.outputs or mode.out.name == FEATURES:
        return None
    derived = tidy(derive(mode.program, mode.slots, mode.program.outputs[:1]))
    barred = tuple(replace(d, name=d.name.removesuffix(ADJOINT) + BAR) for d in derived.definitions)
    known = by_node(mode.program.definitions)
    return replace(derived, definitions=with_shared(replace(derived, definitions=barred), known, _free_letter(mode)))


def _free_letter(mode: Mode) -> str:
    """A letter that means nothing in a mode, ``s`` where it can be."""
    program = mode.program
    taken = {*program.tensors, *program.extents, *(d.name for d in program.definitions), *(h.name.value for h in mode.spec.hyperparameters)}
    return next((letter for letter in LETTERS if letter not in taken), LETTERS[0])


def with_shared(program: Program, known: Mapping[Node, Definition], letter: str) -> tuple[Definition, ...]:
    """The definitions, and before the first use of each long expression that stands in several places, its own."""
    definitions = program.definitions
    named = set(known) | set(by_node(definitions))
    uses = Counter(definition.node for definition in definitions if definition.node not in named)
    for node in ir.reachable(definition.node for definition in definitions):
        uses.update(set(node.args))
    result: list[Definition] = []
    given: set[Node] = set()
    for definition in definitions:
        for node in ir.reachable([definition.node]):
            is_number = node.op in OPERATORS and OPERATORS[node.op].kind != "comparison"
            is_long = is_number and any(arg.args and arg not in known for arg in node.args)
            if uses[node] > 1 and is_long and node not in named and node not in given:
                given.add(node)
                axes = tuple(axis for axis in program.extents if axis in node.axes and axis != BATCH)
                result.append(Definition(f"{letter} {len(given)}", axes, node))
        result.append(definition)
    return tuple(result)
