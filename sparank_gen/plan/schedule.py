"""Sizes of what a program computes, by which it is decided how it runs: how many rows stay in cache or fit a kernel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from sparank_gen.ir import node as ir
from sparank_gen.ir.node import BATCH, Node, Program
from sparank_gen.ir.parts import factors_of
from sparank_gen.ir.sizes import elements
from sparank_gen.lang.extents import Extent
from sparank_gen.lang.ops import OPERATORS

LISTED = frozenset({"sum", "mean", "prod"})  # combined from a list, one operand at a time
VIEWS = frozenset({"leaf", "constant", "extent", "rename", "select", "stack", "mul"})


def only_moves(program: Program) -> bool:
    """Whether a layer only moves its input, and computes nothing."""
    outputs = [program[name].node for name in program.outputs]
    return all(node.op in ("leaf", "rename", "select", "stack", "concat") for node in ir.reachable(outputs))


def working_set(program: Program, in_kernel: bool) -> Extent | None:
    """How many numbers one row of the batch touches: the sizes of all intermediate results.

    None where there are none worth keeping in cache, as in a layer that only moves its input.

    Args:
        program: a simplified program.
        in_kernel: whether outer products count that are results themselves, and features that are combined as they
            come: a kernel holds them, a cache gains nothing from them.
    """
    total = Extent.number(0)
    nodes = list(ir.reachable(program[name].node for name in program.outputs))
    summed = {node.args[0] for node in nodes if node.op == "sum"}
    for node in reversed(nodes):
        if node.op == "mul" and node in summed:
            summed.update(node.args)
    if not in_kernel:
        summed.update(program[name].node for name in program.outputs)
    for node in nodes:
        is_outer = node.op == "mul" and node not in summed and all(arg.axes < node.axes for arg in node.args)
        if (node.op in VIEWS and not is_outer) or BATCH not in node.axes:
            continue
        total = total + elements(node.axes, program)
        if node.op not in OPERATORS or OPERATORS[node.op].kind != "reduction":
            continue
        if not in_kernel and node.op in LISTED and node.args[0].op == "leaf":
            continue
        if not _is_gemm(node) or (in_kernel and not _is_one_matrix(node, program)):
            total = total + elements(node.args[0].axes, program)
            continue
        total = total + _outer_product(node, program)
    return total if total.terms else None


def largest_operand(program: Program, sizes: Mapping[str, int | float]) -> Extent:
    """The numbers that one row of the largest outer product has that a matrix is applied to, in a layer of these sizes."""
    nodes = ir.reachable(program[name].node for name in program.outputs)
    found = [_outer_product(node, program) for node in nodes if node.op == "sum" and _is_gemm(node)]
    return max(found, key=lambda extent: extent.number_for(sizes), default=Extent.number(0))


def _outer_product(gemm: Node, program: Program) -> Extent:
    """The numbers that one row of what a matrix is applied to has, where that is larger than each of its factors; else 0."""
    rows = [factor.axes for factor in factors_of(gemm.args[0]) if BATCH in factor.axes]
    products = frozenset().union(*rows)
    return Extent.number(0) if products in rows else elements(products, program)


def touches_less(one: Program, other: Program, sizes: Mapping[str, int | float]) -> bool:
    """Whether a row of the output alone touches fewer numbers in ``one`` than in ``other``, in a layer of these sizes."""
    alone = [replace(program, outputs=program.outputs[:1]) for program in (one, other)]
    totals = [working_set(program, in_kernel=False) or Extent.number(0) for program in alone]
    return totals[0].number_for(sizes) < totals[1].number_for(sizes)


def _is_gemm(node: Node) -> bool:
    return any(factor.op == "leaf" and BATCH not in factor.axes for factor in factors_of(node.args[0]))


def _is_one_matrix(node: Node, program: Program) -> bool:
    """Whether the parameter of a contraction is the same matrix at every position of what it is contracted with.

    Others are no products that a kernel's matrix units do: it multiplies entry by entry, and sums.
    """
    factors = factors_of(node.args[0])
    rows = frozenset().union(*(factor.axes for factor in factors if BATCH in factor.axes))
    weights = [factor for factor in factors if factor.op == "leaf" and BATCH not in factor.axes]
    return any(not (weight.axes - set(node.over)) & rows - program.modality_axes for weight in weights)
