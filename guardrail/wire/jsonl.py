"""JSON lines as bytes: one JSON text a line, split at LF alone (github.com/ndjson/ndjson-spec, jsonlines.org)."""

from __future__ import annotations

from guardrail.core.surface import MOST_EVENT, Framing
from guardrail.errors import MalformedResponse

# Clients read lines with what their language calls a line: Python's splitlines() breaks on these too. Within JSON they
# can stand in strings only, where an escape says the same.
_LINE_BREAKS = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"), (b"\xc2\x85", b"\\u0085"))


class Splitter:
    """Cut arriving bytes into whole lines, each with its LF, byte for byte. A CR before it is white space of JSON."""

    __slots__ = ("_rest", "_size")

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._size = 0  # of the rest

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes; the lines that are whole now."""
        end = data.rfind(b"\n") + 1
        if not end:
            self._size += len(data)
            if self._size > MOST_EVENT:
                raise MalformedResponse("the upstream sent a line that does not end")
            if data:
                self._rest.append(data)  # joined once, so that a line that comes byte by byte costs no square
            return []
        self._rest.append(data[:end])
        whole = b"".join(self._rest)
        self._rest = [data[end:]] if end < len(data) else []
        self._size = len(data) - end
        if whole.find(b"\n") == len(whole) - 1:
            return [whole]
        return [line + b"\n" for line in whole[:-1].split(b"\n")]

    def finish(self) -> bytes:
        """What was left without its LF when the stream ended, closed; empty if nothing but white space was."""
        rest, self._rest = b"".join(self._rest), []
        return rest + b"\n" if rest.strip() else b""


def data(line: bytes) -> bytes | None:
    """The JSON of one line; none for a line without any."""
    return line.removeprefix(b"\xef\xbb\xbf").strip(b" \t\r\n") or None


def event(payload: bytes) -> bytes:
    """One line that carries `payload`, in which nothing reads as the end of a line."""
    for raw, escape in _LINE_BREAKS:
        if raw in payload:
            payload = payload.replace(raw, escape)
    return payload + b"\n"


FRAMING = Framing(
    frozenset({b"application/x-ndjson", b"application/ndjson", b"application/jsonl", b"application/x-jsonlines"}),
    b"application/x-ndjson",
    Splitter,
)
