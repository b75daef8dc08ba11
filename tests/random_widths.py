"""Well-typed random specs of modalities whose widths differ, as a hypothesis strategy.

Axes that depend on a modality axis stand beside it, and are reduced with it or before it; features and definitions are
read by number too, along axes of that modality's own width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from hypothesis import strategies as st

EXTENTS = {
    "t": "modalities",
    "i": "dim[m]",
    "j": "dim[m]",
    "p": "dim[m] + 1",
    "u": "dim[t]",
    "a": "dim[0]",
    "c": "dim[1]",
    "q": "dim[1] + 1",
    "k": "hidden",
    "s": "2",
}
OWNER = {"i": "m", "j": "m", "p": "m", "u": "t"}
# By what a quantity with these axes may be read elsewhere: its axes in order, and the indices.
READINGS = {
    "mi": ("mi", "mj", "tu", "0a", "1c"),
    "mp": ("mp", "1q", "mi + 1", "mj + 0"),
    "m": ("m", "t", "0", "1"),
}
JOINED = {"p": (("i", "1"), ("1", "j")), "q": (("c", "1"), ("1", "c"))}
SMOOTH = ("tanh", "sigmoid", "relu", "gelu", "abs", "softplus")
GUARDED = ("exp(tanh({0}))", "log(abs({0}) + 0.5)", "sqrt({0} ** 2 + 0.1)", "{0} ** 2", "-{0}")
PAIRS = ("{0} + {1}", "{0} - {1}", "{0} * {1}", "{0} / (abs({1}) + 1)", "max({0}, {1})", "where({0} > 0.1, {0}, {1})")
PARAMETERS = {
    "gates": ("{module: Linear, per: m, weight: 'Wa[m,k,i]', bias: 'ca[m,k]'}", {"Wa": "mki", "ca": "mk"}),
    "back": ("{module: Linear, per: m, weight: 'Wb[m,i,k]', bias: 'cb[m,i]'}", {"Wb": "mik", "cb": "mi"}),
    "mix": ("{module: Linear, weight: 'Wc[k,(m i)]', bias: 'cc[k]'}", {"Wc": "kmi", "cc": "k"}),
    "roles": ("{module: Linear, weight: 'Wd[(s a),c]', bias: 'cd[(s a)]'}", {"Wd": "sac", "cd": "sa"}),
    "pairs": ("{module: Bilinear, weight: 'We[k,a,q]', bias: 'ce[k]'}", {"We": "kaq", "ce": "k"}),
    "split": ("{module: Linear, weight: 'Wf[(m i),k]', bias: 'cf[(m i)]'}", {"Wf": "mik", "cf": "mi"}),
    "norm": ("{module: LayerNorm, per: m, weight: 'cg[m,i]', bias: 'ch[m,i]'}", {"cg": "mi", "ch": "mi"}),
    "longer": ("{tensor: 'Wg[m,p,k]', per: m, init: xavier_uniform, fan: {in: p, out: k}}", {"Wg": "mpk"}),
    "heads": ("{module: Linear, per: m, weight: 'Wh[m,k,(t u)]', bias: 'cj[m,k]'}", {"Wh": "mktu", "cj": "mk"}),
    "cube": ("{tensor: 'Wi[s,k,(m i)]', init: xavier_uniform, fan: {in: (m i), out: k}}", {"Wi": "skmi"}),
    "slab": ("{tensor: 'Wj[(m i),k,s]', init: xavier_uniform, fan: {in: (m i), out: k}}", {"Wj": "miks"}),
    "table": ("{tensor: 'ci[(m i)]', init: normal, std: 0.5}", {"ci": "mi"}),
}
OUTPUTS = {"k": "k", "a": "a", "mi": "(m i)", "mp": "(m p)", "kmi": "(k m i)", "mik": "(m i k)", "km": "(m k)", "ac": "(a c)", "kq": "(k q)"}


def with_owners(axes: frozenset[str]) -> frozenset[str]:
    """Axes and those that they depend on."""
    return axes | {OWNER[axis] for axis in axes if axis in OWNER}


def closed(axes: frozenset[str]) -> bool:
    """Whether axes that depend on another have it beside them, and on one at most."""
    owners = {OWNER[axis] for axis in axes if axis in OWNER}
    return owners <= axes and len(owners) <= 1


@dataclass
class Draft:
    """A spec in the making: what may be read, and how often each was."""

    draw: st.DrawFn
    numbered: bool
    known: list[tuple[str, str]] = field(default_factory=lambda: [("h", "mi")])
    used: set[str] = field(default_factory=set)

    def choose(self, options):  # type: ignore[no-untyped-def]
        return self.draw(st.sampled_from(list(options)))

    def chance(self, percent: int) -> bool:
        return self.draw(st.integers(0, 99)) < percent

    def readings(self, axes: frozenset[str]) -> list[tuple[str, str]]:
        """Every way to read a quantity with exactly these axes."""
        found = []
        for name, own in self.known:
            for indices, have in indices_of(own, self.numbered):
                if have == axes:
                    found.append((name, f"{name}[{','.join(indices)}]" if indices else name))
        return found

    def expression(self, axes: frozenset[str], depth: int) -> str:
        """An expression whose axes are exactly ``axes``."""
        assert closed(axes)
        readings = self.readings(axes)
        if readings and (depth <= 0 or self.chance(35)):
            name, code = self.choose(readings)
            self.used.add(name)
            return code
        if depth <= -2:
            return self.least(axes)
        kinds = ["smooth", "guarded", "pair", "pair", "number", "normalise", *["join"] * 2 * bool(axes & set(JOINED))]
        kind = self.choose(kinds if len(axes) > 3 else [*kinds, "reduce", "contract", "contract"])
        if kind == "smooth":
            return f"{self.choose(SMOOTH)}({self.expression(axes, depth - 1)})"
        if kind == "guarded":
            return self.choose(GUARDED).format(f"({self.expression(axes, depth - 1)})")
        if kind == "number":
            sizes = [f"size[{axis}]" for axis in sorted(axes - set("m"))] + (["size[m,i]"] if "m" not in axes else [])
            return f"({self.expression(axes, depth - 1)} * {self.choose(['0.5', '2', *[f'(1 / {s})' for s in sizes if s[5] not in OWNER or 'm' in axes]])})"
        if kind == "join":
            return self.joined(axes, depth)
        if kind in ("reduce", "contract"):
            return self.reduced(axes, depth, kind == "contract")
        if kind == "normalise" and axes:
            over = self.draw(st.sets(st.sampled_from(sorted(axes)), min_size=1, max_size=2))
            over |= {axis for axis in axes if OWNER.get(axis) in over}
            if len([axis for axis in over if OWNER.get(axis) in over]) > 1:
                return f"tanh({self.expression(axes, depth - 1)})"
            return f"{self.choose(('softmax', 'layernorm'))}[{','.join(sorted(over))}]({self.expression(axes, depth - 1)})"
        left, right = self.parted(axes), self.parted(axes)
        left = with_owners(left | axes - right)
        return f"({self.choose(PAIRS).format(*(f'({self.expression(part, depth - 1)})' for part in (left, right)))})"

    def parted(self, axes: frozenset[str]) -> frozenset[str]:
        """Some of ``axes``, with what they depend on."""
        return with_owners(frozenset(axis for axis in sorted(axes) if self.chance(65)))

    def reduced(self, axes: frozenset[str], depth: int, is_product: bool) -> str:
        """An operator over axes that are not in ``axes``: one, or a modality axis and what depends on it."""
        options = [over for over in ("k", "a", "c", "s", "m", "t", "i", "p", "q", "mi", "mp", "tu", "ij", "ki") if self.may_reduce(axes, over)]
        if not options:
            return f"tanh({self.expression(axes, depth - 1)})"
        over = frozenset(self.choose(options))
        if is_product:
            left, right = self.parted(axes) | self.parted(over), self.parted(axes) | over
            pair = (with_owners(part) for part in (left | axes - right, right))
            factors = " * ".join(f"({self.expression(part, depth - 2)})" for part in pair)
            return f"{self.choose(('sum', 'mean'))}[{','.join(sorted(over))}]({factors})"
        operator = self.choose(("sum", "mean", "max", "min", "prod", "logsumexp"))
        return f"{operator}[{','.join(sorted(over))}](tanh({self.expression(axes | over, depth - 1)}))"

    def may_reduce(self, axes: frozenset[str], over: str) -> bool:
        whole = axes | set(over)
        remains = not any(OWNER[axis] in over for axis in axes if axis in OWNER)
        return not axes & set(over) and closed(frozenset(whole)) and remains and (len(over) > 1 or over in "kacsmtq" or "m" in axes)

    def joined(self, axes: frozenset[str], depth: int) -> str:
        """A concatenation along one of ``axes``."""
        axis = self.choose(sorted(axes & set(JOINED)))
        options = [parts for parts in JOINED[axis] if not set(parts) & axes]
        if not options:
            return f"tanh({self.expression(axes, depth - 1)})"
        parts = self.choose(options)
        kept = axes - {axis}
        pieces = [self.expression(kept if part == "1" else kept | {part}, depth - 2) for part in parts]
        return f"concat[{axis}: {', '.join(parts)}]({', '.join(pieces)})"

    def least(self, axes: frozenset[str]) -> str:
        """A short expression with exactly these axes."""
        owners = {OWNER[axis] for axis in axes if axis in OWNER}
        codes = [self.base(axis) for axis in sorted(axes - owners)]
        return " * ".join(codes) if codes else "tanh(sum[m,i](h[m,i]))"

    def base(self, axis: str) -> str:
        """A short expression that has ``axis``, and what it depends on."""
        fixed = {
            "m": "tanh(sum[i](h[m,i]))",
            "t": "tanh(mean[u](h[t,u]))",
            "i": "tanh(h[m,i])",
            "j": "tanh(h[m,j])",
            "u": "tanh(h[t,u])",
            "a": "tanh(h[0,a])",
            "c": "tanh(h[1,c])",
            "p": "concat[p: 1, i](0.5, tanh(h[m,i]))",
            "q": "concat[q: c, 1](tanh(h[1,c]), 0.5)",
        }
        if axis in fixed and (self.numbered or axis not in "acq"):
            return fixed[axis]
        if axis == "q":
            return f"concat[q: c, 1]({self.base('c')}, 0.5)"
        reads = [(name, own) for name, own in self.known if axis in own and all(OWNER[a] in own for a in own if a in OWNER)]
        name, own = reads[0]
        self.used.add(name)
        over = [other for other in own if other != axis]
        code = f"{name}[{','.join(own)}]"
        return f"tanh(sum[{','.join(over)}]({code}))" if over else f"tanh({code})"


def indices_of(own: str, numbered: bool) -> Iterator[tuple[list[str], frozenset[str]]]:
    """The indices at which a quantity with axes ``own`` may be read, and the axes that this leaves."""
    yield list(own), frozenset(own)
    head = next((key for key in READINGS if own.startswith(key) or own == key), None)
    if head is None:
        return
    rest = list(own[len(head) :])
    for text in READINGS[head][1:]:
        indices = [text[0], *([text[1:]] if len(text) > 1 else [])]
        if text[0].isdecimal() and not numbered:
            continue
        have = {index[0] for index in (*indices, *rest) if not index.isdecimal()}
        if len(have) == len([index for index in (*indices, *rest) if not index.isdecimal()]) and closed(frozenset(have)):
            yield [*indices, *rest], frozenset(have)


@st.composite
def random_widths(draw: st.DrawFn, may_number: bool = True) -> str:
    """The text of a spec in which the widths of modalities differ; ``may_number`` says whether it may name them by number."""
    draft = Draft(draw, may_number)
    modules = draw(st.lists(st.sampled_from(sorted(PARAMETERS)), min_size=1, max_size=3, unique=True))
    if not any("k" in axes for module in modules for axes in PARAMETERS[module][1].values()):
        modules.append("mix")
    if "roles" not in modules:
        modules.append("roles")
    for module in modules:
        draft.known += list(PARAMETERS[module][1].items())
    statements: list[str] = []
    for name, own in draft.known[1:]:
        rest = [axis for axis in own if axis not in "mi"]
        if len(rest) == len(own) - 2 and rest and draft.chance(40):
            # Maps of all modalities side by side are rare among expressions of any kind.
            statements.append(f"y{name}[{','.join(rest)}] = sum[m,i]({name}[{','.join(own)}] * {draft.choose(('h[m,i]', 'tanh(h[m,i])'))})")
            draft.known.append((f"y{name}", "".join(rest)))
            draft.used.add(name)
    for position in range(draw(st.integers(1, 4))):
        axes = draw(st.sampled_from(["mi", "mi", "mp", "m", "k", "mk", "a", "c", "ak", "mik", "mij", "q", ""]))
        statements.append(f"{named(f'v{position}', axes)} = {draft.expression(frozenset(axes), 3)}")
        draft.known.append((f"v{position}", axes))
    out = draw(st.sampled_from(sorted(OUTPUTS)))
    weights = draw(st.sampled_from(["mk", "k", "mi", "mt"]))
    terms = [draft.expression(frozenset(out), 2), draft.least(frozenset(out))]
    last = f"{named('w', weights)} = {draft.expression(frozenset(weights), 2)} + tanh(sum[t,u](h[t,u])) + {draft.least(frozenset(weights))}"
    terms += [summed(name, own) for name, own in draft.known[1:] if name not in draft.used]
    terms.append("tanh(sum[t,u](h[t,u] ** 2))")
    statements += [f"{named('out', out)} = {' + '.join(terms)}", last]
    shown = draw(st.sampled_from(["b,(m i)", "(m i),b"])) if weights == "mi" else ",".join(draw(st.permutations(["b", *weights])))
    layouts = [f"out: 'out[b,{OUTPUTS[out] if len(out) > 1 else out}]'", f"weights: 'w[{shown}]'"]
    return spec_text(modules, statements, layouts)


def named(name: str, axes: Sequence[str]) -> str:
    return f"{name}[{','.join(axes)}]" if axes else name


def summed(name: str, own: str) -> str:
    """A number that reads the whole of a quantity; its modalities by another name, as results may have theirs."""
    if "m" not in own:
        return f"tanh(sum[{','.join(own)}]({name}[{','.join(own)}]))" if own else f"tanh({name})"
    return f"prod[m](tanh(sum[{','.join(a for a in own if a != 'm')}]({name}[{','.join(own)}])))" if len(own) > 1 else f"prod[m](tanh({name}[m]))"


def spec_text(modules: list[str], statements: list[str], layouts: list[str]) -> str:
    """A spec file; axes that nothing names are left out."""
    text = "\n".join([*statements, *layouts, *(PARAMETERS[module][0] for module in modules)])
    words = set("".join(c if c.isalnum() else " " for c in text).split())
    axes = ", ".join(f'{axis}: "{extent}"' for axis, extent in EXTENTS.items() if axis in words)
    lines = ["version: 1", "mode: random", "summary: A random program.", "modalities: '>=2'", f"axes: {{{axes}}}"]
    lines += ["hyperparameters: {hidden: {default: 3}}", "params:", *(f"  {module}: {PARAMETERS[module][0]}" for module in modules)]
    lines += ["math: |", *(f"  {statement}" for statement in statements), *layouts]
    return "\n".join(lines) + "\n"
