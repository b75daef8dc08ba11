"""The formulas of documentation pages, read as LaTeX, are what the evaluator computes."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from fuzzing import fuzzed
from hypothesis import given, note
from latex_reader import Values, read_equation
from test_language_page import LIBRARY
from unusual_specs import unusual_spec

from random_specs import random_specs
from sparank_gen.backends.docs.page import mode_page
from sparank_gen.formulas.latex import formulas, index_symbol, symbol_of
from sparank_gen.formulas.shared import adjoint_program, formula_program
from sparank_gen.ir.check import check_spec
from sparank_gen.ir.evaluate import Pieces, Sizes, evaluate, evaluate_at
from sparank_gen.ir.mode import Mode
from sparank_gen.ir.node import BATCH, Definition
from sparank_gen.lang.widths import has_widths, widest
from sparank_gen.spec.load import parse_spec
from sparank_gen.trial.cases import Case, cases, rule, tensors
from test_random_programs import compiled

SPECS = Path(__file__).resolve().parents[1] / "specs"
SHIPPED = {path.stem: path.read_text(encoding="utf-8") for path in sorted(SPECS.glob("*.yaml"))}
ROWS = 2
PAIRS = "{i: dim, t: modalities}"
HEAD = 'version: 1\nmode: x\nsummary: s\nmodalities: ">=2"\n'


def mode_of(text: str) -> Mode:
    return check_spec(parse_spec(text, "latex.yaml"), LIBRARY)


def values_of(mode: Mode, case: Case, definitions: tuple[Definition, ...]) -> Values:
    """The numbers of every symbol that equations may speak of."""
    sizes: Sizes = case.sizes(ROWS)
    found = dict(tensors(mode, case, ROWS))
    extents = mode.program.extents
    count = {axis: int(sizes["batch"]) if axis == BATCH else widest(extent).value(sizes) for axis, extent in extents.items()}
    out = mode.program[mode.out.name] if mode.program.outputs else None
    if out is not None:
        axes = (BATCH, *out.axes)
        found[f"{out.name}_bar"] = rule("cotangent", tuple(count[axis] for axis in axes))
    values: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}
    for name, slots in mode.slots.items():
        held = found[name]
        values[symbol_of(name)] = (slots, np.stack(held.arrays, held.slot) if isinstance(held, Pieces) else held)
    if out is not None:
        values[symbol_of(f"{out.name} bar")] = (axes, np.asarray(found[f"{out.name}_bar"]))
    numbers = evaluate([d.node for d in definitions], found, extents, sizes)
    for d in definitions:
        axes = (BATCH, *d.axes) if BATCH in d.node.axes else d.axes
        values[symbol_of(d.name)] = (axes, evaluate_at(d.node, axes, numbers, extents, sizes))
    for name, size in sizes.items():
        values.setdefault(symbol_of(name), ((), np.asarray(float(size))))
    if has_widths(extents.values()):
        values[symbol_of("dim")] = (("m",), np.array(case.dims, float))
    return values


def check_equations(texts: tuple[str, ...], values: Values, ranges: dict[str, int]) -> None:
    """Each equation holds for its numbers, at the first, the last and some places between."""
    for text in itertools.chain.from_iterable(each.split(r" \qquad ") for each in texts):
        symbol, indices, meaning = read_equation(text, values, ranges)
        axes, array = values[symbol]
        places = list(itertools.product(*([int(n)] if n.isdigit() else range(ranges[n]) for n in indices)))
        for place in places[:: max(len(places) // 3, 1)]:
            for row in range(ROWS):
                rest = iter(place)
                wanted = array[tuple(row if axis == BATCH else next(rest) for axis in axes)]
                found = meaning({"b": row, **dict(zip(indices, place, strict=True))})
                assert found == pytest.approx(wanted, rel=1e-7, abs=1e-8), text


def check_mode(mode: Mode, case: Case) -> None:
    """The formulas and gradients of a mode's page."""
    forward, adjoints = formula_program(mode), adjoint_program(mode)
    shown = (*forward.definitions, *(adjoints.definitions if adjoints else ()))
    values = values_of(mode, case, shown)
    sizes = case.sizes(ROWS)
    ranges = {index_symbol(axis): ROWS if axis == BATCH else widest(e).value(sizes) for axis, e in mode.program.extents.items()}
    check_equations(formulas(forward), values, ranges)
    if adjoints is not None:
        check_equations(formulas(adjoints, forward.definitions), values, ranges)


@pytest.mark.parametrize("text", SHIPPED.values(), ids=SHIPPED)
def test_shipped_formulas(text: str) -> None:
    mode = mode_of(text)
    check_mode(mode, cases(mode)[0])


@pytest.mark.parametrize("name", ["linear_attention", "standardised", "pairwise_distances", "outer_moments", "polynomial"])
def test_unusual_formulas(name: str) -> None:
    mode = mode_of(unusual_spec(name))
    check_mode(mode, cases(mode)[0])


@fuzzed(40, share=4)
@given(text=random_specs())
def test_random_formulas(text: str) -> None:
    note(text)
    mode = mode_of(text)
    options = tuple((h.name.value, 2 if h.type == "int" else h.default) for h in mode.spec.hyperparameters)
    check_mode(mode, Case(2, mode.spec.modalities.exact or 2, options))


def page_of(math: str, axes: str = "{i: dim}", extra: str = "") -> tuple[Mode, str]:
    """A mode of one module, and all equations of its page."""
    mode = mode_of(f"{HEAD}axes: {axes}\n{extra}math: |\n" + "".join(f"  {line}\n" for line in math.splitlines()))
    check_mode(mode, Case(3, 2, tuple((h.name.value, h.default) for h in mode.spec.hyperparameters)))
    page = mode_page(mode)
    return mode, "\n".join((*page.formulas, *page.adjoints))


def test_a_negated_factor_is_in_parentheses() -> None:
    scale = 'params:\n  s: {tensor: "s", init: zeros}\n'
    _, text = page_of("d[m,t] = sum[i]((h[m,i] - h[t,i]) ** 2)\nk[m,t] = exp(-d[m,t] * exp(s))\nout[i] = sum[m,t](k[m,t] * h[m,i])", PAIRS, scale)
    assert r"\,\left(-d_{m,t}" in text and r"\,-" not in text


def test_what_does_not_depend_on_an_index_is_not_read_at_it() -> None:
    _, text = page_of("n[m,i] = tanh(h[m,i])\nsim[m,t] = sum[i](n[m,i] * n[t,i])\nout[i] = sum[m](mean[t](sim[m,t]) * h[m,i])", PAIRS)
    assert r"\overline{\mathrm{sim}}_{m,t} = " in text


def test_choices_that_gradients_share_are_conditions() -> None:
    _, text = page_of("out[i] = max[m](h[m,i]) * rsqrt(sum[i](max[m](h[m,i]) ** 2) + 1)")
    assert r"\left[" in text and r"\text{if } h_{m,i} = \max_{m'} h_{m',i}" in text


def test_sums_run_over_indices_of_their_own() -> None:
    _, text = page_of("g[m] = softmax[m](mean[i](h[m,i]))\nout[i] = sum[m](g[m] * h[m,i])")
    assert r"\sum_{m'} \overline{g}_{m'}\,g_{m'}" in text


def test_a_normalisation_at_a_position_keeps_its_index() -> None:
    first = "functions:\n  first[m](x[m]): |\n    y[m] = softmax[m](x[m])\n    y[m] + softmax[m](x[m]) * y[0]\n"
    _, text = page_of("out[i] = sum[m](first[m](h[m,i]))", extra=first)
    assert r"\right|_{m'' = 0}" in text or r"\right|_{m' = 0}" in text


def test_features_stand_with_their_indices() -> None:
    extra = 'features: "h[m, b, (a k)]"\nout: "out[b, (a k)]"\n'
    mode = mode_of(HEAD + "axes: {a: 2, k: dim // 2}\n" + extra + "math: |\n  out[a,k] = sum[m](h[m,a,k])\n")
    assert mode_page(mode).features == "h_{m,a,k}"


def test_shared_parts_have_a_letter_of_their_own() -> None:
    _, text = page_of("s[i] = tanh(max(sum[m](h[m,i]), 0.25) + 1)\nout[i] = s[i] * sigmoid(max(sum[m](h[m,i]), 0.25) + 1)")
    assert "^{(1)}" in text and "s^{(" not in text


def test_a_name_that_ends_like_an_adjoint_is_none() -> None:
    _, text = page_of("y_bar[i] = mean[m](h[m,i])\nout[i] = y_bar[i] * tanh(y_bar[i])")
    assert r"\mathrm{y\_bar}_{i} = " in text and r"\overline{\mathrm{y\_bar}}_{i} = " in text


def test_numbers_are_short() -> None:
    _, text = page_of("x[i] = sum[m](h[m,i]) + 1e-12\nout[i] = tanh(x[i]) * tanh(x[i]) + 2.5e-7 * x[i]")
    assert r"+ 10^{-12}" in text and r"2.5\cdot 10^{-7}\,x_{i}" in text and r"2\," in text


@pytest.mark.parametrize(
    "condition, shown",
    [
        ("x[i] > 0 and y[i] > 0", r"x_{i} > 0 \land y_{i} > 0"),
        ("not x[i] > 0 and y[i] > 0", r"\lnot \left(x_{i} > 0\right) \land y_{i} > 0"),
        ("-0.5 < x[i] <= 0.5 and y[i] > 0", r"-0.5 < x_{i} \le 0.5 \land y_{i} > 0"),
        ("0 < x[i] and x[i] > y[i]", r"0 < x_{i} \land x_{i} > y_{i}"),
        ("x[i] > 0 and (y[i] > 0 or x[i] > 1) or y[i] < -1", r"x_{i} > 0 \land \left(y_{i} > 0 \lor x_{i} > 1\right) \lor y_{i} < -1"),
    ],
)
def test_joined_conditions_are_shown_as_they_are_written(condition: str, shown: str) -> None:
    text = page_of(f"x[i] = sum[m](h[m,i])\ny[i] = h[0,i]\nout[i] = where({condition}, x[i], y[i] ** 2)")[1]
    assert rf"\begin{{cases}}x_{{i}} & \text{{if }} {shown}\\ {{y_{{i}}}}^{{2}} & \text{{otherwise}}" in text


def test_pieces_are_shown_by_their_own_statements() -> None:
    math = "c[0,i] = max[m](h[m,i])\nc[1,i] = mean[m](h[m,i])\nc[2,i] = sum[m](h[m,i] ** 2) * mean[m](h[m,i])\nout[s,i] = c[s,i]"
    text = HEAD + "axes: {s: 3, i: dim}\nmath: |\n" + "".join(f"  {line}\n" for line in math.splitlines()) + 'out: "out[b,(s i)]"\n'
    assert "of c[0,i]" not in compiled(mode_of(text))[1]


def test_conditions_that_choose_between_different_values_are_not_joined() -> None:
    mode, text = page_of("x[i] = sum[m](h[m,i])\nout[i] = where(x[i] > 0, 1, where(x[i] > -1, x[i], -1)) * x[i]")
    assert r"\land" not in formulas(mode.program)[-1]
    # The derivative is there where the second case is.
    assert r"x_{i} > -1 \land \lnot \left(x_{i} > 0\right)" in text


def test_what_functions_repeat_is_written_once_where_it_is_long() -> None:
    calls = "f(f(f(f(f(f(f(f(f(f(f(f(mean[m](h[m,i])))))))))))))"
    _, text = page_of(f"out[i] = {calls}", extra="functions:\n  f(x): x * tanh(x)\n")
    assert len(text) < 4000
    assert r"s^{(1)}_{i} = \left(\mathop{\mathrm{mean}}_{m} h_{m,i}\right)\,\tanh" in text
    short, _ = page_of("out[i] = f(f(mean[m](h[m,i])))", extra="functions:\n  f(x): x * tanh(x)\n")
    assert len(formulas(formula_program(short))) == 1


def test_what_is_divided_and_multiplied_by_one_number_is_as_it_was() -> None:
    _, page = page_of("n[m] = rsqrt(sum[i](h[m,i] ** 2) + 1)\nout[i] = sum[m](n[m] * h[m,i])")
    assert r"{2}\cdot 2" not in page and r"^{3}" in page
