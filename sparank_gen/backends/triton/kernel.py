"""From the graph to the statements of a kernel in which a program owns a tile of batch rows.

The batch axis is dimension 0 of every tile. Axes over modalities, and axes of a small fixed extent, are unrolled into
tuples of tiles. Every other axis is a dimension of the tile, padded to a power of two; what the padding holds is
tracked, and restored to the neutral element before a reduction where it has to be.

A kernel that multiplies with weights walks over tiles of rows: its weights are read once, before that loop.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from sparank_gen.backends.torch.emit import NOUNS
from sparank_gen.backends.torch.values import Scalar, parenthesised
from sparank_gen.backends.triton.expressions import LINEAR, NEUTRAL, ExpressionPrinter, neutral_code
from sparank_gen.backends.triton.reading import Kept
from sparank_gen.backends.triton.scope import Lane, Storage
from sparank_gen.backends.triton.tiles import Tile
from sparank_gen.ir import node as ir
from sparank_gen.ir.node import BATCH, FIXED, Index, Node, axis_of
from sparank_gen.ir.rewrite import is_tensor
from sparank_gen.lang.ops import OPERATORS
from sparank_gen.plan.stages import contraction_of


@dataclass(frozen=True)
class Store:
    """A result that a kernel writes: ``node``, indexed by ``axes``, into ``storage``; summed over rows if ``partial``."""

    storage: Storage
    node: Node
    axes: tuple[Index, ...]
    partial: bool = False
    condition: str = ""


@dataclass
class KernelPrinter(ExpressionPrinter):
    """Prints one kernel.

    Attributes:
        products: matrix products that the kernel computes, by the names under which its statements read them.
        uses: how often each node is read.
    """

    products: Mapping[str, Node] = field(default_factory=dict)
    uses: Counter[Node] = field(default_factory=Counter)

    def store(self, store: Store) -> None:
        """Write a result, one tensor or slice for each position of its unrolled axes."""
        named = [axis_of(index) for index in store.axes if not isinstance(index, FIXED)]
        unrolled, axes = self.split(tuple(axis for axis in named if not (store.partial and axis == BATCH)))
        if store.partial and self.walks:
            self.add_up(store, unrolled, axes)
            return
        if store.condition:
            self.emit(f"if {store.condition}:")
            self.depth += 1
        with self.loops(unrolled) as env:
            self.write(store, self.stored(store, axes, env).code, axes, env)
        self.depth -= 1 if store.condition else 0

    def stored(self, store: Store, axes: tuple[str, ...], env: Mapping[str, str]) -> Tile:
        """What is written at one position of the unrolled axes, with all of ``axes``."""
        tile = self.expression(store.node, env)
        if isinstance(tile, Scalar):
            tile = Tile(f"tl.full((), {tile.code}, ACC)", ())
        if store.partial:
            masked = self.restored(tile, [BATCH], 0.0, env)
            tile = Tile(f"tl.sum({masked.code}, 0)", tile.axes[1:])
        missing = [axis for axis in axes if axis not in tile.axes]
        tile = tile.aligned(axes) if tile.axes else tile
        return Tile(self.broadcast(tile, axes), axes) if missing else tile

    def write(self, store: Store, code: str, axes: tuple[str, ...], env: Mapping[str, str]) -> None:
        mask = f", mask={self.mask(axes, axes, env, rows='in_rest' if self.walks else 'in_b')}" if axes else ""
        address = self.address(store.storage, store.axes, {**env, BATCH: "program"}, axes)
        self.emit(f"tl.store({address}, {code}{mask})")

    def add_up(self, store: Store, unrolled: tuple[str, ...], axes: tuple[str, ...]) -> None:
        """Sum a result over all tiles of rows that a program walks over, and write it after the last."""
        total = Kept(self.unique(store.storage.name), unrolled, Tile("", axes))
        with self.emitting(self.before):
            self.emit(f"{total.name} = {'()' if unrolled else self.zeros(axes)}")
            if unrolled:
                count = " * ".join(self.extent(axis, {}) for axis in unrolled)
                self.emit(f"for _ in tl.static_range({count}):")
                self.emit(f"    {total.name} = {total.name} + ({self.zeros(axes)},)")
        more = self.unique("more") if unrolled else total.name
        self.collect(more, unrolled, lambda env: f"{self.read(total, env).code} + {self.stored(store, axes, env).code}")
        if unrolled:
            self.emit(f"{total.name} = {more}")
            self.taken.discard(more)
        with self.emitting(self.after), self.loops(unrolled) as env:
            self.write(store, self.read(total, env).code, axes, env)

    # Statements

    def run(self, stores: Sequence[Store]) -> None:
        """All statements of the kernel."""
        roots = [store.node for store in stores]
        order = list(ir.reachable(roots))
        self.uses = Counter(arg for node in order for arg in node.args)
        self.uses.update(roots)
        definitions = {definition.node: definition for definition in self.program.definitions}
        # A program that walks has nothing else to do while it waits: all loads of a tile come first.
        for leaf in order if self.walks else ():
            if leaf.op == "leaf" and BATCH in leaf.axes and self.is_kept(leaf):
                self.keep_leaf(leaf)
        for store in stores:
            for node in ir.reachable([store.node]):
                if node.op == "leaf" and BATCH in node.axes and self.is_kept(node):
                    self.keep_leaf(node)
                elif self.needs_variable(node, definitions) and node not in self.values:
                    definition = definitions.get(node)
                    name = definition.name if definition else NOUNS.get(node.op, node.op)
                    self.keep(node, name, definition.source if definition else "")
            self.store(store)

    def needs_variable(self, node: Node, definitions: Mapping[Node, object]) -> bool:
        if node.op in ("leaf", "constant", "extent", "position", "rename", "select") or not is_tensor(node):
            return False
        if self.is_reduction_over_unrolled(node):
            return True
        return bool(node.axes) and (node in definitions or self.uses[node] > 1)

    def is_reduction_over_unrolled(self, node: Node) -> bool:
        return node.op in (*NEUTRAL, "product_of_others") and any(self.is_unrolled(a) for a in node.over if a != BATCH)

    def keep_leaf(self, leaf: Node) -> None:
        """Load a tensor that has rows once, for every position of its unrolled axes."""
        key = self.leaf_key(leaf)
        if key in self.values:
            return
        name, indices = leaf.data
        if name in self.products:
            self.values[key], self.loaded[key] = self.keep_product(leaf), leaf
            return
        slots = self.storages[name].slots
        unrolled = tuple(slot for slot in slots if slot != BATCH and self.is_unrolled(slot))
        full = ir.leaf(name, [slot if slot in unrolled else index for slot, index in zip(slots, indices, strict=True)])
        variable = self.unique(name)
        axes = self.split(full.axes - set(unrolled))[1]
        self.collect(variable, unrolled, lambda env: self.present(name, self.load(full, env, axes), axes))
        padding = dict.fromkeys((axis for axis in axes if axis != BATCH), 0.0)
        self.values[key] = Kept(variable, unrolled, Tile("", axes, padding=padding))
        self.loaded[key] = full

    def keep_product(self, leaf: Node) -> Kept:
        """Compute a matrix product for a tile of its columns, in a loop over tiles of what is contracted."""
        name = leaf.data[0]
        node, variable = self.products[name], self.unique(name)
        unrolled, axes = self.split(leaf.axes)
        over, (inner,) = self.split(frozenset(node.over))
        target = self.unique("total") if unrolled else variable

        def product(env: dict[str, str]) -> str:
            self.emit(f"{target} = {self.zeros(axes)}")
            with self.loops(over, env) as inside:
                self.multiply_tiles(node, inner, axes, inside, target)
            return target

        self.collect(variable, unrolled, product)
        if target != variable:
            self.taken.discard(target)
        return Kept(variable, unrolled, Tile("", axes, padding=dict.fromkeys(axes[1:], 0.0)))

    def multiply_tiles(self, node: Node, inner: str, axes: Sequence[str], env: Mapping[str, str], target: str) -> None:
        """The loop over tiles of the contracted axis that adds their products to ``target``."""
        contraction = contraction_of(node, self.is_unrolled)
        assert contraction is not None
        lane, first = self.unique(inner), self.unique("start")
        condition = self.condition(lane)
        self.emit(f"for {first} in range(0, {self.extent(inner, env)}, INNER):")
        with self.indented():
            self.emit(f"{lane} = {first} + tl.arange(0, INNER)")
            self.emit(f"{condition} = {lane} < {self.extent(inner, env)}")
            self.looped[inner] = Lane(lane, "INNER")
            codes = []
            for factor, dimensions in ((contraction.operand, (BATCH, inner)), (contraction.weight, (inner, *axes[1:]))):
                codes.append(self.unique(f"{factor.data[0]}_tile"))
                self.emit(f"{codes[-1]} = {self.load(factor, env, dimensions).code}")
            self.emit(f"{target} = {target} + contract({', '.join(codes)}, ACC, PRECISION)")
            del self.looped[inner]
        self.taken.difference_update((lane, first, self.conditions.pop(lane), *codes))

    def keep(self, node: Node, name: str, source: str = "") -> None:
        """A statement, or loops, that give a node a variable."""
        variable = self.unique(name)
        unrolled = self.split(node.axes)[0]
        inner = tuple(axis for axis in node.over if axis != BATCH and self.is_unrolled(axis))
        inner = inner if self.is_reduction_over_unrolled(node) else ()
        for line in source.split("\n") if source else ():
            self.emit(f"# {line}")
        target = self.unique("total") if inner and unrolled else variable
        tiles: list[Tile] = []

        def value(env: dict[str, str]) -> str:
            tiles.append(self.reduce_unrolled(node, inner, env, target) if inner else self.as_tile(self.expression(node, env)))
            return target if inner else tiles[0].code

        self.collect(variable, unrolled, value)
        if target != variable:
            self.taken.discard(target)
        self.values[node] = Kept(variable, unrolled, tiles[0])

    def reduce_unrolled(self, node: Node, inner: Sequence[str], env: dict[str, str], target: str) -> Tile:
        """Loops that combine what a reduction gives at each position of its unrolled axes."""
        if node.op == "product_of_others":
            return self.product_of_others(node, inner, env, target)
        lanes = tuple(axis for axis in node.over if axis not in inner)
        part = ir.reduce(node.op, node.args[0], lanes) if lanes else node.args[0]
        # Compilers do not drop the addition of 0.0, which makes 0.0 of -0.0.
        starts_at_first = len(inner) == 1 and self.is_short(part)
        first = self.as_tile(self.expression(part, {**env, inner[0]: "0"})).code if starts_at_first else neutral_code(node.op)
        self.emit(f"{target} = {first}")
        with self.loops(inner, env, start="1" if starts_at_first else "") as inside:
            tile = self.as_tile(self.reduced(part, inside) if lanes else self.expression(part, inside))
            infix = {"sum": ("+", 7), "prod": ("*", 8)}.get(node.op)
            if infix:
                self.emit(f"{target} = {target} {infix[0]} {parenthesised(tile, infix[1])}")
            else:
                self.emit(f"{target} = {OPERATORS[node.op].triton}({target}, {tile.code})")
        return Tile("", tile.axes, padding=self.padding_after(node.op, [tile, tile], tile.axes) if node.op != "prod" else {})

    def is_short(self, node: Node, depth: int = 2) -> bool:
        """Whether a value is a variable, or arithmetic on few of them, that may as well be written twice."""
        if node in self.values or (node.op == "leaf" and BATCH in node.axes and self.is_kept(node)):
            return True
        if node.op == "rename":
            return self.is_short(node.args[0], depth)
        return depth > 0 and node.op in LINEAR and all(self.is_short(arg, depth - 1) for arg in node.args)

    def product_of_others(self, node: Node, inner: Sequence[str], env: dict[str, str], target: str) -> Tile:
        """For one position of the unrolled axes, the product of what all other positions hold."""
        lanes = tuple(axis for axis in node.over if axis not in inner)
        own = self.as_tile(self.expression(node.args[0], env))
        own = self.lane_others(own, lanes, env) if lanes else replace(own, code="1.0")
        self.emit(f"{target} = {own.code}")
        with self.loops(inner, env) as other:
            differs = " or ".join(f"{other[axis]} != {env[axis]}" for axis in inner)
            tile = self.as_tile(self.expression(node.args[0], other))
            if lanes:
                tile = self.as_tile(self.reduced(ir.reduce("prod", node.args[0], lanes), other)).aligned(own.axes)
            self.emit(f"if {differs}:")
            with self.indented():
                self.emit(f"{target} = {target} * {tile.atom}")
        return Tile("", own.axes)
