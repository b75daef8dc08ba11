"""Kernels of specs that have the names of what kernels and their launches consist of."""

from __future__ import annotations

import pytest
import torch

from adversarial import named
from kernel_helper import check_kernels

NAMES = {
    "size": ("programs", "ROWS", "rows_2", "lanes", "NUMBER", "contract"),
    "axis": ("tl", "I", "B", "in_i", "batch", "keep"),
    "weight": ("product_1", "h_ptrs", "results", "rows_4", "random_forward_kernel", "constants"),
    "inner": ("j", "i_2", "J", "M_LANES", "ACC", "dims"),
    "scale": ("M", "ACC", "held", "h_rows", "options", "tile"),
    "bias": ("chosen", "partial_1", "x", "kept", "dim_m", "in_i"),
    "mapped": ("program", "in_b", "O", "PRECISION", "peak", "range"),
    "gate": ("out_ptr", "x", "total", "acc", "W_tile", "zip"),
}


@pytest.mark.parametrize("schedule", ["resident", "columns", "split", "again"])
@pytest.mark.parametrize("place", range(6))
def test_names_of_the_spec_that_kernels_have_too(place: int, schedule: str) -> None:
    torch.set_num_threads(1)
    roles = {role: names[place] for role, names in NAMES.items()}
    check_kernels(named("random", **roles), 3, 2, 2, 3, schedule)
