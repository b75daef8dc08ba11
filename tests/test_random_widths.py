"""Random programs over modalities of different widths: torch code against the evaluator and its derivative.

Where modalities are missing, the evaluator runs the restricted program.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from fuzzing import fuzzed
from hypothesis import given, note
from hypothesis import strategies as st
from random_widths import random_widths

from sparank_gen.backends.tests.golden import laid_out
from sparank_gen.ir.check import FEATURES, PRESENT, check_spec
from sparank_gen.ir.evaluate import Pieces
from sparank_gen.ir.restrict import numbered, restrict
from sparank_gen.spec.load import parse_spec
from sparank_gen.trial.cases import Case, rule
from test_random_programs import (
    check_program,
    close,
    compiled,
    definition_order,
    feature,
    fill,
    filled,
    inputs,
    stored_gradients,
)


@fuzzed(100, share=4)
@given(
    text=random_widths(),
    dim=st.integers(1, 4),
    n_modalities=st.integers(2, 3),
    hidden=st.integers(1, 3),
    batch=st.integers(1, 3),
)
def test_random_widths(text: str, dim: int, n_modalities: int, hidden: int, batch: int) -> None:
    torch.set_num_threads(1)
    note(text)
    check_program(text, dim, n_modalities, hidden, batch)


@fuzzed(25, share=4)
@given(text=random_widths(may_number=False), dim=st.integers(1, 3), n_modalities=st.integers(2, 3), seed=st.integers(0, 9))
def test_random_widths_with_missing_modalities(text: str, dim: int, n_modalities: int, seed: int) -> None:
    torch.set_num_threads(1)
    note(text)
    check_missing(text, dim, n_modalities, seed)


def check_missing(text: str, dim: int, n_modalities: int, seed: int) -> None:
    """Compile a spec, and compare outputs, weights and all gradients where modalities are missing, absent features nan."""
    mode = check_spec(parse_spec(text, "random.yaml"))
    assert numbered(mode.program) is None
    case, batch = Case(tuple(dim + (1, 0, 2)[m] for m in range(n_modalities)), n_modalities, (("hidden", 2),)), 4
    layer = compiled(mode)[0](case.dim, n_modalities, hidden=2, backend="torch").double()
    fill(layer)
    present = np.random.default_rng(seed).random((batch, n_modalities)) < 0.6
    read = inputs(mode, case, batch)
    poisoned = [np.where(present[:, m, None], feature(m, batch, width), np.nan) for m, width in enumerate(case.dims)]
    given_features = [torch.from_numpy(x.copy()).requires_grad_() for x in poisoned]
    out, info = layer(given_features, return_gates=True, present=torch.from_numpy(present))
    sizes, found = case.sizes(batch), {**read, FEATURES: Pieces(1, tuple(poisoned)), PRESENT: present.T}
    results = [(out, mode.out), (info["weights"], mode.weights)]
    named = {str(layout): value for value, layout in results}
    close(named, lambda: {str(layout): laid_out(mode, layout, found, sizes, among_present=True) for _, layout in results}, "missing")
    cotangents, total = {}, torch.zeros((), dtype=torch.float64)
    for position, (value, layout) in enumerate(results):
        cotangent = rule(f"cotangent.{position}", tuple(value.shape))
        total = total + (value * torch.from_numpy(cotangent)).sum()
        cotangents[layout.name] = definition_order(cotangent, mode, layout, sizes)
    tensors = {**{f"features.{m}": x for m, x in enumerate(given_features)}, **dict(layer.named_parameters())}
    gradients = torch.autograd.grad(total, list(tensors.values()), allow_unused=True)
    computed = functools.partial(stored_gradients, mode, restrict(mode.program), case, batch, cotangents, found)
    close(filled(gradients, tensors), computed, "gradient of")


def test_a_cut_that_is_read_along_other_axes() -> None:
    """The axis that is cut has as many positions as the modality by whose name it is declared."""
    text = """\
version: 1
mode: cut
summary: A program.
modalities: ">=2"
axes: {t: modalities, i: "dim[m]", p: "dim[m] + 1", u: "dim[t]", k: hidden}
hyperparameters: {hidden: {default: 3}}
params:
  scale: {tensor: "s[k]", init: normal, std: 0.5}
math: |
  whole[m,p] = concat[p: i, 1](h[m,i], sum[i](h[m,i]))
  part[m,i] = whole[m,i + 1]
  out[k] = s[k] * sum[t,u](tanh(part[t,u]))
"""
    check_program(text, 2, 3, 2, 2)
