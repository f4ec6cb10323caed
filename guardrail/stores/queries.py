"""What people ask of the records: incidents by filter, one incident, who stands where. Reads; the few writes say so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from sqlalchemy import Connection, insert, select

from guardrail.core.admission import Subject
from guardrail.core.sanctions import Entry, Ladder, Standing, standing
from guardrail.stores.ledger import Writing, live_keys, read_history
from guardrail.stores.mirror import GOOD
from guardrail.stores.rows import Row
from guardrail.stores.tables import accesses, incidents, ledger

_SHOWN = [column for column in incidents.c if column.name not in ("sealed", "seal_key", "digest")]


class Stands(NamedTuple):
    """A subject with something that counts against it."""

    subject: Subject
    standing: Standing


def find_incidents(
    connection: Connection, *, subject: str | None = None, category: str | None = None, rule: str | None = None,
    since: float | None = None, limit: int = 50,
) -> Iterator[Row]:  # fmt: skip
    """Incidents, the newest first, without what was sealed.

    `subject` may be the beginning of a key; `rule` a full id or the beginning of one up to a slash.
    """
    # By time: an incident that nobody waits for is written after refusals that came later.
    query = select(*_SHOWN).order_by(incidents.c.at.desc(), incidents.c.seq.desc())
    if subject is not None:
        query = query.where(incidents.c.subject.startswith(subject, autoescape=True))
    if since is not None:
        query = query.where(incidents.c.last_at >= since)
    found = 0
    for row in connection.execute(query.execution_options(yield_per=200)).mappings():
        if found == limit:
            return
        hits = row["hits"]
        if category is not None and not any(hit["category"] == category for hit in hits):
            continue
        if rule is not None and not any(f"{hit['rule']}/".startswith(f"{rule.rstrip('/')}/") for hit in hits):
            continue
        found += 1
        yield dict(row)


def read_incident(connection: Connection, ident: str) -> Row | None:
    """One incident with its sealed excerpt."""
    row = connection.execute(select(incidents).where(incidents.c.id == ident)).mappings().first()
    return None if row is None else dict(row)


def note_access(connection: Connection, *, at: float, by: str, what: str, incident: str, reason: str) -> None:
    """Write down that someone opened a sealed excerpt, and why."""
    row = {"at": at, "by": by, "what": what, "incident": incident, "reason": reason}
    connection.execute(insert(accesses), row)


def standings(connection: Connection, ladder: Ladder, at: float) -> list[Stands]:
    """Every subject with a sanction in force, strikes that count or suspensions that are remembered."""
    found = []
    for key in live_keys(connection, ladder, at):
        where = standing(read_history(connection, key), ladder, at)
        subject = ledger_subject(connection, key[0], key[1])
        if where != GOOD and subject is not None:
            found.append(Stands(subject, where))
    found.sort(key=lambda stands: (-stands.standing.step, stands.subject))
    return found


def find_subjects(connection: Connection, key: str, tenant: str | None = None, most: int = 3) -> list[Subject]:
    """The subjects of the ledger whose key begins with `key`: at most `most` of them."""
    query = select(ledger.c.tenant, ledger.c.subject).distinct().limit(most)
    query = query.where(ledger.c.subject.startswith(key, autoescape=True))
    if tenant is not None:
        query = query.where(ledger.c.tenant == tenant)
    found = (ledger_subject(connection, *pair) for pair in connection.execute(query).all())
    return [subject for subject in found if subject is not None]


def enter(connection: Connection, subject: Subject, entry: Entry, ladder: Ladder) -> tuple[Standing, Standing]:
    """Append a person's decision to the ledger; returns the standing before and after it."""
    writing = Writing(connection, ladder)
    before = writing.standing(subject, entry.at)
    writing.enter(subject, entry)
    writing.flush()
    return before, writing.standing(subject, entry.at)


def ledger_subject(connection: Connection, tenant: str, key: str) -> Subject | None:
    """The subject with this key, as its last ledger entry knows it; none without an entry."""
    query = select(ledger.c.identity, ledger.c.shared).where(ledger.c.tenant == tenant, ledger.c.subject == key)
    row: Any = connection.execute(query.order_by(ledger.c.id.desc()).limit(1)).first()
    return None if row is None else Subject(tenant, key, row.identity, bool(row.shared))
