"""What the structure of a node says of the sign of its values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum

from sparank_gen.ir.node import Node, reachable


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
    "add": lambda node, signs: max(signs) if min(signs) else Sign.ANY,
    "mul": lambda node, signs: max(min(signs), Sign(node.args[0] is node.args[1])),
    "pow": lambda node, signs: Sign(node.args[1].op == "constant" and node.args[1].data % 2 == 0),
    "sqrt": lambda node, signs: max(signs[0], Sign.NOT_NEGATIVE),
    **dict.fromkeys(("abs", "exp", "sigmoid", "relu", "softplus", "softmax", "rsqrt"), _never_negative),
    **dict.fromkeys(("clamp_min", "maximum"), lambda node, signs: max(signs)),
    **dict.fromkeys(("where", "rename", "mean", "max", "min"), _of_all),
    # Of large divisors, quotients are rounded to zero.
    "div": lambda node, signs: min(*signs, Sign.NOT_NEGATIVE) if node.args[1].axes else min(signs),
    **dict.fromkeys(("sum", "prod"), _at_most_not_negative),
}


class Signs:
    """What is known of signs in one program.

    Args:
        least: the least value of each hyper-parameter, minus infinity where it has none; sizes are 1 at least.
    """

    def __init__(self, least: Mapping[str, float]) -> None:
        self.least = least
        self.known: dict[Node, Sign] = {}

    def of(self, root: Node) -> Sign:
        """What is known of the sign of all values of a node."""
        for node in reachable([root], self.known):
            rule = self._of_extent if node.op == "extent" else SIGNS.get(node.op)
            self.known[node] = rule(node, [self.known[arg] for arg in node.args]) if rule else Sign.ANY
        return self.known[root]

    def _of_extent(self, node: Node, signs: Sequence[Sign]) -> Sign:
        """An extent of an axis is 1 at least, whatever it is made of; a hyper-parameter may be below."""
        least = min(self.least.get(name, 1) for name in node.data.symbols)
        return Sign(int(least > 0) + int(least >= 0))

    def is_positive(self, node: Node) -> bool:
        """Whether ``node`` is larger than zero by more than a rounding, for every value of what it reads."""
        return self.of(node) is Sign.POSITIVE

    def is_not_negative(self, node: Node) -> bool:
        """Whether ``node`` is zero or more, for every value of what it reads."""
        return self.of(node) >= Sign.NOT_NEGATIVE

    def is_smooth_power(self, base: Node, exponent: Node) -> bool:
        """Whether a power and its derivative have no pole, and no base where they are none: the exponent is a whole number above zero.

        Of a base that is zero or more it may be any of at least 1.
        """
        if exponent.op != "constant" or exponent.data < 1:
            return False
        return exponent.data % 1 == 0 or self.is_not_negative(base)
