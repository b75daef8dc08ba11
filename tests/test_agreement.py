"""When the generated tests say that two layers agree."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparank_fusion

SUPPORT = Path(sparank_fusion.__file__).parents[1] / "tests" / "support.py"
NEAR = 1 + torch.tensor([[1e-6, 3e-6, 7e-5]], dtype=torch.float64)


class Layer(nn.Module):
    """A function as a layer of one modality."""

    extras = ()

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, h: list[Tensor], return_gates: bool) -> tuple[Tensor, dict[str, Tensor]]:
        return self.function(h[0]), {}


@pytest.fixture(scope="module")
def assert_agree() -> Any:
    spec = importlib.util.spec_from_file_location("generated_support", SUPPORT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda one, other, x: module.assert_agree(Layer(one), Layer(other), [x])


def test_numbers_that_cancel_may_differ_as_roundings_move_them(assert_agree: Any) -> None:
    assert_agree(lambda x: torch.sqrt((x - 1) * (x + 1)), lambda x: torch.sqrt(x**2 - 1), NEAR)


def test_they_may_not_differ_by_more(assert_agree: Any) -> None:
    with pytest.raises(AssertionError):
        assert_agree(lambda x: torch.sqrt((x - 1) * (x + 1)) * (1 + 1e-3), lambda x: torch.sqrt(x**2 - 1), NEAR)


def test_others_agree_to_rounding(assert_agree: Any) -> None:
    x = torch.linspace(-2, 2, 7, dtype=torch.float64).unsqueeze(0)
    assert_agree(torch.tanh, lambda x: 2 * torch.sigmoid(2 * x) - 1, x)
    with pytest.raises(AssertionError):
        assert_agree(lambda x: torch.tanh(x) * (1 + 1e-11), torch.tanh, x)


def test_jumps_are_no_rounding(assert_agree: Any) -> None:
    """At a choice a rounding moves the result by one: that is not what is allowed."""
    choice = lambda x: torch.where(x > 1, x, x - 1)
    with pytest.raises(AssertionError):
        assert_agree(lambda x: choice(x) + 0.01, choice, torch.ones(1, 3, dtype=torch.float64))
