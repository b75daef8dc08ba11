"""Kernels at numbers where another order of the same operations would overflow, or lose one number beside another."""

from __future__ import annotations

import pytest
import torch

from kernel_helper import compiled_kernels
from sparank_fusion.kernels import forced
from sparank_gen.ir.check import check_spec
from sparank_gen.spec.load import parse_spec

HEAD = "version: 1\nsummary: Large numbers.\nmodalities: 2\naxes: {i: dim}\nparams: {scale: {tensor: 'n[i]', init: ones}}\n"
# The math, the parameter, the number that fills each modality, and the output.
CASES = {
    "large_quotient": ("sum[m](h[m,i] / (n[i] * h[0,i]) * h[m,i])", 1.0, (1e25, 1e25), 2e25),
    "end_of_a_mixture": ("n[i] * h[1,i] + (1 - n[i]) * h[0,i]", 1.0, (1e10, 1.0), 1.0),
    "start_of_a_mixture": ("n[i] * h[1,i] + (1 - n[i]) * h[0,i]", 0.0, (1.0, 1e10), 1.0),
}


@pytest.mark.parametrize("schedule", ["resident", "split"])
@pytest.mark.parametrize("name", CASES)
def test_large_numbers(name: str, schedule: str) -> None:
    math, parameter, numbers, wanted = CASES[name]
    text = f"mode: {name}_{schedule}\n{HEAD}math: |\n  out[i] = {math}\n"
    made, _ = compiled_kernels(check_spec(parse_spec(text, "large.yaml")))
    features = [torch.full((3, 2), number) for number in numbers]
    for backend in ("torch", "triton"):
        layer = made(2, 2, backend=backend)
        layer.load_state_dict({"scale": torch.full((2,), parameter)})
        with forced(schedule, (2, 2, 2)):
            torch.testing.assert_close(layer(features), torch.full((3, 2), wanted))
