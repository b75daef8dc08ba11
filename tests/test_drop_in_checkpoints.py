"""Parameters and their names: a checkpoint of either layer is one of the other."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from published import (
    DIMS,
    DTYPES,
    MODES,
    Cell,
    PublishedFusionLayer,
    assert_same,
    head_counts,
    modality_counts,
    one_thread,  # noqa: F401
)
from sparank_fusion import FusionLayer

each_mode = pytest.mark.parametrize("mode", MODES)


def grid(mode: str) -> Iterator[Cell]:
    """Every way to build a layer of the mode, one modality included."""
    for modalities in (1, *modality_counts(mode)):
        for dim in DIMS:
            for heads in head_counts(mode):
                yield Cell(mode, modalities, dim, heads, dtype=torch.float32)


def seeded(layer: type[nn.Module], cell: Cell, seed: int = 3) -> nn.Module:
    """A layer initialised under a seed."""
    torch.manual_seed(seed)
    return cell.build(layer)


@each_mode
def test_initial_parameters_are_bit_identical(mode: str) -> None:
    """Same names in the same order, same bits, and the same random numbers left for what is built next."""
    for cell in grid(mode):
        published = seeded(PublishedFusionLayer, cell)
        state = torch.get_rng_state()
        ours = seeded(FusionLayer, cell)
        assert torch.equal(torch.get_rng_state(), state), cell
        mine, theirs = ours.state_dict(), published.state_dict()
        assert list(mine) == list(theirs), cell
        assert list(dict(ours.named_parameters())) == list(dict(published.named_parameters())), cell
        for name, value in mine.items():
            assert value.dtype == theirs[name].dtype and torch.equal(value, theirs[name]), (cell, name)


@each_mode
def test_initial_parameters_follow_default_dtype_and_device(mode: str) -> None:
    """As a model does that is built in another dtype, or without memory."""
    cell = Cell(mode)
    torch.set_default_dtype(torch.float64)
    try:
        published, ours = (
            layer(cell.dim, cell.modalities, mode, cell.heads).state_dict()
            for layer in (PublishedFusionLayer, FusionLayer)
        )
    finally:
        torch.set_default_dtype(torch.float32)
    assert {name: p.dtype for name, p in ours.items()} == {name: p.dtype for name, p in published.items()}
    with torch.device("meta"):
        layer = FusionLayer(cell.dim, cell.modalities, mode, cell.heads)
    assert all(p.is_meta for p in layer.parameters())


@each_mode
def test_state_dicts_load_in_both_directions(mode: str) -> None:
    """Strictly, and with every value taken."""
    for cell in grid(mode):
        ours, published = seeded(FusionLayer, cell, 4), seeded(PublishedFusionLayer, cell, 5)
        for source, target in ((published, FusionLayer), (ours, PublishedFusionLayer)):
            loaded = seeded(target, cell, 6)
            keys = loaded.load_state_dict(source.state_dict(), strict=True)
            assert not keys.missing_keys and not keys.unexpected_keys, cell
            for name, value in loaded.state_dict().items():
                assert torch.equal(value, source.state_dict()[name]), (cell, name)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@each_mode
def test_saved_checkpoints_load(mode: str, dtype: torch.dtype) -> None:
    """Through a file, without running code from it, and by assignment."""
    cell = Cell(mode, dtype=dtype)
    ours, published = seeded(FusionLayer, cell, 4), seeded(PublishedFusionLayer, cell, 5)
    file = io.BytesIO()
    torch.save(published.state_dict(), file)
    file.seek(0)
    ours.load_state_dict(torch.load(file, weights_only=True), strict=True, assign=True)
    for name, parameter in ours.named_parameters():
        assert parameter.dtype == dtype
        assert torch.equal(parameter, published.get_parameter(name))


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "concat"])
def test_a_checkpoint_of_another_layer_is_refused(mode: str) -> None:
    """A strict load notices another dimension, another mode and a missing key."""
    layer = Cell(mode).build(FusionLayer)
    other_mode = "gate" if mode != "gate" else "attention"
    short = dict(list(layer.state_dict().items())[1:])
    others = (
        Cell(mode, dim=32).build(FusionLayer).state_dict(),
        Cell(other_mode).build(FusionLayer).state_dict(),
    )
    for state in (*others, short):
        with pytest.raises(RuntimeError, match="Error\\(s\\) in loading state_dict"):
            layer.load_state_dict(state, strict=True)


@each_mode
def test_loaded_checkpoints_are_used(mode: str) -> None:
    """The output follows the parameters that were loaded last."""
    cell = Cell(mode)
    ours, features = seeded(FusionLayer, cell, 4), cell.features()
    for seed in (5, 6):
        published = seeded(PublishedFusionLayer, cell, seed)
        ours.load_state_dict(published.state_dict(), strict=True)
        assert_same(ours(features), published(features))


@pytest.mark.parametrize("to_ours", [True, False], ids=["to ours", "to published"])
@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "concat"])
def test_optimizer_state_goes_over(mode: str, to_ours: bool) -> None:
    """Optimizers number the parameters, so that training can go on with the other layer only in the same order."""
    cell = Cell(mode)
    classes = (PublishedFusionLayer, FusionLayer) if to_ours else (FusionLayer, PublishedFusionLayer)
    first, second = (seeded(layer, cell, 4) for layer in classes)
    optimizers = [torch.optim.SGD(layer.parameters(), lr=0.01, momentum=0.9) for layer in (first, second)]

    def step(layer: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        layer(cell.features()).square().sum().backward()
        optimizer.step()

    step(first, optimizers[0])
    second.load_state_dict(first.state_dict(), strict=True)
    optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
    for layer, optimizer in zip((first, second), optimizers, strict=True):
        step(layer, optimizer)
    for name, parameter in second.named_parameters():
        assert_same(parameter, first.get_parameter(name))


@each_mode
def test_attributes(mode: str) -> None:
    """What others read off a layer: sizes, mode, and the modules that hold the parameters."""
    for cell in grid(mode):
        ours, published = cell.build(FusionLayer), cell.build(PublishedFusionLayer)
        for name in ("dim", "n_modalities", "fusion_type", "out_dim", "training"):
            assert getattr(ours, name) == getattr(published, name), (cell, name)
        for path, module in published.named_modules():
            if path and any(True for _ in module.parameters()):
                assert type(ours.get_submodule(path)) is type(module), (cell, path)
        for name, parameter in published.named_parameters():
            assert ours.get_parameter(name).requires_grad == parameter.requires_grad, (cell, name)
        assert list(ours.buffers()) == []


@each_mode
def test_out_dim_is_the_width_of_the_output(mode: str) -> None:
    """For every count of modalities."""
    for cell in grid(mode):
        layer = cell.build(FusionLayer)
        assert layer(cell.features()).shape == (cell.batch, layer.out_dim), cell


def test_arguments_are_those_of_the_published_layer() -> None:
    """By position and by name, with the same defaults."""
    assert FusionLayer(8, 2).fusion_type == "concat"
    assert (
        FusionLayer(8, 2, "attention").attn.num_heads
        == PublishedFusionLayer(8, 2, "attention").attn.num_heads
    )
    assert FusionLayer(8, 3, "attention", 2).attn.num_heads == 2
    layer = FusionLayer(dim=8, n_modalities=3, fusion_type="attention", attn_heads=2)
    assert (layer.dim, layer.n_modalities, layer.fusion_type, layer.attn.num_heads) == (8, 3, "attention", 2)
    with pytest.raises(TypeError):
        FusionLayer(8, 3, "attention", 2, "torch")
