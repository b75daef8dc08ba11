"""A program split at its matrix products: what kernels compute before, between and after them.

A stage's products need what kernels computed before, and what follows needs the products. Each product is computed
once: by the library, or by the kernel that follows it, which then walks along what is contracted and owns a tile of
columns beside its tile of rows. That serves where all else in the kernel is elementwise along the columns.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from sparank_gen.ir import node as ir
from sparank_gen.ir.node import BATCH, CUTS, Definition, Node, Program
from sparank_gen.ir.parts import factors_of, product_of
from sparank_gen.ir.sizes import elements
from sparank_gen.ir.verify import verify
from sparank_gen.ir.views import FEATURES
from sparank_gen.lang.extents import Extent
from sparank_gen.lang.ops import OPERATORS
from sparank_gen.lang.widths import owner_of
from sparank_gen.plan.pieces import Buffer, IsUnrolled, free_name, is_unrolled, made_buffer, memory_order


@dataclass(frozen=True)
class Contraction:
    """A sum of products of one stored parameter and a tensor that has rows.

    Attributes:
        weight: the leaf of the parameter.
        operand: what it is contracted with.
    """

    weight: Node
    operand: Node


def contraction_of(node: Node, is_unrolled: IsUnrolled) -> Contraction | None:
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


def whole_tiles(program: Program) -> tuple[Extent, ...]:
    """The numbers that a row has in each tile over several axes that a program must hold as a whole.

    There are none where matrix products split the work: the library computes those of any size.
    """
    nodes = [node for node in ir.reachable(program[name].node for name in program.outputs) if BATCH in node.axes]
    if any(contraction_of(node, partial(is_unrolled, program)) for node in nodes):
        return ()
    lanes = [[axis for axis in sorted(node.axes - {BATCH}) if not is_unrolled(program, axis)] for node in nodes]
    return tuple(dict.fromkeys(elements(frozenset(axes), program) for axes in lanes if len(axes) > 1))


@dataclass(frozen=True)
class Stage:
    """What one kernel computes, and the matrix products that follow it.

    Attributes:
        operands: what the kernel writes for products.
        results: positions, among the results of the program, of those that the kernel writes.
        products: the matrix products that need no later kernel. Each reads a parameter and a tensor in memory.
    """

    operands: tuple[Buffer, ...]
    results: tuple[int, ...]
    products: tuple[Definition, ...]


@dataclass(frozen=True)
class Split:
    """A program in stages; the last one has no products.

    Attributes:
        stages: in the order in which they run.
        results: the nodes of all results, over the features, the parameters, operands and products.
        program: the program, with those of its definitions that the results need, over the same.
        origins: what the products are in the program that was split, by their names.
    """

    stages: tuple[Stage, ...]
    results: tuple[Node, ...]
    program: Program
    origins: Mapping[str, Node]

    def alone(self, names: Collection[str]) -> Split:
        """The same stages, with what leads to the products of these names and nothing else."""
        wanted, stages = set(names), list[Stage]()
        for stage in reversed(self.stages):
            products = tuple(definition for definition in stage.products if definition.name in wanted)
            read = leaf_names(definition.node for definition in products)
            operands = tuple(buffer for buffer in stage.operands if buffer.name in read)
            wanted |= leaf_names(buffer.node for buffer in operands) | read
            stages.append(Stage(operands, (), products))
        return replace(self, stages=tuple(reversed(stages)))


def split_at_contractions(
    program: Program, results: Sequence[Node], buffers: Mapping[Node, Buffer], is_unrolled: IsUnrolled, named: int = 0
) -> Split:
    """Split at every matrix product; anything else is recomputed from the products where it is needed.

    Args:
        program: an expanded program.
        results: what is to be computed.
        buffers: those results, by their nodes, that are in memory as a product reads them.
        is_unrolled: whether an axis is unrolled in kernels.
        named: how many products have names already.
    """
    level: dict[Node, int] = {}
    done: dict[Node, Node] = {}
    operands: dict[int, dict[Node, Buffer]] = {}
    products: dict[int, list[Definition]] = {}
    origins: dict[str, Node] = {}

    def operand_leaf(original: Node, node: Node, at: int) -> Node:
        if node.op == "leaf" and node.data[0] == FEATURES:
            return node
        if original in buffers:
            return ir.leaf(buffers[original].name, buffers[original].axes)
        found = operands.setdefault(at, {})
        if node not in found:
            count = named + sum(map(len, operands.values()))
            order = memory_order(node.axes, program, is_unrolled)
            found[node] = made_buffer(free_name(f"operand_{count + 1}", program), order, node, False, program)
        return ir.leaf(found[node].name, found[node].axes)

    for node in ir.reachable(results):
        level[node] = max((level[arg] for arg in node.args), default=0)
        done[node] = ir.rebuild(node, [done[arg] for arg in node.args])
        contraction = contraction_of(node, is_unrolled)
        if contraction is None:
            continue
        at = max(level[factor] for factor in factors_of(node.args[0]))
        factors = [done[factor] for factor in factors_of(node.args[0]) if factor is not contraction.weight]
        operand = operand_leaf(contraction.operand, product_of(factors), at)
        product = ir.reduce("sum", ir.apply("mul", contraction.weight, operand), node.over)
        name = free_name(f"product_{named + len(origins) + 1}", program)
        axes = memory_order(node.axes, program, is_unrolled)
        products.setdefault(at, []).append(Definition(name, axes, product))
        done[node], level[node], origins[name] = ir.leaf(name, axes), at + 1, node
    stages = []
    for at in range(max(products, default=-1) + 2):
        own = tuple(position for position, root in enumerate(results) if level[root] == at)
        stages.append(Stage(tuple(operands.get(at, {}).values()), own, tuple(products.get(at, ()))))
    definitions = tuple(replace(d, node=done[d.node]) for d in program.definitions if d.node in done)
    split = replace(program, definitions=definitions)
    verify(split, "split_at_contractions", done.values())
    return Split(tuple(stages), tuple(done[root] for root in results), split, origins)


def column_extent(
    written: Iterable[Node], products: Sequence[Definition], program: Program, is_unrolled: IsUnrolled
) -> Extent | None:
    """The extent of the columns along which a kernel that computes ``products`` itself can be tiled.

    None where it cannot be: where a product is no plain one of two matrices, something is reduced, cut or joined along the
    columns, or results have other columns than the products.

    Args:
        written: what the kernel writes, over the products' names.
        products: the products that it computes.
        program: the program that they belong to.
        is_unrolled: whether an axis is unrolled in kernels.
    """

    def lanes(axes: Iterable[str]) -> list[str]:
        return [axis for axis in axes if axis != BATCH and not is_unrolled(axis)]

    found: set[Extent] = set()
    for definition in products:
        contraction = contraction_of(definition.node, is_unrolled)
        assert contraction is not None
        inner, outer = lanes(definition.node.over), lanes(definition.axes)
        if len(inner) != 1 or len(outer) != 1 or lanes(contraction.operand.axes) != inner:
            return None
        found.add(program.extents[outer[0]])
    for root in written:
        if len(lanes(root.axes)) != 1:
            return None
        for node in ir.reachable([root]):
            columns = lanes(node.axes)
            reduces = node.op in OPERATORS and bool(lanes(node.over))
            if len(columns) > 1 or reduces or node.op in CUTS or (node.op == "select" and lanes(node.over)):
                return None
            found.update(program.extents[axis] for axis in columns)
    extent = found.pop() if len(found) == 1 else None
    return extent if extent is not None and owner_of(extent) is None else None


def products_read(roots: Iterable[Node], products: Iterable[Definition]) -> Iterator[Definition]:
    """The products that ``roots`` read."""
    names = leaf_names(roots)
    return (definition for definition in products if definition.name in names)


def leaf_names(roots: Iterable[Node]) -> set[str]:
    """The names of the tensors that ``roots`` read."""
    return {node.data[0] for node in ir.reachable(roots) if node.op == "leaf"}


def with_leaves(nodes: Iterable[Node], leaves: Mapping[Node, Node]) -> dict[Node, Node]:
    """What each of ``nodes``, and all that it is made of, becomes where ``leaves`` stand for what is in memory."""
    done: dict[Node, Node] = {}
    for node in ir.reachable(nodes):
        done[node] = leaves.get(node) or ir.rebuild(node, [done[arg] for arg in node.args])
    return done
