"""From a spec to a checked mode: every name resolved, every axis bound, every parameter used."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from sparank_gen.ir import node as ir
from sparank_gen.ir.derive import ADJOINT
from sparank_gen.ir.features import feature_layout, require_covered, require_first_degree, require_one_way, widths_by_name
from sparank_gen.ir.functions import Inliner
from sparank_gen.ir.lower import Quantity, Scope, check_axis, is_comparison, lower
from sparank_gen.ir.mode import Mode, Property, Result
from sparank_gen.ir.node import BATCH, Definition, Node, Program, Tensor
from sparank_gen.ir.parameters import Holder, Surroundings, declare_parameters, divisions_of, extents_in, require_same_options
from sparank_gen.ir.views import FEATURES, read_leaf
from sparank_gen.ir.views import read_at as read_node
from sparank_gen.lang.extents import Division, Extent, parse_extent
from sparank_gen.lang.functions import RESERVED, Function, read_functions
from sparank_gen.lang.layouts import Layout, parse_layout, require_joined
from sparank_gen.lang.ops import OPERATORS
from sparank_gen.lang.parse import parse_expression, parse_statements
from sparank_gen.lang.syntax import Call, Reference, Statement
from sparank_gen.lang.walk import first_free, indices_of, names_of, positions_of
from sparank_gen.lang.widths import ONE_WIDTH, has_widths
from sparank_gen.spec import errors
from sparank_gen.spec.model import FusionSpec
from sparank_gen.spec.source import Span, Text

PRESENT = "present"
# What the gradients of a tensor, or of its pieces, are called.
GRADIENT = re.compile(rf"(.+){ADJOINT}(_\d+)?")
PROPERTIES = "a property compares: write 'x == y', 'x <= y' or 'x >= y'"
RELATIONS = ("eq", "le", "ge", "lt", "gt")


def check_spec(spec: FusionSpec, library: Mapping[str, Function] | None = None) -> Mode:
    """The checked mode of a spec, which may call the functions of ``library``.

    Raises:
        SpecError: the first thing that does not fit, with its place.
    """
    with limited_depth(spec, "define each before its use"):
        return _Checker(spec, library or {}).mode()


@contextmanager
def limited_depth(spec: FusionSpec, remedy: str) -> Iterator[None]:
    """Raises a SpecError where the definitions of ``spec`` need more calls within calls than Python allows."""
    try:
        yield
    except RecursionError:
        place = spec.math.span() if spec.math else spec.place
        raise errors.BadSyntax("the definitions are nested too deeply", place, remedy) from None


@dataclass
class _Checker:
    """The state of checking one spec: what is known of each name so far."""

    spec: FusionSpec
    library: Mapping[str, Function]
    names: dict[str, Span] = field(default_factory=dict)
    extents: dict[str, Extent] = field(default_factory=dict)
    hidden: dict[str, Extent] = field(default_factory=dict)
    divisions: list[Division] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    layouts: dict[str, Layout] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    statements: dict[str, list[Statement]] = field(default_factory=dict)
    definitions: dict[str, Definition] = field(default_factory=dict)
    open: list[str] = field(default_factory=list)

    def mode(self) -> Mode:
        self.scalars = {"dim": Extent.symbol("dim"), "modalities": Extent.symbol("modalities")}
        for hyperparameter in self.spec.hyperparameters:
            self.claim(hyperparameter.name.value, hyperparameter.name.span())
            self.scalars[hyperparameter.name.value] = Extent.symbol(hyperparameter.name.value)
        whole = {"dim", "modalities", *(h.name.value for h in self.spec.hyperparameters if h.type == "int")}
        self.extent_names = {name: extent if name in whole else None for name, extent in self.scalars.items()}
        self.known = {"modalities": self.spec.modalities.exact} if self.spec.modalities.exact else {}
        self.declare_axes()
        self.features, self.hidden = feature_layout(self.spec, self.extents, {*self.names, *self.extents})
        slots = tuple({**self.extents, **self.hidden}[axis] for axis in self.features.axes if axis != BATCH)
        self.tensors[FEATURES] = Tensor(FEATURES, slots)
        holders = self.declare_parameters()
        functions = self.declare_functions()
        self.scope = Scope(
            extents={axis: extent for axis, extent in self.extents.items() if axis != BATCH},
            scalars=self.scalars,
            lookup=self.lookup,
            names=lambda: [*self.tensors, *self.statements],
            extent_of=self.offset,
            known=self.known,
            minimum=self.bounds("minimum"),
            maximum=self.bounds("maximum"),
            functions=functions,
        )
        self.read_statements()
        self.check_gradients()
        for name in self.statements:
            self.lookup(name, self.statements[name][0].target.span)
        out = self.result(self.spec.out, "out")
        weights = self.result(self.spec.weights, "weights") if self.spec.weights else None
        diagnostics = tuple(Result(name.value, self.result(text, name.value)) for name, text in self.spec.diagnostics)
        layouts = [out, *([weights] if weights else []), *(diagnostic.layout for diagnostic in diagnostics)]
        self.check_results(out, layouts)
        self.check_used(layouts, holders)
        program = Program(
            extents={**self.extents, **self.hidden},
            tensors=self.tensors,
            definitions=tuple(self.definitions.values()),
            outputs=tuple(dict.fromkeys(layout.name for layout in layouts if layout.name != FEATURES)),
            least={h.name.value: -math.inf if h.minimum is None else h.minimum for h in self.spec.hyperparameters},
        )
        visible = {FEATURES, *(layout.name for layout in layouts)}
        properties = tuple(self.property(text, visible) for text in self.spec.properties)
        for name, function in functions.functions.items():
            if name not in functions.called and name not in self.library:
                raise errors.UnusedName(f"function {name!r} is not called", function.span, "call it, or remove it")
        uncertain = tuple(axis for axis, extent in program.extents.items() if axis != BATCH and self.is_uncertain(extent))
        divisions = tuple(self.divisions)
        return Mode(
            self.spec, program, holders, self.features, out, weights, diagnostics, divisions, uncertain, properties
        )

    def claim(self, name: str, span: Span) -> None:
        """Give ``name`` its one meaning."""
        if name in RESERVED or name in ("dim", "modalities"):
            meaning = RESERVED.get(name, "an extent")
            raise errors.ReusedName(f"{name!r} is {meaning}, in every spec", span, "choose another name")
        if name in self.names:
            raise errors.ReusedName(
                f"{name!r} already has a meaning, given at line {self.names[name].line}", span, "choose another name"
            )
        self.names[name] = span

    def bounds(self, which: str) -> dict[str, int]:
        """The ``minimum`` or ``maximum`` of the sizes that have one."""
        sizes = {"modalities": self.spec.modalities} | {h.name.value: h for h in self.spec.hyperparameters if h.type == "int"}
        found = {name: getattr(size, which) for name, size in sizes.items()}
        return {name: bound for name, bound in found.items() if bound is not None}

    def is_uncertain(self, extent: Extent) -> bool:
        """Whether an extent may be below 1: something is subtracted, or a hyper-parameter may be below 1."""
        is_lowered = any(coefficient < 0 for _, coefficient in extent.terms)
        may_be = is_lowered or any(self.scope.minimum.get(name, 1) < 1 for name in extent.symbols)
        return may_be and not self.scope.is_at_least_zero(self.scope.resolved(extent) - Extent.number(1))

    def declare_axes(self) -> None:
        """Axes in canonical order: modality axes, the batch, feature axes as the spec declares them."""
        declared: dict[str, Extent] = {"m": self.scalars["modalities"]}
        for name, text in self.spec.axes:
            self.claim(name.value, name.span())
            declared[name.value], divisions = parse_extent(text, self.extent_names, modalities=widths_by_name(declared, self.spec.modalities.minimum))
            self.divisions.extend(division for division in divisions if division not in self.divisions)
            require_one_way(declared, text)
            require_first_degree(declared[name.value], text)
        modality = {axis: extent for axis, extent in declared.items() if extent == self.scalars["modalities"]}
        features = {axis: extent for axis, extent in declared.items() if axis not in modality}
        self.extents = {**modality, BATCH: Extent.symbol("batch"), **features}

        if has_widths(declared.values()):
            del self.scalars[ONE_WIDTH], self.extent_names[ONE_WIDTH]

    def offset(self, text: Text) -> Extent:
        """The extent that an offset says; its divisions must come out."""
        extent, divisions = parse_extent(text, self.extent_names, least=0)
        self.divisions.extend(division for division in divisions if division not in self.divisions)
        self.used.update(extent.symbols)
        return extent

    def known_axes(self) -> dict[str, str]:
        return {axis: str(extent) for axis, extent in self.extents.items()}

    def declare_parameters(self) -> tuple[Holder, ...]:
        around = Surroundings(self.known_axes(), self.extents, self.extent_names, self.scalars, self.known, self.claim)
        holders = declare_parameters(self.spec.params, around)
        for holder in holders:
            for parameter in holder.parameters:
                layout = parameter.layout
                self.layouts[layout.name] = layout
                self.tensors[layout.name] = Tensor(layout.name, tuple(self.extents[axis] for axis in layout.axes))
            self.divisions.extend(division for division in divisions_of(holder) if division not in self.divisions)
        return holders

    def declare_functions(self) -> Inliner:
        own = read_functions(self.spec.functions, self.library)
        for name, function in own.items():
            self.claim(name, function.span)
        return Inliner({**self.library, **own})

    def read_statements(self) -> None:
        if self.spec.math is None:
            return
        for statement in parse_statements(self.spec.math):
            name = statement.target.name
            if name not in self.statements:
                self.claim(name, statement.target.span)
            self.statements.setdefault(name, []).append(statement)
        for group in self.statements.values():
            if len(group) > 1 and not all(positions_of(statement) for statement in group):
                raise errors.ReusedName(
                    f"{group[1].target.name!r} is defined twice, first at line {group[0].target.span.line}",
                    group[1].target.span,
                    "choose another name, or define pieces with whole-number indices",
                )

    def check_gradients(self) -> None:
        """No name is that of another tensor's or definition's gradient."""
        for name in (*self.layouts, *self.statements):
            of = GRADIENT.fullmatch(name)
            if of and of[1] in (FEATURES, *self.layouts, *self.statements):
                raise errors.ReusedName(f"{name!r} is what the gradient of {of[1]!r} is called", self.names[name], "choose another name")

    def lookup(self, name: str, span: Span) -> Quantity | None:
        self.used.add(name)
        if name == FEATURES:
            own = tuple(axis for axis in self.features.axes if axis != BATCH)
            return Quantity(own, self.tensors[name].slots, lambda indices: read_leaf(name, (BATCH, *own), (BATCH, *indices)))
        if name in self.tensors:
            stored = self.layouts[name].axes
            return Quantity(stored, self.tensors[name].slots, lambda indices: read_leaf(name, stored, indices))
        if name not in self.statements:
            return None
        if name in self.open:
            chain = " → ".join([*self.open[self.open.index(name) :], name])
            in_pieces = self.open[-1] == name and len(self.statements[name]) > 1
            what_to_do = "a piece reads no other: give what both need a name and a line of its own" if in_pieces else "break the cycle"
            raise errors.CyclicReference(f"{name!r} is defined by itself: {chain}", span, what_to_do)
        if name not in self.definitions:
            self.open.append(name)
            self.definitions[name] = self.define(self.statements[name])
            self.open.pop()
        definition = self.definitions[name]
        slots = tuple(self.extents[axis] for axis in definition.axes)
        return Quantity(definition.axes, slots, lambda indices: read_node(definition.node, definition.axes, indices))

    def define(self, group: Sequence[Statement]) -> Definition:
        if positions_of(group[0]):
            return self.define_pieces(group)
        target = group[0].target
        axes = tuple(check_axis(index, self.scope) for index in target.indices)
        return Definition(target.name, axes, self.value(group[0], axes), self.source(group))

    def source(self, group: Sequence[Statement]) -> str:
        """The statements of a definition as the spec writes them, one a line."""
        assert self.spec.math is not None
        lines = self.spec.math.value.split("\n")
        texts = [" ".join(" ".join(lines[s.first_line : s.last_line + 1]).split()) for s in group]
        return "\n".join(texts)

    def value(self, statement: Statement, axes: tuple[str, ...]) -> Node:
        """The node of a statement's right side, its axes checked against those on the left."""
        target = statement.target
        for index in target.indices:
            if [other.value for other in target.indices].count(index.value) > 1 and isinstance(index.value, str):
                raise errors.RepeatedIndex(f"index {index.value!r} stands twice", index.span, "name each axis once")
        node = lower(statement.value, self.scope)
        if is_comparison(node):
            raise errors.WrongArguments("a definition is a number", statement.value.span, "use where(condition, x, y)")
        for axis in sorted(node.axes - {BATCH} - set(axes)):
            raise errors.UnboundIndex(
                f"index {axis!r} is bound neither by the left side nor by a reduction",
                first_free(statement.value, axis) or statement.value.span,
                f"reduce over it, as in sum[{axis}](…), or add it to {target.name!r}",
            )
        for index in target.indices:
            if isinstance(index.value, str) and index.value not in node.axes:
                raise errors.UnusedIndex(
                    f"index {index.value!r} of {target.name!r} is not used on the right", index.span, "remove it, or use it"
                )
        return node

    def define_pieces(self, group: Sequence[Statement]) -> Definition:
        target = group[0].target
        (slot,) = positions_of(group[0])[:1]
        others = [index.value for k, index in enumerate(target.indices) if k != slot]
        pieces: dict[int, Node] = {}
        for statement in group:
            indices = statement.target.indices
            rest = [index.value for k, index in enumerate(indices) if k != slot]
            if positions_of(statement) != (slot,) or rest != others:
                raise errors.IncompletePieces(
                    f"the pieces of {target.name!r} differ in their indices",
                    statement.target.span,
                    "write every piece with the same indices but for one whole number",
                )
            position = int(indices[slot].value)
            if position in pieces:
                raise errors.ReusedName(f"piece {position} is defined twice", indices[slot].span, "remove one of the two")
            axes = tuple(check_axis(index, self.scope) for k, index in enumerate(indices) if k != slot)
            pieces[position] = self.value(statement, axes)
        if sorted(pieces) != list(range(len(pieces))):
            missing = next(k for k in range(len(pieces) + 1) if k not in pieces)
            raise errors.IncompletePieces(f"piece {missing} of {target.name!r} is missing", target.span, "define it too")
        axis = self.piece_axis(target, slot, len(pieces), [str(other) for other in others])
        axes = tuple(axis if k == slot else str(index.value) for k, index in enumerate(target.indices))
        node = ir.stack([pieces[k] for k in range(len(pieces))], axis)
        return Definition(target.name, axes, node, self.source(group))

    def piece_axis(self, target: Reference, slot: int, count: int, taken: list[str]) -> str:
        """The axis that whole-number pieces run along: of those of that extent, one in a layout of the quantity, or the first."""
        extents = self.scope.extents.items()
        fitting = [axis for axis, extent in extents if self.scope.resolved(extent) == Extent.number(count) and axis not in taken]
        if fitting:
            laid_out = self.axes_in_layouts(target.name)
            return next((axis for axis in fitting if axis in laid_out), fitting[0])
        raise errors.ExtentMismatch(
            f"{target.name!r} has {count} pieces, and no axis of extent {count} is declared",
            target.indices[slot].span,
            f"define every piece, or declare an axis of extent {count}",
        )

    def axes_in_layouts(self, name: str) -> set[str]:
        """The axes that layouts of a result give a quantity."""
        texts = [self.spec.out, self.spec.weights, *(text for _, text in self.spec.diagnostics)]
        layouts = [parse_layout(text, self.known_axes()) for text in texts if text is not None]
        return {axis for layout in layouts if layout.name == name for axis in layout.axes}

    def result(self, text: Text | None, key: str) -> Layout:
        """The layout of one result; by default that of ``out``, in the order of its indices."""
        if text is None:
            if "out" not in self.statements:
                place = self.spec.math.span() if self.spec.math else self.spec.place
                raise errors.MissingKey(
                    "the spec defines no output", place, "define 'out[i] = …' in the math, or add an 'out' layout"
                )
            target, axes = self.statements["out"][0].target, self.definitions["out"].axes
            name = Text("out", self.spec.path, ((0, target.span.line, target.span.column),), (target.span.text,) * target.span.line)
            layout = Layout("out", ((BATCH,), *((axis,) for axis in axes)), name, ())
            require_joined(layout, self.extents)
            return layout
        layout = parse_layout(text, self.known_axes())
        require_joined(layout, self.extents)
        span = text.span(0, 0, len(layout.name))
        quantity = self.lookup(layout.name, span)
        if quantity is None or layout.name in self.layouts:
            hint = errors.did_you_mean(layout.name, [FEATURES, *self.statements])
            raise errors.UnknownName(f"{layout.name!r} is not defined{hint}", span, f"define it, or name another quantity as '{key}'")
        return layout

    def check_results(self, out: Layout, layouts: Sequence[Layout]) -> None:
        for layout in layouts:
            slots = self.axes_of(layout.name)
            if layout.name == FEATURES:
                require_covered(layout, self.tensors[FEATURES].slots, self.extents)
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
        if len(out.dimensions) != 2 or out.dimensions[0] != (BATCH,):
            raise errors.LayoutMismatch(
                f"the output is laid out as {out}, and must have two dimensions, the batch first",
                out.text.span(),
                "compose the other axes, as in 'out[b, (m i)]'",
            )
        if out.name != FEATURES and BATCH not in self.definitions[out.name].node.axes:
            raise errors.UnusedName("the output does not depend on the features", out.text.span(), "use h[m,i] in the math")
        for layout in layouts:
            if any(len(dimension) > 1 and BATCH in dimension for dimension in layout.dimensions):
                raise errors.LayoutMismatch("the batch is composed with another axis", layout.text.span(), "keep 'b' apart")

    def axes_of(self, name: str) -> tuple[str, ...]:
        return tuple(a for a in self.features.axes if a != BATCH) if name == FEATURES else self.definitions[name].axes

    def check_used(self, layouts: Sequence[Layout], holders: Sequence[Holder]) -> None:
        """Every parameter and every definition must reach a result; every index and hyper-parameter must be used."""
        results = {layout.name for layout in layouts}
        roots = [self.definitions[name].node for name in results if name in self.definitions]
        reached = {node.data[0] for node in ir.reachable(roots) if node.op == "leaf"}
        for name, layout in self.layouts.items():
            if name not in reached:
                raise errors.UnusedName(
                    f"parameter {name!r} is not used by any result", layout.text.span(0, 0, len(name)), "use it, or remove it"
                )
        nodes = set(ir.reachable(roots))
        require_same_options(self.spec.params, nodes)
        mentioned = {index for group in self.statements.values() for s in group for index in indices_of(s)}
        cut = [self.features] if self.spec.features is not None else []
        mentioned |= {axis for layout in (*self.layouts.values(), *layouts, *cut) for axis in layout.axes}
        for axis, _ in self.spec.axes:
            if axis.value not in mentioned:
                raise errors.UnusedIndex(f"index {axis.value!r} is declared and not used", axis.span(), "remove it")
        for name, definition in self.definitions.items():
            if definition.node not in nodes:
                raise errors.UnusedName(
                    f"{name!r} is not used by any result", self.statements[name][0].target.span, "use it, or remove it"
                )
        names = {name for group in self.statements.values() for s in group for name in names_of(s.value)}
        names |= {name for extent in self.extents.values() for name in extent.symbols} | self.used
        names |= {name for holder in holders for extent in extents_in(holder) for name in extent.symbols}
        for hyperparameter in self.spec.hyperparameters:
            if hyperparameter.name.value not in names:
                message = f"hyper-parameter {hyperparameter.name.value!r} is not used"
                raise errors.UnusedName(message, hyperparameter.name.span(), "use it, or remove it")

    def property(self, text: Text, visible: set[str]) -> Property:
        expression = parse_expression(text, PROPERTIES)
        if not isinstance(expression, Call) or expression.function not in RELATIONS:
            raise errors.BadValue(f"{text.value!r} is not a statement", text.span(), PROPERTIES)

        def lookup(name: str, span: Span) -> Quantity | None:
            if name in (*self.statements, *self.layouts) and name not in visible:
                seen = f"properties may speak of {', '.join(sorted(visible))}"
                remedy = f"lay it out under 'diagnostics'; {seen}" if name in self.statements else seen
                raise errors.UnknownName(f"{name!r} is not visible in properties", span, remedy)
            if name == FEATURES or name not in visible:
                return self.lookup(name, span) if name == FEATURES else None
            axes = self.definitions[name].axes
            slots = tuple(self.extents[axis] for axis in axes)
            return Quantity(axes, slots, lambda indices: read_leaf(name, (BATCH, *axes), (BATCH, *indices)))

        scope = replace(self.scope, lookup=lookup, names=lambda: sorted(visible))
        left, right = (lower(argument, scope) for argument in expression.arguments)
        for side, argument in ((left, expression.arguments[0]), (right, expression.arguments[1])):
            if is_comparison(side):
                raise errors.WrongArguments("a comparison of comparisons", argument.span, "compare numbers")
        return Property(" ".join(text.value.split()), OPERATORS[expression.function].symbol, left, right)
