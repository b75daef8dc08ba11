"""Random programs: gradients in statements of their own against those that torch records, in float64.

``test_random_programs.py`` compares the latter with the derivative of the evaluator. Here every program has such
statements, whether or not they pay.
"""

from __future__ import annotations

from collections.abc import Sequence
from unittest.mock import patch

import torch
from fuzzing import fuzzed
from hypothesis import given, note
from hypothesis import strategies as st
from random_widths import random_widths
from torch import Tensor

import sparank_fusion.runtime
from random_specs import random_specs
from sparank_gen.ir.check import check_spec
from sparank_gen.spec.load import parse_spec
from test_random_programs import compiled, filled_layer


def check_gradients(text: str, dim: int, n_modalities: int, hidden: int, batch: int) -> None:
    """Compile a spec, and compare the output and its gradients, computed in both ways."""
    mode = check_spec(parse_spec(text, "random.yaml"))
    with patch("sparank_gen.backends.torch.module.statements_pay", lambda *_: True):
        made, source = compiled(mode)
    note(source)
    _, layer, features = filled_layer(mode, made, dim, n_modalities, hidden, batch)
    tensors = [*features, *layer.parameters()]
    recorded = layer(features)
    with patch.object(sparank_fusion.runtime, "LEAST_RECORDED", 1):
        own = layer(features)
    if mode.modules and mode.program.outputs:
        assert type(own.grad_fn).__name__ == "_DerivedBackward"
    agree([own], [recorded], 1e-12)
    cotangent = torch.linspace(-1, 1, recorded.numel(), dtype=torch.float64).reshape(recorded.shape)
    agree(gradients(own, tensors, cotangent), gradients(recorded, tensors, cotangent), 1e-9)


def gradients(output: Tensor, tensors: Sequence[Tensor], cotangent: Tensor) -> list[Tensor]:
    """The gradients of an output, zero where it does not depend on a tensor."""
    found = torch.autograd.grad(output, tensors, cotangent, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(x) if gradient is None else gradient for x, gradient in zip(tensors, found, strict=True)]


def agree(found: Sequence[Tensor], wanted: Sequence[Tensor], tolerance: float) -> None:
    """Equal to ``tolerance`` of the largest entry."""
    for own, expected in zip(found, wanted, strict=True):
        scale = max(1.0, float(expected.detach().abs().max())) if expected.numel() else 1.0
        assert ((own - expected).abs() <= tolerance * scale).all(), f"{own}, expected {expected}"


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
