"""What types and devices kernels take: those of torch's own results, and clear errors for others."""

from __future__ import annotations

import subprocess
import sys
from unittest.mock import patch

import pytest
import torch

import sparank_fusion.runtime
from sparank_fusion import FusionLayer


def test_parameters_of_another_type_are_refused() -> None:
    layer = FusionLayer(16, 2, "gate", backend="triton")
    features = [torch.randn(5, 16) for _ in range(2)]
    with pytest.raises(ValueError, match=r"of the parameters' dtype torch.float32, got torch.bfloat16"):
        layer([x.bfloat16() for x in features])
    layer.gate_projs[1].bfloat16()  # type: ignore[index]
    with pytest.raises(ValueError, match=r"parameters of one dtype, got torch.float32 and torch.bfloat16"):
        layer(features)


def test_parameters_elsewhere_are_refused() -> None:
    layer = FusionLayer(16, 2, "gate", backend="triton")
    layer.gate_projs[1].to("meta")  # type: ignore[index]
    with pytest.raises(ValueError, match="parameters on one device, got cpu and meta"):
        layer([torch.randn(5, 16) for _ in range(2)])


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, torch.float8_e4m3fn])
def test_types_that_kernels_do_not_compute_in(dtype: torch.dtype) -> None:
    """Asked for kernels it is an error; else torch computes, as it does of integers larger than a float32 holds."""
    features = [torch.full((2, 16), 2**24 + 1).to(dtype), torch.full((2, 16), 3).to(dtype)]
    with pytest.raises(ValueError, match=rf"bfloat16, torch.float32, torch.float64 for backend='triton', got {dtype}"):
        FusionLayer(16, 2, "sum", backend="triton")(features)


def test_integers_are_left_to_torch() -> None:
    layer = FusionLayer(16, 2, "maximum")
    features = [torch.full((2, 16), 2**24 + 1), torch.full((2, 16), 3)]
    assert torch.equal(layer._fuse_kernels(features, False)[0], features[0])


def test_types_under_autocast_are_asked_for_once() -> None:
    layer = FusionLayer(16, 3, "gate", backend="triton")
    features = [torch.randn(5, 16) for _ in range(3)]
    fuse = layer._mode._fuse
    with patch.object(layer._mode, "_fuse", side_effect=fuse) as asked, patch.dict(
        sparank_fusion.runtime.DTYPES_UNDER_AUTOCAST, clear=True
    ):
        for dtype in (torch.float32, torch.bfloat16):
            for _ in range(3):
                with torch.autocast("cpu", torch.bfloat16):
                    out = layer([x.to(dtype) for x in features])
                    wanted = FusionLayer(16, 3, "gate", backend="torch")([x.to(dtype) for x in features])
                assert out.dtype is wanted.dtype
    assert asked.call_count == 2 + 6


@pytest.mark.parametrize("setting", ["torch.backends.cuda.matmul.fp32_precision", "torch.backends.fp32_precision"])
@pytest.mark.parametrize("precision", ["tf32", "ieee"])
def test_torch_is_told_of_reduced_precision_in_its_newer_way(setting: str, precision: str) -> None:
    """In a process of its own: torch does not take it back."""
    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        pytest.skip("this torch has no torch.backends.cuda.matmul.fp32_precision")
    lines = [
        "import torch",
        "from sparank_fusion import FusionLayer",
        "from sparank_fusion.kernels import precision",
        f"{setting} = {precision!r}",
        f"assert precision(torch.float32, None) == {precision!r}",
        "FusionLayer(16, 2, 'gate', backend='triton')([torch.randn(5, 16) for _ in range(2)])",
    ]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)
