"""Reads the LaTeX of documentation pages as a reader does, strictly: what it means is computed from the text alone.

A big operator takes in all factors that follow it. An index means something where it is on the left of the equation or an
operator around it runs over it, and no operator runs over one that means something already.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

TOKEN = re.compile(
    r"\\left\\?.|\\right\\?.|\\begin\{cases\}|\\end\{cases\}|\\text\{otherwise\}|\\text\{if \}|\\mathrm\{(?:\\_|[^{}])+\}"
    r"|\\\\|\\,|\\[a-zA-Z]+|\d+(?:\.\d+)?|[a-zA-Z]'*|\S"
)
Where = dict[str, int]
Meaning = Callable[[Where], float]
Holds = Callable[[Where], bool]
Values = Mapping[str, tuple[tuple[str, ...], np.ndarray]]
FUNCTIONS: dict[str, Callable[..., float]] = {
    r"\exp": math.exp,
    r"\log": math.log,
    r"\tanh": math.tanh,
    r"\sin": math.sin,
    r"\cos": math.cos,
    r"\max": max,
    r"\min": min,
    r"\sigma": lambda x: 1 / (1 + math.exp(-x)),
    r"\mathrm{relu}": lambda x: max(x, 0.0),
    r"\mathrm{erf}": math.erf,
    r"\mathrm{gelu}": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    r"\mathrm{silu}": lambda x: x / (1 + math.exp(-x)),
    r"\mathrm{softplus}": lambda x: math.log1p(math.exp(x)),
    r"\mathrm{lerp}": lambda a, b, w: a + w * (b - a),
}
BIG: dict[str, Callable[[list[float]], float]] = {
    r"\sum": sum,
    r"\prod": math.prod,
    r"\max": max,
    r"\min": min,
    r"\mathrm{mean}": lambda numbers: sum(numbers) / len(numbers),
}
NORMALISED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    r"\mathrm{softmax}": lambda x: np.exp(x - x.max()) / np.exp(x - x.max()).sum(),
    r"\mathrm{layernorm}": lambda x: (x - x.mean()) / np.sqrt(x.var() + 1e-5),
}
RELATIONS: dict[str, Callable[[float, float], bool]] = {
    "<": lambda a, b: a < b and not is_close(a, b),
    ">": lambda a, b: a > b and not is_close(a, b),
    "=": lambda a, b: is_close(a, b),
    r"\le": lambda a, b: a < b or is_close(a, b),
    r"\ge": lambda a, b: a > b or is_close(a, b),
    r"\ne": lambda a, b: not is_close(a, b),
}


def is_close(a: float, b: float) -> bool:
    """Whether two numbers differ by no more than one function's rounding here and there."""
    return math.isclose(a, b, rel_tol=1e-12, abs_tol=1e-15)


@dataclass
class Reader:
    """Reads one expression.

    Attributes:
        tokens: what is left to read.
        values: each symbol's axes and numbers, the batch axis ``b`` among them.
        ranges: the size of each index, by its symbol.
        scope: the indices that mean something here.
    """

    tokens: list[str]
    values: Values
    ranges: Mapping[str, int]
    scope: frozenset[str]

    @property
    def next(self) -> str:
        return self.tokens[0] if self.tokens else ""

    def take(self, *expected: str) -> str:
        assert not expected or self.next in expected, f"{expected} expected before {' '.join(self.tokens[:20])}"
        return self.tokens.pop(0)

    def took(self, token: str) -> bool:
        return self.next == token and bool(self.tokens.pop(0))

    def sum(self) -> Meaning:
        sign = -1 if self.took("-") else 1
        first = self.product()
        terms = [(sign, first)]
        while self.next in ("+", "-"):
            sign = 1 if self.take() == "+" else -1
            terms.append((sign, self.product()))
        return lambda where: sum(sign * term(where) for sign, term in terms)

    def product(self) -> Meaning:
        assert self.next != "-", "a factor with a sign reads as a difference"
        factors = [(1, self.power())]
        while self.next in (r"\,", r"\cdot", "/"):
            sign = -1 if self.take() == "/" else 1
            factors.append((sign, self.power()))
        return lambda where: math.prod(factor(where) ** sign if sign < 0 else factor(where) for sign, factor in factors)

    def power(self) -> Meaning:
        base = self.factor()
        if not self.took("^"):
            return base
        exponent = self.braced()
        return lambda where: base(where) ** exponent(where)

    def braced(self, opening: str = "{", closing: str = "}") -> Meaning:
        self.take(opening)
        inner = self.sum()
        self.take(closing)
        return inner

    def arguments(self) -> list[Meaning]:
        self.take(r"\left(")
        found = [self.sum()]
        while self.took(","):
            found.append(self.sum())
        self.take(r"\right)")
        return found

    def factor(self) -> Meaning:
        token = self.take()
        if token[0].isdigit():
            return lambda where: float(token)
        if token == "{":
            self.tokens.insert(0, token)
            return self.braced()
        if token == "(":
            self.tokens.insert(0, token)
            return self.braced("(", ")")
        if token == r"\left(":
            self.tokens.insert(0, token)
            return self.braced(token, r"\right)")
        if token == r"\left|":
            self.tokens.insert(0, token)
            inner = self.braced(token, r"\right|")
            return lambda where: abs(inner(where))
        if token == r"\left[":
            return self.bracket()
        if token == r"\left.":
            return self.at_places()
        if token == r"\begin{cases}":
            return self.cases()
        if token == r"\frac":
            above, below = self.braced(), self.braced()
            return lambda where: above(where) / below(where)
        if token == r"\sqrt":
            inner = self.braced()
            return lambda where: math.sqrt(inner(where))
        if token == r"\mathop":
            self.take("{")
            name = self.take()
            self.take("}")
            return self.normalised(NORMALISED[name]) if name in NORMALISED else self.big(BIG[name])
        if token == r"\log" and self.next == r"\sum":
            self.take()
            total = self.big(sum)
            return lambda where: math.log(total(where))
        if token in BIG and self.next == "_":
            return self.big(BIG[token])
        if token in FUNCTIONS and self.next == r"\left(":
            given = self.arguments()
            return lambda where: FUNCTIONS[token](*(x(where) for x in given))
        return self.quantity(token)

    def condition(self) -> Holds:
        return self.connected(r"\lor", any, lambda: self.connected(r"\land", all, self.negation))

    def connected(self, symbol: str, connect: Callable[[Iterable[bool]], bool], part: Callable[[], Holds]) -> Holds:
        parts = [part()]
        while self.took(symbol):
            parts.append(part())
        return lambda where: connect(holds(where) for holds in parts)

    def negation(self) -> Holds:
        """A comparison, or conditions in parentheses, perhaps negated; parentheses around numbers start a comparison."""
        if self.took(r"\lnot"):
            negated = self.negation()
            return lambda where: not negated(where)
        start = list(self.tokens)
        if self.took(r"\left("):
            try:
                inner = self.condition()
                self.take(r"\right)")
            except AssertionError:
                self.tokens[:] = start
            else:
                return inner
        return self.comparison()

    def comparison(self) -> Holds:
        sides, relations = [self.sum()], []
        while self.next in RELATIONS:
            relations.append(RELATIONS[self.take()])
            sides.append(self.sum())
        assert relations, "a condition is a comparison"
        return lambda where: all(is_so(a(where), b(where)) for is_so, a, b in zip(relations, sides[:-1], sides[1:], strict=True))

    def bracket(self) -> Meaning:
        """A condition as a number, or pieces along an axis."""
        start = list(self.tokens)
        pieces = [self.sum()]
        while self.took(","):
            pieces.append(self.sum())
        if self.took(r"\right]"):
            self.take("_")
            place = self.braced()
            return lambda where: pieces[int(place(where))](where)
        self.tokens[:] = start
        holds = self.condition()
        self.take(r"\right]")
        return lambda where: float(holds(where))

    def cases(self) -> Meaning:
        """The first value whose condition holds."""
        found: list[tuple[Meaning, Holds]] = []
        while True:
            value = self.sum()
            self.take("&")
            if self.took(r"\text{otherwise}"):
                self.take(r"\end{cases}")
                found.append((value, lambda where: True))
                return lambda where: next(x for x, holds in found if holds(where))(where)
            self.take(r"\text{if }")
            found.append((value, self.condition()))
            self.take(r"\\")

    def bound(self) -> list[str]:
        """Indices that an operator runs over, which mean nothing else here."""
        names = [self.take()]
        while self.took(","):
            names.append(self.take())
        for name in names:
            assert name not in self.scope, f"an operator runs over {name!r}, which has a meaning here"
        assert len(set(names)) == len(names)
        return names

    def inside(self, names: list[str], read: Callable[[], Meaning]) -> Meaning:
        outside, self.scope = self.scope, self.scope | set(names)
        inner = read()
        self.scope = outside
        return inner

    def places(self, names: list[str]) -> list[Where]:
        sizes = [range(self.ranges[name.rstrip("'")]) for name in names]
        return [dict(zip(names, position, strict=True)) for position in itertools.product(*sizes)]

    def big(self, combine: Callable[[list[float]], float]) -> Meaning:
        self.take("_")
        self.take("{")
        is_several = self.took(r"\left(")
        names = self.bound()
        if is_several:
            self.take(r"\right)")
        others: list[Meaning] = []
        if self.took(r"\ne"):
            others = self.arguments() if is_several else [self.sum()]
        self.take("}")
        inner = self.inside(names, self.product)
        places = self.places(names)

        def value(where: Where) -> float:
            kept = [int(other(where)) for other in others]
            return combine([inner(where | place) for place in places if not kept or list(place.values()) != kept])

        return value

    def normalised(self, meaning: Callable[[np.ndarray], np.ndarray]) -> Meaning:
        """What keeps the axes it runs over: they mean the positions of the result too."""
        self.take("_")
        self.take("{")
        names = [self.take()]
        while self.took(","):
            names.append(self.take())
        self.take("}")
        for name in names:
            assert name in self.scope, f"{name!r} has no meaning"
        (inner,), places = self.arguments(), self.places(names)

        def value(where: Where) -> float:
            numbers = meaning(np.array([inner(where | place) for place in places]))
            return float(numbers[places.index({name: where[name] for name in names})])

        return value

    def at_places(self) -> Meaning:
        """An expression at positions that are given after it."""
        end, depth = 0, 1
        while depth:
            depth += self.tokens[end].startswith(r"\left") - self.tokens[end].startswith(r"\right")
            end += 1
        after = Reader(self.tokens[end:], self.values, self.ranges, self.scope)
        after.take("_")
        after.take("{")
        positions: dict[str, Meaning] = {}
        while not after.took("}"):
            after.took(",")
            (name,) = after.bound()[:1]
            after.take("=")
            positions[name] = after.sum()
        inner = self.inside(list(positions), self.sum)
        self.take(r"\right|")
        self.tokens[:] = after.tokens
        return lambda where: inner(where | {name: int(position(where)) for name, position in positions.items()})

    def quantity(self, token: str) -> Meaning:
        """A symbol with its indices; an index is a number itself."""
        if token == r"\overline":
            self.take("{")
            token = rf"\overline{{{self.take()}}}"
            self.take("}")
        if self.next == "^" and self.tokens[1:3] == ["{", "("]:
            token += "^{(" + self.tokens[3] + ")}"
            del self.tokens[:6]
        if token not in self.values:
            assert token.rstrip("'") in self.ranges and token in self.scope, f"index {token!r} has no meaning"
            return lambda where: where[token]
        indices: list[Meaning] = []
        if self.took("_"):
            self.take("{")
            indices.append(self.sum())
            while self.took(","):
                indices.append(self.sum())
            self.take("}")
        axes, array = self.values[token]
        assert len(indices) == len([axis for axis in axes if axis != "b"]), f"{token} has the axes {axes}"

        def value(where: Where) -> float:
            rest = iter(indices)
            return float(array[tuple(where["b"] if axis == "b" else int(next(rest)(where)) for axis in axes)])

        return value


def read_equation(text: str, values: Values, ranges: Mapping[str, int]) -> tuple[str, list[str], Meaning]:
    """The symbol on the left of an equation, its indices, and what its right side means."""
    left, _, right = text.partition(" = ")
    symbol, _, subscript = left.partition("_{") if not left.startswith(r"\overline") else _split_bar(left)
    indices = [index for index in subscript.removesuffix("}").split(",") if index]
    reader = Reader(TOKEN.findall(right), values, ranges, frozenset(index for index in indices if not index.isdigit()))
    meaning = reader.sum()
    assert not reader.tokens, f"{' '.join(reader.tokens)} is left over"
    return symbol, indices, meaning


def _split_bar(left: str) -> tuple[str, str, str]:
    end = next(k for k in range(len(left) + 1) if left[:k].count("{") == left[:k].count("}") > 0)
    return left[:end], "_{", left[end:].removeprefix("_{")
