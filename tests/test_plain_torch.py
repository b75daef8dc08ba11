"""Modes that nobody tuned: generated code against a plain translation into torch, and its gradients against autograd."""

from __future__ import annotations

import pytest
import torch
from plain_torch import PlainLayer, parameters_of
from unusual_specs import UNUSUAL, unusual_spec

from sparank_gen.ir.check import check_spec
from sparank_gen.spec.load import parse_spec
from sparank_gen.trial.cases import Case
from test_random_programs import compiled, feature, fill


@pytest.mark.parametrize("n_modalities", [2, 3])
@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_modes(name: str, n_modalities: int) -> None:
    mode = check_spec(parse_spec(unusual_spec(name), f"{name}.yaml"))
    case = Case(16, n_modalities, ())
    layer = compiled(mode)[0](16, n_modalities, backend="torch").double()
    fill(layer)
    features = [torch.from_numpy(feature(m, 3, 16)).requires_grad_() for m in range(n_modalities)]
    found, wanted = layer(features), PlainLayer(mode, case, parameters_of(layer, mode, case))(features)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    cotangent = torch.linspace(-1, 1, found.numel(), dtype=found.dtype).reshape(found.shape)
    read = [*features, *layer.parameters()]
    gradients = (torch.autograd.grad(result, read, cotangent, allow_unused=True, materialize_grads=True) for result in (found, wanted))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)
