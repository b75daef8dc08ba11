"""Sums of products in kernels stay what they are: Triton's compiler makes matrix products of some, with other numbers."""

from __future__ import annotations

from typing import Any

from machine import require_compiled_kernels

require_compiled_kernels()

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernel_helper import compiled_kernels
from sparank_fusion.kernels.functions import contract, middle_sum
from sparank_gen.ir.check import check_spec
from sparank_gen.spec.load import parse_spec

SPEC = """
version: 1
mode: table
summary: Scores read a table of bounded numbers.
modalities: ">=2"
axes: {e: experts, i: dim}
hyperparameters:
  experts: {default: 5, help: Rows of the table.}
params:
  router: {module: Linear, weight: "R[e,(m i)]", bias: "r[e]"}
  table: {tensor: "V[e,i]", init: normal, std: 0.1}
math: |
  p[e]   = softmax[e](sum[m,i](R[e,m,i] * h[m,i]) + r[e])
  out[i] = sum[e](p[e] * tanh(V[e,i]))
"""


@triton.jit
def plain(x_ptr, w_ptr, y_ptr, K: tl.constexpr, ACC: tl.constexpr):
    rows, k, i = tl.arange(0, 32), tl.arange(0, K), tl.arange(0, 32)
    x = tl.load(x_ptr + rows[:, None] * K + k[None, :])
    w = tl.load(w_ptr + k[:, None] * 32 + i[None, :])
    tl.store(y_ptr + rows[:, None] * 32 + i[None, :], tl.sum(x[:, :, None] * w[None, :, :], 1))


@triton.jit
def guarded(x_ptr, w_ptr, y_ptr, K: tl.constexpr, ACC: tl.constexpr):
    rows, k, i = tl.arange(0, 32), tl.arange(0, K), tl.arange(0, 32)
    x = tl.load(x_ptr + rows[:, None] * K + k[None, :])
    w = tl.load(w_ptr + k[:, None] * 32 + i[None, :])
    y = contract(x, w, ACC, "ieee") + middle_sum(x[:, :, None] * w[None, :, :])
    tl.store(y_ptr + rows[:, None] * 32 + i[None, :], y)


def code(kernel: Any) -> str:
    """A kernel for Hopper, in Triton's own representation."""
    signature = {"x_ptr": "*fp32", "w_ptr": "*fp32", "y_ptr": "*fp32", "K": "constexpr", "ACC": "constexpr"}
    source = ASTSource(kernel, signature, {(3,): 4, (4,): tl.float32}, {})
    return str(triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ttir"])


def test_sums_of_few_terms_are_no_matrix_products() -> None:
    assert "tt.dot" in code(plain), "Triton has stopped to do this: middle_sum is no longer needed"
    assert "tt.dot" not in code(guarded)


def test_a_table_that_no_library_multiplies_with_is_summed_over() -> None:
    _, source = compiled_kernels(check_spec(parse_spec(SPEC, "table.yaml")))
    assert "out = middle_sum(" in source and "[:, :, None] * tanh(" in source
