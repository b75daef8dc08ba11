"""One quantity under several names of axes: one node, and the same numbers."""

from __future__ import annotations

import re

import pytest

from sparank_gen.ir import node as ir
from sparank_gen.ir.alike import computed_once
from sparank_gen.ir.check import check_spec
from sparank_gen.spec.load import parse_spec
from test_random_programs import check_program

AXES = {"t": "modalities", "u": "modalities", "i": "dim", "j": "dim", "k": "3"}
HEAD = "version: 1\nmode: alike\nsummary: s\nmodalities: '>=2'\n"
WEIGHT = 'params:\n  w: {tensor: "W[k,i]", init: normal, std: 1}\n'
ATTEND = "g[t,u] = softmax[u](s[t,u])\nout[i] = mean[t](sum[u](g[t,u] * h[u,i]))"


def spec(similarity: str) -> str:
    """Attention by a similarity of modalities ``t`` and ``u``."""
    math = f"s[t,u] = {similarity}\n{ATTEND}"
    params = WEIGHT if "W" in math else ""
    axes = ", ".join(f"{axis}: {extent}" for axis, extent in AXES.items() if re.search(rf"[\[,]{axis}[\],]", params + math))
    return f"{HEAD}axes: {{{axes}}}\n{params}math: |\n" + "".join(f"  {line}\n" for line in math.split("\n"))


def counts(text: str, op: str) -> tuple[int, int]:
    """How many nodes of this operator there are before and after."""
    program = check_spec(parse_spec(text, "alike.yaml")).program
    before, after = (
        sum(node.op == op for node in ir.reachable(definition.node for definition in made.definitions))
        for made in (program, computed_once(program))
    )
    return before, after


@pytest.mark.parametrize(
    ("similarity", "op", "expected"),
    [
        ("sum[i](h[t,i]**2) * sum[i](h[u,i]**2)", "pow", (2, 1)),
        # The axis that is summed over has another name too.
        ("sum[k](exp(sum[i](W[k,i] * h[t,i]))) - sum[k](exp(sum[j](W[k,j] * h[u,j])))", "exp", (2, 1)),
        # What is shared stands below something that differs.
        ("sum[k](exp(sum[i](W[k,i] * h[t,i])) * exp(sum[i](W[k,i] * h[u,i])))", "exp", (2, 1)),
        # One of the two is summed over its axis.
        ("exp(-mean[i](h[t,i]**2)) - sum[u](exp(-mean[i](h[u,i]**2))) * sum[i](h[t,i] * h[u,i])", "exp", (2, 1)),
        # The same axes, in another order.
        ("exp(-sum[i](h[t,i] * h[u,i]**2)) + exp(-sum[i](h[u,i] * h[t,i]**2))", "exp", (2, 1)),
        # Different axes of the weight are no names of one.
        ("sum[k](exp(W[k,0] * h[t,0])) + sum[i](exp(W[0,i] * h[u,i]))", "exp", (2, 2)),
        ("exp(sum[i](W[0,i] * h[t,i])) + exp(sum[i](W[1,i] * h[u,i]))", "exp", (2, 2)),
    ],
)
def test_the_same_under_two_names_is_computed_once(similarity: str, op: str, expected: tuple[int, int]) -> None:
    text = spec(similarity)
    assert counts(text, op) == expected
    check_program(text, 4, 3, 3, 3)
    check_program(text, 4, 2, 3, 3)


def test_doubled_again_and_again() -> None:
    """A form is a number: of a product that is squared forty times, none is written out."""
    squares = "\n".join(f"r{k}[t,u] = r{k - 1}[t,u] * r{k - 1}[u,t]" for k in range(1, 41))
    assert counts(spec(f"tanh(r40[t,u])\nr0[t,u] = sum[i](h[t,i] * h[u,i])\n{squares}"), "mul")[1] < 50
