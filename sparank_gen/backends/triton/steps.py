"""What a function that runs a pass consists of: kernels, statements around them, and the ways to combine these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sparank_gen.backends.triton.scope import Storage
from sparank_gen.lang.extents import Extent


@dataclass(frozen=True)
class Kernel:
    """One kernel.

    Attributes:
        name: its function's name.
        title: what it computes.
        pointers: its arguments that point to tensors, with how a launch passes each.
        body: its statements.
        operations: the floating-point operations of its matrix products, for one row.
        columns: where it owns a tile of columns, the constant that is the tile's width, and the columns' extent.
        held: where it walks over tiles of rows, how many numbers of weights it holds meanwhile.
    """

    name: str
    title: str
    pointers: tuple[tuple[str, str], ...]
    body: tuple[str, ...]
    operations: Extent
    columns: tuple[str, str] | None = None
    held: Extent | None = None


@dataclass(frozen=True)
class Product:
    """A matrix product of the library, in memory.

    Attributes:
        storage: how it lies there; it is named as the product is.
        code: an expression, or the expressions of a tuple, that pass it to a kernel.
        shape: its shape, or that of each of its tensors.
        loop: the loop over these, where it is a list.
        listed: how many they are.
    """

    storage: Storage
    code: str
    shape: str
    loop: str = ""
    listed: Extent | None = None

    @property
    def name(self) -> str:
        return self.storage.name

    @property
    def item(self) -> str:
        """Its tensors, as they are written in a list of others."""
        starred = f"({self.code})" if " for " in self.code else self.code
        return self.code if self.listed is None else f"*{starred}"


@dataclass(frozen=True)
class Step:
    """One step of a function: buffers to allocate, a kernel to launch, statements that follow.

    Attributes:
        buffers: name, shape, the loop where there is one for each modality, and whether it holds partial sums, of each
            buffer that the kernel writes.
        kernel: the kernel, or None.
        lines: torch statements.
        products: the matrix products that these compute.
    """

    buffers: tuple[tuple[str, str, str, bool], ...]
    kernel: Kernel | None
    lines: tuple[str, ...] = ()
    products: tuple[Product, ...] = ()


@dataclass(frozen=True)
class Schedules:
    """The ways to run one pass, of which a call takes one.

    Attributes:
        resident: one kernel that holds whole rows.
        columns: kernels of which some compute products for a tile of columns; empty where none can.
        split: kernels around the library's products; empty where there are no products.
        kept: products of the pass before that ``split`` reads.
        again: what computes them where that pass did not keep them.
        operations: of the products that ``columns`` computes in kernels, for one row.
        numbers: of their results, how many ``columns`` neither writes nor reads where ``split`` does, for one row.
        operations_again: of the products that ``again`` computes, for one row.
        share: which part of the registers the rows of ``resident`` may fill; the weights of its products take the others.
    """

    resident: Step
    columns: tuple[Step, ...] = ()
    split: tuple[Step, ...] = ()
    kept: tuple[Product, ...] = ()
    again: tuple[Step, ...] = ()
    operations: str = "0"
    numbers: str = "0"
    operations_again: str = "0"
    share: int = 1

    @property
    def steps(self) -> tuple[Step, ...]:
        return (self.resident, *self.columns, *self.again, *self.split)


def slices(products: Sequence[Product], symbols: Mapping[str, str]) -> list[str]:
    """Where each product's tensors stand among ``kept``, which holds those of all products in a row."""
    found, start = [], Extent.number(0)
    for product in products:
        stop = start + (product.listed or Extent.number(1))
        first = "" if start.constant == 0 else start.code(symbols)
        found.append(f"kept[{start.code(symbols) if product.listed is None else f'{first}:{stop.code(symbols)}'}]")
        start = stop
    return found
