"""Which kernels a call launches, and what a process needs that has no GPU."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from machine import require_triton
from torch.nn import functional as F

from sparank_fusion import FusionLayer, list_modes
from sparank_fusion.layer import mode_class
from sparank_gen.ir.check import check_spec
from sparank_gen.ir.expand import expand
from sparank_gen.plan.schedule import working_set
from sparank_gen.spec.load import parse_spec

require_triton()
GENERATED = Path(__file__).parents[1] / "generated"
ENVIRONMENT = {"PYTHONPATH": str(GENERATED)}


def launched(mode: str, dim: int, dtype: torch.dtype, n_modalities: int = 3) -> list[str]:
    """The kernels of one forward pass, in order."""
    from sparank_fusion import kernels

    n_modalities = mode_class(mode).most_modalities or n_modalities
    layer = FusionLayer(dim, n_modalities, mode).to(dtype)
    features = [torch.empty(64, dim, dtype=dtype) for _ in range(n_modalities)]
    with kernels.recording() as found, torch.no_grad():
        layer._fuse_kernels(features, bool(layer.extras))
    return [launch.kernel.__name__ for launch in found.launches]


@pytest.mark.parametrize("dim", [64, 100, 128])
@pytest.mark.parametrize("mode", ["attention", "concat", "gate", "sigmoid_gate"])
def test_narrow_layers_are_one_launch(mode: str, dim: int) -> None:
    assert launched(mode, dim, torch.bfloat16) == [f"{mode}_forward_kernel"]


@pytest.mark.parametrize(("mode", "dim"), [("gate", 200), ("gate", 300), ("sigmoid_gate", 1024)])
def test_wide_layers_of_elementwise_work_own_tiles_of_columns(mode: str, dim: int) -> None:
    assert launched(mode, dim, torch.bfloat16) == [f"{mode}_forward_products"]


@pytest.mark.parametrize(("mode", "dim"), [("attention", 1024), ("gate", 512), ("gate", 4096), ("sigmoid_gate", 4096)])
def test_layers_that_the_library_multiplies_faster_are_split_at_their_products(mode: str, dim: int) -> None:
    assert launched(mode, dim, torch.bfloat16)[-1] == f"{mode}_forward_epilogue"


def trained(mode: str, dim: int, dtype: torch.dtype) -> tuple[Any, list[torch.Tensor]]:
    """What is kept of a forward pass of three modalities, and its results, computed for gradients."""
    from sparank_fusion import kernels

    layer = FusionLayer(dim, 3, mode).to(dtype)
    features = [torch.empty(64, dim, dtype=dtype) for _ in range(3)]
    with kernels.recording() as found:
        results = layer._fuse_kernels(features, bool(layer.extras))
    (keeping,) = found.keepings
    assert keeping.kept == (len(saved(results)) > len(features) + len(list(layer.parameters())))
    return keeping, results


def saved(results: Any) -> tuple[torch.Tensor, ...]:
    """What autograd holds for the backward pass."""
    found: tuple[torch.Tensor, ...] = results[0].grad_fn.saved_tensors
    return found


@pytest.mark.parametrize(
    ("mode", "dim", "dtype", "schedule", "kept"),
    [
        ("gate", 128, torch.bfloat16, "resident", False),
        ("gate", 128, torch.float32, "split", True),
        ("gate", 200, torch.bfloat16, "columns", False),
        ("gate", 300, torch.bfloat16, "columns", True),
        ("gate", 1024, torch.bfloat16, "split", True),
        ("gate", 4096, torch.bfloat16, "split", True),
        ("attention", 16, torch.bfloat16, "resident", False),
        # One kernel could be the forward pass, and none the backward one.
        ("gate", 100, torch.float16, "resident", False),
        ("attention", 128, torch.bfloat16, "resident", True),
        ("attention", 1024, torch.bfloat16, "split", True),
    ],
)
def test_products_are_kept_where_that_is_cheaper_than_to_compute_them_again(
    mode: str, dim: int, dtype: torch.dtype, schedule: str, kept: bool
) -> None:
    keeping, _ = trained(mode, dim, dtype)
    assert (keeping.schedule, keeping.kept) == (schedule, kept)


def test_columns_are_given_up_where_computing_again_takes_longer_than_they_gain() -> None:
    """By hand, for three modalities of dim numbers of two bytes, at 250 operations a byte and slower products."""
    for dim in (200, 300, 380):
        keeping, _ = trained("gate", dim, torch.bfloat16)
        product = 2 * dim * dim * 3 / 250
        # Forward, the product is written and read; backward, it is read once less, and that of its cotangent not moved.
        # A column of a row has 1 + 4 x 3 numbers forward, and twice as many backward.
        forward = 4 * dim * 3 - (13 / 12) ** 2 * product
        backward = 6 * dim * 3 - (26 / 12) ** 2 * 2 * product
        assert keeping.again == pytest.approx(product)
        assert keeping.gained == pytest.approx(forward + max(backward, 0))
        assert keeping.kept == (dim >= 300)


def test_what_is_kept_is_the_product_in_the_type_of_its_operands() -> None:
    _, results = trained("gate", 1024, torch.bfloat16)
    kept = saved(results)[-3:]
    assert [(tuple(x.shape), x.dtype) for x in kept] == [((64, 1024), torch.bfloat16)] * 3


def test_nothing_is_kept_without_gradients() -> None:
    from sparank_fusion import kernels
    from sparank_fusion.kernels.modes import gate

    layer = FusionLayer(300, 3, "gate").to(torch.bfloat16)
    features = [torch.empty(64, 300, dtype=torch.bfloat16) for _ in range(3)]
    counts = []
    forward = gate.forward

    def counted(*given: Any) -> Any:
        results = forward(*given)
        counts.append(len(results))
        return results

    with pytest.MonkeyPatch.context() as patch, kernels.recording() as found:
        patch.setattr(gate, "forward", counted)
        with torch.no_grad():
            layer._fuse_kernels(features, True)
        layer.requires_grad_(False)._fuse_kernels(features, True)
        layer.requires_grad_(True)._fuse_kernels(features, True)
    assert counts == [2, 2, 5]
    assert [choice.schedule for choice in found.choices] == ["columns", "columns", "split"]


@pytest.mark.parametrize(("mode", "spared"), [("gate", 3), ("attention", 4), ("deep_sets", 5), ("multiplicative_interaction", 0)])
def test_the_backward_pass_is_spared_the_products_that_are_kept(
    mode: str, spared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that what follows them is not linear in."""
    from sparank_fusion import kernels

    n_modalities = mode_class(mode).most_modalities or 3
    layer = FusionLayer(16, n_modalities, mode)
    features = [torch.empty(8, 16) for _ in range(n_modalities)]
    linear, calls = F.linear, list[Any]()
    monkeypatch.setattr(F, "linear", lambda *given: calls.append(given) or linear(*given))
    counts = []
    for schedule in ("again", "split"):
        with kernels.recording(), kernels.forced(schedule):
            results = layer._fuse_kernels(features, bool(layer.extras))
            calls.clear()
            torch.autograd.backward(results, [torch.empty_like(result) for result in results])
        counts.append(len(calls))
    assert counts[0] - counts[1] == spared


def test_kept_products_share_no_memory() -> None:
    from sparank_fusion.kernels.arguments import separate

    x = torch.arange(6.0).reshape(2, 3)
    found = separate([x, x.t(), x[:1], torch.empty(0), torch.empty(0)], torch.float32)
    assert len({y.untyped_storage().data_ptr() for y in found[:3]}) == 3
    assert all(y.is_contiguous() for y in found)
    for y, wanted in zip(found, [x, x.t(), x[:1], torch.empty(0), torch.empty(0)], strict=True):
        torch.testing.assert_close(y, wanted)


def test_a_program_for_each_tile_of_rows_and_columns() -> None:
    from sparank_fusion import kernels

    layer = FusionLayer(300, 2, "gate").to(torch.bfloat16)
    with kernels.recording() as found, kernels.forced("columns", (32, 64, 16)), torch.no_grad():
        layer._fuse_kernels([torch.empty(100, 300, dtype=torch.bfloat16)] * 2, True)
    (launch,) = found.launches
    # Four tiles of rows, five of columns.
    assert (launch.programs, launch.constants["ROWS"], launch.constants["I_LANES"], launch.constants["INNER"]) == (20, 32, 64, 16)


@pytest.mark.parametrize(("dim", "serves"), [(255, True), (256, False)])
def test_rows_that_no_program_holds_are_left_to_torch(dim: int, serves: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """256 ** 2 numbers of an outer product fit into as many registers; kernels that are asked for run in any case."""
    for name in ("backends.has_gpu", "runtime.is_built_for_gpus"):
        monkeypatch.setattr(f"sparank_fusion.{name}", lambda: True)
    assert FusionLayer(dim, 2, "tensor_fusion")._may_use_kernels == serves
    assert FusionLayer(dim, 2, "tensor_fusion", backend="triton")._may_use_kernels
    assert FusionLayer(100_000, 2, "product")._may_use_kernels


@pytest.mark.parametrize(
    ("math", "is_square"),
    [
        ("y[n,o] = sum[i](W[n,o,i] * h[0,i])", False),
        ("x[n,i] = tanh(h[0,i] + v[n])\n  y[n,o] = sum[i](W[n,o,i] * x[n,i])", True),
    ],
)
def test_products_with_a_matrix_of_each_part_count_in_full(math: str, is_square: bool) -> None:
    """Matrix units multiply all rows with one matrix; where parts of a row have their own, entries are multiplied and summed."""
    params = "  map: {tensor: 'W[n,o,i]', init: normal, std: 1}\n  shift: {tensor: 'v[n]', init: normal, std: 1}\n"
    head = f"version: 1\nmode: parts\nsummary: s\nmodalities: 2\naxes: {{i: dim, o: dim, n: 6}}\nparams:\n{params}math: |\n  {math}\n"
    mode = check_spec(parse_spec(f"{head}  out[o] = sum[n](v[n] * y[n,o]) + h[1,o]\n", "parts.yaml"))
    found = working_set(expand(mode.program), in_kernel=True)
    assert found is not None and is_square == (found.number_for({"dim": 1000, "modalities": 2}) > 1e6)


def test_float32_uses_one_kernel_where_its_precision_allows() -> None:
    assert launched("gate", 64, torch.float32) == ["gate_forward_epilogue"]
    torch.set_float32_matmul_precision("high")
    try:
        assert launched("gate", 64, torch.float32) == ["gate_forward_kernel"]
    finally:
        torch.set_float32_matmul_precision("highest")


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, env=ENVIRONMENT)


def test_importing_the_package_imports_no_triton() -> None:
    code = "import sys, sparank_fusion; sparank_fusion.FusionLayer(8, 2, 'gate'); print('triton.language' in sys.modules)"
    assert run(code).stdout == "False\n"


NO_TRITON = "kernels need triton 3.4 or newer"


@pytest.mark.parametrize("hidden, message", [("sys.modules['triton'] = None;", NO_TRITON), ("", "there is no GPU")])
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_asking_for_kernels_where_none_can_run(hidden: str, message: str) -> None:
    found = run(f"import sys; {hidden} import sparank_fusion; sparank_fusion.FusionLayer(8, 2, 'gate', backend='triton')")
    assert found.returncode == 1
    assert f"RuntimeError: backend='triton' was asked for, and {message}" in found.stderr.strip().splitlines()[-1]


def test_a_triton_that_is_too_old(tmp_path: Path) -> None:
    """Before 3.4 there is none of what kernels are written in: `auto` runs torch there."""
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton" / "__init__.py").touch()
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import sparank_fusion.runtime
sparank_fusion.runtime.is_built_for_gpus = lambda: True
print(sparank_fusion.FusionLayer(8, 2, 'gate')._may_use_kernels)
sparank_fusion.FusionLayer(8, 2, 'gate', backend='triton')
"""
    found = run(code)
    assert found.stdout == "False\n"
    assert NO_TRITON in found.stderr.strip().splitlines()[-1]


def factors(node: ast.expr) -> list[ast.expr]:
    """The factors of a product."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        return [*factors(node.left), *factors(node.right)]
    return [node]


def terms(node: ast.expr) -> list[ast.expr]:
    """The terms of a sum."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [*terms(node.left), *terms(node.right)]
    return [node]


def addresses(tree: ast.AST) -> list[ast.expr]:
    """The pointer of every load and store."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    return [call.args[0] for call in calls if call.func.attr in ("load", "store")]  # type: ignore[attr-defined]


def name_of(node: ast.expr) -> Any:
    while isinstance(node, ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


WIDE = {"b", "batch", "program", "programs"}


@pytest.mark.parametrize("mode", list_modes())
def test_offsets_that_grow_with_the_batch_are_64_bits(mode: str) -> None:
    """Of every term of an address that depends on the batch, one factor is an int64; the rest is the size of one row."""
    tree = ast.parse((GENERATED / "sparank_fusion" / "kernels" / "modes" / f"{mode}.py").read_text(encoding="utf-8"))
    for kernel in (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith(f"{mode}_")):
        wide = {
            target.id
            for node in ast.walk(kernel)
            if isinstance(node, ast.Assign) and "tl.int64" in ast.unparse(node.value)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        assert "b" in wide
        for address in addresses(kernel):
            for term in terms(address):
                named = {name_of(factor) for factor in factors(term)}
                assert not named & (WIDE - wide), ast.unparse(term)
                assert "B" not in named, ast.unparse(term)
