"""A program for a known number of modalities: what runs over them is written out where that is shorter."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

from sparank_gen.ir import node as ir
from sparank_gen.ir.node import Definition, Node, Program
from sparank_gen.ir.parts import factors_of
from sparank_gen.ir.rewrite import Rule, rewrite
from sparank_gen.ir.simplify import simplify
from sparank_gen.ir.verify import verified
from sparank_gen.lang.extents import Extent
from sparank_gen.lang.ops import OPERATORS
from sparank_gen.lang.widths import owners


@verified
def fix_modalities(program: Program, count: int, parameters: frozenset[str]) -> Program:
    """``program`` for exactly ``count`` modalities, with what that makes possible.

    A softmax over two is a sigmoid of the difference and one of its negative, and a reduction over pieces that are known one by
    one is written out, so that mixtures of two appear. What is read at all positions one by one is computed so, and what is
    needed as a whole anyway is not computed again at one position.

    Args:
        program: any program.
        count: the number of modalities.
        parameters: the names of the parameter tensors.
    """
    rules = _rules(program, count)
    places = [(d, axis) for d in program.definitions for axis in d.axes if axis in program.modality_axes & d.node.axes]
    probes = [
        Definition("", tuple(other for other in d.axes if other != axis), ir.select(d.node, axis, position))
        for d, axis in places
        for position in range(count)
    ]
    probed = replace(program, definitions=(*program.definitions, *probes))
    found = simplify(rewrite(probed, (*rules, push_select(program, parameters))))
    own = len(program.definitions)
    pieces = iter(definition.node for definition in found.definitions[own:])
    positions = {(d.name, axis): list(itertools.islice(pieces, count)) for d, axis in places}
    return simplify(rewrite(_computed_once(replace(found, definitions=found.definitions[:own]), positions), rules))


def _rules(program: Program, count: int) -> tuple[Rule, ...]:
    """What a known number of modalities makes possible."""
    pieces = Pieces()

    def extent_of(axis: str) -> int | None:
        return program.extents[axis].substitute("modalities", Extent.number(count)).constant

    def pair_softmax(node: Node) -> Node | None:
        if node.op != "softmax" or len(node.over) != 1 or extent_of(node.over[0]) != 2:
            return None
        (axis,) = node.over
        difference = ir.apply("sub", ir.select(node.args[0], axis, 0), ir.select(node.args[0], axis, 1))
        # One minus the first would be zero where the second is merely small.
        return ir.stack([ir.apply("sigmoid", difference), ir.apply("sigmoid", ir.apply("neg", difference))], axis)

    def unroll(node: Node) -> Node | None:
        if node.op not in ("sum", "mean") or len(node.over) != 1 or node.over[0] not in pieces.along(node.args[0]):
            return None
        (axis,) = node.over
        size = extent_of(axis)
        assert size is not None
        total = pieces.pick(node.args[0], axis, 0)
        for position in range(1, size):
            total = ir.apply("add", total, pieces.pick(node.args[0], axis, position))
        return total if node.op == "sum" else ir.apply("div", total, ir.constant(size))

    def known_extent(node: Node) -> Node | None:
        if node.op != "extent" or "modalities" not in node.data.symbols:
            return None
        return ir.extent(node.data.substitute("modalities", Extent.number(count)))

    return pair_softmax, unroll, known_extent


def _computed_once(program: Program, positions: Mapping[tuple[str, str], Sequence[Node]]) -> Program:
    """``program`` with no definition computed both as a whole and at positions of a modality axis.

    Args:
        program: any program.
        positions: definitions at each position of such an axis, by their names and the axis.
    """
    needed = set(ir.reachable(program[name].node for name in program.outputs))
    instead: dict[Node, Node] = {}
    first: list[Node] = []
    for (name, axis), pieces in positions.items():
        whole = program[name].node
        is_stored = any(not piece.args or piece.op == "select" for piece in pieces)
        if whole.op == "stack" or whole in instead or axis not in whole.axes or is_stored:
            continue
        read = [piece for piece in pieces if piece in needed]
        if len(read) == len(pieces) and all(piece.axes == whole.axes - {axis} for piece in pieces):
            instead[whole] = ir.stack(pieces, axis)
            first += pieces
        elif whole in needed:
            instead.update((piece, ir.select(whole, axis, pieces.index(piece))) for piece in read)
            first.append(whole)
    done: dict[Node, Node] = {}
    for node in ir.reachable([*first, *(definition.node for definition in program.definitions)]):
        better = instead.get(node, node)
        # What an earlier definition shares with a piece comes before the whole that it would be read from.
        better = better if all(arg in done for arg in better.args) else node
        done[node] = ir.rebuild(better, [done[arg] for arg in better.args])
    return program.mapped(done)


class Pieces:
    """Nodes at one position of an axis, read below pointwise work and views where a stack along the axis stands there."""

    def __init__(self) -> None:
        self.stacked: dict[Node, frozenset[str]] = {}
        self.picked: dict[tuple[Node, str, int], Node] = {}

    def along(self, root: Node) -> frozenset[str]:
        """The axes of stacks under ``root`` with nothing but pointwise work and views between."""
        for node in ir.reachable([root], self.stacked):
            if node.op == "stack":
                self.stacked[node] = frozenset(node.over)
            elif node.op == "rename":
                names = dict(node.data)
                self.stacked[node] = frozenset(names.get(axis, axis) for axis in self.stacked[node.args[0]])
            else:
                self.stacked[node] = frozenset().union(*(self.stacked[arg] for arg in node.args if _is_pointwise(node)))
        return self.stacked[root]

    def pick(self, root: Node, axis: str, position: int) -> Node:
        """``root`` at one position of ``axis``."""
        return ir.bottom_up((root, axis, position), lambda key: self.below(*key), lambda key: self.made(*key), self.picked)

    def below(self, node: Node, axis: str, position: int) -> list[tuple[Node, str, int]]:
        """What has to be picked for ``node`` to be."""
        if axis not in self.along(node) or node.op == "stack":
            return []
        return [(arg, _name_below(node, axis), position) for arg in node.args]

    def made(self, node: Node, axis: str, position: int) -> Node:
        """``node`` at one position, of what is picked."""
        if axis not in node.axes:
            return node
        below = [self.picked[key] for key in self.below(node, axis, position)]
        if node.op == "stack" and node.over == (axis,) and node.args[position].axes == node.axes - {axis}:
            return node.args[position]
        if node.op == "rename" and below:
            return ir.rename(below[0], dict(node.data))
        return ir.make(node.op, below) if below else ir.select(node, axis, position)


def _is_pointwise(node: Node) -> bool:
    return node.op in OPERATORS and OPERATORS[node.op].kind == "pointwise"


def _name_below(node: Node, axis: str) -> str:
    """What ``axis`` is called in the operands of a node."""
    return {new: old for old, new in node.data}.get(axis, axis) if node.op == "rename" else axis


def push_select(program: Program, parameters: frozenset[str]) -> Rule:
    """A position of a modality axis is read at the leaves where it can be, so that only that modality is computed."""
    modality_axes = program.modality_axes

    known: dict[tuple[Node, str], bool] = {}

    def reaches_leaves(node: Node, axis: str) -> bool:
        """Whether reading ``node`` at one position of ``axis`` needs only that position of everything below."""
        return ir.bottom_up((node, axis), below, reaches, known)

    def below(key: tuple[Node, str]) -> list[tuple[Node, str]]:
        return [(arg, _name_below(*key)) for arg in key[0].args] if own_answer(*key) is None else []

    def reaches(key: tuple[Node, str]) -> bool:
        own = own_answer(*key)
        return all(known[other] for other in below(key)) if own is None else own

    def own_answer(node: Node, axis: str) -> bool | None:
        """The same where it can be told without what is below; else None."""
        if axis in owners(node.axes, program.extents).values():
            return False
        if axis not in node.axes or node.op in ("leaf", "stack"):
            return True
        # What is computed at one position may round otherwise, and equals nothing then that was computed as a whole.
        if node.op == "eq":
            return False
        if node.op == "rename":
            return None
        if node.op not in OPERATORS or axis in node.over:
            return False
        factors = factors_of(node.args[0]) if node.op == "sum" else []
        is_map = any(f.op == "leaf" and f.data[0] in parameters and axis not in f.axes for f in factors)
        return False if is_map else None

    def rule(node: Node) -> Node | None:
        if node.op != "select" or node.over[0] not in modality_axes or not reaches_leaves(node.args[0], node.over[0]):
            return None
        (axis,), argument = node.over, node.args[0]

        def at(operand: Node, name: str = axis) -> Node:
            return ir.select(operand, name, node.data) if name in operand.axes else operand

        if argument.op == "leaf":
            name, indices = argument.data
            return ir.leaf(name, [node.data if index == axis else index for index in indices])
        if argument.op == "stack":
            if argument.over == (axis,):
                piece = argument.args[node.data]
                return piece if piece.axes == node.axes else None
            return ir.stack([at(piece) for piece in argument.args], argument.over[0])
        if argument.op == "rename":
            names = dict(argument.data)
            return ir.rename(at(argument.args[0], _name_below(argument, axis)), names)
        return ir.make(argument.op, [at(operand) for operand in argument.args], argument.over, argument.data)

    return rule
