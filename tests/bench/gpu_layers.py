"""What the GPU benchmark times: cases, layers that share their weights, and a check that all give the same.

Needs torch and triton alone; the published layer is used where it is installed.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sparank_fusion import FusionLayer
from sparank_fusion.kernels import forced

FORWARD, BOTH = "forward", "forward+backward"
AUTO, RESIDENT, COLUMNS, SPLIT, TORCH = "auto", "resident", "columns", "split", "torch"
EAGER, COMPILED, MAX_AUTOTUNE, CAT = "eager", "compiled", "max-autotune", "torch.cat"
CANDIDATES = (AUTO, RESIDENT, COLUMNS, SPLIT, TORCH, EAGER, COMPILED, MAX_AUTOTUNE, CAT)
OURS = (AUTO, RESIDENT, COLUMNS, SPLIT)
HEADS = 4
PUBLISHED_MODES = ("attention", "concat", "gate", "sigmoid_gate")
CHECKED_NUMBERS = 1 << 26  # numbers of all features that are checked at most; more rows are left out
SEED = 0


class Inputs(NamedTuple):
    """The features of one call, each ``(B, dim)``, and the cotangent of its output ``(B, out_dim)``."""

    features: list[Tensor]
    cotangent: Tensor


Call = Callable[[Inputs], tuple[Tensor, ...]]


class Case(NamedTuple):
    """What is timed: a mode for M modalities of features ``(batch, dim)``, one way or both."""

    mode: str
    modalities: int
    dim: int
    dtype: torch.dtype
    batch: int
    step: str

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.mode} M={self.modalities} dim={self.dim} {dtype} B={self.batch} {self.step}"

    @property
    def out_dim(self) -> int:
        """The width of the output."""
        return self.dim * (self.modalities if self.mode == "concat" else 1)

    @property
    def parameters(self) -> int:
        """How many numbers the layer's parameters have."""
        d = self.dim
        return {
            "concat": 0,
            "gate": self.modalities * (d * d + d),
            "sigmoid_gate": 2 * d * d + d,
            "attention": 4 * (d * d + d) + 2 * d,
        }[self.mode]

    @property
    def bytes(self) -> int:
        """The least traffic with memory in bytes: what goes in is read once, what comes out is written once.

        A backward pass reads the features again and the cotangent, and writes the gradients. Concatenation needs
        no features for that.
        """
        features, out = self.batch * self.modalities * self.dim, self.batch * self.out_dim
        numbers = features + out + self.parameters
        if self.step == BOTH:
            again = 0 if self.mode == "concat" else features
            numbers += out + again + features + 2 * self.parameters
        return numbers * self.dtype.itemsize

    @property
    def operations(self) -> int:
        """The least additions and multiplications of matrix products; gradients take twice those of the output."""
        M, d = self.modalities, self.dim
        row = {
            "concat": 0,
            "gate": 2 * M * d * d,
            "sigmoid_gate": 4 * d * d,
            "attention": 8 * M * d * d + 4 * M * M * d,
        }[self.mode]
        return self.batch * row * (3 if self.step == BOTH else 1)

    def inputs(self, count: int, device: str) -> list[Inputs]:
        """Sets of normal inputs in memory of their own."""
        torch.manual_seed(SEED)
        made = []
        for _ in range(count):
            shapes = [self.dim] * self.modalities + [self.out_dim]
            *features, cotangent = (
                torch.randn(self.batch, width, device=device, dtype=self.dtype) for width in shapes
            )
            made.append(Inputs([x.requires_grad_(self.step == BOTH) for x in features], cotangent))
        return made


class ReferenceLayer(nn.Module):
    """What the published layer is described to compute, in plain torch, where it is not installed."""

    def __init__(self, dim: int, n_modalities: int, fusion_type: str, attn_heads: int = HEADS) -> None:
        super().__init__()
        self.mode = fusion_type
        if fusion_type == "gate":
            self.gate_projs = nn.ModuleList(nn.Linear(dim, dim) for _ in range(n_modalities))
        elif fusion_type == "sigmoid_gate":
            self.gate_net = nn.Sequential(nn.Linear(2 * dim, dim), nn.Sigmoid())
        elif fusion_type == "attention":
            self.attn = nn.MultiheadAttention(dim, attn_heads, batch_first=True)
            self.norm = nn.LayerNorm(dim)

    def forward(self, features: list[Tensor]) -> Tensor:
        """The fused features ``(B, out_dim)``."""
        if self.mode == "concat":
            return torch.cat(features, dim=-1)
        if self.mode == "gate":
            logits = torch.stack([project(x) for project, x in zip(self.gate_projs, features, strict=True)])
            return (torch.softmax(logits, dim=0) * torch.stack(features)).sum(dim=0)
        if self.mode == "sigmoid_gate":
            first, second = features
            z = self.gate_net(torch.cat(features, dim=-1))
            return z * first + (1 - z) * second
        tokens = torch.stack(features, dim=1)
        mixed, _ = self.attn(tokens, tokens, tokens, need_weights=False)
        return self.norm(tokens + mixed).mean(dim=1)


def published_layer(own: bool = False) -> tuple[type[nn.Module], str]:
    """The class that others are compared with, and what it is; ``own`` asks for the reference in any case."""
    try:
        if not own:
            from published import PublishedFusionLayer

            return PublishedFusionLayer, f"sparank {importlib.metadata.version('sparank')}, as installed"
    except ModuleNotFoundError:
        pass
    return ReferenceLayer, "a plain reference of the math that sparank 0.1.7 describes, which is not installed"


@dataclass(frozen=True)
class Setup:
    """How a run builds its candidates: the published class, the device, and how ``torch.compile`` is called."""

    published: type[nn.Module]
    device: str
    skip: frozenset[str] = frozenset()
    compiler: str = "inductor"
    dynamic: bool = False


def step_call(
    layer: Callable[[list[Tensor]], Tensor], parameters: list[Tensor], step: str, around: Callable[[], Any]
) -> Call:
    """A forward pass, or both passes with the gradients of features and parameters, inside a context."""

    def forward(inputs: Inputs) -> tuple[Tensor, ...]:
        with torch.no_grad(), around():
            return (layer(inputs.features),)

    def both(inputs: Inputs) -> tuple[Tensor, ...]:
        with around():
            out = layer(inputs.features)
            wanted = [*inputs.features, *parameters]
            return (out, *torch.autograd.grad(out, wanted, inputs.cotangent))

    return forward if step == FORWARD else both


def stepping(layer: Callable[[list[Tensor]], Tensor]) -> Callable[[list[Tensor]], Tensor]:
    """The layer, which says before every call that earlier results are no longer needed, as CUDA graphs want."""

    def call(features: list[Tensor]) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        return layer(features)

    return call


def choose_attention(batch: int) -> None:
    """Leave torch those of its kernels for attention that run, forward and backward, for so many samples of a few tokens.

    cuDNN's fails backward, and the others lay samples out in a grid of 65,535 at most.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.backends.cuda.enable_flash_sdp(batch < 65536)
    torch.backends.cuda.enable_mem_efficient_sdp(batch < 65536)


def candidates(case: Case, setup: Setup) -> dict[str, Call]:
    """Every layer of a case, by name, with the same weights."""
    choose_attention(case.batch)
    torch.manual_seed(SEED)
    published = prepared(setup.published(case.dim, case.modalities, case.mode, HEADS), case, setup)
    layers: dict[str, tuple[nn.Module, Any]] = {}
    for name, backend in ((AUTO, "auto"), (RESIDENT, "triton"), (COLUMNS, "triton"), (SPLIT, "triton"), (TORCH, "torch")):
        layer = prepared(
            FusionLayer(case.dim, case.modalities, case.mode, HEADS, backend=backend), case, setup
        )
        layer.load_state_dict(published.state_dict(), strict=True)
        layers[name] = layer, nullcontext if backend != "triton" else lambda n=name: forced(n)
    made = {
        name: step_call(layer, list(layer.parameters()), case.step, around)
        for name, (layer, around) in layers.items()
        if name not in setup.skip
    }
    parameters = list(published.parameters())

    def baseline(layer: Callable[[list[Tensor]], Tensor]) -> Call:
        return step_call(layer, parameters, case.step, nullcontext)

    made[EAGER] = baseline(published)
    options: dict[str, Any] = {"dynamic": setup.dynamic, "backend": setup.compiler}
    if COMPILED not in setup.skip:
        made[COMPILED] = baseline(torch.compile(published, **options))
    if MAX_AUTOTUNE not in setup.skip:
        mode = {"mode": "max-autotune"} if setup.compiler == "inductor" else {}
        made[MAX_AUTOTUNE] = baseline(stepping(torch.compile(published, **options, **mode)))
    if case.mode == "concat":
        made[CAT] = baseline(lambda features: torch.cat(features, dim=-1))
    return made


def prepared(layer: nn.Module, case: Case, setup: Setup) -> nn.Module:
    """The layer on the case's device, in its dtype and in the mode of its step."""
    return layer.to(setup.device, case.dtype).train(case.step == BOTH)


def exact_results(case: Case, setup: Setup, inputs: Inputs) -> tuple[Tensor, ...]:
    """What the published layer gives in float64, for the weights of `candidates`."""
    torch.manual_seed(SEED)
    layer = prepared(setup.published(case.dim, case.modalities, case.mode, HEADS), case, setup).double()
    wide = [x.detach().double().requires_grad_(x.requires_grad) for x in inputs.features]
    call = step_call(layer, list(layer.parameters()), case.step, nullcontext)
    return call(Inputs(wide, inputs.cotangent.double()))


def checked_part(case: Case, inputs: Inputs) -> Inputs:
    """The inputs, or their first rows where a float64 run of all of them would not fit the memory."""
    rows = max(1, min(case.batch, CHECKED_NUMBERS // (case.dim * case.modalities)))
    if rows == case.batch:
        return inputs
    features = [x.detach()[:rows].clone().requires_grad_(x.requires_grad) for x in inputs.features]
    return Inputs(features, inputs.cotangent[:rows].clone())


def largest_errors(found: Iterable[Tensor], exact: Iterable[Tensor]) -> list[float]:
    """For each result, the largest error over the largest exact number."""
    return [
        float((x.detach().double() - y.detach()).abs().max() / y.detach().abs().max().clamp_min(1e-30))
        for x, y in zip(found, exact, strict=True)
    ]


def complaint(found: list[float], eager: list[float], dtype: torch.dtype) -> str | None:
    """What is wrong with the errors of a candidate, if anything: far more than the eager layer's, or not a number."""
    for k, (mine, theirs) in enumerate(zip(found, eager, strict=True)):
        if not mine <= 4 * theirs + 8 * torch.finfo(dtype).eps:
            return f"result {k} has a relative error of {mine:.2g}, the eager layer {theirs:.2g}"
    return None


def checked(case: Case, setup: Setup, calls: dict[str, Call], inputs: Inputs) -> dict[str, str]:
    """What is wrong with candidates, by name: an exception, or results away from a float64 run.

    Raises:
        RuntimeError: when the eager layer, by which the others are judged, does not run.
    """
    part = checked_part(case, inputs)
    exact = exact_results(case, setup, part)
    eager = largest_errors(calls[EAGER](part), exact)
    wrong = {}
    for name, call in calls.items():
        try:
            # A first call compiles; what a second one gives shows a graph that is replayed.
            call(part)
            said = complaint(largest_errors(call(part), exact), eager, case.dtype)
        except Exception as error:
            said = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        if said:
            wrong[name] = said[:200]
    return wrong
