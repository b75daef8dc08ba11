"""What printed Python says, as Python's own parser reads it."""

from __future__ import annotations

import ast
import functools
import textwrap
from collections.abc import Sequence

ATOM = 10
# How tightly Python's operators bind; what else there is needs no parentheses.
BINDING: dict[type, int] = {
    **dict.fromkeys((ast.Or, ast.IfExp), 1),
    **dict.fromkeys((ast.And, ast.Not), 2),
    ast.Compare: 3,
    ast.BitOr: 4,
    ast.BitAnd: 5,
    **dict.fromkeys((ast.Add, ast.Sub), 6),
    **dict.fromkeys((ast.Mult, ast.Div, ast.FloorDiv, ast.Mod), 7),
    **dict.fromkeys((ast.USub, ast.Invert), 8),
    ast.Pow: 9,
}


@functools.cache
def binding(code: str) -> int:
    """How tightly an expression binds."""
    node = ast.parse(code, mode="eval").body
    return BINDING.get(type(getattr(node, "op", node)), ATOM)


def names_read(code: str) -> frozenset[str]:
    """The names that statements, or an expression, read, those of a ``cast`` among them; attributes and the names of arguments
    are none."""
    return _names_read(ast.parse(textwrap.dedent(code)))


def function_called(code: str) -> str | None:
    """Which function makes an expression's value, before methods that are called on it; None where none does."""
    node = ast.parse(code, mode="eval").body
    while isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Call):
        node = node.func.value
    return ast.unparse(node.func) if isinstance(node, ast.Call) else None


def without_unread(lines: Sequence[str]) -> list[str]:
    """Statements without variables that nothing reads.

    Those in loops stay, and those below a comment, which are what a formula names.
    """
    read: set[str] = set()
    dropped: set[int] = set()
    for statement in reversed(ast.parse("\n".join(lines)).body):
        first, last = statement.lineno - 1, statement.end_lineno or statement.lineno
        is_named = first > 0 and lines[first - 1].lstrip().startswith("#")
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)]) if name not in read and not is_named:
                dropped.update(range(first, last))
            case _:
                read |= _names_read(statement)
    return [line for position, line in enumerate(lines) if position not in dropped]


def _names_read(tree: ast.AST) -> frozenset[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Load()) | ast.AugAssign(target=ast.Name(id=name)):
                names.add(name)
            case ast.Call(func=ast.Name(id="cast"), args=[ast.Constant(value=str(type_)), _]):
                names |= names_read(type_)
    return frozenset(names)
