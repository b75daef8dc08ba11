"""Extents as code: what it computes is the extent, and constructors and generated tests take sizes at which divisions come out."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, reject
from hypothesis import strategies as st

from sparank_gen.ir.check import check_spec
from sparank_gen.ir.mode import Mode
from sparank_gen.lang.extents import Extent, parse_extent
from sparank_gen.spec import errors
from sparank_gen.spec.load import parse_spec
from sparank_gen.spec.source import Text
from sparank_gen.trial.cases import cases, width_near
from test_random_programs import check_program, compiled

NAMES = ("dim", "heads", "rank")
SIZES = st.fixed_dictionaries({name: st.integers(1, 24) for name in NAMES})
DIVISORS = ("2", "heads", "(2 * heads)", "(heads * rank)")
HEAD = "version: 1\nmode: divided\nsummary: s\nmodalities: '>=2'\n"
HALVES = """\
axes: {i: dim, j: dim, r: (dim + 2) // 4, q: dim - (dim + hidden) // 4}
hyperparameters: {hidden: {default: 2}}
params:
  inner: {module: Linear, weight: "P[r,j]"}
  rest: {tensor: "R[q,r]", init: normal, std: 1}
math: |
  x[m,r] = tanh(sum[j](P[r,j] * h[m,j]))
  y[q]   = sum[m,r](R[q,r] * x[m,r]) / size[r]
  out[i] = sum[m](h[m,i]) * mean[q](y[q])
"""
EACH = """\
axes: {i: "dim[m]", o: 3, r: "(dim[m] + 2) // 4"}
params:
  map: {tensor: "W[m,o,i]", per: m, init: normal, std: 1}
  low: {tensor: "V[m,r]", per: m, init: normal, std: 1}
math: |
  out[o] = sum[m](sum[i](W[m,o,i] * h[m,i]) * sum[r](V[m,r] ** 2))
"""


def parsed(text: str) -> Extent:
    return parse_extent(Text(text, "x", ((0, 1, 1),), (text,)), {name: Extent.symbol(name) for name in NAMES})[0]


def mode_of(text: str) -> Mode:
    return check_spec(parse_spec(HEAD + text, "divided.yaml"))


def compound(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pairs = st.builds("({} {} {})".format, inner, st.sampled_from("+-*"), inner)
    return pairs | st.builds("({} // {})".format, inner, st.sampled_from(DIVISORS))


@given(st.recursive(st.sampled_from([*NAMES, "1", "2", "3"]), compound, max_leaves=6), st.lists(SIZES, min_size=20, max_size=20))
def test_code_computes_the_extent(text: str, several: list[dict[str, int]]) -> None:
    try:
        extent = parsed(text)
    except errors.BadValue:
        reject()
    whole = [sizes for sizes in several if extent.number_for(sizes).denominator == 1]
    assume(whole)
    for sizes in whole:
        assert eval(extent.code({}), {}, dict(sizes)) == extent.number_for(sizes)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("(dim + 1) // 2", "(dim + 1) // 2"),
        ("(dim - 1) // 2 + 1", "(dim + 1) // 2"),
        ("dim - (rank + 1) // 2", "dim - (rank + 1) // 2"),
        ("(dim + rank) // 2 - heads - 3", "(dim + rank) // 2 - heads - 3"),
        ("dim // (2 * heads) + rank // heads", "(dim + 2 * rank) // (2 * heads)"),
        ("dim // 2 + dim // 3", "5 * dim // 6"),
        ("dim // heads", "dim // heads"),
    ],
)
def test_terms_that_are_whole_only_together_stand_over_one_divisor(text: str, code: str) -> None:
    assert parsed(text).code({}) == code


def test_layers_whose_extents_divide_sums() -> None:
    for dim, n_modalities in ((3, 2), (5, 3)):
        check_program(HEAD + HALVES, dim, n_modalities, 2, 3)


def test_constructors_refuse_what_does_not_come_out() -> None:
    made, _ = compiled(mode_of(HALVES))
    with pytest.raises(ValueError, match=r"expected dim \+ 2 to be a multiple of 4, got 9 and 4"):
        made(7, 2)
    made, _ = compiled(mode_of(EACH))
    assert made([6, 10], 2).out_dim == 3
    with pytest.raises(ValueError, match=r"expected dim\[m\] \+ 2 to be a multiple of 4, got 9 and 4"):
        made([6, 7], 2)
    made, _ = compiled(mode_of(EACH.replace("(dim[m] + 2) // 4", "3 // parts").replace("params:", "hyperparameters: {parts: {default: 1, minimum: 0}}\nparams:")))
    with pytest.raises(ValueError, match="expected 3 to be a multiple of parts, got 3 and 0"):
        made(6, 2, parts=0)


@pytest.mark.parametrize("extent", ["dim // 4 * 2", "dim - dim // 5 * 5 + 1"])
def test_generated_tests_run_where_divisions_come_out(extent: str) -> None:
    mode = mode_of(HALVES.replace("(dim + 2) // 4", extent).replace("dim - (dim + hidden) // 4", "hidden"))
    made, _ = compiled(mode)
    for case in cases(mode):
        made(case.dim, case.n_modalities, **dict(case.options))
    made(width_near(64, mode, 2), 2)
