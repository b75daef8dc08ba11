"""The parameters of a mode in torch: how its constructor makes them, and how its functions read them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sparank_gen.backends.code import names_read
from sparank_gen.backends.torch.emit import WIDTHS
from sparank_gen.backends.torch.requirements import number_code, required
from sparank_gen.backends.torch.values import Scalar
from sparank_gen.ir.mode import Mode
from sparank_gen.ir.parameters import Holder, LearnedTensor, state_key
from sparank_gen.ir.text import shown
from sparank_gen.lang.extents import Extent
from sparank_gen.lang.modules import Module
from sparank_gen.lang.widths import size_of, width_name

Tree = dict[str, "Tree | str"]


def assignments(mode: Mode, names: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The attributes of a layer that hold its parameters, and the expression of each; containers are one attribute.

    Args:
        mode: the mode.
        names: how the names in extents are written in the constructor.
    """
    tree: Tree = {}
    for holder in mode.modules:
        *containers, last = holder.path.split(".")
        inner = tree
        for piece in containers:
            below = inner.setdefault(piece, {})
            assert isinstance(below, dict)
            inner = below
        inner[last] = _constructed(holder, mode, names)
    return tuple((attribute, _container(below)) for attribute, below in tree.items())


def submodules(mode: Mode) -> dict[str, int | None]:
    """The attributes of the module that are modules, all but single tensors that stand alone; and how many there are in a sequence."""
    alone = {holder.path for holder in mode.modules if isinstance(holder, LearnedTensor) and holder.per is None}
    members: dict[str, set[str]] = {}
    for holder in mode.modules:
        if holder.path not in alone:
            attribute, *below = holder.path.split(".")
            members.setdefault(attribute, set()).update(below[:1])
    return {attribute: len(found) if "0" in found else None for attribute, found in members.items()}


def _container(below: Tree | str) -> str:
    """A module with the given members: an ``nn.Sequential`` where they have positions."""
    if isinstance(below, str):
        return below
    codes = {name: _container(member) for name, member in below.items()}
    if "0" in codes:
        return f"nn.Sequential({', '.join(codes.values())})"
    return f"container({', '.join(f'{name}={code}' for name, code in codes.items())})"


def _constructed(holder: Holder, mode: Mode, names: Mapping[str, str]) -> str:
    if isinstance(holder, LearnedTensor):
        code = f"nn.Parameter({initial(holder, mode, names)})"
    else:
        pieces = [*(extent.code(names) for extent in holder.arguments), *(f"{key}={value}" for key, value in holder.options)]
        code = f"nn.{holder.kind}({', '.join(pieces)})"
    if holder.per is None:
        return code
    kind = "ParameterList" if isinstance(holder, LearnedTensor) else "ModuleList"
    width = names.get(width_name(holder.per), "")
    if width and width in names_read(code):
        return f"nn.{kind}([{code} for {width} in {names[WIDTHS]}])"
    return f"nn.{kind}([{code} for _ in range(n_modalities)])"


def initial(tensor: LearnedTensor, mode: Mode, names: Mapping[str, str]) -> str:
    """The expression of a tensor's initial value."""
    dimensions = tensor.parameters[0].layout.without(tensor.per)
    sizes = [_size(dimension, mode).code(names) for dimension in dimensions]
    rule = tensor.rule
    if rule.bound and not tensor.is_matrix:
        fans = {f"fan_{side}": Scalar(_size(axes, mode).code(names)) for side, axes in tensor.fans.items()}
        return f"uniform({', '.join([rule.bound.format(**fans), *sizes])})"
    return rule.torch.format(sizes=", ".join(sizes) or "()", number=_number(tensor, mode, names))


def _number(tensor: LearnedTensor, mode: Mode, names: Mapping[str, str]) -> str:
    """The expression of the number that an initialisation takes, checked where it may be none."""
    if tensor.number is None:
        return ""
    text = f"{tensor.rule.number} of {tensor.path}, {shown(tensor.number)},"
    return required(mode, tensor.number, names, text, 0 if tensor.rule.number == "std" else None)


def _size(axes: Sequence[str], mode: Mode) -> Extent:
    return size_of(axes, mode.program.extents)


def bindings(holders: Sequence[Holder], variables: Mapping[str, str], stacked: Collection[str] = ()) -> list[str]:
    """Statements that give the parameters their names in the math; lists that are ``stacked`` are lists of plain tensors."""
    lines = []
    # A variable has one type: each class of modules has one of its own.
    typed: dict[str, str] = {}
    for holder in holders:
        if isinstance(holder, LearnedTensor):
            lines.append(f"{variables[holder.parameters[0].layout.name]} = {_tensor(holder)}")
            continue
        stem = "module" if holder.per is None else "modules"
        names = (stem, *(f"{stem}_{count}" for count in range(2, len(variables) + 3)))
        free = (name for name in names if name not in (*typed.values(), *variables.values()))
        lines += _module_bindings(holder, variables, typed, next(free), stacked)
    return lines


def _tensor(holder: LearnedTensor) -> str:
    code, is_typed = _attribute(holder.path)
    if holder.per is None:
        return code if is_typed else f"cast(Tensor, {code})"
    return f"list({code})" if is_typed else f'list(cast("Iterable[Tensor]", {code}))'


def _module_bindings(
    holder: Module, variables: Mapping[str, str], typed: dict[str, str], free: str, stacked: Collection[str]
) -> list[str]:
    """Statements that read a module's parameters; ``free`` is a variable for one whose type is not in ``typed`` yet."""
    code, is_typed = _attribute(holder.path)
    kind = f"nn.{holder.kind}" if holder.per is None else f'"Iterable[nn.{holder.kind}]"'
    if holder.per is None and is_typed:
        return [f"{variables[p.layout.name]} = {code}.{p.path}" for p in holder.parameters]
    # Containers are typed as holding any module; the cast says which.
    name = typed.setdefault(kind, free)
    lines = [f"{name} = cast({kind}, {code})"]
    for parameter in holder.parameters:
        read = f"{name}.{parameter.path}" if holder.per is None else f"[module.{parameter.path} for module in {name}]"
        variable = variables[parameter.layout.name]
        lines.append(f"{variable}{': list[Tensor]' if variable in stacked and holder.per else ''} = {read}")
    return lines


def _attribute(path: str) -> tuple[str, bool]:
    """The code that reads an attribute path, and whether its type is known; whole numbers are positions."""
    first, *rest = path.split(".")
    code = f"self.{first}"
    for depth, piece in enumerate(rest):
        kind = "nn.Sequential" if piece.isdecimal() else "nn.Module"
        holder = f"cast({kind}, {code})" if depth else code
        code = f"{holder}[{piece}]" if piece.isdecimal() else f"{holder}.{piece}"
    return code, not rest


@dataclass(frozen=True)
class ParameterRow:
    """A parameter in the documentation.

    Attributes:
        key: its state-dict key.
        shape: its shape.
        layout: its name in the math.
        initial: where its initial values come from.
    """

    key: str
    shape: str
    layout: str
    initial: str


def parameter_rows(mode: Mode) -> tuple[ParameterRow, ...]:
    """Every parameter tensor, in the order of the state dict."""
    names = {"modalities": "n_modalities"}
    rows = []
    for holder in mode.modules:
        for parameter in holder.parameters:
            sizes = [_size(axes, mode).code(names) for axes in parameter.layout.without(holder.per)]
            shape = f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"
            key = state_key(holder, parameter, f"{{{holder.per}}}" if holder.per else "")
            start = _said(holder, mode, names) if isinstance(holder, LearnedTensor) else f"nn.{holder.kind}"
            rows.append(ParameterRow(key, shape, str(parameter.layout), start))
    return tuple(rows)


def _said(tensor: LearnedTensor, mode: Mode, names: Mapping[str, str]) -> str:
    """An initialisation as the documentation shows it."""
    given = [f"{side}={_size(axes, mode).code(names)}" for side, axes in tensor.fans.items()]
    given += [f"{tensor.rule.number}={number_code(mode, tensor.number, names)}"] if tensor.number is not None else []
    return f"{tensor.initialisation}({', '.join(given)})" if given else tensor.initialisation
