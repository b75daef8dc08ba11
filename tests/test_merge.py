"""Contractions with slices of one parameter: one contraction, in either order of factors, where that means the same."""

from __future__ import annotations

import re

import pytest

from sparank_gen.ir import node as ir
from sparank_gen.ir.check import check_spec
from sparank_gen.ir.merge import merge_contractions
from sparank_gen.spec.load import parse_spec
from test_random_programs import check_program

HEAD = "version: 1\nmode: slices\nsummary: s\nmodalities: '>=2'\n"
AXES = {"t": "modalities", "i": "dim", "j": "dim", "p": "2", "q": "2"}
WEIGHT = 'w: {tensor: "W[p,i,j]", init: normal, std: 0.1}'


def spec(math: str, *tensors: str) -> str:
    params = "".join(f"  {tensor}\n" for tensor in (WEIGHT, *tensors))
    axes = ", ".join(f"{axis}: {extent}" for axis, extent in AXES.items() if re.search(rf"[\[,]{axis}[\],]", params + math))
    lines = "".join(f"  {line}\n" for line in math.split("\n"))
    return f"{HEAD}axes: {{{axes}}}\nparams:\n{params}math: |\n{lines}"


def contractions(text: str) -> int:
    """How many contractions there are, of slices or of the whole."""
    mode = check_spec(parse_spec(text, "merge.yaml"))
    layouts = {parameter.layout.name: parameter.layout for module in mode.modules for parameter in module.parameters}
    merged = merge_contractions(mode.program, layouts)
    nodes = ir.reachable(definition.node for definition in merged.definitions)
    return sum(node.op == "sum" and any(inner.op == "leaf" and inner.data[0] == "W" for inner in node.args[0].args) for node in nodes)


@pytest.mark.parametrize("product", ["W[{0},i,j] * h[m,j]", "h[m,j] * W[{0},i,j]"])
def test_factors_stand_in_either_order(product: str) -> None:
    first, second = product.format(0), product.format(1)
    text = spec(f"x[m,i] = sum[j]({first})\ny[m,i] = sum[j]({second})\nout[i] = sum[m](tanh(x[m,i]) * y[m,i])")
    assert contractions(text) == 1
    check_program(text, 4, 2, 3, 3)


def test_modalities_may_be_summed_with_them() -> None:
    text = spec("x[i] = sum[t,j](W[0,i,j] * h[t,j])\ny[i] = sum[t,j](W[1,i,j] * h[t,j])\nout[i] = tanh(x[i]) * y[i]")
    assert contractions(text) == 1
    check_program(text, 4, 2, 3, 3)


MEAN = "x[j] = mean[m](h[m,j])\n"
BIASES = {
    "of the same slice": (
        MEAN + "y[i] = sum[j](W[0,i,j] * x[j]) + C[0,i]\nz[i] = sum[j](W[1,i,j] * x[j]) + C[1,i]\nout[i] = tanh(y[i]) * z[i]",
        'c: {tensor: "C[p,i]", init: normal, std: 1}',
    ),
    "that has the axis of the slices": (
        MEAN + "y[i,p] = sum[j](W[0,i,j] * x[j]) + C[0,p]\nz[i] = sum[j](W[1,i,j] * x[j]) + C[1,0]\nout[i] = z[i] * sum[p](tanh(y[i,p]) * (1 + C[1,p]))",
        'c: {tensor: "C[q,p]", init: normal, std: 1}',
    ),
    "of another axis of that extent": (
        MEAN + "y[i] = sum[j](W[0,i,j] * x[j]) + C[0,i]\nz[i] = sum[j](W[1,i,j] * x[j]) + C[1,i]\nout[i] = tanh(y[i]) * z[i]",
        'c: {tensor: "C[q,i]", init: normal, std: 1}',
    ),
    "that has the axis that features have in the whole": (
        "y[t,m,i] = sum[j](W[0,i,j] * h[t,j]) + C[0,m,i]\nz[t,m,i] = sum[j](W[1,i,j] * h[t,j]) + C[1,m,i]\nout[i] = sum[t,m](tanh(y[t,m,i]) * z[t,m,i])",
        'c: {tensor: "C[p,m,i]", init: normal, std: 1}',
    ),
}


@pytest.mark.parametrize("name", BIASES)
def test_biases(name: str) -> None:
    math, bias = BIASES[name]
    text = spec(math, bias)
    assert contractions(text) == 1
    check_program(text, 4, 3, 3, 3)
