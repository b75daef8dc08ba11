"""What a program does for each tile of rows that it walks over: the compiled code of a gate's forward kernel, on Hopper."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from machine import require_compiled_kernels

require_compiled_kernels()

from sparank_gen.backends.triton.aot import TARGETS, assembled, launches


@pytest.fixture(scope="module")
def gate() -> Any:
    """The kernel for tiles of 64 rows, three of them on their way, without the weights as a result."""
    (launch,) = (
        launch
        for launch in launches("sparank_fusion", "gate", 128, 3, "bfloat16").launches
        if launch.kernel.__name__ == "gate_forward_kernel"
    )
    assert (launch.constants["ROWS"], launch.constants["STAGES"]) == (64, 3)
    return assembled(replace(launch, constants=launch.constants | {"HAS_EXTRAS": False}), TARGETS["sm_90"])


def test_the_pipeline_carries_no_masks(gate: Any) -> None:
    """A mask of loads that stores share would be carried for each stage, a bit for each element."""
    (loop,) = (line for line in gate.asm["ttgir"].splitlines() if "scf.for" in line)
    carried = loop.split("->")[-1]
    assert "tensor<" in carried
    assert "xi1" not in carried


def test_only_features_are_on_their_way(gate: Any) -> None:
    """Weights and biases were read before the loop."""
    loop = gate.asm["ttgir"].split("scf.for")[-1]
    assert re.findall(r"async_copy_global_to_local.*-> <(\d+x\d+)x", loop) == ["64x128"] * 3
    assert loop.count("async_copy_global_to_local") == 3


def test_a_softmax_divides_by_no_division(gate: Any) -> None:
    """But takes one reciprocal for each element, as the chip has it."""
    assert "div.full" not in gate.asm["ptx"]
    assert len(re.findall(r"\b(?:rcp|div)\.approx", gate.asm["ptx"])) == 64 * 128 // (32 * 8)


def test_sums_start_from_nothing_that_is_added(gate: Any) -> None:
    """Compilers do not drop the addition of 0.0, which turns -0.0 into it."""
    assert not re.findall(r"add[\w.]*\.f32.*\b0f0{8}\b", gate.asm["ptx"])
    assert not re.findall(r"fma[\w.]*\.f32.*, 0f0{8};", gate.asm["ptx"])
