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
from sparank_gen.ir.signs import Signs
from sparank_gen.ir.text import shown
from sparank_gen.lang.widths import owner_of, width_name

# Operators that Python computes of any numbers, without an error, and those that it computes of numbers above zero.
OF_ANY = frozenset(
    """
    add sub mul neg abs maximum minimum clamp_min clamp_max relu gelu silu sigmoid softplus tanh erf sin cos
    where lt le gt ge eq ne
    """.split()
)
OF_POSITIVE = {"div": 1, "pow": 0, "sqrt": 0, "rsqrt": 0, "log": 0}


def divisions(mode: Mode, names: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The statements that refuse sizes for which a division does not come out; with each, over which widths it is asked, if any.

    Args:
        mode: the mode.
        names: how the names in extents are written in the constructor.
    """
    found = []
    for division in mode.divisions:
        whole, owner = division.whole.code(names), owner_of(division.whole) or owner_of(division.part)
        widths = f"{names[width_name(owner)]} in {names[WIDTHS]}" if owner is not None else ""
        text = f"{division.whole if widths else whole} to be a multiple of {division.part}"
        found.append((widths, f'require_multiple({whole}, {division.part.code(names)}, "{text}")'))
    return tuple(found)


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
    least = code if owner is None else f"min({code} for {names[width_name(owner)]} in {names[WIDTHS]})"
    return f'require_number("the extent {extent} of index {axis!r}", {least}, least=1)'


def _number(mode: Mode, node: Node, names: Mapping[str, str]) -> str:
    return required(mode, node, names, shown(node))


def required(mode: Mode, node: Node, names: Mapping[str, str], text: str, least: int | None = None) -> str:
    """The expression of a number, with a check of it where it may be none, or below ``least``; messages call it ``text``."""
    code, known = number_code(mode, node, names), _Known(mode, node)
    if node.op == "constant" or node in (known.numbers if least is None else known.positive):
        return code
    return f'require_value("{text}", lambda: {code}{"" if least is None else f", least={least}"})'


def number_code(mode: Mode, node: Node, names: Mapping[str, str]) -> str:
    """The expression of a number that is made of numbers, extents and hyper-parameters alone."""
    value = Lowering(mode.program, (), Emitter(mode.program.extents, names), None).lower(node)
    assert isinstance(value, Scalar)
    return value.code


def _numbers(mode: Mode) -> list[Node]:
    """The numbers in the math that may be none, as tensors read them."""
    tensors: set[Node] = set()
    found: dict[Node, None] = {}
    for node in ir.reachable(definition.node for definition in mode.program.definitions):
        if node.op == "leaf" or not tensors.isdisjoint(node.args):
            tensors.add(node)
            found |= {arg: None for arg in node.args if arg not in tensors and not arg.axes}
    return [node for node in found if node.op not in NUMBERS and node not in _Known(mode, node).numbers]


class _Known:
    """What is seen of a number, and of those that it is made of, whatever the sizes and hyper-parameters.

    Attributes:
        numbers: those that Python computes without an error.
        positive: those above zero.
    """

    def __init__(self, mode: Mode, root: Node) -> None:
        self.numbers: set[Node] = set()
        self.positive: set[Node] = set()
        signs = Signs(mode.program.least)
        for node in ir.reachable([root]):
            self.numbers |= {node} if self.is_number(node) else set()
            self.positive |= {node} if node in self.numbers and signs.is_positive(node) else set()

    def is_number(self, node: Node) -> bool:
        if node.op in OF_POSITIVE and node.args[OF_POSITIVE[node.op]] not in self.positive:
            return False
        return node.op in (*NUMBERS, *OF_ANY, *OF_POSITIVE) and self.numbers.issuperset(node.args)
