"""The intermediate representation: an immutable, hash-consed graph whose type is its set of named axes.

Every node stands for a tensor with named axes; dimensions have no order here. The batch axis ``b`` is an axis like
any other. Pointwise nodes broadcast over the union of their arguments' axes.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from sparank_gen.lang.extents import Extent
from sparank_gen.lang.ops import OPERATORS
from sparank_gen.lang.widths import owner_of

Key = TypeVar("Key")
Value = TypeVar("Value")
BATCH = "b"
CUTS = frozenset({"slice", "pad", "concat"})


@dataclass(frozen=True)
class Window:
    """An axis of a tensor read at the positions of another: position ``x`` of ``axis`` is position ``x + shift``."""

    axis: str
    shift: Extent


Index = str | int | Extent | Window
# Indices that are positions: the result has no axis for them.
FIXED = (int, Extent)


def axis_of(index: str | Window) -> str:
    """The axis of a result that an index gives."""
    return index.axis if isinstance(index, Window) else index


@dataclass(frozen=True, eq=False)
class Node:
    """One operation. Two nodes of the same operation on the same arguments are the same object.

    Attributes:
        op: an operator of the table, or one of ``leaf``, ``constant``, ``extent``, ``rename``,
            ``select``, ``place``, ``stack``, ``slice``, ``pad``, ``concat``, ``position``.
        args: the operands.
        over: the axes that a reduction or normalisation runs over, that a view takes apart, or that a join makes.
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
    # The two zeros are equal, and one over each is not.
    key = (op, tuple(args), tuple(over), data, str(data) if data == 0 else "")
    node = _NODES.get(key)
    if node is None:
        node = Node(op, tuple(args), tuple(over), data, _axes(op, args, over, data, axes))
        _NODES[key] = node
    return node


def _axes(op: str, args: Sequence[Node], over: Sequence[str], data: Any, axes: Iterable[str]) -> frozenset[str]:
    union = frozenset().union(*(arg.axes for arg in args)) if args else frozenset(axes)
    if op == "slice":
        return union - set(over) | {data.axis}
    if op == "pad":
        return union - {data.axis} | set(over)
    if op == "concat":
        return union - {part for part in data if part} | set(over)
    if op == "select" or (op in OPERATORS and OPERATORS[op].kind == "reduction"):
        return union - set(over)
    if op in ("stack", "place"):
        return union | set(over)
    if op == "rename":
        names = dict(data)
        return frozenset(names.get(axis, axis) for axis in union)
    return union


def leaf(name: str, indices: Sequence[Index]) -> Node:
    """A tensor from outside, read at ``indices``: axes by name, or positions; windows and extents in kernels alone."""
    axes = [index.axis if isinstance(index, Window) else index for index in indices if not isinstance(index, FIXED)]
    return make("leaf", data=(name, tuple(indices)), axes=axes)


def constant(value: float) -> Node:
    return make("constant", data=float(value))


def extent(value: Extent) -> Node:
    """An extent as a number in the math, one for each modality where it is made of their widths."""
    known, owner = value.constant, owner_of(value)
    return constant(known) if known is not None else make("extent", data=value, axes=[owner] if owner else [])


def rename(node: Node, names: Mapping[str, str]) -> Node:
    """``node`` with axes renamed, all at once."""
    pairs = tuple(sorted((old, new) for old, new in names.items() if old in node.axes and old != new))
    return make("rename", [node], data=pairs) if pairs else node


def position(axis: str) -> Node:
    """The numbers 0, 1, … along ``axis``; in kernels alone."""
    return make("position", over=[axis], axes=[axis])


def select(node: Node, axis: str, position: int | Extent) -> Node:
    """``node`` at one fixed position of ``axis``."""
    return make("select", [node], [axis], _known(position))


def stack(pieces: Sequence[Node], axis: str) -> Node:
    """The pieces along a new axis; missing axes of a piece are broadcast."""
    return make("stack", pieces, [axis])


def place(node: Node, axis: str, position: int | Extent) -> Node:
    """``node`` at one position of a new axis, zero elsewhere: the adjoint of :func:`select`."""
    return make("place", [node], [axis], _known(position))


def _known(position: int | Extent) -> int | Extent:
    known = position.constant if isinstance(position, Extent) else position
    return position if known is None else known


def slice_of(node: Node, axis: str, window: Window) -> Node:
    """``node`` read through a window on ``axis``; the window's own axis takes its place."""
    return make("slice", [node], [axis], window)


def pad(node: Node, axis: str, window: Window) -> Node:
    """``node`` seen through a window on a longer ``axis``, zero outside it: the adjoint of :func:`slice_of`."""
    return make("pad", [node], [axis], window)


def concat(pieces: Sequence[Node], axis: str, parts: Sequence[str | None]) -> Node:
    """The pieces one after another along a new axis, each along its own axis of ``parts`` (None: one position).

    A piece that lacks an axis is broadcast along it. No part is an axis of another piece.
    """
    return make("concat", pieces, [axis], tuple(parts))


def windows_of(node: Node, extents: Mapping[str, Extent]) -> tuple[Window | Extent, ...]:
    """Where each piece of a concatenation lies: a window on the joined axis, or a position of it."""
    found: list[Window | Extent] = []
    start = Extent.number(0)
    for part in node.data:
        found.append(Window(part, start) if part else start)
        start = start + (extents[part] if part else Extent.number(1))
    return tuple(found)


def apply(op: str, *args: Node) -> Node:
    """A pointwise operator or a comparison."""
    return make(op, args)


def reduce(op: str, node: Node, over: Iterable[str], data: Any = None) -> Node:
    """A reduction or normalisation over axes of ``node`` (their order carries no meaning)."""
    return make(op, [node], sorted(over), data)


def rebuild(node: Node, args: Sequence[Node]) -> Node:
    """``node`` with other operands."""
    return node if tuple(args) == node.args else make(node.op, args, node.over, node.data)


def reachable(roots: Iterable[Node], known: Container[Node] = ()) -> Iterator[Node]:
    """Every node that ``roots`` depend on, operands before their users, each once; without those of ``known`` and what is
    below them alone."""
    seen: set[Node] = set()
    pending = [(root, False) for root in reversed(list(roots))]
    while pending:
        node, ready = pending.pop()
        if ready:
            yield node
        elif node not in seen and node not in known:
            seen.add(node)
            pending.append((node, True))
            pending.extend((arg, False) for arg in reversed(node.args) if arg not in seen)


def bottom_up(root: Key, below: Callable[[Key], Sequence[Key]], value: Callable[[Key], Value], known: dict[Key, Value]) -> Value:
    """The value of ``root``, after those of what is ``below`` it, all put into ``known``; graphs may be deeper than calls."""
    pending = [root]
    while pending:
        missing = [key for key in below(pending[-1]) if key not in known]
        pending += reversed(missing)
        if not missing:
            key = pending.pop()
            known[key] = known[key] if key in known else value(key)
    return known[root]


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
        least: the least value of each hyper-parameter, minus infinity where it has none.
    """

    extents: Mapping[str, Extent]
    tensors: Mapping[str, Tensor]
    definitions: tuple[Definition, ...]
    outputs: tuple[str, ...]
    least: Mapping[str, float] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Definition:
        return next(definition for definition in self.definitions if definition.name == name)

    def free_name(self, name: str) -> str:
        """``name``, or one like it that neither a tensor nor a definition has."""
        while name in self.tensors or any(definition.name == name for definition in self.definitions):
            name += "_"
        return name

    def mapped(self, nodes: Mapping[Node, Node]) -> Program:
        """The program whose definitions are what ``nodes`` says of each."""
        return replace(self, definitions=tuple(replace(d, node=nodes[d.node]) for d in self.definitions))

    @property
    def modality_axes(self) -> frozenset[str]:
        """The axes that run over modalities."""
        return frozenset(axis for axis, extent in self.extents.items() if extent == self.extents["m"])
