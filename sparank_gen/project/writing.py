"""Writing generated files: first whether all of it can be done, then only what changed."""

from __future__ import annotations

import glob
import os
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from sparank_gen.project.config import UsageError
from sparank_gen.project.files import MANIFEST, Difference, manifest_text, manifest_while_writing, read_text

NEW_SECONDS = 60


def check_writable(output: Path, paths: Iterable[str]) -> None:
    """Raise a UsageError unless files can be made at ``paths`` below the output folder, before anything is written."""
    folders = {_nearest_folder(output)}
    for path in map(output.joinpath, paths):
        if path.is_dir():
            raise UsageError(f"cannot write {path}: there is a folder of that name")
        folders.add(_nearest_folder(path.parent))
    for folder in sorted(folders):
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise UsageError(f"cannot write to {folder}: {error.strerror}") from None


def _nearest_folder(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that is there.

    Raises:
        UsageError: when something else stands in its place.
    """
    place = folder
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise UsageError(f"cannot write to {folder}: {place} is not a folder")
    return place


def write(output: Path, files: Mapping[str, str], differences: list[Difference]) -> None:
    """Bring the output folder up to date: write what differs, remove what is stale, then the manifest.

    Before that, the manifest says what is about to be written, so that nothing of a build that is cut short is taken for
    somebody else's.

    Raises:
        UsageError: when a file cannot be written.
    """
    try:
        if differences:
            _remove_leftovers(output, files)
            write_atomically(output / MANIFEST, manifest_while_writing(output, files))
        for difference in differences:
            path = output / difference.path
            if difference.path in files:
                write_atomically(path, files[difference.path])
            elif difference.kind in ("stale", "edited"):
                path.unlink()
                _remove_empty(path.parent, output)
        text = manifest_text(files)
        if read_text(output / MANIFEST) != text:
            write_atomically(output / MANIFEST, text)
    except OSError as error:
        raise UsageError(f"cannot write {error.filename or output}: {error.strerror}") from None


def _remove_leftovers(output: Path, files: Iterable[str]) -> None:
    """Remove what a build that was killed had not renamed yet; what is newer than a minute may be another's that runs."""
    for path in (output / MANIFEST, *map(output.joinpath, files)):
        for leftover in path.parent.glob(f".{glob.escape(path.name)}.????????"):
            if time.time() - leftover.stat().st_mtime > NEW_SECONDS:
                leftover.unlink(missing_ok=True)


def write_atomically(path: Path, text: str | bytes) -> None:
    """Write a file so that a reader sees the old content or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(text.encode() if isinstance(text, str) else text)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _remove_empty(folder: Path, top: Path) -> None:
    while folder != top and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent
