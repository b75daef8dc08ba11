"""Values inside a Triton kernel: tiles of named axes, with what their padding lanes are known to hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

ATOM = 10


@dataclass(frozen=True)
class Tile:
    """A tile in registers.

    Attributes:
        code: an expression that evaluates to it.
        axes: the name of each of its dimensions; the batch axis, where it has one, comes first.
        precedence: how tightly the expression binds.
        padding: the value in the lanes beyond an axis's extent, where it is known.
    """

    code: str
    axes: tuple[str, ...]
    precedence: int = ATOM
    padding: Mapping[str, float] = field(default_factory=dict)

    @property
    def atom(self) -> str:
        return self.code if self.precedence == ATOM else f"({self.code})"

    def renamed(self, names: Mapping[str, str]) -> Tile:
        padding = {names.get(axis, axis): value for axis, value in self.padding.items()}
        return Tile(self.code, tuple(names.get(axis, axis) for axis in self.axes), self.precedence, padding)

    def ordered(self, axes: Sequence[str]) -> Tile:
        """The same tile with its dimensions in the order of ``axes``."""
        if tuple(axes) == self.axes:
            return self
        order = ", ".join(str(self.axes.index(axis)) for axis in axes)
        return Tile(f"tl.permute({self.code}, ({order}{',' if len(axes) == 1 else ''}))", tuple(axes), padding=self.padding)

    def aligned(self, axes: Sequence[str]) -> Tile:
        """The same tile, ready to broadcast against one with dimensions ``axes``, which hold all of its own."""
        tile = self.ordered([axis for axis in axes if axis in self.axes])
        if not tile.axes or len(tile.axes) == len(axes):
            return tile
        return Tile(tile.atom + expansion(tile.axes, axes), tuple(axes), padding=self.padding)


def expansion(own: Sequence[str], axes: Sequence[str]) -> str:
    """The index that gives a tile of ``own`` dimensions one of size one for each other of ``axes``."""
    return "" if len(own) == len(axes) else f"[{', '.join(':' if axis in own else 'None' for axis in axes)}]"
