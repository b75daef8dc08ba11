"""Speed of the generated kernels on a GPU, against the published layer and torch.compile of it.

All candidates of a case share weights and inputs, give the same results as a float64 run or are not timed, and are
timed in turn, round by round, in one process. Inputs change with every call, so that none waits in the L2 cache.
``device`` is the time between two events around calls that are already queued; ``latency`` is the host's time from
a call to its result. The roofline is the copy bandwidth and the matrix product's rate that the same run measures.

Needs python3, torch, triton and pytest, and PYTHONPATH=generated:tests; `make gpu-bench` runs it. ``--smoke`` runs
tiny cases on a CPU with TRITON_INTERPRET=1: its times say nothing.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from gpu_layers import (
    AUTO,
    BOTH,
    CANDIDATES,
    CAT,
    COLUMNS,
    COMPILED,
    EAGER,
    FORWARD,
    MAX_AUTOTUNE,
    PUBLISHED_MODES,
    RESIDENT,
    SPLIT,
    TORCH,
    Case,
    Setup,
    candidates,
    checked,
    published_layer,
)
from gpu_report import Result, machine, table, write
from gpu_timing import Clock, Peak, measured_peak
from gpu_tune import tune

from sparank_fusion.layer import mode_class

LARGE, SMALL = 65536, 256
COMPILERS = (COMPILED, MAX_AUTOTUNE)
TORCH_PATHS = (TORCH, EAGER, COMPILED, MAX_AUTOTUNE, CAT)
SLOWER = 1.05  # how much longer than the fastest torch path a cell of the grid may take
CASE_SECONDS, GRID_SECONDS = 1.0, 0.2
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


class Target(NamedTuple):
    """The least value of a quotient: of the fastest baseline's time, or the roofline's, over auto's."""

    mode: str
    modalities: int
    batch: int
    step: str
    baselines: tuple[str, ...]
    measure: str
    least: float

    def value(self, result: Result, peak: Peak) -> float | None:
        """The quotient; None where something that it needs did not run."""
        mine = result.fastest([AUTO], self.measure)
        theirs = result.fastest(self.baselines, self.measure) if self.baselines else peak.seconds(result.case)
        return theirs / mine if mine and theirs else None

    def __str__(self) -> str:
        over = "the roofline" if not self.baselines else " or ".join(self.baselines)
        where = f"{self.mode} M={self.modalities} B={self.batch} {self.step}"
        return f"{where}: {over} over auto, {self.measure}, at least {self.least:g}"


TARGETS = (
    Target("gate", 3, LARGE, FORWARD, (), "device", 0.8),
    Target("gate", 3, LARGE, FORWARD, COMPILERS, "device", 2.5),
    Target("gate", 3, LARGE, FORWARD, (EAGER,), "device", 6.0),
    Target("sigmoid_gate", 2, LARGE, FORWARD, COMPILERS, "device", 2.0),
    Target("attention", 3, LARGE, FORWARD, COMPILERS, "device", 2.0),
    *(Target("gate", m, LARGE, BOTH, COMPILERS, "device", 1.8) for m in (2, 3)),
    *(Target("attention", m, LARGE, BOTH, COMPILERS, "device", 1.5) for m in (2, 3)),
    *(Target("concat", m, LARGE, FORWARD, (CAT,), "device", 0.95) for m in (2, 3)),
    *(Target("gate", m, SMALL, FORWARD, (EAGER,), "latency", 2.0) for m in (2, 3)),
    Target("sigmoid_gate", 2, SMALL, FORWARD, (EAGER,), "latency", 2.0),
    *(Target("attention", m, SMALL, FORWARD, (EAGER,), "latency", 2.0) for m in (2, 3)),
)


def takes(mode: str, modalities: int) -> bool:
    """Whether a mode can fuse that many modalities."""
    found = mode_class(mode)
    return found.least_modalities <= modalities <= (found.most_modalities or modalities)


def cases(
    modes: Iterable[str],
    counts: Iterable[int],
    dims: Iterable[int],
    dtypes: Iterable[str],
    batches: Iterable[int],
    steps: Iterable[str],
) -> Iterator[Case]:
    """All combinations that the modes take; those of one layer come one after the other."""
    outer = itertools.product(batches, steps, dtypes, dims, modes, counts)
    for batch, step, dtype, dim, mode, count in outer:
        if takes(mode, count):
            yield Case(mode, count, dim, DTYPES[dtype], batch, step)


def measure(case: Case, setup: Setup, clock: Clock, seconds: float) -> Result:
    """Check and time all candidates of a case."""
    torch._dynamo.reset()
    sets = case.inputs(clock.sets(case.batch * case.dim * case.modalities * case.dtype.itemsize), setup.device)
    calls = candidates(case, setup)
    wrong = checked(case, setup, calls, sets[0])
    good = {name: call for name, call in calls.items() if name not in wrong}
    return Result(case, clock.interleaved(good, sets, seconds), wrong)


def setup_of(arguments: argparse.Namespace) -> tuple[Setup, str]:
    """How candidates are built, and what the published layer is."""
    published, what = published_layer(arguments.reference)
    # Autotuning takes up to a minute a cell, and a grid has about a thousand.
    skip = {*arguments.skip, *((RESIDENT, COLUMNS, SPLIT, MAX_AUTOTUNE) if arguments.grid else ())}
    device, compiler = ("cpu", "eager") if arguments.smoke else ("cuda", "inductor")
    return Setup(published, device, frozenset(skip), compiler), what


def compile_first(chosen: list[Case], arguments: argparse.Namespace) -> None:
    """Run all candidates of all cases once, in processes: what they compile is kept on disk, and found there later."""
    with ProcessPoolExecutor(arguments.jobs, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(run_once, chosen, itertools.repeat(arguments)))


def run_once(case: Case, arguments: argparse.Namespace) -> None:
    """Run all candidates of a case; what fails here will fail, and be reported, when it is measured."""
    setup, _ = setup_of(arguments)
    with suppress(Exception):
        torch._dynamo.reset()
        checked(case, setup, candidates(case, setup), case.inputs(1, setup.device)[0])
    gc.collect()
    torch.cuda.empty_cache()


def measured(case: Case, setup: Setup, clock: Clock, seconds: float) -> Result:
    """The same, where a case that does not run, for want of memory say, stops no other."""
    try:
        return measure(case, setup, clock, seconds)
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        return Result(case, {}, {"the case": f"{type(error).__name__}: {first[:200]}"})
    finally:
        gc.collect()
        if clock.is_cuda:
            torch.cuda.empty_cache()


def run(
    chosen: list[Case], arguments: argparse.Namespace, setup: Setup, clock: Clock, about: dict[str, Any], deadline: float
) -> tuple[list[Result], Peak]:
    """Measure cases until the time is up; everything found is written after each, in case the run is cut short."""
    peak = measured_peak(clock, sorted({case.dtype for case in chosen}, key=str))
    rates = ", ".join(f"{str(d).removeprefix('torch.')} {r / 1e12:.1f}" for d, r in peak.operations.items())
    print(f"copy {peak.bytes / 1e9:.0f} GB/s; matrix products, 10^12 operations per second: {rates}", flush=True)
    results: list[Result] = []
    for number, case in enumerate(chosen):
        if time.monotonic() > deadline:
            print(f"time is up: {len(chosen) - number} of {len(chosen)} cases not run, from {case}")
            break
        results.append(measured(case, setup, clock, arguments.seconds))
        print(table(results[-1], peak), flush=True)
        name = "gpu-grid" if arguments.grid else "gpu"
        write(arguments.out, name, results, peak, about, max(case.batch for case in chosen))
    return results, peak


def report_targets(results: list[Result], peak: Peak) -> int:
    """Print whether each target is met; the number of those that are not, or were not measured."""
    missed = 0
    print("\ntargets")
    found = {
        (case.mode, case.modalities, case.batch, case.step): result
        for result in results
        if (case := result.case).dim == 128 and case.dtype is torch.bfloat16
    }
    for target in TARGETS:
        result = found.get(target[:4])
        value = None if result is None else target.value(result, peak)
        # Values are judged as printed.
        passed = value is not None and round(value, 2) >= target.least
        missed += not passed
        word = "pass" if passed else "FAIL" if value is not None else "none"
        print(f"  {word}  {'not measured' if value is None else f'{value:.2f}':>12}  {target}")
    return missed


def report_grid(results: list[Result]) -> int:
    """Print the cells where auto takes longer than the fastest torch path allows; their number."""
    slow = []
    for result in results:
        mine, theirs = result.fastest([AUTO]), result.fastest(TORCH_PATHS)
        if mine is None or theirs is None:
            slow.append(f"  {result.case}: not measured: {result.wrong}")
        elif mine > SLOWER * theirs:
            best = min((n for n in TORCH_PATHS if n in result.times), key=lambda n: result.times[n].device)
            slow.append(f"  {result.case}: {mine * 1e6:.1f} µs, {mine / theirs:.2f} times {best}")
    print(f"\nauto is over {SLOWER - 1:.0%} slower than the fastest torch path in {len(slow)} of {len(results)} cells")
    print("\n".join(slow))
    return len(slow)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words: Callable[[str], list[str]] = str.split
    parser.add_argument("--grid", action="store_true", help="many sizes, to find where auto is slow")
    parser.add_argument("--tune", action="store_true", help="try rows and warps of each kernel")
    parser.add_argument("--smoke", action="store_true", help="tiny cases on a CPU")
    parser.add_argument("--jobs", type=int, default=0, help="compile everything in so many processes first")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or "build/gpu"), help="folder")
    parser.add_argument("--minutes", type=float, default=60.0, help="start no case after that")
    parser.add_argument("--seconds", type=float, help="about how long to measure each case")
    parser.add_argument("--skip", type=lambda s: s.split(","), default=[], help=f"of {', '.join(CANDIDATES)}")
    parser.add_argument("--reference", action="store_true", help="our plain reference as the published layer")
    parser.add_argument("--modes", type=words, default=PUBLISHED_MODES, help="in one argument, as all lists here")
    parser.add_argument("--steps", type=lambda s: s.split(), default=[FORWARD, BOTH])
    for name, kind in (("modalities", int), ("dims", int), ("batches", int), ("dtypes", str)):
        parser.add_argument(f"--{name}", type=lambda s, kind=kind: [kind(word) for word in s.split()])
    arguments = parser.parse_args()
    unknown = [mode for mode in arguments.modes if mode not in PUBLISHED_MODES]
    if unknown:
        parser.error(f"the published layer has no mode {unknown[0]!r}; it has {', '.join(PUBLISHED_MODES)}")
    if arguments.smoke and os.environ.get("TRITON_INTERPRET") != "1":
        parser.error("--smoke needs TRITON_INTERPRET=1 in the environment")
    if not arguments.smoke and not torch.cuda.is_available():
        parser.error("there is no GPU; TRITON_INTERPRET=1 and --smoke run tiny cases on a CPU")
    usual = 0.0 if arguments.smoke else GRID_SECONDS if arguments.grid else CASE_SECONDS
    arguments.seconds = usual if arguments.seconds is None else arguments.seconds
    return arguments


def sizes(arguments: argparse.Namespace) -> dict[str, list[Any]]:
    """The sizes of a run: those of the command line, else those of its kind."""
    if arguments.smoke:
        usual = {"counts": [2, 3], "dims": [16], "dtypes": ["float32"], "batches": [20]}
    elif arguments.grid:
        usual = {"counts": [2, 3, 4], "dims": [64, 128, 256, 512, 1024], "dtypes": ["bfloat16", "float32"]}
        usual["batches"] = [256, 2048, 16384, 65536, 262144]
    else:
        usual = {"counts": [2, 3], "dims": [128], "dtypes": ["bfloat16"], "batches": [LARGE, SMALL]}
    given = {"counts": arguments.modalities, "dims": arguments.dims, "dtypes": arguments.dtypes}
    given["batches"] = arguments.batches
    return {name: given[name] or value for name, value in usual.items()}


def main() -> int:
    """Run what was asked for; 1 where a target is missed or not measured, or a cell of the grid is slow."""
    arguments = parse()
    device = "cpu" if arguments.smoke else "cuda"
    if arguments.smoke:
        torch.set_num_threads(1)
    clock = Clock(device)
    chosen = list(cases(arguments.modes, steps=arguments.steps, **sizes(arguments)))
    if arguments.tune:
        tune(chosen, clock, time.monotonic() + 60 * arguments.minutes, smoke=arguments.smoke)
        return 0
    setup, what = setup_of(arguments)
    about = {**machine(device), "published": what}
    if arguments.jobs:
        compile_first(chosen, arguments)
    deadline = time.monotonic() + 60 * arguments.minutes
    print("\n".join(f"{key}: {value}" for key, value in about.items()))
    results, peak = run(chosen, arguments, setup, clock, about, deadline)
    bad = report_grid(results) if arguments.grid else report_targets(results, peak)
    print(f"\nwritten to {arguments.out}")
    return 0 if arguments.smoke else int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
