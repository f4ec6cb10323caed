"""What one API's bodies mean to us: the request that was asked, the pieces of text in an answer, the notice we give.

A dialect (in `wire/`) turns bytes into these and back; nothing here knows a wire format.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from guardrail.core.content import Content, Path

Lane = tuple[str | int, ...]
"""Names one text of an answer, e.g. `(0, "content")` or `(1, "tool_calls", 0, "arguments")`; its first item is the
choice. The deltas of one lane, joined, are one text; so are the pieces of one lane that follow each other in a whole
answer. What a user is shown is in the lane `(choice, "content")`."""

TOOL_ENDINGS = frozenset({"tool_calls", "function_call", "tool_use", "pause_turn"})
"""Reasons for which an answer ends that leave the next word to a program: no label is put behind such an answer."""


MOST_EVENT = 8 << 20
"""Most bytes that one event of a stream may have: it is held until it is whole."""


class Splitter(Protocol):
    """Cuts the bytes of one stream into whole events, byte for byte, however they arrive."""

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes; the events that are whole now, each with what ends it.

        Raises `MalformedResponse` when more than `MOST_EVENT` bytes have come without an end.
        """

    def finish(self) -> bytes:
        """The stream has ended: what was left without its end, closed; empty if nothing was."""


class Framing(NamedTuple):
    """How a surface cuts its streams into events.

    `media` are the media types that say a body is framed so (lower case, bare); `content_type` is what we say
    ourselves. `keepalive` is what may be sent between events and means nothing; empty where there is no such thing.
    """

    media: frozenset[bytes]
    content_type: bytes
    splitter: Callable[[], Splitter]
    keepalive: bytes = b""


class Screened(NamedTuple):
    """What a surface has screened, field by field, for people: a row of the table in docs/api.md.

    A field is written as its path: `messages[].content`, where `[]` is each item of a list and a last step `*` every
    field that the API's reference does not name. `blocked` says how an answer that is stopped looks to its client,
    and `passes` what of an answer cannot be screened at all.
    """

    prompt: tuple[str, ...]
    answer: tuple[str, ...]
    blocked: str
    passes: str = ""


class Prompt(NamedTuple):
    """A request as its surface defines it.

    `choices` is how many answers are asked for, 0 where an event says itself that it is the last (`Event.closing`).
    `structured` means that the answer is to be read by a machine (JSON
    mode, a schema), so nothing may be added to it. `tools` means that tools are offered. `end_user` is who the body
    says is asking, which is believed only where the settings say so. `media` is what the answer is: "text", "vector"
    (numbers, which are nobody's content), or "image" or "audio", which pass only where the settings say so.
    """

    content: Content
    stream: bool = False
    choices: int = 1
    structured: bool = False
    tools: bool = False
    end_user: str | None = None
    media: str = "text"
    told: frozenset[str] = frozenset()
    """Texts of the request that an answer may tell again as they were sent."""


class Piece(NamedTuple):
    """A stretch of text in an answer: which lane it continues, and where in the body it stands."""

    lane: Lane
    text: str
    path: Path


class Event(NamedTuple):
    """One event of a stream, or a whole answer that came at once.

    `finished` maps each choice that ends here to its reason. `last` means that the surface has nothing after it.
    `ended` names the lanes, or what they begin with, whose texts are whole with this event: what comes later in such
    a lane is another text. `step` is a note of the dialect's to itself, given back once the event has left; `memo` is
    one for when the event is written. `closing` means that the `guardrail` object rides on this event.
    """

    raw: bytes
    pieces: tuple[Piece, ...] = ()
    finished: Mapping[int, str] = {}
    last: bool = False
    ended: tuple[Lane, ...] = ()
    step: tuple[str | int, ...] = ()
    memo: object = None
    closing: bool = False


class Notice(NamedTuple):
    """What we tell the caller instead of an answer. `code` is the reason code, `retry_after` and `until` seconds."""

    status: int
    code: str
    message: str
    type: str = "guardrail"
    param: str | None = None
    incident: str | None = None
    rules: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    appeal_url: str | None = None
    rules_url: str | None = None
    until: float | None = None
    retry_after: int | None = None


class Ending(NamedTuple):
    """How a choice that we stopped ends: the safe answer put behind its clean part (may be empty).

    `piece` is the number, among the event's pieces, of the first one that may not leave whole.
    """

    answer: str = ""
    piece: int = 0
