"""What a kernel moves and computes, and the least time that takes on a chip."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sparank_gen.ir import node as ir
from sparank_gen.ir.node import BATCH, Node, Program
from sparank_gen.ir.parts import factors_of
from sparank_gen.ir.sizes import elements
from sparank_gen.lang.extents import Extent


@dataclass(frozen=True)
class Cost:
    """What one launch of a kernel has to do.

    Attributes:
        moved: bytes from and to device memory.
        operations: floating-point operations of its matrix products.
    """

    moved: int
    operations: int

    def transfer_time(self, bandwidth: float) -> float:
        """Seconds to move the bytes, at ``bandwidth`` bytes a second."""
        return self.moved / bandwidth

    def product_time(self, rate: float) -> float:
        """Seconds to compute the matrix products, at ``rate`` operations a second."""
        return self.operations / rate

    def floor(self, bandwidth: float, rate: float) -> float:
        """Seconds below which no launch can be: the longer of the two, as a chip does both at once."""
        return max(self.transfer_time(bandwidth), self.product_time(rate))


def operations_per_row(roots: Iterable[Node], program: Program) -> Extent:
    """Floating-point operations of all matrix products that ``roots`` need, for one row of the batch.

    A product of a row of K numbers with a K x N parameter counts 2 * K * N, once for each modality it is made for;
    each node of the graph counts once. Elementwise work, and products of two values that both have rows, count
    nothing: matrix units do not do them, and they are small beside the rest.

    Args:
        roots: what a kernel stores.
        program: the program that they belong to.
    """
    total = Extent.number(0)
    for node in ir.reachable(roots):
        if is_matrix_product(node):
            total = total + Extent.number(2) * elements(node.args[0].axes, program)
    return total


def is_matrix_product(node: Node) -> bool:
    """Whether a node sums products of a value that has rows and one parameter that brings axes of its own."""
    if node.op != "sum" or BATCH in node.over:
        return False
    factors = factors_of(node.args[0])
    for position, weight in enumerate(factors):
        if weight.op != "leaf" or BATCH in weight.axes:
            continue
        rest = frozenset().union(*(f.axes for f in (*factors[:position], *factors[position + 1 :])))
        if BATCH in rest and weight.axes & set(node.over) & rest and weight.axes - rest:
            return True
    return False


def bytes_moved(arguments: Iterable[Any]) -> int:
    """Bytes of all tensors among a launch's arguments.

    Each tensor counts once, as if everything that is read again came from a cache.
    """
    found = {id(x): x for x in _tensors(arguments)}
    return sum(x.numel() * x.element_size() for x in found.values())


def _tensors(arguments: Iterable[Any]) -> Iterator[Any]:
    for argument in arguments:
        if isinstance(argument, tuple):
            yield from _tensors(argument)
        elif not isinstance(argument, int):
            yield argument
