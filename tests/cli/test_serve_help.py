"""The command line's own manners: each command explains itself, quickly, and turns bad usage down with 2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer

from guardrail.cli import register
from tests.cli.conftest import Invoke
from tests.house import environment


def commands() -> list[tuple[str, ...]]:
    """Every command and subcommand there is."""
    app = typer.Typer(add_completion=False)
    register(app)
    found: list[tuple[str, ...]] = []

    def walk(command: click.Command, path: tuple[str, ...]) -> None:
        found.append(path)
        for name, below in getattr(command, "commands", {}).items():
            walk(below, (*path, name))

    walk(typer.main.get_command(app), ())
    return found


def test_the_commands_are_the_documented_ones() -> None:
    assert {path[0] for path in commands() if path} >= {"serve", "check", "screen", "evaluate", "train", "records"}


@pytest.mark.parametrize("path", commands(), ids=" ".join)
def test_each_command_explains_itself_and_every_option(path: tuple[str, ...], invoke: Invoke) -> None:
    ended = invoke(*path, "--help")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.lstrip().startswith("Usage: guardrail")
    app = typer.Typer(add_completion=False)
    register(app)
    command = typer.main.get_command(app)
    for name in path:
        command = command.commands[name]  # type: ignore[attr-defined]
    assert command.help or not path, "a command says what it does"
    for parameter in command.params:
        assert max(parameter.opts, key=len) in ended.out or str(parameter.name) in ended.out
        assert parameter.name == "help" or getattr(parameter, "help", None), f"{parameter.name} says what it is for"


@pytest.mark.parametrize(
    "arguments",
    [("nope",), ("serve", "--nope"), ("serve", "extra"), ("screen", "a", "b"), ("serve", "--log-level", "loud")],
)
def test_bad_usage_ends_with_2_and_says_what_is_wrong(arguments: tuple[str, ...], invoke: Invoke) -> None:
    ended = invoke(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert arguments[-1] in ended.err
    assert "Traceback" not in ended.err


def test_help_loads_no_model_library(home: Path) -> None:
    code = (
        "import sys; from guardrail.cli import main; sys.argv = ['guardrail', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'presidio_analyzer', 'spacy', 'sklearn', 'sqlalchemy', 'aiohttp'}\n"
        "sys.exit(f'loaded: {sorted(heavy & set(sys.modules))}' if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=home, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
