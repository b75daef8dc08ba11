"""The one table of operators: meaning, derivative and print of each, declared in one line.

Derivatives are written in the language itself, over the arguments ``a``, ``b``, ``c``, the result ``y``, the
cotangent ``g`` and, for operators over axes, the axes ``A``. They select with ``where`` instead of multiplying by
zero, so that a branch that was not taken contributes nothing even when it is infinite.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Axes = tuple[int, ...]


@dataclass(frozen=True)
class Operator:
    """One operator of the language.

    Attributes:
        name: its name; also how the math calls it, unless it is written as a symbol.
        kind: ``pointwise``, ``comparison``, ``reduction`` (removes its axes) or ``normalisation`` (keeps them).
        meaning: the numpy float64 meaning; over axes, ``meaning(array, axes, **options)``.
        derivative: the cotangent of each argument, in the language; None where it is zero.
        torch: the torch expression, over ``{0}``…; over axes, also ``{dim}``.
        triton: the expression in a Triton kernel where it is another one; reductions name the function that combines two.
        expansion: an internal operator, or a normalisation or compound reduction over axes ``A``, in terms of simpler ones, in
            the language.
        safe: for each argument at which value or derivative may be infinite, a number at which they are not.
        scalar: the Python expression where all arguments are numbers; ``{0:7}`` says how tightly an argument must bind there.
        latex: the LaTeX, over ``{0}``…
        summary: what it is, in a few words, as errors say it.
        symbol: the infix symbol, if it is written with one.
        precedence: how tightly the torch print binds (Python's own order; 10 never needs parentheses).
        options: named numbers and their defaults.
        internal: whether only the compiler may use it.
        differentiable: whether it has a derivative; what only derivatives use need not.
    """

    name: str
    kind: str
    meaning: Callable[..., Array]
    derivative: tuple[str | None, ...]
    torch: str
    scalar: str = ""
    latex: str = ""
    summary: str = ""
    symbol: str = ""
    precedence: int = 10
    options: tuple[tuple[str, float], ...] = ()
    internal: bool = False
    differentiable: bool = True
    triton: str = ""
    expansion: str = ""
    safe: tuple[float | None, ...] = ()

    @property
    def arity(self) -> int:
        return len(self.derivative)


def _erf(x: Array) -> Array:
    return np.vectorize(math.erf, otypes=[np.float64])(x) if x.size else x


def _sigmoid(x: Array) -> Array:
    return np.exp(-np.logaddexp(0.0, -x))


def _lerp(a: Array, b: Array, weight: Array) -> Array:
    return np.where(np.abs(weight) < 0.5, a + weight * (b - a), b - (b - a) * (1 - weight))


def _finite(x: Array) -> Array:
    return np.where(np.isinf(x), 0.0, x)


def _softmax(x: Array, axes: Axes) -> Array:
    e: Array = np.exp(x - x.max(axes, keepdims=True))
    total: Array = e.sum(axes, keepdims=True)
    return e / total


def _logsumexp(x: Array, axes: Axes) -> Array:
    peak: Array = x.max(axes, keepdims=True)
    total: Array = np.exp(x - _finite(peak)).sum(axes)
    return np.log(total) + peak.squeeze(axes)


def _layernorm(x: Array, axes: Axes, eps: float) -> Array:
    centred: Array = x - x.mean(axes, keepdims=True)
    variance: Array = (centred**2).mean(axes, keepdims=True)
    return centred / np.sqrt(variance + eps)


def _product_of_others(x: Array, axes: Axes) -> Array:
    moved = np.moveaxis(x, axes, range(len(axes)))
    flat = moved.reshape(-1, *moved.shape[len(axes) :])
    others = np.stack([np.delete(flat, k, 0).prod(0) for k in range(len(flat))])
    return np.moveaxis(others.reshape(moved.shape), range(len(axes)), axes)


_GELU = "g * ((1 + erf(a * 0.7071067811865476)) / 2 + a * exp(-a ** 2 / 2) * 0.3989422804014327)"
_POW_BASE, _POW_EXPONENT = "where(b == 0, 0, g * b * a ** (b - 1))", "where(a == 0, 0, g * y * log(a))"
_SPREAD = "rsqrt(mean[A]((a - mean[A](a)) ** 2) + eps)"
_TIES = "where(a == y, g / sum[A](where(a == y, 1, 0)), 0)"
_P, _C, _R, _N = "pointwise", "comparison", "reduction", "normalisation"

# fmt: off
_TABLE = (
    Operator("add", _P, np.add, ("g", "g"), "{0} + {1}", "{0:6} + {1:7}", "{0} + {1}", "sum", "+", 6),
    Operator("sub", _P, np.subtract, ("g", "-g"), "{0} - {1}", "{0:6} - {1:7}", "{0} - {1}", "difference", "-", 6),
    Operator("mul", _P, np.multiply, ("g * b", "g * a"), "{0} * {1}", "{0:7} * {1:8}", r"{0}\,{1}", "product", "*", 7),
    Operator("div", _P, np.divide, ("g / b", "-g * y / b"), "{0} / {1}", "{0:7} / {1:8}", r"\frac{{{0}}}{{{1}}}", "quotient", "/", 7, safe=(None, 1.0)),
    Operator("pow", _P, np.power, (_POW_BASE, _POW_EXPONENT), "{0} ** {1}", "{0:10} ** {1:10}", "{{{0}}}^{{{1}}}", "power", "**", 9, triton="power({0}, {1})", safe=(1.0, None)),
    Operator("neg", _P, np.negative, ("-g",), "-{0}", "-{0:9}", "-{0}", "negative", "-", 8),
    Operator("exp", _P, np.exp, ("g * y",), "torch.exp({0})", "math.exp({0})", r"\exp\left({0}\right)", "exponential", triton="exponential({0})", safe=(0.0,)),
    Operator("log", _P, np.log, ("g / a",), "torch.log({0})", "math.log({0})", r"\log\left({0}\right)", "natural logarithm", triton="tl.log({0})", safe=(1.0,)),
    Operator("sqrt", _P, np.sqrt, ("g / (2 * y)",), "torch.sqrt({0})", "math.sqrt({0})", r"\sqrt{{{0}}}", "square root", triton="tl.sqrt({0})", safe=(1.0,)),
    Operator("rsqrt", _P, lambda x: 1 / np.sqrt(x), ("-g * y ** 3 / 2",), "torch.rsqrt({0})", "1 / math.sqrt({0})", r"\frac{{1}}{{\sqrt{{{0}}}}}", "one over the square root", triton="tl.rsqrt({0})", safe=(1.0,)),
    Operator("abs", _P, np.abs, ("where(a > 0, g, where(a < 0, -g, 0))",), "torch.abs({0})", "abs({0})", r"\left|{0}\right|", "absolute value; derivative 0 at 0", triton="tl.abs({0})"),
    Operator("sigmoid", _P, _sigmoid, ("g * y * (1 - y)",), "torch.sigmoid({0})", "math.exp(min({0}, 0.0)) / (1 + math.exp(-abs({0})))", r"\sigma\left({0}\right)", "1 / (1 + exp(-x))", triton="sigmoid({0})"),
    Operator("tanh", _P, np.tanh, ("g * (1 - y ** 2)",), "torch.tanh({0})", "math.tanh({0})", r"\tanh\left({0}\right)", "hyperbolic tangent", triton="tanh({0})"),
    Operator("relu", _P, lambda x: np.maximum(x, 0.0), ("where(a > 0, g, 0)",), "F.relu({0})", "max({0}, 0.0)", r"\mathrm{{relu}}\left({0}\right)", "max(x, 0); derivative 0 at 0", triton="maximum({0}, 0.0)"),
    Operator("gelu", _P, lambda x: x * (1 + _erf(x / math.sqrt(2))) / 2, (_GELU,), "F.gelu({0})", "{0:7} * (1 + math.erf({0:7} / math.sqrt(2))) / 2", r"\mathrm{{gelu}}\left({0}\right)", "x · Φ(x), with the exact normal distribution", triton="gelu({0})"),
    Operator("silu", _P, lambda x: x * _sigmoid(x), ("g * sigmoid(a) * (1 + a * (1 - sigmoid(a)))",), "F.silu({0})", "{0:7} * math.exp(min({0}, 0.0)) / (1 + math.exp(-abs({0})))", r"\mathrm{{silu}}\left({0}\right)", "x · sigmoid(x)", triton="silu({0})"),
    Operator("softplus", _P, lambda x: np.logaddexp(0.0, x), ("g * sigmoid(a)",), "F.softplus({0}, threshold=40)", "max({0}, 0.0) + math.log1p(math.exp(-abs({0})))", r"\mathrm{{softplus}}\left({0}\right)", "log(1 + exp(x))", triton="softplus({0})"),
    Operator("erf", _P, _erf, ("g * 1.1283791670955126 * exp(-a ** 2)",), "torch.erf({0})", "math.erf({0})", r"\mathrm{{erf}}\left({0}\right)", "error function", triton="tl.erf({0})"),
    Operator("sin", _P, np.sin, ("g * cos(a)",), "torch.sin({0})", "math.sin({0})", r"\sin\left({0}\right)", "sine", triton="tl.sin({0})"),
    Operator("cos", _P, np.cos, ("-g * sin(a)",), "torch.cos({0})", "math.cos({0})", r"\cos\left({0}\right)", "cosine", triton="tl.cos({0})"),
    Operator("maximum", _P, np.maximum, ("where(a > b, g, where(a == b, g / 2, 0))", "where(b > a, g, where(a == b, g / 2, 0))"), "torch.maximum({0}, {1})", "max({0}, {1})", r"\max\left({0}, {1}\right)", "larger of two; at equality each gets half of the gradient", triton="maximum({0}, {1})"),
    Operator("minimum", _P, np.minimum, ("where(a < b, g, where(a == b, g / 2, 0))", "where(b < a, g, where(a == b, g / 2, 0))"), "torch.minimum({0}, {1})", "min({0}, {1})", r"\min\left({0}, {1}\right)", "smaller of two; at equality each gets half of the gradient", triton="minimum({0}, {1})"),
    Operator("clamp_min", _P, np.maximum, ("where(a >= b, g, 0)", None), "torch.clamp({0}, min={1})", "max({0}, {1})", r"\max\left({0}, {1}\right)", "max(x, number); at equality x gets the gradient", internal=True, triton="maximum({0}, {1})"),
    Operator("clamp_max", _P, np.minimum, ("where(a <= b, g, 0)", None), "torch.clamp({0}, max={1})", "min({0}, {1})", r"\min\left({0}, {1}\right)", "min(x, number); at equality x gets the gradient", internal=True, triton="minimum({0}, {1})"),
    Operator("finite", _P, _finite, (None,), "torch.where(torch.isinf({0}), 0, {0})", "0.0 if math.isinf({0}) else {0:1}", r"\mathrm{{finite}}\left({0}\right)", "x, or 0 where it is infinite", internal=True, differentiable=False, triton="finite({0})"),
    Operator("where", _P, np.where, (None, "where(a, g, 0)", "where(a, 0, g)"), "torch.where({0}, {1}, {2})", "{1:2} if {0:2} else {2:1}", r"\begin{{cases}}{1} & \text{{if }} {0}\\ {2} & \text{{otherwise}}\end{{cases}}", "where(condition, x, y): x where the condition holds, else y; the gradient selects", triton="tl.where({0}, {1}, {2})"),
    Operator("lerp", _P, _lerp, ("g * (1 - c)", "g * c", "g * (b - a)"), "lerp({0}, {1}, {2})", "{0:6} + {2:7} * ({1:6} - {0:7})", r"\mathrm{{lerp}}\left({0}, {1}, {2}\right)", "lerp(x, y, w): x + w · (y − x), computed from the nearer end", triton="interpolate({0}, {1}, {2})"),
    Operator("sigmoid_backward", _P, lambda g, y: g * y * (1 - y), (None, None), "torch.ops.aten.sigmoid_backward({0}, {1})", "{0:7} * {1:8} * (1 - {1:7})", r"{0}\,{1}\left(1 - {1}\right)", "gradient through a sigmoid, from its result", internal=True, differentiable=False, expansion="a * b * (1 - b)"),
    Operator("tanh_backward", _P, lambda g, y: g * (1 - y**2), (None, None), "torch.ops.aten.tanh_backward({0}, {1})", "{0:7} * (1 - {1:10} ** 2)", r"{0}\left(1 - {1}^{{2}}\right)", "gradient through a hyperbolic tangent, from its result", internal=True, differentiable=False, expansion="a * (1 - b ** 2)"),
    Operator("relu_backward", _P, lambda g, y: np.where(y > 0, g, 0.0), (None, None), "torch.ops.aten.threshold_backward({0}, {1}, 0)", "{0:2} if {1:5} > 0 else 0.0", r"{0}\,\left[{1} > 0\right]", "gradient through a relu, from its result", internal=True, differentiable=False, expansion="where(b > 0, a, 0)"),
    Operator("lt", _C, np.less, (None, None), "{0} < {1}", "{0:5} < {1:5}", "{0} < {1}", "less", "<", 3),
    Operator("le", _C, np.less_equal, (None, None), "{0} <= {1}", "{0:5} <= {1:5}", r"{0} \le {1}", "less or equal", "<=", 3),
    Operator("gt", _C, np.greater, (None, None), "{0} > {1}", "{0:5} > {1:5}", "{0} > {1}", "greater", ">", 3),
    Operator("ge", _C, np.greater_equal, (None, None), "{0} >= {1}", "{0:5} >= {1:5}", r"{0} \ge {1}", "greater or equal", ">=", 3),
    Operator("eq", _C, np.equal, (None, None), "{0} == {1}", "{0:5} == {1:5}", "{0} = {1}", "equal", "==", 3),
    Operator("ne", _C, np.not_equal, (None, None), "{0} != {1}", "{0:5} != {1:5}", r"{0} \ne {1}", "unequal", "!=", 3),
    Operator("logical_and", _C, np.logical_and, (None, None), "{0} & {1}", "{0:3} and {1:3}", r"{0} \wedge {1}", "both", "&", 5, internal=True),
    Operator("logical_or", _C, np.logical_or, (None, None), "{0} | {1}", "{0:2} or {1:2}", r"{0} \vee {1}", "either", "|", 4, internal=True),
    Operator("logical_not", _C, np.logical_not, (None,), "~{0}", "not {0:3}", r"\neg {0}", "negation", "~", 8, internal=True),
    Operator("sum", _R, np.sum, ("g",), "{0}.sum({dim})", latex=r"\sum_{{{axes}}} {0}", summary="sum over the axes", triton="add"),
    Operator("mean", _R, np.mean, ("g / size[A]",), "{0}.mean({dim})", latex=r"\mathop{{\mathrm{{mean}}}}_{{{axes}}} {0}", summary="mean over the axes", expansion="sum[A](a) / size"),
    Operator("max", _R, np.max, (_TIES,), "{0}.amax({dim})", latex=r"\max_{{{axes}}} {0}", summary="maximum over the axes; ties share the gradient equally", triton="maximum"),
    Operator("min", _R, np.min, (_TIES,), "{0}.amin({dim})", latex=r"\min_{{{axes}}} {0}", summary="minimum over the axes; ties share the gradient equally", triton="minimum"),
    Operator("prod", _R, np.prod, ("g * product_of_others[A](a)",), "{0}.prod({dim})", latex=r"\prod_{{{axes}}} {0}", summary="product over the axes; its gradient is right where factors are zero", triton="multiply"),
    Operator("logsumexp", _R, _logsumexp, ("g * exp(a - y)",), "{0}.logsumexp({dim})", latex=r"\log\sum_{{{axes}}}\exp\left({0}\right)", summary="log of the sum of exponentials over the axes", expansion="log(sum[A](exp(a - finite(max[A](a))))) + max[A](a)"),
    Operator("softmax", _N, _softmax, ("y * (g - sum[A](g * y))",), "{0}.softmax({dim})", latex=r"\mathop{{\mathrm{{softmax}}}}_{{{axes}}}\left({0}\right)", summary="exponentials divided by their sum over the axes", expansion="exp(a - max[A](a)) / sum[A](exp(a - max[A](a)))"),
    Operator("layernorm", _N, _layernorm, (f"{_SPREAD} * (g - mean[A](g) - y * mean[A](g * y))",), "F.layer_norm({0}, {shape}, eps={eps})", latex=r"\mathop{{\mathrm{{layernorm}}}}_{{{axes}}}\left({0}\right)", summary="centred, and divided by the square root of variance + eps, over the axes", options=(("eps", 1e-5),), expansion="(a - mean[A](a)) * rsqrt(mean[A]((a - mean[A](a)) ** 2) + eps)"),
    Operator("product_of_others", _N, _product_of_others, (None,), "", latex=r"\prod_{{{axes}}} {0}", summary="for each entry, the product of all others", internal=True, differentiable=False),
)
# fmt: on

OPERATORS: dict[str, Operator] = {operator.name: operator for operator in _TABLE}
