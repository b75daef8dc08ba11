"""What printed Python says: names that it reads, functions that it calls, statements that nothing needs."""

from __future__ import annotations

import pytest

from sparank_gen.backends.code import binding, function_called, names_read, without_unread


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("a.b + f(c, d=e)  # g", {"a", "f", "c", "e"}),
        ("x = y['z']", {"y"}),
        ("total += part", {"total", "part"}),
        ('cast("Iterable[Tensor]", self.W)', {"cast", "Iterable", "Tensor", "self"}),
        ('require("at least n", n)', {"require", "n"}),
        ("    for m in range(M):\n        h[m] = 0", {"range", "M", "h", "m"}),
    ],
)
def test_names_that_code_reads(code: str, names: set[str]) -> None:
    assert names_read(code) == names


@pytest.mark.parametrize(
    ("code", "function"),
    [("F.linear(x, W).unflatten(-1, (2, d)).unbind(1)", "F.linear"), ("h.sum(-1)", "h.sum"), ("a + f(b)", None), ("a", None)],
)
def test_the_function_that_makes_a_value(code: str, function: str | None) -> None:
    assert function_called(code) == function


@pytest.mark.parametrize(("tighter", "looser"), [("f(a)", "a ** 2"), ("a * b", "a + b"), ("-a", "a * b"), ("a & b", "a < b")])
def test_how_tightly_code_binds(tighter: str, looser: str) -> None:
    assert binding(tighter) > binding(looser)


def test_statements_that_nothing_reads() -> None:
    lines = [
        "a = load(p)",  # only the next one reads it
        "b = a + 1",
        "# c[i] = 2 * h[i]",
        "c = 2 * h",
        "d = 0",
        "for k in range(3):",
        "    e = 1",
        "    d += k",
        "store(q, d)",
    ]
    assert without_unread(lines) == lines[2:]
