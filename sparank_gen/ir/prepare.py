"""The passes that every mode goes through before code is made of it."""

from __future__ import annotations

from sparank_gen.ir.alike import computed_once
from sparank_gen.ir.conditions import join_conditions
from sparank_gen.ir.expand import expand_short_norms
from sparank_gen.ir.guard import guard
from sparank_gen.ir.merge import merge_contractions
from sparank_gen.ir.mode import Mode
from sparank_gen.ir.node import Program
from sparank_gen.ir.pairs import contract_in_pairs
from sparank_gen.ir.pool import pool_first
from sparank_gen.ir.restrict import restrict
from sparank_gen.ir.simplify import simplify
from sparank_gen.ir.sizes import usual_sizes


def prepared(mode: Mode) -> Program:
    """The program that code is made from."""
    return _passed(mode, join_conditions(guard(mode.program)))


def prepared_restricted(mode: Mode) -> Program:
    """The same among the modalities that are present, of features that are zero where they are absent."""
    return _passed(mode, join_conditions(restrict(guard(mode.program), selects=False)))


def _passed(mode: Mode, program: Program) -> Program:
    layouts = {parameter.layout.name: parameter.layout for module in mode.modules for parameter in module.parameters}
    sizes = usual_sizes(mode.spec.modalities.minimum, mode.spec.hyperparameters)
    once = contract_in_pairs(computed_once(expand_short_norms(program)), sizes)
    return simplify(pool_first(simplify(merge_contractions(once, layouts))))
