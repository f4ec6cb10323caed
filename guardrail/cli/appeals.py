"""`guardrail records appeals` and `decide`: what people object to, and what a person decides about it."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guardrail.cli.recordkeeping import (
    STATE,
    AsJson,
    DatabaseUrl,
    StateDir,
    fail,
    inert,
    iso,
    open_database,
    plain_errors,
    table,
    who,
)

if TYPE_CHECKING:
    from guardrail.core.appeals import Appeal

MOST_NAME = 128
"""Characters of a person's name in the records."""


@plain_errors
def list_appeals(
    everything: Annotated[bool, typer.Option("--all", help="Also those that are decided.")] = False,
    as_json: AsJson = False,
    state_dir: StateDir = STATE,
    database_url: DatabaseUrl = None,
) -> None:
    """List the appeals that wait for a decision, the oldest first. What they say is in `show INCIDENT --reveal`."""
    from guardrail.core.appeals import State
    from guardrail.stores.appeals import read_appeals

    with open_database(state_dir, database_url) as connection:
        found = [shown_appeal(each) for each in read_appeals(connection, state=None if everything else State.FILED)]
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    table(
        ("appeal", "filed", "incident", "subject", "state", "decided", "by", "reason"),
        [
            (
                each["id"], each["at"], each["incident"], each["subject"][:12], each["state"],
                each["decided_at"] or "", each["decided_by"] or "", each["reason"] or "",
            )
            for each in found
        ],
        empty="no appeals" if everything else "no open appeals",
    )  # fmt: skip


@plain_errors
def decide(
    appeal: Annotated[str, typer.Argument(help="The appeal's id, as `guardrail records appeals` shows it.")],
    grant: Annotated[
        bool | None, typer.Option("--grant/--deny", help="Whether the appeal is right. One of the two is needed.")
    ] = None,
    reason: Annotated[str | None, typer.Option("--reason", help="Why; the person who appealed reads it.")] = None,
    by: Annotated[str | None, typer.Option("--by", help="Who decides [default: your login name].")] = None,
    state_dir: StateDir = STATE,
    database_url: DatabaseUrl = None,
) -> None:
    """Grant or deny an appeal. Granting voids the strike and undoes what rested on it; the record of it is kept.

    Whoever imposed the sanction, or denied an earlier appeal against the incident, cannot decide. Running workers see
    it within half a second.
    """
    from guardrail.core.appeals import Ruling
    from guardrail.core.sanctions import Ladder
    from guardrail.stores.appeals import decide_appeal
    from guardrail.stores.ledger import Writing

    if grant is None:
        fail("--grant or --deny is needed: what is decided about the appeal")
    if not (reason or "").strip():
        fail("--reason is needed: why, which the person who appealed reads")
    decider = (by or "").strip() or who()
    if len(decider) > MOST_NAME:
        fail(f"--by is {len(decider)} characters long; expected {MOST_NAME} at most")
    ruling = Ruling.GRANT if grant else Ruling.DENY
    with open_database(state_dir, database_url, write=True) as connection:
        writing = Writing(connection, Ladder())
        decided = decide_appeal(
            connection, writing, appeal, ruling, at=time.time(), by=decider, reason=(reason or "").strip()
        )
        standing = writing.standing(decided.subject, time.time())
        writing.flush()
    typer.echo(
        f"{decided.id}: {decided.state.value} by {inert(decided.decided_by)}; "
        f"in force against {decided.subject.key}: {standing.step.word}"
    )


def shown_appeal(appeal: Appeal) -> dict[str, Any]:
    """What may be shown of an appeal."""
    return {
        "id": appeal.id,
        "at": iso(appeal.at),
        "incident": appeal.incident,
        "tenant": appeal.subject.tenant,
        "subject": appeal.subject.key,
        "state": appeal.state.value,
        "decided_at": None if appeal.decided_at is None else iso(appeal.decided_at),
        "decided_by": appeal.decided_by or None,
        "reason": appeal.reason or None,
    }
