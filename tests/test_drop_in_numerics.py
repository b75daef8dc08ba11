"""Outputs, weights and gradients against the published layer, over the whole grid and in the corners of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparank_fusion.runtime
from published import (
    DIMS,
    DTYPES,
    MODES,
    Cell,
    Sample,
    arrange_all,
    assert_same,
    assert_same_gradients,
    cells,
    complaints,
    gradients,
    head_counts,
    in_float64,
    measure,
    modality_counts,
    normal,
    one_thread,  # noqa: F401
    twins,
)
from sparank_fusion import FusionLayer

BATCHES = (0, 1, 3, 257)
OWN_GRADIENTS = ("gate", "sigmoid_gate")
MODES_AND_COUNTS = [(mode, count) for mode in MODES for count in modality_counts(mode)]
each_mode = pytest.mark.parametrize("mode", MODES)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def samples(cell: Cell, features: list[Tensor], layouts: tuple[str, ...]) -> list[Sample]:
    """Our layer on the features in each of these memory layouts, the published one on them as they are."""
    ours, published = twins(cell)
    theirs = exact = measure(published, features, cell.dtype)
    if cell.dtype != torch.float64:
        exact = measure(in_float64(published, cell), [x.double() for x in features], cell.dtype)
    found = []
    for layout in layouts:
        mine = measure(ours, arrange_all(features, layout), cell.dtype)
        if cell.batch == 0 and theirs["no_grad weights"] is None:
            mine["no_grad weights"] = None
        found.append(Sample(f"{cell}, {layout}", mine, theirs, exact))
    return found


def assert_near(found: list[Sample], dtype: torch.dtype) -> None:
    """No complaints."""
    lines = complaints(found, dtype)
    assert not lines, "\n".join(lines)


@each_dtype
@pytest.mark.parametrize("mode, modalities", MODES_AND_COUNTS)
def test_whole_grid(mode: str, modalities: int, dtype: torch.dtype) -> None:
    """Every dimension, count of heads and batch size, with and without weights, contiguous and not."""
    found = []
    for cell in cells(mode, modalities, dtype, BATCHES):
        found += samples(cell, cell.features(), ("contiguous", "mixed"))
    assert_near(found, dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("mode, modalities", [(m, count) for m, count in MODES_AND_COUNTS if m in OWN_GRADIENTS and count > 1])
def test_own_gradients(mode: str, modalities: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """The grid again for modes with gradients of their own, which they have for large batches."""
    monkeypatch.setattr(sparank_fusion.runtime, "LEAST_RECORDED", 1)
    found = []
    for cell in cells(mode, modalities, dtype, BATCHES[1:]):
        found += samples(cell, cell.features(), ("contiguous", "mixed"))
    assert_near(found, dtype)


@each_dtype
@pytest.mark.parametrize("mode, modalities", MODES_AND_COUNTS)
def test_memory_layouts(mode: str, modalities: int, dtype: torch.dtype) -> None:
    """Transposed, strided and expanded inputs."""
    found = []
    for batch in (6, 7, 8, 9):
        cell = Cell(mode, modalities, dtype=dtype, batch=batch)
        features = cell.features()
        found += samples(cell, features, ("transposed", "strided"))
        for layout in ("expanded rows", "expanded columns"):
            repeated = [x.contiguous() for x in arrange_all(features, layout)]
            found += samples(cell, repeated, (layout,))
    assert_near(found, dtype)


@pytest.mark.parametrize(
    "mode, modalities, dtype",
    [(*pair, torch.float64) for pair in MODES_AND_COUNTS]
    + [(mode, 2, dtype) for mode in MODES for dtype in (torch.float32, torch.bfloat16)]
    + [(mode, 3, torch.float32) for mode in MODES if 3 in modality_counts(mode)],
    ids=str,
)
def test_batches_longer_than_a_block(mode: str, modalities: int, dtype: torch.dtype) -> None:
    """A layer that walks the batch in blocks must join them, and add up what they give the parameters."""
    found = []
    for batch in (5000, 4097, 3333) if dtype == torch.bfloat16 else (5000,):
        cell = Cell(mode, modalities, dim=128, batch=batch, dtype=dtype)
        found += samples(cell, cell.features(), ("contiguous", "mixed"))
    assert_near(found, dtype)


@each_dtype
@each_mode
def test_one_modality_is_the_identity(mode: str, dtype: torch.dtype) -> None:
    """The very tensor that came goes out, with heads that divide the dimension or not, and no parameters."""
    for dim in (*DIMS, 10):
        for heads in (*head_counts(mode), 4):
            for batch in BATCHES:
                cell = Cell(mode, 1, dim, heads, batch, dtype)
                layer = cell.build(FusionLayer)
                assert list(layer.parameters()) == [], cell
                for layout in ("contiguous", "transposed", "strided"):
                    (x,) = arrange_all(cell.features(), layout)
                    assert layer([x]) is x, cell
                    out, info = layer([x], return_gates=True)
                    assert out is x and info == {"type": "identity", "weights": None}, cell


@each_mode
def test_train_eval_no_grad_and_inference_mode(mode: str) -> None:
    """The same values in every state, and results that require gradients exactly when the published ones do."""
    cell = Cell(mode)
    layers = twins(cell)
    states: dict[str, Callable[[], Any]] = {
        "grad": torch.enable_grad,
        "no_grad": torch.no_grad,
        "inference": torch.inference_mode,
    }
    for training in (True, False):
        for state in states.values():
            for inputs_require, parameters_require in (
                (True, True),
                (True, False),
                (False, True),
                (False, False),
            ):
                inputs = [x.requires_grad_(inputs_require) for x in cell.features()]
                results = []
                for layer in layers:
                    layer.train(training).requires_grad_(parameters_require)
                    with state():
                        out = layer(inputs)
                        beside, info = layer(inputs, return_gates=True)
                    results.append([out, beside, info["weights"]])
                for mine, theirs in zip(*results, strict=True):
                    if theirs is None:
                        assert mine is None
                        continue
                    assert_same(mine, theirs)
                    assert mine.requires_grad == theirs.requires_grad


def same_gradients(
    layers: tuple[nn.Module, nn.Module], inputs: list[Tensor], results: Callable[[nn.Module], list[Tensor]]
) -> None:
    """The gradients of what `results` makes with each layer agree."""
    assert_same_gradients(*(gradients(layer, inputs, results(layer), torch.float64) for layer in layers))


@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
@pytest.mark.parametrize("mode, modalities", MODES_AND_COUNTS)
def test_only_some_inputs_require_gradients(mode: str, modalities: int, frozen: bool) -> None:
    """Every choice of inputs, with and without the parameters."""
    cell = Cell(mode, modalities, dim=8)
    layers = twins(cell)
    for layer in layers:
        layer.requires_grad_(not frozen)
    for choice in range(frozen or mode == "concat", 2**modalities):
        inputs = [x.requires_grad_(bool(choice >> m & 1)) for m, x in enumerate(cell.features())]
        same_gradients(layers, inputs, lambda layer, inputs=inputs: [layer(inputs)])


@each_mode
def test_only_some_parameters_require_gradients(mode: str) -> None:
    """Each parameter alone."""
    cell = Cell(mode, dim=8)
    layers = twins(cell)
    inputs = cell.features()
    for trained in dict(layers[1].named_parameters()):
        for layer in layers:
            for name, parameter in layer.named_parameters():
                parameter.requires_grad_(name == trained)
        same_gradients(layers, inputs, lambda layer: [layer(inputs)])


@pytest.mark.parametrize("mode, modalities", [pair for pair in MODES_AND_COUNTS if pair[0] != "concat"])
def test_gradients_through_the_weights_alone(mode: str, modalities: int) -> None:
    """What the loss takes from the weights, and not from the output, reaches inputs and parameters."""
    cell = Cell(mode, modalities)
    ours, published = twins(cell)
    inputs = [x.requires_grad_() for x in cell.features()]
    found = []
    for layer in (ours, published):
        weights = layer(inputs, return_gates=True)[1]["weights"]
        leaves = [*inputs, *(p for p in layer.parameters())]
        found.append(
            torch.autograd.grad(
                weights, leaves, normal(weights.shape, 5, weights.dtype), materialize_grads=True
            )
        )
    for mine, theirs in zip(*found, strict=True):
        assert_same(mine, theirs)


@each_mode
def test_one_tensor_for_two_modalities(mode: str) -> None:
    """Its gradient is the sum over its uses."""
    cell = Cell(mode, modality_counts(mode)[-1])
    layers = twins(cell)
    for layer in layers:
        layer.requires_grad_(False)
    first, _, *others = (x.requires_grad_() for x in cell.features())
    same_gradients(layers, [first, *others], lambda layer: [layer([first, first, *others])])


@each_mode
def test_tuples_of_features(mode: str) -> None:
    """Any sequence of tensors serves."""
    cell = Cell(mode)
    ours, published = twins(cell)
    assert_same(ours(tuple(cell.features())), published(cell.features()))


@each_mode
def test_nothing_given_is_written_to(mode: str) -> None:
    """Backward can run twice on one graph, and leaves inputs, cotangent, output and parameters as they were."""
    cell = Cell(mode, dim=128, batch=5000)
    layer = twins(cell)[0]
    inputs = [x.requires_grad_() for x in cell.features()]
    out, info = layer(inputs, return_gates=True)
    results = [r for r in (out, info["weights"]) if r is not None]
    cotangents = [normal(r.shape, 3, r.dtype) for r in results]
    leaves = [*inputs, *layer.parameters()]
    given = [*leaves, *results, *cotangents]
    before = [tensor.detach().clone() for tensor in given]
    first, second = (torch.autograd.grad(results, leaves, cotangents, retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))


@each_mode
def test_the_weights_lie_in_one_piece(mode: str) -> None:
    """They may be viewed in another shape, as those of the published layer."""
    cell = Cell(mode)
    for layer in twins(cell):
        out, info = layer(cell.features(), return_gates=True)
        assert out.is_contiguous() and (info["weights"] is None or info["weights"].is_contiguous())


@each_mode
def test_the_output_may_be_changed_in_place(mode: str) -> None:
    """As an in-place activation does that follows the layer."""
    cell = Cell(mode)
    inputs = [x.requires_grad_() for x in cell.features()]
    same_gradients(twins(cell), inputs, lambda layer: [torch.relu_(layer(inputs))])


@each_dtype
@pytest.mark.parametrize("mode, modalities", MODES_AND_COUNTS)
def test_saturated_weights(mode: str, modalities: int, dtype: torch.dtype) -> None:
    """Logits in the thousands overflow a naive exponential."""
    cell = Cell(mode, modalities, dtype=dtype)
    ours, published = twins(cell)
    inputs = [1000 * x for x in cell.features()]
    for layer in (ours, published):
        out, info = layer(inputs, return_gates=True)
        assert torch.isfinite(out).all(), layer
        assert info["weights"] is None or torch.isfinite(info["weights"]).all(), layer
    exact = in_float64(published, cell)([x.double() for x in inputs])
    assert_near([Sample(mode, {"out": ours(inputs)}, {"out": published(inputs)}, {"out": exact})], dtype)


@each_mode
def test_rows_do_not_mix(mode: str) -> None:
    """A row that is not a number stays alone."""
    cell = Cell(mode, batch=5)
    layer = twins(cell)[0]
    clean = layer(cell.features())
    features = cell.features()
    features[1][2] = float("nan")
    out = layer(features)
    others = [0, 1, 3, 4]
    assert out[2].isnan().any()
    assert_same(out[others], clean[others])


@each_mode
def test_second_derivatives_are_right_or_refused(mode: str) -> None:
    """A gradient penalty either is what the published layer makes of it, or says that it cannot be had.

    With weights: without them the published attention itself cannot be differentiated twice on a CPU.
    """
    cell = Cell(mode, dim=8)
    inputs = [x.requires_grad_() for x in cell.features()]

    def penalty(layer: nn.Module) -> list[Tensor]:
        squares = layer(inputs, return_gates=True)[0].square().sum()
        return list(torch.autograd.grad(squares, inputs, create_graph=True))

    layers = twins(cell)
    try:
        gradients(layers[0], inputs, penalty(layers[0]), torch.float64)
    except RuntimeError as refusal:
        assert re.search("derivative|differentiable|double backward", str(refusal)), refusal
    else:
        same_gradients(layers, inputs, penalty)


@each_dtype
def test_the_bounds_notice_a_wrong_layer(dtype: torch.dtype) -> None:
    """An error of a few roundings in one of two samples, everywhere or in one element, is a complaint."""
    step = {torch.float64: 1e-8, torch.float32: 1e-4, torch.bfloat16: 0.1}[dtype]
    two = [Cell("gate", dtype=dtype, batch=batch) for batch in (64, 65)]
    right = [samples(cell, cell.features(), ("contiguous",))[0] for cell in two]
    right = [replace(sample, ours=sample.published) for sample in right]
    assert not complaints(right, dtype)
    for name, value in right[0].published.items():
        if isinstance(value, Tensor):
            one = value.detach().clone()
            one.view(-1)[one.abs().argmax()] *= 1 + step
            for wrong in (value * (1 + step), one, value * float("nan"), value.half(), value[1:], None):
                sample = replace(right[0], ours={**right[0].published, name: wrong})
                assert complaints([sample, right[1]], dtype), name
