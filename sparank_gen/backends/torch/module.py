"""What the torch templates lay out: for each mode its constructor, its statements, and its documentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sparank_gen.backends.docs.latex import formulas
from sparank_gen.backends.torch.emit import RESERVED, Emitter
from sparank_gen.backends.torch.lower import Lowering
from sparank_gen.ir import node as ir
from sparank_gen.ir.mode import Mode
from sparank_gen.ir.node import Program
from sparank_gen.ir.simplify import simplify
from sparank_gen.ir.specialise import fix_modalities, merge_contractions
from sparank_gen.lang.extents import Extent
from sparank_gen.lang.modules import Module
from sparank_gen.plan.schedule import stacks_features, working_set

PAIR = "The same for exactly two modalities, in the shorter form that two allow."
RUNTIME = ("dot", "lerp", "multiply_all", "sum_all", "sum_of_products")


@dataclass(frozen=True)
class Function:
    """The statements of one way to compute a mode.

    Attributes:
        name: the method's name.
        summary: when it applies.
        bindings: statements that read the parameters from the modules.
        body: statements up to the output.
        out: the expression of the output.
        weights_body: further statements that the weights need.
        weights: the expression of the weights; None where the mode has none.
    """

    name: str
    summary: str
    bindings: tuple[str, ...]
    body: tuple[str, ...]
    out: str
    weights_body: tuple[str, ...]
    weights: str | None

    @property
    def text(self) -> str:
        return "\n".join((*self.bindings, *self.body, self.out, *self.weights_body, self.weights or ""))


@dataclass(frozen=True)
class Argument:
    """A keyword argument of a mode's constructor."""

    name: str
    type: str
    default: str
    minimum: str | None
    help: str


@dataclass(frozen=True)
class ModuleFile:
    """Everything the template of a mode's file needs."""

    mode: Mode
    class_name: str
    arguments: tuple[Argument, ...]
    checks: tuple[tuple[str, str, str], ...]
    assignments: tuple[tuple[str, str], ...]
    out_dim: str
    block: str | None
    batch_dims: tuple[int, ...]
    functions: tuple[Function, ...]
    bindings: tuple[str, ...]
    kernel_arguments: str
    formulas: tuple[str, ...]
    parameters: tuple[tuple[str, str, str], ...]

    @property
    def imports(self) -> list[str]:
        """What the file imports from the runtime."""
        text = self.text
        names = ["FusionModule", "Tensors", *runtime_functions(text)]
        names += ["require_at_least"] if any(argument.minimum is not None for argument in self.arguments) else []
        names += ["require_multiple"] if self.checks else []
        return sorted(names, key=lambda name: (name.islower(), name))

    def uses(self, prefix: str) -> bool:
        """Whether the code of the file mentions ``prefix``."""
        return prefix in self.text

    @property
    def text(self) -> str:
        return "\n".join((*(function.text for function in self.functions), *self.bindings))


def runtime_functions(code: str) -> tuple[str, ...]:
    """The functions of the runtime that ``code`` calls."""
    return tuple(name for name in RUNTIME if f"{name}(" in code)


def module_file(mode: Mode) -> ModuleFile:
    """The file of one mode."""
    names = _symbols(mode, "")
    variables = parameter_variables(mode)
    passed = [*variables.values(), *(f"self.{h.name.value}" for h in mode.spec.hyperparameters)]
    return ModuleFile(
        mode=mode,
        class_name=class_name(mode.name),
        arguments=arguments(mode),
        checks=tuple((d.whole.code(names), d.part.code(names), str(d.part)) for d in mode.divisions),
        assignments=_assignments(mode.modules, names),
        out_dim=mode.out_extent.code(names),
        block=_block(mode, names),
        batch_dims=tuple(layout.dimensions.index(("b",)) for layout in (mode.out, mode.weights) if layout),
        functions=functions(mode),
        bindings=tuple(_bindings(mode.modules, variables)),
        kernel_arguments="".join(f"{name}, " for name in passed),
        formulas=formulas(mode.program),
        parameters=tuple(_parameter_rows(mode)),
    )


def class_name(mode: str) -> str:
    """The class of a mode: its name in camel case, and ``Fusion``."""
    return "".join(part.capitalize() for part in mode.split("_") if part) + "Fusion"


def arguments(mode: Mode) -> tuple[Argument, ...]:
    """The keyword arguments of a mode's constructor beside ``dim`` and ``n_modalities``."""
    return tuple(
        Argument(h.name.value, h.type, repr(h.default), None if h.minimum is None else repr(h.minimum), h.help)
        for h in mode.spec.hyperparameters
    )


def parameter_variables(mode: Mode) -> dict[str, str]:
    """The variable that holds each parameter in a function that has no other names to avoid but its own."""
    emitter = Emitter(mode.program.extents, {}, taken=set(RESERVED | {"kernels", "return_weights"}))
    return {p.layout.name: emitter.unique(p.layout.name) for module in mode.modules for p in module.parameters}


def prepared(mode: Mode) -> Program:
    """The program that torch code is made from."""
    layouts = {parameter.layout.name: parameter.layout for module in mode.modules for parameter in module.parameters}
    return simplify(merge_contractions(mode.program, layouts))


def functions(mode: Mode) -> tuple[Function, ...]:
    """The general way to compute a mode and, where two modalities allow a shorter one, that one too."""
    parameters = frozenset(parameter.layout.name for module in mode.modules for parameter in module.parameters)
    general = prepared(mode)
    counts = mode.spec.modalities
    if counts.exact is not None:
        return (lower_function(mode, fix_modalities(general, counts.exact, parameters), "_fuse", ""),)
    made = [lower_function(mode, general, "_fuse", "")]
    if counts.minimum <= 2 and (counts.maximum is None or counts.maximum >= 2):
        pair = lower_function(mode, fix_modalities(general, 2, parameters), "_fuse_pair", PAIR)
        if pair.body != made[0].body:
            made.append(pair)
    return tuple(made)


def lower_function(mode: Mode, program: Program, name: str, summary: str) -> Function:
    """Lower a program into the statements of one method."""
    emitter = Emitter(program.extents, _symbols(mode, "self."))
    per_modality = {p.layout.name: m.per is not None for m in mode.modules for p in m.parameters}
    lowering = Lowering(program, mode.modules, emitter, stacks_features(program, per_modality))
    results = [(layout, lowering.result_node(layout)) for layout in (mode.out, mode.weights) if layout is not None]
    lowering.count_uses([node for _, node in results])
    codes, ends = [], []
    for layout, node in results:
        for inner in ir.reachable([node]):
            if inner in lowering.definitions:
                lowering.lower(inner)
        codes.append(lowering.realise(lowering.lower(node), layout))
        ends.append(len(emitter.lines))
    body, weights_body = emitter.lines[: ends[0]], emitter.lines[ends[0] :]
    bindings = tuple(_bindings(mode.modules, lowering.variables))
    return Function(
        name=name,
        summary=summary,
        bindings=bindings,
        body=tuple(body),
        out=codes[0],
        weights_body=tuple(weights_body),
        weights=codes[1] if len(codes) > 1 else None,
    )


def _symbols(mode: Mode, prefix: str) -> dict[str, str]:
    """How the names in extents are written in code: attributes of the module, or arguments of its constructor."""
    names = {"dim": f"{prefix}dim", "modalities": f"{prefix}n_modalities", "batch": "h[0].shape[0]"}
    return names | {h.name.value: f"{prefix}{h.name.value}" for h in mode.spec.hyperparameters}


def _bindings(modules: Sequence[Module], variables: Mapping[str, str]) -> list[str]:
    """Statements that give the parameters their names in the math."""
    lines = []
    for module in modules:
        holder = f"self.{_attribute(module.path)}"
        # Containers are typed as holding any module; the cast says which.
        if module.per is not None:
            lines.append(f'modules = cast("Iterable[nn.{module.kind}]", {holder})')
        elif "." in module.path:
            lines.append(f"module = cast(nn.{module.kind}, {holder})")
            holder = "module"
        for parameter in module.parameters:
            name = variables[parameter.layout.name]
            if module.per is None:
                lines.append(f"{name} = {holder}.{parameter.path}")
            else:
                lines.append(f"{name} = [module.{parameter.path} for module in modules]")
    return lines


def _attribute(path: str) -> str:
    """A dotted path as Python reads it: whole numbers are positions in a container."""
    first, *rest = path.split(".")
    return first + "".join(f"[{piece}]" if piece.isdigit() else f".{piece}" for piece in rest)


def _assignments(modules: Sequence[Module], names: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """The attribute and the constructor call of each module; those under one path share a container."""
    made: dict[str, list[str]] = {}
    for module in modules:
        pieces = [*(extent.code(names) for extent in module.arguments), *(f"{key}={value}" for key, value in module.options)]
        call = f"nn.{module.kind}({', '.join(pieces)})"
        if module.per is not None:
            call = f"nn.ModuleList([{call} for _ in range(n_modalities)])"
        made.setdefault(module.path.split(".")[0], []).append(call)
    return tuple(
        (path, f"nn.Sequential({', '.join(calls)})" if f"{path}.0" in {module.path for module in modules} else calls[0])
        for path, calls in made.items()
    )


def _block(mode: Mode, names: dict[str, str]) -> str | None:
    total = working_set(prepared(mode))
    return total.code(names) if total is not None else None


def _parameter_rows(mode: Mode) -> list[tuple[str, str, str]]:
    """For each parameter tensor: its state-dict key, its shape, and its name in the math."""
    rows = []
    for module in mode.modules:
        for parameter in module.parameters:
            sizes = []
            for dimension in parameter.layout.without(module.per):
                size = Extent.number(1)
                for axis in dimension:
                    size = size * mode.program.extents[axis]
                sizes.append(str(size.substitute("modalities", Extent.symbol("n_modalities"))))
            index = f".{{{module.per}}}" if module.per else ""
            shape = f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"
            rows.append((f"{module.path}{index}.{parameter.path}", shape, str(parameter.layout)))
    return rows


