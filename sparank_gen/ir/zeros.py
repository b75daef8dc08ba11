"""Where the values of a restricted program are exactly zero, by the structure of its nodes."""

from __future__ import annotations

from dataclasses import dataclass, field

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
