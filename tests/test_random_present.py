"""Random programs with missing modalities, on torch and by the evaluator; ``FUZZ_EXAMPLES`` sets how many are drawn."""

from __future__ import annotations

import numpy as np
import torch
from fuzzing import fuzzed
from hypothesis import given, note
from hypothesis import strategies as st

from present_helper import check_present
from random_specs import random_specs
from sparank_gen.ir.check import check_spec
from sparank_gen.ir.restrict import numbered
from sparank_gen.spec.load import parse_spec
from sparank_gen.trial.cases import Case


@fuzzed(150, share=4)
@given(
    text=random_specs(may_number=False),
    dim=st.integers(1, 4),
    n_modalities=st.integers(2, 3),
    hidden=st.integers(1, 3),
    rows=st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=3),
)
def test_random_programs(text: str, dim: int, n_modalities: int, hidden: int, rows: list[list[bool]]) -> None:
    torch.set_num_threads(1)
    note(text)
    mode = check_spec(parse_spec(text, "random.yaml"))
    assert numbered(mode.program) is None
    options = (("hidden", hidden),) if mode.spec.hyperparameters else ()
    dim = 2 * dim if mode.divisions else dim
    case = Case(dim, mode.spec.modalities.exact or n_modalities, options)
    check_present(mode, case, np.array(rows)[:, : case.n_modalities])
