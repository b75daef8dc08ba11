"""From a specs folder to the text of every generated file, all in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import black
import jinja2
from black.mode import TargetVersion
from black.parsing import InvalidInput

from sparank_gen.backends.docs.page import mode_page
from sparank_gen.backends.tests.golden import golden_text
from sparank_gen.backends.tests.suite import test_file
from sparank_gen.backends.torch.module import Argument, arguments, class_name, module_file
from sparank_gen.backends.triton.explain import rest, ways
from sparank_gen.backends.triton.file import kernel_file
from sparank_gen.ir.check import check_spec, limited_depth
from sparank_gen.ir.mode import Mode
from sparank_gen.ir.restrict import numbered
from sparank_gen.lang.functions import Function, read_functions
from sparank_gen.project import cache
from sparank_gen.project.config import Config, UsageError, library_files, spec_files
from sparank_gen.project.files import HEADER
from sparank_gen.project.parallel import share
from sparank_gen.project.templates import environment, natural
from sparank_gen.spec import errors
from sparank_gen.spec.load import load_library, load_spec
from sparank_gen.spec.model import FunctionSpec, Hyperparameter
from sparank_gen.trial.cases import require_sizes

LINE_LENGTH = 110
GOLDEN_FOLDER = "tests/golden"
RESERVED = ("readme",)


@dataclass(frozen=True)
class LayerArgument(Argument):
    """A hyper-parameter as ``FusionLayer`` takes it: the modes that have it, and whether it goes by position."""

    modes: tuple[str, ...]
    positional: bool


@dataclass(frozen=True)
class LayerMode:
    """A mode as ``FusionLayer`` sees it."""

    name: str
    summary: str
    class_name: str
    options: tuple[str, ...]


class SpecErrors(Exception):
    """The errors of all specs that have one."""

    def __init__(self, found: Sequence[errors.SpecError]) -> None:
        super().__init__("\n\n".join(str(error) for error in found))
        self.found = tuple(found)


def load_modes(config: Config) -> list[Mode]:
    """The checked modes of a project, in alphabetical order.

    Raises:
        SpecErrors: with the first error of every spec that has one.
        UsageError: when the folder holds no spec, or something else of a spec's name.
    """
    library = load_library_functions(config)
    modes: list[Mode] = []
    owners: dict[str, Mode] = {}
    shared: dict[str, tuple[Hyperparameter, Mode]] = {}
    found: list[errors.SpecError] = []
    for path in spec_files(config.specs):
        try:
            mode = check_spec(load_spec(path, config.shown(path)), library)
            _require_own_name(mode, owners)
            _require_one_default(mode, shared)
            require_sizes(mode)
            modes.append(mode)
        except errors.SpecError as error:
            found.append(error)
    if found:
        raise SpecErrors(found)
    return sorted(modes, key=lambda mode: natural(mode.name))


def load_library_functions(config: Config) -> dict[str, Function]:
    """The functions that every spec of a project may call.

    Raises:
        SpecErrors: with the first error of the files that hold them.
    """
    specs: list[FunctionSpec] = []
    try:
        for path in library_files(config.specs):
            specs += load_library(path, config.shown(path))
        return read_functions(specs, {})
    except errors.SpecError as error:
        raise SpecErrors([error]) from None


def _require_own_name(mode: Mode, owners: dict[str, Mode]) -> None:
    """Take a mode's file and class for it, or raise a SpecError when another mode or the package itself has them.

    ``owners`` has the mode of every file, by its name without case, and of every class.
    """
    name, span, remedy = mode.name, mode.spec.mode.span(), "choose another name"
    if name.casefold() in RESERVED or (name.startswith("__") and name.endswith("__")):
        raise errors.ReusedName(f"mode {name!r} would share a file with the package itself", span, remedy)
    for taken in (name.casefold(), class_name(name)):
        other = owners.setdefault(taken, mode)
        if other.name == name and other is not mode:
            raise errors.DuplicateMode(f"mode {name!r} is already defined in {other.spec.path}", span, remedy)
        if other is not mode:
            message = f"mode {name!r} would share a file or a class with mode {other.name!r} of {other.spec.path}"
            raise errors.ReusedName(message, span, remedy)


def _require_one_default(mode: Mode, shared: dict[str, tuple[Hyperparameter, Mode]]) -> None:
    """Raise a SpecError when a hyper-parameter of a mode has another default or type in a mode before it."""
    for own in mode.spec.hyperparameters:
        name = own.name.value
        other, owner = shared.setdefault(name, (own, mode))
        if (other.default, other.type) != (own.default, own.type):
            here, there = (f"{each.default!r} ({each.type})" for each in (own, other))
            message = f"{name!r} has default {here} here and {there} in mode {owner.name!r} of {owner.spec.path}"
            raise errors.BadValue(message, own.name.span(), "one name has one default and one type in all modes; give it another name")


def generate(config: Config, jobs: int | None = None) -> dict[str, str]:
    """The text of every file of a project, by its path below the output folder; the same for any ``jobs``.

    Args:
        config: the project.
        jobs: the most processes to use at a time; one for each core by default.

    Raises:
        SpecErrors, UsageError: when the specs or the configuration are wrong.
    """
    common = cache.shared_state(config)
    modes = load_modes(config)
    renderer = Renderer(config, environment(config.templates))
    keys = cache.mode_keys(common, [(mode.spec.path, mode.spec.mode.source) for mode in modes])
    known = {key: files for key in keys if (files := cache.remembered_texts(key)) is not None}
    missing = [(key, mode) for key, mode in zip(keys, modes, strict=True) if key not in known]

    def files_of(position: int) -> dict[str, str] | errors.SpecError:
        mode = missing[position][1]
        try:
            with limited_depth(mode.spec, "shorten the longest chain of statements that each read the one before"):
                return renderer.mode_files(mode)
        except errors.SpecError as error:
            return error

    made, package = share(files_of, len(missing), lambda: renderer.package_files(modes), jobs)
    found = [files for files in made if isinstance(files, errors.SpecError)]
    if found:
        raise SpecErrors(found)
    new = {key: files for (key, _), files in zip(missing, made, strict=True) if isinstance(files, dict)}
    if cache.shared_state(config).digest() == common.digest():
        # Else templates or functions changed meanwhile, and the keys may be those of others than were read.
        cache.remember_texts(new)
    by_mode = known | new
    return {path: text for files in (*(by_mode[key] for key in keys), package) for path, text in files.items()}


@dataclass(frozen=True)
class Renderer:
    """Renders templates for one project."""

    config: Config
    environment: jinja2.Environment

    def render(self, template: str, source: str, **context: Any) -> str:
        """One file; Python is formatted with black."""
        comment = f"{HEADER} from {source}. Change that, then run: sparank-gen build"
        header = f"<!-- {comment} -->" if template.endswith(".md.j2") else f"# {comment}"
        try:
            text = self.environment.get_template(template).render(header=header, package=self.config.package, **context)
        except jinja2.TemplateError as error:
            raise UsageError(f"template {template} cannot be rendered: {error}") from None
        except Exception as error:  # a template can run any expression
            raise UsageError(f"template {template} cannot be rendered: {type(error).__name__}: {error}") from error
        if not template.endswith(".py.j2"):
            return text
        try:
            return black.format_str(text, mode=black.Mode(line_length=LINE_LENGTH, target_versions={TargetVersion.PY310}))
        except InvalidInput as error:
            raise UsageError(f"template {template} did not render to Python: {error}") from None

    def mode_files(self, mode: Mode) -> dict[str, str]:
        """The files of one mode.

        Raises:
            SpecError: when its results are not finite at the inputs of its tests, or a property does not hold there.
        """
        source, name = mode.spec.path, mode.name
        golden = golden_text(mode)
        file, kernels = module_file(mode), kernel_file(mode)
        return {
            f"{self.config.package}/modes/{name}.py": self.render("torch/mode.py.j2", source, file=file),
            f"{self.config.package}/kernels/modes/{name}.py": self.render("triton/mode.py.j2", source, file=kernels),
            f"tests/test_{name}.py": self.render(
                "tests/mode.py.j2",
                source,
                file=file,
                suite=test_file(mode),
                schedules=kernels.schedules,
                keeps=bool(kernels.kept),
            ),
            f"{GOLDEN_FOLDER}/{name}.json": golden,
            f"docs/{name}.md": self.render(
                "docs/mode.md.j2",
                source,
                file=file,
                page=mode_page(mode),
                kernels=kernels,
                ways=ways(kernels),
                rest=rest(kernels),
            ),
        }

    def package_files(self, modes: Sequence[Mode]) -> dict[str, str]:
        """The files that speak of all modes."""
        source, package = f"{self.config.specs.name}/", self.config.package
        layer_modes = [
            LayerMode(mode.name, mode.spec.summary.value, class_name(mode.name), tuple(a.name for a in arguments(mode))) for mode in modes
        ]
        context = {"modes": layer_modes, "arguments": self.layer_arguments(modes), "default_mode": self.default_mode(modes)}
        return {
            f"{package}/__init__.py": self.render("torch/init.py.j2", source, **context),
            f"{package}/functions.py": self.render("torch/functions.py.j2", source),
            f"{package}/backends.py": self.render("torch/backends.py.j2", source),
            f"{package}/gradients.py": self.render("torch/gradients.py.j2", source),
            f"{package}/submodules.py": self.render("torch/submodules.py.j2", source),
            f"{package}/layer.py": self.render("torch/layer.py.j2", source, **context),
            f"{package}/runtime.py": self.render("torch/runtime.py.j2", source),
            f"{package}/modes/__init__.py": self.render("torch/modes.py.j2", source),
            f"{package}/kernels/__init__.py": self.render("triton/kernels.py.j2", source),
            f"{package}/kernels/arguments.py": self.render("triton/arguments.py.j2", source),
            f"{package}/kernels/functions.py": self.render("triton/functions.py.j2", source),
            f"{package}/kernels/launches.py": self.render("triton/launches.py.j2", source),
            f"{package}/kernels/tiles.py": self.render("triton/tiles.py.j2", source),
            f"{package}/kernels/operators.py": self.render("triton/operators.py.j2", source),
            f"{package}/kernels/modes/__init__.py": self.render("triton/modes.py.j2", source),
            f"{package}/py.typed": "",
            "tests/support.py": self.render("tests/support.py.j2", source),
            "tests/conftest.py": self.render("tests/conftest.py.j2", source),
            "docs/README.md": self.render("docs/index.md.j2", source, modes=[(mode, numbered(mode.program) is None) for mode in modes]),
        }

    def default_mode(self, modes: Sequence[Mode]) -> str | None:
        default = self.config.default_mode
        if default is not None and default not in [mode.name for mode in modes]:
            raise UsageError(f"[tool.sparank-gen] default-mode = {default!r} is not a mode of {self.config.specs}")
        return default

    def layer_arguments(self, modes: Sequence[Mode]) -> list[LayerArgument]:
        """The hyper-parameters of all modes as arguments of one constructor.

        Raises:
            UsageError: when a positional one does not exist.
        """
        merged: dict[str, LayerArgument] = {}
        for mode in modes:
            for argument in arguments(mode):
                known = merged.get(argument.name)
                names = (*(known.modes if known else ()), mode.name)
                positional = argument.name in self.config.positional
                merged[argument.name] = LayerArgument(**asdict(argument), modes=names, positional=positional)
        for name in self.config.positional:
            if name not in merged:
                raise UsageError(f"[tool.sparank-gen] positional: no mode has a hyper-parameter {name!r}")
        order = [*self.config.positional, *sorted(set(merged) - set(self.config.positional))]
        return [merged[name] for name in order]


def golden_path(path: str) -> bool:
    """Whether a generated file holds golden outputs."""
    return Path(path).parent.as_posix() == GOLDEN_FOLDER
