"""Tensors that stand by themselves: how they start, where they live, and that they are ordinary parameters."""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import pytest
import torch
from torch import nn

from sparank_gen.ir.check import check_spec
from sparank_gen.spec.load import parse_spec
from test_random_programs import compiled

SPEC = """
version: 1
mode: learned
summary: Every way to hold a tensor.
modalities: ">=2"
axes: {q: queries, i: dim, j: dim, r: 64, a: 2, k: 8}
hyperparameters:
  queries: {default: 16}
  start: {default: 0.25}
params:
  alpha: {tensor: "alpha[m]", init: ones}
  head.query: {tensor: "Q[q,i]", init: xavier_uniform, fan: {in: i, out: q}}
  head.norm: {module: LayerNorm, weight: "s[i]", bias: "t[i]"}
  head.net.0: {module: Linear, weight: "A[r,i]"}
  head.net.1: {module: Linear, weight: "B[i,r]"}
  turned: {tensor: "T[i,r]", init: xavier_uniform, fan: {in: i, out: r}}
  factor: {tensor: "U[m,r,i]", init: kaiming_uniform, fan: {in: i}}
  composed: {tensor: "C[r,(a k)]", init: kaiming_uniform, fan: {in: (a k)}}
  each: {tensor: "V[m,i]", per: m, init: normal, std: 1 / sqrt(dim)}
  temperature: {tensor: tau, init: constant, value: start}
  shift: {tensor: "d[i]", init: zeros}
math: |
  x[m,i] = layernorm[i](h[m,i]) * s[i] + t[i] + d[i] + V[m,i]
  y[m,r] = sum[i]((U[m,r,i] + T[i,r]) * x[m,i]) + sum[a,k](C[r,a,k])
  p[q,m] = softmax[m](sum[i](Q[q,i] * x[m,i]) / tau)
  z[i]   = sum[m](alpha[m] * mean[q](p[q,m]) * x[m,i])
  out[i] = z[i] + sum[r](B[i,r] * (sum[j](A[r,j] * z[j]) + sum[m](y[m,r])))
"""


def made(dim: int = 32, n_modalities: int = 3, **options: Any) -> nn.Module:
    layer: nn.Module = compiled(check_spec(parse_spec(SPEC, "learned.yaml")))[0](dim, n_modalities, **options)
    return layer


class ByHand(nn.Module):
    """The same parameters, written as one writes them in torch."""

    def __init__(self, dim: int, n_modalities: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(n_modalities))
        self.head = nn.Module()
        self.head.query = nn.Parameter(torch.empty(16, dim))
        nn.init.xavier_uniform_(self.head.query)
        self.head.norm = nn.LayerNorm(dim)
        self.head.net = nn.Sequential(nn.Linear(dim, 64, bias=False), nn.Linear(64, dim, bias=False))
        self.turned = nn.Parameter(torch.empty(dim, 64).uniform_(-math.sqrt(6 / (dim + 64)), math.sqrt(6 / (dim + 64))))
        self.factor = nn.Parameter(torch.empty(n_modalities, 64, dim).uniform_(-math.sqrt(6 / dim), math.sqrt(6 / dim)))
        self.composed = nn.Parameter(torch.empty(64, 16))
        nn.init.kaiming_uniform_(self.composed)
        self.each = nn.ParameterList([nn.Parameter(torch.empty(dim)) for _ in range(n_modalities)])
        for tensor in self.each:
            nn.init.normal_(tensor, std=1 / math.sqrt(dim))
        self.temperature = nn.Parameter(torch.tensor(0.25))
        self.shift = nn.Parameter(torch.zeros(dim))


def test_one_seed_gives_what_torch_written_by_hand_gives() -> None:
    torch.manual_seed(7)
    layer = made()
    torch.manual_seed(7)
    by_hand = ByHand(32, 3)
    assert list(layer.state_dict()) == list(by_hand.state_dict())
    for (name, found), wanted in zip(layer.named_parameters(), by_hand.parameters(), strict=True):
        assert found.shape == wanted.shape and torch.equal(found, wanted), name


@pytest.mark.parametrize("name, bound", [("turned", 6 / (32 + 64)), ("factor", 6 / 32), ("head.query", 6 / (32 + 16)), ("composed", 6 / 16)])
def test_uniform_within_the_bound_of_its_fans(name: str, bound: float) -> None:
    largest = float(made().get_parameter(name).detach().abs().max())
    assert 0.95 * math.sqrt(bound) < largest <= math.sqrt(bound)


def test_hyper_parameters_stand_in_sizes_and_values() -> None:
    layer = made(queries=5, start=2.0)
    assert layer.get_parameter("head.query").shape == (5, 32)
    assert layer.get_parameter("temperature").item() == 2.0


def test_dtype_and_device_are_those_of_construction() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        assert {x.dtype for x in made().parameters()} == {torch.float64}
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.device("meta"):
        assert all(x.is_meta for x in made().parameters())


def test_copied_saved_and_moved_as_any_module() -> None:
    layer = made()
    features = [torch.randn(4, 32) for _ in range(3)]
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = made()
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(features), layer(features))
    assert torch.equal(copy.deepcopy(layer)(features), layer(features))
    assert {x.dtype for x in layer.to(torch.bfloat16).parameters()} == {torch.bfloat16}


def test_every_tensor_is_trained() -> None:
    layer = made()
    layer([torch.randn(4, 32) for _ in range(3)]).square().sum().backward()
    assert all(x.grad is not None and x.grad.abs().sum() > 0 for x in layer.parameters())


def test_one_modality_holds_no_tensor() -> None:
    mode = check_spec(parse_spec(SPEC, "learned.yaml"))
    assert not list(compiled(mode)[0](8, 1).parameters())


@pytest.mark.parametrize("given, eps", [("1e-6", 1e-6), ("0", 0.0), (".5", 0.5), ("+2.", 2.0), ("1E-3", 1e-3)])
def test_options_of_modules_are_numbers(given: str, eps: float) -> None:
    text = SPEC.replace('bias: "t[i]"}', f'bias: "t[i]", arguments: {{eps: {given}}}}}').replace("layernorm[i](h[m,i])", f"layernorm[i](h[m,i], eps={eps!r})")
    layer: Any = compiled(check_spec(parse_spec(text, "learned.yaml")))[0](32, 3)
    assert layer.head.norm.eps == eps
