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
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from sparank_gen.project.config import Config, library_files, spec_files
from sparank_gen.project.files import MANIFEST, digest, read_manifest, read_text
from sparank_gen.project.templates import template_folders
from sparank_gen.project.writing import write_atomically

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
    sources: list[tuple[str, Path, Iterable[Path]]] = [
        ("generator", package, sorted(package.rglob("*.py"))),
        *(("templates", folder, _files_below(folder)) for folder in template_folders(config.templates)),
        ("specs", config.specs, [*spec_files(config.specs), *library_files(config.specs)]),
    ]
    for label, folder, paths in sources:
        state.update(f"{label}\0".encode())
        for path in paths:
            entry = f"{path.relative_to(folder).as_posix()}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\0"
            state.update(entry.encode(errors="surrogateescape"))
    state.update(repr((config.specs.name, config.package, config.default_mode, config.positional)).encode())
    state.update(repr([importlib.metadata.version(name) for name in LIBRARIES]).encode())
    state.update(repr(sys.version_info[:3]).encode())
    return state.hexdigest()


def _files_below(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Every file below a folder, in order, through symbolic links too unless they lead back to a folder above."""
    real = os.path.realpath(folder)
    if real in above:
        return
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from _files_below(path, above | {real})
        elif path.is_file():
            yield path


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


def agreeing_files(key: str, output: Path) -> Collection[str] | None:
    """The manifest's files, where the output folder holds exactly what a known state of the inputs produces; else None."""
    try:
        wanted = json.loads((cache_folder() / f"{key}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    owned = read_manifest(output).keys()
    if not isinstance(wanted, dict) or wanted.keys() != owned | {MANIFEST}:
        return None
    texts = ((read_text(output / path), value) for path, value in wanted.items())
    return owned if all(text is not None and digest(text) == value for text, value in texts) else None
