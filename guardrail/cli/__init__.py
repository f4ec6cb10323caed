"""The command `guardrail`: each subcommand answers --help, and ends non-zero with one clear line on bad input.

Exit codes: 0 done (a blocked text too), 1 a check or verification failed, 2 bad usage or input.
"""

from __future__ import annotations

import sys

import typer

from guardrail.errors import GuardrailError

app = typer.Typer(
    name="guardrail",
    help="Runtime guardrail for services built on generative models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line."""
    if not app.registered_commands:
        register(app)
    try:
        app(prog_name="guardrail")
    except GuardrailError as error:
        typer.echo(f"guardrail: {error}", err=True)
        sys.exit(2)


def register(target: typer.Typer) -> None:
    """Hang every subcommand on `target`; importing this module alone stays quick."""
    from guardrail.cli.check import check
    from guardrail.cli.evaluate import evaluate
    from guardrail.cli.records import app as records
    from guardrail.cli.screen import screen
    from guardrail.cli.serve import serve
    from guardrail.cli.serve_classifier import serve_classifier
    from guardrail.cli.train import train

    for command in (serve, serve_classifier, check, screen, evaluate, train):
        target.command()(command)
    target.add_typer(records, name="records")
