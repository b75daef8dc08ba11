"""Leaves of a program as torch code: features and stored parameters, at their indices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sparank_gen.backends.torch.emit import SHOWN
from sparank_gen.backends.torch.pieces import split_apart
from sparank_gen.backends.torch.values import Dense, Listed, Value, index_dense
from sparank_gen.backends.torch.views import MOST_PARTS
from sparank_gen.ir.node import BATCH, Node
from sparank_gen.lang.layouts import Layout
from sparank_gen.lang.widths import owner_among

if TYPE_CHECKING:
    from sparank_gen.backends.torch.lower import Lowering


def leaf(lowering: Lowering, node: Node) -> Value:
    """Features, a parameter, or (in properties) a result, at its indices."""
    name, indices = node.data
    if name == "h":
        return feature(lowering, indices)
    if name not in lowering.parameters:
        name = lowering.variables.get(name, name)
        owner = owner_among(node.axes, lowering.program.extents)
        whole = Dense(name, tuple(str(index) for index in indices if index != owner))
        return lowering.emitter.listed(name, owner, whole.axes) if owner is not None else index_dense(whole, indices)
    layout, per = lowering.parameters[name]
    name = lowering.variables[name]
    owner = owner_among(layout.axes, lowering.program.extents)
    if owner not in (None, per):
        code = name if per is None else f"torch.stack({name}, {layout.dimensions.index((per,))})"
        return split_apart(lowering, code, name, layout, str(owner), indices)
    if per is None:
        return stored(lowering, name, layout, None, indices)
    slot = layout.axes.index(per)
    rest = [index for k, index in enumerate(indices) if k != slot]
    if isinstance(indices[slot], int):
        return stored(lowering, f"{name}[{indices[slot]}]", layout, per, rest)
    element = lowering.emitter.element(f"{name}_{indices[slot]}", name)
    return Listed(indices[slot], stored(lowering, element, layout, per, rest), ((element, name),))


def stored(lowering: Lowering, code: str, layout: Layout, per: str | None, indices: Sequence[str | int]) -> Dense:
    """One stored tensor of a parameter, without the axis ``per``, at ``indices``."""
    axes = tuple(axis for axis in layout.axes if axis != per)
    return index_dense(lowering.unpacked(code, layout.without(per), axes), indices)


def feature(lowering: Lowering, indices: Sequence[str | int]) -> Value:
    """The features, one modality's or all, at the indices of batch, modality and what a row is taken apart into."""
    batch, modality, *rest = indices
    if isinstance(modality, int):
        part = _part(lowering, modality, str(batch), rest)
        if part is not None:
            return part
        return index_dense(taken_apart(lowering, f"h[{modality}]"), (batch, *rest))
    if lowering.feature_tensor is not None:
        places = {"m": modality, BATCH: batch}
        leading = [places[axis] for axis in lowering.feature_tensor.axes[:2]]
        return index_dense(lowering.feature_tensor, (*leading, *rest))
    assert isinstance(modality, str)
    element = lowering.emitter.element(f"h_{modality}", "h")
    return Listed(modality, index_dense(taken_apart(lowering, element), (batch, *rest)), ((element, "h"),))


def _part(lowering: Lowering, modality: int, batch: str, rest: Sequence[str | int]) -> Dense | None:
    """The features of one modality at one position of what a row is taken apart into, by one ``unbind`` for all positions.

    None unless each of a few is read.
    """
    positions = [(place, index) for place, index in enumerate(rest) if isinstance(index, int)]
    if len(positions) != 1 or len(rest) < 2:
        return None
    ((place, position),) = positions
    indices = [batch, *(index for index in rest if isinstance(index, str))]
    read = {
        node.data[1][2 + place]
        for node in lowering.uses
        if node.op == "leaf" and node.data[0] == "h" and node.data[1][1] == modality and len(node.axes) == len(rest)
    }
    count = lowering.program.tensors["h"].slots[1 + place].constant or 0
    if not 2 <= count <= MOST_PARTS or read != set(range(count)):
        return None
    if (modality, place) not in lowering.feature_parts:
        whole = taken_apart(lowering, f"h[{modality}]")
        names = [f"h_{modality}_{each}" for each in range(count)]
        code = f"{whole.code}.unbind({place + 1 if place + 1 < len(rest) else -1})"
        lowering.feature_parts[modality, place] = lowering.emitter.unpack(Dense("", tuple(indices)), code, names, [""] * count)
    return index_dense(lowering.feature_parts[modality, place][position], indices)


def stacked_features(lowering: Lowering, dim: int) -> Dense:
    """All modalities' features as one tensor, with a dimension for each index, that of modalities at ``dim``."""
    value = taken_apart(lowering, f"torch.stack(h{', 1' if dim else ''})")
    return Dense(value.code, (*value.axes[:dim], "m", *value.axes[dim:]))


def taken_apart(lowering: Lowering, code: str) -> Dense:
    """One modality's features with a dimension for each index."""
    apart = lowering.program.tensors["h"].slots[1:]
    if len(apart) > 1:
        sizes = ", ".join(slot.code(lowering.emitter.symbols) for slot in apart)
        code = f"{code}.unflatten(-1, ({sizes}))"
    return Dense(code, (BATCH, *(slot.code(SHOWN) for slot in apart)))
