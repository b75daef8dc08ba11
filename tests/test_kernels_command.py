"""``sparank-gen kernels``: what it shows, what it refuses, and the costs behind it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from machine import require_compiled_kernels
from project_helper import REPOSITORY, invoke

from sparank_fusion import list_modes
from sparank_fusion.layer import mode_class
from sparank_gen.backends.triton.aot import Compiled
from sparank_gen.plan.cost import Cost, bytes_moved

require_compiled_kernels()

SMALL = ("--dim", "16", "--modalities", "2")


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The project of this repository; what the command adds to the path goes again."""
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture
def nothing_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kernel fits with the first tiles, for tests of what is said beside what it needs."""
    monkeypatch.setattr("sparank_gen.backends.triton.aot.compile_launch", lambda made, _: Compiled(made.kernel.__name__, 16, 4, 32, 0, 0))


def refused(*arguments: str) -> str:
    """The one line that a wrong call is answered with."""
    message = invoke("kernels", *arguments, code=2).stderr
    assert message.startswith("error: ") and message.count("\n") == 1
    return message


def test_it_shows_what_a_kernel_needs_and_its_floor() -> None:
    title, *plan, _, columns, forward, backward = invoke("kernels", "concat", *SMALL, code=0).stdout.splitlines()
    assert title == "sm_90, bfloat16, dim 16, 2 modalities, batch 65536"
    assert plan[0].startswith("concat, backend 'auto': torch: it only moves its input")
    assert plan[1:] == [f"concat {each}: resident: it has no matrix products" for each in ("forward", "backward")]
    names = ["kernel", "rows", "warps", "registers", "spilled B", "shared B", "moved MB", "Gop", "floor µs", "bound by"]
    assert [part.strip() for part in columns.split("  ") if part] == names
    for line, name in ((forward, "concat_forward_kernel"), (backward, "concat_backward_kernel")):
        cells = line.split()
        assert cells[0] == name and int(cells[3]) > 0
        # Two modalities read and as much written, 2 bytes each; an H100 moves 3.35 TB a second.
        assert cells[6:] == ["8.4", "0.00", "2.5", "memory"]


def test_products_count_once_for_each_modality_and_direction() -> None:
    lines = invoke("kernels", "gate", *SMALL, "--batch", "1000000", code=0).stdout.splitlines()[-2:]
    # A multiply and an add for each of 16 x 16 weights of 2 modalities; the backward pass computes the values again.
    assert [float(line.split()[7]) for line in lines] == [1.02, 2.05]


def test_a_kernel_that_does_not_compile_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("the pass failed") from ValueError("no such layout\nand a long story")

    monkeypatch.setattr("triton.compile", refuse)
    message = refused("concat", *SMALL)
    assert message == (
        "error: sm_90, bfloat16, dim 16, 2 modalities, batch 65536: concat_forward_kernel does not compile: ValueError: no such layout\n"
    )


def test_a_tile_that_the_compiler_fails_on_gives_way_to_a_smaller_one(monkeypatch: pytest.MonkeyPatch) -> None:
    import triton

    def refuse_many_rows(source: Any, **rest: Any) -> Any:
        rows = next(value for place, value in source.constants.items() if source.fn.arg_names[place[0]] == "ROWS")
        if rows > 32:
            raise RuntimeError("PassManager::run failed")
        return compile_source(source, **rest)

    compile_source = triton.compile
    monkeypatch.setattr("triton.compile", refuse_many_rows)
    lines = invoke("kernels", "concat", *SMALL, code=0).stdout.splitlines()[-2:]
    assert [line.split()[1] for line in lines] == ["32", "32"]


@pytest.mark.usefixtures("nothing_compiled")
def test_it_says_how_a_pass_runs_and_why() -> None:
    plan = invoke("kernels", "gate", "--dim", "200", "--modalities", "2", code=0).stdout.split("\n\n")[0].splitlines()[1:]
    # 16 rows of 256 lanes need 9 numbers each forward: softmax and sum over two modalities.
    assert plan[0] == (
        "gate forward: columns: 16 rows touch 36,864 numbers, of 125,000 that registers hold; the weights have 262,144"
        " bytes, of 203,392 of shared memory; tiles of columns spare 1,600 bytes a row, and lose the time of 360"
    )
    assert [line.split(": ")[0] for line in plan] == [
        "gate forward",
        "gate backward",
        "gate forward keeps nothing for the backward pass",
        "gate backward, then by torch",
        "gate backward, then by torch",
    ]
    assert [line.split(": ")[1] for line in plan[3:]] == ["W_bar", "c_bar"]


def test_what_the_library_multiplies_takes_neither_time_nor_memory() -> None:
    """Outer products of 512 x 512 numbers for each row: 34 GB, and 9 Pop to multiply them."""
    lines = invoke("kernels", "multiplicative_interaction", "--modalities", "2", "--dim", "512", code=0).stdout.splitlines()
    outer = next(line.split() for line in lines if line.startswith("multiplicative_interaction_forward_operands_1"))
    assert float(outer[6]) == pytest.approx(65536 * (512 * 512 + 2 * 512) * 2 / 1e6, abs=0.05)


@pytest.mark.usefixtures("nothing_compiled")
def test_it_says_what_is_left_to_torch_and_why() -> None:
    """An outer product of 200 and one more numbers fits into 65,536 registers, that of 300 does not."""
    first = [invoke("kernels", "tensor_fusion", "--modalities", "2", "--dim", dim, code=0).stdout.splitlines()[1] for dim in ("200", "300")]
    assert first == [
        "tensor_fusion forward: resident: it has no matrix products",
        "tensor_fusion, backend 'auto': torch: a program would hold 90,601 numbers of a row in 65,536 registers",
    ]


@pytest.mark.usefixtures("nothing_compiled")
def test_it_says_what_is_kept_and_why() -> None:
    def kept(*arguments: str) -> str:
        return next(line for line in invoke("kernels", *arguments, code=0).stdout.splitlines() if " keeps " in line)

    # A product of 2 x 16 x 16 operations for each of two modalities, 250 of which take the time of a byte.
    assert kept("gate", *SMALL) == (
        "gate forward keeps nothing for the backward pass: the backward pass is resident, and does not have product_1 in memory;"
        " to compute product_1 again takes the time of 4 bytes a row"
    )
    assert kept("gate", *SMALL, "--dtype", "float32") == (
        "gate forward keeps product_1 for the backward pass: in memory in any case; to compute product_1 again takes the time of"
        " 8 bytes a row"
    )


@pytest.mark.usefixtures("nothing_compiled")
def test_without_a_mode_it_shows_all_that_take_so_many_modalities() -> None:
    lines = invoke("kernels", "--dim", "16", "--modalities", "3", "--batch", "64", code=0).stdout.split("floor")[1].splitlines()[1:]
    three = {mode for mode in list_modes() if (mode_class(mode).most_modalities or 3) >= 3}
    assert {line.split()[0].split("_forward_")[0] for line in lines if "_forward_" in line} == three


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("gaet",), "did you mean 'gate'?"),
        (("gate", "--target", "sm90"), "did you mean 'sm_90'?"),
        (("gate", "--dtype", "bfloat"), "did you mean 'bfloat16'?"),
        (("sigmoid_gate", "--modalities", "3"), "takes exactly 2 modalities, not 3"),
        (("--modalities", "1"), "--modalities must be at least 2"),
        (("--dim", "0"), "--dim must be at least 1"),
        (("--batch", "0"), "--batch must be at least 1"),
        (("attention", "--dim", "6"), "multiple of attn_heads"),
        (("--specs", "nowhere"), "there is no specs folder"),
    ],
)
def test_a_wrong_call_says_what_is_wrong(arguments: tuple[str, ...], said: str) -> None:
    assert said in refused(*arguments)


def test_a_project_that_is_not_built(tmp_path: Path) -> None:
    assert "run: sparank-gen build" in refused("gate", "--output", str(tmp_path))


def test_a_package_of_another_folder_is_not_taken(tmp_path: Path) -> None:
    importlib.import_module("sparank_fusion")
    (tmp_path / "sparank_fusion").mkdir()
    (tmp_path / "sparank_fusion" / "__init__.py").touch()
    assert "and not from" in refused("gate", "--output", str(tmp_path))


@pytest.mark.parametrize("missing", ["torch", "triton"])
def test_a_machine_that_cannot_compile_kernels(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == missing else find(name, *rest))
    assert f"compiling kernels needs {missing}" in refused("gate", *SMALL)


def test_a_triton_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparank_fusion.backends.has_triton", lambda: False)
    assert "compiling kernels needs triton 3.4 or newer" in refused("gate", *SMALL)


def test_a_tensor_moves_once() -> None:
    features, weight = torch.empty(4, 8, dtype=torch.bfloat16), torch.empty(8, 8)
    assert bytes_moved([(features, features), (8, 8), weight, weight, 4]) == 2 * 32 + 4 * 64


def test_the_floor_is_the_longer_of_the_two() -> None:
    cost = Cost(moved=100, operations=1000)
    assert cost.floor(bandwidth=10, rate=1000) == 10
    assert cost.floor(bandwidth=1000, rate=10) == 100
