"""What a layer's constructor asks of sizes and hyper-parameters together: that extents are extents, and numbers numbers."""

from __future__ import annotations

from collections.abc import Mapping

from sparank_gen.backends.torch.emit import WIDTHS, Emitter
from sparank_gen.backends.torch.lower import Lowering
from sparank_gen.backends.torch.values import Scalar
from sparank_gen.ir import node as ir
from sparank_gen.ir.lower import NUMBERS
from sparank_gen.ir.mode import Mode
from sparank_gen.ir.node import Node
from sparank_gen.ir.rewrite import is_tensor
from sparank_gen.ir.text import shown
from sparank_gen.lang.widths import owner_of

# Operators that Python computes of any numbers, without an error, and those that it computes of numbers above zero.
OF_ANY = frozenset("add sub mul neg abs maximum minimum clamp_min clamp_max relu tanh erf sin cos where lt le gt ge eq ne".split())
OF_POSITIVE = {"div": 1, "pow": 0, "sqrt": 0, "rsqrt": 0, "log": 0}


def requirements(mode: Mode, names: Mapping[str, str]) -> tuple[str, ...]:
    """The statements that refuse sizes and hyper-parameters for which an extent is below 1, or a number of the math is none.

    Args:
        mode: the mode.
        names: how the names in extents are written in the constructor.
    """
    return (*(_extent(mode, axis, names) for axis in mode.uncertain), *(_number(mode, node, names) for node in _numbers(mode)))


def _extent(mode: Mode, axis: str, names: Mapping[str, str]) -> str:
    extent = mode.program.extents[axis]
    code, owner = extent.code(names), owner_of(extent)
    least = code if owner is None else f"min({code} for {names[f'dim[{owner}]']} in {names[WIDTHS]})"
    return f'require_number("the extent {extent} of index {axis!r}", {least}, least=1)'


def _number(mode: Mode, node: Node, names: Mapping[str, str]) -> str:
    return required(mode, node, names, shown(node))


def required(mode: Mode, node: Node, names: Mapping[str, str], text: str, least: int | None = None) -> str:
    """The expression of a number, with a check of it where it may be none, or below ``least``; messages call it ``text``."""
    code = number_code(mode, node, names)
    is_sure = _is_positive(mode, node) if least is not None else _is_number(mode, node)
    if node.op == "constant" or is_sure:
        return code
    return f'require_value("{text}", lambda: {code}{"" if least is None else f", least={least}"})'


def number_code(mode: Mode, node: Node, names: Mapping[str, str]) -> str:
    """The expression of a number that is made of numbers, extents and hyper-parameters alone."""
    value = Lowering(mode.program, (), Emitter(mode.program.extents, names), None).lower(node)
    assert isinstance(value, Scalar)
    return value.code


def _numbers(mode: Mode) -> list[Node]:
    """The numbers in the math that may be none, as tensors read them."""
    found: dict[Node, None] = {}
    for node in ir.reachable(definition.node for definition in mode.program.definitions):
        if is_tensor(node):
            found |= {arg: None for arg in node.args if not is_tensor(arg) and not arg.axes}
    return [node for node in found if node.op not in NUMBERS and not _is_number(mode, node)]


def _is_number(mode: Mode, node: Node) -> bool:
    """Whether Python computes a number without an error, whatever the sizes and hyper-parameters."""
    if not all(_is_number(mode, arg) for arg in node.args):
        return False
    if node.op in OF_POSITIVE:
        return _is_positive(mode, node.args[OF_POSITIVE[node.op]])
    return node.op in NUMBERS or node.op in OF_ANY


def _is_positive(mode: Mode, node: Node) -> bool:
    """Whether a number is seen to be above zero, whatever the sizes and hyper-parameters."""
    if node.op == "constant":
        return bool(node.data > 0)
    if node.op == "extent":
        least = {h.name.value: h.minimum if h.minimum is not None else 0 for h in mode.spec.hyperparameters}
        terms = node.data.terms
        return all(coefficient > 0 for _, coefficient in terms) and all(least.get(name, 1) > 0 for name in node.data.symbols)
    if node.op in ("add", "mul", "div"):
        return all(_is_positive(mode, arg) for arg in node.args)
    return node.op in ("sqrt", "rsqrt", "pow") and _is_positive(mode, node.args[0])
