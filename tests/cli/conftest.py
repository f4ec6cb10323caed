"""The command line as it is called, in this process: its exit code, and what it printed."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from guardrail import cli
from tests.house import write_settings


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


Invoke = Callable[..., Ended]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the tests' own policy and settings; no settings of whoever runs the tests."""
    for name in os.environ:
        if name.startswith("GUARDRAIL_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "200")
    write_settings(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def invoke(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Invoke:
    """Run `guardrail ARGUMENTS` under `home`; `given` is its standard input."""

    def call(*arguments: str, given: str = "") -> Ended:
        monkeypatch.setattr(sys, "argv", ["guardrail", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO(given))
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1 if ended.code else 0
        printed = capsys.readouterr()
        return Ended(code, printed.out, printed.err)

    return call
