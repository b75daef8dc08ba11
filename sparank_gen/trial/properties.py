"""The properties that a spec claims, checked by the evaluator before tests are made of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparank_gen.ir import node as ir
from sparank_gen.ir.evaluate import Apart, Array, Pieces, Sizes, Tensors, Value, evaluate, evaluate_apart, evaluate_at
from sparank_gen.ir.mode import Mode, Property
from sparank_gen.ir.node import BATCH
from sparank_gen.ir.views import FEATURES
from sparank_gen.lang.widths import owner_among
from sparank_gen.spec import errors

# Features are of several sizes, as they are in the generated tests.
SCALES = (1.0, 10.0)
STRICT = ("<", ">")
REMEDY = "a property holds for every input: correct it, or the math"


def require_properties(mode: Mode, found: Tensors, sizes: Sizes) -> None:
    """Raise a SpecError where a property does not hold.

    Args:
        mode: the mode.
        found: the features and parameters that it reads.
        sizes: the value of each name that extents are made of.
    """
    for scale in SCALES if mode.properties else ():
        tensors = {**found, FEATURES: _scaled(found[FEATURES], scale)}
        results = {name: _result(mode, name, tensors, sizes) for name in mode.program.outputs}
        for text, claim in zip(mode.spec.properties, mode.properties, strict=True):
            counterexample = _counterexample(mode, claim, {**tensors, **results}, sizes, is_strict=scale == SCALES[0])
            if counterexample:
                message = f"this does not hold for every input: {counterexample}"
                raise errors.FalseProperty(message, text.span(), REMEDY)


def _scaled(tensor: Array | Pieces, scale: float) -> Array | Pieces:
    return Pieces(tensor.slot, tuple(scale * array for array in tensor.arrays)) if isinstance(tensor, Pieces) else scale * tensor


def _result(mode: Mode, name: str, tensors: Tensors, sizes: Sizes) -> Array | Pieces:
    """A result as a tensor that properties read: the batch first, then the axes of its definition."""
    program, definition = mode.program, mode.program[name]
    axes, extents = (BATCH, *definition.axes), program.extents
    values = evaluate([definition.node], tensors, extents, sizes)
    owner = owner_among(definition.axes, extents)
    if owner is None:
        return evaluate_at(definition.node, axes, values, extents, sizes)
    rest = [(axis,) for axis in axes if axis != owner]
    return Pieces(axes.index(owner), tuple(evaluate_apart(definition.node, owner, rest, values, extents, sizes)))


def _counterexample(mode: Mode, claim: Property, tensors: Tensors, sizes: Sizes, is_strict: bool) -> str:
    """Where a property does not hold, and what its sides are there; empty where it does.

    Of large features a sigmoid is 1 by rounding: only where it ``is_strict``, equal sides are not one below the other.
    """
    # Both sides with all axes that either has.
    either = ir.apply("le", claim.left, claim.right)
    sides = [ir.apply("where", either, side, side) for side in (claim.left, claim.right)]
    values = evaluate(sides, tensors, mode.program.extents, sizes)
    for m, (left, right) in enumerate(zip(*(_parts(values[side]) for side in sides), strict=True)):
        holds = _holds(claim.relation, left.array, right.array)
        wrong = np.argwhere(~(holds & (left.array != right.array) if is_strict and claim.relation in STRICT else holds))
        if len(wrong):
            value, place = values[sides[0]], tuple(wrong[0])
            at = {value.owner: m} if isinstance(value, Apart) else {}
            at |= {axis: int(position) for axis, position in zip(left.axes, place, strict=True) if axis != BATCH}
            where = f" at {', '.join(f'{axis} = {position}' for axis, position in sorted(at.items()))}" if at else ""
            return f"the left side can be {left.array[place]:.6g} where the right side is {right.array[place]:.6g}{where}"
    return ""


def _parts(value: Value | Apart) -> tuple[Value, ...]:
    return value.parts if isinstance(value, Apart) else (value,)


def _holds(relation: str, left: Array, right: Array) -> NDArray[np.bool_]:
    """Where a relation holds, up to rounding, as the generated tests allow it."""
    finite = [np.abs(side[np.isfinite(side)]).max(initial=1) for side in (left, right)]
    tolerance = 256 * np.finfo(np.float64).eps * max(finite)
    with np.errstate(invalid="ignore"):
        above, below = np.asarray(left - right <= tolerance), np.asarray(right - left <= tolerance)
    return above & below if relation == "==" else above if relation in ("<=", "<") else below
