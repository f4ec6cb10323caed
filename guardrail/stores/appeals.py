"""Appeals in the database: file, read, decide. What a decision undoes is written in the same transaction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, insert, select, update

from guardrail.core.admission import Subject
from guardrail.core.appeals import Appeal, Ruling, State, barred, decide, file, remedies
from guardrail.core.incidents import Incident
from guardrail.errors import CaseError
from guardrail.stores.ledger import Writing
from guardrail.stores.queries import ledger_subject
from guardrail.stores.rows import Row, Sealer, incident_of
from guardrail.stores.tables import appeals, incidents, ledger

_SHOWN = [column for column in appeals.c if column.name not in ("sealed", "seal_key")]


def read_appeals(
    connection: Connection, *, ident: str | None = None, incident: str | None = None, state: State | None = None
) -> list[Appeal]:
    """Appeals in the order in which they were filed, without what was sealed; only those that fit what is given."""
    query = select(*_SHOWN).order_by(appeals.c.seq)
    for column, value in ((appeals.c.id, ident), (appeals.c.incident, incident), (appeals.c.state, state)):
        if value is not None:
            query = query.where(column == value)
    return [_appeal(row) for row in connection.execute(query).mappings()]


def read_decided(connection: Connection) -> Iterator[tuple[Row, list[Appeal]]]:
    """Incidents (with what was sealed) of which an appeal was decided, each with all appeals against it, in the order
    in which the last one was filed."""
    by_incident: dict[str, list[Appeal]] = {}
    for appeal in read_appeals(connection):
        by_incident[appeal.incident] = [*by_incident.pop(appeal.incident, []), appeal]
    for ident, filed in by_incident.items():
        if all(appeal.state is State.FILED for appeal in filed):
            continue
        row = connection.execute(select(incidents).where(incidents.c.id == ident)).mappings().first()
        if row is not None:
            yield dict(row), filed


def read_evidence(connection: Connection, ident: str) -> Incident | None:
    """One incident without its excerpt."""
    row = connection.execute(select(incidents).where(incidents.c.id == ident)).mappings().first()
    return None if row is None else incident_of(row)


def file_appeal(connection: Connection, appeal: Appeal, sealer: Sealer) -> Appeal:
    """Keep an appeal, its statement sealed, and return the one that stands then. Raises `CaseError`."""
    about = connection.execute(select(incidents.c.id).where(incidents.c.id == appeal.incident)).first()
    if about is None:
        raise CaseError(f"no incident {appeal.incident!r} to appeal against", code="unknown")
    standing = file(appeal, read_appeals(connection, incident=appeal.incident))
    if standing is appeal:
        row = {
            "id": appeal.id,
            "at": appeal.at,
            "incident": appeal.incident,
            "tenant": appeal.subject.tenant,
            "subject": appeal.subject.key,
            "identity": appeal.subject.kind,
            "state": appeal.state.value,
            "sealed": sealer.seal(appeal.statement.encode("utf-8", "surrogatepass"), appeal.id),
            "seal_key": sealer.key,
        }
        connection.execute(insert(appeals), row)
    return replace(standing, statement="")


def read_statement(connection: Connection, appeal: str, sealer: Sealer) -> str:
    """What a person wrote in an appeal. Raises `RecordError` for what does not verify, `CaseError` (`unknown`)."""
    row = connection.execute(select(appeals.c.sealed, appeals.c.seal_key).where(appeals.c.id == appeal)).first()
    if row is None:
        raise CaseError(f"no appeal {appeal!r}", code="unknown")
    return sealer.open(row.sealed, appeal, row.seal_key).decode("utf-8", "replace")


def decide_appeal(
    connection: Connection, writing: Writing, ident: str, ruling: Ruling, *, at: float, by: str, reason: str
) -> Appeal:
    """Decide an appeal, and if it is granted undo in the ledger what rested on the incident. Raises `CaseError`."""
    found = read_appeals(connection, ident=ident)
    if not found:
        raise CaseError(f"no appeal {ident!r} to decide", code="unknown")
    appeal = found[0]
    # The incident's row does not say whether the subject is shared; the ledger does, if there is anything in it.
    subject = ledger_subject(connection, *appeal.subject[:2]) or appeal.subject
    entries = writing.history(subject)
    earlier = [other for other in read_appeals(connection, incident=appeal.incident) if other.id != appeal.id]
    decided = decide(appeal, ruling, at=at, by=by, reason=reason, barred=barred(appeal, earlier, entries))
    if decided is appeal:
        return appeal
    ruled = {"state": decided.state.value, "decided_at": at, "decided_by": by, "reason": reason}
    connection.execute(update(appeals).where(appeals.c.id == ident).values(ruled))
    if decided.state is State.GRANTED:
        for entry in remedies(decided, _struck(connection, appeal), entries, at):
            writing.enter(subject, entry)
    return decided


def _struck(connection: Connection, appeal: Appeal) -> list[str]:
    """The incident under whose id the strike stands: the appealed one, or the one whose retry it was (the same text
    of the same subject under one idempotency key is one strike, of the first incident)."""
    about = (ledger.c.tenant == appeal.subject.tenant, ledger.c.subject == appeal.subject.key)
    strikes = select(ledger.c.incident).where(*about, ledger.c.kind == "strike")
    own = connection.execute(strikes.where(ledger.c.incident == appeal.incident).limit(1)).scalars().all()
    if own:
        return [str(ident) for ident in own]
    row: Any = connection.execute(select(incidents).where(incidents.c.id == appeal.incident)).first()
    if row is None or row.strike is None:
        return []
    same = (incidents.c.digest == row.digest, incidents.c.surface == row.surface, incidents.c.length == row.length)
    first = strikes.join(incidents, incidents.c.id == ledger.c.incident).where(*same, incidents.c.at <= row.at)
    found = connection.execute(first.order_by(ledger.c.id.desc()).limit(1)).scalars()
    return [str(ident) for ident in found]


def _appeal(row: Any) -> Appeal:
    return Appeal(
        id=row["id"],
        at=row["at"],
        incident=row["incident"],
        subject=Subject(row["tenant"], row["subject"], row["identity"]),
        state=State(row["state"]),
        decided_at=row["decided_at"],
        decided_by=row["decided_by"] or "",
        reason=row["reason"] or "",
    )
