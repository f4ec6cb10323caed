"""One streamed answer of Anthropic's Messages API: what its events hold, and the events that we add or end it with.

A message opens, its content blocks open and close one after the other, the message gets its `stop_reason` and ends:
https://docs.anthropic.com/en/docs/build-with-claude/streaming. Which block the client has open decides what we may
write next, so that each stream has an object of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from guardrail.core.content import Path
from guardrail.core.surface import Event, Lane, Piece
from guardrail.errors import MalformedResponse
from guardrail.wire import json, sse
from guardrail.wire.anthropic_blocks import CALLS, free_texts, put, texts, unreadable
from guardrail.wire.escapes import Unescaped, written
from guardrail.wire.fields import read_answer

CONTENT: Lane = (0, "content")
_LINES = re.compile(rb"([^\r\n]*)(\r\n|\n|\r)")
_WHOLE_DELTAS = frozenset({"citations_delta", "signature_delta"})  # each brings all of what it brings


class _TextDelta(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["text_delta"]
    text: str


class _TextEvent(msgspec.Struct, forbid_unknown_fields=True):
    """What nearly every event of a stream is: a stretch of text and nothing else that could hold any."""

    type: Literal["content_block_delta"]
    index: int
    delta: _TextDelta


_read_text_event = msgspec.json.Decoder(_TextEvent).decode
_TEXT: Path = ("delta", "text")
_JSON: Path = ("delta", "partial_json")


class AnthropicStream:
    """One stream: reads its events, and knows what the client has got of it."""

    __slots__ = ("_begun", "_begun_reading", "_next", "_next_read", "_open", "_reading", "_tokens", "_written")

    def __init__(self) -> None:
        self._begun_reading = False
        self._reading: int | None = None  # the block that the upstream has open
        self._next_read = 0
        self._written = Unescaped()  # the input of the call that the upstream has open
        self._begun = False  # from here on: what the client has got
        self._open: tuple[int, str] | None = None
        self._next = 0
        self._tokens = 0

    # -- reading -------------------------------------------------------------------------------------------------

    def read_event(self, raw: bytes) -> Event:
        """Read one event; raises `MalformedResponse` for one that cannot be understood or comes out of turn."""
        event, within = _read(raw)
        if within is not None and within != self._reading:
            raise MalformedResponse("the upstream sent a part of a content block that is not open")
        if any(piece.path == _JSON for piece in event.pieces):
            event = self._unescaped(event)
        step = event.step
        if step:
            if step[0] == "begin":
                if self._begun_reading:
                    raise MalformedResponse("the upstream began its message twice")
                self._begun_reading = True
            elif not self._begun_reading and step[0] != "error":
                raise MalformedResponse("the upstream's stream does not begin with message_start")
            elif step[0] == "open":
                if self._reading is not None or int(step[1]) < self._next_read:
                    raise MalformedResponse("the upstream opened a content block out of turn")
                self._reading, self._next_read = int(step[1]), int(step[1]) + 1
                self._written = Unescaped()
            elif step[0] == "shut":
                self._reading = None
        return event

    def _unescaped(self, event: Event) -> Event:
        """The event with its piece of JSON as it is to be read; an escape that it cuts in two leaves with the next."""
        raw, pieces = event.raw, []
        for piece in event.pieces:
            if piece.path == _JSON:
                text, read = self._written.feed(piece.text)
                payload = sse.data(raw)
                if text != piece.text and payload is not None:
                    raw = _with_data(raw, json.replace(payload, {_JSON: text}))
                piece = piece._replace(text=read)
            pieces.append(piece)
        return event._replace(raw=raw, pieces=tuple(pieces))

    def sent(self, step: tuple[str | int, ...]) -> None:
        """An event of the upstream's has left for the client."""
        if step[0] == "begin":
            self._begun, self._tokens = True, int(step[1])
        elif step[0] == "open":
            self._open, self._next = (int(step[1]), str(step[2])), int(step[1]) + 1
        elif step[0] == "shut":
            self._open = None

    # -- writing -------------------------------------------------------------------------------------------------

    def write_event(self, event: Event, texts: Mapping[Path, str]) -> bytes:
        """The event with the texts at these paths changed; its `event:` line stays."""
        payload = sse.data(event.raw)
        if payload is None:
            return event.raw
        texts = {path: written(text) if path == _JSON else text for path, text in texts.items()}
        return _with_data(event.raw, put(payload, texts, empty=True))

    def mark_event(self, raw: bytes, member: bytes) -> bytes:
        """The event with the `guardrail` object spliced into it."""
        payload = sse.data(raw)
        return raw if payload is None else _with_data(raw, json.add_member(payload, "guardrail", member))

    def delta(self, like: bytes | None, choice: int, text: str) -> bytes:
        """Events that add `text`: to the text block that is open, or in a block of its own."""
        if self._open is not None and self._open[1] == "text":
            return _text(self._open[0], text)
        out = self._shut()
        index, self._next = self._next, self._next + 1
        block = {"type": "text", "text": ""}
        start = named({"type": "content_block_start", "index": index, "content_block": block})
        return out + start + _text(index, text) + named({"type": "content_block_stop", "index": index})

    def close(self, like: bytes | None, choices: Sequence[int], member: bytes) -> bytes:
        """The events that end a stream we stopped: the open block's end, `stop_reason` refusal, the message's end."""
        begin = b"" if self._begun else opening("msg_guardrail")
        return begin + self._shut() + ending("refusal", self._tokens, member)

    def note(self, like: bytes | None, member: bytes) -> bytes:
        """A ping, which clients skip, that carries the `guardrail` object where no `message_delta` came to ride on."""
        return named({"type": "ping", "guardrail": msgspec.Raw(member)})

    def _shut(self) -> bytes:
        if self._open is None:
            return b""
        index, self._open = self._open[0], None
        return named({"type": "content_block_stop", "index": index})


# -- events of our own -----------------------------------------------------------------------------------------------


def named(body: Mapping[str, Any]) -> bytes:
    """One event with its `event:` line, which is its type."""
    return b"event: " + str(body["type"]).encode() + b"\n" + sse.event(json.encode(body))


def opening(ident: str) -> bytes:
    """The event that begins a message of ours."""
    message: dict[str, Any] = {
        "id": ident, "type": "message", "role": "assistant", "model": "guardrail", "content": [],
        "stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 0, "output_tokens": 0},
    }  # fmt: skip
    return named({"type": "message_start", "message": message})


def ending(reason: str, tokens: int, member: bytes) -> bytes:
    """The events that end a message; the first carries the `guardrail` object."""
    delta = {"stop_reason": reason, "stop_sequence": None}
    last = {
        "type": "message_delta", "delta": delta, "usage": {"output_tokens": tokens}, "guardrail": msgspec.Raw(member)
    }  # fmt: skip
    return named(last) + named({"type": "message_stop"})


def _text(index: int, text: str) -> bytes:
    return named({"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": text}})


def _with_data(raw: bytes, payload: bytes) -> bytes:
    """The event with other data; its further lines and their ends stay."""
    out: list[bytes] = []
    put_in = False
    for line, end in _LINES.findall(raw):
        if not (line.startswith(b"data:") or line == b"data"):
            out += [line, end]
        elif not put_in:
            put_in = True
            out += [b"data: ", payload.replace(b"\r", b" ").replace(b"\n", b" "), end]
    return b"".join(out)


# -- events of the upstream's ----------------------------------------------------------------------------------------


def read_event(raw: bytes) -> Event:
    """Read one event by itself; raises `MalformedResponse` for one that cannot be understood."""
    return _read(raw)[0]


def _read(raw: bytes) -> tuple[Event, int | None]:
    """One event, and the number of the block that must be open for it."""
    payload = sse.data(raw)
    if payload is None:
        return Event(raw), None
    try:
        known = _read_text_event(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _read_any(raw, payload)
    text = known.delta.text
    return Event(raw, (Piece(CONTENT, text, _TEXT),) if text else ()), known.index


def _read_any(raw: bytes, payload: bytes) -> tuple[Event, int | None]:
    if payload.strip() == b"[DONE]":  # not of this API, but servers that also speak OpenAI's end with it
        return Event(raw, last=True), None
    body = read_answer(payload)
    kind = body.get("type")
    if kind in ("content_block_start", "content_block_delta", "content_block_stop"):
        return _read_block(raw, body)
    pieces = tuple(Piece((0, "event", *path), text, path) for path, text in texts(body, (), unreadable))
    ended = tuple(piece.lane for piece in pieces)
    if kind == "message_start":
        return Event(raw, pieces, ended=ended, step=("begin", _tokens(body))), None
    if kind == "message_delta":
        delta = body.get("delta")
        reason = delta.get("stop_reason") if isinstance(delta, dict) else None
        return Event(raw, pieces, {0: str(reason)} if reason else {}, ended=ended, step=("finish",)), None
    if kind == "message_stop":
        return Event(raw, pieces, last=True, ended=ended, step=("stop",)), None
    if kind == "error" or (kind is None and "error" in body):
        return Event(raw, pieces, last=True, ended=ended, step=("error",)), None
    return Event(raw, pieces, ended=ended), None


def _read_block(raw: bytes, body: dict[str, Any]) -> tuple[Event, int | None]:
    kind, index = body["type"], body.get("index")
    if type(index) is not int:
        raise MalformedResponse("the upstream's stream has a content block whose index is not a number")
    block: Lane = (0, "blocks", index)
    others = {key: value for key, value in body.items() if key not in ("type", "index", "content_block", "delta")}
    pieces = [Piece((0, "event", *path), text, path) for path, text in texts(others, (), unreadable)]
    ended: list[Lane] = [piece.lane for piece in pieces]
    if kind == "content_block_stop":
        return Event(raw, tuple(pieces), ended=(*ended, block), step=("shut", index)), index
    key = "delta" if kind == "content_block_delta" else "content_block"
    inner = body.get(key)
    if not isinstance(inner, dict):
        raise MalformedResponse(f"the upstream's stream has a {kind} without its {key}")
    form = inner.get("type")
    found = list(texts({name: value for name, value in inner.items() if name != "input"}, (key,), unreadable))
    if "input" in inner:
        # A call's arguments stand here whole, or come as partial_json and `input` is empty.
        place: Path = (key, "input")
        found += free_texts(inner["input"], place) if form in CALLS else texts(inner["input"], place, unreadable)
    for path, text in found:
        shown = form in ("text", "text_delta") and path[1:] == ("text",)
        grows = form in ("thinking", "thinking_delta") and path[1:] == ("thinking",)
        lane = CONTENT if shown else (*block, *path[1:])
        pieces.append(Piece(lane, text, path))
        if form in _WHOLE_DELTAS or (key == "content_block" and not shown and not grows):
            ended.append(lane)
    if key == "delta":
        return Event(raw, tuple(pieces), ended=tuple(ended)), index
    if form != "text":
        ended.append(CONTENT)  # the texts on both sides of a block of another kind are not read as one
    return Event(raw, tuple(pieces), ended=tuple(ended), step=("open", index, str(form))), None


def _tokens(body: Mapping[str, Any]) -> int:
    try:
        tokens = body["message"]["usage"]["output_tokens"]
    except (KeyError, TypeError):
        return 0
    return tokens if type(tokens) is int else 0
