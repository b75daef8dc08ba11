"""Modes whose gradients are statements derived from their formula: what autograd promises holds for them too.

``test_random_gradients.py`` compares the numbers of many programs, ``test_drop_in_numerics.py`` with the published layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

import sparank_fusion.runtime
from sparank_fusion import FusionLayer

CASES = [("gate", 2), ("gate", 3), ("gate", 5), ("sigmoid_gate", 2)]
each = pytest.mark.parametrize("mode, modalities", CASES)
OWN = "_DerivedBackward"


@pytest.fixture(autouse=True)
def any_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Own gradients for the smallest batch."""
    monkeypatch.setattr(sparank_fusion.runtime, "LEAST_RECORDED", 1)


def make(mode: str, modalities: int, dtype: torch.dtype = torch.float64) -> tuple[FusionLayer, list[Tensor]]:
    torch.manual_seed(0)
    layer = FusionLayer(dim=4, n_modalities=modalities, fusion_type=mode).to(dtype)
    return layer, [torch.randn(3, 4, dtype=dtype, requires_grad=True) for _ in range(modalities)]


def gradients(layer: nn.Module, features: list[Tensor], out: Tensor) -> list[Tensor]:
    tensors = [x for x in (*features, *layer.parameters()) if x.requires_grad]
    return list(torch.autograd.grad((out**2).sum(), tensors))


def recording(layer: nn.Module, features: list[Tensor]) -> Tensor:
    """The output of a call that returns the weights too, whose gradients torch records."""
    out: Tensor = layer(features, return_gates=True)[0]
    return out


def recorded(layer: nn.Module, features: list[Tensor]) -> list[Tensor]:
    """The gradients that torch records: those of a call that returns the weights too."""
    out = recording(layer, features)
    assert name(out) != OWN
    return gradients(layer, features, out)


def name(tensor: Tensor) -> str:
    return type(tensor.grad_fn).__name__


def test_few_rows_of_many_modalities_are_one_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stacks of features and weights, where each operation takes as long as its call; not where it takes longer."""
    monkeypatch.setattr(sparank_fusion.runtime, "LEAST_RECORDED", 1 << 20)
    for modalities, rows, products in ((2, 4, {"AddmmBackward0"}), (3, 4, {"BaddbmmBackward0"}), (3, 4096, {"AddmmBackward0"})):
        layer = FusionLayer(4, modalities, "gate")
        out = layer([torch.randn(rows, 4, requires_grad=True) for _ in range(modalities)])
        assert {node for node in graph(out) if "mm" in node} == products


def graph(tensor: Tensor) -> set[str]:
    """The names of all operations that torch recorded for a tensor."""
    found, todo = set(), [tensor.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in found:
            found.add(node)
            todo += [child for child, _ in node.next_functions]
    return {type(node).__name__ for node in found}


@each
def test_large_batches_have_them(mode: str, modalities: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    layer, _ = make(mode, modalities)
    small, large = (layer([torch.zeros(rows, 4, dtype=torch.float64)] * modalities) for rows in (2047, 2048))
    assert name(small) != OWN and name(large) == OWN


@each
def test_gradients(mode: str, modalities: int) -> None:
    layer, features = make(mode, modalities)
    out = layer(features)
    assert name(out) == OWN
    torch.testing.assert_close(gradients(layer, features, out), recorded(layer, features))


@each
def test_gradients_of_blocks(mode: str, modalities: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long batches are walked in blocks, whose gradients add up."""
    layer, features = make(mode, modalities)
    wanted = recorded(layer, features)
    monkeypatch.setattr(sparank_fusion.runtime, "MOST_ROWS_RECORDED", 2)
    monkeypatch.setattr(sparank_fusion.runtime, "ROWS_RECORDED", 2)
    out = layer(features)
    assert name(out) == "CatBackward0" and type(out.grad_fn.next_functions[0][0]).__name__ == OWN  # type: ignore[union-attr]
    torch.testing.assert_close(gradients(layer, features, out), wanted)
    features[0].requires_grad_(False)
    torch.testing.assert_close(gradients(layer, features, layer(features)), wanted[1:])


@each
def test_second_and_third_derivatives(mode: str, modalities: int) -> None:
    layer, features = make(mode, modalities)
    parameters = list(layer.parameters())
    keys = [key for key, _ in layer.named_parameters()]

    def run(*tensors: Tensor) -> Any:
        given, held = list(tensors[:modalities]), tensors[modalities:]
        return torch.func.functional_call(layer, dict(zip(keys, held, strict=True)), (given,))

    held = [x.detach().clone().requires_grad_() for x in parameters]
    assert name(run(*features, *held)) == OWN
    assert torch.autograd.gradcheck(run, (*features, *held))
    assert torch.autograd.gradgradcheck(run, (*features, *held))

    def third(out: Tensor) -> Tensor:
        for _ in range(2):
            (first,) = torch.autograd.grad(out.pow(2).sum(), features[0], create_graph=True)
            out = first
        return torch.autograd.grad(out.sum(), features[0])[0]

    torch.testing.assert_close(third(layer(features)), third(layer(features, return_gates=True)[0]))


@each
def test_a_graph_that_is_kept_gives_the_same_twice(mode: str, modalities: int) -> None:
    layer, features = make(mode, modalities)
    before = [x.detach().clone() for x in (*features, *layer.parameters())]
    out = layer(features)
    cotangent = torch.randn_like(out)
    given, kept = cotangent.clone(), out.detach().clone()
    tensors = [*features, *layer.parameters()]
    first, second = (torch.autograd.grad(out, tensors, given, retain_graph=True) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert torch.equal(given, cotangent) and torch.equal(out, kept)
    assert all(torch.equal(x, y) for x, y in zip(before, tensors, strict=True))


@each
def test_only_some_tensors_require_gradients(mode: str, modalities: int) -> None:
    layer, features = make(mode, modalities)
    wanted = recorded(layer, features)

    def check(own: bool) -> None:
        out = layer(features)
        assert (name(out) == OWN) == own
        tensors = zip([*features, *layer.parameters()], wanted, strict=True)
        torch.testing.assert_close(gradients(layer, features, out), [expected for x, expected in tensors if x.requires_grad])

    features[0].requires_grad_(False)
    check(own=False)
    for feature in features:
        feature.requires_grad_(False)
    check(own=True)
    next(layer.parameters()).requires_grad_(False)
    check(own=False)


@each
def test_features_without_gradients_cost_none(mode: str, modalities: int, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, features = make(mode, modalities)
    asked: list[bool] = []
    way = "_gradients_pair" if layer._is_pair else "_gradients"
    owner = layer._mode
    original: Callable[..., Any] = getattr(owner, way)

    def counted(layer: nn.Module, cotangent: Tensor, of_features: bool, *operands: Any) -> Any:
        asked.append(of_features)
        found = original(layer, cotangent, of_features, *operands)
        assert (found[0] is None) != of_features
        return found

    monkeypatch.setattr(owner, way, counted)
    layer(features).sum().backward()
    layer([x.detach() for x in features]).sum().backward()
    assert asked == [True, False]


@each
def test_transforms(mode: str, modalities: int) -> None:
    layer, features = make(mode, modalities)

    def total(*given: Tensor) -> Tensor:
        return (layer(list(given)) ** 2).sum()

    wanted = recorded(layer, features)[:modalities]
    given = tuple(x.detach() for x in features)
    every = tuple(range(modalities))
    torch.testing.assert_close(list(torch.func.grad(total, every)(*given)), wanted)
    torch.testing.assert_close(list(torch.func.vmap(torch.func.grad(lambda *x: total(*(y[None] for y in x)), every))(*given)), wanted)
    _, along = torch.func.jvp(total, given, given)
    torch.testing.assert_close(along, sum((x * y).sum() for x, y in zip(wanted, given, strict=True)))
    with torch.autograd.forward_ad.dual_level():
        dual = total(*(torch.autograd.forward_ad.make_dual(x, x.detach()) for x in features))
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(dual).tangent, along)
    hessian = torch.autograd.functional.hessian(total, given)
    torch.testing.assert_close(hessian, torch.func.hessian(total, every)(*given))


@each
def test_functional_call_and_checkpoint(mode: str, modalities: int) -> None:
    layer, features = make(mode, modalities)
    others = {key: (x.detach() * 2).requires_grad_() for key, x in layer.named_parameters()}
    swapped = torch.func.functional_call(layer, others, (features,))
    assert name(swapped) == OWN
    double = make(mode, modalities)[0]
    double.load_state_dict({key: x.detach() for key, x in others.items()})
    found = torch.autograd.grad((swapped**2).sum(), [*features, *others.values()])
    torch.testing.assert_close(list(found), recorded(double, features))
    again = checkpoint(layer, features, use_reentrant=False)
    assert isinstance(again, Tensor)
    torch.testing.assert_close(gradients(layer, features, again), recorded(layer, features))


@each
def test_autocast_around_the_backward_pass(mode: str, modalities: int) -> None:
    layer, features = make(mode, modalities, torch.float32)
    wanted = recorded(layer, features)
    out = layer(features)
    assert name(out) == OWN
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(layer, features, out)
        assert name(layer(features)) != OWN
    torch.testing.assert_close(found, wanted)


@each
def test_half_precision_keeps_what_torch_records(mode: str, modalities: int) -> None:
    layer, features = make(mode, modalities, torch.bfloat16)
    assert name(layer(features)) != OWN


@each
def test_a_feature_that_is_written_over_is_an_error(mode: str, modalities: int) -> None:
    layer, features = make(mode, modalities)
    given = [x * 1 for x in features]
    out = layer(given)
    with torch.no_grad():
        given[0].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


@each
def test_hooks_and_meta_tensors(mode: str, modalities: int) -> None:
    layer, features = make(mode, modalities)
    seen: list[str] = []
    next(layer.parameters()).register_hook(lambda gradient: seen.append("parameter"))
    features[0].register_hook(lambda gradient: seen.append("feature"))
    layer(features).sum().backward()
    assert sorted(seen) == ["feature", "parameter"]
    meta = FusionLayer(dim=4, n_modalities=modalities, fusion_type=mode).to("meta")
    given = [torch.empty(3, 4, device="meta", requires_grad=True) for _ in features]
    meta(given).sum().backward()
    assert all(x.grad is not None and x.grad.shape == x.shape for x in (*given, *meta.parameters()))


@each
def test_the_output_may_be_written_over(mode: str, modalities: int) -> None:
    """As an activation in place does that follows the layer, or an addition."""
    layer, features = make(mode, modalities)
    wanted = gradients(layer, features, torch.relu(2 * recording(layer, features) + features[0]))
    out = layer(features)
    assert name(out) == OWN
    torch.testing.assert_close(gradients(layer, features, torch.relu_(out.mul_(2).add_(features[0]))), wanted)


@each
def test_many_cotangents_at_once(mode: str, modalities: int) -> None:
    layer, features = make(mode, modalities)
    tensors = [*features, *layer.parameters()]
    out = layer(features)
    assert name(out) == OWN
    cotangents = torch.randn(4, *out.shape, dtype=out.dtype)
    found = torch.autograd.grad(out, tensors, cotangents, is_grads_batched=True, retain_graph=True)
    each_alone = [torch.autograd.grad(out, tensors, cotangent, retain_graph=True) for cotangent in cotangents]
    torch.testing.assert_close(list(found), [torch.stack(parts) for parts in zip(*each_alone, strict=True)])


@each
def test_what_is_traced_operation_by_operation(mode: str, modalities: int) -> None:
    layer, features = make(mode, modalities)
    traced = make_fx(lambda *h: layer(list(h)))(*features)
    torch.testing.assert_close(traced(*features), layer(features))
    given = [x.detach() for x in features]
    out, along = torch.func.linearize(lambda *h: layer(list(h)), *given)
    torch.testing.assert_close((out, along(*given)), torch.func.jvp(lambda *h: layer(list(h)), tuple(given), tuple(given)))


@pytest.mark.filterwarnings("ignore:Complex modules")
def test_complex_numbers_keep_what_torch_records() -> None:
    layer, features = make("sigmoid_gate", 2)
    assert name(layer.to(torch.complex128)([x.to(torch.complex128) for x in features])) != OWN


@pytest.mark.parametrize("mode, modalities", [("gate", 3), ("sigmoid_gate", 2)])
def test_layers_without_biases(mode: str, modalities: int) -> None:
    layer, features = make(mode, modalities)
    for module in layer.modules():
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
    wanted = layer(features)
    for module in layer.modules():
        if isinstance(module, nn.Linear):
            module.register_parameter("bias", None)
    out = layer(features)
    assert name(out) != OWN
    torch.testing.assert_close(out, wanted)


@each
def test_statements_that_fail_are_not_passed_over(mode: str, modalities: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a transform of functions nothing else is computed in their place."""

    def broken(*given: Any, **options: Any) -> Any:
        raise RuntimeError("broken")

    layer, features = make(mode, modalities)
    with monkeypatch.context() as patch:
        for name in ("_gradients", "_gradients_pair"):
            patch.setattr(layer._mode, name, broken, raising=False)
        out = layer(features)
        with pytest.raises(RuntimeError, match="broken"):
            out.sum().backward()
    with monkeypatch.context() as patch, torch.no_grad():
        fuse = layer._mode._fuse_pair if layer._is_pair else layer._mode._fuse
        name = fuse.__name__
        patch.setattr(layer._mode, name, lambda *given: broken() if given[3:] == (True,) else fuse(*given))
        with pytest.raises(RuntimeError, match="broken"):
            layer(features)
