"""The demo trains every mode and prints its table."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from sparank_fusion import list_modes

DEMO = Path(__file__).parent / "demo" / "wisconsin.py"


def test_every_mode_has_a_row(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    spec = importlib.util.spec_from_file_location("wisconsin", DEMO)
    assert spec is not None and spec.loader is not None
    demo = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "wisconsin", demo)
    spec.loader.exec_module(demo)
    monkeypatch.setattr(demo, "EPOCHS", 1)
    monkeypatch.setattr(sys, "argv", ["wisconsin.py", "--seeds", "2"])
    demo.main()
    torch.set_num_threads(threads)
    rows = [line.split()[0].rstrip("*") for line in capsys.readouterr().out.splitlines() if "±" in line]
    assert rows[: len(list_modes())] == list(list_modes())
