"""The tensors that a kernel reads: which of them it loads once, and which before its loop over tiles of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from sparank_gen.backends.triton.scope import KernelScope
from sparank_gen.backends.triton.tiles import Tile
from sparank_gen.ir import node as ir
from sparank_gen.ir.node import BATCH, FIXED, Node, Window, axis_of
from sparank_gen.ir.sizes import elements
from sparank_gen.lang.extents import Extent
from sparank_gen.lang.widths import ONE_WIDTH, owner_of


@dataclass(frozen=True)
class Kept:
    """A variable: a tile, or a tuple of tiles along unrolled axes."""

    name: str
    unrolled: tuple[str, ...]
    tile: Tile


@dataclass
class Reader(KernelScope):
    """The variables of a kernel, and how tensors become some.

    Attributes:
        values: the variables so far, by node or by what a leaf reads.
        loaded: the leaf that each variable of what a leaf reads holds.
        optional: cotangents that may be absent, with the constant that says whether they are there.
        held: the axes of each weight that is read before the loop over tiles of rows, by its variable.
    """

    values: dict[object, Kept] = field(default_factory=dict)
    loaded: dict[object, Node] = field(default_factory=dict)
    optional: Mapping[str, str] = field(default_factory=dict)
    held: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def read(self, kept: Kept, env: Mapping[str, str]) -> Tile:
        """What a variable holds at the positions ``env`` of its unrolled axes."""
        if not kept.unrolled:
            return replace(kept.tile, code=kept.name, precedence=10)
        index = env[kept.unrolled[0]]
        for axis in kept.unrolled[1:]:
            before = f"{index if index.isidentifier() or index.isdigit() else f'({index})'} * {self.extent(axis, env)}"
            terms = [before if index != "0" else "", env[axis] if env[axis] != "0" else ""]
            index = " + ".join(filter(None, terms)) or "0"
        return replace(kept.tile, code=f"{kept.name}[{index}]", precedence=10)

    def leaf_key(self, leaf: Node) -> object:
        """What a leaf reads, whatever its axes are named; of windows, axes of other extents read more or less."""
        name, indices = leaf.data
        slots = self.storages[name].slots
        return (name, tuple(
            "u" if slot != BATCH and self.is_unrolled(slot)
            else (self.lane(index.axis), self.program.extents[index.axis], index.shift) if isinstance(index, Window) and self.is_part(slot, index)
            else index if isinstance(index, FIXED) else self.lane(axis_of(index))
            for slot, index in zip(slots, indices, strict=True)
        ))

    def is_kept(self, leaf: Node) -> bool:
        """Whether a tensor is loaded once for all its uses.

        Not where unrolled tiles are pieces of one of its rows, or where what is read of one modality fits no other.
        """
        name, indices = leaf.data
        pairs = list(zip(self.storages[name].slots, indices, strict=True))
        windows = [(slot, index) for slot, index in pairs if isinstance(index, Window)]
        numbered = {slot for slot, index in pairs if isinstance(index, FIXED)}
        extents = self.program.extents
        if any(owner_of(extents[slot]) in numbered or owner_of(extents[index.axis]) not in (None, *leaf.axes) for slot, index in windows):
            return False
        return not any(self.is_unrolled(index.axis) and not self.is_unrolled(slot) for slot, index in windows)

    def is_held_row(self, leaf: Node) -> bool:
        """Whether a parameter is read before the loop over tiles of rows, and has no more numbers than a row of features."""
        if not self.walks or BATCH in leaf.axes or not self.is_kept(leaf):
            return False
        size = elements(frozenset(self.split(leaf.axes)[1]), self.program)
        return (Extent.symbol(ONE_WIDTH) - size).is_at_least_zero({})

    def held_row(self, leaf: Node, env: Mapping[str, str]) -> Tile:
        """A parameter that is read before the loop over tiles of rows, in the type in which it is stored."""
        axes = self.split(leaf.axes)[1]
        kept, read = self.held_tile(leaf, tuple((axis,) for axis in axes), env)
        return Tile(self.read(kept, read).code, axes, padding=dict.fromkeys(axes, 0.0))

    def held_tile(
        self, leaf: Node, groups: tuple[tuple[str, ...], ...], env: Mapping[str, str]
    ) -> tuple[Kept, dict[str, str]]:
        """A parameter that is read before the loop over tiles of rows, and where; each group of axes is one dimension."""
        name, indices = leaf.data
        slots = self.storages[name].slots
        extents = self.slot_extents(self.storages[name], indices)
        read = {
            slot: self.position(index, extents[slot], env)
            for slot, index in zip(slots, indices, strict=True)
            if self.is_unrolled(slot)
        }
        numbered = {slot: code for slot, code in read.items() if code.isdigit()}
        unrolled = tuple(slot for slot in read if slot not in numbered)
        slot_of = {axis_of(index): slot for slot, index in zip(slots, indices, strict=True) if not isinstance(index, FIXED)}
        key = ("held", self.leaf_key(leaf), *numbered.items(), tuple(tuple(slot_of[axis] for axis in group) for group in groups))
        if key not in self.values:
            full = ir.leaf(name, [
                slot if slot in unrolled else int(numbered[slot]) if slot in numbered else index
                for slot, index in zip(slots, indices, strict=True)
            ])
            kept = Kept(self.unique(f"{name}_tiles" if unrolled else f"{name}_tile"), unrolled, Tile("", ()))
            axes = [axis for group in groups for axis in group]
            with self.emitting(self.before):
                self.collect(kept.name, unrolled, lambda at: self.flat(self.load(full, at, axes).code, groups))
            self.values[key] = kept
        return self.values[key], read

    def flat(self, code: str, groups: Sequence[Sequence[str]]) -> str:
        """A tile with each group of its dimensions as one."""
        if all(len(group) == 1 for group in groups):
            return code
        sizes = ", ".join(" * ".join(self.size(axis) for axis in group) for group in groups)
        return f"tl.reshape({code}, ({sizes}))"

    def present(self, name: str, tile: Tile, axes: Sequence[str]) -> str:
        """A loaded tile in the accumulator's type; zero where the tensor is absent."""
        code = f"{tile.code}.to(ACC)"
        if name in self.optional:
            code = f"{code} if {self.optional[name]} else {self.zeros(axes)}"
        return code
