"""Without gradients, results take the memory of intermediate ones that nothing reads later; and of nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from sparank_fusion import FusionLayer, list_modes
from sparank_fusion.layer import mode_class
from sparank_gen.backends.torch.memory import WRITING
from sparank_gen.ir.check import check_spec
from sparank_gen.lang.ops import OPERATORS
from sparank_gen.spec.load import parse_spec
from test_random_programs import compiled

ROWS = 1100  # so many that no operation is spared by a copy
LAYERS = [
    (mode, count)
    for mode in list_modes()
    for count in (2, 3)
    if mode_class(mode).least_modalities <= count <= (mode_class(mode).most_modalities or count)
]
COUNTED = """\
version: 1
mode: counted
summary: A number of rows.
modalities: ">=2"
axes: {i: dim}
math: |
  n[i]   = sum[m](where(h[m,i] > 0, 1, 0))
  r[i]   = sqrt(n[i])
  out[i] = r[i] * h[0,i]
"""


class Made(TorchDispatchMode):
    """Keeps the tensors in memory of their own that operations make, views apart."""

    def __init__(self, given: list[Tensor]) -> None:
        super().__init__()
        self.known = {x.untyped_storage().data_ptr() for x in given}
        self.made: list[Tensor] = []
        self.written = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        self.written += "out" in (kwargs or {})
        for x in tree_iter(results):
            if isinstance(x, Tensor) and x.untyped_storage().data_ptr() not in self.known:
                self.known.add(x.untyped_storage().data_ptr())
                self.made.append(x)
        return results


def made(mode: str, count: int, rows: int = ROWS, with_gradients: bool = False, return_gates: bool = False) -> Made:
    """What a call of a layer makes."""
    layer, h = FusionLayer(128, count, mode, backend="torch"), [torch.randn(rows, 128) for _ in range(count)]
    with torch.set_grad_enabled(with_gradients), Made([*h, *layer.parameters()]) as found:
        layer(h, return_gates=return_gates)
    return found


def rows_of(found: Made) -> int:
    """How many numbers of a row were made, in features' widths."""
    return sum(x.numel() for x in found.made if ROWS in x.shape) // (ROWS * 128)


def tensors(results: Any) -> list[Tensor]:
    return [x for x in tree_iter(results) if isinstance(x, Tensor)]


@pytest.mark.parametrize(("mode", "count", "numbers"), [("gate", 2, 1), ("sigmoid_gate", 2, 1), ("gate", 3, 3 + 1)])
def test_a_gate_makes_its_output_and_what_that_is_made_of(mode: str, count: int, numbers: int) -> None:
    """Scores take the memory of products, and gates that of scores."""
    assert rows_of(made(mode, count)) == numbers
    assert rows_of(made(mode, count, with_gradients=True)) > numbers


@pytest.mark.parametrize(("mode", "count"), [("gate", 2), ("sigmoid_gate", 2)])
def test_gates_that_are_returned_are_kept(mode: str, count: int) -> None:
    """The gate, the output, and the gates of both."""
    assert rows_of(made(mode, count, return_gates=True)) >= 1 + 1 + count


@pytest.mark.parametrize("return_gates", [False, True])
@pytest.mark.parametrize("rows", [3, ROWS])
@pytest.mark.parametrize(("mode", "count"), LAYERS)
def test_results_are_those_with_gradients_and_what_is_given_stays(mode: str, count: int, rows: int, return_gates: bool) -> None:
    torch.manual_seed(0)
    layer = FusionLayer(16, count, mode, backend="torch").double()
    h = [torch.randn(rows, 16, dtype=torch.float64) for _ in range(count)]
    given = [x.clone() for x in (*h, *layer.parameters())]
    wanted = tensors(layer(h, return_gates=return_gates))
    with torch.no_grad():
        found = tensors(layer(h, return_gates=return_gates))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    assert all(torch.equal(x, y) for x, y in zip((*h, *layer.parameters()), given, strict=True))


@pytest.mark.parametrize("how", ["no gradients", "gradients", "compiled", "traced", "autocast"])
def test_nothing_is_written_over_where_a_call_is_recorded_or_changes_dtypes(how: str) -> None:
    layer, h = FusionLayer(8, 2, "gate", backend="torch"), [torch.randn(ROWS, 8) for _ in range(2)]
    told: list[bool] = []

    def spied(name: str) -> Any:
        fuse = getattr(layer._mode, name)

        def run(layer: FusionLayer, h: Any, return_extras: bool, in_place: bool) -> Any:
            told.append(in_place)
            return fuse(layer, h, return_extras, in_place)

        return run

    layer._mode = type("Spied", (layer._mode,), {name: spied(name) for name in ("_fuse", "_fuse_pair")})
    with torch.set_grad_enabled(how == "gradients"), torch.autocast("cpu", enabled=how == "autocast"):
        if how == "traced":
            torch.jit.trace(layer, (h,), check_trace=False)  # type: ignore[no-untyped-call]
        elif how == "compiled":
            torch.compile(layer, fullgraph=True, backend="eager")(h)
        else:
            layer(h)
    assert set(told) == {how == "no gradients"}


@pytest.mark.parametrize("rows", [None, 64])
def test_transforms_that_refuse_it_get_what_they_would(rows: int | None) -> None:
    """vmap over one of the features, so that others are written into tensors without its dimension; by blocks too."""
    layer, h = FusionLayer(8, 2, "gate", backend="torch"), [torch.randn(ROWS, 8), torch.randn(3, ROWS, 8)]
    layer._block_rows_in_place = rows
    with torch.no_grad():
        found = torch.vmap(lambda x: layer([h[0], x]))(h[1])
        torch.testing.assert_close(found, torch.stack([layer([h[0], x]) for x in h[1]]))


def test_errors_of_calls_are_those_of_calls_with_gradients() -> None:
    layer = FusionLayer(8, 2, "gate", backend="torch")
    with torch.no_grad(), pytest.raises(ValueError, match="expected features of the parameters' dtype torch.float32"):
        layer([torch.randn(4, 8).double()] * 2)


def test_whole_numbers_have_no_room_for_fractions() -> None:
    """torch counts in integers, which a root cannot be written over."""
    mode = check_spec(parse_spec(COUNTED, "counted.yaml"))
    layer = compiled(mode)[0](4, 2)
    h = [torch.randn(5, 4) for _ in range(2)]
    with torch.no_grad(), Made(h) as found:
        out = layer(h)
    torch.testing.assert_close(out, (h[0] > 0).float().add((h[1] > 0).float()).sqrt() * h[0])
    assert not found.written


@pytest.mark.parametrize("name", sorted(WRITING))
def test_functions_that_write_over_an_operand_do(name: str) -> None:
    """Each where its operand lies, along the last dimension and the first."""
    operator = OPERATORS[name]
    function = getattr(torch, name.split("_")[0])
    more: dict[str, Any] = {"clamp_min": {"min": 0.5}, "clamp_max": {"max": 0.5}}.get(name, {})
    for dim in (0, 1) if name == "softmax" else (None,):
        x, *rest = (torch.rand(5, 7, dtype=torch.float64) + 0.1 for _ in range(1 if more else operator.arity))
        rest = [dim] if dim is not None else rest
        wanted = function(x, *rest, **more)
        assert function(x, *rest, **more, out=x) is x
        torch.testing.assert_close(x, wanted, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("mode", "count", "recorded", "in_place"),
    [
        # What pays was measured with 16,384 rows of 128: each runs as it was fastest.
        ("gate", 2, False, False),
        ("gate", 3, False, False),
        ("gate", 5, False, True),
        ("sigmoid_gate", 2, False, False),
        ("film", 2, False, False),
        ("scalar_gate", 5, False, False),
        ("attention", 2, True, True),
        ("low_rank_fusion", 3, True, True),
        ("multiplicative_interaction", 2, True, True),
    ],
)
def test_a_batch_is_walked_in_blocks_where_that_pays(mode: str, count: int, recorded: bool, in_place: bool) -> None:
    layer = FusionLayer(128, count, mode, backend="torch")
    assert (layer._block_rows is not None, layer._block_rows_in_place is not None) == (recorded, in_place)
