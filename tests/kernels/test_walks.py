"""Programs that walk over several tiles of rows, some over fewer than others, and the last of them over part of one."""

from __future__ import annotations

import importlib
import inspect

import pytest
import torch
from torch import Tensor

from kernel_helper import check_kernels
from sparank_fusion import FusionLayer, list_modes
from sparank_fusion.kernels import forced
from sparank_fusion.layer import mode_class

ROWS = 2
BATCHES = (1, 2 * ROWS, 4 * ROWS, 5 * ROWS - 1)  # for two programs: one tile, one each, two each, and three and two


def everything(layer: torch.nn.Module, features: list[Tensor]) -> list[Tensor]:
    """The results of a layer, and the gradients of its features and parameters through all of them."""
    given = [x.clone().requires_grad_() for x in features]
    out, info = layer(given, return_gates=True)
    results = [out, *(x for x in info.values() if isinstance(x, Tensor))]
    cotangents = [torch.linspace(-1, 1, x.numel(), dtype=x.dtype).reshape(x.shape) for x in results]
    return [*results, *torch.autograd.grad(results, [*given, *layer.parameters()], cotangents)]


@pytest.mark.parametrize("mode", list_modes())
def test_every_row_counts_once(mode: str) -> None:
    count = min(3, mode_class(mode).most_modalities or 3)
    torch.manual_seed(0)
    ours = FusionLayer(4, count, mode, 2, backend="triton").double()
    other = FusionLayer(4, count, mode, 2, backend="torch").double()
    other.load_state_dict(ours.state_dict())
    for batch in BATCHES:
        features = [torch.randn(batch, 4, dtype=torch.float64) for _ in range(count)]
        with forced("resident", (ROWS, 4, 4)):
            found = everything(ours, features)
        torch.testing.assert_close(found, everything(other, features))


def test_a_weight_is_held_for_each_matrix_that_it_is() -> None:
    """One weight whose middle axis is contracted in one product, and one of the result's in another."""
    text = """
version: 1
mode: random
summary: A table of matrices, mixed and applied.
modalities: ">=2"
axes: {e: hidden, k: dim, i: dim}
hyperparameters:
  hidden: {default: 5, help: Matrices.}
params:
  table: {tensor: "V[e,k,i]", init: normal, std: 0.1}
  router: {module: Linear, weight: "R[e,k]", bias: "r[e]"}
math: |
  p[m,e]   = softmax[e](sum[k](R[e,k] * h[m,k]) + r[e])
  q[e,k]   = sum[m](p[m,e] * h[m,k])
  mix[k,i] = tanh(sum[e](V[e,k,i] * p[0,e]))
  out[i]   = sum[e,k](V[e,k,i] * q[e,k]) + sum[k](mix[k,i])
"""
    check_kernels(text, dim=6, n_modalities=2, hidden=5, batch=5, schedule="resident")


def test_a_tile_is_loaded_whole_and_operands_leave_before_what_is_made_of_them() -> None:
    """Loads that come between products cost 50 of 130 µs on an H100, and operands that are stored last 5."""
    source = inspect.getsource(importlib.import_module("sparank_fusion.kernels.modes.gate").gate_backward_kernel.fn)
    loop = source[source.index("for tile in") :]
    assert loop.rindex("tl.load(") < loop.index("contract(")
    assert loop.index("rows_2_ptr") < loop.rindex("contract(") < loop.index("h_bar_ptrs")
