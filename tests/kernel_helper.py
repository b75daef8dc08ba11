"""Kernels of specs that are made in a test."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import tempfile
from itertools import count
from pathlib import Path
from typing import Any

from hypothesis import currently_in_test_context, note

from sparank_fusion.kernels import forced
from sparank_gen.backends.triton.file import kernel_file
from sparank_gen.ir.mode import Mode
from sparank_gen.project.templates import environment
from test_random_programs import check_program, compiled

TEMPLATE = environment(None).get_template("triton/mode.py.j2")
FOLDER = tempfile.TemporaryDirectory()
NUMBER = count()
# Rows, columns, and the step along what is contracted, that leave several of each.
SMALL_TILE = (2, 2, 2)


def compiled_kernels(mode: Mode) -> tuple[Any, str]:
    """The generated class of a mode whose kernels are importable, and their source."""
    made, _ = compiled(mode)
    source = TEMPLATE.render(header="# random", package="sparank_fusion", file=kernel_file(mode))
    # Triton reads a kernel's source from its file.
    path = Path(FOLDER.name) / f"{mode.name}.py"
    path.write_text(source)
    if currently_in_test_context():
        note(source)
    name = f"sparank_fusion.kernels.modes.{mode.name}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    setattr(importlib.import_module("sparank_fusion.kernels.modes"), mode.name, module)
    return made, source


def check_kernels(text: str, dim: int, n_modalities: int, hidden: int, batch: int, schedule: str) -> None:
    """Compile a spec and compare what its kernels give with the evaluator."""
    # An operator is registered once under its name.
    text = text.replace("mode: random", f"mode: random_{next(NUMBER)}", 1)
    with forced(schedule, SMALL_TILE):
        check_program(text, dim, n_modalities, hidden, batch, compiled_kernels, "triton")
