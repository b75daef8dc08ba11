"""What is not finite at the inputs that generated tests run with: which operation made it, of which numbers, and where."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from sparank_gen.ir import node as ir
from sparank_gen.ir.derive import ADJOINT, derive
from sparank_gen.ir.evaluate import Apart, Sizes, Tensors, Value, evaluate
from sparank_gen.ir.guard import guard
from sparank_gen.ir.mode import Mode
from sparank_gen.ir.node import Definition, Node, Program
from sparank_gen.ir.template import broadcast_reduce
from sparank_gen.lang.ops import OPERATORS
from sparank_gen.lang.parse import parse_statements
from sparank_gen.spec import errors
from sparank_gen.spec.source import Span

Values = Mapping[Node, Value | Apart]
# No definition has a name with blanks.
TOTAL = "total of all results"
NO_VALUE = "they have both signs; keep operands where the math has a value, as in log(max(x, 1e-6)) or x / (y + 1e-6)"
NO_DERIVATIVE = "keep operands where the math has a derivative, as in sqrt(x + 1e-12)"


def require_finite(mode: Mode, program: Program, found: Tensors, sizes: Sizes, among_present: bool) -> None:
    """Raise a SpecError where a result, or the gradient of a tensor, is infinite or not a number.

    Args:
        mode: where the program came from.
        program: the mode's own, or the one among the modalities that each sample has.
        found: what it reads.
        sizes: the value of each name that extents are made of.
        among_present: whether modalities are missing.
    """
    if not program.outputs:
        return
    program, inputs = guard(program), "at the inputs of generated tests"
    inputs = f"{inputs} where modalities are missing" if among_present else inputs
    results = [program[name].node for name in program.outputs]
    values = evaluate(results, found, program.extents, sizes)
    wrong = _first_not_finite(results, values)
    if wrong is not None:
        message = f"{_described(wrong, values)} is not finite {inputs}"
        raise errors.NotFinite(message, _place(mode, program, wrong), NO_VALUE)
    total: Node = ir.constant(0)
    for result in results:
        total = ir.apply("add", total, broadcast_reduce("sum", result, result.axes, program.extents))
    summed = replace(program, definitions=(*program.definitions, Definition(TOTAL, (), total)))
    derived = derive(summed, mode.slots, [TOTAL])
    found = {**found, TOTAL + ADJOINT: np.ones(int(sizes["batch"]))}
    values = evaluate([derived[name].node for name in derived.outputs], found, program.extents, sizes)
    for name in derived.outputs:
        wrong = _first_not_finite([derived[name].node], values)
        if wrong is not None:
            message = f"the gradient of {name.removesuffix(ADJOINT)!r} is not finite {inputs}: it takes {_described(wrong, values)}"
            raise errors.NotFinite(message, _place(mode, program, wrong), NO_DERIVATIVE)


def _first_not_finite(roots: Iterable[Node], values: Values) -> Node | None:
    """An operation on the way to ``roots`` that is not finite, of operands that are; None where all are."""
    found = next((root for root in roots if not _is_finite(values[root])), None)
    while found is not None and (cause := next((arg for arg in found.args if not _is_finite(values[arg])), None)) is not None:
        found = cause
    return found


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


def _place(mode: Mode, program: Program, wrong: Node) -> Span:
    """The first statement that needs ``wrong``, or what it is a derivative of; the whole math where there is none."""
    if mode.spec.math is None:
        return mode.spec.mode.span()
    targets = {statement.target.name: statement.target.span for statement in parse_statements(mode.spec.math)}
    statements = {d.name: set(ir.reachable([d.node])) for d in program.definitions if d.name in targets}
    # A derivative has its operation last: 'g / (2 * sqrt(a))'.
    known = set[Node]().union(*statements.values())
    sought = next((node for node in _last_first(wrong) if node in known and node.args), wrong)
    return next((targets[name] for name, needed in statements.items() if sought in needed), mode.spec.math.span())


def _last_first(root: Node) -> Iterator[Node]:
    """``root`` and what it is made of, level by level, the last operand first."""
    level, seen = [root], set[Node]()
    while level:
        yield from level
        seen.update(level)
        level = list(dict.fromkeys(arg for node in level for arg in reversed(node.args) if arg not in seen))
