"""Kernels at the ends of what sizes may be: many modalities, widths of 1, 1,000 and 1,024, many heads, no rows."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor

from sparank_fusion import FusionLayer, kernels
from sparank_fusion.kernels import forced, tiles

CASES: list[tuple[str, int, int, dict[str, Any]]] = [
    ("gate", 8, 5, {}),
    ("gate", 7, 1, {}),
    ("attention", 8, 6, {"attn_heads": 3}),
    ("attention", 2, 32, {"attn_heads": 32}),
    ("attention", 2, 33, {"attn_heads": 1}),
    ("concat", 8, 1024, {}),
    ("product", 8, 1000, {}),
    ("maximum", 5, 1024, {}),
]
WIDE = [("gate", 2, 1024), ("gate", 3, 1000), ("sigmoid_gate", 2, 1024), ("attention", 2, 1024)]


def check(mode: str, n_modalities: int, dim: int, batch: int, options: dict[str, Any]) -> None:
    """Compare outputs, weights and gradients with the torch backend, in float64."""
    torch.manual_seed(0)
    features = [torch.randn(batch, dim, dtype=torch.float64) for _ in range(n_modalities)]
    results: list[list[Tensor]] = []
    for backend in ("triton", "torch"):
        torch.manual_seed(1)
        layer = FusionLayer(dim, n_modalities, mode, **options, backend=backend).double()
        given = [x.clone().requires_grad_() for x in features]
        out, info = layer(given, return_gates=True)
        found = [out, *(x for x in info.values() if isinstance(x, Tensor))]
        total = sum((torch.linspace(-1, 1, x.numel(), dtype=x.dtype).reshape(x.shape) * x).sum() for x in found)
        results.append([*found, *torch.autograd.grad(total, [*given, *layer.parameters()])])  # type: ignore[arg-type]
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("schedule", ["resident", "columns", "split"])
@pytest.mark.parametrize(("mode", "n_modalities", "dim", "options"), CASES)
def test_many_modalities_and_all_widths(mode: str, n_modalities: int, dim: int, options: dict[str, Any], schedule: str) -> None:
    for batch in (0, 1, 3):
        with forced(schedule, (2, 4, 4)):
            check(mode, n_modalities, dim, batch, options)


@pytest.mark.parametrize("schedule", ["columns", "split"])
@pytest.mark.parametrize(("mode", "n_modalities", "dim"), WIDE)
def test_wide_matrix_products(mode: str, n_modalities: int, dim: int, schedule: str) -> None:
    with forced(schedule, (16, 256, 128)):
        check(mode, n_modalities, dim, 3, {})


@pytest.mark.parametrize("schedule", ["resident", "columns", "split"])
@pytest.mark.parametrize("mode", ["gate", "attention", "film"])
def test_launches_with_tiles_that_spill_leave_nothing_behind(mode: str, schedule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kernel runs with one tile after another, as if none fitted; sums over the batch have a part for each of the last."""
    module = importlib.import_module(f"sparank_fusion.kernels.modes.{mode}")
    rows = []

    def launch(kernel: Any, batch: int, tile: kernels.Tile, *given: Any) -> None:
        kernels.launch(kernel, batch, tile, *given)
        rows.append(tile.rows)
        tile.spilled = 1000 * tile.rows

    monkeypatch.setattr(module, "launch", launch)
    monkeypatch.setattr(tiles, "_fitting", {})
    with forced(schedule):
        check(mode, 2, 20, 70, {})
    assert len(set(rows)) > 1
