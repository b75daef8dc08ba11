"""Programs that walk over several tiles of rows, some over fewer than others, and the last of them over part of one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

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
