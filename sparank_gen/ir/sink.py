"""Cut and joined axes brought down to the tensors that are read: no slice, pad or concatenation is left.

A tile in registers cannot be cut or joined, yet every operator that keeps an axis works at each of its positions alone.
So a slice of a result is that result computed from slices of its operands, down to tensors that are loaded from shifted
addresses; and a joined axis is computed from each piece, seen along the whole of it, with a choice by position.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from sparank_gen.ir import node as ir
from sparank_gen.ir.node import CUTS, FIXED, Index, Node, Program, Window, axis_of
from sparank_gen.ir.parts import factors_of, product_of, sum_of
from sparank_gen.ir.simplify import branch
from sparank_gen.ir.template import broadcast_reduce
from sparank_gen.ir.verify import verify
from sparank_gen.lang.extents import Extent
from sparank_gen.lang.ops import OPERATORS
from sparank_gen.lang.widths import owner_of, read_at

Moves = Mapping[str, str | Window]


def sink(program: Program, roots: Sequence[Node], is_unrolled: Callable[[str], bool]) -> tuple[Program, tuple[Node, ...]]:
    """``roots``, and the definitions of ``program``, without cut or joined axes.

    What stands outside the range of a piece is computed and not chosen; it may be anything.

    Args:
        program: an expanded program.
        roots: what a kernel computes.
        is_unrolled: whether an axis becomes a tuple of tiles.

    Returns:
        The program, with axes of the compiler's own beside its axes, and the roots.
    """
    if not any(node.op in CUTS for node in ir.reachable(roots)):
        return program, tuple(roots)
    sinking = _Sinking(dict(program.extents), is_unrolled)
    found = tuple(sinking.settled(root) for root in roots)
    needed = set(ir.reachable(roots))
    definitions = tuple(
        replace(definition, node=sinking.settled(definition.node)) if definition.node in needed else definition
        for definition in program.definitions
    )
    sunk = replace(program, extents=sinking.extents, definitions=definitions)
    verify(sunk, "sink", found)
    return sunk, found


def pieces_last(node: Node, extents: Mapping[str, Extent]) -> Node:
    """A sum of a concatenation, along other axes than the joined one, as the concatenation of sums."""
    if node.op != "sum" or node.args[0].op != "concat" or node.args[0].over[0] in node.over:
        return node
    joined = node.args[0]
    pieces = [broadcast_reduce("sum", piece, node.over, extents) for piece in joined.args]
    return ir.concat(pieces, joined.over[0], joined.data)


def read_whole(roots: Iterable[Node]) -> set[Node]:
    """The concatenations below ``roots`` that are read as a whole, and not piece by piece in sums along them."""
    found: set[Node] = set()
    seen: set[Node] = set()
    pending = list(roots)
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        below = list(node.args)
        whole = _joined_factor(node) if node.op == "sum" else None
        if whole is not None:
            below = [*whole.args, *(factor for factor in factors_of(node.args[0]) if factor is not whole)]
        found.update(arg for arg in below if arg.op == "concat")
        pending += below
    return found


def _joined_factor(node: Node) -> Node | None:
    """The factor of a sum that is joined along its axis, where all others that have the axis are tensors to cut."""
    factors = factors_of(node.args[0])
    for whole in factors:
        if whole.op in ("concat", "pad") and whole.over[0] in node.over:
            others = [factor for factor in factors if factor is not whole and whole.over[0] in factor.axes]
            if all(other.op == "leaf" for other in others):
                return whole
    return None


class _Sinking:
    """The state of one pass.

    Attributes:
        extents: the axes so far; those of the compiler's own are added to it.
    """

    def __init__(self, extents: dict[str, Extent], is_unrolled: Callable[[str], bool]) -> None:
        self.extents = extents
        self.known_unrolled = is_unrolled
        self.done: dict[Node, Node] = {}
        self.moved: dict[tuple[Node, tuple[tuple[str, str | Window], ...]], Node] = {}
        self.twins: dict[tuple[str, Extent], str] = {}
        self.originals: dict[str, str] = {}
        self.lookups: dict[Node, tuple[Node, str, Window]] = {}

    def is_unrolled(self, axis: str) -> bool:
        return self.known_unrolled(self.originals.get(axis, axis))

    def settled(self, root: Node) -> Node:
        """``root`` without cuts and joins."""
        for node in ir.reachable([root]):
            if node in self.done:
                continue
            apart = self.sum_of_parts(node) if node.op == "sum" else None
            if apart is not None:
                self.done[node] = self.settled(apart)
                continue
            args = [self.done[arg] for arg in node.args]
            self.done[node] = self.without(node, args) if node.op in CUTS else _picked(ir.rebuild(node, args))
        return self.done[root]

    def sum_of_parts(self, node: Node) -> Node | None:
        """A sum along a joined axis as one along each part; None where the other factors are no tensors to cut."""
        whole = _joined_factor(node)
        if whole is None:
            return None
        places = (whole.data,) if whole.op == "pad" else ir.windows_of(whole, self.extents)
        return sum_of([self.part_of_sum(node, whole, k, place) for k, place in enumerate(places)])

    def part_of_sum(self, node: Node, whole: Node, position: int, place: Window | Extent) -> Node:
        """The terms of a sum along a joined axis that belong to one piece."""
        (axis,), piece = whole.over, whole.args[position]
        over = [other for other in node.over if other != axis]
        if isinstance(place, Window):
            own = self.twin(place.axis, node.args[0].axes)
            piece, place = ir.rename(piece, {place.axis: own}), Window(own, place.shift)
            over.append(own)
        product: list[Node] = []
        for factor in factors_of(node.args[0]):
            if factor is whole:
                product.append(piece)
            elif axis not in factor.axes:
                product.append(factor)
            else:
                cut = ir.slice_of(factor, axis, place) if isinstance(place, Window) else ir.select(factor, axis, place)
                product.append(cut)
        return broadcast_reduce("sum", product_of(product), over, self.extents)

    def without(self, node: Node, args: Sequence[Node]) -> Node:
        """A cut or a join, of operands that have none."""
        (axis,) = node.over
        if node.op == "slice":
            return self.read(args[0], {axis: node.data})
        place = ir.position(axis)
        if node.op == "pad":
            value = self.read(args[0], {node.data.axis: _back(axis, node.data.shift)})
            end = node.data.shift + self.extents[node.data.axis]
            return self.where("lt", place, node.data.shift, ir.constant(0), self.where("lt", place, end, value, ir.constant(0)))
        windows = ir.windows_of(node, self.extents)
        pieces = [
            self.read(arg, {window.axis: _back(axis, window.shift)}) if isinstance(window, Window) else arg
            for arg, window in zip(args, windows, strict=True)
        ]
        starts = [window.shift if isinstance(window, Window) else window for window in windows]
        value = pieces[-1]
        for piece, end in zip(pieces[-2::-1], starts[:0:-1], strict=True):
            value = self.where("lt", place, end, piece, value)
        return value

    def where(self, relation: str, place: Node, bound: Extent, value: Node, otherwise: Node) -> Node:
        """A choice by position."""
        return self.simplest(ir.apply("where", ir.apply(relation, place, ir.extent(bound)), value, otherwise))

    def simplest(self, choice: Node) -> Node:
        """What is chosen, where that is the same everywhere and has all axes."""
        known = self.decided(choice.args[0])
        return choice if known is None else branch(choice, known) or choice

    def decided(self, condition: Node) -> bool | None:
        """Whether a position is below a bound, where that is so everywhere or nowhere."""
        if condition.op != "lt" or (place := _window(condition.args[0])) is None:
            return None
        limit = _number(condition.args[1])
        if limit is None:
            return None
        if (limit - place.shift - self.extents[place.axis]).is_at_least_zero({}):
            return True
        return False if (place.shift - limit).is_at_least_zero({}) else None

    def twin(self, axis: str, taken: Collection[str], beside: Mapping[str, str] | None = None) -> str:
        """Another axis of the same extent, for sums over what stands beside ``axis``.

        Args:
            axis: the axis.
            taken: what stands there under its own name, and is not to be captured.
            beside: other axes, and their twins there.
        """
        owner = owner_of(self.extents[axis])
        extent = read_at(self.extents[axis], {owner: beside[owner]} if owner and beside and owner in beside else {})
        if (axis, extent) not in self.twins:
            name = f"{axis}_other"
            while name in self.extents:
                name += "_other"
            self.twins[axis, extent] = name
            self.originals[name] = self.originals.get(axis, axis)
            self.extents[name] = extent
        name = self.twins[axis, extent]
        return self.twin(name, taken) if name in taken else name

    def twins_of(self, axes: Iterable[str], node: Node, moves: Moves) -> dict[str, str]:
        """Twins of axes that ``node`` runs over, for its operands after ``moves``."""
        taken = set(map(axis_of, moves.values())) | (node.axes - moves.keys())
        names: dict[str, str] = {}
        for axis in sorted(axes, key=lambda axis: owner_of(self.extents[axis]) is not None):
            names[axis] = self.twin(axis, taken, names)
        return names

    def read(self, node: Node, moves: Moves) -> Node:
        """``node`` with its axes read at other names or through windows, all at once."""
        moves = {axis: to for axis, to in moves.items() if axis in node.axes and axis != to}
        if all(isinstance(to, str) for to in moves.values()):
            return ir.rename(node, {axis: str(to) for axis, to in moves.items()})
        key = (node, tuple(sorted(moves.items(), key=lambda move: move[0])))
        if key not in self.moved:
            self.moved[key] = self.looked_up(node, moves) or self.inside(node, moves)
        return self.moved[key]

    def looked_up(self, node: Node, moves: Moves) -> Node | None:
        """Windows that see unrolled tiles along a dimension of a tile: each position is looked for among all tiles."""
        found = [
            (axis, to)
            for axis, to in moves.items()
            if isinstance(to, Window) and self.is_unrolled(axis) and not self.is_unrolled(to.axis)
        ]
        if not found:
            return None
        twins = self.twins_of([axis for axis, _ in found], node, moves)
        value = self.read(node, {**moves, **twins})
        for axis, window in found:
            twin, one = twins[axis], value
            value = ir.reduce("sum", _equal(twin, window, one, ir.constant(0)), [twin])
            self.lookups[value] = (one, twin, window)
        return value

    def inside(self, node: Node, moves: Moves) -> Node:
        """Windows put into the operands."""
        if node.op == "leaf":
            name, indices = node.data
            return ir.leaf(name, [_moved(index, moves) for index in indices])
        if (window := _window(node)) is not None:
            return _plus(_composed(window, moves))
        if node in self.lookups:
            again = self.looked_up_again(node, moves)
            if again is not None:
                return again
        if node.op == "where":
            return self.simplest(self.below(node, moves))
        if node.op == "rename":
            names = dict(node.data)
            return self.read(node.args[0], {a: moves.get(names.get(a, a), names.get(a, a)) for a in node.args[0].axes})
        if node.op == "stack" and node.over[0] in moves:
            return self.chosen(node, moves)
        if node.op == "place" and node.over[0] in moves:
            (axis,) = node.over
            place = node.data if isinstance(node.data, Extent) else Extent.number(node.data)
            return self.where("eq", _plus(moves[axis]), place, self.read(node.args[0], moves), ir.constant(0))
        if node.op == "product_of_others" and any(isinstance(moves.get(axis), Window) for axis in node.over):
            return self.others(node, moves)
        return self.below(node, moves)

    def looked_up_again(self, node: Node, moves: Moves) -> Node | None:
        """What was looked for at each position of a dimension, where that dimension is unrolled after all."""
        value, twin, window = self.lookups[node]
        to = _composed(window, moves)
        if not self.is_unrolled(to.axis):
            return None
        inside = self.read(value, {**moves, twin: to})
        place, zero = _plus(to), ir.constant(0)
        inside = self.where("lt", place, self.extents[twin], inside, zero)
        return self.where("lt", place, Extent.number(0), zero, inside)

    def chosen(self, node: Node, moves: Moves) -> Node:
        """A stack along an axis that is read through a window."""
        to = moves[node.over[0]]
        pieces = [self.read(piece, moves) for piece in node.args]
        value = pieces[-1]
        for position in reversed(range(len(pieces) - 1)):
            value = self.where("lt", _plus(to), Extent.number(position + 1), pieces[position], value)
        return value

    def others(self, node: Node, moves: Moves) -> Node:
        """A product of all others, at positions that a window gives: a product over twins that leaves those out."""
        twins = self.twins_of(node.over, node, moves)
        factors = self.read(node.args[0], {**moves, **twins})
        kept: Node = ir.constant(1)
        for axis in node.over:
            to = moves.get(axis, axis)
            kept = _equal(twins[axis], to, kept, factors)
        return ir.reduce("prod", kept, twins.values())

    def below(self, node: Node, moves: Moves) -> Node:
        """Any operator that works at each position of the moved axes alone; its own axes make way."""
        keeps = node.op == "product_of_others"
        targets = set(map(axis_of, moves.values()))
        names = {axis: str(moves[axis]) for axis in node.over if keeps and axis in moves}
        met = [axis for axis in node.over if not keeps and axis in targets]
        met += [axis for axis in node.over if axis not in met and owner_of(self.extents[axis]) in met]
        names |= self.twins_of(met, node, moves)
        inner = {**moves, **names}
        over = [names.get(axis, axis) for axis in node.over]
        return ir.make(node.op, [self.read(arg, inner) for arg in node.args], _ordered(node, over), node.data)


def _picked(node: Node) -> Node:
    """A tensor at one position, read there."""
    if node.op != "select" or node.args[0].op != "leaf":
        return node
    name, indices = node.args[0].data
    if any(isinstance(index, Window) and index.axis in node.over for index in indices):
        return node
    return ir.leaf(name, [node.data if index in node.over else index for index in indices])


def _ordered(node: Node, over: Iterable[str]) -> list[str]:
    """The axes of an operator, in the order in which it is made."""
    return sorted(over) if node.op in OPERATORS else list(over)


def _back(axis: str, shift: Extent) -> Window:
    return Window(axis, Extent.number(0) - shift)


def _moved(index: Index, moves: Moves) -> Index:
    """An index of a leaf after its axis has moved."""
    if isinstance(index, Window):
        return _composed(index, moves)
    return index if isinstance(index, FIXED) else moves.get(index, index)


def _composed(window: Window, moves: Moves) -> Window:
    """A window after its axis has moved."""
    to = moves.get(window.axis, window.axis)
    return Window(to.axis, to.shift + window.shift) if isinstance(to, Window) else Window(to, window.shift)


def _plus(to: str | Window) -> Node:
    """The position that is read, as a number along the axis that reads it."""
    if isinstance(to, str):
        return ir.position(to)
    place = ir.position(to.axis)
    return ir.apply("add", place, ir.extent(to.shift)) if to.shift.terms else place


def _window(node: Node) -> Window | None:
    """The window that :func:`_plus` made a number of; None for other nodes."""
    if node.op == "position":
        return Window(node.over[0], Extent.number(0))
    if node.op != "add" or node.args[0].op != "position":
        return None
    shift = _number(node.args[1])
    return Window(node.args[0].over[0], shift) if shift is not None else None


def _equal(axis: str, to: str | Window, value: Node, otherwise: Node) -> Node:
    """``value`` where the position along ``axis`` is the one that ``to`` reads."""
    return ir.apply("where", ir.apply("eq", ir.position(axis), _plus(to)), value, otherwise)


def _number(node: Node) -> Extent | None:
    """A whole number or an extent in the graph as an extent."""
    if node.op == "constant" and node.data == int(node.data):
        return Extent.number(int(node.data))
    return node.data if node.op == "extent" else None
