"""`torch.compile`, `torch.export` and `torch.jit.trace` take the layer whole, for any batch size."""

from __future__ import annotations

import io
import shutil

import pytest
import torch
from torch import Tensor, nn

from published import (
    MODES,
    assert_same,
    assert_same_gradients,
    assert_same_results,
    gradients,
    one_thread,  # noqa: F401
    small,
    twins,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
WIDE = 128
EXPORTS_NO_STRINGS = torch.__version__.startswith("2.4.")
OTHER_BATCHES = (9, 1, 0, 5000)
each_mode = pytest.mark.parametrize("mode", MODES)
each_flag = pytest.mark.parametrize("return_gates", [False, True], ids=["alone", "with weights"])


def check_compiled(mode: str, backend: str, batches: tuple[int, ...]) -> None:
    """Whole graphs, forward and backward, then the other batch sizes and states."""
    cell = small(mode, dim=WIDE)
    ours, published = twins(cell)
    torch._dynamo.reset()
    compiled = torch.compile(ours, fullgraph=True, backend=backend)
    inputs = [x.requires_grad_() for x in cell.features()]
    found = []
    for call, layer in ((compiled, ours), (published, published)):
        results = call(inputs, return_gates=True)
        found.append((results, gradients(layer, inputs, [results[0], results[1]["weights"]], cell.dtype)))
    assert_same_results(found[0][0], found[1][0])
    assert_same_gradients(found[0][1], found[1][1])
    for batch in batches:
        features = small(mode, batch, WIDE).features()
        assert_same(compiled(features), published(features))
    with torch.no_grad():
        assert_same_results(compiled.eval()(inputs, return_gates=True), published(inputs, return_gates=True))


@each_mode
def test_compile_captures_whole_graphs(mode: str) -> None:
    """For any batch size, without spending time on code for them."""
    check_compiled(mode, "aot_eager", OTHER_BATCHES)


@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="needs a C++ compiler")
@each_mode
def test_compile(mode: str) -> None:
    """With the default compiler."""
    check_compiled(mode, "inductor", ())


@each_flag
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@each_mode
def test_export(mode: str, training: bool, return_gates: bool) -> None:
    """With a free batch size."""
    if return_gates and EXPORTS_NO_STRINGS:
        pytest.skip("torch 2.4 exports no string among results")
    cell = small(mode, dim=WIDE)
    ours, published = (layer.train(training) for layer in twins(cell))
    batch = torch.export.Dim("batch")
    shapes = {"features": [{0: batch}] * cell.modalities, "return_gates": None}
    arguments = (cell.features(), return_gates)
    module = torch.export.export(ours, arguments, dynamic_shapes=shapes).module()
    for size in (cell.batch, 9, 5000):
        features = small(mode, size, WIDE).features()
        assert_same_results(module(features, return_gates), published(features, return_gates=return_gates))


@each_mode
def test_exported_programs_can_be_saved(mode: str) -> None:
    """And run again from the file, for a fixed batch size and without weights: torch stores no string outputs."""
    cell = small(mode, dim=WIDE)
    ours, published = twins(cell)
    file = io.BytesIO()
    torch.export.save(torch.export.export(ours, (cell.features(),)), file)
    file.seek(0)
    assert_same(torch.export.load(file).module()(cell.features()), published(cell.features()))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval without gradients"])
@each_mode
def test_jit_trace(mode: str, training: bool) -> None:
    """A trace made at one batch size holds at others."""
    cell = small(mode, dim=WIDE)
    ours, published = (layer.train(training) for layer in twins(cell))
    with torch.set_grad_enabled(training):
        traced = torch.jit.trace(ours, (cell.features(),))
        for size in (cell.batch, *OTHER_BATCHES):
            features = small(mode, size, WIDE).features()
            assert_same(traced(features), published(features))
    if training:
        inputs = [x.requires_grad_() for x in cell.features()]
        mine = gradients(ours, inputs, [traced(inputs)], cell.dtype)
        assert_same_gradients(mine, gradients(published, inputs, [published(inputs)], cell.dtype))


class Weights(nn.Module):
    """The weights of a layer without the dictionary, which a trace cannot return."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, features: list[Tensor]) -> Tensor:
        return self.layer(features, return_gates=True)[1]["weights"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "concat"])
def test_jit_trace_of_the_weights(mode: str) -> None:
    """They follow the batch size too."""
    cell = small(mode, dim=WIDE)
    ours, published = (Weights(layer) for layer in twins(cell))
    traced = torch.jit.trace(ours, (cell.features(),))
    for size in (cell.batch, 9, 5000):
        features = small(mode, size, WIDE).features()
        assert_same(traced(features), published(features))
