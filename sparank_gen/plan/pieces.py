"""A program cut into what one kernel computes for a tile of rows, and what torch computes from its results.

Everything that has the batch axis stays with the rows. A contraction over the batch, which only derivatives have, is
cut where it reduces: a product of two tensors with axes of their own goes to the library's GEMM, any other is summed
over the rows of a tile in the kernel, and over the tiles afterwards, in one fixed order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from sparank_gen.ir import node as ir
from sparank_gen.ir.node import BATCH, Definition, Node, Program
from sparank_gen.ir.simplify import factors_of, product_of
from sparank_gen.plan.schedule import FEATURES


@dataclass(frozen=True)
class Buffer:
    """What the kernel hands over.

    Attributes:
        name: its name.
        axes: its dimensions; the batch axis stands for the tiles where it is partial.
        node: what it holds.
        partial: whether the rows of each tile are summed.
    """

    name: str
    axes: tuple[str, ...]
    node: Node
    partial: bool


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


def cut_at_batch_sums(program: Program, is_unrolled: Callable[[str], bool]) -> Cut:
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
            order = [axis for axis in program.extents if axis in node.axes and axis != BATCH]
            first = [axis for axis in order if is_unrolled(axis)]
            axes = (*first, BATCH, *(axis for axis in order if axis not in first))
            name = ("partial" if partial else "rows") + (f"_{len(buffers) + 1}")
            buffers[key] = Buffer(name, axes, node, partial)
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


def _sum_own(node: Node, other: Node, over: tuple[str, ...]) -> Node:
    """``node`` summed over what it alone has of ``over``."""
    own = [axis for axis in over if axis in node.axes and axis not in other.axes and axis != BATCH]
    return ir.reduce("sum", node, own) if own else node


@dataclass(frozen=True)
class Contraction:
    """A sum of products of one stored parameter and a tensor that has rows.

    Attributes:
        weight: the leaf of the parameter.
        operand: what it is contracted with.
    """

    weight: Node
    operand: Node


def contraction_of(node: Node, is_unrolled: Callable[[str], bool]) -> Contraction | None:
    """The matrix product that ``node`` is, if it is one: contracted, and free, axes that are no unrolled ones."""
    if node.op != "sum" or BATCH in node.over:
        return None
    factors, over = factors_of(node.args[0]), set(node.over)
    for position, weight in enumerate(factors):
        rest = [*factors[:position], *factors[position + 1 :]]
        if weight.op != "leaf" or BATCH in weight.axes or not any(BATCH in factor.axes for factor in rest):
            continue
        operand = product_of(rest)
        lanes = {axis for axis in weight.axes if not is_unrolled(axis)}
        outer = lanes - over
        if over <= weight.axes & operand.axes and over & lanes and outer and not outer & operand.axes:
            return Contraction(weight, operand)
    return None


@dataclass(frozen=True)
class Stage:
    """One step of a program that is split at its matrix products: the kernel's results, then the products of them."""

    operands: tuple[Buffer, ...]
    products: tuple[Definition, ...]


def split_at_contractions(
    program: Program, roots: tuple[Node, ...], is_unrolled: Callable[[str], bool]
) -> tuple[tuple[Stage, ...], tuple[Node, ...]]:
    """The stages before the last kernel, and ``roots`` over what the stages computed.

    Each product is computed once, by the library; everything else is recomputed from products where it is needed.
    """
    level: dict[Node, int] = {}
    done: dict[Node, Node] = {}
    operands: dict[int, dict[Node, Buffer]] = {}
    products: dict[int, list[Definition]] = {}

    def ordered(node: Node) -> tuple[str, ...]:
        order = [axis for axis in program.extents if axis in node.axes and axis != BATCH]
        first = [axis for axis in order if is_unrolled(axis)]
        return (*first, BATCH, *(axis for axis in order if axis not in first))

    def operand_leaf(node: Node, at: int) -> Node:
        if node.op == "leaf" and node.data[0] == FEATURES:
            return node
        found = operands.setdefault(at, {})
        if node not in found:
            found[node] = Buffer(f"operand_{sum(map(len, operands.values())) + 1}", ordered(node), node, False)
        return ir.leaf(found[node].name, found[node].axes)

    for node in ir.reachable(roots):
        contraction = contraction_of(node, is_unrolled)
        if contraction is None:
            done[node] = ir.rebuild(node, [done[arg] for arg in node.args])
            level[node] = max((level[arg] for arg in node.args), default=0)
            continue
        factors = [factor for factor in factors_of(node.args[0]) if factor is not contraction.weight]
        at = max(level[factor] for factor in factors)
        operand = operand_leaf(product_of([done[factor] for factor in factors]), at)
        product = ir.reduce("sum", ir.apply("mul", contraction.weight, operand), node.over)
        name = f"product_{sum(map(len, products.values())) + 1}"
        axes = ordered(node)
        products.setdefault(at, []).append(Definition(name, axes, product))
        done[node], level[node] = ir.leaf(name, axes), at + 1
    stages = tuple(
        Stage(tuple(operands.get(at, {}).values()), tuple(products.get(at, ())))
        for at in range(max([*products, -1]) + 1)
    )
    return stages, tuple(done[root] for root in roots)
