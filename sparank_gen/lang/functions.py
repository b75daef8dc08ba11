"""Named functions of the language: how one is written, and what can be checked of it before it is called."""

from __future__ import annotations

import keyword
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sparank_gen.lang import elsewhere
from sparank_gen.lang.ops import OPERATORS
from sparank_gen.lang.parse import parse_body, parse_expression
from sparank_gen.lang.syntax import AND, NOT, OR, Call, Expression, Index, Reference, Statement
from sparank_gen.lang.walk import calls_of
from sparank_gen.spec import errors
from sparank_gen.spec.model import FunctionSpec
from sparank_gen.spec.source import Span

CONCAT = "concat"
VISIBLE = ("dim", "modalities")
# What a name means in every spec.
RESERVED = {
    "m": "the modality axis",
    "b": "the batch axis",
    "h": "the features",
    "present": "which modalities a sample has",
    "size": "the extent of an axis",
}
TAKEN = (*RESERVED, *VISIBLE)


@dataclass(frozen=True)
class Parameter:
    """A parameter: of the function's axes it has ``indices``, which may be read as others; any other axes go along.

    ``default`` is that of an option, which is a number; None for what a call must give.
    """

    name: str
    indices: tuple[str, ...]
    default: float | None
    span: Span


@dataclass(frozen=True)
class Function:
    """``name[axes](parameters)``: local definitions, then a value.

    Attributes:
        name, axes, parameters: its signature.
        signature: the same as it is written.
        locals: its definitions, in order.
        value: what a call is.
        span: where it stands.
    """

    name: str
    axes: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    signature: str
    locals: tuple[Statement, ...]
    value: Expression
    span: Span


def read_functions(specs: Sequence[FunctionSpec], known: Mapping[str, Function]) -> dict[str, Function]:
    """The functions that ``specs`` say, checked together with those that they may call.

    Raises:
        SpecError: BadSyntax, ReusedName, UnknownName, UnknownIndex, UnknownOperator, WrongIndexCount, UnusedName,
            UnusedIndex or CyclicReference.
    """
    found: dict[str, Function] = {}
    for spec in specs:
        function = _parsed(spec)
        earlier = found.get(function.name) or known.get(function.name)
        if earlier is not None:
            raise errors.ReusedName(
                f"function {function.name!r} is already defined in {earlier.span}", function.span, "choose another name"
            )
        found[function.name] = function
    callable_ = {**known, **found}
    for function in found.values():
        _Body(function, callable_).check()
    for function in found.values():
        try:
            _check_recursion(function, callable_)
        except RecursionError:
            message = f"function {function.name!r} calls others too deeply"
            raise errors.BadSyntax(message, function.span, "call fewer functions in a row") from None
    return found


def _parsed(spec: FunctionSpec) -> Function:
    span = spec.signature.span()
    written = parse_expression(spec.signature)
    remedy = "write 'name[i](x)', say, with axes in brackets and parameters in parentheses"
    if not isinstance(written, Call) or not _is_name(written.function):
        raise errors.BadSyntax(f"{spec.signature.value!r} is not the signature of a function", span, remedy)
    if written.function in OPERATORS or written.function in TAKEN:
        raise errors.ReusedName(f"{written.function!r} already has a meaning, in every spec", span, "choose another name")
    placed = [*written.axes, *(index for argument in written.arguments if isinstance(argument, Reference) for index in argument.indices)]
    for index in placed:
        _require_name(index, remedy)
    if written.parts:
        raise errors.BadSyntax("a signature has no parts", written.parts[0].span, remedy)
    parameters = []
    for argument in written.arguments:
        if not isinstance(argument, Reference):
            raise errors.BadSyntax("a parameter is a name, with or without axes", argument.span, remedy)
        indices = tuple(str(index.value) for index in argument.indices)
        parameters.append(Parameter(argument.name, indices, None, argument.span))
    parameters += [Parameter(name, (), default, span) for name, default in written.keywords]
    axes = tuple(str(index.value) for index in written.axes)
    taken: set[str] = set()
    for name, place in [*((a, i.span) for a, i in zip(axes, written.axes, strict=True)), *((p.name, p.span) for p in parameters)]:
        if name in TAKEN and name != "m":
            meaning = RESERVED.get(name, "a size of the layer")
            raise errors.ReusedName(f"{name!r} already has a meaning, in every spec: it is {meaning}", place, "choose another name")
        if name in taken or not _is_name(name):
            raise errors.ReusedName(f"{name!r} has another meaning in this signature", place, "choose another name")
        taken.add(name)
    local, value = parse_body(spec.body)
    return Function(written.function, axes, tuple(parameters), spec.signature.value, local, value, span)


def _require_name(index: Index, remedy: str) -> None:
    """Raise unless an index is a name alone, as those are that a definition has."""
    if not isinstance(index.value, str) or index.offset is not None:
        raise errors.BadSyntax("a definition has indices that are names alone", index.span, remedy)


def _is_name(text: str) -> bool:
    return text.isidentifier() and not keyword.iskeyword(text)


@dataclass
class _Body:
    """Checks one function's body against its signature."""

    function: Function
    functions: Mapping[str, Function]

    def check(self) -> None:
        names = {parameter.name: parameter.indices for parameter in self.function.parameters}
        used: set[str] = set()
        for parameter in self.function.parameters:
            for index in parameter.indices:
                self.require_axis(index, parameter.span)
        for statement in self.function.locals:
            used |= self.walk(statement.value, names)
            target = statement.target
            if target.name in names or target.name in (*self.function.axes, *TAKEN):
                raise errors.ReusedName(f"{target.name!r} already has a meaning here", target.span, "choose another name")
            for place in target.indices:
                _require_name(place, "define it for the whole axis, and choose with 'where'")
                self.require_axis(place.value, place.span)
            names[target.name] = tuple(str(place.value) for place in target.indices)
        used |= self.walk(self.function.value, names)
        spans = {parameter.name: parameter.span for parameter in self.function.parameters}
        spans |= {statement.target.name: statement.target.span for statement in self.function.locals}
        for name, span in spans.items():
            if name not in used:
                raise errors.UnusedName(f"{name!r} is not used by function {self.function.name!r}", span, "use it, or remove it")
        for axis in self.function.axes:
            if axis not in used:
                raise errors.UnusedIndex(
                    f"axis {axis!r} is not used by function {self.function.name!r}", self.function.span, "use it, or remove it"
                )

    def require_axis(self, index: str | int, span: Span) -> None:
        if isinstance(index, str) and index not in self.function.axes:
            hint = errors.did_you_mean(index, self.function.axes)
            raise errors.UnknownIndex(
                f"{index!r} is not an axis of function {self.function.name!r}{hint}", span, "name it in the signature's brackets"
            )

    def walk(self, expression: Expression, names: Mapping[str, tuple[str, ...]]) -> set[str]:
        """The names and axes that an expression uses, each of them known."""
        if isinstance(expression, Reference):
            return self.reference(expression, names)
        if not isinstance(expression, Call):
            return set()
        operators = [OPERATORS.get(name) for name in expression.function.split()]
        is_operator = expression.function in (CONCAT, AND, OR, NOT) or all(each and not each.internal for each in operators)
        if expression.function not in self.functions and not is_operator:
            elsewhere.require_no_foreign(expression.function, expression.span)
            known = [*(name for name, each in OPERATORS.items() if not each.internal), *self.functions]
            hint = errors.did_you_mean(expression.function, known)
            raise errors.UnknownOperator(
                f"{expression.function!r} is neither an operator nor a function{hint}", expression.span, "call one of those"
            )
        for index in (*expression.axes, *expression.parts):
            self.require_axis(index.value, index.span)
        used = {str(index.value) for index in (*expression.axes, *expression.parts)}
        return used.union(*(self.walk(argument, names) for argument in expression.arguments))

    def reference(self, expression: Reference, names: Mapping[str, tuple[str, ...]]) -> set[str]:
        for index in expression.indices:
            self.require_axis(index.value, index.span)
        used = {expression.name, *(str(index.value) for index in expression.indices)}
        if expression.name == "size" and expression.indices or expression.name in VISIBLE and not expression.indices:
            return used
        if expression.name in self.function.axes and not expression.indices:
            remedy = elsewhere.INDEX.format(expression.name)
            raise errors.UnknownName(f"{expression.name!r} is an index, not a value", expression.span, remedy)
        if expression.name not in names:
            hint = errors.did_you_mean(expression.name, names)
            raise errors.UnknownName(
                f"{expression.name!r} is not defined in function {self.function.name!r}{hint}",
                expression.span,
                "a function sees its parameters, its own definitions above, dim, modalities and size",
            )
        if len(names[expression.name]) != len(expression.indices):
            raise errors.WrongIndexCount(
                f"{expression.name!r} is read with {len(expression.indices)} indices, and has {len(names[expression.name])}",
                expression.span,
                "write it as in the signature, or where it is defined",
            )
        return used


def calls_in(function: Function) -> Iterator[Call]:
    """Every call in a function's body, of operators too."""
    for value in (*(statement.value for statement in function.locals), function.value):
        yield from calls_of(value)


def _check_recursion(function: Function, functions: Mapping[str, Function]) -> None:
    """Raise where a function calls itself, through however many others."""
    done: set[str] = set()

    def visit(current: Function, chain: tuple[str, ...]) -> None:
        for call in calls_in(current):
            if call.function in chain:
                shown = " → ".join([*chain[chain.index(call.function) :], call.function])
                raise errors.CyclicReference(f"function {call.function!r} calls itself: {shown}", call.span, "break the cycle")
            if call.function in functions and call.function not in done:
                visit(functions[call.function], (*chain, call.function))
                done.add(call.function)

    visit(function, (function.name,))
