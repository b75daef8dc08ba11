"""Work on every item of a list, on all cores where the system can share memory between processes."""

from __future__ import annotations

import gc
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
Other = TypeVar("Other")

# New objects after which garbage is looked for. A compiler makes many that live long enough to be looked at again and
# again: with Python's own numbers that took two fifths of a build.
COLLECT_AFTER = (200_000, 20, 20)
# Items after which a worker is replaced: black, which is compiled, keeps what it has formatted until its process ends.
ITEMS_OF_A_WORKER = 8

# What forked workers do: they inherit it, since neither the function nor its items can be sent.
_work: Callable[[int], Any] | None = None


def _do(position: int) -> Any:
    assert _work is not None
    return _work(position)


def available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share(function: Callable[[int], T], count: int, meanwhile: Callable[[], Other], jobs: int | None) -> tuple[list[T], Other]:
    """``function`` of 0, 1, … ``count - 1``, in other processes where that pays, and ``meanwhile`` in this one.

    An error of either is raised here. Results are the same, in the same order, for any ``jobs``: the most processes
    to use at a time, or None for one for each core.
    """
    workers = min(jobs or available_cores(), count)
    if (workers < 2 and count <= ITEMS_OF_A_WORKER) or "fork" not in multiprocessing.get_all_start_methods():
        with _rare_collections():
            return [function(position) for position in range(count)], meanwhile()
    found: list[T] = []
    here: list[Other] = []
    with _work_of_workers(function):
        for start in range(0, count, workers * ITEMS_OF_A_WORKER):
            # Workers do not live long enough to collect garbage.
            with ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), gc.disable) as pool:
                coming = pool.map(_do, range(start, min(count, start + workers * ITEMS_OF_A_WORKER)))
                here = here or [meanwhile()]
                found += coming
    return found, here[0]


@contextmanager
def _rare_collections() -> Iterator[None]:
    usual = gc.get_threshold()
    gc.set_threshold(*COLLECT_AFTER)
    try:
        yield
    finally:
        gc.set_threshold(*usual)


@contextmanager
def _work_of_workers(function: Callable[[int], Any]) -> Iterator[None]:
    global _work
    _work = function
    try:
        yield
    finally:
        _work = None
