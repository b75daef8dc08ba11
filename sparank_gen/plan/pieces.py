"""A program cut into what one kernel computes for a tile of rows, and what torch computes from its results.

Everything that has the batch axis stays with the rows. A contraction over the batch, which only derivatives have, is
cut where it reduces: a product of two tensors with axes of their own goes to the library's GEMM, any other is summed
over the rows of a tile in the kernel, and over the tiles afterwards, in one fixed order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from sparank_gen.ir import node as ir
from sparank_gen.ir.node import BATCH, Definition, Node, Program
from sparank_gen.ir.simplify import factors_of, product_of
from sparank_gen.ir.views import FEATURES
from sparank_gen.lang.widths import owner_among

IsUnrolled = Callable[[str], bool]
LARGEST_UNROLLED = 4


def is_unrolled(program: Program, axis: str) -> bool:
    """Whether an axis becomes a tuple of tiles: one over modalities, or of a small extent that is known."""
    known = program.extents[axis].constant
    return program.extents[axis] == program.extents["m"] or (known is not None and known <= LARGEST_UNROLLED)


@dataclass(frozen=True)
class Buffer:
    """What the kernel hands over.

    Attributes:
        name: its name.
        axes: its dimensions; the batch axis stands for the tiles where it is partial.
        node: what it holds.
        partial: whether the rows of each tile are summed.
        listed: the axis along which there is one buffer for each position, as their sizes differ; or None.
    """

    name: str
    axes: tuple[str, ...]
    node: Node
    partial: bool
    listed: str | None = None


def made_buffer(name: str, axes: tuple[str, ...], node: Node, partial: bool, program: Program) -> Buffer:
    """A buffer with these dimensions; a list of them where some differ from modality to modality."""
    listed = owner_among(axes, program.extents)
    return Buffer(name, axes, node, partial, listed)


@dataclass(frozen=True)
class Cut:
    """A program in two pieces.

    Attributes:
        rows: the definitions that have rows, computed by the kernel.
        buffers: what the kernel writes beside them.
        rest: the program of what has no rows, over the buffers.
    """

    rows: tuple[Definition, ...]
    buffers: tuple[Buffer, ...]
    rest: Program


def cut_at_batch_sums(program: Program, is_unrolled: IsUnrolled) -> Cut:
    """Cut ``program`` at its contractions over the batch.

    Args:
        program: an adjoint program.
        is_unrolled: whether an axis is unrolled in kernels.
    """
    buffers: dict[tuple[Node, bool], Buffer] = {}

    def buffer(node: Node, partial: bool) -> Node:
        if node.op == "leaf" and node.data[0] == FEATURES and not partial:
            return node
        key = (node, partial)
        if key not in buffers:
            axes = memory_order(node.axes, program, is_unrolled)
            name = ("partial" if partial else "rows") + (f"_{len(buffers) + 1}")
            buffers[key] = made_buffer(name, axes, node, partial, program)
        return ir.leaf(buffers[key].name, buffers[key].axes)

    def lanes(node: Node) -> set[str]:
        return {axis for axis in node.axes if axis != BATCH and not is_unrolled(axis)}

    def split_product(node: Node) -> tuple[Node, Node] | None:
        """The two factors of a contraction that is a matrix product, if it is one."""
        factors = factors_of(node.args[0])
        for position, right in enumerate(factors):
            rest = [*factors[:position], *factors[position + 1 :]]
            if not rest or BATCH not in right.axes or not any(BATCH in factor.axes for factor in rest):
                continue
            left = product_of(rest)
            kept = lanes(left) - set(node.over), lanes(right) - set(node.over)
            if all(kept) and not kept[0] & kept[1]:
                return left, right
        return None

    def replaced(node: Node) -> Node:
        pair = split_product(node)
        if pair is not None:
            left, right = (_sum_own(side, other, node.over) for side, other in (pair, pair[::-1]))
            shared = [axis for axis in node.over if axis in left.axes | right.axes]
            return ir.reduce("sum", ir.apply("mul", buffer(left, False), buffer(right, False)), shared)
        inner = [axis for axis in node.over if axis != BATCH]
        summed = ir.reduce("sum", node.args[0], inner) if inner else node.args[0]
        return ir.reduce("sum", buffer(summed, True), [BATCH])

    done: dict[Node, Node] = {}

    def settle(root: Node) -> Node:
        for node in ir.reachable([root]):
            if node in done:
                continue
            if BATCH in node.over:
                done[node] = replaced(node)
            elif BATCH in node.axes:
                done[node] = node
            else:
                done[node] = ir.rebuild(node, [done[arg] for arg in node.args])
        return done[root]

    rows = tuple(d for d in program.definitions if d.name in program.outputs and BATCH in d.node.axes)
    rest = tuple(
        replace(d, node=settle(d.node)) for d in program.definitions if d.name in program.outputs and BATCH not in d.node.axes
    )
    left = replace(program, definitions=rest, outputs=tuple(definition.name for definition in rest))
    return Cut(rows, tuple(buffers.values()), left)


def memory_order(axes: Iterable[str], program: Program, is_unrolled: IsUnrolled) -> tuple[str, ...]:
    """How a kernel lays out what it writes: unrolled axes, rows, and the lanes of a row."""
    order = [axis for axis in program.extents if axis in axes and axis != BATCH]
    first = [axis for axis in order if is_unrolled(axis)]
    return (*first, BATCH, *(axis for axis in order if axis not in first))


def _sum_own(node: Node, other: Node, over: tuple[str, ...]) -> Node:
    """``node`` summed over what it alone has of ``over``."""
    own = [axis for axis in over if axis in node.axes and axis not in other.axes and axis != BATCH]
    return ir.reduce("sum", node, own) if own else node
