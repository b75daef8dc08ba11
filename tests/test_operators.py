"""Every operator of the table: meaning, derivative, and torch, scalar and LaTeX prints agree with each other.

Derivatives are compared with central differences away from kinks, and with torch's autograd at kinks and ties.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from sparank_fusion import functions
from sparank_gen.backends.torch.requirements import OF_ANY
from sparank_gen.backends.torch.values import Scalar
from sparank_gen.ir import node as ir
from sparank_gen.ir.derive import ARGUMENTS
from sparank_gen.ir.evaluate import evaluate, evaluate_at
from sparank_gen.ir.node import Node
from sparank_gen.ir.template import instantiate
from sparank_gen.lang.extents import Extent
from sparank_gen.lang.ops import OPERATORS, Operator

Array = NDArray[np.float64]
AXES = ("i", "j")
SHAPE = (3, 4)
EXTENTS = {axis: Extent.number(size) for axis, size in zip(AXES, SHAPE, strict=True)}
STEP = 1e-6
BOUND = 0.25
POSITIVE = {"log": (0,), "sqrt": (0,), "rsqrt": (0,), "pow": (0,)}
NUMBER_SECOND = ("clamp_min", "clamp_max")
OVER_AXES = [(o, over) for o in OPERATORS.values() if o.kind in ("reduction", "normalisation") for over in (("j",), AXES)]
POINTWISE = [(o, ()) for o in OPERATORS.values() if o.kind in ("pointwise", "comparison")]
ALL = POINTWISE + OVER_AXES
OF_TRUTHS = ("logical_and", "logical_or", "logical_not")
STEADY = ("sigmoid", "tanh", "relu", "gelu", "silu", "softplus", "erf", "sin", "cos", "abs")


def label(case: object) -> str:
    return case.name if isinstance(case, Operator) else "".join(case) if isinstance(case, tuple) else repr(case)


def points(operator: Operator, seed: int = 0) -> list[Array]:
    """Arguments away from kinks and poles, of either sign where the operator allows it."""
    rng = np.random.default_rng(seed)
    arrays = []
    for position in range(operator.arity):
        sign = 1.0 if position in POSITIVE.get(operator.name, ()) else rng.choice([-1.0, 1.0], SHAPE)
        arrays.append(rng.uniform(0.3, 1.7, SHAPE) * sign)
    if operator.name == "where":
        arrays[0] = (arrays[0] > 0).astype(np.float64)
    if operator.name in NUMBER_SECOND:
        arrays[1] = np.full(SHAPE, BOUND)
    return arrays


def node_of(operator: Operator, over: Sequence[str]) -> Node:
    """The operator applied to the leaves ``a``, ``b``, ``c``."""
    leaves = [ir.leaf(name, AXES) for name in ARGUMENTS[: operator.arity]]
    if operator.kind in ("reduction", "normalisation"):
        return ir.reduce(operator.name, leaves[0], over, operator.options or None)
    if operator.name in NUMBER_SECOND:
        leaves[1] = ir.constant(BOUND)
    return ir.apply(operator.name, *leaves)


def value_at(node: Node, axes: Sequence[str], tensors: Mapping[str, Array]) -> Array:
    values = evaluate([node], tensors, EXTENTS, {})
    return evaluate_at(node, tuple(axes), values, EXTENTS, {})


def named(arrays: Sequence[Array]) -> dict[str, Array]:
    return dict(zip(ARGUMENTS, arrays, strict=False))


def result_axes(operator: Operator, over: Sequence[str]) -> tuple[str, ...]:
    return tuple(axis for axis in AXES if operator.kind != "reduction" or axis not in over)


def meaning(operator: Operator, over: Sequence[str], arrays: Sequence[Array]) -> Array:
    """The evaluator's value of the operator."""
    return value_at(node_of(operator, over), result_axes(operator, over), named(arrays))


def gradients(operator: Operator, over: Sequence[str], arrays: Sequence[Array], g: Array | float) -> dict[int, Array]:
    """The table's derivative of every argument that has one, with the cotangent ``g`` (a number: a constant)."""
    node = node_of(operator, over)
    cotangent = ir.constant(g) if isinstance(g, float) else ir.leaf("g", result_axes(operator, over))
    names = dict(zip(ARGUMENTS, node.args, strict=False)) | {"y": node, "g": cotangent}
    names |= {name: ir.constant(number) for name, number in operator.options}
    tensors = named(arrays) | ({} if isinstance(g, float) else {"g": g})
    sources = {k: source for k, source in enumerate(operator.derivative) if source is not None}
    return {k: value_at(instantiate(source, names, EXTENTS, over), AXES, tensors) for k, source in sources.items()}


def differences(operator: Operator, over: Sequence[str], arrays: Sequence[Array], g: Array, position: int) -> Array:
    """Central differences of ``sum(g * operator(…))`` in every entry of one argument."""
    result = np.zeros(SHAPE)
    for entry in np.ndindex(*SHAPE):
        moved = []
        for step in (STEP, -STEP):
            shifted = [array.copy() for array in arrays]
            shifted[position][entry] += step
            moved.append(float((g * meaning(operator, over, shifted)).sum()))
        result[entry] = (moved[0] - moved[1]) / (2 * STEP)
    return result


def torch_value(operator: Operator, over: Sequence[str], tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """The torch print of the operator, evaluated."""
    dims = tuple(AXES.index(axis) for axis in over)
    codes = list(ARGUMENTS[: operator.arity])
    if operator.name in NUMBER_SECOND:
        codes[1] = repr(BOUND)
    if operator.name == "where":
        codes[0] = "(a != 0)"
    dim = dims if len(dims) > 1 else "".join(map(str, dims))
    shape = tuple(SHAPE[position] for position in dims)
    code = operator.torch.format(*codes, dim=dim, shape=shape, **dict(operator.options))
    scope = {"torch": torch, "F": F, "lerp": functions.lerp, **dict(zip(ARGUMENTS, tensors, strict=False))}
    return eval(code, scope)


def torch_gradients(operator: Operator, over: Sequence[str], arrays: Sequence[Array], g: Array) -> list[Array]:
    """Autograd of the torch print; zero where an argument has no gradient."""
    tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
    result = torch_value(operator, over, tensors)
    found = torch.autograd.grad(result, tensors, torch.tensor(g).expand_as(result), allow_unused=True)
    return [np.zeros(SHAPE) if grad is None else grad.numpy() for grad in found]


def cotangent(operator: Operator, over: Sequence[str]) -> Array:
    sizes = [SHAPE[AXES.index(axis)] for axis in result_axes(operator, over)]
    return np.random.default_rng(9).uniform(0.5, 1.5, sizes)


def agrees_with_autograd(name: str, over: Sequence[str], arrays: Sequence[Array]) -> None:
    operator = OPERATORS[name]
    g = cotangent(operator, over)
    expected = torch_gradients(operator, over, arrays, g)
    for position, found in gradients(operator, over, arrays, g).items():
        np.testing.assert_allclose(found, expected[position], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("operator, over", ALL, ids=label)
@pytest.mark.parametrize("seed", [1, 2])
def test_derivative_is_that_of_the_meaning(operator: Operator, over: tuple[str, ...], seed: int) -> None:
    arrays, g = points(operator, seed), cotangent(operator, over)
    for position, found in gradients(operator, over, arrays, g).items():
        np.testing.assert_allclose(found, differences(operator, over, arrays, g, position), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("operator, over", ALL, ids=label)
def test_argument_without_derivative_changes_nothing(operator: Operator, over: tuple[str, ...]) -> None:
    """None in the table says that the derivative is zero; what has none at all is for the compiler alone."""
    if not operator.differentiable:
        assert operator.internal
        return
    arrays, g = points(operator), cotangent(operator, over)
    for position, source in enumerate(operator.derivative):
        if source is None:
            np.testing.assert_array_equal(differences(operator, over, arrays, g, position), np.zeros(SHAPE))


@pytest.mark.parametrize("operator, over", ALL, ids=label)
def test_derivative_with_a_cotangent_that_lacks_axes(operator: Operator, over: tuple[str, ...]) -> None:
    arrays = points(operator)
    ones = np.ones_like(cotangent(operator, over))
    full = gradients(operator, over, arrays, ones)
    for position, found in gradients(operator, over, arrays, 1.0).items():
        np.testing.assert_allclose(found, full[position], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("operator, over", ALL, ids=label)
def test_torch_print_is_the_meaning(operator: Operator, over: tuple[str, ...]) -> None:
    if not operator.torch or (operator.name in ("softmax", "prod") and len(over) > 1):
        return  # for the compiler alone; printed over flattened dimensions
    arrays = points(operator)
    tensors = [torch.tensor(array) for array in arrays]
    if operator.name in OF_TRUTHS:
        # The meaning takes any number but 0 for true.
        tensors = [tensor > 0 for tensor in tensors]
        arrays = [np.maximum(array, 0) for array in arrays]
    found = torch_value(operator, over, tensors).numpy()
    expected = meaning(operator, over, arrays)
    np.testing.assert_allclose(found.astype(np.float64), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("operator", [o for o, _ in POINTWISE], ids=label)
def test_scalar_print_is_the_meaning(operator: Operator) -> None:
    arrays = points(operator)
    expected = meaning(operator, (), arrays)
    for entry in np.ndindex(*SHAPE):
        numbers = {name: float(array[entry]) for name, array in named(arrays).items()}
        numbers = {name: bool(number) for name, number in numbers.items()} if operator.name in OF_TRUTHS else numbers
        found = eval(operator.scalar.format(*numbers), {"math": math, **numbers})
        assert found == pytest.approx(expected[entry], rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("name", sorted(OF_ANY))
@pytest.mark.parametrize("number", [-1e300, -800.0, -40.0, 0.0, 40.0, 800.0, 1e300])
def test_scalar_prints_are_computed_of_any_numbers(name: str, number: float) -> None:
    """What a constructor takes to be computed without an error is so, and is the meaning however large its operand is."""
    operator = OPERATORS[name]
    arguments = [number, 0.5, 0.25][: operator.arity]
    found = eval(operator.scalar.format(*"abc"), {"math": math, **dict(zip("abc", arguments, strict=False))})
    with np.errstate(over="ignore"):
        assert found == pytest.approx(float(operator.meaning(*map(np.float64, arguments))), rel=1e-12, abs=1e-320)


@pytest.mark.parametrize("operator", [o for o, _ in POINTWISE], ids=label)
def test_scalar_prints_of_operands_keep_together(operator: Operator) -> None:
    numbers = {"p": 1.5, "q": 2.5, "r": 0.5}

    def result(code: str, **others: object) -> object:
        try:
            return eval(code, {"math": math, **numbers, **others})
        except (ArithmeticError, TypeError, ValueError) as error:
            return type(error)

    operands = [Scalar(inner.scalar.format(*numbers)) for inner, _ in POINTWISE] + [Scalar("-2"), Scalar("7 // 2")]
    for operand, position in itertools.product(operands, range(operator.arity)):
        arguments = [Scalar(name) for name in numbers]
        named = operator.scalar.format(*arguments[:position], Scalar("x"), *arguments[position + 1 :])
        arguments[position] = operand
        code = operator.scalar.format(*arguments)
        assert result(code) == result(named, x=eval(operand.code, {"math": math, **numbers})), code


@pytest.mark.parametrize("name", ["max", "min"])
@pytest.mark.parametrize("over", [("j",), ("i",), AXES], ids=label)
def test_ties_over_axes_share_the_gradient(name: str, over: tuple[str, ...]) -> None:
    """As in torch.amax and torch.amin: equally."""
    ties = np.array([[1.0, 1.0, 0.0, 1.0], [2.0, 0.0, 0.0, 2.0], [-1.0, -1.0, -1.0, -1.0]])
    agrees_with_autograd(name, over, [ties])
    if over == ("j",):
        found = gradients(OPERATORS["max"], over, [ties], np.ones(3))[0]
        np.testing.assert_allclose(found[:2], [[1 / 3, 1 / 3, 0, 1 / 3], [0.5, 0, 0, 0.5]])


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_ties_of_two_are_halved(name: str) -> None:
    a, _ = points(OPERATORS[name])
    b = np.where(np.arange(12).reshape(SHAPE) % 3 == 0, a, a + 0.5)
    agrees_with_autograd(name, (), [a, b])
    found = gradients(OPERATORS[name], (), [a, a], np.ones(SHAPE))
    np.testing.assert_array_equal(found[0], np.full(SHAPE, 0.5))
    np.testing.assert_array_equal(found[1], np.full(SHAPE, 0.5))


@pytest.mark.parametrize("name", NUMBER_SECOND)
def test_clamp_passes_the_gradient_at_the_bound(name: str) -> None:
    a = np.linspace(-1, 1.5, 12).reshape(SHAPE)
    a[1] = BOUND
    agrees_with_autograd(name, (), [a, np.full(SHAPE, BOUND)])
    np.testing.assert_array_equal(gradients(OPERATORS[name], (), [a, a], np.ones(SHAPE))[0][1], np.ones(4))


@pytest.mark.parametrize("name", ["abs", "relu"])
def test_kink_at_zero_has_derivative_zero(name: str) -> None:
    agrees_with_autograd(name, (), [np.zeros(SHAPE)])
    np.testing.assert_array_equal(gradients(OPERATORS[name], (), [np.zeros(SHAPE)], np.ones(SHAPE))[0], np.zeros(SHAPE))


@pytest.mark.parametrize("base, exponent", [(0.0, 1.0), (0.0, 2.0), (2.0, 0.0), (0.0, 0.0), (-1.5, 2.0), (-1.5, 3.0), (0.0, 0.5)])
def test_power_at_its_edges(base: float, exponent: float) -> None:
    """The base's derivative as torch has it; the exponent's where that is a number."""
    operator, arrays, g = OPERATORS["pow"], [np.full(SHAPE, base), np.full(SHAPE, exponent)], np.ones(SHAPE)
    found, expected = gradients(operator, (), arrays, g), torch_gradients(operator, (), arrays, g)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-12)
    if base >= 0:
        np.testing.assert_allclose(found[1], expected[1], rtol=1e-12)


@pytest.mark.parametrize("over", [("j",), AXES], ids=label)
def test_product_with_zero_factors(over: tuple[str, ...]) -> None:
    """No zero, one zero and two zeros in a row: the gradient is the product of the others."""
    a = np.array([[2.0, -3.0, 0.5, 4.0], [2.0, 0.0, 0.5, 4.0], [0.0, 3.0, 0.0, 4.0]])
    found = gradients(OPERATORS["prod"], over, [a], 1.0)[0]
    for entry in np.ndindex(*SHAPE):
        others = a.copy()
        others[entry] = 1.0
        assert found[entry] == pytest.approx(others[entry[0]].prod() if over == ("j",) else others.prod(), abs=1e-15)
    if over == ("j",):
        agrees_with_autograd("prod", over, [a])


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_where_selects(bad: float) -> None:
    """What is not taken contributes nothing, forward or backward, whatever it is."""
    taken = np.arange(12).reshape(SHAPE) % 2 == 0
    good = points(OPERATORS["abs"])[0]
    arrays = [taken.astype(np.float64), np.where(taken, good, bad), np.where(taken, bad, good)]
    np.testing.assert_array_equal(meaning(OPERATORS["where"], (), arrays), good)
    g = cotangent(OPERATORS["where"], ())
    found = gradients(OPERATORS["where"], (), arrays, g)
    np.testing.assert_array_equal(found[1], np.where(taken, g, 0.0))
    np.testing.assert_array_equal(found[2], np.where(taken, 0.0, g))


@pytest.mark.parametrize("name", STEADY)
@pytest.mark.parametrize("size", [30.0, 800.0, 1e4])
def test_large_arguments(name: str, size: float) -> None:
    """Values and derivatives far from zero are numbers, and those of torch."""
    a = np.array([[size, -size, 0.0, 1.0]] * 3)
    expected = torch_value(OPERATORS[name], (), [torch.tensor(a)]).numpy()
    np.testing.assert_allclose(meaning(OPERATORS[name], (), [a]), expected, rtol=1e-12, atol=1e-12)
    expected = torch_gradients(OPERATORS[name], (), [a], np.ones(SHAPE))[0]
    np.testing.assert_allclose(gradients(OPERATORS[name], (), [a], np.ones(SHAPE))[0], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["softmax", "logsumexp"])
@pytest.mark.parametrize("size", [800.0, 1e4])
def test_large_arguments_over_axes(name: str, size: float) -> None:
    a = np.array([[size, -size, 0.0, 1.0], [size, size, size, size], [-size, -size, -size, 1 - size]])
    expected = torch_value(OPERATORS[name], ("j",), [torch.tensor(a)]).numpy()
    found = meaning(OPERATORS[name], ("j",), [a])
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    agrees_with_autograd(name, ("j",), [a])


def test_logsumexp_of_infinite_numbers() -> None:
    """As in torch: the largest where that is infinite, and no nan."""
    a = np.array([[np.inf, 0.0, 1.0, -np.inf], [-np.inf] * 4, [-np.inf, 0.0, 0.0, 0.0]])
    expected = torch_value(OPERATORS["logsumexp"], ("j",), [torch.tensor(a)]).numpy()
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(meaning(OPERATORS["logsumexp"], ("j",), [a]), expected, rtol=1e-12)


@pytest.mark.parametrize("name", OPERATORS)
def test_latex_is_balanced(name: str) -> None:
    latex = OPERATORS[name].latex.format(*"xyz", axes="i,j")
    depth = 0
    for character in latex:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0, latex
    assert depth == 0, latex
    assert latex.count(r"\left") == latex.count(r"\right") and latex.count(r"\begin") == latex.count(r"\end")
    assert all(argument in latex for argument in "xyz"[: OPERATORS[name].arity])


@pytest.mark.parametrize("name", OPERATORS)
def test_entry_is_complete(name: str) -> None:
    """Every operator says what it means, and what derivatives alone use has no derivative of its own."""
    operator = OPERATORS[name]
    assert operator.summary and operator.latex and (operator.torch or not operator.differentiable)
    assert bool(operator.scalar) == (operator.kind in ("pointwise", "comparison"))
    assert operator.kind in ("pointwise", "comparison", "reduction", "normalisation")
