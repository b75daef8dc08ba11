"""Where a project's specs, templates and output are, and how its package presents itself."""

from __future__ import annotations

import keyword
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TABLE = "sparank-gen"
LIBRARY = "lib"
KEYS = frozenset({"specs", "output", "package", "default-mode", "positional", "templates"})
EXAMPLES = {"specs": "my_specs", "templates": "--templates my_templates"}


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
        return f"{self.specs.name}/{spec.relative_to(self.specs).as_posix()}"


def spec_files(folder: Path) -> list[Path]:
    """The spec files of a folder, in order; hidden ones, as editors leave them, are no specs.

    Raises:
        UsageError: when there is none, or when something else has a spec's name.
    """
    found = _yaml_files(folder)
    if not found:
        raise UsageError(f"{folder} holds no spec: add a .yaml file")
    return found


def library_files(specs: Path) -> list[Path]:
    """The files of shared functions beside the specs of a folder, in order. Raises as :func:`spec_files`."""
    folder = specs / LIBRARY
    return _yaml_files(folder) if folder.is_dir() else []


def _yaml_files(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.iterdir() if path.suffix in (".yaml", ".yml") and not path.name.startswith("."))
    for path in found:
        if not path.name.isprintable():
            raise UsageError(f"{path.name!r} in {folder} is no name that generated files can show: rename it")
        if not path.is_file():
            raise UsageError(f"{path} is not a file: a spec is one, so give it another name or remove it")
    return found


def load_config(specs: Path | None, output: Path | None, templates: Path | None) -> Config:
    """The configuration that applies here: options first, then ``pyproject.toml``, then defaults.

    Specs named on the command line are a project of their own, with their output beside them, unless a
    ``pyproject.toml`` at or above the working directory or the specs names them too.

    Args:
        specs, output, templates: what the command line says, if anything.

    Raises:
        UsageError: when the configuration is malformed or a folder is missing.
    """
    root, table = _find_table(Path.cwd()) if specs is None else _table_of(_folder("specs", specs))
    found = _folder("specs", specs or root / _text("specs", table.get("specs", "specs")))
    own = templates or (root / _text("templates", table["templates"]) if "templates" in table else None)
    default_mode = table.get("default-mode")
    return Config(
        specs=found,
        output=output or root / _text("output", table.get("output", "generated")),
        package=_package(table.get("package", "sparank_fusion")),
        default_mode=None if default_mode is None else _text("default-mode", default_mode),
        positional=_positional(table.get("positional", [])),
        templates=None if own is None else _folder("templates", own),
    )


def _folder(kind: str, path: Path) -> Path:
    """A folder of the input, with a name of its own even where it was given as ``.``."""
    if path.is_file():
        raise UsageError(f"{path} is a file, and no {kind} folder: name the folder it is in, {path.parent}")
    if not path.is_dir():
        raise UsageError(f"there is no {kind} folder {path}: name one, as in 'sparank-gen build {EXAMPLES[kind]}'")
    absolute = Path(os.path.abspath(path))
    if not absolute.name.isprintable():
        raise UsageError(f"{absolute.name!r} is no name that generated files can show: rename the folder")
    return absolute


def _table_of(specs: Path) -> tuple[Path, dict[str, Any]]:
    """The project that specs named on the command line belong to, and its table."""
    for start in (Path.cwd(), specs):
        root, table = _find_table(start)
        if table and (root / _text("specs", table.get("specs", "specs"))).resolve() == specs.resolve():
            return root, table
    return specs.parent, {}


def _find_table(start: Path) -> tuple[Path, dict[str, Any]]:
    """The folder of the nearest ``pyproject.toml`` at or above ``start`` that configures us, and its table."""
    for folder in (start, *start.parents):
        file = folder / "pyproject.toml"
        table = _read_table(file) if file.is_file() else None
        if table is not None:
            return folder, table
    return start, {}


def _read_table(file: Path) -> dict[str, Any] | None:
    """Our table of a ``pyproject.toml``; None where it has none."""
    try:
        tools = tomllib.loads(file.read_text(encoding="utf-8")).get("tool", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{file} is not TOML: {error}") from None
    if not isinstance(tools, dict):
        raise UsageError(f"{file}: tool must be a table, found {tools!r}")
    table = tools.get(TABLE)
    if table is None:
        return None
    if not isinstance(table, dict):
        raise UsageError(f"{file}: [tool.{TABLE}] must be a table, found {table!r}")
    unknown = set(table) - KEYS
    if unknown:
        raise UsageError(f"{file}: [tool.{TABLE}] has no key {min(unknown)!r}; the keys are {', '.join(sorted(KEYS))}")
    return table


def _package(value: Any) -> str:
    name = _text("package", value)
    if not name.isidentifier() or keyword.iskeyword(name):
        raise UsageError(f"[tool.{TABLE}] package = {name!r} is not an import name")
    return name


def _positional(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise UsageError(f"[tool.{TABLE}] positional must be a list of hyper-parameter names")
    twice = [name for name in value if value.count(name) > 1]
    if twice:
        raise UsageError(f"[tool.{TABLE}] positional has {twice[0]!r} more than once")
    return tuple(value)


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise UsageError(f"[tool.{TABLE}] {key} must be text, found {value!r}")
    return value
