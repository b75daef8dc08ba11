"""The Jinja environment: shipped templates, and a user's own in their place."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable
from pathlib import Path

import jinja2


def template_folders(own: Path | None) -> list[Path]:
    """Where templates are looked up, the user's folder first.

    An installed wheel carries the templates inside the package; a checkout has them at the top level.
    """
    package = Path(__file__).resolve().parents[1]
    shipped = package / "templates"
    folders = [shipped if shipped.is_dir() else package.parent / "templates"]
    return [own, *folders] if own is not None else folders


def environment(own: Path | None) -> jinja2.Environment:
    """The environment that all files are rendered in; an undefined name in a template is an error."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader([str(folder) for folder in template_folders(own)]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    made.filters["in_order"] = in_order
    made.filters["wrap"] = wrap
    made.filters["sentence"] = sentence
    made.filters["docstring"] = docstring
    made.filters["cell"] = cell
    made.filters["reads"] = reads
    return made


def in_order(names: Iterable[str]) -> list[str]:
    """Names as import sorters have them: whole numbers in them count as numbers."""
    return sorted(names, key=natural)


def natural(name: str) -> list[str | int]:
    """A key to sort names by: their whole numbers as numbers, between texts."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def wrap(text: str, indent: int) -> str:
    """Text as indented lines of a docstring."""
    margin = " " * indent
    paragraphs: Iterable[str] = text.split("\n\n")
    return "\n\n".join(
        textwrap.fill(" ".join(p.split()), 110, initial_indent=margin, subsequent_indent=margin) for p in paragraphs
    )


def sentence(text: str) -> str:
    """Text that ends with a full stop."""
    text = " ".join(text.split())
    return text if text.endswith((".", "!", "?")) else f"{text}."


def docstring(text: str) -> str:
    """Text for a raw docstring, which three double quotes would end."""
    return text.replace('"""', "'''")


def cell(text: str) -> str:
    """Text for a cell of a Markdown table, which a bar or a line end would close."""
    return " ".join(text.split()).replace("|", r"\|")


def reads(code: str, name: str) -> bool:
    """Whether statements, their comments left out, have ``name`` in them."""
    return any(re.search(rf"\b{name}\b", line.partition("#")[0]) for line in code.splitlines())
