"""These tests run kernels in Triton's interpreter, which a process turns on before it imports triton."""

from __future__ import annotations

import os

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]
