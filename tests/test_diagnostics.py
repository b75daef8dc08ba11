"""Entries beside the weights: what the dictionary holds, on the way through the layer and in generated tests."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from project_helper import Project
from torch import nn

from sparank_gen.ir.check import check_spec
from sparank_gen.spec.load import parse_spec
from test_random_programs import compiled

SPEC = """
version: 1
mode: diagnosed
summary: A softmax over modalities, with its logits and its entropy.
modalities: ">=2"
axes: {i: dim, j: dim}
params:
  score: {tensor: "v[m,j]", init: xavier_uniform, fan: {in: j, out: 1}}
math: |
  logit[m] = sum[j](v[m,j] * h[m,j])
  g[m]     = softmax[m](logit[m])
  s        = -sum[m](g[m] * log(max(g[m], 1e-12)))
  out[i]   = sum[m](g[m] * h[m,i])
WEIGHTS
diagnostics: {entropy: "s[b]", logits: "logit[m,b]", again: "out[b,i]", inputs: "h[b,(m i)]"}
properties:
  - s >= 0
  - sum[m](exp(logit[m] - logsumexp[m](logit[m]))) == 1
"""
WEIGHTED = SPEC.replace("WEIGHTS", 'weights: "g[b,m]"')
ALONE = SPEC.replace("WEIGHTS\n", "")


def made(source: str, *arguments: Any) -> nn.Module:
    layer: nn.Module = compiled(check_spec(parse_spec(source, "diagnosed.yaml")))[0](*arguments)
    return layer


@pytest.mark.parametrize("source", [WEIGHTED, ALONE], ids=["weights", "no weights"])
@pytest.mark.parametrize("n_modalities", [2, 3])
def test_dictionary(source: str, n_modalities: int) -> None:
    layer = made(source, 4, n_modalities)
    features = [torch.randn(5, 4) for _ in range(n_modalities)]
    out, info = layer(features, return_gates=True)
    assert list(info) == ["type", "weights", "entropy", "logits", "again", "inputs"] and info["type"] == "diagnosed"
    logits = torch.stack([x @ v for x, v in zip(features, layer.score, strict=True)])
    weights = logits.softmax(0)
    if source is WEIGHTED:
        torch.testing.assert_close(info["weights"], weights.T)
    else:
        assert info["weights"] is None
    torch.testing.assert_close(info["logits"], logits)
    torch.testing.assert_close(info["entropy"], torch.distributions.Categorical(weights.T).entropy())
    torch.testing.assert_close(info["again"], out)
    assert torch.equal(info["inputs"], torch.cat(features, 1))
    assert torch.equal(layer(features), out)


def test_entropy_alone_trains_the_gate() -> None:
    layer = made(ALONE, 4, 3)
    layer([torch.randn(5, 4) for _ in range(3)], return_gates=True)[1]["entropy"].sum().backward()
    assert layer.score.grad is not None and layer.score.grad.abs().sum() > 0


def test_blocks_of_rows_are_put_together() -> None:
    layer = made(WEIGHTED, 4, 3)
    features = [torch.randn(200, 4) for _ in range(3)]
    out, info = layer(features, return_gates=True)
    layer._block_rows = layer._block_rows_in_place = 64
    with torch.no_grad():
        again, found = layer(features, return_gates=True)
    torch.testing.assert_close(again, out)
    for key in layer.extras:
        torch.testing.assert_close(found[key], info[key])


def test_one_modality_has_none() -> None:
    x = torch.randn(2, 4)
    info = made(WEIGHTED, 4, 1)([x], return_gates=True)[1]
    assert info == {"type": "identity", **dict.fromkeys(["weights", "entropy", "logits", "again", "inputs"])}


def test_goldens_tests_and_page(project: Project) -> None:
    (project.specs / "diagnosed.yaml").write_text(WEIGHTED, encoding="utf-8")
    project.run("build")
    golden = json.loads((project.output / "tests/golden/diagnosed.json").read_text(encoding="utf-8"))["cases"][0]
    assert list(golden["diagnostics"]) == ["entropy", "logits", "again", "inputs"]
    assert len(golden["diagnostics"]["entropy"]) == golden["batch"]
    assert golden["diagnostics"]["again"] == golden["out"]
    tests = (project.output / "tests/test_diagnosed.py").read_text(encoding="utf-8")
    assert 'assert_golden(info["entropy"], golden["diagnostics"]["entropy"], dtype)' in tests
    assert 's = layer(h, return_gates=True)[1]["entropy"]' in tests
    page = (project.output / "docs/diagnosed.md").read_text(encoding="utf-8")
    assert "`entropy`, laid out as `s[b]`" in page
