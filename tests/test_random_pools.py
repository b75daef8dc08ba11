"""Random sums and means over modalities of linear maps, which the compiler moves into the maps, against the evaluator.

``FUZZ_EXAMPLES`` sets how many are drawn.
"""

from __future__ import annotations

import numpy as np
import torch
from fuzzing import fuzzed
from hypothesis import given, note
from hypothesis import strategies as st

from present_helper import check_present
from sparank_gen.ir.check import check_spec
from sparank_gen.spec.load import parse_spec
from sparank_gen.trial.cases import Case
from test_random_programs import check_program

# All parameters and axes are used, whatever is drawn.
SPEC = """\
version: 1
mode: random
summary: Pooled maps.
modalities: ">=2"
axes: {{i: dim, j: dim, k: dim, u: modalities, a: 2}}
params:
  score: {{tensor: "v[m,k]", init: normal, std: 1}}
  map: {{module: Linear, weight: "W[i,j]", bias: "c[i]"}}
  other: {{module: Linear, per: m, weight: "U[m,i,j]"}}
  heads: {{tensor: "P[a,i,j]", init: normal, std: 1}}
math: |
  s[m]   = sum[k](v[m,k] * h[m,k])
  x[m,i] = tanh(h[m,i])
  r[m]   = s[m] * mean[u](s[u]) + sum[i](x[m,i]) + sum[i,j](W[i,j]) + sum[i](c[i]) + sum[i,j](U[m,i,j]) + sum[a,i,j](P[a,i,j])
  out[i] = {out}
weights: "r[b,m]"
"""
MAPS = (
    "(sum[j](W[i,j] * h[m,j]) - c[i])",
    "sum[j](W[i,j] * h[m,j])",
    "sum[j](W[i,j] * x[m,j] * s[m])",
    "sum[j](U[m,i,j] * x[m,j])",
    "sum[j](P[0,i,j] * h[m,j] * c[j])",
    "mean[a](sum[j](P[a,i,j] * x[m,j]))",
    "sum[k](W[i,k] * relu(sum[j](W[k,j] * h[m,j]) + c[k]))",
    "sum[u](softmax[u](s[u] * s[m]) * h[u,i])",
    "sum[j](W[i,j] * sum[u](tanh(s[m] * s[u]) * h[u,j]))",
)
TERMS = (*MAPS, "h[m,i]", "c[i]", "s[m]", "2")
FACTORS = ("", "s[m] * ", "softmax[m](s[m]) * ", "x[m,i] * ", "c[i] * ", "0.5 * ", "tanh(sum[k](x[m,k])) * ", "s[m] * s[m] * ")


@st.composite
def pools(draw: st.DrawFn) -> str:
    """One to two pools of one to three terms each."""
    parts = []
    for _ in range(draw(st.integers(1, 2))):
        total = draw(st.sampled_from(MAPS))
        for term in draw(st.lists(st.sampled_from(TERMS), max_size=2)):
            total = draw(st.sampled_from([f"{total} + {term}", f"{total} - {term}", f"{term} - ({total})"]))
        parts.append(f"{draw(st.sampled_from(['sum', 'mean']))}[m]({draw(st.sampled_from(FACTORS))}({total}))")
    return SPEC.format(out=" - ".join(parts))


@fuzzed(60, share=4)
@given(
    text=pools(),
    dim=st.integers(1, 3),
    n_modalities=st.integers(2, 3),
    rows=st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=3),
)
def test_random_pools(text: str, dim: int, n_modalities: int, rows: list[list[bool]]) -> None:
    torch.set_num_threads(1)
    note(text)
    check_program(text, dim, n_modalities, 3, len(rows))
    check_present(check_spec(parse_spec(text, "random.yaml")), Case(dim, n_modalities, ()), np.array(rows)[:, :n_modalities])

