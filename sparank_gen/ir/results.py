"""What a mode returns: that its layouts fit what they lay out, and that everything in the spec is needed for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sparank_gen.ir import node as ir
from sparank_gen.ir.node import BATCH, FEATURES, Node, Program
from sparank_gen.ir.parameters import Holder, extents_in
from sparank_gen.lang.layouts import Layout
from sparank_gen.lang.syntax import Call, Expression, Reference, Statement
from sparank_gen.spec import errors
from sparank_gen.spec.model import FusionSpec

FEATURE_AXES = ("m", "dim")


def check_results(program: Program, out: Layout, layouts: Sequence[Layout]) -> None:
    """Raise unless each layout names the batch and every axis of its quantity, and ``out`` has two dimensions.

    Raises:
        SpecError: LayoutMismatch, or UnusedName for an output that does not depend on the features.
    """
    for layout in layouts:
        _check_axes(program, layout)
    if len(out.dimensions) != 2 or out.dimensions[0] != (BATCH,):
        raise errors.LayoutMismatch(
            f"the output is laid out as {out}, and must have two dimensions, the batch first",
            out.text.span(),
            "compose the other axes, as in 'out[b, (m i)]'",
        )
    if BATCH not in _node(program, out).axes:
        raise errors.UnusedName("the output does not depend on the features", out.text.span(), "use h[m,i] in the math")
    for layout in layouts:
        if any(len(dimension) > 1 and BATCH in dimension for dimension in layout.dimensions):
            raise errors.LayoutMismatch("the batch is composed with another axis", layout.text.span(), "keep 'b' apart")


def _check_axes(program: Program, layout: Layout) -> None:
    slots = FEATURE_AXES if layout.name == FEATURES else program[layout.name].axes
    if BATCH not in layout.axes:
        raise errors.LayoutMismatch(f"{layout} has no batch axis", layout.text.span(), "write 'b' where the batch goes")
    for axis in layout.axes:
        if axis != BATCH and axis not in slots and layout.name != FEATURES:
            raise errors.LayoutMismatch(
                f"{layout.name!r} has no axis {axis!r}; its axes are {', '.join(slots) or 'none'}",
                layout.span_of(axis),
                "name the axes as the definition does",
            )
    expected = len(slots) + 1
    if len(layout.axes) != expected:
        missing = [axis for axis in slots if axis not in layout.axes]
        raise errors.LayoutMismatch(
            f"{layout} does not cover the axes of {layout.name!r}: {', '.join(missing)} missing",
            layout.text.span(),
            "name every axis once; compose axes in parentheses",
        )
    if layout.name == FEATURES:
        _check_feature_layout(program, layout)


def _check_feature_layout(program: Program, layout: Layout) -> None:
    for extent in program.tensors[FEATURES].slots:
        if not any(axis != BATCH and program.extents[axis] == extent for axis in layout.axes):
            raise errors.LayoutMismatch(
                f"{layout} does not cover the features: an axis of extent {extent} is missing",
                layout.text.span(),
                "write one axis over modalities and one over dim",
            )


def _node(program: Program, layout: Layout) -> Node:
    """What a layout lays out."""
    if layout.name != FEATURES:
        return program[layout.name].node
    modality = next(axis for axis in layout.axes if axis in program.modality_axes)
    feature = next(axis for axis in layout.axes if axis not in (modality, BATCH))
    return ir.leaf(FEATURES, (BATCH, modality, feature))


def check_used(
    spec: FusionSpec,
    program: Program,
    statements: Mapping[str, Sequence[Statement]],
    holders: Sequence[Holder],
    layouts: Sequence[Layout],
) -> None:
    """Every parameter and every definition must reach a result; every index and hyper-parameter must be used.

    Raises:
        SpecError: UnusedName or UnusedIndex.
    """
    nodes = set(ir.reachable(program[name].node for name in program.outputs))
    reached = {node.data[0] for node in nodes if node.op == "leaf"}
    parameters = [parameter.layout for holder in holders for parameter in holder.parameters]
    for layout in parameters:
        if layout.name not in reached:
            raise errors.UnusedName(
                f"parameter {layout.name!r} is not used by any result",
                layout.text.span(0, 0, len(layout.name)),
                "use it, or remove it",
            )
    written = [statement for group in statements.values() for statement in group]
    mentioned = {index for statement in written for index in _indices_of(statement)}
    mentioned |= {axis for layout in (*parameters, *layouts) for axis in layout.axes}
    for axis, _ in spec.axes:
        if axis.value not in mentioned:
            raise errors.UnusedIndex(f"index {axis.value!r} is declared and not used", axis.span(), "remove it")
    for definition in program.definitions:
        if definition.node not in nodes:
            place = statements[definition.name][0].target.span
            raise errors.UnusedName(f"{definition.name!r} is not used by any result", place, "use it, or remove it")
    names = {name for statement in written for name in _names_of(statement.value)}
    names |= {name for extent in program.extents.values() for name in extent.symbols}
    names |= {name for holder in holders for extent in extents_in(holder) for name in extent.symbols}
    for hyperparameter in spec.hyperparameters:
        if hyperparameter.name.value not in names:
            message = f"hyper-parameter {hyperparameter.name.value!r} is not used"
            raise errors.UnusedName(message, hyperparameter.name.span(), "use it, or remove it")


def _indices_of(statement: Statement) -> set[str]:
    """The names of all indices in a statement."""

    def walk(expression: Expression) -> Iterator[str]:
        if isinstance(expression, Reference):
            yield from (str(index.value) for index in expression.indices)
        if isinstance(expression, Call):
            yield from (str(index.value) for index in expression.axes)
            for argument in expression.arguments:
                yield from walk(argument)

    return {*walk(statement.target), *walk(statement.value)}


def _names_of(expression: Expression) -> set[str]:
    """The names that an expression refers to."""
    if isinstance(expression, Reference):
        return {expression.name}
    return set().union(*map(_names_of, expression.arguments)) if isinstance(expression, Call) else set()
