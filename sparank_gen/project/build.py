"""The two commands of a project: bring the output up to date, or say what differs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sparank_gen.project import cache
from sparank_gen.project.config import Config, UsageError
from sparank_gen.project.files import (
    MANIFEST,
    Difference,
    compare,
    digest,
    manifest_text,
    read_manifest,
    read_text,
    with_our_header,
)
from sparank_gen.project.writing import check_writable, write


@dataclass(frozen=True)
class GoldenMove:
    """Golden outputs that the specs no longer give; ``distance`` is None where their sizes or cases differ."""

    path: str
    distance: float | None


@dataclass(frozen=True)
class Outcome:
    """What a build or a check found."""

    files: int
    differences: tuple[Difference, ...]
    golden_moves: tuple[GoldenMove, ...]

    @property
    def is_clean(self) -> bool:
        return not self.differences and not self.golden_moves


class HandEdited(UsageError):
    """Files that a build would overwrite were edited by hand."""

    def __init__(self, differences: tuple[Difference, ...]) -> None:
        super().__init__("generated files were edited by hand; nothing was written. Put the change into a spec or a template, or overwrite with --force")
        self.differences = differences


def build(config: Config, force: bool = False, update_goldens: bool = False, jobs: int | None = None) -> Outcome:
    """Compute everything, then write what changed and remove what is stale.

    Args:
        config: the project.
        force: overwrite files that were edited by hand.
        update_goldens: take over golden outputs that moved.
        jobs: the most processes to use at a time; one for each core by default.

    Raises:
        HandEdited: when there are edited files and no ``force``; nothing is written.
        SpecErrors, UsageError: when the input is wrong; nothing is written.
    """
    key = cache.state_key(config)
    known = _remembered(key, config)
    if known is not None:
        return known
    files, moves = settle_goldens(config, _generate(config, jobs), update_goldens)
    differences = [difference for difference in compare(config.output, files) if difference.kind != "orphan"]
    edited = tuple(difference for difference in differences if difference.kind == "edited")
    if edited and not force:
        raise HandEdited(edited)
    if differences or read_text(config.output / MANIFEST) != manifest_text(files):
        check_writable(config.output, [*(difference.path for difference in differences), MANIFEST])
        write(config.output, files, differences)
    if not moves:
        _remember(key, config, files)
    return Outcome(len(files), tuple(differences), tuple(moves))


def check(config: Config, jobs: int | None = None) -> Outcome:
    """Say what differs between the specs and the output, in at most so many processes; write nothing there."""
    key = cache.state_key(config)
    known = _remembered(key, config)
    if known is not None:
        return known
    files, moves = settle_goldens(config, _generate(config, jobs), False)
    outcome = Outcome(len(files), tuple(compare(config.output, files)), tuple(moves))
    if outcome.is_clean:
        _remember(key, config, files)
    return outcome


def _remember(key: str, config: Config, files: Mapping[str, str]) -> None:
    """Keep that ``files`` are what the inputs say, unless these changed after their ``key`` was made, and before they were read."""
    if cache.state_key(config) == key:
        cache.remember(key, {**files, MANIFEST: manifest_text(files)})


def _remembered(key: str, config: Config) -> Outcome | None:
    """That nothing differs, where it is remembered that files are what the specs say, and no other has our header."""
    owned = cache.agreeing_files(key, config.output)
    if owned is None or any(path not in owned for path in with_our_header(config.output)):
        return None
    return Outcome(len(owned), (), ())


def _generate(config: Config, jobs: int | None) -> dict[str, str]:
    # Imported here so that a check of an unchanged project need not load the compiler.
    from sparank_gen.project.generate import generate

    return generate(config, jobs)


def settle_goldens(config: Config, files: Mapping[str, str], update: bool) -> tuple[dict[str, str], list[GoldenMove]]:
    """Keep golden files as the last build wrote them: for good where the numbers agree, and for now where they moved.

    One that is not as the last build wrote it was edited by hand, as any other file can be.

    Returns:
        The files to write, and the golden files whose numbers moved.
    """
    from sparank_gen.backends.tests.golden import TOLERANCE, largest_move
    from sparank_gen.project.generate import golden_path

    settled, moves = dict(files), []
    owned = read_manifest(config.output)
    for path in filter(golden_path, files):
        disk = read_text(config.output / path)
        if disk is None or disk == files[path] or digest(disk) not in owned.get(path, ()):
            continue
        distance = largest_move(disk, files[path])
        if distance is not None and distance <= TOLERANCE:
            settled[path] = disk
            continue
        moves.append(GoldenMove(path, distance))
        if not update:
            settled[path] = disk
    return settled, moves
