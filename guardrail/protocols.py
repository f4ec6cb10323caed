"""Every extension point, on one screen. Users pass objects that have these methods; there is no registry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Protocol, runtime_checkable

from guardrail.core.admission import Subject
from guardrail.core.appeals import Appeal, Ruling
from guardrail.core.content import Direction, Path
from guardrail.core.findings import Finding
from guardrail.core.frontier import Scan, Scanner, Window
from guardrail.core.incidents import Decision, Incident
from guardrail.core.sanctions import Standing, Step
from guardrail.core.surface import Ending, Event, Framing, Notice, Prompt
from guardrail.core.verdict import Verdict

__all__ = [
    "Classifier",
    "Clearing",
    "CodeEye",
    "Detector",
    "Dialect",
    "Following",
    "Framed",
    "Identifier",
    "Labeller",
    "Moderating",
    "Priority",
    "Reporter",
    "Retelling",
    "Scan",
    "Scanner",
    "Staged",
    "Store",
    "Stream",
    "Window",
]


class Priority(IntEnum):
    """Who is served first when a device is busy: a stream that holds text back, a prompt, offline work."""

    STREAM = 0
    PROMPT = 1
    OFFLINE = 2


@runtime_checkable
class Detector(Protocol):
    """Finds; never judges. `name` is what rules call it; `thresholds` gives, for each label it can report, the least
    score that counts where a rule names no threshold of its own, and `strike_thresholds` the same for strikes."""

    name: str

    @property
    def thresholds(self) -> Mapping[str, float]: ...

    @property
    def strike_thresholds(self) -> Mapping[str, float]: ...

    def scanner(self, direction: Direction, labels: frozenset[str]) -> Scanner:
        """A fresh scanner for one text, which needs to look for `labels` only."""

    async def examine(self, windows: Sequence[Window], priority: Priority) -> Sequence[Sequence[Finding]]:
        """Answer windows that scanners of this detector asked for, in order; raises `DetectorError`."""

    async def start(self) -> None: ...

    async def close(self) -> None: ...


@runtime_checkable
class Clearing(Protocol):
    """What a `Detector` may have besides: a quick look at whole texts that saves making scanners for them."""

    def clears(self, texts: Sequence[str], direction: Direction, labels: frozenset[str]) -> bool:
        """Whether scanners would surely find and ask nothing in any of `texts`; a false answer says nothing."""


@runtime_checkable
class Classifier(Protocol):
    """Scores texts: in this process, in another one, or on another machine."""

    @property
    def labels(self) -> tuple[str, ...]: ...

    async def score(self, texts: Sequence[str], priority: Priority = Priority.PROMPT) -> list[tuple[float, ...]]:
        """For each text the probability of each label, in the order of `labels`; raises `DetectorError`."""

    async def start(self) -> None: ...

    async def close(self) -> None: ...


@runtime_checkable
class Identifier(Protocol):
    """Says who asks, from the request's headers (lower-case names) and peer address, before the body is read."""

    def identify(self, headers: Mapping[bytes, bytes], peer: str | None) -> Subject: ...

    def end_user(self, tenant: str, name: str) -> Subject:
        """The subject for the name that a body gives, where the settings say that it is believed."""


@runtime_checkable
class Dialect(Protocol):
    """One API's bodies: bytes to core types and back. Changed texts are put in their place; all else stays as it came.

    Reading raises `MalformedRequest`, `Unreadable` or `MalformedResponse`. `member` is the `guardrail` object as JSON.
    """

    surface: str
    paths: tuple[str, ...]

    def read_prompt(self, body: bytes) -> Prompt: ...
    def write_prompt(self, body: bytes, texts: Mapping[Path, str]) -> bytes: ...

    def read_reply(self, body: bytes) -> Event: ...
    def write_reply(
        self,
        event: Event,
        texts: Mapping[Path, str],
        stopped: Mapping[int, Ending],
        affixes: Mapping[int, str],
        member: bytes,
    ) -> bytes: ...

    def read_event(self, raw: bytes) -> Event: ...
    def write_event(self, event: Event, texts: Mapping[Path, str]) -> bytes: ...
    def mark_event(self, raw: bytes, member: bytes) -> bytes: ...

    def delta(self, like: bytes | None, choice: int, text: str) -> bytes: ...
    def close(self, like: bytes | None, choices: Sequence[int], member: bytes) -> bytes: ...
    def note(self, like: bytes | None, member: bytes) -> bytes: ...

    def answer(self, prompt: Prompt, text: str, reason: str, ident: str, member: bytes) -> bytes | None:
        """An answer of our own in the model's place; none where the surface has no words to answer with."""

    def error(self, notice: Notice) -> bytes: ...
    def stream_error(self, notice: Notice) -> bytes: ...


class Stream(Protocol):
    """The part of a `Dialect` that one streamed answer takes."""

    def read_event(self, raw: bytes) -> Event: ...
    def write_event(self, event: Event, texts: Mapping[Path, str]) -> bytes: ...
    def mark_event(self, raw: bytes, member: bytes) -> bytes: ...
    def delta(self, like: bytes | None, choice: int, text: str) -> bytes: ...
    def close(self, like: bytes | None, choices: Sequence[int], member: bytes) -> bytes: ...
    def note(self, like: bytes | None, member: bytes) -> bytes: ...


@runtime_checkable
class Staged(Stream, Protocol):
    """One stream of a surface whose events follow from those before them (blocks that open and close, numbers that
    count). A `Dialect` makes one for each stream in a method `stream()`. Its events leave in the order in which they
    came, and it is told the `step` of each that has left."""

    def sent(self, step: tuple[str | int, ...]) -> None: ...


@runtime_checkable
class Retelling(Staged, Protocol):
    """A stream whose later events tell again, whole, what earlier ones told piece by piece. What is told again is no
    new text; it has to be what is left of the first telling."""

    def tell(self, event: Event, texts: Mapping[Path, str]) -> bytes:
        """The event as it leaves, with what is left of each of its texts; called for every event, in order, in the
        place of `write_event`. It gives the event's own bytes back where nothing has changed."""


@runtime_checkable
class Following(Protocol):
    """What a `Dialect` may have besides, where an answer tells again what its request said."""

    def follow(self, prompt: Prompt) -> Dialect:
        """The dialect of the one answer to `prompt`."""


@runtime_checkable
class Framed(Protocol):
    """What a `Dialect` may have besides: how its streams are cut into events, where these are not server-sent."""

    framing: Framing


@runtime_checkable
class Moderating(Protocol):
    """What a `Dialect` may have besides: its surface asks for our verdict, and nobody else is asked."""

    def moderate(self, prompt: Prompt, verdict: Verdict, ident: str) -> bytes:
        """The whole answer to `prompt`, made of its verdict."""


class CodeEye(Protocol):
    """Watches an answer as it is sent, to tell whether a visible label may follow it here."""

    def see(self, text: str) -> None: ...

    @property
    def allows_label(self) -> bool: ...


@runtime_checkable
class Labeller(Protocol):
    """Says what an answer's labels are. `position` is where the visible one goes: none, start or end."""

    position: str

    def aigc(self, produce_id: str) -> bytes:
        """The implicit label: the JSON of GB 45438-2025, Annex E."""

    def header(self, aigc: bytes) -> bytes:
        """The same for an HTTP header (base64url)."""

    def text(self, language: str) -> str:
        """What a client is to show beside the answer."""

    def affix(self, language: str) -> str:
        """What we put into the answer's text ourselves, with its line breaks."""

    def eye(self) -> CodeEye: ...


@runtime_checkable
class Store(Protocol):
    """Keeps the ledger, incidents and decisions: a few atomic verbs. All times are POSIX seconds, UTC."""

    def standing(self, subject: Subject, at: float) -> Standing:
        """Where `subject` stands, from memory; raises `StoreError` when that cannot be known."""

    async def refuse(self, incident: Incident) -> Standing:
        """Make `incident` durable, and its strike and the sanction that follows from it, in one transaction.

        Returns the standing after it. N calls at once give N strikes and one sanction. Raises `StoreError`.
        """

    def note(self, incident: Incident) -> None:
        """Keep an incident that nobody is refused for (flagged, redacted, observed). Returns at once."""

    def allow(self, subject: Subject, at: float) -> None:
        """Note that a request of `subject` passed, which ends a row of strikes. Returns at once; written later."""

    def record(self, decision: Decision) -> None:
        """Keep one request's metadata (no text). Returns at once; written later, in groups."""

    async def incident(self, ident: str) -> Incident | None:
        """One incident without its excerpt; none if it is not kept. Raises `StoreError`."""

    async def file_appeal(self, appeal: Appeal) -> Appeal:
        """Make an appeal durable, its statement sealed; returns the one that stands (`core.appeals.file`).

        Raises `CaseError` (unknown, too_many), `StoreError`.
        """

    async def appeals(self, *, ident: str | None = None, incident: str | None = None) -> Sequence[Appeal]:
        """Appeals in the order in which they were filed, without their statements. Raises `StoreError`."""

    async def decide_appeal(self, ident: str, ruling: Ruling, *, at: float, by: str, reason: str) -> Appeal:
        """Decide an appeal and, if it is granted, add to the ledger what undoes the strike, in one transaction.

        Deciding again in the same way changes nothing. Raises `CaseError` (unknown, decided, barred), `StoreError`.
        """

    def in_force(self, at: float) -> Mapping[Step, int]:
        """How many subjects each step is in force against."""

    @property
    def degraded(self) -> bool:
        """Whether the store works on without what it needs (a journal in the place of its database)."""

    async def start(self) -> None: ...

    async def close(self) -> None:
        """Write what is queued, then let go."""


@runtime_checkable
class Reporter(Protocol):
    """Passes incidents on: to a file, a webhook, a mailbox."""

    async def report(self, incident: Incident) -> None: ...
