"""Choices at places where the branch that is not taken is infinite or no number, with gradients worked out by hand."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparank_gen.ir.check import check_spec
from sparank_gen.ir.mode import Mode
from sparank_gen.spec.load import parse_spec


@dataclass(frozen=True)
class Guarded:
    """A function of ``x[i]``, points, and its value and derivative there.

    Attributes:
        math: statements that define ``y[i]``.
        points: values of ``x``.
        values: ``y`` there.
        slopes: the derivative of ``y`` in ``x``.
    """

    math: str
    points: tuple[float, ...]
    values: tuple[float, ...]
    slopes: tuple[float, ...]


GUARDED = {
    "logarithm": Guarded("y[i] = where(x[i] > 0, log(x[i]), 0)", (0, -1, 2, 1), (0, 0, 0.6931471805599453, 0), (0, 0, 0.5, 1)),
    "logarithm, other branch": Guarded("y[i] = where(x[i] <= 0, 7, log(x[i]))", (0, -1, 2, 1), (7, 7, 0.6931471805599453, 0), (0, 0, 0.5, 1)),
    "root": Guarded("y[i] = where(x[i] > 0, sqrt(x[i]), 3 * x[i])", (0, -1, 4, 1), (0, -3, 2, 1), (3, 3, 0.25, 0.5)),
    "reciprocal root": Guarded("y[i] = where(x[i] == 0, 0, x[i] * rsqrt(x[i]))", (0, 0, 4, 1), (0, 0, 2, 1), (0, 0, 0.25, 0.5)),
    "quotient": Guarded("y[i] = where(x[i] != 0, 1 / x[i], 5)", (0, -1, 2, 0), (5, -1, 0.5, 5), (0, -1, -0.25, 0)),
    "power": Guarded("y[i] = where(x[i] > 0, x[i] ** 0.5, 0)", (0, -1, 4, 1), (0, 0, 2, 1), (0, 0, 0.25, 0.5)),
    "power of one and a half": Guarded("y[i] = where(x[i] > 0, x[i] ** 1.5, 0)", (0, -1, 4, 1), (0, 0, 8, 1), (0, 0, 3, 1.5)),
    "root of a choice": Guarded("y[i] = where(x[i] > 0, sqrt(where(x[i] > 0, x[i], x[i] - 1)), 0)", (0, -1, 4, 1), (0, 0, 2, 1), (0, 0, 0.25, 0.5)),
    "root of a choice of zero": Guarded("y[i] = where(x[i] > 0, sqrt(where(x[i] > 0, x[i], 0)), 0)", (0, -1, 4, 1), (0, 0, 2, 1), (0, 0, 0.25, 0.5)),
    "overflow": Guarded("y[i] = where(x[i] > 0, x[i], exp(x[i]) - 1)", (1000, 2, 0, 1), (1000, 2, 0, 1), (1, 1, 1, 1)),
    "large cube": Guarded("y[i] = where(abs(x[i]) < 10, x[i] ** 3, 0)", (1e200, 0, 2, -1), (0, 0, 8, -1), (0, 0, 12, 3)),
    "ceiling of a power": Guarded("y[i] = min(x[i] ** 4, 50)", (1e200, 1, 2, 0), (50, 1, 16, 0), (0, 4, 32, 0)),
    "logarithm of a small quotient": Guarded(
        "y[i] = where(abs(x[i]) < 10, log(1 / (1 + x[i] ** 2)), 0)", (1e200, 0, 1, 0), (0, 0, -0.6931471805599453, 0), (0, 0, -1, 0)
    ),
    "not the exponential": Guarded("y[i] = where(x[i] < 5, exp(x[i]), 1)", (1000, 0, 0, 6), (1, 1, 1, 1), (0, 1, 1, 0)),
    "through a definition": Guarded(
        "z[j] = log(x[j]) * x[j]\ny[i] = where(x[i] > 0, z[i], 0)", (0, -1, 1, 1), (0, 0, 0, 0), (0, 0, 1, 1)
    ),
    "through a reduction": Guarded(
        "z[i] = sum[m](log(h[m,i]) * 0) + log(x[i])\ny[i] = where(x[i] > 0, z[i], 0)", (0, -1, 2, 1),
        (0, 0, 0.6931471805599453, 0), (0, 0, 0.5, 1),
    ),
    "of one thing for all": Guarded("z = sqrt(sum[j](x[j]))\ny[i] = where(x[i] > 2, z, x[i])", (0, 0, 0, 0), (0, 0, 0, 0), (1, 1, 1, 1)),
    "of one thing for some": Guarded(
        "z = sqrt(sum[j](x[j]))\ny[i] = where(x[i] <= 2, 0, z)", (3, 1, 0, 0), (2, 0, 0, 0), (0.25, 0.25, 0.25, 0.25)
    ),
    "in one another": Guarded(
        "y[i] = where(x[i] > 0, where(x[i] < 3, log(x[i]), sqrt(3 - x[i])), 1 / x[i])",
        (-2, 1, 2, -1), (-0.5, 0, 0.6931471805599453, -1), (-0.25, 1, 0.5, -1),
    ),
    "of what both branches read": Guarded(
        "z[i] = where(x[i] > 0.5, log(x[i]), x[i])\ny[i] = where(z[i] > 0.1, log(z[i]), z[i])",
        (0, 0.2, 2, 0.05), (0, -1.6094379124341003, -0.36651292058166435, 0.05), (1, 5, 0.7213475204444817, 1),
    ),
    "of what both branches of one branch read": Guarded(
        "y[i] = where(x[i] > 0, where(log(x[i]) > 0, log(x[i]) ** 2, log(x[i])), 0)",
        (0, -1, 2, 0.5), (0, 0, 0.4804530139182014, -0.6931471805599453), (0, 0, 0.6931471805599453, 2),
    ),
    "floor of a logarithm": Guarded("y[i] = max(log(x[i]), -2)", (0, 0.01, 2, 1), (-2, -2, 0.6931471805599453, 0), (0, 0, 0.5, 1)),
    "ceiling of a quotient": Guarded("y[i] = min(1 / x[i], 4)", (0, 0.1, 0.5, 1), (4, 4, 2, 1), (0, 0, -4, -1)),
    "relu of a logarithm": Guarded("y[i] = relu(log(x[i]))", (0, 0.5, 2, 0), (0, 0, 0.6931471805599453, 0), (0, 0, 0.5, 0)),
    "larger of two": Guarded("y[i] = max(log(x[i]), -x[i] - 3)", (0, 0, 2, 1), (-3, -3, 0.6931471805599453, 0), (-1, -1, 0.5, 1)),
    "smaller of two": Guarded("y[i] = min(1 / x[i], x[i] + 4)", (0, 0, 2, 1), (4, 4, 0.5, 1), (1, 1, -0.25, -1)),
    "ties": Guarded("y[i] = max(log(x[i]), 3 * x[i] - 3)", (1, 1, 1, 1), (0, 0, 0, 0), (2, 2, 2, 2)),
    "root of a floor": Guarded("y[i] = sqrt(max(x[i], 0.25))", (0, -1, 4, 1), (0.5, 0.5, 2, 1), (0, 0, 0.25, 0.5)),
    "logarithm of a floor": Guarded("y[i] = log(max(x[i], 1))", (0, -1, 2, 4), (0, 0, 0.6931471805599453, 1.3862943611198906), (0, 0, 0.5, 0.25)),
    "length of nothing": Guarded("y[i] = x[i] / sqrt(max(sum[j](x[j] ** 2), 1e-12))", (0, 0, 0, 0), (0, 0, 0, 0), (1e6,) * 4),
    "reciprocal root of a floor": Guarded("y[i] = x[i] * rsqrt(max(x[i], 1e-12))", (0, 0, 4, 1), (0, 0, 2, 1), (1e6, 1e6, 0.25, 0.5)),
    "signed root": Guarded(
        "y[i] = where(x[i] >= 0, sqrt(max(x[i], 1e-4)), -sqrt(max(-x[i], 1e-4)))",
        (0, -4, 4, 1e-6), (0.01, -2, 2, 0.01), (0, 0.25, 0.25, 0),
    ),
}


def guarded_mode(case: Guarded, name: str = "guarded") -> Mode:
    """A mode that adds ``y``, of the first modality, to the second."""
    axes = "axes: {i: dim, j: dim}" if "j]" in case.math else "axes: {i: dim}"
    math = "\n".join(f"  {line}" for line in ("x[i] = h[0,i]", *case.math.split("\n"), "out[i] = y[i] + h[1,i]"))
    return check_spec(parse_spec(f"version: 1\nmode: {name}\nsummary: s\nmodalities: 2\n{axes}\nmath: |\n{math}\n", "g.yaml"))


def check_guarded(case: Guarded, layer: torch.nn.Module) -> None:
    """Values and gradients of a generated layer at the points."""
    x = torch.tensor([case.points], dtype=torch.float64, requires_grad=True)
    other = torch.ones_like(x)
    out: Tensor = layer([x, other])
    torch.testing.assert_close(out, torch.tensor([case.values], dtype=torch.float64) + other, rtol=1e-12, atol=1e-12)
    (found,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(found, torch.tensor([case.slopes], dtype=torch.float64), rtol=1e-9, atol=1e-12)
