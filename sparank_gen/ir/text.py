"""The math as text, as a spec writes it: what comments above statements say that no spec has written."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from sparank_gen.ir.node import BATCH, Definition, Node, reachable
from sparank_gen.ir.template import instantiate
from sparank_gen.lang.ops import OPERATORS

ATOM = 10
VIEWS = frozenset({"rename", "select"})
# Operators that specs call by another name, and what they cannot write.
WRITTEN = {"clamp_min": "max", "clamp_max": "min"}
# Words between truth values, and how tightly they bind: less than comparisons do.
JOINED = {"logical_or": ("or", 0), "logical_and": ("and", 1), "logical_not": ("not", 2)}
UNWRITTEN = frozenset({"stack", "place", "pad", "slice", "concat", "product_of_others", "position", "finite"})


def formula(definition: Definition, names: Mapping[Node, Definition]) -> str:
    """``name[indices] = expression``, cut where other definitions of ``names`` stand; empty where no spec could write it."""
    try:
        return f"{_indexed(definition.name, definition.axes)} = {_Text(names, definition.node, {}).show(definition.node)[0]}"
    except _UnwrittenError:
        return ""


def shown(node: Node) -> str:
    """A number as a spec writes it."""
    return _Text({}, node, {}).show(node)[0]


def written_size(root: Node, names: Collection[Node]) -> int:
    """How many operations and operands the text of a node has, cut where one of ``names`` stands."""
    sizes: dict[Node, int] = {}
    for node in reachable([root]):
        sizes[node] = 1 if node in names and node is not root else 1 + sum(sizes[arg] for arg in node.args)
    return sizes[root]


class _UnwrittenError(Exception):
    """A node has no notation."""


def fresh(index: str, taken: Collection[str]) -> str:
    """``index``, with as many primes as it takes to be none of those that have a meaning."""
    while index in taken:
        index += "'"
    return index


def _indexed(name: str, indices: Sequence[str]) -> str:
    return f"{name}[{','.join(indices)}]" if indices else name


@dataclass(frozen=True)
class _Text:
    """Prints one expression, whose indices are called as ``indices`` says."""

    names: Mapping[Node, Definition]
    top: Node
    indices: Mapping[str, str]

    def at(self, axes: Sequence[str]) -> list[str]:
        return [self.indices.get(axis, axis) for axis in axes if axis != BATCH]

    def show(self, node: Node) -> tuple[str, int]:
        """Text and precedence of a node."""
        if node is not self.top and node in self.names:
            return _indexed(self.names[node].name, self.at(self.names[node].axes)), ATOM
        if node.op in UNWRITTEN:
            raise _UnwrittenError
        if node.op == "leaf":
            return _indexed(node.data[0], self.at([str(index) for index in node.data[1]])), ATOM
        if node.op == "constant":
            return f"{node.data:.16g}", ATOM
        if node.op == "extent":
            return str(node.data), ATOM if str(node.data).isidentifier() else 0
        if node.op in VIEWS:
            changes = dict(node.data) if node.op == "rename" else {node.over[0]: str(node.data)}
            below = {axis: self.indices.get(changes.get(axis, axis), changes.get(axis, axis)) for axis in node.args[0].axes}
            return replace(self, indices=below).show(node.args[0])
        return self.operator(node)

    def operator(self, node: Node) -> tuple[str, int]:
        operator = OPERATORS[node.op]
        if operator.kind in ("reduction", "normalisation"):
            return self.over_axes(node)
        if operator.internal and operator.expansion:
            return self.show(instantiate(operator.expansion, dict(zip("ab", node.args, strict=True)), {}))
        shown = [self.show(arg) for arg in node.args]
        if node.op in JOINED:
            word, own = JOINED[node.op]
            operands = [text if tight >= own else f"({text})" for text, tight in shown]
            return f" {word} ".join(operands) if len(operands) > 1 else f"{word} {operands[0]}", own
        if not operator.symbol:
            return f"{WRITTEN.get(node.op, node.op)}({', '.join(text for text, _ in shown)})", ATOM
        own = operator.precedence
        needed = [own + (node.op == "pow"), own + (node.op not in ("add", "mul"))] if len(shown) > 1 else [own]
        operands = [text if tight >= least else f"({text})" for (text, tight), least in zip(shown, needed, strict=True)]
        return f" {operator.symbol} ".join(operands) if len(operands) > 1 else f"-{operands[0]}", own

    def over_axes(self, node: Node) -> tuple[str, int]:
        """A reduction or normalisation; its own indices get other names where one from outside has theirs."""
        outside = set(self.at([axis for axis in node.args[0].axes if axis not in node.over]))
        inside = dict(self.indices)
        for axis in node.over if OPERATORS[node.op].kind == "reduction" else ():
            inside[axis] = fresh(axis, outside)
        below = replace(self, indices=inside)
        options = [f"{key}={number:g}" for key, number in node.data or ()]
        return f"{node.op}[{','.join(inside.get(axis, axis) for axis in node.over)}]({', '.join([below.show(node.args[0])[0], *options])})", ATOM
