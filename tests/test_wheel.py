"""The installed wheel, away from this repository: it compiles a user's own mode, and the generated tests of that pass."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SPEC = """\
version: 1
mode: tanh_contrast
summary: The mean of the modalities, and a gated and scaled difference of the first two.
modalities: "2..3"
axes: {i: dim, j: dim}
hyperparameters:
  strength: {type: int, default: 2, help: How much the difference counts.}
params:
  proj: {module: Linear, weight: "A[i,j]", bias: "a[i]"}
math: |
  gap[i]  = h[0,i] - h[1,i]
  gate[i] = tanh(sum[j](A[i,j] * gap[j]) + a[i])
  out[i]  = mean[m](h[m,i]) + strength * gate[i] * gap[i]
weights: "gate[b,i]"
properties:
  - gate[i] <= 1
  - gate[i] >= -1
"""
TEMPLATE = "{{ header }}\n\n# Our page of {{ file.mode.name }}\n\n{% for f in page.formulas %}    {{ f }}\n{% endfor %}"


@dataclass(frozen=True)
class Installed:
    """A wheel, unpacked as pip does, and a folder that has nothing to do with the repository."""

    wheel: Path
    site: Path
    elsewhere: Path

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Python in the unrelated folder, with the installed wheel first on its path."""
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.site),
            "SPARANK_GEN_CACHE": str(self.elsewhere / "cache"),
            "OMP_NUM_THREADS": "1",
        }
        return subprocess.run(
            [sys.executable, *arguments], check=False, cwd=self.elsewhere, env=environment, capture_output=True, text=True
        )


def run_module(*arguments: str) -> None:
    """Run a module of this Python as a program, without a network."""
    environment = {**os.environ, "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    run = subprocess.run([sys.executable, "-m", *arguments], check=False, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, f"{run.stdout}{run.stderr}"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel of a copy of the sources, installed into a folder of its own."""
    root = tmp_path_factory.mktemp("wheel")
    source, elsewhere = root / "source", root / "elsewhere"
    source.mkdir()
    elsewhere.mkdir()
    for name in ("pyproject.toml", "README.md", ".gitignore"):
        shutil.copy(REPOSITORY / name, source)
    for name in ("sparank_gen", "templates", "specs", "generated", "tests"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    run_module("build", "--wheel", "--no-isolation", "--outdir", str(root / "dist"), str(source))
    (wheel,) = (root / "dist").glob("*.whl")
    run_module("pip", "install", "--quiet", "--no-deps", "--target", str(root / "site"), str(wheel))
    return Installed(wheel, root / "site", elsewhere)


@pytest.fixture(scope="module")
def compiled(installed: Installed) -> Path:
    """The output of the installed compiler for a user's mode, with a page template of the user's own."""
    specs, template = installed.elsewhere / "my_specs", installed.elsewhere / "my_templates" / "docs" / "mode.md.j2"
    specs.mkdir()
    template.parent.mkdir(parents=True)
    (specs / "contrast.yaml").write_text(SPEC, encoding="utf-8")
    template.write_text(TEMPLATE, encoding="utf-8")
    run = installed.python("-m", "sparank_gen", "build", "my_specs", "--output", "out", "--templates", "my_templates")
    assert run.returncode == 0, run.stderr
    return installed.elsewhere / "out"


def files_below(folder: Path) -> set[str]:
    found = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix() for path in found}


def test_wheel_holds_the_compiler_its_templates_and_the_package(installed: Installed) -> None:
    names = zipfile.ZipFile(installed.wheel).namelist()
    code = {name for name in names if ".dist-info/" not in name}
    expected = {f"sparank_gen/{name}" for name in files_below(REPOSITORY / "sparank_gen")}
    expected |= {f"sparank_gen/templates/{name}" for name in files_below(REPOSITORY / "templates")}
    expected |= {f"sparank_fusion/{name}" for name in files_below(REPOSITORY / "generated" / "sparank_fusion")}
    assert code == expected
    assert len(names) == len(set(names))


def test_the_installed_code_runs(installed: Installed) -> None:
    """What the other tests here run comes from the wheel, and not from the repository."""
    code = "import sparank_gen, sparank_fusion; print(sparank_gen.__file__, sparank_fusion.__file__, sep='\\n')"
    places = installed.python("-c", code).stdout.splitlines()
    assert places == [str(installed.site / name / "__init__.py") for name in ("sparank_gen", "sparank_fusion")]
    command = (installed.site / "bin" / "sparank-gen").read_text(encoding="utf-8")
    assert "from sparank_gen.cli import main" in command


def test_a_mode_of_the_user_passes_its_generated_tests(installed: Installed, compiled: Path) -> None:
    run = installed.python("-m", "pytest", "-q", "-p", "no:cacheprovider", str(compiled / "tests"))
    assert run.returncode == 0, run.stdout
    assert " passed" in run.stdout and "failed" not in run.stdout


def test_a_mode_of_the_user_is_a_layer(installed: Installed, compiled: Path) -> None:
    code = f"""
import sys
sys.path.insert(0, {str(compiled)!r})
import sparank_fusion, torch
assert sparank_fusion.__file__.startswith({str(compiled)!r})
assert sparank_fusion.list_modes() == ("tanh_contrast",)
layer = sparank_fusion.FusionLayer(4, 3, "tanh_contrast", strength=3)
h = [torch.randn(5, 4) for _ in range(3)]
out, info = layer(h, return_gates=True)
gap = h[0] - h[1]
gate = torch.tanh(layer.proj(gap))
torch.testing.assert_close(info["weights"], gate)
torch.testing.assert_close(out, sum(h) / 3 + 3 * gate * gap)
assert not any(name.startswith("sparank_gen") for name in sys.modules)
"""
    run = installed.python("-c", code)
    assert run.returncode == 0, run.stderr


def test_a_template_of_the_user_replaces_the_shipped_one(compiled: Path) -> None:
    page = (compiled / "docs" / "tanh_contrast.md").read_text(encoding="utf-8")
    header, _, title, *_ = page.splitlines()
    assert header == "<!-- Generated by sparank-gen from my_specs/contrast.yaml. Change that, then run: sparank-gen build -->"
    assert title == "# Our page of tanh_contrast"
    assert r"\tanh" in page
    assert "tanh_contrast" in (compiled / "docs" / "README.md").read_text(encoding="utf-8")


def test_check_of_the_installed_wheel(installed: Installed, compiled: Path) -> None:
    arguments = ("-m", "sparank_gen", "check", "my_specs", "--output", compiled.name, "--templates", "my_templates")
    assert [installed.python(*arguments).returncode for _ in range(2)] == [0, 0]
    shipped = installed.python(*arguments[:-2])
    assert shipped.returncode == 1 and "-# Our page of tanh_contrast" in shipped.stdout


def test_a_float_hyperparameter(installed: Installed) -> None:
    folder = installed.elsewhere / "float_specs"
    folder.mkdir()
    (folder / "contrast.yaml").write_text(SPEC.replace("type: int, default: 2", "type: float, default: 0.5"), encoding="utf-8")
    run = installed.python("-m", "sparank_gen", "build", "float_specs", "--output", "float_out")
    assert run.returncode == 0, run.stderr
