"""Modes that nobody tuned, in kernels: by every schedule, against the reference evaluator and its derivative."""

from __future__ import annotations

import pytest
import torch
from unusual_specs import UNUSUAL, unusual_spec

from kernel_helper import check_kernels


@pytest.mark.parametrize("schedule", ["resident", "columns", "split", "again"])
@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_modes_in_kernels(name: str, schedule: str) -> None:
    torch.set_num_threads(1)
    text = unusual_spec(name).replace(f"mode: {name}", "mode: random")
    check_kernels(text, 8, 3, 2, 3, schedule)
