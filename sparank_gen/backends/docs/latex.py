"""LaTeX of the math: definitions and derived adjoints, printed from the graph."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sparank_gen.ir.derive import ADJOINT
from sparank_gen.ir.node import BATCH, Definition, Node, Program, Window, windows_of
from sparank_gen.lang.extents import Extent
from sparank_gen.lang.ops import OPERATORS

GREEK = frozenset(
    """
    alpha beta gamma delta epsilon zeta eta theta kappa lambda mu nu xi pi rho sigma tau phi chi psi omega
    """.split()
)
SUM = 6
PRODUCT = 7
# What follows a big operator reads as part of it, so as the left factor of a product it needs parentheses.
BIG_OPERATOR = 7.5
SHARED = "__"


def formulas(program: Program) -> tuple[str, ...]:
    """One LaTeX equation for each definition."""
    return tuple(equation(program, definition) for definition in program.definitions)


def equation(program: Program, definition: Definition, names: Mapping[Node, Definition] | None = None) -> str:
    """``name_{axes} = expression``, cut where other definitions stand."""
    known = names if names is not None else {other.node: other for other in program.definitions}
    left = indexed(definition.name, definition.axes)
    if definition.node.op == "stack" and definition.node.over[0] in definition.axes:
        slot = definition.axes.index(definition.node.over[0])
        pieces = []
        for position, piece in enumerate(definition.node.args):
            axes = [str(position) if k == slot else axis for k, axis in enumerate(definition.axes)]
            pieces.append(f"{indexed(definition.name, axes)} = {_Printer(known, program.extents, definition.node, {}).show(piece)[0]}")
        return r" \qquad ".join(pieces)
    return f"{left} = {_Printer(known, program.extents, definition.node, {}).show(definition.node)[0]}"


def indexed(name: str, axes: Sequence[str]) -> str:
    """A quantity with its indices."""
    symbol = symbol_of(name)
    return f"{symbol}_{{{','.join(axis for axis in axes if axis != BATCH)}}}" if axes else symbol


def symbol_of(name: str) -> str:
    """The LaTeX of a name: single letters and Greek as they are, others upright; a bar for an adjoint."""
    stem, mark, number = name.partition(SHARED)
    if mark and number.isdigit():
        return rf"{stem}^{{({number})}}"
    if name.endswith(ADJOINT):
        return rf"\overline{{{symbol_of(name[: -len(ADJOINT)])}}}"
    if name in GREEK:
        return f"\\{name}"
    return name if len(name) == 1 else upright(name)


def upright(text: str) -> str:
    """Text as a name in LaTeX math."""
    escaped = text.replace("_", r"\_")
    return rf"\mathrm{{{escaped}}}"


def _number(value: float) -> str:
    if value == int(value):
        return str(int(value))
    digits, _, exponent = repr(value).partition("e")
    return rf"{digits}\cdot 10^{{{int(exponent)}}}" if exponent else digits


def extent_latex(extent: Extent) -> str:
    """An extent as a formula."""
    if extent.constant is not None:
        return str(extent.constant)
    text = str(extent).replace(" // ", "/").replace(" * ", r" \cdot ")
    return re.sub(r"dim\[(\w+)\]", r"dim_{\1}", upright(text))


@dataclass(frozen=True)
class _Printer:
    """Prints one equation: definitions other than ``top`` by name, indices as ``indices`` renames them."""

    names: Mapping[Node, Definition]
    extents: Mapping[str, Extent]
    top: Node
    indices: Mapping[str, str]

    def at(self, axis: str) -> str:
        return self.indices.get(axis, axis)

    def quantity(self, name: str, axes: Sequence[str]) -> tuple[str, float]:
        return indexed(name, [self.at(axis) for axis in axes]), 10

    def show(self, node: Node) -> tuple[str, float]:
        """LaTeX and precedence of a node."""
        if node is not self.top and node in self.names:
            return self.quantity(self.names[node].name, self.names[node].axes)
        if node.op == "leaf":
            name, indices = node.data
            return self.quantity(name, [str(index) for index in indices if index != BATCH])
        if node.op == "constant":
            return _number(node.data), 10 if node.data >= 0 else SUM
        if node.op == "extent":
            return extent_latex(node.data), 10
        if node.op in ("rename", "select", "slice"):
            return self.view(node)
        if node.op == "place":
            inner = _wrap(*self.show(node.args[0]), PRODUCT)
            return rf"\delta_{{{self.at(node.over[0])},{_position(node.data)}}}\,{inner}", PRODUCT
        if node.op in ("pad", "concat"):
            return self.joined(node)
        if node.op == "stack":
            pieces = ", ".join(self.show(arg)[0] for arg in node.args)
            return rf"\left[{pieces}\right]_{{{self.at(node.over[0])}}}", 10
        return self.operator(node)

    def view(self, node: Node) -> tuple[str, float]:
        """A node read at other indices: the indices are put in below."""
        if node.op == "rename":
            changes = dict(node.data)
        elif node.op == "slice":
            changes = {node.over[0]: _shifted(self.at(node.data.axis), node.data.shift, "+")}
        else:
            changes = {node.over[0]: _position(node.data)}
        inside = {axis: self.at(changes.get(axis, axis)) for axis in node.args[0].axes}
        return replace(self, indices=inside).show(node.args[0])

    def joined(self, node: Node) -> tuple[str, float]:
        """A concatenation, or padding, as cases of the index along the joined axis."""
        axis = self.at(node.over[0])
        places = (node.data,) if node.op == "pad" else windows_of(node, self.extents)
        cases = []
        for piece, place in zip(node.args, places, strict=True):
            if isinstance(place, Window):
                start, end = place.shift, place.shift + self.extents[place.axis]
                inside = replace(self, indices={**self.indices, place.axis: _shifted(axis, start, "-")})
                first = rf"{extent_latex(start)} \le " if node.op == "pad" and start.terms else ""
                cases.append((inside.show(piece)[0], rf"\text{{if }} {first}{axis} < {extent_latex(end)}"))
            else:
                cases.append((self.show(piece)[0], rf"\text{{if }} {axis} = {extent_latex(place)}"))
        if node.op == "pad":
            cases.append(("0", ""))
        cases[-1] = (cases[-1][0], r"\text{otherwise}")
        lines = r"\\ ".join(rf"{value} & {condition}" for value, condition in cases)
        return rf"\begin{{cases}}{lines}\end{{cases}}", 10

    def operator(self, node: Node) -> tuple[str, float]:
        operator = OPERATORS[node.op]
        if operator.kind in ("reduction", "normalisation"):
            return self.over_axes(node)
        printed = [self.show(arg) for arg in node.args]
        if node.op == "pow":
            return operator.latex.format(_wrap(*printed[0], 10), printed[1][0]), operator.precedence
        if not operator.symbol or node.op == "div":
            return operator.latex.format(*(text for text, _ in printed)), 10
        right = operator.precedence + (1 if node.op == "sub" else 0)
        pieces = [_wrap(*pair, right if k else operator.precedence) for k, pair in enumerate(printed)]
        if node.op == "mul" and printed[0][1] == BIG_OPERATOR:
            pieces[0] = _wrap(printed[0][0], 0, 1)
        return operator.latex.format(*pieces), operator.precedence

    def over_axes(self, node: Node) -> tuple[str, float]:
        """A reduction or normalisation; its indices are renamed where one from outside would be caught by it."""
        operator, below = OPERATORS[node.op], node.args[0]
        inside = {axis: value for axis, value in self.indices.items() if axis not in node.over}
        outer = {inside.get(axis, axis).split(" ")[0] for axis in below.axes - set(node.over)}
        if operator.kind == "normalisation":
            inside, outer = dict(self.indices), set()
        for axis in node.over:
            while inside.get(axis, axis) in outer:
                inside[axis] = inside.get(axis, axis) + "'"
        axes = ",".join(inside.get(axis, axis) for axis in node.over)
        text, precedence = replace(self, indices=inside).show(below)
        if "\\left(" in operator.latex:
            return operator.latex.format(text, axes=axes), 10
        return operator.latex.format(_wrap(text, precedence, PRODUCT), axes=axes), BIG_OPERATOR


def _position(position: int | Extent) -> str:
    return str(position) if isinstance(position, int) else extent_latex(position)


def _shifted(index: str, shift: Extent, sign: str) -> str:
    """An index with an extent added or taken away; it stays the first word."""
    if not shift.terms:
        return index
    text = extent_latex(shift)
    if sign == "+" and index.endswith(f" - {text}"):
        return index.removesuffix(f" - {text}")
    return f"{index} {sign} {text}" if len(shift.terms) == 1 or sign == "+" else rf"{index} {sign} \left({text}\right)"


def _wrap(text: str, precedence: float, needed: float) -> str:
    return text if precedence >= needed else rf"\left({text}\right)"
