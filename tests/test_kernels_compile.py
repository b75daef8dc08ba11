"""Every generated kernel compiles for chips of each family; on Hopper and MI300, what it computes stays in registers."""

from __future__ import annotations

import importlib.util
import os

import pytest

from sparank_fusion import list_modes
from sparank_fusion.layer import mode_class

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("kernels are interpreted in this process, and not compiled", allow_module_level=True)

from sparank_gen.backends.triton.aot import TARGETS, Compiled, compile_launch, launches

# Bytes of a thread's stack that a kernel may use.
MOST_SPILLED = 64
# Modes with a weight of dim ** 3 numbers, which no program holds: the library multiplies with it.
CUBIC = {"multiplicative_interaction"}
# Modes whose result has dim ** 2 numbers, and no matrix product: a program owns as few rows as it needs.
SQUARE = {"tensor_fusion"}
CASES = [*((mode, "bfloat16") for mode in list_modes()), ("gate", "float16")]


def compiled(mode: str, dtype: str, target: str) -> list[Compiled]:
    found = launches("sparank_fusion", mode, 64, 2, dtype, backend=TARGETS[target].backend)
    return [compile_launch(launch, TARGETS[target]) for launch in found.launches]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("mode", "dtype"), CASES)
def test_kernels_compile(mode: str, dtype: str, target: str) -> None:
    kernels = compiled(mode, dtype, target)
    if mode not in CUBIC and TARGETS[target].backend == "cuda":
        assert [kernel.name for kernel in kernels] == [f"{mode}_forward_kernel", f"{mode}_backward_kernel"]
        assert all(kernel.rows in (16, 32, 64, 128) or mode in SQUARE for kernel in kernels)
    for kernel in kernels:
        assert kernel.registers > 0 and kernel.warps in (4, 8, 16)
        stays = target == "gfx942" or (target == "sm_90" and "backward" not in kernel.name)
        assert not stays or kernel.spilled <= MOST_SPILLED


@pytest.mark.parametrize("dim", [100, 128])
@pytest.mark.parametrize("mode", list_modes())
def test_forward_kernels_stay_in_registers(mode: str, dim: int) -> None:
    """With as many as three modalities, and where the padding of rows is large."""
    most = mode_class(mode).most_modalities
    launch = launches("sparank_fusion", mode, dim, min(3, most or 3), "bfloat16").launches[0]
    assert compile_launch(launch, TARGETS["sm_90"]).spilled <= MOST_SPILLED


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
    found = launches("sparank_fusion", mode, 512 if mode != "film" else 100, 2, "bfloat16", backend="hip").launches
    for launch in found:
        assert launch.warps == 4
    assert max(compile_launch(launch, TARGETS["gfx942"]).spilled for launch in found[:2]) <= MOST_SPILLED


def test_a_wide_matrix_product_compiles() -> None:
    """One whose elementwise form would be larger than any tile may be."""
    launch = launches("sparank_fusion", "gate", 256, 2, "bfloat16").launches[0]
    assert compile_launch(launch, TARGETS["sm_90"]).registers > 0
