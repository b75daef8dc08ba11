"""Random programs over modalities of different widths: torch code against the evaluator and its derivative."""

from __future__ import annotations

import os

import torch
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from random_widths import random_widths

from test_random_programs import check_program

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "100"))


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
@given(
    text=random_widths(),
    dim=st.integers(1, 4),
    n_modalities=st.integers(2, 3),
    hidden=st.integers(1, 3),
    batch=st.integers(1, 3),
)
def test_random_widths(text: str, dim: int, n_modalities: int, hidden: int, batch: int) -> None:
    torch.set_num_threads(1)
    note(text)
    check_program(text, dim, n_modalities, hidden, batch)
