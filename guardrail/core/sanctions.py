"""The ladder of sanctions: a fold over an append-only ledger. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Step(IntEnum):
    """What is in force against a subject."""

    NONE = 0
    WARN = 1
    LIMIT = 2
    SUSPEND = 3
    TERMINATE = 4


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a subject stands at one moment. `until` is POSIX seconds, none for a step that only an appeal ends."""

    step: Step = Step.NONE
    until: float | None = None
    incident: str | None = None
    row: int = 0
    day: int = 0
    suspensions: int = 0
