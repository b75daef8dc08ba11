"""Names of the spec stand beside those that the compiler makes, and neither takes the other's place."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from adversarial import HEAD, PLAIN, named
from sparank_gen.backends.tests import suite as suites
from sparank_gen.backends.torch.module import module_file
from sparank_gen.backends.triton.file import kernel_file
from sparank_gen.ir.check import check_spec
from sparank_gen.lang.ops import OPERATORS
from sparank_gen.project.templates import environment
from sparank_gen.spec.entries import CALLED
from sparank_gen.spec.errors import SpecError
from sparank_gen.spec.load import parse_spec
from test_random_programs import check_program, compiled

MODES = Path(__file__).resolve().parents[1] / "generated" / "sparank_fusion" / "modes"
ELEMENTS = {
    "of features": """\
modalities: ">=2"
axes: {i: dim}
math: |
  h_m[i]  = mean[m](h[m,i])
  d[m,i]  = h[m,i] - h_m[i]
  out[i]  = sum[m](d[m,i] * d[m,i])
""",
    "of parameters": """\
modalities: ">=2"
axes: {i: dim, j: dim}
params:
  maps: {module: Linear, per: m, weight: "W[m,i,j]", bias: "c[m,i]"}
math: |
  W_m[i]  = mean[m](h[m,i])
  c_m[i]  = max[m](h[m,i])
  z[m,i]  = sum[j](W[m,i,j] * h[m,j]) * W_m[i] + c[m,i] * c_m[i]
  out[i]  = sum[m](z[m,i] * z[m,i])
""",
    "of variables": """\
modalities: ">=2"
axes: {i: dim}
math: |
  x[m,i]  = tanh(h[m,i])
  x_m[i]  = mean[m](x[m,i])
  out[i]  = sum[m]((x[m,i] - x_m[i]) ** 2 * h[m,i])
""",
    "of widths": """\
modalities: ">=2"
axes: {i: "dim[m]", o: 3}
params:
  maps: {module: Linear, per: m, weight: "W[m,o,i]"}
math: |
  z[m,o]   = sum[i](W[m,o,i] * h[m,i])
  dim_m[o] = mean[m](z[m,o])
  out[o]   = sum[m](size[i] * (z[m,o] - dim_m[o]) ** 2)
""",
    "of widths in a constructor": """\
modalities: ">=2"
axes: {i: "dim[m]", o: dim_m}
hyperparameters: {dim_m: {default: 2}}
params:
  maps: {module: Linear, per: m, weight: "W[m,o,i]"}
math: |
  out[o] = sum[m](sum[i](W[m,o,i] * h[m,i])) * dim_m
""",
    "along two axes": """\
modalities: ">=2"
axes: {i: dim, u: modalities}
math: |
  t[m,u,i] = tanh(h[m,i] + 2 * h[u,i])
  out[i]   = sum[m,u](t[m,u,i] * t[u,m,i] * h[u,i])
""",
}


EXTENTS = """\
modalities: ">=2"
axes: {i: "dim[m]", o: 3, k: "dim[m] - 1"}
params:
  first: {module: Linear, weight: "W[o,(m i)]"}
  maps: {module: Linear, per: m, weight: "U[m,o,i]"}
math: |
  out[o] = sum[m](sum[i]((W[o,m,i] + U[m,o,i]) * h[m,i]) + sum[k](h[m,k + 1]))
"""


@pytest.mark.parametrize("text", ELEMENTS.values(), ids=ELEMENTS)
@pytest.mark.parametrize("n_modalities", [2, 3])
def test_what_the_math_calls_like_an_element(text: str, n_modalities: int) -> None:
    check_program(HEAD + text, 4, n_modalities, 3, 3)


def generated(text: str) -> list[str]:
    """The module and the kernels of a spec."""
    mode, templates = check_spec(parse_spec(text, "names.yaml")), environment(None)
    files = {"torch/mode.py.j2": module_file(mode), "triton/mode.py.j2": kernel_file(mode)}
    return [templates.get_template(name).render(header="", package="sparank_fusion", file=file) for name, file in files.items()]


def identifiers(source: str) -> Iterator[str]:
    """All names in a file, those of imports and arguments included."""
    for node in ast.walk(ast.parse(source)):
        for attribute in ("id", "arg", "name", "asname"):
            name = getattr(node, attribute, None)
            if isinstance(name, str) and name.isidentifier():
                yield name


def test_names_of_the_spec_that_generated_code_has_too(tmp_path: Path) -> None:
    """Each name of generated code as each kind of name that a spec has: code is well-formed, and every name defined once."""
    names = sorted({name for source in generated(named()) for name in identifiers(source)})
    for place in range((len(names) + 1) // 2):
        roles = {role: names[(place + k * len(names) // len(PLAIN)) % len(names)] for k, role in enumerate(PLAIN)}
        for number, source in enumerate(_accepted(roles)):
            (tmp_path / f"{place}_{number}.py").write_text(f"# {roles}\n{source}")
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select=F,E9", "--output-format=concise", str(tmp_path)]
    run = subprocess.run(command, check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


def _accepted(roles: dict[str, str]) -> list[str]:
    """The generated files with these names, without those that a spec may not have there."""
    try:
        return generated(named(**roles))
    except SpecError as error:
        refused = next(role for role, name in roles.items() if repr(name) in error.message)
        return _accepted({role: name for role, name in roles.items() if role != refused})


@pytest.mark.parametrize("roles", [
    {"size": "in_place", "axis": "self", "weight": "torch", "gate": "h_m"},
    {"size": "W", "axis": "b_2", "weight": "in_place", "gate": "lerp", "bias": "modules", "mapped": "math"},
    {"size": "product", "axis": "M", "weight": "total", "gate": "sum_all", "bias": "h_m", "mapped": "W_m"},
])
def test_results_with_names_that_generated_code_has_too(roles: dict[str, str]) -> None:
    check_program(named(**roles), 4, 3, 3, 3)


@pytest.mark.parametrize("names", [("layer", "case"), ("h_m", "layer"), ("assert_equal", "make"), ("sum", "seed")])
def test_results_that_are_called_like_what_tests_call(names: tuple[str, str]) -> None:
    """Each holds, of results under their own names and no other, in the order in which a test takes them."""
    gate, mapped = names
    properties = f"properties:\n  - sum[m]({gate}[m,i]) == 1\n  - {mapped}[m,o] * 0 == 0\n  - out[o] - out[o] <= 0\n"
    mode = check_spec(parse_spec(named(gate=gate, mapped=mapped) + properties, "names.yaml"))
    suite, made = suites.test_file(mode), compiled(mode)[0](4, 3)
    checked: list[tuple[torch.Size, torch.Tensor]] = []
    scope = {"layer": made, "h": [torch.randn(2, 4) for _ in range(3)], "torch": torch}
    scope |= {name: lambda one, other, claim: checked.append((one.shape, torch.as_tensor(other))) for name in suite.assertions}
    lines = [*suite.bindings, *(line for each in suite.properties for line in each)]
    exec("\n".join(lines), scope)  # noqa: S102
    assert [tuple(shape) for shape, _ in checked] == [(2, 4), (3, 2, 3), (2, 3)]


def called(source: str) -> set[str]:
    """The names in the constructor of a generated module that are none of its arguments, nor bound there."""
    (made,) = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    own = {argument.arg for argument in (*made.args.args, *made.args.kwonlyargs)}
    names = [node for line in made.body for node in ast.walk(line) if isinstance(node, ast.Name)]
    own |= {name.id for name in names if isinstance(name.ctx, ast.Store)}
    return {name.id for name in names if not name.id.startswith("require_")} - own


def test_no_hyperparameter_has_the_name_of_what_constructors_call() -> None:
    specs = [HEAD + text for text in (*ELEMENTS.values(), EXTENTS)]
    sources = [path.read_text() for path in sorted(MODES.glob("[a-z]*.py"))] + [generated(text)[0] for text in specs]
    assert set().union(*map(called, sources)) <= CALLED
    scalars = [operator.scalar.format(*"abc") for operator in OPERATORS.values() if operator.scalar]
    assert {name for code in scalars for name in identifiers(code)} - set("abc") <= CALLED
    assert {"sum", "min", "max"} <= called(generated(HEAD + EXTENTS)[0])


LETTERS = """\
modalities: ">=2"
axes: {f: 2, x: 2, y: 2, z: 2, d: 2, n: 2}
params:
  w: {tensor: "w[f,x,y,z,d,n]", init: normal, std: 0.1}
math: |
  out[f] = sum[x,y,z,d,n](w[f,x,y,z,d,n]) * sum[m](h[m,0])
"""


def test_features_have_an_index_of_their_own_whatever_the_others_are() -> None:
    check_program(HEAD + LETTERS, 4, 2, 2, 2)


def test_what_claims_say_is_not_imported() -> None:
    claim = "properties:\n  - lerp(0, 1, 0.5) * 2 == 1\n"
    assert not suites.test_file(check_spec(parse_spec(HEAD + ELEMENTS["of features"] + claim, "names.yaml"))).called
