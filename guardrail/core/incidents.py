"""What is kept of a request: a decision for every one (no text), an incident for those a rule stopped or changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from guardrail.core.admission import Subject
from guardrail.core.content import Direction
from guardrail.core.policy import Action


@dataclass(frozen=True, slots=True)
class Hit:
    """One rule's match in an incident: where it was and how strong, never what it said. Offsets are code points.

    `digest` is a keyed hash (hex) of the matched text, so that two incidents can be compared without it; the caller
    makes it (`records.keys.Keyring.digest`), as only the caller has the text.
    """

    rule: str
    category: str
    detector: str
    score: float
    segment: int
    start: int
    end: int
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Incident:
    """A request that a rule refused, cut or answered.

    `at` is POSIX seconds, UTC. `excerpt` is the smallest text that shows why; a store seals it before it is written
    and never returns it in a listing. `strike` is the id of the rule that makes it count against the subject, or
    none; `idempotency` the client's key for retries of one request: the same key with the same text is one strike,
    however often it is sent; the same key on another text is another strike, or the key would be a way round.
    `failures` are `detector:kind` of detectors that gave no answer.
    """

    id: str
    at: float
    subject: Subject
    request_id: str
    surface: str
    direction: Direction
    action: Action
    hits: tuple[Hit, ...]
    failures: tuple[str, ...]
    policies: str
    length: int
    excerpt: str
    strike: str | None = None
    idempotency: str | None = None


class Decision(NamedTuple):
    """One request's metadata: what was decided, never what was said. Times in seconds."""

    id: str
    at: float
    subject: Subject
    request_id: str
    surface: str
    outcome: str
    action: Action
    incident: str | None
    policies: str
    produce_id: str | None
    prompt_length: int
    completion_length: int
    streamed: bool
    overhead: float
    duration: float
