"""Calls of named functions, replaced by what they stand for: no later stage knows of functions.

A function sees the axes that a call names, its arguments as finished nodes, and its own definitions: nothing that it
says can mean something else where it is called.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sparank_gen.ir import node as ir
from sparank_gen.ir.lower import Quantity, Scope, check_axis, is_comparison, lower
from sparank_gen.ir.node import Node
from sparank_gen.ir.views import read_at
from sparank_gen.lang.functions import VISIBLE, Function
from sparank_gen.lang.syntax import Call, Expression, Index, Reference
from sparank_gen.spec import errors

# The most calls that one spec may come to, those inside functions counted each time they run.
MOST_CALLS = 20_000


@dataclass
class Inliner:
    """The functions that one spec may call.

    Attributes:
        functions: by name.
        called: the names of those that were called.
        known: what a function was for given axes and arguments.
        count: how many calls there were.
    """

    functions: Mapping[str, Function]
    called: set[str] = field(default_factory=set)
    known: dict[object, Node] = field(default_factory=dict)
    count: int = 0

    @property
    def names(self) -> Collection[str]:
        return self.functions.keys()

    def inline(self, call: Call, scope: Scope) -> Node:
        """The node of a call.

        Raises:
            SpecError: at the call; an error inside the function says where it is too.
        """
        function = self.functions[call.function]
        self.called.add(function.name)
        axes = _axes(call, function, scope)
        arguments = [*_arguments(call, function, axes, scope), *_options(call, function)]
        key = (function.name, tuple(axes.values()), tuple(arguments))
        if key not in self.known:
            self.count += 1
            if self.count > MOST_CALLS:
                raise errors.BadSyntax(f"the calls come to more than {MOST_CALLS}", call.span, "call fewer functions")
            try:
                self.known[key] = self.value(function, axes, arguments, scope)
            except errors.SpecError as error:
                inside = ((function.name, error.span), *error.inside)
                raise type(error)(error.message, call.span, error.remedy, inside) from None
        return self.known[key]

    def value(self, function: Function, axes: Mapping[str, str], arguments: list[Node], scope: Scope) -> Node:
        """What a function is for given axes and arguments; errors are placed in its body."""
        known: dict[str, Quantity] = {}

        def keep(name: str, node: Node, indices: Sequence[str]) -> None:
            known[name] = _quantity(node, [axes[index] for index in indices], scope)

        inner = replace(
            scope,
            extents={axis: scope.extents[axis] for axis in axes.values()},
            scalars={name: scope.scalars[name] for name in VISIBLE if name in scope.scalars},
            lookup=lambda name, span: known.get(name),
            names=lambda: list(known),
        )
        for parameter, node in zip(function.parameters, arguments, strict=True):
            keep(parameter.name, node, parameter.indices)
        for statement in function.locals:
            target, node = statement.target, lower(_renamed(statement.value, axes), inner)
            _require_number(node, statement.value)
            indices = [str(index.value) for index in target.indices]
            for name, axis in axes.items():
                if (axis in node.axes) != (name in indices):
                    kind = errors.UnboundIndex if axis in node.axes else errors.UnusedIndex
                    what = "has" if axis in node.axes else "has not"
                    raise kind(f"the right side {what} the axis {name!r}", target.span, f"write it on both sides of {target.name!r}")
            keep(target.name, node, indices)
        node = lower(_renamed(function.value, axes), inner)
        _require_number(node, function.value)
        return node


def _axes(call: Call, function: Function, scope: Scope) -> dict[str, str]:
    """The axis of the caller that each axis of the function stands for."""
    if len(call.axes) != len(function.axes):
        raise errors.WrongArguments(
            f"{function.name} takes {len(function.axes)} axes, found {len(call.axes)}", call.span, f"write {function.signature}"
        )
    axes = [check_axis(index, scope) for index in call.axes]
    for index in call.axes:
        if axes.count(str(index.value)) > 1:
            raise errors.RepeatedIndex(f"axis {index.value!r} stands twice", index.span, "name each axis once")
    return dict(zip(function.axes, axes, strict=True))


def _arguments(call: Call, function: Function, axes: Mapping[str, str], scope: Scope) -> list[Node]:
    parameters = [parameter for parameter in function.parameters if parameter.default is None]
    if len(call.arguments) != len(parameters):
        raise errors.WrongArguments(
            f"{function.name} takes {len(parameters)} arguments, found {len(call.arguments)}",
            call.span,
            f"write {function.signature}",
        )
    found = []
    for argument, parameter in zip(call.arguments, parameters, strict=True):
        node = lower(argument, scope)
        _require_number(node, argument)
        for name, axis in axes.items():
            if name in parameter.indices and axis not in node.axes:
                raise errors.UnusedIndex(
                    f"{function.name} reads {parameter.name!r} at {axis!r}, which this argument does not have",
                    argument.span,
                    f"use {axis!r} here, or name another axis",
                )
            if axis in node.axes and name not in parameter.indices:
                raise errors.RepeatedIndex(
                    f"{axis!r} stands for {name!r} in {function.signature}, and {parameter.name!r} does not have that",
                    argument.span,
                    "use another axis here, or in the call's brackets",
                )
        found.append(node)
    return found


def _options(call: Call, function: Function) -> list[Node]:
    """The numbers that a call gives, or leaves at their defaults."""
    options = {p.name: p.default for p in function.parameters if p.default is not None}
    given = [name for name, _ in call.keywords]
    for name, value in call.keywords:
        if name not in options or given.count(name) > 1:
            what = "twice" if name in options else f"and has none{errors.did_you_mean(name, options)}"
            raise errors.WrongArguments(
                f"{function.name} is given the option {name!r} {what}", call.span, f"write {function.signature}"
            )
        options[name] = value
    return [ir.constant(value) for value in options.values() if value is not None]


def _require_number(node: Node, expression: Expression) -> None:
    if is_comparison(node):
        raise errors.WrongArguments(
            "a comparison stands where a number is needed", expression.span, "use where(condition, x, y)"
        )


def _quantity(node: Node, slots: Sequence[str], scope: Scope) -> Quantity:
    """A value of which the axes ``slots`` may be read as others; what else it has goes along."""
    return Quantity(tuple(slots), tuple(scope.extents[axis] for axis in slots), lambda indices: read_at(node, slots, indices))


def _renamed(expression: Expression, axes: Mapping[str, str]) -> Expression:
    """A function's expression in the axes of its caller."""

    def index(old: Index) -> Index:
        return replace(old, value=axes.get(old.value, old.value)) if isinstance(old.value, str) else old

    if isinstance(expression, Reference):
        return replace(expression, indices=tuple(map(index, expression.indices)))
    if isinstance(expression, Call):
        arguments = tuple(_renamed(argument, axes) for argument in expression.arguments)
        parts = tuple(map(index, expression.parts))
        return replace(expression, axes=tuple(map(index, expression.axes)), arguments=arguments, parts=parts)
    return expression

