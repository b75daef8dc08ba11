"""Wrong calls: each is a `ValueError` that says what was expected and what came."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from published import MODES, one_thread  # noqa: F401
from sparank_fusion import FusionLayer

DIM, BATCH = 24, 17
each_mode = pytest.mark.parametrize("mode", MODES)
each_mode_and_count = pytest.mark.parametrize(
    "mode, modalities",
    [(mode, count) for mode in MODES for count in (2, 3) if (mode, count) != ("sigmoid_gate", 3)],
)


def refused(call: Callable[[], Any], *said: str) -> None:
    """The call is a `ValueError` whose message holds every one of these patterns as words, places aside."""
    with pytest.raises(ValueError) as caught:
        call()
    message = re.sub(r"(?<=\w)\[\d+\]", "", str(caught.value))
    for words in said:
        assert re.search(rf"(?<!\w)(?:{words})(?!\w)", message, re.IGNORECASE), (
            f"{words!r} not in {message!r}"
        )


def features(count: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Right ones."""
    return [torch.randn(BATCH, DIM, dtype=dtype) for _ in range(count)]


def refused_at_each_place(mode: str, modalities: int, wrong: Any, *said: str) -> None:
    """The value is refused in place of each feature, with weights asked for or not."""
    layer = FusionLayer(DIM, modalities, mode)
    for place in range(modalities):
        given = features(modalities)
        given[place] = wrong
        for return_gates in (False, True):
            refused(lambda given=given, flag=return_gates: layer(given, return_gates=flag), *said)


@pytest.mark.parametrize("modalities", [1, 2, 3])
@pytest.mark.parametrize("mode", ["ghost", "", "Gate", "gate ", "identity", None])
def test_unknown_fusion_type(mode: Any, modalities: int) -> None:
    """Even with one modality, where every known mode is the identity. The message lists the known ones."""
    refused(lambda: FusionLayer(DIM, modalities, mode), re.escape(repr(mode)), *MODES)


@pytest.mark.parametrize("mode", MODES)
def test_numbers_of_numpy_are_numbers(mode: str) -> None:
    """As a shape of an array gives them."""
    count, heads, dim = np.array([2, 4, DIM])
    layer = FusionLayer(dim, count, mode, heads)
    assert layer(features(2)).shape == (BATCH, layer.out_dim)


@pytest.mark.parametrize("modalities", [3, 4, 7])
def test_sigmoid_gate_takes_two_modalities(modalities: int) -> None:
    """And says so when it is given more."""
    refused(lambda: FusionLayer(DIM, modalities, "sigmoid_gate"), "sigmoid_gate", "2|two", str(modalities))


@each_mode
@pytest.mark.parametrize("modalities", [0, -1, -3, 2.0, "2", None])
def test_n_modalities_is_a_positive_integer(mode: str, modalities: Any) -> None:
    """Neither zero, nor negative, nor another type."""
    refused(lambda: FusionLayer(DIM, modalities, mode), "n_modalities", f"'?{modalities}'?")


@each_mode
@pytest.mark.parametrize("modalities", [1, 2])
@pytest.mark.parametrize("dim", [0, -4, 4.0, "4"])
def test_dim_is_a_positive_integer(mode: str, modalities: int, dim: Any) -> None:
    """Neither zero, nor negative, nor another type."""
    refused(lambda: FusionLayer(dim, modalities, mode), "dim", f"'?{dim}'?")


@pytest.mark.parametrize("dim, heads", [(24, 5), (10, 4), (4, 8), (24, 0), (24, -4)])
def test_heads_divide_dim(dim: int, heads: int) -> None:
    """For attention; other modes have no heads and ignore them."""
    refused(
        lambda: FusionLayer(dim, 2, "attention", heads),
        "attn_heads",
        str(heads),
        *([str(dim)] if heads > 0 else []),
    )
    for mode in MODES[:3]:
        FusionLayer(dim, 2, mode, heads)


@each_mode
@pytest.mark.parametrize("modalities, given", [(1, 0), (1, 2), (2, 0), (2, 1), (2, 3), (3, 2), (3, 5)])
def test_wrong_number_of_features(mode: str, modalities: int, given: int) -> None:
    """Too few and too many."""
    if mode == "sigmoid_gate" and modalities == 3:
        pytest.skip("sigmoid_gate takes two modalities")
    layer = FusionLayer(DIM, modalities, mode)
    refused(lambda: layer(features(given)), str(modalities), str(given))
    refused(lambda: layer(features(given), return_gates=True), str(modalities), str(given))


@each_mode_and_count
@pytest.mark.parametrize("width", [1, 23, 25, 48, 0])
def test_wrong_width(mode: str, modalities: int, width: int) -> None:
    """One feature, or all of them alike, and a width of one, which would broadcast."""
    wrong = torch.randn(BATCH, width)
    refused_at_each_place(mode, modalities, wrong, str(DIM), str(width))
    refused(lambda: FusionLayer(DIM, modalities, mode)([wrong] * modalities), str(DIM), str(width))


@each_mode_and_count
@pytest.mark.parametrize("shape", [(), (DIM,), (BATCH, 3, DIM), (1, BATCH, DIM)], ids=str)
def test_wrong_rank(mode: str, modalities: int, shape: tuple[int, ...]) -> None:
    """Features have a batch axis and one more. The message shows the shape that came."""
    wrong = torch.randn(shape)
    came = re.escape(str(shape)) + "|" + re.escape(str(list(shape)))
    refused_at_each_place(mode, modalities, wrong, str(DIM), came)
    refused(lambda: FusionLayer(DIM, modalities, mode)([wrong] * modalities), str(DIM), came)


@each_mode
def test_wrong_shape_of_one_modality(mode: str) -> None:
    """The identity promises a width, too."""
    layer = FusionLayer(DIM, 1, mode)
    refused(lambda: layer([torch.randn(BATCH, 25)]), str(DIM), "25")
    refused(lambda: layer([torch.randn(DIM)]), str(DIM), re.escape(f"({DIM},)") + "|" + re.escape(f"[{DIM}]"))


@each_mode_and_count
@pytest.mark.parametrize("batch", [0, 1, 16, 34])
def test_mismatched_batches(mode: str, modalities: int, batch: int) -> None:
    """A batch of one against more would broadcast silently."""
    refused_at_each_place(mode, modalities, torch.randn(batch, DIM), str(BATCH), str(batch))


@each_mode_and_count
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16, torch.int64], ids=str)
def test_mismatched_dtypes(mode: str, modalities: int, dtype: torch.dtype) -> None:
    """In every place, and with parameters of either dtype."""
    name = str(dtype).removeprefix("torch.")
    refused_at_each_place(
        mode, modalities, features(1)[0].to(dtype), rf"(?:torch\.)?{name}", r"(?:torch\.)?float32"
    )
    if dtype.is_floating_point:
        layer = FusionLayer(DIM, modalities, mode).to(dtype)
        for place in range(modalities):
            given = features(modalities, dtype)
            given[place] = given[place].float()
            refused(lambda given=given: layer(given), rf"(?:torch\.)?{name}", r"(?:torch\.)?float32")


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "concat"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16, torch.int64], ids=str)
def test_dtype_of_the_parameters(mode: str, dtype: torch.dtype) -> None:
    """Features of one dtype, parameters of another."""
    name = str(dtype).removeprefix("torch.")
    given = [x.to(dtype) for x in features(2)]
    refused(lambda: FusionLayer(DIM, 2, mode)(given), rf"(?:torch\.)?{name}", r"(?:torch\.)?float32")


@each_mode_and_count
def test_mismatched_devices(mode: str, modalities: int) -> None:
    """One feature elsewhere."""
    refused_at_each_place(mode, modalities, torch.empty(BATCH, DIM, device="meta"), "meta", "cpu")


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "concat"])
def test_device_of_the_parameters(mode: str) -> None:
    """Features on one device, parameters on another."""
    layer = FusionLayer(DIM, 2, mode)
    refused(lambda: layer([x.to("meta") for x in features(2)]), "meta", "cpu")
    refused(lambda: layer.to("meta")(features(2)), "meta", "cpu")


@each_mode_and_count
@pytest.mark.parametrize(
    "wrong, kind", [(None, "NoneType|None"), (1.5, "float"), ("h", "str"), ([1.0], "list"), ({}, "dict")]
)
def test_features_that_are_no_tensors(mode: str, modalities: int, wrong: Any, kind: str) -> None:
    """The message names the type that came."""
    refused_at_each_place(mode, modalities, wrong, "features?|tensors?", kind)


@each_mode
@pytest.mark.parametrize("modalities", [1, 2])
def test_a_single_tensor_for_the_list(mode: str, modalities: int) -> None:
    """Though it has a length, and rows in place of features."""
    layer = FusionLayer(DIM, modalities, mode)
    for stacked in (torch.randn(modalities, DIM), torch.randn(modalities, BATCH, DIM)):
        refused(lambda stacked=stacked: layer(stacked), "list|sequence|tuple", "(?:torch.)?Tensor")


@each_mode
@pytest.mark.parametrize("modalities", [1, 2])
def test_other_types_for_the_list(mode: str, modalities: int) -> None:
    """Even where they have the features inside, or count as a tensor."""
    layer = FusionLayer(DIM, modalities, mode)
    given = features(modalities)
    for wrong in ({}, dict(enumerate(given)), iter(given), None, torch.nn.Parameter(torch.stack(given))):
        refused(lambda wrong=wrong: layer(wrong), "list|sequence|tuple", type(wrong).__name__)


@each_mode
@pytest.mark.parametrize("modalities", [1, 2])
@pytest.mark.parametrize("backend", ["nonsense", "", "Torch", None])
def test_unknown_backend(mode: str, modalities: int, backend: Any) -> None:
    """The message lists the known ones."""
    refused(
        lambda: FusionLayer(DIM, modalities, mode, backend=backend),
        re.escape(repr(backend)),
        "auto",
        "torch",
        "triton",
    )


@pytest.mark.skipif(
    torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1", reason="kernels can run here"
)
@each_mode
def test_triton_is_never_replaced_silently(mode: str) -> None:
    """Without a GPU and an interpreter, asking for kernels is an error, when building the layer or calling it."""
    with pytest.raises((RuntimeError, ValueError), match="(?i)triton.*(GPU|CUDA|kernels)"):
        FusionLayer(DIM, 2, mode, backend="triton")(features(2))


@each_mode
@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_other_backends_work_without_a_gpu(mode: str, backend: str) -> None:
    """And agree."""
    layers = [FusionLayer(DIM, 2, mode, backend=name) for name in (backend, "auto")]
    layers[0].load_state_dict(layers[1].state_dict())
    given = features(2)
    assert torch.equal(layers[0](given), layers[1](given))
