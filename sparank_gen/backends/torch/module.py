"""What the torch templates lay out: for each mode its constructor, its statements, and its documentation."""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sparank_gen.backends.code import names_read
from sparank_gen.backends.torch.emit import FUNCTIONS, RESERVED, WIDTHS, Emitter
from sparank_gen.backends.torch.gradients import Gradients, derivation, gradients
from sparank_gen.backends.torch.lower import Lowering
from sparank_gen.backends.torch.memory import alive
from sparank_gen.backends.torch.parameters import ParameterRow, assignments, bindings, parameter_rows, submodules
from sparank_gen.backends.torch.requirements import divisions, requirements
from sparank_gen.backends.torch.results import realise
from sparank_gen.formulas.latex import formulas
from sparank_gen.formulas.shared import formula_program
from sparank_gen.ir.mode import Mode
from sparank_gen.ir.node import Program
from sparank_gen.ir.prepare import prepared, prepared_restricted
from sparank_gen.ir.restrict import numbered
from sparank_gen.ir.sizes import usual_sizes
from sparank_gen.ir.specialise import fix_modalities
from sparank_gen.ir.views import result_node
from sparank_gen.lang.extents import Extent, largest
from sparank_gen.lang.widths import width_name
from sparank_gen.plan.recorded import statements_pay
from sparank_gen.plan.schedule import largest_operand, only_moves, touches_less, working_set
from sparank_gen.plan.stacking import stacked_dim
from sparank_gen.plan.stages import whole_tiles

WITH_PRESENT = "The same among the modalities that each sample has, of features that are zero where they are absent."
PAIR = "The same for exactly two modalities, in the shorter form that two allow."
# The general way to compute a mode has this many modalities, where two have their own.
USUAL_MODALITIES = 3
CONSTRUCTORS = ("container", "require_number", "require_value", "uniform")


@dataclass(frozen=True)
class Function:
    """The statements of one way to compute a mode.

    Attributes:
        name: the method's name.
        arguments: what it takes before ``return_extras``.
        summary: when it applies.
        bindings: statements that read the parameters from the modules.
        body: statements up to the output.
        out: the expression of the output.
        extras_body: further statements that what else is returned needs.
        extras: the expressions of that.
        alive: the most numbers of one row that its variables hold at once until the output is there.
    """

    name: str
    arguments: str
    summary: str
    bindings: tuple[str, ...]
    body: tuple[str, ...]
    out: str
    extras_body: tuple[str, ...]
    extras: tuple[str, ...]
    alive: Extent

    @property
    def text(self) -> str:
        return "\n".join((*self.bindings, *self.body, self.out, *self.extras_body, *self.extras))


@dataclass(frozen=True)
class Argument:
    """A keyword argument of a mode's constructor."""

    name: str
    type: str
    default: str
    minimum: str | None
    maximum: str | None
    help: str

    @property
    def check(self) -> str:
        """The statement that refuses other values."""
        pieces = [f'"{self.name}"', self.name, *(["float"] if self.type == "float" else [])]
        pieces += [f"least={self.minimum}"] if self.minimum is not None else []
        pieces += [f"most={self.maximum}"] if self.maximum is not None else []
        return f"require_number({', '.join(pieces)})"


@dataclass(frozen=True)
class ModuleFile:
    """Everything the template of a mode's file needs; ``numbered`` is the statement that rules out missing modalities."""

    mode: Mode
    class_name: str
    arguments: tuple[Argument, ...]
    checks: tuple[tuple[str, str], ...]
    requirements: tuple[str, ...]
    assignments: tuple[tuple[str, str], ...]
    submodules: dict[str, int | None]
    out_dim: str
    block: tuple[str, str] | None
    only_moves: bool
    held: str
    batch_dims: tuple[int, ...]
    functions: tuple[Function, ...]
    recorded: tuple[Gradients, ...]
    numbered: str | None
    bindings: tuple[str, ...]
    parameter_names: tuple[str, ...]
    kernel_arguments: str
    formulas: tuple[str, ...]
    parameters: tuple[ParameterRow, ...]

    @property
    def has_pair_form(self) -> bool:
        return any(function.name == "_fuse_pair" for function in self.functions)

    @property
    def numbered_code(self) -> str:
        return repr(self.numbered)

    @property
    def imports(self) -> list[str]:
        """What the file imports from the runtime."""
        names = ["FusionModule", "Tensors", *filter(self.reads, CONSTRUCTORS)]
        names += ["require_multiple"] if self.checks else []
        return sorted(names, key=lambda name: (name.islower(), name))

    @property
    def called(self) -> tuple[str, ...]:
        """Which functions of the package the file calls."""
        return tuple(filter(self.reads, FUNCTIONS))

    @property
    def collections(self) -> list[str]:
        """What the file imports from ``collections.abc``."""
        return ["Iterable"] * self.reads("Iterable") + ["Sequence"] * (self.mode.one_width is None)

    @property
    def typing(self) -> list[str]:
        """What the file imports from ``typing``."""
        return ["Any"] * bool(self.recorded) + ["cast"] * self.reads("cast")

    def reads(self, name: str) -> bool:
        """Whether the code of the file reads ``name``, as it does to call a function."""
        return name in self._names_read

    @functools.cached_property
    def _names_read(self) -> frozenset[str]:
        functions = (*(f.text for f in self.functions), *(f.text for f in self.recorded))
        asked = (*(argument.check for argument in self.arguments), *self.requirements)
        return names_read("\n".join((*asked, *(value for _, value in self.assignments), *functions, *self.bindings)))


def module_file(mode: Mode) -> ModuleFile:
    """The file of one mode."""
    names, program = _symbols(mode, ""), prepared(mode)
    forms = _forms(mode, program)
    made = _functions(mode, forms)
    variables = parameter_variables(mode)
    passed = [*variables.values(), *(f"self.{h.name.value}" for h in mode.spec.hyperparameters)]
    return ModuleFile(
        mode=mode,
        class_name=class_name(mode.name),
        arguments=arguments(mode),
        checks=divisions(mode, names),
        requirements=requirements(mode, names),
        assignments=assignments(mode, names),
        submodules=submodules(mode),
        out_dim=out_dim(mode),
        block=_block(mode, program, names, made[0].alive),
        only_moves=only_moves(program),
        held=largest(whole_tiles(program), names),
        batch_dims=tuple(result.layout.dimensions.index(("b",)) for result in mode.results),
        functions=made,
        recorded=_recorded(mode, forms, made),
        numbered=numbered(mode.program),
        bindings=tuple(bindings(mode.modules, variables)),
        parameter_names=tuple(variables.values()),
        kernel_arguments="".join(f"{name}, " for name in passed),
        formulas=formulas(formula_program(mode)),
        parameters=parameter_rows(mode),
    )


def class_name(mode: str) -> str:
    """The class of a mode: its name in camel case, and ``Fusion``, unless it ends so."""
    name = "".join(part.capitalize() for part in mode.split("_") if part)
    return f"{name.removesuffix('Fusion')}Fusion"


def out_dim(mode: Mode) -> str:
    """The number of output features in terms of the arguments of a mode's constructor."""
    return mode.out_extent.code(_symbols(mode, ""))


def arguments(mode: Mode) -> tuple[Argument, ...]:
    """The keyword arguments of a mode's constructor beside ``dim`` and ``n_modalities``."""
    return tuple(
        Argument(h.name.value, h.type, repr(h.default), _literal(h.minimum), _literal(h.maximum), h.help)
        for h in mode.spec.hyperparameters
    )


def _literal(bound: float | None) -> str | None:
    return None if bound is None else repr(bound)


def parameter_variables(mode: Mode) -> dict[str, str]:
    """The variable that holds each parameter in a function that has no other names to avoid but its own."""
    emitter = Emitter(mode.program.extents, {}, taken=set(RESERVED | {"kernels", "return_extras"}))
    return {p.layout.name: emitter.unique(p.layout.name) for module in mode.modules for p in module.parameters}


@dataclass(frozen=True)
class _Form:
    """A way to compute a mode: its method, when it applies, and the program; its number of modalities where that is known."""

    name: str
    summary: str
    program: Program
    count: int | None


def _forms(mode: Mode, general: Program) -> list[_Form]:
    """The general way to compute a mode, and that for two modalities where it touches less."""
    parameters = frozenset(parameter.layout.name for module in mode.modules for parameter in module.parameters)
    counts = mode.spec.modalities
    if counts.exact is not None:
        return [_Form("_fuse", "", fix_modalities(general, counts.exact, parameters), counts.exact)]
    forms = [_Form("_fuse", "", general, None)]
    if counts.minimum <= 2 and (counts.maximum is None or counts.maximum >= 2):
        pair = fix_modalities(general, 2, parameters)
        if touches_less(pair, general, usual_sizes(2, mode.spec.hyperparameters)):
            forms.append(_Form("_fuse_pair", PAIR, pair, 2))
    return forms


def _functions(mode: Mode, forms: Sequence[_Form]) -> tuple[Function, ...]:
    """The general way to compute a mode, and those where two modalities allow a shorter one or some may be missing."""
    general, *pair = [lower_function(mode, form.program, form.name, form.summary) for form in forms]
    made = (general, *(function for function in pair if function.body != general.body))
    if numbered(mode.program) is not None:
        return made
    restricted = prepared_restricted(mode)
    return (*made, lower_function(mode, restricted, "_fuse_present", WITH_PRESENT, "h: Tensors, present: Tensor"))


def _recorded(mode: Mode, forms: Sequence[_Form], made: Sequence[Function]) -> tuple[Gradients, ...]:
    """The gradients of the ways to compute a mode, where it pays to have them in statements of their own."""
    if not mode.modules or not mode.program.outputs:
        return ()
    found: list[Gradients] = []
    names = {function.name for function in made}
    for form in forms:
        usual = usual_sizes(form.count or USUAL_MODALITIES, mode.spec.hyperparameters)
        derived = derivation(mode, form.program, form.count)
        if form.name in names and statements_pay(form.program, derived.adjoints, derived.kept, usual):
            forward = _lowering(mode, form.program)
            found.append(gradients(mode, derived, forward, form.name.removeprefix("_fuse")))
    return tuple(found)


def lower_function(mode: Mode, program: Program, name: str, summary: str, arguments: str = "h: Tensors") -> Function:
    """Lower a program into the statements of one method."""
    lowering, codes, end = _lowered(mode, program)
    repeated = {sequence for sequence, count in lowering.stacks.items() if count > 1}
    if repeated:
        lowering, codes, end = _lowered(mode, program, repeated)
    lines = lowering.emitter.lines
    code = "\n".join([*lines, *codes])
    as_one = [name for name in lowering.variables.values() if f"torch.stack({name})" in code]
    features = ["h = few_as_one(h)"] if "h" in lowering.multiplied_lists else []
    return Function(
        name=name,
        arguments=arguments,
        summary=summary,
        bindings=(*features, *bindings(mode.modules, lowering.variables, as_one)),
        body=tuple(lines[:end]),
        out=codes[0],
        extras_body=tuple(lines[end:]),
        extras=tuple(codes[1:]),
        alive=alive(lowering.emitter, end, codes[0], program, usual_sizes(mode.spec.modalities.minimum, mode.spec.hyperparameters)),
    )


def _lowered(mode: Mode, program: Program, kept_stacks: Collection[str] = ()) -> tuple[Lowering, list[str], int]:
    """A program with its statements, the expressions of its results, and how many statements the first one needs."""
    lowering = _lowering(mode, program, kept_stacks)
    emitter = lowering.emitter
    results = [(result.layout, result_node(program, result.layout)) for result in mode.results]
    lowering.count_uses([node for _, node in results])
    codes, end = [], 0
    for layout, node in results:
        codes.append(realise(lowering, node, layout))
        end = end if len(codes) > 1 else len(emitter.lines)
    return lowering, codes, end


def _lowering(mode: Mode, program: Program, kept_stacks: Collection[str] = ()) -> Lowering:
    """What lowers a program into one method."""
    names = frozenset(definition.name for definition in program.definitions)
    emitter = Emitter(program.extents, _symbols(mode, "self."), named=names)
    leading = [((axis,),) for axis in program.modality_axes]
    per_modality = {
        p.layout.name: m.per is not None or p.layout.dimensions[:1] in leading
        for m in mode.modules
        for p in m.parameters
    }
    usual = usual_sizes(mode.spec.modalities.minimum, mode.spec.hyperparameters)
    stacked = stacked_dim(program, per_modality, usual) if mode.one_width is not None else None
    return Lowering(program, mode.modules, emitter, stacked, usual, kept_stacks, writes=True)


def _symbols(mode: Mode, prefix: str) -> dict[str, str]:
    """How the names in extents are written in code: attributes of the module, or arguments of its constructor."""
    names = {"dim": f"{prefix}dim", "modalities": f"{prefix}n_modalities", "batch": "h[0].shape[0]"}
    names |= width_symbols(mode, "self.dims")
    return names | {h.name.value: f"{prefix}{h.name.value}" for h in mode.spec.hyperparameters}


def width_symbols(mode: Mode, widths: str) -> dict[str, str]:
    """How the names of widths are written, where ``widths`` is the code of all, in their order."""
    if mode.one_width is not None:
        return {}
    by_number = {width_name(m): f"{widths}[{m}]" for m in range(mode.spec.modalities.minimum)}
    emitter = Emitter(mode.program.extents, {}, taken={h.name.value for h in mode.spec.hyperparameters})
    by_axis = {width_name(axis): emitter.unique(f"dim_{axis}") for axis in sorted(mode.program.modality_axes)}
    return {"sum(dim)": f"sum({widths})", "max(dim)": f"max({widths})", WIDTHS: widths, **by_number, **by_axis}


def _block(mode: Mode, program: Program, names: dict[str, str], variables: Extent) -> tuple[str, str] | None:
    """How many numbers a row touches, and how many of them are there at once, in ``variables`` or on the way to one; None
    where there are none worth a block."""
    usual = usual_sizes(mode.spec.modalities.minimum, mode.spec.hyperparameters)
    total = working_set(program, in_kernel=False)
    most = max(variables, largest_operand(program, usual), key=lambda extent: extent.number_for(usual))
    return (total.code(names), most.code(names)) if total is not None else None
