"""What makes a second check fast: the fingerprints of all outputs, remembered for one state of all inputs.

The cache lives outside the project, in the folder that ``SPARANK_GEN_CACHE`` names or in the user's cache folder.
It only ever saves work: a missing or damaged entry means that everything is computed again.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from sparank_gen.project.config import Config
from sparank_gen.project.files import digest, read_text, write_atomically
from sparank_gen.project.templates import template_folders

LIBRARIES = ("black", "jinja2", "numpy", "pyyaml")
KEPT = 64


def cache_folder() -> Path:
    """The folder that entries are kept in."""
    given = os.environ.get("SPARANK_GEN_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sparank-gen"


def state_key(config: Config) -> str:
    """A fingerprint of everything that the generated text depends on."""
    state = hashlib.sha256()
    package = Path(__file__).resolve().parents[1]
    sources: list[tuple[str, Iterable[Path]]] = [
        ("generator", sorted(package.rglob("*.py"))),
        *(("templates", sorted(folder.rglob("*.j2"))) for folder in template_folders(config.templates)),
        ("specs", sorted(path for path in config.specs.iterdir() if path.suffix in (".yaml", ".yml"))),
    ]
    for label, paths in sources:
        for path in paths:
            state.update(f"{label}\0{path.name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\0".encode())
    state.update(repr((config.specs.name, config.package, config.default_mode, config.positional)).encode())
    state.update(repr([importlib.metadata.version(name) for name in LIBRARIES]).encode())
    state.update(repr(sys.version_info[:3]).encode())
    return state.hexdigest()


def remember(key: str, files: Mapping[str, str]) -> None:
    """Keep the fingerprints of all outputs for this state of the inputs."""
    folder = cache_folder()
    try:
        write_atomically(folder / f"{key}.json", json.dumps({path: digest(text) for path, text in files.items()}))
        entries = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in entries[KEPT:]:
            path.unlink(missing_ok=True)
    except OSError:
        # A cache that cannot be written costs time, nothing else.
        return


def is_current(key: str, output: Path) -> bool:
    """Whether the output folder holds exactly what a known state of the inputs produces."""
    try:
        wanted = json.loads((cache_folder() / f"{key}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if not isinstance(wanted, dict):
        return False
    return all(text is not None and digest(text) == value for text, value in ((read_text(output / p), v) for p, v in wanted.items()))
