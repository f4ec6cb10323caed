"""Who asks, and whether they may. Pure: no I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

from guardrail.core.sanctions import Ladder, Standing, Step


class Subject(NamedTuple):
    """Whom a request is counted against.

    `key` is a keyed hash (hex) of the strongest identity the request carries, never a raw credential. `kind` names
    that identity: end_user, api_key or address. A `shared` subject stands for many people (a key that is shared, an
    address alone): it may be limited, never suspended.
    """

    tenant: str
    key: str
    kind: str = "api_key"
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether a request may go on. When not: the answer's status and code, when it ends (POSIX seconds, none where
    only an appeal ends it) and, for a limit, the whole seconds to wait. `incident` is what imposed the sanction."""

    allowed: bool = True
    step: Step = Step.NONE
    status: int = 200
    code: str | None = None
    retry_after: int | None = None
    until: float | None = None
    incident: str | None = None

    @property
    def limited(self) -> bool:
        """Whether the subject may ask only now and then: who lets it in notes when."""
        return self.step is Step.LIMIT


ADMITTED = Admission()
_NONE = Step.NONE  # reading a member off its enum is a call in Python 3.11


def admit(standing: Standing, ladder: Ladder, last_request_at: float | None, at: float) -> Admission:
    """Let a request of a subject with this standing in, or say why not.

    `last_request_at` is when the subject's last request *was let in* (none: not known), which only a limit looks at;
    a request that was refused with 429 does not push the next one further away.
    """
    if standing.step is _NONE:
        return ADMITTED
    step, until, incident = standing.step, standing.until, standing.incident
    if step is Step.TERMINATE:
        return Admission(False, step, 403, "account_terminated", None, until, incident)
    if step is Step.SUSPEND:
        return Admission(False, step, 403, "account_suspended", None, until, incident)
    if step is Step.LIMIT and last_request_at is not None:
        # A clock that went back must not keep a subject waiting for longer than the limit says.
        wait = ladder.limit_interval - (at - last_request_at) if at >= last_request_at else 0.0
        if wait > 0:
            return Admission(False, step, 429, "rate_limited", ceil(wait), until, incident)
    return Admission(True, step, until=until, incident=incident)
