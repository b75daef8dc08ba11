"""What is not finite at the inputs that generated tests run with: which operation made it, of which numbers, and where."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sparank_gen.ir.evaluate import Apart, Value
from sparank_gen.ir.mode import Mode
from sparank_gen.ir.node import Node, Program
from sparank_gen.lang.ops import OPERATORS
from sparank_gen.lang.parse import parse_statements
from sparank_gen.spec import errors
from sparank_gen.spec.source import Span

Values = Mapping[Node, Value | Apart]
REMEDY = "generated tests run with features and parameters of both signs; keep operands where the math has a value, as in log(max(x, 1e-6)) or x / (y + 1e-6)"


def require_finite(mode: Mode, program: Program, result: Node, values: Values, among_present: bool) -> None:
    """Raise a SpecError where a result is infinite or not a number, with the statement in which that begins.

    Args:
        mode: where the program came from.
        program: the mode's own, or the one among the modalities that each sample has.
        result: a result of the program.
        values: the value of every node that it depends on.
        among_present: whether modalities are missing.
    """
    if _is_finite(values[result]):
        return
    definitions = {definition.node: definition.name for definition in program.definitions}
    node, name = result, definitions.get(result)
    while (cause := next((arg for arg in node.args if not _is_finite(values[arg])), None)) is not None:
        node, name = cause, definitions.get(cause, name)
    missing = " where modalities are missing" if among_present else ""
    message = f"{_described(node, values)} is not finite at the inputs of generated tests{missing}"
    raise errors.NotFinite(message, _place(mode, name), REMEDY)


def _is_finite(value: Value | Apart) -> bool:
    parts = value.parts if isinstance(value, Apart) else (value,)
    return all(np.isfinite(part.array).all() for part in parts)


def _described(node: Node, values: Values) -> str:
    """An operation that is not finite, of the numbers that first make it so where it is pointwise."""
    operator, found = OPERATORS.get(node.op), values[node]
    if operator is None or operator.kind != "pointwise" or isinstance(found, Apart):
        return repr(node.op)
    place = tuple(np.argwhere(~np.isfinite(found.array))[0])
    numbers = []
    for arg in node.args:
        value = values[arg]
        if isinstance(value, Apart):
            return repr(node.op)
        numbers.append(f"{np.broadcast_to(value.along(found.axes), found.array.shape)[place]:.3g}")
    if not operator.symbol:
        return f"{node.op}({', '.join(numbers)})"
    return f" {operator.symbol} ".join(f"({number})" if number.startswith("-") else number for number in numbers)


def _place(mode: Mode, name: str | None) -> Span:
    """The statement that defines ``name``, or the whole math where it is none of the spec's."""
    if mode.spec.math is None:
        return mode.spec.mode.span()
    targets = {statement.target.name: statement.target.span for statement in parse_statements(mode.spec.math)}
    return targets.get(name or "", mode.spec.math.span())
