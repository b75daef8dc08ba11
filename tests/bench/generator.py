"""Time of `sparank-gen check`: cold against black alone on the same files, and warm with nothing changed.

Every run is a fresh process, timed by the wall clock from start to exit. A cold check starts from an empty
cache, a warm one from the cache that a check just left. SPARANK_GEN_CACHE names the folder of the cache.

Black alone is `black --check` with the check's own options, with one worker, since the check has one process
too, and no cache, on copies of the generated Python files. It parses, formats and compares them as the check
does, and writes nothing; the files being formatted already, it skips its safety checks.

Checks and black take turns. The ratio is the median over rounds of the ratios within a round, which a slow
spell of a shared machine does not move. The exit code is 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from sparank_gen.project.generate import LINE_LENGTH

REPOSITORY = Path(__file__).resolve().parents[2]
GENERATED = REPOSITORY / "generated"
CHECK = (str(Path(sys.executable).with_name("sparank-gen")), "check")
BLACK = (sys.executable, "-m", "black", "--quiet", "--check", "--no-cache", "--workers=1")
BLACK_OPTIONS = (f"--line-length={LINE_LENGTH}", "--target-version=py310")
COLD_OVER_BLACK = 1.5  # most that a cold check may take, in times of black alone
WARM_SECONDS = 0.5  # most that a warm check may take


class Round(NamedTuple):
    """Wall times of one round, in seconds."""

    cold: float
    warm: float
    black: float


def wall_time(command: Sequence[str], **environment: str) -> float:
    """Seconds from start to exit of a process that must end with code 0."""
    start = time.perf_counter()
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        output = done.stdout + done.stderr
        raise SystemExit(f"{' '.join(command)} ended with code {done.returncode}:\n{output}")
    return seconds


def time_checks() -> tuple[float, float]:
    """Seconds of a cold check and of the warm check after it."""
    with TemporaryDirectory() as cache:
        return wall_time(CHECK, SPARANK_GEN_CACHE=cache), wall_time(CHECK, SPARANK_GEN_CACHE=cache)


def time_black(sources: Path) -> float:
    """Seconds that black takes to format the copies in `sources`."""
    return wall_time((*BLACK, *BLACK_OPTIONS, str(sources)))


def time_round(sources: Path, black_first: bool) -> Round:
    """One round, in one of its two orders."""
    if black_first:
        black = time_black(sources)
        return Round(*time_checks(), black)
    return Round(*time_checks(), time_black(sources))


def copy_python_files(target: Path) -> int:
    """Copy the generated Python files, keeping their layout, and count them."""
    files = sorted(GENERATED.rglob("*.py"))
    for file in files:
        copy = target / file.relative_to(GENERATED)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    return len(files)


def measure(rounds: int) -> list[Round]:
    """The rounds, after one that is not counted and warms the file system."""
    with TemporaryDirectory() as folder:
        sources = Path(folder)
        count = copy_python_files(sources)
        print(f"sparank-gen check of {count} generated Python files; medians of {rounds} rounds")
        time_round(sources, black_first=True)
        return [time_round(sources, black_first=number % 2 == 0) for number in range(rounds)]


def judge(what: str, measured: float, most: float) -> bool:
    """Whether a figure as printed is at most `most`; prints a line that says so."""
    reached = round(measured, 2) <= most
    print(f"{'reached' if reached else 'MISSED':>8}  {what}: {measured:.2f} (target: at most {most:.2f})")
    return reached


def report(measured: Sequence[Round]) -> bool:
    """Print medians and verdicts; whether both targets are reached."""
    cold, warm, black = (statistics.median(seconds) for seconds in zip(*measured, strict=True))
    ratio = statistics.median(r.cold / r.black for r in measured)
    print(f"  cold check   {cold:6.2f} s\n  black alone  {black:6.2f} s\n  warm check   {warm:6.2f} s\n")
    reached = [
        judge("cold check ÷ black alone", ratio, COLD_OVER_BLACK),
        judge("warm check in seconds", warm, WARM_SECONDS),
    ]
    return all(reached)


def main() -> int:
    """Measure and judge; 0 if both targets are reached, else 1."""
    parser = argparse.ArgumentParser(description="Time `sparank-gen check` against black alone.")
    parser.add_argument("--rounds", type=int, default=7, help="rounds that are counted (default 7)")
    return 0 if report(measure(parser.parse_args().rounds)) else 1


if __name__ == "__main__":
    sys.exit(main())
