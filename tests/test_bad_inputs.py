"""Wrong specs, templates, folders and configurations: one clear error, and nothing is written."""

from __future__ import annotations

import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from project_helper import REPOSITORY, Project, invoke


def test_two_specs_of_one_mode(unbuilt: Project) -> None:
    shutil.copy(unbuilt.specs / "gate.yaml", unbuilt.specs / "other.yaml")
    error = unbuilt.run("build", code=2).stderr
    assert error.count("error[") == 1
    assert "specs/other.yaml:2:7: error[duplicate-mode]: mode 'gate' is already defined in specs/gate.yaml" in error
    assert not unbuilt.output.exists()


def test_modes_that_share_a_hyperparameter_share_its_default(unbuilt: Project) -> None:
    unbuilt.edit("specs/gate.yaml", "axes:", "hyperparameters: {sharpness: {default: 4}}\naxes:")
    unbuilt.edit("specs/gate.yaml", "softmax[m](", "softmax[m](sharpness * ")
    shutil.copy(unbuilt.specs / "gate.yaml", unbuilt.specs / "other.yaml")
    unbuilt.edit("specs/other.yaml", "mode: gate", "mode: other")
    unbuilt.edit("specs/other.yaml", "default: 4", "default: 4.0")
    error = unbuilt.run("build", code=2).stderr
    message = "'sharpness' has default 4.0 (float) here and 4 (int) in mode 'gate' of specs/gate.yaml"
    assert error.count("error[") == 1 and f"error[bad-value]: {message}" in error
    assert not unbuilt.output.exists()


@pytest.mark.parametrize(
    "mode",
    [
        "README",
        "readme",
        "__main__",
        "GATE",
        "gate_",
        "gate_fusion",
        "__init__",
        "Gate",
    ],
)
def test_modes_that_share_a_file_or_a_class_are_refused(unbuilt: Project, mode: str) -> None:
    shutil.copy(unbuilt.specs / "gate.yaml", unbuilt.specs / "other.yaml")
    unbuilt.edit("specs/other.yaml", "mode: gate", f"mode: {mode}")
    error = unbuilt.run("build", code=2).stderr
    assert error.count("error[") == 1 and "specs/other.yaml:2:7: error[reused-name]" in error


def test_hidden_files_are_no_specs(project: Project) -> None:
    (project.specs / ".#gate.yaml").symlink_to("user@host.1234")
    (project.specs / "._gate.yaml").write_bytes(b"\xff")
    project.run("check")


@pytest.mark.parametrize("folder", [True, False], ids=["folder", "dangling link"])
def test_a_spec_is_a_file(unbuilt: Project, folder: bool) -> None:
    path = unbuilt.specs / "x.yaml"
    if folder:
        path.mkdir()
    else:
        path.symlink_to("nowhere")
    assert f"{path} is not a file" in unbuilt.run("build", code=2).stderr


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
    ("specs", "said"),
    [("nowhere", "there is no specs folder"), ("empty", "holds no spec"), ("file.yaml", "is a file, and no specs folder: name the folder it is in")],
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
    assert f" {place}" in unbuilt.run("build", code=2).stderr
    assert unbuilt.snapshot() == before


@pytest.mark.parametrize(
    ("template", "text", "said"),
    [
        ("docs/index.md.j2", b"{{ nowhere }}", "'nowhere' is undefined"),
        ("docs/index.md.j2", b"{{ modes[0][0].nowhere }}", "no attribute 'nowhere'"),
        ("docs/mode.md.j2", b"{% if %}", "Expected an expression"),
        ("docs/mode.md.j2", b"{% include 'nowhere.j2' %}", "'nowhere.j2' not found"),
        ("torch/init.py.j2", b"def (:", "did not render to Python"),
        ("docs/index.md.j2", b"{{ 1 / 0 }}", "division"),
        ("docs/index.md.j2", b"{{ 1 + 'a' }}", "TypeError"),
        ("docs/index.md.j2", b"\xff", "utf-8"),
    ],
)
def test_a_broken_template(unbuilt: Project, template: str, text: bytes, said: str) -> None:
    file = unbuilt.templates / template
    file.parent.mkdir(parents=True)
    file.write_bytes(text)
    error = unbuilt.run("build", code=2).stderr
    assert f"template {template}" in error and said in error
    assert not unbuilt.output.exists()


@pytest.mark.parametrize(
    ("templates", "said"),
    [("nowhere", "there is no templates folder {}"), ("specs/gate.yaml", "{} is a file, and no templates folder")],
)
def test_wrong_templates_folder(unbuilt: Project, monkeypatch: pytest.MonkeyPatch, templates: str, said: str) -> None:
    said = said.format(unbuilt.root / templates)
    assert said in unbuilt.run("build", "--templates", str(unbuilt.root / templates), code=2).stderr
    (unbuilt.root / "pyproject.toml").write_text(f"[tool.sparank-gen]\ntemplates = '{templates}'\n")
    monkeypatch.chdir(unbuilt.root)
    assert said in invoke("check", code=2).stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[tool.sparank-gen]\nspec = 'specs'", "no key 'spec'; the keys are"),
        ("[tool.sparank-gen]\ndefault-mode = 'gat'", "default-mode = 'gat' is not a mode"),
        ("[tool.sparank-gen]\ndefault-mode = 3", "default-mode must be text, found 3"),
        ("[tool.sparank-gen]\npositional = ['heads']", "no mode has a hyper-parameter 'heads'"),
        ("[tool.sparank-gen]\npositional = 'heads'", "positional must be a list"),
        ("[tool.sparank-gen]\npackage = 'my-package'", "'my-package' is not an import name"),
        ("[tool.sparank-gen]\npackage = 'class'", "not an import name"),
        ("[tool.sparank-gen", "is not TOML"),
        ("[tool]\nsparank-gen = 3", "must be a table, found 3"),
        ("[tool]\nsparank-gen = []", "must be a table, found []"),
        ("tool = 3", "tool must be a table, found 3"),
        ('[tool.sparank-gen]\noutput = "a\\u0000b"', "output must be text"),
    ],
)
def test_wrong_configuration(unbuilt: Project, monkeypatch: pytest.MonkeyPatch, text: str, said: str) -> None:
    (unbuilt.root / "pyproject.toml").write_text(f"{text}\n")
    monkeypatch.chdir(unbuilt.root)
    error = invoke("build", code=2).stderr
    assert said in error and error.count("\n") == 1
    assert not unbuilt.output.exists()


def test_positional_twice(unbuilt: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(REPOSITORY / "specs" / "attention.yaml", unbuilt.specs)
    (unbuilt.root / "pyproject.toml").write_text("[tool.sparank-gen]\npositional = ['attn_heads', 'attn_heads']\n")
    monkeypatch.chdir(unbuilt.root)
    assert "'attn_heads' more than once" in invoke("build", code=2).stderr


def test_the_process_says_what_the_command_says(unbuilt: Project) -> None:
    """Exit codes and streams of ``python -m sparank_gen``: an unknown option, and an error of the input."""
    for arguments, said in ((["build", "--fast"], "--fast"), (["build", "nowhere"], "error: there is no specs folder")):
        command = [sys.executable, "-m", "sparank_gen", *arguments]
        run = subprocess.run(command, check=False, cwd=unbuilt.root, capture_output=True, text=True)
        assert (run.returncode, run.stdout) == (2, "")
        assert said in run.stderr and "Traceback" not in run.stderr


@pytest.mark.parametrize(
    "summary",
    [
        'Has """ quotes',
        r"Has \sum in it",
        "One | two",
        "Größe × Maß, it's #1: {{ 7 * 7 }} {% raw %}",
    ],
)
def test_awkward_text_in_a_spec(unbuilt: Project, summary: str) -> None:
    quoted = summary.replace("'", "''")
    unbuilt.edit("specs/gate.yaml", "summary: Per-dimension softmax gating across modalities.", f"summary: '{quoted}'")
    unbuilt.run("build")
    for path in unbuilt.output.rglob("*.py"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            compile(path.read_text(encoding="utf-8"), str(path), "exec")
    assert summary in (unbuilt.output / "docs" / "gate.md").read_text(encoding="utf-8")
    index = (unbuilt.output / "docs" / "README.md").read_text(encoding="utf-8")
    (row,) = (line for line in index.splitlines() if "gate.md" in line)
    assert row.replace(r"\|", "").count("|") == 8


def test_a_property_on_several_lines(unbuilt: Project) -> None:
    written = "  - |\n    sum[m](\n      g[m,i]\n    ) == 1\n"
    unbuilt.edit("specs/gate.yaml", "  - sum[m](g[m,i]) == 1\n", written)
    unbuilt.run("build")
    text = (unbuilt.output / "tests" / "test_gate.py").read_text(encoding="utf-8")
    compile(text, "test_gate.py", "exec")
    assert ', "sum[m]( g[m,i] ) == 1")\n' in text
