"""Math that has no finite value at the inputs of generated tests: told at once, with the place and the numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
from project_helper import REPOSITORY, Project

from sparank_gen.backends.tests.golden import golden_text
from sparank_gen.ir.check import check_spec
from sparank_gen.spec import errors
from sparank_gen.spec.load import parse_spec

HEAD = "version: 1\nmode: bad\nsummary: s\nmodalities: '>=2'\naxes: {i: dim}\n"


def spec(math: str, extra: str = "") -> str:
    return f"{HEAD}{extra}math: |\n" + "".join(f"  {line}\n" for line in math.splitlines())


@pytest.mark.parametrize(
    ("math", "line", "said"),
    [
        ("x[m,i] = log(h[m,i])\nout[i] = sum[m](x[m,i])", 7, "log(-"),
        ("out[i] = mean[m](h[m,i] / relu(h[m,i]))", 7, ") / 0 is not finite"),
        ("x[i] = sum[m](h[m,i])\nout[i] = x[i] ** 0.5", 8, ") ** 0.5 is not finite"),
        ("out[i] = prod[m](1e300 * h[m,i])", 7, "'prod' is not finite"),
        ("x[m,i] = h[m,i] - mean[m](h[m,i])\nout[i] = sum[m](x[m,i] / sqrt(mean[m](x[m,i] ** 2)))", 8, "where modalities are missing"),
    ],
    ids=["logarithm", "quotient", "power", "product", "one modality alone"],
)
def test_result_that_is_not_finite(math: str, line: int, said: str) -> None:
    with pytest.raises(errors.NotFinite) as caught:
        golden_text(check_spec(parse_spec(spec(math), "bad.yaml")))
    assert caught.value.span.line == line and said in caught.value.message and caught.value.remedy


@pytest.mark.parametrize(
    ("math", "line", "said"),
    [
        ("x[m,i] = h[m,i]\nd[m,t] = sqrt(sum[i]((x[m,i] - x[t,i]) ** 2))\nout[i] = sum[m,t](d[m,t] * x[t,i])", 8, "of 'h' is not finite at the inputs of generated tests: it takes"),
        ("s[i] = mean[m](h[m,i])\nout[i] = s[i] + sqrt(mean[m]((h[m,i] - s[i]) ** 2))", 8, "of 'h' is not finite at the inputs of generated tests where modalities are missing: it takes"),
        ("out[i] = sum[m](h[m,i]) * sum[t]((v[t] - v[t]) ** 0.5)", 9, "of 'v' is not finite at the inputs of generated tests: it takes 0 ** (-0.5)"),
    ],
    ids=["distance to itself", "deviation of one modality", "parameter"],
)
def test_gradient_that_is_not_finite(math: str, line: int, said: str) -> None:
    axes = "t: modalities, " if "t]" in math else ""
    extra = "params:\n  f: {tensor: 'v[m]', init: ones}\n" if "v[" in math else ""
    source = spec(math, extra).replace("{i: dim}", f"{{{axes}i: dim}}")
    with pytest.raises(errors.NotFinite) as caught:
        golden_text(check_spec(parse_spec(source, "bad.yaml")))
    assert caught.value.span.line == line and f"the gradient {said}" in caught.value.message


@pytest.mark.parametrize(
    ("math", "at", "said"),
    [
        ("x[i] = sum[m](h[m,i])\nout[i] = x[i] * (1 / tau)", "1 / tau", "the default of tau is 0"),
        ("out[i] = sum[m](h[m,i]) / (1 - 1) + tau", "sum[m](h[m,i]) / (1 - 1)", "the divisor is 0 here: write another one"),
        ("out[i] = sum[m](h[m,i]) * 9 ** 9 ** 9 + tau", "9 ** 9 ** 9", "numbers alone"),
        ("x[i] = log(sum[m](h[m,i]) ** 2 + 1)\nout[i] = x[i] + log(h[0,i]) * tau", "log(h[0,i])", "both signs"),
        ("out[i] = h[1,i] / (h[0,i] - h[0,i]) + h[0,i] / (tau + 1)", "h[1,i] / (h[0,i] - h[0,i])", "both signs"),
        ("out[i] = log(h[0,i]) + log(h[0,i]) * tau", "out[i]", "both signs"),
    ],
)
def test_the_operation_is_shown(math: str, at: str, said: str) -> None:
    source = spec(math, "hyperparameters: {tau: {default: 0.0}}\n")
    with pytest.raises(errors.NotFinite) as caught:
        golden_text(check_spec(parse_spec(source, "bad.yaml")))
    span = caught.value.span
    assert source.splitlines()[span.line - 1][span.column - 1 :][: span.length] == at
    assert said in caught.value.remedy


@pytest.mark.parametrize(
    ("math", "at", "said"),
    [
        ("out[i] = log(sum[m](exp(200 * h[m,i])))", "exp(200 * h[m,i])", "exp("),
        ("out[i] = sum[m](log(exp(-200 * abs(h[m,i]))))", "log(exp(-200 * abs(h[m,i])))", "log(0)"),
        ("out[i] = max[m](where(h[m,i] > 0, h[m,i], -1e300))", "out[i]", "-1e+300"),
    ],
    ids=["too large", "too small", "number"],
)
def test_result_that_is_finite_in_float64_alone(math: str, at: str, said: str) -> None:
    with pytest.raises(errors.NotFinite) as caught:
        golden_text(check_spec(parse_spec(spec(math), "bad.yaml")))
    line, column = caught.value.span.line, caught.value.span.column
    assert spec(math).splitlines()[line - 1][column - 1 :].startswith(at)
    assert caught.value.message.startswith(said) and "is not finite in float32 at" in caught.value.message
    assert "logsumexp" in caught.value.remedy


@pytest.mark.parametrize("init, start", [("zeros", 0), ("ones", 1), ("constant, value: 2", 2)])
def test_a_parameter_that_starts_where_the_math_has_no_value(init: str, start: int) -> None:
    math = f"w[m] = softmax[m](mean[i](h[m,i]) / (tau - {start}))\nout[i] = sum[m](w[m] * h[m,i])"
    source = spec(math, f"params: {{tau: {{tensor: tau, init: {init}}}}}\n")
    with pytest.raises(errors.NotFinite, match=f"/ 0 is not finite in a new layer, in which 'tau' starts at {start}") as caught:
        golden_text(check_spec(parse_spec(source, "bad.yaml")))
    assert "start it at a number where the math has a value" in caught.value.remedy
    golden_text(check_spec(parse_spec(source.replace(init, "constant, value: 3"), "good.yaml")))


def test_a_number_of_the_layer_that_a_parameter_starts_at() -> None:
    math = "w[m] = softmax[m](mean[i](h[m,i]) / tau)\nout[i] = sum[m](w[m] * h[m,i])"
    source = spec(math, "hyperparameters: {t: {default: 0.0}}\nparams: {tau: {tensor: tau, init: constant, value: 2 * t}}\n")
    with pytest.raises(errors.NotFinite, match="/ 0 is not finite in a new layer, in which 'tau' starts at 0"):
        golden_text(check_spec(parse_spec(source, "bad.yaml")))
    golden_text(check_spec(parse_spec(source.replace("default: 0.0", "default: 1.0"), "good.yaml")))


@pytest.mark.parametrize(
    ("init", "said"),
    [
        ("constant, value: log(0 - 1)", "'value' is nan"),
        ("normal, std: 1 / (dim - 6)", "'std' is inf where dim = 6, as in generated tests"),
        ("normal, std: 5 - dim", "'std' is -1 where dim = 6, as in generated tests"),
    ],
)
def test_what_an_initialisation_takes_is_a_number(init: str, said: str) -> None:
    source = spec("out[i] = sum[m](h[m,i]) * v[i]", f"params: {{v: {{tensor: 'v[i]', init: {init}}}}}\n")
    with pytest.raises(errors.NotFinite) as caught:
        golden_text(check_spec(parse_spec(source, "bad.yaml")))
    assert caught.value.message == said
    line, column = caught.value.span.line, caught.value.span.column
    assert source.splitlines()[line - 1][column - 1 :].startswith(init.split(": ")[1])


def test_the_readme_shows_such_an_error() -> None:
    math = "d[m,t] = sqrt(sum[i]((h[m,i] - h[t,i]) ** 2))\nout[i] = mean[m](h[m,i] * mean[t](d[m,t]))"
    with pytest.raises(errors.NotFinite) as caught:
        golden_text(check_spec(parse_spec(spec(math).replace("{i: dim}", "{t: modalities, i: dim}"), "specs/spread.yaml")))
    assert f"\n```\n{caught.value}\n```\n" in (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_of_pieces_of_different_widths() -> None:
    source = spec("out[i] = h[0,i] + sum[m,x](log(h[m,x]))").replace("{i: dim}", "{i: 'dim[0]', x: 'dim[m]'}")
    with pytest.raises(errors.NotFinite, match="'log' is not finite"):
        golden_text(check_spec(parse_spec(source, "bad.yaml")))


@pytest.mark.parametrize(
    "math",
    [
        "out[i] = sum[m](where(h[m,i] > 0, log(h[m,i]), 0))",
        "out[i] = sum[m](where(h[m,i] > 0, sqrt(h[m,i]), 0))",
        "out[i] = sum[m](log(max(h[m,i], 1e-6)))",
        "out[i] = sum[m](abs(relu(h[m,i]))) + max[m](h[m,i])",
        "out[i] = sum[m](sigmoid(1000 * h[m,i]))",
        "out[i] = logsumexp[m](1000 * h[m,i])",
        "total[m,i] = sqrt(h[m,i] ** 2 + 1)\nout[i] = sum[m](total[m,i])",
    ],
)
def test_what_is_not_taken_may_be_anything(math: str) -> None:
    golden_text(check_spec(parse_spec(spec(math), "good.yaml")))


def test_every_such_spec_is_told_and_nothing_written(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.specs.mkdir()
    for name, math in {"one": "out[i] = sum[m](log(h[m,i]))", "two": "out[i] = sum[m](sqrt(h[m,i]))", "good": "out[i] = sum[m](h[m,i])"}.items():
        (project.specs / f"{name}.yaml").write_text(spec(math).replace("mode: bad", f"mode: {name}"), encoding="utf-8")
    shown = project.run("build", code=2).stderr
    assert "specs/one.yaml:7:19: error[not-finite]: log(-" in shown and "specs/two.yaml:7:19: error[not-finite]: sqrt(-" in shown
    assert not project.output.exists()
