"""Reading a spec file: YAML to a :class:`FusionSpec`, every place kept, every key accounted for."""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from sparank_gen.spec import errors
from sparank_gen.spec.model import FusionSpec, Hyperparameter, ModalityCount, ModuleSpec
from sparank_gen.spec.source import Span, Text

VERSION = "1"
KEYS = {
    "version": "the version of the language; 1",
    "mode": "the mode's name",
    "summary": "one sentence",
    "description": "further text for the documentation",
    "references": "papers",
    "modalities": "how many modalities the mode takes",
    "axes": "index names and their extents",
    "hyperparameters": "constructor arguments",
    "params": "torch modules that hold parameters",
    "features": "the layout of the features",
    "math": "the definitions",
    "out": "the layout of the output",
    "weights": "the layout of the fusion weights",
    "properties": "statements that hold for every input",
}
REQUIRED = ("version", "mode", "summary", "modalities")
# What every layer has: arguments and attributes of ours, and those of ``torch.nn.Module``.
ATTRIBUTES = frozenset(
    """
    self dim n_modalities out_dim backend fusion_type features return_gates least_modalities most_modalities
    has_weights has_pair_form batch_dims modalities batch T_destination add_module apply bfloat16 buffers
    call_super_init children compile cpu cuda double dump_patches eval extra_repr float forward get_buffer
    get_extra_state get_parameter get_submodule half ipu load_state_dict modules mtia named_buffers named_children
    named_modules named_parameters parameters register_backward_hook register_buffer register_forward_hook
    register_forward_pre_hook register_full_backward_hook register_full_backward_pre_hook
    register_load_state_dict_post_hook register_load_state_dict_pre_hook register_module register_parameter
    register_state_dict_post_hook register_state_dict_pre_hook requires_grad_ set_extra_state set_submodule
    share_memory state_dict to to_empty train training type xpu zero_grad
    """.split()
)
T = TypeVar("T")


@dataclass(frozen=True)
class _Reader:
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
            raise errors.BadValue(f"{what} must be text, found {_kind(node)}", self.span(node), f"write {what} as a string")
        count = node.value.count("\n") + 1
        row, column = node.start_mark.line + 1, node.start_mark.column + 1
        if node.style in ("|", ">"):
            body = self.lines[row : row + count]
            indent = next((len(line) - len(line.lstrip()) for line in body if line.strip()), 0)
            starts = tuple((row + 1 + k, indent + 1) for k in range(count))
        else:
            if node.style is None and node.end_mark.line == node.start_mark.line:
                # An anchor belongs to the node, and is not part of its text.
                column = node.end_mark.column - len(node.value) + 1
            starts = tuple((row, column + (1 if node.style else 0)) for _ in range(count))
        return Text(node.value, self.path, starts, self.lines)

    def number(self, node: yaml.Node, what: str) -> int | float:
        text = self.text(node, what).value
        try:
            number = int(text) if re.fullmatch(r"[-+]?\d{1,18}", text) else float(text)
        except ValueError:
            raise errors.BadValue(f"{what} must be a number, found {text!r}", self.span(node), "write a number") from None
        if not math.isfinite(number):
            raise errors.BadValue(f"{what} must be a number that is finite, found {text!r}", self.span(node), "write a finite number")
        return number

    def mapping(self, node: yaml.Node, what: str) -> list[tuple[Text, yaml.Node]]:
        if not isinstance(node, yaml.MappingNode):
            raise errors.NotAMapping(
                f"{what} must be a mapping of keys to values, found {_kind(node)}", self.span(node), "write 'key: value' lines"
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
            raise errors.BadValue(f"{what} must be a list, found {_kind(node)}", self.span(node), "write '- item' lines")
        return tuple(item(child, f"an entry of {what}") for child in node.value)


def load_spec(path: Path, shown: str) -> FusionSpec:
    """Read one spec file.

    Args:
        path: the file.
        shown: the path as errors and generated headers show it.

    Raises:
        SpecError: when the file is not a well-formed spec.
    """
    try:
        source = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        place = Span(shown, 1, 1, 1, "")
        raise errors.NotYaml(f"the file is not UTF-8 text: {error.reason}", place, "save it as UTF-8") from None
    return parse_spec(source, shown)


def parse_spec(source: str, path: str) -> FusionSpec:
    """The spec in the text ``source``; ``path`` is what errors show. Raises SpecError as :func:`load_spec` does."""
    lines = tuple(source.splitlines())
    reader = _Reader(path, lines)
    root = _compose(source, path, lines)
    values = _known_keys(reader, root, KEYS, "the spec")
    place = reader.span(root)
    for key in REQUIRED:
        if key not in values:
            raise errors.MissingKey(f"the spec has no {key!r} ({KEYS[key]})", place, f"add a line '{key}: …'")
    version = reader.text(values["version"], "version")
    if version.value != VERSION:
        raise errors.BadValue(f"this is version {version.value!r} of the language", version.span(), f"write 'version: {VERSION}'")

    def optional_text(key: str) -> Text | None:
        return reader.text(values[key], key) if key in values else None

    def pairs(key: str) -> list[tuple[Text, yaml.Node]]:
        return reader.mapping(values[key], key) if key in values else []

    description = optional_text("description")
    references = reader.sequence(values["references"], "references", reader.text) if "references" in values else ()
    return FusionSpec(
        path=path,
        place=place,
        mode=_identifier(reader.text(values["mode"], "mode"), "the mode's name"),
        summary=reader.text(values["summary"], "summary"),
        description=description.value.strip() if description else "",
        references=tuple(text.value for text in references),
        modalities=_modalities(reader.text(values["modalities"], "modalities")),
        axes=tuple((_identifier(name, "an index"), reader.text(node, "an extent")) for name, node in pairs("axes")),
        hyperparameters=tuple(_hyperparameter(reader, name, node) for name, node in pairs("hyperparameters")),
        params=tuple(_module(reader, name, node) for name, node in pairs("params")),
        features=optional_text("features"),
        math=optional_text("math"),
        out=optional_text("out"),
        weights=optional_text("weights"),
        properties=reader.sequence(values["properties"], "properties", reader.text) if "properties" in values else (),
    )


def _compose(source: str, path: str, lines: tuple[str, ...]) -> yaml.Node:
    try:
        root = yaml.compose(source, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        row, column = (mark.line, mark.column) if mark else (0, 0)
        text = lines[row] if row < len(lines) else ""
        place = Span(path, row + 1, column + 1, 1, text)
        raise errors.NotYaml(f"this is not YAML: {error.problem}", place, "see the line above the caret too") from None
    except RecursionError:
        raise errors.NotYaml("the file is nested too deeply", Span(path, 1, 1, 1, ""), "write fewer levels") from None
    except yaml.YAMLError as error:
        raise errors.NotYaml(f"this is not YAML: {error}", Span(path, 1, 1, 1, ""), "save the file as plain text") from None
    if root is None:
        raise errors.NotAMapping("the file is empty", Span(path, 1, 1, 1, ""), "start with 'version: 1'")
    return root


def _known_keys(reader: _Reader, node: yaml.Node, known: dict[str, str], what: str) -> dict[str, yaml.Node]:
    values = {}
    for key, value in reader.mapping(node, what):
        if key.value not in known:
            hint = errors.did_you_mean(key.value, known)
            raise errors.UnknownKey(
                f"{what} has no key {key.value!r}{hint}", key.span(), "the keys are " + ", ".join(known)
            )
        values[key.value] = value
    return values


def _identifier(text: Text, what: str) -> Text:
    if not text.value.isidentifier() or keyword.iskeyword(text.value) or not text.value.isascii():
        raise errors.BadValue(
            f"{text.value!r} cannot be {what}", text.span(), "use letters, digits and underscores, and no Python keyword"
        )
    return text


def _modalities(text: Text) -> ModalityCount:
    match = re.fullmatch(r"\s*(>=|==)?\s*(\d{1,6})\s*|\s*(\d{1,6})\s*\.\.\s*(\d{1,6})\s*", text.value)
    if match is None:
        raise errors.BadValue(
            f"{text.value!r} is not a number of modalities", text.span(), "write '>=2' (or more), '2' (exactly) or '2..4'"
        )
    relation, count, low, high = match.groups()
    minimum = int(low or count)
    maximum = int(high) if high else None if relation == ">=" else minimum
    if minimum < 1 or (maximum is not None and maximum < minimum):
        raise errors.BadValue(f"{text.value!r} allows no number of modalities", text.span(), "start from 1 or more")
    return ModalityCount(minimum, maximum)


def _hyperparameter(reader: _Reader, name: Text, node: yaml.Node) -> Hyperparameter:
    known = {"type": "", "default": "", "minimum": "", "help": ""}
    values = _known_keys(reader, node, known, f"hyper-parameter {name.value!r}")
    if "default" not in values:
        raise errors.MissingKey(f"hyper-parameter {name.value!r} has no default", name.span(), "add 'default: …'")
    kind = reader.text(values["type"], "type") if "type" in values else None
    if kind is not None and kind.value not in ("int", "float"):
        raise errors.BadValue(f"{kind.value!r} is not a type of hyper-parameter", kind.span(), "write int or float")
    default = reader.number(values["default"], "default")
    type_name = kind.value if kind is not None else type(default).__name__
    minimum = reader.number(values["minimum"], "minimum") if "minimum" in values else 1 if type_name == "int" else None
    if type_name == "int" and not isinstance(default, int):
        raise errors.BadValue(f"the default {default} is not an int", reader.span(values["default"]), "write a whole number")
    if minimum is not None and default < minimum:
        raise errors.BadValue(
            f"the default {default} is below the minimum {minimum}", reader.span(values["default"]), "raise the default"
        )
    text = reader.text(values["help"], "help").value.strip() if "help" in values else ""
    if name.value in ATTRIBUTES or name.value.startswith("_"):
        raise errors.ReusedName(f"{name.value!r} already has a meaning, in every spec", name.span(), "choose another name")
    return Hyperparameter(_identifier(name, "a hyper-parameter"), type_name, default, minimum, text)


def _module(reader: _Reader, path: Text, node: yaml.Node) -> ModuleSpec:
    first, *rest = path.value.split(".")
    if len(rest) > 1 or not first.isidentifier() or not all(piece.isdecimal() for piece in rest):
        raise errors.BadValue(
            f"{path.value!r} is not an attribute path", path.span(), "write an attribute such as 'proj' or 'net.0'"
        )
    if keyword.iskeyword(first) or first.startswith("_") or first in ATTRIBUTES:
        raise errors.BadValue(
            f"{first!r} cannot be an attribute of the layer", path.span(), "choose a name that a torch module does not use"
        )
    values: dict[str, Any] = {}
    tensors = []
    for key, value in reader.mapping(node, f"parameter {path.value!r}"):
        if key.value in ("module", "per", "arguments"):
            values[key.value] = value
        else:
            tensors.append((key, reader.text(value, f"the layout of {key.value!r}")))
    if "module" not in values:
        raise errors.MissingKey(f"parameter {path.value!r} names no module", path.span(), "add 'module: Linear', say")
    arguments = reader.mapping(values["arguments"], "arguments") if "arguments" in values else []
    return ModuleSpec(
        path=path,
        module=reader.text(values["module"], "module"),
        per=reader.text(values["per"], "per") if "per" in values else None,
        arguments=tuple((name, reader.text(value, "an argument")) for name, value in arguments),
        tensors=tuple(tensors),
    )


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    return repr(node.value) if node.value else "nothing"
