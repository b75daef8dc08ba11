"""Missing modalities: a program restricted, in each sample, to the modalities that are present.

The restricted program reads one tensor more, ``present[m]``: truth values, one for each sample. It is written in the
language's own operators, so that whatever serves a program serves this one too:

- features are selected where they enter, so that nothing reads those that are absent;
- operators over modalities run over those present: the others hold the neutral element;
- results are zero at absent modalities, and in samples that have none.

A sample that has none is computed as if it had all, with features of zero, so that no operator meets an empty set.
Values at absent modalities are thus finite, and where none reads them their gradients are products with zero:
operators that could turn a zero into an infinity get a harmless operand there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from sparank_gen.ir import node as ir
from sparank_gen.ir.check import PRESENT
from sparank_gen.ir.node import BATCH, Definition, Node, Program
from sparank_gen.ir.parts import factors_of, product_of
from sparank_gen.ir.signs import Signs
from sparank_gen.ir.template import instantiate
from sparank_gen.ir.verify import verified
from sparank_gen.ir.views import FEATURES
from sparank_gen.ir.zeros import Zeros
from sparank_gen.lang.extents import Extent
from sparank_gen.lang.ops import OPERATORS
from sparank_gen.lang.widths import owners, size_of

NEUTRAL = {"sum": 0.0, "prod": 1.0, "max": -math.inf, "min": math.inf, "logsumexp": -math.inf, "softmax": -math.inf}
# For each operator that is singular in an operand: its position, and a value at which it and its derivatives are not.
HARMLESS = {
    name: next((position, value) for position, value in enumerate(operator.safe) if value is not None)
    for name, operator in OPERATORS.items()
    if operator.safe
}
ONE_AT_HARMLESS = frozenset({"pow", "sqrt", "rsqrt", "exp"})


def numbered(program: Program) -> str | None:
    """The first statement that names modalities by number, for which missing ones have no meaning; None without one.

    It reads a modality at a fixed position, gives each its own definition, or runs over them along an axis of another
    extent.
    """
    modality, count = program.modality_axes, program.extents["m"]

    def is_numbered(node: Node) -> bool:
        if node.op == "leaf":
            name, indices = node.data
            read = [index for index in indices if index != BATCH]
            slots = program.tensors[name].slots
            return any((slot == count) != (index in modality) for slot, index in zip(slots, read, strict=True))
        if node.op in (*OPERATORS, "extent"):
            return False
        below = {axis for arg in node.args for axis in modality & arg.axes}
        return bool(modality & set(node.over)) or len(below) != len(modality & node.axes)

    for definition in program.definitions:
        if any(map(is_numbered, ir.reachable([definition.node]))):
            return definition.source.splitlines()[0]
    return None


@verified
def restrict(program: Program, selects: bool = True) -> Program:
    """``program`` among the modalities that ``present`` says each sample has.

    Args:
        program: a program that names no modality by number.
        selects: whether it selects the features itself; otherwise they are given as zero where they are absent.
    """
    restriction = _Restriction(program, selects)
    definitions = [restriction.definition(definition) for definition in program.definitions]
    tensors = {**program.tensors, PRESENT: ir.Tensor(PRESENT, (program.extents["m"], Extent.symbol("batch")))}
    return replace(program, tensors=tensors, definitions=(*_masks(program), *definitions))


def is_present(axis: str) -> Node:
    """Whether a sample has the modality at ``axis``."""
    return ir.leaf(PRESENT, (axis, BATCH))


def select_features(leaf: Node) -> Node:
    """A reading of the features, zero where they are absent."""
    axis = leaf.data[1][1]
    return ir.apply("where", is_present(axis), leaf, ir.constant(0))


_SOME = ir.reduce("max", is_present("m"), ["m"])
_AMONG = ir.apply("ge", is_present("m"), _SOME)
_COUNT = ir.reduce("sum", _AMONG, ["m"])


def _masks(program: Program) -> tuple[Definition, ...]:
    """What takes the place of all modalities, by names that are free in ``program``."""
    some, among, count = (program.free_name(name) for name in ("any_present", "takes_part", "count"))
    return (
        Definition(some, (), _SOME, f"{some} = max[m](present[m])"),
        Definition(among, ("m",), _AMONG, f"{among}[m] = present[m] >= {some}, so all do in a sample that has none"),
        Definition(count, (), _COUNT, f"{count} = sum[m]({among}[m])"),
    )


class _Restriction:
    """The state of restricting one program: what stands for each of its nodes."""

    def __init__(self, program: Program, selects: bool) -> None:
        self.program = program
        self.selects = selects
        self.modality = program.modality_axes
        self.done: dict[Node, Node] = {}
        self.named: set[Node] = set()
        self.harmless_already: set[Node] = set()
        self.signs = Signs(program.least)
        self.zeros = Zeros(self.modality, FEATURES, _AMONG, _SOME)

    def definition(self, definition: Definition) -> Definition:
        node = self.value(definition.node)
        if definition.name in self.program.outputs:
            node = self.result(node)
        self.done[definition.node] = node
        self.named.add(node)
        return replace(definition, node=node)

    def value(self, root: Node) -> Node:
        """What stands for ``root``; at absent modalities it is any finite value."""
        for node in ir.reachable([root], self.done):
            self.done[node] = self.restricted(node)
        return self.done[root]

    def restricted(self, node: Node) -> Node:
        args = [self.done[arg] for arg in node.args]
        if node.op == "leaf":
            return select_features(node) if node.data[0] == FEATURES and self.selects else node
        if node.op not in OPERATORS:
            return ir.rebuild(node, args)
        over = sorted(self.modality & set(node.over))
        if node.op == "layernorm" and (over or not dict(node.data)["eps"]):
            names = {"a": node.args[0]} | {name: ir.constant(value) for name, value in node.data}
            return self.value(instantiate(OPERATORS[node.op].expansion, names, self.program.extents, node.over))
        if not over:
            operands = self.harmless(node.op, args)
            made = ir.make(node.op, operands, node.over, node.data)
            if operands is not args and node.op in ONE_AT_HARMLESS:
                self.harmless_already.add(made)
            return made
        if node.op == "mean":
            # Along what is as long for each modality the mean is taken first: totals are larger, and half precision holds few.
            first = [] if owners(node.over, self.program.extents) else [axis for axis in node.over if axis not in over]
            rest = [axis for axis in node.over if axis not in first]
            masked = self.masked_product(args[0], over)
            means = ir.reduce("mean", masked, first) if first else masked
            return ir.apply("div", ir.reduce("sum", means, rest), self.count(rest))
        if node.op == "sum":
            return ir.reduce("sum", self.masked_product(args[0], over), node.over)
        operand = args[0]
        for axis in over:
            operand = ir.apply("where", self.among(axis), operand, ir.constant(NEUTRAL[node.op]))
        return ir.reduce(node.op, operand, node.over, node.data)

    def among(self, axis: str) -> Node:
        return ir.rename(_AMONG, {"m": axis})

    def count(self, over: Iterable[str]) -> Node:
        """The number of entries along axes, present modalities alone."""
        extents, over = self.program.extents, list(over)
        own = ir.extent(size_of([axis for axis in over if axis not in self.modality], extents))
        differing = set(owners(over, extents).values()) & set(over)
        factors = [_COUNT for axis in over if axis in self.modality - differing]
        if differing:
            (owner,) = differing
            own = ir.reduce("sum", ir.apply("where", self.among(owner), own, ir.constant(0)), [owner])
        return product_of([*factors, own] if own is not ir.constant(1) else factors)

    def masked_product(self, node: Node, over: Iterable[str]) -> Node:
        """``node``, zero at absent modalities along ``over``.

        A product is zero where one factor is. So that a contraction stays one, the smallest factor that has rows is
        made so, unless one of them is already.
        """
        factors = factors_of(node, whole=self.named)
        if all(any(axis in self.zeros.along(factor) for factor in factors) for axis in over):
            return node
        for axis in over:
            if any(axis in self.zeros.along(factor) for factor in factors):
                continue
            options = [k for k, factor in enumerate(factors) if axis in factor.axes]
            place = min(options, key=lambda k: (BATCH not in factors[k].axes, len(factors[k].axes), k))
            factors[place] = ir.apply("where", is_present(axis), factors[place], ir.constant(0))
        return product_of(factors)

    def harmless(self, op: str, args: list[Node]) -> list[Node]:
        """Operands with a harmless one where its value is not meant, if the operator could be singular there."""
        position, value = HARMLESS.get(op, (0, 0.0))
        operand = args[position]
        needs_none = op != "exp" and (self.signs.is_positive(operand) or operand in self.harmless_already)
        if op not in HARMLESS or needs_none or (op == "pow" and self.signs.is_smooth_power(*args)):
            return args
        if not operand.axes & {BATCH, *self.modality}:
            return args
        conditions = [is_present(axis) for axis in sorted(self.modality & operand.axes)] or [_SOME]
        for condition in conditions:
            operand = ir.apply("where", condition, operand, ir.constant(value))
        return [*args[:position], operand, *args[position + 1 :]]

    def result(self, node: Node) -> Node:
        """``node``, zero at absent modalities and in samples that have none."""
        absent = sorted((self.modality & node.axes) - self.zeros.along(node))
        for axis in absent:
            node = ir.apply("where", is_present(axis), node, ir.constant(0))
        if not absent and not self.zeros.in_empty(node):
            node = ir.apply("where", _SOME, node, ir.constant(0))
        return node
