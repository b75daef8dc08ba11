"""Missing modalities: programs restricted to those present, and the layers that run them."""

from __future__ import annotations

import copy
import re
from typing import Any

import numpy as np
import pytest
import torch
from project_helper import REPOSITORY
from torch import Tensor

from present_helper import Mask, check_present, filled_layer
from sparank_fusion import FusionLayer
from sparank_gen.ir.check import check_spec
from sparank_gen.ir.mode import Mode
from sparank_gen.ir.node import reachable
from sparank_gen.ir.restrict import HARMLESS, NEUTRAL, numbered, restrict
from sparank_gen.lang.ops import OPERATORS
from sparank_gen.spec.load import parse_spec
from sparank_gen.trial.cases import Case, cases
from test_random_programs import compiled

MODES = ("attention", "concat", "gate")
MASKS: dict[int, Mask] = {
    count: np.array([[bool(number >> m & 1) for m in range(count)] for number in range(2**count)]) for count in (2, 3)
}
# Each runs over modalities, or is singular where an absent feature or an empty sum would be zero.
FORMULAS = {
    "sum": "out[i] = sum[m](h[m,i])",
    "mean": "out[i] = mean[m](h[m,i])",
    "mean of pairs": "out[i] = mean[m,t](h[m,i] * tanh(h[t,i]))",
    "mean of all": "out[i] = h0[i] * mean[m,j](h[m,j])\n  h0[i] = sum[m](h[m,i])",
    "product": "out[i] = prod[m](h[m,i])",
    "largest": "out[i] = max[m](h[m,i]) - min[m](h[m,i] ** 2)",
    "largest of pairs": "out[i] = max[m,t](h[m,i] * h[t,i])",
    "log of a sum": "out[i] = logsumexp[m](h[m,i])",
    "scores of pairs": "g[m,t,i] = softmax[m,t](h[m,i] * h[t,i])\n  out[i] = sum[m,t](g[m,t,i] * h[t,i])",
    "normalised modalities": "out[i] = max[m](layernorm[m](h[m,i]))",
    "normalised modalities and features": "out[i] = sum[m](layernorm[m,i](h[m,i], eps=0.1) * h[m,i])",
    "normalised features": "out[i] = sum[m](layernorm[i](h[m,i], eps=0))",
    "unit length": "out[i] = sum[m](h[m,i] / sqrt(sum[j](h[m,j] ** 2)))",
    "unit length of a sum": "s[i] = sum[m](h[m,i])\n  out[i] = s[i] * rsqrt(sum[j](s[j] ** 2))",
    "signed root": "s[i] = prod[m](h[m,i])\n  out[i] = where(s[i] > 0, sqrt(max(s[i], 0.001)), -sqrt(max(-s[i], 0.001)))",
    "geometric": "out[i] = exp(mean[m](log(abs(h[m,i]))))",
    "harmonic": "out[i] = 1 / mean[m](1 / h[m,i])",
    "powers": "out[i] = sum[m](abs(h[m,i]) ** -1.5) ** (0 - 0.5)",
    "infinite at zero": "out[i] = log(sum[m](exp(where(h[m,i] == 0, 800, h[m,i]))))",
    "factors without zeros": "out[i] = exp(max[m](h[m,i])) * sigmoid(mean[m](h[m,i]))",
    "entropy": "g[m,i] = softmax[m](3 * h[m,i])\n  out[i] = -sum[m](g[m,i] * log(g[m,i]))",
    "share": "g[m,i] = abs(h[m,i]) / sum[t](abs(h[t,i]))\n  out[i] = sum[m](g[m,i] * h[m,i])",
}
PARAMETERS = {
    "learned scores": (
        "gate: {module: Linear, per: m, weight: 'W[m,e,i]', bias: 'c[m,e]'}",
        "g[m,e] = softmax[m](sum[i](W[m,e,i]) + c[m,e])\n  out[i] = sum[m,e](g[m,e] * h[m,i]) - sum[m,e](g[m,e] * log(g[m,e]))",
    ),
    "joined": (
        "mix: {module: Linear, weight: 'W[i,(m j)]', bias: 'c[i]'}",
        "x[m,j] = sigmoid(h[m,j])\n  out[i] = tanh(sum[m,j](W[i,m,j] * x[m,j]) + c[i])",
    ),
    "joined in pairs": (
        "mix: {module: Linear, weight: 'W[(m i),(t j)]', bias: 'c[(m i)]'}",
        "x[m,i] = sum[t,j](W[m,i,t,j] * h[t,j]) + c[m,i]\n  out[i] = mean[m](x[m,i])",
    ),
    "sum of biases": (
        "mix: {module: Linear, per: m, weight: 'W[m,i,j]', bias: 'c[m,i]'}",
        "out[i] = sum[m](c[m,i]) * sum[m,j](W[m,i,j] * h[m,j]) + max[m](c[m,i])",
    ),
    "norm of a projection": (
        "mix: {module: Linear, per: m, weight: 'W[m,i,j]'}",
        "x[m,i] = sum[j](W[m,i,j] * h[m,j])\n  out[i] = sum[m](x[m,i] / sqrt(sum[j](x[m,j] ** 2)))",
    ),
}


def mode_of(math: str, params: str = "", modalities: str = ">=2", tail: str = "") -> Mode:
    """The checked mode of a formula; axes that it does not name are left out."""
    words = set("".join(c if c.isalnum() else " " for c in math + params).split())
    declared = {"t": "modalities", "i": "dim", "j": "dim", "e": "1", "p": "2", "q": "modalities + 1", "n": "modalities - 1"}
    axes = ", ".join(f"{axis}: {extent}" for axis, extent in declared.items() if axis in words)
    head = f"version: 1\nmode: test\nsummary: A test.\nmodalities: '{modalities}'\naxes: {{{axes}}}\n"
    weights = "weights: 'g[m,b,i]'\n" if math.startswith("g[m,i] =") else ""
    return check_spec(parse_spec(f"{head}{f'params: {{{params}}}' if params else ''}\nmath: |\n  {math}\n{weights}{tail}", "test.yaml"))


def shipped_modes() -> list[Mode]:
    """Those that compute something, and name no modality by number, among modalities of one width."""
    paths = sorted((REPOSITORY / "specs").glob("*.yaml"))
    sources = [re.sub(r"dim\[\w+\]", "dim", path.read_text(encoding="utf-8")) for path in paths]
    modes = [check_spec(parse_spec(source, path.name)) for source, path in zip(sources, paths, strict=True)]
    return [mode for mode in modes if mode.program.definitions and numbered(mode.program) is None]


SHIPPED = shipped_modes()


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("name", FORMULAS)
def test_formulas(name: str, count: int) -> None:
    check_present(mode_of(FORMULAS[name]), Case(4, count, ()), MASKS[count])


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("name", PARAMETERS)
def test_formulas_with_parameters(name: str, count: int) -> None:
    params, math = PARAMETERS[name]
    check_present(mode_of(math, params), Case(3, count, ()), MASKS[count])


def test_parameters_of_absent_modalities_take_no_part() -> None:
    """Not even where they are singular: neither values nor gradients."""
    math = "out[i] = sum[m](h[m,i] / tau[m] + h[m,i] * log(tau[m])) + max[m](h[m,i] * exp(-1 / tau[m]))"
    layer, _ = filled_layer(mode_of(math, 'scale: {tensor: "tau[m]", init: ones}'), Case(3, 2, ()))
    layer.load_state_dict({"scale": torch.tensor([2.0, 0.0])})
    features = [torch.ones(1, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    out = layer(features, present=torch.tensor([[True, False]]))
    value = 0.5 + np.log(2) + np.exp(-0.5)
    torch.testing.assert_close(out, torch.full_like(out, value))
    own, absent, scale = torch.autograd.grad(out.sum(), [*features, layer.scale])
    torch.testing.assert_close(own, torch.full_like(own, value))
    torch.testing.assert_close(absent, torch.zeros_like(absent))
    torch.testing.assert_close(scale, scale.new_tensor([3 * (-0.25 + 0.5 + np.exp(-0.5) / 4), 0]))


def test_exactly_two_modalities() -> None:
    check_present(mode_of(FORMULAS["share"], modalities="2"), Case(4, 2, ()), MASKS[2])


def test_diagnostics() -> None:
    math = "g[m,i] = softmax[m](3 * h[m,i])\n  s = sum[m,i](g[m,i] ** 2)\n  x[m] = sum[i](h[m,i]) + 1\n  out[i] = sum[m](g[m,i] * x[m])"
    mode = mode_of(math, tail="diagnostics: {sharpness: 's[b]', scores: 'x[b,m]', same: 'g[b,(m i)]'}\n")
    check_present(mode, Case(4, 3, ()), MASKS[3])


@pytest.mark.parametrize("mode", SHIPPED, ids=lambda mode: mode.name)
def test_modes(mode: Mode) -> None:
    case = cases(mode)[-1]
    check_present(mode, case, MASKS[case.n_modalities])


def test_number_of_modalities_is_that_of_the_layer() -> None:
    layer, _ = filled_layer(mode := mode_of("out[i] = sum[m](h[m,i]) * modalities + size[m]"), Case(2, 3, ()))
    assert numbered(mode.program) is None
    present = torch.tensor([[True, False, False]])
    found = layer([torch.ones(1, 2, dtype=torch.float64)] * 3, present=present)
    torch.testing.assert_close(found, torch.full((1, 2), 6.0, dtype=torch.float64))


def test_every_operator_over_axes_has_a_rule() -> None:
    over_axes = {name for name, o in OPERATORS.items() if o.kind in ("reduction", "normalisation") and o.differentiable}
    # These are written out in the others where they run over modalities.
    written_out = {"mean", "layernorm"}
    assert over_axes == NEUTRAL.keys() | written_out
    assert all(OPERATORS[name].expansion for name in written_out)
    # Where an operator is not finite at zero, forward or backward, it is among those that get a harmless operand.
    assert HARMLESS.keys() <= OPERATORS.keys()


def test_names_of_masks_may_be_taken() -> None:
    math = "among[m,i] = softmax[m](h[m,i])\n  count[i] = mean[m](among[m,i])\n  some = max[m,i](h[m,i])\n  out[i] = count[i] + some"
    check_present(mode_of(math), Case(3, 2, ()), MASKS[2])


@pytest.mark.parametrize(
    "math, modalities, statement",
    [
        ("x[i] = tanh(h[0,i])\n  out[i] = x[i] + h[1,i]", ">=2", "x[i] = tanh(h[0,i])"),
        ("x[m,i] = tanh(h[m,i])\n  out[i] = x[1,i] + x[0,i]", ">=2", "out[i] = x[1,i] + x[0,i]"),
        ("g[0,i] = h[0,i]\n  g[1,i] = tanh(h[0,i])\n  out[i] = sum[m](g[m,i])", "2", "g[0,i] = h[0,i]"),
        ("out[i] = sum[p](h[p,i])", "2", "out[i] = sum[p](h[p,i])"),
        ("x[m,i] = tanh(h[m,i])\n  out[i] = sum[p](x[p,i])", "2", "out[i] = sum[p](x[p,i])"),
        ("x[q,i] = concat[q: m, 1](h[m,i], 1)\n  out[i] = prod[q](x[q,i])", ">=2", "x[q,i] = concat[q: m, 1](h[m,i], 1)"),
        ("x[m,i] = h[m,i] ** 2\n  out[i] = sum[n](x[n+1,i])", ">=2", "out[i] = sum[n](x[n+1,i])"),
    ],
)
def test_numbered_modalities(math: str, modalities: str, statement: str) -> None:
    mode = mode_of(math, modalities=modalities)
    assert numbered(mode.program) == statement
    layer, source = filled_layer(mode, Case(3, 2, ()))
    assert statement in source
    assert "_fuse_present" not in source
    with pytest.raises(ValueError, match="names modalities by number") as caught:
        layer([torch.zeros(2, 3)] * 2, present=torch.ones(2, 2, dtype=torch.bool))
    assert repr(statement) in str(caught.value)


def test_pieces_along_another_axis_are_no_modalities() -> None:
    math = "x[0,i] = sum[m](h[m,i])\n  x[1,i] = prod[m](h[m,i])\n  out[i] = sum[p](x[p,i])"
    check_present(mode_of(math), Case(3, 3, ()), MASKS[3])


def test_restriction_without_modalities_changes_nothing() -> None:
    program = mode_of("x[m,i] = tanh(h[m,i]) / (1 + h[m,i] ** 2)\n  out[i] = sum[m](x[m,i] ** 2)").program
    restricted = restrict(program, selects=False)
    assert restricted["x"].node is program["x"].node
    assert restricted["out"].node is program["out"].node


def test_a_guard_in_the_formula_needs_no_second_one() -> None:
    program = mode_of("out[i] = sum[m](h[m,i] / max(sqrt(sum[j](h[m,j] ** 2) + 0.1), 0.001))").program
    assert not any(node.op == "where" for node in reachable([restrict(program, selects=False)["out"].node]))


# Layers


def layer_of(mode: str, count: int, dtype: torch.dtype = torch.float64, dim: int = 8) -> FusionLayer:
    torch.manual_seed(0)
    return FusionLayer(dim, count, mode).to(dtype)


def features_of(count: int, batch: int = 6, dtype: torch.dtype = torch.float64, dim: int = 8) -> list[Tensor]:
    return [torch.randn(batch, dim, dtype=dtype) for _ in range(count)]


def mask_of(count: int, batch: int = 6) -> Tensor:
    """Rows of every kind, the first without any modality."""
    return torch.from_numpy(np.resize(MASKS[count], (batch, count)))


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_absent_features_are_never_read(mode: str, count: int, value: float) -> None:
    layer, present = layer_of(mode, count), mask_of(count)

    def run(inputs: list[Tensor]) -> list[Tensor]:
        given = [x.clone().requires_grad_() for x in inputs]
        out, info = layer(given, return_gates=True, present=present)
        results = [out] + ([info["weights"]] if info["weights"] is not None else [])
        gradients = torch.autograd.grad(sum(x.sin().sum() for x in results), [*given, *layer.parameters()])
        for m, gradient in enumerate(gradients[:count]):
            assert not gradient[~present[:, m]].any()
        return [*results, *gradients]

    inputs = features_of(count)
    poisoned = [torch.where(present[:, m, None], x, value) for m, x in enumerate(inputs)]
    for found, wanted in zip(run(poisoned), run(inputs), strict=True):
        assert torch.equal(found, wanted)
        assert found.isfinite().all()


@pytest.mark.parametrize("mode", ["attention"])
def test_the_same_as_a_layer_of_the_modalities_that_are_present(mode: str) -> None:
    layer, inputs, present = layer_of(mode, 3), features_of(3, 64), torch.rand(64, 3) > 0.4
    out, info = layer(inputs, return_gates=True, present=present)
    pair = layer_of(mode, 2)
    pair.load_state_dict(layer.state_dict())
    for absent in range(3):
        kept = [m for m in range(3) if m != absent]
        rows = present[:, kept].all(1) & ~present[:, absent]
        wanted, wanted_info = pair([inputs[m][rows] for m in kept], return_gates=True)
        torch.testing.assert_close(out[rows], wanted)
        torch.testing.assert_close(info["weights"][rows][:, kept][:, :, kept], wanted_info["weights"])


def test_the_same_as_a_layer_with_the_parameters_of_those_present() -> None:
    layer, inputs, present = layer_of("gate", 3), features_of(3), torch.tensor([[True, False, True]] * 6)
    pair = layer_of("gate", 2)
    state = {key: value for key, value in layer.state_dict().items() if ".1." not in key}
    pair.load_state_dict({key.replace(".2.", ".1."): value for key, value in state.items()})
    out, info = layer(inputs, return_gates=True, present=present)
    wanted, wanted_info = pair(inputs[::2], return_gates=True)
    torch.testing.assert_close(out, wanted)
    torch.testing.assert_close(info["weights"][::2], wanted_info["weights"])
    assert not info["weights"][1].any()


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_all_present(mode: str, count: int, dtype: torch.dtype) -> None:
    layer, inputs = layer_of(mode, count, dtype), features_of(count, dtype=dtype)
    found, found_info = layer(inputs, return_gates=True, present=torch.ones(6, count, dtype=torch.bool))
    wanted, wanted_info = layer(inputs, return_gates=True)
    torch.testing.assert_close(found, wanted)
    if wanted_info["weights"] is not None:
        torch.testing.assert_close(found_info["weights"], wanted_info["weights"])


@pytest.mark.parametrize(
    ("math", "scale"),
    [
        ("out[j] = mean[m,i](abs(h[m,i] - h[m,j]))", 0.05),
        ("out[j] = max[m](h[m,j]) - mean[m,i](h[m,i])", 100),
        ("x[m,i] = layernorm[m,i](h[m,i])\n  out[i] = sum[m](x[m,i] ** 2)", 20),
    ],
)
def test_means_in_half_precision(math: str, scale: float) -> None:
    """Totals of more numbers than half precision can hold, and how many these are, are no intermediate results."""
    made, _ = compiled(mode_of(math))
    layer = made(256, 3, backend="torch")
    torch.manual_seed(0)
    features = [scale * (1 + torch.randn(4, 256)) for _ in range(3)]
    found = layer.half()([x.half() for x in features], present=torch.ones(4, 3, dtype=torch.bool))
    wanted = layer.double()([x.half().double() for x in features])
    torch.testing.assert_close(found.double(), wanted, rtol=1e-2, atol=1e-2 * float(wanted.abs().max()))


@pytest.mark.parametrize("mode", MODES)
def test_gradcheck(mode: str) -> None:
    layer, present = layer_of(mode, 3, dim=4), mask_of(3, 8)
    names = [name for name, _ in layer.named_parameters()]
    inputs = [x.requires_grad_() for x in features_of(3, 8, dim=4)]
    held = [parameter.detach().clone().requires_grad_() for parameter in layer.parameters()]

    def run(*tensors: Tensor) -> Any:
        parameters = dict(zip(names, tensors[3:], strict=True))
        return torch.func.functional_call(layer, parameters, (list(tensors[:3]),), {"present": present})

    assert torch.autograd.gradcheck(run, (*inputs, *held), fast_mode=True)
    assert torch.autograd.gradgradcheck(run, (*inputs, *held), fast_mode=True)


@pytest.mark.parametrize("mode", ["attention", "gate"])
def test_blocks_of_rows(mode: str) -> None:
    layer, inputs, present = layer_of(mode, 3), features_of(3, 1000), torch.rand(1000, 3) > 0.4
    wanted, wanted_info = layer(inputs, return_gates=True, present=present)
    layer._block_rows = layer._block_rows_in_place = 64
    with torch.no_grad():
        found, found_info = layer(inputs, return_gates=True, present=present)
    torch.testing.assert_close((found, found_info["weights"]), (wanted, wanted_info["weights"]))
    torch.testing.assert_close(layer(inputs, present=present), wanted)


@pytest.mark.parametrize("mode", MODES)
def test_transforms_and_compilers(mode: str) -> None:
    layer, inputs, present = layer_of(mode, 3), features_of(3), mask_of(3)
    wanted = layer(inputs, present=present)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(inputs, present=present), wanted)
    batch = torch.export.Dim("batch", min=2, max=100)
    shapes = {"features": [{0: batch}] * 3, "present": {0: batch}}
    exported = torch.export.export(layer, (inputs,), {"present": present}, dynamic_shapes=shapes, strict=False)
    torch.testing.assert_close(exported.module()([x[:4] for x in inputs], present=present[:4]), wanted[:4])
    each = torch.vmap(lambda which, *h: layer([x[None] for x in h], present=which[None])[0])
    torch.testing.assert_close(each(present, *inputs), wanted)
    other = copy.deepcopy(layer)
    torch.testing.assert_close(other(inputs, present=present), wanted)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", MODES)
def test_trace(mode: str) -> None:
    layer, inputs, present = layer_of(mode, 3), features_of(3), mask_of(3)

    class Traced(torch.nn.Module):
        """A trace passes keyword-only arguments to no module but those inside."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, present: Tensor, *features: Tensor) -> Any:
            return self.layer(list(features), present=present)

    traced = torch.jit.trace(Traced(), (present, *inputs))
    found = traced(present[1:5], *(x[:4] for x in inputs))
    torch.testing.assert_close(found, layer([x[:4] for x in inputs], present=present[1:5]))


@pytest.mark.parametrize("mode", MODES)
def test_autocast(mode: str) -> None:
    layer, inputs = layer_of(mode, 3, torch.float32), features_of(3, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found, wanted = layer(inputs, present=torch.ones(6, 3, dtype=torch.bool)), layer(inputs)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    "present, message",
    [
        (torch.ones(6, 2, dtype=torch.bool), r"\(6, 3\) on cpu, got torch.bool of shape \(6, 2\) on cpu"),
        (torch.ones(5, 3, dtype=torch.bool), r"got torch.bool of shape \(5, 3\)"),
        (torch.ones(3, dtype=torch.bool), r"got torch.bool of shape \(3,\)"),
        (torch.ones(6, 3), r"a bool tensor of shape \(batch, n_modalities\) = \(6, 3\) on cpu, got torch.float32"),
        (torch.ones(6, 3, dtype=torch.bool, device="meta"), "on meta"),
        ([[True] * 3] * 6, "got list"),
        (True, "got bool"),
    ],
)
def test_wrong_present(present: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layer_of("gate", 3)(features_of(3), present=present)


def test_features_are_checked_first() -> None:
    with pytest.raises(ValueError, match="expected 3 features of shape"):
        layer_of("gate", 3)(features_of(2), present=mask_of(3))


@pytest.mark.parametrize("mode", [*MODES, "sigmoid_gate"])
def test_one_modality(mode: str) -> None:
    (feature,) = features_of(1)
    present = torch.tensor([True, False] * 3)[:, None]
    out, info = layer_of(mode, 1)([feature], return_gates=True, present=present)
    assert torch.equal(out, torch.where(present, feature, 0))
    assert info == {"type": "identity", "weights": None}
    with pytest.raises(ValueError, match="bool tensor"):
        layer_of(mode, 1)([feature], present=present.float())
