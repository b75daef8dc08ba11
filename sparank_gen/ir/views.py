"""Reading a node at indices of one's own: renamed axes, fixed positions, and windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sparank_gen.ir import node as ir
from sparank_gen.ir.node import BATCH, FIXED, Index, Node, Program, Window, axis_of
from sparank_gen.lang import widths
from sparank_gen.lang.extents import Extent
from sparank_gen.lang.layouts import Layout

FEATURES = "h"


def feature_leaf(axes: Sequence[str], slots: Sequence[Extent], extents: Mapping[str, Extent]) -> Node:
    """The features as a result, with the indices that ``axes`` have for ``slots``."""
    left, indices = [axis for axis in axes if axis != BATCH], list[str]()
    for slot in slots:
        moves = {"m": indices[0]} if indices else {}
        indices.append(next(axis for axis in left if extents[axis] == widths.read_at(slot, moves)))
        left.remove(indices[-1])
    return ir.leaf(FEATURES, (BATCH, *indices))


def result_node(program: Program, layout: Layout) -> Node:
    """The node that ``layout`` lays out: a definition, or the features themselves."""
    if layout.name != FEATURES:
        return program[layout.name].node
    return feature_leaf(layout.axes, program.tensors[FEATURES].slots, program.extents)


def read_leaf(name: str, axes: Sequence[str], indices: Sequence[Index]) -> Node:
    """The tensor ``name``, whose dimensions ``axes`` name, at ``indices``."""
    if any(isinstance(index, Window) for index in indices):
        return read_at(ir.leaf(name, axes), axes, indices)
    return ir.leaf(name, indices)


def read_at(node: Node, axes: Sequence[str], indices: Sequence[Index]) -> Node:
    """``node`` with each of ``axes`` read at the index that stands in its place."""
    moves: dict[str, str | Window] = {}
    for axis, index in zip(axes, indices, strict=True):
        if isinstance(index, FIXED):
            node = ir.select(node, axis, index)
        elif index != axis:
            moves[axis] = index
    while moves:
        # No move may land on an axis that has yet to move. Windows lead to shorter axes, so that renamings alone form
        # rings, and those are done at once.
        ready = {axis: to for axis, to in moves.items() if axis_of(to) not in moves} or moves
        node = ir.rename(node, {axis: to for axis, to in ready.items() if isinstance(to, str)})
        for axis, to in ready.items():
            if isinstance(to, Window):
                node = ir.slice_of(node, axis, to)
        moves = {axis: to for axis, to in moves.items() if axis not in ready}
    return node
