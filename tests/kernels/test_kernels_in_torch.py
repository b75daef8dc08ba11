"""Kernels as good citizens of torch: compiled, exported, partly differentiated, and never twice."""

from __future__ import annotations

import copy
import importlib
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from sparank_fusion import FusionLayer, list_modes
from sparank_fusion.kernels import forced

MODALITIES = 2
SCHEDULES = pytest.mark.parametrize("schedule", ["resident", "columns", "split", "again"])
MODES = pytest.mark.parametrize("mode", list_modes())


@pytest.fixture(autouse=True)
def fresh() -> None:
    """No test is near the limit of how often torch.compile compiles one function."""
    torch._dynamo.reset()


def layer_and_features(mode: str, backend: str = "triton") -> tuple[FusionLayer, list[Tensor]]:
    torch.manual_seed(0)
    layer = FusionLayer(16, MODALITIES, mode, backend=backend)
    return layer, [torch.randn(5, 16) for _ in range(MODALITIES)]


@MODES
def test_compiles_without_a_graph_break(mode: str) -> None:
    layer, features = layer_and_features(mode)
    compiled: Any = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for each in (layer, compiled):
        for x in features:
            x.requires_grad_()
        out = each(features)
        gradients = torch.autograd.grad(out.square().sum(), features)
        if each is layer:
            wanted = [out, *gradients]
    torch.testing.assert_close([out, *gradients], wanted)


@MODES
def test_exports(mode: str) -> None:
    layer, features = layer_and_features(mode)
    exported = torch.export.export(layer, (features,), strict=False)
    torch.testing.assert_close(exported.module()(features), layer(features))


def test_missing_modalities_are_refused() -> None:
    layer, features = layer_and_features("gate")
    with pytest.raises(RuntimeError, match="does not run with 'present': use 'auto'"):
        layer(features, present=torch.ones(5, MODALITIES, dtype=torch.bool))


@SCHEDULES
@MODES
def test_only_some_tensors_need_gradients(mode: str, schedule: str) -> None:
    layer, features = layer_and_features(mode)
    layer.requires_grad_(False)
    features[1].requires_grad_()
    other, _ = layer_and_features(mode, "torch")
    with forced(schedule):
        (found,) = torch.autograd.grad(layer(features).square().sum(), features[1:])
    (wanted,) = torch.autograd.grad(other(features).square().sum(), features[1:])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@SCHEDULES
@MODES
def test_saved_tensors_are_not_written(mode: str, schedule: str) -> None:
    layer, features = layer_and_features(mode)
    before = [x.clone() for x in (*features, *layer.parameters())]
    for x in features:
        x.requires_grad_()
    with forced(schedule):
        layer(features).square().sum().backward()
    torch.testing.assert_close([x.detach() for x in (*features, *layer.parameters())], before, rtol=0, atol=0)


@MODES
def test_what_is_kept_serves_twice(mode: str) -> None:
    """The backward pass writes nothing that it is handed, and finds what it would compute again."""
    layer, features = layer_and_features(mode)
    wanted = [x.requires_grad_() for x in features]
    found = {}
    for schedule in ("split", "again"):
        with forced(schedule):
            total = layer(features).square().sum()
            found[schedule] = [torch.autograd.grad(total, wanted, retain_graph=True) for _ in range(2)]
    torch.testing.assert_close(found["split"], found["again"])
    torch.testing.assert_close(*found["split"], rtol=0, atol=0)


def test_the_backward_operator_takes_what_is_kept_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = importlib.import_module("sparank_fusion.kernels.modes.gate")
    calls: list[tuple[Any, ...]] = []
    backward = kernels.backward
    monkeypatch.setattr(kernels, "backward", lambda *given: calls.append(given) or backward(*given))
    layer, features = layer_and_features("gate")
    layer.requires_grad_(False)
    for schedule in ("split", "again"):
        with forced(schedule):
            out = layer([x.requires_grad_() for x in features])
            out.sum().backward()
            kept, out_bar, weights_bar, h, *rest = calls[-1]
            assert len(kept) == (MODALITIES if schedule == "split" else 0)
            torch.library.opcheck(backward.operator, (kept, out_bar, weights_bar, [x.detach() for x in h], *rest))


class Seen(TorchDispatchMode):
    """The names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_whatever_looks_at_operators_sees_them() -> None:
    layer, features = layer_and_features("gate")
    name = "sparank_fusion.gate_forward.default"
    with torch.no_grad():
        wanted = layer(features)
        with Seen() as seen:
            torch.testing.assert_close(layer(features), wanted, rtol=0, atol=0)
        assert name in seen.names
        with torch.profiler.profile() as profile:
            layer(features)
        assert "sparank_fusion::gate_forward" in {event.name for event in profile.events()}
        traced = torch.jit.trace(layer, (features,))  # type: ignore[no-untyped-call]
        torch.testing.assert_close(traced([2 * x for x in features]), layer([2 * x for x in features]))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fakes = [mode.from_tensor(x) for x in features]
        assert layer(fakes).shape == wanted.shape
    # Outside of its mode too, such a tensor has no memory to read.
    assert layer.requires_grad_(False)([fakes[0], fakes[1]]).shape == wanted.shape


def test_numbers_that_are_negated_where_they_are_read() -> None:
    layer, features = layer_and_features("gate")
    negated = [torch._neg_view(x) for x in features]
    with torch.no_grad():
        torch.testing.assert_close(layer(negated), layer([-x for x in features]), rtol=0, atol=0)


@pytest.mark.parametrize("penalty", [Tensor.square, Tensor.sin, Tensor.clone], ids=["square", "sine", "linear"])
@MODES
def test_differentiating_twice_is_one_clear_error(mode: str, penalty: Any) -> None:
    """Of an output whose cotangent depends on it, and of one whose does not: the gradient is a function of tensors in both."""
    layer, features = layer_and_features(mode)
    features[0].requires_grad_()
    (gradient,) = torch.autograd.grad(penalty(layer(features)).sum(), features[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated again: choose backend='torch'"):
        gradient.sum().backward()


@MODES
def test_what_kernels_do_not_differentiate_runs_on_torch(mode: str) -> None:
    """Tangents, and functions of many samples at once: kernels would leave them out, or refuse."""
    layer, features = layer_and_features(mode)
    on_torch, _ = layer_and_features(mode, "torch")
    given = tuple(features)
    for frozen in (False, True):
        for x in (layer, on_torch):
            x.requires_grad_(not frozen)
        found, wanted = (torch.func.jvp(lambda *h, x=x: x(list(h)), given, given) for x in (layer, on_torch))
        torch.testing.assert_close(found, wanted)
        with torch.autograd.forward_ad.dual_level():
            duals = [torch.autograd.forward_ad.make_dual(x, x) for x in given]
            torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(layer(duals)).tangent, wanted[1])
    many = [torch.stack((x, 2 * x)) for x in given]
    torch.testing.assert_close(torch.func.vmap(lambda *h: layer(list(h)))(*many), torch.stack([layer([x[k] for x in many]) for k in (0, 1)]))


def everything_under_autocast(layer: Any, features: list[Tensor], enabled: bool = True) -> list[Tensor]:
    """The results of a layer and the gradients of its features and parameters, under autocast to bfloat16."""
    given = [x.detach().requires_grad_() for x in features]
    with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
        out, info = layer(given, return_gates=True)
    results = [out, *(x for x in info.values() if isinstance(x, Tensor))]
    total = sum((torch.linspace(-1, 1, x.numel()).reshape(x.shape).to(x) * x).sum() for x in results)
    return [*results, *torch.autograd.grad(total, [*given, *layer.parameters()])]  # type: ignore[arg-type]


def error(found: list[Tensor], exact: list[Tensor]) -> float:
    """The root mean square of all errors together, each relative to the largest number of its tensor."""
    squares = [((x - true) / true.abs().max()).square().flatten() for x, true in zip(found, exact, strict=True)]
    return float(torch.cat(squares).mean().sqrt())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@SCHEDULES
@MODES
def test_autocast(mode: str, schedule: str, dtype: torch.dtype) -> None:
    """Types are those that torch's operators give under autocast, and errors together no more than twice theirs."""
    layer, features = layer_and_features(mode)
    other, _ = layer_and_features(mode, "torch")
    features = [x.to(dtype) for x in features]
    exact = everything_under_autocast(copy.deepcopy(other).double(), [x.double() for x in features], enabled=False)
    wanted = everything_under_autocast(other, features)
    with forced(schedule):
        found = everything_under_autocast(layer, features)
    assert [x.dtype for x in found] == [x.dtype for x in wanted]
    assert error(found, exact) <= 2 * error(wanted, exact) + torch.finfo(torch.bfloat16).eps


@MODES
def test_autocast_in_a_compiled_layer(mode: str) -> None:
    layer, features = layer_and_features(mode)
    compiled: Any = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(compiled(features), layer(features))


@SCHEDULES
@MODES
def test_transposed_and_expanded_inputs(mode: str, schedule: str) -> None:
    layer, _ = layer_and_features(mode)
    other, _ = layer_and_features(mode, "torch")
    features = [torch.randn(16, 5).t(), torch.randn(1, 16).expand(5, 16)]
    with forced(schedule), torch.no_grad():
        torch.testing.assert_close(layer(features), other(features), rtol=1e-4, atol=1e-5)
