"""How the work of compiling grows with a program, told by the calls that it takes: times differ from machine to machine."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import pytest

from sparank_gen.backends.torch.module import module_file
from sparank_gen.backends.triton.file import kernel_file
from sparank_gen.ir.check import check_spec
from sparank_gen.ir.derive import derive
from sparank_gen.ir.guard import guard
from sparank_gen.ir.mode import Mode
from sparank_gen.ir.node import Program, reachable
from sparank_gen.spec.load import parse_spec

HEAD = "version: 1\nmode: growing\nsummary: s\nmodalities: '>=2'\naxes: {i: dim}\n"
LEARNED = HEAD.replace("}", ", j: dim}") + 'params:\n  map: {module: Linear, weight: "W[i,j]"}\n'
# For each family its first statement, those in the middle, of x1, x2 and so on, and its last one.
FAMILIES = {
    "squares": ("x0[i] = sum[m](h[m,i])", "x{k}[i] = x{j}[i] * x{j}[i]", "out[i] = x{k}[i]"),
    "squares in a sum": ("x0[m,i] = tanh(h[m,i])", "x{k}[m,i] = x{j}[m,i] * x{j}[m,i]", "out[i] = sum[m](x{k}[m,i] * h[m,i])"),
    "stacked features": ("x0[m,i] = h[m,i]", "x{k}[m,i] = tanh(x{j}[m,i] + x{j}[m,i] * 0.5)", "out[i] = max[m](x{k}[m,i])"),
    "pieces": ("x0[m,i] = softmax[m](h[m,i])", "x{k}[m,i] = tanh(x{j}[m,i] + x{j}[m,i] * 0.5)", "out[i] = sum[m](x{k}[m,i])"),
    "signs": ("x0[i] = sum[m](h[m,i])", "x{k}[i] = x{j}[i] * x{j}[i] + x{j}[i]", "out[i] = log(1 + x{k}[i])"),
    "choices": ("x0[i] = sum[m](h[m,i])", "x{k}[i] = where(x{j}[i] > 0.1, log(x{j}[i]), x{j}[i])", "out[i] = x{k}[i]"),
    "learned": ("x0[i] = tanh(sum[m,j](W[i,j] * h[m,j]))", "x{k}[i] = x{j}[i] + x{j}[i] / 3", "out[i] = x{k}[i] * sum[m](h[m,i])"),
    "sums": ("x0[i] = sum[m](h[m,i])", "x{k}[i] = x{j}[i] + x{j}[i]", "out[i] = x{k}[i]"),
}
SMALL = 12
# Passes may look at all that is below each statement: four times the work for twice the statements. What is taken apart as a
# tree takes thousands of times as much.
MOST_GROWTH = 5


class TooManyCalls(Exception):
    """More calls than were allowed."""


def mode_of(family: str, count: int) -> Mode:
    """A mode with so many statements in the middle."""
    first, middle, last = FAMILIES[family]
    math = [first, *(middle.format(k=k, j=k - 1) for k in range(1, count + 1)), last.format(k=count)]
    head = LEARNED if "W[" in first else HEAD
    return check_spec(parse_spec(head + "math: |\n" + "".join(f"  {line}\n" for line in math), "growing.yaml"))


@contextmanager
def at_most(most: float) -> Iterator[list[int]]:
    """Counts the calls of Python functions; raises TooManyCalls when they are more than ``most``."""
    calls = [0]

    def count(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            calls[0] += 1
            if calls[0] > most:
                raise TooManyCalls

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        yield calls
    finally:
        sys.setprofile(before)


@pytest.mark.parametrize("compiled", [module_file, kernel_file])
@pytest.mark.parametrize("family", FAMILIES)
def test_work_grows_with_the_statements(family: str, compiled: Callable[[Mode], object]) -> None:
    with at_most(float("inf")) as calls:
        compiled(mode_of(family, SMALL))
    with at_most(MOST_GROWTH * calls[0]):
        compiled(mode_of(family, 2 * SMALL))


def size(program: Program) -> int:
    """The nodes of a program."""
    return len(list(reachable(definition.node for definition in program.definitions)))


def test_guards_of_what_both_branches_read_are_no_copies() -> None:
    modes = [mode_of("choices", count) for count in (10, 20, 40)]
    small, middle, large = (size(guard(mode.program)) for mode in modes)
    assert large - middle == 2 * (middle - small)
    small, middle, large = (size(derive(guard(mode.program), mode.slots, ["out"])) for mode in modes)
    assert large - middle == 2 * (middle - small)


def test_what_calls_of_a_function_square_is_written_once() -> None:
    """A module whose formula is ``sq(sq(…))`` says in its page what the function squares once for each call."""
    calls = [mode_of_squares(count) for count in (SMALL, 2 * SMALL)]
    small, large = (sum(len(formula) for formula in module_file(mode).formulas) for mode in calls)
    assert large < 2.5 * small


def mode_of_squares(count: int) -> Mode:
    """A mode that calls a function of what it made before, so many times."""
    math = f"  out[i] = {'sq(' * count}sum[m](h[m,i]){')' * count}\n"
    return check_spec(parse_spec(f"{HEAD}functions:\n  sq(x): x * x\nmath: |\n{math}", "growing.yaml"))
