"""What is not finite at the inputs that generated tests run with: which operation made it, of which numbers, and where."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from sparank_gen.ir import node as ir
from sparank_gen.ir.derive import ADJOINT, derive
from sparank_gen.ir.evaluate import Apart, Sizes, Tensors, Value, evaluate
from sparank_gen.ir.guard import guard
from sparank_gen.ir.lower import PAIRWISE
from sparank_gen.ir.mode import Mode
from sparank_gen.ir.node import Definition, Node, Program
from sparank_gen.ir.parameters import LearnedTensor
from sparank_gen.ir.template import broadcast_reduce
from sparank_gen.lang.ops import OPERATORS
from sparank_gen.lang.parse import parse_statements
from sparank_gen.lang.syntax import Expression, Number, Reference
from sparank_gen.lang.walk import calls_of
from sparank_gen.spec import errors
from sparank_gen.spec.model import TensorSpec
from sparank_gen.spec.source import Span

Values = Mapping[Node, Value | Apart]
# No definition has a name with blanks.
TOTAL = "total of all results"
NO_VALUE = "they have both signs; keep operands where the math has a value, as in log(max(x, 1e-6)) or x / (y + 1e-6)"
NO_NUMBER = "it is made of numbers alone, which make it so for every input: write others"
NO_START = "start it at a number where the math has a value, with 'init: ones', say"
NO_RANGE = "float32 has numbers from 1e-45 to 3e38: use functions that stay within, as logsumexp and softmax do, or smaller numbers"
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
    results = _require_results(mode, program, found, sizes, inputs)
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


def require_start(mode: Mode, found: Tensors, sizes: Sizes) -> None:
    """Raise a SpecError where a new layer has results that are not finite, as parameters start at numbers that make them so.

    Args:
        mode: the mode.
        found: what its program reads; tensors that start at one number are taken to have that.
        sizes: the value of each name that extents are made of.
    """
    starts = {}
    for tensor in (holder for holder in mode.modules if isinstance(holder, LearnedTensor)):
        start = tensor.start(_number(mode, tensor, sizes))
        if start is not None:
            starts[tensor.parameters[0].layout.name] = start
    held = {name: np.full_like(array, starts[name]) for name, array in found.items() if name in starts and isinstance(array, np.ndarray)}
    if mode.program.outputs and held:
        shown = ", ".join(f"{name!r} starts at {starts[name]:g}" for name in held)
        _require_results(mode, guard(mode.program), {**found, **held}, sizes, f"in a new layer, in which {shown}", NO_START)


def _number(mode: Mode, tensor: LearnedTensor, sizes: Sizes) -> float | None:
    """The number that an initialisation takes. Raises a SpecError where that is none, or no deviation."""
    if tensor.number is None:
        return None
    value = evaluate([tensor.number], {}, mode.program.extents, sizes)[tensor.number]
    number = float(value.array) if isinstance(value, Value) else math.nan
    if math.isfinite(number) and not (tensor.rule.number == "std" and number < 0):
        return number
    spec = next(spec for spec in mode.spec.params if isinstance(spec, TensorSpec) and spec.path.value == tensor.path)
    text = spec.numbers[0][1]
    used = set[str]().union(*(node.data.symbols for node in ir.reachable([tensor.number]) if node.op == "extent"))
    where = ", ".join(f"{name} = {sizes[name]}" for name in sorted(used))
    message = f"{tensor.rule.number!r} is {number:g}{f' where {where}, as in generated tests' if where else ''}"
    raise errors.NotFinite(message, text.span(), "write a number that is finite for every size, and 0 or above as a deviation")


def _require_results(mode: Mode, program: Program, found: Tensors, sizes: Sizes, inputs: str, remedy: str = "") -> list[Node]:
    """The results of a program. Raises a SpecError where they are not finite."""
    results = [program[name].node for name in program.outputs]
    for range_of in (np.float64, np.float32):
        values = evaluate(results, found, program.extents, sizes, range_of)
        wrong = _first_not_finite(results, values)
        if wrong is not None:
            dtype = "" if range_of is np.float64 else " in float32"
            message = f"{_described(wrong, values)} is not finite{dtype} {inputs}"
            remedy = remedy or (NO_RANGE if dtype else _remedy(mode, wrong, values))
            raise errors.NotFinite(message, _place(mode, program, wrong), remedy)
    return results


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
    if node.op == "constant":
        return f"{node.data:g}"
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


def _remedy(mode: Mode, wrong: Node, values: Values) -> str:
    """What to do about an operation without a finite value."""
    below = set(ir.reachable(wrong.args[-1:]))
    divisor = values[wrong.args[-1]] if wrong.op == "div" else None
    if isinstance(divisor, Value) and not divisor.array.any() and not any(node.op == "leaf" for node in below):
        used = set[str]().union(*(node.data.symbols for node in below if node.op == "extent"))
        zeros = [h.name.value for h in mode.spec.hyperparameters if h.default == 0 and h.name.value in used]
        return f"the divisor is 0 here: the default of {zeros[0]} is 0" if zeros else "the divisor is 0 here: write another one"
    return NO_VALUE if any(node.op == "leaf" for node in ir.reachable([wrong])) else NO_NUMBER


def _place(mode: Mode, program: Program, wrong: Node) -> Span:
    """Where the math has ``wrong``, or what it is a derivative of.

    The operation where it can be told, else the first statement that needs it; the whole math where there is none.
    """
    if mode.spec.math is None:
        return mode.spec.mode.span()
    statements = parse_statements(mode.spec.math)
    targets = {statement.target.name: statement.target.span for statement in statements}
    needs = {d.name: set(ir.reachable([d.node])) for d in program.definitions if d.name in targets}
    # A derivative has its operation last: 'g / (2 * sqrt(a))'.
    known = set[Node]().union(*needs.values())
    sought = next((node for node in _last_first(wrong) if node in known and node.args), wrong)
    name = next((name for name, needed in needs.items() if sought in needed), None)
    if name is None:
        return mode.spec.math.span()
    names = {d.node: d.name for d in program.definitions}
    calls = [call for statement in statements if statement.target.name == name for call in calls_of(statement.value)]
    found = [call.span for call in calls if call.function == sought.op and _may_be(call, sought, names)]
    return found[0] if len(found) == 1 else targets[name]


def _may_be(expression: Expression, node: Node, names: Mapping[Node, str]) -> bool:
    """Whether an expression may stand for a node: nothing in what is written says otherwise."""
    while node.op in ("rename", "select", "slice"):
        node = node.args[0]
    if isinstance(expression, Number):
        return node is ir.constant(expression.value)
    if isinstance(expression, Reference):
        name = node.data[0] if node.op == "leaf" else names.get(node)
        return name in (None, expression.name) and node.op != "constant"
    if expression.function not in OPERATORS or expression.function != node.op:
        return expression.function not in OPERATORS or expression.function in PAIRWISE or node.op == "where"
    return all(_may_be(*pair, names) for pair in zip(expression.arguments, node.args, strict=True))


def _last_first(root: Node) -> Iterator[Node]:
    """``root`` and what it is made of, level by level, the last operand first."""
    level, seen = [root], set[Node]()
    while level:
        yield from level
        seen.update(level)
        level = list(dict.fromkeys(arg for node in level for arg in reversed(node.args) if arg not in seen))
