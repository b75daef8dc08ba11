"""A small spec whose names can be any."""

from __future__ import annotations

HEAD = "version: 1\nmode: names\nsummary: A program.\n"
SPEC = """\
modalities: ">=2"
axes: {{i: dim, {inner}: dim, {axis}: {size}}}
hyperparameters: {{{size}: {{default: 3}}, {scale}: {{default: 2}}}}
params:
  maps: {{module: Linear, per: m, weight: "{weight}[m,i,{inner}]", bias: "{bias}[m,i]"}}
  up: {{module: Linear, weight: "U[{axis},i]"}}
math: |
  {gate}[m,i] = softmax[m](sum[{inner}]({weight}[m,i,{inner}] * h[m,{inner}]) + {bias}[m,i])
  {mapped}[m,{axis}] = sum[i](U[{axis},i] * h[m,i] * {gate}[m,i])
  out[{axis}] = sum[m]({mapped}[m,{axis}] * exp({size} / 8)) * {scale}
weights: "{gate}[m,b,i]"
diagnostics: {{each: "{mapped}[m,b,{axis}]"}}
"""
# Two names of each kind, the first of them before the second ones.
PLAIN = {"axis": "o", "size": "units", "weight": "W", "gate": "g", "inner": "j", "scale": "slope", "bias": "c", "mapped": "z"}


def named(mode: str = "names", **roles: str) -> str:
    """The spec, with other names in some roles."""
    return HEAD.replace("names", mode) + SPEC.format(**{**PLAIN, **roles})
