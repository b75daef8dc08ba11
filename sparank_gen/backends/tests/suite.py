"""What the template of a generated test file lays out: cases, and the properties as statements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from sparank_gen.backends.code import names_read
from sparank_gen.backends.torch.emit import FUNCTIONS, RESERVED, Emitter
from sparank_gen.backends.torch.lower import Lowering
from sparank_gen.backends.torch.module import width_symbols
from sparank_gen.backends.torch.pieces import split_apart
from sparank_gen.backends.torch.values import Dense, Listed, Scalar, Value
from sparank_gen.ir import node as ir
from sparank_gen.ir.mode import Mode, Property, Result
from sparank_gen.ir.node import BATCH
from sparank_gen.ir.views import FEATURES
from sparank_gen.lang.widths import owner_among
from sparank_gen.trial.cases import Case, cases, ragged_cases

ASSERTIONS = {
    "==": "assert_equal({0}, {1}, {claim})",
    "<=": "assert_at_most({0}, {1}, {claim})",
    ">=": "assert_at_most({1}, {0}, {claim})",
    "<": "assert_at_most({0}, {1}, {claim})",
    ">": "assert_at_most({1}, {0}, {claim})",
}
# What a test of properties calls by its name.
NAMES = frozenset({"layer", "h", "case", "seed", "make", "random_features", "assert_equal", "assert_at_most"})


@dataclass(frozen=True)
class TestFile:
    """Everything the template of a test file needs beside the module file.

    Attributes:
        cases: the sizes.
        ragged_cases: sizes that leave lanes of kernels empty.
        bindings: statements that compute results under their names in the math, dimensions ``(b, …)``.
        properties: for each property, the statements that assert it.
        assertions: the names of the assertions that they use.
        called: the functions of the package that they use.
        wrong_modalities: a number of modalities that the mode refuses, or None.
    """

    cases: tuple[Case, ...]
    ragged_cases: tuple[Case, ...]
    bindings: tuple[str, ...]
    properties: tuple[tuple[str, ...], ...]
    assertions: tuple[str, ...]
    called: tuple[str, ...]
    wrong_modalities: int | None


def test_file(mode: Mode) -> TestFile:
    """The test file of a mode."""
    count = mode.spec.modalities
    wrong = count.maximum + 1 if count.maximum is not None else count.minimum - 1 if count.minimum > 2 else None
    variables = _variables(mode)
    properties = tuple(_property(mode, each, variables) for each in mode.properties)
    called = names_read("\n".join(line for lines in properties for line in lines))
    read = _tensors_read(mode.properties)
    results = {result.layout.name: result for result in reversed(mode.results) if result.layout.name in read}
    return TestFile(
        cases=cases(mode),
        ragged_cases=ragged_cases(mode),
        bindings=tuple(_binding(mode, result, variables[result.layout.name]) for result in reversed(results.values())),
        properties=properties,
        assertions=tuple(sorted({line.strip().partition("(")[0] for lines in properties for line in lines[-1:]})),
        called=tuple(name for name in FUNCTIONS if name in called),
        wrong_modalities=wrong,
    )


def _tensors_read(properties: Iterable[Property]) -> set[str]:
    """The names of the results that properties speak of."""
    nodes = ir.reachable(side for each in properties for side in (each.left, each.right))
    return {node.data[0] for node in nodes if node.op == "leaf"} - {FEATURES}


def _variables(mode: Mode) -> dict[str, str]:
    """The variable of each result in a test, by its name in the math."""
    emitter = Emitter(mode.program.extents, _symbols(mode), taken={*RESERVED, *NAMES})
    return {name: emitter.unique(name) for name in dict.fromkeys(result.layout.name for result in mode.results)}


def _binding(mode: Mode, result: Result, variable: str) -> str:
    """A result as the math names it: composed dimensions taken apart, the batch first."""
    layout = result.layout
    code = "layer(h)" if result.key == "out" else f'layer(h, return_gates=True)[1]["{result.key}"]'
    symbols = _symbols(mode)
    owner = owner_among(layout.axes, mode.program.extents)
    if owner is not None:
        lowering = Lowering(mode.program, (), Emitter(mode.program.extents, symbols), stacked=None)
        found = split_apart(lowering, code, "x", layout, owner, layout.axes)
        assert isinstance(found, Listed)
        order = (BATCH, *(axis for axis in mode.program[layout.name].axes if axis != owner))
        return f"{variable} = {replace(found, element=found.element.ordered(order)).sequence}"
    for position in reversed(range(len(layout.dimensions))):
        axes = layout.dimensions[position]
        if len(axes) > 1:
            sizes = ", ".join(mode.program.extents[axis].code(symbols) for axis in axes)
            code = f"{code}.unflatten({position}, ({sizes}))"
    wanted = (BATCH, *mode.program[layout.name].axes)
    return f"{variable} = {Dense(code, layout.axes).ordered(wanted).code}"


def _symbols(mode: Mode) -> dict[str, str]:
    """How the names in extents are written in a test."""
    names = {"dim": "layer.dim", "modalities": "layer.n_modalities", **width_symbols(mode, "layer.dims")}
    return names | {h.name.value: f"layer.{h.name.value}" for h in mode.spec.hyperparameters}


def _property(mode: Mode, each: Property, variables: Mapping[str, str]) -> tuple[str, ...]:
    """The statements that assert a property."""
    emitter = Emitter(mode.program.extents, _symbols(mode), taken={*RESERVED, *NAMES, *variables.values()})
    lowering = Lowering(mode.program, (), emitter, stacked=None)
    lowering.definitions, lowering.variables = {}, dict(variables)
    lowering.count_uses([each.left, each.right])
    sides: list[Value] = [lowering.lower(each.left), lowering.lower(each.right)]
    pieces = next((side for side in sides if isinstance(side, Listed) and emitter.differs(side)), None)
    if pieces is not None:

        def compare(*pair: Dense | Scalar) -> Dense:
            axes = lowering.result_axes([side for side in pair if isinstance(side, Dense)])
            codes = [side.aligned(axes).code if isinstance(side, Dense) else side.code for side in pair]
            return Dense(ASSERTIONS[each.relation].format(*codes, claim=repr(each.source)), axes)

        compared = lowering.each(pieces.axis, compare, *sides)
        return (*emitter.lines, f"{compared.loop}:", f"    {compared.element.code}")
    union = lowering.sorted(set().union(*(side.axes for side in sides)))
    codes = []
    for side in sides:
        if isinstance(side, Scalar):
            codes.append(side.code)
        else:
            codes.append(lowering.dense(side).aligned(union).code)
    return (*emitter.lines, ASSERTIONS[each.relation].format(*codes, claim=repr(each.source)))
