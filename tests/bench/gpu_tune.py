"""Which tiles make each kernel fastest, one direction at a time."""

from __future__ import annotations

import importlib
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from gpu_layers import BOTH, FORWARD, HEADS, Case, Inputs
from gpu_timing import Clock

from sparank_fusion import FusionLayer
from sparank_fusion.kernels import Tile, chip_of, forced

ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
LEAST_ROWS = 16  # of a matrix product in a kernel
WARPS = (2, 4, 8, 16)
STAGES, PROGRAMS = (1, 2, 3), (1, 2)  # of kernels that walk over tiles of rows; programs on each multiprocessor
COLUMNS = {2: (128, 64), 4: (128, 32), 8: (64, 16)}  # columns, and the step along what is contracted, by bytes
SECONDS = 0.1  # of measuring, for each configuration


class Setting(NamedTuple):
    """A tile's rows and warps, and of kernels that walk over tiles, the stages and the programs on a multiprocessor."""

    rows: int
    warps: int
    stages: int = 1
    programs: int = 1

    def walking(self, device: torch.device) -> Tile:
        """The tile of a kernel that walks over rows."""
        most = self.programs * chip_of(device).processors
        return Tile(self.rows, self.warps, stages=self.stages, most_programs=most)


@contextmanager
def launched(mode: str, setting: Setting | None) -> Iterator[None]:
    """Inside the block the kernels of a mode run with this setting, or with their own for None."""
    if setting is None:
        yield
        return
    module: Any = importlib.import_module(f"sparank_fusion.kernels.modes.{mode}")
    tiles = {
        "row_tiles": lambda *_, **__: [Tile(setting.rows, setting.warps)],
        "walking_tiles": lambda _, h, *__, **___: [setting.walking(h[0].device)],
        "column_tiles": lambda _, x, *__: [Tile(setting.rows, setting.warps, *COLUMNS[x.dtype.itemsize])],
    }
    with ExitStack() as stack:
        for name, replacement in tiles.items():
            if hasattr(module, name):
                stack.enter_context(patch.object(module, name, replacement))
        yield


def direction(case: Case, layer: torch.nn.Module, around: Callable[[], Any]) -> Callable[[Inputs], Any]:
    """One call of the forward pass, or of the backward pass of a forward pass that is made once for each input."""

    def forward(inputs: Inputs) -> Any:
        with torch.no_grad(), around():
            return layer(inputs.features)

    made: dict[int, torch.Tensor] = {}
    parameters = list(layer.parameters())

    def backward(inputs: Inputs) -> Any:
        if id(inputs) not in made:
            made[id(inputs)] = layer(inputs.features)
        wanted = [*inputs.features, *parameters]
        with around():
            return torch.autograd.grad(made[id(inputs)], wanted, inputs.cotangent, retain_graph=True)

    return forward if case.step == FORWARD else backward


def seconds_of(call: Callable[[Inputs], Any], clock: Clock, sets: list[Inputs]) -> float | str:
    """The device's seconds for a call, or why there are none."""
    try:
        return clock.interleaved({"": call}, sets, SECONDS)[""].device
    except Exception as error:
        return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:80]}"


def settings(schedule: str, smoke: bool) -> list[Setting | None]:
    """What is tried, the kernels' own choice first."""
    rows = [n for n in ROWS if n >= LEAST_ROWS or schedule == "split"]
    walks = (STAGES, PROGRAMS) if schedule == "resident" else ()
    grid = [Setting(*values) for values in itertools.product(rows, WARPS, *walks)]
    return [None, *(grid[:2] if smoke else grid)]


def tune_case(case: Case, schedule: str, clock: Clock, deadline: float, smoke: bool) -> None:
    """Print the times of a case in microseconds, the fastest settings first."""
    torch.manual_seed(0)
    layer = FusionLayer(case.dim, case.modalities, case.mode, HEADS, backend="triton")
    layer = layer.to(clock.device, case.dtype).train(case.step == BOTH)
    sets = case.inputs(clock.sets(case.batch * case.dim * case.modalities * case.dtype.itemsize), clock.device)
    found: dict[Setting | None, float | str] = {}
    with forced(schedule):
        for setting in settings(schedule, smoke):
            if time.monotonic() < deadline:
                call = direction(case, layer, lambda setting=setting: launched(case.mode, setting))
                found[setting] = seconds_of(call, clock, sets)
    step = "forward" if case.step == FORWARD else "backward"
    print(f"{str(case).removesuffix(case.step)}{step}, {schedule}")
    timed = sorted((value, setting) for setting, value in found.items() if setting and isinstance(value, float))
    own = found.get(None)
    print(f"  own choice: {own if isinstance(own, str) or own is None else f'{own * 1e6:.1f} µs'}")
    for value, setting in timed[:3]:
        print(f"  {' '.join(f'{name} {number}' for name, number in setting._asdict().items())}: {value * 1e6:.1f} µs")
    for why in sorted({value for value in found.values() if isinstance(value, str)}):
        print(f"  {sum(value == why for value in found.values())} settings: {why}")


def tune(cases: list[Case], clock: Clock, deadline: float, smoke: bool) -> None:
    """Try tiles for each case, as one kernel and split at its matrix products."""
    for case in cases:
        for schedule in ("resident", "columns", "split") if case.operations else ("resident",):
            if time.monotonic() > deadline:
                print(f"time is up before {case}")
                return
            tune_case(case, schedule, clock, deadline, smoke)
            if clock.is_cuda:
                torch.cuda.empty_cache()
