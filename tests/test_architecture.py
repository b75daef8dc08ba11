"""The stages of the compiler: what each may read, so that data flows one way."""

from __future__ import annotations

import ast
from pathlib import Path

import sparank_gen

PACKAGE = Path(sparank_gen.__file__).parent
# From first to last; a stage reads those before it, and itself.
STAGES = (
    "spec",
    "lang",
    "ir",
    "formulas",
    "trial",
    "plan",
    "backends.code",
    "backends.torch",
    "backends.triton",
    "backends.tests",
    "backends.docs",
    "project",
    "cli",
)


def stage_of(module: str) -> str | None:
    path = module.removeprefix("sparank_gen.")
    return next((stage for stage in STAGES if path == stage or path.startswith(f"{stage}.")), None)


def imports(path: Path) -> set[str]:
    """The modules of the package that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith("sparank_gen"):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("sparank_gen")}
    return found


def test_each_stage_reads_earlier_ones_alone() -> None:
    files = {path: ".".join(("sparank_gen", *path.relative_to(PACKAGE).with_suffix("").parts)) for path in PACKAGE.rglob("*.py")}
    own = {module for path, module in files.items() if path.name not in ("__init__.py", "__main__.py")}
    assert {module for module in own if stage_of(module) is None} == set(), "a file that belongs to no stage"
    wrong = []
    for path, module in files.items():
        if module in own:
            stage = STAGES.index(str(stage_of(module)))
            read = {other: stage_of(other) for other in imports(path)}
            wrong += [f"{module} reads {other}" for other, place in read.items() if place is not None and STAGES.index(place) > stage]
    assert wrong == []


def test_backends_do_not_read_each_other_in_a_circle() -> None:
    """The order in ``STAGES`` allows no circle; beside that, pages know nothing of code, nor code of pages."""
    pages = [path for path in (PACKAGE / "backends" / "docs").glob("*.py")]
    assert not any(stage_of(module) in ("backends.torch", "backends.triton", "backends.tests") for path in pages for module in imports(path))
