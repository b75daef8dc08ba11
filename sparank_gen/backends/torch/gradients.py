"""Gradients as statements: the derivative of a mode's formula, from what its forward pass keeps."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from sparank_gen.backends.torch.emit import RESERVED, Emitter
from sparank_gen.backends.torch.lower import Lowering
from sparank_gen.backends.torch.pieces import laid_out, split_apart
from sparank_gen.backends.torch.results import realise
from sparank_gen.backends.torch.values import Dense, Listed, Value, index_dense
from sparank_gen.ir import node as ir
from sparank_gen.ir.derive import ADJOINT, derive
from sparank_gen.ir.mode import Mode
from sparank_gen.ir.node import BATCH, Definition, Node, Program
from sparank_gen.ir.reuse import THROUGH, reuse
from sparank_gen.ir.rewrite import rewrite
from sparank_gen.ir.simplify import IDENTITIES, merge_views, simplify
from sparank_gen.ir.specialise import Pieces, push_select
from sparank_gen.ir.text import formula, written_size
from sparank_gen.ir.views import FEATURES, result_node
from sparank_gen.lang.layouts import Layout
from sparank_gen.lang.widths import owner_among, read_at
from sparank_gen.plan.recorded import ARITHMETIC
from sparank_gen.plan.stages import with_leaves

# What is computed again where it is read, as is arithmetic on what is kept.
VIEWS = frozenset({"rename", "select", "stack", "slice", "concat"})
# What shares the memory of its operand.
SHARING = frozenset({"rename", "select", "slice"})
# What a gradient through an operator is the gradient of.
OPERAND = "operand"
LONGEST_FORMULA = 110
At = Mapping[str, int]
NOWHERE: At = {}


@dataclass(frozen=True)
class Derivation:
    """What a mode's gradients are computed from.

    Attributes:
        program: the forward pass.
        adjoints: its adjoints, in terms of it.
        kept: what of it they read, and do not compute again from the rest.
    """

    program: Program
    adjoints: Program
    kept: tuple[Node, ...]


@dataclass(frozen=True)
class Gradients:
    """The forward pass of a mode as a function of features and parameters, and another of their gradients.

    Attributes:
        suffix: what tells the methods from those of other ways to compute the mode.
        operands: the arguments that hold features and parameters, with their types.
        values: statements up to the output.
        out: the expression of the output.
        kept: the variables that the gradients need beside features and parameters, and their types.
        cotangent: the argument that holds the output's gradient.
        body: statements up to the gradients of the parameters.
        parameters: the expression of each parameter's gradient: a list where the parameter is one, None where it has none.
        features_body: further statements up to those of the features.
        features: the expression of the list of them.
    """

    suffix: str
    operands: tuple[str, ...]
    values: tuple[str, ...]
    out: str
    kept: tuple[tuple[str, str], ...]
    cotangent: str
    body: tuple[str, ...]
    parameters: tuple[str, ...]
    features_body: tuple[str, ...]
    features: str

    @property
    def flag(self) -> str:
        """The attribute of a mode that says whether it has these."""
        return f"has{self.suffix}_gradients"

    @property
    def text(self) -> str:
        return "\n".join((*self.values, self.out, *self.body, *self.parameters, *self.features_body, self.features))


def derivation(mode: Mode, program: Program, count: int | None) -> Derivation:
    """The derivation of the output's gradients from ``program``, with one for each modality where their number is ``count``."""
    adjoints = reuse(simplify(derive(program, mode.slots, program.outputs[:1])), program, count)
    if count is not None:
        parameters = frozenset(parameter.layout.name for module in mode.modules for parameter in module.parameters)
        rules = (merge_views(program.extents), push_select(program, parameters), *IDENTITIES)
        adjoints = rewrite(_taken_apart(mode, adjoints, count), rules)
    output = program[program.outputs[0]].node
    may_keep = set(ir.reachable([output])) - set(_seen(output))
    return Derivation(program, adjoints, tuple(_kept([adjoints[name].node for name in adjoints.outputs], may_keep)))


def _taken_apart(mode: Mode, adjoints: Program, count: int) -> Program:
    """``adjoints`` with a definition for each modality, where a gradient is a list with one for each."""
    axes = {p.layout.name + ADJOINT: module.per for module in mode.modules for p in module.parameters if module.per is not None}
    axes[FEATURES + ADJOINT] = mode.slots[FEATURES][1]
    picked = Pieces()
    definitions: list[Definition] = []
    for definition in adjoints.definitions:
        axis = axes.get(definition.name)
        if axis is None:
            definitions.append(definition)
            continue
        rest = tuple(other for other in definition.axes if other != axis)
        pieces = [picked.pick(definition.node, axis, position) for position in range(count)]
        definitions += [Definition(f"{definition.name}_{k}", rest, piece) for k, piece in enumerate(pieces)]
    outputs = [name for name in adjoints.outputs if name not in axes]
    outputs += [f"{name}_{k}" for name in adjoints.outputs if name in axes for k in range(count)]
    return replace(adjoints, definitions=tuple(definitions), outputs=tuple(outputs))


def _seen(output: Node) -> Iterator[Node]:
    """What the output is a view of: it lies in memory that a caller may write over."""
    while output.op in SHARING:
        (output,) = output.args
        yield output


def _kept(roots: Sequence[Node], may_keep: Collection[Node]) -> list[Node]:
    """What ``roots`` read of that which may be kept, without what follows from the rest by arithmetic.

    What is compared for equality, as numbers are with the largest of them, is kept: computed again it may round otherwise.
    """
    read: dict[Node, None] = {}
    compared = {arg for node in ir.reachable(roots) if node.op == "eq" for arg in node.args}
    pending, seen = list(roots), set[Node]()
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        if node not in may_keep or BATCH not in node.axes or node.op in VIEWS:
            pending.extend(reversed(node.args))
        elif node.args:
            read[node] = None
    # Whether a node follows from what is read by nothing but arithmetic.
    follows: dict[Node, bool] = {}
    for node in ir.reachable(read):
        is_computed = node.op in ARITHMETIC | VIEWS and all(follows[arg] for arg in node.args)
        follows[node] = node in read or not node.args or BATCH not in node.axes or is_computed
    return [
        node
        for node in read
        if node.op not in ARITHMETIC or node in compared or not all(follows[arg] for arg in node.args)
    ]


def gradients(mode: Mode, derived: Derivation, forward: Lowering, suffix: str) -> Gradients:
    """The statements of a mode's forward pass and its gradients.

    Args:
        mode: the mode.
        derived: the derivation of its gradients.
        forward: what lowers its forward pass, and has lowered nothing.
        suffix: what tells its methods from others.
    """
    program, emitter = derived.program, forward.emitter
    result = result_node(program, mode.out)
    forward.count_uses([result, *derived.kept], outputs=1 + len(derived.kept))
    out = realise(forward, result, mode.out)
    kept = {node: forward.named(node, forward.lower(node)) for node in derived.kept}
    values = tuple(emitter.lines)

    cotangent = program.outputs[0] + ADJOINT
    leaves = {node: ir.leaf(_name(value), (BATCH, *_axes(node, program))) for node, value in kept.items()}
    shown = _with_formulas(derived, kept)
    adjoints = shown.mapped(with_leaves((definition.node for definition in shown.definitions), leaves))
    named = Emitter(
        program.extents,
        emitter.symbols,
        taken={*RESERVED, *emitter.taken, cotangent} - {FEATURES + ADJOINT},
        elements=dict(emitter.elements),
    )
    lowering = Lowering(adjoints, mode.modules, named, None, temporaries=True)
    lowering.variables = forward.variables
    lowering.values |= {leaves[node]: value for node, value in kept.items()}
    for leaf in ir.reachable(adjoints[name].node for name in adjoints.outputs):
        if leaf.op == "leaf" and leaf.data[0] == cotangent:
            read = dict(zip((BATCH, *program[program.outputs[0]].axes), leaf.data[1], strict=True))
            lowering.values[leaf] = _cotangent(lowering, cotangent, mode.out, [read[axis] for axis in mode.out.axes])
    nodes = {definition.name: definition.node for definition in adjoints.definitions}
    lowering.count_uses([nodes[name] for name in adjoints.outputs])
    found = parameter_gradients(lowering, mode, nodes)
    end = len(named.lines)
    features = _feature_gradients(lowering, mode, nodes)
    parameters = [(p.layout.name, module.per is not None) for module in mode.modules for p in module.parameters]
    return Gradients(
        suffix=suffix,
        operands=("h: Tensors", *(f"{forward.variables[name]}: {_type(is_list)}" for name, is_list in parameters)),
        values=values,
        out=out,
        kept=tuple((_name(value), _type(isinstance(value, Listed))) for value in kept.values()),
        cotangent=cotangent,
        body=tuple(named.lines[:end]),
        parameters=tuple(found.get(name, "None") for name, _ in parameters),
        features_body=tuple(named.lines[end:]),
        features=features,
    )


def _with_formulas(derived: Derivation, kept: Mapping[Node, Value]) -> Program:
    """The adjoints with their formulas, in terms of what the forward pass keeps; gradients through operators have names too."""
    adjoints, program = derived.adjoints, derived.program
    named = {definition.node for definition in adjoints.definitions}
    through = [node for node in ir.reachable(d.node for d in adjoints.definitions) if node.op in THROUGH and node not in named]
    operand = program.free_name(OPERAND) + ADJOINT
    own = [Definition(operand + (f"_{k}" if k > 1 else ""), _axes(node, program), node) for k, node in enumerate(through, 1)]
    definitions = (*own, *adjoints.definitions)
    names = {node: Definition(_name(value), _axes(node, program), node) for node, value in kept.items()}
    # What is the same along an index has none there, as its tensor has no such dimension.
    dense = [replace(d, axes=tuple(axis for axis in d.axes if axis in d.node.axes)) for d in (*definitions, *program.definitions)]
    names |= {definition.node: definition for definition in dense}
    short = (d if written_size(d.node, names) <= LONGEST_FORMULA else None for d in dense[: len(definitions)])
    formulas = [formula(definition, names) if definition else "" for definition in short]
    shown = [text if len(text) <= LONGEST_FORMULA else "" for text in formulas]
    return replace(adjoints, definitions=tuple(replace(d, source=text) for d, text in zip(definitions, shown, strict=True)))


def _axes(node: Node, program: Program) -> tuple[str, ...]:
    """The axes of a node beside the batch, in canonical order."""
    return tuple(axis for axis in program.extents if axis in node.axes and axis != BATCH)


def _cotangent(lowering: Lowering, name: str, layout: Layout, indices: Sequence[str | int]) -> Value:
    """The gradient of a result that lies as ``layout`` says, at ``indices``."""
    owner = owner_among(layout.axes, lowering.program.extents)
    if owner is not None:
        value = split_apart(lowering, name, name, layout, owner, indices)
        return lowering.emitter.with_widths(value) if isinstance(value, Listed) else value
    return index_dense(lowering.unpacked(name, layout.dimensions, layout.axes), indices)


def _type(is_list: bool) -> str:
    return "Tensors" if is_list else "Tensor"


def _name(value: Value) -> str:
    """The variable that holds a value."""
    return value.sequence if isinstance(value, Listed) else value.code


def parameter_gradients(lowering: Lowering, mode: Mode, adjoints: Mapping[str, Node]) -> dict[str, str]:
    """The expression of each parameter's gradient, with a dimension for each axis; a list where the parameter is one.

    Args:
        lowering: what lowers them.
        mode: the mode.
        adjoints: what they are, by name: that of the parameter with a suffix, and its position in a list where each has one.
    """
    found: dict[str, str] = {}
    for module in mode.modules:
        for parameter in module.parameters:
            name, layout, per = parameter.layout.name, parameter.layout, module.per
            part = replace(layout, dimensions=layout.without(per))
            pieces = _pieces(lowering, name, adjoints)
            if pieces:
                codes = [_as_parameter(lowering, value, part, None, {str(per): k}) for k, value in enumerate(pieces)]
                found[name] = f"[{', '.join(codes)}]"
            elif name + ADJOINT in adjoints:
                found[name] = _as_parameter(lowering, lowering.tensor(lowering.lower(adjoints[name + ADJOINT])), layout, per)
    return found


def _as_parameter(lowering: Lowering, value: Dense | Listed, layout: Layout, per: str | None, at: At = NOWHERE) -> str:
    """A gradient laid out as its parameter, which is a list along the axis ``per`` if that is given."""
    wanted = tuple(axis for axis in layout.axes if axis != per)
    owner = owner_among(layout.axes, lowering.program.extents)
    if owner is None or owner not in layout.axes:
        return _laid_out(lowering, value, per, wanted, at)
    inner = tuple(axis for axis in layout.axes if axis != owner)
    pieces = lowering.each(owner, partial(_whole, lowering, axes=inner), value)
    dimensions = (((per,),) if per is not None else ()) + layout.without(per)
    return pieces.sequence if per == owner else laid_out(lowering, pieces, replace(layout, dimensions=dimensions))


def _laid_out(lowering: Lowering, value: Dense | Listed, per: str | None, wanted: tuple[str, ...], at: At = NOWHERE) -> str:
    """A list along ``per`` whose elements have the axes ``wanted``, or one tensor where that is None."""
    if isinstance(value, Listed) and (value.axis != per or set(value.element.axes) != set(wanted)):
        value = lowering.dense(value)
    if isinstance(value, Listed):
        return Listed(value.axis, value.element.ordered(wanted), value.sources).sequence
    return _whole(lowering, value, (per, *wanted) if per is not None else wanted, at).code


def _feature_gradients(lowering: Lowering, mode: Mode, adjoints: Mapping[str, Node]) -> str:
    """The expression of the features' gradients, one for each modality."""
    _, modality, *inner = mode.slots[FEATURES]
    wanted = (BATCH, *inner)
    pieces = _pieces(lowering, FEATURES, adjoints)
    if pieces:
        codes = [_whole(lowering, lowering.dense(value), wanted, {modality: k}).code for k, value in enumerate(pieces)]
        return f"[{', '.join(codes)}]"
    if FEATURES + ADJOINT not in adjoints:
        return "None"
    whole = lowering.tensor(lowering.lower(adjoints[FEATURES + ADJOINT]))
    if owner_among((modality, *wanted), lowering.program.extents) is not None:
        return lowering.each(modality, partial(_whole, lowering, axes=wanted), whole).sequence
    return _laid_out(lowering, whole, modality, wanted)


def _pieces(lowering: Lowering, name: str, adjoints: Mapping[str, Node]) -> list[Dense | Listed]:
    """The gradients of a tensor's modalities, where each has a definition of its own; else none."""
    own = itertools.takewhile(adjoints.__contains__, (f"{name}{ADJOINT}_{k}" for k in itertools.count()))
    return [lowering.tensor(lowering.lower(adjoints[piece])) for piece in own]


def _whole(lowering: Lowering, value: Dense, axes: tuple[str, ...], at: At = NOWHERE) -> Dense:
    """``value`` with all of ``axes``, in their order; ``at`` is the position of modality axes that are not among them."""
    if set(value.axes) == set(axes):
        return value.ordered(axes)
    extents, symbols = lowering.program.extents, lowering.emitter.symbols
    sizes = [read_at(extents[axis], at).code(symbols) if axis in extents else lowering.emitter.extent_code(axis) for axis in axes]
    return Dense(f"{value.aligned(axes).atom}.expand({', '.join(sizes)})", axes)
