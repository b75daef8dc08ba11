"""The intermediate representation: an immutable, hash-consed graph whose type is its set of named axes.

Every node stands for a tensor with named axes; dimensions have no order here. The batch axis ``b`` is an axis like
any other. Pointwise nodes broadcast over the union of their arguments' axes.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

from sparank_gen.lang.extents import Extent
from sparank_gen.lang.ops import OPERATORS

BATCH = "b"


@dataclass(frozen=True, eq=False)
class Node:
    """One operation. Two nodes of the same operation on the same arguments are the same object.

    Attributes:
        op: an operator of the table, or one of ``leaf``, ``constant``, ``extent``, ``rename``,
            ``select``, ``stack``, ``place``.
        args: the operands.
        over: the axes that a reduction, normalisation, select or stack speaks of.
        data: what else tells it apart: a leaf's name and indices, a constant's value, a renaming, options.
        axes: the named axes of the result.
    """

    op: str
    args: tuple[Node, ...]
    over: tuple[str, ...]
    data: Any
    axes: frozenset[str] = field(repr=False)


_NODES: WeakValueDictionary[Hashable, Node] = WeakValueDictionary()


def make(op: str, args: Sequence[Node] = (), over: Sequence[str] = (), data: Any = None, axes: Iterable[str] = ()) -> Node:
    """The one node of this operation; ``axes`` is needed for leaves alone."""
    key = (op, tuple(args), tuple(over), data)
    node = _NODES.get(key)
    if node is None:
        node = Node(op, tuple(args), tuple(over), data, _axes(op, args, over, data, axes))
        _NODES[key] = node
    return node


def _axes(op: str, args: Sequence[Node], over: Sequence[str], data: Any, axes: Iterable[str]) -> frozenset[str]:
    union = frozenset().union(*(arg.axes for arg in args)) if args else frozenset(axes)
    if op == "select" or (op in OPERATORS and OPERATORS[op].kind == "reduction"):
        return union - set(over)
    if op in ("stack", "place"):
        return union | set(over)
    if op == "rename":
        names = dict(data)
        return frozenset(names.get(axis, axis) for axis in union)
    return union


def leaf(name: str, indices: Sequence[str | int]) -> Node:
    """A tensor from outside, read at ``indices``: axes by name, or fixed positions."""
    return make("leaf", data=(name, tuple(indices)), axes=[index for index in indices if isinstance(index, str)])


def constant(value: float) -> Node:
    return make("constant", data=float(value))


def extent(value: Extent) -> Node:
    """An extent as a number in the math."""
    known = value.constant
    return constant(known) if known is not None else make("extent", data=value)


def rename(node: Node, names: Mapping[str, str]) -> Node:
    """``node`` with axes renamed, all at once."""
    pairs = tuple(sorted((old, new) for old, new in names.items() if old in node.axes and old != new))
    return make("rename", [node], data=pairs) if pairs else node


def select(node: Node, axis: str, position: int) -> Node:
    """``node`` at one fixed position of ``axis``."""
    return make("select", [node], [axis], position)


def stack(pieces: Sequence[Node], axis: str) -> Node:
    """The pieces along a new axis; missing axes of a piece are broadcast."""
    return make("stack", pieces, [axis])


def place(node: Node, axis: str, position: int) -> Node:
    """``node`` at one position of a new axis, zero elsewhere: the adjoint of :func:`select`."""
    return make("place", [node], [axis], position)


def apply(op: str, *args: Node) -> Node:
    """A pointwise operator or a comparison."""
    return make(op, args)


def reduce(op: str, node: Node, over: Iterable[str], data: Any = None) -> Node:
    """A reduction or normalisation over axes of ``node`` (their order carries no meaning)."""
    return make(op, [node], sorted(over), data)


def rebuild(node: Node, args: Sequence[Node]) -> Node:
    """``node`` with other operands."""
    return node if tuple(args) == node.args else make(node.op, args, node.over, node.data)


def reachable(roots: Iterable[Node]) -> Iterator[Node]:
    """Every node that ``roots`` depend on, operands before their users, each once."""
    seen: set[Node] = set()
    pending = [(root, False) for root in reversed(list(roots))]
    while pending:
        node, ready = pending.pop()
        if ready:
            yield node
        elif node not in seen:
            seen.add(node)
            pending.append((node, True))
            pending.extend((arg, False) for arg in reversed(node.args) if arg not in seen)


@dataclass(frozen=True)
class Tensor:
    """A tensor from outside the program: the features ``h``, a parameter, or a cotangent."""

    name: str
    slots: tuple[Extent, ...]


@dataclass(frozen=True)
class Definition:
    """A named quantity; ``axes`` in the order of its indices, the batch axis left out; ``source`` as the spec has it."""

    name: str
    axes: tuple[str, ...]
    node: Node
    source: str = ""


@dataclass(frozen=True)
class Program:
    """Definitions in order, the axes they speak of, and the tensors they read.

    Attributes:
        extents: the extent of each axis; its order is the canonical order of dimensions.
        tensors: what the leaves read.
        definitions: in an order in which each stands after those it uses.
        outputs: the names of the definitions that are results.
    """

    extents: Mapping[str, Extent]
    tensors: Mapping[str, Tensor]
    definitions: tuple[Definition, ...]
    outputs: tuple[str, ...]

    def __getitem__(self, name: str) -> Definition:
        return next(definition for definition in self.definitions if definition.name == name)

    @property
    def modality_axes(self) -> frozenset[str]:
        """The axes that run over modalities."""
        return frozenset(axis for axis, extent in self.extents.items() if extent == self.extents["m"])
