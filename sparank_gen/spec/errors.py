"""Errors about specs: each a class with a stable code, a place, and a remedy.

Every error knows the file, line and column it speaks of, shows that line with a caret, and says what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from sparank_gen.spec.source import Span

# The longest message that is shown whole.
LONGEST = 400
# The fewest letters of a name that is taken for the short form of another.
LEAST_SHORT = 4


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate a user most likely meant by ``name``, the same but for its case, then what is short for it, before
    others; None when none is close."""
    same = [candidate for candidate in sorted(set(candidates)) if candidate.casefold() == name.casefold()]
    short = [candidate for candidate in sorted(set(candidates)) if _is_short_for(candidate, name)]
    matches = same[:1] or short[:1] or difflib.get_close_matches(name, sorted(set(candidates)), n=1, cutoff=0.5)
    return matches[0] if matches else None


def _is_short_for(short: str, name: str) -> bool:
    """Whether ``name`` has the letters of ``short``, in their order and from the first on, as 'parameters' has of 'params'."""
    letters = iter(name)
    return len(short) >= LEAST_SHORT and name[:2] == short[:2] and all(letter in letters for letter in short)


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the nearest candidate, or an empty string."""
    match = nearest(name, candidates)
    return f"; did you mean {match!r}?" if match is not None else ""


@dataclass(eq=False)
class SpecError(Exception):
    """A spec says something the language does not allow.

    Args:
        message: what was found, and what was expected.
        span: the place in the file.
        remedy: what the author of the spec can do about it.
        inside: where the place is a call of a function, the function's name and the place in it; outermost first.
    """

    message: str
    span: Span
    remedy: str = ""
    inside: tuple[tuple[str, Span], ...] = ()

    code: ClassVar[str] = "spec"

    def __str__(self) -> str:
        message = self.message if len(self.message) <= LONGEST else f"{self.message[:LONGEST]}…"
        lines = [f"{self.span}: error[{self.code}]: {message}", *self.span.excerpt()]
        for function, span in self.inside:
            lines += [f"  in function {function!r}, {span}:", *span.excerpt()]
        if self.remedy:
            lines.append(f"  help: {self.remedy}")
        return "\n".join(lines)


class NotYaml(SpecError):
    code = "not-yaml"


class NotAMapping(SpecError):
    code = "not-a-mapping"


class DuplicateKey(SpecError):
    code = "duplicate-key"


class UnknownKey(SpecError):
    code = "unknown-key"


class MissingKey(SpecError):
    code = "missing-key"


class BadValue(SpecError):
    code = "bad-value"


class BadSyntax(SpecError):
    code = "bad-syntax"


class UnknownName(SpecError):
    code = "unknown-name"


class UnknownIndex(SpecError):
    code = "unknown-index"


class UnboundIndex(SpecError):
    code = "unbound-index"


class UnusedIndex(SpecError):
    code = "unused-index"


class RepeatedIndex(SpecError):
    code = "repeated-index"


class WrongIndexCount(SpecError):
    code = "wrong-index-count"


class IndexOutOfRange(SpecError):
    code = "index-out-of-range"


class ExtentMismatch(SpecError):
    code = "extent-mismatch"


class UnknownOperator(SpecError):
    code = "unknown-operator"


class WrongArguments(SpecError):
    code = "wrong-arguments"


class ReusedName(SpecError):
    code = "reused-name"


class UnusedName(SpecError):
    code = "unused-name"


class CyclicReference(SpecError):
    code = "cyclic-reference"


class IncompletePieces(SpecError):
    code = "incomplete-pieces"


class LayoutMismatch(SpecError):
    code = "layout-mismatch"


class UnknownModule(SpecError):
    code = "unknown-module"


class NotFinite(SpecError):
    code = "not-finite"


class FalseProperty(SpecError):
    code = "false-property"


class DuplicateMode(SpecError):
    code = "duplicate-mode"
