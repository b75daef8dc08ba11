"""Contractions of several factors: pair by pair, in an order in which no result is larger than it has to be."""

from __future__ import annotations

import pytest

from sparank_gen.ir import node as ir
from sparank_gen.ir.check import check_spec
from sparank_gen.ir.pairs import contract_in_pairs
from sparank_gen.ir.parts import factors_of
from sparank_gen.ir.sizes import elements, usual_sizes
from sparank_gen.spec.load import parse_spec
from test_random_programs import check_program

HEAD = """\
version: 1
mode: pairs
summary: s
modalities: "3"
axes: {r: hidden, s: hidden, o: dim, j: dim, k: dim, l: dim}
hyperparameters: {hidden: {default: 8}}
params:
  first: {tensor: "A[r,j]", init: normal, std: 1}
  second: {tensor: "C[r,k,s]", init: normal, std: 1}
  third: {tensor: "D[s,l,o]", init: normal, std: 1}
math: |
"""
TRAIN = "out[o] = sum[j,k,l,r,s](A[r,j] * h[0,j] * C[r,k,s] * h[1,k] * D[s,l,o] * h[2,l])"
SHUFFLED = "out[o] = sum[j,k,l,r,s](D[s,l,o] * A[r,j] * C[r,k,s] * (h[1,k] * (h[0,j] * h[2,l])))"
NAMED = "x[r,s] = sum[k](C[r,k,s] * h[1,k])\nout[o] = sum[j,l,r,s](x[r,s] * A[r,j] * h[0,j] * D[s,l,o] * h[2,l])"


@pytest.mark.parametrize("math", [TRAIN, SHUFFLED, NAMED])
def test_no_product_is_larger_than_it_has_to_be(math: str) -> None:
    text = HEAD + "".join(f"  {line}\n" for line in math.split("\n"))
    mode = check_spec(parse_spec(text, "pairs.yaml"))
    sizes = usual_sizes(3, mode.spec.hyperparameters)
    found = contract_in_pairs(mode.program, sizes)
    products = [node.args[0] for node in ir.reachable(d.node for d in found.definitions) if node.op == "sum"]
    with_rows = [product for product in products if len(factors_of(product)) == 2]
    assert max(elements(product.axes, found).number_for(sizes) for product in with_rows) <= 8 * 8 * 128 * 128
    assert max(len(factors_of(product)) for product in products) <= 3
    check_program(text, 4, 3, 2, 3)


def test_forms_in_two_vectors_stay() -> None:
    """They are one matrix product of the vectors' products."""
    form = "out[o] = sum[s,l](D[s,l,o] * h[1,l] * sum[j](A[s,j] * h[0,j])) + sum[r,k,s](C[r,k,s]) * h[2,o]"
    mode = check_spec(parse_spec(f"{HEAD}  {form}\n", "pairs.yaml"))
    assert contract_in_pairs(mode.program, usual_sizes(3, mode.spec.hyperparameters)) == mode.program
