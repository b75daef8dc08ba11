"""Cut and joined axes as they are shown and printed, and what they cost in kernels."""

from __future__ import annotations

import pytest

from paper_layers import paper_mode
from sparank_gen.backends.docs.page import mode_page
from sparank_gen.backends.triton.file import kernel_file
from sparank_gen.ir.check import check_spec
from sparank_gen.ir.mode import Mode
from sparank_gen.lang.extents import Extent, parse_extent
from sparank_gen.spec.load import parse_spec
from sparank_gen.spec.source import Text
from test_random_programs import check_program, compiled

GATED = """\
version: 1
mode: gated
summary: A projection whose second half gates its first.
modalities: ">=2"
axes: {i: dim, j: dim, o: 2 * dim}
params:
  both: {module: Linear, weight: "W[o,j]", bias: "c[o]"}
math: |
  y[m,o] = sum[j](W[o,j] * h[m,j]) + c[o]
  out[i] = sum[m](y[m,i + 0] * sigmoid(y[m,i + dim]))
"""


def gated() -> Mode:
    return check_spec(parse_spec(GATED, "gated.yaml"))


def test_formulas_show_where_pieces_lie() -> None:
    page = mode_page(paper_mode("tensor_fusion"))
    assert page.formulas[0] == r"x_{p} = \begin{cases}h_{0,p} & \text{if } p < \mathrm{dim}\\ 1 & \text{otherwise}\end{cases}"
    page = mode_page(gated())
    assert page.formulas[1] == r"\mathrm{out}_{i} = \sum_{m} y_{m,i}\,\sigma\left(y_{m,i + \mathrm{dim}}\right)"
    (adjoint,) = (line for line in page.adjoints if line.startswith(r"\overline{y}_{m,o}"))
    assert adjoint.count("cases") == 2 and r"y_{m,o - \mathrm{dim}}" in adjoint, "one concatenation, and no sum of padded parts"


@pytest.mark.parametrize(
    "name, statements",
    [
        ("tensor_fusion", ["x = F.pad(h[0], (0, 1), value=1)  # (B, dim + 1)"]),
        ("experts_by_offsets", ["h_m[:, self.dim // 2 :]", "h_m[:, : self.dim // 2]", "torch.cat((total_2 / total, -torch.log(total)), -1)"]),
        ("product_of_experts", ["h_m.unflatten(-1, (2, self.dim // 2))[:, 1]"]),
    ],
)
def test_torch_code_is_what_one_would_write(name: str, statements: list[str]) -> None:
    _, source = compiled(paper_mode(name))
    for statement in statements:
        assert statement in source, source


def test_kernels_multiply_each_half_once() -> None:
    """Forward: a product for each half. Backward: those again, and one from each half of the gradient."""
    file = kernel_file(gated())
    for schedules, count in ((file.forward, 2), (file.backward, 4)):
        assert schedules.resident.kernel is not None
        body = "\n".join(schedules.resident.kernel.body)
        assert body.count("contract(") == count and "O_LANES" not in body, body


@pytest.mark.parametrize(
    "text, least, expected",
    [
        ("dim - dim // 2", {}, True),
        ("dim - 1", {}, True),
        ("dim - 2", {}, False),
        ("dim - 2", {"dim": 2}, True),
        ("dim - rank", {}, False),
        ("dim * rank - dim", {}, True),
        ("dim * rank - dim - rank + 1", {}, True),
        ("dim // 2 - 1", {}, False),
        ("3 - 3 + dim - dim", {}, True),
    ],
)
def test_what_is_seen_to_be_no_negative_number(text: str, least: dict[str, int], expected: bool) -> None:
    names = {name: Extent.symbol(name) for name in ("dim", "rank")}
    place = Text(f"1 + {text}", "a.yaml", ((0, 1, 1),), ("",))
    extent = parse_extent(place, names)[0] - Extent.number(1)
    assert extent.is_at_least_zero(least) is expected


@pytest.mark.parametrize(
    "text, most, expected",
    [
        ("10 - rank - 2", {}, False),
        ("10 - rank - 2", {"rank": 8}, True),
        ("10 - rank - 3", {"rank": 8}, False),
        ("dim - rank + 7", {"rank": 8}, True),
        ("dim - rank + 6", {"rank": 8}, False),
        ("8 * dim - rank * dim", {"rank": 8}, True),
        ("2 * dim * rank - rank - 1", {"rank": 8}, True),
    ],
)
def test_what_is_seen_to_be_no_negative_number_up_to_a_largest(text: str, most: dict[str, int], expected: bool) -> None:
    names = {name: Extent.symbol(name) for name in ("dim", "rank")}
    extent = parse_extent(Text(text, "a.yaml", ((0, 1, 1),), ("",)), names)[0]
    assert extent.is_at_least_zero({}, most) is expected


HAMILTON = """\
version: 1
mode: hamilton
summary: The product of two modalities as complex numbers, half of each real.
modalities: "2"
axes: {i: dim // 2, q: 2}
features: "h[m, b, (q i)]"
math: |
  x[0,i] = h[0,0,i] * h[1,0,i] - h[0,1,i] * h[1,1,i]
  x[1,i] = h[0,0,i] * h[1,1,i] + h[0,1,i] * h[1,0,i]
  out[q,i] = x[q,i] + mean[m](h[m,0,i])
out: "out[b,(q i)]"
"""


def test_features_at_all_positions_of_what_they_are_taken_apart_into_are_read_once() -> None:
    _, source = compiled(check_spec(parse_spec(HAMILTON, "hamilton.yaml")))
    assert "h_0_0, h_0_1 = h[0].unflatten(-1, (2, self.dim // 2)).unbind(1)" in source
    assert "h_0_0 * h_1_1 + h_0_1 * h_1_0" in source
    check_program(HAMILTON, 3, 2, 1, 4)


def test_pieces_run_along_the_axis_that_a_layout_names() -> None:
    """The two modalities have its extent too."""
    direct = HAMILTON.replace("x[0,i] =", "out[0,i] =").replace("x[1,i] =", "out[1,i] =").replace("  out[q,i] = x[q,i] + mean[m](h[m,0,i])\n", "")
    assert check_spec(parse_spec(direct, "hamilton.yaml")).program["out"].axes == ("q", "i")
    check_program(direct, 3, 2, 1, 4)
