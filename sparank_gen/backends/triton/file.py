"""What the Triton template lays out: for each mode its kernels, and the functions that launch them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from sparank_gen.backends.code import names_read
from sparank_gen.backends.torch.emit import FUNCTIONS
from sparank_gen.backends.torch.gradients import parameter_gradients
from sparank_gen.backends.torch.lower import Lowering
from sparank_gen.backends.torch.module import Argument, arguments
from sparank_gen.backends.triton.expressions import Numbers
from sparank_gen.backends.triton.kernel import KernelPrinter, Store
from sparank_gen.backends.triton.names import SYMBOLS, host_emitter, kernel_symbols, parameter_variables, prefix_of_its_own
from sparank_gen.backends.triton.printed import Pass, buffer_store
from sparank_gen.backends.triton.results import HAS_EXTRAS, Result, but_listed, storages_of, with_results
from sparank_gen.backends.triton.schedules import Before, schedules, split_of
from sparank_gen.backends.triton.scope import ALIGN, TILE_FUNCTIONS, Storage
from sparank_gen.backends.triton.steps import Kernel, Product, Schedules, slices
from sparank_gen.formulas.latex import formulas
from sparank_gen.formulas.shared import formula_program
from sparank_gen.ir import node as ir
from sparank_gen.ir.derive import ADJOINT, derive
from sparank_gen.ir.expand import divide_last, expand
from sparank_gen.ir.mode import Mode
from sparank_gen.ir.node import BATCH, Definition, Node, Program
from sparank_gen.ir.parts import sum_of, terms_of
from sparank_gen.ir.rewrite import rewrite
from sparank_gen.ir.simplify import merge_views, simplify
from sparank_gen.ir.sizes import elements
from sparank_gen.ir.views import FEATURES
from sparank_gen.lang.extents import Extent
from sparank_gen.lang.layouts import Layout
from sparank_gen.lang.widths import ONE_WIDTH, WIDEST, read_at, size_of, widest
from sparank_gen.plan.pieces import cut_at_batch_sums, is_unrolled
from sparank_gen.plan.schedule import working_set
from sparank_gen.plan.stages import contraction_of


@dataclass(frozen=True)
class Parameter:
    """A parameter as the functions take it."""

    name: str
    listed: bool
    gradient: str | None

    @property
    def item(self) -> str:
        """Its gradient, or those of all modalities, as written in a list of others."""
        if self.gradient is None:
            return f"*(torch.zeros_like(x) for x in {self.name})" if self.listed else f"torch.zeros_like({self.name})"
        starred = f"({self.gradient})" if " for " in self.gradient else self.gradient
        return f"*{starred}" if self.listed else self.gradient


@dataclass(frozen=True)
class Rest:
    """What torch computes after the kernels of a backward pass.

    Attributes:
        lines: the statements.
        gradients: the expression of each parameter's gradient.
        names: what each statement gives, and whether it is a matrix product over the batch.
    """

    lines: tuple[str, ...]
    gradients: Mapping[str, str]
    names: tuple[tuple[str, bool], ...]


@dataclass(frozen=True)
class KernelFile:
    """Everything the template of a mode's kernels needs."""

    mode: Mode
    formulas: tuple[str, ...]
    arguments: tuple[Argument, ...]
    parameters: tuple[Parameter, ...]
    constants: tuple[tuple[str, str], ...]
    forward: Schedules
    backward: Schedules
    results: tuple[tuple[str, str], ...]
    rest: Rest
    numbers_per_row: str
    reshaped_per_row: str
    held: tuple[str, str]

    @property
    def text(self) -> str:
        """All code on the host that does not stand in the file's template."""
        steps = [line for step in (*self.forward.steps, *self.backward.steps) for line in step.lines]
        constants = [value for _, value in self.constants]
        return "\n".join((*self.rest.lines, *(p.gradient or "" for p in self.parameters), *constants, *steps))

    @property
    def kernels(self) -> list[Kernel]:
        """All kernels, in the order of the file."""
        found = [step.kernel for step in (*self.forward.steps, *self.backward.steps) if step.kernel is not None]
        return list({kernel.name: kernel for kernel in found}.values())

    @property
    def schedules(self) -> tuple[str, ...]:
        """The names of the schedules that at least one pass has, or, of ``"again"``, that the two have together."""
        passes = (self.forward, self.backward)
        has = {"resident": True, "columns": any(p.columns for p in passes), "split": any(p.split for p in passes)}
        return tuple(name for name, found in (has | {"again": bool(self.kept)}).items() if found)

    @property
    def kept(self) -> tuple[Product, ...]:
        """The products that the forward pass can keep for the backward one, as the forward pass has them."""
        names = {product.name for product in self.backward.kept}
        return tuple(product for step in self.forward.split for product in step.products if product.name in names)

    @property
    def kept_slices(self) -> list[str]:
        """Where each of these stands among the tensors that are kept."""
        return slices(self.kept, SYMBOLS)

    @property
    def width(self) -> str:
        """How many numbers the features of the widest modality have."""
        return "dim" if self.mode.one_width is not None else "max(dims)"

    @property
    def imports(self) -> list[str]:
        """What the file imports from the common part on the host: how kernels run."""
        steps = (*self.forward.steps, *self.backward.steps)
        names = ["launch", "precision"]
        names += ["schedule"] if self.forward.split or self.backward.split else []
        names += ["keeps"] if self.kept else []
        names += ["multiplied_in"] if self.rest.lines or any(step.lines for step in steps) else []
        names += ["column_tiles"] if any(kernel.columns for kernel in self.kernels) else []
        names += ["walking_tiles"] if any(kernel.held is not None for kernel in self.kernels) else []
        names += ["row_tiles"] if any(kernel.columns is None and kernel.held is None for kernel in self.kernels) else []
        return sorted(names)

    @property
    def tensor_functions(self) -> list[str]:
        """What the file imports from the common part on the host: what kernels take and give."""
        names = ["acc", "alignment", "grouped", "next_power_of_2", "require_alike", "row_strides", "unit_stride"]
        names += ["starts", "widths"] if self.mode.one_width is None else []
        names += ["shaped"] if self.parameters else []
        names += ["partial_sums"] if any(partial for step in self.backward.steps for *_, partial in step.buffers) else []
        names += ["separate"] if self.kept else []
        return sorted(names)

    @property
    def tile_functions(self) -> list[str]:
        """What the file imports from the common part on the device."""
        return sorted(names_read("\n".join(line for kernel in self.kernels for line in kernel.body)).intersection(TILE_FUNCTIONS))

    @property
    def counts_modalities(self) -> bool:
        """Whether a compile-time argument is computed from the number of modalities."""
        return any("M" in names_read(value) for _, value in self.constants)

    @property
    def called(self) -> tuple[str, ...]:
        """Which functions of the package the file calls."""
        read = names_read(self.text)
        return tuple(name for name in FUNCTIONS if name in read)


def kernel_file(mode: Mode) -> KernelFile:
    """The kernels of one mode."""
    symbols = kernel_symbols(mode)
    program, results = with_results(mode, symbols)
    storages = storages_of(mode, results)
    variables, numbers = parameter_variables(mode, symbols), Numbers(prefix_of_its_own(mode, "NUMBER"))
    forward, before = _forward(mode, program, results, storages, symbols, numbers)
    backward, rest = _backward(mode, program, results, storages, symbols, numbers, before)
    lanes, padded = _padded(program, symbols)
    width = WIDEST if mode.one_width is None else Extent.symbol(ONE_WIDTH)
    set_size = working_set(lanes, in_kernel=True) or program.extents["m"] * width
    if not forward.split:
        # Where nothing is multiplied, all of it is alive at once, and not half of it as elsewhere.
        set_size = set_size * Extent.number(2)
    params = tuple(
        Parameter(variables[p.layout.name], module.per is not None, rest.gradients.get(p.layout.name))
        for module in mode.modules
        for p in module.parameters
    )
    return KernelFile(
        mode=mode,
        formulas=formulas(formula_program(mode)),
        arguments=tuple(replace(argument, name=symbols[argument.name]) for argument in arguments(mode)),
        parameters=params,
        constants=_constants(mode, program, symbols, numbers),
        forward=forward,
        backward=backward,
        results=tuple((result.variable, _shape(result.layout, program, symbols)) for result in results),
        rest=rest,
        numbers_per_row=set_size.code(padded),
        reshaped_per_row=_reshaped(expand(lanes)).code(padded),
        held=(_held(forward, padded), _held(backward, padded)),
    )


def _held(found: Schedules, padded: Mapping[str, str]) -> str:
    """How many numbers of weights one kernel of a pass holds."""
    kernel = found.resident.kernel
    return "0" if kernel is None or kernel.held is None else kernel.held.code(padded)


def _reshaped(program: Program) -> Extent:
    """How many numbers of a row one kernel holds twice: results of matrix products that it takes apart into dimensions."""
    total = Extent.number(0)
    for node in ir.reachable(program[name].node for name in program.outputs):
        outer = [axis for axis in node.axes if axis != BATCH and not is_unrolled(program, axis)]
        if len(outer) > 1 and contraction_of(node, partial(is_unrolled, program)) is not None:
            total = total + elements(node.axes, program)
    return total


def _padded(program: Program, symbols: Mapping[str, str]) -> tuple[Program, dict[str, str]]:
    """``program`` with a name for each extent that is a sum, and how names in extents are written, padded to lanes."""
    lanes = KernelPrinter(program, {}, symbols).lanes
    constants = {extent: lane.size for extent, lane in lanes.items()}
    sums = {extent: Extent.symbol(constant) for extent, constant in constants.items() if len(extent.terms) > 1}
    named = {axis: sums.get(widest(extent), widest(extent)) for axis, extent in program.extents.items()}
    names = {extent.code({}): constant for extent, constant in constants.items() if extent.code({}) in symbols}
    names |= {constant: constant for constant in constants.values()}
    written = {name: f'constants["{constant}"]' for name, constant in names.items()}
    return replace(program, extents=named, tensors={}), {**symbols, **written, "dim": "lanes", "max(dim)": "lanes"}


def _constants(
    mode: Mode, program: Program, symbols: Mapping[str, str], numbers: Numbers
) -> tuple[tuple[str, str], ...]:
    """The compile-time arguments that all kernels of a mode take, and how a launch computes each."""
    lanes = KernelPrinter(program, {}, symbols).lanes
    sizes = [("dim", "dim")] if mode.one_width is not None else [("dims", "dims"), ("starts", "starts(dims)")]
    found = [("M", "len(h)"), *sizes, *((symbols[h.name.value],) * 2 for h in mode.spec.hyperparameters)]
    found += [(lane.size, f"next_power_of_2({extent.code(symbols)})") for extent, lane in lanes.items()]
    found += [(constant, code) for code, constant in numbers.constants.items()]
    found += [(HAS_EXTRAS, "return_extras")] if mode.extras else []
    found += [(ALIGN, "alignment(h)"), ("ACC", "acc(h[0])"), ("PRECISION", "precision(h[0].dtype, product_dtype)")]
    return tuple(found)


def _forward(
    mode: Mode,
    program: Program,
    results: Sequence[Result],
    storages: Mapping[str, Storage],
    symbols: Mapping[str, str],
    numbers: Numbers,
) -> tuple[Schedules, Before]:
    # The backward pass needs the quotients themselves.
    expanded = divide_last(expand(program))
    stores = [
        Store(
            Storage(result.variable, result.slots, result.order),
            expanded[result.definition.name].node,
            result.slots,
            condition=result.condition,
        )
        for result in results
    ]
    passed = {result.variable: result.variable for result in results}
    made = Pass(mode, "forward", expanded, dict(storages), symbols, {}, passed, numbers)
    found = schedules(made, stores, ())
    return found, Before(made, split_of(made, stores), found.split)


def _backward(
    mode: Mode,
    program: Program,
    results: Sequence[Result],
    storages: Mapping[str, Storage],
    symbols: Mapping[str, str],
    numbers: Numbers,
    before: Before,
) -> tuple[Schedules, Rest]:
    slots = mode.slots
    derived = simplify(derive(program, slots, program.outputs))
    cotangents = {result.definition.name + ADJOINT: result for result in results}
    optional = {name: result.condition for name, result in cotangents.items() if result.condition}
    expanded = expand(replace(derived, definitions=(*program.definitions, *derived.definitions)))
    cut = cut_at_batch_sums(expanded, partial(is_unrolled, expanded))
    feature = slots[FEATURES]
    h_bar = Storage("h_bar", feature, but_listed(feature), listed=1)
    exact = mode.spec.modalities.exact
    stores = [store for definition in cut.rows for store in _feature_stores(h_bar, definition.node, expanded, exact)]
    stores += [buffer_store(buffer) for buffer in cut.buffers]
    passed = {"h_bar": "h_bar"} | {name: result.variable + ADJOINT for name, result in cotangents.items()}
    made = Pass(mode, "backward", expanded, dict(storages), symbols, optional, passed, numbers)
    return schedules(made, stores, cut.buffers, before), _rest(mode, cut.rest, symbols)


def _feature_stores(storage: Storage, node: Node, program: Program, exact: int | None) -> list[Store]:
    """How the gradient of the features is written: by number where the formula names modalities so, else in a loop."""
    modality, *apart = storage.slots[1:]
    terms = terms_of(node)
    is_numbered = all(term.op == "place" and term.over == (modality,) and isinstance(term.data, int) for term in terms)
    if exact is None or not is_numbered:
        return [Store(storage, node, storage.slots)]
    stores = []
    for number in range(exact):
        own = [term.args[0] for term in terms if term.data == number]
        extents = {axis: read_at(program.extents[axis], {modality: number}) for axis in apart}
        axes = {axis: _axis_of_extent(own, axis, extent, program) for axis, extent in extents.items()}
        part = sum_of([ir.rename(term, axes) for term in own]) if own else ir.constant(0)
        named = replace(program, definitions=(Definition(storage.name, tuple(axes.values()), part),))
        stores.append(Store(storage, rewrite(named, (merge_views(program.extents),))[storage.name].node, (BATCH, number, *axes.values())))
    return stores


def _axis_of_extent(nodes: Sequence[Node], axis: str, extent: Extent, program: Program) -> str:
    """The axis that nodes have of an extent, where ``axis`` stands for it in the features: that which it renamed, if any."""
    if program.extents[axis] == extent:
        return axis
    renamed: list[str] = [old for node in nodes if node.op == "rename" for old, new in node.data if new == axis]
    others = [other for other in program.extents if all(other not in node.axes for node in nodes)]
    return next((other for other in (*renamed, *others) if program.extents[other] == extent), axis)


def _rest(mode: Mode, program: Program, symbols: Mapping[str, str]) -> Rest:
    """The statements that compute the gradients of the parameters."""
    emitter = host_emitter(mode, symbols)
    lowering = Lowering(program, mode.modules, emitter, None)
    lowering.count_uses([definition.node for definition in program.definitions])
    gradients = parameter_gradients(lowering, mode, {definition.name: definition.node for definition in program.definitions})
    names = tuple((d.name, any(_is_product_over_batch(n) for n in ir.reachable([d.node]))) for d in program.definitions)
    return Rest(tuple(emitter.lines), gradients, names)


def _is_product_over_batch(node: Node) -> bool:
    return BATCH in node.over and node.args[0].op == "mul"


def _shape(layout: Layout, program: Program, symbols: Mapping[str, str]) -> str:
    sizes = []
    for dimension in layout.dimensions:
        extents = {**program.extents, BATCH: Extent.symbol("batch")}
        sizes.append(size_of(dimension, extents).code(symbols))
    return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"
