"""Random programs: gradients in statements of their own against the derivative of the evaluator, in float64.

Every program has such statements here, whether or not they pay.
"""

from __future__ import annotations

import functools
from unittest.mock import patch

import numpy as np
import torch
from fuzzing import fuzzed
from hypothesis import currently_in_test_context, given, note
from hypothesis import strategies as st
from random_widths import random_widths

import sparank_fusion.runtime
from random_specs import random_specs
from sparank_gen.backends.tests.cases import rule
from sparank_gen.backends.tests.golden import laid_out
from sparank_gen.ir.check import check_spec
from sparank_gen.spec.load import parse_spec
from test_random_programs import close, compiled, filled, filled_layer, gradients_of_results, inputs, names


def check_gradients(text: str, dim: int, n_modalities: int, hidden: int, batch: int) -> None:
    """Compile a spec, and compare the output and its gradients with the evaluator."""
    mode = check_spec(parse_spec(text, "random.yaml"))
    with patch("sparank_gen.backends.torch.module.statements_pay", lambda *_: True):
        made, source = compiled(mode)
    if currently_in_test_context():
        note(source)
    case, layer, features = filled_layer(mode, made, dim, n_modalities, hidden, batch)
    sizes, found = case.sizes(batch), inputs(mode, case, batch)
    with patch.object(sparank_fusion.runtime, "LEAST_RECORDED", 1):
        out = layer(features)
    if mode.modules and mode.program.outputs:
        assert type(out.grad_fn).__name__ == "_DerivedBackward"
    wanted = {key: laid_out(mode, layout, found, sizes) for key, layout in names(mode).items()}
    close({"out": out}, lambda: {"out": laid_out(mode, mode.out, found, sizes)}, "own")
    cotangents = {key: np.zeros(array.shape) for key, array in wanted.items()} | {"out": rule("cotangent", tuple(out.shape))}
    learned = {**{f"features.{m}": x for m, x in enumerate(features)}, **dict(layer.named_parameters())}
    gradients = torch.autograd.grad(out, list(learned.values()), torch.from_numpy(cotangents["out"]), allow_unused=True)
    computed = functools.partial(gradients_of_results, mode, case, batch, cotangents)
    close(filled(gradients, learned), computed, "gradient of")


@fuzzed(150, share=2)
@given(
    text=random_specs(),
    dim=st.integers(1, 4),
    n_modalities=st.integers(2, 3),
    hidden=st.integers(1, 3),
    batch=st.integers(1, 3),
)
def test_random_gradients(text: str, dim: int, n_modalities: int, hidden: int, batch: int) -> None:
    torch.set_num_threads(1)
    note(text)
    check_gradients(text, dim, n_modalities, hidden, batch)


@fuzzed(50, share=4)
@given(
    text=random_widths(),
    dim=st.integers(1, 3),
    n_modalities=st.integers(2, 3),
    hidden=st.integers(1, 3),
    batch=st.integers(1, 3),
)
def test_random_widths(text: str, dim: int, n_modalities: int, hidden: int, batch: int) -> None:
    torch.set_num_threads(1)
    note(text)
    check_gradients(text, dim, n_modalities, hidden, batch)


def test_the_square_of_a_negative() -> None:
    """Two of them are no negative: a square has the same node twice."""
    check_gradients(
        """\
version: 1
mode: random
summary: A program.
modalities: ">=2"
axes: {i: dim, k: hidden}
hyperparameters: {hidden: {default: 3}}
params:
  stacked: {tensor: "v[k]", init: zeros}
math: |
  x[k]   = -v[k]
  y[k]   = x[k] * rsqrt(sum[k](x[k] ** 2) + 0.5)
  z[k]   = y[k] * rsqrt(sum[k](y[k] ** 2) + 0.5)
  out[i] = h[0,i] + sum[m,i](h[m,i]) * sum[k](z[k])
""",
        dim=2,
        n_modalities=2,
        hidden=2,
        batch=3,
    )
