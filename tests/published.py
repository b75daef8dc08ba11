"""The published fusion layer (PyPI `sparank`), and what the drop-in tests need to compare another layer with it.

The published class is an oracle: it is loaded from the installed distribution and never copied. All inputs,
parameters and cotangents are drawn in float64 from fixed seeds and then rounded to the dtype under test, so a
float64 run of the published layer on the rounded values says what the exact answer is.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparank_fusion import FusionLayer

MODES = ("concat", "gate", "sigmoid_gate", "attention")
DIMS = (4, 16, 64, 100, 128)
Results = dict[str, Any]
DTYPES = (torch.float32, torch.float64, torch.bfloat16)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """These tensors are small: threads that wait for each other on a busy machine cost far more than they give."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _load_published() -> type[nn.Module]:
    """The published class, from its one file: the package around it imports what is not installed here."""
    package = importlib.util.find_spec("sparank")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("the oracle is missing: pip install --no-deps sparank==0.1.7")
    layers = Path(package.origin).parent / "modules" / "layers.py"
    spec = importlib.util.spec_from_file_location("published_layers", layers)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.FusionLayer


PublishedFusionLayer = _load_published()


@dataclass(frozen=True)
class Cell:
    """One point of the grid: how a layer is built, and what it is called on."""

    mode: str
    modalities: int = 2
    dim: int = 16
    heads: int = 4
    batch: int = 3
    dtype: torch.dtype = torch.float64

    def build(self, layer: type[nn.Module], **options: Any) -> nn.Module:
        """A freshly initialised layer of the given class, in the cell's dtype."""
        return layer(self.dim, self.modalities, self.mode, self.heads, **options).to(self.dtype)

    def features(self, seed: int = 0) -> list[Tensor]:
        """Contiguous inputs from the normal distribution."""
        return [normal((self.batch, self.dim), 100 * seed + m, self.dtype) for m in range(self.modalities)]


def modality_counts(mode: str) -> tuple[int, ...]:
    """The counts of modalities that a mode is tested on, leaving out one, where every mode is the identity."""
    return (2,) if mode == "sigmoid_gate" else (2, 3, 5)


def head_counts(mode: str) -> tuple[int, ...]:
    """The counts of heads that a mode is tested on: all but attention ignore them."""
    return (1, 2, 4) if mode == "attention" else (4,)


def small(mode: str, batch: int = 5, dim: int = 16) -> Cell:
    """A cell with three modalities where the mode allows them."""
    return Cell(mode, min(3, modality_counts(mode)[-1]), dim, batch=batch)


def cells(mode: str, modalities: int, dtype: torch.dtype, batches: Iterable[int]) -> list[Cell]:
    """The grid over dimensions, heads and batch sizes."""
    return [
        Cell(mode, modalities, dim, heads, batch, dtype)
        for dim in DIMS
        for heads in head_counts(mode)
        for batch in batches
    ]


def normal(shape: Sequence[int], seed: int, dtype: torch.dtype) -> Tensor:
    """Seeded normal numbers, the same for every dtype but for rounding."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def twins(cell: Cell, **options: Any) -> tuple[nn.Module, nn.Module]:
    """Our layer and the published one with the same parameters.

    Vectors are moved off their initial zeros and ones, which would hide what a layer does with them.
    """
    torch.manual_seed(1)
    published = cell.build(PublishedFusionLayer)
    with torch.no_grad():
        for seed, parameter in enumerate(published.parameters()):
            if parameter.ndim == 1:
                parameter.add_(0.3 * normal(parameter.shape, 10_000 + seed, cell.dtype))
    ours = cell.build(FusionLayer, **options)
    ours.load_state_dict(published.state_dict(), strict=True)
    return ours, published


def in_float64(layer: nn.Module, cell: Cell) -> nn.Module:
    """The published layer with the same parameter values in float64."""
    exact = replace(cell, dtype=torch.float64).build(PublishedFusionLayer)
    exact.load_state_dict(layer.state_dict(), strict=True)
    return exact


def arranged(values: Tensor, layout: str) -> Tensor:
    """The values in the given memory layout; expanded layouts repeat their first row or column."""
    batch, dim = values.shape
    if layout == "transposed":
        return values.t().contiguous().t()
    if layout == "strided":
        roomy = values.new_full((2 * batch + 1, 3 * dim + 2), float("nan"))
        view = roomy[1::2, 2::3]
        view.copy_(values)
        return view
    if layout == "expanded rows":
        return values[:1].clone().expand(batch, dim)
    if layout == "expanded columns":
        return values[:, :1].clone().expand(batch, dim)
    return values.clone()


def arrange_all(features: Sequence[Tensor], layout: str) -> list[Tensor]:
    """Every feature in one layout, or each in another one for "mixed"."""
    cycle = ("transposed", "strided", "contiguous") if layout == "mixed" else (layout,)
    return [arranged(values, cycle[m % len(cycle)]) for m, values in enumerate(features)]


def gradients(
    layer: nn.Module, inputs: Sequence[Tensor], results: Sequence[Tensor | None], rounding: torch.dtype
) -> dict[str, Tensor]:
    """Gradients of the inputs and parameters that want one, by name, for random cotangents of the results."""
    kept = [result for result in results if result is not None]
    cotangents = [normal(r.shape, 20_000 + n, rounding).to(r.dtype) for n, r in enumerate(kept)]
    wanted = {f"features[{m}]": x for m, x in enumerate(inputs) if x.requires_grad}
    wanted |= {name: p for name, p in layer.named_parameters() if p.requires_grad}
    return dict(zip(wanted, torch.autograd.grad(kept, list(wanted.values()), cotangents), strict=True))


def measure(layer: nn.Module, inputs: Sequence[Tensor], rounding: torch.dtype) -> Results:
    """All that a layer gives for these inputs, by name.

    Outputs and weights with gradients and without them, gradients through the output alone, and gradients through
    the output and the weights together. Cotangents are rounded to the dtype `rounding`.
    """
    inputs = [x.detach().requires_grad_() for x in inputs]
    layer.train()
    out = layer(inputs)
    both, info = layer(inputs, return_gates=True)
    found = {"out": out, "out beside weights": both, "weights": info["weights"], "type": info["type"]}
    found |= {f"d out / d {k}": v for k, v in gradients(layer, inputs, [out], rounding).items()}
    joint = gradients(layer, inputs, [both, info["weights"]], rounding)
    found |= {f"d (out, weights) / d {k}": v for k, v in joint.items()}
    layer.eval()
    with torch.no_grad():
        found["no_grad out"] = layer(inputs)
        found["no_grad out beside weights"], info = layer(inputs, return_gates=True)
        found["no_grad weights"] = info["weights"]
    return found


@dataclass(frozen=True)
class Sample:
    """What our layer, the published layer and its float64 run give in one case, by name."""

    case: str
    ours: Results
    published: Results
    exact: Results

    def tensors(self) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
        """What can be compared: the name and float64 copies of the three, where there is anything in them."""
        for name, mine in self.ours.items():
            theirs = self.published.get(name)
            if (
                isinstance(mine, Tensor)
                and isinstance(theirs, Tensor)
                and mine.shape == theirs.shape
                and mine.numel()
            ):
                yield (
                    name,
                    mine.detach().double(),
                    theirs.detach().double(),
                    self.exact[name].detach().double(),
                )

    def wrong_forms(self) -> list[str]:
        """A line for everything that has another name, type, shape or dtype than the published result."""
        names = sorted(self.ours.keys() | self.published.keys())
        pairs = [(name, form(self.ours.get(name)), form(self.published.get(name))) for name in names]
        return [
            f"{self.case}: {name}: {mine}, published {theirs}"
            for name, mine, theirs in pairs
            if mine != theirs
        ]


def form(value: Any) -> str:
    """All of a result but its numbers."""
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)


def complaints(samples: Sequence[Sample], dtype: torch.dtype) -> list[str]:
    """A line for everything in the samples that is not as near to the published layer as it should be.

    float64: every element within 1e-10 of its own size, plus 1e-12 of the largest one for cancellation.
    float32: the largest error within 1e-5 of the largest element, or within 4 times the published layer's own error.
    Narrower ones: see `narrow_complaints`.
    """
    lines = [line for sample in samples for line in sample.wrong_forms()]
    if dtype not in (torch.float32, torch.float64):
        return lines + narrow_complaints(samples, dtype)
    for sample in samples:
        for name, mine, theirs, exact in sample.tensors():
            error = mine - exact
            if dtype == torch.float64:
                good = bool((error.abs() <= 1e-10 * exact.abs() + 1e-12 * largest(exact)).all())
            else:
                near = largest(mine - theirs) <= 1e-5 * largest(theirs)
                good = near or largest(error) <= 4 * largest(theirs - exact)
            if not good:
                lines.append(f"{sample.case}: {name}: error {largest(error):.3g} of {largest(exact):.3g}")
    return lines


def narrow_complaints(samples: Sequence[Sample], dtype: torch.dtype) -> list[str]:
    """The same for narrow dtypes, where ours is to be no further from exact than 2 times the published layer is.

    An error is taken relative to the exact tensor, in the maximum norm and in the root mean square. The distance
    under one name is the root mean square of that over all samples: the error of one tensor of a few narrow numbers
    is as much luck as it is the layer's. One unit roundoff is free, which a correctly rounded result needs where
    the published layer happens to be exact.
    """
    errors: dict[tuple[str, str], list[tuple[float, float, str]]] = {}
    for sample in samples:
        for name, mine, theirs, exact in sample.tensors():
            for norm in (largest, root_mean_square):
                pair = relative(norm, mine, exact), relative(norm, theirs, exact)
                errors.setdefault((name, norm.__name__), []).append((*pair, sample.case))
    lines = []
    for (name, norm_name), found in errors.items():
        mine, theirs = (root_mean_square(torch.tensor([entry[n] for entry in found])) for n in (0, 1))
        bound = max(2 * theirs, torch.finfo(dtype).eps / 2)
        if not mine <= bound:
            worst = max(found, key=lambda entry: math.inf if math.isnan(entry[0]) else entry[0])
            lines.append(f"{name}: {norm_name} error {mine:.3g} > {bound:.3g}, the most in {worst[2]}")
    return lines


def relative(norm: Callable[[Tensor], float], value: Tensor, exact: Tensor) -> float:
    """The norm of the error over that of the exact value, none where both are nothing."""
    error, scale = norm(value - exact), norm(exact)
    return error / scale if scale else math.inf if error else 0.0


def largest(values: Tensor) -> float:
    """The maximum norm."""
    return values.abs().max().item()


def root_mean_square(values: Tensor) -> float:
    """The Euclidean norm over the root of the count."""
    return values.square().mean().sqrt().item()


def assert_same(ours: Tensor, published: Tensor) -> None:
    """Agreement of two float64 results."""
    assert ours.dtype == torch.float64
    found = {"result": published}
    lines = complaints([Sample("here", {"result": ours}, found, found)], torch.float64)
    assert not lines, lines


def assert_same_results(mine: Any, theirs: Any) -> None:
    """Agreement of what two layers return, with weights or without."""
    if isinstance(theirs, Tensor):
        return assert_same(mine, theirs)
    assert_same(mine[0], theirs[0])
    assert mine[1].keys() == theirs[1].keys() and mine[1]["type"] == theirs[1]["type"]
    if theirs[1]["weights"] is None:
        assert mine[1]["weights"] is None
    else:
        assert_same(mine[1]["weights"], theirs[1]["weights"])


def assert_same_gradients(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Agreement under the same names."""
    assert mine.keys() == theirs.keys()
    for name, gradient in mine.items():
        assert_same(gradient, theirs[name])
