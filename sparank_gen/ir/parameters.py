"""What holds a mode's parameters: torch modules, and tensors that stand by themselves, from the entries under ``params``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from sparank_gen.ir import node as ir
from sparank_gen.ir.lower import NUMBERS, Scope, is_comparison, lower
from sparank_gen.ir.node import BATCH, Node
from sparank_gen.lang.extents import Division, Extent
from sparank_gen.lang.initial import INITIALISATIONS, Initialisation
from sparank_gen.lang.layouts import Layout, parse_dimension, parse_layout, require_joined
from sparank_gen.lang.modules import TORCH_MODULES, Module, Parameter, module_kind, resolve_module
from sparank_gen.lang.ops import OPERATORS
from sparank_gen.lang.parse import parse_expression
from sparank_gen.spec import errors
from sparank_gen.spec.model import ModuleSpec, TensorSpec
from sparank_gen.spec.source import Span, Text


@dataclass(frozen=True)
class LearnedTensor:
    """A parameter that is no module's: an ``nn.Parameter``, or an ``nn.ParameterList`` with one for each index of ``per``.

    Attributes:
        path: its attribute path.
        per: the axis that it is a list along, or None.
        parameters: the one tensor.
        initialisation: how it is filled.
        number: the number that this takes, if any: made of numbers, extents and hyper-parameters alone.
        fans: the fans that it takes.
    """

    path: str
    per: str | None
    parameters: tuple[Parameter]
    initialisation: str
    number: Node | None
    fans: Mapping[str, tuple[str, ...]]

    @property
    def rule(self) -> Initialisation:
        return INITIALISATIONS[self.initialisation]

    def start(self, number: float | None) -> float | None:
        """The one number that all of it starts at, where ``number`` is the value of what its initialisation takes; or None."""
        return number if self.initialisation == "constant" else {"zeros": 0.0, "ones": 1.0}.get(self.initialisation)

    @property
    def is_matrix(self) -> bool:
        """Whether the fans are those that torch finds by itself: a matrix ``(out, in)``."""
        stored = self.parameters[0].layout.without(self.per)
        sides = dict(zip(("out", "in"), stored, strict=False))
        return len(stored) == 2 and all(self.fans[side] == sides[side] for side in self.rule.fans)


Holder = Module | LearnedTensor


def state_key(holder: Holder, parameter: Parameter, index: str = "") -> str:
    """The state-dict key of a parameter; ``index`` is its position in a list."""
    return ".".join(filter(None, (holder.path, index, parameter.path)))


@dataclass(frozen=True)
class Surroundings:
    """What the entries may speak of.

    Attributes:
        axes: what each index is, for messages.
        extents: the extent of each axis.
        names: the names that may stand in extents; None for a number that is not whole.
        scalars: names that stand for a number.
        known: fixed values of extents.
        claim: gives a name its one meaning.
    """

    axes: dict[str, str]
    extents: Mapping[str, Extent]
    names: Mapping[str, Extent | None]
    scalars: Mapping[str, Extent]
    known: Mapping[str, int]
    claim: Callable[[str, Span], None]


def declare_parameters(specs: Sequence[ModuleSpec | TensorSpec], around: Surroundings) -> tuple[Holder, ...]:
    """What holds the parameters, in the order of construction.

    Raises:
        SpecError: when an entry does not fit the language, its layouts or the other entries.
    """
    holders: list[Holder] = []
    for spec in specs:
        made = _module(spec, around) if isinstance(spec, ModuleSpec) else _tensor(spec, around)
        if spec.per and around.extents.get(spec.per.value) != around.scalars["modalities"]:
            raise errors.UnknownIndex(
                f"'per' takes an axis over modalities, found {spec.per.value!r}", spec.per.span(), "write 'per: m'"
            )
        holders.append(made)
    _check_paths(specs, around.scalars)
    return tuple(holders)


def divisions_of(holder: Holder) -> tuple[Division, ...]:
    """The divisions in a holder's arguments that must come out."""
    return holder.divisions if isinstance(holder, Module) else ()


def extents_in(holder: Holder) -> tuple[Extent, ...]:
    """The extents that a holder's constructor is given, beside those of its axes."""
    if isinstance(holder, Module):
        return holder.arguments
    nodes = ir.reachable([holder.number]) if holder.number is not None else ()
    return tuple(node.data for node in nodes if node.op == "extent")


def require_same_options(specs: Sequence[ModuleSpec | TensorSpec], nodes: Collection[Node]) -> None:
    """Raise BadValue where the math has the operator that a module computes, and always with another option than the module."""
    for spec in specs:
        if not isinstance(spec, ModuleSpec) or not TORCH_MODULES[spec.module.value].operator:
            continue
        operator = OPERATORS[TORCH_MODULES[spec.module.value].operator]
        given = {name.value: value for name, value in spec.arguments}
        for option, default in operator.options:
            own = float(given[option].value) if option in given else default
            written = sorted({dict(node.data)[option] for node in nodes if node.op == operator.name})
            if written and own not in written:
                raise errors.BadValue(
                    f"{spec.module.value} has {option} = {own:g}, and {operator.name} in the math has {written[0]:g}",
                    given.get(option, spec.module).span(),
                    f"say one of them in both: 'arguments: {{{option}: {written[0]:g}}}', or '{operator.name}[…](…, {option}={own:g})'",
                )


def _module(spec: ModuleSpec, around: Surroundings) -> Module:
    kind = module_kind(spec)
    layouts = {path.value: _layout(text, spec, around) for path, text in spec.tensors}
    return resolve_module(spec, kind, layouts, around.extents, around.names)


def _layout(text: Text, spec: ModuleSpec | TensorSpec, around: Surroundings) -> Layout:
    """The layout of one tensor; a scalar has no indices, and is no module's."""
    layout = parse_layout(text, around.axes, may_be_scalar=isinstance(spec, TensorSpec))
    require_joined(layout, around.extents, spec.per.value if spec.per else None)
    around.claim(layout.name, layout.text.span(0, 0, len(layout.name)))
    if BATCH in layout.axes:
        raise errors.LayoutMismatch("a parameter has no batch axis", layout.span_of(BATCH), "leave 'b' out")
    if spec.per and spec.per.value not in around.axes:
        raise errors.UnknownIndex(
            f"{spec.per.value!r} is not an index{errors.did_you_mean(spec.per.value, around.axes)}", spec.per.span(), "write 'per: m' for one for each modality"
        )
    if spec.per and (spec.per.value,) not in layout.dimensions:
        what = "module" if isinstance(spec, ModuleSpec) else "tensor"
        raise errors.LayoutMismatch(
            f"{layout} has no dimension {spec.per.value!r} of its own, though there is one {what} per {spec.per.value}",
            layout.text.span(),
            f"write it as the first index: '{layout.name}[{spec.per.value},…]'",
        )
    return layout


def _tensor(spec: TensorSpec, around: Surroundings) -> LearnedTensor:
    layout = _layout(spec.tensor, spec, around)
    rule = INITIALISATIONS.get(spec.init.value)
    if rule is None:
        raise errors.BadValue(
            f"{spec.init.value!r} is not an initialisation{errors.did_you_mean(spec.init.value, INITIALISATIONS)}",
            spec.init.span(),
            f"the initialisations are {', '.join(INITIALISATIONS)}",
        )
    return LearnedTensor(
        path=spec.path.value,
        per=spec.per.value if spec.per else None,
        parameters=(Parameter(layout, ""),),
        initialisation=spec.init.value,
        number=_number(spec, rule, around),
        fans=_fans(spec, rule, layout),
    )


def _number(spec: TensorSpec, rule: Initialisation, around: Surroundings) -> Node | None:
    """The number that an initialisation takes."""
    for name, _ in spec.numbers:
        if name.value != rule.number:
            raise errors.UnknownKey(f"{spec.init.value} takes no {name.value!r}", name.span(), "leave it out")
    if not rule.number:
        return None
    if not spec.numbers:
        raise errors.MissingKey(f"{spec.init.value} needs {rule.number!r}", spec.init.span(), f"add '{rule.number}: 0.02', say")
    text = spec.numbers[0][1]
    axes = {axis: extent for axis, extent in around.extents.items() if axis != BATCH}
    scope = Scope(axes, around.scalars, lambda name, span: None, list, around.known)
    node = lower(parse_expression(text), scope)
    if node is ir.constant(0) or node.op == "constant" and node.data < 0 and rule.number == "std":
        raise errors.BadValue(f"{rule.number!r} is {text.value}", text.span(), "write a number above 0, or 'init: zeros'")
    if is_comparison(node):
        raise errors.WrongArguments("a comparison is not a number", text.span(), "write a number")
    axes_left = {*node.axes, *(axis for inner in ir.reachable([node]) if inner.op == "extent" for axis in inner.axes)}
    if axes_left:
        message = f"this has the axes {', '.join(sorted(axes_left))}, and an initialisation takes one number"
        raise errors.WrongArguments(message, text.span(), "write one number, made of numbers, hyper-parameters and extents")
    assert all(inner.args or inner.op in NUMBERS for inner in ir.reachable([node]))
    return node


def _fans(spec: TensorSpec, rule: Initialisation, layout: Layout) -> Mapping[str, tuple[str, ...]]:
    """The axes of each fan: those that a sum runs over (``in``), and those that are left (``out``)."""
    given: dict[str, tuple[str, ...]] = {}
    for side, text in spec.fan:
        if side.value not in rule.fans:
            wanted = " and ".join(f"{name!r}" for name in rule.fans)
            raise errors.UnknownKey(
                f"{spec.init.value} has no fan {side.value!r}", side.span(), f"it takes {wanted or 'none'}"
            )
        axes = () if text.value == "1" else parse_dimension(text)
        for axis in axes:
            if axis not in layout.axes:
                raise errors.UnknownIndex(
                    f"{axis!r} is not an index of {layout}", text.span(), "name indices of the tensor, as in 'i' or '(a k)', or '1'"
                )
            if axis in [other for found in given.values() for other in found]:
                raise errors.RepeatedIndex(f"index {axis!r} stands twice in the fans", text.span(), "name each axis once")
        given[side.value] = axes
    missing = next((side for side in rule.fans if side not in given), None)
    if missing is not None:
        raise errors.MissingKey(
            f"{spec.init.value} needs the fan {missing!r}: the indices of {layout} that it counts",
            spec.init.span(),
            f"add 'fan: {{{', '.join(f'{side}: …' for side in rule.fans)}}}'",
        )
    return given


def _check_paths(specs: Sequence[ModuleSpec | TensorSpec], taken: Collection[str]) -> None:
    """A container's members stand together; its positions count from 0 without gaps, and hold one module each."""
    leaves: set[str] = set()
    members: dict[str, list[str]] = {}
    still_open: list[str] = []
    for spec in specs:
        path, place = spec.path.value, spec.path.span()
        pieces = path.split(".")
        containers = [".".join(pieces[:depth]) for depth in range(1, len(pieces))]
        if pieces[0] in taken:
            raise errors.ReusedName(f"{pieces[0]!r} is an argument, which is an attribute too", place, "choose another name")
        clash = next((name for name in containers if name in leaves), path if path in members else None)
        if clash is not None:
            raise errors.ReusedName(f"{clash!r} is both a parameter and a container", place, "choose another name")
        closed = next((name for name in containers if name in members and name not in still_open), None)
        if closed is not None:
            raise errors.BadValue(
                f"{closed!r} is continued after other parameters", place, "write the members of a container together"
            )
        for container, piece in zip(containers, pieces[1:], strict=True):
            known = members.setdefault(container, [])
            if piece not in known:
                known.append(piece)
        if containers:
            _check_position(spec, pieces[-1], members[containers[-1]])
        leaves.add(path)
        still_open = containers


def _check_position(spec: ModuleSpec | TensorSpec, piece: str, known: Sequence[str]) -> None:
    numbers = [name for name in known if name.isdecimal()]
    if not numbers:
        return
    if not piece.isdecimal() or len(numbers) < len(known):
        raise errors.BadValue(
            f"{spec.path.value!r} stands beside a position", spec.path.span(), "a container has names, or positions, not both"
        )
    if spec.per is not None or int(piece) != len(known) - 1 or piece != str(int(piece)) or isinstance(spec, TensorSpec):
        raise errors.BadValue(
            f"{spec.path.value!r} does not continue a container",
            spec.path.span(),
            "positions count from 0 without gaps, and hold a module that has no 'per'",
        )
