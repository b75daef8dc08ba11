"""The command line: ``sparank-gen build``, ``sparank-gen check`` and ``sparank-gen kernels``.

Exit codes: 0 all is well, 1 there are differences or findings, 2 the input or the call is wrong.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from sparank_gen.project.build import GoldenMove, HandEdited, Outcome
from sparank_gen.project.build import build as build_project
from sparank_gen.project.build import check as check_project
from sparank_gen.project.config import Config, UsageError, load_config
from sparank_gen.project.files import Difference

app = typer.Typer(
    name="sparank-gen",
    help="Compile specs of multimodal fusion modes into a package of torch modules, tests and documentation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Specs = Annotated[str | None, typer.Argument(help="The specs folder [default: as pyproject.toml says, or specs].")]
Output = Annotated[str | None, typer.Option("--output", "-o", help="The folder of the generated files.")]
Templates = Annotated[str | None, typer.Option("--templates", help="A folder of templates that replace shipped ones.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite files that were edited by hand.")]
Update = Annotated[bool, typer.Option("--update-goldens", help="Take over golden outputs that moved.")]
Jobs = Annotated[int | None, typer.Option("--jobs", "-j", min=1, help="The most processes to use [default: one for each core].")]
ModeName = Annotated[str | None, typer.Argument(metavar="MODE", help="A mode [default: all that take so many modalities].")]
Target = Annotated[str, typer.Option("--target", help="The chip, as triton names it.")]
Dim = Annotated[int, typer.Option("--dim", max=1 << 20, help="Width of each modality's features.")]
Modalities = Annotated[int, typer.Option("--modalities", max=64, help="How many modalities there are.")]
Dtype = Annotated[str, typer.Option("--dtype", help="The type of features and parameters, as torch names it.")]
Batch = Annotated[int, typer.Option("--batch", max=1 << 40, help="How many rows are fused.")]
SpecsOption = Annotated[str | None, typer.Option("--specs", help="The specs folder.")]

KINDS = {
    "missing": "is missing",
    "changed": "is not what the specs say",
    "edited": "was edited by hand",
    "stale": "is no longer made by any spec",
    "orphan": "has our header and is in no manifest; remove it by hand",
}


@app.command()
def build(
    specs: Specs = None,
    output: Output = None,
    templates: Templates = None,
    force: Force = False,
    update_goldens: Update = False,
    jobs: Jobs = None,
) -> None:
    """Bring the generated files up to date with the specs."""
    try:
        outcome = build_project(_config(specs, output, templates), force, update_goldens, jobs)
    except HandEdited as error:
        _show(error.differences)
        _fail(error)
    except Exception as error:
        _fail(error)
    for difference in outcome.differences:
        verb = {"missing": "wrote", "stale": "removed"}.get(difference.kind, "updated")
        typer.echo(f"{verb} {difference.path}")
    for move in outcome.golden_moves:
        typer.echo(_describe(move, "updated" if update_goldens else "kept"))
    if not outcome.differences and not outcome.golden_moves:
        typer.echo(f"nothing changed: {outcome.files} files are up to date")
    if outcome.golden_moves and not update_goldens:
        typer.echo(f"golden outputs moved; if that is meant, run: {_build_command(specs, output, templates)} --update-goldens")
        raise typer.Exit(1)


@app.command()
def check(specs: Specs = None, output: Output = None, templates: Templates = None, jobs: Jobs = None) -> None:
    """Say what differs between the specs and the generated files; write nothing."""
    try:
        outcome: Outcome = check_project(_config(specs, output, templates), jobs)
    except Exception as error:
        _fail(error)
    _show(outcome.differences)
    for move in outcome.golden_moves:
        typer.echo(_describe(move, "found"))
    if not outcome.is_clean:
        count, command = len(outcome.differences) + len(outcome.golden_moves), _build_command(specs, output, templates)
        # Of orphans it is said how they go away.
        advice = f"; run: {command}" if any(difference.kind != "orphan" for difference in outcome.differences) else ""
        typer.echo(f"{count} difference{'s' if count > 1 else ''}{advice}")
        if outcome.golden_moves:
            typer.echo(f"golden outputs move; if that is meant, run: {command} --update-goldens")
        raise typer.Exit(1)
    typer.echo(f"{outcome.files} files agree with the specs")


@app.command()
def kernels(
    mode: ModeName = None,
    target: Target = "sm_90",
    dim: Dim = 128,
    modalities: Modalities = 3,
    dtype: Dtype = "bfloat16",
    batch: Batch = 65536,
    specs: SpecsOption = None,
    output: Output = None,
) -> None:
    """Say how each pass runs and why, and compile its kernels for a chip, which need not be there: what they need and
    the least time they take."""
    from sparank_gen.project.kernels import Case, reports, table

    try:
        case = Case(target, dim, modalities, dtype, batch)
        found = list(reports(_config(specs, output, None), mode, case))
    except Exception as error:
        _fail(error)
    lines = table(row.cells(case) for report in found for row in report.rows)
    typer.echo("\n".join([str(case), *(line for report in found for line in report.plan), "", *lines]))


def _config(specs: str | None, output: str | None, templates: str | None) -> Config:
    for option, value in (("SPECS", specs), ("--output", output), ("--templates", templates)):
        if value == "":
            raise UsageError(f"{option} is empty: name a folder, or leave it out")
    # Taken as text: typer loads a validation library to take paths, and a check is to be quick.
    return load_config(*(None if given is None else Path(given) for given in (specs, output, templates)))


def _build_command(specs: str | None, output: str | None, templates: str | None) -> str:
    """The call that builds what a command was asked about."""
    options = [("-o", output), ("--templates", templates)]
    given = [specs] if specs is not None else []
    return shlex.join(["sparank-gen", "build", *given, *(word for flag, value in options if value is not None for word in (flag, value))])


def _show(differences: tuple[Difference, ...]) -> None:
    for difference in differences:
        typer.echo(f"{difference.path} {KINDS[difference.kind]}")
        if difference.diff:
            typer.echo(difference.diff)


def _describe(move: GoldenMove, verb: str) -> str:
    how = "its sizes or cases differ" if move.distance is None else f"numbers moved by up to {move.distance:.3g}"
    return f"{verb} {move.path}: {how}"


def _fail(error: Exception) -> NoReturn:
    """Report an error of the input or the call; anything else is a bug, and keeps its traceback."""
    from sparank_gen.project.generate import SpecErrors

    if not isinstance(error, (SpecErrors, UsageError, OSError)):
        raise error
    typer.echo(str(error) if isinstance(error, SpecErrors) else f"error: {error}", err=True)
    raise typer.Exit(2)


def main() -> None:
    """The entry point."""
    app(prog_name="sparank-gen")


