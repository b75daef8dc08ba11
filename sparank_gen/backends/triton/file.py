"""What the Triton template lays out: for each mode its kernels, and the functions that launch them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sparank_gen.backends.docs.latex import formulas
from sparank_gen.backends.docs.page import slots_of
from sparank_gen.backends.torch.emit import RESERVED, Emitter
from sparank_gen.backends.torch.lower import Lowering
from sparank_gen.backends.torch.module import Argument, arguments, prepared
from sparank_gen.backends.torch.values import Dense, Listed, Scalar
from sparank_gen.backends.triton.kernel import TILE_FUNCTIONS, KernelPrinter, Storage, Store
from sparank_gen.ir import node as ir
from sparank_gen.ir.derive import ADJOINT, derive
from sparank_gen.ir.expand import expand
from sparank_gen.ir.mode import Mode
from sparank_gen.ir.node import BATCH, Definition, Program
from sparank_gen.ir.simplify import simplify
from sparank_gen.lang.extents import Extent
from sparank_gen.lang.layouts import Layout
from sparank_gen.plan.cost import operations_per_row
from sparank_gen.plan.pieces import Buffer, cut_at_batch_sums
from sparank_gen.plan.schedule import FEATURES, working_set

SYMBOLS = {"dim": "dim", "modalities": "M", "batch": "batch"}
HAS_WEIGHTS = "HAS_WEIGHTS"
HOST_NAMES = frozenset(
    """
    Any Tensor acc launch precision tile_for shaped unit_stride triton ctx inputs output saved tensors found gradients
    position rows warps lanes tiles batch dim M out weights out_bar weights_bar h_bar return_weights forward backward fuse options
    """.split()
)
TORCH_FUNCTIONS = ("dot", "others", "place", "sum_all", "sum_of_products")


@dataclass(frozen=True)
class Kernel:
    """One kernel.

    Attributes:
        name: its function's name.
        pointers: its arguments that point to tensors, with how a launch passes each.
        constants: its compile-time arguments, with how a launch computes each.
        body: its statements.
        operations: the floating-point operations of its matrix products, for one row.
    """

    name: str
    pointers: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, str], ...]
    body: tuple[str, ...]
    operations: Extent


@dataclass(frozen=True)
class Parameter:
    """A parameter as the functions take it."""

    name: str
    listed: bool
    gradient: str | None


@dataclass(frozen=True)
class KernelFile:
    """Everything the template of a mode's kernels needs."""

    mode: Mode
    formulas: tuple[str, ...]
    arguments: tuple[Argument, ...]
    parameters: tuple[Parameter, ...]
    sizes: tuple[tuple[str, str], ...]
    forward: Kernel
    backward: Kernel
    out_shape: str
    weights_shape: str | None
    buffers: tuple[tuple[str, str, bool], ...]
    rest: tuple[str, ...]
    numbers_per_row: str

    @property
    def text(self) -> str:
        """All code of the file that does not stand in its template."""
        kernels = (self.forward, self.backward)
        lines = [line for kernel in kernels for line in (*kernel.body, *(value for _, value in kernel.constants))]
        return "\n".join((*self.rest, *(p.gradient or "" for p in self.parameters), *lines))

    @property
    def imports(self) -> list[str]:
        """What the file imports from the kernels' common part."""
        always = ("acc", "launch", "precision", "tile_for", "unit_stride", *(("shaped",) if self.parameters else ()))
        tiles = (name for name in TILE_FUNCTIONS if re.search(rf"\b{name}\b", self.text))
        return sorted({*always, *tiles})

    @property
    def torch_imports(self) -> list[str]:
        return [name for name in TORCH_FUNCTIONS if f"{name}(" in self.text]


def kernel_file(mode: Mode) -> KernelFile:
    """The kernels of one mode."""
    symbols = SYMBOLS | {h.name.value: h.name.value for h in mode.spec.hyperparameters}
    program, results = with_results(mode)
    out_layout, weights_layout = mode.out, mode.weights
    storages = _storages(mode, program, results)
    forward = _forward(mode, program, results, storages, symbols)
    variables = _variables(mode, symbols)
    backward, buffers, rest, gradients = _backward(mode, program, results, storages, symbols)
    set_size = working_set(program) or program.extents["m"] * Extent.symbol("dim")
    params = tuple(
        Parameter(variables[p.layout.name], module.per is not None, gradients.get(p.layout.name))
        for module in mode.modules
        for p in module.parameters
    )
    return KernelFile(
        mode=mode,
        formulas=formulas(mode.program),
        arguments=arguments(mode),
        parameters=params,
        sizes=(("batch", "h[0].shape[0]"), ("dim", "h[0].shape[1]"), ("M", "len(h)")),
        forward=forward,
        backward=backward,
        out_shape=_shape(out_layout, program, symbols),
        weights_shape=_shape(weights_layout, program, symbols) if weights_layout else None,
        buffers=tuple((b.name, _buffer_shape(b, program, symbols), b.partial) for b in buffers),
        rest=rest,
        numbers_per_row=set_size.code(symbols | {"dim": "lanes"}),
    )


def _variables(mode: Mode, symbols: Mapping[str, str]) -> dict[str, str]:
    """The argument that holds each parameter in the functions that launch kernels."""
    emitter = _host_emitter(mode, symbols)
    return {p.layout.name: emitter.unique(p.layout.name) for module in mode.modules for p in module.parameters}


def _host_emitter(mode: Mode, symbols: Mapping[str, str]) -> Emitter:
    return Emitter(mode.program.extents, symbols, taken={*RESERVED, *HOST_NAMES, *symbols.values()})


def with_results(mode: Mode) -> tuple[Program, tuple[tuple[Definition, Layout], ...]]:
    """The program with a definition for everything that it returns, the features themselves included."""
    program, results = prepared(mode), []
    for layout in (mode.out, mode.weights):
        if layout is None:
            continue
        if layout.name == FEATURES:
            modality = next(axis for axis in layout.axes if axis in program.modality_axes)
            feature = next(axis for axis in layout.axes if axis not in (modality, BATCH))
            definition = Definition("out", (modality, feature), ir.leaf(FEATURES, (BATCH, modality, feature)))
            program = replace(program, definitions=(*program.definitions, definition), outputs=("out", *program.outputs))
        else:
            definition = program[layout.name]
        results.append((definition, layout))
    names = tuple(dict.fromkeys(definition.name for definition, _ in results))
    return replace(program, outputs=names), tuple(results)


def _storages(
    mode: Mode, program: Program, results: Sequence[tuple[Definition, Layout]]
) -> dict[str, Storage]:
    """How the features, the parameters, and the results and their cotangents lie in memory."""
    feature = slots_of(mode)[FEATURES]
    found = {FEATURES: Storage(FEATURES, feature, (0, 2), listed=1, strided=True)}
    for module in mode.modules:
        for parameter in module.parameters:
            axes = parameter.layout.axes
            listed = axes.index(module.per) if module.per is not None else None
            order = tuple(position for position in range(len(axes)) if position != listed)
            found[parameter.layout.name] = Storage(parameter.layout.name, axes, order, listed)
    for definition, layout in results:
        slots = (BATCH, *definition.axes)
        order = tuple(slots.index(axis) for axis in layout.axes)
        cotangent = definition.name + ADJOINT
        found[cotangent] = Storage(cotangent, slots, order)
    return found


def _forward(
    mode: Mode,
    program: Program,
    results: Sequence[tuple[Definition, Layout]],
    storages: Mapping[str, Storage],
    symbols: Mapping[str, str],
) -> Kernel:
    expanded = expand(program)
    printer = KernelPrinter(expanded, storages, symbols)
    printer.taken.update(symbols.values())
    stores = []
    for position, (definition, layout) in enumerate(results):
        slots = (BATCH, *definition.axes)
        target = "weights" if position else "out"
        storage = Storage(target, slots, tuple(slots.index(axis) for axis in layout.axes))
        stores.append(Store(storage, expanded[definition.name].node, slots, condition=HAS_WEIGHTS if position else ""))
    printer.run(stores)
    outputs = [("out_ptr", "out"), *([("weights_ptr", "weights")] if len(results) > 1 else [])]
    operations = operations_per_row([store.node for store in stores], expanded)
    return _kernel(f"{mode.name}_forward_kernel", printer, mode, outputs, (), len(results) > 1, operations)


def _backward(
    mode: Mode,
    program: Program,
    results: Sequence[tuple[Definition, Layout]],
    storages: Mapping[str, Storage],
    symbols: Mapping[str, str],
) -> tuple[Kernel, tuple[Buffer, ...], tuple[str, ...], dict[str, str]]:
    slots = slots_of(mode)
    derived = simplify(derive(program, slots, program.outputs))
    optional = {results[1][0].name + ADJOINT: HAS_WEIGHTS} if len(results) > 1 and results[1][0].name != results[0][0].name else {}
    expanded = expand(replace(derived, definitions=(*program.definitions, *derived.definitions)))
    printer = KernelPrinter(expanded, dict(storages), symbols, optional)
    printer.taken.update(symbols.values())
    cut = cut_at_batch_sums(expanded, printer.is_unrolled)
    feature = slots[FEATURES]
    stores = [
        Store(Storage("h_bar", feature, (0, 2), listed=1), definition.node, feature)
        for definition in cut.rows
    ]
    for buffer in cut.buffers:
        count = "programs" if buffer.partial else "batch"
        storage = Storage(buffer.name, buffer.axes, tuple(range(len(buffer.axes))), count=count)
        stores.append(Store(storage, buffer.node, buffer.axes, partial=buffer.partial))
    printer.run(stores)
    rest, gradients = _rest(mode, cut.rest, symbols)
    outputs = [("h_bar_ptrs", "tuple(h_bar)"), *((f"{buffer.name}_ptr", buffer.name) for buffer in cut.buffers)]
    cotangents = [
        (f"{definition.name}{ADJOINT}_ptr", f"{'weights' if position else 'out'}_bar")
        for position, (definition, _) in enumerate(results)
        if definition.name + ADJOINT in printer.used
    ]
    operations = operations_per_row([store.node for store in stores], expanded)
    name, read = f"{mode.name}_backward_kernel", tuple(dict(cotangents).items())
    kernel = _kernel(name, printer, mode, outputs, read, bool(optional), operations)
    return kernel, cut.buffers, rest, gradients


def _kernel(
    name: str,
    printer: KernelPrinter,
    mode: Mode,
    outputs: Sequence[tuple[str, str]],
    cotangents: Sequence[tuple[str, str]],
    has_weights: bool,
    operations: Extent,
) -> Kernel:
    variables = _variables(mode, printer.symbols)
    pointers: list[tuple[str, str]] = []
    if FEATURES in printer.used:
        pointers += [("h_ptrs", "tuple(h)"), ("h_rows", "tuple(x.stride(0) for x in h)")]
    for module in mode.modules:
        for parameter in module.parameters:
            label = parameter.layout.name
            if label in printer.used:
                variable = variables[label]
                pointers.append((f"{label}_ptrs", f"tuple({variable})") if module.per else (f"{label}_ptr", variable))
    pointers += [*cotangents, *outputs]
    text = "\n".join(printer.lines)
    lanes = {variable: extent.code(printer.symbols) for extent, variable in printer.lanes.items()}
    constants = [("M", "M"), ("dim", "dim")]
    constants += [(h.name.value, h.name.value) for h in mode.spec.hyperparameters]
    constants += [(f"{variable.upper()}_LANES", f"triton.next_power_of_2({extent})") for variable, extent in lanes.items()]
    constants += [(constant, code) for code, constant in printer.numbers.items()]
    if has_weights:
        constants.append((HAS_WEIGHTS, "return_weights"))
    prologue = ["b = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)", "in_b = b < B"]
    if "batch" in text:
        prologue.append("batch = tl.zeros((), tl.int64) + B")
    if re.search(r"\bprogram\b", text):
        prologue.append("program = tl.program_id(0).to(tl.int64)")
    if "programs" in text:
        prologue.append("programs = tl.num_programs(0).to(tl.int64)")
    for variable, extent in lanes.items():
        prologue += [f"{variable} = tl.arange(0, {variable.upper()}_LANES)", f"in_{variable} = {variable} < {extent}"]
    return Kernel(name, tuple(pointers), tuple(constants), (*prologue, *printer.lines), operations)


def _rest(mode: Mode, program: Program, symbols: Mapping[str, str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """The statements that compute the gradients of the parameters, and the expression of each."""
    emitter = _host_emitter(mode, symbols)
    lowering = Lowering(program, mode.modules, emitter, False)
    lowering.count_uses([definition.node for definition in program.definitions])
    gradients: dict[str, str] = {}
    for module in mode.modules:
        for parameter in module.parameters:
            name = parameter.layout.name
            definition = next((d for d in program.definitions if d.name == name + ADJOINT), None)
            if definition is None:
                continue
            value = lowering.tensor(lowering.lower(definition.node))
            axes = parameter.layout.axes
            wanted = tuple(axis for axis in axes if axis != module.per)
            if isinstance(value, Listed) and (value.axis != module.per or set(value.element.axes) != set(wanted)):
                value = lowering.dense(value)
            if isinstance(value, Listed):
                element = value.element.ordered(wanted)
                gradients[name] = Listed(value.axis, element, value.sources).sequence
                continue
            assert not isinstance(value, Scalar)
            full = (module.per, *wanted) if module.per is not None else wanted
            gradients[name] = _whole(lowering, value, full).code
    return tuple(emitter.lines), gradients


def _whole(lowering: Lowering, value: Dense, axes: tuple[str, ...]) -> Dense:
    """``value`` with all of ``axes``, in their order."""
    if set(value.axes) == set(axes):
        return value.ordered(axes)
    sizes = ", ".join(lowering.emitter.extent_code(axis) for axis in axes)
    return Dense(f"{value.aligned(axes).atom}.expand({sizes})", axes)


def _shape(layout: Layout, program: Program, symbols: Mapping[str, str]) -> str:
    sizes = []
    for dimension in layout.dimensions:
        size = Extent.number(1)
        for axis in dimension:
            size = size * (Extent.symbol("batch") if axis == BATCH else program.extents[axis])
        sizes.append(size.code(symbols))
    return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"


def _buffer_shape(buffer: Buffer, program: Program, symbols: Mapping[str, str]) -> str:
    sizes = [
        ("tiles" if buffer.partial else "batch") if axis == BATCH else program.extents[axis].code(symbols) for axis in buffer.axes
    ]
    return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"
