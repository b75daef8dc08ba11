"""A project in a folder of its own, and the command line in this process."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from click.testing import Result
from typer.testing import CliRunner

from sparank_gen import cli

REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Project:
    """A project in a folder of its own."""

    root: Path

    @property
    def specs(self) -> Path:
        return self.root / "specs"

    @property
    def templates(self) -> Path:
        return self.root / "templates"

    @property
    def output(self) -> Path:
        return self.root / "generated"

    def run(self, command: str, *options: str, code: int | None = 0) -> Result:
        """Run a command on this project's specs, with its templates where it has some, and require its exit code."""
        own = ("--templates", str(self.templates)) if self.templates.exists() else ()
        return invoke(command, str(self.specs), *own, *options, code=code)

    def edit(self, path: str, old: str, new: str) -> None:
        """Replace text in a file of the project."""
        file = self.root / path
        text = file.read_text(encoding="utf-8")
        assert old in text
        file.write_text(text.replace(old, new), encoding="utf-8")

    def snapshot(self) -> dict[str, tuple[int, int, bytes]]:
        """Place, time and content of every file of the output folder."""
        files = sorted(path for path in self.output.rglob("*") if path.is_file())
        return {str(p.relative_to(self.output)): (p.stat().st_ino, p.stat().st_mtime_ns, p.read_bytes()) for p in files}

    def content(self) -> dict[str, bytes]:
        """Content of every file of the output folder."""
        return {path: content for path, (_, _, content) in self.snapshot().items()}

    def own(self, entry: str, content: bytes) -> None:
        """Make the manifest claim a file of this content."""
        path = self.output / "manifest.json"
        manifest = json.loads(path.read_text(encoding="utf-8"))
        manifest["files"][entry] = hashlib.sha256(content).hexdigest()
        path.write_text(json.dumps(manifest), encoding="utf-8")


def invoke(*arguments: str, code: int | None) -> Result:
    """Run the command line in this process, and require an exit code unless it is None.

    An error must be one clear message on stderr, and no traceback. Unless the call names a number of jobs there is no
    other process, which would not know the texts that this one formatted before.
    """
    first, *others = arguments
    alone = ["--jobs=1"] if first in ("build", "check") else []
    result = CliRunner().invoke(cli.app, [first, *alone, *others])
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert code is None or result.exit_code == code, result.output
    assert bool(result.stderr) == (result.exit_code == 2)
    return result
