"""The functions that generated modes compute with, by themselves."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import nn

from sparank_fusion import functions
from sparank_fusion.functions import dot, few_as_one, lerp, stacked_linear, sum_of_products

ALONG_BOTH = [((3, 3, 7, 2, 1), (3, 7, 2, 5), 1), ((3, 7, 1), (3, 7, 5), 0), ((7, 4, 1), (7, 4, 5), 1)]
ALONG_ONE = [((7, 5), (3, 7, 5), 0), ((3, 7, 5), (7, 1), 0), ((3, 1, 7), (2, 7), 1)]


@pytest.mark.parametrize("left, right, dim", ALONG_BOTH + ALONG_ONE)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_large_terms_that_are_added_one_by_one_are_their_sum(
    left: tuple[int, ...], right: tuple[int, ...], dim: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(left, dtype=dtype), torch.randn(right, dtype=dtype)
    wanted = (a.double() * b.double()).sum(dim).to(dtype)
    for least in (1, functions.LEAST_TERM):
        monkeypatch.setattr(functions, "LEAST_TERM", least)
        with torch.no_grad():
            torch.testing.assert_close(dot(a, b, dim), wanted)
        a.requires_grad_()
        torch.testing.assert_close(dot(a, b, dim), wanted)
        a.requires_grad_(False)


SHARED: list[tuple[tuple[int, ...], tuple[int, ...], int | tuple[int, ...]]] = [
    ((6, 1, 7, 4), (6, 7, 4), -1),
    ((6, 6, 7, 1), (6, 7, 8), 1),
    ((7, 5, 1, 3), (6, 3), (0, 3)),
]


@pytest.mark.parametrize("left, right, dim", SHARED)
def test_products_of_many_are_those_of_matrices(
    left: tuple[int, ...], right: tuple[int, ...], dim: int | tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LEAST_TERM", "LEAST_SHARED", "LEAST_IN_MATRICES"):
        monkeypatch.setattr(functions, name, 2)
    torch.manual_seed(0)
    a, b = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in (left, right))
    with patch.object(torch, "einsum", wraps=torch.einsum) as called:
        found = dot(a, b, dim)
    wanted = (a * b).sum(dim)
    assert called.called
    torch.testing.assert_close(found, wanted)
    cotangent = torch.randn_like(wanted)
    torch.testing.assert_close(torch.autograd.grad(found, (a, b), cotangent), torch.autograd.grad(wanted, (a, b), cotangent))


@pytest.mark.parametrize("has_bias", [True, False])
def test_few_numbers_in_one_tensor_have_the_values_and_gradients_of_many(has_bias: bool) -> None:
    torch.manual_seed(0)
    features, weights, biases = (
        [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for _ in range(3)] for shape in ((5, 4), (6, 4), (6,))
    )
    factors = [torch.randn(5, 6, dtype=torch.float64) for _ in range(3)]
    tensors = [*features, *weights, *(biases if has_bias else [])]
    found = []
    for inputs in (features, few_as_one(features)):
        maps = stacked_linear(inputs, weights, biases if has_bias else None)
        out = sum_of_products(maps, factors)
        found.append([out, *torch.autograd.grad((out**2).sum(), tensors)])
    assert isinstance(few_as_one(features), torch.Tensor)
    torch.testing.assert_close(*found)


class Quantised(nn.Parameter):
    """A weight that has maps, and no stacks."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.stack:
            raise NotImplementedError
        return super().__torch_function__(func, types, args, kwargs or {})


def test_weights_of_other_classes_map_each_of_few() -> None:
    features = [torch.randn(5, 4, requires_grad=True) for _ in range(3)]
    weights = [torch.randn(6, 4) for _ in range(3)]
    found = stacked_linear(few_as_one(features), [Quantised(weight) for weight in weights])
    torch.testing.assert_close(found, stacked_linear(features, weights))


def test_features_of_several_widths_stay_apart() -> None:
    features = [torch.randn(5, width, requires_grad=True) for width in (3, 4, 4)]
    assert few_as_one(features) is features
    with torch.no_grad():
        assert few_as_one(features[1:] * 2) == features[1:] * 2


def test_a_mixture_of_two_dtypes_ends_where_its_weight_says() -> None:
    """As under autocast, where a weight may be of half precision."""
    start, end = torch.tensor([1e10, 1.0, 4.0]), torch.tensor([1.0, 1e10, 8.0])
    found = lerp(start, end, torch.tensor([1.0, 0.0, 0.25], dtype=torch.bfloat16))
    torch.testing.assert_close(found, torch.tensor([1.0, 1.0, 5.0]), rtol=0, atol=0)
    assert lerp(start, end, torch.tensor(0.5, dtype=torch.float64)).dtype is torch.float32
