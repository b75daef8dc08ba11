"""Powers with whole exponents in kernels."""

from __future__ import annotations

import re

import pytest
import torch

from kernel_helper import compiled_kernels
from sparank_gen.ir.check import check_spec
from sparank_gen.spec.load import parse_spec

SPEC = "version: 1\nmode: power_{0}\nsummary: s\nmodalities: 2\naxes: {{i: dim}}\nmath: |\n  out[i] = h[0,i] ** {0} + 0 * h[1,i]\n"


@pytest.mark.parametrize("exponent", [2, 3, 4, 5, 6, 7, 31, 64, 65, 2000])
def test_powers_take_few_products_and_round_little(exponent: int) -> None:
    x = torch.linspace(0.97, 1.03, 40)[None] * torch.tensor([[1.0], [-1.0]])
    made, source = compiled_kernels(check_spec(parse_spec(SPEC.format(exponent), "power.yaml")))
    assert bool(re.search(rf"integer_power\(.*, {exponent}\)", source)) == (2 < exponent <= 64)
    found = made(40, 2, backend="triton")([x, x])
    # Squares double what rounding did before them; a logarithm's rounding is multiplied by the result's logarithm.
    most = 2.0**-24 * (exponent if exponent <= 64 else 128)
    assert ((found / x.double() ** exponent - 1).abs() < most).all()


@pytest.mark.parametrize("exponent", [2, 3, 4])
def test_small_powers_are_products_from_left_to_right(exponent: int) -> None:
    x = torch.linspace(-2, 2, 40)[None]
    made, _ = compiled_kernels(check_spec(parse_spec(SPEC.format(exponent).replace("power_", "small_power_"), "power.yaml")))
    product = x
    for _ in range(1, exponent):
        product = product * x
    assert torch.equal(made(40, 2, backend="triton")([x, x]), product)
