"""What a machine lacks that whole test files need."""

from __future__ import annotations

import os

import pytest

from sparank_fusion.backends import has_triton


def require_triton() -> None:
    """Skip the file that calls this where there is no triton that runs kernels."""
    if not has_triton():
        pytest.skip("triton 3.4 or newer is not installed", allow_module_level=True)


def require_compiled_kernels() -> None:
    """The same, and where this process interprets kernels."""
    require_triton()
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("kernels are interpreted in this process, and not compiled", allow_module_level=True)
