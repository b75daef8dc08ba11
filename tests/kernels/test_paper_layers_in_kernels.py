"""Published layers that cut or join axes: the kernels of every schedule are the formula of the paper."""

from __future__ import annotations

import pytest

from kernel_helper import compiled_kernels
from paper_layers import LAYERS, check_layer, paper_mode
from sparank_fusion.kernels import forced

MADE = {name: compiled_kernels(paper_mode(name))[0] for name in LAYERS}


@pytest.mark.parametrize("schedule", ["resident", "columns", "split"])
@pytest.mark.parametrize("dim", [2, 6])
@pytest.mark.parametrize("name", LAYERS)
def test_kernels_are_the_formula(name: str, dim: int, schedule: str) -> None:
    with forced(schedule, (2, 2, 2)):
        check_layer(name, MADE[name], dim, "triton")
