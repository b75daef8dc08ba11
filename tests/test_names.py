"""Names of the spec stand beside those that the compiler makes, and neither takes the other's place."""

from __future__ import annotations

import pytest

from test_random_programs import check_program

HEAD = "version: 1\nmode: names\nsummary: A program.\n"
ELEMENTS = {
    "of features": """\
modalities: ">=2"
axes: {i: dim}
math: |
  h_m[i]  = mean[m](h[m,i])
  d[m,i]  = h[m,i] - h_m[i]
  out[i]  = sum[m](d[m,i] * d[m,i])
""",
    "of parameters": """\
modalities: ">=2"
axes: {i: dim, j: dim}
params:
  maps: {module: Linear, per: m, weight: "W[m,i,j]", bias: "c[m,i]"}
math: |
  W_m[i]  = mean[m](h[m,i])
  c_m[i]  = max[m](h[m,i])
  z[m,i]  = sum[j](W[m,i,j] * h[m,j]) * W_m[i] + c[m,i] * c_m[i]
  out[i]  = sum[m](z[m,i] * z[m,i])
""",
    "of variables": """\
modalities: ">=2"
axes: {i: dim}
math: |
  x[m,i]  = tanh(h[m,i])
  x_m[i]  = mean[m](x[m,i])
  out[i]  = sum[m]((x[m,i] - x_m[i]) ** 2 * h[m,i])
""",
    "of widths": """\
modalities: ">=2"
axes: {i: "dim[m]", o: 3}
params:
  maps: {module: Linear, per: m, weight: "W[m,o,i]"}
math: |
  z[m,o]   = sum[i](W[m,o,i] * h[m,i])
  dim_m[o] = mean[m](z[m,o])
  out[o]   = sum[m](size[i] * (z[m,o] - dim_m[o]) ** 2)
""",
    "along two axes": """\
modalities: ">=2"
axes: {i: dim, u: modalities}
math: |
  t[m,u,i] = tanh(h[m,i] + 2 * h[u,i])
  out[i]   = sum[m,u](t[m,u,i] * t[u,m,i] * h[u,i])
""",
}


@pytest.mark.parametrize("text", ELEMENTS.values(), ids=ELEMENTS)
@pytest.mark.parametrize("n_modalities", [2, 3])
def test_what_the_math_calls_like_an_element(text: str, n_modalities: int) -> None:
    check_program(HEAD + text, 4, n_modalities, 3, 3)
