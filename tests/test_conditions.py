"""Conditions that are made of others: choices within choices."""

from __future__ import annotations

import pytest
from test_torch_plans import HEAD as PLAN
from test_torch_plans import operations

from sparank_gen.ir.check import check_spec
from sparank_gen.ir.conditions import join_conditions
from sparank_gen.ir.node import Node, reachable
from sparank_gen.ir.text import formula
from sparank_gen.spec.errors import SpecError
from sparank_gen.spec.load import parse_spec
from test_random_programs import check_program

HEAD = """\
version: 1
mode: plan
summary: A program.
modalities: ">=2"
axes: {i: dim}
math: |
  x[i]   = sum[m](h[m,i])
  y[i]   = h[0,i]
  out[i] = """
MEANINGS = [
    ("where(x[i] > 0 and y[i] > 0, x[i], y[i])", "where(x[i] > 0, where(y[i] > 0, x[i], y[i]), y[i])"),
    ("where(x[i] > 0 or y[i] > 0, x[i], y[i])", "where(x[i] > 0, x[i], where(y[i] > 0, x[i], y[i]))"),
    ("where(not x[i] > 0, x[i], y[i])", "where(x[i] > 0, y[i], x[i])"),
    ("where(0 < x[i] <= 1, x[i], y[i])", "where(0 < x[i], where(x[i] <= 1, x[i], y[i]), y[i])"),
    ("where(not (x[i] > 0 and y[i] > 0), 1, y[i])", "where(x[i] > 0, where(y[i] > 0, y[i], 1), 1)"),
    (
        "where(x[i] > 0 or 0 < y[i] and y[i] < 1, 1, 2)",
        "where(x[i] > 0, 1, where(0 < y[i], where(y[i] < 1, 1, 2), 2))",
    ),
]


def output(expression: str) -> Node:
    return check_spec(parse_spec(f"{HEAD}{expression}\n", "plan.yaml")).program.definitions[-1].node


@pytest.mark.parametrize("joined, nested", MEANINGS)
def test_what_joined_comparisons_mean(joined: str, nested: str) -> None:
    assert output(joined) is output(nested)


def test_values_and_gradients() -> None:
    """The logarithm that is not taken has no gradient."""
    math = "where(x[i] > 0 and not y[i] < -0.5 or x[i] < -1, log(x[i] ** 2 + 1) * y[i], where(0 < x[i] < 1, log(x[i]), y[i]))"
    check_program(f"{HEAD}{math}\nweights: 'x[b,i]'\n", dim=5, n_modalities=3, hidden=1, batch=7)


@pytest.mark.parametrize(
    "expression, message, column",
    [
        ("where(x[i] > 0 and y[i], x[i], y[i])", "a number stands where a comparison is needed", 31),
        ("where(x[i], x[i], y[i])", "a number stands where a comparison is needed", 18),
        ("x[i] > 0 and y[i] > 0", "'and' and 'or' join comparisons here", 12),
        ("1 + (not x[i] > 0)", "'not' negates a comparison here", 17),
        ("0 < x[i] < 1", "this is more than one comparison", 12),
        (f"where({'not ' * 300}x[i] > 0, x[i], y[i])", "this expression is nested too deeply", None),
    ],
)
def test_errors(expression: str, message: str, column: int | None) -> None:
    with pytest.raises(SpecError) as caught:
        output(expression)
    first = str(caught.value).splitlines()[0]
    assert message in first
    assert column is None or first.startswith(f"plan.yaml:9:{column}: ")


def test_conditions_within_conditions() -> None:
    """Each comparison is one choice, however they are joined and nested."""
    expression = "x[i]"
    for level in range(1, 7):
        joined = " or ".join(f"{level} < y[i] < {level}.{k} and not x[i] > {k}" for k in range(1, 9))
        expression = f"where({joined} or 0 < {expression} < 1, y[i] * {level}, 0)"
    assert sum(node.op == "where" for node in reachable([output(expression)])) == 6 * (3 * 8 + 2)


@pytest.mark.parametrize(
    "expression, masks, choices",
    [
        ("where((x[i] > 0 or y[i] > 0.5) and not (x[i] > 1 and y[i] > 1), x[i] * y[i], x[i] - y[i])", 4, 1),
        ("where(0 < x[i] < 1, x[i], y[i]) * where(x[i] > 2 and y[i] > 2, 3, y[i])", 2, 2),
        # One of the choices within is read by itself too.
        ("where(x[i] > 0, where(y[i] > 0, x[i], y[i]), y[i]) + where(y[i] > 0, x[i], y[i])", 1, 2),
        # Another branch makes another choice of it.
        ("where(x[i] > 0, where(y[i] > 0, x[i], 1), y[i])", 0, 2),
    ],
)
def test_joined_conditions_are_one_choice_by_truth_values(expression: str, masks: int, choices: int) -> None:
    count = operations(f"{HEAD}{expression}\n".removeprefix(PLAN), 3)
    assert sum(count[name] for name in ("bitwise_and", "bitwise_or", "bitwise_not")) == masks
    assert count["where"] == choices
    check_program(f"{HEAD}{expression}\nweights: 'x[b,i]'\n", dim=5, n_modalities=3, hidden=1, batch=7)


@pytest.mark.parametrize(
    "condition",
    [
        "x[i] > 0 and not y[i] > 1 or y[i] < 2",
        "not (x[i] > 0 or y[i] > 1) and y[i] < 2",
        "(x[i] > 0 or y[i] > 1) and (x[i] > 2 or y[i] > 3)",
    ],
)
def test_text_of_joined_conditions_is_that_of_a_spec(condition: str) -> None:
    """Comments on derived gradients are made of nodes."""
    program = check_spec(parse_spec(f"{HEAD}where({condition}, x[i], y[i])\n", "plan.yaml")).program
    joined = join_conditions(program)
    text = formula(joined["out"], {definition.node: definition for definition in joined.definitions})
    assert output(text.removeprefix("out[i] = ")) is program["out"].node
