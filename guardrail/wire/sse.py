"""Server-sent events as bytes: split a stream into whole events and read their data. HTML standard, section 9.2."""

from __future__ import annotations

import re

from guardrail.core.surface import MOST_EVENT, Framing
from guardrail.errors import MalformedResponse

# Atomic, so that CRLF is never read as two line ends. U+2028 and friends are text here, unlike in str.splitlines().
_BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LINE_END = re.compile(rb"\r\n|\n|\r")
DONE = b"data: [DONE]\n\n"


class Splitter:
    """Cut arriving bytes into whole events, each with its closing blank line, byte for byte."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        buffer = self._rest + data if self._rest else data
        if b"\r" not in buffer:
            if buffer.find(b"\n\n") == len(buffer) - 2 >= 0:  # one event and nothing else: how most streams come
                self._rest = b""
                return [buffer]
            end = buffer.rfind(b"\n\n")
            if end < 0:
                self._keep(buffer)
                return []
            self._rest = buffer[end + 2 :]
            # An event may be followed by further blank lines: they stay with the event before them.
            return [piece + b"\n\n" for piece in buffer[:end].split(b"\n\n")]
        events, start = [], 0
        for match in _BLANK_LINE.finditer(buffer):
            if match.end() == len(buffer) and buffer.endswith(b"\r"):
                break  # its LF may still be on the way
            events.append(buffer[start : match.end()])
            start = match.end()
        self._keep(buffer[start:])
        return events

    def _keep(self, rest: bytes) -> None:
        if len(rest) > MOST_EVENT:
            raise MalformedResponse("the upstream sent an event that does not end")
        self._rest = rest

    def finish(self) -> bytes:
        """What was left without its blank line when the stream ended, closed; empty if nothing was."""
        rest, self._rest = self._rest, b""
        return rest.rstrip(b"\r\n") + b"\n\n" if rest.strip() else b""


def data(event: bytes) -> bytes | None:
    """The data of one event, its lines joined by LF; none for an event that has none (a comment, a retry)."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2 and b"\r" not in event:
        return event[6:-2]
    lines = []
    for line in _LINE_END.split(event.removeprefix(b"\xef\xbb\xbf")):
        if line.startswith(b"data:"):
            lines.append(line[5:].removeprefix(b" "))
        elif line == b"data":
            lines.append(b"")
    return b"\n".join(lines) if lines else None


def event(payload: bytes) -> bytes:
    """One event that carries `payload`; one of several lines stands in as many lines of data."""
    if b"\n" in payload or b"\r" in payload:
        payload = b"\ndata: ".join(_LINE_END.split(payload))
    return b"data: " + payload + b"\n\n"


def event_like(payload: bytes, like: bytes) -> bytes:
    """One event that carries `payload` and has the other lines of the event `like`: its name, its id, comments."""
    if not like or (like.startswith(b"data: ") and like.find(b"\n") == len(like) - 2):
        return event(payload)
    kept = [line + b"\n" for line in _LINE_END.split(like.removeprefix(b"\xef\xbb\xbf")) if line]
    return b"".join(line for line in kept if line[:5] not in (b"data:", b"data\n")) + event(payload)


def without_id(event: bytes) -> bytes:
    """The event without its id: another one with the same would not be told from it."""
    return b"".join(line + b"\n" for line in _LINE_END.split(event) if line[:3] != b"id:" and line != b"id")


def comment(text: str = "") -> bytes:
    """A comment, which clients ignore and connections stay alive by."""
    return f": {text}\n\n".encode()


FRAMING = Framing(
    frozenset({b"text/event-stream"}), b"text/event-stream; charset=utf-8", Splitter, keepalive=comment("screening")
)
