"""Reading a spec file: YAML to a :class:`FusionSpec`, every place kept, every key accounted for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

from sparank_gen.spec import errors
from sparank_gen.spec.entries import diagnostic, hyperparameter, mode_name, parameter
from sparank_gen.spec.model import FunctionSpec, FusionSpec, ModalityCount
from sparank_gen.spec.reader import Reader, compose, identifier, known_keys
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
    "params": "torch modules and tensors that are learned",
    "functions": "expressions with a name and parameters",
    "features": "the layout of the features",
    "math": "the definitions",
    "out": "the layout of the output",
    "weights": "the layout of the fusion weights",
    "diagnostics": "further entries beside the weights, and their layouts",
    "properties": "statements that hold for every input",
}
REQUIRED = ("version", "mode", "summary", "modalities")


def load_spec(path: Path, shown: str) -> FusionSpec:
    """Read one spec file.

    Args:
        path: the file.
        shown: the path as errors and generated headers show it.

    Raises:
        SpecError: when the file is not a well-formed spec.
    """
    return parse_spec(_read(path, shown), shown)


def load_library(path: Path, shown: str) -> tuple[FunctionSpec, ...]:
    """Read one file of shared functions: ``version`` and ``functions``, and nothing else. As :func:`load_spec`."""
    source = _read(path, shown)
    lines = tuple(source.splitlines())
    reader = Reader(shown, lines)
    root = compose(source, shown, lines)
    keys = {key: KEYS[key] for key in ("version", "functions")}
    values = known_keys(reader, root, keys, "a file of functions")
    _require(values, keys, reader.span(root), "the file")
    _check_version(reader, values)
    return tuple(
        FunctionSpec(name, reader.text(node, "a function")) for name, node in reader.mapping(values["functions"], "functions")
    )


def _read(path: Path, shown: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        place = Span(shown, 1, 1, 1, "")
        raise errors.NotYaml(f"the file is not UTF-8 text: {error.reason}", place, "save it as UTF-8") from None


def _require(values: Mapping[str, yaml.Node], keys: Iterable[str], place: Span, what: str) -> None:
    for key in keys:
        if key not in values:
            raise errors.MissingKey(f"{what} has no {key!r} ({KEYS[key]})", place, f"add a line '{key}: …'")


def _check_version(reader: Reader, values: Mapping[str, yaml.Node]) -> None:
    version = reader.text(values["version"], "version")
    if version.value != VERSION:
        raise errors.BadValue(f"this is version {version.value!r} of the language", version.span(), f"write 'version: {VERSION}'")


def parse_spec(source: str, path: str) -> FusionSpec:
    """The spec in the text ``source``; ``path`` is what errors show. Raises SpecError as :func:`load_spec` does."""
    lines = tuple(source.splitlines())
    reader = Reader(path, lines)
    root = compose(source, path, lines)
    values = known_keys(reader, root, KEYS, "the spec")
    place = reader.span(root)
    _require(values, REQUIRED, place, "the spec")
    _check_version(reader, values)

    def optional_text(key: str) -> Text | None:
        return reader.text(values[key], key) if key in values else None

    def pairs(key: str) -> list[tuple[Text, yaml.Node]]:
        return reader.mapping(values[key], key) if key in values else []

    description = optional_text("description")
    references = reader.sequence(values["references"], "references", reader.text) if "references" in values else ()
    return FusionSpec(
        path=path,
        place=place,
        mode=mode_name(reader.text(values["mode"], "mode")),
        summary=reader.text(values["summary"], "summary"),
        description=description.value.strip() if description else "",
        references=tuple(text.value for text in references),
        modalities=_modalities(reader.text(values["modalities"], "modalities")),
        axes=tuple((identifier(name, "an index"), reader.text(node, "an extent")) for name, node in pairs("axes")),
        hyperparameters=tuple(hyperparameter(reader, name, node) for name, node in pairs("hyperparameters")),
        params=tuple(parameter(reader, name, node) for name, node in pairs("params")),
        functions=tuple(FunctionSpec(name, reader.text(node, "a function")) for name, node in pairs("functions")),
        features=optional_text("features"),
        math=optional_text("math"),
        out=optional_text("out"),
        weights=optional_text("weights"),
        diagnostics=tuple((diagnostic(name), reader.text(node, "a layout")) for name, node in pairs("diagnostics")),
        properties=reader.sequence(values["properties"], "properties", reader.text) if "properties" in values else (),
    )


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
        remedy = "start from 1 or more" if minimum < 1 else f"the smaller number comes first: '{maximum}..{minimum}'"
        raise errors.BadValue(f"{text.value!r} allows no number of modalities", text.span(), remedy)
    return ModalityCount(minimum, maximum)
