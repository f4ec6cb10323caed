"""`guardrail records`: what was refused, who stands where. No text is shown but by `show --reveal`, which is noted."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from guardrail.cli.appeals import decide, list_appeals, shown_appeal
from guardrail.cli.recordkeeping import (
    STATE,
    AsJson,
    AsLines,
    DatabaseUrl,
    Reason,
    StateDir,
    console,
    fail,
    inert,
    iso,
    open_database,
    plain_errors,
    table,
    who,
)
from guardrail.cli.reviewed import export_cases

app = typer.Typer(
    help="Look at incidents, standings and appeals; open what is sealed, decide, lift. No text unless asked for.",
    no_args_is_help=True,
)
app.command("appeals")(list_appeals)
app.command()(decide)
app.command("export-cases")(export_cases)


@app.command("list")
@plain_errors
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
    with open_database(state_dir, database_url) as connection:
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
    table(
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
@plain_errors
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
    """Show one incident and its appeals. With --reveal and a reason also what was sealed, the excerpt and what the
    appeals say: who opened it and why is kept."""
    from guardrail.stores.appeals import read_appeals, read_statement
    from guardrail.stores.queries import note_access, read_incident

    if reveal and not (reason or "").strip():
        fail("--reveal needs --reason: why the excerpt is opened, which is kept with your name")
    with open_database(state_dir, database_url) as connection:
        row = read_incident(connection, incident)
        appeals = [shown_appeal(appeal) for appeal in read_appeals(connection, incident=incident)]
    if row is None:
        fail(f"no incident {incident!r}; `guardrail records list` shows those there are")
    shown = _shown(row) | {"appeals": appeals}
    if reveal:
        from guardrail.records.keys import Keyring

        folder = keys_dir if keys_dir is not None else state_dir / "keys"
        sealer = Keyring.open(folder, make=False).sealer
        opened = sealer.open(row["sealed"], row["id"], row["seal_key"])
        with open_database(state_dir, database_url, write=True) as connection:
            # Noted before it is shown: a look that cannot be written down is not given.
            note_access(
                connection, at=time.time(), by=who(), what="reveal", incident=row["id"], reason=(reason or "").strip()
            )
            for appeal in appeals:
                appeal["statement"] = read_statement(connection, appeal["id"], sealer)
        shown["excerpt"] = opened.decode("utf-8", "replace")
    if as_json:
        typer.echo(json.dumps(shown, indent=2, ensure_ascii=not reveal))
        return
    screen = console()
    for name, value in shown.items():
        if name == "hits":
            for hit in value:
                place = f"segment {hit['segment']}, characters {hit['start']} to {hit['end']}"
                screen.print(f"{'match':>12}  {hit['rule']} ({hit['detector']}, {hit['score']:.3f}): {place}")
        elif name == "appeals":
            for appeal in value:
                decided = f", {appeal['decided_at']} by {appeal['decided_by']}" if appeal["decided_at"] else ""
                screen.print(inert(f"{'appeal':>12}  {appeal['id']} of {appeal['at']}: {appeal['state']}{decided}"))
                if "statement" in appeal:
                    screen.print(inert(f"{'statement':>12}  {appeal['statement']}"))
        elif value not in (None, []):
            screen.print(f"{name:>12}  {inert(', '.join(value) if isinstance(value, list) else str(value))}")


@app.command()
@plain_errors
def subjects(
    as_json: AsJson = False,
    as_lines: AsLines = False,
    state_dir: StateDir = STATE,
    database_url: DatabaseUrl = None,
) -> None:
    """Show where subjects stand now: sanctions in force, strikes that count, suspensions that are remembered."""
    from guardrail.core.sanctions import Ladder
    from guardrail.stores.queries import standings

    with open_database(state_dir, database_url) as connection:
        found = standings(connection, Ladder(), time.time())
    rows = [
        {
            "subject": subject.key,
            "tenant": subject.tenant,
            "identity": subject.kind,
            "shared": subject.shared,
            "step": standing.step.word,
            "until": None if standing.until is None else iso(standing.until),
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
        table(
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
@plain_errors
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
        fail("--reason is needed: why the sanction is lifted, which is kept with your name")
    if len(subject) < 8:
        fail(f"{subject!r} is too short; expected 8 digits of the subject's key or more")
    with open_database(state_dir, database_url, write=True) as connection:
        found = find_subjects(connection, subject, tenant)
        if not found:
            fail(f"no subject begins with {subject!r}; `guardrail records subjects` shows those there are")
        if len(found) > 1:
            fail(f"several subjects begin with {subject!r}; expected more digits, or --tenant")
        entry = Lifted(time.time(), who(), (reason or "").strip())
        before, _ = enter(connection, found[0], entry, Ladder())
    what = "nothing was in force" if before.step is Step.NONE else f"{before.step.word} lifted"
    typer.echo(f"{found[0].key}: {what}; strikes cleared")


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """What may be shown of an incident's row."""
    return {
        "id": row["id"],
        "at": iso(row["at"]),
        "count": row["count"],
        "last_at": iso(row["last_at"]),
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
        fail(f"--since is {written!r}; expected 90m, 24h, 7d, 2w, 2026-11-25 or 2026-11-25T08:00Z")
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
