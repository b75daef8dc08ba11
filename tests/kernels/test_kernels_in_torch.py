"""Kernels as good citizens of torch: compiled, exported, partly differentiated, and never twice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sparank_fusion import FusionLayer, list_modes
from sparank_fusion.kernels import forced

MODALITIES = 2
SCHEDULES = pytest.mark.parametrize("schedule", ["resident", "columns", "split"])
MODES = pytest.mark.parametrize("mode", list_modes())


def layer_and_features(mode: str, backend: str = "triton") -> tuple[FusionLayer, list[Tensor]]:
    torch.manual_seed(0)
    layer = FusionLayer(16, MODALITIES, mode, backend=backend)
    return layer, [torch.randn(5, 16) for _ in range(MODALITIES)]


@MODES
def test_compiles_without_a_graph_break(mode: str) -> None:
    layer, features = layer_and_features(mode)
    compiled: Any = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for each in (layer, compiled):
        for x in features:
            x.requires_grad_()
        out = each(features)
        gradients = torch.autograd.grad(out.square().sum(), features)
        if each is layer:
            wanted = [out, *gradients]
    torch.testing.assert_close([out, *gradients], wanted)


@MODES
def test_exports(mode: str) -> None:
    layer, features = layer_and_features(mode)
    exported = torch.export.export(layer, (features,), strict=False)
    torch.testing.assert_close(exported.module()(features), layer(features))


def test_missing_modalities_are_refused() -> None:
    layer, features = layer_and_features("gate")
    with pytest.raises(RuntimeError, match="does not run with 'present': use 'auto'"):
        layer(features, present=torch.ones(5, MODALITIES, dtype=torch.bool))


@SCHEDULES
@MODES
def test_only_some_tensors_need_gradients(mode: str, schedule: str) -> None:
    layer, features = layer_and_features(mode)
    layer.requires_grad_(False)
    features[1].requires_grad_()
    other, _ = layer_and_features(mode, "torch")
    with forced(schedule):
        (found,) = torch.autograd.grad(layer(features).square().sum(), features[1:])
    (wanted,) = torch.autograd.grad(other(features).square().sum(), features[1:])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@SCHEDULES
@MODES
def test_saved_tensors_are_not_written(mode: str, schedule: str) -> None:
    layer, features = layer_and_features(mode)
    before = [x.clone() for x in (*features, *layer.parameters())]
    for x in features:
        x.requires_grad_()
    with forced(schedule):
        layer(features).square().sum().backward()
    torch.testing.assert_close([x.detach() for x in (*features, *layer.parameters())], before, rtol=0, atol=0)


@MODES
def test_differentiating_twice_is_one_clear_error(mode: str) -> None:
    layer, features = layer_and_features(mode)
    features[0].requires_grad_()
    (gradient,) = torch.autograd.grad(layer(features).square().sum(), features[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        gradient.sum().backward()


@MODES
def test_autocast_is_one_clear_error(mode: str) -> None:
    layer, features = layer_and_features(mode)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(RuntimeError, match="autocast"):
        layer(features)


@SCHEDULES
@MODES
def test_transposed_and_expanded_inputs(mode: str, schedule: str) -> None:
    layer, _ = layer_and_features(mode)
    other, _ = layer_and_features(mode, "torch")
    features = [torch.randn(16, 5).t(), torch.randn(1, 16).expand(5, 16)]
    with forced(schedule), torch.no_grad():
        torch.testing.assert_close(layer(features), other(features), rtol=1e-4, atol=1e-5)
