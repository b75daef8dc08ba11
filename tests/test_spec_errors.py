"""Bad specs: each is one error with a stable code, a caret under the guilty text, and a remedy.

The table holds at least one bad spec for every class in ``sparank_gen.spec.errors``. A light fuzz of the shipped
specs then shows that whatever is written there ends as a checked mode or as such an error.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparank_fusion import list_modes
from sparank_fusion.layer import mode_class
from sparank_gen.ir.check import check_spec
from sparank_gen.project.config import Config
from sparank_gen.project.generate import SpecErrors, generate, load_modes
from sparank_gen.spec import errors
from sparank_gen.spec.entries import ATTRIBUTES
from sparank_gen.spec.load import load_spec, parse_spec
from sparank_gen.trial.cases import require_sizes

SPECS = Path(__file__).resolve().parents[1] / "specs"
SHIPPED = {path.stem: path.read_text(encoding="utf-8") for path in sorted(SPECS.glob("*.yaml"))}
FILE = "bad.yaml"
HEAD = 'version: 1\nmode: bad\nsummary: s\nmodalities: ">=2"\n'
SUM = "sum[m](h[m,i])"
LINEAR = 'params:\n  f: {module: Linear, weight: "W[i,j]"}\n'
USED = "out[i] = sum[m,j](W[i,j] * h[m,j])"
NORMED = '{module: LayerNorm, weight: "v[i]", bias: "w[i]"}'
NO_NUMBERS = ("007", "٣", "true", "1_0", "1e", "nan", ".inf", "1e999", "''")
NORM = 'params:\n  f: {module: LayerNorm, weight: "v[k]", bias: "w[k]"}\n'


@dataclass(frozen=True)
class Bad:
    """A bad spec, the code of its error, the text under the caret, and words of the message or the help; empty: any."""

    name: str
    source: str
    code: str
    at: str
    said: str


def spec(math: str = f"out[i] = {SUM}", axes: str = "{i: dim}", extra: str = "", head: str = HEAD) -> str:
    """A spec that is right but for what is given."""
    block = "".join(f"  {line}\n" for line in math.split("\n"))
    return f"{head}axes: {axes}\n{extra}math: |\n{block}"


def layout(text: str, axes: str = "{i: dim}") -> str:
    """A spec without math, whose output is laid out as given."""
    return f'{HEAD}axes: {axes}\nout: "{text}"\n'


def linear(weight: str, options: str = "", module: str = "Linear", axes: str = "{i: dim, j: dim}") -> str:
    """A spec with one module."""
    return spec(USED, axes, f'params:\n  f: {{module: {module}, weight: "{weight}"{options}}}\n')


def tensor(layout: str, options: str) -> str:
    """A spec with one tensor that stands by itself."""
    return spec(f"out[i] = {SUM} * v[i]", extra=f'params:\n  f: {{tensor: "{layout}", {options}}}\n')


def normed(arguments: str) -> str:
    """A spec with a LayerNorm."""
    params = f'params:\n  f: {{module: LayerNorm, weight: "v[i]", bias: "w[i]", arguments: {{{arguments}}}}}\n'
    return spec(f"out[i] = {SUM} * v[i] + w[i]", extra=params)


def attended(arguments: str) -> str:
    """A spec with a MultiheadAttention."""
    tensors = 'in_proj_weight: "W[(p j),i]", out_proj.weight: "U[j,i]"'
    module = f"{{module: MultiheadAttention, {tensors}, arguments: {{num_heads: 1, {arguments}}}}}"
    return spec("out[j] = sum[i,m,p](W[p,j,i] * U[j,i] * h[m,i])", "{i: dim, j: dim, p: 3}", f"params:\n  f: {module}\n")


def results(diagnostics: str) -> str:
    """A spec with diagnostics."""
    return spec(extra=f"diagnostics: {{{diagnostics}}}\n")


def calling(out: str, *functions: str, more: str = "", axes: str = "{i: dim}") -> str:
    """A spec with functions."""
    extra = "functions:\n" + "".join(f"  {function}\n" for function in functions)
    return spec(f"{more}\nout[i] = {out}".strip(), axes, extra)


def paths(*entries: str) -> str:
    """A spec with these entries under ``params``."""
    return spec(extra="params:\n" + "".join(f"  {entry}\n" for entry in entries))


def hyper(entry: str) -> str:
    """A spec with one hyper-parameter."""
    return spec(extra=f"hyperparameters:\n  tau: {entry}\n")


def both(math: str, extra: str = "") -> str:
    """A spec with two axes of one extent."""
    return spec(math, "{i: dim, j: dim}", extra)


YAML = (
    Bad("parameters for params", f"{HEAD}axes: {{i: dim}}\nparameters: {{}}\nmath: |\n  out[i] = {SUM}\n", "", "parameters", "did you mean 'params'?"),
    Bad("and in Python's vectors", spec(f"x[i] = {SUM}\nout[i] = where((x[i] > 0) & (x[i] < 1), 1, x[i])"), "bad-syntax", "", "join comparisons with 'and'"),
    Bad("an option without its name", spec(f"x[i] = {SUM}\nout[i] = layernorm[i](x[i], 1e-6)"), "wrong-arguments", "1e-6", "give options by name: layernorm[i](x, eps=1e-05)"),
    Bad("ends the wrong way round", spec(head=HEAD.replace('">=2"', '"4..2"')), "bad-value", "4..2", "'2..4'"),
    Bad("per what is no index", spec(USED, "{i: dim, j: dim}", LINEAR.replace("Linear,", "Linear, per: modalities,")), "unknown-index", "modalities", "per: m"),
    Bad("clip", spec("out[i] = clip(sum[m](h[m,i]), -1, 1)"), "unknown-operator", "clip(sum[m](h[m,i]), -1, 1)", "min(max(x, low), high)"),
    Bad("a norm in a function", calling("f[i](h[0,i])", "f[i](x[i]): x[i] / norm[i](x[i])"), "unknown-operator", "", "sqrt(sum[i](x[i] ** 2) + 1e-12)"),
    Bad("present in the math", spec("out[i] = sum[m](h[m,i] * present[m])"), "unknown-name", "present[m]", "leave it out"),
    Bad("a width where modalities have their own", spec("out[m,i] = h[m,i] / sqrt(dim)", "{i: 'dim[m]'}", extra="out: 'out[b,(m i)]'\n"), "unknown-name", "dim", "size[i]"),
    Bad("a comparison of indices", both("a[m] = where(m != 1, sum[i](h[m,i]), 0)\nout[i] = sum[m](a[m] * h[m,i])"), "unknown-name", "m", "an index is not compared"),
    Bad("a property of what no layout shows", spec(f"x[i] = {SUM}\nout[i] = exp(x[i])", extra="properties: ['x[i] >= 0']\n"), "unknown-name", "x[i]", "lay it out under 'diagnostics'"),
    Bad("two definitions on one line", spec(f"x[i] = {SUM}; out[i] = x[i]"), "bad-syntax", "out[i] = x[i]", "a line of its own"),
    Bad("an initial value with axes", tensor("v[i]", "init: constant, value: 'concat[k: 1, 1](1, 2)'").replace("{i: dim}", "{i: dim, k: 2}"), "wrong-arguments", "concat[k: 1, 1](1, 2)", "the axes k"),
    Bad("an initial value for each modality", f"{HEAD}axes: {{i: 3, k: 'dim[m]'}}\nparams:\n  f: {{tensor: 'v[i]', init: constant, value: 'size[k]'}}\nmath: |\n  out[i] = sum[m,k](h[m,k]) * v[i]\n", "wrong-arguments", "size[k]", "the axes m"),
    Bad("a number with an underscore", hyper("{default: 1_000}"), "bad-value", "1_000", "a number"),
    Bad("a piece in a function", calling("f[i](h[0,i])", 'f[i](x[i]): "y[0] = 1\\nx[i] * y[0]"'), "bad-syntax", "", "names alone"),
    Bad("an offset in a signature", calling("f[i](h[0,i])", "f[i + 1](x[i]): x[i] * sum[i](x[i])"), "bad-syntax", "i + 1", "names alone"),
    Bad("an offset of a parameter", calling("f[i](h[0,i])", "f[i](x[i + 2]): x[i] * sum[i](x[i])"), "bad-syntax", "i + 2", "names alone"),
    Bad("a parameter in a property", spec(USED, "{i: dim, j: dim}", LINEAR) + "properties: ['W[0,0] >= 0']\n", "unknown-name", "W[0,0]", "not visible in properties"),
    Bad("two comparisons in a property", spec() + "properties: ['0 <= out[i] <= 1']\n", "bad-syntax", "", "a property holds one comparison"),
    Bad("not yaml", HEAD + "axes: {i: dim]\n", "not-yaml", "]", "not YAML"),
    Bad("tab", HEAD + "axes:\n\ti: dim\n", "not-yaml", "\t", "cannot start any token"),
    Bad("cut off", HEAD + "axes: {i: dim\n", "not-yaml", "", "stream end"),
    Bad("undefined alias", HEAD + "axes: *other\n", "not-yaml", "*", "undefined alias"),
    Bad("count without quotes", HEAD.replace('">=2"', ">=2"), "not-yaml", "=", "modalities: '>=2'"),
    Bad("brackets without quotes", HEAD + "params: {f: {module: Linear, weight: W[i,j]}}\n", "not-yaml", "[", "stands in quotes"),
    Bad("colon without quotes", HEAD.replace("summary: s", "summary: a: b"), "not-yaml", ":", "text with a colon"),
    Bad("key without a colon", HEAD + "axes\nout: h\n", "not-yaml", "a", "followed by a colon"),
    Bad("open quote", HEAD + "out: 'h[b,(m i)]\n", "not-yaml", "'", "close the quote"),
    Bad("quote within quotes", HEAD.replace("summary: s", "summary: 'it's'"), "not-yaml", "s", "written twice"),
    Bad("two documents", HEAD + "---\n" + HEAD, "not-yaml", "-", "document"),
    Bad("empty", "", "not-a-mapping", "", "empty"),
    Bad("only a comment", "# nothing\n", "not-a-mapping", "#", "version: 1"),
    Bad("a list", "- version: 1\n", "not-a-mapping", "-", "found a list"),
    Bad("a scalar", "gate\n", "not-a-mapping", "gate", "'gate'"),
    Bad("axes is a list", HEAD + "axes: [i, j]\n", "not-a-mapping", "[i, j]", "found a list"),
    Bad("recursive list", "&a [*a]\n", "not-a-mapping", "&a [*a]", "found a list"),
    Bad("recursive mapping", HEAD + "axes: &a {i: dim, j: *a}\n", "bad-value", "&a {i: dim, j: *a}", "found a mapping"),
    Bad("merge key", HEAD + "<<: {axes: {i: dim}}\n", "unknown-key", "<<", "no key '<<'"),
    Bad("duplicate key", HEAD + "mode: two\n", "duplicate-key", "mode", "first at line 2"),
    Bad("duplicate axis", spec(axes="{i: dim, i: 2}"), "duplicate-key", "i", "twice in axes"),
    Bad("unknown key", HEAD + "weight: 'g[m,b,i]'\n", "unknown-key", "weight", "did you mean 'weights'?"),
    Bad("unknown hyper key", hyper("{default: 1, minimal: 1}"), "unknown-key", "minimal", "did you mean 'minimum'?"),
    Bad("missing key", HEAD.replace("summary: s\n", ""), "missing-key", "v", "'summary'"),
    Bad("no output", HEAD, "missing-key", "v", "defines no output"),
    Bad("no default", hyper("{minimum: 1}"), "missing-key", "tau", "add 'default: …'"),
)
VALUES = (
    Bad("version", HEAD.replace("version: 1", "version: 2"), "bad-value", "2", "write 'version: 1'"),
    Bad("null text", HEAD.replace("summary: s", "summary: null"), "bad-value", "null", "has no value"),
    Bad("mode name", HEAD.replace("mode: bad", "mode: a b"), "bad-value", "a b", "letters, digits"),
    Bad("keyword mode", HEAD.replace("mode: bad", "mode: class"), "bad-value", "class", "no Python keyword"),
    Bad("modalities", HEAD.replace(">=2", "<=2"), "bad-value", "<=2", "or '2..4'"),
    Bad("empty range", HEAD.replace(">=2", "4..2"), "bad-value", "4..2", "no number of modalities"),
    Bad("extent below 1", spec(axes="{i: dim, p: 2 - 2}"), "bad-value", "2 - 2", "at least 1"),
    Bad("extent of floats", spec(axes="{i: dim / 2}"), "bad-syntax", "dim / 2", "use + - * //"),
    Bad("extent cut short", spec(axes="{i: dim //}"), "bad-syntax", "dim //", "not an extent"),
    Bad("hyper type", hyper("{type: str, default: 1}"), "bad-value", "str", "int or float"),
    Bad("hyper default", hyper("{default: many}"), "bad-value", "many", "write a number"),
    Bad("hyper fraction", hyper("{type: int, default: 0.5}"), "bad-value", "0.5", "whole number"),
    Bad("hyper below what an int has", hyper("{default: 0}"), "bad-value", "0", "below the minimum 1, which an int has"),
    Bad("hyper too small", hyper("{default: 1, minimum: 2}"), "bad-value", "1", "below the minimum 2"),
    Bad("hyper too large", hyper("{default: 3, maximum: 2}"), "bad-value", "3", "above the maximum 2"),
    Bad("bounds that cross", hyper("{default: 3, minimum: 3, maximum: 2}"), "bad-value", "2", "below the minimum 3"),
    Bad("maximum below 1", hyper("{default: 1, maximum: 0}"), "bad-value", "0", "below the minimum 1"),
    Bad("maximum of a fraction", hyper("{default: 1, maximum: 2.5}"), "bad-value", "2.5", "whole number"),
    Bad("maximum that is no number", hyper("{default: 1, maximum: many}"), "bad-value", "many", "write a number"),
    Bad("soft keyword mode", HEAD.replace("mode: bad", "mode: match"), "bad-value", "match", "keyword"),
    Bad("mode of an attribute", HEAD.replace("mode: bad", "mode: forward"), "reused-name", "forward", "attribute of every layer"),
    Bad("huge default", hyper("{default: " + "9" * 5000 + "}"), "bad-value", "9" * 5000, "a number"),
    Bad("property", spec(extra="properties:\n  - out[i] + 1\n"), "bad-value", "out[i] + 1", "'x == y'"),
    Bad("module path", spec(extra="params:\n  a-b: {module: Linear}\n"), "bad-value", "a-b", "'net.0'"),
    Bad("unknown module", linear("W[i,j]", module="Linaer"), "unknown-module", "Linaer", "did you mean 'Linear'?"),
    Bad("unknown tensor", linear("W[i,j]", ', bais: "c[i]"'), "unknown-key", "bais", "did you mean 'bias'?"),
    Bad("module in small letters", linear("W[i,j]", module="linear"), "unknown-module", "linear", "did you mean 'Linear'?"),
    Bad("quoted default", hyper('{default: "1.0"}'), "bad-value", '"1.0"', "without quotes"),
    Bad("extent of a fraction", spec(axes="{i: dim, j: r * dim}", extra="hyperparameters: {r: {default: 1.5}}\n"),
        "bad-value", "r", "extents take whole numbers"),
    Bad("offset of a hyper-parameter with a fraction", spec("out[k] = h[0,k + r]", "{k: dim // 2}",
        "hyperparameters: {r: {default: 1.5}}\n"), "bad-value", "r", "give it a whole default"),
    Bad("property with one equals sign", spec(extra="properties:\n  - out[i] = 1\n"), "bad-syntax", "", "write 'x == y'"),
    Bad("property of a sum with one equals sign", spec(extra="properties:\n  - sum[i](out[i]) = 1\n"), "bad-syntax", "", "write 'x == y'"),
    Bad("missing tensor", spec(extra='params:\n  f: {module: Linear, bias: "c[i]"}\n'), "missing-key", "f", "'weight'"),
    Bad("no module", spec(extra='params:\n  f: {weight: "W[i,i]"}\n'), "missing-key", "f", "add 'module: Linear'"),
    Bad("tensor rank", linear("W[(i j)]"), "layout-mismatch", "W[(i j)]", "has 2 dimensions"),
    Bad("tensor shapes", linear("W[i,j]", ', bias: "c[p]"', axes="{i: dim, j: dim, p: 3}"),
        "extent-mismatch", "p", "'out_features'"),
    Bad("parameter over the batch", linear("W[b,j]"), "layout-mismatch", "b", "leave 'b' out"),
    Bad("per, no index", linear("W[i,j]", ", per: m"), "layout-mismatch", "W[i,j]", "write it as the first index"),
    Bad("per, wrong axis", linear("W[p,i,j]", ", per: p", axes="{i: dim, j: dim, p: 3}"), "unknown-index", "p", "write 'per: m'"),
)
INDICES = (
    Bad("unknown index", spec("out[i] = h[0,k]"), "unknown-index", "k", "declare it under 'axes'"),
    Bad("near index", spec("out[ij] = h[0,ik]", "{ij: dim}"), "unknown-index", "ik", "did you mean 'ij'?"),
    Bad("index in a layout", layout("h[b,(m j)]"), "unknown-index", "j", "declare it"),
    Bad("batch in the math", spec("x[b,i] = h[0,i]\nout[i] = x[i]"), "unknown-index", "b", "leave it out"),
    Bad("number as an axis", spec("out[i] = sum[0](h[0,i])"), "unknown-index", "0", "name an axis"),
    Bad("unbound", both("out[i] = sum[m](h[m,i] * h[m,j])"), "unbound-index", "j", "sum[j](…)"),
    Bad("unused on the left", both("out[i,j] = h[0,i]"), "unused-index", "j", "not used on the right"),
    Bad("unused in a reduction", both("out[i] = sum[j](h[0,i])"), "unused-index", "j", "leave it out"),
    Bad("unused axis", both("out[i] = h[0,i]"), "unused-index", "j", "declared and not used"),
    Bad("diagonal", both(USED.replace("W[i,j]", "W[i,i]"), LINEAR), "repeated-index", "i", "diagonals"),
    Bad("left side twice", spec("x[i,i] = h[0,i]\nout[i] = x[i,i]"), "repeated-index", "i", "name each axis once"),
    Bad("reduction twice", spec("out[i] = sum[m,m](h[m,i])"), "repeated-index", "m", "name each axis once"),
    Bad("layout twice", layout("h[b,(m i i)]"), "repeated-index", "i", "name each axis once"),
    Bad("too few indices", spec("out[i] = h[i]"), "wrong-index-count", "h[i]", "takes 2 indices, found 1"),
    Bad("bare name", spec("out[i] = h"), "wrong-index-count", "h", "found 0"),
    Bad("position", spec("out[i] = h[2,i]"), "index-out-of-range", "2", "count from 0"),
    Bad("position of a modality that may be missing", spec("out[i] = h[2,i]"), "index-out-of-range", "2", "the spec allows 2"),
    Bad("places that there are", spec("out[i] = h[3,i]").replace(">=2", ">=3"), "index-out-of-range", "3", "here from 0 to 2"),
    Bad("position of an axis of one", spec("out[0] = h[0,0]", "{p: 1}").replace("h[0,0]", "h[1,0] * 1").replace(">=2", ">=1"),
        "index-out-of-range", "1", "here there is 0 alone"),
    Bad("index as a value", spec("out[i] = sum[m](where(m != 0, h[m,i], 0))"), "unknown-name", "m", "'m' is an index, not a value"),
    Bad("index as a value in a function", calling("f[i](h[0,i])", "f[i](x[i]): sum[i](x[i] * i)"), "unknown-name", "i", "'x[i]'"),
    Bad("huge position", spec(f"out[i] = h[{'9' * 50},i]"), "index-out-of-range", "9" * 50, "count from 0"),
    Bad("extents disagree", spec("out[i] = h[i,m]"), "extent-mismatch", "i", "runs over dim"),
    Bad("pieces without an axis", spec("x[0] = h[0,0]\nx[1] = h[1,0]\nout[i] = h[0,i]"), "extent-mismatch", "0", "2 pieces"),
)
CUT = 'features: "h[{}]"\n'
JOINS = (
    Bad("offset beyond the end", spec("x[i] = h[0,i]\nout[i] = x[i + 1]"), "index-out-of-range", "i + 1", "from 1 on"),
    Bad("offset that may go beyond", spec("out[i] = h[0,i] * sum[k](h[1,k + r])", "{i: dim, k: dim // 2}",
        "hyperparameters: {r: {default: 1}}\n"), "index-out-of-range", "k + r", "whatever the sizes"),
    Bad("shorter index", spec("out[k] = h[0,k]", "{k: dim // 2}"), "extent-mismatch", "k", "use an index of that extent"),
    Bad("unknown offset", spec("out[k] = h[0,k + half]", "{k: dim // 2}"), "unknown-name", "half", "not a known extent"),
    Bad("negative offset", spec("out[k] = h[0,k + 0 - 1]", "{k: dim // 2}"), "bad-value", "0 - 1", "at least 0"),
    Bad("index less a number", spec("out[k] = h[0,k - 1]", "{k: dim // 2}"), "bad-syntax", "k - 1", "'x[m,i + 2]'"),
    Bad("product as an index", spec("out[k] = h[0,2 * k]", "{k: dim // 2}"), "bad-syntax", "2 * k", "a name or a whole number"),
    Bad("offset of a product", spec("out[k] = h[0,2 * k + 1]", "{k: dim // 2}"), "bad-syntax", "2 * k + 1", "'x[m,i + 2]'"),
    Bad("offset that is a fraction", spec("out[k] = h[0,k + 0.5]", "{k: dim // 2}"), "bad-syntax", "0.5", "not an extent"),
    Bad("offset on the left", spec("x[i + 1] = h[0,i]\nout[i] = x[i]"), "unknown-index", "i + 1", "name the axis alone"),
    Bad("offset of an axis", spec("out[i] = h[0,i] * sum[i + 1](h[1,i])"), "unknown-index", "i + 1", "name the axis alone"),
    Bad("offset and name", spec("out[k] = h[0,k] * v[k + dim]", "{k: dim, p: 2 * dim}", NORM.replace("k", "p")),
        "unused-name", "w", "parameter 'w'"),
    Bad("join without parts", spec("out[p] = concat[p](h[0,i], 1)", "{i: dim, p: dim + 1}"),
        "wrong-arguments", "concat[p](h[0,i], 1)", "concat[p: i, 1]"),
    Bad("join with a part too few", spec("out[p] = concat[p: i](h[0,i], 1)", "{i: dim, p: dim + 1}"),
        "wrong-arguments", "concat[p: i](h[0,i], 1)", "a part for each argument"),
    Bad("join of nothing", spec("out[p] = concat(h[0,i], 1)", "{i: dim, p: dim + 1}"), "wrong-arguments", "concat(h[0,i], 1)", ""),
    Bad("join that is too short", spec("out[p] = concat[p: i](h[0,i])", "{i: dim, p: dim + 1}"),
        "extent-mismatch", "p", "an axis of extent dim"),
    Bad("join with a number", spec("out[p] = concat[p: i, 2](h[0,i], 1)", "{i: dim, p: dim + 2}"), "unknown-index", "2", "name an axis"),
    Bad("join of a comparison", spec("out[p] = concat[p: i, 1](h[0,i] > 0, 1)", "{i: dim, p: dim + 1}"),
        "wrong-arguments", "h[0,i] > 0", "a comparison"),
    Bad("joined and kept", both("out[i,p] = concat[p: j, 1](h[0,j] * h[1,i], h[1,j])").replace("j: dim}", "j: dim, p: dim + 1}"),
        "repeated-index", "h[1,j]", "use another index"),
    Bad("joined into itself", spec("out[p] = concat[p: i, 1](h[0,i] * v[p], w[p])", "{i: dim, p: dim + 1}", NORM.replace("k", "p")),
        "repeated-index", "h[0,i] * v[p]", "use another index"),
    Bad("joined and unbound", both("out[p] = concat[p: j, 1](h[0,i], 1)").replace("j: dim}", "j: dim, p: dim + 1}"),
        "unbound-index", "i", "sum[i]"),
    Bad("sum of parts", both("out[i] = sum[i: j](h[0,j])"), "wrong-arguments", "j", "sum[i](…)"),
    Bad("misspelt join", spec("out[p] = concta[p: i, 1](h[0,i], 1)", "{i: dim, p: dim + 1}"), "unknown-operator", "", "'concat'?"),
    Bad("features without b", spec("out[i] = h[0,i]", extra=CUT.format("m,i")), "layout-mismatch", "h[m,i]", "(s i)"),
    Bad("features in another order", spec("out[i] = h[0,i]", extra=CUT.format("b,m,i")), "layout-mismatch", "h[b,m,i]", "(s i)"),
    Bad("features of another name", spec("out[i] = h[0,i]", extra=CUT.format("m,b,i").replace("h", "x")),
        "layout-mismatch", "x[m,b,i]", "(s i)"),
    Bad("features that are too many", spec("out[i] = h[0,0,i]", "{i: dim, s: 2}", CUT.format("m,b,(s i)")),
        "extent-mismatch", "s", "and the features have dim"),
    Bad("feature index", spec("out[i] = h[0,i]", "{i: dim // 2, s: 2}", CUT.format("m,b,(s i)")),
        "wrong-index-count", "h[0,i]", "takes 3 indices"),
)
NAMES = (
    Bad("unused parameter", both("out[i] = h[0,i]", LINEAR), "unused-name", "W", "parameter 'W'"),
    Bad("unused definition", spec(f"x[i] = exp(h[0,i])\nout[i] = {SUM}"), "unused-name", "x[i]", "'x' is not used"),
    Bad("constant output", spec("out[i] = v[i] + w[i]", extra=NORM.replace("k", "i")), "unused-name", "out", "features"),
    Bad("defined twice", spec(f"out[i] = {SUM}\nout[i] = {SUM}"), "reused-name", "out[i]", "first at line 7"),
    Bad("parameter's name", both("W[i] = h[0,i]\n" + USED, LINEAR), "reused-name", "W[i]", "choose another name"),
    Bad("features' name", spec("h[i] = h[0,i]"), "reused-name", "h[i]", "the features"),
    Bad("present", spec(f"present[i] = {SUM}\nout[i] = present[i]"), "reused-name", "present[i]", "which modalities a sample has"),
    Bad("axis m", spec(axes="{m: dim, i: dim}"), "reused-name", "m", "the modality axis"),
    Bad("axis b", spec(axes="{b: dim, i: dim}"), "reused-name", "b", "the batch axis"),
    Bad("hyper-parameter dim", spec(extra="hyperparameters: {dim: {default: 1}}\n"), "reused-name", "dim", "in every spec"),
    Bad("piece twice", spec("x[0,i] = h[0,i]\nx[0,i] = h[1,i]\nout[i] = x[0,i]"), "reused-name", "0", "piece 0"),
    Bad("hyper-parameter of a torch module", spec(extra="hyperparameters: {training: {default: 1}}\n"),
        "reused-name", "training", "in every spec"),
    Bad("hyper-parameter called to", spec(extra="hyperparameters: {to: {default: 1}}\n"), "reused-name", "to", "a member of every torch module"),
    Bad("hyper-parameter called backend", spec(extra="hyperparameters: {backend: {default: 1}}\n"),
        "reused-name", "backend", "an argument or attribute of every layer"),
    Bad("hyper-parameter that a constructor calls", spec(extra="hyperparameters: {torch: {default: 1}}\n"),
        "reused-name", "torch", "in every spec"),
    Bad("path that is an argument", linear("W[i,j]").replace("f:", "rank:").replace(
        "params:", "hyperparameters: {rank: {default: 1}}\nparams:"), "reused-name", "rank", "an argument"),
    Bad("cycle", spec("x[i] = y[i]\ny[i] = out[i]\nout[i] = x[i]"), "cyclic-reference", "x[i]", "x → y → out → x"),
    Bad("itself", spec("out[i] = out[i] + h[0,i]"), "cyclic-reference", "out[i]", "out → out"),
    Bad("piece of another", spec("x[0,i] = h[0,i]\nx[1,i] = 1 - x[0,i]\nout[i] = x[1,i]"), "cyclic-reference", "x[0,i]", "a name and a line"),
    Bad("unknown name", spec("gates[i] = h[0,i]\nout[i] = gate[i]"), "unknown-name", "gate[i]", "did you mean 'gates'?"),
    Bad("unknown extent", spec(axes="{i: dims}"), "unknown-name", "dims", "did you mean 'dim'?"),
    Bad("unknown output", layout("g[b,i]"), "unknown-name", "g", "'g' is not defined"),
    Bad("hidden in properties", spec(f"x[i] = {SUM}\nout[i] = exp(x[i])", extra="properties: ['x[i] >= 0']\n"),
        "unknown-name", "x[i]", "not visible"),
    Bad("gap in pieces", spec("x[0,i] = h[0,i]\nx[2,i] = h[1,i]\nout[i] = x[0,i]"), "incomplete-pieces", "x[0,i]", "piece 1"),
    Bad("pieces differ", both("x[0,i] = h[0,i]\nx[1,j] = h[1,j]\nout[i] = x[0,i]"), "incomplete-pieces", "x[1,j]", "differ"),
    Bad("layout lacks an axis", both("out[i,j] = h[0,i] * h[1,j]", "out: 'out[b,i]'\n"),
        "layout-mismatch", "out[b,i]", "j missing"),
    Bad("layout of features", layout("h[b,m]"), "layout-mismatch", "h[b,m]", "dim missing"),
    Bad("layout without b", spec(extra="out: out[i]\n"), "layout-mismatch", "out[i]", "write 'b'"),
    Bad("layout of three", layout("h[b,m,i]"), "layout-mismatch", "h[b,m,i]", "the batch first"),
    Bad("layout's stray axis", both(USED, LINEAR + "out: 'out[b,j]'\n"), "layout-mismatch", "j", "has no axis 'j'"),
    Bad("layout syntax", layout("h[b,(m i]"), "bad-syntax", "]", "W[(p a k), j]"),
)
F = "f(x): x + 1"
G = "f[i](x[i]): sum[i](x[i])"
FUNCTIONS = (
    Bad("function that is not called", calling("h[0,i]", F), "unused-name", "f(x)", "'f' is not called"),
    Bad("function in a list", calling("h[0,i]", "- f(x)"), "not-a-mapping", "-", "found a list"),
    Bad("function twice", calling("f(h[0,i])", F, "f(y): y"), "reused-name", "f(y)", "already defined in bad.yaml:7:3"),
    Bad("function of an operator's name", calling("h[0,i]", "relu(x): x"), "reused-name", "relu(x)", "in every spec"),
    Bad("function of a quantity's name", calling("f(h[0,i])", F, more="f[i] = h[0,i]"), "reused-name", "f[i]", "line 7"),
    Bad("function called size", calling("h[0,i]", "size(x): x"), "reused-name", "size(x)", "in every spec"),
    Bad("no parentheses", calling("f(h[0,i])", "f: 1"), "bad-syntax", "f", "'name[i](x)'"),
    Bad("signature of a number", calling("f(h[0,i])", "f(1): 1"), "bad-syntax", "1", "a parameter is a name"),
    Bad("signature cut short", calling("f(h[0,i])", "f(x: x"), "bad-syntax", "(", "never closed"),
    Bad("parameter twice", calling("f(h[0,i])", "f(x, x): x"), "reused-name", "x", "in this signature"),
    Bad("parameter and axis", calling("f[i](h[0,i])", "f[x](x): x"), "reused-name", "x", "in this signature"),
    Bad("parameter called h", calling("f(h[0,i])", "f(h): h"), "reused-name", "h", "in every spec: it is the features"),
    Bad("parameter called b", calling("f(h[0,i], h[0,i])", "f(a, b): a * b"), "reused-name", "b", "it is the batch axis"),
    Bad("parameter given twice", calling("f(h[0,i], h[0,i])", "f(a, a): a"), "reused-name", "a", "in this signature"),
    Bad("no value", calling("f(h[0,i])", "f(x): y = x"), "bad-syntax", "y = x", "ends with its value"),
    Bad("empty function", calling("f(h[0,i])", "f(x): ''"), "bad-syntax", "", "ends with its value"),
    Bad("unknown name inside", calling("f(h[0,i])", "f(x): x + y"), "unknown-name", "y", "its parameters"),
    Bad("features inside", calling("f(h[0,i])", "f(x): x + h[0,i]"), "unknown-index", "i", "not an axis of function 'f'"),
    Bad("own name before it is defined", calling("f(h[0,i])", 'f(x): "z = y\\ny = x\\nz + y"'), "unknown-name", "", "'y'"),
    Bad("gradient of the features", spec(f"h_bar[i] = {SUM}\nout[i] = h_bar[i] * 2"), "reused-name", "h_bar[i]", "the gradient of 'h'"),
    Bad("gradient of a tensor", tensor("out_bar[i]", "init: ones").replace("v[i]", "out_bar[i]"), "reused-name", "out_bar", "gradient"),
    Bad("gradient of a piece", spec(f"x[i] = {SUM}\nx_bar_0[i] = x[i] * 2\nout[i] = x_bar_0[i]"), "reused-name", "x_bar_0[i]", "of 'x'"),
    Bad("eps of a module alone", normed("eps: 1e-3").replace("out[i] =", "out[i] = layernorm[i](h[0,i]) +"), "bad-value", "1e-3", "LayerNorm has eps = 0.001, and layernorm in the math has 1e-05"),
    Bad("eps of the math alone", normed("").replace("out[i] =", "out[i] = layernorm[i](h[0,i], eps=1e-6) +"), "bad-value", "LayerNorm", "'arguments: {eps: 1e-06}'"),
    *(Bad(f"eps of {value}", normed(f"eps: {value}"), "bad-value", value.strip("\"'"), "a number, as 1e-5") for value in NO_NUMBERS),
    Bad("flag that is a number", attended("batch_first: 1"), "bad-value", "1", "true or false"),
    Bad("own name of a parameter", calling("f(h[0,i])", "f(x): |\n    x = 1\n    x"), "reused-name", "x", "already has a meaning"),
    Bad("own name of an extent", calling("f(h[0,i])", "f(x): |\n    dim = 1\n    x + dim"), "reused-name", "dim", "a meaning"),
    Bad("unused parameter", calling("f(h[0,i], 1)", "f(x, y): x"), "unused-name", "y", "by function 'f'"),
    Bad("unused own name", calling("f(h[0,i])", "f(x): |\n    y = x\n    x"), "unused-name", "y", "by function 'f'"),
    Bad("unused function axis", calling("f[i](h[0,i])", "f[i](x): x"), "unused-index", "f[i](x)", "axis 'i'"),
    Bad("unknown axis inside", calling("f[i](h[0,i])", "f[i](x[i]): sum[j](x[i])"), "unknown-index", "j", "in the signature's"),
    Bad("unknown axis of a parameter", calling("f[i](h[0,i])", "f[i](x[j]): sum[i](x[j])"), "unknown-index", "x[j]", "'j'"),
    Bad("indices of a parameter", calling("f[i](h[0,i])", "f[i](x[i]): sum[i](x)"), "wrong-index-count", "x", "as in the signature"),
    Bad("unknown operator inside", calling("f(h[0,i])", "f(x): reul(x)"), "unknown-operator", "reul(x)", "did you mean 'relu'?"),
    Bad("recursion", calling("f(h[0,i])", "f(x): f(x) + 1"), "cyclic-reference", "f(x)", "f → f"),
    Bad("recursion through another", calling("f(h[0,i])", "f(x): g(x)", "g(x): 1 + f(x)"), "cyclic-reference", "f(x)", "f → g → f"),
    Bad("unknown function", calling("g(h[0,i])", F), "unknown-operator", "g(h[0,i])", "the functions are f"),
    Bad("too few arguments", calling("f()", F), "wrong-arguments", "f()", "write f(x)"),
    Bad("too many arguments", calling("f(h[0,i], 1)", F), "wrong-arguments", "f(h[0,i], 1)", "takes 1 arguments, found 2"),
    Bad("axes of a function without", calling("f[i](h[0,i])", F), "wrong-arguments", "f[i](h[0,i])", "takes 0 axes"),
    Bad("no axes of a function", calling("f(h[0,i])", G), "wrong-arguments", "f(h[0,i])", "write f[i](x[i])"),
    Bad("number for an axis", calling("f[0](h[0,i])", G), "unknown-index", "0", "name an axis"),
    Bad("unknown axis of a call", calling("f[j](h[0,i])", G), "unknown-index", "j", "declare it"),
    Bad("axis twice in a call", calling("f[i,i](h[0,i])", "f[i,j](x[i]): sum[i](x[i] * x[j])"), "repeated-index", "i", "once"),
    Bad("argument without the axis", calling("f[m](h[0,i]) * h[0,i]", G), "unused-index", "h[0,i]", "reads 'x' at 'm'"),
    Bad("argument with an axis of the function", calling("f[m,i](h[m,i])", "f[a,c](x[a]): sum[a,c](x[a] * x[c])"),
        "repeated-index", "h[m,i]", "'i' stands for 'c'"),
    Bad("own name with another axis", calling("f[i](h[0,i])", "f[i](x[i]): |\n    y = x[i]\n    sum[i](x[i]) + y"),
        "unbound-index", "f[i](h[0,i])", "has the axis 'i'"),
    Bad("comparison for a number", calling("f(h[0,i] > 0)", F), "wrong-arguments", "h[0,i] > 0", "where a number"),
    Bad("function that is a comparison", calling("f(h[0,i])", "f(x): x > 0"), "wrong-arguments", "f(h[0,i])", "where a number"),
    Bad("unknown option", calling("f(h[0,i], eps=1)", F), "wrong-arguments", "f(h[0,i], eps=1)", "has none"),
    Bad("option given twice", calling("f(h[0,i], by=1, by=2)", "f(x, by=1): x + by"), "", "", "by"),
    Bad("default that is no number", calling("f(h[0,i])", "f(x, by=dim): x + by"), "bad-syntax", "dim", "takes a number"),
    Bad("unbound after a call", calling("f(h[0,i] * h[1,j])", F, axes="{i: dim, j: dim}"), "unbound-index", "j", "sum[j](…)"),
)
DIAGNOSTICS = (
    Bad("diagnostic called weights", results("weights: 'out[b,i]'"), "reused-name", "weights", "as 'weights'"),
    Bad("diagnostic called type", results("type: 'out[b,i]'"), "reused-name", "type", "the mode's name"),
    Bad("diagnostic that is no name", results("a-b: 'out[b,i]'"), "bad-value", "a-b", "a diagnostic"),
    Bad("diagnostics in a list", results("").replace("{}", "['out[b,i]']"), "not-a-mapping", "['out[b,i]']", "found a list"),
    Bad("diagnostic twice", results("a: 'out[b,i]', a: 'out[i,b]'"), "duplicate-key", "a", "twice in diagnostics"),
    Bad("diagnostic of nothing", results("a: 's[b]'"), "unknown-name", "s", "name another quantity as 'a'"),
    Bad("diagnostic of a parameter", both(USED, LINEAR + "diagnostics: {a: 'W[b,i,j]'}\n"), "unknown-name", "W", "not defined"),
    Bad("diagnostic without b", results("a: 'out[i]'"), "layout-mismatch", "out[i]", "write 'b'"),
    Bad("diagnostic lacks an axis", results("a: 'out[b]'"), "layout-mismatch", "out[b]", "i missing"),
    Bad("diagnostic composed with b", results("a: 'out[(b i)]'"), "layout-mismatch", "out[(b i)]", "keep 'b' apart"),
)
TENSORS = (
    Bad("no initialisation", tensor("v[i]", ""), "missing-key", "f", "'init: zeros'"),
    Bad("unknown initialisation", tensor("v[i]", "init: one"), "bad-value", "one", "did you mean 'ones'?"),
    Bad("no deviation", tensor("v[i]", "init: normal"), "missing-key", "normal", "'std: 0.02'"),
    Bad("deviation of zeros", tensor("v[i]", "init: zeros, std: 1"), "unknown-key", "std", "takes no 'std'"),
    Bad("value of a normal", tensor("v[i]", "init: normal, std: 1, value: 1"), "unknown-key", "value", "takes no 'value'"),
    Bad("negative deviation", tensor("v[i]", "init: normal, std: -1"), "bad-value", "-1", "above 0"),
    Bad("constant of features", tensor("v[i]", 'init: constant, value: "h[0,0]"'), "unknown-name", "h[0,0]", "'h'"),
    Bad("constant of a comparison", tensor("v[i]", "init: constant, value: dim > 2"), "wrong-arguments", "dim > 2", "a number"),
    Bad("constant cut short", tensor("v[i]", "init: constant, value: 1 +"), "bad-syntax", "", "not an expression"),
    Bad("no fan", tensor("v[i]", "init: kaiming_uniform"), "missing-key", "kaiming_uniform", "add 'fan: {in: …}'"),
    Bad("half a fan", tensor("v[i]", "init: xavier_uniform, fan: {in: i}"), "missing-key", "xavier_uniform", "the fan 'out'"),
    Bad("fan of zeros", tensor("v[i]", "init: zeros, fan: {in: i}"), "unknown-key", "in", "it takes none"),
    Bad("fan that is not needed", tensor("v[i]", "init: kaiming_uniform, fan: {in: i, out: 1}"), "unknown-key", "out", "takes 'in'"),
    Bad("fan of another tensor", tensor("v[i]", "init: kaiming_uniform, fan: {in: m}"), "unknown-index", "m", "not an index of v[i]"),
    Bad("fan of parentheses", tensor("v[i]", 'init: xavier_uniform, fan: {in: "((i", out: 1}'), "bad-syntax", "(", "unexpected"),
    Bad("fan that is closed twice", tensor("v[i]", 'init: kaiming_uniform, fan: {in: "i)("}'), "bad-syntax", ")", "unexpected"),
    Bad("fan of nothing", tensor("v[i]", 'init: kaiming_uniform, fan: {in: ""}'), "bad-syntax", "", "unexpected end"),
    Bad("fan with an index twice", tensor("v[i]", 'init: kaiming_uniform, fan: {in: (i i)}'), "repeated-index", "i", "once"),
    Bad("fans that share", tensor("v[i]", "init: xavier_uniform, fan: {in: i, out: i}"), "repeated-index", "i", "once"),
    Bad("layout of a tensor", tensor("v[", "init: zeros"), "bad-syntax", "", "W[(p a k), j]"),
    Bad("unknown key of a tensor", tensor("v[i]", "init: zeros, weight: 1"), "unknown-key", "weight", "the keys are tensor"),
    Bad("tensor per, no index", tensor("v[i]", "init: zeros, per: m"), "layout-mismatch", "v[i]", "one tensor per m"),
    Bad("tensor over the batch", tensor("v[b,i]", "init: zeros"), "layout-mismatch", "b", "leave 'b' out"),
    Bad("tensor's name", tensor("h[i]", "init: zeros"), "reused-name", "h", "the features"),
    Bad("unused tensor", tensor("q[i]", "init: zeros").replace("* v[i]", ""), "unused-name", "q", "parameter 'q'"),
    Bad("tensor in a sequence", paths("f.0: {tensor: v, init: ones}"), "bad-value", "f.0", "hold a module"),
    Bad("name beside a position", paths(f"f.0: {NORMED}", "f.g: {tensor: q, init: ones}"), "bad-value", "f.g", "not both"),
    Bad("position inside", paths("f.0.g: {tensor: v, init: ones}"), "bad-value", "f.0.g", "'head.query'"),
    Bad("container that is a tensor", paths("f: {tensor: v, init: ones}", "f.g: {tensor: q, init: ones}"),
        "reused-name", "f.g", "'f' is both"),
    Bad("tensor that is a container", paths("f.g: {tensor: v, init: ones}", "f: {tensor: q, init: ones}"),
        "reused-name", "f", "'f' is both"),
    Bad("container in two places",
        paths("f.g: {tensor: v, init: ones}", "g: {tensor: q, init: ones}", "f.h: {tensor: r, init: ones}"),
        "bad-value", "f.h", "together"),
)
OPERATORS = (
    Bad("unknown operator", spec("out[i] = sun[m](h[m,i])"), "unknown-operator", "sun[m](h[m,i])", "did you mean 'sum'?"),
    Bad("internal operator", spec("out[i] = clamp_min(h[0,i], 0)"), "unknown-operator", "clamp_min(h[0,i], 0)", "'min'"),
    Bad("python function", spec("out[i] = eval(h[0,i])"), "unknown-operator", "eval(h[0,i])", "the operators are"),
    Bad("no axes", spec("out[i] = softmax(h[0,i])"), "wrong-arguments", "softmax(h[0,i])", "write softmax[i](…)"),
    Bad("no axes, and an option of torch", spec("out[i] = softmax(h[0,i], dim=0)"), "wrong-arguments", "softmax(h[0,i], dim=0)", "write softmax[i](…)"),
    Bad("largest of three", spec("out[i] = max(h[0,i], h[1,i], 0)"), "wrong-arguments", "max(h[0,i], h[1,i], 0)", "nest them, as in max(x, max(y, z))"),
    Bad("largest of one", spec("out[i] = max(h[0,i])"), "wrong-arguments", "max(h[0,i])", "write max[m](…)"),
    Bad("name of three", spec("out[i] = max(h[0,i], h[1,i], 0)"), "wrong-arguments", "", "max takes 2 arguments, found 3"),
    Bad("shared function that is not there", spec("out[i] = sum[m](l2norm[i](h[m,i]))"), "unknown-operator", "l2norm[i](h[m,i])", "no functions are under 'functions' in this spec or in lib/ beside it"),
    Bad("axes", spec("out[i] = exp[i](h[0,i])"), "wrong-arguments", "i", "write exp(…)"),
    Bad("arity", spec("out[i] = exp(h[0,i], 2)"), "wrong-arguments", "exp(h[0,i], 2)", "takes 1 argument, found 2"),
    Bad("printed product", spec(f"out[i] = {SUM} × 2"), "bad-syntax", "×", "write '*'"),
    Bad("product of nothing between", spec("out[i] = sum[m,j](W[i,j] h[m,j])"), "bad-syntax", "W", "'x * y' for a product"),
    Bad("formula in LaTeX", spec(f"out[i] = {SUM} \\cdot 2"), "bad-syntax", "\\", "plain text here"),
    Bad("number with an index", spec(f"out[i] = {SUM} / dim[m]"), "wrong-index-count", "dim[m]", "write 'dim' alone"),
    Bad("size in parentheses", spec(f"out[i] = {SUM} * size(i)"), "unknown-operator", "size(i)", "write 'size[i]'"),
    Bad("power of e", spec(f"out[i] = e ** {SUM}"), "unknown-name", "e", "'exp(x)'"),
    Bad("module with other arguments", spec(USED, "{i: dim, j: dim}", "params:\n  f: {module: Dropout, p: 0.1}\n"), "unknown-module", "Dropout", "the modules are"),
    Bad("bias that is no layout", linear("W[i,j]", ", bias: false"), "bad-value", "false", "leave 'bias' out"),
    Bad("bias as an argument", linear("W[i,j]", ", arguments: {bias: false}"), "unknown-key", "bias", "leave 'bias' out"),
    Bad("size beside tensors", linear("W[i,j]", ", in_features: dim"), "unknown-key", "in_features", "found from the layouts"),
    Bad("module for each modality", linear("W[m,i,j]"), "layout-mismatch", "W[m,i,j]", "add 'per: m'"),
    Bad("option below zero", spec("out[i] = layernorm[i](h[0,i], esp=-1)"), "wrong-arguments", "layernorm[i](h[0,i], esp=-1)", "'eps'?"),
    Bad("square of a width", spec("out[k] = sum[m,i](h[m,0] * W[k,m,i])", "{i: 'dim[m] * dim[m]', k: 4}", "params:\n  f: {tensor: 'W[k,(m i)]', init: zeros}\n"), "extent-mismatch", "dim[m] * dim[m]", "no sum of widths counts it"),
    Bad("one over a width", spec("out[k] = sum[m,i](h[m,0] * W[k,m,i])", "{i: '8 // dim[m]', k: 4}", "params:\n  f: {tensor: 'W[k,(m i)]', init: zeros}\n"), "extent-mismatch", "8 // dim[m]", "'dim[m] // 2'"),
    Bad("option", spec("out[i] = layernorm[i](h[0,i], esp=1)"), "wrong-arguments", "layernorm[i](h[0,i], esp=1)", "'eps'?"),
    Bad("comparison as a number", spec("out[i] = (h[0,i] > 0) + 1"), "wrong-arguments", "h[0,i] > 0", "where(condition"),
    Bad("number as a condition", spec("out[i] = where(h[0,i], 1, 2)"), "wrong-arguments", "h[0,i]", "a comparison"),
    Bad("definition of a condition", spec("out[i] = h[0,i] > 0"), "wrong-arguments", "h[0,i] > 0", "where(condition"),
)
BAD_SYNTAX = {
    "caret power": ("h[0,i] ^ 2", "h[0,i] ^ 2", "write powers with '**'"),
    "attribute": ("h.T", "h.T", "'name(x)'"),
    "method": ("h[0,i].sum()", "h[0,i].sum", "not an operator"),
    "lambda": ("(lambda: 1)", "lambda: 1", "not part of the language"),
    "comprehension": ("[x for x in h]", "[x for x in h]", "not part of the language"),
    "generator": ("sum[m](x for x in h)", "(x for x in h)", "not part of the language"),
    "string": ("'text'", "'text'", "not part of the language"),
    "f-string": ("f'{h}'", "f'{h}'", "not part of the language"),
    "walrus": ("(y := 3)", "y := 3", "not part of the language"),
    "await": ("await h[0,i]", "await h[0,i]", "not part of the language"),
    "yield": ("(yield 3)", "yield 3", "not part of the language"),
    "conditional": ("1 if h else 2", "1 if h else 2", "'where(x > 0, a, b)'"),
    "boolean": ("True", "True", "not part of the language"),
    "complex": ("2j", "2j", "not part of the language"),
    "matrix product": ("h @ h", "h @ h", "sum[j](W[i,j] * x[j])"),
    "joined comparisons": ("h[0,i] > 0 and h[0,i] < 1", "h[0,i] > 0 and h[0,i] < 1", "the condition of a choice"),
    "negated comparison": ("not h[0,i] > 0", "not h[0,i] > 0", "the condition of a choice"),
    "whole division": ("h[0,i] // 2", "h[0,i] // 2", "write '/'"),
    "list": ("[h[0,i], 1]", "[h[0,i], 1]", "'concat'"),
    "chained comparison": ("0 < h[0,i] < 1", "0 < h[0,i] < 1", "the condition of a choice"),
    "slice": ("h[0:1,i]", "0:1", "a name or a whole number"),
    "negative position": ("h[-1,i]", "-1", "a name or a whole number"),
    "option that is no number": ("layernorm[i](h[0,i], eps=h)", "h", "takes a number"),
    "starred": ("exp(*h)", "*h", "not part of the language"),
    "cut short": ("h[0,i] +", "+", "not an expression"),
    "unbalanced": ("exp(h[0,i]", "(", "never closed"),
    "parentheses": ("(" * 10_000 + "h[0,i]" + ")" * 10_000, "(", "nested"),
    "signs": ("-" * 10_000 + "h[0,i]", None, "split it into statements"),
    "long sum": (" + ".join(["h[0,i]"] * 900), " + ".join(["h[0,i]"] * 699), "nested too deeply"),
}
# Python's parser gives up on it from 3.11 on; before, it is one more long sum.
GIVEN_UP = (None, "split it into statements") if sys.version_info >= (3, 11) else (" + ".join(["h[0,i]"] * 9_799), "nested too deeply")
BAD_SYNTAX["longer sum"] = (" + ".join(["h[0,i]"] * 10_000), *GIVEN_UP)
STATEMENTS = {
    "import": ("import os", "import os", "not a definition"),
    "bare call": ("print(1)", "print(1)", "not a definition"),
    "augmented": ("out[i] += 1", "out[i] += 1", "not a definition"),
    "chained": ("out[i] = x[i] = 1", "out[i] = x[i] = 1", "not a definition"),
    "number on the left": ("sum[i](x) = 1", "s", "not an expression"),
    "tuple on the left": ("(x, y) = 1", "(x, y)", "not part of the language"),
    "keyword on the left": (f"lambda[m,i] = h[m,i]\nout[i] = {SUM}", "lambda", "'lambda' is a keyword of Python"),
    "keyword without indices": (f"in = 2\nout[i] = {SUM}", "in", "'in' is a keyword of Python"),
    "keyword on the right": ("out[i] = sum[m](class[m] * h[m,i])", "class", "'class' is a keyword of Python"),
    "deletion": ("del out", "del out", "not a definition"),
}
SYNTAX = (
    *(Bad(name, spec(f"out[i] = {text}"), "bad-syntax", at or f"out[i] = {text}", said)
      for name, (text, at, said) in BAD_SYNTAX.items()),
    *(Bad(name, spec(text), "bad-syntax", at, said) for name, (text, at, said) in STATEMENTS.items()),
)
PLACES = (
    Bad("after letters of two bytes", spec("é[i] = h[0,i]\nout[i] = é[i] + ñandú[i]"), "unknown-name", "ñandú[i]", "ñandú"),
    Bad("after letters of four bytes", spec("𝐱 = 1\nout[i] = 𝐱𝐲 + exp[i](h[0,i])"), "unknown-name", "𝐱𝐲", "did you mean 'x'?"),
    Bad("syntax after unicode", spec("out[i] = é[i] + ñ[i] ? 3"), "bad-syntax", "?", "not an expression"),
    Bad("key after unicode", HEAD + 'axes: {"é": 1}\n', "bad-value", "é", "an index"),
    Bad("layout after unicode", spec("é[i] = h[0,i]", extra="out: é[b,ü]\n"), "unknown-index", "ü", "declare it"),
    Bad("plain math", HEAD + "axes: {i: dim}\nmath: out[i] = foo[i]\n", "unknown-name", "foo[i]", "'foo'"),
    Bad("quoted math", HEAD + 'axes: {i: dim}\nmath: "out[i] = foo[i]"\n', "unknown-name", "foo[i]", "'foo'"),
    Bad("second line of an expression", spec(f"out[i] = ({SUM}\n  + foo[i])"), "unknown-name", "foo[i]", "'foo'"),
    Bad("math without a bar", HEAD + "axes: {i: dim}\nmath:\n  x[i] = h[0,i]\n  out[i] = x[i]\n", "bad-syntax", "", "'math: |'"),
    Bad("quoted math on two lines", HEAD + "axes: {i: dim}\nmath: 'out[i] = h[0,i]\n\n  + foo[i]'\n", "bad-syntax", "+ foo[i]", "not a definition"),
    Bad("folded expression", HEAD + "axes: {i: dim}\nmath: out[i] =\n  h[0,i]\n  + foo[i]\n", "unknown-name", "foo[i]", "'foo'"),
    Bad("folded property", spec("out[i] = h[0,i]", extra="properties:\n  - out[i]\n    == foo[i]\n"), "unknown-name", "foo[i]", "'foo'"),
    Bad("folded layout", spec("out[i] = h[0,i]", extra="out: \"out[b,\n  q]\"\n"), "unknown-index", "q", "declare it"),
    Bad("crlf", spec("x[i] = h[0,i]\nout[i] = foo[i]").replace("\n", "\r\n"), "unknown-name", "foo[i]", "'foo'"),
)
HYPER_EXTENT = "hyperparameters: {heads: {default: 2, minimum: 2}}\n" + NORM
CHAIN = "\n".join(f"x{k}[i] = exp(x{k - 1}[i])" for k in range(1, 400))
DEEP = "exp(" * 180 + "{}" + ")" * 180
CORNERS = (
    Bad("whole number too large for a float", spec(f"out[i] = {SUM} * 1{'0' * 400}"), "", "1" + "0" * 400, ""),
    Bad("infinite number", spec(f"out[i] = {SUM} * 1e999"), "", "1e999", ""),
    Bad("huge count", HEAD.replace(">=2", ">=" + "9" * 5000), "", ">=" + "9" * 5000, ""),
    Bad("infinite minimum", hyper("{type: float, default: inf, minimum: inf}"), "", "inf", ""),
    Bad("default that is no number", hyper("{type: float, default: nan}"), "", "nan", ""),
    Bad("position on a quotient", spec(f"out[i] = {SUM} * v[1] + w[1]", "{i: dim, k: dim // heads}", HYPER_EXTENT),
        "index-out-of-range", "1", "count from 0"),
    Bad("position on an extent that falls", spec(f"out[i] = {SUM} * v[8] + w[1]", "{i: dim, k: 10 - heads}", HYPER_EXTENT),
        "index-out-of-range", "8", "for which the spec allows 1"),
    Bad("offset that may be negative", spec("out[i] = h[0,i] * sum[k](h[1,k + r - 2])", "{i: dim, k: dim - 1}",
        "hyperparameters: {r: {default: 2, maximum: 3}}\n"), "index-out-of-range", "k + r - 2", "0 at least"),
    Bad("deep YAML", "[" * 10_000, "", "", ""),
    Bad("deep YAML mapping", HEAD + "axes: " + "{a: " * 3000 + "}" * 3000 + "\n", "", "", ""),
    Bad("carriage return", HEAD + 'axes: {i: dim}\nmath: "x[i] = h[0,i]\\rout[i] = x[i] + q"\n', "unknown-name", "", "'q'"),
    Bad("deep attribute", spec("out[i] = h" + ".a" * 900), "bad-syntax", "h" + ".a" * 900, "attributes"),
    Bad("long sum in a list", spec(f"out[i] = [{' + '.join(['h'] * 900)}]"), "bad-syntax",
        f"[{' + '.join(['h'] * 900)}]", "no lists"),
    Bad("extent that is a fraction", spec(f"out[i] = {SUM} + sum[k](v[k] + w[k])", "{i: dim, k: 3 // 2}", NORM),
        "", "3 // 2", ""),
    Bad("option of a pointwise operator", spec(f"out[i] = exp({SUM}, eps=3)"), "wrong-arguments", f"exp({SUM}, eps=3)", "eps"),
    Bad("option twice", spec("out[i] = layernorm[i](h[0,i], eps=1, eps=2)"), "", "", "eps"),
    Bad("unknown argument", linear("W[i,j]", ", arguments: {baz: 1}"), "", "baz", ""),
    Bad("keyword as a path", linear("W[i,j]").replace("f:", "class:"), "", "class", ""),
    Bad("attribute of the layer as a path", linear("W[i,j]").replace("f:", "dim:"), "", "dim", ""),
    Bad("gap in a container", linear("W[i,j]").replace("f:", "net.2:"), "", "net.2", ""),
    Bad("attribute of a torch module as a path", linear("W[i,j]").replace("f:", "f.forward:"), "bad-value", "f.forward", "'forward'"),
    Bad("unused hyper-parameter", hyper("{default: 1}"), "unused-name", "tau", ""),
    Bad("unused axis without math", layout("h[b,(m i)]", "{i: dim, z: 3}"), "unused-index", "z", ""),
    Bad("comparison inside a property", spec(extra="properties: ['(out[i] < 1) == 1']\n"), "", "out[i] < 1", ""),
    Bad("extent of a fraction", spec(f"out[i] = {SUM} + sum[k](v[k] + w[k])", "{i: dim, k: tau}",
        "hyperparameters: {tau: {default: 0.5}}\n" + NORM), "", "tau", ""),
    Bad("output with a batch index", spec("out[b,i] = h[0,i]"), "unknown-index", "b", "leave it out"),
    Bad("output with an index twice", spec("out[i,i] = h[0,i]"), "repeated-index", "i", "name each axis once"),
    Bad("output without indices", spec("out = h[0,0]", "{}"), "", "out", "two dimensions"),
    Bad("error behind an anchor", HEAD + "axes: {i: &d dimm, j: *d}\n", "unknown-name", "dimm", "did you mean 'dim'?"),
    Bad("folded math", HEAD + "axes: {i: dim}\nmath: >\n  out[i] = h[0,i] + foo\n", "unknown-name", "foo", "'foo'"),
)
CASES = (*YAML, *VALUES, *INDICES, *JOINS, *NAMES, *TENSORS, *DIAGNOSTICS, *FUNCTIONS, *OPERATORS, *SYNTAX, *PLACES, *CORNERS)
# Specs that are right, at the edge of what is allowed.
ACCEPTED = {
    "offset whose division must come out": spec("out[k] = h[0,k + dim // 2] * h[1,k + 0]", "{k: dim // 2}"),
    "offset that is proved by least values": spec("out[k] = h[0,k + r - 2] * h[1,k]", "{k: dim}",
        "hyperparameters: {r: {default: 2, minimum: 2}}\nfeatures: 'h[m,b,k]'\n").replace("h[0,k + r - 2]", "sum[p](v[p + r] + w[p])")
        .replace("{k: dim}", "{k: dim, p: r, q: 3 * r - 2}").replace("features: 'h[m,b,k]'\n", NORM.replace("[k]", "[q]"))
        .replace("w[p]", "w[p + 0]"),
    "whole axis from 0 on": spec("out[i] = h[0,i + 0] * h[1,i]"),
    "swapped indices and a window": both("x[i,j] = h[0,i] * h[1,j]\ny[k,j] = x[j,k + 0]\nout[i] = sum[k](y[k,i])").replace(
        "j: dim}", "j: dim, k: dim // 2}"),
    "names used in an offset alone": spec("out[k] = h[0,k] * sum[e](v[e + r - 1] + w[e + 0])", "{k: dim, e: 1, p: r}",
        "hyperparameters: {r: {default: 2}}\n" + NORM.replace("[k]", "[p]")),
    "output in pieces": spec("out[0] = h[0,0]\nout[1] = h[1,0]", "{p: 2}"),
    "long chain of definitions": spec(f"x0[i] = {SUM}\n{CHAIN}\nout[i] = x399[i]"),
    "deep expressions in two definitions": spec(f"x[i] = {SUM}\ny[i] = {DEEP.format('x[i]')}\nout[i] = {DEEP.format('y[i]')}"),
    "axis used in size alone": spec(f"out[i] = {SUM} / size[k]", "{i: dim, k: dim // 2}"),
    "axis used in the output's layout alone": spec(
        "w[m,j] = softmax[m](h[m,j])", "{i: dim, j: dim}", "out: 'h[b,(m i)]'\nweights: 'w[m,b,j]'\n"
    ),
    "position 0 on a quotient": spec(f"out[i] = {SUM} * v[0] + w[0]", "{i: dim, k: dim // heads}", HYPER_EXTENT),
    "name that Python normalises": spec(f"out[i] = µ[i] * {SUM} + c[i]",
        extra=NORM.replace("v[k]", "µ[i]").replace("w[k]", "c[i]")),
}


def problem(source: str) -> errors.SpecError:
    """The error of a bad spec."""
    with pytest.raises(errors.SpecError) as caught:
        check_spec(parse_spec(source, FILE))
    return caught.value


def text_at(error: errors.SpecError, source: str) -> str:
    """The text of the file that an error's span covers; the span must lie in the file."""
    lines, span = [*source.splitlines(), ""], error.span
    assert span.path == FILE and 1 <= span.line <= len(lines) and span.column >= 1 and span.length >= 1, span
    return lines[span.line - 1][span.column - 1 : span.column - 1 + span.length]


def verify(bad: Bad) -> None:
    """The spec fails with the code, the place and the words of the table."""
    error = problem(bad.source)
    assert bad.code in ("", error.code), str(error)[:2000]
    assert bad.at in ("", text_at(error, bad.source)), str(error)[:2000]
    assert bad.said in f"{error.message}\n{error.remedy}", str(error)[:2000]
    assert error.remedy


def by_name(bad: Bad) -> str:
    return bad.name


@pytest.mark.parametrize("bad", CASES, ids=by_name)
def test_bad_spec(bad: Bad) -> None:
    verify(bad)


@pytest.mark.parametrize("source", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_right_spec(source: str) -> None:
    assert check_spec(parse_spec(source, FILE)).name == "bad"


def test_every_error_class_has_a_bad_spec() -> None:
    """But for the one that takes two files and those that take numbers, with tests of their own; codes tell classes apart."""
    codes = [kind.code for kind in errors.SpecError.__subclasses__()]
    assert len(codes) == len(set(codes))
    assert {bad.code for bad in CASES if bad.code} | {"duplicate-mode", "not-finite", "false-property"} == set(codes)


def test_excerpt_and_caret() -> None:
    """The printed form: place, code, message, the line, a caret under the text, and help."""
    assert str(problem(spec("out[i] = sum[m](h[m,i] * gaet[m,i])"))).splitlines() == [
        "bad.yaml:7:28: error[unknown-name]: 'gaet' is not defined",
        "  7 |   out[i] = sum[m](h[m,i] * gaet[m,i])",
        "    |                            ^~~~~~~~~",
        "  help: define it, or bind a parameter to it",
    ]


def test_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.write_bytes(HEAD.encode() + b"description: caf\xe9\n")
    with pytest.raises(errors.NotYaml, match="not UTF-8") as caught:
        load_spec(path, FILE)
    assert str(caught.value.span) == f"{FILE}:1:1" and caught.value.remedy == "save it as UTF-8"


def test_two_files_of_one_mode(tmp_path: Path) -> None:
    for name in ("one.yaml", "two.yaml"):
        (tmp_path / name).write_text(SHIPPED["concat"], encoding="utf-8")
    with pytest.raises(SpecErrors) as caught:
        load_modes(Config(specs=tmp_path, output=tmp_path))
    (error,) = caught.value.found
    assert isinstance(error, errors.DuplicateMode) and error.span.path.endswith("two.yaml") and "one.yaml" in error.message


@pytest.mark.parametrize("first, second", [("default: 2", "default: 3"), ("default: 2", "default: 2.0"), ("default: 2", "type: float, default: 2")])
def test_two_modes_that_disagree_on_a_hyper_parameter(first: str, second: str, tmp_path: Path) -> None:
    for mode, entry in (("one", first), ("two", second)):
        source = spec(f"out[i] = {SUM} * tau", extra=f"hyperparameters:\n  tau: {{{entry}}}\n").replace("mode: bad", f"mode: {mode}")
        (tmp_path / f"{mode}.yaml").write_text(source, encoding="utf-8")
    with pytest.raises(SpecErrors) as caught:
        generate(Config(specs=tmp_path, output=tmp_path))
    (error,) = caught.value.found
    assert isinstance(error, errors.BadValue) and error.span.path.endswith("two.yaml") and "in mode 'one'" in error.message


@pytest.mark.parametrize("names", [("low_rank", "low__rank"), ("film", "FILM"), ("lowRank", "lowrank")])
def test_two_modes_of_one_class(names: tuple[str, str], tmp_path: Path) -> None:
    for position, name in enumerate(names):
        (tmp_path / f"{position}.yaml").write_text(spec().replace("mode: bad", f"mode: {name}"), encoding="utf-8")
    with pytest.raises(SpecErrors) as caught:
        load_modes(Config(specs=tmp_path, output=tmp_path))
    (error,) = caught.value.found
    assert isinstance(error, errors.ReusedName) and error.span.path.endswith("1.yaml") and names[0] in error.message


def test_every_attribute_of_a_layer_is_reserved() -> None:
    found = {name for mode in list_modes() for name in dir(mode_class(mode)(8, 1)) if not name.startswith("_")}
    options = {argument for mode in SHIPPED for argument in check_spec(parse_spec(SHIPPED[mode], FILE)).spec.hyperparameters}
    assert found - {option.name.value for option in options} <= ATTRIBUTES


def test_aliases_stand_for_what_they_name() -> None:
    source = HEAD + "axes: {i: &size dim, j: *size}\nmath: |\n  out[i] = sum[m,j](h[m,i] * h[m,j])\n"
    extents = check_spec(parse_spec(source, FILE)).program.extents
    assert extents["i"] == extents["j"]


EDIT = st.tuples(
    st.sampled_from(("delete", "double", "replace", "line out", "line twice", "lines swapped")),
    st.floats(0, 1, exclude_max=True),
    st.text(st.sampled_from("[](){}:,.|>=+-*/^#&!%@\\'\"\n\t éb0159mijhWgxout"), min_size=1, max_size=3),
)


def edited(source: str, edits: list[tuple[str, float, str]]) -> str:
    """``source`` after random edits of characters and lines."""
    for kind, where, text in edits:
        lines = source.split("\n")
        at, row = int(where * len(source)), int(where * len(lines))
        if kind == "delete":
            source = source[:at] + source[at + len(text) :]
        elif kind == "double":
            source = source[: at + len(text)] + source[at:]
        elif kind == "replace":
            source = source[:at] + text + source[at + 1 :]
        else:
            middle = {"line out": [], "line twice": [lines[row]] * 2, "lines swapped": lines[row : row + 2][::-1]}[kind]
            source = "\n".join([*lines[:row], *middle, *lines[row + (2 if kind == "lines swapped" else 1) :]])
    return source


@settings(max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(SHIPPED)), st.lists(EDIT, min_size=1, max_size=4))
def test_edited_specs_check_or_say_why(name: str, edits: list[tuple[str, float, str]]) -> None:
    source = edited(SHIPPED[name], edits)
    try:
        check_spec(parse_spec(source, FILE))
    except errors.SpecError as error:
        text_at(error, source)
        assert str(error).startswith(f"{error.span}: error[{error.code}]: ")


@pytest.mark.parametrize(
    ("axes", "at", "said"),
    [
        ("{i: dim - 500, j: dim}", "dim - 500", "the extent of 'i'"),
        ("{i: dim // 300, j: dim}", "dim // 300", "no width from 6 to 255"),
        ("{i: 1000000000000, j: dim}", "1000000000000", "6,000,000,000,000 numbers"),
        ("{i: dim // 150 + dim // 151, j: dim}", "dim // 150 + dim // 151", "the extent of 'i'"),
        ("{i: 3000000, j: dim}", "3000000", "at most 10,000,000"),
    ],
)
def test_sizes_that_no_generated_test_can_run_at(axes: str, at: str, said: str) -> None:
    source = linear("W[i,j]", axes=axes)
    with pytest.raises(errors.BadValue) as caught:
        require_sizes(check_spec(parse_spec(source, FILE)))
    assert text_at(caught.value, source) == at
    assert said in f"{caught.value.message}\n{caught.value.remedy}"


def test_extents_that_fit_no_width_together() -> None:
    source = linear("W[i,j]", axes="{i: dim // 150, j: dim, k: dim // 151}").replace(USED, f"{USED} + mean[k](k0[k])")
    source = source.replace("params:", 'params:\n  g: {tensor: "k0[k]", init: zeros}')
    with pytest.raises(errors.BadValue, match="no width from 6 to 255 fits the extents of all indices together"):
        require_sizes(check_spec(parse_spec(source, FILE)))
