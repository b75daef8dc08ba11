"""Expressions to the graph: names resolved, axes checked in both directions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from sparank_gen.ir import node as ir
from sparank_gen.ir.node import BATCH, Node, Window
from sparank_gen.ir.node import Index as Position
from sparank_gen.lang import elsewhere
from sparank_gen.lang.extents import Extent, parse_extent
from sparank_gen.lang.functions import CONCAT
from sparank_gen.lang.ops import OPERATORS, Operator
from sparank_gen.lang.syntax import AND, NOT, OR, Call, Expression, Index, Number, Reference
from sparank_gen.lang.widths import owner_of, owners, read_at, size_of
from sparank_gen.spec import errors
from sparank_gen.spec.source import Span, Text

PAIRWISE = {"max": "maximum", "min": "minimum"}
BOUNDED = {"maximum": "clamp_min", "minimum": "clamp_max"}
NUMBERS = ("constant", "extent")
CALLABLE = sorted(
    [CONCAT, *(name for name, operator in OPERATORS.items() if not operator.internal and not operator.symbol)]
)


@dataclass(frozen=True)
class Quantity:
    """What a name stands for.

    Attributes:
        axes: the axis of each index, where it is defined.
        slots: the extent of each index.
        read: the node for given indices.
    """

    axes: tuple[str, ...]
    slots: tuple[Extent, ...]
    read: Callable[[tuple[Position, ...]], Node]


class Functions(Protocol):
    """The functions that may be called by name."""

    @property
    def names(self) -> Collection[str]: ...

    def inline(self, call: Call, scope: Scope) -> Node: ...


@dataclass(frozen=True)
class Scope:
    """What an expression may speak of.

    Attributes:
        extents: the extent of each index name.
        scalars: names that stand for an extent or a hyper-parameter.
        lookup: the quantity of a name, or None; the place is for the errors of what the name stands for.
        names: all quantity names, for proposals.
        known: values of extents that are fixed, such as the number of modalities of a mode for exactly two.
        minimum: the least value of a name, where one is known; bounds whole-number indices and offsets.
        maximum: the largest value of a name, where one is known.
        functions: what may be called beside the operators.
        extent_of: the extent that an offset says.
    """

    extents: Mapping[str, Extent]
    scalars: Mapping[str, Extent]
    lookup: Callable[[str, Span], Quantity | None]
    names: Callable[[], list[str]]
    known: Mapping[str, int] = field(default_factory=dict)
    minimum: Mapping[str, int] = field(default_factory=dict)
    maximum: Mapping[str, int] = field(default_factory=dict)
    functions: Functions | None = None
    extent_of: Callable[[Text], Extent] = lambda text: parse_extent(text, {}, least=0)[0]

    def resolved(self, extent: Extent) -> Extent:
        """``extent`` with the fixed values put in."""
        for name, value in self.known.items():
            extent = extent.substitute(name, Extent.number(value))
        return extent

    def is_at_least_zero(self, extent: Extent) -> bool:
        """Whether an extent is seen to be no negative number, whatever the sizes."""
        return extent.is_at_least_zero(self.minimum, self.maximum)


def lower(expression: Expression, scope: Scope) -> Node:
    """The node of an expression.

    Raises:
        SpecError: when a name, an index, an operator or an extent does not fit.
    """
    if isinstance(expression, Number):
        return ir.constant(expression.value)
    node = _reference(expression, scope) if isinstance(expression, Reference) else _call(expression, scope)
    _check_owners(node, expression, scope)
    return node


def _check_owners(node: Node, expression: Expression, scope: Scope) -> None:
    """Raise where an index whose extent depends on a modality stands without that modality, or beside another one."""
    found = owners(node.axes & scope.extents.keys(), scope.extents)
    for axis, owner in found.items():
        if owner not in node.axes:
            raise errors.ExtentMismatch(
                f"index {axis!r} runs over {scope.extents[axis]}, which differs from modality to modality, and {owner!r} is gone here",
                expression.span,
                f"reduce over both, as in sum[{owner},{axis}](…), or map the features to one width before",
            )
    if len(set(found.values())) > 1:
        shown = " and ".join(f"{axis!r} over {scope.extents[axis]}" for axis in found)
        raise errors.ExtentMismatch(
            f"{shown} meet here: their extents depend on different modalities",
            expression.span,
            "map the features to one width before",
        )


def check_axis(index: Index, scope: Scope) -> str:
    """The axis that ``index`` names. Raises UnknownIndex where it names none."""
    if not isinstance(index.value, str):
        raise errors.UnknownIndex(f"{index.value} is not an axis", index.span, "name an axis here")
    if index.value == BATCH:
        raise errors.UnknownIndex("the batch axis 'b' is not written in the math", index.span, "leave it out")
    if index.offset is not None:
        raise errors.UnknownIndex("an index with an offset stands where an axis is named", index.span, "name the axis alone")
    if index.value not in scope.extents:
        hint = errors.did_you_mean(index.value, scope.extents)
        raise errors.UnknownIndex(
            f"{index.value!r} is not a declared index{hint}", index.span, "declare it under 'axes', as in 'axes: {i: dim}'"
        )
    return index.value


def check_slots(
    name: str, quantity: Quantity, indices: tuple[Index, ...], span: Span, scope: Scope
) -> tuple[Position, ...]:
    """What ``indices`` say; raises where they do not fit the slots of the quantity ``name``."""
    slots = quantity.slots
    if len(slots) != len(indices):
        expected = f"{len(slots)} {'index' if len(slots) == 1 else 'indices'}"
        whole = f"{name}[{','.join(quantity.axes)}]"
        remedy = f"write one index for each axis, as in {whole!r}" if slots else f"write {name!r} alone"
        raise errors.WrongIndexCount(f"{name!r} takes {expected}, found {len(indices)}", span, remedy)
    axes = [index.value for index in indices if isinstance(index.value, str)]
    moves = {axis: index.value for axis, index in zip(quantity.axes, indices, strict=True)}
    found: list[Position] = []
    for slot, index in zip((read_at(slot, moves) for slot in slots), indices, strict=True):
        extent = scope.resolved(slot)
        if isinstance(index.value, int):
            # Every extent is 1 at least.
            if index.value and not scope.is_at_least_zero(extent - Extent.number(index.value + 1)):
                raise _outside(index.value, extent, scope, index.span)
            found.append(index.value)
            continue
        axis = check_axis(replace(index, offset=None), scope)
        if axes.count(axis) > 1:
            raise errors.RepeatedIndex(
                f"index {axis!r} stands twice in one reference", index.span, "diagonals are not in the language; use two names"
            )
        own = scope.resolved(scope.extents[axis])
        if index.offset is not None:
            if slot not in slots and owner_of(slot) is None:
                raise errors.ExtentMismatch(
                    f"{name!r} has extent {slot} here, that of one modality, and is read from an offset on",
                    index.span,
                    f"name the whole of it first, as in 'x[j] = {name}[…,j]' with 'j: {slot}', and read that",
                )
            found.append(_window(name, slot, axis, index, index.offset, scope))
            continue
        if own != extent:
            raise errors.ExtentMismatch(
                f"index {axis!r} runs over {scope.extents[axis]}, and {name!r} has extent {slot} here",
                index.span,
                "use an index of that extent",
            )
        found.append(axis)
    return tuple(found)


def _outside(position: int, extent: Extent, scope: Scope, span: Span) -> errors.IndexOutOfRange:
    """What to say of a position that an axis may not have."""
    limit = next(k for k in range(1, position + 1) if not scope.is_at_least_zero(extent - Extent.number(k + 1)))
    least = f", for which the spec allows {limit}" if extent.constant is None else ""
    places = "there is 0 alone" if limit == 1 else f"from 0 to {limit - 1}"
    return errors.IndexOutOfRange(
        f"position {position} is outside an axis of extent {extent}{least}", span, f"positions count from 0: here {places}"
    )


def _window(name: str, slot: Extent, axis: str, index: Index, offset: Text, scope: Scope) -> Position:
    """An axis read from an offset on. Raises IndexOutOfRange where it may reach beyond the end."""
    shift = scope.extent_of(offset)
    left = scope.resolved(slot - shift - scope.extents[axis])
    if not (scope.is_at_least_zero(shift) and scope.is_at_least_zero(left)):
        raise errors.IndexOutOfRange(
            f"index {axis!r} runs over {scope.extents[axis]} from {shift} on, and {name!r} has extent {slot} here",
            index.span,
            f"an offset is 0 at least, and it and the extent together must not exceed {slot}, whatever the sizes",
        )
    return Window(axis, shift) if shift.terms or left.terms else axis


def _reference(expression: Reference, scope: Scope) -> Node:
    name, indices = expression.name, expression.indices
    if name == "size" and indices:
        return ir.extent(scope.resolved(size_of([check_axis(index, scope) for index in indices], scope.extents)))
    if name in scope.scalars and not indices:
        return ir.extent(scope.resolved(scope.scalars[name]))
    if name in scope.scalars:
        raise errors.WrongIndexCount(f"{name!r} is one number, and has no indices", expression.span, f"write {name!r} alone")
    quantity = scope.lookup(name, expression.span)
    if quantity is None and name in scope.extents and not indices:
        raise errors.UnknownName(f"{name!r} is an index, not a value", expression.span, elsewhere.INDEX.format(name))
    if quantity is None:
        remedy = elsewhere.NAMES.get(name)
        hint = "" if remedy else errors.did_you_mean(name, [*scope.names(), *scope.scalars])
        raise errors.UnknownName(f"{name!r} is not defined{hint}", expression.span, remedy or "define it, or bind a parameter to it")
    return quantity.read(check_slots(name, quantity, indices, expression.span, scope))


def _concat(expression: Call, scope: Scope) -> Node:
    """``concat[p: i, 1](x[i], y)``: pieces one after another along ``p``, each along its part."""
    if len(expression.axes) != 1 or not expression.parts or len(expression.parts) != len(expression.arguments):
        raise errors.WrongArguments(
            f"{CONCAT} needs a part for each argument",
            expression.span,
            f"write the axis that it makes and, after a colon, what each argument adds: {CONCAT}[p: i, 1](x[i], 0)",
        )
    axis = check_axis(expression.axes[0], scope)
    pieces = [_number(argument, scope) for argument in expression.arguments]
    parts = [None if part.value == 1 else check_axis(part, scope) for part in expression.parts]
    total = Extent.number(0)
    for part in parts:
        total = total + (scope.extents[part] if part else Extent.number(1))
    if scope.resolved(total) != scope.resolved(scope.extents[axis]):
        raise errors.ExtentMismatch(
            f"the parts are {total} together, and {axis!r} runs over {scope.extents[axis]}",
            expression.axes[0].span,
            f"declare an axis of extent {total}",
        )
    for argument, piece, own in zip(expression.arguments, pieces, parts, strict=True):
        for other in sorted(piece.axes):
            if other == axis or other != own and other in parts:
                raise errors.RepeatedIndex(
                    f"index {other!r} is joined by this {CONCAT}, and stands here on its own",
                    argument.span,
                    "use another index of that extent here",
                )
    return ir.concat(pieces, axis, parts)


def _number(expression: Expression, scope: Scope) -> Node:
    """A node that is a number, and no comparison."""
    node = lower(expression, scope)
    if is_comparison(node):
        raise errors.WrongArguments(
            "a comparison stands where a number is needed", expression.span, "comparisons stand in 'where(condition, x, y)' alone"
        )
    return node


def _call(expression: Call, scope: Scope) -> Node:
    if scope.functions is not None and expression.function in scope.functions.names:
        return scope.functions.inline(expression, scope)
    if expression.function == CONCAT:
        return _concat(expression, scope)
    operator = _operator(expression, scope)
    if operator.name == "where":
        condition, *values = expression.arguments
        chosen, other = (_number(value, scope) for value in values)
        return _choice(condition, chosen, other, scope)
    arguments = [_number(argument, scope) for argument in expression.arguments]
    if operator.kind in ("pointwise", "comparison"):
        if operator.name in BOUNDED and arguments[0].op in NUMBERS:
            arguments.reverse()
        if operator.name == "div" and arguments[1] is ir.constant(0):
            raise errors.WrongArguments("this divides by zero", expression.arguments[1].span, "write another divisor")
        if operator.name in BOUNDED and arguments[1].op in NUMBERS:
            return ir.apply(BOUNDED[operator.name], *arguments)
        return ir.apply(operator.name, *arguments)
    axes = [check_axis(index, scope) for index in expression.axes]
    for index in expression.axes:
        if axes.count(str(index.value)) > 1:
            raise errors.RepeatedIndex(f"axis {index.value!r} stands twice", index.span, "name each axis once")
        if index.value not in arguments[0].axes:
            raise errors.UnusedIndex(
                f"{operator.name} runs over {index.value!r}, which its argument does not have",
                index.span,
                f"use {index.value!r} inside, or leave it out",
            )
    inner = [axis for axis, owner in owners(arguments[0].axes & scope.extents.keys(), scope.extents).items() if owner in axes]
    if len(inner) > 1:
        raise errors.ExtentMismatch(
            f"{' and '.join(map(repr, inner))} have extents that depend on {owner_of(scope.extents[inner[0]])!r}, which they are reduced with",
            expression.span,
            f"reduce over {', '.join(inner)} first: {operator.name}[{owner_of(scope.extents[inner[0]])}]({operator.name}[{','.join(inner)}](…))",
        )
    return ir.reduce(operator.name, arguments[0], axes, _options(expression, operator))


def _choice(condition: Expression, chosen: Node, other: Node, scope: Scope) -> Node:
    """A choice between two by a condition; by one that is made of others, choices within choices, one for each comparison."""
    function = condition.function if isinstance(condition, Call) else ""
    arguments = condition.arguments if isinstance(condition, Call) else ()
    if function == NOT:
        return _choice(arguments[0], other, chosen, scope)
    if function in (AND, OR):
        found = chosen if function == AND else other
        for part in reversed(arguments):
            found = _choice(part, found, other, scope) if function == AND else _choice(part, chosen, found, scope)
        return found
    comparisons = function.split()
    if len(comparisons) > 1:
        sides, found = [_number(argument, scope) for argument in arguments], chosen
        for comparison, *pair in reversed([*zip(comparisons, sides, sides[1:], strict=False)]):
            found = ir.apply("where", ir.apply(comparison, *pair), found, other)
        return found
    node = lower(condition, scope)
    if not is_comparison(node):
        raise errors.WrongArguments(
            "a number stands where a comparison is needed", condition.span, "comparisons stand in 'where(condition, x, y)' alone"
        )
    return ir.apply("where", node, chosen, other)


def is_comparison(node: Node) -> bool:
    """Whether a node is a truth value."""
    return node.op in OPERATORS and OPERATORS[node.op].kind == "comparison"


def _operator(expression: Call, scope: Scope) -> Operator:
    name = PAIRWISE.get(expression.function, expression.function) if not expression.axes else expression.function
    operator, written = OPERATORS.get(name), expression.function
    if operator is None or operator.internal:
        elsewhere.require_no_foreign(written, expression.span)
        functions = sorted(scope.functions.names) if scope.functions else []
        hint = errors.did_you_mean(written, [known for known in (*CALLABLE, *functions) if known in written or len(known) - len(written) < 3])
        sources = "under 'functions' in this spec", "in lib/ beside it"
        known = f"the functions are {', '.join(functions)}, {' and '.join(sources)}" if functions else f"no functions are {' or '.join(sources)}"
        raise errors.UnknownOperator(
            f"{written!r} is not an operator, nor a function of this folder{hint}",
            expression.span,
            f"the operators are {', '.join(CALLABLE)}; {known}",
        )
    if expression.parts:
        raise errors.WrongArguments(f"{name} joins no parts", expression.parts[0].span, f"write {name}[i](…)")
    takes_axes = operator.kind in ("reduction", "normalisation")
    if takes_axes and not expression.axes:
        raise errors.WrongArguments(f"{name} needs its axes", expression.span, f"write {name}[i](…), with those indices of its argument that it runs over")
    if expression.keywords and not operator.options:
        option = expression.keywords[0][0]
        raise errors.WrongArguments(f"{written} has no option {option!r}", expression.span, "leave it out")
    if expression.axes and not takes_axes:
        raise errors.WrongArguments(f"{name} takes no axes", expression.axes[0].span, f"write {name}(…)")
    if len(expression.arguments) != operator.arity:
        nest = f"nest them, as in {written}(x, {written}(y, z)), or " if len(expression.arguments) > operator.arity else ""
        named = ", ".join(f"{option}={default:g}" for option, default in operator.options)
        if named and len(expression.arguments) > operator.arity:
            raise errors.WrongArguments(
                f"{written} takes {operator.arity} argument, found {len(expression.arguments)}",
                expression.arguments[operator.arity].span,
                f"give options by name: {written}[i](x, {named})",
            )
        raise errors.WrongArguments(
            f"{written} takes {operator.arity} argument{'s' if operator.arity > 1 else ''}, found {len(expression.arguments)}",
            expression.span,
            f"{nest}write {written}[m](…) to run over an axis" if name in BOUNDED else f"{written}: {operator.summary}",
        )
    return operator


def _options(expression: Call, operator: Operator) -> tuple[tuple[str, float], ...] | None:
    known = dict(operator.options)
    given = [name for name, _ in expression.keywords]
    for name, value in expression.keywords:
        if name not in known:
            raise errors.WrongArguments(
                f"{operator.name} has no option {name!r}{errors.did_you_mean(name, known)}", expression.span, "leave it out"
            )
        if given.count(name) > 1 or value < 0:
            raise errors.WrongArguments(f"option {name!r} must be given once, and be 0 or more", expression.span, "mend it")
        known[name] = value
    return tuple(known.items()) or None
