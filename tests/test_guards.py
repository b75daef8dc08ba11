"""Choices select their gradients: derived, and in generated torch code."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from guards import GUARDED, check_guarded, guarded_mode
from sparank_gen.ir import node as ir
from sparank_gen.ir.check import check_spec
from sparank_gen.ir.derive import derive
from sparank_gen.ir.evaluate import evaluate, evaluate_at
from sparank_gen.ir.guard import guard
from sparank_gen.spec.load import parse_spec
from test_random_programs import check_program, compiled

CASES = pytest.mark.parametrize("name", GUARDED)


@CASES
def test_derived_gradients_select(name: str) -> None:
    case = GUARDED[name]
    mode = guarded_mode(case)
    derived = derive(mode.program, mode.slots, ["out"])
    tensors = {"h": np.stack([[case.points], np.ones((1, len(case.points)))], 1), "out_bar": np.ones((1, len(case.points)))}
    sizes = {"dim": len(case.points), "modalities": 2, "batch": 1}
    root = derived["h_bar"].node
    values = evaluate([root], tensors, derived.extents, sizes)
    found = evaluate_at(root, mode.slots["h"], values, derived.extents, sizes)
    np.testing.assert_allclose(found[0, 0], case.slopes, rtol=1e-9, atol=1e-12)


@CASES
def test_torch_gradients_select(name: str) -> None:
    made, _ = compiled(guarded_mode(GUARDED[name]))
    check_guarded(GUARDED[name], made(len(GUARDED[name].points), 2, backend="torch").double())


@pytest.mark.parametrize("name", ["root of a floor", "logarithm of a floor", "signed root", "length of nothing"])
def test_what_is_seen_to_be_finite_is_left_alone(name: str) -> None:
    program = guarded_mode(GUARDED[name]).program
    assert guard(program) == program


def test_what_has_fewer_axes_than_the_choice_is_computed_no_more_often() -> None:
    program = guard(guarded_mode(GUARDED["of one thing for all"]).program)
    roots = [node for node in ir.reachable([program["out"].node]) if node.op == "sqrt"]
    assert [node.axes for node in roots] == [frozenset({"b"})]
    assert roots[0].args[0].op == "where"


def test_a_choice_at_one_modality_does_not_reach_to_widths_of_others() -> None:
    """Of what is below, the gradient at the one modality is what choices leave of it."""
    math = "z[m,i] = exp(h[m,i])\n  y[a] = where(h[0,a] < 5, z[0,a], 1)\n  out[a] = y[a] * sum[m,i](h[m,i])"
    axes = "axes: {i: 'dim[m]', a: 'dim[0]'}"
    mode = check_spec(parse_spec(f"version: 1\nmode: wide\nsummary: s\nmodalities: 2\n{axes}\nmath: |\n  {math}\n", "g.yaml"))
    made, _ = compiled(mode)
    features = [torch.full((1, width), 2.0, dtype=torch.float64, requires_grad=True) for width in (3, 4)]
    made((3, 4), 2, backend="torch").double()(features).sum().backward()
    e = torch.tensor(2.0, dtype=torch.float64).exp()
    torch.testing.assert_close(features[0].grad, torch.full_like(features[0], float(e * 14 + 3 * e)))
    torch.testing.assert_close(features[1].grad, torch.full_like(features[1], float(3 * e)))


@CASES
def test_guards_are_put_once(name: str) -> None:
    once = guard(guarded_mode(GUARDED[name]).program)
    assert guard(once) == once


def rounds(count: int) -> str:
    """One guarded step after another."""
    steps = [f"c{k}[i] = c{k - 1}[i] / (1 + sqrt(max(1 - sum[i](c{k - 1}[i] ** 2), 1e-5)))" for k in range(1, count + 1)]
    lines = ["c0[i] = sum[m](exp(h[m,i]) * h[m,i]) / sum[m](exp(h[m,i]))", *steps, f"out[i] = c{count}[i]"]
    head = 'version: 1\nmode: rounds\nsummary: s\nmodalities: ">=2"\naxes: {i: dim}\nmath: |\n'
    return head + "".join(f"  {line}\n" for line in lines)


def test_steps_one_after_another_are_computed_once() -> None:
    def size(count: int) -> int:
        program = guard(check_spec(parse_spec(rounds(count), "rounds.yaml")).program)
        return len(list(ir.reachable(definition.node for definition in program.definitions)))

    assert size(9) - size(6) == size(6) - size(3)
    check_program(rounds(3), dim=3, n_modalities=2, hidden=1, batch=4)


SCALED = """version: 1
mode: scaled
summary: s
modalities: ">=2"
axes: {i: dim}
hyperparameters: {scale: {type: float, default: 1.0, help: a factor}}
math: |
  out[i] = sum[m](where(abs(h[m,i]) < 3, exp(-(h[m,i] ** 2 * scale)), 0))
"""


def test_a_hyperparameter_may_be_negative() -> None:
    """Where nothing says that it is above zero, an exponential with it may overflow in a branch that is not taken."""
    made, _ = compiled(check_spec(parse_spec(SCALED, "g.yaml")))
    features = [torch.full((1, 4), 40.0, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    made(4, 2, backend="torch", scale=-1.0)(features).sum().backward()
    assert all(feature.grad is not None and not feature.grad.any() for feature in features)


@pytest.mark.parametrize(("minimum", "guarded"), [("", True), (", minimum: 0.0", False), (", minimum: -1.0", True)])
def test_the_least_value_of_a_hyperparameter_is_known(minimum: str, guarded: bool) -> None:
    program = check_spec(parse_spec(SCALED.replace("1.0", f"1.0{minimum}"), "g.yaml")).program
    assert (guard(program) != program) is guarded
