"""Published layers that cut or join axes: the generated torch code is the formula of the paper."""

from __future__ import annotations

import pytest
import torch

from paper_layers import LAYERS, check_layer, paper_mode
from test_random_programs import compiled


@pytest.mark.parametrize("dim", [2, 6])
@pytest.mark.parametrize("name", LAYERS)
def test_torch_code_is_the_formula(name: str, dim: int) -> None:
    made, _ = compiled(paper_mode(name))
    check_layer(name, made, dim, "torch")


@pytest.mark.parametrize("name", ["product_of_experts", "experts_by_offsets"])
def test_halves_of_an_odd_width_are_refused(name: str) -> None:
    made, _ = compiled(paper_mode(name))
    with pytest.raises(ValueError, match="dim to be a multiple of 2"):
        made(5, 2)


def test_nothing_in_common_gives_zeros() -> None:
    """Where all products are 0, so are the output's gradients, and all are finite."""
    made, _ = compiled(paper_mode("factorised_bilinear"))
    layer = made(4, 2, backend="torch").double()
    torch.nn.init.zeros_(layer.left.weight)
    torch.nn.init.zeros_(layer.left.bias)
    features = [torch.randn(2, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    gradients = torch.autograd.grad(layer(features).sum(), [*features, *layer.parameters()])
    assert all(gradient.eq(0).all() for gradient in gradients)
