"""Named functions: a call is the very graph of what it stands for, errors say where, and shared files are seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from project_helper import Project

from sparank_gen.backends.tests.golden import laid_out
from sparank_gen.ir.check import check_spec
from sparank_gen.lang.elsewhere import FUNCTIONS
from sparank_gen.lang.functions import read_functions
from sparank_gen.lang.ops import OPERATORS
from sparank_gen.lang.parse import parse_expression
from sparank_gen.lang.walk import calls_of
from sparank_gen.project.config import Config, library_files
from sparank_gen.project.generate import load_library_functions
from sparank_gen.spec import errors
from sparank_gen.spec.load import parse_spec
from sparank_gen.spec.source import Text
from sparank_gen.trial.cases import BATCH, Case, tensors
from test_random_programs import compiled

REPOSITORY = Path(__file__).resolve().parents[1]
LIBRARY = load_library_functions(Config(specs=REPOSITORY / "specs", output=REPOSITORY))
HEAD = """version: 1
mode: calling
summary: Calls of functions.
modalities: ">=2"
"""
PARAMS = """params:
  up: {module: Linear, weight: "A[r,j]", bias: "a[r]"}
  down: {module: Linear, weight: "B[i,r]", bias: "c[i]"}
"""
NORM = "unit[i](x[i], eps=1e-6): x[i] * rsqrt(sum[i](x[i] * x[i]) + eps)"
# Functions, the math that calls them, the same written out, and the axes and parameters of both.
SAME = {
    "pointwise": (("blend(x, y): x * sigmoid(y)",), "blend(h[0,i], h[1,i])", "h[0,i] * sigmoid(h[1,i])"),
    "over an axis": ((NORM,), "sum[m](unit[i](h[m,i]))", "sum[m](h[m,i] * rsqrt(sum[i](h[m,i] * h[m,i]) + 1e-6))"),
    "option": ((NORM,), "unit[i](h[0,i], eps=2)", "h[0,i] * rsqrt(sum[i](h[0,i] * h[0,i]) + 2)"),
    "number against a bound": (("atleast(x, low=0.5): max(x, low)",), "atleast(h[0,i])", "max(h[0,i], 0.5)"),
    "its own names": (
        ("spread[i](x[i]): |\n    mean_x = mean[i](x[i])\n    mean[i]((x[i] - mean_x) ** 2)",),
        "h[0,i] * sum[m](spread[j](h[m,j]))",
        "h[0,i] * sum[m](mean[j]((h[m,j] - mean[j](h[m,j])) ** 2))",
    ),
    "a parameter of the caller's name": (("twice(out): out + out",), "twice(h[0,i])", "h[0,i] + h[0,i]"),
    "an axis of the caller's name": (
        ("total[i](x[i]): sum[i](x[i])",), "h[0,i] * total[j](h[1,j])", "h[0,i] * sum[j](h[1,j])"
    ),
    "axes that change places": (
        ("meet[i,j](x[i], y[j]): sum[j](x[i] * y[j])",), "meet[j,i](h[0,j], h[1,i]) * h[0,i]", "sum[i](h[0,j] * h[1,i]) * h[0,i]"
    ),
    "size and dim": (("scaled[i](x[i]): x[i] / sqrt(size[i]) + dim",), "scaled[i](h[0,i])", "h[0,i] / sqrt(size[i]) + dim"),
    "a function in a function": (
        ("one(x): x + 1", "two(x): one(one(x))"), "two(h[0,i])", "(h[0,i] + 1) + 1"
    ),
    "a call in a call": (("one(x): x + 1",), "one(one(h[0,i]))", "(h[0,i] + 1) + 1"),
}
# The same, where a function reads a value at another axis or position: a view of the graph that is written out.
VIEWS = {
    "read at another axis": (
        ("mix[m,u](x[m]): sum[u](softmax[u](x[m] * x[u]) * x[u])",),
        "sum[m](mix[m,t](h[m,i]))",
        "sum[m](sum[t](softmax[t](h[m,i] * h[t,i]) * h[t,i]))",
    ),
    "a definition read at another axis": (
        ("pair[m,u](x[m]): |\n    y[m] = tanh(x[m])\n    sum[u](y[m] * y[u])",),
        "sum[m](pair[m,t](h[m,i]))",
        "sum[m](sum[t](tanh(h[m,i]) * tanh(h[t,i])))",
    ),
    "a position": (("first[m](x[m]): x[0] + sum[m](x[m])",), "first[m](h[m,i])", "h[0,i] + sum[m](h[m,i])"),
}


def written(out: str, functions: tuple[str, ...] = ()) -> str:
    axes = {"i": "dim", "j": "dim", "t": "modalities"}
    used = ", ".join(f"{axis}: {extent}" for axis, extent in axes.items() if f"{axis}]" in out or f"{axis}," in out)
    keys = "functions:\n" + "".join(f"  {function}\n" for function in functions) if functions else ""
    left = "out[i]" if not out.startswith(("meet", "sum[i](h[0,j]")) else "out[i,j]"
    layout = "" if left == "out[i]" else "out: 'out[b,(i j)]'\n"
    return f"{HEAD}axes: {{{used}}}\n{keys}math: |\n  {left} = {out}\n{layout}"


@pytest.mark.parametrize("name", [*SAME, *VIEWS])
def test_a_call_is_what_it_stands_for(name: str) -> None:
    functions, call, out = (SAME | VIEWS)[name]
    found, wanted = (check_spec(parse_spec(text, "a.yaml")) for text in (written(call, functions), written(out)))
    # Equal graphs are one object.
    assert (found.program["out"].node is wanted.program["out"].node) == (name in SAME)
    case = Case(4, 3, ())
    numbers = [laid_out(mode, mode.out, tensors(mode, case), case.sizes(BATCH)) for mode in (found, wanted)]
    np.testing.assert_array_equal(*numbers)


def test_shared_functions_compute_what_torch_does() -> None:
    source = f"""{HEAD}axes: {{i: dim, j: dim, r: 5}}
{PARAMS}math: |
  x[m,j] = l2norm[j](h[m,j])
  y[m,i] = mlp[j,r](x[m,j], A[r,j], a[r], B[i,r], c[i])
  p[m]   = softmax[m](sum[i](y[m,i]))
  s      = entropy[m](p[m])
  out[i] = attend[m,j](x[0,j], x[m,j], y[m,i])
weights: "p[m,b]"
diagnostics: {{entropy: "s[b]"}}
"""
    layer = compiled(check_spec(parse_spec(source, "a.yaml"), LIBRARY))[0](6, 3).double()
    features = [torch.randn(4, 6, dtype=torch.float64) for _ in range(3)]
    out, info = layer(features, return_gates=True)
    x = torch.nn.functional.normalize(torch.stack(features, 1), dim=-1)
    y = layer.down(torch.relu(layer.up(x)))
    torch.testing.assert_close(out, torch.nn.functional.scaled_dot_product_attention(x[:, :1], x, y).squeeze(1))
    weights = y.sum(-1).softmax(-1)
    torch.testing.assert_close(info["weights"], weights.T)
    torch.testing.assert_close(info["entropy"], torch.distributions.Categorical(weights).entropy())


def test_shared_functions_are_all_right() -> None:
    assert {"affine", "affine_norm", "attend", "entropy", "l2norm", "mlp"} <= set(LIBRARY)
    math = "out[i] = affine_norm[i](sum[m](h[m,i]), a[i], c[i])"
    params = "params:\n  norm: {module: LayerNorm, weight: 'a[i]', bias: 'c[i]'}\n"
    layer = compiled(check_spec(parse_spec(f"{HEAD}axes: {{i: dim}}\n{params}math: |\n  {math}\n", "a.yaml"), LIBRARY))[0](6, 2)
    features = [torch.randn(4, 6) for _ in range(2)]
    torch.testing.assert_close(layer(features), layer.norm(sum(features)))


def test_many_calls_in_few_lines_end() -> None:
    chain = [f"f{k}(x): f{k - 1}(x) + f{k - 1}(x)" for k in range(1, 60)]
    check_spec(parse_spec(written("f59(h[0,i])", ("f0(x): x + 1", *chain)), "a.yaml"))
    chain = [f"f{k}(x): f{k - 1}(x + {k}) + f{k - 1}(x - {k})" for k in range(1, 40)]
    with pytest.raises(errors.BadSyntax, match="the calls come to more than"):
        check_spec(parse_spec(written("f39(h[0,i])", ("f0(x): x + 1", *chain)), "a.yaml"))


def test_calls_in_a_long_row_are_an_error() -> None:
    chain = [f"f{k}(x): f{k - 1}(x) + 1" for k in range(1, 2000)]
    with pytest.raises(errors.BadSyntax, match="too deeply"):
        read_functions(parse_spec(written("f0(h[0,i])", ("f0(x): x + 1", *chain)), "a.yaml").functions, {})


def test_an_error_inside_is_at_the_call_and_says_where() -> None:
    text = written("outer[i](h[0,i])", ("inner[i](x): sum[i](x)", "outer[i](x[i]): inner[i](1) * x[i]"))
    with pytest.raises(errors.UnusedIndex) as caught:
        check_spec(parse_spec(text, "a.yaml"))
    assert str(caught.value).splitlines() == [
        "a.yaml:10:12: error[unused-index]: sum runs over 'i', which its argument does not have",
        "  10 |   out[i] = outer[i](h[0,i])",
        "     |            ^~~~~~~~~~~~~~~~",
        "  in function 'outer', a.yaml:8:19:",
        "  8 |   outer[i](x[i]): inner[i](1) * x[i]",
        "    |                   ^~~~~~~~~~~",
        "  in function 'inner', a.yaml:7:20:",
        "  7 |   inner[i](x): sum[i](x)",
        "    |                    ^",
        "  help: use 'i' inside, or leave it out",
    ]


def shared(project: Project, text: str) -> None:
    folder = project.specs / "lib"
    folder.mkdir(exist_ok=True)
    (folder / "own.yaml").write_text(text, encoding="utf-8")


def test_a_change_of_a_shared_file_is_seen(project: Project) -> None:
    shared(project, "version: 1\nfunctions:\n  more(x): x + 1\n")
    (project.specs / "more.yaml").write_text(written("more(h[0,i])").replace("calling", "more"), encoding="utf-8")
    project.run("build")
    project.run("check")
    project.run("check")
    shared(project, "version: 1\nfunctions:\n  more(x): x + 2\n")
    assert "modes/more.py" in project.run("check", code=1).stdout
    project.run("build", "--update-goldens")
    assert "h[0] + 2" in (project.output / "sparank_fusion/modes/more.py").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "text, said",
    [
        ("version: 1\nmode: x\nfunctions:\n  f(x): x\n", "specs/lib/own.yaml:2:1: error[unknown-key]: a file of functions has no key 'mode'"),
        ("version: 1\n", "specs/lib/own.yaml:1:1: error[missing-key]: the file has no 'functions'"),
        ("version: 2\nfunctions:\n  f(x): x\n", "specs/lib/own.yaml:1:10: error[bad-value]"),
        ("version: 1\nfunctions:\n  f(x): y\n", "specs/lib/own.yaml:3:9: error[unknown-name]: 'y' is not defined in function 'f'"),
        ("version: 1\nfunctions:\n  f(x): g(x)\n  g(x): f(x)\n", "error[cyclic-reference]: function 'f' calls itself: f → g → f"),
    ],
)
def test_a_wrong_shared_file(project: Project, text: str, said: str) -> None:
    shared(project, text)
    assert said in project.run("build", code=2).stderr


def test_two_shared_files_of_one_function(project: Project) -> None:
    shared(project, "version: 1\nfunctions:\n  f(x): x\n")
    (project.specs / "lib" / "two.yaml").write_text("version: 1\nfunctions:\n  f(x): x + 1\n", encoding="utf-8")
    assert "specs/lib/two.yaml:3:3: error[reused-name]: function 'f' is already defined in specs/lib/own.yaml:3:3" in (
        project.run("check", code=2).stderr
    )


def test_hidden_files_are_no_functions(project: Project) -> None:
    shared(project, "version: 1\nfunctions:\n  f(x): x\n")
    (project.specs / "lib" / ".own.yaml").write_text("- nothing", encoding="utf-8")
    assert [path.name for path in library_files(project.specs)] == ["own.yaml"]


@pytest.mark.parametrize("written", FUNCTIONS.values(), ids=FUNCTIONS)
def test_what_is_written_in_place_of_other_names_is_of_the_language(written: str) -> None:
    names = {call.function for call in calls_of(parse_expression(Text(written, "x", ((0, 1, 1),), (written,))))}
    assert names <= OPERATORS.keys()
