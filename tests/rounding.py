"""How far the evaluator's own results go when every operation rounds a little differently.

Some programs magnify rounding: a layer normalisation of what is zero but for rounding, again and again. Two right answers
then differ by more than any fixed tolerance. How far is found by stochastic arithmetic: the program runs a few times, each
result of an operation off by about half a unit in its last place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from sparank_gen.ir import evaluate
from sparank_gen.ir.node import Node

# Views, and what chooses one of its operands: the largest of some numbers is one of them.
VIEWS = {"leaf", "constant", "extent", "position", "rename", "select", "place", "slice", "pad", "concat", "stack"}
EXACT = VIEWS | {"max", "min", "maximum", "minimum", "where", "clamp_min", "clamp_max", "relu", "abs", "neg"}
HALF_UNIT = 2.0**-53
RUNS = 8

Array = NDArray[np.float64]


def rounding_error(compute: Callable[[], Array]) -> float:
    """The largest difference between what ``compute`` gives, by the evaluator, and what it gives with other roundings.

    Infinite where some of these end in nan: then no digit is certain.
    """
    plain, random = evaluate._value, np.random.default_rng(0)

    def rounded(node: Node, *rest: Any) -> evaluate.Value:
        value = plain(node, *rest)
        if node.op in EXACT:
            return value
        return evaluate.Value(value.array * (1 + HALF_UNIT * random.standard_normal(value.array.shape)), value.axes)

    wanted = compute()
    with patch.object(evaluate, "_value", rounded):
        found = [float(np.abs(compute() - wanted).max(initial=0.0)) for _ in range(RUNS)]
    return math.inf if any(map(math.isnan, found)) else max(found)
