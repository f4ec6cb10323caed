"""`guardrail records`: what was refused, who stands where. No text is shown but by `show --reveal`, which is noted."""

from __future__ import annotations

import getpass
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, ParamSpec

import typer

from guardrail.errors import GuardrailError, RecordError

if TYPE_CHECKING:
    from rich.console import Console
    from sqlalchemy import Connection

app = typer.Typer(
    help="Look at incidents and standings, open sealed excerpts, lift sanctions. No text is shown unless asked for.",
    no_args_is_help=True,
)

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


def _plain_errors(command: Callable[P, None]) -> Callable[P, None]:
    """End with one clear line: 1 where something does not verify, 2 for anything else that was asked wrongly."""

    @wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        from sqlalchemy.exc import DatabaseError

        try:
            command(*args, **kwargs)
        except RecordError as error:
            _fail(str(error), code=1)
        except GuardrailError as error:
            _fail(str(error))
        except DatabaseError as error:
            _fail(f"the database cannot be read ({error.orig}); expected one that guardrail made")

    return guarded


@app.command("list")
@_plain_errors
def list_(
    subject: Annotated[
        str | None, typer.Option(help="Only of this subject (the beginning of its key will do).")
    ] = None,
    category: Annotated[str | None, typer.Option(help="Only with a match of this category.")] = None,
    rule: Annotated[str | None, typer.Option(help="Only with a match of this rule, or of this policy's rules.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Only since then: 24h, 7d, 2026-11-25 or 2026-11-25T08:00Z.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest first.")] = 50,
    as_json: AsJson = False,
    as_lines: AsLines = False,
    state_dir: StateDir = STATE,
    database_url: DatabaseUrl = None,
) -> None:
    """List incidents, the newest first: ids, times, rules, where in the text, lengths and subjects. Never any text."""
    from guardrail.stores.queries import find_incidents

    after = None if since is None else _moment(since)
    with _database(state_dir, database_url) as connection:
        rows = find_incidents(
            connection, subject=subject, category=category, rule=rule, since=after, limit=limit
        )  # fmt: skip
        shown = (_shown(row) for row in rows)
        if as_lines:
            for row in shown:
                typer.echo(json.dumps(row))
            return
        listed = list(shown)
    if as_json:
        typer.echo(json.dumps(listed, indent=2))
        return
    _table(
        ("incident", "time", "action", "subject", "rules", "where", "length", "count", "strike"),
        [
            (
                row["id"],
                row["at"],
                row["action"],
                row["subject"][:12],
                "\n".join(hit["rule"] for hit in row["hits"]) or "\n".join(row["failures"]),
                "\n".join(f"{hit['segment']}:{hit['start']}-{hit['end']}" for hit in row["hits"]),
                str(row["length"]),
                str(row["count"]),
                "yes" if row["strike"] else "",
            )
            for row in listed
        ],
        empty="no incidents",
    )


@app.command()
@_plain_errors
def show(
    incident: Annotated[str, typer.Argument(help="The incident's id.")],
    reveal: Annotated[
        bool, typer.Option("--reveal", help="Open the sealed excerpt. Needs --reason; is noted.")
    ] = False,
    reason: Reason = None,
    as_json: AsJson = False,
    state_dir: StateDir = STATE,
    database_url: DatabaseUrl = None,
    keys_dir: Annotated[
        Path | None,
        typer.Option(envvar="GUARDRAIL_KEYS_DIR", help="Folder of the keys [default: keys in the state folder]."),
    ] = None,
) -> None:
    """Show one incident. With --reveal and a reason also the excerpt that was sealed: who opened it and why is kept."""
    from guardrail.stores.queries import note_access, read_incident

    if reveal and not (reason or "").strip():
        _fail("--reveal needs --reason: why the excerpt is opened, which is kept with your name")
    with _database(state_dir, database_url) as connection:
        row = read_incident(connection, incident)
    if row is None:
        _fail(f"no incident {incident!r}; `guardrail records list` shows those there are")
    shown = _shown(row)
    if reveal:
        from guardrail.records.keys import Keyring

        folder = keys_dir if keys_dir is not None else state_dir / "keys"
        opened = Keyring.open(folder, make=False).sealer.open(row["sealed"], row["id"], row["seal_key"])
        with _database(state_dir, database_url, write=True) as connection:
            # Noted before it is shown: a look that cannot be written down is not given.
            note_access(
                connection, at=time.time(), by=_who(), what="reveal", incident=row["id"], reason=(reason or "").strip()
            )
        shown["excerpt"] = opened.decode("utf-8", "replace")
    if as_json:
        typer.echo(json.dumps(shown, indent=2, ensure_ascii=not reveal))
        return
    console = _console()
    for name, value in shown.items():
        if name == "hits":
            for hit in value:
                place = f"segment {hit['segment']}, characters {hit['start']} to {hit['end']}"
                console.print(f"{'match':>12}  {hit['rule']} ({hit['detector']}, {hit['score']:.3f}): {place}")
        elif value not in (None, []):
            console.print(f"{name:>12}  {_inert(', '.join(value) if isinstance(value, list) else str(value))}")


@app.command()
@_plain_errors
def subjects(
    as_json: AsJson = False,
    as_lines: AsLines = False,
    state_dir: StateDir = STATE,
    database_url: DatabaseUrl = None,
) -> None:
    """Show where subjects stand now: sanctions in force, strikes that count, suspensions that are remembered."""
    from guardrail.core.sanctions import Ladder
    from guardrail.stores.queries import standings

    with _database(state_dir, database_url) as connection:
        found = standings(connection, Ladder(), time.time())
    rows = [
        {
            "subject": subject.key,
            "tenant": subject.tenant,
            "identity": subject.kind,
            "shared": subject.shared,
            "step": standing.step.word,
            "until": None if standing.until is None else _iso(standing.until),
            "incident": standing.incident,
            "strikes_in_a_row": standing.row,
            "strikes_in_a_day": standing.day,
            "suspensions": standing.suspensions,
        }
        for subject, standing in found
    ]
    if as_lines:
        for row in rows:
            typer.echo(json.dumps(row))
    elif as_json:
        typer.echo(json.dumps(rows, indent=2))
    else:
        _table(
            ("subject", "tenant", "identity", "step", "until", "incident", "row", "day", "suspensions"),
            [
                (
                    str(row["subject"]), str(row["tenant"]), str(row["identity"]), str(row["step"]),
                    str(row["until"] or ""), str(row["incident"] or ""), str(row["strikes_in_a_row"]),
                    str(row["strikes_in_a_day"]), str(row["suspensions"]),
                )
                for row in rows
            ],
            empty="everyone is in good standing",
        )  # fmt: skip


@app.command()
@_plain_errors
def lift(
    subject: Annotated[str, typer.Argument(help="The subject's key, or its beginning (8 digits or more).")],
    reason: Reason = None,
    tenant: Annotated[str | None, typer.Option(help="Only a subject of this tenant.")] = None,
    state_dir: StateDir = STATE,
    database_url: DatabaseUrl = None,
) -> None:
    """End what is in force against a subject and clear its strikes. The ledger keeps what was, who lifted it and why.

    Running workers see it within half a second.
    """
    from guardrail.core.sanctions import Ladder, Lifted, Step
    from guardrail.stores.queries import enter, find_subjects

    if not (reason or "").strip():
        _fail("--reason is needed: why the sanction is lifted, which is kept with your name")
    if len(subject) < 8:
        _fail(f"{subject!r} is too short; expected 8 digits of the subject's key or more")
    with _database(state_dir, database_url, write=True) as connection:
        found = find_subjects(connection, subject, tenant)
        if not found:
            _fail(f"no subject begins with {subject!r}; `guardrail records subjects` shows those there are")
        if len(found) > 1:
            _fail(f"several subjects begin with {subject!r}; expected more digits, or --tenant")
        entry = Lifted(time.time(), _who(), (reason or "").strip())
        before, _ = enter(connection, found[0], entry, Ladder())
    what = "nothing was in force" if before.step is Step.NONE else f"{before.step.word} lifted"
    typer.echo(f"{found[0].key}: {what}; strikes cleared")


@contextmanager
def _database(state_dir: Path, url: str | None, *, write: bool = False) -> Iterator[Connection]:
    """One transaction on the database, which only reads unless it must write."""
    from guardrail.stores import migrations
    from guardrail.stores.engine import database_file, default_url, open_engine

    url = url or default_url(state_dir)
    file = database_file(url)
    if not file.is_file():
        _fail(f"no database at {file}; expected --state-dir or --database-url of a service that has run")
    engine = open_engine(url, patience=10.0, read_only=not write)
    try:
        with engine.begin() as connection:
            found = migrations.revision(connection)
            if found != migrations.HEAD:
                _fail(f"{file} is at revision {found}; expected {migrations.HEAD} (a start of the service upgrades it)")
            yield connection
    finally:
        engine.dispose()


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """What may be shown of an incident's row."""
    return {
        "id": row["id"],
        "at": _iso(row["at"]),
        "count": row["count"],
        "last_at": _iso(row["last_at"]),
        "action": row["action"],
        "strike": row["strike"],
        "tenant": row["tenant"],
        "subject": row["subject"],
        "identity": row["identity"],
        "surface": row["surface"],
        "direction": row["direction"],
        "request_id": row["request_id"],
        "hits": row["hits"],
        "failures": row["failures"],
        "length": row["length"],
        "policies": row["policies"],
    }


def _moment(written: str) -> float:
    """POSIX seconds of `24h`, `7d` ago, or of a date or time of ISO 8601 (UTC where it names no zone)."""
    units = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
    if ago := re.fullmatch(r"(\d{1,5})([mhdw])", written):
        return time.time() - timedelta(**{units[ago[2]]: int(ago[1])}).total_seconds()
    try:
        moment = datetime.fromisoformat(written)
    except ValueError:
        _fail(f"--since is {written!r}; expected 90m, 24h, 7d, 2w, 2026-11-25 or 2026-11-25T08:00Z")
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def _console() -> Console:
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    # Piped into another program nothing may be folded or cut.
    return console if console.is_terminal else Console(highlight=False, markup=False, width=400)


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]], *, empty: str) -> None:
    from rich.table import Table

    if not rows:
        typer.echo(empty)
        return
    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*map(_inert, row))
    _console().print(table)


def _inert(text: str) -> str:
    """Text that a terminal only shows: what a client sent may hold sequences that make it do other things."""
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode() for char in text
    )


def _fail(message: str, code: int = 2) -> NoReturn:
    typer.echo(f"guardrail records: {message}", err=True)
    raise typer.Exit(code)
