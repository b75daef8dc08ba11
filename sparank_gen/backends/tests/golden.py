"""Golden outputs: computed by the reference evaluator, kept as small readable JSON."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparank_gen.ir.check import PRESENT
from sparank_gen.ir.evaluate import evaluate, evaluate_in
from sparank_gen.ir.mode import Mode
from sparank_gen.ir.restrict import numbered, restrict, select_features
from sparank_gen.ir.views import FEATURES, result_node
from sparank_gen.lang.layouts import Layout
from sparank_gen.trial.cases import BATCH, Case, cases, present_rule, tensors
from sparank_gen.trial.finite import require_finite, require_start
from sparank_gen.trial.properties import require_properties

DIGITS = 12
TOLERANCE = 1e-10


def golden_text(mode: Mode) -> str:
    """The golden file of a mode.

    Raises:
        SpecError: where a result, or a gradient, is infinite or not a number, or a property does not hold.
    """
    lists = {"cases": [golden_case(mode, case) for case in cases(mode)]}
    if numbered(mode.program) is None:
        last = cases(mode)[-1]
        lists["missing"] = [golden_case(mode, last, present_rule(last.n_modalities))]
    parts = [f'  "{key}": [\n' + ",\n".join(map(_case_text, entries)) + "\n  ]" for key, entries in lists.items()]
    return "{\n" + ",\n".join([f'  "mode": "{mode.name}"', *parts]) + "\n}\n"


def golden_case(mode: Mode, case: Case, present: NDArray[np.bool_] | None = None) -> dict[str, Any]:
    """Sizes, output, weights and diagnostics of one case; where modalities are missing, which samples have which."""
    dim = list(case.dim) if isinstance(case.dim, tuple) else case.dim
    entry: dict[str, Any] = {"dim": dim, "n_modalities": case.n_modalities, "batch": BATCH, "options": dict(case.options)}
    found = dict(tensors(mode, case))
    if present is not None:
        entry["present"] = present.tolist()
        found[PRESENT] = present.T
    sizes = case.sizes(BATCH)
    require_finite(mode, mode.program if present is None else restrict(mode.program), found, sizes, present is not None)
    if present is None:
        require_start(mode, found, sizes)
        require_properties(mode, found, sizes)
    values = {result.key: laid_out(mode, result.layout, found, sizes, present is not None) for result in mode.results}
    diagnostics = {result.key: values.pop(result.key) for result in mode.diagnostics}
    return entry | values | ({"diagnostics": diagnostics} if diagnostics else {})


def laid_out(
    mode: Mode, layout: Layout, found: Any, sizes: dict[str, int | float], among_present: bool = False
) -> NDArray[np.float64]:
    """A result of a mode as its layout says, from the evaluator; ``among_present``, of the restricted program."""
    program = restrict(mode.program) if among_present else mode.program
    node = result_node(program, layout)
    if among_present and layout.name == FEATURES:
        node = select_features(node)
    values = evaluate([node], found, program.extents, sizes)
    return evaluate_in(node, layout.dimensions, values, program.extents, sizes)


def _case_text(entry: dict[str, Any]) -> str:
    return "    " + _mapping_text(entry, 4)


def _mapping_text(entry: dict[str, Any], indent: int) -> str:
    """A mapping with each key on a line of its own, down to arrays and plain values."""
    lines = []
    for key, value in entry.items():
        if isinstance(value, np.ndarray):
            text = _array_text(value, indent + 4)
        else:
            text = _mapping_text(value, indent + 2) if key == "diagnostics" else json.dumps(value)
        lines.append(f'{" " * (indent + 2)}"{key}": {text}')
    return "{\n" + ",\n".join(lines) + "\n" + " " * indent + "}"


def _array_text(array: NDArray[np.float64], indent: int) -> str:
    """Nested lists with the last dimension on one line."""
    margin = " " * indent
    if array.ndim == 1:
        return "[" + ", ".join(_number(value) for value in array) + "]"
    rows = [_array_text(row, indent + 2) for row in array]
    return "[\n" + ",\n".join(margin + row for row in rows) + "\n" + margin[:-2] + "]"


def _number(value: float) -> str:
    return repr(float(f"{value:.{DIGITS}g}"))


def largest_move(old: str, new: str) -> float | None:
    """How far golden numbers moved between two files; None where their sizes or cases differ."""
    try:
        before, after = json.loads(old), json.loads(new)
    except json.JSONDecodeError:
        return None
    return _distance(before, after)


def _distance(before: Any, after: Any) -> float | None:
    if isinstance(before, bool) or isinstance(after, bool) or type(before) is not type(after):
        numbers = isinstance(before, (int, float)) and isinstance(after, (int, float))
        return _difference(before, after) if numbers else None
    if isinstance(before, float):
        return _difference(before, after)
    if isinstance(before, dict):
        if before.keys() != after.keys():
            return None
        return _largest([_distance(before[key], after[key]) for key in before])
    if isinstance(before, list):
        if len(before) != len(after):
            return None
        return _largest([_distance(a, b) for a, b in zip(before, after, strict=True)])
    return 0.0 if before == after else None


def _difference(before: float, after: float) -> float:
    """How far one number moved, relative to it where it is above 1: NaN is equal to NaN, and infinitely far from any other."""
    if before == after or (math.isnan(before) and math.isnan(after)):
        return 0.0
    if not (math.isfinite(before) and math.isfinite(after)):
        return math.inf
    return abs(before - after) / max(1.0, abs(before), abs(after))


def _largest(distances: list[float | None]) -> float | None:
    known = [distance for distance in distances if distance is not None]
    return max(known, default=0.0) if len(known) == len(distances) else None
