"""Which tiles a kernel is launched with: smaller ones while it spills, and those that fit from then on."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from machine import require_triton

require_triton()

import triton

from sparank_fusion import kernels
from sparank_fusion.kernels import Chip, Tile, column_tiles, launch, row_tiles, tiles, walking_tiles
from sparank_fusion.kernels.tiles import kinds_of

X = torch.empty(8, 16)
NO_ROOM = triton.OutOfResources(300_000, 200_000, "shared memory")
NOT_COMPILED = RuntimeError("PassManager::run failed")
FEW, MANY = 10, 3000  # numbers that a row needs


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "_fitting", {})


def kernel(name: str = "some_kernel") -> Any:
    return SimpleNamespace(__name__=name, fn=name)


def tried(tiles: Iterable[Tile], *spilled: float) -> list[tuple[int, int]]:
    """The rows and warps of the tiles that are asked for where their launches spill so many bytes."""
    found = []
    for tile, each in zip(tiles, itertools.chain(spilled, itertools.repeat(math.nan)), strict=False):
        found.append((tile.rows, tile.warps))
        tile.spilled = each
    return found


def test_a_tile_that_fits_is_the_only_one() -> None:
    assert tried(row_tiles(kernel(), X, {"M": 2}, MANY), 64) == [(32, 8)]


def test_rows_are_halved_while_a_kernel_spills_and_the_next_call_knows() -> None:
    assert tried(row_tiles(kernel(), X, {"M": 2}, MANY, least=4), 600, 100, 65, 0) == [(32, 8), (16, 8), (8, 8), (4, 8)]
    assert tried(row_tiles(kernel(), X, {"M": 2}, MANY, least=4), 0) == [(4, 8)]


def test_warps_come_before_rows() -> None:
    """Twice the warps have twice the registers."""
    assert tried(row_tiles(kernel(), X, {"M": 2}, FEW, most=64), 600, 100, 0) == [(64, 4), (64, 8), (32, 4)]


def test_where_nothing_fits_the_tile_that_spills_least_comes_last_and_stays() -> None:
    tiles = row_tiles(kernel(), X, {"M": 2}, MANY, least=8)
    assert tried(tiles, 600, 100, 200, 150, 100) == [(32, 8), (16, 8), (8, 8), (8, 4), (16, 8)]
    assert tried(row_tiles(kernel(), X, {"M": 2}, MANY, least=8), 100) == [(16, 8)]


def test_fewer_warps_come_last() -> None:
    """Where there is no work for all of a few rows, each holds a copy."""
    assert tried(row_tiles(kernel(), X, {"M": 2}, 2 * MANY), 3000, 50) == [(16, 8), (16, 4)]


def test_what_is_known_holds_for_what_was_compiled() -> None:
    tried(row_tiles(kernel(), X, {"M": 2}, MANY), 600, 0)
    same = (kernel(), X, {"M": 2})
    assert tried(row_tiles(*same, MANY)) == [(16, 8)]
    for other in ((kernel("other"), X, {"M": 2}), (kernel(), X.half(), {"M": 2}), (kernel(), X, {"M": 3})):
        assert tried(row_tiles(*other, MANY)) == [(32, 8)]


def test_a_launch_of_nothing_says_nothing() -> None:
    """Nor do kernels that are interpreted."""
    assert tried(row_tiles(kernel(), X, {}, MANY)) == [(32, 8)]
    assert not tiles._fitting


def test_tiles_of_columns_lose_rows_too() -> None:
    tiles = iter(column_tiles(kernel(), X, {}, 6))
    first = next(tiles)
    first.spilled = 100
    second = next(tiles)
    assert (first.rows, second.rows) == (128, 64)
    assert (first.columns, first.inner) == (second.columns, second.inner) == (128, 32)


def walking(numbers: int, weights: int, stages: int = 3, most: int = 128, count: int = 3) -> tuple[int, int, int]:
    """The rows, stages and programs on each multiprocessor of a kernel for features of 128 numbers of two bytes."""
    h = [torch.empty(8, 128, dtype=torch.bfloat16)] * count
    (tile,) = walking_tiles(kernel(), h, {}, numbers, weights, stages=stages, most=most)
    return tile.rows, tile.stages, tile.most_programs


WEIGHT = 128 * 128


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        # The tiles that were fastest on an H100: gates of three and two, a sigmoid gate, and their backward passes.
        (((1 + 4 * 3) * 128, 3 * WEIGHT), (64, 3, 1)),
        (((1 + 4 * 2) * 128, 2 * WEIGHT, 3, 128, 2), (64, 3, 1)),
        ((7 * 128, 2 * WEIGHT, 3, 128, 2), (128, 3, 1)),
        ((2 * (1 + 4 * 3) * 128, 6 * WEIGHT, 1, 32), (32, 1, 1)),
        ((2 * (1 + 4 * 2) * 128, 4 * WEIGHT, 1, 32, 2), (32, 1, 1)),
        # Weights that leave less room have fewer tiles on their way, or smaller ones.
        (((1 + 4 * 3) * 128, 5 * WEIGHT), (64, 2, 1)),
        (((1 + 4 * 3) * 128, 6 * WEIGHT), (32, 2, 1)),
        # More than registers hold is left to the compiler, which says what does not fit.
        ((10_000, 4 * WEIGHT), (16, 3, 1)),
    ],
)
def test_programs_that_walk_have_as_many_rows_as_there_is_room_for(
    asked: tuple[int, ...], found: tuple[int, int, int]
) -> None:
    assert walking(*asked) == found


def test_a_chip_of_many_multiprocessors_has_programs_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "INTERPRETED", Chip(100, 227 * 1024))
    assert walking(3 * 128, WEIGHT, 3, 128, 2) == (64, 3, 200)


def test_programs_share_the_tiles_of_a_batch() -> None:
    tile = Tile(32, 8, stages=3, most_programs=4)
    assert [tile.programs(batch) for batch in (0, 1, 64, 65, 1000)] == [0, 1, 2, 3, 4]
    assert [Tile(32, 8).programs(batch) for batch in (0, 1, 64, 65, 1000)] == [0, 1, 2, 3, 32]


def on_gpu(address: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """A tensor on a GPU that there is not."""
    return SimpleNamespace(is_cuda=True, device=X.device, dtype=dtype, data_ptr=lambda: address)


class Launched:
    """A kernel on a GPU that there is not: it notes the rows it is launched with, and spills or fails by these.

    It notes the grids and arguments with which what it was compiled to is launched, too.
    """

    __name__ = "some_kernel"
    arg_names = ("x_ptr", "B", "M", "ROWS")

    def __init__(self, registers: dict[int, int | Exception]) -> None:
        self.registers = registers
        self.rows: list[int] = []
        self.fn = object()
        self.again: list[tuple[Any, ...]] = []

    def __getitem__(self, grid: tuple[int]) -> Any:
        def run(*_: Any, ROWS: int, **__: Any) -> Any:
            assert grid == (-(-100 // ROWS),)
            self.rows.append(ROWS)
            spills = self.registers[ROWS]
            if isinstance(spills, Exception):
                raise spills
            return CompiledKernel(spills, self)

        return run


class CompiledKernel:
    def __init__(self, spills: int, source: Launched) -> None:
        self.n_spills = spills
        self.source = source

    def __getitem__(self, grid: tuple[int, int, int]) -> Any:
        def run(*arguments: Any) -> None:
            self.source.again.append((grid, *arguments))
            self.source.rows.append(arguments[-1])

        return run


def run(some: Launched, monkeypatch: pytest.MonkeyPatch, x: Any = None) -> list[int]:
    """The rows of all launches of a call."""
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    some.rows.clear()
    for tile in row_tiles(some, X, {"M": 2}, MANY, least=8):
        launch(some, 100, tile, (x or on_gpu(), 100), {"M": 2})
    return some.rows


def test_a_launch_says_what_it_spills(monkeypatch: pytest.MonkeyPatch) -> None:
    """In registers of four bytes, as triton counts them."""
    some = Launched({32: 17, 16: 16})
    assert run(some, monkeypatch) == [32, 16]
    assert run(some, monkeypatch) == [16]


def test_what_is_compiled_is_launched_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the values of its constants in the order of its arguments, as long as these are of the kinds it was compiled for."""
    some, x, unaligned = Launched({32: 0}), on_gpu(64), on_gpu(68)
    for given in (x, x, unaligned, unaligned):
        assert run(some, monkeypatch, given) == [32]
    assert some.again == [((4, 1, 1), x, 100, 2, 32), ((4, 1, 1), unaligned, 100, 2, 32)]


def test_a_kernel_is_compiled_for_each_kind_of_arguments() -> None:
    """Those that Triton tells apart."""
    base = kinds_of((on_gpu(64), (on_gpu(0), on_gpu(32)), (128, 128), 100))
    assert kinds_of((on_gpu(128), (on_gpu(32), on_gpu(0)), (256, 16), 200_001)) == base
    for other in (
        (on_gpu(72), (on_gpu(0), on_gpu(32)), (128, 128), 100),
        (on_gpu(64, torch.bfloat16), (on_gpu(0), on_gpu(32)), (128, 128), 100),
        (on_gpu(64), (on_gpu(0), on_gpu(32)), (128, 1), 100),
        (on_gpu(64), (on_gpu(0), on_gpu(32)), (128, 100), 100),
        (on_gpu(64), (on_gpu(0), on_gpu(32)), (128, 128), 112),
        (on_gpu(64), (on_gpu(0), on_gpu(32)), (128, 128), 100 + 2**31),
    ):
        assert kinds_of(other) != base


def test_on_amd_triton_looks_at_every_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """There the kind of a tensor follows from the size of its memory too."""
    monkeypatch.setattr(tiles, "backend", lambda: "hip")
    monkeypatch.setattr(kernels, "backend", lambda: "hip")
    some = Launched({4: 0, 8: 0, 16: 0, 32: 0})
    assert run(some, monkeypatch) == run(some, monkeypatch)
    assert not some.again


def test_a_tile_without_room_is_one_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    some = Launched({32: NO_ROOM, 16: 40, 8: 30})
    assert run(some, monkeypatch) == [32, 16, 8, 8, 8]
    assert run(some, monkeypatch) == [8]


def test_a_tile_that_the_compiler_fails_on_is_one_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    some = Launched({32: NOT_COMPILED, 16: 0})
    assert run(some, monkeypatch) == [32, 16]
    assert run(some, monkeypatch) == [16]


def test_other_errors_are_not_about_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    some = Launched({32: RuntimeError("an illegal memory access")})
    with pytest.raises(RuntimeError, match="illegal"):
        run(some, monkeypatch)
    assert some.rows == [32]


def test_where_no_tile_fits_the_error_says_why_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for why in (NO_ROOM, NOT_COMPILED):
        some = Launched({32: why, 16: why, 8: why})
        for _ in range(2):
            with pytest.raises(RuntimeError, match=f"some_kernel.*{re.escape(str(why))}.*backend='torch'"):
                run(some, monkeypatch)


def test_recorded_launches_are_those_that_fit() -> None:
    from sparank_fusion import FusionLayer

    layer = FusionLayer(16, 2, "gate").to(torch.bfloat16)
    with kernels.recording(spilled=lambda made: 0 if made.constants["ROWS"] == 32 else 100) as found, torch.no_grad():
        layer._fuse_kernels([torch.empty(64, 16, dtype=torch.bfloat16)] * 2, False)
    assert [made.constants["ROWS"] for made in found.launches] == [32]
    assert not tiles._fitting
