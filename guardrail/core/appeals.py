"""Appeals: what someone says against a refusal, how it is decided, and what a decision undoes. Pure: no I/O, no clock.

An appeal is filed by whoever holds the link of an incident and decided by a person, once. A granted one is answered in
the ledger by further entries; nothing there is edited, so that the record of what happened stays as it was.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from guardrail.core.admission import Subject
from guardrail.core.sanctions import LADDER, Entry, Imposed, Lifted, Voided
from guardrail.errors import CaseError


class State(StrEnum):
    """Where an appeal is."""

    FILED = "filed"
    GRANTED = "granted"
    DENIED = "denied"


class Ruling(StrEnum):
    """What a person decides about an appeal."""

    GRANT = "grant"
    DENY = "deny"


TRANSITIONS: dict[tuple[State, Ruling], State] = {
    (State.FILED, Ruling.GRANT): State.GRANTED,
    (State.FILED, Ruling.DENY): State.DENIED,
}
"""What is not in the table cannot be done: a decision is not taken back. A denied appeal may be followed by another."""

MOST_STATEMENT = 4_000
"""Code points of a statement, at most."""

MOST_APPEALS = 3
"""Appeals against one incident, at most: the first, and two more after denials."""


@dataclass(frozen=True, slots=True)
class Appeal:
    """An appeal against `incident` by (or for) `subject`. Times are POSIX seconds, UTC.

    `statement` is what the person wrote; a store seals it before it is written and never returns it in a listing.
    `reason` is shown to the person; `decided_by` is not.
    """

    id: str
    at: float
    incident: str
    subject: Subject
    statement: str = ""
    state: State = State.FILED
    decided_at: float | None = None
    decided_by: str = ""
    reason: str = ""


def file(appeal: Appeal, earlier: Sequence[Appeal]) -> Appeal:
    """The appeal that stands when `appeal` is filed after `earlier` ones against the same incident.

    That is the earlier one while it is open, or if it was granted, so that filing twice is filing once.
    Raises `CaseError` (`too_many`) once `MOST_APPEALS` were denied.
    """
    for other in earlier:
        if other.state is not State.DENIED:
            return other
    if not may_file(earlier):
        raise CaseError(
            f"incident {appeal.incident}: {len(earlier)} appeals were denied; expected {MOST_APPEALS} at most",
            code="too_many",
        )
    return appeal


def may_file(earlier: Sequence[Appeal]) -> bool:
    """Whether a further appeal can be filed after `earlier` ones against the same incident."""
    return len(earlier) < MOST_APPEALS and all(other.state is State.DENIED for other in earlier)


def decide(
    appeal: Appeal, ruling: Ruling, *, at: float, by: str, reason: str, barred: Collection[str] = frozenset()
) -> Appeal:
    """The appeal once it is decided; one that was decided in the same way already stays as it is.

    `barred` are those who may not decide it. Raises `CaseError` (`decided`, `barred`).
    """
    after = TRANSITIONS.get((appeal.state, ruling))
    if after is None:
        if TRANSITIONS[State.FILED, ruling] is appeal.state:
            return appeal
        raise CaseError(
            f"appeal {appeal.id}: it was {appeal.state.value} already; expected one that is open", code="decided"
        )
    if _name(by) in {_name(other) for other in barred}:
        raise CaseError(f"appeal {appeal.id}: {by} decided this matter before; expected a second person", code="barred")
    return replace(appeal, state=after, decided_at=at, decided_by=by, reason=reason)


def barred(appeal: Appeal, earlier: Sequence[Appeal], entries: Sequence[Entry]) -> frozenset[str]:
    """Who may not decide an appeal: whoever imposed the sanction, or denied an earlier appeal against the incident."""
    imposed = {
        entry.by
        for entry in entries
        if isinstance(entry, Imposed) and entry.incident == appeal.incident and entry.by != LADDER
    }
    return frozenset(imposed | {other.decided_by for other in earlier if other.state is State.DENIED})


def remedies(granted: Appeal, struck: Collection[str], entries: Sequence[Entry], at: float) -> tuple[Entry, ...]:
    """What a granted appeal adds to its subject's ledger (`entries`): the strike is void, and what rested on it is
    judged anew; what a person imposed for this incident, and is in force at `at`, is lifted.

    `struck` are the incidents under whose ids the strike stands: the appealed one, or the one that it repeated.
    """
    voided = {entry.incident for entry in entries if isinstance(entry, Voided)}
    added: list[Entry] = [
        Voided(at, incident, granted.decided_by, granted.reason) for incident in struck if incident not in voided
    ]
    imposed = False
    for entry in entries:
        match entry:
            case Imposed() if entry.by != LADDER and entry.incident == granted.incident:
                imposed = entry.until is None or at < entry.until
            case Lifted():
                imposed = False
            case _:
                pass
    if imposed:
        added.append(Lifted(at, granted.decided_by, granted.reason))
    return tuple(added)


def _name(name: str) -> str:
    return " ".join(name.split()).casefold()
