"""What the commands about records share: opening the database, failing clearly, showing times and tables."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, ParamSpec

import typer

from guardrail.errors import GuardrailError, RecordError

if TYPE_CHECKING:
    from rich.console import Console
    from sqlalchemy import Connection

P = ParamSpec("P")

StateDir = Annotated[
    Path, typer.Option("--state-dir", envvar="GUARDRAIL_STATE_DIR", help="Folder of the database and the keys.")
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database-url", envvar="GUARDRAIL_DATABASE_URL", help="Database [default: guardrail.db in the state folder]."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document.")]
AsLines = Annotated[bool, typer.Option("--jsonl", help="One JSON object a line.")]
Reason = Annotated[str | None, typer.Option("--reason", help="Why; kept with your name.")]
STATE = Path("state")


def plain_errors(command: Callable[P, None]) -> Callable[P, None]:
    """End with one clear line: 1 where something does not verify, 2 for anything else that was asked wrongly."""

    @wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        from sqlalchemy.exc import DatabaseError

        try:
            command(*args, **kwargs)
        except RecordError as error:
            fail(str(error), code=1)
        except GuardrailError as error:
            fail(str(error))
        except DatabaseError as error:
            fail(f"the database cannot be read ({error.orig}); expected one that guardrail made")

    return guarded


@contextmanager
def open_database(state_dir: Path, url: str | None, *, write: bool = False) -> Iterator[Connection]:
    """One transaction on the database, which only reads unless it must write."""
    from guardrail.stores import migrations
    from guardrail.stores.engine import database_file, default_url, open_engine

    url = url or default_url(state_dir)
    file = database_file(url)
    if not file.is_file():
        fail(f"no database at {file}; expected --state-dir or --database-url of a service that has run")
    engine = open_engine(url, patience=10.0, read_only=not write)
    try:
        with engine.begin() as connection:
            found = migrations.revision(connection)
            if found != migrations.HEAD:
                fail(f"{file} is at revision {found}; expected {migrations.HEAD} (a start of the service upgrades it)")
            yield connection
    finally:
        engine.dispose()


def iso(at: float) -> str:
    """A time (POSIX seconds) in ISO 8601, UTC."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def who() -> str:
    """The login name of whoever runs the command."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def console() -> Console:
    """Where people read; markup in what is shown means nothing."""
    from rich.console import Console

    made = Console(highlight=False, markup=False)
    # Piped into another program nothing may be folded or cut.
    return made if made.is_terminal else Console(highlight=False, markup=False, width=400)


def table(columns: tuple[str, ...], rows: list[tuple[str, ...]], *, empty: str) -> None:
    """Print rows under columns, or say that there are none."""
    from rich.table import Table

    if not rows:
        typer.echo(empty)
        return
    made = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        made.add_row(*map(inert, row))
    console().print(made)


def inert(text: str) -> str:
    """Text that a terminal only shows: what a client sent may hold sequences that make it do other things."""
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode() for char in text
    )


def fail(message: str, code: int = 2) -> NoReturn:
    """End the command with one line on what is wrong."""
    typer.echo(f"guardrail records: {message}", err=True)
    raise typer.Exit(code)
