"""Submodules with hooks, and others in their place: they are called as the published layer calls them, or it is said that not."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrizations, prune, spectral_norm
from torch.utils.hooks import RemovableHandle

from published import Cell, assert_same_gradients, gradients, twins
from sparank_fusion import FusionLayer, FusionMode, mode_class

# Below and above the batches that have gradients of their own, and with two modalities the shorter form.
LINEARS = [("gate", 2, "gate_projs.0"), ("gate", 3, "gate_projs.1"), ("sigmoid_gate", 2, "gate_net.0")]
each_linear = pytest.mark.parametrize("mode, modalities, path", LINEARS)
each_batch = pytest.mark.parametrize("batch", [3, 5000])
Change = Callable[[nn.Module, str], None]


class Adapted(nn.Module):
    """A linear map with a low-rank term beside it, as adapters have, which shows the weight of the map inside."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner = inner
        torch.manual_seed(1)
        self.down = nn.Linear(inner.in_features, 2, bias=False)
        self.up = nn.Linear(2, inner.out_features, bias=False)

    @property
    def weight(self) -> Tensor:
        return self.inner.weight

    @property
    def bias(self) -> Tensor:
        return self.inner.bias

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x) + self.up(self.down(x))
        return out


def adapt(layer: nn.Module, path: str) -> None:
    parent, _, name = path.rpartition(".")
    layer.get_submodule(parent)._modules[name] = Adapted(layer.get_submodule(path)).double()  # type: ignore[arg-type]


def hook(layer: nn.Module, path: str) -> None:
    layer.get_submodule(path).register_forward_hook(lambda module, given, out: 2 * out)


def hook_before(layer: nn.Module, path: str) -> None:
    layer.get_submodule(path).register_forward_pre_hook(lambda module, given: (given[0] + 1,))


def hook_backward(layer: nn.Module, path: str) -> None:
    """The inputs of the first steps need no gradient, and have none."""
    module = layer.get_submodule(path)
    module.register_full_backward_hook(lambda module, given, out: None if given[0] is None else (3 * given[0],))


def hook_backward_before(layer: nn.Module, path: str) -> None:
    layer.get_submodule(path).register_full_backward_pre_hook(lambda module, out: (3 * out[0],))


def give_forward(layer: nn.Module, path: str) -> None:
    """As offloading gives modules one."""
    module = layer.get_submodule(path)
    forward = module.forward
    module.forward = lambda x: 2 * forward(x)


def cut(layer: nn.Module, path: str) -> None:
    torch.manual_seed(1)
    prune.random_unstructured(layer.get_submodule(path), "weight", 0.5)  # type: ignore[no-untyped-call]


def normalise(layer: nn.Module, path: str) -> None:
    torch.manual_seed(1)
    spectral_norm(layer.get_submodule(path))


class Dropped(nn.Module):
    """A parametrisation that leaves out some of a weight, others at each read."""

    def forward(self, weight: Tensor) -> Tensor:
        return F.dropout(weight, 0.5)


def drop(layer: nn.Module, path: str) -> None:
    nn.utils.parametrize.register_parametrization(layer.get_submodule(path), "weight", Dropped())


def normalise_anew(layer: nn.Module, path: str) -> None:
    """Each read in training is a step of a power iteration."""
    torch.manual_seed(1)
    nn.utils.parametrizations.spectral_norm(layer.get_submodule(path))


def same(mode: str, modalities: int, path: str, batch: int, change: Change) -> None:
    """Both layers give the same, and the same gradients, after some steps of training."""
    cell = Cell(mode, modalities, batch=batch)
    found: list[dict[str, Tensor]] = []
    for layer in twins(cell):
        layer(cell.features())
        change(layer, path)
        optimiser = torch.optim.SGD(layer.parameters(), 0.01)
        for _ in range(2):
            layer(cell.features()).square().mean().backward()
            optimiser.step()
            optimiser.zero_grad()
        inputs = [x.requires_grad_() for x in cell.features()]
        out = layer(inputs)
        found.append({"out": out, **gradients(layer, inputs, [out], cell.dtype)})
    assert_same_gradients(*found)


@each_batch
@pytest.mark.parametrize("change", [adapt, hook, hook_before, hook_backward, hook_backward_before, give_forward, cut, normalise])
@each_linear
def test_linear_maps(mode: str, modalities: int, path: str, batch: int, change: Change) -> None:
    same(mode, modalities, path, batch, change)


@each_batch
@pytest.mark.parametrize("change", [hook, hook_before, hook_backward, hook_backward_before, give_forward, cut])
def test_layer_normalisation(change: Change, batch: int) -> None:
    same("attention", 2, "norm", batch, change)


@each_batch
@pytest.mark.parametrize("hooked", [[0], [1], [0, 1]])
@pytest.mark.parametrize("modalities", [2, 3])
def test_linear_maps_that_share_a_weight(modalities: int, hooked: list[int], batch: int) -> None:
    """Each has a bias of its own."""

    def share(layer: nn.Module, path: str) -> None:
        projections = layer.get_submodule(path)
        projections[1].weight = projections[0].weight  # type: ignore[index]
        for position in hooked:
            hook(layer, f"{path}.{position}")

    same("gate", modalities, "gate_projs", batch, share)


@pytest.mark.parametrize("change", [drop, normalise_anew])
@pytest.mark.parametrize("mode, modalities, path", [("gate", 2, "gate_projs.0"), ("gate", 3, "gate_projs.1"), ("attention", 3, "attn.out_proj")])
@pytest.mark.parametrize("with_gradients", [True, False])
@pytest.mark.parametrize("is_frozen", [True, False])
def test_parametrized_weights_are_read_once(
    change: Change, mode: str, modalities: int, path: str, with_gradients: bool, is_frozen: bool
) -> None:
    """However large a batch is."""
    cell = Cell(mode, modalities, batch=40000)
    found: list[Tensor] = []
    for layer in twins(cell):
        change(layer, path)
        layer.requires_grad_(not is_frozen)
        torch.manual_seed(1)
        with torch.set_grad_enabled(with_gradients):
            found.append(layer(cell.features()))
    torch.testing.assert_close(*found)


def headed(mode: str, kind: type[nn.Module], *arguments: Any) -> nn.Module:
    """A layer of a class made of ``kind``, with modules of its own after it."""

    class Headed(kind):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            super().__init__(8, 2, *arguments)
            self.head = Adapted(nn.Linear(self.out_dim, 4))
            self.norm_2 = nn.LayerNorm(4)
            self.norm_2.register_forward_hook(lambda *seen: None)

        def forward(self, *given: Any, **options: Any) -> Any:
            return self.norm_2(self.head(super().forward(*given, **options)))

    return Headed()


@pytest.mark.parametrize("is_whole", [True, False])
@pytest.mark.parametrize("mode", ["concat", "gate", "sigmoid_gate", "attention"])
def test_classes_made_of_the_layers_may_have_modules_of_their_own(mode: FusionMode, is_whole: bool) -> None:
    kind, arguments = (FusionLayer, (mode,)) if is_whole else (mode_class(mode), ())
    layer, features = headed(mode, kind, *arguments), layer_and_features(mode, 2)[1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = layer(features)
    torch.testing.assert_close(found, layer.norm_2(layer.head(kind.forward(layer, features))))  # type: ignore[operator]
    assert copy.deepcopy(layer)(features).equal(found)


@pytest.mark.parametrize("mode, modalities", [("gate", 2), ("gate", 3)])
def test_lists_of_modules_are_never_called(mode: str, modalities: int) -> None:
    layer, features = layer_and_features(mode, modalities)
    wanted = layer(features)
    layer.gate_projs.register_forward_pre_hook(lambda module, given: None)  # type: ignore[operator, union-attr]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(layer(features), wanted)


def test_gradients_that_a_hook_would_change_are_an_error() -> None:
    layer, features = layer_and_features("attention", 2)
    layer.attn.register_full_backward_hook(lambda *seen: None)  # type: ignore[operator, union-attr]
    with pytest.raises(RuntimeError, match="'attn' .MultiheadAttention. is not called"):
        layer(features)


def layer_and_features(mode: Any, modalities: int) -> tuple[FusionLayer, list[Tensor]]:
    torch.manual_seed(0)
    return FusionLayer(8, modalities, mode), [torch.randn(3, 8) for _ in range(modalities)]


@each_linear
def test_hooks_see_what_passes(mode: str, modalities: int, path: str) -> None:
    layer, features = layer_and_features(mode, modalities)
    seen: list[tuple[Tensor, Tensor]] = []
    handle = layer.get_submodule(path).register_forward_hook(lambda module, given, out: seen.append((given[0], out)))
    layer(features)
    module = layer.get_submodule(path)
    ((given, out),) = seen
    torch.testing.assert_close(out, nn.functional.linear(given, module.weight, module.bias))  # type: ignore[arg-type]
    handle.remove()
    layer(features)
    assert len(seen) == 1


@each_linear
def test_compiled_layers_call_them_too(mode: str, modalities: int, path: str) -> None:
    for change in (adapt, hook, give_forward):
        torch._dynamo.reset()
        layer, features = layer_and_features(mode, modalities)
        change(layer, path)
        layer.float()
        torch.testing.assert_close(torch.compile(layer, backend="eager")(features), layer(features))


@each_linear
def test_missing_modalities(mode: str, modalities: int, path: str) -> None:
    layer, features = layer_and_features(mode, modalities)
    if layer.numbered:
        pytest.skip("no modality of this mode may be missing")
    hook(layer, path)
    present = torch.ones(3, modalities, dtype=torch.bool)
    torch.testing.assert_close(layer(features, present=present), layer(features))


def test_what_cannot_be_called_is_an_error() -> None:
    """The projections of attention are parts of one weight: where hooks compute that, stale ones would be used."""
    layer, features = layer_and_features("attention", 2)
    prune.random_unstructured(layer.attn, "in_proj_weight", 0.5)  # type: ignore[arg-type, no-untyped-call]
    with pytest.raises(RuntimeError, match="'attn' .MultiheadAttention. is not called: .* torch.nn.utils.parametrize"):
        layer(features)


@each_linear
def test_submodules_without_the_parameters_are_an_error(mode: str, modalities: int, path: str) -> None:
    """As those of other arithmetic, which hold no weight as a tensor."""
    layer, features = layer_and_features(mode, modalities)
    parent, _, name = path.rpartition(".")
    layer.get_submodule(parent)._modules[name] = nn.Identity()
    with pytest.raises(RuntimeError, match="parameters that the formula reads: 'Identity' object has no attribute 'weight'"):
        layer(features)
    layer.get_submodule(parent)._modules[name] = type("Other", (nn.Module,), {"forward": lambda self, x: x})()
    with pytest.raises(RuntimeError, match=f"expected submodules with the formula's parameters in place of '{path}' .Other.: "):
        layer(features)


@each_linear
def test_copies_know_nothing_of_hooks(mode: str, modalities: int, path: str) -> None:
    """Hooks are counted, in each process for itself."""
    layer, features = layer_and_features(mode, modalities)
    layer(features)
    layer.get_submodule(path).register_forward_pre_hook(twice)
    layer._hooks_known = RemovableHandle.next_id  # type: ignore[assignment]
    stale = layer(features)
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert not torch.equal(copied(features), stale)


def twice(module: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
    return (2 * given[0],)


def test_a_hook_that_only_looks_changes_no_number() -> None:
    """A call would compute with the module's eps, and the formula has its own."""
    layer, features = layer_and_features("attention", 2)
    layer.norm.eps = 0.5  # type: ignore[union-attr, assignment]
    layer(features)
    layer.norm.register_forward_hook(lambda *seen: None)  # type: ignore[operator, union-attr]
    with pytest.raises(RuntimeError, match="expected LayerNorm.eps to be 1e-05, as in the formula, got 0.5"):
        layer(features)


def test_hooks_that_only_look_are_warned_of() -> None:
    layer, features = layer_and_features("attention", 2)
    wanted = layer(features)
    layer.attn.register_forward_hook(lambda *seen: None)  # type: ignore[operator, union-attr]
    with pytest.warns(UserWarning, match="'attn' .MultiheadAttention. is not called: .* its forward hooks do not run"):
        torch.testing.assert_close(layer(features), wanted)


def test_usual_layers_are_not_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for mode, modalities in (("gate", 3), ("sigmoid_gate", 2), ("attention", 2)):
            layer, features = layer_and_features(mode, modalities)
            nn.utils.parametrizations.weight_norm(next(x for x in layer.modules() if isinstance(x, nn.Linear)))
            layer(features)


@each_linear
def test_hooks_and_weights_that_are_computed_where_they_are_read(mode: str, modalities: int, path: str) -> None:
    """Which module computes with a weight is told by the weight, which is another one each time."""
    layer, features = layer_and_features(mode, modalities)
    parametrizations.weight_norm(layer.get_submodule(path))
    layer.get_submodule(path).register_forward_hook(lambda *_: None)
    with pytest.raises(RuntimeError, match=f"computed where they are read, .* in place of '{path}' .ParametrizedLinear., .* remove one"):
        layer(features)


@each_linear
def test_hooks_of_all_modules(mode: str, modalities: int, path: str) -> None:
    """Hooks that torch runs for every module, as its counters of operations do, see submodules and change them."""
    cell = Cell(mode, modalities)
    layer, published = twins(cell)
    features = cell.features()
    layer(features)

    def double(module: nn.Module, inputs: object, output: Tensor) -> Tensor | None:
        return output * 2 if isinstance(module, nn.Linear) else None

    handle = register_module_forward_hook(double)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found, wanted = layer(features), published(features)
    finally:
        handle.remove()
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(layer(features), published(features))


@each_linear
def test_a_class_whose_forward_is_replaced(mode: str, modalities: int, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = Cell(mode, modalities)
    layer, published = twins(cell)
    features = cell.features()
    layer(features)
    old = nn.Linear.forward
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: old(self, x) * 2)
    torch.testing.assert_close(layer(features), published(features))


def test_sequences_with_more_modules_than_the_formula_has() -> None:
    layer, features = layer_and_features("sigmoid_gate", 2)
    layer(features)
    layer.gate_net.append(nn.ReLU())  # type: ignore[operator]
    with pytest.warns(UserWarning, match="'gate_net.1' .ReLU. is not called: the formula has no such module"):
        layer(features)
    layer.gate_net.append(nn.Linear(8, 8))  # type: ignore[operator]
    with pytest.raises(RuntimeError, match="'gate_net.2' .Linear. is not called: .* its parameters would not be learned"):
        layer(features)
