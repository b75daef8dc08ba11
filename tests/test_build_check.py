"""Build and check through the command line: what is written, what is refused, what is found, and what is said."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from project_helper import REPOSITORY, Project, invoke

from sparank_gen.backends.tests.golden import TOLERANCE, largest_move
from sparank_gen.project import build
from sparank_gen.project.config import Config

Change = Callable[[Project], object]


def test_first_build_writes_everything(tmp_path: Path) -> None:
    project = Project(tmp_path)
    shutil.copytree(REPOSITORY / "specs", project.specs)
    lines = project.run("build").stdout.splitlines()
    files = set(project.snapshot())
    assert {f"wrote {path}" for path in files} == set(lines)
    assert set(json.loads((project.output / "manifest.json").read_text())["files"]) == files - {"manifest.json"}
    for mode in (path.stem for path in project.specs.glob("*.yaml")):
        assert {
            f"sparank_fusion/modes/{mode}.py",
            f"tests/test_{mode}.py",
            f"tests/golden/{mode}.json",
            f"docs/{mode}.md",
        } <= files


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
    package = {f"sparank_fusion/{name}.py" for name in ("kernels/modes/gate", "layer", "modes/gate")}
    assert touched == package | {"docs/README.md", "docs/gate.md"}
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
    package = {"sparank_fusion/kernels/modes/gate.py", "sparank_fusion/modes/gate.py"}
    stale = {*package, "docs/gate.md", "tests/golden/gate.json", "tests/test_gate.py"}
    assert {line.removeprefix("removed ") for line in lines if line.startswith("removed ")} == stale
    left = project.snapshot()
    assert not stale & set(left)
    assert {"docs/notes.md", "tests/golden/mine.json", "docs/old.md"} <= set(left)


def test_a_chain_too_deep_to_compile_is_an_error_at_its_spec(project: Project) -> None:
    chain = "".join(f"  x{k}[i] = tanh(x{k - 1}[i])\n" for k in range(1, 400))
    text = f"version: 1\nmode: deep\nsummary: s\nmodalities: 2\naxes: {{i: dim}}\nmath: |\n  x0[i] = h[0,i] + h[1,i]\n{chain}  out[i] = x399[i]\n"
    (project.specs / "deep.yaml").write_text(text)
    message = project.run("build", code=2).stderr
    assert "specs/deep.yaml:7:3: error[bad-syntax]: the definitions are nested too deeply" in message and "longest chain" in message


def test_edited_stale_files_are_refused_then_forced(project: Project) -> None:
    project.edit("generated/docs/gate.md", "# gate\n", "# mine\n")
    (project.specs / "gate.yaml").unlink()
    before = project.snapshot()
    refused = project.run("build", code=2).stdout
    assert "docs/gate.md was edited by hand" in refused and "-# mine" in refused
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
        "link/file.py",
    ],
)
@pytest.mark.parametrize("option", [(), ("--force",)], ids=["plain", "force"])
def test_a_manifest_reaches_nothing_outside(project: Project, entry: str, option: tuple[str, ...]) -> None:
    victim = project.root / "victim" / "file.py"
    victim.parent.mkdir()
    victim.write_text("mine\n")
    (project.output / "link").symlink_to(victim.parent)
    project.own(entry.format(root=project.root), b"mine\n")
    project.run("build", *option, code=None)
    assert victim.read_text() == "mine\n"


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"files": 3}', "\x00", '{"files": {"a\\u0000b": "0"}}'],
)
def test_damaged_manifest(project: Project, content: str) -> None:
    (project.output / "manifest.json").write_text(content)
    before = project.snapshot()
    project.run("build", code=2)
    assert project.snapshot() == before


def fail_after(project: Project, successes: int) -> Callable[[str, Path], None]:
    """``os.replace``, on a disk that is full after so many files of the output."""
    replace, calls = os.replace, []

    def failing(source: str, target: Path) -> None:
        calls.extend([target] if project.output in target.parents else [])
        if len(calls) > successes:
            raise OSError(28, "No space left on device")
        replace(source, target)

    return failing


@pytest.mark.parametrize("successes", [0, 1])
def test_a_failed_write_leaves_whole_files(project: Project, monkeypatch: pytest.MonkeyPatch, successes: int) -> None:
    before = project.snapshot()
    project.edit("specs/gate.yaml", "softmax gating", "soft gating")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail_after(project, successes))
        assert "No space left on device" in project.run("build", code=2).stderr
    after = project.snapshot()
    assert after.keys() == before.keys()
    assert sum(after[path] != before[path] for path in after) == successes
    project.run("build")
    project.run("check")
    assert project.snapshot().keys() == before.keys()


@pytest.mark.parametrize("successes", [1, 3, 8])
def test_what_a_build_that_was_cut_short_wrote_is_ours(
    project: Project, monkeypatch: pytest.MonkeyPatch, successes: int
) -> None:
    before = project.content()
    project.edit("specs/gate.yaml", "softmax gating", "soft gating")
    shutil.copy(REPOSITORY / "specs" / "mean.yaml", project.specs)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail_after(project, successes))
        project.run("build", code=2)
    project.edit("specs/gate.yaml", "soft gating", "softmax gating")
    (project.specs / "mean.yaml").unlink()
    project.run("build")
    assert project.content() == before
    project.run("check")


def test_an_edit_that_is_no_text_is_an_edit(project: Project) -> None:
    page = project.output / "docs" / "gate.md"
    page.write_bytes(page.read_bytes() + b"caf\xe9\n")
    assert "docs/gate.md was edited by hand" in project.run("check", code=1).stdout
    project.run("build", code=2)
    assert page.read_bytes().endswith(b"caf\xe9\n")
    (project.specs / "gate.yaml").unlink()
    project.run("build", code=2)
    project.run("build", "--force")
    assert not page.exists()


def test_links_that_lead_nowhere_are_passed_over(project: Project) -> None:
    (project.output / "sparank_fusion" / ".#layer.py").symlink_to("nobody@nowhere:1")
    (project.output / "sparank_fusion" / "gone.py").symlink_to("nowhere.py")
    project.run("check")
    project.run("build")


@pytest.mark.parametrize("command", ["build", "check"])
def test_a_spec_saved_while_it_is_compiled_is_not_remembered_as_another(
    project: Project, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """The state is that before the compiler read the specs; what was made of others is not what that state makes."""
    generate = build._generate

    def slow(config: Config, jobs: int | None) -> dict[str, str]:
        project.edit("specs/gate.yaml", "soft gating", "softmax gating")
        return generate(config, jobs)

    project.edit("specs/gate.yaml", "softmax gating", "soft gating")
    with monkeypatch.context() as patch:
        patch.setattr(build, "_generate", slow)
        project.run(command)
    project.edit("specs/gate.yaml", "softmax gating", "soft gating")
    assert "docs/gate.md is not what the specs say" in project.run("check", code=1).stdout


def golden_tests_pass(project: Project, modes: tuple[str, ...]) -> dict[str, bool]:
    """Whether the generated golden tests of each mode pass, in a process that knows the output folder alone."""
    files = [str(project.output / "tests" / f"test_{mode}.py") for mode in modes]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-rA",
        "-k",
        "golden",
        "--rootdir",
        str(project.root),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run([*command, *files], check=False, cwd=project.root, env=environment, capture_output=True, text=True)
    assert run.returncode in (0, 1), run.stdout
    outcomes = {mode: [line for line in run.stdout.splitlines() if f"test_{mode}.py::test_golden" in line] for mode in modes}
    assert all(outcomes.values()), run.stdout
    return {mode: not any(line.startswith("FAILED") for line in lines) for mode, lines in outcomes.items()}


def test_what_to_run_is_the_call_that_was_made(project: Project) -> None:
    project.edit("specs/gate.yaml", "softmax[m](logit[m,i])", "softmax[m](1.001 * logit[m,i])")
    own = f"sparank-gen build {project.specs} -o {project.output}"
    assert f"run: {own}\n" in project.run("check", "--output", str(project.output), code=1).stdout
    assert f"run: {own} --update-goldens\n" in project.run("build", "--output", str(project.output), code=1).stdout


def test_goldens_change_only_when_asked(project: Project) -> None:
    modes = ("gate", "attention")
    shutil.copy(REPOSITORY / "specs" / "attention.yaml", project.specs)
    project.run("build")
    goldens = {mode: project.output / "tests" / "golden" / f"{mode}.json" for mode in modes}
    before = {mode: golden.read_bytes() for mode, golden in goldens.items()}
    project.edit("specs/gate.yaml", "softmax[m](logit[m,i])", "softmax[m](1.001 * logit[m,i])")
    project.edit("specs/attention.yaml", "eps=1e-5", "eps=2e-5")
    project.edit("specs/attention.yaml", "module: LayerNorm,", "module: LayerNorm, arguments: {eps: 2e-5},")
    said = project.run("check", code=1).stdout
    assert "found tests/golden/gate.json: numbers moved by up to" in said and said.rstrip().endswith("--update-goldens")
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
    "edit",
    [lambda text: text.replace(" 0.", " 3.", 1), lambda text: text.replace("\n", " "), lambda text: "mine\n"],
    ids=["a number", "the layout", "all of it"],
)
@pytest.mark.parametrize("moved", [False, True], ids=["specs as before", "specs moved"])
def test_an_edited_golden_is_an_edited_file(project: Project, edit: Callable[[str], str], moved: bool) -> None:
    golden = project.output / "tests" / "golden" / "gate.json"
    good = golden.read_text()
    golden.write_text(edit(good))
    if moved:
        project.edit("specs/gate.yaml", "softmax[m](logit[m,i])", "softmax[m](1.001 * logit[m,i])")
    before = project.snapshot()
    for command, options, code in (("check", (), 1), ("build", (), 2), ("build", ("--update-goldens",), 2)):
        found = project.run(command, *options, code=code).stdout
        assert "tests/golden/gate.json was edited by hand\n--- tests/golden/gate.json (on disk)" in found
        assert "gate.json: numbers moved" not in found
        assert project.snapshot() == before
    project.run("build", "--force")
    project.run("check")
    assert (golden.read_text() == good) is not moved


@pytest.mark.parametrize("place", [".", "specs", "elsewhere"])
def test_specs_on_the_command_line_keep_their_configuration(
    project: Project, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (project.root / "pyproject.toml").write_text("[tool.sparank-gen]\ndefault-mode = 'gate'\noutput = 'made'\n")
    (project.root / "elsewhere").mkdir()
    if place == "elsewhere":
        shutil.copytree(project.specs, project.root / place / "specs")
    monkeypatch.chdir(project.root / place)
    before = project.snapshot()
    invoke("build", "." if place == "specs" else "specs", code=0)
    layer = project.root / ("elsewhere/generated" if place == "elsewhere" else "made") / "sparank_fusion" / "layer.py"
    assert ('= "gate",' in layer.read_text()) is (place != "elsewhere")
    assert "from specs/. " in layer.read_text().splitlines()[0]
    assert project.snapshot() == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[0.5, 0.5]", "[0.5, 0.7]"),
        ("[0.5, 0.5]", "[NaN, 0.5]"),
        ("[0.5, 0.5]", "[0.5, NaN]"),
        ("[0.5, NaN]", "[0.5]"),
    ],
)
def test_a_moved_golden_is_never_small(old: str, new: str) -> None:
    distance = largest_move(old, new)
    assert distance is None or not distance <= 0.1


@pytest.mark.parametrize(("old", "new"), [("[1234.56789012]", "[1234.56789013]"), ("[1.23456789012e+20]", "[1.23456789013e+20]")])
def test_a_last_digit_is_no_move(old: str, new: str) -> None:
    """Machines may differ in it, of numbers of any size."""
    distance = largest_move(old, new)
    assert distance is not None and 0 < distance <= TOLERANCE


def test_what_a_killed_build_left_is_removed(project: Project) -> None:
    project.run("build")
    left = [project.output / "docs" / ".gate.md.a1b2c3d4", project.output / ".manifest.json.a1b2c3d4"]
    fresh, other = project.output / "docs" / ".gate.md.e5f6a7b8", project.output / "docs" / ".notes.a1b2c3d4"
    for path in (*left, fresh, other):
        path.write_text("half a file")
    for path in (*left, other):
        os.utime(path, (0, 0))
    project.edit("specs/gate.yaml", "Per-dimension", "Dimensionwise")
    project.run("build")
    assert not any(path.exists() for path in left) and fresh.exists() and other.exists()


@pytest.mark.parametrize("name", ["new\nline.yaml", "\udcff.yaml"])
def test_names_of_specs_are_printable(project: Project, name: str) -> None:
    shutil.copy(project.specs / "gate.yaml", project.specs / name)
    assert "is no name that generated files can show" in project.run("build", code=2).stderr


def test_an_empty_option_is_an_error(project: Project) -> None:
    assert "--output is empty" in project.run("check", "--output", "", code=2).stderr
