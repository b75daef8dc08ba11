"""Speed of the generated FusionLayer on a CPU, against the published layer and torch.compile of it.

A case is one (mode, M modalities, step, B rows). All layers of a case share weights and inputs, and their
outputs and gradients are compared before any timing. Each case runs in a fresh process: the pages that an
allocator kept from earlier cases change the time of large calls by up to a factor of two.

Timing goes in rounds. A round times one group of calls of every layer, back to back, and the next round takes
the layers in another order. A ratio is the median over rounds of the ratios within a round: a slow spell of a
shared machine that outlasts a round hits both terms and cancels, which it does not in a ratio of two medians,
and a spike within a round is an outlier that the median drops.

Ratios are times of a baseline over times of the generated layer (above 1: the generated layer is faster).
They are judged as printed, rounded to two decimals. The exit code is 1 if a target is missed.

The last column counts preemptions. A case with many of them shared the processors with other programs; as the
threads of an operation wait for each other, its times then say nothing.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import sparank_fusion
from published import PublishedFusionLayer

DIM = 128
THREADS = min(2, os.cpu_count() or 1)
INFERENCE, TRAINING = "inference", "training"
PUBLISHED, OURS, COMPILED = "published", "generated", "compiled"
PRODUCTS = "products"  # of matrices, alone

Forward = Callable[[list[Tensor]], Tensor]
Call = Callable[[], tuple[Tensor, ...]]


class Case(NamedTuple):
    """What is timed; training is forward and backward, with gradients of inputs and parameters."""

    mode: str
    modalities: int
    step: str
    batch: int

    def __str__(self) -> str:
        return f"{self.mode} M={self.modalities} {self.step} B={self.batch}"


class Target(NamedTuple):
    """The least ratio of a case to a baseline; None prints the ratio for information only."""

    case: Case
    baseline: str
    ratio: float | None


TARGETS = (
    Target(Case("gate", 2, INFERENCE, 16384), PUBLISHED, 3.0),
    Target(Case("gate", 2, INFERENCE, 16384), COMPILED, 1.5),
    Target(Case("gate", 3, INFERENCE, 16384), PUBLISHED, 2.0),
    Target(Case("sigmoid_gate", 2, INFERENCE, 16384), PUBLISHED, 1.4),
    Target(Case("attention", 3, INFERENCE, 16384), PUBLISHED, 1.4),
    Target(Case("concat", 2, INFERENCE, 16384), PUBLISHED, 1.0),
    Target(Case("concat", 3, INFERENCE, 16384), PUBLISHED, 1.0),
    Target(Case("gate", 2, TRAINING, 16384), PUBLISHED, 1.25),
    Target(Case("gate", 3, TRAINING, 16384), PUBLISHED, 1.25),
    Target(Case("attention", 2, TRAINING, 16384), PUBLISHED, 1.2),
    Target(Case("attention", 3, TRAINING, 16384), PUBLISHED, 1.2),
    Target(Case("gate", 2, INFERENCE, 64), PUBLISHED, 1.3),
    Target(Case("gate", 3, INFERENCE, 64), PUBLISHED, None),
)
FLOOR = 0.95  # least ratio to the published layer, of every case
DISTURBED = 50  # preemptions per second from which a case is reported as disturbed
GRID = ((2, 3), (INFERENCE, TRAINING), (64, 1024, 16384))


class Effort(NamedTuple):
    """At least `rounds` rounds, and rounds until `seconds` have passed."""

    rounds: int
    seconds: float


FULL, QUICK = Effort(rounds=30, seconds=2.0), Effort(rounds=6, seconds=0.2)
GROUP_SECONDS, GROUP_CALLS = 0.005, 50  # short calls are timed in groups of this length, at most


@dataclass(frozen=True)
class Measurement:
    """Median seconds per call of each layer, and quartiles of the ratio to each baseline.

    `preemptions` are involuntary context switches per second of timing.
    """

    case: Case
    seconds: dict[str, float]
    ratios: dict[str, tuple[float, float, float]]
    preemptions: float

    def ratio(self, baseline: str) -> float:
        """The median ratio."""
        return self.ratios[baseline][1]


def layers_for(case: Case) -> tuple[nn.Module, nn.Module] | None:
    """The published and the generated layer with the same weights; None if either lacks the mode for M."""
    torch.manual_seed(0)
    try:
        ours = sparank_fusion.FusionLayer(DIM, case.modalities, case.mode)
        published = PublishedFusionLayer(DIM, case.modalities, case.mode)
    except (ValueError, AssertionError):
        return None
    ours.load_state_dict(published.state_dict(), strict=True)
    training = case.step == TRAINING
    return published.train(training), ours.train(training)


def step_call(
    forward: Forward, features: list[Tensor], parameters: list[Tensor], grad: Tensor | None
) -> Call:
    """A forward pass, or with an output gradient `grad` a forward and a backward pass."""
    if grad is None:
        return lambda: (forward(features),)
    wanted = [*features, *parameters]

    def train() -> tuple[Tensor, ...]:
        out = forward(features)
        return (out, *torch.autograd.grad(out, wanted, grad))

    return train


def products_call(features: list[Tensor], weights: list[Tensor], training: bool) -> Call:
    """The matrix products of a layer that applies a weight to each modality, into memory that is there; and nothing else."""
    results = [torch.empty(x.shape[0], weight.shape[0]) for x, weight in zip(features, weights, strict=True)]
    gradients = [(torch.empty_like(x), torch.empty_like(weight)) for x, weight in zip(features, weights, strict=True)]

    @torch.no_grad()
    def multiply() -> tuple[Tensor, ...]:
        for x, weight, result in zip(features, weights, results, strict=True):
            torch.mm(x, weight.t(), out=result)
        if training:
            for x, weight, result, (of_x, of_weight) in zip(features, weights, results, gradients, strict=True):
                torch.mm(result, weight, out=of_x)
                torch.mm(result.t(), x, out=of_weight)
        return tuple(results)

    return multiply


def check_agreement(expected: tuple[Tensor, ...], actual: tuple[Tensor, ...], what: str) -> None:
    """Raise unless the output and all gradients agree to float32 rounding, on the scale of each tensor."""
    for index, (want, got) in enumerate(zip(expected, actual, strict=True)):
        name = f"gradient {index}" if index else "output"
        message = f"{what}: {name} differs from the published layer's.\n{{}}"
        atol = 1e-5 * float(want.detach().abs().max())
        torch.testing.assert_close(got, want, rtol=0, atol=atol, msg=message.format)


def time_group(call: Call, calls: int) -> float:
    """Seconds per call over one group of calls, after a call that is not timed.

    That one brings the caches and the allocator to where the layer's own calls leave them, as in a loop over
    batches, and not to where the other layer's left them.
    """
    call()
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls


def time_rounds(group: dict[str, Call], effort: Effort) -> dict[str, list[float]]:
    """Seconds per call of each entry in each round; the order of the entries varies from round to round."""
    single = min(time_group(next(iter(group.values())), 1) for _ in range(3))
    calls = max(1, min(GROUP_CALLS, round(GROUP_SECONDS / single)))
    samples: dict[str, list[float]] = {name: [] for name in group}
    orders = itertools.cycle(itertools.permutations(group))
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        while len(samples[OURS]) < effort.rounds or time.perf_counter() - start < effort.seconds:
            for name in next(orders):
                samples[name].append(time_group(group[name], calls))
    finally:
        gc.enable()
    return samples


def measure(case: Case, effort: Effort, compiled: bool) -> Measurement | None:
    """Check and time one case; None where the two layers have no such mode in common."""
    torch.set_num_threads(THREADS)
    pair = layers_for(case)
    if pair is None:
        return None
    published, ours = pair
    forwards: dict[str, tuple[Forward, nn.Module]] = {PUBLISHED: (published, published), OURS: (ours, ours)}
    if compiled:
        forwards[COMPILED] = (torch.compile(published, dynamic=False), published)
    training = case.step == TRAINING
    torch.manual_seed(1)
    features = [torch.randn(case.batch, DIM, requires_grad=training) for _ in range(case.modalities)]
    with torch.set_grad_enabled(training):
        grad = torch.randn_like(published(features)) if training else None
        group = {
            name: step_call(forward, features, list(owner.parameters()), grad)
            for name, (forward, owner) in forwards.items()
        }
        for name, call in group.items():
            check_agreement(group[PUBLISHED](), call(), f"{case}, {name}")
        weights = [parameter for parameter in ours.parameters() if parameter.ndim == 2]
        if [weight.shape for weight in weights] == [(DIM, DIM)] * case.modalities:
            group[PRODUCTS] = products_call(features, weights, training)
        switches, start = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw, time.perf_counter()
        samples = time_rounds(group, effort)
        switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - switches
        return summarise(case, samples, switches / (time.perf_counter() - start))


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in a process of its own."""
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def summarise(case: Case, samples: dict[str, list[float]], preemptions: float) -> Measurement:
    """Medians of the seconds, and quartiles of the ratios within rounds."""
    ratios = {}
    for baseline in samples.keys() - {OURS}:
        pairs = zip(samples[baseline], samples[OURS], strict=True)
        low, middle, high = statistics.quantiles([theirs / ours for theirs, ours in pairs], n=4)
        ratios[baseline] = (low, middle, high)
    seconds = {name: statistics.median(values) for name, values in samples.items()}
    return Measurement(case, seconds, ratios, preemptions)


def compiler_problem() -> str | None:
    """Why torch.compile cannot serve here (it needs a C++ compiler), or None if it does."""
    try:
        torch.compile(lambda x: torch.sin(x) + 1)(torch.ones(8))
    except RuntimeError as error:
        return str(error).strip().splitlines()[0]
    return None


def duration(seconds: float | None) -> str:
    """A time in µs below one millisecond and in ms above."""
    if seconds is None:
        return "–"
    return f"{seconds * 1e6:.0f} µs" if seconds < 1e-3 else f"{seconds * 1e3:.1f} ms"


WIDTHS = (14, 2, 10, 6, 10, 10, 10, 12, 12, 11, 11)
NAMES = ("mode", "M", "step", "B", PUBLISHED, COMPILED, OURS)
HEADINGS = (*NAMES, "÷ published", "quartiles", "÷ compiled", "preempts/s")


def plain_row(values: Sequence[object]) -> str:
    """One aligned line of the plain table."""
    return " ".join(f"{value!s:>{width}}" for value, width in zip(values, WIDTHS, strict=True))


def plain_measurement(found: Measurement) -> str:
    """The plain table's line of a case."""
    times = [duration(found.seconds.get(name)) for name in (PUBLISHED, COMPILED, OURS)]
    low, middle, high = found.ratios[PUBLISHED]
    compiled = f"{found.ratio(COMPILED):.2f}" if COMPILED in found.ratios else "–"
    ratios = (f"{middle:.2f}", f"{low:.2f} – {high:.2f}", compiled)
    return plain_row((*found.case, *times, *ratios, f"{found.preemptions:.0f}"))


def markdown_table(measurements: Sequence[Measurement]) -> Iterator[str]:
    """Lines of a table with one row per mode, M and step, and one column per batch size."""
    yield "| mode | M | step | " + " | ".join(f"B = {batch}" for batch in GRID[-1]) + " |"
    yield "|---|---|---|" + "---|" * len(GRID[-1])
    for row, entries in itertools.groupby(measurements, lambda found: found.case[:3]):
        texts = [
            " / ".join(f"{found.ratio(name):.2f}" for name in (PUBLISHED, COMPILED) if name in found.ratios)
            + f" ({duration(found.seconds[OURS])})"
            for found in entries
        ]
        yield "| " + " | ".join(map(str, (*row, *texts))) + " |"


def judge(what: str, measured: float, wanted: float | None) -> tuple[bool, str]:
    """Whether a ratio as printed is at least what is wanted, and a line that says so."""
    if wanted is None:
        return True, f"for information  {what}: {measured:.2f}"
    reached = round(measured, 2) >= wanted
    return reached, f"{'reached' if reached else 'MISSED':>15}  {what}: {measured:.2f} (target {wanted:.2f})"


def verdicts(measurements: Sequence[Measurement]) -> Iterator[tuple[bool, str]]:
    """Every target whose case and baseline were measured, then the floor on the slowest case."""
    measured = {found.case: found for found in measurements}
    for case, baseline, wanted in TARGETS:
        if case in measured and baseline in measured[case].ratios:
            yield judge(f"{case} ÷ {baseline}", measured[case].ratio(baseline), wanted)
            if PRODUCTS in measured[case].ratios:
                most = measured[case].seconds[baseline] / measured[case].seconds[PRODUCTS]
                yield judge(f"{case} ÷ {baseline}, with the time of its matrix products alone", most, None)
    slowest = min(measurements, key=lambda found: found.ratio(PUBLISHED))
    yield judge(f"slowest case, {slowest.case} ÷ {PUBLISHED}", slowest.ratio(PUBLISHED), FLOOR)


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Time the generated layer against the published one.")
    parser.add_argument("--only", metavar="MODE", choices=sparank_fusion.list_modes(), help="time one mode")
    parser.add_argument("--quick", action="store_true", help="few rounds: a smoke test, not a measurement")
    parser.add_argument("--no-compile", action="store_true", help="leave out the torch.compile baseline")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table as well")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the measurements to FILE")
    return parser.parse_args()


def run(modes: Sequence[str], effort: Effort, compiled: bool) -> list[Measurement]:
    """Measure all cases of the modes, printing each as a line of the plain table."""
    print(f"torch {torch.__version__}, {THREADS} threads, float32, dim {DIM}; median times per call")
    print(plain_row(HEADINGS))
    measurements = []
    for key in itertools.product(modes, *GRID):
        found = in_fresh_process(measure, Case(*key), effort, compiled)
        if found is not None:
            measurements.append(found)
            print(plain_measurement(found), flush=True)
    return measurements


def main() -> int:
    """Measure, print, judge; 0 if every target is reached, else 1."""
    args = options()
    problem = None if args.no_compile else compiler_problem()
    if problem:
        print(f"torch.compile is left out, it does not work here: {problem}")
    modes = (args.only,) if args.only else sparank_fusion.list_modes()
    compiled = not args.no_compile and problem is None
    measurements = run(modes, QUICK if args.quick else FULL, compiled)
    if args.json:
        content = [asdict(found) | {"case": found.case._asdict()} for found in measurements]
        args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if not measurements:
        print("nothing to compare: the published layer has no such mode")
        return 0
    if args.markdown:
        print("", *markdown_table(measurements), sep="\n")
    reached, lines = zip(*verdicts(measurements), strict=True)
    print("", *lines, sep="\n")
    disturbed = sum(found.preemptions > DISTURBED for found in measurements)
    if disturbed:
        print(f"\n{disturbed} of {len(measurements)} cases were disturbed by other programs: run them again")
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(main())
