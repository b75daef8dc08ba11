"""Layout strings: how a tensor of named axes lies in memory, in einops' notation (``W[(p a k), j]``)."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from sparank_gen.lang.extents import Extent
from sparank_gen.lang.widths import owners
from sparank_gen.spec import errors
from sparank_gen.spec.source import Span, Text


@dataclass(frozen=True)
class Layout:
    """A tensor's name and, for each of its dimensions, the axes composed in it (the last one varies fastest)."""

    name: str
    dimensions: tuple[tuple[str, ...], ...]
    text: Text
    places: tuple[tuple[str, int], ...]

    @property
    def axes(self) -> tuple[str, ...]:
        """All axes in order."""
        return tuple(axis for dimension in self.dimensions for axis in dimension)

    def span_of(self, axis: str) -> Span:
        column = next((column for name, column in self.places if name == axis), 0)
        return self.text.span(0, column, len(axis))

    def without(self, axis: str | None) -> tuple[tuple[str, ...], ...]:
        """The dimensions of one of the tensors that are stored apart for each index of ``axis``."""
        return tuple(dimension for dimension in self.dimensions if dimension != (axis,))

    def __str__(self) -> str:
        if not self.dimensions:
            return self.name
        shown = (axes[0] if len(axes) == 1 else f"({' '.join(axes)})" for axes in self.dimensions)
        return f"{self.name}[{', '.join(shown)}]"


def require_joined(layout: Layout, extents: Mapping[str, Extent], apart: str | None = None) -> None:
    """Raise LayoutMismatch unless an index that has so many positions for each modality stands where pieces can be joined.

    Args:
        layout: any layout.
        extents: the extent of each axis.
        apart: the axis along which tensors are stored apart, if any.
    """
    for axis, owner in owners(layout.axes, extents).items():
        dimension = next(axes for axes in layout.dimensions if axis in axes)
        is_joined = owner in dimension and dimension.index(owner) < dimension.index(axis)
        others = [other for other in owners(layout.axes, extents) if other != axis]
        if (owner == apart or is_joined) and not others:
            continue
        raise errors.LayoutMismatch(
            f"index {axis!r} of {layout} runs over {extents[axis]}, so that its pieces differ in size",
            layout.span_of(axis),
            f"join them, as in '({owner} {axis})', with no other such index in the layout"
            + (f", or store them apart, with 'per: {owner}'" if apart is None else ""),
        )


def parse_layout(text: Text, known_axes: dict[str, str], may_be_scalar: bool = False) -> Layout:
    """Parse a layout string; ``known_axes`` are the indices that may stand in it (values: what they are).

    A name alone, where ``may_be_scalar``, is a scalar.

    Raises:
        SpecError: BadSyntax, UnknownIndex or RepeatedIndex.
    """
    reader = _Reader(text, known_axes)
    name = reader.name()
    if may_be_scalar and not reader.next:
        return Layout(name, (), text, ())
    reader.expect("[")
    dimensions = [reader.dimension()]
    while reader.next != "]":
        reader.expect(",")
        dimensions.append(reader.dimension())
    reader.expect("]")
    reader.expect("")
    return Layout(name, tuple(dimensions), text, tuple(reader.places))


def parse_dimension(text: Text) -> tuple[str, ...]:
    """Parse one dimension of a layout: an index, or several in parentheses, of any names.

    Raises:
        SpecError: BadSyntax or RepeatedIndex.
    """
    reader = _Reader(text, {token: "" for token, _ in _tokens(text)})
    axes = reader.dimension()
    reader.expect("")
    return axes


class _Reader:
    """The tokens of a layout string, taken one after another; ``places`` are the indices so far and their columns."""

    def __init__(self, text: Text, known_axes: dict[str, str]) -> None:
        self.text = text
        self.known_axes = known_axes
        self.tokens = _tokens(text)
        self.places: list[tuple[str, int]] = []

    @property
    def next(self) -> str:
        """The token that comes next, empty at the end."""
        return self.tokens[0][0]

    def take(self) -> tuple[str, int]:
        return self.tokens.pop(0)

    def unexpected(self, token: str, column: int) -> errors.BadSyntax:
        remedy = "write a name and its indices, as in 'W[(p a k), j]'"
        found = repr(token) if token else "end"
        return errors.BadSyntax(f"unexpected {found} in a layout", self.text.span(0, column, len(token or "end")), remedy)

    def expect(self, symbol: str) -> None:
        token, column = self.take()
        if token != symbol:
            raise self.unexpected(token, column)

    def name(self) -> str:
        written, column = self.take()
        # Python's parser normalises names the same way, and the math goes through it.
        name = unicodedata.normalize("NFKC", written)
        if not name.isidentifier():
            raise self.unexpected(name, column)
        return name

    def dimension(self) -> tuple[str, ...]:
        """One index, or several in parentheses."""
        if self.next != "(":
            return (self.index(),)
        self.expect("(")
        axes = [self.index()]
        while self.next != ")":
            axes.append(self.index())
        self.expect(")")
        return tuple(axes)

    def index(self) -> str:
        token, column = self.take()
        if not token.isidentifier():
            raise self.unexpected(token, column)
        span = self.text.span(0, column, len(token))
        if token not in self.known_axes:
            hint = errors.did_you_mean(token, self.known_axes)
            raise errors.UnknownIndex(f"{token!r} is not a declared index{hint}", span, "declare it under 'axes'")
        if token in dict(self.places):
            raise errors.RepeatedIndex(f"index {token!r} stands twice in {self.text.value!r}", span, "name each axis once")
        self.places.append((token, column))
        return token


def _tokens(text: Text) -> list[tuple[str, int]]:
    """Names and symbols with their columns, closed by empty tokens."""
    tokens: list[tuple[str, int]] = []
    value, position = text.value, 0
    while position < len(value):
        character = value[position]
        end = position + 1
        if character.isalnum() or character == "_":
            while end < len(value) and (value[end].isalnum() or value[end] == "_"):
                end += 1
        if not character.isspace():
            tokens.append((value[position:end], position))
        position = end
    return [*tokens, ("", len(value)), ("", len(value))]
