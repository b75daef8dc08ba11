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
from sparank_gen.backends.tests.golden import laid_out
from sparank_gen.ir.check import check_spec
from sparank_gen.spec.load import parse_spec
from sparank_gen.trial.cases import rule
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


# One of the sums in its gradients is over the batch, of two that have one other axis each: no dot products in each row.
OVER_THE_BATCH = """\
version: 1
mode: random
summary: A random program.
modalities: '>=2'
axes: {t: modalities, u: modalities, i: dim, j: dim, k: hidden, e: 1, f: dim + 1, s: 2 * dim}
hyperparameters: {hidden: {default: 3}}
params:
  listed: {tensor: 'Wo[m,j,k]', per: m, init: kaiming_uniform, fan: {in: k}}
  plus: {module: Linear, weight: 'Wp[f,j]', bias: 'co[f]'}
  one: {module: Linear, weight: 'Wk[e,j]', bias: 'cn[e]'}
functions:
  unit[i](x[i], eps=0.5): |
    square = sum[i](x[i] ** 2)
    x[i] * rsqrt(square + eps)
  meet[m,u](x[m]): mean[u](tanh(x[m] * x[u]))
math: |
  v0 = (max((cn[0]), ((sum[j,s]((layernorm[s](unit[j](sum[k,u]((tanh(sum[m](h[m,j])) * tanh(sum[m,i](Wo[m,i,k])) * concat[s: i, j](tanh(sum[m](h[m,i])), tanh(sum[m](h[m,j]))) * tanh(sum[i](h[u,i]))) * (Wo[u,j,k]))))) * ((softmax[j,s](exp(tanh((tanh(sum[m](h[m,j])) * concat[s: i, j](tanh(sum[m](h[m,i])), tanh(sum[m](h[m,j]))))))) * 0.5))) + cn[0]))))
  v1[j,k,m] = Wo[m,j,k]
  v2[f] = concat[f: i, 1](cn[0], cn[0])
  v3 = cn[0]
  out[i] = v2[i + 1] + tanh(sum[f](co[f])) + tanh(v0) + tanh(sum[k,m](v1[i,k,m])) + tanh(v3) + tanh(sum[m,j](h[m,j] * h[m,j]))
  w[m] = meet[m,t](meet[m,t](sum[e,f]((meet[m,t](tanh(sum[i](Wk[e,i])) * tanh(sum[i](Wp[f,i])) * tanh(sum[i](h[m,i])))) * (meet[m,t](tanh(sum[i](Wk[e,i])) * tanh(sum[i](Wp[f,i])) * tanh(sum[i](h[m,i])))) * (softmax[e](tanh(sum[i](Wk[e,i])) * tanh(sum[i](h[m,i]))))))) + tanh(sum[u,j](h[u,j] * h[u,j]))
out: 'out[b,i]'
weights: 'w[b,m]'
"""


def test_sums_over_the_batch_are_no_dot_products_of_rows() -> None:
    check_gradients(OVER_THE_BATCH, dim=1, n_modalities=2, hidden=1, batch=1)
    check_gradients(OVER_THE_BATCH, dim=2, n_modalities=3, hidden=2, batch=3)


def test_a_parameter_that_is_called_like_what_a_gradient_is_the_gradient_of() -> None:
    """The gradient through an operator is not that of a parameter called operand, nor one of its modalities'."""
    text = """\
version: 1
mode: operands
summary: Softmax gates, and a parameter called operand.
modalities: ">=2"
axes: {i: dim, j: dim}
params:
  gate_projs: {module: Linear, per: m, weight: "operand[m,i,j]", bias: "c[m,i]"}
math: |
  logit[m,i] = sum[j](operand[m,i,j] * h[m,j]) + c[m,i]
  g[m,i]     = softmax[m](logit[m,i])
  out[i]     = tanh(sum[m](g[m,i] * h[m,i]))
weights: "g[m,b,i]"
"""
    check_gradients(text, 4, 2, 3, 3)


def test_a_piece_of_a_stack_that_is_the_same_along_an_axis() -> None:
    """The gradient of the first modality is one number for each row along its width, which is not that of the second."""
    text = """\
version: 1
mode: pieces
summary: Two modalities of their own widths.
modalities: ">=2"
axes: {t: modalities, i: "dim[m]", u: "dim[t]", a: "dim[0]", c: "dim[1]", q: "dim[1] + 1"}
params:
  w: {tensor: "w[m]", per: m, init: normal, std: 1}
math: |
  x[q]     = concat[q: c, 1](tanh(h[1,c]), 0.5)
  s[m]     = tanh(sum[i](h[m,i]))
  v[q]     = softmax[q](mean[m](softmax[m](s[m]) * sqrt((s[m] * x[q]) ** 2 + 0.1)))
  out[m,i] = w[m] * h[m,i] * sum[t,u](h[t,u]) + tanh(sum[q](v[q] ** 2)) + tanh(sum[a](h[0,a]))
out: "out[b,(m i)]"
"""
    check_gradients(text, 2, 2, 3, 1)


def test_what_is_compared_with_the_smallest_is_what_that_was_found_of() -> None:
    """Computed again for one modality it rounds otherwise, and would equal it no more: its gradient would be lost."""
    text = """\
version: 1
mode: smallest
summary: The smallest of numbers that may be computed in more ways than one.
modalities: ">=2"
axes: {t: modalities, u: modalities, i: dim}
params:
  w: {tensor: "w[i]", init: normal, std: 1}
math: |
  out[m,i] = w[i] + sum[t](min[u](where(S <= 2, sum[t](P * P * h[t,i]), S)) * h[t,i] * softmax[t](h[t,i]))
out: "out[b,(m i)]"
"""
    own, other = "tanh(sum[i](h[t,i]))", "tanh(sum[i](h[u,i]))"
    text = text.replace("P", f"(tanh(sum[m](h[m,i])) * tanh(sum[i](h[m,i])) * {own} * {other})").replace("S", f"{own} * {other} / 2")
    check_gradients(text, 1, 2, 1, 1)


def test_widths_and_weights_along_another_axis() -> None:
    """A list of tensors of a size for each modality meets the list of weights along another axis as one tensor for each of its own."""
    text = """\
version: 1
mode: weighed
summary: A program.
modalities: ">=2"
axes: {t: modalities, i: "dim[m]", a: "dim[0]", k: hidden}
hyperparameters: {hidden: {default: 3}}
params:
  scales: {tensor: "s[k]", init: normal, std: 1}
  gates: {tensor: "c[m,k]", per: m, init: normal, std: 1}
math: |
  x[m,i,k] = tanh(s[k] * h[m,i])
  y[m,i,t] = sum[k](x[m,i,k] * c[t,k])
  out[a] = h[0,a] + sum[m,i](max[t](y[m,i,t]) * h[m,i])
"""
    check_gradients(text, dim=3, n_modalities=2, hidden=3, batch=2)
    check_gradients(text, dim=2, n_modalities=3, hidden=1, batch=1)
