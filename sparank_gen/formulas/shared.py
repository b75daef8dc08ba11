"""Equations that a reader can take in: long expressions that stand in several places are written once, under a name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from sparank_gen.formulas.latex import BAR, by_node
from sparank_gen.ir import node as ir
from sparank_gen.ir.derive import ADJOINT, derive
from sparank_gen.ir.mode import Mode
from sparank_gen.ir.node import BATCH, Definition, Node, Program
from sparank_gen.ir.simplify import tidy
from sparank_gen.ir.text import written_size
from sparank_gen.ir.views import FEATURES
from sparank_gen.lang.ops import OPERATORS

# The parts of the longest equation that is written out as the spec has it: about a dozen lines.
LONGEST_EQUATION = 300
# Those of shared parts; the first one is the usual one.
LETTERS = "szvqyxrwpluktgfdcabmnijoeh"


def formula_program(mode: Mode) -> Program:
    """The math of a mode as its spec has it; with what is shared by itself where calls of functions make it too long."""
    program = mode.program
    names = by_node(program.definitions)
    if all(written_size(definition.node, names) <= LONGEST_EQUATION for definition in program.definitions):
        return program
    return replace(program, definitions=with_shared(program, {}, _free_letter(mode)))


def adjoint_program(mode: Mode) -> Program | None:
    """The derived adjoints of the output, with what they share; None where there is nothing to derive."""
    if not mode.program.outputs or mode.out.name == FEATURES:
        return None
    derived = tidy(derive(mode.program, mode.slots, mode.program.outputs[:1]))
    barred = tuple(replace(d, name=d.name.removesuffix(ADJOINT) + BAR) for d in derived.definitions)
    known = by_node(formula_program(mode).definitions)
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
        uses.update(node.args)
    result: list[Definition] = []
    before = sum(definition.name.startswith(f"{letter} ") for definition in known.values())
    given: set[Node] = set()
    for definition in definitions:
        for node in ir.reachable([definition.node]):
            is_number = node.op in OPERATORS and OPERATORS[node.op].kind != "comparison"
            is_long = is_number and any(arg.args and arg not in known for arg in node.args)
            if uses[node] > 1 and is_long and node not in named and node not in given:
                given.add(node)
                axes = tuple(axis for axis in program.extents if axis in node.axes and axis != BATCH)
                result.append(Definition(f"{letter} {before + len(given)}", axes, node))
        result.append(definition)
    return tuple(result)
