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
from sparank_gen.ir.parts import factors_of, product_of
from sparank_gen.ir.verify import verify
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
    cutter = _Cutter(program, is_unrolled)
    results = [definition for definition in program.definitions if definition.name in program.outputs]
    rows = tuple(definition for definition in results if BATCH in definition.node.axes)
    rest = tuple(replace(d, node=cutter.settle(d.node)) for d in results if BATCH not in d.node.axes)
    left = replace(program, definitions=rest, outputs=tuple(definition.name for definition in rest))
    verify(left, "cut_at_batch_sums", [buffer.node for buffer in cutter.buffers.values()])
    return Cut(rows, tuple(cutter.buffers.values()), left)


class _Cutter:
    """Cuts nodes at contractions over the batch, and makes a buffer for each tensor that these read."""

    def __init__(self, program: Program, is_unrolled: IsUnrolled) -> None:
        self.program = program
        self.is_unrolled = is_unrolled
        self.buffers: dict[tuple[Node, bool], Buffer] = {}
        self.done: dict[Node, Node] = {}

    def settle(self, root: Node) -> Node:
        """``root``, over buffers where it contracts over the batch."""
        for node in ir.reachable([root]):
            if node in self.done:
                continue
            if BATCH in node.over:
                self.done[node] = self.cut(node)
            elif BATCH in node.axes:
                self.done[node] = node
            else:
                self.done[node] = ir.rebuild(node, [self.done[arg] for arg in node.args])
        return self.done[root]

    def cut(self, node: Node) -> Node:
        """A contraction over the batch: of two buffers where it is a matrix product, else of sums over tiles."""
        pair = self.factors_of_product(node)
        if pair is not None:
            left, right = (_sum_own(side, other, node.over) for side, other in (pair, pair[::-1]))
            shared = [axis for axis in node.over if axis in left.axes | right.axes]
            return ir.reduce("sum", ir.apply("mul", self.buffer(left, False), self.buffer(right, False)), shared)
        inner = [axis for axis in node.over if axis != BATCH]
        summed = ir.reduce("sum", node.args[0], inner) if inner else node.args[0]
        return ir.reduce("sum", self.buffer(summed, True), [BATCH])

    def factors_of_product(self, node: Node) -> tuple[Node, Node] | None:
        """The two factors of a contraction that is a matrix product, if it is one."""
        factors = factors_of(node.args[0])
        for position, right in enumerate(factors):
            rest = [*factors[:position], *factors[position + 1 :]]
            if not rest or BATCH not in right.axes or not any(BATCH in factor.axes for factor in rest):
                continue
            left = product_of(rest)
            kept = self.lanes(left) - set(node.over), self.lanes(right) - set(node.over)
            if all(kept) and not kept[0] & kept[1]:
                return left, right
        return None

    def buffer(self, node: Node, is_partial: bool) -> Node:
        """A leaf that stands for ``node`` in memory: its rows, or what the rows of each tile sum up to."""
        if node.op == "leaf" and node.data[0] == FEATURES and not is_partial:
            return node
        key = (node, is_partial)
        if key not in self.buffers:
            axes = memory_order(node.axes, self.program, self.is_unrolled)
            name = free_name(f"{'partial' if is_partial else 'rows'}_{len(self.buffers) + 1}", self.program)
            self.buffers[key] = made_buffer(name, axes, node, is_partial, self.program)
        return ir.leaf(self.buffers[key].name, self.buffers[key].axes)

    def lanes(self, node: Node) -> set[str]:
        return {axis for axis in node.axes if axis != BATCH and not self.is_unrolled(axis)}


def free_name(name: str, program: Program) -> str:
    """``name``, or one like it that no tensor of ``program`` has."""
    return free_name(f"{name}_", program) if name in program.tensors else name


def memory_order(axes: Iterable[str], program: Program, is_unrolled: IsUnrolled) -> tuple[str, ...]:
    """How a kernel lays out what it writes: modalities, rows, and what a row has.

    So the rows of a modality are a matrix, as the library multiplies it, like the features.
    """
    order = [axis for axis in program.extents if axis in axes and axis != BATCH]
    first = [axis for axis in order if program.extents[axis] == program.extents["m"]]
    rest = [axis for axis in order if axis not in first]
    return (*first, BATCH, *sorted(rest, key=lambda axis: not is_unrolled(axis)))


def _sum_own(node: Node, other: Node, over: tuple[str, ...]) -> Node:
    """``node`` summed over what it alone has of ``over``."""
    own = [axis for axis in over if axis in node.axes and axis not in other.axes and axis != BATCH]
    return ir.reduce("sum", node, own) if own else node
