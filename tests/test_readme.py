"""The README's walk from a blank file to a trained layer does what it says, word for word."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def blocks(heading: str) -> dict[str, str]:
    """The fenced blocks of a section of the README, by their language."""
    section = README.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return dict(reversed(re.findall(r"^```(\w+)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)))


def test_a_mode_of_your_own(tmp_path: Path) -> None:
    found = blocks("A mode of your own")
    for path, text in {"specs/agreement.yaml": found["yaml"], "train.py": found["python"]}.items():
        assert f"`{path}`" in README
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    assert len(found["yaml"].splitlines()) <= 15
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = {**os.environ, "PATH": path, "PYTHONDONTWRITEBYTECODE": "1", "SPARANK_GEN_CACHE": str(tmp_path / "cache")}
    commands = re.findall(r"^\$ (.*)\n((?:[^$].*\n)*)", found["console"], re.MULTILINE)
    assert len(commands) == 2
    for command, printed in commands:
        run = subprocess.run(
            ["sh", "-c", command], check=False, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert (run.returncode, run.stdout) == (0, printed), run.stderr
