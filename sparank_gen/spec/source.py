"""Source text with positions: what lets every error point at its place in a spec file."""

from __future__ import annotations

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

    ``starts`` holds, for every line of ``value``, the line and column (from 1) where that line starts in the file.
    """

    value: str
    path: str
    starts: tuple[tuple[int, int], ...] = field(repr=False, compare=False)
    source: tuple[str, ...] = field(repr=False, compare=False)

    def __str__(self) -> str:
        return self.value

    def span(self, line: int = 0, column: int = 0, length: int | None = None) -> Span:
        """The span of ``length`` characters from ``column`` of ``line`` (both from 0) of the value."""
        lines = self.value.split("\n")
        line = min(line, len(self.starts) - 1)
        if length is None:
            length = len(lines[line]) - column if line < len(lines) else 1
        row, start = self.starts[line]
        shown = self.source[row - 1] if row <= len(self.source) else ""
        return Span(self.path, row, start + column, max(length, 1), shown)
