"""Extents of axes: exact arithmetic on names such as ``dim`` and ``modalities``.

An extent is a polynomial with integer exponents, kept in a canonical form, so that two ways of writing one extent
(``attn_heads * (dim // attn_heads)`` and ``dim``) are equal. Division is exact: ``dim // attn_heads`` asserts that
it comes out, and the generated constructor checks it.
"""

from __future__ import annotations

import ast
import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType

from sparank_gen.spec import errors
from sparank_gen.spec.source import Text

Monomial = tuple[tuple[str, int], ...]
ONE: tuple[Monomial, Fraction] = ((), Fraction(1))


@dataclass(frozen=True)
class Extent:
    """A sum of monomials; ``terms`` is sorted and holds no zero coefficient."""

    terms: tuple[tuple[Monomial, Fraction], ...]

    @staticmethod
    def number(value: int) -> Extent:
        return _canonical({(): Fraction(value)})

    @staticmethod
    def symbol(name: str) -> Extent:
        return _canonical({((name, 1),): Fraction(1)})

    def __add__(self, other: Extent) -> Extent:
        total = dict(self.terms)
        for monomial, coefficient in other.terms:
            total[monomial] = total.get(monomial, Fraction(0)) + coefficient
        return _canonical(total)

    def __sub__(self, other: Extent) -> Extent:
        return self + Extent.number(-1) * other

    def __mul__(self, other: Extent) -> Extent:
        product: dict[Monomial, Fraction] = {}
        for left, a in self.terms:
            for right, b in other.terms:
                monomial = _times(left, right)
                product[monomial] = product.get(monomial, Fraction(0)) + a * b
        return _canonical(product)

    def divided_by(self, other: Extent) -> Extent:
        """The exact quotient; ``other`` must be a single monomial (ValueError otherwise)."""
        if len(other.terms) != 1:
            raise ValueError("the divisor must be a product of names and numbers")
        monomial, coefficient = other.terms[0]
        inverse = tuple((name, -power) for name, power in monomial)
        return self * _canonical({inverse: 1 / coefficient})

    def is_at_least_zero(self, least: Mapping[str, int], most: Mapping[str, int] = MappingProxyType({})) -> bool:
        """Whether this can be seen to be no negative number, for names of at least their value in ``least`` (or 1), and of at
        most that in ``most``, if any.

        Where names are written as their least values and something more, no coefficient may be negative; or as their largest
        values and something less, where more of a name is less in all.
        """
        shifted = self
        for name in sorted(self.symbols):
            coefficients = [coefficient for monomial, coefficient in shifted.terms if name in dict(monomial)]
            if all(dict(monomial).get(name, 0) >= 0 for monomial, _ in self.terms):
                falls = name in most and all(coefficient < 0 for coefficient in coefficients)
                more = Extent.symbol(name) + Extent.number(least.get(name, 1))
                shifted = shifted.substitute(name, Extent.number(most[name]) - Extent.symbol(name) if falls else more)
        return all(coefficient > 0 for _, coefficient in shifted.terms)

    @property
    def symbols(self) -> frozenset[str]:
        return frozenset(name for monomial, _ in self.terms for name, _ in monomial)

    @property
    def constant(self) -> int | None:
        """The value where it depends on no name, or None."""
        if not self.terms:
            return 0
        if len(self.terms) == 1 and not self.terms[0][0] and self.terms[0][1].denominator == 1:
            return int(self.terms[0][1])
        return None

    def number_for(self, sizes: Mapping[str, int | float]) -> Fraction:
        """The number that this expression is for given sizes and hyper-parameters, whole or not."""
        total = Fraction(0)
        for monomial, coefficient in self.terms:
            term = coefficient
            for name, power in monomial:
                term *= Fraction(sizes[name]) ** power
            total += term
        return total

    def value(self, sizes: Mapping[str, int | float]) -> int:
        """The extent for given sizes.

        Raises:
            ValueError: when a division does not come out, or the extent is below 1.
        """
        total = self.number_for(sizes)
        if total.denominator != 1 or total < 1:
            raise ValueError(f"{self} is {total} for {dict(sizes)}, and must be a whole number of at least 1")
        return int(total)

    def substitute(self, name: str, replacement: Extent) -> Extent:
        """This extent with every power of ``name`` replaced."""
        total = Extent.number(0)
        for monomial, coefficient in self.terms:
            term = _canonical({tuple(pair for pair in monomial if pair[0] != name): coefficient})
            power = dict(monomial).get(name, 0)
            for _ in range(abs(power)):
                term = term * replacement if power > 0 else term.divided_by(replacement)
            total = total + term
        return total

    def __str__(self) -> str:
        return self.code({})

    def code(self, names: Mapping[str, str]) -> str:
        """Python source of this extent; ``names`` maps a name to the expression to print for it.

        Terms that are whole only together, as the halves of ``(dim + 1) // 2``, stand over what divides them all.
        """
        divisors = [_divisor(*term) for term in self.terms]
        divided = [term for term, divisor in zip(self.terms, divisors, strict=True) if divisor != ONE]
        if len(divided) < 2:
            return _sum_code(self.terms, names)
        divisor = functools.reduce(_least_common, divisors)
        is_less = all(coefficient < 0 for _, coefficient in divided)
        over = Extent(tuple(divided)) * Extent((divisor,)) * Extent.number(-1 if is_less else 1)
        whole = Extent(tuple(term for term in self.terms if term not in divided))
        quotient = f"({_sum_code(over.terms, names)}) // {_parenthesised(_monomial_code(*divisor, names))}"
        first = _sum_code(whole.terms, names) if whole.terms else ""
        if is_less:
            return f"{first} - {quotient}" if first else f"-({quotient})"
        if first.startswith("-"):
            return f"{quotient} - {first[1:]}"
        return f"{quotient} + {first}" if first else quotient


def _divisor(monomial: Monomial, coefficient: Fraction) -> tuple[Monomial, Fraction]:
    """What a term is divided by."""
    return tuple((name, -power) for name, power in monomial if power < 0), Fraction(coefficient.denominator)


def _least_common(left: tuple[Monomial, Fraction], right: tuple[Monomial, Fraction]) -> tuple[Monomial, Fraction]:
    """The least product that two divide."""
    powers = dict(left[0])
    for name, power in right[0]:
        powers[name] = max(power, powers.get(name, 0))
    return tuple(sorted(powers.items())), Fraction(math.lcm(int(left[1]), int(right[1])))


def _sum_code(terms: Iterable[tuple[Monomial, Fraction]], names: Mapping[str, str]) -> str:
    pieces: list[str] = []
    for monomial, coefficient in sorted(terms, key=lambda term: (not term[0], term)):
        text = _monomial_code(monomial, abs(coefficient), names)
        sign = "-" if coefficient < 0 else "+"
        pieces.append(f" {sign} {text}" if pieces else text if sign == "+" else f"-{text}")
    return "".join(pieces) or "0"


def _parenthesised(product: str) -> str:
    return f"({product})" if " " in product else product


def largest(extents: Iterable[Extent], names: Mapping[str, str]) -> str:
    """Python source of the largest of ``extents``, 0 where there are none; ``names`` as for one extent."""
    codes = list(dict.fromkeys(extent.code(names) for extent in extents))
    return f"max({', '.join(codes)})" if len(codes) > 1 else "".join(codes) or "0"


def _canonical(terms: Mapping[Monomial, Fraction]) -> Extent:
    return Extent(tuple(sorted((monomial, value) for monomial, value in terms.items() if value)))


def _times(left: Monomial, right: Monomial) -> Monomial:
    powers = dict(left)
    for name, power in right:
        powers[name] = powers.get(name, 0) + power
    return tuple(sorted((name, power) for name, power in powers.items() if power))


def _monomial_code(monomial: Monomial, coefficient: Fraction, names: Mapping[str, str]) -> str:
    over: list[str] = [] if coefficient.numerator == 1 else [str(coefficient.numerator)]
    under: list[str] = [] if coefficient.denominator == 1 else [str(coefficient.denominator)]
    for name, power in monomial:
        shown = names.get(name, name)
        (over if power > 0 else under).extend([shown] * abs(power))
    text = " * ".join(over) or "1"
    if not under:
        return text
    return f"{text} // {under[0]}" if len(under) == 1 else f"{text} // ({' * '.join(under)})"


@dataclass(frozen=True)
class Division:
    """An exact division written in a spec: ``whole`` must be a multiple of ``part``."""

    whole: Extent
    part: Extent


def parse_extent(
    text: Text, names: Mapping[str, Extent | None], least: int = 1, modalities: Mapping[str, Extent] | None = None
) -> tuple[Extent, tuple[Division, ...]]:
    """The extent that ``text`` says, and the divisions in it that must come out.

    Args:
        text: integer arithmetic (``+ - * //``) on ``names`` and whole numbers.
        names: the names that may stand in it; None for a number that is not whole.
        least: the least whole number that it may be.
        modalities: the width ``dim[…]`` of each modality that may be named, by an axis or by number.

    Raises:
        SpecError: BadSyntax, UnknownName or BadValue.
    """
    try:
        tree = ast.parse(text.value.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise errors.BadSyntax(f"{text.value!r} is not an extent", text.span(), "write something like 'dim // 2'") from None
    divisions: list[Division] = []

    def walk(node: ast.expr) -> Extent:
        if isinstance(node, ast.Constant) and type(node.value) is int:
            return Extent.number(node.value)
        if isinstance(node, ast.Name):
            if node.id not in names:
                raise errors.UnknownName(
                    f"{node.id!r} is not a known extent{errors.did_you_mean(node.id, names)}",
                    text.span(0, node.col_offset, len(node.id)),
                    f"the extents are {', '.join(sorted(names))}, and hyper-parameters that are whole numbers",
                )
            known = names[node.id]
            if known is None:
                message = f"{node.id!r} is a number with a fraction, and extents take whole numbers"
                raise errors.BadValue(message, text.span(0, node.col_offset, len(node.id)), "give it a whole default, and no 'type: float'")
            return known
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "dim" and modalities:
            return _width(node, text, modalities)
        if isinstance(node, ast.BinOp):
            left, right = walk(node.left), walk(node.right)
            if isinstance(node.op, ast.Add):
                return left + right
            if isinstance(node.op, ast.Sub):
                return left - right
            if isinstance(node.op, ast.Mult):
                return left * right
            if isinstance(node.op, ast.FloorDiv) and len(right.terms) == 1:
                divisions.append(Division(left, right))
                return left.divided_by(right)
        raise errors.BadSyntax(
            f"{text.value!r} is not an extent", text.span(), "use + - * // on names and whole numbers, and divide by a product"
        )

    extent = walk(tree.body)
    if not extent.symbols and (extent.constant is None or extent.constant < least):
        raise errors.BadValue(f"{text.value!r} is no extent", text.span(), f"write a whole number of at least {least}")
    return extent, tuple(divisions)


def _width(node: ast.Subscript, text: Text, modalities: Mapping[str, Extent]) -> Extent:
    written = ast.unparse(node.slice)
    if written not in modalities:
        raise errors.UnknownIndex(
            f"{written!r} is no axis over modalities, and no number of one",
            text.span(0, node.slice.col_offset, len(written)),
            f"write one of {', '.join(f'dim[{name}]' for name in modalities)}",
        )
    return modalities[written]
