"""Every generated kernel compiles for chips of each family; on Hopper and MI300, what it computes stays in registers."""

from __future__ import annotations

import itertools
import re

import pytest
from machine import require_compiled_kernels

from sparank_fusion import list_modes
from sparank_fusion.layer import mode_class

require_compiled_kernels()

from sparank_gen.backends.triton.aot import TARGETS, Compiled, assembled, compile_launch, compiled, launches

# Bytes of a thread's stack that a kernel may use.
MOST_SPILLED = 64
# Modes with a weight of dim ** 3 numbers, which no program holds: the library multiplies with it.
CUBIC = {"multiplicative_interaction"}
# Modes whose weights fill shared memory when they are held as the backward pass multiplies with them too.
HEAVY = {"factorized_bilinear"}
# Modes whose result has dim ** 2 numbers, and no matrix product: a program owns as few rows as it needs. Where it cannot
# hold one, they are torch's work; with one and 128 the lanes are 256, and a few find no register.
SQUARE = {"tensor_fusion"}
# Narrow enough for one kernel, with padding and without, and too wide for it.
SIZES = list(itertools.product(("bfloat16", "float32", "float16"), (2, 3), (64, 100, 128, 512)))


def kernels_of(mode: str, dtype: str, count: int, dim: int, target: str) -> tuple[Compiled, ...]:
    """The kernels of a mode, with the tiles that a call on such a chip comes to."""
    count = min(count, mode_class(mode).most_modalities or count)
    return compiled("sparank_fusion", mode, dim, count, dtype, TARGETS[target])[1]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("mode", list_modes())
def test_kernels_compile(mode: str, target: str) -> None:
    """Over modes and chips every type, number of modalities and size comes up, and each mode in all sizes."""
    number = list_modes().index(mode) + 5 * list(TARGETS).index(target)
    dtype, count, dim = SIZES[number % len(SIZES)]
    if mode in SQUARE:
        dim = min(dim, 100)
    kernels = kernels_of(mode, dtype, count, dim, target)
    assert len({kernel.name for kernel in kernels}) == len(kernels) >= 2
    for kernel in kernels:
        assert kernel.registers > 0 and kernel.warps in (4, 8)
        assert kernel.shared <= TARGETS[target].shared
        assert kernel.spilled <= MOST_SPILLED


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
@pytest.mark.parametrize("mode", list_modes())
def test_narrow_layers_stay_in_registers(mode: str, target: str) -> None:
    kernels = kernels_of(mode, "bfloat16", 2, 64, target)
    if mode not in CUBIC | HEAVY and TARGETS[target].backend == "cuda":
        assert [kernel.name for kernel in kernels] == [f"{mode}_forward_kernel", f"{mode}_backward_kernel"]
        assert all(kernel.rows in (16, 32, 64, 128) or mode in SQUARE for kernel in kernels)
    assert all(kernel.spilled <= MOST_SPILLED for kernel in kernels)


@pytest.mark.parametrize("dim", [100, 128])
@pytest.mark.parametrize("mode", list_modes())
def test_forward_kernels_stay_in_registers(mode: str, dim: int) -> None:
    """With as many as three modalities, and where the padding of rows is large."""
    assert kernels_of(mode, "bfloat16", 3, dim, "sm_90")[0].spilled <= MOST_SPILLED


@pytest.mark.parametrize("mode", ["mean", "scalar_gate"])
def test_what_is_not_multiplied_is_all_alive_and_stays_in_registers(mode: str) -> None:
    for launch in launches("sparank_fusion", mode, 512, 2, "bfloat16").launches:
        assert compile_launch(launch, TARGETS["sm_90"]).spilled <= MOST_SPILLED


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize(("mode", "dim"), [("film", 128), ("mixture_of_experts", 64)])
def test_weights_of_products_over_several_axes_leave_rows_fewer_registers(mode: str, dim: int, target: str) -> None:
    _, backward = launches("sparank_fusion", mode, dim, 2, "bfloat16").launches
    assert compile_launch(backward, TARGETS[target]).spilled <= MOST_SPILLED


@pytest.mark.parametrize("mode", ["low_rank_bilinear", "film", "deep_sets"])
def test_four_wide_warps_share_all_registers(mode: str) -> None:
    """Eight of 64 lanes would have half as many each, and spill hundreds of bytes."""
    dim = 512 if mode != "film" else 100
    found = kernels_of(mode, "bfloat16", 2, dim, "gfx942")
    assert all(kernel.warps == 4 for kernel in found)
    assert max(kernel.spilled for kernel in found[:2]) <= MOST_SPILLED


def test_a_wide_matrix_product_compiles() -> None:
    """One whose elementwise form would be larger than any tile may be."""
    launch = launches("sparank_fusion", "gate", 256, 2, "bfloat16").launches[0]
    assert compile_launch(launch, TARGETS["sm_90"]).registers > 0


@pytest.mark.parametrize(("dim", "size"), [(100, 8), (120, 16), (128, 16)])
def test_rows_of_any_width_are_read_in_wide_loads(dim: int, size: int) -> None:
    """So many bytes at once as the distance of rows allows, up to sixteen; and ahead of their use where a program walks."""
    code = {
        mode: assembled(launches("sparank_fusion", mode, dim, 2, "bfloat16").launches[0], TARGETS["sm_90"]).asm["ptx"]
        for mode in ("sum", "gate")
    }
    loads = re.findall(r"ld\.global\S*?(?:\.v(\d))?\.b(\d+)", code["sum"])
    assert {int(count or 1) * int(bits) // 8 for count, bits in loads} == {size}
    ahead = re.findall(r"cp\.async\.c[ag]\.shared\.global.*?, (0x\w+|\d+)", code["gate"])
    assert {int(found, 0) for found in ahead} == {size}
