"""Statements of a generated function: names, comments, and the values that are already computed."""

from __future__ import annotations

import keyword
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from sparank_gen.backends.code import names_read
from sparank_gen.backends.torch.values import Dense, Listed, Scalar, Value
from sparank_gen.ir.node import BATCH
from sparank_gen.lang.extents import Extent
from sparank_gen.lang.widths import owners, size_of, width_name

# Of the package, beside those of torch.
FUNCTIONS = tuple(
    "dot dots_of_pairs few_as_one joined_linear lerp multiply_all others place stacked_linear sum_all sum_of_products".split()
)
RESERVED = frozenset(FUNCTIONS) | frozenset(
    """
    self torch F math nn Tensor len zip h present return_extras in_place map list tuple float int
    features range min max abs sum dim l O I module modules cast Iterable
    """.split()
)
LONGEST_LINE = 84
# How comments write the names in extents.
SHOWN = {"modalities": "M"}
# The symbol that stands for all widths, in their order.
WIDTHS = "dim[]"
NOUNS = {
    "add": "total",
    "sub": "difference",
    "mul": "product",
    "div": "quotient",
    "pow": "power",
    "sqrt": "root",
    "neg": "negative",
    "sum": "total",
    "max": "peak",
    "min": "low",
    "mean": "average",
    "leaf": "view",
    "rename": "view",
    "lerp": "blend",
    "select": "part",
    "slice": "part",
    "pad": "padded",
    "lt": "below",
    "le": "below",
    "gt": "above",
    "ge": "above",
    "eq": "equal",
    "ne": "unequal",
    "concat": "joined",
    "where": "selected",
    **dict.fromkeys(("logical_and", "logical_or", "logical_not"), "holds"),
}


class Variable(NamedTuple):
    """A variable of a function.

    Attributes:
        name: its name.
        start: how many statements stand before the one that assigns it.
        axes: the axes of its value.
        over: the variable whose memory it may take, or empty.
    """

    name: str
    start: int
    axes: tuple[str, ...]
    over: str


@dataclass
class Emitter:
    """Collects the lines of one function.

    Attributes:
        extents: the extent of each axis, for shape comments.
        symbols: how the names in extents are written in the code.
        lines: the statements so far.
        taken: the names in use.
        named: the names that the math gives, which nothing else takes.
        variables: the variables so far.
        elements: the loop variable over each sequence, by the name it is like and the sequence's code.
    """

    extents: Mapping[str, Extent]
    symbols: Mapping[str, str]
    lines: list[str] = field(default_factory=list)
    taken: set[str] = field(default_factory=lambda: set(RESERVED))
    named: Collection[str] = ()
    variables: list[Variable] = field(default_factory=list)
    elements: dict[tuple[str, str], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.taken.update(code for code in self.symbols.values() if code.isidentifier())

    def unique(self, name: str, is_own: bool = False) -> str:
        """A variable name like ``name`` that nothing uses yet; ``is_own`` is whether the math gives this name."""
        candidate, count = (f"{name}_" if keyword.iskeyword(name) or name in RESERVED else name), 1
        while candidate in self.taken or (candidate in self.named and not is_own):
            count += 1
            candidate = f"{name}_{count}"
        self.taken.add(candidate)
        return candidate

    def element(self, name: str, sequence: str) -> str:
        """The loop variable over a sequence, like ``name``."""
        if (name, sequence) not in self.elements:
            self.elements[name, sequence] = self.unique(name)
        return self.elements[name, sequence]

    def listed(self, name: str, axis: str, axes: Sequence[str]) -> Listed:
        """The variable ``name``, a sequence along ``axis`` whose elements have dimensions ``axes``."""
        element = self.element(f"{name}_{axis}", name)
        return Listed(axis, Dense(element, tuple(axes)), ((element, name),))

    def assign(self, value: Value, name: str, source: str = "") -> Value:
        """A statement that gives ``value`` a name; ``source`` is the formula to show above it."""
        if isinstance(value, Scalar):
            return value
        value = self.with_widths(value) if isinstance(value, Listed) else value
        name = self.unique(name, is_own=bool(source))
        if source:
            self.lines.extend(f"# {line}" for line in source.split("\n"))
        code = value.sequence if isinstance(value, Listed) else value.statement
        over = value.over[0] if isinstance(value, Dense) and value.over is not None else ""
        self.variables.append(Variable(name, len(self.lines), value.axes, over))
        self._state(f"{name} = {code}", self.shape(value), f"{name}: ")
        if isinstance(value, Listed):
            return self.listed(name, value.axis, value.element.axes)
        return value.named(name)

    def unpack(self, part: Dense, code: str, names: Sequence[str], sources: Sequence[str]) -> list[Dense]:
        """A statement that gives names to parts of one shape; a part with a source has the name that the math gives."""
        names = [self.unique(name, is_own=bool(source)) for name, source in zip(names, sources, strict=True)]
        self.lines.extend(f"# {line}" for source in sources for line in source.split("\n") if line)
        self._state(f"{', '.join(names)} = {code}", f"each {self.shape(part)}")
        return [part.named(name) for name in names]

    def _state(self, statement: str, shape: str, subject: str = "") -> None:
        """A statement with a shape in a comment: behind it, or above it after its ``subject`` where the line gets long."""
        if len(statement) + len(shape) > LONGEST_LINE:
            self.lines.extend([f"# {subject}{shape}", statement])
        else:
            self.lines.append(f"{statement}  # {shape}")

    def name_for(self, value: Value, op: str) -> Value:
        """``value``, as a variable if it is not one yet."""
        return value if value.is_name else self.assign(value, NOUNS.get(op, op))

    def with_widths(self, value: Listed) -> Listed:
        """A list in whose elements the width of each modality may stand, with the loop variable for that."""
        variable = self.symbols.get(width_name(value.axis), "")
        if not variable or variable not in names_read(value.element.code) or variable in dict(value.sources):
            return value
        return replace(value, sources=(*value.sources, (variable, self.symbols[WIDTHS])))

    def differs(self, value: Value) -> bool:
        """Whether the elements of a list differ in size."""
        return isinstance(value, Listed) and bool(owners(self.known(value.element.axes), self.extents))

    def known(self, axes: Sequence[str]) -> list[str]:
        """The axes that dimensions are made of."""
        return [part for axis in axes for part in axis.strip("()").split(" ") if part in self.extents]

    def shape(self, value: Value) -> str:
        """The shape of a value as a comment shows it."""
        if isinstance(value, Listed):
            return f"{self.size(value.axis)} × {self.shape(value.element)}"
        sizes = [self.size(axis) for axis in value.axes]
        return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"

    def size(self, axis: str) -> str:
        """The extent of an axis, or of composed ones, in a comment: ``B`` for the batch, ``M`` for the modalities."""
        if axis == BATCH:
            return "B"
        # What features are taken apart into has no names yet: dimensions are called by their extents.
        parts = self.known([axis])
        return size_of(parts, self.extents).code(SHOWN) if parts else axis

    def extent_code(self, axis: str) -> str:
        """The extent of an axis as code."""
        return "h[0].shape[0]" if axis == BATCH else self.extents_code([axis])

    def extents_code(self, axes: Sequence[str]) -> str:
        """The extent of axes that share a dimension as code."""
        return size_of(self.known(axes), self.extents).code(self.symbols)
