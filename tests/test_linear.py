"""Sums of sums and quotients are as fast as the sums of products that they are made of, and mean the same."""

from __future__ import annotations

import pytest
import torch
from test_torch_plans import Operations
from torch.utils.flop_counter import FlopCounterMode

from sparank_gen.ir.check import check_spec
from sparank_gen.spec.load import parse_spec
from test_random_programs import check_program, compiled

HEAD = """\
version: 1
mode: linear
summary: Linear maps in sums.
modalities: ">=2"
axes: {i: dim, j: dim}
params:
  w: {tensor: "W[i,j]", init: normal, std: 0.1}
  v: {tensor: "V[i,j]", init: normal, std: 0.1}
math: |
  out[i] = """
# With each, how many matrix products of rows it takes.
SUMS = {
    "sum[j](W[i,j] * h[0,j] + V[i,j] * h[1,j])": 2,
    "sum[j](W[i,j] * h[0,j] - V[i,j] * h[1,j] + 0.5)": 2,
    "sum[j](h[1,j] - W[i,j] * h[0,j]) + V[i,0]": 1,
    "sum[j](W[i,j] * h[0,j] / 3) + sum[j](V[i,j] / dim * h[1,j])": 2,
    "mean[j](W[i,j] * h[0,j] + h[1,j] + 0.1) * V[i,0]": 1,
    "sum[j](W[i,j] * (h[0,j] + V[i,j])) * h[1,i]": 1,
    "sum[j](h[0,j] * (W[i,j] - V[i,j] * h[1,i]))": 2,
    "sum[m](sum[j](W[i,j] * h[m,j] + V[i,j] * tanh(h[m,j])))": 2,
}


@pytest.mark.parametrize("math", SUMS)
def test_linear_maps_in_sums_are_matrix_products(math: str) -> None:
    batch, dim = 64, 8
    text = f"{HEAD}{math}\n"
    layer = compiled(check_spec(parse_spec(text, "linear.yaml")))[0](dim, 2).double()
    features = [torch.randn(batch, dim, dtype=torch.float64) for _ in range(2)]
    with torch.no_grad(), Operations() as found:
        layer(features)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        layer(features)
    assert found.largest <= 2 * batch * dim
    assert counter.get_total_flops() == SUMS[math] * 2 * batch * dim * dim
    for n_modalities in (2, 3):
        check_program(text, 4, n_modalities, 3, 3)


WIDTHS = """\
version: 1
mode: linear
summary: Linear maps in sums over modalities of their own widths.
modalities: ">=2"
axes: {i: "dim[m]", k: 3}
params:
  w: {tensor: "W[k,(m i)]", init: normal, std: 0.1}
  v: {tensor: "v[m]", init: ones}
math: |
  x[k]   = sum[m,i](W[k,m,i] * h[m,i] + v[m] + 0.5)
  y[k]   = mean[m,i](W[k,m,i] * h[m,i] + v[m] + 0.5)
  out[k] = x[k] * tanh(y[k])
"""


def test_terms_that_lack_an_axis_count_as_often_as_it_is_long() -> None:
    check_program(WIDTHS, 4, 3, 3, 3)


def test_sums_that_are_doubled_again_and_again_are_taken_apart_once() -> None:
    """As many terms as statements, and not as paths through them; nor as many products as choices of terms."""
    lines = ["x0[i,j] = W[i,j] * h[0,j] + V[i,j]"]
    lines += [f"x{k}[i,j] = x{k - 1}[i,j] + x{k - 1}[i,j]" for k in range(1, 40)]
    factors = " * ".join(f"(h[0,j] + {k} * V[i,j])" for k in range(1, 13))
    lines.append(f"out[i] = sum[j](x39[i,j]) + sum[j](W[i,j] * {factors})")
    text = HEAD.replace("  out[i] = ", "") + "".join(f"  {line}\n" for line in lines)
    assert len(compiled(check_spec(parse_spec(text, "linear.yaml")))[1]) < 50_000
