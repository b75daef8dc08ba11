"""What papers and other libraries call by a name, and this language writes another way."""

from __future__ import annotations

from sparank_gen.spec import errors
from sparank_gen.spec.source import Span

FUNCTIONS = {
    "average": "mean[i](x[i])",
    "clamp": "min(max(x, low), high)",
    "clip": "min(max(x, low), high)",
    "dot": "sum[i](x[i] * y[i])",
    "einsum": "sum[j](W[i,j] * x[j])",
    "expm1": "exp(x) - 1",
    "leaky_relu": "max(x, 0.01 * x)",
    "len": "size[i]",
    "linear": "sum[j](W[i,j] * x[j]) + c[i]",
    "ln": "log(x)",
    "log1p": "log(1 + x)",
    "log_softmax": "x[i] - logsumexp[i](x[i])",
    "matmul": "sum[j](W[i,j] * x[j])",
    "norm": "sqrt(sum[i](x[i] ** 2) + 1e-12)",
    "pow": "x ** y",
    "reciprocal": "1 / x",
    "sign": "where(x > 0, 1, where(x < 0, -1, 0))",
    "size": "size[i]",
    "softmin": "softmax[i](-x[i])",
    "square": "x ** 2",
    "std": "sqrt(mean[i]((x[i] - mean[i](x[i])) ** 2) + 1e-12)",
    "tan": "sin(x) / cos(x)",
    "var": "mean[i]((x[i] - mean[i](x[i])) ** 2)",
}
NAMES = {
    "dim": "modalities have widths of their own here: 'size[i]' is how many there are along an index, as 'i: dim[m]'",
    "e": "powers of it are written 'exp(x)'",
    "inf": "there are no infinite numbers: choose by 'where(condition, x, y)', or leave out by a factor of 0",
    "pi": "write 3.141592653589793",
    "present": "leave it out: what runs over modalities runs over those that a sample has, where 'present' is given to the layer",
}
# Characters of formulas in print.
PRINTED = {"×": "*", "·": "*", "⋅": "*", "−": "-", "–": "-", "÷": "/", "≤": "<=", "≥": ">=", "≠": "!="}
INDEX = "write indices in brackets, as in 'x[{0}]'; an index is not compared or computed with, and 'size[{0}]' is how many it has"


def require_no_foreign(name: str, span: Span) -> None:
    """Raise a SpecError where a function is one that this language writes another way."""
    if name in FUNCTIONS:
        raise errors.UnknownOperator(f"{name!r} is not an operator", span, f"write '{FUNCTIONS[name]}'")
