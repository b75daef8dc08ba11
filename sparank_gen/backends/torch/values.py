"""Torch code for tensors of named axes: dense tensors, Python lists along one modality axis, and plain numbers."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sparank_gen.backends.code import ATOM, binding


class Expression(Protocol):
    """Code, and how tightly it binds."""

    @property
    def code(self) -> str: ...

    @property
    def precedence(self) -> int: ...


@dataclass(frozen=True)
class Dense:
    """One tensor: ``code`` evaluates to it, ``axes`` names its dimensions in order.

    ``picked`` remembers the tensor and the indices of which it is a view, so that views of views read as one. ``over`` is a
    variable whose memory the result of a call may take, and the condition for that.
    """

    code: str
    axes: tuple[str, ...]
    precedence: int = ATOM
    picked: tuple[str, tuple[str | int, ...]] | None = None
    over: tuple[str, str] | None = None
    is_temporary: bool = False

    @property
    def statement(self) -> str:
        """The code to assign to a variable: a call says where its result goes."""
        return self.code if self.over is None else f"{self.code[:-1]}, out={self.over[0]} if {self.over[1]} else None)"

    @property
    def atom(self) -> str:
        """The code, in parentheses where a method call or an index could not follow it."""
        return self.code if self.precedence == ATOM else f"({self.code})"

    def named(self, code: str) -> Dense:
        return Dense(code, self.axes)

    @property
    def is_name(self) -> bool:
        return self.code.isidentifier()

    def dim(self, axis: str) -> int:
        """The dimension of ``axis``, counted from the end where that is shorter to read."""
        position = self.axes.index(axis)
        return -1 if position == len(self.axes) - 1 else position

    def ordered(self, axes: Sequence[str]) -> Dense:
        """The same tensor with its dimensions in the order of ``axes``."""
        if tuple(axes) == self.axes:
            return self
        order = [self.axes.index(axis) for axis in axes]
        swapped = [k for k, position in enumerate(order) if k != position]
        if len(swapped) == 2:
            return Dense(f"{self.atom}.transpose({swapped[0]}, {swapped[1]})", tuple(axes))
        return Dense(f"{self.atom}.permute({', '.join(map(str, order))})", tuple(axes))

    def aligned(self, axes: Sequence[str]) -> Dense:
        """The same tensor, ready to broadcast against one with dimensions ``axes``.

        ``axes`` holds all of this tensor's axes. Dimensions of size one are put in where it lacks an axis; leading
        ones are left to broadcasting.
        """
        value = self.ordered([axis for axis in axes if axis in self.axes])
        wanted = list(axes)
        while wanted and wanted[0] not in value.axes:
            wanted.pop(0)
        missing = [axis for axis in wanted if axis not in value.axes]
        if not missing:
            return value
        last = max(k for k, axis in enumerate(wanted) if axis in missing)
        if len(missing) == 1:
            depth = last if last < len(wanted) - 1 else -1
            return Dense(f"{value.atom}.unsqueeze({depth})", value.axes)
        index = [":" if axis in value.axes else "None" for axis in wanted]
        while index[-1] == ":":
            index.pop()
        return Dense(f"{value.atom}[{', '.join(index)}]", value.axes)


@dataclass(frozen=True)
class Listed:
    """A Python sequence with one tensor for each modality.

    Attributes:
        axis: the modality axis that the sequence runs along.
        element: the code of one element, over the loop variables.
        sources: the loop variables and the sequences they run over.
    """

    axis: str
    element: Dense
    sources: tuple[tuple[str, str], ...]

    @property
    def axes(self) -> tuple[str, ...]:
        return (self.axis, *self.element.axes)

    @property
    def loop(self) -> str:
        """The ``for`` clause that binds the loop variables."""
        names = ", ".join(name for name, _ in self.sources)
        if len(self.sources) == 1:
            return f"for {names} in {self.sources[0][1]}"
        return f"for {names} in zip({', '.join(code for _, code in self.sources)})"

    @property
    def sequence(self) -> str:
        """Code for the sequence itself."""
        if len(self.sources) == 1 and self.element.code == self.sources[0][0]:
            return self.sources[0][1]
        return f"[{self.element.code} {self.loop}]"

    @property
    def generator(self) -> str:
        """Code for an argument that is iterated once."""
        sequence = self.sequence
        return sequence[1:-1] if sequence.startswith("[") else sequence

    @property
    def is_name(self) -> bool:
        return self.sequence.isidentifier()


@dataclass(frozen=True)
class Scalar:
    """A Python number; in a format string, in parentheses where it binds less tightly than the format says."""

    code: str

    def __format__(self, needed: str) -> str:
        return parenthesised(self, int(needed or 0))

    @property
    def precedence(self) -> int:
        return binding(self.code)

    @property
    def axes(self) -> tuple[str, ...]:
        return ()

    @property
    def is_name(self) -> bool:
        return True


Value = Dense | Listed | Scalar


def composed(axes: Sequence[str]) -> str:
    """The name of one dimension that several axes share, as a layout writes it; of one axis, its own."""
    return f"({' '.join(axes)})" if len(axes) > 1 else axes[0]


def composed_dimensions(code: str, dimensions: Sequence[Sequence[str]]) -> str:
    """A tensor with a dimension for each axis of ``dimensions``, with one for each group of them."""
    last = len(dimensions) - 1
    for position, axes in enumerate(dimensions):
        if len(axes) > 1:
            end = "" if position == last else f", {position + len(axes) - 1}"
            code = f"{code}.flatten({position}{end})"
    return code


def einsum(values: Sequence[Dense], result: tuple[str, ...]) -> Dense:
    """A contraction by its equation; axes with names of one letter keep them."""
    axes = list(dict.fromkeys(axis for value in values for axis in value.axes))
    letters = {axis: axis for axis in axes if axis in set(string.ascii_letters)}
    spare = (letter for letter in string.ascii_letters if letter not in letters)
    letters |= {axis: next(spare) for axis in axes if axis not in letters}

    def subscripts(names: Sequence[str]) -> str:
        return "".join(letters[name] for name in names)

    equation = f"{','.join(subscripts(value.axes) for value in values)}->{subscripts(result)}"
    return Dense(f'torch.einsum("{equation}", {", ".join(value.code for value in values)})', result)


def parenthesised(value: Expression, needed: int) -> str:
    """The code of ``value``, in parentheses where it binds less tightly than ``needed``."""
    return value.code if value.precedence >= needed else f"({value.code})"


def index_dense(value: Dense, indices: Sequence[str | int]) -> Dense:
    """``value`` at ``indices``, one for each dimension: a name for the whole of it, or a position."""
    if value.picked is not None:
        base, outer = value.picked
        inner = iter(indices)
        return index_dense(Dense(base, ()), [index if isinstance(index, int) else next(inner) for index in outer])
    axes = tuple(index for index in indices if isinstance(index, str))
    if len(axes) == len(indices):
        return Dense(value.code, axes, value.precedence)
    shown = [str(index) if isinstance(index, int) else ":" for index in indices]
    while shown[-1] == ":":
        shown.pop()
    return Dense(f"{value.atom}[{', '.join(shown)}]", axes, picked=(value.atom, tuple(indices)))
