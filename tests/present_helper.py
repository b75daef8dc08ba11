"""Missing modalities, computed in three ways: by a layer, by the restricted program, and modality by modality.

The last one restricts nothing: each sample is evaluated by itself, by the mode's own program, for as many modalities as
the sample has, with the parameters of those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sparank_gen.backends.tests.golden import laid_out
from sparank_gen.ir.check import FEATURES, PRESENT
from sparank_gen.ir.evaluate import evaluate, evaluate_at
from sparank_gen.ir.mode import Mode
from sparank_gen.ir.node import BATCH
from sparank_gen.ir.restrict import restrict
from sparank_gen.lang.layouts import Layout
from sparank_gen.trial.cases import Case, rule
from test_random_programs import Array, by_key, close, compiled, definition_order, feature, fill, gradient_arrays, inputs

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Results:
    """What a mode computes.

    Attributes:
        values: its results by name, ``(batch, *axes)``.
        gradients: by state-dict key; those of features are ``(batch, M, dim)``.
    """

    values: Mapping[str, Array]
    gradients: Mapping[str, Array]

    def agrees(self, compute: Callable[[], Results], what: str) -> None:
        """Raise unless what the evaluator computes is the same, and finite."""
        close(tensors(self.values), lambda: compute().values, what)
        close(tensors(self.gradients), lambda: compute().gradients, f"{what}: gradient of")


def tensors(arrays: Mapping[str, Array]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def layouts(mode: Mode) -> dict[str, Layout]:
    return {result.layout.name: result.layout for result in reversed(mode.results)}


def poisoned(mode: Mode, case: Case, present: Mask) -> dict[str, Array]:
    """What the evaluator reads, with absent features nan."""
    found = inputs(mode, case, len(present))
    apart = [1] * (found[FEATURES].ndim - present.ndim)
    found[FEATURES] = np.where(present.reshape(*present.shape, *apart), found[FEATURES], np.nan)
    return found | {PRESENT: present.T}


def cotangents(mode: Mode, case: Case, batch: int) -> dict[str, Array]:
    """By rule, for each result, ``(batch, *axes)``."""
    sizes = case.sizes(batch)
    shapes = {name: [mode.program.extents[axis].value(sizes) for axis in mode.program[name].axes] for name in layouts(mode)}
    return {name: rule(f"cotangent.{name}", (batch, *shape)) for name, shape in shapes.items()}


def of_restricted_program(mode: Mode, case: Case, present: Mask) -> Results:
    """By the evaluator, from the restricted program."""
    sizes, found = case.sizes(len(present)), poisoned(mode, case, present)
    values = {
        name: definition_order(laid_out(mode, layout, found, sizes, among_present=True), mode, layout, sizes)
        for name, layout in layouts(mode).items()
    }
    given = cotangents(mode, case, len(present))
    return Results(values, by_key(mode, case, gradient_arrays(mode, restrict(mode.program), sizes, given, found)))


def of_each_sample(mode: Mode, case: Case, present: Mask) -> Results:
    """By the evaluator, from the mode's own program among the modalities of one sample at a time."""
    program, found = mode.program, inputs(mode, case, len(present))
    axes = {p.layout.name: p.layout.axes for module in mode.modules for p in module.parameters}
    axes[FEATURES] = (BATCH, *(axis for axis in mode.features.axes if axis != BATCH))
    given = cotangents(mode, case, len(present))
    values = {name: np.zeros(array.shape) for name, array in given.items()}
    gradients = {name: np.zeros(array.shape) for name, array in found.items()}
    for row, which in enumerate(map(np.flatnonzero, present)):
        if not which.size:
            continue

        def part(array: Array, axes: tuple[str, ...], row: int = row, which: NDArray[np.intp] = which) -> tuple[object, ...]:
            """The index of what belongs to this sample and its modalities."""
            picked = [
                [row] if axis == BATCH else which if axis in program.modality_axes else range(size)
                for axis, size in zip(axes, array.shape, strict=True)
            ]
            return np.ix_(*picked)

        read = {name: array[part(array, axes[name])] for name, array in found.items()}
        sizes = Case(case.dim, len(which), case.options).sizes(1)
        outer = {name: (BATCH, *program[name].axes) for name in given}
        computed = evaluate([program[name].node for name in given], read, program.extents, sizes)
        for name, array in values.items():
            array[part(array, outer[name])] = evaluate_at(program[name].node, outer[name], computed, program.extents, sizes)
        arriving = {name: array[part(array, outer[name])] for name, array in given.items()}
        for name, array in gradient_arrays(mode, program, sizes, arriving, read).items():
            gradients[name][part(gradients[name], axes[name])] += array
    return Results(values, by_key(mode, case, gradients))


def ordered(tensor: torch.Tensor, mode: Mode, layout: Layout, sizes: dict[str, int | float]) -> torch.Tensor:
    """A result of a layer as ``(batch, *axes of the definition)``."""
    whole = tensor.reshape([sizes["batch"] if a == BATCH else mode.program.extents[a].value(sizes) for a in layout.axes])
    return whole.permute([layout.axes.index(axis) for axis in (BATCH, *mode.program[layout.name].axes)])


def of_layer(layer: torch.nn.Module, mode: Mode, case: Case, present: Mask) -> Results:
    """By a generated layer, of absent features that are nan."""
    sizes = case.sizes(len(present))
    features = [torch.from_numpy(feature(m, len(present), case.dim)) for m in range(case.n_modalities)]
    for m, given in enumerate(features):
        given[~torch.from_numpy(present[:, m])] = torch.nan
        given.requires_grad_()
    out, info = layer(features, return_gates=True, present=torch.from_numpy(present))
    returned = {result.layout.name: {"out": out, **info}[result.key] for result in reversed(mode.results)}
    values = {name: ordered(returned[name], mode, layout, sizes) for name, layout in layouts(mode).items()}
    arriving = cotangents(mode, case, len(present))
    total = sum((values[name] * torch.from_numpy(arriving[name])).sum() for name in values)
    named = dict(layer.named_parameters())
    wanted = [*features, *named.values()]
    found = torch.autograd.grad(total, wanted, allow_unused=True)
    filled = [np.zeros(tuple(x.shape)) if g is None else g.numpy() for g, x in zip(found, wanted, strict=True)]
    gradients = {"features": np.stack(filled[: len(features)], 1)} | dict(zip(named, filled[len(features) :], strict=True))
    return Results({name: value.detach().numpy() for name, value in values.items()}, gradients)


def filled_layer(mode: Mode, case: Case) -> tuple[torch.nn.Module, str]:
    """A layer of a mode with parameters by rule, and its source."""
    made, source = compiled(mode)
    layer = made(case.dim, case.n_modalities, **dict(case.options), backend="torch").double()
    fill(layer)
    return layer, source


def check_present(mode: Mode, case: Case, present: Mask) -> None:
    """All three agree, absent features have a gradient of exactly zero, and all present are as if none could be missing."""
    layer, _ = filled_layer(mode, case)
    found, restricted = of_layer(layer, mode, case, present), of_restricted_program(mode, case, present)
    found.agrees(lambda: of_restricted_program(mode, case, present), "layer and restricted program")
    # Axes such as `modalities * dim` stay as long as they are, and would be shorter for one sample by itself.
    extents = mode.program.extents.values()
    if all("modalities" not in extent.symbols or extent == mode.program.extents["m"] for extent in extents):
        restricted.agrees(lambda: of_each_sample(mode, case, present), "restricted program and each sample")
    for results in (found, restricted):
        assert not results.gradients["features"][~present].any()
    every = np.ones_like(present)
    of_restricted_program(mode, case, every).agrees(lambda: of_each_sample(mode, case, every), "all present")
