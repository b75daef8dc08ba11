"""What PyTorch does with modules: copies, casts, transforms, autocast, processes, hooks, optimizers."""

from __future__ import annotations

import copy
import dataclasses
import io
import pickle
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn.parallel import DistributedDataParallel

from published import (
    MODES,
    Cell,
    PublishedFusionLayer,
    Sample,
    assert_same,
    assert_same_gradients,
    assert_same_results,
    complaints,
    gradients,
    in_float64,
    modality_counts,
    one_thread,  # noqa: F401
    small,
    twins,
)
from sparank_fusion import FusionLayer

LEARNED = tuple(mode for mode in MODES if mode != "concat")
each_mode = pytest.mark.parametrize("mode", MODES)
each_learned_mode = pytest.mark.parametrize("mode", LEARNED)


@each_mode
def test_repr(mode: str) -> None:
    """It names the class and shows the modules that hold parameters."""
    ours, published = twins(small(mode))
    text = repr(ours)
    assert text.startswith("FusionLayer(") and text.endswith(")")
    for path, module in published.named_modules():
        if path and next(module.parameters(recurse=False), None) is not None:
            assert type(module).__name__ in text
        if path and "." not in path:
            assert f"({path})" in text


def through_torch_save(layer: nn.Module) -> nn.Module:
    """The layer as a file gives it back."""
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    "copied",
    [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy, through_torch_save],
    ids=["pickle", "copy", "save"],
)
@each_mode
def test_copies(mode: str, copied: Callable[[nn.Module], nn.Module]) -> None:
    """A copy of a layer that has been used gives the same, and shares no memory with it."""
    cell = small(mode)
    ours, published = twins(cell)
    inputs = [x.requires_grad_() for x in cell.features()]
    ours(inputs).sum().backward()
    twin = copied(ours.eval())
    assert type(twin) is FusionLayer and not twin.training
    for name in ("dim", "n_modalities", "fusion_type", "out_dim"):
        assert getattr(twin, name) == getattr(ours, name)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.zero_()
    assert_same_results(twin(inputs, return_gates=True), published(inputs, return_gates=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@each_mode
def test_to_dtype(mode: str, dtype: torch.dtype) -> None:
    """A float32 layer moved to another dtype works there as the published one does, and can move back."""
    cell = Cell(mode, dtype=torch.float32, batch=64)
    ours, published = (layer.to(dtype) for layer in twins(cell))
    assert all(p.dtype == dtype for p in ours.parameters())
    features = [x.to(dtype) for x in cell.features()]
    exact = in_float64(published, cell)([x.double() for x in features])
    sample = Sample(mode, {"out": ours(features)}, {"out": published(features)}, {"out": exact})
    assert not complaints([sample], dtype)
    assert ours.float()(cell.features()).dtype == torch.float32


@each_mode
def test_meta_tensors(mode: str) -> None:
    """Shapes without values."""
    cell = small(mode)
    layer = cell.build(FusionLayer).to("meta")
    out = layer([x.to("meta") for x in cell.features()])
    assert out.is_meta and out.shape == (cell.batch, layer.out_dim)


def loss(layer: nn.Module, parameters: dict[str, Tensor], features: list[Tensor]) -> Tensor:
    """A scalar function of the parameters and the features."""
    return functional_call(layer, parameters, (features,)).square().sum()


@each_learned_mode
def test_functional_call(mode: str) -> None:
    """The parameters that are given are used, in the output and in gradients, and not the layer's own."""
    cell = small(mode)
    ours, published = twins(cell)
    given = {name: (2 * p.detach()).requires_grad_() for name, p in published.named_parameters()}
    mine, theirs = (functional_call(layer, given, (cell.features(),)) for layer in (ours, published))
    assert_same(mine, theirs)
    found = [torch.autograd.grad(out.sin().sum(), list(given.values())) for out in (mine, theirs)]
    for pair in zip(*found, strict=True):
        assert_same(*pair)


@each_mode
def test_functional_gradients(mode: str) -> None:
    """`torch.func.grad` for parameters and features."""
    cell = small(mode)
    found = []
    for layer in twins(cell):
        parameters = {name: p.detach() for name, p in layer.named_parameters()}
        given = {**parameters, **{str(m): x for m, x in enumerate(cell.features())}}

        def total(given: dict[str, Tensor], layer: nn.Module = layer) -> Tensor:
            features = [given[str(m)] for m in range(layer.n_modalities)]
            return loss(layer, {name: x for name, x in given.items() if not name.isdigit()}, features)

        found.append(grad(total)(given))
    assert_same_gradients(*found)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@each_learned_mode
def test_gradients_for_each_sample(mode: str) -> None:
    """`vmap` over the batch of `grad`."""
    cell = small(mode)
    found = []
    for layer in twins(cell):

        def one(parameters: dict[str, Tensor], rows: list[Tensor], layer: nn.Module = layer) -> Tensor:
            return loss(layer, parameters, [row.unsqueeze(0) for row in rows])

        parameters = {name: p.detach() for name, p in layer.named_parameters()}
        found.append(vmap(grad(one), in_dims=(None, 0))(parameters, cell.features()))
    assert_same_gradients(*found)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@each_learned_mode
def test_ensembles(mode: str) -> None:
    """`vmap` over stacked parameters."""
    cell = small(mode)
    layers = [cell.build(FusionLayer) for _ in range(3)]
    parameters, buffers = stack_module_state(layers)
    features = cell.features()
    together = vmap(lambda *state: functional_call(layers[0], state, (features,)))(parameters, buffers)
    for layer, out in zip(layers, together, strict=True):
        assert_same(out, layer(features))


def autocast_results(layer: nn.Module, features: list[Tensor], enabled: bool) -> dict[str, Any]:
    """Results and gradients of a forward pass with autocast."""
    inputs = [x.clone().requires_grad_() for x in features]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
        out = layer.train()(inputs)
        both, info = layer(inputs, return_gates=True)
        with torch.no_grad():
            quiet, quiet_info = layer.eval()(inputs, return_gates=True)
    found = {"out": out, "both": both, "weights": info["weights"]}
    found |= {"no_grad": quiet, "no_grad weights": quiet_info["weights"]}
    found |= gradients(layer, inputs, [out], torch.bfloat16)
    joint = gradients(layer, inputs, [both, info["weights"]], torch.bfloat16)
    return found | {f"joint {name}": gradient for name, gradient in joint.items()}


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "mixed"])
@pytest.mark.parametrize(
    "mode, modalities", [(mode, count) for mode in MODES for count in modality_counts(mode)]
)
def test_cpu_autocast(mode: str, modalities: int, kind: str) -> None:
    """Dtypes as the published layer's, and values as near to exact ones, for float32 parameters and any features.

    Features differ in dtype under autocast as soon as one encoder ends in a matrix product and another does not.
    """
    low = {"float32": (), "bfloat16": range(modalities), "mixed": (0, 2)}[kind]
    found = []
    for batch in (16, 17, 31, 32, 64, 65):
        cell = Cell(mode, modalities, dtype=torch.float32, batch=batch)
        ours, published = twins(cell)
        features = [x.bfloat16() for x in cell.features()]
        features = [x if m in low else x.float() for m, x in enumerate(features)]
        mine, theirs = (autocast_results(layer, features, True) for layer in (ours, published))
        exact = autocast_results(in_float64(published, cell), [x.double() for x in features], False)
        found.append(Sample(f"{batch} rows", mine, theirs, exact))
    lines = complaints(found, torch.bfloat16)
    assert not lines, "\n".join(lines)


@each_learned_mode
def test_blocks_do_not_round_gradients_under_autocast(mode: str) -> None:
    """Gradients of a half-precision copy of a parameter would add up over the blocks."""
    cell = dataclasses.replace(small(mode), batch=500, dtype=torch.float32)
    found = []
    for rows in (None, 64):
        torch.manual_seed(0)
        layer = cell.build(FusionLayer)
        layer._block_rows = rows  # type: ignore[assignment]
        features = cell.features()
        with torch.autocast("cpu", torch.bfloat16):
            out = layer(features)
        out.float().square().sum().backward()
        found.append([parameter.grad for parameter in layer.parameters()])
    torch.testing.assert_close(*found, rtol=0, atol=0)


@each_mode
def test_disabled_autocast(mode: str) -> None:
    """It changes nothing."""
    cell = Cell(mode, dtype=torch.float32)
    ours = twins(cell)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=False):
        inside = ours(cell.features())
    assert torch.equal(inside, ours(cell.features()))


def train(model: nn.Module, features: list[Tensor], optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    """A few steps towards small outputs."""
    for _ in range(steps):
        optimizer.zero_grad()
        model(features).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize(
    "optimizer, options", [(torch.optim.SGD, {"momentum": 0.9}), (torch.optim.AdamW, {"eps": 1e-3})]
)
@each_learned_mode
def test_optimizer_steps(
    mode: str, optimizer: type[torch.optim.Optimizer], options: dict[str, float]
) -> None:
    """Training moves the parameters as it moves the published ones, and moves them.

    Attention's key bias has no gradient but rounding errors, which Adam's usual epsilon would turn into steps.
    """
    cell = small(mode)
    ours, published = twins(cell)
    start = copy.deepcopy(ours.state_dict())
    for layer in (ours, published):
        train(layer, cell.features(), optimizer(layer.parameters(), lr=0.01, **options))
    for name, parameter in ours.named_parameters():
        assert_same(parameter, published.get_parameter(name))
        assert not torch.equal(parameter, start[name]), name


def train_on_rank(rank: int, ranks: int, folder: str) -> None:
    """One of the processes: trains every mode on its share of the batch and saves what came of it."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", f"file://{folder}/store", timedelta(seconds=120), rank=rank, world_size=ranks
    )
    for mode in LEARNED:
        cell = small(mode, 8)
        ours = twins(cell)[0]
        model = DistributedDataParallel(ours)
        share = [x.chunk(ranks)[rank] for x in cell.features()]
        train(model, share, torch.optim.SGD(model.parameters(), lr=0.1))
        torch.save(ours.state_dict(), f"{folder}/{mode}{rank}")
        del model
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without distributed")
def test_distributed_data_parallel(tmp_path: Path) -> None:
    """Two ranks end where the published layer ends alone on the whole batch."""
    torch.multiprocessing.spawn(train_on_rank, (2, str(tmp_path)), nprocs=2)
    for mode in LEARNED:
        cell = small(mode, 8)
        published = twins(cell)[1]
        train(published, cell.features(), torch.optim.SGD(published.parameters(), lr=0.1))
        for rank in range(2):
            for name, value in torch.load(tmp_path / f"{mode}{rank}").items():
                assert_same(value, published.get_parameter(name).detach())


def halved(base: type[nn.Module]) -> type[nn.Module]:
    """A subclass with a parameter of its own around what the layer returns."""

    class Halved(base):
        def __init__(self, mode: str) -> None:
            super().__init__(16, 2, mode)
            self.factor = nn.Parameter(torch.tensor(0.5))

        def forward(self, features: list[Tensor]) -> Tensor:
            return self.factor * super().forward(features)

    return Halved


@each_mode
def test_subclasses(mode: str) -> None:
    """They extend the constructor, the parameters and the call."""
    cell = Cell(mode)
    published, ours = (halved(base)(mode).double() for base in (PublishedFusionLayer, FusionLayer))
    ours.load_state_dict(published.state_dict(), strict=True)
    assert isinstance(ours, FusionLayer)
    found = [gradients(layer, [], [layer(cell.features())], cell.dtype) for layer in (ours, published)]
    assert_same_gradients(*found)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@each_mode
def test_hooks_of_the_layer(mode: str) -> None:
    """Hooks before, after and on the way back see and change what they do of the published layer."""
    cell = small(mode)
    seen: list[list[Any]] = []
    for layer in twins(cell):
        inputs = [x.requires_grad_() for x in cell.features()]
        passing: list[Any] = []
        layer.register_forward_pre_hook(lambda module, args: ([2 * x for x in args[0]],))
        layer.register_forward_hook(lambda module, args, out: out + 1)
        layer.register_full_backward_hook(lambda module, into, out, passing=passing: passing.append(out[0]))
        out = layer(inputs)
        passing += [out, *gradients(layer, inputs, [out], cell.dtype).values()]
        seen.append(passing)
    assert len(seen[1]) > 2
    for mine, theirs in zip(*seen, strict=True):
        assert_same(mine, theirs)


@each_learned_mode
def test_replicas_compute_with_their_own_parameters(mode: str) -> None:
    """As those of DataParallel do, which get other modules."""
    cell = small(mode)
    for layer in twins(cell):
        changed = copy.deepcopy(layer)
        with torch.no_grad():
            for parameter in changed.parameters():
                parameter.mul_(2)
        for replica in (layer._replicate_for_data_parallel(), copy.copy(layer)):  # type: ignore[no-untyped-call]
            replica._modules = dict(changed._modules)
            assert_same(replica(cell.features()), changed(cell.features()))


def test_parametrized_tensors_of_the_layer() -> None:
    """A parameter that the layer itself holds may be computed from another."""
    features = [torch.randn(5, 8) for _ in range(3)]
    layer, wanted = (FusionLayer(8, 3, "scalar_mix") for _ in range(2))
    nn.utils.parametrize.register_parametrization(layer, "gamma", nn.Tanh())
    with torch.no_grad():
        wanted.gamma.tanh_()  # type: ignore[operator, union-attr]
    torch.testing.assert_close(layer(features), wanted(features))


@pytest.mark.parametrize(
    "mode, path", [("gate", "gate_projs.1"), ("sigmoid_gate", "gate_net.0"), ("attention", "attn.out_proj")]
)
def test_parametrized_weights(mode: str, path: str) -> None:
    """A weight computed from others, as weight normalisation does, is the one that is used."""
    cell = small(mode)
    found = []
    for layer in twins(cell):
        nn.utils.parametrizations.weight_norm(layer.get_submodule(path))
        with torch.no_grad():
            layer.get_submodule(path).parametrizations.weight.original0.mul_(3)
        out = layer(cell.features())
        found.append({"out": out, **gradients(layer, [], [out], cell.dtype)})
    assert_same_gradients(*found)


class WithDropout(nn.Module):
    """A class that takes part in the constructors of others."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.drop = nn.Dropout(0.0)


@pytest.mark.parametrize("base", [FusionLayer, PublishedFusionLayer])
def test_constructors_of_other_bases_run(base: type[nn.Module]) -> None:
    made = type("Dropping", (base, WithDropout), {})(16, 2, "gate")
    assert isinstance(made.drop, nn.Dropout)


@pytest.mark.parametrize("mode", MODES)
def test_gradients_that_inference_mode_does_not_record(mode: str) -> None:
    """Tensors of inference mode have no versions, whether gradients are enabled or not."""
    cell = Cell(mode, 2, batch=5000)
    layer, published = twins(cell)
    with torch.inference_mode(), torch.enable_grad():
        features = cell.features()
        torch.testing.assert_close(layer(features), published(features))


@pytest.mark.parametrize("mode", ["attention", "concat"])
def test_a_layer_that_grows(mode: str) -> None:
    """Modalities may be added to a layer whose parameters are the same for all."""
    cell = Cell(mode, 2)
    found = []
    for layer in twins(cell):
        layer(cell.features())
        layer.n_modalities = 3
        found.append(layer(Cell(mode, 3).features()))
    torch.testing.assert_close(*found)


def test_a_gate_that_grows() -> None:
    cell = Cell("gate", 2)
    found = []
    for layer in twins(cell):
        layer(cell.features())
        torch.manual_seed(2)
        layer.gate_projs.append(nn.Linear(cell.dim, cell.dim, dtype=cell.dtype))  # type: ignore[operator, union-attr]
        layer.n_modalities = 3
        found.append(layer(Cell("gate", 3).features()))
    torch.testing.assert_close(*found)


def test_constructors_ask_nothing_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has asked for GPUs is not to be forked."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("was asked for GPUs"))
    monkeypatch.setattr("sparank_fusion.runtime.is_built_for_gpus", lambda: True)
    layer = FusionLayer(8, 2, "gate")
    assert layer([torch.ones(3, 8)] * 2).shape == (3, 8)


def test_where_a_layer_is_loaded_decides_whether_it_may_run_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    written = pickle.dumps(FusionLayer(8, 2, "gate"))
    monkeypatch.setattr("sparank_fusion.runtime.is_built_for_gpus", lambda: True)
    assert pickle.loads(written)._may_use_kernels == FusionLayer(8, 2, "gate")._may_use_kernels
