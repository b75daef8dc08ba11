"""Build and check through the command line: what is written, what is refused, what is found, and what is said."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import black
import pytest
from click.testing import Result
from typer.testing import CliRunner

from sparank_gen import cli
from sparank_gen.backends.tests.golden import largest_move

REPOSITORY = Path(__file__).resolve().parents[1]
Change = Callable[["Project"], object]


@dataclass(frozen=True)
class Project:
    """A project in a folder of its own."""

    root: Path

    @property
    def specs(self) -> Path:
        return self.root / "specs"

    @property
    def output(self) -> Path:
        return self.root / "generated"

    def run(self, command: str, *options: str, code: int = 0) -> Result:
        """Run a command on the specs of this project, and require its exit code and that it keeps its traceback to itself."""
        return invoke(command, str(self.specs), *options, code=code)

    def edit(self, path: str, old: str, new: str) -> None:
        """Replace text in a file of the project."""
        file = self.root / path
        text = file.read_text(encoding="utf-8")
        assert old in text
        file.write_text(text.replace(old, new), encoding="utf-8")

    def snapshot(self) -> dict[str, tuple[int, int, bytes]]:
        """Place, time and content of every file of the output folder."""
        files = sorted(path for path in self.output.rglob("*") if path.is_file())
        return {str(p.relative_to(self.output)): (p.stat().st_ino, p.stat().st_mtime_ns, p.read_bytes()) for p in files}

    def own(self, entry: str, content: bytes) -> None:
        """Make the manifest claim a file of this content."""
        path = self.output / "manifest.json"
        manifest = json.loads(path.read_text(encoding="utf-8"))
        manifest["files"][entry] = hashlib.sha256(content).hexdigest()
        path.write_text(json.dumps(manifest), encoding="utf-8")


def invoke(*arguments: str, code: int) -> Result:
    """Run the command line in this process; an error must be one clear message on stderr, and no traceback."""
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code == code, result.output
    assert bool(result.stderr) == (code == 2)
    return result


def bug(*values: Any, reason: str) -> Any:
    """A parameter set that shows a known bug."""
    return pytest.param(*values, marks=pytest.mark.xfail(strict=True, reason=reason))


@pytest.fixture(scope="module", autouse=True)
def formatted_once() -> Iterator[None]:
    """Black takes most of a build's time and is a function of the text: each text is formatted once in this file."""
    known: dict[str, str] = {}
    format_str = black.format_str

    def remembered(text: str, *, mode: black.Mode) -> str:
        if text not in known:
            known[text] = format_str(text, mode=mode)
        return known[text]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(black, "format_str", remembered)
        yield


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARANK_GEN_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A built project of two modes, which no test changes."""
    made = Project(tmp_path_factory.mktemp("built"))
    made.specs.mkdir()
    for mode in ("concat", "gate"):
        shutil.copy(REPOSITORY / "specs" / f"{mode}.yaml", made.specs)
    made.run("build")
    return made


@pytest.fixture
def project(built_once: Project, tmp_path: Path) -> Project:
    """A built project of a test's own."""
    return Project(Path(shutil.copytree(built_once.root, tmp_path / "project")))


@pytest.fixture
def unbuilt(project: Project) -> Project:
    """A project with specs and no output."""
    shutil.rmtree(project.output)
    return project


def test_first_build_writes_everything(tmp_path: Path) -> None:
    project = Project(tmp_path)
    shutil.copytree(REPOSITORY / "specs", project.specs)
    lines = project.run("build").stdout.splitlines()
    files = set(project.snapshot())
    assert {f"wrote {path}" for path in files} == set(lines)
    assert set(json.loads((project.output / "manifest.json").read_text())["files"]) == files - {"manifest.json"}
    for mode in (path.stem for path in project.specs.iterdir()):
        assert {f"sparank_fusion/modes/{mode}.py", f"tests/test_{mode}.py", f"tests/golden/{mode}.json", f"docs/{mode}.md"} <= files


def test_second_build_touches_nothing(project: Project) -> None:
    before = project.snapshot()
    assert project.run("build").stdout == f"nothing changed: {len(before) - 1} files are up to date\n"
    assert project.snapshot() == before


def test_build_writes_only_what_changed(project: Project) -> None:
    before = project.snapshot()
    project.edit("specs/gate.yaml", "softmax gating", "soft gating")
    lines = project.run("build").stdout.splitlines()
    after = project.snapshot()
    touched = {path for path in after if after[path][:2] != before[path][:2]} - {"manifest.json"}
    assert touched == {"docs/README.md", "docs/gate.md", "sparank_fusion/modes/gate.py"}
    assert {f"updated {path}" for path in touched} == set(lines)
    project.run("check")


def test_check_of_a_current_project(project: Project) -> None:
    before = project.snapshot()
    assert "agree with the specs" in project.run("check").stdout
    assert project.snapshot() == before


def test_check_of_an_unbuilt_project_makes_no_folder(unbuilt: Project) -> None:
    found = unbuilt.run("check", code=1).stdout
    assert "sparank_fusion/layer.py is missing" in found and "manifest.json is missing" in found
    assert not unbuilt.output.exists()


@pytest.mark.parametrize(
    ("change", "path", "found", "diff"),
    [
        (lambda p: (p.output / "docs/gate.md").unlink(), "docs/gate.md", "is missing", ()),
        (
            lambda p: p.edit("specs/gate.yaml", "softmax gating", "soft gating"),
            "docs/gate.md",
            "is not what the specs say",
            ("-Per-dimension softmax gating across modalities.", "+Per-dimension soft gating across modalities."),
        ),
        (lambda p: (p.specs / "gate.yaml").unlink(), "tests/test_gate.py", "is no longer made by any spec", ()),
        (
            lambda p: p.edit("generated/docs/gate.md", "# gate\n", "# mine\n"),
            "docs/gate.md",
            "was edited by hand",
            ("-# mine", "+# gate"),
        ),
        (
            lambda p: shutil.copy(p.output / "docs/gate.md", p.output / "docs/old.md"),
            "docs/old.md",
            "has our header and is in no manifest",
            (),
        ),
    ],
    ids=["missing", "changed", "stale", "edited", "orphan"],
)
def test_check_finds(project: Project, change: Change, path: str, found: str, diff: tuple[str, ...]) -> None:
    change(project)
    before = project.snapshot()
    lines = project.run("check", code=1).stdout.splitlines()
    assert any(line.startswith(f"{path} {found}") for line in lines)
    assert (f"--- {path} (on disk)" in lines) == (f"+++ {path} (from the specs)" in lines) == bool(diff)
    assert set(diff) <= set(lines)
    assert project.snapshot() == before


def test_build_removes_only_its_own_stale_files(project: Project) -> None:
    (project.output / "docs/notes.md").write_text("mine\n")
    (project.output / "tests/golden/mine.json").write_text("{}\n")
    shutil.copy(project.output / "docs/gate.md", project.output / "docs/old.md")
    (project.specs / "gate.yaml").unlink()
    lines = project.run("build").stdout.splitlines()
    stale = {"docs/gate.md", "sparank_fusion/modes/gate.py", "tests/golden/gate.json", "tests/test_gate.py"}
    assert {line.removeprefix("removed ") for line in lines if line.startswith("removed ")} == stale
    left = project.snapshot()
    assert not stale & set(left)
    assert {"docs/notes.md", "tests/golden/mine.json", "docs/old.md"} <= set(left)


def test_edited_stale_files_are_refused_then_forced(project: Project) -> None:
    project.edit("generated/docs/gate.md", "# gate\n", "# mine\n")
    (project.specs / "gate.yaml").unlink()
    before = project.snapshot()
    assert "docs/gate.md was edited by hand" in project.run("build", code=2).stdout
    assert project.snapshot() == before
    assert "docs/gate.md" in project.run("build", "--force").stdout
    assert "docs/gate.md" not in project.snapshot()


@pytest.mark.parametrize("manifest", [True, False], ids=["edited", "not ours"])
def test_edited_files_are_refused_then_forced(project: Project, manifest: bool) -> None:
    good = (project.output / "docs/gate.md").read_text()
    project.edit("generated/docs/gate.md", "# gate\n", "# mine\n")
    project.edit("specs/gate.yaml", "softmax gating", "soft gating")
    if not manifest:
        (project.output / "manifest.json").unlink()
    before = project.snapshot()
    refused = project.run("build", code=2)
    assert "docs/gate.md was edited by hand" in refused.stdout and "-# mine" in refused.stdout
    assert "--force" in refused.stderr
    assert project.snapshot() == before
    project.run("build", "--force")
    assert (project.output / "docs/gate.md").read_text() == good.replace("softmax gating", "soft gating")
    project.run("check")


@pytest.mark.parametrize(
    "entry",
    [
        "../victim/file.py",
        "docs/../../victim/file.py",
        "{root}/victim/file.py",
        bug("link/file.py", reason="a manifest entry through a symbolic link reaches outside the output folder"),
    ],
)
@pytest.mark.parametrize("option", [(), ("--force",)], ids=["plain", "force"])
def test_a_manifest_reaches_nothing_outside(project: Project, entry: str, option: tuple[str, ...]) -> None:
    victim = project.root / "victim" / "file.py"
    victim.parent.mkdir()
    victim.write_text("mine\n")
    (project.output / "link").symlink_to(victim.parent)
    project.own(entry.format(root=project.root), b"mine\n")
    CliRunner().invoke(cli.app, ["build", str(project.specs), *option])
    assert victim.read_text() == "mine\n"


@pytest.mark.parametrize(
    "content", ["", "[]", '{"files": 3}', "\x00", bug('{"files": {"a\\u0000b": "0"}}', reason="NUL in a manifest's entry: traceback")]
)
def test_damaged_manifest(project: Project, content: str) -> None:
    (project.output / "manifest.json").write_text(content)
    before = project.snapshot()
    project.run("build", code=2)
    assert project.snapshot() == before


@pytest.mark.parametrize("successes", [0, 1])
def test_a_failed_write_leaves_whole_files(project: Project, monkeypatch: pytest.MonkeyPatch, successes: int) -> None:
    before = project.snapshot()
    project.edit("specs/gate.yaml", "softmax gating", "soft gating")
    replace, calls = os.replace, []

    def failing(source: str, target: Path) -> None:
        calls.append(target)
        if len(calls) > successes:
            raise OSError(28, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing)
        assert "No space left on device" in project.run("build", code=2).stderr
    after = project.snapshot()
    assert after.keys() == before.keys()
    assert sum(after[path] != before[path] for path in after) == successes
    project.run("build")
    project.run("check")
    assert project.snapshot().keys() == before.keys()


def golden_tests_pass(project: Project, modes: tuple[str, ...]) -> dict[str, bool]:
    """Whether the generated golden tests of each mode pass, in a process that knows the output folder alone."""
    files = [str(project.output / "tests" / f"test_{mode}.py") for mode in modes]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rA", "-k", "golden", "--rootdir", str(project.root)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run([*command, *files], check=False, cwd=project.root, env=environment, capture_output=True, text=True)
    assert run.returncode in (0, 1), run.stdout
    outcomes = {mode: [line for line in run.stdout.splitlines() if f"test_{mode}.py::test_golden" in line] for mode in modes}
    assert all(outcomes.values()), run.stdout
    return {mode: not any(line.startswith("FAILED") for line in lines) for mode, lines in outcomes.items()}


def test_goldens_change_only_when_asked(project: Project) -> None:
    modes = ("gate", "attention")
    shutil.copy(REPOSITORY / "specs" / "attention.yaml", project.specs)
    project.run("build")
    goldens = {mode: project.output / "tests" / "golden" / f"{mode}.json" for mode in modes}
    before = {mode: golden.read_bytes() for mode, golden in goldens.items()}
    project.edit("specs/gate.yaml", "sum[m](g[m,i] * h[m,i])", "1.001 * sum[m](g[m,i] * h[m,i])")
    project.edit("specs/attention.yaml", "eps=1e-5", "eps=2e-5")
    assert "found tests/golden/gate.json: numbers moved by up to" in project.run("check", code=1).stdout
    for _ in range(2):
        kept = project.run("build", code=1).stdout
        assert all(f"kept tests/golden/{mode}.json: numbers moved by up to" in kept for mode in modes)
        assert "--update-goldens" in kept
        assert {mode: golden.read_bytes() for mode, golden in goldens.items()} == before
    assert golden_tests_pass(project, modes) == {"gate": False, "attention": False}
    taken = project.run("build", "--update-goldens").stdout
    for mode in modes:
        moved = largest_move(before[mode].decode(), goldens[mode].read_text())
        assert moved is not None and moved > 0
        assert f"updated tests/golden/{mode}.json: numbers moved by up to {moved:.3g}\n" in taken
    assert golden_tests_pass(project, modes) == {"gate": True, "attention": True}
    project.run("check")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[0.5, 0.5]", "[0.5, 0.7]"),
        ("[0.5, 0.5]", "[NaN, 0.5]"),
        bug("[0.5, 0.5]", "[0.5, NaN]", reason="a golden number that became NaN after the first one counts as not moved"),
        ("[0.5, NaN]", "[0.5]"),
    ],
)
def test_a_moved_golden_is_never_small(old: str, new: str) -> None:
    distance = largest_move(old, new)
    assert distance is None or not distance <= 0.1


def test_two_specs_of_one_mode(unbuilt: Project) -> None:
    shutil.copy(unbuilt.specs / "gate.yaml", unbuilt.specs / "other.yaml")
    error = unbuilt.run("build", code=2).stderr
    assert error.count("error[") == 1
    assert "specs/other.yaml:2:7: error[duplicate-mode]: mode 'gate' is already defined in specs/gate.yaml" in error
    assert not unbuilt.output.exists()


@pytest.mark.parametrize(
    "mode",
    [
        bug("README", reason="a mode named README loses its docs page to the index of all modes"),
        bug("__init__", reason="a mode named __init__ loses its module to the package's own __init__.py"),
        bug("Gate", reason="modes gate and Gate share the class name GateFusion, and their files where case is ignored"),
    ],
)
def test_modes_that_share_a_file_or_a_class_are_refused(unbuilt: Project, mode: str) -> None:
    shutil.copy(unbuilt.specs / "gate.yaml", unbuilt.specs / "other.yaml")
    unbuilt.edit("specs/other.yaml", "mode: gate", f"mode: {mode}")
    unbuilt.run("build", code=2)


def test_broken_specs_are_reported_together(unbuilt: Project) -> None:
    unbuilt.edit("specs/concat.yaml", "mode:", "mood:")
    unbuilt.edit("specs/gate.yaml", "softmax[m]", "softmx[m]")
    (unbuilt.specs / "third.yaml").write_bytes(b"\xff\xfe")
    error = unbuilt.run("build", code=2).stderr
    assert [error.count(f"specs/{name}.yaml:") for name in ("concat", "gate", "third")] == [1, 1, 1]
    assert "softmax" in error and "mode" in error
    assert not unbuilt.output.exists()


@pytest.mark.parametrize("command", ["build", "check"])
@pytest.mark.parametrize(
    ("specs", "said"), [("nowhere", "there is no specs folder"), ("empty", "holds no spec"), ("file.yaml", "there is no specs folder")]
)
def test_wrong_specs_folder(tmp_path: Path, command: str, specs: str, said: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.yaml").write_text("version: 1\n")
    error = invoke(command, str(tmp_path / specs), code=2).stderr
    assert said in error and specs in error and error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file.yaml"]


@pytest.mark.parametrize("output", ["file", "file/below", "file/far/below"])
def test_an_output_folder_that_cannot_be_written(unbuilt: Project, output: str) -> None:
    (unbuilt.root / "file").write_text("mine\n")
    error = unbuilt.run("build", "--output", str(unbuilt.root / output), code=2).stderr
    assert "cannot write" in error and error.count("\n") == 1
    assert (unbuilt.root / "file").read_text() == "mine\n"


@pytest.mark.xfail(strict=True, reason="files are written before it is found that another one cannot be")
@pytest.mark.parametrize("taken", ["sparank_fusion", "tests/test_gate.py"])
def test_nothing_is_written_where_a_place_is_taken(unbuilt: Project, taken: str) -> None:
    """A file stands where a folder must be, or a folder where a file must be."""
    place = unbuilt.output / taken
    place.parent.mkdir(parents=True)
    if place.suffix:
        place.mkdir()
    else:
        place.write_text("mine\n")
    before = unbuilt.snapshot()
    unbuilt.run("build", code=2)
    assert unbuilt.snapshot() == before


@pytest.mark.parametrize(
    ("template", "text", "said"),
    [
        ("docs/index.md.j2", b"{{ nowhere }}", "'nowhere' is undefined"),
        ("docs/index.md.j2", b"{{ files[0].nowhere }}", "no attribute 'nowhere'"),
        ("docs/mode.md.j2", b"{% if %}", "Expected an expression"),
        ("docs/mode.md.j2", b"{% include 'nowhere.j2' %}", "'nowhere.j2' not found"),
        ("torch/init.py.j2", b"def (:", "did not render to Python"),
        bug("docs/index.md.j2", b"{{ 1 / 0 }}", "division", reason="an exception inside a template keeps its traceback"),
        bug("docs/index.md.j2", b"\xff", "utf-8", reason="a template that is not UTF-8 keeps its traceback"),
    ],
)
def test_a_broken_template(unbuilt: Project, template: str, text: bytes, said: str) -> None:
    file = unbuilt.root / "templates" / template
    file.parent.mkdir(parents=True)
    file.write_bytes(text)
    error = unbuilt.run("build", "--templates", str(unbuilt.root / "templates"), code=2).stderr
    assert f"template {template}" in error and said in error
    assert not unbuilt.output.exists()


@pytest.mark.xfail(strict=True, reason="a templates folder that is missing, or a file, is passed over in silence")
@pytest.mark.parametrize("templates", ["nowhere", "specs/gate.yaml"])
def test_wrong_templates_folder(unbuilt: Project, templates: str) -> None:
    unbuilt.run("build", "--templates", str(unbuilt.root / templates), code=2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[tool.sparank-gen]\nspec = 'specs'", "no key 'spec'; the keys are"),
        ("[tool.sparank-gen]\ndefault-mode = 'gat'", "default-mode = 'gat' is not a mode"),
        ("[tool.sparank-gen]\ndefault-mode = 3", "default-mode must be text, found 3"),
        ("[tool.sparank-gen]\npositional = ['heads']", "no mode has a hyper-parameter 'heads'"),
        ("[tool.sparank-gen]\npositional = 'heads'", "positional must be a list"),
        ("[tool.sparank-gen]\npackage = 'my-package'", "'my-package' is not an import name"),
        bug("[tool.sparank-gen]\npackage = 'class'", "not an import name", reason="a keyword passes; black then speaks of a template"),
        ("[tool.sparank-gen", "is not TOML"),
        bug("[tool]\nsparank-gen = 3", "sparank-gen", reason="a [tool.sparank-gen] that is no table keeps its traceback"),
    ],
)
def test_wrong_configuration(unbuilt: Project, monkeypatch: pytest.MonkeyPatch, text: str, said: str) -> None:
    (unbuilt.root / "pyproject.toml").write_text(f"{text}\n")
    monkeypatch.chdir(unbuilt.root)
    error = invoke("build", code=2).stderr
    assert said in error and error.count("\n") == 1
    assert not unbuilt.output.exists()


@pytest.mark.xfail(strict=True, reason="a hyper-parameter named twice in positional makes a layer that does not compile")
def test_positional_twice(unbuilt: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(REPOSITORY / "specs" / "attention.yaml", unbuilt.specs)
    (unbuilt.root / "pyproject.toml").write_text("[tool.sparank-gen]\npositional = ['attn_heads', 'attn_heads']\n")
    monkeypatch.chdir(unbuilt.root)
    invoke("build", code=2)


def test_the_process_says_what_the_command_says(unbuilt: Project) -> None:
    """Exit codes and streams of ``python -m sparank_gen``: an unknown option, and an error of the input."""
    for arguments, said in ((["build", "--fast"], "--fast"), (["build", "nowhere"], "error: there is no specs folder")):
        command = [sys.executable, "-m", "sparank_gen", *arguments]
        run = subprocess.run(command, check=False, cwd=unbuilt.root, capture_output=True, text=True)
        assert (run.returncode, run.stdout) == (2, "")
        assert said in run.stderr and "Traceback" not in run.stderr
