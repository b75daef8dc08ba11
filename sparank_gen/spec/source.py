"""Source text with positions: what lets every error point at its place in a spec file."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass, field

# The longest part of a line that an error shows.
WIDTH = 160


@dataclass(frozen=True)
class Span:
    """A stretch of one line of a file; ``line`` and ``column`` count from 1."""

    path: str
    line: int
    column: int
    length: int
    text: str = field(repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}"

    def excerpt(self) -> list[str]:
        """The line with a caret under the span, as lines ready to print."""
        if not self.text:
            return []
        margin = " " * len(str(self.line))
        start = max(self.column - 1 - WIDTH // 2, 0) if len(self.text) > WIDTH else 0
        shown, column = self.text[start : start + WIDTH], self.column - 1 - start
        caret = " " * column + "^" + "~" * (min(self.length, max(len(shown) - column, 1)) - 1)
        return [f"  {self.line} | {shown}", f"  {margin} | {caret}"]


@dataclass(frozen=True)
class Text:
    """A scalar of a spec together with the place of each of its characters.

    ``stretches`` says of every part of ``value`` that stands in one line of the file where the part starts in ``value``
    (from 0), and at which line and column of the file (from 1).
    """

    value: str
    path: str
    stretches: tuple[tuple[int, int, int], ...] = field(repr=False, compare=False)
    source: tuple[str, ...] = field(repr=False, compare=False)

    def __str__(self) -> str:
        return self.value

    @property
    def is_folded(self) -> bool:
        """Whether lines of the file became one line of the value."""
        return len(self.stretches) > max(sum(bool(line.strip()) for line in self.value.split("\n")), 1)

    @functools.cached_property
    def _lines(self) -> list[tuple[int, int]]:
        """Where each line of the value starts in it, and how long it is."""
        lengths = [len(line) for line in self.value.split("\n")]
        return list(zip(itertools.accumulate((length + 1 for length in lengths), initial=0), lengths, strict=False))

    def span(self, line: int = 0, column: int = 0, length: int | None = None) -> Span:
        """The span of ``length`` characters from ``column`` of ``line`` (both from 0) of the value."""
        first, whole = self._lines[min(line, len(self._lines) - 1)]
        place = first + column
        offset, row, start = next((s for s in reversed(self.stretches) if s[0] <= place), self.stretches[0])
        shown = self.source[row - 1] if row <= len(self.source) else ""
        length = whole - column if length is None else length
        return Span(self.path, row, max(start + place - offset, 1), max(length, 1), shown)
