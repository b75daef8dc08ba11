"""Contractions of one tensor with every slice of one parameter, as one contraction and views of it.

``W[0,…]·x``, ``W[1,…]·x`` and ``W[2,…]·x`` become views of ``W[p,…]·x``: one GEMM instead of three. A bias that is sliced
with them is added to all at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from sparank_gen.ir import node as ir
from sparank_gen.ir.node import Node, Program
from sparank_gen.ir.parts import sum_of, terms_of
from sparank_gen.ir.rewrite import rewrite
from sparank_gen.ir.verify import verified
from sparank_gen.lang.layouts import Layout


@verified
def merge_contractions(program: Program, layouts: Mapping[str, Layout]) -> Program:
    """``program`` with contractions of slices merged, where there is one for each slice.

    Args:
        program: any program.
        layouts: the layout of each parameter tensor.
    """
    slices = _Slices(layouts, program.modality_axes)
    positions: dict[tuple[Node, str], set[int]] = {}
    for node in ir.reachable(definition.node for definition in program.definitions):
        found = slices.of(node)
        if found is not None:
            positions.setdefault((found.whole, found.axis), set()).add(found.position)
    complete = {key for key, known in positions.items() if 1 < len(known) == program.extents[key[1]].constant}

    def merge(node: Node) -> Node | None:
        found = slices.of(node)
        return found.view if found is not None and (found.whole, found.axis) in complete else None

    def absorb_bias(node: Node) -> Node | None:
        """``(W·x)[p=0] + c[0]`` is ``(W·x + c)[p=0]``, wherever the two stand in a sum."""
        terms = terms_of(node) if node.op == "add" else []
        views = [k for k, term in enumerate(terms) if _picked(term).op == "select"]
        biases = [k for k, term in enumerate(terms) if views and slices.fixed(term) is not None]
        for view, bias in itertools.product(views, biases):
            taken_up = slices.with_bias(terms[view], terms[bias])
            if taken_up is not None:
                return sum_of([taken_up if k == view else term for k, term in enumerate(terms) if k != bias])
        return None

    return rewrite(program, (merge, absorb_bias))


def _picked(view: Node) -> Node:
    """What is renamed, or ``view`` itself."""
    return view.args[0] if view.op == "rename" else view


@dataclass(frozen=True)
class _Slice:
    """A contraction with one slice of a parameter.

    Attributes:
        whole: the contraction with all of it.
        axis: the axis that the slices lie along.
        position: which of them this is.
        names: what axes of ``whole`` are called here.
    """

    whole: Node
    axis: str
    position: int
    names: Mapping[str, str]

    @property
    def view(self) -> Node:
        """The same, read from the contraction with all of the parameter."""
        return ir.rename(ir.select(self.whole, self.axis, self.position), self.names)


@dataclass(frozen=True)
class _Slices:
    """What is read of slices of parameters.

    Attributes:
        layouts: the layout of each parameter tensor.
        modality: the axes over modalities.
    """

    layouts: Mapping[str, Layout]
    modality: frozenset[str]

    def of(self, node: Node) -> _Slice | None:
        """The contraction that ``node`` is with one slice of a parameter, or None."""
        if node.op != "sum" or node.args[0].op != "mul":
            return None
        orders = (node.args[0].args, node.args[0].args[::-1])
        return next((found for order in orders if (found := self._contraction(node, *order)) is not None), None)

    def _contraction(self, node: Node, parameter: Node, operand: Node) -> _Slice | None:
        """The same, where the factors are in this order."""
        fixed = self.fixed(parameter)
        if fixed is None or fixed[0] in node.args[0].axes:
            return None
        axis, position, whole = fixed
        indices = parameter.data[1]
        # Slices that lie next to each other within the rows of the result would be views of every second number.
        if any(index not in node.over and index not in self.modality for index in indices[: indices.index(position)]):
            return None
        names: dict[str, str] = {}
        if operand.op == "leaf":
            axes = [index for index in operand.data[1] if index in self.modality]
            if len(axes) == 1 and "m" not in node.args[0].axes and axes[0] not in {*parameter.axes, *node.over}:
                # Features are the same under another name of their axis.
                names = {"m": axes[0]}
                operand = ir.leaf(operand.data[0], ["m" if index == axes[0] else index for index in operand.data[1]])
        return _Slice(ir.reduce("sum", ir.apply("mul", whole, operand), node.over), axis, position, names)

    def fixed(self, leaf: Node) -> tuple[str, int, Node] | None:
        """For a parameter read at one position: the axis of the layout that it is of, the position, and the whole of it."""
        if leaf.op != "leaf" or leaf.data[0] not in self.layouts:
            return None
        name, indices = leaf.data
        slots = [slot for slot, index in enumerate(indices) if isinstance(index, int)]
        if len(slots) != 1:
            return None
        axis = self.layouts[name].axes[slots[0]]
        return axis, indices[slots[0]], ir.leaf(name, [axis if slot in slots else index for slot, index in enumerate(indices)])

    def with_bias(self, view: Node, bias: Node) -> Node | None:
        """The sum of a view of a contraction and a slice of a bias, as a view of a sum; None where they are no such."""
        names = dict(view.data) if view.op == "rename" else {}
        picked, fixed = _picked(view), self.fixed(bias)
        if fixed is None or fixed[:2] != (*picked.over, picked.data):
            return None
        axis, position, whole = fixed
        if bias.axes & {*names, *names.values(), axis}:
            return None
        return ir.rename(ir.select(ir.apply("add", picked.args[0], whole), axis, position), names)
