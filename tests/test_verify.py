"""What the verifier tells of graphs that a pass got wrong, by pass and node."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sparank_gen.ir import node as ir
from sparank_gen.ir.check import check_spec
from sparank_gen.ir.node import Definition, Node, Program, Window
from sparank_gen.ir.verify import RULES, InvalidGraph, verified, verify
from sparank_gen.lang.extents import Extent
from sparank_gen.lang.ops import OPERATORS
from sparank_gen.spec.load import parse_spec

TEXT = """\
version: 1
mode: verified
summary: s
modalities: ">=2"
axes: {i: dim, k: 3}
params: {weight: {tensor: "w[k,i]", init: zeros}}
math: |
  y[k] = sum[i](w[k,i] * h[0,i])
  out[i] = sum[k](w[k,i] * y[k])
"""
CHECKED = check_spec(parse_spec(TEXT, "v.yaml")).program
DIM, ONE = Extent.symbol("dim"), Extent.number(1)
MORE = {"j": DIM, "t": Extent.symbol("modalities"), "p": DIM + Extent.number(3)}
PROGRAM = replace(CHECKED, extents={**CHECKED.extents, **MORE})
X = ir.leaf("h", ("b", "m", "i"))
W = ir.leaf("w", ("k", "i"))


def defined(node: Node) -> Program:
    """A program of one definition, ``y``."""
    return replace(PROGRAM, definitions=(Definition("y", tuple(sorted(node.axes - {"b"})), node),), outputs=("y",))


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (ir.reduce("sum", X, ["j"]), "do not fit"),
        (ir.reduce("softmax", X, ["k"]), "do not fit"),
        (ir.make("sum", [X]), "number of axes"),
        (ir.make("sum", [X], ["m", "i"]), "do not fit"),
        (ir.make("add", [X]), "number of operands"),
        (ir.make("add", [X, X], ["i"]), "number of axes"),
        (ir.make("nothing", [X]), "no operation"),
        (Node("neg", (X,), (), None, frozenset({"i"})), "axes are ['i'] and not ['b', 'i', 'm']"),
        (ir.make("rename", [X], data=(("j", "k"),)), "do not fit"),
        (ir.make("rename", [W], data=(("i", "k"),)), "do not fit"),
        (ir.rename(W, {"i": "p"}), "another extent"),
        (ir.rename(W, {"i": "z"}), "no extent is known for ['z']"),
        (ir.select(X, "k", 0), "do not fit"),
        (ir.select(W, "k", 3), "outside the axis"),
        (ir.place(W, "k", 0), "do not fit"),
        (ir.stack([X, X], "i"), "do not fit"),
        (ir.stack([X] * 4, "k"), "outside the axis"),
        (ir.slice_of(X, "p", Window("j", ONE)), "do not fit"),
        (ir.slice_of(ir.apply("mul", W, ir.leaf("w", ("k", "j"))), "i", Window("j", ONE)), "do not fit"),
        (ir.pad(X, "i", Window("j", ONE)), "do not fit"),
        (ir.concat([X, W], "p", ["i"]), "do not fit"),
        (ir.concat([X, W], "p", ["k", "j"]), "do not fit"),
        (ir.leaf("w", ("k",)), "w has 2 dimensions"),
        (ir.leaf("w", ("i", "k")), "index i does not run over 3"),
        (ir.leaf("w", (3, "i")), "position 3 is outside 3"),
        (ir.leaf("v", ("i", "i")), "do not fit"),
    ],
)
def test_broken_graphs_are_told(node: Node, said: str) -> None:
    with pytest.raises(InvalidGraph) as caught:
        verify(defined(node), "a pass")
    assert str(caught.value).startswith("a pass: ") and said in str(caught.value)


def test_the_pass_that_broke_a_graph_is_named() -> None:
    @verified
    def drops_an_index(program: Program) -> Program:
        return replace(program, definitions=tuple(replace(d, axes=()) for d in program.definitions))

    with pytest.raises(InvalidGraph, match=r"drops_an_index: y has no index for \['k'\]"):
        drops_an_index(PROGRAM)


def test_every_operator_has_a_rule() -> None:
    assert OPERATORS.keys() < RULES.keys()
    verify(PROGRAM, "check")
