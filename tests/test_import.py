"""What importing the package costs, and what a type checker sees of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sparank_fusion
from sparank_fusion import list_modes

REPOSITORY = Path(__file__).resolve().parents[1]
MOST_SECONDS = 0.05
RUNS = 5


def test_importing_the_package_takes_hardly_longer_than_importing_torch() -> None:
    """In processor time, which other processes do not lengthen; the least of several, so that one slow run is no failure."""
    code = "import time, torch; start = time.process_time(); import sparank_fusion; print(time.process_time() - start)"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "generated")}
    taken = []
    for _ in range(RUNS):
        run = subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True, text=True)
        taken.append(float(run.stdout))
        if taken[-1] <= MOST_SECONDS:
            return
    pytest.fail(f"importing the package took {min(taken):.3f} s more than importing torch")


def test_names_of_the_package_are_listed() -> None:
    assert set(dir(sparank_fusion)) == set(sparank_fusion.__all__)


def test_a_name_from_elsewhere_is_checked() -> None:
    assert [sparank_fusion.mode_name(str(name)) for name in list_modes()] == list(list_modes())
    with pytest.raises(ValueError, match="did you mean 'gate'"):
        sparank_fusion.mode_name("gaet")


RIGHT = """\
import sys

from sparank_fusion import AttentionFusion, FusionLayer, FusionMode, list_modes, mode_name

FusionLayer(8, 2)
FusionLayer(8, 2, "gate", backend="torch")
FusionLayer(8, 2, fusion_type="attention", attn_heads=2)
heads: int = AttentionFusion(8, 2, attn_heads=2).n_modalities
chosen: FusionMode = "concat"
FusionLayer(8, 2, chosen)
FusionLayer(8, 2, mode_name(sys.argv[1]))
layers = {mode: FusionLayer(8, 2, mode) for mode in list_modes()}
name: str = layers["gate"].fusion_type
"""
WRONG = """\
import sys

from sparank_fusion import FusionLayer, GateFusion
from sparank_fusion import GaetFusion  # attr-defined

FusionLayer(8, 2, "gaet")  # arg-type
FusionLayer(8, 2, sys.argv[1])  # arg-type
FusionLayer(8, 2, "attention", atn_heads=2)  # call-arg
FusionLayer(8, 2, "attention", attn_heads="two")  # arg-type
GateFusion(8, 2, attn_heads=2)  # call-arg
GateFusion(8, 2, "torch")  # call-arg
"""


def test_a_type_checker_sees_modes_and_hyperparameters(tmp_path: Path) -> None:
    right, wrong = tmp_path / "right.py", tmp_path / "wrong.py"
    right.write_text(RIGHT)
    wrong.write_text(WRONG)
    command = [sys.executable, "-m", "mypy", "--config-file", str(REPOSITORY / "pyproject.toml"), str(right), str(wrong)]
    run = subprocess.run(command, check=False, cwd=REPOSITORY, capture_output=True, text=True)
    found = re.findall(r"^(.+?):(\d+): error: .*\[([\w-]+)\]$", run.stdout, re.MULTILINE)
    expected = [(number, line.partition("  # ")[2]) for number, line in enumerate(WRONG.splitlines(), 1) if "  # " in line]
    assert [(Path(path).name, int(number), code) for path, number, code in found] == [
        ("wrong.py", number, code) for number, code in expected
    ], run.stdout + run.stderr
