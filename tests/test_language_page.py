"""The language's page holds: its examples compile, and its tables list what the compiler knows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from torch import nn

from sparank_gen.ir.check import check_spec
from sparank_gen.ir.lower import PAIRWISE
from sparank_gen.lang.initial import INITIALISATIONS
from sparank_gen.lang.modules import TORCH_MODULES
from sparank_gen.lang.ops import OPERATORS
from sparank_gen.lang.parse import expression_of
from sparank_gen.lang.syntax import Call
from sparank_gen.project.config import Config
from sparank_gen.project.generate import load_library_functions
from sparank_gen.spec import errors
from sparank_gen.spec.entries import CALLED, MEMBERS, OWN
from sparank_gen.spec.load import KEYS, parse_spec

SPECS = Path(__file__).resolve().parents[1] / "specs"
LIBRARY = load_library_functions(Config(specs=SPECS, output=SPECS))
PAGE = (SPECS / "README.md").read_text(encoding="utf-8")
PUBLIC = {name: operator for name, operator in OPERATORS.items() if not operator.internal}


def blocks(language: str) -> list[str]:
    """The code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def rows(*header: str) -> list[list[str]]:
    """The cells of the table whose header starts with these cells."""
    lines = iter(PAGE.splitlines())
    start = "| " + " | ".join(header)
    next(line for line in lines if line.startswith(start))
    next(lines)
    found = []
    for line in lines:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return found


def code(cell: str) -> list[str]:
    """What stands in backquotes."""
    return re.findall(r"`([^`]+)`", cell)


def names(*header: str) -> list[str]:
    return [name for row in rows(*header) for name in code(row[0])]


@pytest.mark.parametrize("source", blocks("yaml"), ids=lambda source: re.findall(r"^mode: (\w+)", source, re.MULTILINE)[0])
def test_example_compiles(source: str) -> None:
    check_spec(parse_spec(source, "example.yaml"), LIBRARY)


def test_examples_show_more_than_the_shipped_modes() -> None:
    shown = {parse_spec(source, "example.yaml").mode.value for source in blocks("yaml")}
    assert len(shown) >= 3 and shown - {path.stem for path in SPECS.glob("*.yaml")}


def test_operator_table_lists_the_public_operators() -> None:
    assert names("operator", "written") == list(PUBLIC)


@pytest.mark.parametrize("name, written", [(code(row[0])[0], code(row[1])[0]) for row in rows("operator", "written")])
def test_operator_is_written_so(name: str, written: str) -> None:
    """The form in the table is that operator, with its options at their defaults."""
    call = expression_of(written)
    assert isinstance(call, Call)
    assert (call.function if call.axes else PAIRWISE.get(call.function, call.function)) == name
    assert len(call.arguments) == PUBLIC[name].arity
    assert call.keywords == PUBLIC[name].options
    assert bool(call.axes) == (PUBLIC[name].kind in ("reduction", "normalisation"))


def test_missing_modalities_are_explained_for_every_operator_over_axes() -> None:
    over_axes = {name for name, operator in PUBLIC.items() if operator.kind in ("reduction", "normalisation")}
    assert over_axes == {text.partition("[")[0] for text in names("in the math", "with `present`") if "](" in text}


def test_error_table_lists_the_error_codes() -> None:
    assert names("code", "meaning") == [kind.code for kind in errors.SpecError.__subclasses__()]


def test_key_table_lists_the_keys() -> None:
    cells = [row[0] for row in rows("key", "meaning")]
    assert [name for cell in cells for name in code(cell)] == list(KEYS)


def test_module_table_lists_the_modules() -> None:
    table = {code(row[0])[0]: (code(row[1]), code(row[2])) for row in rows("module", "size arguments")}
    assert table == {name: (list(module.constructor), list(module.tensors)) for name, module in TORCH_MODULES.items()}


def test_function_table_lists_the_shared_functions() -> None:
    shared = {name: function.signature for name, function in LIBRARY.items()}
    assert names("function", "is") == [shared[name] for name in sorted(shared)]


def test_name_table_lists_what_a_hyper_parameter_cannot_be_called() -> None:
    own, members, called = ({*code(row[0])} for row in rows("names", "of"))
    assert (own, called) == (OWN, CALLED)
    assert members < MEMBERS


def test_members_of_torch_modules_are_known() -> None:
    assert {name for name in dir(nn.Module()) if not name.startswith("_")} <= MEMBERS


def test_initialisation_table_lists_the_initialisations() -> None:
    table = {code(row[0])[0]: (code(row[1]), code(row[2])) for row in rows("`init`", "starts as")}
    assert table == {name: ([rule.number] if rule.number else [], list(rule.fans)) for name, rule in INITIALISATIONS.items()}


def test_error_is_shown_as_it_is() -> None:
    source = (SPECS / "gate.yaml").read_text(encoding="utf-8").replace("g[m,i] * h[m,i])", "g[m,i] * h[m,j])")
    with pytest.raises(errors.UnboundIndex) as caught:
        check_spec(parse_spec(source, "specs/gate.yaml"))
    assert f"{caught.value}\n" in blocks("text")
