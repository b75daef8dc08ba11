"""How sums, means, maxima and norms run on torch: over short axes, over axes apart, and of products with matrices in each row."""

from __future__ import annotations

import pytest
from test_torch_plans import HEAD, operations

from sparank_gen.ir.check import check_spec
from sparank_gen.spec.load import parse_spec
from test_random_programs import check_program, compiled

NORMS = """\
  x[m,i] = layernorm[{axes}](h[m,i])
  y[m,p] = layernorm[p](sum[k,j](W[k,p,j] * x[m,j]))
  out[i] = mean[m,p](x[m,i] * y[m,p])
"""
# Where a difference is small, many numbers are equal, in some places all.
APART = """\
  x[m,t,p] = sum[k,j](W[k,p,j] * tanh(h[m,j] - h[t,j]))
  z[m,t,p,i] = max(x[m,t,p] * h[m,i], -0.5)
  y[t,i] = {operator}[m,p](z[m,t,p,i])
  out[i] = sum[t](y[t,i])
"""
AVERAGE = """\
  y[p] = mean[m,i](tanh(h[m,i])) + sum[k,j](W[k,p,j])
  out[i] = mean[m,p](h[m,i] * y[p])
"""
NAMED_PRODUCT = """\
  x[m,p] = sum[k,j](W[k,p,j] * h[m,j])
  o[m,i,p] = h[m,i] * x[m,p]
  out[i] = sum[m,p](o[m,i,p])
"""
SHARES = """\
  x[m,p] = sum[k,j](W[k,p,j] * h[m,j])
  w[m,p] = x[m,p] * exp(-x[m,p]) / (sum[m](x[m,p] * exp(-x[m,p])) + 9)
  out[i] = sum[m,p](w[m,p] * h[m,i])
"""
LINEAR_ATTENTION = """\
modalities: ">=2"
axes: {a: heads, e: dim // heads, f: dim // heads, j: dim, i: dim}
hyperparameters: {heads: {default: 4}}
params:
  query: {module: Linear, weight: "Q[(a e),j]"}
  output: {module: Linear, weight: "U[i,(a f)]"}
math: |
  q[m,a,e]  = tanh(sum[j](Q[a,e,j] * h[m,j]))
  k[m,a,e]  = exp(q[m,a,e])
  kv[a,e,f] = sum[m](k[m,a,e] * q[m,a,f])
  y[m,a,f]  = sum[e](q[m,a,e] * kv[a,e,f])
  out[m,i]  = sum[a,f](U[i,a,f] * y[m,a,f])
out: "out[b,(m i)]"
"""

TOKENS = """\
modalities: ">=2"
axes: {p: 4, q: 4, r: 4, y: dim // 4, x: dim // 4, t: modalities}
features: "h[m,b,(p y)]"
params:
  mix: {module: Linear, weight: "T[r,p]", bias: "c[r]"}
math: |
  u[m,r,y]   = tanh(sum[p](T[r,p] * h[m,p,y]) + c[r])
  s[m,r,t,q] = softmax[t,q](sum[y](u[m,r,y] * h[t,q,y]))
  z[m,r,x]   = sum[t,q](s[m,r,t,q] * h[t,q,x])
  out[r,x]   = max[m](z[m,r,x])
out: "out[b,(r x)]"
"""


def text(math: str) -> str:
    """A spec with parameters ``W[k,p,j]``."""
    axes = f"axes: {{i: dim, j: dim, k: 4, p: 2{', t: modalities' if 't]' in math else ''}}}"
    return f"modalities: '>=3'\n{axes}\nparams:\n  map: {{tensor: 'W[k,p,j]', init: normal, std: 1}}\nmath: |\n{math}"


def check_heads(spec: str) -> None:
    for n_modalities in (2, 3):
        check_program(HEAD + spec.replace("{default: 4}", "{default: 2}").replace("heads", "hidden"), 4, n_modalities, 2, 3)


@pytest.mark.parametrize(("axes", "norms"), [("m", 0), ("i", 3), ("m,i", 1)])
def test_norms_over_few_numbers_are_written_out(axes: str, norms: int) -> None:
    spec = text(NORMS.format(axes=axes))
    assert operations(spec, 3)["native_layer_norm"] == norms
    check_program(HEAD + spec, 4, 3, 3, 3)


@pytest.mark.parametrize(
    ("operator", "count"),
    [("sum", {"sum": 4}), ("mean", {"mean": 2}), ("logsumexp", {"logsumexp": 2}), ("max", {"amax": 1, "clone": 1}), ("min", {"amin": 1, "clone": 1})],
)
def test_axes_apart_are_reduced_one_after_the_other(operator: str, count: dict[str, int]) -> None:
    """Equal largest numbers share the gradient wherever they are, so that theirs are put side by side instead."""
    spec = text(APART.format(operator=operator))
    assert operations(spec, 3).items() >= count.items()
    check_program(HEAD + spec, 4, 3, 3, 3)


def test_a_mean_over_modalities_and_more_stacks_nothing() -> None:
    assert operations(text(AVERAGE), 3)["stack"] == 0
    check_program(HEAD + text(AVERAGE), 4, 3, 3, 3)


def test_a_named_product_that_only_sums_read_is_not_computed() -> None:
    _, source = compiled(check_spec(parse_spec(HEAD + text(NAMED_PRODUCT), "plan.yaml")))
    assert " o = " not in source and " x = " in source
    check_program(HEAD + text(NAMED_PRODUCT), 4, 3, 3, 3)


def test_a_product_that_is_read_and_summed_is_computed_once() -> None:
    assert operations(text(SHARES), 3)["exp"] == 3
    check_program(HEAD + text(SHARES), 4, 3, 3, 3)


def test_vectors_that_meet_one_matrix_are_the_rows_of_another() -> None:
    _, source = compiled(check_spec(parse_spec(HEAD + LINEAR_ATTENTION, "plan.yaml")))
    assert "kv = torch.stack(k, -2).transpose(2, 3) @ torch.stack(q, -2)" in source
    assert "y = torch.stack(q, -2) @ kv" in source
    assert operations(LINEAR_ATTENTION, 3)["bmm"] == 2
    check_heads(LINEAR_ATTENTION)


def test_a_vector_comes_before_its_matrix() -> None:
    spec = LINEAR_ATTENTION.replace("out[m,i]  = ", "out[i] = sum[m](").replace("y[m,a,f])\nout", "y[m,a,f]))\nout").replace("(m i)", "i")
    _, source = compiled(check_spec(parse_spec(HEAD + spec, "plan.yaml")))
    assert 'torch.einsum("bae,baef->baf", ' in source
    check_heads(spec)


def test_tokens_of_all_modalities_attend_to_each_other_as_matrices_of_rows() -> None:
    _, source = compiled(check_spec(parse_spec(HEAD + TOKENS, "plan.yaml")))
    # A map along a dimension leaves it where it is, and a softmax over two finds them side by side.
    assert 'torch.einsum("rp,bmpy->bmry", T, tokens) + c.unsqueeze(-1)' in source
    assert 'torch.einsum("bmry,btqy->bmrtq", u, tokens).flatten(-2).softmax(-1)' in source
    for n_modalities in (2, 3):
        check_program(HEAD + TOKENS, 4, n_modalities, 3, 3)
