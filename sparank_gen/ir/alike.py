"""One quantity under several names of its axes, computed once.

``sum[i](h[t,i] * h[t,i])`` and ``sum[i](h[u,i] * h[u,i])`` are the same numbers where ``t`` and ``u`` run over the same
positions: one of the two is a view of the other.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from sparank_gen.ir import node as ir
from sparank_gen.ir.node import BATCH, CUTS, Node, Program
from sparank_gen.ir.verify import verified
from sparank_gen.lang.extents import Extent
from sparank_gen.lang.ops import OPERATORS
from sparank_gen.lang.widths import owner_of


@verified
def computed_once(program: Program) -> Program:
    """``program`` with one node for what is the same but for the names of axes.

    Definitions stay, as the math gives them their names, and so does what only moves numbers.
    """
    forms = _Forms(program.extents)
    named = {definition.node for definition in program.definitions}
    first: dict[int, Node] = {}
    instead: dict[Node, Node] = {}
    for node in ir.reachable(definition.node for definition in program.definitions):
        number, axes = forms.of(node)
        if node.op in OPERATORS and BATCH in node.axes:
            other = first.setdefault(number, node)
            if other is not node and node not in named:
                instead[node] = ir.rename(other, dict(zip(forms.of(other)[1], axes, strict=True)))
    return program.mapped(_replaced(program, instead)) if instead else program


def _replaced(program: Program, instead: Mapping[Node, Node]) -> dict[Node, Node]:
    """The definitions' nodes, the outermost of what is the same as others replaced by views of these."""
    done: dict[Node, Node] = {}

    def below(node: Node) -> tuple[Node, ...]:
        return (instead[node],) if node in instead else node.args

    def value(node: Node) -> Node:
        return done[instead[node]] if node in instead else ir.rebuild(node, [done[arg] for arg in node.args])

    for definition in program.definitions:
        ir.bottom_up(definition.node, below, value, done)
    return done


class _Forms:
    """What nodes are but for the names of their axes: a number that is equal for the same quantity, and the names of its axes."""

    def __init__(self, extents: Mapping[str, Extent]) -> None:
        self.extents = extents
        self.numbers: dict[Hashable, int] = {}
        self.known: dict[Node, tuple[int, tuple[str, ...]]] = {}

    def of(self, node: Node) -> tuple[int, tuple[str, ...]]:
        """The form of a node whose operands were asked for."""
        if node.op == "rename":
            names, (number, axes) = dict(node.data), self.of(node.args[0])
            return number, tuple(names.get(axis, axis) for axis in axes)
        if node not in self.known:
            key, axes = self._form(node)
            self.known[node] = self.numbers.setdefault(key, len(self.numbers)), axes
        return self.known[node]

    def _form(self, node: Node) -> tuple[Hashable, tuple[str, ...]]:
        # Positions along an axis that depends on another are not those along one that depends on a third.
        if node.op in CUTS or node.op == "position" or any(owner_of(self.extents[axis]) for axis in node.axes):
            return node, tuple(sorted(node.axes))
        places: dict[str, int] = {}

        def place(axis: str) -> tuple[int, Extent]:
            return places.setdefault(axis, len(places)), self.extents[axis]

        if node.op == "leaf":
            name, indices = node.data
            parts: Hashable = (name, *(place(index) if isinstance(index, str) else index for index in indices))
        else:
            operands = [self.of(arg) for arg in node.args]
            parts = (str(node.data), node.data, *((number, *map(place, axes)) for number, axes in operands))
        over = tuple(sorted(map(place, node.over)))
        return (node.op, over, parts), tuple(axis for axis in places if axis in node.axes)
