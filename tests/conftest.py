"""Fixtures of the tests that build projects."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import black
import pytest
from project_helper import REPOSITORY, Project


@pytest.fixture(scope="session")
def formatted_once() -> Iterator[None]:
    """Black takes most of a build's time and is a function of the text: each text is formatted once."""
    known: dict[str, str] = {}
    format_str = black.format_str

    def remembered(text: str, *, mode: black.Mode) -> str:
        if text not in known:
            known[text] = format_str(text, mode=mode)
        return known[text]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(black, "format_str", remembered)
        yield


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads what other runs have left in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARANK_GEN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache folder of the test's own."""
    monkeypatch.setenv("SPARANK_GEN_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def built_once(formatted_once: None, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A built project of two modes, which no test changes."""
    made = Project(tmp_path_factory.mktemp("built"))
    made.specs.mkdir()
    for mode in ("concat", "gate"):
        shutil.copy(REPOSITORY / "specs" / f"{mode}.yaml", made.specs)
    made.run("build")
    return made


@pytest.fixture
def project(built_once: Project, own_cache: None, tmp_path: Path) -> Project:
    """A built project of a test's own."""
    return Project(Path(shutil.copytree(built_once.root, tmp_path / "project")))


@pytest.fixture
def unbuilt(project: Project) -> Project:
    """A project with specs and no output."""
    shutil.rmtree(project.output)
    return project
