"""The torch modules whose parameters a spec may name: their constructors, and the shapes of their tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from sparank_gen.lang.extents import Division, Extent, parse_extent
from sparank_gen.lang.layouts import Layout
from sparank_gen.lang.widths import size_of
from sparank_gen.spec import errors
from sparank_gen.spec.model import ModuleSpec
from sparank_gen.spec.source import Text

# A number as YAML, JSON and Python write it.
NUMBER = re.compile(r"[+-]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")


@dataclass(frozen=True)
class TorchModule:
    """A class of ``torch.nn``.

    Attributes:
        constructor: its size arguments, in order; each is found from a tensor's shape or must be given.
        tensors: for each tensor, its shape over the constructor's arguments, as ``(factor, argument)`` a dimension.
        bias: the tensors that ``bias=False`` leaves out; bound all or none.
        options: further arguments that a spec may give, with what each takes: ``bool`` or ``float``.
        operator: the operator of the language that it computes, whose options are among its own; empty for none.
    """

    constructor: tuple[str, ...]
    tensors: Mapping[str, tuple[tuple[int, str], ...]]
    bias: frozenset[str]
    options: Mapping[str, type] = field(default_factory=dict)
    operator: str = ""


TORCH_MODULES: dict[str, TorchModule] = {
    "Linear": TorchModule(
        ("in_features", "out_features"),
        {"weight": ((1, "out_features"), (1, "in_features")), "bias": ((1, "out_features"),)},
        frozenset({"bias"}),
    ),
    "Bilinear": TorchModule(
        ("in1_features", "in2_features", "out_features"),
        {
            "weight": ((1, "out_features"), (1, "in1_features"), (1, "in2_features")),
            "bias": ((1, "out_features"),),
        },
        frozenset({"bias"}),
    ),
    "LayerNorm": TorchModule(
        ("normalized_shape",),
        {"weight": ((1, "normalized_shape"),), "bias": ((1, "normalized_shape"),)},
        frozenset({"bias"}),
        {"eps": float},
        "layernorm",
    ),
    "MultiheadAttention": TorchModule(
        ("embed_dim", "num_heads"),
        {
            "in_proj_weight": ((3, "embed_dim"), (1, "embed_dim")),
            "in_proj_bias": ((3, "embed_dim"),),
            "out_proj.weight": ((1, "embed_dim"), (1, "embed_dim")),
            "out_proj.bias": ((1, "embed_dim"),),
        },
        frozenset({"in_proj_bias", "out_proj.bias"}),
        {"batch_first": bool},
    ),
}


@dataclass(frozen=True)
class Parameter:
    """A parameter tensor: its name in the math, where the module keeps it, and how it is laid out there."""

    layout: Layout
    path: str


@dataclass(frozen=True)
class Module:
    """A module of a mode, ready to construct: ``torch.nn.<kind>(*arguments, **options)``."""

    path: str
    kind: str
    per: str | None
    arguments: tuple[Extent, ...]
    options: tuple[tuple[str, str], ...]
    parameters: tuple[Parameter, ...]
    divisions: tuple[Division, ...]


def module_kind(spec: ModuleSpec) -> TorchModule:
    """The class that an entry names. Raises UnknownModule, or UnknownKey and BadValue for what it says of no tensor."""
    kind = TORCH_MODULES.get(spec.module.value)
    if kind is None:
        hint = errors.did_you_mean(spec.module.value, TORCH_MODULES)
        raise errors.UnknownModule(
            f"{spec.module.value!r} is not a module the language knows{hint}",
            spec.module.span(),
            f"the modules are {', '.join(TORCH_MODULES)}",
        )
    for name, value in spec.tensors:
        if name.value not in kind.tensors:
            hint = errors.did_you_mean(name.value, kind.tensors)
            remedy = "leave it out: sizes are found from the layouts" if name.value in kind.constructor else f"its tensors are {', '.join(kind.tensors)}"
            raise errors.UnknownKey(f"{spec.module.value} has no tensor {name.value!r}{hint}", name.span(), remedy)
        if value.value in ("true", "false"):
            remedy = f"write one, as in '{name.value}: \"c[i]\"', or leave {name.value!r} out where there is none"
            raise errors.BadValue(f"{name.value!r} takes a layout, found {value.value}", value.span(), remedy)
    return kind


def resolve_module(
    spec: ModuleSpec, kind: TorchModule, layouts: Mapping[str, Layout], extents: Mapping[str, Extent], names: Mapping[str, Extent | None]
) -> Module:
    """Find a module's constructor arguments from the layouts bound to its tensors.

    Args:
        spec: the entry under ``params``.
        kind: the class that it names.
        layouts: the parsed layout of each tensor of the entry.
        extents: the extent of each axis.
        names: the names that may stand in arguments.

    Raises:
        SpecError: UnknownKey, MissingKey, LayoutMismatch or ExtentMismatch.
    """
    with_bias = _check_tensors(spec, kind, layouts)
    sizes, divisions = _given_sizes(spec, kind, names)
    for tensor, layout in layouts.items():
        _match_shape(spec, kind, tensor, layout, extents, sizes)
    missing = next((argument for argument in kind.constructor if argument not in sizes), None)
    if missing is not None:
        raise errors.MissingKey(
            f"{spec.module.value} needs {missing!r}, which no layout determines",
            spec.path.span(),
            f"add 'arguments: {{{missing}: …}}'",
        )
    options = tuple(
        (name.value, repr(_option(name, value, kind.options[name.value])))
        for name, value in spec.arguments
        if name.value not in kind.constructor
    )
    return Module(
        path=spec.path.value,
        kind=spec.module.value,
        per=spec.per.value if spec.per else None,
        arguments=tuple(sizes[argument] for argument in kind.constructor),
        options=options if with_bias else (*options, ("bias", "False")),
        parameters=tuple(Parameter(layouts[name.value], name.value) for name, _ in spec.tensors),
        divisions=divisions,
    )


def _check_tensors(spec: ModuleSpec, kind: TorchModule, layouts: Mapping[str, Layout]) -> bool:
    """Raise unless the spec binds all of the module's tensors; whether those of its bias are among them."""
    with_bias = any(tensor in layouts for tensor in kind.bias)
    for tensor in kind.tensors:
        if tensor not in layouts and (with_bias or tensor not in kind.bias):
            raise errors.MissingKey(
                f"{spec.path.value!r} binds no {tensor!r} of {spec.module.value}",
                spec.path.span(),
                f"add a layout for {tensor!r}; every parameter of a module is used",
            )
    return with_bias


def _given_sizes(
    spec: ModuleSpec, kind: TorchModule, names: Mapping[str, Extent | None]
) -> tuple[dict[str, Extent], tuple[Division, ...]]:
    """The constructor's arguments that the spec gives, and the divisions in them that must come out."""
    sizes: dict[str, Extent] = {}
    divisions: list[Division] = []
    for name, value in spec.arguments:
        if name.value not in kind.constructor and name.value not in kind.options:
            known = [*kind.constructor, *kind.options]
            remedy = f"leave 'bias' out where {spec.module.value} has none" if name.value == "bias" else f"its arguments are {', '.join(known)}"
            raise errors.UnknownKey(
                f"{spec.module.value} takes no argument {name.value!r} here{errors.did_you_mean(name.value, known)}",
                name.span(),
                remedy,
            )
        if name.value in kind.constructor:
            sizes[name.value], found = parse_extent(value, names)
            divisions.extend(found)
    return sizes, tuple(divisions)


def _option(name: Text, value: Text, kind: type) -> bool | float:
    """The value of an option that takes a truth value or a number."""
    if kind is bool and value.value in ("true", "false"):
        return value.value == "true"
    if kind is float and NUMBER.fullmatch(value.value) and math.isfinite(float(value.value)):
        return float(value.value)
    wanted = "true or false" if kind is bool else "a number, as 1e-5"
    raise errors.BadValue(f"{value.value!r} is not a value for {name.value!r}", value.span(), f"write {wanted}")


def _match_shape(
    spec: ModuleSpec,
    kind: TorchModule,
    tensor: str,
    layout: Layout,
    extents: Mapping[str, Extent],
    sizes: dict[str, Extent],
) -> None:
    """Unify the layout's dimensions with the tensor's shape, filling in ``sizes``."""
    dimensions = layout.without(spec.per.value if spec.per else None)
    shape = kind.tensors[tensor]
    if len(dimensions) != len(shape):
        joined = "compose axes in parentheses where they share a dimension, as in 'W[i,(m j)]'"
        is_for_each = spec.per is None and len(dimensions) == len(shape) + 1 and ("m",) in dimensions
        raise errors.LayoutMismatch(
            f"{tensor!r} of {spec.module.value} has {len(shape)} dimensions, and {layout} gives it {len(dimensions)}",
            layout.text.span(),
            f"add 'per: m' where each modality has one, or {joined}" if is_for_each else joined,
        )
    for axes, (factor, argument) in zip(dimensions, shape, strict=True):
        size = size_of(axes, extents).divided_by(Extent.number(factor))
        known = sizes.setdefault(argument, size)
        if known != size:
            raise errors.ExtentMismatch(
                f"{argument!r} of {spec.module.value} is {known} in one place and {size} in this one",
                layout.span_of(axes[0]),
                "give the axes extents that agree",
            )
