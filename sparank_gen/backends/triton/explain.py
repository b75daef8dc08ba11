"""The plan of a mode's kernels in words: which schedules there are, which one a call takes, and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sparank_gen.backends.triton.file import KernelFile
from sparank_gen.backends.triton.steps import Schedules, Step


@dataclass(frozen=True)
class Way:
    """One schedule of a pass.

    Attributes:
        name: forward or backward.
        schedule: the schedule.
        kernels: the kernels that it launches, in order.
        products: who computes the matrix products.
    """

    name: str
    schedule: str
    kernels: tuple[str, ...]
    products: str


def ways(file: KernelFile) -> tuple[Way, ...]:
    """Every schedule of the forward and the backward pass."""
    return tuple(
        Way(name, schedule, tuple(step.kernel.name for step in steps if step.kernel is not None), _products(found, steps))
        for name, found in (("forward", file.forward), ("backward", file.backward))
        for schedule, steps in (
            ("resident", (found.resident,)),
            ("columns", found.columns),
            ("split", (*found.again, *found.split)),
        )
        if steps
    )


def _products(found: Schedules, steps: Sequence[Step]) -> str:
    if not found.split:
        return "none"
    library, again, all_of_them = map(_count, (steps, found.again, (*found.again, *found.split)))
    inside = all_of_them - library
    again = again if library and not inside else 0
    places = (inside, "in kernels"), (library - again, "by the library"), (again, "more unless kept")
    return " and ".join(f"{count} {where}" for count, where in places if count)


def _count(steps: Iterable[Step]) -> int:
    """How many matrix products the library computes."""
    return sum(len(step.products) for step in steps)


def rest(file: KernelFile) -> tuple[tuple[tuple[str, ...], str], ...]:
    """What torch computes after the backward pass's kernels, and why it is no kernel's work."""
    reasons = {
        True: "products over the batch of two tensors in memory, which the library's matrix product does best",
        False: "sums of what tiles of rows leave, added in one order so that results do not vary",
    }
    groups = {why: tuple(name for name, is_product in file.rest.names if is_product is kind) for kind, why in reasons.items()}
    return tuple((names, why) for why, names in groups.items() if names)


def choices(file: KernelFile, made: Any) -> Iterator[str]:
    """A sentence for each pass: how it runs, and what that was decided by; and for what one keeps for the other.

    Args:
        file: the mode's kernels.
        made: the package's ``Recording`` of both passes.
    """
    remaining = iter(made.choices)
    without = [(keeping.schedule, keeping.then) for keeping in made.keepings] or [("", "")]
    for name, found, own in zip(("forward", "backward"), (file.forward, file.backward), without[0], strict=True):
        choice = next(remaining) if found.split else None
        if choice is None:
            why = "resident: it has no matrix products"
        elif choice.kept and own != choice.schedule:
            why = f"{choice.schedule}, and not {own}: products are kept from one pass to the next"
        else:
            why = _why(choice, bool(found.columns))
        yield f"{file.mode.name} {name}: {why}"
    for keeping in made.keepings:
        yield f"{file.mode.name} {_what_is_kept([product.name for product in file.kept], keeping)}"


def _what_is_kept(products: Sequence[str], keeping: Any) -> str:
    names = ", ".join(products)
    why = {
        "resident": f"the backward pass is {keeping.then}, and {'has' if keeping.kept else 'does not have'} {names} in memory",
        "columns": f"tiles of columns gain {keeping.gained:,.0f} bytes a row",
        "split": "in memory in any case",
    }[keeping.schedule]
    again = f"to compute {names} again takes the time of {keeping.again:,.0f} bytes a row"
    return f"forward keeps {names if keeping.kept else 'nothing'} for the backward pass: {why}; {again}"


def _why(choice: Any, has_columns: bool) -> str:
    rows = f"16 rows touch {choice.numbers:,} numbers, of {choice.most_numbers:,} that registers hold"
    weight = f"the weights have {choice.weights:,} bytes, of {choice.most_bytes:,} of shared memory"
    if choice.schedule == "resident":
        return f"resident: {rows}; {weight}"
    fits = choice.numbers <= choice.most_numbers and choice.weights <= choice.most_bytes
    why = "matrix units do not serve this type at this precision" if fits else f"{rows}; {weight}"
    sides = "what follows its products is not elementwise along columns"
    if has_columns:
        sides = f"tiles of columns spare {choice.spared:,} bytes a row, and lose the time of {choice.lost:,.0f}"
    return f"{choice.schedule}: {why}; {sides}{'; products are kept' if choice.kept else ''}"
