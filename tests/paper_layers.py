"""Published fusion layers that cut or join axes, as specs and as the formulas of their papers in plain torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparank_gen.ir.check import check_spec
from sparank_gen.ir.mode import Mode
from sparank_gen.spec.load import parse_spec

Parameters = Mapping[str, Tensor]


def tensor_fusion(h: Sequence[Tensor], p: Parameters) -> Tensor:
    """Zadeh et al. 2017, equation 5: the outer product of both, each with a 1 appended, through a linear layer."""
    one = torch.ones_like(h[0][:, :1])
    x, y = (torch.cat([feature, one], 1) for feature in h)
    return F.linear(torch.bmm(x.unsqueeze(2), y.unsqueeze(1)).flatten(1), p["proj.weight"], p["proj.bias"])


def product_of_experts(h: Sequence[Tensor], _: Parameters) -> Tensor:
    """Wu and Goodman 2018, section 2.2: means weighted by precisions; the joint variance is one over their sum."""
    means, variances = zip(*((mu, log_variance.exp()) for mu, log_variance in (x.chunk(2, 1) for x in h)), strict=True)
    variance = 1 / sum(1 / v for v in variances)
    mean = variance * sum(mu / v for mu, v in zip(means, variances, strict=True))
    return torch.cat([mean, variance.log()], 1)


def factorised_bilinear(h: Sequence[Tensor], p: Parameters, factors: int = 3) -> Tensor:
    """Yu et al. 2017, section 3.2: products of factors summed over each group, signed root, l2 normalisation."""
    x, y = (F.linear(feature, p[f"{name}.weight"], p[f"{name}.bias"]) for feature, name in zip(h, ("left", "right"), strict=True))
    z = (x * y).unflatten(1, (factors, -1)).sum(1)
    root = torch.sign(z) * torch.sqrt(z.abs())
    return F.normalize(root, dim=1)


@dataclass(frozen=True)
class PaperLayer:
    """A spec and the formula that it should be."""

    spec: str
    formula: Callable[[Sequence[Tensor], Parameters], Tensor]
    modalities: int


LAYERS = {
    "tensor_fusion": PaperLayer(
        """\
modalities: 2
axes: {i: dim, o: 2 * dim, p: dim + 1, q: dim + 1}
params:
  proj: {module: Linear, weight: "W[o,(p q)]", bias: "c[o]"}
math: |
  x[p]   = concat[p: i, 1](h[0,i], 1)
  y[q]   = concat[q: i, 1](h[1,i], 1)
  out[o] = sum[p,q](W[o,p,q] * x[p] * y[q]) + c[o]
""",
        tensor_fusion,
        2,
    ),
    "product_of_experts": PaperLayer(
        """\
modalities: ">=2"
axes: {s: 2, i: dim // 2}
features: "h[m, b, (s i)]"
math: |
  precision[m,i] = exp(-h[m,1,i])
  out[0,i]       = sum[m](precision[m,i] * h[m,0,i]) / sum[m](precision[m,i])
  out[1,i]       = -log(sum[m](precision[m,i]))
out: "out[b,(s i)]"
""",
        product_of_experts,
        3,
    ),
    "experts_by_offsets": PaperLayer(
        """\
modalities: ">=2"
axes: {i: dim // 2, j: dim}
math: |
  precision[m,i] = exp(-h[m,i + dim // 2])
  total[i]       = sum[m](precision[m,i])
  out[j]         = concat[j: i, i](sum[m](precision[m,i] * h[m,i + 0]) / total[i], -log(total[i]))
""",
        product_of_experts,
        2,
    ),
    "factorised_bilinear": PaperLayer(
        """\
modalities: 2
axes: {i: dim, k: factors, o: dim}
hyperparameters:
  factors: {default: 3}
params:
  left: {module: Linear, weight: "U[(k o),i]", bias: "u[(k o)]"}
  right: {module: Linear, weight: "V[(k o),i]", bias: "v[(k o)]"}
math: |
  x[k,o] = sum[i](U[k,o,i] * h[0,i]) + u[k,o]
  y[k,o] = sum[i](V[k,o,i] * h[1,i]) + v[k,o]
  z[o]   = sum[k](x[k,o] * y[k,o])
  r[o]   = where(z[o] >= 0, sqrt(max(z[o], 1e-24)), -sqrt(max(-z[o], 1e-24)))
  out[o] = r[o] / sqrt(max(sum[o](r[o] ** 2), 1e-24))
""",
        factorised_bilinear,
        2,
    ),
}


def paper_mode(name: str) -> Mode:
    return check_spec(parse_spec(f"version: 1\nmode: paper_{name}\nsummary: s\n{LAYERS[name].spec}", f"{name}.yaml"))


def check_layer(name: str, made: Callable[..., nn.Module], dim: int, backend: str) -> None:
    """Output and all gradients of a generated layer against the formula."""
    torch.manual_seed(dim)
    count = LAYERS[name].modalities
    layer = made(dim, count, backend=backend).double()
    features = [torch.randn(3, dim, dtype=torch.float64, requires_grad=True) for _ in range(count)]
    out = layer(features)
    wanted = LAYERS[name].formula(features, dict(layer.named_parameters()))
    cotangent = torch.randn_like(wanted)
    inputs = [*features, *layer.parameters()]
    torch.testing.assert_close(out, wanted, rtol=1e-10, atol=1e-12)
    found, expected = (torch.autograd.grad(result, inputs, cotangent) for result in (out, wanted))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    assert layer.out_dim == out.shape[1]
