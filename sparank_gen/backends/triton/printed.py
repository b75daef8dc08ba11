"""Kernels as they are printed for a pass: their statements around what they compute, their names and arguments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sparank_gen.backends.code import names_read, without_unread
from sparank_gen.backends.triton.expressions import Numbers
from sparank_gen.backends.triton.kernel import KernelPrinter, Store
from sparank_gen.backends.triton.names import PROGRAMS, parameter_variables, prefix_of_its_own
from sparank_gen.backends.triton.scope import ALIGN, Storage
from sparank_gen.backends.triton.steps import Kernel
from sparank_gen.ir import node as ir
from sparank_gen.ir.mode import Mode
from sparank_gen.ir.node import BATCH, Definition, Node, Program
from sparank_gen.ir.sink import pieces_last, read_whole, sink
from sparank_gen.ir.sizes import elements
from sparank_gen.ir.views import FEATURES
from sparank_gen.lang.extents import Extent
from sparank_gen.lang.widths import has_widths, widest, width_name
from sparank_gen.plan.cost import operations_per_row
from sparank_gen.plan.pieces import Buffer, is_unrolled


@dataclass(frozen=True)
class Pass:
    """The forward or the backward pass of a mode, on its way into kernels.

    Attributes:
        mode, name: which one it is.
        program: the expanded program.
        storages: how what it reads lies in memory.
        symbols: how the names in extents are written.
        optional: cotangents that may be absent.
        passed: the variable of the host that holds each tensor beside the features and the parameters.
        numbers: the numbers that the host computes.
    """

    mode: Mode
    name: str
    program: Program
    storages: Mapping[str, Storage]
    symbols: Mapping[str, str]
    optional: Mapping[str, str]
    passed: Mapping[str, str]
    numbers: Numbers

    def is_unrolled(self, axis: str) -> bool:
        return is_unrolled(self.program, axis)

    def shape(self, axes: Iterable[str], count: str = "batch") -> str:
        """The shape of a tensor with these axes, of which the batch axis has ``count`` entries."""
        sizes = [count if axis == BATCH else self.program.extents[axis].code(self.symbols) for axis in axes]
        return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"

    def loop_over(self, axis: str) -> str:
        """A loop over the modalities, by their widths."""
        return f"for {self.symbols[width_name(axis)]} in dims"

    def holding(self, buffers: Iterable[Buffer]) -> Pass:
        """The same pass, with buffers that its kernels may read and write."""
        return self.reading({storage: storage.name for storage in (buffer_store(buffer).storage for buffer in buffers)})

    def reading(self, codes: Mapping[Storage, str]) -> Pass:
        """The same pass, with more tensors, and the code that passes each to a kernel."""
        return replace(
            self,
            storages={**self.storages, **{storage.name: storage for storage in codes}},
            passed={**self.passed, **{storage.name: code for storage, code in codes.items()}},
        )


@dataclass(frozen=True)
class Columns:
    """How a kernel is tiled: the extent of its columns, and the products it keeps for later kernels."""

    extent: Extent
    products: tuple[Definition, ...]
    kept: tuple[Definition, ...]


def buffer_store(buffer: Buffer) -> Store:
    """How a kernel writes a buffer."""
    count = PROGRAMS if buffer.partial else "batch"
    listed = buffer.axes.index(buffer.listed) if buffer.listed is not None else None
    order = tuple(position for position in range(len(buffer.axes)) if position != listed)
    storage = Storage(buffer.name, buffer.axes, order, listed, count=count)
    return Store(storage, buffer.node, buffer.axes, partial=buffer.partial)


def _parts(store: Store, whole: set[Node], program: Program) -> list[Store]:
    """A store of a concatenation that nothing reads as a whole, as one of each piece where it belongs."""
    node = store.node
    if node.op != "concat" or node in whole or any(part in store.axes for part in node.data):
        return [store]
    found = []
    for piece, place in zip(node.args, ir.windows_of(node, program.extents), strict=True):
        axes = tuple(place if index == node.over[0] else index for index in store.axes)
        found += _parts(replace(store, node=piece, axes=axes), whole, program)
    return found


def _operands_first(stores: Sequence[Store]) -> list[Store]:
    """Stores in their order, but for those of what others are computed from, which leave registers before these."""
    read = {node for store in stores for node in ir.reachable([store.node]) if node is not store.node}
    return sorted(stores, key=lambda store: store.node not in read)


def printed(
    made: Pass, suffix: str, stores: Sequence[Store], columns: Columns | None = None, walks: bool = False
) -> Kernel:
    """A kernel that computes ``stores``; if it ``walks``, over tiles of rows, with weights that it reads once."""
    products = columns.products if columns else ()
    stores = [replace(store, node=pieces_last(store.node, made.program.extents)) for store in stores]
    whole = read_whole(store.node for store in stores)
    stores = [part for store in stores for part in _parts(store, whole, made.program)]
    program, nodes = sink(made.program, [store.node for store in stores], made.is_unrolled)
    stores = _operands_first([replace(store, node=node) for store, node in zip(stores, nodes, strict=True)])
    printer = KernelPrinter(
        program,
        made.storages,
        made.symbols,
        columns=columns.extent if columns else None,
        products={definition.name: definition.node for definition in products},
        optional=made.optional,
        numbers=made.numbers,
        walks=walks,
    )
    printer.run(stores)
    work = {
        "kernel": "from features to results" if made.name == "forward" else "from cotangents to gradients",
        "epilogue": "what follows the matrix products",
    }.get(suffix, "what the matrix products are applied to")
    if columns:
        work = {"epilogue": "matrix products and what follows them"}.get(suffix, "matrix products and what others are applied to")
        suffix = "products" if suffix == "epilogue" else suffix.replace("operands", "products")
    where = "tile after tile of rows" if walks else f"a tile of rows{' and columns' if columns else ''}"
    title = f"The {made.name} pass on {where}: {work}."
    operations = operations_per_row([*nodes, *(definition.node for definition in products)], program)
    prefix = prefix_of_its_own(made.mode, f"{made.mode.name}_{made.name}_")
    return _kernel(prefix + suffix, title, printer, made, operations)


def _kernel(name: str, title: str, printer: KernelPrinter, made: Pass, operations: Extent) -> Kernel:
    mode, storages = made.mode, made.storages
    printer.lines = without_unread([*printer.lines, *printer.after])[: -len(printer.after) or None]
    variables = parameter_variables(mode, printer.symbols)
    pointers: list[tuple[str, str]] = []
    if FEATURES in printer.used:
        pointers += [(printer.pointer(FEATURES, "_ptrs"), "tuple(h)"), (printer.pointer(FEATURES, "_rows"), f'row_strides(h, constants["{ALIGN}"])')]
    for label in (*variables, *made.passed):
        if label not in printer.used:
            continue
        variable = variables.get(label) or made.passed[label]
        is_listed = label == "h_bar" or (label in storages and storages[label].listed is not None)
        argument = printer.pointer(label, "_ptrs" if is_listed else "_ptr")
        pointers.append((argument, f"tuple({variable})" if is_listed else variable))
    columns = None
    if printer.columns is not None:
        columns = printer.lanes[widest(printer.columns)].size, printer.columns.code(printer.symbols)
    held = None
    if printer.walks:
        held = Extent.number(0)
        for axes in printer.held.values():
            held = held + elements(frozenset(axes), printer.program)
    return Kernel(name, title, tuple(pointers), _body(printer), operations, columns, held)


def _body(printer: KernelPrinter) -> tuple[str, ...]:
    """All statements of a kernel."""
    masks = printer.mask_lines
    if not printer.walks:
        return (*_prologue(printer), *masks, *printer.lines)
    of_rows = [line for line in masks if names_read(line) & {"in_b", "in_rest"}]
    others = [line for line in masks if line not in of_rows]
    walk = "for tile in tl.range(tl.program_id(0), tl.cdiv(B, ROWS), tl.num_programs(0), num_stages=STAGES):"
    rows = ["b = tl.cast(tile, tl.int64) * ROWS + tl.arange(0, ROWS)", "in_b = b < B"]
    if "in_rest" in names_read("\n".join((*printer.lines, *of_rows))):
        rows += [
            "# The same for stores: the pipeline would carry the mask of the loads along, as one bit for each element.",
            "in_rest = tl.arange(0, ROWS) < B - tile * ROWS",
        ]
    rows += of_rows
    inside = [f"    {line}" for line in (*rows, *printer.lines)]
    return (*_prologue(printer), *others, *printer.before, walk, *inside, *printer.after)


def _prologue(printer: KernelPrinter) -> list[str]:
    """The statements that say which rows, and which positions along each extent, a program owns."""
    read = names_read("\n".join((*printer.before, *printer.lines, *printer.after, *printer.mask_lines)))
    own, count = "tl.program_id(0)", "tl.num_programs(0)"
    prologue = []
    if printer.columns is not None:
        width = printer.lanes[widest(printer.columns)].size
        prologue.append(f"columns = tl.cdiv({printer.number_code(printer.columns, {})}, {width})")
        own, count = "(tl.program_id(0) // columns)", "(tl.num_programs(0) // columns)"
    if not printer.walks:
        prologue += [f"b = {own}.to(tl.int64) * ROWS + tl.arange(0, ROWS)", "in_b = b < B"]
    if "batch" in read:
        prologue.append("batch = tl.zeros((), tl.int64) + B")
    if "program" in read:
        prologue.append(f"program = {own}.to(tl.int64)")
    if "programs" in read:
        prologue.append(f"programs = {count}.to(tl.int64)")
    for extent, (variable, width) in printer.lanes.items():
        condition = printer.conditions.get(variable, variable)
        if variable in read or condition in read:
            is_tiled = printer.columns is not None and extent == widest(printer.columns)
            first = f"tl.program_id(0) % columns * {width} + " if is_tiled else ""
            prologue.append(f"{variable} = {first}tl.arange(0, {width})")
        if condition != variable and condition in read and not has_widths([extent]):
            prologue.append(f"{condition} = {variable} < {printer.number_code(extent, {})}")
    for extent, condition in printer.bounds.items():
        if condition in read:
            prologue.append(f"{condition} = {printer.lanes[widest(extent)].variable} < {printer.number_code(extent, {})}")
    return prologue
