"""Random programs with missing modalities: generated torch code against the evaluator of the restricted program.

Absent features are nan on both sides. ``FUZZ_EXAMPLES`` sets how many programs are drawn.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import HealthCheck, currently_in_test_context, given, note, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from random_specs import random_specs
from sparank_gen.backends.tests.cases import Case, rule, tensors
from sparank_gen.backends.tests.golden import laid_out
from sparank_gen.ir.check import FEATURES, PRESENT, check_spec
from sparank_gen.ir.mode import Mode
from sparank_gen.ir.restrict import numbered, restrict
from sparank_gen.spec.load import parse_spec
from test_random_programs import Array, close, compiled, definition_order, reference_gradients

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "150"))
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Results:
    """The output, the weights, and the gradients by state-dict key; those of features are ``(batch, M, dim)``."""

    out: Array
    weights: Array | None
    gradients: dict[str, Array]


def poisoned(mode: Mode, case: Case, present: Mask) -> dict[str, Array]:
    """What the evaluator reads, with absent features nan."""
    found = dict(tensors(mode, case, len(present)))
    found[FEATURES] = np.where(present[:, :, None], found[FEATURES], np.nan)
    return found | {PRESENT: present.T}


def cotangents(mode: Mode, shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    return {name: rule(f"cotangent.{name}", shape) for name, shape in shapes.items()}


def evaluated(mode: Mode, case: Case, present: Mask) -> Results:
    """The results of the restricted program, from the evaluator."""
    sizes, found = case.sizes(len(present)), poisoned(mode, case, present)
    layouts = {"out": mode.out} | ({"weights": mode.weights} if mode.weights else {})
    arrays = {name: laid_out(mode, layout, found, sizes, among_present=True) for name, layout in layouts.items()}
    given = cotangents(mode, {name: array.shape for name, array in arrays.items()})
    ordered = {layouts[name].name: definition_order(given[name], mode, layouts[name], sizes) for name in layouts}
    gradients = reference_gradients(mode, case, len(present), ordered, found, restrict(mode.program))
    return Results(arrays["out"], arrays.get("weights"), gradients)


def computed(layer: torch.nn.Module, mode: Mode, case: Case, present: Mask) -> Results:
    """The results of a generated layer."""
    features = [torch.from_numpy(rule(f"features.{m}", (len(present), case.dim))) for m in range(case.n_modalities)]
    for m, feature in enumerate(features):
        feature[~torch.from_numpy(present[:, m])] = float("nan")
        feature.requires_grad_()
    out, info = layer(features, return_gates=True, present=torch.from_numpy(present))
    results = {"out": out} | ({"weights": info["weights"]} if info["weights"] is not None else {})
    given = cotangents(mode, {name: tuple(value.shape) for name, value in results.items()})
    total = sum((value * torch.from_numpy(given[name])).sum() for name, value in results.items())
    named = dict(layer.named_parameters())
    found = torch.autograd.grad(total, [*features, *named.values()], allow_unused=True)
    filled = [
        np.zeros(tuple(x.shape)) if g is None else g.numpy() for g, x in zip(found, [*features, *named.values()], strict=True)
    ]
    gradients = {"features": np.stack(filled[: len(features)], 1)} | dict(zip(named, filled[len(features) :], strict=True))
    arrays = {name: value.detach().numpy() for name, value in results.items()}
    return Results(arrays["out"], arrays.get("weights"), gradients)


def agree(found: Results, wanted: Results) -> None:
    """Both are finite, and the same."""
    close(torch.from_numpy(found.out), wanted.out, "out")
    if wanted.weights is not None:
        assert found.weights is not None
        close(torch.from_numpy(found.weights), wanted.weights, "weights")
    for key, gradient in found.gradients.items():
        close(torch.from_numpy(gradient), wanted.gradients[key], f"gradient of {key}")


def check_present(text: str, dim: int, n_modalities: int, hidden: int, present: Mask) -> None:
    """Compile a spec, and compare its results and all gradients with the evaluator's."""
    mode = check_spec(parse_spec(text, "random.yaml"))
    assert numbered(mode.program) is None
    made, source = compiled(mode)
    if currently_in_test_context():
        note(source)
    options = (("hidden", hidden),) if mode.spec.hyperparameters else ()
    case = Case(dim, n_modalities, options)
    layer = made(dim, case.n_modalities, **dict(options), backend="torch").double()
    layer.load_state_dict({key: torch.from_numpy(rule(key, tuple(v.shape))) for key, v in layer.state_dict().items()})
    wanted = evaluated(mode, case, present)
    agree(computed(layer, mode, case, present), wanted)
    assert not wanted.gradients["features"][~present].any()
    whole = np.ones_like(present)
    plain = dict(tensors(mode, case, len(present)))
    for layout in (mode.out, mode.weights):
        assert layout is not None
        every = laid_out(mode, layout, poisoned(mode, case, whole), case.sizes(len(present)), among_present=True)
        close(torch.from_numpy(every), laid_out(mode, layout, plain, case.sizes(len(present))), "all present")


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
@given(
    text=random_specs(may_number=False),
    dim=st.integers(1, 4),
    n_modalities=st.integers(2, 3),
    hidden=st.integers(1, 3),
    rows=st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=3),
)
def test_random_programs(text: str, dim: int, n_modalities: int, hidden: int, rows: list[list[bool]]) -> None:
    torch.set_num_threads(1)
    note(text)
    count = 2 if "modalities: 2\n" in text else n_modalities
    check_present(text, dim, count, hidden, np.array(rows)[:, :count])
