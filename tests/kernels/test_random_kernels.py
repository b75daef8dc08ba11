"""Random programs: generated kernels, in the interpreter, against the reference evaluator and its derivative.

``FUZZ_EXAMPLES`` sets how many are drawn.
"""

from __future__ import annotations

import pytest
import torch
from fuzzing import fuzzed
from hypothesis import given, note
from hypothesis import strategies as st
from random_widths import random_widths

from kernel_helper import check_kernels, compiled_kernels
from random_specs import random_specs
from sparank_gen.ir.check import check_spec
from sparank_gen.spec.load import parse_spec
from test_random_programs import check_program


@fuzzed(100, share=20)
@given(
    text=random_specs(),
    dim=st.integers(1, 4),
    n_modalities=st.integers(2, 3),
    hidden=st.integers(1, 3),
    batch=st.integers(1, 3),
    schedule=st.sampled_from(["resident", "columns", "split", "again"]),
)
def test_random_kernels(text: str, dim: int, n_modalities: int, hidden: int, batch: int, schedule: str) -> None:
    torch.set_num_threads(1)
    note(text)
    check_kernels(text, dim, n_modalities, hidden, batch, schedule)


@fuzzed(33, share=60)
@given(
    text=random_widths(),
    dim=st.integers(1, 4),
    n_modalities=st.integers(2, 3),
    hidden=st.integers(1, 3),
    batch=st.integers(1, 3),
    schedule=st.sampled_from(["resident", "columns", "split", "again"]),
)
def test_random_kernels_of_different_widths(
    text: str, dim: int, n_modalities: int, hidden: int, batch: int, schedule: str
) -> None:
    torch.set_num_threads(1)
    note(text)
    check_kernels(text, dim, n_modalities, hidden, batch, schedule)


# A mean over all features of all modalities, of what one factor has alone: that of the modalities' means is another number.
MEANS = """
version: 1
mode: random
summary: A mean over as many numbers as each modality has, and one in a derivative.
modalities: '>=2'
axes: {i: 'dim[m]', j: 'dim[m]', a: 'dim[0]'}
math: |
  v[m,i,j] = h[m,j] * layernorm[i,m](h[m,i] ** 2)
  out[a]   = h[0,a] + sum[m](sum[i,j](v[m,i,j])) + mean[m,i](h[m,i] * tanh(sum[j](h[m,j]))) + mean[m,i](h[m,i] ** 2 * h[m,0])
"""


@pytest.mark.parametrize("schedule", ["resident", "split"])
def test_means_over_modalities_of_different_widths(schedule: str) -> None:
    check_program(MEANS, 2, 3, 1, 2)
    check_kernels(MEANS, 2, 3, 1, 2, schedule)


# Gradients that are the same for all modalities and go to parts of what has another size for each.
PARTS = """
version: 1
mode: random
summary: Sums over modalities of a position, a part and a piece, of what has their widths.
modalities: '>=2'
axes: {i: 'dim[m]', p: 'dim[m] + 1', a: 'dim[0]'}
math: |
  v[m,p] = concat[p: 1, i](h[m,0], h[m,i])
  out[a] = h[0,a] * h[1,0] + sum[m](h[m,0]) + sum[m](h[0,a] * v[m,0]) + mean[m,i](h[0,a] * v[m,i + 1])
"""


@pytest.mark.parametrize("schedule", ["resident", "split"])
def test_parts_of_different_widths(schedule: str) -> None:
    check_program(PARTS, 2, 3, 1, 2)
    check_kernels(PARTS, 2, 3, 1, 2, schedule)


# The parameters of one modality, which have another size for each: their gradient stands at one position of all.
ROLES = """
version: 1
mode: random
summary: The heads of one modality, applied to the features of all.
modalities: '>=2'
axes: {t: modalities, u: 'dim[t]', k: hidden}
hyperparameters: {hidden: {default: 2}}
params:
  heads: {module: Linear, per: m, weight: 'W[m,k,(t u)]', bias: 'c[m,k]'}
math: |
  v[k]   = tanh(mean[t,u](h[t,u] * W[0,k,t,u]))
  out[k] = v[k] * sum[m](c[m,k])
"""


@pytest.mark.parametrize("schedule", ["resident", "split"])
def test_parameters_of_one_modality_by_widths_of_all(schedule: str) -> None:
    check_program(ROLES, 2, 3, 2, 2)
    check_kernels(ROLES, 2, 3, 2, 2, schedule)


# Weights that a kernel holds have the padded width in their number, and what a row touches has not.
NORMED = """
version: 1
mode: random
summary: A map of all features that is scaled to less than one.
modalities: '>=2'
axes: {i: 'dim[m]', o: units}
hyperparameters: {units: {default: 8}}
params:
  proj: {module: Linear, per: m, weight: 'W[m,o,i]'}
math: |
  p[o]   = sum[m](sum[i](W[m,o,i] * h[m,i]))
  out[o] = p[o] * rsqrt(1 + sum[o](p[o] ** 2))
"""


@pytest.mark.parametrize("schedule", ["resident", "split"])
def test_weights_of_different_widths_and_rows_without(schedule: str) -> None:
    check_kernels(NORMED, 2, 3, 2, 2, schedule)


def test_powers_of_numbers() -> None:
    text = """
version: 1
mode: random
summary: Powers of numbers by features, one of them a hyper-parameter.
modalities: '>=2'
axes: {i: dim}
hyperparameters: {hidden: {default: 3}}
math: |
  out[i] = sum[m](2 ** h[m,i] + hidden ** h[m,i] + 0.1 ** h[m,i])
"""
    source = compiled_kernels(check_spec(parse_spec(text.replace("mode: random", "mode: powers"), "powers.yaml")))[1]
    assert "power(tl.full((), 2, ACC), " in source and "tl.full((), tl.full(" not in source
    check_kernels(text, 3, 2, 2, 3, "resident")


def test_a_product_whose_strides_torch_chooses() -> None:
    """It is contracted along a dimension that is not its operand's last, and einsum returns a transposed view."""
    text = """
version: 1
mode: random
summary: A contraction over the middle dimension of what another gives.
modalities: 2
axes: {u: modalities, i: dim, j: dim, k: hidden, r: hidden}
hyperparameters: {hidden: {default: 3}}
params:
  gates: {module: Linear, per: m, weight: "W[m,i,j]", bias: "c[m,i]"}
  pairs: {module: Bilinear, weight: "F[k,i,j]", bias: "f[k]"}
math: |
  x[r,k,i] = sum[j](F[r,i,j] * sum[i,u](tanh(f[k] * h[u,i]) * W[u,i,j]))
  out[i]   = sum[k,r](x[k,r,i]) + c[0,i]
  w[m]     = sum[i](h[m,i])
out: "out[b,i]"
weights: "w[m,b]"
"""
    check_kernels(text, 4, 3, 2, 3, "split")


@pytest.mark.parametrize("schedule", ["split", "again"])
def test_products_that_follow_each_other(schedule: str) -> None:
    """Some are kept, one of which needs others; one is not, as nothing in the backward pass reads it."""
    text = """
version: 1
mode: random
summary: One product under two axes, one of what they give, and one of that.
modalities: 2
axes: {i: dim, j: dim, k: dim}
params:
  gates: {module: Linear, weight: "W[i,j]", bias: "c[i]"}
  other: {module: Linear, weight: "U[i,j]"}
math: |
  x[i]   = sum[j](W[i,j] * h[0,j])
  y[k]   = sum[j](W[k,j] * h[0,j])
  z[i]   = sum[k](tanh(x[i] * y[k])) + c[i]
  u[i]   = sum[j](U[i,j] * sigmoid(z[j]))
  out[i] = sum[j](W[i,j] * gelu(u[j])) + h[1,i]
"""
    check_kernels(text, 4, 2, 1, 3, schedule)


def test_product_over_two_axes_of_modalities() -> None:
    """The library's result is a view whose dimensions lie in another order than they stand."""
    head = "version: 1\nmode: random\nsummary: Every weight on every modality.\nmodalities: '>=2'\n"
    axes = "axes: {t: modalities, i: dim, j: dim}\n"
    params = "params:\n  gates: {module: Linear, per: m, weight: 'Wa[m,i,j]', bias: 'ca[m,i]'}\n"
    math = "math: |\n  v[j,m,t] = sum[i]((h[0,i] + ca[m,i]) * Wa[t,j,i])\n  out[m,i] = v[i,1,m]\n  w[t] = sum[j](h[t,j])\n"
    layouts = "out: 'out[b,(m i)]'\nweights: 'w[t,b]'\n"
    check_kernels(f"{head}{axes}{params}{math}{layouts}", 4, 2, 1, 3, "split")


@pytest.mark.parametrize("schedule", ["resident", "columns", "split", "again"])
def test_results_and_parameters_may_have_names_that_kernels_use(schedule: str) -> None:
    head = "version: 1\nmode: random\nsummary: Names that mean something elsewhere.\nmodalities: '>=2'\naxes: {i: dim, j: dim}\n"
    params = "params:\n  gates: {module: Linear, per: m, weight: 'weights[m,i,j]', bias: 'entropy[m,i]'}\n"
    scale = "  scale: {tensor: results, init: ones}\n"
    math = "math: |\n  y[m,i] = sum[j](weights[m,i,j] * h[m,j]) + entropy[m,i]\n  z[i] = sum[m](tanh(y[m,i])) * results\n"
    layouts = "  w[m] = sum[i](y[m,i])\nout: 'z[b,i]'\nweights: 'w[m,b]'\n"
    names = ("product_1: 'y[m,b,i]'", "rows_1: 'w[b,m]'", "h: 'y[b,m,i]'", "out: 'z[i,b]'", "entropy: 'w[m,b]'", "results: 'z[b,i]'")
    check_kernels(f"{head}{params}{scale}{math}{layouts}diagnostics: {{{', '.join(names)}}}\n", 4, 2, 2, 3, schedule)


@pytest.mark.parametrize("schedule", ["resident", "columns", "split", "again"])
def test_extents_that_are_sums_and_products(schedule: str) -> None:
    head = "version: 1\nmode: random\nsummary: Axes of every kind of extent.\nmodalities: '>=2'\n"
    axes = "axes: {i: dim, j: dim, f: dim + 1, g: modalities * dim, n: 2 * hidden}\nhyperparameters: {hidden: {default: 3}}\n"
    params = "params:\n  plus: {module: Linear, weight: 'P[f,j]', bias: 'p[f]'}\n  joint: {module: Linear, weight: 'Q[g,f]'}\n"
    tensor = "  twice: {tensor: 'R[n,g]', init: xavier_uniform, fan: {in: g, out: n}}\n  back: {module: Linear, weight: 'S[i,n]'}\n"
    math = "math: |\n  x[m,f] = tanh(sum[j](P[f,j] * h[m,j]) + p[f])\n  y[g] = softmax[g](sum[m,f](Q[g,f] * x[m,f]))\n"
    out = "  out[i] = sum[n](S[i,n] * tanh(sum[g](R[n,g] * y[g])))\n  w[m] = sum[f](x[m,f])\nweights: 'w[b,m]'\n"
    check_kernels(head + axes + params + tensor + math + out, 3, 3, 2, 2, schedule)


@pytest.mark.parametrize("schedule", ["resident", "columns", "split", "again"])
def test_extents_that_divide_sums(schedule: str) -> None:
    head = "version: 1\nmode: random\nsummary: Halves of what is odd by itself.\nmodalities: '>=2'\n"
    axes = "axes: {i: dim, j: dim, r: (dim + 2) // 4, q: dim - (dim + hidden) // 4}\nhyperparameters: {hidden: {default: 3}}\n"
    params = "params:\n  inner: {module: Linear, weight: 'P[r,j]'}\n  rest: {tensor: 'R[q,r]', init: normal, std: 1}\n"
    math = "math: |\n  x[m,r] = tanh(sum[j](P[r,j] * h[m,j]))\n  y[q] = sum[m,r](R[q,r] * x[m,r]) / size[r]\n"
    check_kernels(f"{head}{axes}{params}{math}  out[i] = sum[m](h[m,i]) * mean[q](y[q])\n", 3, 2, 2, 2, schedule)


@pytest.mark.parametrize("schedule", ["resident", "split"])
def test_modalities_meet_those_that_are_joined(schedule: str) -> None:
    """Sums over modalities inside others, all read at a place of the joined axis: each needs an axis of its own."""
    text = """\
version: 1
mode: random
summary: Modalities and one place more, which meet the modalities.
modalities: ">=2"
axes: {u: modalities, i: dim, x: modalities + 1}
math: |
  s[m]   = sum[i](h[m,i])
  out[i] = sum[m](h[m,i])
  y[m,x] = s[m] * concat[x: m, 1](s[m], 0.5)
  w[m,x] = mean[u](tanh(y[m,x] * y[u,x])) + 1.5 ** tanh(s[m])
weights: "w[m,b,x]"
"""
    check_kernels(text, 2, 3, 1, 3, schedule)


def test_modalities_joined_with_a_number() -> None:
    """Modalities are unrolled, what they are joined into is not; the weights' cotangent may be absent where it is cut."""
    text = """\
version: 1
mode: random
summary: Modalities and one place more.
modalities: ">=2"
axes: {i: dim, x: modalities + 1, t: modalities, s: modalities - 1}
math: |
  v[x]   = softmax[x](concat[x: m, 1](tanh(sum[i](h[m,i])), 0.5)) * 2
  u[t,i] = concat[t: 1, s](0.25, h[s + 1,i] * v[s + 2])
  out[i] = sum[t](u[t,i] * u[t,i] * v[t + 1])
  w[x]   = v[x] + tanh(sum[m,i](h[m,i]))
weights: "w[b,x]"
"""
    for n_modalities in (2, 3):
        for schedule in ("resident", "split", "again"):
            check_kernels(text, 3, n_modalities, 1, 2, schedule)


# Windows of two lengths, that of one modality and that of each, which lie alike in lanes of one size.
WINDOWS = """
version: 1
mode: random
summary: Windows of two lengths on features.
modalities: '>=2'
axes: {j: 'dim[m]', p: 'dim[m] + 1', c: 'dim[1]', q: 'dim[1] + 1'}
math: |
  v[m,j]   = sigmoid(h[m,j])
  y        = sum[q](concat[q: 1, c](0.3, v[1,c]) * concat[q: c, 1](h[1,c], 0.5))
  out[m,p] = concat[p: 1, j](y * h[m,0], v[m,j]) * 2
out: 'out[b,(m p)]'
"""


@pytest.mark.parametrize("schedule", ["resident", "split"])
def test_windows_of_two_lengths(schedule: str) -> None:
    check_kernels(WINDOWS, 2, 2, 3, 3, schedule)
