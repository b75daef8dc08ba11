"""How compiled programs run on torch: which operations they take, told by the operations that torch dispatches."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from sparank_gen.ir.check import check_spec
from sparank_gen.ir.node import constant, leaf, make
from sparank_gen.ir.simplify import fold_choice
from sparank_gen.spec.load import parse_spec
from test_random_programs import check_program, compiled

HEAD = "version: 1\nmode: plan\nsummary: A program.\n"
EVIDENCE = """\
modalities: "2"
axes: {i: dim, j: dim}
params:
  evidence: {module: Linear, per: m, weight: "W[m,i,j]", bias: "c[m,i]"}
math: |
  e[m,i] = softplus(sum[j](W[m,i,j] * h[m,j]) + c[m,i])
  u[m]   = 1 / (sum[i](e[m,i]) + 1)
  out[i] = u[0] * u[1] * e[0,i] * e[1,i]
weights: "u[m,b]"
"""
COMPLEX = """\
modalities: "2"
axes: {p: 2, i: dim // 2}
features: "h[m,b,(p i)]"
math: |
  x[p,i]   = tanh(h[0,p,i])
  y[p,i]   = tanh(h[1,p,i])
  out[0,i] = x[0,i] * y[0,i] - x[1,i] * y[1,i]
  out[1,i] = x[0,i] * y[1,i] + x[1,i] * y[0,i]
out: "out[b,(m i)]"
"""
CENTRED = """\
modalities: ">=2"
axes: {i: dim, j: dim}
params:
  maps: {module: Linear, per: m, weight: "W[m,i,j]"}
math: |
  z[m,i] = tanh(sum[j](W[m,i,j] * h[m,j]))
  out[i] = max[m](z[m,i]) + min[m](z[m,i])
"""
PAIRS = """\
modalities: ">=2"
axes: {p: 2, i: dim, j: dim, u: modalities}
params:
  pair: {module: Linear, weight: "W[i,(p j)]"}
math: |
  out[i] = max[m,u](tanh(sum[j](W[i,0,j] * h[m,j]) + sum[j](W[i,1,j] * h[u,j])))
"""
GRAM = """\
modalities: ">=2"
axes: {t: modalities, i: dim}
math: |
  g[m,t] = sum[i](h[m,i] * h[t,i])
  p[m,t] = softmax[t](g[m,t])
  c[m,i] = sum[t](p[m,t] * h[t,i])
  out[i] = max[m](c[m,i])
"""
BILINEAR = """\
modalities: ">=2"
axes: {t: modalities, a: 2, i: dim, j: dim}
params:
  w: {tensor: "W[a,i,j]", init: normal, std: 1}
math: |
  p[m,t,a] = softmax[m,t](sum[i,j](h[m,i] * W[a,i,j] * h[t,j]))
  out[a,i] = sum[m,t](p[m,t,a] * h[m,i] * h[t,i])
out: "out[b,(a i)]"
"""
REGIONS = """\
modalities: "2"
axes: {p: 2, q: 2, i: dim // 2, j: dim // 2, n: 4}
features: "h[m,b,(p i)]"
params:
  scale: {tensor: "S[n,j]", init: ones}
math: |
  C[p,q]   = tanh(mean[i](h[0,p,i] * h[1,q,i]))
  w[p,n]   = sum[j](h[0,p,j] * softmax[j](S[n,j]))
  out[q,n] = sum[p](C[p,q] * tanh(w[p,n]))
out: "out[b,(q n)]"
"""
STRONGEST = """\
modalities: "2"
axes: {i: dim, j: dim}
params:
  score: {module: Linear, per: m, weight: "W[m,i,j]"}
math: |
  s[m,i] = sum[j](W[m,i,j] * h[m,j])
  out[i] = max[m](s[m,i]) * tanh(s[0,i])
"""
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm"}
TRILINEAR = """\
modalities: "2"
axes: {i: dim, j: dim, o: dim, k: hidden}
hyperparameters: {hidden: {default: 3}}
params:
  form: {module: Bilinear, weight: "W[o,i,j]", bias: "c[o]"}
  few: {module: Bilinear, weight: "V[k,i,j]", bias: "d[k]"}
math: |
  out[o] = sum[i,j](W[o,i,j] * h[0,i] * h[1,j]) + c[o]
  w[k]   = sum[i,j](V[k,i,j] * h[0,i] * h[1,j]) + d[k]
weights: "w[b,k]"
"""
GATES = """\
modalities: ">=2"
axes: {i: dim, j: dim, n: modalities}
params:
  gates: {module: Linear, per: m, weight: "V[m,i,(n j)]", bias: "c[m,i]"}
math: |
  w[m,i] = sigmoid(sum[n,j](V[m,i,n,j] * h[n,j]) + c[m,i])
  out[i] = sum[m](w[m,i] * h[m,i])
weights: "w[m,b,i]"
"""
SOFTMAX_OF_MAPS = """\
modalities: ">=2"
axes: {i: dim, j: dim}
params:
  maps: {module: Linear, per: m, weight: "W[m,i,j]"}
math: |
  z[m,i] = sum[j](W[m,i,j] * h[m,j])
  w[m,i] = softmax[m](z[m,i])
  out[i] = sum[m](w[m,i] * h[m,i])
weights: "w[m,b,i]"
"""
SHARED_JOIN = """\
modalities: ">=2"
axes: {i: dim, j: dim}
params:
  left: {module: Linear, weight: "U[i,(m j)]", bias: "c[i]"}
  right: {module: Linear, weight: "V[i,(m j)]", bias: "d[i]"}
math: |
  w[i]   = sigmoid(sum[m,j](U[i,m,j] * h[m,j]) + c[i])
  out[i] = w[i] * (sum[m,j](V[i,m,j] * h[m,j]) + d[i])
weights: "w[b,i]"
"""
PACKED = """\
modalities: "2"
axes: {p: 2, i: dim, j: dim}
params:
  both: {module: Linear, weight: "W[(p i),j]", bias: "c[(p i)]"}
math: |
  w[i]   = 1 + sum[j](W[0,i,j] * h[1,j]) + c[0,i]
  out[i] = w[i] * h[0,i] + (sum[j](W[1,i,j] * h[1,j]) + c[1,i])
weights: "w[b,i]"
"""
SLICES = """\
modalities: ">=2"
axes: {p: 3, i: dim, j: dim}
params:
  three: {module: Linear, weight: "W[(p i),j]", bias: "c[(p i)]"}
math: |
  query[i]    = sum[j](W[0,i,j] * h[0,j]) + c[0,i]
  key[m,i]    = sum[j](W[1,i,j] * h[m,j]) + c[1,i]
  value[m,i]  = sum[j](W[2,i,j] * h[m,j]) + c[2,i]
  w[m]        = softmax[m](sum[i](query[i] * key[m,i]))
  out[i]      = sum[m](w[m] * value[m,i])
weights: "w[b,m]"
"""
PRODUCT = """\
modalities: ">=2"
axes: {i: dim}
math: |
  out[i] = prod[m](tanh(h[m,i]))
  w[m,i] = tanh(h[m,i])
weights: "w[m,b,i]"
"""


DIFFERENCE = """\
modalities: "2"
axes: {i: dim, j: dim}
params:
  left: {module: Linear, weight: "U[i,j]", bias: "c[i]"}
  right: {module: Linear, weight: "V[i,j]", bias: "d[i]"}
  last: {module: Linear, weight: "W[i,j]"}
math: |
  w[i]   = tanh(d[i] - (sum[j](U[i,j] * h[0,j]) + c[i] - h[0,i] - sum[j](V[i,j] * h[1,j])))
  out[i] = w[i] - sum[j](W[i,j] * h[0,j] * w[j])
weights: "w[b,i]"
"""
NORMALISED = """\
modalities: ">=2"
axes: {i: dim, t: modalities}
math: |
  y[m,i] = h[m,i] * rsqrt(sum[i](h[m,i] * h[m,i]) + 1)
  w[t,m] = softmax[m](sum[i](y[t,i] * y[m,i]))
  out[i] = max[t](sum[m](w[t,m] * y[m,i]))
weights: "w[b,t,m]"
"""
OUTER = """\
modalities: ">=2"
axes: {i: dim, j: dim, k: dim}
params: {map: {module: Linear, weight: "W[k,j]"}}
math: |
  key[m,k]  = tanh(sum[j](W[k,j] * h[m,j]))
  state[k,i] = sum[m](key[m,k] * h[m,i])
  query[k]  = max[m](key[m,k])
  out[i]    = sum[k](query[k] * state[k,i])
weights: "query[b,k]"
"""
DISTANCES = """\
modalities: ">=2"
axes: {i: dim, k: hidden}
hyperparameters: {hidden: {default: 3}}
params: {centres: {tensor: "c[k,i]", init: normal, std: 1}}
math: |
  distance[m,k] = sum[i](abs(h[m,i] - c[k,i]))
  out[k,i]      = sum[m](distance[m,k] * (h[m,i] - c[k,i]))
out: "out[b,(k i)]"
"""
POOLED = """\
modalities: ">=2"
axes: {i: dim, j: dim, k: dim}
params:
  score: {tensor: "v[m,k]", init: xavier_uniform, fan: {in: k, out: 1}}
  map: {module: Linear, weight: "W[i,j]", bias: "c[i]"}
weights: "s[b,m]"
math: |
  s[m]   = sum[k](v[m,k] * h[m,k])
"""
MAPPED = "  x[m,i] = sum[j](W[i,j] * h[m,j]) + c[i]\n"
MAPPED_TWICE = "  x[m,i] = sum[k](W[i,k] * relu(sum[j](W[k,j] * h[m,j]) + c[k])) + c[i]\n"
# How modalities are pooled, and how many rows a layer of three multiplies with a matrix for each row of the batch.
POOLS = [
    (MAPPED + "  out[i] = mean[m](x[m,i])", 1),
    (MAPPED + "  out[i] = sum[m](softmax[m](s[m]) * x[m,i])", 1),
    (MAPPED + "  out[i] = sum[m](s[m] * s[m] * (h[m,i] - x[m,i]))", 1),
    (MAPPED_TWICE + "  out[i] = sum[m](s[m] * (x[m,i] - h[m,i]))", 4),
    (MAPPED + "  out[i] = sum[m](tanh(h[m,i]) * x[m,i])", 3),
    (MAPPED + "  out[i] = max[m](x[m,i])", 3),
    (MAPPED + "  out[i] = sum[m](x[m,i]) * prod[m](x[m,i])", 3),
]


class Operations(TorchDispatchMode):
    """Counts the operations that torch dispatches."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()
        self.largest = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count[function._opname] += 1
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.largest = max(self.largest, result.untyped_storage().size() // result.element_size())
        return result


def operations(
    text: str, n_modalities: int, dtype: torch.dtype = torch.float64, return_gates: bool = False
) -> Counter[str]:
    """The operations of one forward pass."""
    made, _ = compiled(check_spec(parse_spec(HEAD + text, "plan.yaml")))
    layer = made(4, n_modalities).to(dtype)
    with torch.no_grad(), Operations() as found:
        layer([torch.randn(3, 4, dtype=dtype) for _ in range(n_modalities)], return_gates=return_gates)
    return found.count


def products(count: Counter[str]) -> int:
    return sum(count[name] for name in PRODUCTS)


@pytest.mark.parametrize("text", [TRILINEAR, GATES, SHARED_JOIN, PACKED, SLICES, PRODUCT, DIFFERENCE, OUTER, DISTANCES, GRAM, BILINEAR])
@pytest.mark.parametrize("n_modalities", [2, 3])
def test_results_and_gradients(text: str, n_modalities: int) -> None:
    check_program(HEAD + text, 4, n_modalities, 3, 3)


def test_a_form_in_two_vectors_is_one_product_where_it_makes_no_larger_tensor() -> None:
    count = operations(TRILINEAR, 2)
    assert count["addmm"] == 1 and products(count) == 1


@pytest.mark.parametrize("n_modalities", [2, 3])
def test_weights_of_each_modality_meet_all_modalities_without_stacks(n_modalities: int) -> None:
    count = operations(GATES, n_modalities)
    assert count["addmm"] == products(count) == n_modalities
    assert count["cat"] == 1 and count["stack"] == 0


def test_what_two_products_read_is_joined_once() -> None:
    count = operations(SHARED_JOIN, 3)
    assert count["cat"] == 1 and products(count) == 2


def test_outer_products_and_what_reads_them_are_products_of_matrices() -> None:
    count = operations(OUTER, 3)
    assert count["bmm"] == 2 and count["mul"] == 0


def test_dimensions_are_in_an_order_that_transposes_nothing() -> None:
    count = operations(DISTANCES, 3)
    assert count["transpose"] == count["permute"] == count["t"] == count["clone"] == 0


@pytest.mark.parametrize("math, rows", POOLS)
def test_maps_of_what_is_pooled_multiply_it_once(math: str, rows: int) -> None:
    text = f"{HEAD}{POOLED}{math}\n"
    made, _ = compiled(check_spec(parse_spec(text, "plan.yaml")))
    batch, dim = 5, 4
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        made(dim, 3).double()([torch.randn(batch, dim, dtype=torch.float64) for _ in range(3)])
    assert counter.get_total_flops() == 2 * batch * dim * dim * rows
    for n_modalities in (2, 3):
        check_program(text, dim, n_modalities, 3, batch)


def test_attention_that_is_pooled_is_pooled_before_it_reads_the_values() -> None:
    text = HEAD + NORMALISED.replace("max[t]", "mean[t]").replace('weights: "w[b,t,m]"\n', "")
    _, source = compiled(check_spec(parse_spec(text, "plan.yaml")))
    assert "dot(y, w.mean(1).unsqueeze(-1), 0)" in source
    for n_modalities in (2, 3):
        check_program(text, 4, n_modalities, 3, 3)


def test_a_product_that_the_math_names_is_computed_once_and_read() -> None:
    # The square, y, the products of which the logits are sums, these times what y's factors share, and those of out.
    assert operations(NORMALISED, 3)["mul"] == 5
    check_program(HEAD + NORMALISED, 4, 3, 3, 3)


def test_what_is_read_at_each_modality_and_as_a_whole_is_computed_once_under_its_name() -> None:
    count = operations(EVIDENCE, 2, return_gates=True)
    assert products(count) == 2 and count["softplus"] == 2 and count["stack"] == 1
    _, source = compiled(check_spec(parse_spec(HEAD + EVIDENCE, "plan.yaml")))
    assert all(f"{name} = " in source for name in ("e_0", "e_1", "u_0", "u_1"))
    check_program(HEAD + EVIDENCE, 4, 2, 3, 3)


def test_what_is_needed_as_a_whole_is_not_computed_again_at_one_modality() -> None:
    assert products(operations(STRONGEST, 2)) == 2
    check_program(HEAD + STRONGEST, 4, 2, 3, 3)


def test_pieces_that_a_layout_puts_side_by_side_are_written_there() -> None:
    count = operations(COMPLEX, 2)
    assert count["cat"] == 1 and count["stack"] == 0
    # All parts are taken at once, however often they are read; features by their number.
    assert count["unbind"] == 2 and count["select"] == 0
    check_program(HEAD + COMPLEX, 4, 2, 3, 3)


def test_a_list_that_is_read_as_one_tensor_twice_is_stacked_once() -> None:
    assert operations(CENTRED, 3)["stack"] == 1
    check_program(HEAD + CENTRED, 4, 3, 3, 3)


def test_slices_between_the_rows_of_a_weight_are_products_of_their_own() -> None:
    count = operations(PAIRS, 3)
    # A weight that is read at every position is taken apart at once.
    assert products(count) == 2 and count["unbind"] == 1 and count["select"] == 0
    check_program(HEAD + PAIRS, 4, 3, 3, 3)


def test_products_of_computed_matrices_take_no_equations() -> None:
    _, source = compiled(check_spec(parse_spec(HEAD + REGIONS, "plan.yaml")))
    assert source.count(" @ ") == 3 and "einsum" not in source
    check_program(HEAD + REGIONS, 4, 2, 3, 3)


@pytest.mark.parametrize("dim, dtype, is_matrices", [(128, torch.float32, True), (16, torch.float32, False), (128, torch.bfloat16, False)])
def test_large_dot_products_of_all_pairs_of_modalities_are_matrix_products(dim: int, dtype: torch.dtype, is_matrices: bool) -> None:
    layer = compiled(check_spec(parse_spec(HEAD + GRAM, "plan.yaml")))[0](dim, 3).to(dtype)
    features = [torch.randn(5, dim, dtype=dtype) for _ in range(3)]
    with torch.no_grad(), Operations() as found:
        out = layer(features)
    assert (found.count["bmm"] > 0) == is_matrices
    with Operations() as recorded:
        torch.testing.assert_close(layer(features), out)
    assert not recorded.count["bmm"]


def test_of_three_factors_two_are_summed_first_over_what_they_alone_have() -> None:
    layer = compiled(check_spec(parse_spec(HEAD + BILINEAR, "plan.yaml")))[0](8, 3)
    with torch.no_grad(), Operations() as found:
        layer([torch.randn(50, 8) for _ in range(3)])
    assert found.largest == 3 * 50 * 2 * 8


def test_packed_weights_are_one_product_with_the_bias_in_it() -> None:
    count = operations(PACKED, 2)
    assert count["addmm"] == products(count) == 1 and count["add"] == 2


@pytest.mark.parametrize("n_modalities", [2, 3])
def test_slices_of_a_packed_weight_are_views_with_their_biases(n_modalities: int) -> None:
    count = operations(SLICES, n_modalities)
    assert count["addmm"] == products(count) >= 3
    assert count["add"] == count["cat"] == count["clone"] == count["_reshape_copy"] == 0


@pytest.mark.parametrize(("dtype", "stacks"), [(torch.float64, 0), (torch.bfloat16, 1)])
def test_a_product_over_modalities_multiplies_them_one_by_one(dtype: torch.dtype, stacks: int) -> None:
    count = operations(PRODUCT, 3, dtype)
    assert count["stack"] == count["prod"] == stacks and count["mul"] == 2 * (1 - stacks)


@pytest.mark.parametrize(("left", "taken"), [(2.0, "y"), (0.0, "x")])
def test_a_choice_between_numbers_is_made_at_once(left: float, taken: str) -> None:
    condition = make("eq", [constant(left), constant(0)])
    choice = make("where", [condition, leaf("x", ("b", "i")), leaf("y", ("b", "i"))])
    assert fold_choice(choice) is leaf(taken, ("b", "i"))
    unknown = make("where", [make("eq", [leaf("x", ("b", "i")), constant(0)]), constant(1), constant(2)])
    assert fold_choice(unknown) is None


def test_a_choice_between_numbers_keeps_the_axes_of_both() -> None:
    condition = make("gt", [constant(1), constant(0)])
    assert fold_choice(make("where", [condition, leaf("x", ("b",)), leaf("y", ("b", "i"))])) is None
    math = "out[i] = sum[m,j](where(1 > 0, h[m,i], v[j])) + max[j](where(1 < 0, v[j], h[0,i]))"
    params = 'params: {score: {tensor: "v[j]", init: normal, std: 0.1}}'
    check_program(f"{HEAD}modalities: '>=2'\naxes: {{i: dim, j: dim}}\n{params}\nmath: |\n  {math}\n", 3, 2, 2, 2)


def test_zero_keeps_its_sign() -> None:
    assert constant(-0.0) is not constant(0.0) and constant(-0.0) is constant(-0.0)
    text = f"{HEAD}modalities: '>=2'\naxes: {{i: dim}}\nmath: |\n  out[i] = 1 / (sum[m](h[m,i]) * -0)\n"
    made, _ = compiled(check_spec(parse_spec(text, "plan.yaml")))
    assert (made(4, 2)([torch.ones(1, 4)] * 2) == -torch.inf).all()


def test_a_sum_of_linear_maps_is_products_alone_with_one_bias() -> None:
    count = operations(DIFFERENCE, 2)
    assert count["addmm"] == 2 and count["add"] == 1


@pytest.mark.parametrize("batched", [(0, None), (None, 0), (0, 0)])
@pytest.mark.parametrize("with_gradients", [True, False])
def test_a_sum_of_linear_maps_where_one_vector_varies(batched: tuple[int | None, ...], with_gradients: bool) -> None:
    made, _ = compiled(check_spec(parse_spec(HEAD + DIFFERENCE, "plan.yaml")))
    layer = made(4, 2)
    inputs = [torch.randn(3, 4) if dim is None else torch.randn(5, 3, 4) for dim in batched]
    with torch.set_grad_enabled(with_gradients):
        found = torch.vmap(lambda *h: layer(h), batched)(*inputs)
        each = [[x if dim is None else x[k] for x, dim in zip(inputs, batched, strict=True)] for k in range(5)]
        torch.testing.assert_close(found, torch.stack([layer(h) for h in each]))


BIASED = SOFTMAX_OF_MAPS.replace('W[m,i,j]"', 'W[m,i,j]", bias: "c[m,i]"').replace("h[m,j])", "h[m,j]) + c[m,i]")
LISTED_TOO = BIASED.replace("out[i] = ", "y[i]   = sum[m](z[m,i])\n  out[i] = y[i] + ")
ROWS = 1024  # of which results are worth a place of their own


@pytest.mark.parametrize(
    ("math", "rows", "with_gradients", "stacks", "product"),
    [
        (SOFTMAX_OF_MAPS, ROWS, False, 0, "mm"),
        (BIASED, ROWS, False, 0, "addmm"),
        # With gradients these few numbers are stacked twice: for the softmax, and as a factor of its products.
        (BIASED, ROWS, True, 2, "addmm"),
        # Of many rows gradients are statements, and nothing is stacked.
        (BIASED, 4 * ROWS, True, 0, "addmm"),
        (BIASED, 8, False, 1, "addmm"),
        (LISTED_TOO, ROWS, False, 1, "addmm"),
    ],
)
def test_maps_that_are_read_as_one_tensor_are_written_into_it(
    math: str, rows: int, with_gradients: bool, stacks: int, product: str
) -> None:
    made, _ = compiled(check_spec(parse_spec(HEAD + math, "plan.yaml")))
    layer, h = made(4, 3), [torch.randn(rows, 4) for _ in range(3)]
    with torch.set_grad_enabled(with_gradients), Operations() as found:
        layer(h)
    assert found.count["stack"] == stacks and found.count[product] == products(found.count) == 3


@pytest.mark.parametrize("math", [SOFTMAX_OF_MAPS, BIASED])
@pytest.mark.parametrize("transform", ["vmap", "vmap of one", "jvp", "autocast", "half"])
def test_transforms_of_maps_that_are_read_as_one_tensor(math: str, transform: str) -> None:
    """Without gradients, where results would be written in place; each against the same with gradients, where none is."""
    made, _ = compiled(check_spec(parse_spec(HEAD + math, "plan.yaml")))
    layer, h = made(4, 3), [torch.randn(2, ROWS, 4) for _ in range(3)]

    def transformed() -> Any:
        one = [x[0] for x in h]
        if transform == "vmap":
            return torch.vmap(lambda *h: layer(h))(*h)
        if transform == "vmap of one":
            return torch.vmap(lambda *h: layer(h), (None, 0, None))(one[0], h[1], one[2])
        if transform == "jvp":
            return torch.func.jvp(lambda *h: layer(h), tuple(one), tuple(x[1] for x in h))
        with torch.autocast("cpu", enabled=transform == "autocast"):
            return layer.bfloat16()([x.bfloat16() for x in one]) if transform == "half" else layer(one)

    with torch.no_grad():
        found = transformed()
    torch.testing.assert_close(found, transformed())


@pytest.mark.parametrize(
    ("math", "blocks"),
    [
        ("out[i] = sum[m](h[m,i])", 0),
        ("out[i] = prod[m](h[m,i])", 0),
        ("out[i] = h[0,i] * sum[j](h[1,j])", 0),
        ("x[i] = tanh(h[0,i] * h[1,i])\n  y[i] = exp(x[i] - h[0,i])\n  out[i] = x[i] * y[i] + h[1,i]", 0),
        (
            ("v[i] = tanh(h[0,i] * h[1,i])\n  w[i] = exp(v[i] - h[0,i])\n  x[i] = sin(v[i] + w[i])\n  y[i] = cos(v[i] * w[i])\n"
            "  z[i] = sigmoid(x[i] - y[i])\n  out[i] = v[i] * w[i] * x[i] * y[i] * z[i] + h[1,i]"),
            10,
        ),
    ],
)
def test_blocks_where_more_is_computed_than_returned(math: str, blocks: int) -> None:
    axes = "{i: dim, j: dim}" if "j" in math else "{i: dim}"
    text = f'{HEAD}modalities: "2"\naxes: {axes}\nmath: |\n  {math}\n'
    made, _ = compiled(check_spec(parse_spec(text, "plan.yaml")))
    layer = made(4, 2)
    with torch.no_grad(), Operations() as found:
        layer([torch.randn((layer._block_rows_in_place or 100) * 9 + 1, 4) for _ in range(2)])
    assert found.count["copy_"] == blocks


@pytest.mark.parametrize(
    ("math", "has_pair_form"),
    [
        ("w[m] = softmax[m](mean[i](h[m,i]))", True),
        # Each modality by its own is as much work for each, and no tensor of all is spared: it is needed in any case.
        ("x[m,i] = h[m,i] * rsqrt(sum[i](h[m,i] ** 2) + 1)\nw[m] = softmax[m](logsumexp[t](sum[i](x[m,i] * x[t,i])))", False),
    ],
)
def test_two_modalities_have_a_form_of_their_own_where_it_touches_less(math: str, has_pair_form: bool) -> None:
    axes = "{i: dim, t: modalities}" if "[t]" in math else "{i: dim}"
    statements = "\n".join(f"  {line}" for line in (*math.split("\n"), "out[i] = sum[m](w[m] * h[m,i])"))
    text = f"{HEAD}modalities: '>=2'\naxes: {axes}\nmath: |\n{statements}\nweights: 'w[b,m]'\n"
    assert compiled(check_spec(parse_spec(text, "plan.yaml")))[0].has_pair_form is has_pair_form


def test_the_smaller_of_two_weights_is_as_exact_as_the_larger() -> None:
    """One minus the larger is zero already where its logarithm is -17."""
    math = "s[m] = sum[j](h[m,j])\n  g[m] = softmax[m](s[m])\n  loss[m] = -log(g[m])\n"
    out = "  out[i] = sum[m](g[m] * h[m,i]) + sum[m](loss[m])\n"
    text = f"{HEAD}modalities: '>=2'\naxes: {{i: dim, j: dim}}\nmath: |\n  {math}{out}weights: 'g[b,m]'\n"
    made, _ = compiled(check_spec(parse_spec(text, "plan.yaml")))
    features = [torch.full((1, 4), value, requires_grad=True) for value in (5.0, 0.0)]
    for inputs in (features, features[::-1]):
        out, info = made(4, 2)(inputs, return_gates=True)
        smaller = info["weights"].min()
        torch.testing.assert_close(smaller, torch.tensor(-20.0).sigmoid())
        torch.testing.assert_close(out, torch.full((1, 4), 25.0))
        assert all(x.isfinite().all() for x in torch.autograd.grad(out.sum() + smaller.log(), features))
