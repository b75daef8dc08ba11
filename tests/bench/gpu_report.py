"""What the GPU benchmark writes: a JSON file, and a picture of the roofline as an SVG file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import torch
import triton
from gpu_layers import AUTO, COLUMNS, COMPILED, EAGER, MAX_AUTOTUNE, RESIDENT, SPLIT, Case
from gpu_timing import Peak, Times

COLORS = {
    AUTO: "#0072b2",
    RESIDENT: "#56b4e9",
    COLUMNS: "#f0e442",
    SPLIT: "#009e73",
    EAGER: "#d55e00",
    COMPILED: "#e69f00",
    MAX_AUTOTUNE: "#cc79a7",
}
WIDTH, HEIGHT, MARGIN = 900, 560, 70  # of the picture, in pixels
LABEL = 110, 13  # the width and height of a label, in pixels


@dataclass
class Result:
    """The times of a case by candidate, in seconds, and what was wrong with the others."""

    case: Case
    times: dict[str, Times]
    wrong: dict[str, str] = field(default_factory=dict)

    def fastest(self, names: Iterable[str], measure: str = "device") -> float | None:
        """The least time among candidates, in seconds; None where none of them ran."""
        return min((getattr(self.times[name], measure) for name in names if name in self.times), default=None)


def machine(device: str) -> dict[str, str]:
    """The names and versions that times depend on."""
    return {
        "gpu": torch.cuda.get_device_name() if device == "cuda" else "none: a CPU",
        "torch": torch.__version__,
        "triton": triton.__version__,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
    }


def table(result: Result, peak: Peak) -> str:
    """The times of a case in microseconds, and the share of the roofline that each is."""
    least = peak.seconds(result.case)
    lines = [f"{result.case}  (roofline {least * 1e6:.1f} µs)"]
    for name, times in result.times.items():
        share = least / times.device
        lines.append(
            f"  {name:13} device {times.device * 1e6:10.1f} µs {share:6.1%} of the roofline,"
            f" latency {times.latency * 1e6:10.1f} µs"
        )
    return "\n".join([*lines, *(f"  {name:13} not timed: {why}" for name, why in result.wrong.items())])


def as_json(results: list[Result], peak: Peak, about: dict[str, Any]) -> str:
    """Everything measured: seconds, bytes, operations."""
    cases = [
        {
            **result.case._asdict(),
            "dtype": str(result.case.dtype),
            "bytes": result.case.bytes,
            "operations": result.case.operations,
            "roofline_seconds": peak.seconds(result.case),
            "candidates": {
                name: {
                    "device_seconds": times.device,
                    "latency_seconds": times.latency,
                    "roofline_share": peak.seconds(result.case) / times.device,
                }
                for name, times in result.times.items()
            },
            "not_timed": result.wrong,
        }
        for result in results
    ]
    rates = {str(dtype): rate for dtype, rate in peak.operations.items()}
    found = {
        **about,
        "copy_bytes_per_second": peak.bytes,
        "matmul_operations_per_second": rates,
        "cases": cases,
    }
    return json.dumps(found, indent=1) + "\n"


class Axes:
    """A plot with logarithmic axes: from values to pixels."""

    def __init__(self, xs: list[float], ys: list[float]) -> None:
        self.x0, self.x1 = math.floor(math.log10(min(xs))), math.ceil(math.log10(max(xs)) + 0.01)
        self.y0, self.y1 = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)) + 0.01)

    def x(self, value: float) -> float:
        """Pixels from the left."""
        return MARGIN + (math.log10(value) - self.x0) / (self.x1 - self.x0) * (WIDTH - 2 * MARGIN - 130)

    def y(self, value: float) -> float:
        """Pixels from the top."""
        return HEIGHT - MARGIN - (math.log10(value) - self.y0) / (self.y1 - self.y0) * (HEIGHT - 2 * MARGIN)

    def grid(self) -> list[str]:
        """A line and a number for each power of ten."""
        lines = []
        left, right = self.x(10.0**self.x0), self.x(10.0**self.x1)
        top, bottom = self.y(10.0**self.y1), self.y(10.0**self.y0)
        for k in range(self.x0, self.x1 + 1):
            x = self.x(10.0**k)
            lines += [_line(x, top, x, bottom, "#ddd"), _text(x, bottom + 18, f"{10.0**k:g}", "middle")]
        for k in range(self.y0, self.y1 + 1):
            y = self.y(10.0**k)
            lines += [_line(left, y, right, y, "#ddd"), _text(left - 8, y + 4, f"{10.0 ** (k - 12):g}", "end")]
        lines.append(_text((left + right) / 2, HEIGHT - 22, "operations per byte of least traffic", "middle"))
        lines.append(_text(left - 50, top - 16, "10¹² operations per second", "start"))
        return lines


def _line(x1: float, y1: float, x2: float, y2: float, color: str, width: float = 1) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}" stroke-width="{width}"/>'
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _dot(x: float, y: float, color: str, title: str = "") -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{color}"><title>{escape(title)}</title></circle>'


def roofline(results: list[Result], peak: Peak, dtype: torch.dtype, title: str) -> str | None:
    """The picture for one dtype as SVG: the roof as measured, and a point for each time of a case.

    Cases without matrix products have no place on it. None where no case is left.
    """
    shown = [r for r in results if r.case.dtype is dtype and r.case.operations and r.times]
    if not shown:
        return None
    points = [
        (r.case, name, r.case.operations / r.case.bytes, r.case.operations / r.times[name].device)
        for r in shown
        for name in COLORS
        if name in r.times
    ]
    top = peak.operations[dtype]
    ridge = top / peak.bytes
    axes = Axes([ridge * 2, *(p[2] for p in points)], [top, *(p[3] for p in points)])
    low, high = 10.0**axes.x0, 10.0**axes.x1
    start = max(low, 10.0**axes.y0 / peak.bytes)
    parts = [*axes.grid(), _text(WIDTH / 2, 24, title, "middle")]
    parts.append(_line(axes.x(start), axes.y(start * peak.bytes), axes.x(ridge), axes.y(top), "#333", 2))
    parts.append(_line(axes.x(ridge), axes.y(top), axes.x(high), axes.y(top), "#333", 2))
    parts += [_dot(axes.x(x), axes.y(y), COLORS[name], f"{name}: {case}") for case, name, x, y in points]
    placed: list[tuple[float, float]] = []
    for result in shown:
        best = max((p for p in points if p[0] == result.case), key=lambda p: p[3], default=None)
        if best is not None:
            x, y = axes.x(best[2]) + 8, axes.y(best[3]) - 6
            while any(abs(x - u) < LABEL[0] and abs(y - v) < LABEL[1] for u, v in placed):
                y -= LABEL[1]
            placed.append((x, y))
            parts.append(_text(x, y, f"{result.case.mode} M={result.case.modalities}", "start"))
    for k, (name, color) in enumerate(COLORS.items()):
        y = MARGIN + 10 + 20 * k
        parts += [_dot(WIDTH - 150, y, color), _text(WIDTH - 138, y + 4, name, "start")]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
        ' font-family="sans-serif" font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def write(folder: Path, name: str, results: list[Result], peak: Peak, about: dict[str, Any], least: int) -> None:
    """Write the JSON file, and the pictures of forward passes of at least ``least`` rows."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(as_json(results, peak, about), encoding="utf-8")
    shown = [r for r in results if r.case.step == "forward" and r.case.batch >= least]
    for dtype in peak.operations:
        word = str(dtype).removeprefix("torch.")
        picture = roofline(shown, peak, dtype, f"{about['gpu']}, {word}, forward pass")
        if picture is not None:
            (folder / f"{name}-roofline-{word}.svg").write_text(picture, encoding="utf-8")
