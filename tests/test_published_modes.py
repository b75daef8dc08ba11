"""Modes against the formulas of their papers, written with torch alone, and not from the specs: outputs, weights, gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparank_fusion import FusionLayer
from sparank_fusion.layer import mode_class

Features = list[Tensor]
Formula = Callable[[nn.Module, Features], tuple[Tensor, Tensor | None]]


def average(layer: nn.Module, x: Features) -> tuple[Tensor, None]:
    """Simonyan and Zisserman 2014: the streams are averaged."""
    return torch.stack(x).mean(0), None


def total(layer: nn.Module, x: Features) -> tuple[Tensor, None]:
    """Feichtenhofer et al. 2016, equation 1: y = x^a + x^b."""
    return torch.stack(x).sum(0), None


def largest(layer: nn.Module, x: Features) -> tuple[Tensor, None]:
    """Feichtenhofer et al. 2016, equation 2: y = max(x^a, x^b)."""
    return torch.stack(x).amax(0), None


def pointwise_product(layer: nn.Module, x: Features) -> tuple[Tensor, None]:
    """Antol et al. 2015: image and question embeddings are fused by multiplication, element by element."""
    return torch.stack(x).prod(0), None


def dynamic_meta_embedding(layer: nn.Module, x: Features) -> tuple[Tensor, Tensor]:
    """Kiela et al. 2018: softmax over scalar scores, one map for each kind of embedding."""
    scores = torch.stack([layer.scores[m](feature).squeeze(1) for m, feature in enumerate(x)], 1)
    alpha = torch.exp(scores) / torch.exp(scores).sum(1, keepdim=True)
    return torch.einsum("bm,bmi->bi", alpha, torch.stack(x, 1)), alpha


def film(layer: nn.Module, x: Features) -> tuple[Tensor, Tensor]:
    """Perez et al. 2018, equations 1 and 2, with gamma = 1 + delta gamma."""
    delta, beta = layer.film(x[1]).chunk(2, 1)
    return torch.addcmul(beta, 1 + delta, x[0]), 1 + delta


def mlb(layer: nn.Module, x: Features) -> tuple[Tensor, None]:
    """Kim et al. 2017, with biases in the projections: P^T (tanh(U^T x) o tanh(V^T y)) + b."""
    u, v, p = (module.weight.T for module in (layer.left, layer.right, layer.output))
    joint = torch.tanh(x[0] @ u + layer.left.bias) * torch.tanh(x[1] @ v + layer.right.bias)
    return joint @ p + layer.output.bias, None


def experts(layer: nn.Module, x: Features) -> tuple[Tensor, Tensor]:
    """Shazeer et al. 2017, equations 1 and 2: y = sum_i G(x)_i E_i(x), with softmax gating and linear experts."""
    joined, count, dim = torch.cat(x, 1), layer.experts, layer.dims[0]
    gate = F.softmax(layer.router(joined), 1)
    result = torch.zeros_like(x[0])
    for k in range(count):
        weight, bias = (tensor[k * dim : (k + 1) * dim] for tensor in (layer.expert.weight, layer.expert.bias))
        result = result + gate[:, k, None] * (joined @ weight.T + bias)
    return result, gate


def attention_of_one(layer: nn.Module, x: Features) -> tuple[Tensor, Tensor]:
    """Vaswani et al. 2017, equation 1 and section 3.2.2, head by head, then the sublayer of section 3.1."""
    dim, heads, tokens = layer.dim, layer.attn_heads, torch.stack(x, 1)
    width = dim // heads
    weight, bias = layer.attn.in_proj_weight, layer.attn.in_proj_bias
    q = x[0] @ weight[:dim].T + bias[:dim]
    k = tokens @ weight[dim : 2 * dim].T + bias[dim : 2 * dim]
    v = tokens @ weight[2 * dim :].T + bias[2 * dim :]
    contexts, weights = [], []
    for head in range(heads):
        own = slice(head * width, (head + 1) * width)
        scores = (k[:, :, own] @ q[:, own, None]).squeeze(2) / math.sqrt(width)
        weights.append(F.softmax(scores, 1))
        contexts.append((weights[-1].unsqueeze(1) @ v[:, :, own]).squeeze(1))
    mixed = layer.attn.out_proj(torch.cat(contexts, 1))
    return layer.norm(x[0] + mixed), sum(weights) / heads


def deep_set(layer: nn.Module, x: Features) -> tuple[Tensor, None]:
    """Zaheer et al. 2017, theorem 2: rho(sum over the set of phi(x)), both perceptrons."""
    inner = [layer.phi[1](layer.phi[0](feature).clamp(min=0)).clamp(min=0) for feature in x]
    return layer.rho[1](layer.rho[0](torch.stack(inner).sum(0)).clamp(min=0)), None


def mfb(layer: nn.Module, x: Features) -> tuple[Tensor, None]:
    """Yu et al. 2017: sum pooling over k, z = sign(z) |z|^0.5, z = z / ||z||."""
    joint = layer.left(x[0]) * layer.right(x[1])
    z = torch.stack([joint[:, k :: layer.factors] for k in range(layer.factors)]).sum(0)
    z = torch.sign(z) * torch.sqrt(torch.abs(z))
    return z / torch.linalg.vector_norm(z, dim=1, keepdim=True), None


def interaction(layer: nn.Module, x: Features) -> tuple[Tensor, None]:
    """Jayakumar et al. 2020: z^T W x + z^T U + V x + b."""
    form = torch.stack([((x[0] @ weight) * x[1]).sum(1) for weight in layer.bilinear.weight], 1)
    return form + x[0] @ layer.left.weight.T + x[1] @ layer.right.weight.T + layer.bilinear.bias, None


def scalar_mix(layer: nn.Module, x: Features) -> tuple[Tensor, Tensor]:
    """Peters et al. 2018, equation 1: gamma * sum_j s_j h_j, with softmax-normalised weights s."""
    s = torch.exp(layer.scalars) / torch.exp(layer.scalars).sum()
    mixed = torch.zeros_like(x[0])
    for weight, feature in zip(s, x, strict=True):
        mixed = mixed + weight * feature
    return layer.gamma * mixed, s.repeat(len(x[0]), 1)


def lmf(layer: nn.Module, x: Features) -> tuple[Tensor, None]:
    """Liu et al. 2018: the tensor of weights, sum_r of outer products of factors, on the tensor product of [z_m; 1]."""
    rank, dim = layer.terms, layer.dims[0]
    ones = torch.ones(len(x[0]), 1, dtype=x[0].dtype)
    product, weight = torch.ones_like(ones), None
    for m, feature in enumerate(x):
        module = layer.factors[m]
        own = torch.cat([module.weight, module.bias[:, None]], 1).reshape(rank, dim, -1)
        product = torch.einsum("bi,bj->bij", product, torch.cat([feature, ones], 1)).flatten(1)
        weight = own if weight is None else torch.einsum("roi,roj->roij", weight, own).flatten(2)
    assert weight is not None
    return product @ weight.sum(0).T, None


def tfn(layer: nn.Module, x: Features) -> tuple[Tensor, None]:
    """Zadeh et al. 2017, the tensor fusion layer of two modalities: [z^l; 1] (x) [z^v; 1]."""
    ones = torch.ones(len(x[0]), 1, dtype=x[0].dtype)
    left, right = (torch.cat([feature, ones], 1) for feature in x)
    return torch.einsum("bp,bq->bpq", left, right).flatten(1), None


def gmu(layer: nn.Module, x: Features) -> tuple[Tensor, Tensor]:
    """Arevalo et al. 2017, section 3.1: h_i = tanh(W_i x_i), z_i = sigmoid(W_zi [x_1, ..., x_k]), h = sum_i z_i * h_i."""
    everything, result, gates = torch.cat(x, 1), torch.zeros(len(x[0]), layer.units, dtype=x[0].dtype), []
    for m, feature in enumerate(x):
        gates.append(1 / (1 + torch.exp(-everything @ layer.gate[m].weight.T)))
        result = result + gates[m] * torch.tanh(feature @ layer.hidden[m].weight.T)
    return result, torch.stack(gates, 1)


@dataclass(frozen=True)
class Case:
    """One layer: its mode, the sizes, and the formula."""

    mode: str
    formula: Formula
    n_modalities: int
    dim: int | tuple[int, ...]
    batch: int = 3
    options: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        dim = self.dim if isinstance(self.dim, int) else "x".join(map(str, self.dim))
        return f"{self.mode}-M{self.n_modalities}-dim{dim}-B{self.batch}"

    @property
    def dims(self) -> tuple[int, ...]:
        """The width of each modality."""
        return self.dim if isinstance(self.dim, tuple) else (self.dim,) * self.n_modalities


PLAIN = (("mean", average), ("sum", total), ("maximum", largest), ("product", pointwise_product))
CASES = [
    *(Case(mode, formula, count, 5, 7) for mode, formula in PLAIN for count in (2, 3, 5)),
    *(Case("scalar_gate", dynamic_meta_embedding, count, dim) for count, dim in ((2, 5), (3, 8), (5, 1))),
    *(Case("film", film, 2, dim, batch) for dim, batch in ((1, 1), (5, 3), (8, 7))),
    *(Case("low_rank_bilinear", mlb, 2, dim, options={"rank": rank}) for dim, rank in ((5, 3), (4, 7), (6, 1))),
    *(Case("mixture_of_experts", experts, m, dim, options={"experts": e}) for m, dim, e in ((2, 5, 3), (3, 4, 1), (4, 3, 7))),
    *(Case("cross_attention", attention_of_one, m, dim, options={"attn_heads": a}) for m, dim, a in ((2, 6, 3), (3, 5, 1), (4, 8, 4))),
    *(Case("deep_sets", deep_set, m, dim, options={"hidden": k}) for m, dim, k in ((2, 5, 3), (3, 4, 7), (5, 3, 1))),
    *(Case("factorized_bilinear", mfb, 2, dim, options={"factors": k}) for dim, k in ((5, 3), (4, 1), (3, 6))),
    *(Case("scalar_mix", scalar_mix, count, 5) for count in (2, 3, 5)),
    *(Case("low_rank_fusion", lmf, m, dim, options={"terms": r}) for m, dim, r in ((2, 5, 3), (3, 4, 1), (4, 2, 6))),
    *(Case("tensor_fusion", tfn, 2, dim, batch) for dim, batch in ((1, 2), (5, 3), (4, 7), ((3, 6), 4), ((5, 1), 2))),
    *(Case("multiplicative_interaction", interaction, 2, dim, batch) for dim, batch in ((1, 2), (5, 3), (4, 7), ((3, 6), 4))),
    *(Case("film", film, 2, dim) for dim in ((3, 6), (5, 1))),
    *(Case("low_rank_bilinear", mlb, 2, dim, options={"rank": 3}) for dim in ((3, 6), (5, 1))),
    *(Case("factorized_bilinear", mfb, 2, dim, options={"factors": 3}) for dim in ((3, 6), (5, 1))),
    *(Case("mixture_of_experts", experts, len(dim), dim, options={"experts": 3}) for dim in ((3, 6), (4, 1, 5))),
    *(Case("low_rank_fusion", lmf, len(dim), dim, options={"terms": 3}) for dim in ((3, 6), (4, 1, 5))),
    *(Case("gated_multimodal_unit", gmu, len(dim), dim, options={"units": 4}) for dim in ((3, 6), (4, 1, 5), (2, 2))),
]


def normal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(case: Case) -> nn.Module:
    torch.manual_seed(0)
    layer = FusionLayer(case.dim, case.n_modalities, case.mode, **case.options).double()
    with torch.no_grad():
        for k, parameter in enumerate(layer.parameters()):
            parameter.copy_(0.5 * normal(tuple(parameter.shape), 50 + k))
    return layer


@pytest.mark.parametrize("case", CASES, ids=str)
def test_mode_is_what_its_paper_says(case: Case) -> None:
    layer = made(case)
    features = [normal((case.batch, width), m).requires_grad_() for m, width in enumerate(case.dims)]
    out, info = layer(features, return_gates=True)
    wanted_out, wanted_weights = case.formula(layer, features)
    found, wanted = [out], [wanted_out]
    if wanted_weights is None:
        assert info["weights"] is None
    else:
        found, wanted = [out, info["weights"]], [wanted_out, wanted_weights]
    tensors = [*features, *layer.parameters()]
    cotangents = [normal(tuple(x.shape), 100 + k) for k, x in enumerate(wanted)]
    found += torch.autograd.grad(found, tensors, cotangents)
    wanted += torch.autograd.grad(wanted, tensors, cotangents)
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(layer(features), wanted_out, rtol=1e-10, atol=1e-11)


def test_every_mode_without_a_published_layer_has_a_formula() -> None:
    from published import MODES
    from sparank_fusion import list_modes

    assert {*MODES, *(case.mode for case in CASES)} == set(list_modes())


def test_the_largest_of_several_equal_ones_share_the_gradient() -> None:
    features = [torch.tensor([[2.0, 1.0]], dtype=torch.float64, requires_grad=True) for _ in range(3)]
    FusionLayer(2, 3, "maximum")(features).sum().backward()
    for feature in features:
        torch.testing.assert_close(feature.grad, torch.full((1, 2), 1 / 3, dtype=torch.float64))


def test_a_product_with_zeros_has_the_gradient_of_the_others() -> None:
    features = [torch.tensor([[0.0, 0.0]], dtype=torch.float64), torch.tensor([[3.0, 0.0]], dtype=torch.float64)]
    features.append(torch.tensor([[5.0, 7.0]], dtype=torch.float64))
    given = [feature.requires_grad_() for feature in features]
    FusionLayer(2, 3, "product")(given).sum().backward()
    assert [feature.grad.tolist() for feature in given if feature.grad is not None] == [[[15, 0]], [[0, 0]], [[0, 0]]]


def test_the_pooled_form_is_finite_where_modalities_are_zero() -> None:
    layer = made(Case("factorized_bilinear", mfb, 2, 4))
    features = [torch.zeros(2, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    with torch.no_grad():
        for parameter in (layer.left.bias, layer.right.bias):
            parameter.zero_()
    out = layer(features)
    out.sum().backward()
    assert not out.any() and all(feature.grad is not None and feature.grad.isfinite().all() for feature in features)


@pytest.mark.parametrize("mode", ["mean", "sum", "maximum", "product", "deep_sets"])
def test_the_order_of_modalities_does_not_matter(mode: str) -> None:
    assert mode_class(mode).most_modalities is None
    layer = made(Case(mode, average, 4, 5))
    features = [normal((3, 5), m) for m in range(4)]
    torch.testing.assert_close(layer(features[::-1]), layer(features), rtol=1e-12, atol=1e-12)
