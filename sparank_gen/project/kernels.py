"""What the kernels of a built project need of a chip, and the least time they take there."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparank_gen.backends.triton.aot import TARGETS, CompilationFailed, Compiled, Target, compiled, first_line
from sparank_gen.backends.triton.explain import choices, rest
from sparank_gen.backends.triton.file import KernelFile, kernel_file
from sparank_gen.ir.mode import Mode
from sparank_gen.ir.prepare import prepared
from sparank_gen.lang.widths import sizes_of
from sparank_gen.plan.cost import Cost, bytes_moved
from sparank_gen.plan.schedule import only_moves
from sparank_gen.plan.stages import whole_tiles
from sparank_gen.project.config import Config, UsageError
from sparank_gen.project.generate import load_modes
from sparank_gen.spec.errors import did_you_mean

COLUMNS = ("kernel", "rows", "warps", "registers", "spilled B", "shared B", "moved MB", "Gop", "floor µs", "bound by")


@dataclass(frozen=True)
class Case:
    """What kernels are compiled for.

    Attributes:
        target: a name in ``TARGETS``.
        dim: width of each modality's features.
        modalities: how many there are.
        dtype: torch's name of the type of features and parameters.
        batch: rows.
    """

    target: str
    dim: int
    modalities: int
    dtype: str
    batch: int

    def __post_init__(self) -> None:
        _require("target", self.target, TARGETS)
        _require("dtype", self.dtype, self.chip.rates)
        for option, value, least in (("dim", self.dim, 1), ("modalities", self.modalities, 2), ("batch", self.batch, 1)):
            if value < least:
                why = ": of one modality, every mode is the identity" if option == "modalities" else ""
                raise UsageError(f"--{option} must be at least {least}, found {value}{why}")

    @property
    def chip(self) -> Target:
        return TARGETS[self.target]

    def __str__(self) -> str:
        return f"{self.target}, {self.dtype}, dim {self.dim}, {self.modalities} modalities, batch {self.batch}"


@dataclass(frozen=True)
class Row:
    """One kernel: what it was compiled to, and what it has to do."""

    compiled: Compiled
    cost: Cost

    def cells(self, case: Case) -> tuple[str, ...]:
        """What :data:`COLUMNS` says of it."""
        made, cost = self.compiled, self.cost
        rate = case.chip.rates[case.dtype]
        is_transfer = cost.transfer_time(case.chip.bandwidth) >= cost.product_time(rate)
        needs = (made.rows, made.warps, made.registers, made.spilled, made.shared)
        return (
            made.name,
            *(str(number) for number in needs),
            f"{cost.moved / 1e6:.1f}",
            f"{cost.operations / 1e9:.2f}",
            f"{cost.floor(case.chip.bandwidth, rate) * 1e6:.1f}",
            "memory" if is_transfer else "products",
        )


@dataclass(frozen=True)
class Report:
    """The kernels of a mode: how each pass runs and why, and what each kernel needs."""

    plan: tuple[str, ...]
    rows: tuple[Row, ...]


def reports(config: Config, name: str | None, case: Case) -> Iterator[Report]:
    """The kernels of a mode, or of every mode that takes so many modalities, compiled.

    Raises:
        SpecErrors, UsageError: when the specs or the call are wrong, or the machine lacks torch or triton, or has an
            older triton than kernels need.
    """
    modes = _chosen(load_modes(config), name, case.modalities)
    _require_libraries()
    _import_package(config)
    if not importlib.import_module(f"{config.package}.backends").has_triton():
        raise UsageError("compiling kernels needs triton 3.4 or newer")
    for mode in modes:
        yield _report(config, mode, case)


def table(rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of cells in columns: the first to the left, numbers to the right."""
    cells = [COLUMNS, *rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(COLUMNS))]
    return ["  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]) for row in cells]


def _report(config: Config, mode: Mode, case: Case) -> Report:
    file = kernel_file(mode)
    per_row = {kernel.name: kernel.operations for kernel in file.kernels}
    if not (config.output / config.package / "kernels" / "modes" / f"{mode.name}.py").is_file():
        raise UsageError(f"{config.output} has no kernels of mode {mode.name!r}; run: sparank-gen build")
    try:
        found, kernels = compiled(config.package, mode.name, case.dim, case.modalities, case.dtype, case.chip, case.batch)
    except CompilationFailed as error:
        raise UsageError(f"{case}: {error}") from None
    except (ValueError, RuntimeError) as error:
        raise UsageError(f"mode {mode.name!r} does not take {case}: {first_line(error)}") from None
    rows = []
    for launch, made in zip(found.launches, kernels, strict=True):
        name = launch.kernel.__name__
        if name not in per_row:
            raise UsageError(f"{config.output} was not built from these specs; run: sparank-gen build")
        operations = per_row[name].number_for(_sizes(launch, case, file)) * case.batch
        cost = Cost(bytes_moved(launch.arguments), int(operations))
        rows.append(Row(made, cost))
    after = tuple(f"{mode.name} backward, then by torch: {', '.join(names)}: {why}" for names, why in rest(file))
    before = tuple(_left_to_torch(config, mode, _sizes(found.launches[0], case, file)))
    return Report((*before, *choices(file, found), *after), tuple(rows))


def _sizes(launch: Any, case: Case, file: KernelFile) -> dict[str, int]:
    """The numbers that the names in extents are."""
    numbers = {key: value for key, value in launch.constants.items() if type(value) is int}
    pairs = zip(file.mode.spec.hyperparameters, file.arguments, strict=True)
    numbers |= {h.name.value: launch.constants[argument.name] for h, argument in pairs}
    return {**numbers, "modalities": case.modalities, **sizes_of([case.dim] * case.modalities)}


def _left_to_torch(config: Config, mode: Mode, sizes: Mapping[str, int]) -> Iterator[str]:
    """Whether kernels run only where they are asked for, and why."""
    if only_moves(prepared(mode)):
        yield f"{mode.name}, backend 'auto': torch: it only moves its input, which torch does as fast, with views for gradients"
    held = max((int(tile.number_for(sizes)) for tile in whole_tiles(prepared(mode))), default=0)
    registers = importlib.import_module(f"{config.package}.runtime").REGISTERS
    if held > registers:
        yield f"{mode.name}, backend 'auto': torch: a program would hold {held:,} numbers of a row in {registers:,} registers"


def _chosen(modes: Sequence[Mode], name: str | None, modalities: int) -> list[Mode]:
    """The mode of that name, or all that take so many modalities."""
    if name is not None:
        _require("mode", name, [mode.name for mode in modes])
        modes = [mode for mode in modes if mode.name == name]
    taking = [m for m in modes if m.spec.modalities.minimum <= modalities <= (m.spec.modalities.maximum or modalities)]
    if not taking:
        which = "no mode takes" if name is None else f"mode {name!r} takes {modes[0].spec.modalities} modalities, not"
        raise UsageError(f"{which} {modalities}{' modalities' if name is None else ''}")
    return taking


def _require(kind: str, name: str, known: Iterable[str]) -> None:
    names = sorted(known)
    if name not in names:
        raise UsageError(f"there is no {kind} {name!r}{did_you_mean(name, names)}; there are {', '.join(names)}")


def _require_libraries() -> None:
    missing = [name for name in ("torch", "triton") if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"compiling kernels needs {' and '.join(missing)}, which cannot be imported here")


def _import_package(config: Config) -> None:
    """Import the generated package from the output folder, and from nowhere else."""
    folder = config.output.resolve() / config.package
    if not (folder / "__init__.py").is_file():
        raise UsageError(f"there is no package {folder}; run: sparank-gen build")
    if str(folder.parent) not in sys.path:
        sys.path.insert(0, str(folder.parent))
    file = importlib.import_module(config.package).__file__
    if file is None or Path(file).resolve().parent != folder:
        raise UsageError(f"package {config.package} was imported from {file}, and not from {config.output}")
