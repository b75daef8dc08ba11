"""Random programs: generated torch code against the reference evaluator and its derivative, in float64.

``FUZZ_EXAMPLES`` sets how many are drawn (``make fuzz N=10000``).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from fuzzing import fuzzed
from hypothesis import currently_in_test_context, given, note
from hypothesis import strategies as st
from numpy.typing import NDArray
from rounding import rounding_error

from random_specs import random_specs
from sparank_gen.backends.tests.golden import laid_out
from sparank_gen.backends.torch.module import module_file
from sparank_gen.ir.check import check_spec
from sparank_gen.ir.derive import ADJOINT, derive
from sparank_gen.ir.evaluate import Pieces, evaluate, evaluate_apart, evaluate_at, evaluate_in
from sparank_gen.ir.mode import Mode
from sparank_gen.ir.node import Program
from sparank_gen.lang.layouts import Layout
from sparank_gen.project.templates import environment
from sparank_gen.spec.load import parse_spec
from sparank_gen.trial.cases import Case, indexed, rule, stored_tensors, tensors

TEMPLATE = environment(None).get_template("torch/mode.py.j2")
Array = NDArray[np.float64]


def compiled(mode: Mode) -> tuple[Any, str]:
    """The generated class of a mode, and its source."""
    file = module_file(mode)
    source = TEMPLATE.render(header="# random", package="sparank_fusion", file=file)
    namespace: dict[str, Any] = {"__name__": "random_mode"}
    exec(compile(source, "random_mode.py", "exec", dont_inherit=True), namespace)  # noqa: S102
    return namespace[file.class_name], source


def close(found: Mapping[str, torch.Tensor], compute: Callable[[], Mapping[str, Array]], what: str) -> None:
    """Equal to what the evaluator computes: to 1e-9 of the largest entry, or to ten times what rounding does to it there."""
    wanted = compute()
    for key, tensor in found.items():
        expected = wanted[key]
        assert tensor.shape == expected.shape, f"{what} {key}: shape {tuple(tensor.shape)}, expected {expected.shape}"
        scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
        difference = np.abs(tensor.detach().numpy() - expected)
        if not (difference <= 1e-9 * scale).all():
            rounding = rounding_error(lambda key=key: compute()[key])  # type: ignore[misc]
            message = f"{what} {key}: off by {difference.max():.3g} at scale {scale:.3g}, where rounding makes {rounding:.3g}"
            assert (difference <= 10 * rounding).all(), message


def filled(gradients: Sequence[torch.Tensor | None], tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The gradients of tensors by name, zero where there is none."""
    pairs = zip(gradients, tensors.items(), strict=True)
    return {key: torch.zeros_like(tensor) if gradient is None else gradient for gradient, (key, tensor) in pairs}


def uneven(numbers: Array) -> Array:
    """Numbers by rule lie evenly, so that differences of theirs are equal but for rounding: these do not."""
    return np.asarray(np.tanh(2 * numbers))


def feature(modality: int, batch: int, dim: int) -> Array:
    return uneven(rule(f"features.{modality}", (batch, dim)))


def fill(layer: torch.nn.Module) -> None:
    """Give a layer the parameters that the evaluator reads."""
    layer.load_state_dict({key: torch.from_numpy(uneven(rule(key, tuple(v.shape)))) for key, v in layer.state_dict().items()})


def inputs(mode: Mode, case: Case, batch: int) -> dict[str, Any]:
    """What the evaluator reads."""
    return {
        name: Pieces(value.slot, tuple(map(uneven, value.arrays))) if isinstance(value, Pieces) else uneven(value)
        for name, value in tensors(mode, case, batch).items()
    }


def gradient_arrays(
    mode: Mode, program: Program, sizes: Mapping[str, int | float], cotangents: Mapping[str, Array], found: Mapping[str, Array]
) -> dict[str, Array]:
    """The gradients of the derived adjoint program, by tensor, one dimension for each index.

    Args:
        mode: where the program came from.
        program: the mode's own, or one made from it.
        sizes: the value of each name that extents are made of.
        cotangents: those of the program's outputs, ``(batch, *axes)``.
        found: what the program reads.
    """
    slots = mode.slots
    derived = derive(program, slots, program.outputs)
    read = dict(found) | {name + ADJOINT: value for name, value in cotangents.items()}
    values = evaluate([definition.node for definition in derived.definitions], read, program.extents, sizes)
    return {
        name: evaluate_at(derived[name + ADJOINT].node, slots[name], values, program.extents, sizes)
        if name + ADJOINT in derived.outputs
        else np.zeros(found[name].shape)
        for name in slots
    }


def stored_gradients(
    mode: Mode,
    program: Program,
    case: Case,
    batch: int,
    cotangents: Mapping[str, Array | Pieces],
    found: Mapping[str, Array | Pieces],
) -> dict[str, Array]:
    """The gradients of the adjoints of a mode's program, or of one made from it, as tensors are stored.

    Their names are keys of the state dict, and ``features.m``.
    """
    sizes, slots = case.sizes(batch), mode.slots
    derived = derive(program, slots, program.outputs)
    read = dict(found) | {name + ADJOINT: value for name, value in cotangents.items()}
    nodes = {d.name.removesuffix(ADJOINT): d.node for d in derived.definitions if d.name in derived.outputs}
    values = evaluate(nodes.values(), read, program.extents, sizes)
    modality, rows, own = mode.features.dimensions
    gradients = {f"features.{m}": np.zeros((batch, width)) for m, width in enumerate(case.dims)}
    gradients |= {key: np.zeros(shape) for key, _, _, shape in stored_tensors(mode, case)}
    if "h" in nodes:
        parts = evaluate_apart(nodes["h"], modality[0], (rows, own), values, program.extents, sizes)
        gradients |= {f"features.{m}": part for m, part in enumerate(parts)}
    layouts = {parameter.layout.name: (module.per, parameter.layout) for module in mode.modules for parameter in module.parameters}
    for key, name, m, _ in stored_tensors(mode, case):
        per, layout = layouts[name]
        if name not in nodes:
            continue
        if per is None:
            gradients[key] = evaluate_in(nodes[name], layout.dimensions, values, program.extents, sizes)
        else:
            gradients[key] = evaluate_apart(nodes[name], per, layout.without(per), values, program.extents, sizes)[m]
    return gradients


def names(mode: Mode) -> dict[str, Layout]:
    """The layouts of a mode's results by names of which no two are the same: a diagnostic may be called as the output is."""
    return {"out": mode.out} | {f"info.{extra.key}": extra.layout for extra in mode.extras}


def gradients_of_results(mode: Mode, case: Case, batch: int, cotangents: Mapping[str, Array]) -> dict[str, Array]:
    """The gradients by the evaluator, as tensors are stored, of a mode's results with these cotangents, by their names."""
    ordered: dict[str, Array | Pieces] = {}
    for key, layout in names(mode).items():
        name, part = layout.name, definition_order(cotangents[key], mode, layout, case.sizes(batch))
        ordered[name] = added(ordered[name], part) if name in ordered else part
    return stored_gradients(mode, mode.program, case, batch, ordered, inputs(mode, case, batch))


def by_key(mode: Mode, case: Case, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Gradients by state-dict key; ``features`` is ``(batch, M, dim)``."""
    gradients = {"features": arrays["h"].reshape(-1, case.n_modalities, case.dim)}
    per = {parameter.layout.name: (module.per, parameter.layout) for module in mode.modules for parameter in module.parameters}
    for key, name, modality, shape in stored_tensors(mode, case):
        axis, layout = per[name]
        array = arrays[name]
        gradients[key] = (array if axis is None else array.take(modality, layout.axes.index(axis))).reshape(shape)
    return gradients


def definition_order(array: Array, mode: Mode, layout: Any, sizes: dict[str, int]) -> Any:
    """A result in its layout, as ``(b, *axes of the definition)``; in pieces where their sizes differ."""
    whole = indexed([array], layout.dimensions, layout.axes, None, mode.program.extents, sizes)
    wanted = ("b", *mode.program[layout.name].axes)
    if not isinstance(whole, Pieces):
        return np.transpose(whole, [layout.axes.index(axis) for axis in wanted])
    owner = layout.axes[whole.slot]
    have, rest = [a for a in layout.axes if a != owner], [a for a in wanted if a != owner]
    return Pieces(wanted.index(owner), tuple(np.transpose(x, [have.index(axis) for axis in rest]) for x in whole.arrays))


def added(left: Any, right: Any) -> Any:
    """The sum of two arrays, or of two in pieces."""
    if isinstance(left, Pieces):
        return Pieces(left.slot, tuple(a + b for a, b in zip(left.arrays, right.arrays, strict=True)))
    return left + right


def filled_layer(
    mode: Mode, made: Any, dim: int, n_modalities: int, hidden: int, batch: int, backend: str = "torch"
) -> tuple[Case, Any, list[torch.Tensor]]:
    """The sizes that a mode allows near these, a layer of them with the evaluator's parameters, and its features."""
    options = tuple((hyperparameter.name.value, hidden) for hyperparameter in mode.spec.hyperparameters)
    dim = 2 * dim if mode.divisions else dim
    n_modalities = mode.spec.modalities.exact or n_modalities
    widths = tuple(dim + (1, 0, 2)[m] for m in range(n_modalities))
    case = Case(dim if mode.one_width is not None else widths, n_modalities, options)
    layer = made(case.dim, case.n_modalities, **dict(options), backend=backend).double()
    fill(layer)
    features = [torch.from_numpy(feature(m, batch, width)).requires_grad_() for m, width in enumerate(case.dims)]
    return case, layer, features


def check_program(
    text: str,
    dim: int,
    n_modalities: int,
    hidden: int,
    batch: int,
    build: Callable[[Mode], tuple[Any, str]] = compiled,
    backend: str = "torch",
) -> None:
    """Compile a spec and compare outputs, weights and all gradients with the evaluator."""
    mode = check_spec(parse_spec(text, "random.yaml"))
    made, source = build(mode)
    if currently_in_test_context():
        note(source)
    case, layer, features = filled_layer(mode, made, dim, n_modalities, hidden, batch, backend)
    sizes, found = case.sizes(batch), inputs(mode, case, batch)

    def results() -> dict[str, torch.Tensor]:
        out, info = layer(features, return_gates=True)
        return dict(zip(names(mode), (out, *(info[extra.key] for extra in mode.extras)), strict=True))

    def wanted() -> dict[str, Array]:
        return {name: laid_out(mode, layout, found, sizes) for name, layout in names(mode).items()}

    recorded = results()
    close(recorded, wanted, "recorded")
    with torch.no_grad():
        close({"out": layer(features)}, wanted, "alone")
        close(results(), wanted, "not recorded")
    cotangents = {key: rule(f"cotangent.{position}", tuple(value.shape)) for position, (key, value) in enumerate(recorded.items())}
    total = sum((value * torch.from_numpy(cotangents[key])).sum() for key, value in recorded.items())
    learned = {**{f"features.{m}": x for m, x in enumerate(features)}, **dict(layer.named_parameters())}
    gradients = torch.autograd.grad(total, list(learned.values()), allow_unused=True)
    computed = functools.partial(gradients_of_results, mode, case, batch, cotangents)
    close(filled(gradients, learned), computed, "gradient of")


@fuzzed(300)
@given(
    text=random_specs(counts=(2, 3)),
    dim=st.integers(1, 4),
    n_modalities=st.integers(2, 3),
    hidden=st.integers(1, 3),
    batch=st.integers(1, 3),
)
def test_random_programs(text: str, dim: int, n_modalities: int, hidden: int, batch: int) -> None:
    torch.set_num_threads(1)
    note(text)
    check_program(text, dim, n_modalities, hidden, batch)


def test_contraction_over_the_modalities_alone() -> None:
    """A weight contracted with one number for each modality."""
    axes = "axes: {i: dim, j: dim, k: hidden}\nhyperparameters: {hidden: {default: 3}}\n"
    params = "params:\n  mix: {module: Linear, weight: 'Wb[k,(m i)]', bias: 'cb[k]'}\n"
    math = "math: |\n  s[m] = tanh(sum[j](h[m,j]))\n  out[i] = sum[k](sum[m](Wb[k,m,i] * s[m]) * cb[k])\n  w[m] = s[m]\n"
    head = "version: 1\nmode: random\nsummary: A sum over modalities.\nmodalities: '>=2'\n"
    check_program(f"{head}{axes}{params}{math}weights: 'w[b,m]'\n", 3, 3, 2, 2)
