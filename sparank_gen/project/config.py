"""Where a project's specs, templates and output are, and how its package presents itself."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TABLE = "sparank-gen"


class UsageError(Exception):
    """The call or the project's configuration is wrong; the message says what to do."""


@dataclass(frozen=True)
class Config:
    """One project.

    Attributes:
        specs: the folder of the spec files.
        output: the folder that generated files are written to.
        package: the import name of the generated package.
        default_mode: the mode that ``FusionLayer`` uses when none is named, or None.
        positional: the hyper-parameters that ``FusionLayer`` takes by position, in order.
        templates: a folder whose templates replace the shipped ones of the same name, or None.
    """

    specs: Path
    output: Path
    package: str = "sparank_fusion"
    default_mode: str | None = None
    positional: tuple[str, ...] = ()
    templates: Path | None = None

    def shown(self, spec: Path) -> str:
        """A spec's path as errors and headers show it: the same from every working directory."""
        return f"{self.specs.name}/{spec.name}"


def load_config(specs: Path | None, output: Path | None, templates: Path | None) -> Config:
    """The configuration that applies here: options first, then ``pyproject.toml``, then defaults.

    Args:
        specs, output, templates: what the command line says, if anything.

    Raises:
        UsageError: when the configuration is malformed or the specs folder is missing.
    """
    root, table = (None, {}) if specs is not None else _find_table(Path.cwd())
    base = root or Path.cwd()

    def path(key: str, given: Path | None, default: str | None) -> Path | None:
        if given is not None:
            return given
        value = table.get(key, default)
        return None if value is None else base / _text(key, value)

    found = path("specs", specs, "specs")
    assert found is not None
    if not found.is_dir():
        raise UsageError(f"there is no specs folder {found}: name one, as in 'sparank-gen build my_specs'")
    # Specs named on the command line are a project of their own: their output goes beside them.
    target = output or (path("output", None, "generated") if specs is None else specs.parent / "generated")
    assert target is not None
    package = _text("package", table.get("package", "sparank_fusion"))
    if not package.isidentifier():
        raise UsageError(f"[tool.{TABLE}] package = {package!r} is not an import name")
    positional = table.get("positional", [])
    if not isinstance(positional, list) or not all(isinstance(name, str) for name in positional):
        raise UsageError(f"[tool.{TABLE}] positional must be a list of hyper-parameter names")
    default_mode = table.get("default-mode")
    return Config(
        specs=found,
        output=target,
        package=package,
        default_mode=None if default_mode is None else _text("default-mode", default_mode),
        positional=tuple(positional),
        templates=path("templates", templates, None),
    )


def _find_table(start: Path) -> tuple[Path | None, dict[str, Any]]:
    """The nearest ``pyproject.toml`` at or above ``start`` that configures us, and its table."""
    known = {"specs", "output", "package", "default-mode", "positional", "templates"}
    for folder in (start, *start.parents):
        file = folder / "pyproject.toml"
        if not file.is_file():
            continue
        try:
            table = tomllib.loads(file.read_text(encoding="utf-8")).get("tool", {}).get(TABLE)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{file} is not TOML: {error}") from None
        if table is None:
            continue
        unknown = set(table) - known
        if unknown:
            raise UsageError(f"{file}: [tool.{TABLE}] has no key {min(unknown)!r}; the keys are {', '.join(sorted(known))}")
        return folder, table
    return None, {}


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise UsageError(f"[tool.{TABLE}] {key} must be text, found {value!r}")
    return value
