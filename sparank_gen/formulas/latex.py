"""LaTeX of the math: definitions and derived adjoints, printed from the graph."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from sparank_gen.ir import node as ir
from sparank_gen.ir.conditions import Choice, Choices, Condition, goes_on
from sparank_gen.ir.derive import ADJOINT
from sparank_gen.ir.node import BATCH, Definition, Node, Program, Window, windows_of
from sparank_gen.ir.text import fresh
from sparank_gen.lang.extents import Extent
from sparank_gen.lang.ops import OPERATORS
from sparank_gen.lang.syntax import AND, NOT, OR

GREEK = frozenset(
    """
    alpha beta gamma delta epsilon zeta eta theta kappa lambda mu nu xi pi rho sigma tau phi chi psi omega
    """.split()
)
# How tightly what is printed binds: a comparison least, a whole most. What follows a big operator, a fraction with a
# slash or cases reads as part of it, so as the left factor of a product these need parentheses.
COMPARISON, SUM, OPEN, PRODUCT, BASE, WHOLE = 4, 6, 6.5, 7, 9.5, 10
# What joins or negates conditions, and how tightly it binds.
CONNECTIVES = {OR: (r"\lor", 1), AND: (r"\land", 2), NOT: (r"\lnot", COMPARISON)}
# What is made for a page has a blank in its name, as nothing in a spec has: ``x bar`` is an adjoint, ``s 1`` a shared part.
BAR = " bar"
ONE, ZERO = ir.constant(1), ir.constant(0)


def formulas(program: Program, known: Sequence[Definition] = ()) -> tuple[str, ...]:
    """One LaTeX equation for each definition; those that are ``known`` stand by name where they are read."""
    names = by_node((*known, *program.definitions))
    return tuple(equation(program, definition, names) for definition in program.definitions)


def by_node(definitions: Iterable[Definition]) -> dict[Node, Definition]:
    """The first definition of each node; none that has an index of which its node knows nothing."""
    found: dict[Node, Definition] = {}
    for definition in definitions:
        if definition.node.axes.issuperset(definition.axes):
            found.setdefault(definition.node, definition)
    return found


def equation(program: Program, definition: Definition, names: Mapping[Node, Definition]) -> str:
    """``name_{axes} = expression``, cut where other definitions of ``names`` stand."""
    node, left = definition.node, [index_symbol(axis) for axis in definition.axes]
    if node.op != "stack" or node.over[0] not in definition.axes or names.get(node, definition) is not definition:
        printer = _Printer(program, names, definition, {}, frozenset(left))
        return f"{indexed(definition.name, left)} = {printer.show(node)[0]}"
    slot = definition.axes.index(node.over[0])
    pieces = []
    for position, piece in enumerate(node.args):
        before, after = left[:slot], left[slot + 1 :]
        printer = _Printer(program, names, definition, {}, frozenset(before + after))
        pieces.append(f"{indexed(definition.name, [*before, str(position), *after])} = {printer.show(piece)[0]}")
    return r" \qquad ".join(pieces)


def indexed(name: str, indices: Sequence[str]) -> str:
    """A quantity with its indices."""
    return f"{symbol_of(name)}_{{{','.join(indices)}}}" if indices else symbol_of(name)


def symbol_of(name: str) -> str:
    """The LaTeX of a name: single letters and Greek as they are, others upright; a bar for an adjoint."""
    stem, _, mark = name.partition(" ")
    if mark:
        return rf"{stem}^{{({mark})}}" if mark.isdigit() else rf"\overline{{{symbol_of(stem)}}}"
    return f"\\{name}" if name in GREEK else index_symbol(name)


def index_symbol(axis: str) -> str:
    """The LaTeX of an index: single letters as they are, others upright."""
    escaped = axis.replace("_", r"\_")
    return axis if len(axis) == 1 else rf"\mathrm{{{escaped}}}"


def extent_latex(extent: Extent, indices: Mapping[str, str] | None = None) -> str:
    """An extent as a formula, in which an axis ``m`` of ``dim[m]`` is called as ``indices`` says."""

    def symbol(match: re.Match[str]) -> str:
        name, index = match.groups()
        return indexed(name, [(indices or {}).get(index, index_symbol(index))] if index else [])

    return re.sub(r"([^\W\d]\w*)(?:\[(\w+)\])?", symbol, str(extent)).replace(" // ", "/").replace(" * ", r" \cdot ")


def _number(value: float) -> tuple[str, float]:
    digits, _, exponent = repr(value).partition("e")
    digits = digits.removesuffix(".0")
    if not exponent:
        return digits, WHOLE
    power = rf"10^{{{int(exponent)}}}"
    return (digits.removesuffix("1") + power, BASE) if abs(float(digits)) == 1 else (rf"{digits}\cdot {power}", PRODUCT)


def _factor(left: str, right: str) -> str:
    return rf"{left}\cdot {right}" if right[0].isdigit() else rf"{left}\,{right}"


def _iverson(condition: str) -> str:
    return rf"\left[{condition}\right]"


@dataclass(frozen=True)
class _Printer:
    """Prints one equation.

    Attributes:
        program: where the extents of axes and the tensors are found.
        names: definitions that stand by name where they are read.
        definition: what is on the left.
        indices: how axes are called here, if not by their own name.
        taken: the indices that have a meaning here: those on the left, and what operators around this run over.
    """

    program: Program
    names: Mapping[Node, Definition]
    definition: Definition
    indices: Mapping[str, str]
    taken: frozenset[str]

    def at(self, axis: str) -> str:
        return self.indices.get(axis, index_symbol(axis))

    def extent(self, extent: Extent | int) -> str:
        return str(extent) if isinstance(extent, int) else extent_latex(extent, self.indices)

    def extent_of(self, index: str) -> Extent | None:
        """What an index runs over; None where it is a position, or has an offset."""
        return next((extent for axis, extent in self.program.extents.items() if index_symbol(axis) == index.rstrip("'")), None)

    def quantity(self, name: str, axes: Iterable[object]) -> tuple[str, float]:
        tightness = BASE if name[-1].isdigit() and " " in name else WHOLE
        return indexed(name, [str(axis) if isinstance(axis, int) else self.at(str(axis)) for axis in axes if axis != BATCH]), tightness

    def show(self, node: Node) -> tuple[str, float]:
        """LaTeX of a node, and how tightly it binds."""
        named = self.names.get(node, self.definition)
        if named is not self.definition:
            return self.quantity(named.name, named.axes)
        if node.op == "leaf":
            name, indices = node.data
            return self.quantity(name if name in self.program.tensors else name.removesuffix(ADJOINT) + BAR, indices)
        if node.op == "constant":
            return _number(node.data)
        if node.op == "extent":
            text = self.extent(node.data)
            return text, SUM if len(node.data.terms) > 1 else OPEN if "/" in text else PRODUCT if " " in text else WHOLE
        if node.op in ("rename", "select", "slice"):
            return self.view(node)
        if node.op == "place":
            inner, tightness = self.operand(node.args[0], OPEN)
            return _factor(_iverson(f"{self.at(node.over[0])} = {self.extent(node.data)}"), inner), min(tightness, PRODUCT)
        if node.op in ("pad", "concat"):
            return self.joined(node)
        if node.op == "stack":
            pieces = ", ".join(self.show(arg)[0] for arg in node.args)
            return rf"\left[{pieces}\right]_{{{self.at(node.over[0])}}}", WHOLE
        return self.over_axes(node) if OPERATORS[node.op].kind in ("reduction", "normalisation") else self.operator(node)

    def operand(self, node: Node, needed: float, is_first: bool = False) -> tuple[str, float]:
        """An operand, in parentheses where it binds less than ``needed``, or starts with a sign and is not the first."""
        text, tightness = self.show(node)
        if tightness >= needed and (is_first or not text.startswith("-")):
            return text, tightness
        return rf"\left({text}\right)", WHOLE

    def view(self, node: Node) -> tuple[str, float]:
        """A node read at other indices: the indices are put in below."""
        changes = {axis: self.at(axis) for axis in node.axes}
        if node.op == "rename":
            changes |= {old: self.at(new) for old, new in node.data}
        elif node.op == "slice":
            changes[node.over[0]] = self.shifted(self.at(node.data.axis), node.data.shift, "+")
        else:
            changes[node.over[0]] = self.extent(node.data)
        return replace(self, indices={axis: changes[axis] for axis in node.args[0].axes}).show(node.args[0])

    def joined(self, node: Node) -> tuple[str, float]:
        """A concatenation, or padding, as cases of the index along the joined axis."""
        axis, extents = self.at(node.over[0]), self.program.extents
        places = (node.data,) if node.op == "pad" else windows_of(node, extents)
        cases = []
        for piece, place in zip(node.args, places, strict=True):
            if isinstance(place, Window):
                start, end = place.shift, place.shift + extents[place.axis]
                inside = replace(self, indices={**self.indices, place.axis: self.shifted(axis, start, "-")})
                first = rf"{self.extent(start)} \le " if node.op == "pad" and start.terms else ""
                cases.append((inside.show(piece)[0], rf"\text{{if }} {first}{axis} < {self.extent(end)}"))
            else:
                cases.append((self.show(piece)[0], rf"\text{{if }} {axis} = {self.extent(place)}"))
        if node.op == "pad":
            cases.append(("0", ""))
        cases[-1] = (cases[-1][0], r"\text{otherwise}")
        lines = r"\\ ".join(rf"{value} & {condition}" for value, condition in cases)
        return rf"\begin{{cases}}{lines}\end{{cases}}", OPEN

    def shifted(self, index: str, shift: Extent, sign: str) -> str:
        """An index with an extent added or taken away."""
        if not shift.terms:
            return index
        text = self.extent(shift)
        if sign == "+" and index.endswith(f" - {text}"):
            return index.removesuffix(f" - {text}")
        return f"{index} {sign} {text}" if len(shift.terms) == 1 or sign == "+" else rf"{index} {sign} \left({text}\right)"

    def operator(self, node: Node) -> tuple[str, float]:
        operator, args = OPERATORS[node.op], node.args
        if node.op in ("add", "sub"):
            return self.sum(node)
        if node.op == "mul":
            left, (right, tightness) = self.operand(args[0], PRODUCT, True)[0], self.operand(args[1], OPEN)
            return _factor(left, right), min(tightness, PRODUCT)
        if node.op == "neg":
            inner, tightness = self.operand(args[0], OPEN)
            return f"-{inner}", min(tightness, PRODUCT)
        if node.op == "pow":
            return operator.latex.format(self.operand(args[0], WHOLE)[0], self.show(args[1])[0]), BASE
        if operator.kind == "comparison":
            return operator.latex.format(*(self.operand(arg, SUM, True)[0] for arg in args)), COMPARISON
        if node.op == "where":
            return self.choice(Choices(self.names).of(node))
        tightness = {"div": BASE, "rsqrt": BASE}.get(node.op, WHOLE)
        return operator.latex.format(*(self.show(arg)[0] for arg in args)), tightness

    def choice(self, choice: Choice) -> tuple[str, float]:
        condition = self.condition(choice.condition)[0]
        if (choice.chosen, choice.other) == (ONE, ZERO):
            return _iverson(condition), WHOLE
        chosen, other = self.show(choice.chosen)[0], self.show(choice.other)[0]
        return OPERATORS["where"].latex.format(condition, chosen, other), OPEN

    def condition(self, condition: Condition) -> tuple[str, float]:
        if isinstance(condition, Node):
            return self.show(condition)
        symbol, own = CONNECTIVES[condition.word]
        texts: list[str] = []
        for before, part in itertools.pairwise((None, *condition.parts)):
            assert part is not None
            text, tightness = self.condition(part)
            if isinstance(part, Node) and before and condition.word == AND and goes_on(before, part):
                texts[-1] += text.removeprefix(self.operand(part.args[0], SUM, True)[0])
            else:
                texts.append(text if tightness > own else rf"\left({text}\right)")
        return rf" {symbol} ".join(texts) if condition.word != NOT else rf"{symbol} {texts[0]}", own

    def sum(self, node: Node) -> tuple[str, float]:
        """A sum of terms, each once: with how often it stands there, and with the sign that makes it positive."""
        text = ""
        for (term, is_added), count in Counter(self.terms(node)).items():
            shown, tightness = self.show(term) if count == 1 else self.operator(ir.apply("mul", ir.constant(count), term))
            if tightness < (SUM if is_added else OPEN):
                shown = rf"\left({shown}\right)"
            sign = "+" if is_added != shown.startswith("-") else "-"
            text = f"{text} {sign} {shown.removeprefix('-')}" if text else shown
        return text, SUM

    def terms(self, node: Node) -> Iterator[tuple[Node, bool]]:
        """The terms of a sum from left to right, and whether each is added; what has a name is one."""
        first, second = node.args
        yield from self.terms(first) if first.op in ("add", "sub") and first not in self.names else [(first, True)]
        yield from self.terms(second) if node.op == second.op == "add" and second not in self.names else [(second, node.op == "add")]

    def over_axes(self, node: Node) -> tuple[str, float]:
        """A reduction or normalisation. What it runs over has an index that means nothing else here."""
        operator, below = OPERATORS[node.op], node.args[0]
        kept = {axis: self.at(axis) for axis in node.over} if operator.kind == "normalisation" else {}
        runs = operator.internal or any(self.extent_of(index) != self.program.extents[axis] for axis, index in kept.items())
        own, taken = dict[str, str](), self.taken
        for axis in node.over:
            own[axis] = fresh(index_symbol(axis), taken) if runs or not kept else kept[axis]
            taken |= {own[axis]}
        inside = replace(self, indices={**self.indices, **own}, taken=taken)
        axes, others = (",".join(each.get(axis, "") for axis in node.over) for each in (own, kept))
        if operator.internal:
            axes = rf"{axes} \ne {others}" if len(own) == 1 else rf"\left({axes}\right) \ne \left({others}\right)"
        if r"\left(" in operator.latex:
            text, tightness = operator.latex.format(inside.show(below)[0], axes=axes), OPEN if node.op == "logsumexp" else WHOLE
        else:
            text, tightness = operator.latex.format(inside.operand(below, OPEN)[0], axes=axes), OPEN
        if not kept or not runs or operator.internal:
            return text, tightness
        places = ",".join(f"{own[axis]} = {kept[axis]}" for axis in node.over)
        return rf"\left.{text}\right|_{{{places}}}", WHOLE
