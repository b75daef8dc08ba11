"""Choices select their gradients in kernels too."""

from __future__ import annotations

import pytest

from guards import GUARDED, check_guarded, guarded_mode
from kernel_helper import compiled_kernels


@pytest.mark.parametrize("position, name", list(enumerate(GUARDED)), ids=list(GUARDED))
def test_gradients_select(position: int, name: str) -> None:
    case = GUARDED[name]
    made, _ = compiled_kernels(guarded_mode(case, f"guarded_{position}"))
    check_guarded(case, made(len(case.points), 2, backend="triton").double())
