"""The generated tests can fail: they notice a small change to one place of a generated kernel.

Mutants are drawn from all kernels of all modes, by a fixed seed, and the generated tests' own functions run on them.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import random
import shutil
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, count, zip_longest
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from project_helper import REPOSITORY

GENERATED = REPOSITORY / "generated"
MODES = ("attention", "concat", "gate", "sigmoid_gate")
DRAWN = 48
NUMBER = count()


@dataclass(frozen=True)
class Mutant:
    """One kernel with one place changed: which kind of change, and the bytes from ``start`` to ``end`` replaced."""

    mode: str
    kernel: str
    kind: str
    line: int
    start: int
    end: int
    new: str

    def applied(self, source: bytes) -> bytes:
        return source[: self.start] + self.new.encode() + source[self.end :]

    def described(self, source: bytes) -> str:
        old = source[self.start : self.end].decode()
        text = source.splitlines()[self.line - 1].decode().strip()
        return f"{self.mode}.py:{self.line} {self.kind} in {self.kernel}: {old!r} -> {self.new!r} in {text!r}"


class Mutations:
    """All mutants of one kernel.

    What no test can see is not mutated:

    - ``other=0.0`` of a load and the zeros that ``tl.where`` puts in empty lanes of a matrix product's operand: the
      weight's lanes there are zeros too, so the product of any finite number and them is the same;
    - the condition of a ``tl.where``: what reaches it from empty rows is zero, since cotangents are loaded as zeros;
    - what ``tl.zeros_like`` is given, of which it takes the shape alone.
    """

    def __init__(self, mode: str, source: bytes, kernel: ast.FunctionDef) -> None:
        self.mode, self.source, self.kernel = mode, source, kernel
        self.starts = [0]
        for line in source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        # Without the docstring.
        self.nodes = [node for statement in kernel.body[1:] for node in ast.walk(statement)]
        self.calls = [(ast.unparse(node.func), node) for node in self.nodes if isinstance(node, ast.Call)]
        self.loop_variables = {node.target.id for node in self.nodes if isinstance(node, ast.For)}

    def start(self, node: Any) -> int:
        return self.starts[node.lineno - 1] + node.col_offset

    def end(self, node: Any) -> int:
        return self.starts[node.end_lineno - 1] + node.end_col_offset

    def mutant(self, kind: str, node: Any, new: str, start: int | None = None, end: int | None = None) -> Mutant:
        start = self.start(node) if start is None else start
        end = self.end(node) if end is None else end
        line = self.source.count(b"\n", 0, start) + 1
        return Mutant(self.mode, self.kernel.name, kind, line, start, end, new)

    def all(self) -> Iterator[Mutant]:
        yield from chain(self.signs(), self.indices(), self.masks(), self.axes(), self.constants())

    def signs(self) -> Iterator[Mutant]:
        """Plus for minus, and minus for plus; not where a tuple grows."""
        for node in self.nodes:
            if not isinstance(node, ast.BinOp) or isinstance(node.right, ast.Tuple):
                continue
            if isinstance(node.op, (ast.Add, ast.Sub)):
                old, new = (b"+", "-") if isinstance(node.op, ast.Add) else (b"-", "+")
                at = self.source.index(old, self.end(node.left), self.start(node.right))
                yield self.mutant("sign", node, new, at, at + 1)

    def indices(self) -> Iterator[Mutant]:
        """The first of a tuple for each of it."""
        kept = {id(x) for called, node in self.calls if called == "tl.zeros_like" for x in ast.walk(node)}
        for node in self.nodes:
            if isinstance(node, ast.Subscript) and id(node) not in kept:
                for name in ast.walk(node.slice):
                    if isinstance(name, ast.Name) and name.id in self.loop_variables:
                        yield self.mutant("index", name, "0")

    def masks(self) -> Iterator[Mutant]:
        """No mask, or one with a condition less."""
        for called, node in self.calls:
            if called not in ("tl.load", "tl.store"):
                continue
            for keyword in node.keywords:
                if keyword.arg == "mask":
                    yield self.mutant("mask", node, "", self.end(node.args[-1]), self.end(node.keywords[-1]))
                    if isinstance(keyword.value, ast.BinOp):
                        for condition in (keyword.value.right, keyword.value.left):
                            yield self.mutant("mask", keyword.value, ast.unparse(condition))

    def axes(self) -> Iterator[Mutant]:
        """A sum over another axis; rows for columns in an address or next to a tile."""
        for called, node in self.calls:
            if called == "tl.sum":
                axis = node.args[1]
                assert isinstance(axis, ast.Constant)
                yield self.mutant("axis", axis, str(axis.value - 1 if axis.value else 1))
        swapped = {"(:, None)": "[None, :]", "(None, :)": "[:, None]"}
        for called, node in self.calls:
            if called not in ("tl.load", "tl.store"):
                continue
            address = node.args[0]
            parts = [x for x in ast.walk(address) if isinstance(x, ast.Subscript) and ast.unparse(x.slice) in swapped]
            for part in parts:
                yield self.mutant("axis", part, swapped[ast.unparse(part.slice)], self.end(part.value), None)
            if len({ast.unparse(part.value) for part in parts}) == 1 and len(parts) == 2:
                # The transpose of a weight.
                first, second = sorted(parts, key=self.start)
                between = self.source[self.end(first) : self.start(second.value)].decode()
                new = f"{ast.unparse(second)}{between}{ast.unparse(first)}"
                yield self.mutant("axis", address, new, self.start(first), self.end(second))

    def constants(self) -> Iterator[Mutant]:
        """One more than a whole number or a zero, and a thousand times another."""
        kept: set[int] = set()
        for called, node in self.calls:
            if called == "tl.sum":
                kept.add(id(node.args[1]))
            if called == "tl.where" and not self.is_summed(node):
                kept.add(id(node.args[2]))
            kept.update(id(keyword.value) for keyword in node.keywords if keyword.arg == "other")
        for node in self.nodes:
            if isinstance(node, ast.Constant) and id(node) not in kept and type(node.value) in (int, float):
                value = node.value
                yield self.mutant("constant", node, repr(value + 1 if isinstance(value, int) or not value else 1000 * value))

    def is_summed(self, where: ast.Call) -> bool:
        return any(called == "tl.sum" and node.args[0] is where for called, node in self.calls)


def sources() -> dict[str, bytes]:
    return {mode: (GENERATED / "sparank_fusion" / "kernels" / "modes" / f"{mode}.py").read_bytes() for mode in MODES}


def mutants(mode: str, source: bytes) -> Iterator[Mutant]:
    """All mutants of a mode's kernels."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and any(ast.unparse(x) == "triton.jit" for x in node.decorator_list):
            yield from Mutations(mode, source, node).all()


def drawn(found: list[Mutant], number: int) -> list[Mutant]:
    """Some of them: one of each kind from each kernel, then another of each."""
    groups = defaultdict(list)
    for mutant in found:
        groups[mutant.kernel, mutant.kind].append(mutant)
    random.seed(7)
    shuffled = [random.sample(group, len(group)) for group in groups.values()]
    random.shuffle(shuffled)
    return [each for each in chain(*zip_longest(*shuffled)) if each is not None][:number]


def loaded(name: str, path: Path) -> ModuleType:
    """A module from a file, registered under a name."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


class Suite:
    """The generated tests, run on other kernels than the package's own."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        shutil.copytree(GENERATED, folder, ignore=shutil.ignore_patterns("__pycache__"))
        self.folder, self.patch = folder, patch
        patch.syspath_prepend(str(folder / "tests"))
        self.tests = {mode: loaded(f"mutated_test_{mode}", folder / "tests" / f"test_{mode}.py") for mode in MODES}

    def use(self, mode: str, source: bytes) -> None:
        """Let a mode's layers use other kernels."""
        # Triton reads a kernel's source from its file, and torch registers an operator once under its name.
        number = next(NUMBER)
        path = self.folder / "sparank_fusion" / "kernels" / "modes" / f"{mode}_{number}.py"
        for operator in ("forward", "backward"):
            name = f'"sparank_fusion::{mode}_{operator}'.encode()
            assert source.count(name) == 2
            source = source.replace(name, name + f"_mutant_{number}".encode())
        path.write_bytes(source)
        name = f"sparank_fusion.kernels.modes.{mode}"
        self.patch.setitem(sys.modules, name, None)
        self.patch.setattr(sys.modules["sparank_fusion.kernels.modes"], mode, loaded(name, path), raising=False)

    def runs(self, mode: str, schedule: str) -> Iterator[Callable[[], None]]:
        """The generated tests of the kernels by one schedule; those that cost least and tell most come first."""
        tests = self.tests[mode]
        for case in tests.RAGGED_CASES:
            yield lambda case=case: tests.test_kernels_agree(case, torch.float64, 150, "triton", "cpu", schedule)
        for case in tests.CASES[:1]:
            yield lambda case=case: tests.test_kernels_agree_on_large_numbers(case, "triton", "cpu", schedule)
            for value in (1e4, -1e4):
                yield lambda case=case, value=value: tests.test_kernels_agree_on_extremes(
                    case, value, "triton", "cpu", schedule
                )
        for golden in tests.golden_cases(mode)[:1]:
            yield lambda golden=golden: tests.test_golden(golden, torch.float64, "triton", "cpu", schedule)

    def failure(self, mode: str, schedule: str) -> str | None:
        """How the generated tests fail on the kernels in use, or None."""
        for run in self.runs(mode, schedule):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    run()
            except Exception as error:
                return f"{type(error).__name__}: {error}".splitlines()[0]
        return None


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Suite]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    # The package's own kernels come first, so that it is they that are put back.
    for mode in MODES:
        importlib.import_module(f"sparank_fusion.kernels.modes.{mode}")
    yield Suite(tmp_path / "generated", monkeypatch)
    torch.set_num_threads(threads)


def schedules(mode: str) -> tuple[str, ...]:
    """How a mode's kernels can run."""
    found: tuple[str, ...] = importlib.import_module(f"sparank_fusion.kernels.modes.{mode}").SCHEDULES
    return found


def schedules_of(mutant: Mutant) -> tuple[str, ...]:
    """The schedules that launch a mutant's kernel: its name says so, but for one that two may share."""
    if mutant.kernel.endswith("_kernel"):
        return ("resident",)
    if mutant.kernel.endswith("_again"):
        return ("again",)
    return ("columns",) if "products" in mutant.kernel or mutant.kernel.endswith("_columns") else ("split", "columns")


def survivors(suite: Suite, chosen: list[Mutant]) -> list[str]:
    """The mutants on which the generated tests pass."""
    alive = []
    for mutant in chosen:
        source = sources()[mutant.mode]
        suite.use(mutant.mode, mutant.applied(source))
        if all(suite.failure(mutant.mode, schedule) is None for schedule in schedules_of(mutant)):
            alive.append(mutant.described(source))
    return alive


def test_generated_tests_catch_mutants(suite: Suite) -> None:
    for mode, source in sources().items():
        suite.use(mode, source)
        for schedule in schedules(mode):
            assert suite.failure(mode, schedule) is None
    found = [mutant for mode, source in sources().items() for mutant in mutants(mode, source)]
    chosen = drawn(found, DRAWN)
    assert {mutant.mode for mutant in chosen} == set(MODES)
    assert {mutant.kind for mutant in chosen} == {"sign", "index", "mask", "axis", "constant"}
    alive = survivors(suite, chosen)
    assert len(alive) <= 0.05 * len(chosen), "\n".join(alive)


def test_a_kernel_that_forgets_rows_is_caught(suite: Suite) -> None:
    """Memory that a kernel leaves unwritten does not pass for an earlier result."""
    source = sources()["gate"]
    suite.use("gate", source.replace(b"in_b = b < B\n", b"in_b = b < B - 1\n"))
    for schedule in schedules("gate"):
        assert suite.failure("gate", schedule) is not None
