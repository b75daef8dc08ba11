"""The reference evaluator and the derived adjoints of the shipped modes, against formulas written by hand.

The formulas share nothing with the compiler: they read the parameters as torch stores them. Adjoints are compared
with central differences of the evaluator, for the features and every parameter, with cotangents on the output and on
the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sparank_gen.backends.tests.golden import laid_out
from sparank_gen.ir.check import check_spec
from sparank_gen.ir.derive import ADJOINT, derive
from sparank_gen.ir.evaluate import evaluate, evaluate_at
from sparank_gen.ir.expand import divide_last, expand
from sparank_gen.ir.mode import Mode
from sparank_gen.ir.node import BATCH, reachable
from sparank_gen.ir.sink import sink
from sparank_gen.spec.load import parse_spec

Array = NDArray[np.float64]
Tensors = Mapping[str, Array]

SPECS = Path(__file__).resolve().parents[1] / "specs"
STEP = 1e-5
STACKED = """\
version: 1
mode: stacked
summary: concat with a definition, so that there is something to derive.
modalities: ">=1"
axes: {i: dim}
math: |
  both[m,i] = h[m,i]
out: "both[b,(m i)]"
"""
MANY_OPERATORS = """\
version: 1
mode: many
summary: operators that the shipped modes do not use, pieces, positions, and a quantity read twice.
modalities: "3"
axes: {t: modalities, u: modalities, i: dim, j: dim, p: 2}
math: |
  leaky[m,i] = where(h[m,i] > 0, h[m,i], 0.1 * h[m,i]) + max(h[m,i], 0.2)
  pair[t,u]  = sum[i](leaky[t,i] * leaky[u,i]) / dim
  x[0,i]     = prod[m](h[m,i]) + logsumexp[m](h[m,i])
  x[1,i]     = max(h[0,i], h[1,i]) - min[m](h[m,i])
  y[i]       = sum[t,u](pair[t,u] * pair[u,t] * h[t,i]) / size[t,u] + sum[j](h[2,j])
  out[i]     = lerp(x[0,i], x[1,i], sigmoid(y[i])) + sum[p](x[p,i] ** 2) + softplus(-y[i])
"""
CUT_AND_JOINED = """\
version: 1
mode: cut
summary: windows on definitions, parameters and joined axes; pieces that are axes, positions, and broadcast.
modalities: "2..3"
axes: {i: dim, j: dim // 2, p: dim + 1, q: 2 * dim, t: modalities + 1, s: 2}
features: "h[m,b,(s j)]"
params:
  mix: {module: Linear, weight: "W[i,p]", bias: "c[i]"}
math: |
  x[m,i] = concat[i: j, j](tanh(h[m,1,j]), h[m,0,j] * h[0,1,j])
  u[m,p] = concat[p: 1, i](2, x[m,i])
  v[t,i] = concat[t: 1, m](c[i], sum[p](W[i,p] * u[m,p]))
  y[q]   = concat[q: i, j, j](sum[t](softmax[t](v[t,i]) * v[t,i]), prod[i](v[0,i]), c[j + dim // 2])
  z[m,j] = v[m + 1,j + dim - dim // 2] * softmax[j](y[j + dim])
  out[i] = y[i + dim // 2] + sum[m,j](z[m,j] * x[m,j + 0]) * W[i,0] * W[i,1]
"""
TEMPERATURE = """\
version: 1
mode: temperature
summary: a hyper-parameter that is a fraction, as a number in the math.
modalities: ">=1"
axes: {i: dim}
hyperparameters:
  tau: {default: 0.5}
math: |
  out[i] = sum[m](softmax[m](h[m,i] / tau) * h[m,i])
"""
OTHERS = {"stacked": STACKED, "many": MANY_OPERATORS, "cut": CUT_AND_JOINED}


@dataclass(frozen=True)
class Sizes:
    """One set of sizes; heads are those of attention."""

    batch: int
    modalities: int
    dim: int
    heads: int = 1

    def named(self) -> dict[str, int]:
        return {"batch": self.batch, "modalities": self.modalities, "dim": self.dim, "attn_heads": self.heads}


def load(name: str) -> Mode:
    """A shipped mode; its modalities have one width."""
    source = (SPECS / f"{name}.yaml").read_text(encoding="utf-8")
    return check_spec(parse_spec(source.replace("dim[m]", "dim"), f"specs/{name}.yaml"))


def random_tensors(mode: Mode, sizes: Sizes, seed: int = 0) -> dict[str, Array]:
    """The features and every parameter, one dimension for each index."""
    rng, known = np.random.default_rng(seed), sizes.named()
    return {
        name: rng.standard_normal(
            [*([sizes.batch] if name == "h" else []), *(extent.value(known) for extent in tensor.slots)]
        )
        for name, tensor in mode.program.tensors.items()
    }


def softmax(x: Array, axis: int) -> Array:
    e: Array = np.exp(x - x.max(axis, keepdims=True))
    total: Array = e.sum(axis, keepdims=True)
    return e / total


def gate(t: Tensors, _: Sizes) -> tuple[Array, Array]:
    """Softmax over modalities of a projection of each, and the gated sum."""
    features = [t["h"][:, m] for m in range(t["h"].shape[1])]
    scores = np.stack([x @ t["W"][m].T + t["c"][m] for m, x in enumerate(features)])
    g = softmax(scores, 0)
    return sum(g[m] * x for m, x in enumerate(features)), g


def sigmoid_gate(t: Tensors, s: Sizes) -> tuple[Array, Array]:
    """A sigmoid of a projection of the concatenation blends two."""
    first, second = t["h"][:, 0], t["h"][:, 1]
    weight = t["W"].reshape(s.dim, 2 * s.dim)
    z = 1 / (1 + np.exp(-(np.concatenate([first, second], 1) @ weight.T + t["c"])))
    return z * first + (1 - z) * second, np.stack([z, 1 - z])


def attention(t: Tensors, s: Sizes) -> tuple[Array, Array]:
    """Self-attention over modalities, head by head; residual, layer normalisation, mean."""
    width = s.dim // s.heads
    packed, bias = t["W"].reshape(3 * s.dim, s.dim), t["c"].reshape(3 * s.dim)
    query, key, value = np.split(t["h"] @ packed.T + bias, 3, axis=-1)
    contexts, probabilities = [], []
    for head in range(s.heads):
        part = slice(head * width, (head + 1) * width)
        prob = softmax(query[..., part] @ key[..., part].transpose(0, 2, 1) / np.sqrt(width), -1)
        contexts.append(prob @ value[..., part])
        probabilities.append(prob)
    mixed = np.concatenate(contexts, -1) @ t["U"].reshape(s.dim, s.dim).T + t["d"] + t["h"]
    centred = mixed - mixed.mean(-1, keepdims=True)
    normed = centred / np.sqrt(mixed.var(-1, keepdims=True) + 1e-5) * t["scale"] + t["shift"]
    return normed.mean(1), sum(probabilities) / s.heads


def concat(t: Tensors, _: Sizes) -> tuple[Array, None]:
    """The features side by side; there are no weights."""
    return np.concatenate([t["h"][:, m] for m in range(t["h"].shape[1])], 1), None


FORMULAS = {"gate": gate, "sigmoid_gate": sigmoid_gate, "attention": attention, "concat": concat}
VALUE_CASES = [
    ("gate", Sizes(3, 2, 5)),
    ("gate", Sizes(1, 4, 3)),
    ("sigmoid_gate", Sizes(4, 2, 5)),
    ("attention", Sizes(3, 2, 8, 4)),
    ("attention", Sizes(2, 3, 6, 2)),
    ("attention", Sizes(2, 4, 5, 1)),
    ("concat", Sizes(3, 2, 5)),
    ("concat", Sizes(2, 4, 3)),
]
DERIVE_CASES = [
    ("gate", Sizes(2, 3, 3)),
    ("sigmoid_gate", Sizes(2, 2, 3)),
    ("attention", Sizes(2, 3, 4, 2)),
    ("stacked", Sizes(2, 3, 4)),
    ("many", Sizes(2, 3, 4)),
    ("cut", Sizes(2, 2, 4)),
    ("cut", Sizes(1, 3, 2)),
]


@pytest.mark.parametrize("name, sizes", VALUE_CASES)
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_evaluator_is_the_formula(name: str, sizes: Sizes, scale: float) -> None:
    """The output and the weights, also where softmax saturates."""
    mode = load(name)
    tensors = random_tensors(mode, sizes)
    tensors["h"] *= scale
    out, weights = FORMULAS[name](tensors, sizes)
    np.testing.assert_allclose(laid_out(mode, mode.out, tensors, sizes.named()), out, rtol=1e-11, atol=1e-12 * scale)
    if mode.weights is None:
        assert weights is None
    else:
        np.testing.assert_allclose(laid_out(mode, mode.weights, tensors, sizes.named()), weights, rtol=1e-11, atol=1e-12)


def mode_to_derive(name: str) -> Mode:
    return check_spec(parse_spec(OTHERS[name], f"{name}.yaml")) if name in OTHERS else load(name)


def tensor_axes(mode: Mode) -> dict[str, tuple[str, ...]]:
    """The axes that name the dimensions of the features and of every parameter."""
    axes = {"h": (BATCH, *(axis for axis in mode.features.axes if axis != BATCH))}
    return axes | {p.layout.name: p.layout.axes for module in mode.modules for p in module.parameters}


def objective(mode: Mode, tensors: Tensors, cotangents: Tensors, sizes: Sizes) -> float:
    """The outputs, contracted with their cotangents."""
    program, total = mode.program, 0.0
    values = evaluate([program[name].node for name in program.outputs], tensors, program.extents, sizes.named())
    for name in program.outputs:
        axes = (BATCH, *program[name].axes)
        result = evaluate_at(program[name].node, axes, values, program.extents, sizes.named())
        total += float((result * cotangents[name + ADJOINT]).sum())
    return total


def random_cotangents(mode: Mode, sizes: Sizes) -> dict[str, Array]:
    rng, known = np.random.default_rng(5), sizes.named()
    return {
        name + ADJOINT: rng.standard_normal(
            [sizes.batch, *(mode.program.extents[axis].value(known) for axis in mode.program[name].axes)]
        )
        for name in mode.program.outputs
    }


def difference(mode: Mode, tensors: Tensors, cotangents: Tensors, sizes: Sizes, name: str) -> Array:
    """Central differences of the objective in every entry of one tensor."""
    result = np.zeros_like(tensors[name])
    for entry in np.ndindex(*result.shape):
        moved = []
        for step in (STEP, -STEP):
            shifted = tensors[name].copy()
            shifted[entry] += step
            moved.append(objective(mode, {**tensors, name: shifted}, cotangents, sizes))
        result[entry] = (moved[0] - moved[1]) / (2 * STEP)
    return result


@pytest.mark.parametrize("name, sizes", DERIVE_CASES)
def test_adjoints_are_the_differences(name: str, sizes: Sizes) -> None:
    mode = mode_to_derive(name)
    axes, tensors, cotangents = tensor_axes(mode), random_tensors(mode, sizes), random_cotangents(mode, sizes)
    derived = derive(mode.program, axes, mode.program.outputs)
    assert set(derived.outputs) == {tensor + ADJOINT for tensor in mode.program.tensors}
    roots = [derived[output].node for output in derived.outputs]
    values = evaluate(roots, {**tensors, **cotangents}, derived.extents, sizes.named())
    for tensor in mode.program.tensors:
        found = evaluate_at(derived[tensor + ADJOINT].node, axes[tensor], values, derived.extents, sizes.named())
        np.testing.assert_allclose(
            found, difference(mode, tensors, cotangents, sizes, tensor), rtol=1e-7, atol=1e-8, err_msg=f"{name}: {tensor}"
        )


@pytest.mark.parametrize("sizes", [Sizes(2, 2, 4), Sizes(1, 3, 2)])
def test_cut_and_joined_by_hand(sizes: Sizes) -> None:
    mode = mode_to_derive("cut")
    t, half = random_tensors(mode, sizes), sizes.dim // 2
    h = t["h"]
    x = np.concatenate([np.tanh(h[:, :, 1]), h[:, :, 0] * h[:, :1, 1]], -1)
    u = np.concatenate([np.full((*x.shape[:2], 1), 2.0), x], -1)
    tokens = np.broadcast_to(t["c"], (sizes.batch, 1, sizes.dim))
    v = np.concatenate([tokens, u @ t["W"].T], 1)
    pooled = (softmax(v, 1) * v).sum(1)
    first = np.repeat(v[:, 0].prod(-1, keepdims=True), half, -1)
    y = np.concatenate([pooled, first, np.broadcast_to(t["c"][half:], first.shape)], -1)
    z = v[:, 1:, half:] * softmax(y[:, None, sizes.dim : sizes.dim + half], -1)
    total = (z * x[:, :, :half]).sum((1, 2))
    expected = y[:, half : half + sizes.dim] + total[:, None] * t["W"][:, 0] * t["W"][:, 1]
    np.testing.assert_allclose(laid_out(mode, mode.out, t, sizes.named()), expected, rtol=1e-12)


@pytest.mark.parametrize("sizes", [Sizes(2, 2, 4), Sizes(1, 3, 2)])
@pytest.mark.parametrize("unrolled", [("m", "s"), ("t",), ()], ids=str)
def test_sunk_programs_mean_the_same(sizes: Sizes, unrolled: tuple[str, ...]) -> None:
    """Forward and derived: no cut and no join is left, and every value is what it was."""
    mode = mode_to_derive("cut")
    tensors = random_tensors(mode, sizes) | random_cotangents(mode, sizes)
    derived = derive(mode.program, tensor_axes(mode), mode.program.outputs)
    for program in (mode.program, derived):
        expanded = expand(program)
        roots = [expanded[name].node for name in expanded.outputs]
        sunk, found = sink(expanded, roots, lambda axis: axis in unrolled)
        assert not {"slice", "pad", "concat"} & {node.op for node in reachable(found)}
        values = evaluate([*roots, *found], tensors, sunk.extents, sizes.named())
        for root, other in zip(roots, found, strict=True):
            axes = tuple(axis for axis in expanded.extents if axis in root.axes)
            one, two = (evaluate_at(node, axes, values, sunk.extents, sizes.named()) for node in (root, other))
            np.testing.assert_allclose(two, one, rtol=1e-12, atol=1e-13)


def test_a_gated_sum_is_divided_last_where_that_is_less_work() -> None:
    """In the gate the divisor is as large as the sum; in attention it is smaller, and dividing first is less work."""
    for name, moves in (("gate", True), ("attention", False)):
        mode, sizes = load(name), Sizes(3, 4, 5)
        expanded = expand(mode.program)
        divided = divide_last(expanded)
        assert (divided != expanded) is moves
        tensors, axes = random_tensors(mode, sizes), tuple(sorted(expanded["out"].node.axes))
        out, other = (
            evaluate_at(
                program["out"].node,
                axes,
                evaluate([program["out"].node], tensors, program.extents, sizes.named()),
                program.extents,
                sizes.named(),
            )
            for program in (expanded, divided)
        )
        np.testing.assert_allclose(other, out, rtol=1e-12, atol=1e-13)


def test_both_factors_of_a_square_are_divided() -> None:
    text = """\
version: 1
mode: squares
summary: s
modalities: ">=2"
axes: {i: dim}
math: |
  g[m,i] = softmax[m](h[m,i])
  out[i] = sum[m](g[m,i] * g[m,i] * h[m,i])
"""
    mode, sizes = check_spec(parse_spec(text, "q.yaml")), Sizes(3, 4, 5)
    expanded = expand(mode.program)
    out, other = (
        evaluate_at(root, ("b", "i"), evaluate([root], random_tensors(mode, sizes), mode.program.extents, sizes.named()), mode.program.extents, sizes.named())
        for root in (expanded["out"].node, divide_last(expanded)["out"].node)
    )
    assert divide_last(expanded) != expanded
    np.testing.assert_allclose(other, out, rtol=1e-12, atol=1e-13)


def test_what_is_no_softmax_is_divided_where_it_stands() -> None:
    """Its dividend may be large, and the sum overflow before it is divided."""
    text = """\
version: 1
mode: quotients
summary: s
modalities: 2
axes: {i: dim}
params: {scale: {tensor: "n[i]", init: ones}}
math: |
  w[m,i] = exp(h[m,i])
  out[i] = sum[m](h[m,i] / (n[i] * h[0,i]) * h[m,i]) + sum[m](w[m,i] / sum[m](w[m,i]) * h[m,i])
"""
    expanded = expand(check_spec(parse_spec(text, "q.yaml")).program)
    assert divide_last(expanded) == expanded


def test_adjoint_of_the_gate_by_hand() -> None:
    """The gradient in the bias of the gate: ``g · (h·out_bar − Σ_m g·h·out_bar)``, summed over the batch."""
    mode, sizes = load("gate"), Sizes(3, 3, 4)
    tensors, cotangents = random_tensors(mode, sizes), random_cotangents(mode, sizes)
    _, g = gate(tensors, sizes)
    pulled = tensors["h"].transpose(1, 0, 2) * cotangents["out_bar"]
    expected = (g * (pulled - (g * pulled).sum(0))).sum(1)
    derived = derive(mode.program, tensor_axes(mode), ["out"])
    values = evaluate([derived["c_bar"].node], {**tensors, **cotangents}, derived.extents, sizes.named())
    found = evaluate_at(derived["c_bar"].node, ("m", "i"), values, derived.extents, sizes.named())
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)


def test_features_alone_have_nothing_to_derive() -> None:
    """concat lays out the features; its program has no definition."""
    mode = load("concat")
    derived = derive(mode.program, tensor_axes(mode), mode.program.outputs)
    assert not mode.program.outputs and not derived.definitions


def test_hyperparameter_that_is_a_fraction() -> None:
    mode, sizes = check_spec(parse_spec(TEMPERATURE, "temperature.yaml")), Sizes(2, 3, 4)
    tensors = random_tensors(mode, sizes)
    found = laid_out(mode, mode.out, tensors, {**sizes.named(), "tau": 0.5})
    np.testing.assert_allclose(found, (softmax(tensors["h"] / 0.5, 1) * tensors["h"]).sum(1), rtol=1e-12)
