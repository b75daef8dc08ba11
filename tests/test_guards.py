"""Choices select their gradients: derived, and in generated torch code."""

from __future__ import annotations

import numpy as np
import pytest

from guards import GUARDED, check_guarded, guarded_mode
from sparank_gen.backends.docs.page import slots_of
from sparank_gen.ir.derive import derive
from sparank_gen.ir.evaluate import evaluate, evaluate_at
from sparank_gen.ir.guard import guard
from test_random_programs import compiled

CASES = pytest.mark.parametrize("name", GUARDED)


@CASES
def test_derived_gradients_select(name: str) -> None:
    case = GUARDED[name]
    mode = guarded_mode(case)
    derived = derive(mode.program, slots_of(mode), ["out"])
    tensors = {"h": np.stack([[case.points], np.ones((1, len(case.points)))], 1), "out_bar": np.ones((1, len(case.points)))}
    sizes = {"dim": len(case.points), "modalities": 2, "batch": 1}
    root = derived["h_bar"].node
    values = evaluate([root], tensors, derived.extents, sizes)
    found = evaluate_at(root, slots_of(mode)["h"], values, derived.extents, sizes)
    np.testing.assert_allclose(found[0, 0], case.slopes, rtol=1e-9, atol=1e-12)


@CASES
def test_torch_gradients_select(name: str) -> None:
    made, _ = compiled(guarded_mode(GUARDED[name]))
    check_guarded(GUARDED[name], made(len(GUARDED[name].points), 2, backend="torch").double())


@pytest.mark.parametrize("name", ["root of a floor", "logarithm of a floor", "signed root", "length of nothing"])
def test_what_is_seen_to_be_finite_is_left_alone(name: str) -> None:
    program = guarded_mode(GUARDED[name]).program
    assert guard(program) == program


@CASES
def test_guards_are_put_once(name: str) -> None:
    once = guard(guarded_mode(GUARDED[name]).program)
    assert guard(once) == once
