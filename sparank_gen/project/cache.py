"""What makes a second check or build fast: the fingerprints of all outputs, remembered for one state of all inputs, and the
files of each mode, remembered for one state of what they depend on.

The cache lives outside the project, in the folder that ``SPARANK_GEN_CACHE`` names or in the user's cache folder.
It only ever saves work: a missing or damaged entry means that everything is computed again.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import sys
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from sparank_gen.project.config import Config, library_files, spec_files
from sparank_gen.project.files import MANIFEST, digest, read_manifest, read_text
from sparank_gen.project.templates import template_folders
from sparank_gen.project.writing import write_atomically

LIBRARIES = ("black", "jinja2", "numpy", "pyyaml")
# How many states of all inputs are kept, and how many modes with their files, of some 30 KB each.
KEPT, KEPT_TEXTS = 64, 2048
TEXTS = "texts"


def cache_folder() -> Path:
    """The folder that entries are kept in."""
    given = os.environ.get("SPARANK_GEN_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sparank-gen"


def state_key(config: Config) -> str:
    """A fingerprint of everything that the generated text depends on."""
    state = _generator(config)
    _take_in(state, "specs", config.specs, [*spec_files(config.specs), *library_files(config.specs)])
    state.update(repr((config.specs.name, config.default_mode, config.positional)).encode())
    return state.hexdigest()


def shared_state(config: Config) -> hashlib._Hash:
    """The beginning of the fingerprints of all modes: what their files depend on beside their specs."""
    state = _generator(config)
    _take_in(state, "library", config.specs, library_files(config.specs))
    return state


def mode_keys(common: hashlib._Hash, specs: Iterable[tuple[str, Sequence[str]]]) -> list[str]:
    """A fingerprint for each spec, of everything that the files of its mode depend on.

    Args:
        common: what all depend on.
        specs: of each spec, the path that files name it by, and its lines.
    """
    keys = []
    for path, lines in specs:
        state = common.copy()
        state.update("\n".join((path, *lines)).encode(errors="surrogateescape"))
        keys.append(state.hexdigest())
    return keys


def _generator(config: Config) -> hashlib._Hash:
    """The beginning of a fingerprint: what turns a spec into text."""
    state = hashlib.sha256()
    package = Path(__file__).resolve().parents[1]
    _take_in(state, "generator", package, sorted(package.rglob("*.py")))
    for folder in template_folders(config.templates):
        _take_in(state, "templates", folder, _files_below(folder))
    state.update(repr((config.package, [importlib.metadata.version(name) for name in LIBRARIES], sys.version_info[:3])).encode())
    return state


def _take_in(state: hashlib._Hash, label: str, folder: Path, paths: Iterable[Path]) -> None:
    """Add files below a folder, with their names, to a fingerprint."""
    state.update(f"{label}\0".encode())
    for path in paths:
        entry = f"{path.relative_to(folder).as_posix()}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\0"
        state.update(entry.encode(errors="surrogateescape"))


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
    try:
        write_atomically(cache_folder() / f"{key}.json", json.dumps({path: digest(text) for path, text in files.items()}))
        _keep_newest(cache_folder(), "*.json", KEPT)
    except OSError:
        # A cache that cannot be written costs time, nothing else.
        return


def remember_texts(made: Mapping[str, Mapping[str, str]]) -> None:
    """Keep generated files as they are, those of each key together."""
    folder = cache_folder() / TEXTS
    try:
        for key, files in made.items():
            text = json.dumps(files)
            write_atomically(folder / f"{key}.z", zlib.compress(f"{digest(text)}\n{text}".encode()))
        if made:
            _keep_newest(folder, "*.z", KEPT_TEXTS)
    except OSError:
        return


def remembered_texts(key: str) -> dict[str, str] | None:
    """The generated files that were kept for a key, or None."""
    try:
        path = cache_folder() / TEXTS / f"{key}.z"
        fingerprint, text = zlib.decompress(path.read_bytes()).decode().split("\n", 1)
        if digest(text) != fingerprint:
            return None
        found: dict[str, str] = json.loads(text)
        # What is used stays.
        os.utime(path)
    except (OSError, ValueError, zlib.error):
        return None
    return found


def _keep_newest(folder: Path, pattern: str, count: int) -> None:
    """Remove all entries of a folder but the newest."""
    entries = sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in entries[count:]:
        path.unlink(missing_ok=True)


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
