"""Widths of features that differ from modality to modality: extents that depend on a position along a modality axis.

``dim[m]`` is the width of modality ``m``, ``dim[0]`` that of the first. An axis of extent ``dim[m]`` has as many
positions as the modality at hand, so that it never stands without the axis ``m``, its owner. Where the two share a
dimension of a layout, ``(m i)``, the pieces stand one after another: ``sum(dim)`` in all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sparank_gen.lang.extents import Extent

ONE_WIDTH = "dim"
TOTAL = Extent.symbol("sum(dim)")
WIDEST = Extent.symbol("max(dim)")


def width_name(modality: str | int) -> str:
    """The name in extents of a modality's width, by the name of an axis or by number."""
    return f"dim[{modality}]"


def start_name(modality: str | int) -> str:
    """The name in extents of the sum of the widths before a modality."""
    return f"start[{modality}]"


def width_of(modality: str | int) -> Extent:
    """The width of a modality, by the name of an axis or by number."""
    return Extent.symbol(width_name(modality))


def modality_in(name: str) -> str | None:
    """The axis or the number of the modality whose width the name of an extent stands for, or None."""
    return name[4:-1] if name.startswith("dim[") else None


def owner_of(extent: Extent) -> str | None:
    """The axis that an extent depends on, or None. It depends on one at most."""
    modalities = (modality_in(name) for name in sorted(extent.symbols))
    return next((modality for modality in modalities if modality is not None and not modality.isdecimal()), None)


def owners(axes: Iterable[str], extents: Mapping[str, Extent]) -> dict[str, str]:
    """Those of ``axes`` whose extent depends on another axis, and that axis."""
    found = {axis: owner_of(extents[axis]) for axis in sorted(axes)}
    return {axis: owner for axis, owner in found.items() if owner is not None}


def owner_among(axes: Iterable[str], extents: Mapping[str, Extent]) -> str | None:
    """The axis that the extents of some of ``axes`` depend on, or None."""
    return next(iter(owners(axes, extents).values()), None)


def has_widths(extents: Iterable[Extent]) -> bool:
    """Whether any of the extents is made of the widths of single modalities."""
    names = {name for extent in extents for name in extent.symbols}
    return bool(names & {*TOTAL.symbols, *WIDEST.symbols}) or any(modality_in(name) is not None for name in names)


def read_at(extent: Extent, moves: Mapping[str, object]) -> Extent:
    """``extent`` where axes that it depends on are read as other axes, or at a position."""
    owner = owner_of(extent)
    moved = moves.get(owner, owner) if owner is not None else None
    return extent if owner is None or moved == owner else extent.substitute(width_name(owner), width_of(str(moved)))


def widest(extent: Extent) -> Extent:
    """The most that an extent is for any modality."""
    for name in sorted(extent.symbols):
        extent = extent.substitute(name, WIDEST) if modality_in(name) is not None else extent
    return extent


def size_of(axes: Iterable[str], extents: Mapping[str, Extent]) -> Extent:
    """The number of positions along axes together; an owner among them stands before those that depend on it.

    Raises:
        ValueError: where two extents that depend on a modality meet, which no sum of widths counts.
    """
    size = Extent.number(1)
    for axis in sorted(axes, key=lambda axis: owner_of(extents[axis]) is None):
        size = total_over(size, axis) if owner_of(size) == axis else size * extents[axis]
    return size


def total_over(extent: Extent, owner: str) -> Extent:
    """The sum of an extent that depends on ``owner`` over all modalities."""
    return _weighed(extent, owner, TOTAL, Extent.symbol("modalities"))


def before(extent: Extent, owner: str) -> Extent:
    """The sum of an extent that depends on ``owner`` over the modalities before: ``start[m]`` is that of the widths."""
    return _weighed(extent, owner, Extent.symbol(start_name(owner)), Extent.symbol(owner))


def _weighed(extent: Extent, owner: str, widths: Extent, count: Extent) -> Extent:
    """A polynomial of first degree in a width, with ``widths`` for it, and ``count`` for each that has none."""
    name, total = width_name(owner), Extent.number(0)
    for monomial, coefficient in extent.terms:
        power = dict(monomial).get(name, 0)
        if power not in (0, 1):
            raise ValueError(f"{extent} is not of first degree in {name}")
        rest = Extent(((tuple(pair for pair in monomial if pair[0] != name), coefficient),))
        total = total + rest * (widths if power else count)
    return total


def sizes_of(widths: Iterable[int]) -> dict[str, int]:
    """The values of the names that extents of these widths are made of."""
    found = tuple(widths)
    return {width_name(m): width for m, width in enumerate(found)} | {"sum(dim)": sum(found), "max(dim)": max(found)}
