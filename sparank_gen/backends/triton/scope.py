"""The names, axes and memory of one kernel: what statements and expressions are printed with."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from sparank_gen.backends.triton.tiles import Tile, expansion
from sparank_gen.ir.node import BATCH, FIXED, Index, Node, Program, Window
from sparank_gen.lang import widths
from sparank_gen.lang.extents import Extent
from sparank_gen.lang.widths import before, has_widths, owner_of, start_name, total_over, widest, width_name
from sparank_gen.plan.pieces import is_unrolled

# The constant of kernels that divides the distance of rows of features.
ALIGN = "ALIGN"
TILE_FUNCTIONS = tuple(
    """
    add multiply maximum minimum contract exponential reciprocal square integer_power power interpolate sigmoid tanh gelu silu softplus
    finite product_of_others middle_sum
    """.split()
)
RESERVED = frozenset(
    """
    _ tl triton torch math F Any Tensor dot range float int tuple dims starts B M b in_b rest in_rest batch ROWS INNER STAGES ALIGN ACC PRECISION HAS_EXTRAS program programs columns tile
    forward backward fuse launch acc precision multiplied_in row_tiles column_tiles walking_tiles shaped unit_stride None True False and or not if else for in is
    """.split()
) | frozenset(TILE_FUNCTIONS)


@dataclass(frozen=True)
class Storage:
    """How a tensor lies in memory.

    Attributes:
        name: its name in the math.
        slots: for each index of its leaves, the axis that gives its extent.
        order: the positions of the slots in memory order, without ``listed``; row-major.
        listed: the slot along which it is a tuple of tensors, or None.
        strided: whether the rows have a stride of their own.
        count: how many entries its batch dimension has.
    """

    name: str
    slots: tuple[str, ...]
    order: tuple[int, ...]
    listed: int | None = None
    strided: bool = False
    count: str = "batch"


class Lane(NamedTuple):
    """A variable that counts along an extent, and how many positions its tile has."""

    variable: str
    size: str


@dataclass
class KernelScope:
    """What one kernel knows of its surroundings.

    Attributes:
        program: an expanded program.
        storages: the tensors that its leaves read.
        symbols: how the names in extents are written in the kernel.
        columns: the extent along which a program owns a tile, where it owns no whole rows.
        lines: the statements so far.
        depth: how deep they are indented.
        taken: the names in use.
        lanes: what counts along each extent; along that of the widest modality, where widths differ.
        looped: what counts along each axis inside a loop over tiles of it.
        counters: the variables of loops over the positions of each unrolled axis, the outermost first.
        used: the tensors that are read or written.
        pointers: the arguments that point to these or say how their rows lie, by what they are like.
        conditions: the variable of the condition that each lane lies inside its extent.
        bounds: the variable of the condition that a lane lies inside the width of a modality that has a number.
        masks: the variable of each condition on several dimensions, and the statements that set them.
        walks: whether a program walks over tiles of rows, and loads weights once for all of them.
        before, after: the statements before and after that loop.
    """

    program: Program
    storages: Mapping[str, Storage]
    symbols: Mapping[str, str]
    columns: Extent | None = None
    lines: list[str] = field(default_factory=list)
    depth: int = 0
    taken: set[str] = field(default_factory=lambda: set(RESERVED))
    lanes: dict[Extent, Lane] = field(default_factory=dict)
    looped: dict[str, Lane] = field(default_factory=dict)
    counters: dict[str, list[str]] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    pointers: dict[str, str] = field(default_factory=dict)
    conditions: dict[str, str] = field(default_factory=dict)
    bounds: dict[Extent, str] = field(default_factory=dict)
    masks: dict[tuple[str, ...], str] = field(default_factory=dict)
    mask_lines: list[str] = field(default_factory=list)
    walks: bool = False
    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.taken.update(self.symbols.values())
        for axis in self.program.extents:
            if self.is_unrolled(axis):
                self.counters[axis] = [self.unique(axis)]
            elif axis != BATCH:
                self.lane(axis)

    # Names, axes and lines

    def unique(self, name: str) -> str:
        candidate, count = name, 1
        while candidate in self.taken:
            count += 1
            candidate = f"{name}_{count}"
        self.taken.add(candidate)
        return candidate

    def emit(self, line: str) -> None:
        self.lines.append("    " * self.depth + line)

    @contextmanager
    def emitting(self, lines: list[str]) -> Iterator[None]:
        """Inside, statements are added to ``lines``."""
        own, self.lines = self.lines, lines
        depth, self.depth = self.depth, 0
        yield
        self.lines, self.depth = own, depth

    @contextmanager
    def loops(
        self, axes: Sequence[str], outside: Mapping[str, str] | None = None, start: str = ""
    ) -> Iterator[dict[str, str]]:
        """Loops over the positions of unrolled axes, and what stands for these, and for those ``outside``, inside."""
        depth, env = self.depth, dict(outside or {})
        for axis in axes:
            env[axis] = self.counter(axis, env)
            self.emit(f"for {env[axis]} in tl.static_range({start and f'{start}, '}{self.extent(axis, env)}):")
            self.depth += 1
        yield env
        self.depth = depth

    def counter(self, axis: str, env: Mapping[str, str]) -> str:
        """The variable of a loop over an unrolled axis inside loops with the variables ``env``."""
        own = self.counters[axis]
        if all(name in env.values() for name in own):
            own.append(self.unique(f"{axis}_other"))
        return next(name for name in own if name not in env.values())

    def collect(self, variable: str, unrolled: tuple[str, ...], element: Callable[[dict[str, str]], str]) -> None:
        """Set a variable, or for unrolled axes a tuple of what ``element`` gives at each of their positions.

        It may print statements before, and set the variable itself, which it then gives.
        """
        if not unrolled:
            code = element({})
            if code != variable:
                self.emit(f"{variable} = {code}")
            return
        self.emit(f"{variable} = ()")
        with self.loops(unrolled) as env:
            self.emit(f"{variable} = {variable} + ({element(env)},)")

    @contextmanager
    def indented(self) -> Iterator[None]:
        self.depth += 1
        yield
        self.depth -= 1

    def is_unrolled(self, axis: str) -> bool:
        return is_unrolled(self.program, axis)

    def split(self, axes: Sequence[str] | frozenset[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Axes in canonical order: the unrolled ones, and those of the tile with the batch first."""
        order = [axis for axis in self.program.extents if axis in axes]
        unrolled = tuple(axis for axis in order if axis != BATCH and self.is_unrolled(axis))
        rest = [axis for axis in order if axis not in unrolled and axis != BATCH]
        return unrolled, ((BATCH,) if BATCH in axes else ()) + tuple(rest)

    def extent(self, axis: str, env: Mapping[str, str]) -> str:
        return "batch" if axis == BATCH else self.number_code(self.program.extents[axis], env)

    def number_code(self, extent: Extent, env: Mapping[str, str]) -> str:
        """An extent as code, at positions of unrolled axes."""
        if not has_widths([extent]) and extent.symbols <= self.symbols.keys():
            return extent.code(self.symbols)
        at = {axis: env.get(axis, self.counters[axis][0]) for axis in self.program.modality_axes}
        own = {width_name(axis): f"dims[{position}]" for axis, position in at.items()}
        own |= {start_name(axis): f"starts[{position}]" for axis, position in at.items()}
        own |= at
        return extent.code({**self.symbols, **own, "sum(dim)": "starts[M]"})

    def lane(self, axis: str) -> str:
        """The variable that counts along an axis; axes of one extent share it."""
        return self.lane_of(axis).variable

    def size(self, axis: str) -> str:
        """The padded size of a dimension of a tile."""
        return self.lane_of(axis).size

    def lane_of(self, axis: str) -> Lane:
        """What counts along an axis."""
        if axis == BATCH:
            return Lane("b", "ROWS")
        if axis in self.looped:
            return self.looped[axis]
        extent = widest(self.program.extents[axis])
        if extent not in self.lanes:
            self.lanes[extent] = Lane(self.unique(axis), self.unique(f"{axis.upper()}_LANES"))
        return self.lanes[extent]

    def condition(self, lane: str) -> str:
        """The variable of the condition that a lane lies inside its extent."""
        if lane not in self.conditions:
            self.conditions[lane] = self.unique(f"in_{lane}")
        return self.conditions[lane]

    def pointer(self, name: str, suffix: str) -> str:
        """The argument that is called by a tensor and a suffix that says what it is."""
        if name + suffix not in self.pointers:
            self.pointers[name + suffix] = self.unique(name + suffix)
        return self.pointers[name + suffix]

    def bound(self, axis: str, extent: Extent, rows: str) -> str | None:
        """The variable of the condition that a lane lies inside the extent of an axis; None where each modality has its own."""
        if axis == BATCH:
            return rows
        if axis in self.looped or not has_widths([extent]):
            return self.condition(self.lane(axis))
        if owner_of(extent) is not None:
            return None
        if extent not in self.bounds:
            first = next(axis for axis, other in self.program.extents.items() if other == extent)
            self.bounds[extent] = self.unique(f"in_{first}")
        return self.bounds[extent]

    def inside(self, axis: str, within: Sequence[str], env: Mapping[str, str], extent: Extent, rows: str) -> str:
        """The condition that a lane of a tile of ``within`` lies inside the extent of one axis."""
        variable, shape = self.bound(axis, extent, rows), expansion((axis,), within)
        return f"{variable}{shape}" if variable else f"({self.lane(axis)}{shape} < {self.number_code(extent, env)})"

    def mask(
        self,
        axes: Sequence[str],
        within: Sequence[str],
        env: Mapping[str, str],
        read: Mapping[str, Extent] | None = None,
        rows: str = "in_b",
    ) -> str:
        """The condition that a lane of a tile of ``within`` lies inside the extents of ``axes``.

        Args:
            axes: the axes that are checked.
            within: the dimensions of the tile.
            env: the positions of unrolled axes.
            read: the extents of those that a tensor in memory has, where its own dimensions have other names.
            rows: the variable of the condition that a row lies inside the batch.
        """
        extents = {**self.program.extents, **(read or {})}
        code = " & ".join(self.inside(axis, within, env, extents[axis], rows) for axis in axes)
        key = tuple(bound[3:] for axis in axes if (bound := self.bound(axis, extents[axis], rows)) is not None)
        if len(axes) < 2 or tuple(axes) != tuple(within) or self.looped or len(key) < len(axes):
            return code
        if key not in self.masks:
            self.masks[key] = self.unique(f"in_{'_'.join(key)}")
            self.mask_lines.append(f"{self.masks[key]} = {code}")
        return self.masks[key]

    # Reading and writing memory

    def fixed(self, position: int | Extent, env: Mapping[str, str]) -> str:
        """A position as code."""
        if isinstance(position, int):
            return str(position)
        code = self.number_code(position, env)
        return code if is_atom(code) else f"({code})"

    def shifted(self, code: str, shift: Extent, env: Mapping[str, str]) -> str:
        """A position and a shift, added."""
        back = Extent.number(0) - shift
        if not shift.terms:
            return code
        return f"({code} - {self.fixed(back, env)})" if back.is_at_least_zero({}) else f"({code} + {self.fixed(shift, env)})"

    def is_part(self, slot: str, window: Window) -> bool:
        """Whether a window sees anything but the whole of a dimension."""
        return bool(window.shift.terms) or self.program.extents[slot] != self.program.extents[window.axis]

    def slot_extents(self, storage: Storage, indices: Sequence[Index]) -> dict[str, Extent]:
        """The extents of a tensor's dimensions; those that depend on another dimension, where that one is read."""
        moves = {slot: index for slot, index in zip(storage.slots, indices, strict=True) if isinstance(index, (str, int))}
        return {slot: widths.read_at(self.program.extents[slot], moves) for slot in storage.slots}

    def reaches_out(self, extent: Extent, window: Window) -> tuple[bool, bool]:
        """Whether a window may reach below the first and beyond the last position of a dimension of this extent."""
        left = extent - self.program.extents[window.axis] - window.shift
        return not window.shift.is_at_least_zero({}), not left.is_at_least_zero({})

    def position(self, index: Index, extent: Extent, env: Mapping[str, str]) -> str:
        """One position of a dimension; where a window may reach outside it, what is read there is not used."""
        if isinstance(index, Window):
            code = self.shifted(env[index.axis], index.shift, env)
            return f"{code} % {self.fixed(extent, env)}" if any(self.reaches_out(extent, index)) else code
        return self.fixed(index, env) if isinstance(index, FIXED) else env[index]

    def address(self, storage: Storage, indices: Sequence[Index], env: Mapping[str, str], axes: Sequence[str]) -> str:
        """The pointers to an element, or to a tile with dimensions ``axes``."""
        self.used.add(storage.name)
        extents = self.slot_extents(storage, indices)
        # What depends on a slot depends on what that is read at.
        modalities = self.program.modality_axes
        own = {s: self.position(i, extents[s], env) for s, i in zip(storage.slots, indices, strict=True) if s in modalities}
        own = {**env, **own}
        if storage.listed is not None:
            listed = self.position(indices[storage.listed], extents[storage.slots[storage.listed]], env)
        terms = [self.pointer(storage.name, "_ptr") if storage.listed is None else f"{self.pointer(storage.name, '_ptrs')}[{listed}]"]
        stride = Extent.number(1)
        for slot in reversed(storage.order):
            index, axis = indices[slot], storage.slots[slot]
            if owner_of(stride) == axis:
                terms.append(self.fixed(before(stride, axis), own))
                stride = total_over(stride, axis)
                continue
            name = index.axis if isinstance(index, Window) else index
            if isinstance(name, str) and name in axes:
                code = self.lane(name) + expansion((name,), axes)
                code = self.shifted(code, index.shift, env) if isinstance(index, Window) else code
            else:
                code = self.position(index, extents[axis], env)
                code = f"({code})" if "%" in code else code
            by = self.number_code(stride, own)
            if storage.strided and axis == BATCH:
                assert storage.listed is not None
                # A multiple of what is known when a kernel is compiled, so that wide loads are known to be aligned.
                by = f"{self.pointer(storage.name, '_rows')}[{listed}] * {ALIGN}"
            if code != "0":
                is_product = not any(sign in by for sign in ("//", " + ", " - "))
                terms.append(code if by == "1" else f"{code} * {by if is_product else f'({by})'}")
            stride = stride * (Extent.symbol(storage.count) if axis == BATCH else self.program.extents[axis])
        return " + ".join([terms[0], *reversed(terms[1:])])

    def load(self, leaf: Node, env: Mapping[str, str], axes: Sequence[str] | None = None) -> Tile:
        """A leaf read from memory, its padding zero."""
        name, indices = leaf.data
        if axes is None:
            axes = self.split(leaf.axes)[1]
        address = self.address(self.storages[name], indices, env, axes)
        padding = dict.fromkeys((axis for axis in axes if axis != BATCH), 0.0)
        extents = self.slot_extents(self.storages[name], indices)
        read = {index: extents[slot] for slot, index in zip(extents, indices, strict=True) if isinstance(index, str)}
        conditions = [self.mask(axes, axes, env, read)] if axes else []
        for slot, index in zip(self.storages[name].slots, indices, strict=True):
            if isinstance(index, Window) and index.axis in axes:
                place = self.shifted(self.lane(index.axis) + expansion((index.axis,), axes), index.shift, env)
                below, beyond = self.reaches_out(extents[slot], index)
                conditions += [f"({place} >= 0)"] if below else []
                conditions += [f"({place} < {self.number_code(extents[slot], env)})"] if beyond else []
        mask = f", mask={' & '.join(conditions)}, other=0.0" if conditions else ""
        return Tile(f"tl.load({address}{mask})", tuple(axes), padding=padding)

    def broadcast(self, tile: Tile, axes: Sequence[str]) -> str:
        """Code for a tile with all of ``axes`` at full size."""
        sizes = ", ".join(self.size(axis) for axis in axes)
        return f"tl.broadcast_to({tile.aligned(axes).code if tile.axes else tile.code}, ({sizes}{',' if len(axes) == 1 else ''}))"

    def zeros(self, axes: Sequence[str]) -> str:
        """Code for a tile of zeros."""
        sizes = ", ".join(map(self.size, axes))
        return f"tl.zeros(({sizes}{',' if len(axes) == 1 else ''}), ACC)"

    def restored(self, tile: Tile, axes: Sequence[str], value: float, env: Mapping[str, str]) -> Tile:
        """``tile`` with ``value`` in the padding of ``axes``."""
        wrong = [axis for axis in axes if tile.padding.get(axis) != value]
        if not wrong:
            return tile
        code = f"tl.where({self.mask(wrong, tile.axes, env)}, {tile.code}, {infinite(value)})"
        return Tile(code, tile.axes, padding={axis: value for axis in tile.axes if axis in axes})


def is_atom(code: str) -> bool:
    """Whether code is a name, a number, or an element of something with a name."""
    return re.fullmatch(r"\w+(\[\w+\])?", code) is not None


def infinite(value: float) -> str:
    return repr(value) if np.isfinite(value) else f'float("{value}")'
