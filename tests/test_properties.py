"""Properties that a spec claims and that do not hold: told by the build, and by generated tests, with both sides."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest
import torch
from project_helper import REPOSITORY, Project

from sparank_gen.backends.tests.golden import golden_text
from sparank_gen.ir.check import check_spec
from sparank_gen.spec import errors
from sparank_gen.spec.load import parse_spec

GATE = (REPOSITORY / "specs/gate.yaml").read_text(encoding="utf-8")
WIDTHS = """version: 1
mode: bad
summary: s
modalities: ">=2"
axes: {i: "dim[m]"}
math: |
  g[m,i]   = tanh(h[m,i])
  out[m,i] = g[m,i] * 2
out: "out[b,(m i)]"
weights: "g[b,(m i)]"
properties:
"""


def claiming(claim: str, spec: str = GATE) -> str:
    """A spec with one property."""
    return spec[: spec.index("properties:")] + f"properties:\n  - {claim}\n"


@pytest.mark.parametrize(
    ("claim", "said"),
    [
        ("sum[m](g[m,i]) == 2", "can be 1 where the right side is 2 at i = 0"),
        ("g[m,i] < 0.9", "where the right side is 0.9 at i = "),
        ("out[i] < out[i]", "at i = 0"),
        ("sum[m](g[m,i]) > sum[m](g[m,i])", "the left side can be 1 where the right side is 1"),
        ("out[i] < 1", "where the right side is 1 at i = "),
        ("out[i] >= max[m](h[m,i])", "at i = 0"),
        ("sum[m,i](g[m,i]) <= 1", "where the right side is 1"),
    ],
)
def test_a_property_that_does_not_hold(claim: str, said: str) -> None:
    with pytest.raises(errors.FalseProperty) as caught:
        golden_text(check_spec(parse_spec(claiming(claim), "bad.yaml")))
    assert said in caught.value.message and claim in str(caught.value) and caught.value.remedy


@pytest.mark.parametrize("claim", ["out[m,i] == g[m,i] + tanh(h[m,i]) + 1", "sum[i](g[m,i]) < -3", "sum[m,i](out[m,i]) == 0"])
def test_a_property_of_different_widths(claim: str) -> None:
    with pytest.raises(errors.FalseProperty, match="the left side can be"):
        golden_text(check_spec(parse_spec(claiming(claim, WIDTHS), "bad.yaml")))


@pytest.mark.parametrize("claim", ["2 * g[m,i] == out[m,i]", "g[m,i] <= 1", "sum[i](out[m,i] ** 2) >= 0", "g[m,i] < 1", "g[m,i] ** 2 > 0"])
def test_properties_that_hold(claim: str) -> None:
    golden_text(check_spec(parse_spec(claiming(claim, WIDTHS), "good.yaml")))


def test_nothing_is_built_of_it(project: Project) -> None:
    before = project.snapshot()
    project.edit("specs/gate.yaml", "sum[m](g[m,i]) == 1", "sum[m](g[m,i]) == 2")
    assert "error[false-property]" in project.run("build", code=2).stderr
    assert project.snapshot() == before


def support() -> ModuleType:
    """What generated tests share."""
    spec = importlib.util.spec_from_file_location("support_of_tests", REPOSITORY / "generated/tests/support.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_generated_test_says_what_does_not_hold() -> None:
    x = torch.tensor([[1.0, 2.0], [1.0, 2.5]], dtype=torch.float64)
    with pytest.raises(pytest.fail.Exception, match=r"x == y does not hold: 2\.5 is not equal to 2\.0, at \(1, 1\) of \(2, 2\)"):
        support().assert_equal(x, x[:1], "x == y")
    with pytest.raises(pytest.fail.Exception, match=r"x <= 2 does not hold: 2\.5 is not at most 2\.0"):
        support().assert_at_most(x, 2, "x <= 2")
    with pytest.raises(pytest.fail.Exception, match="nan is not at most 2"):
        support().assert_at_most(torch.full((1,), float("nan")), 2, "x <= 2")
    support().assert_equal(x, x, "x == x")
