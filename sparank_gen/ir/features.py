"""The features in a spec: how wide they are, and how they lie in memory."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence

from sparank_gen.ir.node import BATCH
from sparank_gen.ir.views import FEATURES
from sparank_gen.lang.extents import Extent
from sparank_gen.lang.layouts import Layout, parse_layout
from sparank_gen.lang.widths import ONE_WIDTH, has_widths, owner_of, read_at, width_name, width_of
from sparank_gen.spec import errors
from sparank_gen.spec.model import FusionSpec
from sparank_gen.spec.source import Text


def widths_by_name(extents: Mapping[str, Extent], least_modalities: int) -> dict[str, Extent]:
    """The width of each modality that may be named: by an axis over modalities, or by number."""
    axes = [axis for axis, extent in extents.items() if extent == extents["m"]]
    return {str(name): width_of(name) for name in (*axes, *range(least_modalities))}


def require_one_way(extents: Mapping[str, Extent], text: Text) -> None:
    """Raise where extents speak of one width for all modalities, and of that of a single one; ``text`` is the last."""
    has_one = any(ONE_WIDTH in extent.symbols for extent in extents.values())
    if has_one and has_widths(extents.values()):
        raise errors.ExtentMismatch(
            "'dim' is the one width of all modalities, and 'dim[…]' that of a single one",
            text.span(),
            "write one of the two in all extents: 'dim[0]', say, where modalities differ",
        )


def require_first_degree(extent: Extent, text: Text) -> None:
    """Raise where an extent is no multiple of a modality's width and a number, of which there is a sum over modalities."""
    owner = owner_of(extent)
    if owner is not None and any(dict(monomial).get(width_name(owner), 0) not in (0, 1) for monomial, _ in extent.terms):
        message = f"{extent} is neither a multiple of dim[{owner}] nor one and a number, and no sum of widths counts it"
        raise errors.ExtentMismatch(message, text.span(), f"write something like 'dim[{owner}] // 2' or 'dim[{owner}] + 1'")


def feature_layout(spec: FusionSpec, extents: Mapping[str, Extent], taken: Collection[str]) -> tuple[Layout, dict[str, Extent]]:
    """How the features lie in memory, a tensor ``(batch, dim)`` for each modality; and an axis that they need beside others.

    Args:
        spec: the spec.
        extents: the extent of each axis.
        taken: names that are in use.
    """
    width = width_of("m") if has_widths(extents.values()) else Extent.symbol(ONE_WIDTH)
    if spec.features is not None:
        layout = parse_layout(spec.features, {axis: str(extent) for axis, extent in extents.items()})
        _check_apart(layout, width, extents)
        return layout, {}
    hidden: dict[str, Extent] = {}
    axis = next((a for a, e in extents.items() if e == width), None)
    if axis is None:
        # Windows and positions read features along an axis that has no name in the spec.
        axis = next(name for name in itertools.chain("fxyzdn", (f"x{k}" for k in itertools.count())) if name not in taken)
        hidden = {axis: width}
    return Layout(FEATURES, (("m",), (BATCH,), (axis,)), Text("", spec.path, ((0, 1, 1),), ()), ()), hidden


def _check_apart(layout: Layout, width: Extent, extents: Mapping[str, Extent]) -> None:
    """Raise unless a layout takes apart the features of each modality, and nothing else."""
    first, *rest = layout.dimensions
    is_split = layout.name == FEATURES and len(rest) == 2 and rest[0] == (BATCH,) and len(first) == 1
    if not is_split or extents[first[0]] != extents["m"]:
        raise errors.LayoutMismatch(
            f"the features are one tensor (b, dim) for each modality, and not {layout}",
            layout.text.span(),
            "write 'h[m, b, (s i)]', where s and i take dim apart",
        )
    total = Extent.number(1)
    for axis in rest[1]:
        total = total * extents[axis]
    own = read_at(width, {"m": first[0]})
    if total != own:
        raise errors.ExtentMismatch(
            f"the last dimension of {layout} has extent {total}, and the features have {own}",
            layout.span_of(rest[1][0]),
            f"give the axes extents whose product is {own}, such as 2 and {own} // 2",
        )


def require_covered(layout: Layout, slots: Sequence[Extent], extents: Mapping[str, Extent]) -> None:
    """Raise unless a layout of the features has an axis for each of their slots."""
    found = [extents[axis] for axis in layout.axes if axis != BATCH]
    modality = next((axis for axis in layout.axes if extents[axis] == extents["m"]), "m")
    for extent in (read_at(slot, {"m": modality}) for slot in slots):
        if extent not in found:
            raise errors.LayoutMismatch(
                f"{layout} does not cover the features: an axis of extent {extent} missing",
                layout.text.span(),
                f"write an axis for each of {', '.join(map(str, slots))}",
            )
        found.remove(extent)
