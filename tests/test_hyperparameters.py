"""Hyper-parameters in a constructor: their bounds, and extents made of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sparank_gen.backends.triton.file import kernel_file
from sparank_gen.ir.check import check_spec
from sparank_gen.spec.load import parse_spec
from test_random_programs import compiled

SPEC = """
version: 1
mode: bounded
summary: Every kind of bound, and extents that are sums and products.
modalities: ">=2"
axes: {i: dim, j: dim, a: dim + 1, c: modalities * dim, r: 2 * rank}
hyperparameters:
  rank: {default: 4, maximum: 8}
  free: {type: float, default: 0.5}
  low: {type: float, default: 0.5, minimum: 0}
  high: {type: float, default: -1, maximum: 0.5}
params:
  up: {module: Linear, weight: "A[a,j]"}
  wide: {module: Linear, weight: "C[c,a]"}
  low_rank: {tensor: "U[r,c]", init: kaiming_uniform, fan: {in: c}}
  back: {module: Linear, weight: "V[i,r]"}
math: |
  x[a]   = sum[m,j](A[a,j] * h[m,j]) * free + low
  y[c]   = tanh(sum[a](C[c,a] * x[a])) + high
  out[i] = sum[r](V[i,r] * sum[c](U[r,c] * y[c]))
"""
CHOICES = """
version: 1
mode: choices
summary: Choices and mixtures of numbers.
modalities: ">=2"
axes: {i: dim, j: dim}
hyperparameters:
  gain: {default: 2}
params:
  mix: {tensor: "w[i,j]", init: constant, value: "lerp(0.1, gain + 1, gain + 2)"}
math: |
  out[i] = where(gain < 5, where(gain > 2, 3, 2), 1) * sum[m,j](lerp(gain, gain + 1, gain + 2) * w[i,j] * h[m,j])
"""
LAYER = compiled(check_spec(parse_spec(SPEC, "bounded.yaml")))[0]


@pytest.mark.parametrize(
    "options, said",
    [
        ({"rank": 9}, "expected rank to be an int of at least 1 and at most 8, got 9"),
        ({"rank": 0}, "expected rank to be an int of at least 1 and at most 8, got 0"),
        ({"rank": 2.0}, "expected rank to be an int of at least 1 and at most 8, got 2.0"),
        ({"rank": True}, "expected rank to be an int of at least 1 and at most 8, got True"),
        ({"free": "x"}, "expected free to be a number, got 'x'"),
        ({"free": float("nan")}, "expected free to be a number, got nan"),
        ({"free": float("inf")}, "expected free to be a number, got inf"),
        ({"low": -0.1}, "expected low to be a number of at least 0, got -0.1"),
        ({"high": 1}, "expected high to be a number of at most 0.5, got 1"),
    ],
)
def test_outside_the_bounds(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}$"):
        LAYER(3, 2, **options)


def test_at_the_bounds() -> None:
    layer = LAYER(3, 2, rank=8, low=0, high=0.5, free=-3)
    assert (layer.rank, layer.low, layer.high, layer.free) == (8, 0, 0.5, -3)


@pytest.mark.parametrize("dim, n_modalities, rank", [(3, 2, 1), (4, 3, 4), (1, 2, 8)])
def test_extents_that_are_sums_and_products(dim: int, n_modalities: int, rank: int) -> None:
    layer = LAYER(dim, n_modalities, rank=rank).double()
    held = [layer.get_parameter(name) for name in ("up.weight", "wide.weight", "low_rank", "back.weight")]
    shapes = [tuple(x.shape) for x in held]
    wide = n_modalities * dim
    assert shapes == [(dim + 1, dim), (wide, dim + 1), (2 * rank, wide), (dim, 2 * rank)]
    features = [torch.randn(5, dim, dtype=torch.float64) for _ in range(n_modalities)]
    up, wide_, low, back = held
    x = sum(features) @ up.T * 0.5 + 0.5
    torch.testing.assert_close(layer(features), (torch.tanh(x @ wide_.T) - 1) @ low.T @ back.T)


GAINS = pytest.mark.parametrize("gain, chosen", [(1, 2), (4, 3), (9, 1)])


@GAINS
def test_choices_and_mixtures_of_numbers(gain: int, chosen: int) -> None:
    layer = compiled(check_spec(parse_spec(CHOICES, "choices.yaml")))[0](2, 2, gain=gain).double()
    weight = 0.1 + (gain + 2) * (gain + 1 - 0.1)
    torch.testing.assert_close(layer.mix.data, torch.full((2, 2), weight, dtype=torch.float64))
    out = layer([torch.ones(1, 2, dtype=torch.float64)] * 2)
    torch.testing.assert_close(out, torch.full((1, 2), 4 * weight * chosen * (2 * gain + 2), dtype=torch.float64))


@GAINS
def test_choices_and_mixtures_of_numbers_for_kernels(gain: int, chosen: int) -> None:
    constants = dict(kernel_file(check_spec(parse_spec(CHOICES, "choices.yaml"))).constants)
    numbers = [eval(code, {"gain": gain}) for name, code in constants.items() if name.startswith("NUMBER")]
    assert chosen in numbers and chosen * (2 * gain + 2) in numbers


TOGETHER = """
version: 1
mode: together
summary: What sizes and hyper-parameters must be together.
modalities: ">=2"
axes: {i: dim, p: dim - 4, r: rank}
hyperparameters:
  rank: {default: 2, minimum: 0}
  gain: {default: 2.0}
params:
  drawn: {tensor: "z[r]", init: normal, std: 1 / (dim - 6)}
  filled: {tensor: "v[r]", init: constant, value: 1 / gain}
math: |
  x[i]   = exp(gain) * h[0,i] + where(gain > 0, log(gain), 0) / sqrt(dim)
  out[i] = x[i] * mean[p](h[1,p + 4]) + sum[r](z[r] * v[r])
"""


@pytest.mark.parametrize(
    "dim, options, said",
    [
        (4, {}, "expected the extent dim - 4 of index 'p' to be an int of at least 1, got 0"),
        (3, {}, "expected the extent dim - 4 of index 'p' to be an int of at least 1, got -1"),
        (7, {"rank": 0}, "expected the extent rank of index 'r' to be an int of at least 1, got 0"),
        (6, {}, r"expected std of drawn, 1 / \(dim - 6\), to be a number, got an error: .*division by zero"),
        (5, {}, r"expected std of drawn, 1 / \(dim - 6\), to be a number of at least 0, got -1.0"),
        (7, {"gain": 0.0}, "expected value of filled, 1 / gain, to be a number, got an error: .*division by zero"),
        (7, {"gain": 1000.0}, r"expected exp\(gain\) to be a number, got an error: math range error"),
    ],
)
def test_what_sizes_and_hyperparameters_must_be_together(dim: int, options: dict[str, Any], said: str) -> None:
    made, _ = compiled(check_spec(parse_spec(TOGETHER, "together.yaml")))
    with pytest.raises(ValueError, match=f"^{said}$"):
        made(dim, 2, **options)


def test_only_what_may_be_wrong_is_checked() -> None:
    """``sqrt(dim)`` is a number whatever ``dim``, and so is a choice whose branch is not taken."""
    made, source = compiled(check_spec(parse_spec(TOGETHER, "together.yaml")))
    assert source.count("require_value(") == 4 and "require_value(\"sqrt" not in source
    layer = made(7, 2, gain=-1.0)
    assert layer([torch.ones(1, 7)] * 2).isfinite().all()
    assert "require_number(\"the extent" not in compiled(check_spec(parse_spec(SPEC, "bounded.yaml")))[1]


def test_widths_of_modalities_leave_something_of_each() -> None:
    axes = "axes: {i: 'dim[m] - 2', k: 'dim[m]', a: 'dim[0]'}"
    math = "out[a] = h[0,a] * mean[m,i](h[m,i + 2]) + sum[m,k](h[m,k])"
    text = f"version: 1\nmode: wide\nsummary: s\nmodalities: '>=2'\n{axes}\nmath: |\n  {math}\n"
    made, _ = compiled(check_spec(parse_spec(text, "wide.yaml")))
    made((4, 3), 2)
    with pytest.raises(ValueError, match=r"^expected the extent dim\[m\] - 2 of index 'i' to be an int of at least 1, got 0$"):
        made((4, 2), 2)
