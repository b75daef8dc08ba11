"""Generated code of random programs is as clean as our own: ruff and mypy find nothing, as in a user's project."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from project_helper import REPOSITORY, Project
from random_widths import random_widths

from random_specs import random_specs

# Eleven at least: files of random_2 come before those of random_10.
EXAMPLES = 24
# A program that compares a value with itself, or chooses between equal ones, is compiled as it stands.
OF_THE_PROGRAM = "PLR0124,RUF034"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose specs are random programs, built."""
    made = Project(tmp_path_factory.mktemp("style"))
    made.specs.mkdir()
    texts: list[str] = []

    @settings(
        max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(st.one_of(random_specs(), random_widths()))
    def draw(text: str) -> None:
        texts.append(text)

    draw()
    for number, text in enumerate(dict.fromkeys(texts)):
        (made.specs / f"random_{number}.yaml").write_text(text.replace("mode: random", f"mode: random_{number}", 1))
    made.run("build")
    return made


def found(project: Project, *command: str) -> str:
    """What a checker with this repository's configuration says of the project's package and tests."""
    run = subprocess.run([sys.executable, "-m", *command], check=False, cwd=project.root, capture_output=True, text=True)
    return run.stdout + run.stderr if run.returncode else ""


def test_ruff_finds_nothing(project: Project) -> None:
    config = str(REPOSITORY / "pyproject.toml")
    assert not found(project, "ruff", "check", "--output-format=concise", "--config", config, "--extend-ignore", OF_THE_PROGRAM, "generated")


def test_mypy_finds_nothing(project: Project) -> None:
    config, package = str(REPOSITORY / "pyproject.toml"), str(Path("generated", "sparank_fusion"))
    assert not found(project, "mypy", "--config-file", config, package)
