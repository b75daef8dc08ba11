"""The schedules of a pass: one kernel, kernels that own a tile of columns, and kernels around the library's products."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sparank_gen.backends.torch.emit import RESERVED, Emitter
from sparank_gen.backends.torch.lower import Lowering
from sparank_gen.backends.torch.values import Listed, Scalar
from sparank_gen.backends.triton.kernel import KernelPrinter, Store
from sparank_gen.backends.triton.scope import Storage, is_unrolled
from sparank_gen.ir import node as ir
from sparank_gen.ir.derive import ADJOINT
from sparank_gen.ir.mode import Mode
from sparank_gen.ir.node import BATCH, Definition, Node, Program
from sparank_gen.ir.sink import pieces_last, read_whole, sink
from sparank_gen.ir.views import FEATURES
from sparank_gen.lang.extents import Extent
from sparank_gen.lang.widths import has_widths, widest
from sparank_gen.plan.cost import operations_per_row
from sparank_gen.plan.pieces import Buffer, made_buffer
from sparank_gen.plan.schedule import elements
from sparank_gen.plan.stages import Split, Stage, column_extent, products_read, split_at_contractions

HOST_NAMES = frozenset(
    """
    dims starts widths Any Tensor acc launch precision multiplied_in product_dtype result_dtype tile_for column_tile schedule shaped unit_stride triton grouped LISTED row_strides
    partial_sums constants numbers ctx inputs output saved tensors found gradients position rows columns inner warps
    lanes tiles batch dim M out weights out_bar weights_bar h_bar return_extras forward backward fuse options chosen
    results cotangents
    """.split()
)
# How the buffers between kernels are called.
_BUFFER = re.compile(r"^(rows|partial|operand|product)_(\d+)$")


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
    """

    name: str
    title: str
    pointers: tuple[tuple[str, str], ...]
    body: tuple[str, ...]
    operations: Extent
    columns: tuple[str, str] | None = None


@dataclass(frozen=True)
class Step:
    """One step of a function: buffers to allocate, a kernel to launch, statements that follow.

    Attributes:
        buffers: name, shape, the loop where there is one for each modality, and whether it holds partial sums, of each
            buffer that the kernel writes.
        kernel: the kernel, or None.
        lines: torch statements.
        products: the names of the matrix products that these compute.
    """

    buffers: tuple[tuple[str, str, str, bool], ...]
    kernel: Kernel | None
    lines: tuple[str, ...] = ()
    products: tuple[str, ...] = ()


@dataclass(frozen=True)
class Schedules:
    """The ways to run one pass, of which a call takes one.

    Attributes:
        resident: one kernel that holds whole rows.
        columns: kernels of which some compute products for a tile of columns; empty where none can.
        split: kernels around the library's products; empty where there are no products.
        operations: of the products that ``columns`` computes in kernels, for one row.
        numbers: of their results, how many ``columns`` neither writes nor reads where ``split`` does, for one row.
    """

    resident: Step
    columns: tuple[Step, ...] = ()
    split: tuple[Step, ...] = ()
    operations: str = "0"
    numbers: str = "0"

    @property
    def steps(self) -> tuple[Step, ...]:
        return (self.resident, *self.columns, *self.split)


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
        numbers: the compile-time constant of each number that the host computes.
    """

    mode: Mode
    name: str
    program: Program
    storages: Mapping[str, Storage]
    symbols: Mapping[str, str]
    optional: Mapping[str, str]
    passed: Mapping[str, str]
    numbers: dict[str, str]

    def is_unrolled(self, axis: str) -> bool:
        return is_unrolled(self.program, axis)

    def holding(self, buffers: Iterable[Buffer]) -> Pass:
        """The same pass, with buffers that its kernels may read and write."""
        stores = [buffer_store(buffer).storage for buffer in buffers]
        return replace(
            self,
            storages={**self.storages, **{storage.name: storage for storage in stores}},
            passed={**self.passed, **{storage.name: storage.name for storage in stores}},
        )


def schedules(made: Pass, stores: Sequence[Store], buffers: Sequence[Buffer]) -> Schedules:
    """All schedules of a pass.

    Args:
        made: the pass.
        stores: what it computes.
        buffers: those results that are handed over to torch.
    """
    made = made.holding(buffers)
    written = {buffer.name: buffer for buffer in buffers}
    resident = Step(_allocated(made, stores, written), _printed(made, "kernel", stores))
    in_memory = {buffer.node: buffer for buffer in buffers if not buffer.partial}
    split = split_at_contractions(made.program, [store.node for store in stores], in_memory, made.is_unrolled)
    if len(split.stages) == 1:
        return Schedules(resident)
    made = replace(made, program=split.program)
    stores = [replace(store, node=node) for store, node in zip(stores, split.results, strict=True)]
    tiled = _columns(made, split, stores)
    library = tuple(_steps(made, split, stores, written, [None] * len(split.stages)))
    if not any(tiled):
        return Schedules(resident, (), library)
    inside = [stage for stage, columns in zip(split.stages, tiled[1:], strict=False) if columns]
    products = [definition for stage in inside for definition in stage.products]
    operations = operations_per_row([definition.node for definition in products], made.program)
    kept = {definition.name for columns in tiled if columns for definition in columns.kept}
    saved = Extent.number(0)
    for definition in products:
        ways_spared = Extent.number(1 if definition.name in kept else 2)
        saved = saved + elements(definition.node.axes, made.program) * ways_spared
    return Schedules(
        resident,
        tuple(_told_apart(_steps(made, split, stores, written, tiled), library)),
        library,
        operations.code(made.symbols),
        saved.code(made.symbols),
    )


@dataclass(frozen=True)
class _Columns:
    """How a kernel is tiled: the extent of its columns, and the products it keeps for later kernels."""

    extent: Extent
    products: tuple[Definition, ...]
    kept: tuple[Definition, ...]


def _columns(made: Pass, split: Split, stores: Sequence[Store]) -> list[_Columns | None]:
    """For the kernel of each stage, how it computes the products of the stage before, if it can."""
    found: list[_Columns | None] = [None]
    for number in range(1, len(split.stages)):
        products = split.stages[number - 1].products
        later = [node for stage in split.stages[number:] for node in (d.node for d in stage.products)]
        later += [node for stage in split.stages[number + 1 :] for node in _written(stage, stores)]
        kept = tuple(products_read(later, products))
        extent = column_extent(_written(split.stages[number], stores), products, made.program, made.is_unrolled)
        found.append(_Columns(extent, products, kept) if extent is not None else None)
    return found


def _written(stage: Stage, stores: Sequence[Store]) -> list[Node]:
    """What the kernel of a stage computes."""
    return [*(buffer.node for buffer in stage.operands), *(stores[position].node for position in stage.results)]


def _steps(
    made: Pass,
    split: Split,
    stores: Sequence[Store],
    written: Mapping[str, Buffer],
    tiled: Sequence[_Columns | None],
) -> Iterable[Step]:
    """A step for each stage; a stage's products are computed by the library, or by the kernel that follows."""
    products = [definition for stage in split.stages for definition in stage.products]
    emitter = host_emitter(made.mode, made.symbols)
    lowering = Lowering(replace(made.program, definitions=tuple(products)), made.mode.modules, emitter, False)
    lowering.count_uses([definition.node for definition in products])
    for number, (stage, columns) in enumerate(zip(split.stages, tiled, strict=True)):
        own = [buffer_store(buffer) for buffer in stage.operands] + [stores[position] for position in stage.results]
        new = {buffer.name: buffer for buffer in stage.operands}
        if columns is not None:
            held = [made_buffer(d.name, d.axes, ir.leaf(d.name, d.axes), False, made.program) for d in columns.products]
            kept = [buffer for buffer, product in zip(held, columns.products, strict=True) if product in columns.kept]
            own = [*(buffer_store(buffer) for buffer in kept), *own]
            new |= {buffer.name: buffer for buffer in kept}
            made = made.holding(held)
        made = made.holding(stage.operands)
        suffix = "epilogue" if number + 1 == len(split.stages) else f"operands_{number + 1}"
        kernel = _printed(made, suffix, own, columns) if own else None
        start = len(emitter.lines)
        following = tiled[number + 1] if number + 1 < len(tiled) else None
        by_library = stage.products if following is None else ()
        if by_library:
            found = [_product(lowering, definition) for definition in by_library]
            made = replace(
                made,
                storages={**made.storages, **{storage.name: storage for storage, _ in found}},
                passed={**made.passed, **{storage.name: code for storage, code in found}},
            )
        names = tuple(definition.name for definition in by_library)
        yield Step(_allocated(made, own, {**written, **new}), kernel, tuple(emitter.lines[start:]), names)


def _told_apart(steps: Iterable[Step], others: Iterable[Step]) -> Iterable[Step]:
    """``steps``, where a kernel has a name of its own if another schedule's kernel of its name is not the same."""
    taken = {step.kernel.name: step.kernel for step in others if step.kernel is not None}
    for step in steps:
        if step.kernel is not None and taken.get(step.kernel.name, step.kernel) != step.kernel:
            step = replace(step, kernel=replace(step.kernel, name=f"{step.kernel.name}_after_columns"))
        yield step


def _allocated(made: Pass, stores: Iterable[Store], buffers: Mapping[str, Buffer]) -> tuple[tuple[str, str, str, bool], ...]:
    """The buffers that a kernel writes."""
    own = [buffers[store.storage.name] for store in stores if store.storage.name in buffers]
    return tuple((b.name, *_buffer_shape(b, made), b.partial) for b in own)


def _buffer_shape(buffer: Buffer, made: Pass) -> tuple[str, str]:
    """The shape of a buffer, and of a list of them the loop that makes one for each modality."""
    extents, rows = made.program.extents, "tiles" if buffer.partial else "batch"
    axes = [axis for axis in buffer.axes if axis != buffer.listed]
    sizes = [rows if axis == BATCH else extents[axis].code(made.symbols) for axis in axes]
    loop = f"for {made.symbols[f'dim[{buffer.listed}]']} in dims" if buffer.listed is not None else ""
    return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})", loop


def buffer_store(buffer: Buffer) -> Store:
    """How a kernel writes a buffer."""
    count = "programs" if buffer.partial else "batch"
    listed = buffer.axes.index(buffer.listed) if buffer.listed is not None else None
    order = tuple(position for position in range(len(buffer.axes)) if position != listed)
    storage = Storage(buffer.name, buffer.axes, order, listed, count=count)
    return Store(storage, buffer.node, buffer.axes, partial=buffer.partial)


def _product(lowering: Lowering, definition: Definition) -> tuple[Storage, str]:
    """The statement that computes a matrix product; how its result lies in memory, and how a launch passes it."""
    value = lowering.lower(definition.node)
    assert not isinstance(value, Scalar)
    name, slots = definition.name, definition.axes
    element = value.element if isinstance(value, Listed) else value
    # Not the product's own name where it is what another variable holds.
    code = value.sequence if isinstance(value, Listed) else value.code
    order = tuple(slots.index(axis) for axis in element.axes)
    # What einsum returns, or what has more dimensions than a matrix, may be a view in another order than it stands.
    is_plain = len(order) <= 2 and "torch.einsum(" not in "".join(lowering.emitter.lines[-1:])
    if isinstance(value, Listed):
        return Storage(name, slots, order, listed=slots.index(value.axis)), code if is_plain else f"x.contiguous() for x in {code}"
    return Storage(name, slots, order), code if is_plain else f"{code}.contiguous()"


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


def _printed(made: Pass, suffix: str, stores: Sequence[Store], columns: _Columns | None = None) -> Kernel:
    """A kernel that computes ``stores``."""
    products = columns.products if columns else ()
    stores = [replace(store, node=pieces_last(store.node, made.program.extents)) for store in stores]
    whole = read_whole(store.node for store in stores)
    stores = [part for store in stores for part in _parts(store, whole, made.program)]
    program, nodes = sink(made.program, [store.node for store in stores], made.is_unrolled)
    stores = [replace(store, node=node) for store, node in zip(stores, nodes, strict=True)]
    printer = KernelPrinter(
        program,
        made.storages,
        made.symbols,
        columns=columns.extent if columns else None,
        products={definition.name: definition.node for definition in products},
        optional=made.optional,
        numbers=made.numbers,
    )
    printer.run(stores)
    work = {
        "kernel": "from features to results" if made.name == "forward" else "from cotangents to gradients",
        "epilogue": "what follows the matrix products",
    }.get(suffix, "what the matrix products are applied to")
    if columns:
        work = {"epilogue": "matrix products and what follows them"}.get(suffix, "matrix products and what others are applied to")
        suffix = "products" if suffix == "epilogue" else suffix.replace("operands", "products")
    title = f"The {made.name} pass on a tile of rows{' and columns' if columns else ''}: {work}."
    operations = operations_per_row([*nodes, *(definition.node for definition in products)], program)
    return _kernel(f"{made.mode.name}_{made.name}_{suffix}", title, printer, made, operations)


def _kernel(name: str, title: str, printer: KernelPrinter, made: Pass, operations: Extent) -> Kernel:
    mode, storages = made.mode, made.storages
    variables = parameter_variables(mode, printer.symbols)
    pointers: list[tuple[str, str]] = []
    if FEATURES in printer.used:
        pointers += [("h_ptrs", "tuple(h)"), ("h_rows", "row_strides(h)")]
    for label in (*variables, *made.passed):
        if label not in printer.used:
            continue
        variable = variables.get(label) or made.passed[label]
        is_listed = label == "h_bar" or (label in storages and storages[label].listed is not None)
        pointers.append((f"{label}_ptrs", f"tuple({variable})") if is_listed else (f"{label}_ptr", variable))
    columns = None
    if printer.columns is not None:
        columns = f"{printer.lanes[widest(printer.columns)].upper()}_LANES", printer.columns.code(printer.symbols)
    return Kernel(name, title, tuple(pointers), (*_prologue(printer), *printer.lines), operations, columns)


def _prologue(printer: KernelPrinter) -> list[str]:
    """The statements that say which rows, and which positions along each extent, a program owns."""
    lines = [line for line in printer.lines if not line.lstrip().startswith("#")]
    text = "\n".join([*lines, *printer.mask_lines])
    own, count = "tl.program_id(0)", "tl.num_programs(0)"
    prologue = []
    if printer.columns is not None:
        width = f"{printer.lanes[widest(printer.columns)].upper()}_LANES"
        prologue.append(f"columns = tl.cdiv({printer.number_code(printer.columns, {})}, {width})")
        own, count = "(tl.program_id(0) // columns)", "(tl.num_programs(0) // columns)"
    prologue += [f"b = {own}.to(tl.int64) * ROWS + tl.arange(0, ROWS)", "in_b = b < B"]
    if "batch" in text:
        prologue.append("batch = tl.zeros((), tl.int64) + B")
    if re.search(r"\bprogram\b", text):
        prologue.append(f"program = {own}.to(tl.int64)")
    if "programs" in text:
        prologue.append(f"programs = {count}.to(tl.int64)")
    for extent, variable in printer.lanes.items():
        if re.search(rf"\b(in_)?{variable}\b", text):
            width = f"{variable.upper()}_LANES"
            is_tiled = printer.columns is not None and extent == widest(printer.columns)
            first = f"tl.program_id(0) % columns * {width} + " if is_tiled else ""
            prologue.append(f"{variable} = {first}tl.arange(0, {width})")
        if re.search(rf"\bin_{variable}\b", text) and not has_widths([extent]):
            prologue.append(f"in_{variable} = {variable} < {printer.number_code(extent, {})}")
    for extent, condition in printer.bounds.items():
        if re.search(rf"\b{condition}\b", text):
            prologue.append(f"{condition} = {printer.lanes[widest(extent)]} < {printer.number_code(extent, {})}")
    return prologue + printer.mask_lines


def parameter_variables(mode: Mode, symbols: Mapping[str, str]) -> dict[str, str]:
    """The argument that holds each parameter in the functions that launch kernels."""
    emitter = host_emitter(mode, symbols)
    return {p.layout.name: emitter.unique(p.layout.name) for module in mode.modules for p in module.parameters}


def host_emitter(mode: Mode, symbols: Mapping[str, str]) -> Emitter:
    """An emitter for the functions that launch kernels."""
    results = [name + suffix for name in result_variables(mode) for suffix in ("", ADJOINT)]
    return Emitter(mode.program.extents, symbols, taken={*RESERVED, *HOST_NAMES, *results, *symbols.values()})


def result_variables(mode: Mode) -> tuple[str, ...]:
    """The variable of each result, in the functions that launch kernels and as the label of its pointer in them."""
    parameters = {p.layout.name for module in mode.modules for p in module.parameters}
    taken = parameters | {*RESERVED, *HOST_NAMES, *(h.name.value for h in mode.spec.hyperparameters)} - {"out", "weights"}
    emitter = Emitter(mode.program.extents, {}, taken=taken)
    return tuple(emitter.unique(_BUFFER.sub(r"\1_of_\2", result.key)) for result in mode.results)
