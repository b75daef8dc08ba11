"""What stands in an expression or a statement."""

from __future__ import annotations

from collections.abc import Iterator

from sparank_gen.lang.ops import OPERATORS
from sparank_gen.lang.syntax import Call, Expression, Reference, Statement
from sparank_gen.spec.source import Span


def indices_of(statement: Statement) -> set[str]:
    """The names of all indices in a statement."""

    def walk(expression: Expression) -> Iterator[str]:
        if isinstance(expression, Reference):
            yield from (str(index.value) for index in expression.indices)
        if isinstance(expression, Call):
            yield from (str(index.value) for index in (*expression.axes, *expression.parts))
            for argument in expression.arguments:
                yield from walk(argument)

    return {*walk(statement.target), *walk(statement.value)}


def calls_of(expression: Expression) -> Iterator[Call]:
    """Every call in an expression, of operators too, each before those inside it."""
    if isinstance(expression, Call):
        yield expression
        for argument in expression.arguments:
            yield from calls_of(argument)


def names_of(expression: Expression) -> set[str]:
    """The names that an expression refers to."""
    if isinstance(expression, Reference):
        return {expression.name}
    return set().union(*map(names_of, expression.arguments)) if isinstance(expression, Call) else set()


def positions_of(statement: Statement) -> tuple[int, ...]:
    """Where the left side of a statement has whole numbers for indices."""
    return tuple(k for k, index in enumerate(statement.target.indices) if isinstance(index.value, int))


def first_free(expression: Expression, axis: str) -> Span | None:
    """Where ``axis`` first stands outside a reduction over it."""
    if isinstance(expression, Reference):
        return next((index.span for index in expression.indices if index.value == axis), None)
    if isinstance(expression, Call):
        is_reduction = expression.function in OPERATORS and OPERATORS[expression.function].kind == "reduction"
        if axis in [index.value for index in (expression.axes if is_reduction else expression.parts)]:
            return None
        return next(filter(None, (first_free(argument, axis) for argument in expression.arguments)), None)
    return None
