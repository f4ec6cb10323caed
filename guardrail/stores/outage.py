"""What an outage of the database needs: which errors are one, tasks as the journal keeps them, and their replay."""

from __future__ import annotations

import secrets
import sqlite3
from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError

from guardrail.core.admission import Subject
from guardrail.core.sanctions import Allowed, Ladder
from guardrail.errors import StoreError
from guardrail.stores.ledger import Writing
from guardrail.stores.rows import Refusal, entry_of, entry_row
from guardrail.stores.tasks import Allow, Enter, Refuse

Item = dict[str, Any]


def away(error: Exception) -> bool:
    """Whether it is the database that failed, and not what was to be written."""
    if isinstance(error, IntegrityError | DataError | ProgrammingError):
        return False
    return isinstance(error, DBAPIError | sqlite3.Error | OSError)


def reason(error: BaseException) -> str:
    """What went wrong, without the statement and its parameters, which SQLAlchemy would print."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        return f"{type(error.orig).__name__}: {error.orig}"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return type(error).__name__


def unwritable(error: Exception) -> StoreError:
    """What someone is told whose record no database would take."""
    refused = StoreError(f"the record cannot be written ({reason(error)})")
    refused.__cause__ = error
    return refused


def to_item(task: Refuse | Enter | Allow, made: Refusal | None) -> Item:
    """A task as the journal keeps it; `made` is the row of a refusal. What has no id of its own is given a key."""
    if made is not None:
        row = made.row | {"sealed": b64encode(made.row["sealed"]).decode()}
        return {"verb": "refuse", "subject": list(made.subject), "row": row, "strike": made.strike}
    assert not isinstance(task, Refuse)
    entry = Allowed(task.at) if isinstance(task, Allow) else task.entry
    key = f"j:{secrets.token_hex(12)}"
    return {"verb": "enter", "subject": list(task.subject), "entry": entry_row(task.subject, entry), "key": key}


def replay(connection: Connection, ladder: Ladder, items: Sequence[Item]) -> None:
    """Write items in the transaction that is open; those that are there already stay as they are."""
    refusals = [_refusal(item) for item in items if item["verb"] == "refuse"]
    unread = iter(refusals)
    writing = Writing(connection, ladder, refusals, again=True)
    for item in items:
        subject = Subject(*item["subject"])
        if item["verb"] == "refuse":
            writing.refuse(next(unread))
        elif not writing.entered(item["key"]):
            entry = entry_of(item["entry"])
            if isinstance(entry, Allowed):
                writing.allow(subject, entry, item["key"])
            elif entry is not None:
                writing.enter(subject, entry, item["key"])
    writing.flush()


def _refusal(item: Item) -> Refusal:
    row = item["row"] | {"sealed": b64decode(item["row"]["sealed"])}
    return Refusal(Subject(*item["subject"]), row, item["strike"])
