"""Which results take the memory of what nothing reads later, and how much the variables of a function hold at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from sparank_gen.backends.code import names_read
from sparank_gen.backends.torch.emit import Emitter
from sparank_gen.backends.torch.values import Dense, Scalar, Value
from sparank_gen.ir.node import BATCH, Node, Program, reachable
from sparank_gen.ir.rewrite import COMMUTATIVE
from sparank_gen.ir.sizes import USUAL_WIDTH, elements
from sparank_gen.lang.extents import Extent
from sparank_gen.lang.ops import OPERATORS
from sparank_gen.plan.recorded import WRITING

if TYPE_CHECKING:
    from sparank_gen.backends.torch.lower import Lowering

# Those that have a method that writes over the first operand.
METHODS = {"add": "add_", "sub": "sub_", "mul": "mul_", "div": "div_"}


def call(lowering: Lowering, function: str, arguments: Sequence[str]) -> str:
    """A call of a function of the package that may write over what it made, if it is told so."""
    return f"{function}({', '.join([*arguments, *(['in_place=in_place'] if lowering.writes else [])])})"


def written(lowering: Lowering, node: Node, made: Value, values: Sequence[Value]) -> Value:
    """A result, in the memory of the last operand that nothing reads later."""
    if not isinstance(made, Dense):
        return made
    pairs = zip(node.args, values, strict=True)
    found = [_spare(lowering, node, arg, x) for arg, x in pairs if isinstance(x, Dense) and x.axes == made.axes and x.is_name]
    return replace(made, over=next((over for over in reversed(found) if over is not None), None))


def operand(lowering: Lowering, node: Node, arg: Node) -> Value:
    """An operand of ``node``: one whose memory the result may take is a variable."""
    value = lowering.shortened(arg, lowering.lower(arg))
    is_taken = arg.axes == node.axes and _spare(lowering, node, arg, value) is not None
    return lowering.named(arg, value) if is_taken else value


def softmax(lowering: Lowering, node: Node, value: Value) -> Value | None:
    """A softmax along one axis in the memory of its operand, if it may take that."""
    (arg,) = node.args
    if node.op != "softmax" or len(node.over) > 1 or _spare(lowering, node, arg, value) is None:
        return None
    named = lowering.named(arg, value)
    assert isinstance(named, Dense)
    return written(lowering, node, Dense(f"torch.softmax({named.code}, {named.dim(node.over[0])})", named.axes), [named])


def _spare(lowering: Lowering, node: Node, arg: Node, value: Value) -> tuple[str, str] | None:
    """The code of an operand whose memory ``node`` may take, as nothing reads it later, and when that is so."""
    if not lowering.writes or node.op not in WRITING or not lowering.has_variable(node):
        return None
    if not isinstance(value, Dense) or not _is_own(lowering, arg):
        return None
    if lowering.uses[arg] == 1:
        return value.code, "in_place"
    is_last = lowering.uses_of_output[node] and lowering.uses_of_output[arg] == 1
    return (value.code, "in_place and not return_extras") if is_last else None


def _is_own(lowering: Lowering, node: Node) -> bool:
    """Whether a value is computed in the dtype of the features, and its rows are as long as these usually are."""
    if BATCH not in node.axes or node.op not in OPERATORS or not _is_real(node):
        return False
    return lowering.usual is None or elements(node.axes, lowering.program).number_for(lowering.usual) >= USUAL_WIDTH


def temporary(lowering: Lowering, node: Node, made: Dense) -> Dense:
    """A result that was computed for an expression alone, whose memory another may take."""
    is_own = lowering.temporaries and node.op in METHODS and BATCH in node.axes and _is_real(node)
    return replace(made, is_temporary=True) if is_own else made


def in_temporary(lowering: Lowering, node: Node, operands: Sequence[Dense | Scalar], axes: tuple[str, ...]) -> Dense | None:
    """Arithmetic in the memory of an operand that is a temporary of the same size, as ``(x - y).mul_(z)``."""
    if not lowering.temporaries or node.op not in METHODS or len(operands) != 2:
        return None
    orders = [(0, 1), (1, 0)] if node.op in COMMUTATIVE else [(0, 1)]
    for own, other in orders:
        spare, read = operands[own], operands[other]
        if isinstance(spare, Dense) and spare.is_temporary and spare.axes == axes:
            code = read.aligned(axes).code if isinstance(read, Dense) else read.code
            return Dense(f"{spare.atom}.{METHODS[node.op]}({code})", axes, is_temporary=True)
    return None


_REAL: WeakKeyDictionary[Node, bool] = WeakKeyDictionary()


def _is_real(root: Node) -> bool:
    """Whether torch computes a node in the dtype of the features, and not as truth values or whole numbers."""
    for node in reachable([root], _REAL):
        is_truth = node.op in OPERATORS and OPERATORS[node.op].kind == "comparison"
        _REAL[node] = node.op == "leaf" or not is_truth and any(_REAL[arg] for arg in node.args)
    return _REAL[root]


def alive(emitter: Emitter, end: int, out: str, program: Program, usual: Mapping[str, int | float]) -> Extent:
    """The most numbers of one row that variables hold at once until the output is there.

    Args:
        emitter: what the function's statements were collected in.
        end: how many of them the output needs.
        out: the output's expression.
        program: what was lowered.
        usual: the sizes of a layer, by which the most are found.
    """
    read = [names_read(code) for code in (*emitter.lines[:end], out)]
    sizes: dict[str, Extent] = {}
    spans: dict[str, tuple[int, int]] = {}
    holder: dict[str, str] = {}
    for variable in emitter.variables:
        if variable.start >= end or BATCH not in variable.axes:
            continue
        place = holder[variable.name] = holder.get(variable.over, variable.name)
        last = max(position for position, names in enumerate(read) if variable.name in names)
        sizes.setdefault(place, elements(frozenset(emitter.known(variable.axes)), program))
        spans[place] = (spans.get(place, (variable.start, 0))[0], last)
    most = Extent.number(0)
    for position in range(len(read)):
        held = [sizes[name] for name, (start, last) in spans.items() if start <= position <= last]
        total = sum(held, Extent.number(0))
        most = max(most, total, key=lambda extent: extent.number_for(usual))
    return most
