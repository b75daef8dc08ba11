"""Well-typed random specs, as a hypothesis strategy: every one of them must compile and be right.

An expression is drawn for the set of axes that it must have. Values stay of moderate size, so that float64 results
can be compared closely; kinks and ties do occur, since both sides state the same rule for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import strategies as st

EXTENTS = {
    "t": "modalities",
    "u": "modalities",
    "p": "2",
    "i": "dim",
    "j": "dim",
    "k": "hidden",
    "r": "hidden",
    "e": "1",
    "q": "dim * hidden",
    "f": "dim + 1",
    "g": "modalities * dim",
    "n": "2 * hidden",
    "y": "dim // 2",
    "s": "2 * dim",
    "x": "modalities + 1",
    "z": "4",
}
SIZES = {"m": "modalities", **EXTENTS}
MODALITY = frozenset("mtu")
# What joined axes are made of, and the offsets from which an axis of one extent may read another.
JOINED = {"f": (("i", "1"), ("1", "j")), "s": (("i", "j"), ("j", "j")), "x": (("m", "1"), ("1", "t")), "z": (("p", "1", "1"), ("p", "p"))}
WINDOWS = {
    ("dim", "dim + 1"): ("0", "1"),
    ("dim", "2 * dim"): ("0", "dim"),
    ("dim + 1", "2 * dim"): ("0", "dim - 1"),
    ("dim", "dim * hidden"): ("0",),
    ("dim // 2", "dim"): ("0", "dim // 2"),
    ("modalities", "modalities + 1"): ("0", "1"),
    ("2", "modalities"): ("0",),
    ("2", "4"): ("0", "1", "2"),
    ("1", "2"): ("1",),
    ("1", "hidden"): ("hidden - 1",),
}
SMOOTH = ("tanh", "sigmoid", "relu", "gelu", "silu", "softplus", "erf", "sin", "cos", "abs")
GUARDED = ("exp(tanh({0}))", "log(abs({0}) + 0.5)", "sqrt({0} ** 2 + 0.1)", "rsqrt({0} ** 2 + 0.3)", "{0} ** 2", "1.5 ** tanh({0})", "-{0}")
PAIRS = (
    "{0} + {1}",
    "{0} - {1}",
    "{0} * {1}",
    "{0} / (abs({1}) + 1)",
    "max({0}, {1})",
    "min({0}, {1})",
    "lerp({0}, {1}, 0.3)",
    "(abs({0}) + 0.5) ** tanh({1})",
    "{0} * {0} * {1}",
    "{0} * -{1} * -{1}",
)
NUMBERS = ("0.5", "2", "1", "1.25", "size[i]", "(-0.75)")
CONDITIONS = ("{0} > {2}", "{0} > {2}", "{0} > {2} and {1} < 1.25", "not {0} > {2} or {1} > 0.5", "-0.75 < {0} <= {2}")


FUNCTIONS = {
    "shift": "shift(x, by=0.25): x + by",
    "unit": "unit[i](x[i], eps=0.5): |\n    square = sum[i](x[i] ** 2)\n    x[i] * rsqrt(square + eps)",
    "meet": "meet[m,u](x[m]): mean[u](tanh(x[m] * x[u]))",
}


@dataclass(frozen=True)
class Slot:
    """A quantity that expressions may read, and the extent of each of its indices."""

    name: str
    extents: tuple[str, ...]


@dataclass
class Draft:
    """A spec in the making."""

    draw: st.DrawFn
    exact: int | None
    numbered: bool
    features: tuple[str, ...] = ("dim",)
    joined: frozenset[str] = frozenset()
    slots: list[Slot] = field(default_factory=list)
    used: set[str] = field(default_factory=set)

    def choose(self, options):  # type: ignore[no-untyped-def]
        return self.draw(st.sampled_from(list(options)))

    def chance(self, percent: int) -> bool:
        return self.draw(st.integers(0, 99)) < percent

    def readings(self, axes: frozenset[str]) -> list[tuple[str, str]]:
        """Every way to read a known quantity with exactly these axes: the quantity, and the code."""
        found = []
        for slot in self.known():
            found.extend((slot.name, f"{slot.name}[{','.join(indices)}]" if indices else slot.name) for indices in fill(slot.extents, axes, self.numbered))
        return found

    def expression(self, axes: frozenset[str], depth: int) -> str:
        """An expression whose axes are exactly ``axes``."""
        readings = self.readings(axes)
        if readings and (depth <= 0 or self.chance(25)):
            name, code = self.choose(readings)
            self.used.add(name)
            return code
        if depth <= -3:
            return " * ".join(self.base(axis) for axis in sorted(axes)) if axes else self.all_features("m", "i")
        joins = ["join"] * 3 * bool(axes & set(JOINED))
        kinds = ["call", "smooth", "guarded", "pair", "pair", "pair", "number", "where", "normalise", *joins]
        kind = self.choose(kinds if len(axes) > 3 else [*kinds, "reduce", "contract", "contract"])
        if kind == "call":
            return self.called(axes, depth)
        if kind == "smooth":
            return f"{self.choose(SMOOTH)}({self.expression(axes, depth - 1)})"
        if kind == "guarded":
            return self.choose(GUARDED).format(f"({self.expression(axes, depth - 1)})")
        if kind == "number":
            text = self.choose(("{0} * {1}", "{1} + {0}", "max({0}, {1})", "min({0}, {1})", "{1} - {0}", "{0} / {1}"))
            return f"({text.format(self.expression(axes, depth - 1), self.choose(NUMBERS))})"
        if kind == "join":
            return self.join(axes, depth)
        if kind == "reduce":
            return self.reduced(axes, depth)
        if kind == "contract":
            return self.contracted(axes, depth)
        if kind == "normalise" and axes:
            over = sorted(self.draw(st.sets(st.sampled_from(sorted(axes)), min_size=1, max_size=2)))
            operator = self.choose(("softmax", "layernorm"))
            return f"{operator}[{','.join(over)}]({self.expression(axes, depth - 1)})"
        left, right = self.split(axes)
        a, b = self.expression(left, depth - 1), self.expression(right, depth - 1)
        if kind == "where":
            condition = self.choose(CONDITIONS).format(a, b, self.choose(NUMBERS))
            return f"where({condition}, {b}, {self.choose((a, '0.25', f'tanh({a})'))})"
        pair = self.choose(PAIRS)
        if a == b and pair == "{0} - {1}":
            # Of a difference that is zero, gradients cancel too, and however large they are, what is added to them is rounded.
            pair = "{0} + {1}"
        return f"({pair.format(f'({a})', f'({b})')})"

    def called(self, axes: frozenset[str], depth: int) -> str:
        """A call of a function, which keeps the axes of its argument."""
        given = self.expression(axes, depth - 1)
        fresh = sorted(MODALITY - axes)
        if axes & MODALITY and fresh and self.chance(40):
            return f"meet[{self.choose(sorted(axes & MODALITY))},{self.choose(fresh)}]({given})"
        if axes and self.chance(60):
            return f"unit[{self.choose(sorted(axes))}]({given})"
        return f"shift({given}{self.choose(('', ', by=0.5'))})"

    def base(self, axis: str) -> str:
        """A short expression whose only axis is ``axis``."""
        readings = (found for slot in self.known() if (found := project(slot, axis)) is not None)
        name, code, over = next(readings, ("", "", []))
        if not name:
            parts = JOINED[axis][0]
            return f"concat[{axis}: {', '.join(parts)}]({', '.join('0.5' if part == '1' else self.base(part) for part in parts)})"
        self.used.add(name)
        return f"tanh(sum[{','.join(over)}]({code}))" if over else f"tanh({code})"

    def known(self) -> list[Slot]:
        return [Slot("h", ("modalities", *self.features)), *self.slots]

    def all_features(self, modality: str, axis: str) -> str:
        """A number that depends on every feature."""
        indices = f"{modality},{axis}" if len(self.features) == 1 else f"{modality},p,y"
        return f"tanh(sum[{indices}](h[{indices}] * h[{indices}]))"

    def join(self, axes: frozenset[str], depth: int) -> str:
        """A concatenation along one of ``axes``; a piece may lack what it is broadcast along."""
        axis = self.choose(sorted(axes & set(JOINED)))
        options = [parts for parts in JOINED[axis] if not set(parts) & axes and all(p == "1" or p in self.axes() for p in parts)]
        if not options:
            return f"({self.expression(axes, depth - 1)})"
        parts, pieces = self.choose(options), list[str]()
        for part in parts:
            kept = frozenset(other for other in sorted(axes - {axis}) if not pieces or self.chance(60))
            own = frozenset() if part == "1" or self.chance(15) else frozenset(part)
            pieces.append(self.expression(kept | own, depth - 2) if pieces == [] or self.chance(80) else self.choose(NUMBERS[:4]))
        return f"concat[{axis}: {', '.join(parts)}]({', '.join(pieces)})"

    def axes(self) -> list[str]:
        """The axes that some quantity has."""
        return sorted(
            axis for axis in SIZES if axis in self.joined or any(SIZES[axis] in slot.extents for slot in self.known())
        )

    def split(self, axes: frozenset[str]) -> tuple[frozenset[str], frozenset[str]]:
        """Two sets of axes whose union is ``axes``."""
        ordered = sorted(axes)
        first = frozenset(axis for axis in ordered if self.chance(70))
        second = frozenset(axis for axis in ordered if axis not in first or self.chance(60))
        return first, second

    def fresh(self, axes: frozenset[str], most: int) -> frozenset[str]:
        """One or two axes that are not in ``axes``."""
        options = [axis for axis in self.axes() if axis not in axes]
        return frozenset(self.draw(st.lists(st.sampled_from(options), min_size=1, max_size=most)))

    def laid_out(self, axes: Sequence[str]) -> str:
        """The batch and ``axes`` in some order; neighbours may share a dimension."""
        groups: list[list[str]] = []
        for axis in self.draw(st.permutations(["b", *axes])):
            if groups and "b" not in (axis, *groups[-1]) and self.chance(40):
                groups[-1].append(axis)
            else:
                groups.append([axis])
        return ",".join(f"({' '.join(group)})" if len(group) > 1 else group[0] for group in groups)

    def diagnostics(self, statements: list[str], weights_axes: list[str]) -> list[str]:
        """Further results: a quantity of its own, features or none below it, and the weights once more."""
        entries = []
        if self.chance(40):
            axes = sorted(self.draw(st.sets(st.sampled_from(["m", "u", *(["i"] if "i" in self.axes() else [])]), max_size=2)))
            statements.append(f"{indexed('d', axes)} = {self.expression(frozenset(axes), 1)}")
            entries.append(f"spread: 'd[{','.join(self.draw(st.permutations(['b', *axes])))}]'")
        if self.chance(20):
            entries.append(f"again: 'w[b,({' '.join(weights_axes)})]'")
        return [f"diagnostics: {{{', '.join(entries)}}}"] if entries else []

    def reduced(self, axes: frozenset[str], depth: int) -> str:
        over = self.fresh(axes, 2)
        operator = self.choose(("sum", "mean", "max", "min", "prod", "logsumexp"))
        inner = self.expression(axes | over, depth - 1)
        return f"{operator}[{','.join(sorted(over))}](tanh({inner}))"

    def contracted(self, axes: frozenset[str], depth: int) -> str:
        """A sum of products: of two or three factors, or of a parameter and an expression."""
        over = self.fresh(axes, 2)
        left, right = self.split(axes)
        factors = [self.expression(left | over, depth - 2), self.expression(right | over, depth - 2)]
        if self.chance(15):
            factors.append(self.expression(frozenset(sorted(right)[:1]) | frozenset(sorted(over)[:1]), depth - 2))
        code = f"sum[{','.join(sorted(over))}]({' * '.join(f'({factor})' for factor in factors)})"
        bias = [(name, text) for name, text in self.readings(axes) if name.startswith("c")]
        if bias and self.chance(60):
            name, text = self.choose(bias)
            self.used.add(name)
            return f"({code} + {text})"
        return code


def fill(extents: tuple[str, ...], axes: frozenset[str], numbered: bool) -> list[list[str]]:
    """Indices for slots of these extents, using each of ``axes`` exactly once and whole numbers elsewhere.

    ``numbered`` says whether modalities may have them.
    """
    if not extents:
        return [] if axes else [[]]
    first, rest = extents[0], extents[1:]
    found = []
    for axis in sorted(axes):
        if SIZES[axis] == first:
            found.extend([axis, *others] for others in fill(rest, axes - {axis}, numbered))
        for offset in WINDOWS.get((SIZES[axis], first), ()) if numbered or first not in ("modalities", "modalities + 1") else ():
            found.extend([f"{axis} + {offset}", *others] for others in fill(rest, axes - {axis}, numbered))
    if len(axes) < len(extents) and first in ("2", "1", *(["modalities"] if numbered else [])):
        for position in range(1 if first == "1" else 2):
            found.extend([str(position), *others] for others in fill(rest, axes, numbered))
    return found[:12]


PARAMETERS = {
    "gates": ("{module: Linear, per: m, weight: 'Wa[m,i,j]', bias: 'ca[m,i]'}", {"Wa": "mij", "ca": "mi"}),
    "mix": ("{module: Linear, weight: 'Wb[k,(m j)]', bias: 'cb[k]'}", {"Wb": "kmj", "cb": "k"}),
    "both.0": ("{module: Linear, weight: 'Wc[(p i),j]', bias: 'cc[(p i)]'}", {"Wc": "pij", "cc": "pi"}),
    "up": ("{module: Linear, weight: 'Wd[(i k),j]'}", {"Wd": "ikj"}),
    "turned": ("{module: Linear, weight: 'We[j,k]'}", {"We": "jk"}),
    "pairs": ("{module: Bilinear, weight: 'Wf[k,i,j]', bias: 'cf[k]'}", {"Wf": "kij", "cf": "k"}),
    "norm": ("{module: LayerNorm, weight: 'cg[i]', bias: 'ch[i]'}", {"cg": "i", "ch": "i"}),
    "one": ("{module: Linear, weight: 'Wk[e,j]', bias: 'cn[e]'}", {"Wk": "ej", "cn": "e"}),
    "wide": ("{module: Linear, weight: 'Wl[q,j]'}", {"Wl": "qj"}),
    "plus": ("{module: Linear, weight: 'Wp[f,j]', bias: 'co[f]'}", {"Wp": "fj", "co": "f"}),
    "joint": ("{module: Linear, weight: 'Wq[g,j]'}", {"Wq": "gj"}),
    "twice": ("{tensor: 'Wr[n,k]', init: xavier_uniform, fan: {in: k, out: n}}", {"Wr": "nk"}),
    "alphas": ("{tensor: 'Wm[m]', init: ones}", {"Wm": "m"}),
    "stacked": ("{tensor: 'Wn[m,k,j]', init: xavier_uniform, fan: {in: j, out: k}}", {"Wn": "mkj"}),
    "listed": ("{tensor: 'Wo[m,j,k]', per: m, init: kaiming_uniform, fan: {in: k}}", {"Wo": "mjk"}),
    "head.query": ("{tensor: 'ck[k,i]', init: normal, std: 1 / sqrt(dim)}", {"ck": "ki"}),
    "head2.inner.scale": ("{tensor: cl, init: constant, value: 0.5}", {"cl": ""}),
    "longer": ("{module: Linear, weight: 'Ws[k,f]'}", {"Ws": "kf"}),
    "halves": ("{module: Linear, weight: 'Wt[s,j]', bias: 'ct[s]'}", {"Wt": "sj", "ct": "s"}),
    "each": ("{module: LayerNorm, per: m, weight: 'ci[m,k]', bias: 'cj[m,k]'}", {"ci": "mk", "cj": "mk"}),
}
OUTPUTS = ("i", "ji", "mi", "y", "my", "k", "ik", "f", "s", "ms")


@st.composite
def random_specs(draw: st.DrawFn, may_number: bool = True, counts: Sequence[int] = (2,)) -> str:
    """The text of a spec, of any number of modalities or of one of ``counts``; ``may_number`` says whether it may name modalities by
    number, or count them in other axes."""
    exact = draw(st.sampled_from(counts)) if draw(st.booleans()) else None
    numbered = may_number and draw(st.booleans())
    features = draw(st.sampled_from([("dim",), ("dim",), ("2", "dim // 2")]))
    joined = draw(st.sampled_from(["", "", "f", "s", "z", *(["x", "fx"] if numbered else [])]))
    draft = Draft(draw, exact, numbered, features)
    # A parameter whose size depends on how many modalities there are has no like among fewer of them.
    allowed = [name for name, (_, tensors) in PARAMETERS.items() if may_number or not any("g" in axes for axes in tensors.values())]
    modules = draw(st.lists(st.sampled_from(sorted(allowed)), min_size=1, max_size=3, unique=True))
    for module in modules:
        for name, axes in PARAMETERS[module][1].items():
            draft.slots.append(Slot(name, tuple(SIZES[axis] for axis in axes)))
    parts = {axis for each in joined for made in JOINED[each] for axis in made if axis != "1"}
    draft.joined = frozenset(joined) if parts <= set(draft.axes()) else frozenset()
    statements: list[str] = []
    for position in range(draw(st.integers(1, 4))):
        axes = frozenset(draw(st.sets(st.sampled_from(draft.axes()), max_size=3)))
        name, order = f"v{position}", draw(st.permutations(sorted(axes)))
        if exact and numbered and draft.chance(25) and "m" not in axes:
            pieces = [draft.expression(axes, 2) for _ in range(exact)]
            statements += [f"{name}[{','.join([str(k), *order])}] = {piece}" for k, piece in enumerate(pieces)]
            draft.slots.append(Slot(name, ("modalities", *(SIZES[axis] for axis in order))))
            continue
        statements.append(f"{indexed(name, order)} = {draft.expression(axes, 3)}")
        draft.slots.append(Slot(name, tuple(SIZES[axis] for axis in order)))
    out_axes = draw(st.sampled_from([axes for axes in OUTPUTS if set(axes) <= set(draft.axes())]))
    terms = [draft.expression(frozenset(out_axes), 2)]
    options = ["m", "t", *(["i"] if "i" in draft.axes() else []), *sorted(draft.joined)]
    weights_axes = sorted(draw(st.sets(st.sampled_from(options), min_size=1, max_size=4)))
    weights_term = draft.expression(frozenset(weights_axes), 2)
    terms += [reader(slot, frozenset(out_axes)) for slot in draft.slots if slot.name not in draft.used]
    terms.append(draft.all_features("m", "i") if out_axes != "i" else draft.all_features("m", "j"))
    statements.append(f"out[{','.join(out_axes)}] = {' + '.join(terms)}")
    statements.append(f"w[{','.join(weights_axes)}] = {weights_term} + {draft.all_features('u', 'j')}")
    group = out_axes if len(out_axes) == 1 else f"({' '.join(out_axes)})"
    layouts = [f"out: 'out[b,{group}]'", f"weights: 'w[{draft.laid_out(weights_axes)}]'", *draft.diagnostics(statements, weights_axes)]
    return spec_text(exact, features, modules, statements, layouts)


def indexed(name: str, axes: Sequence[str]) -> str:
    """A quantity with its indices; a bare name where it has none."""
    return f"{name}[{','.join(axes)}]" if axes else name


def project(slot: Slot, axis: str) -> tuple[str, str, list[str]] | None:
    """A quantity read so that one of its indices is ``axis``: its name, the code, and its other axes."""
    if SIZES[axis] not in slot.extents:
        return None
    indices: list[str] = []
    for extent in slot.extents:
        first = axis if extent == SIZES[axis] and axis not in indices else ""
        indices.append(first or next(a for a in SIZES if SIZES[a] == extent and a not in indices and a != axis))
    return slot.name, f"{slot.name}[{','.join(indices)}]", [index for index in indices if index != axis]


def reader(slot: Slot, keep: frozenset[str]) -> str:
    """A term that reads a quantity nothing else has read, reduced to the axes ``keep``."""
    indices: list[str] = []
    for extent in slot.extents:
        indices.append(next(axis for axis in (*sorted(keep), *SIZES) if SIZES[axis] == extent and axis not in indices))
    code = f"{slot.name}[{','.join(indices)}]" if indices else slot.name
    over = [axis for axis in indices if axis not in keep]
    return f"tanh(sum[{','.join(over)}]({code}))" if over else f"tanh({code})"


def spec_text(
    exact: int | None, features: tuple[str, ...], modules: list[str], statements: list[str], layouts: list[str]
) -> str:
    """A spec file; axes that nothing names are left out."""
    lines = ["version: 1", "mode: random", "summary: A random program.", f"modalities: '{exact or '>=2'}'"]
    text = "\n".join([*statements, *layouts, *(PARAMETERS[module][0] for module in modules)])
    words = set("".join(c if c.isalnum() else " " for c in text).split())
    axes = ", ".join(f"{axis}: {extent}" for axis, extent in EXTENTS.items() if axis in words)
    lines.append(f"axes: {{{axes}}}")
    lines += ["hyperparameters: {hidden: {default: 3}}"] if "hidden" in axes else []
    lines.append("params:")
    lines += [f"  {module}: {PARAMETERS[module][0]}" for module in modules]
    used = [code for name, code in FUNCTIONS.items() if any(f"{name}(" in s or f"{name}[" in s for s in statements)]
    lines += ["functions:", *(f"  {code}" for code in used)] if used else []
    lines += ["features: 'h[m,b,(p y)]'"] if len(features) > 1 else []
    lines += ["math: |", *(f"  {statement}" for statement in statements), *layouts]
    return "\n".join(lines) + "\n"
