"""Which modes have gradients of their own, how their statements read, and formulas as text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from unusual_specs import UNUSUAL, unusual_spec

from sparank_gen.backends.torch.module import module_file
from sparank_gen.ir import node as ir
from sparank_gen.ir.check import check_spec
from sparank_gen.ir.mode import Mode
from sparank_gen.ir.node import Definition, Program
from sparank_gen.ir.reuse import reuse
from sparank_gen.ir.text import formula
from sparank_gen.lang.extents import Extent
from sparank_gen.project.config import load_config
from sparank_gen.project.generate import load_modes
from sparank_gen.spec.load import parse_spec

MODES = {mode.name: mode for mode in load_modes(load_config(Path(__file__).parents[1] / "specs", None, None))}
OWN = {"gate": ["", "_pair"], "sigmoid_gate": [""]}
HEAD = "version: 1\nmode: gated\nsummary: A mode of one's own.\nmodalities: '>=2'\naxes: {i: dim, j: dim}\n"
PARAMS = "params:\n  scores: {module: Linear, per: m, weight: 'W[m,i,j]', bias: 'c[m,i]'}\n"


def spec(math: str) -> Mode:
    lines = "".join(f"  {line}\n" for line in math.splitlines())
    return check_spec(parse_spec(f"{HEAD}{PARAMS}math: |\n{lines}", "gated.yaml"))


def forms(mode: Mode) -> list[str]:
    return [gradients.suffix for gradients in module_file(mode).recorded]


@pytest.mark.parametrize("name", MODES)
def test_modes_of_the_library(name: str) -> None:
    assert forms(MODES[name]) == OWN.get(name, [])


@pytest.mark.parametrize(
    "logits",
    [
        "sum[j](W[m,i,j] * h[m,j]) + c[m,i]",
        "(sum[j](W[m,i,j] * h[m,j]) + c[m,i]) / 2",
        "tanh(sum[j](W[m,i,j] * h[m,j]) + c[m,i])",
        "relu(sum[j](W[m,i,j] * h[m,j])) * c[m,i]",
    ],
)
def test_gates_that_nobody_tuned_have_them(logits: str) -> None:
    math = f"x[m,i] = {logits}\ng[m,i] = softmax[m](x[m,i])\nout[i] = sum[m](g[m,i] * h[m,i])"
    assert "" in forms(spec(math))


@pytest.mark.parametrize(
    "math",
    [
        # Choices, and derivatives that no operation of torch takes in one pass.
        "g[m,i] = softmax[m](abs(sum[j](W[m,i,j] * h[m,j]) + c[m,i]))\nout[i] = sum[m](g[m,i] * h[m,i])",
        # Nothing but matrix products, for which torch's record takes no more memory.
        "x[m,i] = relu(sum[j](W[m,i,j] * h[m,j]) + c[m,i])\nout[i] = sum[m](x[m,i])",
        # Numbers of a row that meet those of others.
        "g[m,i] = softmax[m](sum[j](W[m,i,j] * tanh(h[m,i] + h[m,j])) + c[m,i])\nout[i] = sum[m](g[m,i] * h[m,i])",
    ],
)
def test_others_keep_what_torch_records(math: str) -> None:
    assert forms(spec(math)) == []


def test_modes_that_nobody_tuned_compile_either_way() -> None:
    """The plan decides, and never fails to."""
    for name in UNUSUAL:
        forms(check_spec(parse_spec(unusual_spec(name), f"{name}.yaml")))


def test_statements() -> None:
    general, pair = module_file(MODES["gate"]).recorded
    assert [line for line in general.body if not line.startswith("#")] == [
        "logit_bar = [(h_m - out).mul_(out_bar).mul_(g_m) for g_m, h_m in zip(g, h)]",
        "W_bar = [logit_bar_m.transpose(0, 1) @ h_m for logit_bar_m, h_m in zip(logit_bar, h)]",
        "c_bar = [logit_bar_m.sum(0) for logit_bar_m in logit_bar]  # M × (dim,)",
    ]
    assert general.features_body[-1] == (
        "h_bar = [(out_bar * g_m).addmm_(logit_bar_m, W_m) for g_m, logit_bar_m, W_m in zip(g, logit_bar, W)]"
    )
    formulas = [line for line in (*general.body, *general.features_body) if " = " in line and line.startswith("#")]
    assert formulas == [
        "# logit_bar[m,i] = g[m,i] * out_bar[i] * (h[m,i] - out[i])",
        "# W_bar[m,i,j] = sum[b](logit_bar[m,i] * h[m,j])",
        "# c_bar[m,i] = sum[b](logit_bar[m,i])",
        "# h_bar[m,i] = out_bar[i] * g[m,i] + sum[i'](logit_bar[m,i'] * W[m,i',i])",
    ]
    assert (general.kept, pair.kept) == ((("g", "Tensor"), ("out", "Tensor")), (("g_0", "Tensor"),))
    assert pair.features_body[-1] == "h_bar_1 = (1 - g_0).mul_(out_bar).addmm_(operand_bar, W[1], alpha=-1)  # (B, dim)"


def test_formulas_of_what_is_the_same_along_an_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands without that index on both sides."""
    monkeypatch.setattr("sparank_gen.backends.torch.module.statements_pay", lambda *_: True)
    mode = spec("token[m,i] = tanh(sum[j](W[m,i,j] * h[m,j])) * c[m,i] + h[m,i]\nout[i] = mean[m](token[m,i])")
    lines = [line for gradients in module_file(mode).recorded for line in (*gradients.body, *gradients.features_body)]
    assert "# token_bar[i] = out_bar[i] / modalities" in lines
    assert not any("token_bar[m,i]" in line for line in lines)


def test_rewriting() -> None:
    """What the forward pass has is read, common factors are taken out, and negatives are subtracted."""
    extents = {"b": Extent.symbol("batch"), "m": Extent.symbol("modalities"), "i": Extent.symbol("dim")}
    a, x, y = (ir.leaf(name, ("b", "i")) for name in "axy")
    h, g = (ir.leaf(name, ("b", "m", "i")) for name in "hg")
    out = ir.reduce("sum", ir.apply("mul", g, h), ["m"])
    forward = Program(extents, {}, (Definition("out", ("i",), out),), ("out",))

    def rewritten(node: ir.Node, count: int | None = None) -> ir.Node:
        definition = Definition("x", tuple(sorted(node.axes - {"b"})), node)
        return reuse(Program(extents, {}, (definition,), ("x",)), forward, count)["x"].node

    assert rewritten(ir.reduce("sum", ir.apply("mul", h, g), ["m"])) is out
    difference = ir.apply("sub", ir.apply("mul", a, x), ir.apply("mul", y, a))
    assert rewritten(difference) is ir.apply("mul", a, ir.apply("sub", x, y))
    negative = ir.reduce("sum", ir.apply("mul", ir.apply("neg", x), y), ["i"])
    assert rewritten(ir.apply("add", a, negative)) is ir.apply("sub", a, ir.reduce("sum", ir.apply("mul", x, y), ["i"]))
    minus = ir.apply("neg", x)
    assert rewritten(ir.apply("mul", minus, minus)) is ir.apply("mul", x, x)
    placed = ir.apply("add", ir.place(x, "m", 1), ir.place(y, "m", 0))
    assert rewritten(placed, count=2) is ir.stack([y, x], "m")
    assert rewritten(placed) is placed and rewritten(placed, count=3) is placed
    s = ir.apply("sigmoid", x)
    through = ir.apply("mul", ir.apply("mul", s, a), ir.apply("sub", ir.constant(1), s))
    assert rewritten(through) is ir.apply("sigmoid_backward", a, s)


@pytest.mark.parametrize("name", MODES)
def test_text_reads_as_the_math_that_it_shows(name: str) -> None:
    """The formulas of a mode, printed from its graph and read again, are the same graph."""
    mode = MODES[name]
    text = (Path(__file__).parents[1] / "specs" / f"{name}.yaml").read_text()
    known = {definition.node: definition for definition in mode.program.definitions}
    shown = [formula(definition, known) for definition in mode.program.definitions]
    # Extents are written as code has them, not as specs do.
    has_extent = [any(node.op == "extent" for node in ir.reachable([d.node])) for d in mode.program.definitions]
    again = [d.source if extent else line or d.source for line, extent, d in zip(shown, has_extent, mode.program.definitions, strict=True)]
    lines = "".join(f"  {line}\n" for entry in again for line in entry.splitlines())
    found = check_spec(parse_spec(re.sub(r"math: \|\n(  .*\n|\n)+", lambda _: f"math: |\n{lines}", text, count=1), f"{name}.yaml"))
    assert [d.node for d in found.program.definitions] == [d.node for d in mode.program.definitions]


def test_text() -> None:
    x, y, z = (ir.leaf(name, ("b", "i")) for name in "xyz")

    def shown(node: ir.Node) -> str:
        return formula(Definition("q", ("i",), node), {}).removeprefix("q[i] = ")

    assert shown(ir.apply("sub", x, ir.apply("sub", y, z))) == "x[i] - (y[i] - z[i])"
    assert shown(ir.apply("sub", ir.apply("sub", x, y), z)) == "x[i] - y[i] - z[i]"
    assert shown(ir.apply("div", x, ir.apply("mul", y, z))) == "x[i] / (y[i] * z[i])"
    assert shown(ir.apply("mul", ir.apply("add", x, y), z)) == "(x[i] + y[i]) * z[i]"
    assert shown(ir.apply("neg", ir.apply("add", x, y))) == "-(x[i] + y[i])"
    assert shown(ir.apply("pow", ir.apply("neg", x), ir.constant(2))) == "(-x[i]) ** 2"
    weight = ir.leaf("W", ("i", "j"))
    product = ir.reduce("sum", ir.apply("mul", weight, ir.leaf("x", ("b", "j"))), ["j"])
    assert shown(ir.rename(product, {"i": "j"})) == "sum[j'](W[j,j'] * x[j'])"
    assert shown(ir.select(weight, "i", 2)) == "W[2,j]"
    assert shown(ir.stack([x, y], "m")) == ""
