"""Kernels on a GPU: exact enough in every dtype, real operators, under torch.compile and in CUDA graphs, and for large
batches.

Needs torch, triton and pytest alone; `make gpu-test` runs it. What is expected comes from the torch backend in float64,
what is allowed from the torch backend in the dtype under test.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparank_fusion import FusionLayer, list_modes
from sparank_fusion.backends import has_triton
from sparank_fusion.layer import mode_class

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine"),
    pytest.mark.skipif(not has_triton(), reason="triton 3.4 or newer is not installed"),
]

DEVICE = "cuda"
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
NARROW = (torch.bfloat16, torch.float16)
TIMES, EPS = 4, 4  # what is allowed: times the error of torch, and roundings of the largest number
EPS_OF_EXACT = 256  # the roundings in float64, where torch is what is exact and has no error of its own
LAYERS = [
    (mode, count)
    for mode in list_modes()
    for count in (2, 3)
    if mode_class(mode).least_modalities <= count <= (mode_class(mode).most_modalities or count)
]
GIB = 1 << 30


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """No test sees code or memory of another."""
    torch._dynamo.reset()
    yield
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def normal(shape: tuple[int, ...], seed: int, dtype: torch.dtype) -> Tensor:
    """Seeded normal numbers, the same for every dtype but for rounding."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(DEVICE, dtype)


def make(mode: str, count: int, dim: int, dtype: torch.dtype, backend: str) -> nn.Module:
    """A layer whose parameters are the same for every backend, and for every dtype but for rounding."""
    torch.manual_seed(1)
    layer = FusionLayer(dim, count, mode, backend=backend)
    with torch.no_grad():
        for seed, parameter in enumerate(layer.parameters()):
            if parameter.ndim == 1:
                # Off the zeros and ones they start from, which hide what a layer does with them.
                parameter.add_(0.3 * normal(tuple(parameter.shape), 500 + seed, torch.float32).cpu())
    return layer.to(DEVICE, dtype)


def features(count: int, batch: int, dim: int, dtype: torch.dtype) -> list[Tensor]:
    """Normal features; every second one has rows that lie apart."""
    wide = [normal((batch, 2 * dim), 100 + m, dtype) for m in range(count)]
    return [x[:, :dim] if m % 2 else x[:, :dim].contiguous() for m, x in enumerate(wide)]


def everything(layer: Any, parameters: list[Tensor], inputs: list[Tensor], rounding: torch.dtype) -> list[Tensor]:
    """The output, the weights, and the gradients of features and parameters through both.

    Cotangents are rounded to ``rounding``.
    """
    given = [x.detach().requires_grad_() for x in inputs]
    out, info = layer(given, return_gates=True)
    results = [out] if info["weights"] is None else [out, info["weights"]]
    cotangents = [normal(tuple(x.shape), 900 + k, rounding).to(x.dtype) for k, x in enumerate(results)]
    return [*results, *torch.autograd.grad(results, [*given, *parameters], cotangents)]


def distances(found: list[Tensor], exact: list[Tensor]) -> list[tuple[float, float]]:
    """The largest error and the largest exact number of each result."""
    return [
        (float((x.detach().double() - y).abs().max()), float(y.abs().max()))
        for x, y in zip(found, (y.detach() for y in exact), strict=True)
        if y.numel()
    ]


def moved(inputs: list[Tensor], seed: int) -> list[Tensor]:
    """Features that are a rounding away: what is exact to the last place for one is not for the other."""
    eps = torch.finfo(inputs[0].dtype).eps
    signs = [normal(tuple(x.shape), seed + m, torch.float64).sign() for m, x in enumerate(inputs)]
    return [(x.double() * (1 + eps * sign)).to(x.dtype) for x, sign in zip(inputs, signs, strict=True)]


def assert_near(mode: str, count: int, dim: int, batch: int, dtype: torch.dtype, around: Any) -> None:
    """Kernels are nearly as near to a float64 run of the torch backend as the torch backend is in this dtype.

    That is told by a few runs, for features that are a rounding away too: one alone may be exact by chance, as where a
    gradient is the sum of numbers that cancel, or every run far off, as where a root is taken near zero.
    """
    inputs = features(count, batch, dim, dtype)
    rounded = make(mode, count, dim, dtype, "torch")
    exact_layer = make(mode, count, dim, torch.float64, "torch")
    exact_layer.load_state_dict(rounded.state_dict())
    ours = make(mode, count, dim, dtype, "triton")
    with around:
        found = everything(ours, list(ours.parameters()), inputs, dtype)
    exact = everything(exact_layer, list(exact_layer.parameters()), [x.double() for x in inputs], dtype)
    runs = [
        distances(everything(rounded, list(rounded.parameters()), given, dtype), exact)
        for given in (inputs, *(moved(inputs, seed) for seed in (300, 400)))
    ]
    eps = (EPS_OF_EXACT if dtype is torch.float64 else EPS) * torch.finfo(dtype).eps
    for number, ((mine, scale), *others) in enumerate(zip(distances(found, exact), *runs, strict=True)):
        theirs = max(error for error, _ in others)
        allowed = TIMES * theirs + eps * scale
        assert mine <= allowed, f"result {number}: error {mine:.3g} of {scale:.3g}, torch {theirs:.3g}"


@pytest.mark.parametrize("batch", [1, 1000])
@pytest.mark.parametrize("dim", [32, 100, 128])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode, count", LAYERS)
def test_as_exact_as_torch(mode: str, count: int, dtype: torch.dtype, dim: int, batch: int) -> None:
    assert_near(mode, count, dim, batch, dtype, nullcontext())


@pytest.mark.parametrize("schedule, dim", [("resident", 32), ("split", 32), ("split", 128), ("columns", 32), ("columns", 200)])
@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize("mode, count", LAYERS)
def test_as_exact_as_torch_by_every_schedule(
    mode: str, count: int, dtype: torch.dtype, schedule: str, dim: int
) -> None:
    from sparank_fusion.kernels import forced

    around: AbstractContextManager[None] = forced(schedule)
    assert_near(mode, count, dim, 1000, dtype, around)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mode, count", LAYERS)
def test_the_first_call_gives_the_bits_of_later_ones(mode: str, count: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it has to look for tiles that fit."""
    from sparank_fusion.kernels import tiles

    monkeypatch.setattr(tiles, "_fitting", {})
    layer, inputs = make(mode, count, 128, dtype, "triton"), features(count, 1000, 128, dtype)
    first = everything(layer, list(layer.parameters()), inputs, dtype)
    assert tiles._fitting
    second = everything(layer, list(layer.parameters()), inputs, dtype)
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mode, count", LAYERS)
def test_is_an_operator(mode: str, count: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = importlib.import_module(f"sparank_fusion.kernels.modes.{mode}")
    calls: list[tuple[Any, ...]] = []
    forward = kernels.forward
    monkeypatch.setattr(kernels, "forward", lambda *given: calls.append(given) or forward(*given))
    layer = make(mode, count, 32, dtype, "triton").requires_grad_(False)
    layer(features(count, 48, 32, dtype))
    torch.library.opcheck(forward.operator, calls[0])


@pytest.mark.parametrize("backend", ["auto", "triton"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mode, count", LAYERS)
def test_compiles_in_one_graph(mode: str, count: int, dtype: torch.dtype, backend: str) -> None:
    layer = make(mode, count, 64, dtype, backend)
    inputs = features(count, 100, 64, dtype)
    parameters = list(layer.parameters())
    wanted = everything(layer, parameters, inputs, dtype)
    found = everything(torch.compile(layer, fullgraph=True), parameters, inputs, dtype)
    for mine, theirs in zip(found, wanted, strict=True):
        scale = float(theirs.detach().abs().max())
        tolerance = 16 * torch.finfo(dtype).eps * max(scale, 1e-3)
        torch.testing.assert_close(mine, theirs, rtol=0, atol=tolerance)


@pytest.mark.parametrize("trains", [False, True], ids=["forward", "both"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mode, count", LAYERS)
def test_runs_in_a_graph(mode: str, count: int, dtype: torch.dtype, trains: bool) -> None:
    layer = make(mode, count, 64, dtype, "triton")
    static = [torch.zeros(100, 64, device=DEVICE, dtype=dtype, requires_grad=trains) for _ in range(count)]
    cotangent = normal((100, layer.out_dim), 7, dtype)

    def step() -> list[Tensor]:
        with torch.set_grad_enabled(trains):
            out = layer(static)
        if not trains:
            return [out]
        return [out, *torch.autograd.grad(out, [*static, *layer.parameters()], cotangent)]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step()
    with torch.no_grad():
        for x, value in zip(static, features(count, 100, 64, dtype), strict=True):
            x.copy_(value)
    graph.replay()
    found = [x.detach().clone() for x in results]
    tolerance = 16 * torch.finfo(dtype).eps
    for mine, theirs in zip(found, step(), strict=True):
        scale = max(float(theirs.detach().abs().max()), 1e-3)
        torch.testing.assert_close(mine, theirs.detach(), rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("trains", [False, True], ids=["forward", "both"])
@pytest.mark.parametrize("mode", list_modes())
def test_offsets_past_32_bits(mode: str, trains: bool) -> None:
    """Rows whose elements lie past 2^31 give what they give alone."""
    dim, dtype, rows = 128, torch.bfloat16, 64
    batch = (1 << 31) // dim + rows
    # A feature takes 4 GiB; features, results, what lies between the kernels, and their gradients.
    needed = (56 if trains else 40) * GIB
    if torch.cuda.mem_get_info()[0] < needed:
        pytest.skip(f"needs {needed // GIB} GiB of free GPU memory")
    layer = make(mode, 2, dim, dtype, "triton")
    made = [torch.randn(batch, dim, device=DEVICE, dtype=dtype) for _ in range(2)]
    inputs = [x.requires_grad_(trains) for x in made]
    last = [x.detach()[-rows:].clone().requires_grad_(trains) for x in inputs]
    try:
        found = large_step(layer, inputs, trains)
    except torch.cuda.OutOfMemoryError as error:
        pytest.skip(f"not enough GPU memory: {str(error).splitlines()[0][:80]}")
    for mine, theirs in zip(found, large_step(layer, last, trains), strict=True):
        torch.testing.assert_close(mine[-rows:], theirs, rtol=2**-5, atol=2**-5)


def large_step(layer: nn.Module, inputs: list[Tensor], trains: bool) -> list[Tensor]:
    """The output, and the gradients of the features for a cotangent of ones."""
    with torch.set_grad_enabled(trains):
        out = layer(inputs)
    if not trains:
        return [out]
    return [out.detach(), *torch.autograd.grad(out, inputs, torch.ones_like(out))]
