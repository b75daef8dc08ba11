"""YAML nodes to values that keep their places, and the errors of what is not YAML, or of another kind."""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import yaml

from sparank_gen.spec import errors
from sparank_gen.spec.source import Span, Text

T = TypeVar("T")
# An anchor and a tag belong to a node, and are not part of its text.
PROPERTIES = re.compile(r"([&!]\S*\s*)*")
# What YAML's parser says of common mistakes, whether the place is where it began to read rather than where it gave up, and
# what to do.
MISTAKES = (
    ("chomping or indentation", False, "text that begins with '>' or '|' stands in quotes, as in modalities: '>=2'"),
    ("expected ',' or", False, "inside {…} and […], text with brackets or commas stands in quotes; close each bracket"),
    ("mapping values are not allowed", False, "text with a colon stands in quotes; keys of one mapping are indented alike"),
    ("could not find expected ':'", True, "a key is followed by a colon and a space"),
    ("unexpected end of stream", True, "close the quote"),
    ("cannot start any token", False, "indent with spaces; text that begins with such a character stands in quotes"),
    ("undefined alias", False, "text that begins with '*' stands in quotes"),
    ("expected <block end>", False, "keys of one mapping are indented alike; a quote within quotes is written twice"),
)


@dataclass(frozen=True)
class Reader:
    """Turns YAML nodes into values while keeping their places."""

    path: str
    lines: tuple[str, ...]

    def span(self, node: yaml.Node) -> Span:
        mark = node.start_mark
        text = self.lines[mark.line] if mark.line < len(self.lines) else ""
        length = node.end_mark.column - mark.column if node.end_mark.line == mark.line else 1
        return Span(self.path, mark.line + 1, mark.column + 1, max(length, 1), text)

    def text(self, node: yaml.Node, what: str) -> Text:
        if not isinstance(node, yaml.ScalarNode) or node.tag.endswith(":null"):
            is_empty = isinstance(node, yaml.ScalarNode)
            found = f"{what} has no value" if is_empty else f"{what} must be text, found {kind_of(node)}"
            raise errors.BadValue(found, self.span(node), "write one, or remove it" if is_empty else "write it as a string")
        return Text(node.value, self.path, tuple(self._stretches(node)), self.lines)

    def _stretches(self, node: yaml.ScalarNode) -> Iterator[tuple[int, int, int]]:
        """Where each line of the file that a scalar stands on begins in its value, and its place in the file."""
        first, last = node.start_mark.line, node.end_mark.line
        is_block, is_quoted = node.style in ("|", ">"), node.style in ("'", '"')
        column, offset = node.start_mark.column, 0
        if not is_block:
            properties = PROPERTIES.match(self.lines[first], column) if first < len(self.lines) else None
            column = (properties.end() if properties else column) + is_quoted
        if not node.value.strip():
            yield 0, first + 1, column + 1
        for number in range(first + is_block, min(last + 1, len(self.lines))):
            begin = column if number == first else 0
            end = node.end_mark.column - is_quoted if number == last and not is_block else len(self.lines[number])
            part = self.lines[number][begin:end]
            shown = part.strip()
            if not node.value[offset:].strip():
                break
            if shown:
                # What is written with escapes is not found, and is about as long.
                place = max(node.value.find(shown, offset), offset)
                before = node.value[offset:place]
                indent = len(before) - len(before.rstrip(" "))
                yield place - indent, number + 1, begin + part.index(shown) + 1 - indent
                offset = min(place + len(shown), len(node.value))

    def number(self, node: yaml.Node, what: str) -> int | float:
        text = self.text(node, what).value
        if isinstance(node, yaml.ScalarNode) and node.style is not None:
            raise errors.BadValue(f"{what} must be a number, found the text {text!r}", self.span(node), "write it without quotes")
        try:
            # Python takes underscores in numbers, in ways that YAML does not.
            number = int(text) if re.fullmatch(r"[-+]?\d{1,18}", text) else float(text.replace("_", "?"))
        except ValueError:
            raise errors.BadValue(f"{what} must be a number, found {text!r}", self.span(node), "write a number") from None
        if not math.isfinite(number):
            raise errors.BadValue(f"{what} must be a number that is finite, found {text!r}", self.span(node), "write a finite number")
        return number

    def mapping(self, node: yaml.Node, what: str) -> list[tuple[Text, yaml.Node]]:
        if not isinstance(node, yaml.MappingNode):
            raise errors.NotAMapping(
                f"{what} must be a mapping of keys to values, found {kind_of(node)}", self.span(node), "write 'key: value' lines"
            )
        seen: dict[str, Text] = {}
        pairs = []
        for key_node, value_node in node.value:
            key = self.text(key_node, f"a key of {what}")
            if key.value in seen:
                first = seen[key.value].span()
                raise errors.DuplicateKey(
                    f"{key.value!r} stands twice in {what}; first at line {first.line}", key.span(), "remove one of the two"
                )
            seen[key.value] = key
            pairs.append((key, value_node))
        return pairs

    def sequence(self, node: yaml.Node, what: str, item: Callable[[yaml.Node, str], T]) -> tuple[T, ...]:
        if not isinstance(node, yaml.SequenceNode):
            raise errors.BadValue(f"{what} must be a list, found {kind_of(node)}", self.span(node), "write '- item' lines")
        return tuple(item(child, f"an entry of {what}") for child in node.value)


def compose(source: str, path: str, lines: tuple[str, ...]) -> yaml.Node:
    try:
        root = yaml.compose(source, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        problem = error.problem or ""
        told = ((is_first, remedy) for said, is_first, remedy in MISTAKES if said in problem)
        is_first, remedy = next(told, (False, "see the line above the caret too"))
        mark = (error.context_mark if is_first else None) or error.problem_mark or error.context_mark
        row, column = (mark.line, mark.column) if mark else (0, 0)
        text = lines[row] if row < len(lines) else ""
        place = Span(path, row + 1, column + 1, 1, text)
        raise errors.NotYaml(f"this is not YAML: {problem}", place, remedy) from None
    except RecursionError:
        raise errors.NotYaml("the file is nested too deeply", Span(path, 1, 1, 1, ""), "write fewer levels") from None
    except yaml.YAMLError as error:
        raise errors.NotYaml(f"this is not YAML: {error}", Span(path, 1, 1, 1, ""), "save the file as plain text") from None
    if root is None:
        raise errors.NotAMapping("the file is empty", Span(path, 1, 1, 1, ""), "start with 'version: 1'")
    return root


def known_keys(reader: Reader, node: yaml.Node, known: dict[str, str], what: str) -> dict[str, yaml.Node]:
    values = {}
    for key, value in reader.mapping(node, what):
        if key.value not in known:
            hint = errors.did_you_mean(key.value, known)
            raise errors.UnknownKey(
                f"{what} has no key {key.value!r}{hint}", key.span(), "the keys are " + ", ".join(known)
            )
        values[key.value] = value
    return values


def identifier(text: Text, what: str) -> Text:
    if not text.value.isidentifier() or keyword.iskeyword(text.value) or not text.value.isascii():
        raise errors.BadValue(
            f"{text.value!r} cannot be {what}", text.span(), "use letters, digits and underscores, and no Python keyword"
        )
    return text


def kind_of(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    return repr(node.value) if node.value else "nothing"
