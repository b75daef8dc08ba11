"""Modalities of different widths: the evaluator by hand, adjoints by differences, layers, and what a bad spec says."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sparank_fusion import FusionLayer, list_modes
from sparank_fusion.layer import mode_class
from sparank_gen.backends.tests.golden import laid_out
from sparank_gen.ir.check import check_spec
from sparank_gen.ir.evaluate import Pieces
from sparank_gen.ir.mode import Mode
from sparank_gen.spec import errors
from sparank_gen.spec.load import parse_spec
from sparank_gen.trial.cases import Case, cases, indexed, tensors
from test_random_programs import check_program, stored_gradients

Array = NDArray[np.float64]

HEAD = 'version: 1\nmode: widths\nsummary: s\nmodalities: ">=2"\n'
JOINED = HEAD + """\
axes: {i: "dim[m]", p: "dim[m] + 1", o: 3, t: modalities, u: "dim[t]", a: "dim[0]"}
params:
  router: {module: Linear, weight: "R[o,(m i)]", bias: "r[o]"}
  scale: {tensor: "s[m,i]", per: m, init: ones}
math: |
  n[m,i]   = layernorm[i](h[m,i]) * s[m,i]
  x[m,p]   = concat[p: i, 1](n[m,i], 2)
  w[m,i]   = softmax[m,i](h[m,i])
  q[o]     = sum[m,i](R[o,m,i] * w[m,i]) + r[o]
  y[m]     = mean[i](n[m,i] * h[m,i]) * size[i] + max[p](x[m,p])
  z[a]     = n[0,a] * mean[t,u](h[t,u] ** 2)
  out[m,i] = n[m,i] * y[m] + logsumexp[o](q[o]) * w[m,i] + x[m,i + 1] * prod[m,i](1 + h[m,i] / 9) + sum[a](z[a])
out: "out[b,(m i)]"
weights: "w[b,(m i)]"
"""
DIMS = (4, 2, 5)


def mode() -> Mode:
    return check_spec(parse_spec(JOINED, "widths.yaml"))


def by_hand(h: list[Array], weight: Array, bias: Array, scale: list[Array]) -> tuple[Array, Array]:
    """The output and the weights of ``JOINED``, one modality after another."""
    n = [(x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5) * s for x, s in zip(h, scale, strict=True)]
    x = [np.concatenate([each, np.full((len(each), 1), 2.0)], 1) for each in n]
    joined = np.concatenate(h, 1)
    exponentials = np.exp(joined)
    w = exponentials / exponentials.sum(1, keepdims=True)
    q = w @ weight.T + bias
    y = [(a * b).mean(1) * b.shape[1] + c.max(1) for a, b, c in zip(n, h, x, strict=True)]
    z = n[0] * (joined**2).mean(1, keepdims=True)
    pieces = np.split(w, np.cumsum([each.shape[1] for each in h])[:-1], 1)
    whole = (1 + joined / 9).prod(1, keepdims=True)
    peak = np.log(np.exp(q).sum(1, keepdims=True))
    out = [
        a * b[:, None] + peak * c + d[:, 1:] * whole + z.sum(1, keepdims=True)
        for a, b, c, d in zip(n, y, pieces, x, strict=True)
    ]
    return np.concatenate(out, 1), w


def test_evaluator_by_hand() -> None:
    found, case = tensors(mode(), Case(DIMS, 3, ())), Case(DIMS, 3, ())
    features, scale, weight = found["h"], found["s"], found["R"]
    assert isinstance(features, Pieces) and isinstance(scale, Pieces) and isinstance(weight, Pieces)
    out, weights = by_hand(list(features.arrays), np.concatenate(weight.arrays, 1), found["r"], list(scale.arrays))
    np.testing.assert_allclose(laid_out(mode(), mode().out, found, case.sizes(3)), out, rtol=1e-12)
    np.testing.assert_allclose(laid_out(mode(), mode().weights, found, case.sizes(3)), weights, rtol=1e-12)


def test_adjoints_are_the_differences() -> None:
    made, case, batch = mode(), Case(DIMS, 3, ()), 2
    sizes, found = case.sizes(batch), tensors(made, case, batch)
    rng = np.random.default_rng(0)
    cotangents = {layout.name: rng.standard_normal((batch, sum(DIMS))) for layout in (made.out, made.weights)}
    program = made.program
    pieces = {
        name: indexed([array], (("b",), ("m", "i")), ("b", "m", "i"), None, program.extents, sizes)
        for name, array in cotangents.items()
    }
    wanted = stored_gradients(made, made.program, case, batch, pieces, found)

    def objective() -> float:
        return sum(float((laid_out(made, made_of, found, sizes) * cotangents[made_of.name]).sum()) for made_of in (made.out, made.weights))

    def check(array: Array, gradient: Array, what: str) -> None:
        for entry in np.ndindex(*array.shape):
            before, values = array[entry], []
            for step in (1e-5, -1e-5):
                array[entry] = before + step
                values.append(objective())
            array[entry] = before
            np.testing.assert_allclose(gradient[entry], (values[0] - values[1]) / 2e-5, rtol=1e-6, atol=1e-7, err_msg=what)

    for m in range(3):
        check(found["h"].arrays[m], wanted[f"features.{m}"], f"features {m}")
        check(found["s"].arrays[m], wanted[f"scale.{m}"], f"scale {m}")
        starts = sum(DIMS[:m])
        check(found["R"].arrays[m], wanted["router.weight"][:, starts : starts + DIMS[m]], f"router, piece {m}")
    check(found["r"], wanted["router.bias"], "bias")


WIDE = [name for name in list_modes() if mode_class(name).one_width is None]
NARROW = [name for name in list_modes() if name not in WIDE]


def dims_for(name: str) -> tuple[int, ...]:
    return (6, 3) if mode_class(name).most_modalities == 2 else (6, 3, 4)


def test_modes_that_take_different_widths() -> None:
    assert {"concat", "film", "low_rank_fusion", "mixture_of_experts", "tensor_fusion"} <= set(WIDE)
    assert {"gate", "sigmoid_gate", "attention"} <= set(NARROW)


@pytest.mark.parametrize("name", WIDE)
def test_layer_of_different_widths(name: str) -> None:
    torch.manual_seed(0)
    dims = dims_for(name)
    layer = FusionLayer(list(dims), len(dims), name)
    features = [torch.randn(5, width) for width in dims]
    out = layer(features)
    assert layer.dim == layer.dims == dims and out.shape == (5, layer.out_dim)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(other(features), out, rtol=0, atol=0)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(features), out)
    assert f"dim={dims}" in repr(layer)


@pytest.mark.parametrize("name", WIDE)
def test_one_width_is_the_same_as_that_width_for_each(name: str) -> None:
    layers = []
    for dim in (6, [6] * len(dims_for(name))):
        torch.manual_seed(0)
        layers.append(FusionLayer(dim, len(dims_for(name)), name))
    assert layers[0].dim == layers[1].dim == 6
    states = [layer.state_dict() for layer in layers]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("name", NARROW)
def test_a_mode_that_needs_one_width_says_so(name: str) -> None:
    dims = (8, 4) if mode_class(name).most_modalities == 2 else (8, 4, 4)
    with pytest.raises(ValueError, match=f"one width for fusion_type '{name}'.*index '{mode_class(name).one_width}'"):
        FusionLayer(dims, len(dims), name)
    assert FusionLayer((8,) * len(dims), len(dims), name).dim == 8


@pytest.mark.parametrize(
    "dim, said",
    [((4, 3, 2), "one for each of 2 modalities"), ((4, 0), r"dim\[1\] to be an int of at least 1"), ((4, 2.5), r"dim\[1\]"), ("43", "dim")],
)
def test_wrong_widths(dim: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        FusionLayer(dim, 2, "concat")  # type: ignore[arg-type]


@pytest.mark.parametrize("shapes", [((5, 6), (5, 6)), ((5, 3), (5, 6)), ((5, 3), (5, 3)), ((5, 6), (5, 4)), ((5, 6), (4, 3))])
def test_wrong_features_of_different_widths(shapes: tuple[tuple[int, int], ...]) -> None:
    layer = FusionLayer((6, 3), 2, "concat")
    with pytest.raises(ValueError, match="expected"):
        layer([torch.ones(shape) for shape in shapes])


def test_one_modality_of_a_sequence_is_the_identity() -> None:
    layer, feature = FusionLayer((6,), 1, "film"), torch.ones(2, 6)
    assert layer([feature]) is feature and layer.out_dim == 6


def spec(math: str, axes: str, extra: str = "", out: str = "out[b,i]", count: str = ">=2") -> str:
    lines = "".join(f"  {line}\n" for line in math.split("\n"))
    head = HEAD.replace('">=2"', f'"{count}"')
    return f'{head}axes: {{{axes}}}\n{extra}math: |\n{lines}out: "{out}"\n'


BAD = [
    ("sum over modalities alone", spec("out[i] = sum[m](h[m,i])", 'i: "dim[m]"'), "extent-mismatch", "sum[m](h[m,i])", "differs"),
    ("features by number", spec("out[i] = h[0,i]", 'i: "dim[m]"'), "extent-mismatch", "i", "dim[0]"),
    ("two owners", spec("x[m,t] = sum[i,u](h[m,i] * h[t,u])\nout[t] = sum[m](x[m,t])", 'i: "dim[m]", t: modalities, u: "dim[t]"', out="out[b,t]"),
     "extent-mismatch", "h[m,i] * h[t,u]", "meet"),
    ("both ways", spec("out[i] = sum[m,j](h[m,j]) + h[0,i]", 'i: dim, j: "dim[m]"'), "extent-mismatch", "dim[m]", "one of the two"),
    ("unknown axis of a width", spec("out[i] = h[0,i]", 'i: "dim[x]"'), "unknown-index", "x", "dim[0]"),
    ("width of a modality that may not be", spec("out[i] = h[2,i]", 'i: "dim[2]"'), "unknown-index", "2", "dim[1]"),
    ("dim in the math", spec("out[i] = h[0,i] * dim", 'i: "dim[0]"'), "unknown-name", "dim", ""),
    ("layout without its axis", spec("out[m,i] = h[m,i]", 'i: "dim[m]"', out="out[b,(i m)]"), "layout-mismatch", "i", "(m i)"),
    ("layout apart", spec("out[m,i] = h[m,i]", 'i: "dim[m]"', 'weights: "out[m,b,i]"\n', "out[b,(m i)]"), "layout-mismatch", "i", "pieces"),
    ("parameter apart", spec("out[m,i] = h[m,i] * s[m,i]", 'i: "dim[m]"', 'params: {s: {tensor: "s[m,i]", init: ones}}\n', "out[b,(m i)]"),
     "layout-mismatch", "i", "per: m"),
    ("two that depend on one", spec("x = sum[m,i,j](h[m,i] * h[m,j])\nout[a] = h[0,a] * x", 'i: "dim[m]", j: "dim[m]", a: "dim[0]"', out="out[b,a]"),
     "extent-mismatch", "sum[m,i,j](h[m,i] * h[m,j])", "first"),
    ("offset of one modality", spec("out[i] = h[0,i + 1]", 'i: "dim[0] - 1"'), "extent-mismatch", "i + 1", "whole of it"),
    ("mixed widths of one", spec("out[i] = h[0,i] * h[1,i]", 'i: "dim[0]"', count="2"), "extent-mismatch", "i", "dim[1]"),
]


@pytest.mark.parametrize("source, code, at, said", [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_spec(source: str, code: str, at: str, said: str) -> None:
    with pytest.raises(errors.SpecError) as caught:
        check_spec(parse_spec(source, "bad.yaml"))
    error = caught.value
    assert error.code == code, str(error)
    line = source.splitlines()[error.span.line - 1]
    assert line[error.span.column - 1 :].startswith(at), str(error)
    assert said in str(error), str(error)


def test_where_one_small_width_fits_all_modalities_have_it_in_tests() -> None:
    math = "out[k] = sum[m,s](W[k,m,s] * tanh(h[m,0])) + sum[m](mean[i](h[m,i]))"
    axes, params = "{i: 'dim[m]', s: 'dim[m] // 128', k: 4}", "params:\n  w: {tensor: 'W[k,(m s)]', init: normal, std: 0.1}"
    found = cases(check_spec(parse_spec(f"{HEAD}axes: {axes}\n{params}\nmath: |\n  {math}\n", "widths.yaml")))
    assert [case.dim for case in found] == [128, 128, (128, 128, 128)]


@pytest.mark.parametrize("parameter", ["U[n,k,(m j)]", "U[(m j),n,k]", "U[n,(m j),k]", "U[(n k),(m j)]", "U[k,n,(m j)]"])
def test_maps_of_all_modalities_side_by_side(parameter: str) -> None:
    """A parameter with any other dimensions is one matrix, whatever the widths of what is joined in it."""
    head = HEAD + "axes: {k: 3, j: 'dim[m]', n: 2}\nparams:\n"
    indices = parameter.replace("(", "").replace(")", "").replace(" ", ",")
    fan = "{in: (m j), out: " + ("(n k)" if "(n k)" in parameter else "k") + "}"
    math = f"math: |\n  out[k] = sum[n](tanh(sum[m,j]({indices} * h[m,j])))\n"
    text = f"{head}  f: {{tensor: '{parameter}', init: xavier_uniform, fan: {fan}}}\n{math}"
    check_program(text, 4, 2, 3, 3)
