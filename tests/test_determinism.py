"""The same specs give the same bytes everywhere, and a check that remembers gives the verdicts of one that does not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from project_helper import REPOSITORY, Project, invoke

from sparank_gen.ir.mode import Mode
from sparank_gen.project import generate as generator

TEMPLATE = "docs/index.md.j2"


def lay_out(root: Path) -> Project:
    """Two modes, one of which has text beyond ASCII, and a template."""
    (root / "specs").mkdir(parents=True)
    shutil.copy(REPOSITORY / "specs" / "concat.yaml", root / "specs")
    text = (REPOSITORY / "specs" / "gate.yaml").read_text(encoding="utf-8")
    (root / "specs" / "gate.yaml").write_text(text.replace("Per-dimension", "Größenweise × genau,"), encoding="utf-8")
    template = root / "templates" / TEMPLATE
    template.parent.mkdir(parents=True)
    shutil.copy(REPOSITORY / "templates" / TEMPLATE, template)
    return Project(root)


@pytest.fixture(scope="module")
def built_once(formatted_once: None, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A built project, which no test changes."""
    project = lay_out(tmp_path_factory.mktemp("built") / "project")
    project.run("build")
    return project


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("SPARANK_GEN_CACHE", str(folder))
    return folder


@pytest.fixture
def warm(built_once: Project, cache: Path, tmp_path: Path) -> Project:
    """A built project whose check has been remembered."""
    project = Project(Path(shutil.copytree(built_once.root, tmp_path / "project")))
    project.run("check")
    assert len(list(cache.glob("*.json"))) == 1
    return project


@pytest.mark.parametrize(
    ("environment", "folder", "umask"),
    [
        ({"PYTHONHASHSEED": "0"}, ".", -1),
        ({"PYTHONHASHSEED": "4242"}, "templates/docs", -1),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}, ".", -1),
        ({"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "latin-1", "TZ": "Asia/Tokyo", "COLUMNS": "20"}, "/", 0o077),
    ],
    ids=["seed 0", "seed 4242 and another folder", "C locale", "UTF-8 locale and a tight umask"],
)
def test_same_bytes_in_another_process(
    built_once: Project, tmp_path: Path, environment: dict[str, str], folder: str, umask: int
) -> None:
    project = lay_out(tmp_path / "elsewhere")
    working = project.root / folder
    specs, templates = (os.path.relpath(project.root / name, working) for name in ("specs", "templates"))
    command = [sys.executable, "-m", "sparank_gen", "build", specs, "--templates", templates]
    settings = {**os.environ, "SPARANK_GEN_CACHE": str(tmp_path / "cache"), **environment}
    subprocess.run(command, check=True, cwd=working, env=settings, umask=umask, capture_output=True)
    assert project.content() == built_once.content()
    assert {path.stat().st_mode & 0o777 for path in project.output.rglob("*") if path.is_file()} == {0o644}


@pytest.mark.parametrize("jobs", [1, 2, 3, 64])
def test_same_bytes_with_any_number_of_processes(built_once: Project, tmp_path: Path, jobs: int) -> None:
    project = lay_out(tmp_path / "project")
    project.run("build", f"--jobs={jobs}")
    assert project.content() == built_once.content()
    project.run("check", f"--jobs={jobs}")


@pytest.mark.parametrize("jobs", ["0", "-1", "two"])
def test_a_wrong_number_of_processes(built_once: Project, jobs: str) -> None:
    for command in ("build", "check"):
        assert "--jobs" in built_once.run(command, f"--jobs={jobs}", code=2).stderr


def test_same_bytes_from_a_second_run_over_the_first(built_once: Project, tmp_path: Path) -> None:
    project = Project(Path(shutil.copytree(built_once.root, tmp_path / "project")))
    shutil.rmtree(project.output)
    for _ in range(2):
        project.run("build")
        assert project.content() == built_once.content()


def test_same_bytes_in_any_order_of_the_file_system(built_once: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = lay_out(tmp_path / "project")
    iterdir, walk = Path.iterdir, os.walk
    monkeypatch.setattr(Path, "iterdir", lambda self: sorted(iterdir(self), reverse=True))
    monkeypatch.setattr(os, "walk", lambda top: ((f, sorted(d)[::-1], sorted(n)[::-1]) for f, d, n in walk(top)))
    project.run("build")
    assert project.content() == built_once.content()


def test_same_bytes_from_inside_the_specs_folder(built_once: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = lay_out(tmp_path / "project")
    monkeypatch.chdir(project.root / "specs")
    invoke("build", ".", "--templates", "../templates", code=0)
    assert project.content() == built_once.content()


def test_a_warm_check_generates_nothing(warm: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    cold = warm.run("check").stdout
    monkeypatch.setattr(generator, "generate", lambda *given: pytest.fail("the warm check generated"))
    assert warm.run("check").stdout == cold


def test_a_warm_check_finds_an_edit_or_a_deletion_of_any_file(warm: Project) -> None:
    for path, content in warm.content().items():
        if path != "manifest.json":
            (warm.output / path).write_bytes(content + b"\n")
            assert path in warm.run("check", code=1).stdout
        (warm.output / path).unlink()
        assert f"{path} is missing" in warm.run("check", code=1).stdout
        (warm.output / path).write_bytes(content)
    warm.run("check")


def stray_file(project: Project) -> None:
    shutil.copy(project.output / "docs" / "gate.md", project.output / "docs" / "old.md")


def changed_spec(project: Project) -> None:
    path = project.root / "specs" / "gate.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("softmax gating", "soft gating"), encoding="utf-8")


def removed_spec(project: Project) -> None:
    (project.root / "specs" / "gate.yaml").unlink()


def broken_spec(project: Project) -> None:
    (project.root / "specs" / "gate.yaml").write_text("version: 1\n")


def changed_template(project: Project) -> None:
    (project.root / "templates" / TEMPLATE).write_text("{{ header }}\nanother index\n")


def removed_template(project: Project) -> None:
    changed_template(project)
    project.run("build")
    project.run("check")
    (project.root / "templates" / TEMPLATE).unlink()


def changed_include(project: Project) -> None:
    (project.root / "templates" / TEMPLATE).write_text("{{ header }}\n{% include 'note.txt' %}\n")
    (project.root / "templates" / "note.txt").write_text("one\n")
    project.run("build")
    project.run("check")
    (project.root / "templates" / "note.txt").write_text("two\n")


def moved_template(project: Project) -> None:
    folder = project.root / "templates"
    (folder / "tests").mkdir()
    shutil.copy(REPOSITORY / "templates" / "tests" / "mode.py.j2", folder / "tests")
    project.run("check")
    (folder / "tests").rename(folder / "torch")


@pytest.mark.parametrize(
    "change",
    [
        stray_file,
        changed_spec,
        removed_spec,
        broken_spec,
        changed_template,
        removed_template,
        changed_include,
        moved_template,
    ],
)
def test_a_warm_check_finds_what_a_cold_one_finds(
    warm: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Project], None]
) -> None:
    change(warm)
    found = warm.run("check", code=None)
    monkeypatch.setenv("SPARANK_GEN_CACHE", str(tmp_path / "cold"))
    cold = warm.run("check", code=None)
    assert cold.exit_code != 0
    assert (found.exit_code, found.output) == (cold.exit_code, cold.output)


def test_another_configuration_is_another_state(
    built_once: Project, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project(Path(shutil.copytree(built_once.root, tmp_path / "project")))
    configuration = project.root / "pyproject.toml"
    configuration.write_text("[tool.sparank-gen]\ntemplates = 'templates'\n")
    monkeypatch.chdir(project.root)
    invoke("check", code=0)
    configuration.write_text("[tool.sparank-gen]\ntemplates = 'templates'\ndefault-mode = 'gate'\n")
    assert '+        fusion_type: FusionMode = "gate",' in invoke("check", code=1).stdout


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "\x00\xff",
        "[]",
        "null",
        '{"docs/gate.md": 3}',
        '{"docs": "x"}',
        "{}",
        '{"a\\u0000b": "x"}',
        "[" * 100_000,
    ],
    ids=lambda entry: json.dumps(entry[:12]),
)
def test_a_damaged_cache_entry_is_harmless(warm: Project, cache: Path, entry: str) -> None:
    (path,) = cache.glob("*.json")
    path.write_text(entry, encoding="latin-1")
    page = warm.output / "docs" / "gate.md"
    good = page.read_bytes()
    page.write_bytes(good + b"mine\n")
    warm.run("check", code=1)
    page.write_bytes(good)
    warm.run("check")


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The modes whose files are computed, in this process."""
    found: list[str] = []
    own = generator.Renderer.mode_files

    def noted(self: generator.Renderer, mode: Mode) -> dict[str, str]:
        found.append(mode.name)
        return own(self, mode)

    monkeypatch.setattr(generator.Renderer, "mode_files", noted)
    return found


def test_only_what_changed_is_computed_again(warm: Project, cache: Path, computed: list[str]) -> None:
    build = ("build", "--jobs", "1")
    warm.run(*build)
    assert computed == []
    page = warm.output / "docs" / "gate.md"
    before = page.read_text(encoding="utf-8")
    page.unlink()
    warm.run(*build)
    assert page.read_text(encoding="utf-8") == before
    assert computed == []
    warm.edit("specs/gate.yaml", "genau", "ungefähr")
    warm.run(*build)
    assert computed == ["gate"]
    warm.edit("specs/gate.yaml", "ungefähr", "genau")
    warm.run(*build)
    assert computed == ["gate"], "what was built before is remembered"


def test_a_mode_is_computed_again_where_its_library_or_templates_changed(
    warm: Project, cache: Path, computed: list[str]
) -> None:
    build = ("build", "--jobs", "1")
    library = warm.root / "specs" / "lib" / "more.yaml"
    library.parent.mkdir()
    library.write_text('version: 1\nfunctions:\n  twice(x): "2 * x"\n')
    warm.run(*build)
    assert computed == ["concat", "gate"]
    warm.edit(f"templates/{TEMPLATE}", "#", "# Our")
    warm.run(*build)
    assert computed == ["concat", "gate"] * 2


def damaged(path: Path, kind: str) -> None:
    """Damage a kept mode's files: other text below their fingerprint, or no such file at all."""
    fingerprint, text = zlib.decompress(path.read_bytes()).split(b"\n", 1)
    path.write_bytes({
        "text": zlib.compress(fingerprint + b"\n" + text.replace(b"import", b"imports")),
        "cut": path.read_bytes()[:100],
        "empty": b"",
        "other": zlib.compress(b"\xff"),
    }[kind])


@pytest.mark.parametrize("kind", ["text", "cut", "empty", "other"])
def test_damaged_files_of_a_mode_are_computed_again(
    warm: Project, cache: Path, computed: list[str], kind: str
) -> None:
    for path in (cache / "texts").iterdir():
        damaged(path, kind)
    for path in cache.glob("*.json"):
        path.unlink()
    before = warm.content()
    warm.run("build", "--jobs", "1")
    assert computed == ["concat", "gate"]
    assert warm.content() == before


@pytest.mark.parametrize("folder", ["file", "file/below", "folder"])
def test_an_unwritable_cache_is_harmless(
    built_once: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    """The cache is a file, lies below one, or holds a folder where its entry must go."""
    project = Project(Path(shutil.copytree(built_once.root, tmp_path / "project")))
    (tmp_path / "file").write_text("mine\n")
    monkeypatch.setenv("SPARANK_GEN_CACHE", str(tmp_path / folder))
    if folder == "folder":
        project.run("check")
        for entry in [path for path in (tmp_path / folder).rglob("*") if path.is_file()]:
            entry.unlink()
            (entry / "mine").mkdir(parents=True)
    project.run("check")
    changed_spec(project)
    project.run("check", code=1)
    assert (tmp_path / "file").read_text() == "mine\n"
