"""What one write transaction does: incidents, strikes and the sanctions that follow, from the database's own rows.

Everything here runs under the write lock, so that two workers cannot both see two strikes and both miss the third.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, bindparam, case, func, insert, or_, select, update

from guardrail.core.admission import Subject
from guardrail.core.sanctions import DAY, Entry, Ladder, Standing, Step, Strike, next_sanction, standing
from guardrail.stores.mirror import FLOOD, LATEST, key_of, open_row
from guardrail.stores.rows import Key, Refusal, Row, entry_of, entry_row
from guardrail.stores.tables import incidents, ledger

# Statements are made once: putting one together costs more than running it.
_ABOUT = (ledger.c.tenant == bindparam("tenant"), ledger.c.subject == bindparam("subject"))
# Two walks of one index: a subject that many people share may have a million rows, of which few are needed.
_FLEETING = select(ledger.c.id).where(*_ABOUT, ledger.c.lasting.is_(False)).order_by(ledger.c.id.desc()).limit(LATEST)
_LASTING = select(ledger.c.id).where(*_ABOUT, ledger.c.lasting.is_(True))
_HISTORY = select(ledger).where(ledger.c.id.in_(_FLEETING.subquery().select().union_all(_LASTING)))
_HISTORY = _HISTORY.order_by(ledger.c.id)
_AFTER = select(ledger).where(ledger.c.id > bindparam("last")).order_by(ledger.c.id)
_MINUTE = (
    select(incidents.c.id)
    .where(incidents.c.tenant == bindparam("tenant"), incidents.c.subject == bindparam("subject"))
    .where(incidents.c.action == bindparam("action"))
    .where(incidents.c.at >= bindparam("begins"), incidents.c.at < bindparam("ends"))
    .order_by(incidents.c.seq.desc())
    .limit(FLOOD + 1)
)
_COUNT = (
    update(incidents)
    .where(incidents.c.id == bindparam("counted"))
    .values(count=incidents.c.count + bindparam("more"), last_at=bindparam("latest"))
)
_KEEP, _ENTER = insert(incidents), insert(ledger)


class Writing:
    """One transaction's worth of ledger and incidents: read what is there, decide, `flush` before the commit."""

    def __init__(
        self, connection: Connection, ladder: Ladder, refusals: Iterable[Refusal] = (), *, again: bool = False
    ) -> None:
        """`again`: the refusals may have been written before under the same ids, which is looked up."""
        self._connection = connection
        self._ladder = ladder
        self._histories: dict[Key, list[Entry]] = {}
        self._rows: dict[Key, float] = {}  # when the last strike of the open row was made, until an entry is added
        self._minutes: dict[tuple[str, str, str, int], tuple[int, str]] = {}
        self._incidents: list[Row] = []
        self._counted: dict[str, Row] = {}
        self._entries: list[Row] = []
        refusals = list(refusals)
        strikes = [made.strike for made in refusals if made.strike is not None and (again or made.strike != made.id)]
        self._written = self._present(incidents.c.id, [made.id for made in refusals] if again else [])
        self._struck = self._present(ledger.c.key, strikes)

    def refuse(self, refusal: Refusal) -> Standing:
        """Keep an incident and its strike, and what that calls for. Written once, however often it is asked for."""
        recorded = refusal.id
        if recorded not in self._written:
            self._written.add(recorded)
            recorded = self._keep(refusal)
        if refusal.strike is not None and refusal.strike not in self._struck:
            self._struck.add(refusal.strike)
            subject = refusal.subject
            self.enter(subject, Strike(refusal.at, recorded, refusal.row["strike"]), refusal.strike)
            history = self._histories[key_of(subject)]
            imposed = next_sanction(history, self._ladder, refusal.at, shared=subject.shared)
            if imposed is not None:
                self.enter(subject, imposed)
        return replace(self.standing(refusal.subject, refusal.at), recorded=recorded)

    def note(self, incident: Refusal) -> None:
        """Keep an incident that nobody was refused for, and that counts for nothing."""
        if incident.id not in self._written:
            self._written.add(incident.id)
            self._keep(incident)

    def allow(self, subject: Subject, entry: Entry, key: str | None = None) -> None:
        """End a row of strikes, if there is one."""
        about = key_of(subject)
        history = self._history(about)
        if about not in self._rows:
            self._rows[about] = open_row(history, self._ladder)
        if self._rows[about] <= entry.at:
            self.enter(subject, entry, key)

    def enter(self, subject: Subject, entry: Entry, key: str | None = None) -> None:
        """Append an entry."""
        self._history(key_of(subject)).append(entry)
        self._rows.pop(key_of(subject), None)
        self._entries.append(entry_row(subject, entry, key))

    def entered(self, key: str) -> bool:
        """Whether an entry with this key is in the ledger."""
        return bool(self._present(ledger.c.key, [key]))

    def history(self, subject: Subject) -> Sequence[Entry]:
        """A subject's entries, those of this transaction among them."""
        return self._history(key_of(subject))

    def standing(self, subject: Subject, at: float) -> Standing:
        return standing(self._history(key_of(subject)), self._ladder, at)

    def flush(self) -> None:
        """Send what was decided, in as few statements as there are tables."""
        if self._incidents:
            self._connection.execute(_KEEP, self._incidents)
        if self._counted:
            self._connection.execute(_COUNT, list(self._counted.values()))
        if self._entries:
            self._connection.execute(_ENTER, self._entries)
        self._incidents, self._counted, self._entries = [], {}, []

    def _keep(self, refusal: Refusal) -> str:
        """Keep an incident as a row of its own, or count it in the row that stands for a flood; give the row's id."""
        # What was refused is counted apart from what was redacted or flagged, whose number must not hide it.
        about = (*key_of(refusal.subject), str(refusal.row["action"]), int(refusal.at // 60))
        kept, last = self._minutes.get(about) or self._kept_in(*about)
        if kept > FLOOD:
            counted = self._counted.setdefault(last, {"counted": last, "more": 0, "latest": refusal.at})
            counted["more"] += 1
            counted["latest"] = max(counted["latest"], refusal.at)
            return last
        self._incidents.append(refusal.row)
        self._minutes[about] = (kept + 1, refusal.id)
        return refusal.id

    def _kept_in(self, tenant: str, subject: str, action: str, minute: int) -> tuple[int, str]:
        """How many rows a subject has in a minute with an action, and the id of the last of them."""
        begins = minute * 60.0
        within = {"tenant": tenant, "subject": subject, "action": action, "begins": begins, "ends": begins + 60.0}
        ids = self._connection.execute(_MINUTE, within).scalars().all()
        return len(ids), ids[0] if ids else ""

    def _history(self, key: Key) -> list[Entry]:
        history = self._histories.get(key)
        if history is None:
            history = self._histories[key] = read_history(self._connection, key)
        return history

    def _present(self, column: Any, values: Sequence[str | None]) -> set[str]:
        if not values:
            return set()
        return set(self._connection.execute(select(column).where(column.in_(values))).scalars())


def read_history(connection: Connection, key: Key) -> list[Entry]:
    """The entries about a subject that can still matter, in the ledger's order."""
    rows = connection.execute(_HISTORY, {"tenant": key[0], "subject": key[1]}).mappings()
    entries = (entry_of(row) for row in rows)
    return [entry for entry in entries if entry is not None]


def read_after(connection: Connection, last: int) -> list[tuple[int, Key, Entry | None]]:
    """The entries written after the one with id `last`; none for a kind that this version does not know."""
    rows = connection.execute(_AFTER, {"last": last}).mappings()
    return [(row["id"], (row["tenant"], row["subject"]), entry_of(row)) for row in rows]


def last_id(connection: Connection) -> int:
    """The id of the last entry; 0 in an empty ledger."""
    return int(connection.execute(select(func.coalesce(func.max(ledger.c.id), 0))).scalar_one())


def live_keys(connection: Connection, ladder: Ladder, at: float) -> list[Key]:
    """The subjects with entries that may matter at `at`: who is not among them is in good standing with no row.

    A row of strikes does not end with time, so that it is found however old it is.
    """
    table = ledger.c
    struck = func.max(case((table.kind == "strike", table.id), else_=0))
    ended = func.max(case((table.kind.in_(("allowed", "lifted")), table.id), else_=0))
    suspended = func.max(case((table.step >= int(Step.SUSPEND), table.at), else_=0.0))
    recent = func.max(case((table.kind == "strike", table.at), else_=0.0))
    until = func.max(table.until)
    for_ever = func.max(case((table.step == int(Step.TERMINATE), 1), else_=0))
    query = (
        select(table.tenant, table.subject)
        .group_by(table.tenant, table.subject)
        .having(
            or_(
                struck > ended,
                recent > at - 2 * DAY,
                until > at,
                suspended > at - ladder.terminate_days * DAY,
                for_ever == 1,
            )
        )
    )
    return [(tenant, subject) for tenant, subject in connection.execute(query)]
