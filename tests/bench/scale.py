"""Time and memory of `sparank-gen build` and `check` on 10, 100 and 1,000 specs, and how far that is from linear.

The specs are synthetic and the same in every run: ten shapes of math (contractions for each modality and over all of
them, one to three layers, softmax over modalities and over features, normalisation, products, piecewise weights,
hyper-parameters), which take turns, so that every size has the same mixture; constants make every mode's math its own.

A build is cold: nothing is built, and the cache is empty. A check is warm: it follows one that found no difference.
Each is a fresh process, timed by the wall clock from start to exit. Memory is the peak of the process and all those
that it starts, where pages that several share count once (the sum of their PSS, sampled).

Growth is what ten times as many specs take, over ten times what they took: 1 is linear. The exit code is 1 if it is
more than 1.2 from 100 specs to 1,000.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

COMMAND = str(Path(sys.executable).with_name("sparank-gen"))
SIZES = (10, 100, 1000)
MOST_GROWTH = 1.2
SECONDS_BETWEEN_SAMPLES = 0.05

PER_MODALITY = '{name}: {{module: Linear, per: m, weight: "{weight}[m,{out},{into}]", bias: "{bias}[m,{out}]"}}'
SHARED = '{name}: {{module: Linear, weight: "{weight}[{out},{into}]", bias: "{bias}[{out}]"}}'
NORM = 'norm: {module: LayerNorm, weight: "scale[i]", bias: "shift[i]"}'
GATE = (PER_MODALITY.format(name="gates", weight="W", bias="c", out="i", into="j"),)
HIDDEN = (
    SHARED.format(name="down", weight="U", bias="d", out="k", into="i"),
    SHARED.format(name="up", weight="V", bias="e", out="i", into="k"),
)


class Shape(NamedTuple):
    """Some math with a place for a constant ``{x}``: parameters, statements, and the layout of the weights if any."""

    params: tuple[str, ...]
    math: tuple[str, ...]
    weights: str | None = None


SHAPES = (
    Shape((), ("out[i] = mean[m](h[m,i]) + {x} * max[m](h[m,i])",)),
    Shape((), ("w[m] = softmax[m]({x} * mean[i](h[m,i]))", "out[i] = sum[m](w[m] * h[m,i])"), "w[b,m]"),
    Shape(
        GATE,
        (
            "logit[m,i] = sum[j](W[m,i,j] * h[m,j]) + {x} * c[m,i]",
            "g[m,i] = softmax[m](logit[m,i])",
            "out[i] = sum[m](g[m,i] * h[m,i])",
        ),
        "g[m,b,i]",
    ),
    Shape(
        GATE,
        ("g[m,i] = sigmoid(sum[j](W[m,i,j] * h[m,j]) + {x} * c[m,i])", "out[i] = sum[m](g[m,i] * tanh(h[m,i]))"),
        "g[m,b,i]",
    ),
    Shape(
        (*HIDDEN, NORM),
        (
            "u[m,k] = gelu(sum[i](U[k,i] * h[m,i]) + d[k])",
            "v[m,i] = sum[k](V[i,k] * u[m,k]) + e[i]",
            "out[i] = mean[m](layernorm[i]({x} * v[m,i] + h[m,i], eps=1e-5) * scale[i] + shift[i])",
        ),
    ),
    Shape(
        HIDDEN,
        ("u[k] = relu(sum[i](U[k,i] * mean[m](h[m,i])) + d[k])", "out[i] = {x} * sum[k](V[i,k] * u[k]) + e[i]"),
    ),
    Shape(
        GATE,
        (
            "x[m,i] = silu(sum[j](W[m,i,j] * h[m,j]) + c[m,i])",
            "w[m] = softmax[m](logsumexp[i]({x} * x[m,i]))",
            "out[i] = sum[m](w[m] * x[m,i])",
        ),
        "w[b,m]",
    ),
    Shape((), ("out[i] = prod[m]({x} + abs(h[m,i])) + where(h[0,i] > h[1,i], h[0,i], {x} * h[1,i])",)),
    Shape(
        GATE,
        (
            "p[m,i] = softmax[i](sum[j](W[m,i,j] * h[m,j]) + c[m,i])",
            "out[i] = sum[m](p[m,i] * h[m,i]) / ({x} + sum[m](p[m,i]))",
        ),
    ),
    Shape(
        HIDDEN,
        (
            "u[m,k] = tanh(sum[i](U[k,i] * h[m,i]) + d[k])",
            "g[m,i] = softmax[m]({x} * sum[k](V[i,k] * u[m,k]) + e[i])",
            "out[i] = sum[m](g[m,i] * h[m,i])",
        ),
        "g[m,b,i]",
    ),
)


class Figures(NamedTuple):
    """Seconds and peak bytes of one command on one number of specs."""

    seconds: float
    memory: int


def spec(number: int) -> str:
    """The text of one synthetic spec."""
    shape = SHAPES[number % len(SHAPES)]
    axes = {"i": "dim", "j": "dim", "k": "hidden"}
    read = " ".join((*shape.params, *shape.math))
    read_axes = set("".join(re.findall(r"\[([a-z,]+)\]", read)))
    used = [f"{axis}: {extent}" for axis, extent in axes.items() if axis in read_axes]
    lines = [
        "version: 1",
        f"mode: synthetic_{number:04}",
        f"summary: Synthetic math of shape {number % len(SHAPES)}, number {number}.",
        'modalities: ">=2"',
        f"axes: {{{', '.join(used)}}}",
    ]
    if any(text.startswith("k:") for text in used):
        lines.append("hyperparameters: {hidden: {type: int, default: 3, minimum: 1, help: Width of the hidden layer.}}")
    if shape.params:
        lines += ["params:", *(f"  {parameter}" for parameter in shape.params)]
    constant = f"{1 + number / 4096:.12g}"
    lines += ["math: |", *(f"  {statement.format(x=constant)}" for statement in shape.math)]
    if shape.weights is not None:
        lines.append(f'weights: "{shape.weights}"')
    return "\n".join(lines) + "\n"


def write_specs(folder: Path, count: int) -> None:
    """The first ``count`` synthetic specs as files of a folder."""
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"synthetic_{number:04}.yaml").write_text(spec(number), encoding="utf-8")


def tree(process: int) -> Iterator[int]:
    """A process and all that it started, as they are now."""
    yield process
    try:
        children = [path.read_text().split() for path in Path(f"/proc/{process}/task").glob("*/children")]
    except OSError:
        return
    for child in (int(each) for found in children for each in found):
        yield from tree(child)


def proportional_bytes(process: int) -> int:
    """The memory of a process, each page over the number of processes that share it; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def measure(command: str, root: Path, options: Sequence[str]) -> Figures:
    """One run of `sparank-gen`, which must end with code 0."""
    environment = {**os.environ, "SPARANK_GEN_CACHE": str(root / "cache")}
    arguments = [COMMAND, command, str(root / "specs"), "--output", str(root / "generated"), *options]
    start, most = time.perf_counter(), 0
    with subprocess.Popen(arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while True:
            try:
                _, errors = process.communicate(timeout=SECONDS_BETWEEN_SAMPLES)
                break
            except subprocess.TimeoutExpired:
                most = max(most, sum(proportional_bytes(each) for each in tree(process.pid)))
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} ended with code {process.returncode}:\n{errors}")
    return Figures(time.perf_counter() - start, most)


def measure_size(count: int, options: Sequence[str]) -> dict[str, Figures]:
    """A cold build and a warm check of so many specs."""
    with TemporaryDirectory() as folder:
        root = Path(folder)
        write_specs(root / "specs", count)
        built = measure("build", root, options)
        # Whether a build has left the cache that a check needs or not.
        measure("check", root, options)
        found = {"cold build": built, "warm check": measure("check", root, options)}
        shutil.rmtree(root / "generated")
        return found


def main() -> int:
    """Measure and judge; 0 if nothing grows more than it may, else 1."""
    parser = argparse.ArgumentParser(description="Time and memory of `sparank-gen` on ever more specs.")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of specs (default 10 100 1000)")
    parser.add_argument("--jobs", type=int, help="processes of each command (default: one for each core)")
    given = parser.parse_args()
    options = () if given.jobs is None else (f"--jobs={given.jobs}",)
    print(f"{'specs':>6}  {'command':10}  {'seconds':>8}  {'per spec':>9}  {'memory':>9}  {'time growth':>11}  {'memory growth':>13}")
    before: dict[str, Figures] = {}
    last, worst = 0, 0.0
    for count in given.sizes:
        found = measure_size(count, options)
        for command, figures in found.items():
            growth = ["", ""]
            if command in before:
                ratios = [now / then * last / count for now, then in zip(figures, before[command], strict=True)]
                growth = [f"{ratio:.2f}" for ratio in ratios]
                worst = max(*ratios, worst) if count == given.sizes[-1] else worst
            print(
                f"{count:6}  {command:10}  {figures.seconds:6.2f} s  {1000 * figures.seconds / count:6.1f} ms  "
                f"{figures.memory / 2**20:5.0f} MiB  {growth[0]:>11}  {growth[1]:>13}",
                flush=True,
            )
        before, last = found, count
    reached = round(worst, 2) <= MOST_GROWTH
    print(f"{'reached' if reached else 'MISSED':>8}  growth: {worst:.2f} (target: at most {MOST_GROWTH:.2f})")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
