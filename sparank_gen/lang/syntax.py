"""The syntax tree of the math: what was written, with places, before names and axes are resolved."""

from __future__ import annotations

from dataclasses import dataclass

from sparank_gen.spec.source import Span, Text

AND, OR, NOT = "and", "or", "not"


@dataclass(frozen=True)
class Index:
    """One index between brackets: an axis by its name, perhaps with an ``offset``, or a whole number."""

    value: str | int
    span: Span
    offset: Text | None = None


@dataclass(frozen=True)
class Number:
    value: float
    span: Span


@dataclass(frozen=True)
class Reference:
    """A quantity with its indices; a bare name has none."""

    name: str
    indices: tuple[Index, ...]
    span: Span


@dataclass(frozen=True)
class Call:
    """``function[axes](arguments, keyword=number)``; operators such as ``+`` are calls too.

    ``parts`` are what follows the colon of ``concat[p: i, j]``. The condition of a ``where`` may be a call of ``and``, ``or``
    or ``not``, or of several comparisons in a row: ``0 < x <= 1`` calls ``lt le`` with ``0``, ``x`` and ``1``.
    """

    function: str
    axes: tuple[Index, ...]
    arguments: tuple[Expression, ...]
    keywords: tuple[tuple[str, float], ...]
    span: Span
    parts: tuple[Index, ...] = ()


Expression = Number | Reference | Call


@dataclass(frozen=True)
class Statement:
    """``target = value``, on the lines ``first_line`` to ``last_line`` (from 0) of the math."""

    target: Reference
    value: Expression
    first_line: int
    last_line: int
