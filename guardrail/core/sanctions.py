"""The ladder of sanctions: a fold over an append-only ledger of entries. Pure: no I/O, no clock.

What a subject did and what was decided about it are entries, in the order in which they were written; nothing is ever
edited. `standing` folds them into where the subject stands; `next_sanction` says what a strike just added calls for.
Both read the step from `TRANSITIONS`, the table below, from which the diagram of docs/sanctions.md is drawn.

Numbers are those of the Chinese security baseline for generative services, TC260-003-2024 (three in a row, five in a
day); durations are ours. Times are POSIX seconds, UTC.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum
from math import inf

from guardrail.errors import SettingsError

HOUR = 3600.0
DAY = 24 * HOUR
LADDER = "ladder"
"""Who imposed a sanction when no person did."""


class Step(IntEnum):
    """What is in force against a subject."""

    NONE = 0
    WARN = 1
    LIMIT = 2
    SUSPEND = 3
    TERMINATE = 4

    @property
    def word(self) -> str:
        return self.name.lower()


class Event(StrEnum):
    """What moves a subject from one step to another."""

    STRIKE = "strike"  # any strike: below the numbers of the next three
    REPEATED = "repeated"
    PERSISTENT = "persistent"
    HABITUAL = "habitual"  # persistent, and one suspension too many before
    EXPIRED = "expired"
    LIFTED = "lifted"


TRANSITIONS: dict[tuple[Step, Event], Step] = {
    (Step.NONE, Event.STRIKE): Step.WARN,
    (Step.NONE, Event.REPEATED): Step.LIMIT,
    (Step.NONE, Event.PERSISTENT): Step.SUSPEND,
    (Step.NONE, Event.HABITUAL): Step.TERMINATE,
    (Step.WARN, Event.REPEATED): Step.LIMIT,
    (Step.WARN, Event.PERSISTENT): Step.SUSPEND,
    (Step.WARN, Event.HABITUAL): Step.TERMINATE,
    (Step.WARN, Event.EXPIRED): Step.NONE,
    (Step.WARN, Event.LIFTED): Step.NONE,
    (Step.LIMIT, Event.REPEATED): Step.LIMIT,  # its time starts anew
    (Step.LIMIT, Event.PERSISTENT): Step.SUSPEND,
    (Step.LIMIT, Event.HABITUAL): Step.TERMINATE,
    (Step.LIMIT, Event.EXPIRED): Step.NONE,
    (Step.LIMIT, Event.LIFTED): Step.NONE,
    (Step.SUSPEND, Event.EXPIRED): Step.NONE,
    (Step.SUSPEND, Event.LIFTED): Step.NONE,
    (Step.TERMINATE, Event.LIFTED): Step.NONE,
}
"""What is not in the table changes nothing: strikes of a suspended subject are kept, and impose nothing further."""


@dataclass(frozen=True, slots=True)
class Strike:
    """A request whose prompt was refused by a rule that counts against the user. `rule` is the rule's full id."""

    at: float
    incident: str
    rule: str = ""


@dataclass(frozen=True, slots=True)
class Allowed:
    """A request passed, which ends a row of strikes."""

    at: float


@dataclass(frozen=True, slots=True)
class Imposed:
    """A sanction came into force; `until` is none where only a person ends it. `by` is `ladder` or who decided."""

    at: float
    step: Step
    until: float | None
    incident: str | None = None
    by: str = LADDER


@dataclass(frozen=True, slots=True)
class Lifted:
    """A person ended what was in force: the slate of strikes is clean, earlier suspensions still count."""

    at: float
    by: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Voided:
    """A person found that the strike of `incident` was none; sanctions that rested on it are judged anew."""

    at: float
    incident: str
    by: str = ""
    reason: str = ""


Entry = Strike | Allowed | Imposed | Lifted | Voided


@dataclass(frozen=True, slots=True)
class Ladder:
    """The numbers. A `_row` is strikes with no allowed request between them, a `_day` strikes in a rolling 24 hours
    (or, with `day_offset`, in the calendar day of the zone that many seconds east of UTC).

    A limit lets one request in per `limit_interval` seconds. `suspend_seconds` is how long the first, second ...
    suspension within `terminate_days` lasts (the last one repeats); suspension number `terminate_suspensions` within
    these days closes the account, unless `terminate_by_person` leaves that to one.
    Raises `SettingsError` for numbers that make no ladder.
    """

    warn_day: int = 1
    warn_seconds: float = DAY
    limit_row: int = 2
    limit_day: int = 3
    limit_seconds: float = DAY
    limit_interval: float = 10.0
    suspend_row: int = 3
    suspend_day: int = 5
    suspend_seconds: tuple[float, ...] = (DAY, 3 * DAY, 7 * DAY)
    terminate_suspensions: int = 3
    terminate_days: float = 90
    terminate_by_person: bool = False
    day_offset: int | None = None

    def __post_init__(self) -> None:
        for name in ("warn_day", "limit_row", "limit_day", "suspend_row", "suspend_day", "terminate_suspensions"):
            if getattr(self, name) < 1:
                raise SettingsError(f"[sanctions] {name} is {getattr(self, name)}; expected a number from 1")
        for name in ("warn_seconds", "limit_seconds", "limit_interval", "terminate_days"):
            if not 0 < getattr(self, name) < inf:
                raise SettingsError(f"[sanctions] {name} is {getattr(self, name)}; expected a number above 0")
        if not self.suspend_seconds or not all(0 < seconds < inf for seconds in self.suspend_seconds):
            raise SettingsError(
                f"[sanctions] suspend_seconds is {self.suspend_seconds}; expected one or more numbers above 0"
            )
        if self.day_offset is not None and abs(self.day_offset) > 14 * HOUR:
            raise SettingsError(f"[sanctions] day_offset is {self.day_offset}; expected seconds from UTC, 14 h at most")

    def event(self, row: int, day: int, suspensions: int) -> Event | None:
        """What a subject with these counts has done, its last strike included; none without a strike."""
        if row >= self.suspend_row or day >= self.suspend_day:
            habitual = suspensions + 1 >= self.terminate_suspensions and not self.terminate_by_person
            return Event.HABITUAL if habitual else Event.PERSISTENT
        if row >= self.limit_row or day >= self.limit_day:
            return Event.REPEATED
        return Event.STRIKE if day >= self.warn_day else None

    def until(self, step: Step, at: float, suspensions: int) -> float | None:
        """When `step`, imposed at `at` after so many suspensions, ends by itself."""
        if step is Step.TERMINATE:
            return None
        if step is Step.SUSPEND:
            return at + self.suspend_seconds[min(suspensions, len(self.suspend_seconds) - 1)]
        return at + (self.limit_seconds if step is Step.LIMIT else self.warn_seconds)

    def forgets(self, suspended: float) -> float:
        """The first moment at which a suspension imposed at `suspended` no longer counts."""
        return suspended + self.terminate_days * DAY

    def leaves_day(self, struck: float) -> float:
        """The first moment at which a strike made at `struck` is no longer of the day."""
        if self.day_offset is None:
            return struck + DAY
        return (struck + self.day_offset) // DAY * DAY + DAY - self.day_offset


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a subject stands at one moment. `until` is POSIX seconds, none for a step that only an appeal ends.

    `incident` is the one whose strike imposed the step. `row`, `day` and `suspensions` are the counts the ladder
    looks at. `recorded` is set by `Store.refuse` alone: the id under which the incident just refused is kept, which
    is that of an earlier one where a flood of them is kept as one counted row.
    """

    step: Step = Step.NONE
    until: float | None = None
    incident: str | None = None
    row: int = 0
    day: int = 0
    suspensions: int = 0
    recorded: str | None = None


def standing(entries: Sequence[Entry], ladder: Ladder, at: float) -> Standing:
    """Where the subject of `entries` (in the order in which they were written) stands at `at`."""
    return outlook(entries, ladder, at)[0]


def next_sanction(entries: Sequence[Entry], ladder: Ladder, at: float, *, shared: bool = False) -> Imposed | None:
    """What the strike that ends `entries` calls for, or none. To be used in the transaction that adds the strike.

    A `shared` subject (a key many people use, an address alone) is limited at most.
    """
    if not entries or not isinstance(strike := entries[-1], Strike):
        return None
    now = _Fold(entries, ladder).standing(at)
    event = ladder.event(now.row, now.day, now.suspensions)
    step = TRANSITIONS.get((now.step, event)) if event else None
    if step is None:
        return None
    if shared:
        step = min(step, Step.LIMIT)
    return Imposed(at, step, ladder.until(step, at, now.suspensions), strike.incident)


def outlook(entries: Sequence[Entry], ladder: Ladder, at: float) -> tuple[Standing, float]:
    """The standing at `at`, and the next moment at which time alone changes it (`inf`: never)."""
    fold = _Fold(entries, ladder)
    moments = [ladder.leaves_day(strike.at) for strike in fold.open]
    moments += [ladder.forgets(imposed.at) for imposed in fold.suspensions]
    if fold.current is not None and fold.current.until is not None:
        moments.append(fold.current.until)
    return fold.standing(at), min((moment for moment in moments if moment > at), default=inf)


class _Fold:
    """What the entries add up to. Order is the ledger's, so that a clock that goes back cannot undo a strike."""

    __slots__ = ("_ladder", "_reviewed", "_voided", "current", "open", "row", "suspensions")

    def __init__(self, entries: Sequence[Entry], ladder: Ladder) -> None:
        self._ladder = ladder
        self._voided = {entry.incident for entry in entries if isinstance(entry, Voided)}
        self._reviewed = False  # whether a voided strike has changed a sanction already
        self.row = 0
        self.open: list[Strike] = []  # strikes not spent, the voided among them
        self.current: Imposed | None = None
        self.suspensions: list[Imposed] = []
        for entry in entries:
            match entry:
                case Strike():
                    self._strike(entry)
                case Allowed():
                    self.row = 0
                case Imposed():
                    self._impose(entry)
                case Lifted():
                    self.current = None
                    self._spend()
                case Voided():
                    pass

    def standing(self, at: float) -> Standing:
        counts = (self.row, self._day(at), self._suspensions(at))
        if self.current is None:
            return Standing(Step.NONE, None, None, *counts)
        if self._in_force(at):
            return Standing(self.current.step, self.current.until, self.current.incident, *counts)
        return Standing(TRANSITIONS[self.current.step, Event.EXPIRED], None, None, *counts)

    def _strike(self, strike: Strike) -> None:
        if self.current is not None and self.current.step >= Step.SUSPEND and self._in_force(strike.at):
            return  # under way when the suspension fell: kept in the ledger, and spent with the others
        self.open.append(strike)
        if strike.incident not in self._voided:
            self.row += 1

    def _impose(self, imposed: Imposed) -> None:
        judged = self._review(imposed) if imposed.by == LADDER else imposed
        if judged is None:
            return
        if self.current is not None and self._in_force(judged.at) and self.current.step > judged.step:
            return
        if judged.step >= Step.SUSPEND:
            self.suspensions.append(judged)
            self._spend()  # each strike pays once: what led here does not impose again when the suspension ends
        self.current = judged

    def _review(self, imposed: Imposed) -> Imposed | None:
        """The sanction as it would have been without the strikes that were voided; none if it would not have been."""
        if not self._reviewed and not any(strike.incident in self._voided for strike in self.open):
            return imposed
        before = self._suspensions(imposed.at)
        event = self._ladder.event(self.row, self._day(imposed.at), before)
        step = TRANSITIONS[Step.NONE, event] if event else Step.NONE
        if step >= imposed.step:
            return imposed
        self._reviewed = True
        if step is Step.NONE:
            return None
        return replace(imposed, step=step, until=self._ladder.until(step, imposed.at, before))

    def _spend(self) -> None:
        self.row = 0
        self.open.clear()

    def _in_force(self, at: float) -> bool:
        return self.current is not None and (self.current.until is None or at < self.current.until)

    def _day(self, at: float) -> int:
        counting = (strike for strike in self.open if strike.incident not in self._voided)
        return sum(at < self._ladder.leaves_day(strike.at) for strike in counting)

    def _suspensions(self, at: float) -> int:
        return sum(at < self._ladder.forgets(imposed.at) for imposed in self.suspensions)


def diagram() -> str:
    """The transition table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {Step.NONE.word}"]
    for (step, event), after in TRANSITIONS.items():
        lines.append(f"    {step.word} --> {after.word}: {event.value}")
    return "\n".join(lines)
