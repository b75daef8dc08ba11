"""What the structure of a node says of its values: where it is exactly zero, and whether it is away from zero."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from weakref import WeakKeyDictionary

from sparank_gen.ir.node import Node, reachable

# Operators that are zero where their operand is, and those that are zero where all their operands are.
KEEP = frozenset("neg abs tanh relu gelu silu erf sin sum mean max min prod layernorm rename select place slice pad".split())
JOIN = frozenset("add sub maximum minimum lerp stack concat".split())


@dataclass
class Zeros:
    """Where the values of a restricted program are zero whatever its parameters are.

    Attributes:
        modality: the axes over modalities.
        features: the name of the features, given as zero where they are absent.
        among: whether operators run over a modality: it is present, or the sample has none.
        some: whether a sample has any.
    """

    modality: frozenset[str]
    features: str
    among: Node
    some: Node
    known: dict[Node, tuple[frozenset[str], bool]] = field(default_factory=dict)

    def along(self, node: Node) -> frozenset[str]:
        """The modality axes along which ``node`` is zero at modalities that operators leave out."""
        return self._find(node)[0]

    def in_empty(self, node: Node) -> bool:
        """Whether ``node`` is zero in samples that have no modality."""
        return self._find(node)[1]

    def _find(self, root: Node) -> tuple[frozenset[str], bool]:
        for node in reachable([root], self.known):
            self.known[node] = self._of(node)
        return self.known[root]

    def _of(self, node: Node) -> tuple[frozenset[str], bool]:
        args = [self.known[arg] for arg in node.args]
        axes, empty = [axes for axes, _ in args], [empty for _, empty in args]
        if node.op == "constant" and node.data == 0:
            return self.modality, True
        if node.op == "leaf":
            is_features = node.data[0] == self.features
            return node.axes & self.modality if is_features else frozenset(), is_features
        if node.op == "where":
            selected, selects_rows = self._selected(node.args[0])
            return (axes[1] | selected) & axes[2], (empty[1] or selects_rows) and empty[2]
        if node.op == "rename":
            names = dict(node.data)
            return frozenset(names.get(axis, axis) for axis in axes[0]), empty[0]
        if node.op == "mul":
            return axes[0] | axes[1], empty[0] or empty[1]
        if node.op == "div" or (node.op == "pow" and node.args[1].op == "constant" and node.args[1].data > 0):
            return axes[0], empty[0]
        if node.op == "softmax":
            # Its operand is minus infinity there.
            return self.modality & set(node.over), False
        if node.op in KEEP:
            return axes[0] - set(node.over), empty[0]
        if node.op in JOIN:
            return frozenset.intersection(*axes), all(empty)
        return frozenset(), False

    def _selected(self, condition: Node) -> tuple[frozenset[str], bool]:
        """The axes along which a condition leaves out modalities, and whether it leaves out samples that have none."""
        if condition.op == "leaf":
            return condition.axes & self.modality, True
        if condition.op == "rename" and condition.args[0] is self.among or condition is self.among:
            return condition.axes & self.modality, False
        return frozenset(), condition is self.some


class Sign(IntEnum):
    """What is known of all values of a node, whatever it reads; positive ones are so by more than a rounding."""

    ANY = 0
    NOT_NEGATIVE = 1
    POSITIVE = 2


def _never_negative(node: Node, signs: Sequence[Sign]) -> Sign:
    return Sign.NOT_NEGATIVE


def _of_all(node: Node, signs: Sequence[Sign]) -> Sign:
    return min(signs[-2:])


def _at_most_not_negative(node: Node, signs: Sequence[Sign]) -> Sign:
    return min(signs[0], Sign.NOT_NEGATIVE)


# The sign of each operator by those of its operands; others have any.
SIGNS: Mapping[str, Callable[[Node, Sequence[Sign]], Sign]] = {
    "constant": lambda node, signs: Sign(int(node.data > 0) + int(node.data >= 0)),
    "extent": lambda node, signs: Sign.POSITIVE,
    "add": lambda node, signs: max(signs) if min(signs) else Sign.ANY,
    "mul": lambda node, signs: max(min(signs), Sign(node.args[0] is node.args[1])),
    "pow": lambda node, signs: Sign(node.args[1].op == "constant" and node.args[1].data % 2 == 0),
    "sqrt": lambda node, signs: max(signs[0], Sign.NOT_NEGATIVE),
    **dict.fromkeys(("abs", "exp", "sigmoid", "relu", "softplus", "softmax", "rsqrt"), _never_negative),
    **dict.fromkeys(("clamp_min", "maximum"), lambda node, signs: max(signs)),
    **dict.fromkeys(("div", "where", "rename", "mean", "max", "min"), _of_all),
    **dict.fromkeys(("sum", "prod"), _at_most_not_negative),
}
_KNOWN: WeakKeyDictionary[Node, Sign] = WeakKeyDictionary()


def sign_of(root: Node) -> Sign:
    """What is known of the sign of all values of a node."""
    for node in reachable([root], _KNOWN):
        rule = SIGNS.get(node.op)
        _KNOWN[node] = rule(node, [_KNOWN[arg] for arg in node.args]) if rule else Sign.ANY
    return _KNOWN[root]


def is_positive(node: Node) -> bool:
    """Whether ``node`` is larger than zero by more than a rounding, for every value of what it reads."""
    return sign_of(node) is Sign.POSITIVE


def is_not_negative(node: Node) -> bool:
    """Whether ``node`` is zero or more, for every value of what it reads."""
    return sign_of(node) >= Sign.NOT_NEGATIVE


def is_finite_power(base: Node, exponent: Node) -> bool:
    """Whether a power and its derivative are finite whatever the base is: the exponent is a whole number above zero.

    Of a base that is zero or more it may be any of at least 1.
    """
    if exponent.op != "constant" or exponent.data < 1:
        return False
    return exponent.data % 1 == 0 or is_not_negative(base)
