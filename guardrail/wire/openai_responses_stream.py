"""OpenAI responses, streamed: one stream's memory of its texts, since its events tell each of them up to four times.

A text comes in deltas, then whole in its own `.done` event, in the part's, in the item's and in the response's last
event. It is one text, named by its place in `output`: what is told again is compared with what came, is not screened a
second time, and leaves as what was left of the first telling. What differs from it is a text of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from guardrail.core.content import Path
from guardrail.core.surface import Event, Piece
from guardrail.errors import MalformedResponse
from guardrail.wire import json, sse
from guardrail.wire.openai_responses_events import WHOLE_RESPONSE, Frame, framed, index_of, mark, value_at
from guardrail.wire.openai_responses_fields import BLOB, HANDLE, Media, is_logprobs, others, setting_texts, texts
from guardrail.wire.openai_responses_lanes import Key, Lanes, Memo

_INDEX = frozenset({"content_index", "summary_index", "command_index", "annotation_index"})
_TEXTS: dict[str, tuple[Key, str]] = {
    "response.output_text": (("content", "content_index", "text"), "text"),
    "response.refusal": (("content", "content_index", "refusal"), "refusal"),
    "response.reasoning_text": (("content", "content_index", "text"), "text"),
    "response.reasoning_summary_text": (("summary", "summary_index", "text"), "text"),
    "response.function_call_arguments": (("arguments",), "arguments"),
    "response.mcp_call_arguments": (("arguments",), "arguments"),
    "response.custom_tool_call_input": (("input",), "input"),
    "response.code_interpreter_call_code": (("code",), "code"),
    "response.shell_call_command": (("action", "commands", "command_index"), "command"),
}
"""Texts that come in deltas: the place in their item, and their member in the `.done` event."""

_HOLDERS: dict[str, tuple[Key, str]] = {
    "response.output_item": ((), "item"),
    "response.content_part": (("content", "content_index"), "part"),
    "response.reasoning_summary_part": (("summary", "summary_index"), "part"),
    "response.reasoning_part": (("content", "content_index"), "part"),  # vLLM's
    "response.output_text.annotation": (("content", "content_index", "annotations", "annotation_index"), "annotation"),
}
_LAST = frozenset({"response.completed", "response.incomplete", "response.failed"})
_STILL_OPEN = frozenset({"text", "refusal", "arguments", "input", "code", "commands"})  # deltas may follow
_PLAIN = _INDEX | {
    "type", "sequence_number", "output_index", "item_id", "obfuscation", "logprobs", "partial_image_index",
    "partial_image_b64",
}  # fmt: skip
_KIND = re.compile(r"[a-z0-9_.]{1,100}")
_LINE = re.compile(rb"\r\n|\n|\r")


class _TextDelta(msgspec.Struct, forbid_unknown_fields=True):
    """What nearly every event of a stream is."""

    type: Literal["response.output_text.delta"]
    item_id: str
    output_index: int
    content_index: int
    delta: str
    sequence_number: int = 0
    logprobs: list[dict[str, msgspec.Raw]] | None = None
    obfuscation: str = ""


_USUAL = b"event: response.output_text.delta\ndata: "
_DELTA: Path = ("delta",)
_read_text_delta = msgspec.json.Decoder(_TextDelta).decode


class ResponseStream:
    """One streamed answer. `told` are the texts of its request, which its events tell again."""

    def __init__(self, told: frozenset[str] = frozenset(), *, pictures: bool = False) -> None:
        self._told = told
        self._pictures = pictures  # whether those that a tool makes may pass
        self._lanes = Lanes()
        self._indexes: dict[str, int] = {}  # of items by their ids: the last event lists them without gaps
        self._item_id = ""
        self._over = False
        self._frame = Frame(self._lanes)
        self._words = ""  # of ours, for a text that the client has not been told of

    # -- reading -------------------------------------------------------------------------------------------------

    def read_event(self, raw: bytes) -> Event:
        """Read the next event; raises `MalformedResponse` for one that cannot be understood."""
        usual = raw.startswith(_USUAL) and raw.find(b"\n", len(_USUAL)) == len(raw) - 2 and b"\r" not in raw
        payload = raw[len(_USUAL) : -2] if usual else sse.data(raw)
        if payload is None:
            return Event(raw)
        if payload.strip() == b"[DONE]":
            return Event(raw, last=True)  # not of this API, but common
        if self._over:
            return Event(b"")
        try:
            delta = _read_text_delta(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return self._read_any(raw, payload)
        if delta.item_id != self._item_id or delta.obfuscation:
            if not HANDLE.fullmatch(delta.item_id) or not HANDLE.fullmatch(delta.obfuscation):
                return self._read_any(raw, payload)
            self._item_id = delta.item_id
        memo = Memo(delta.type, delta.sequence_number)
        memo.odd = not usual and _is_odd(raw, delta.type)
        pieces: list[Piece] = []
        key = (delta.output_index, "content", delta.content_index, "text")
        self._lanes.add(memo, pieces, _DELTA, delta.delta, key, True)
        return Event(raw, tuple(pieces), memo=memo)

    def _read_any(self, raw: bytes, payload: bytes) -> Event:
        try:
            body = msgspec.json.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise MalformedResponse("the upstream sent an event that is not JSON") from None
        kind = body.get("type") if isinstance(body, dict) else None
        if not isinstance(kind, str) or not _KIND.fullmatch(kind):
            raise MalformedResponse("the upstream sent an event without a type")
        picture = body.get("partial_image_b64")
        if kind == "response.audio.delta" or (picture and not self._pictures):
            raise MalformedResponse("the upstream's answer holds media, which cannot be screened")
        memo = Memo(kind, body.get("sequence_number"), body)
        memo.odd = _is_odd(raw, kind)
        pieces: list[Piece] = []
        try:
            read = self._read_parts(memo, pieces, kind, body)
        except Media:
            raise MalformedResponse("the upstream's answer holds media, which cannot be screened") from None
        if picture and not (isinstance(picture, str) and BLOB.fullmatch(picture)):
            raise MalformedResponse("the upstream's answer holds a picture that is none")
        for key in body.keys() - _PLAIN - {read}:
            for path, text in texts(body[key], (key,)):
                self._lanes.add(memo, pieces, path, text, (index_of(body, "output_index", -1), "?", kind, *path), False)
        for key in _PLAIN & body.keys() - {"type", "partial_image_b64"}:
            if key != "logprobs" or not is_logprobs(body[key]):
                for path, text in setting_texts(body[key], (key,)):
                    self._lanes.again(memo, pieces, path, text, ("?", kind, *path))
        closing = kind in _LAST or kind == "error"
        if closing:
            self._lanes.end(memo, ())
            self._over = True
        finished = {lane.number: "stop" for lane in memo.ends}
        return Event(raw, tuple(pieces), finished, memo=memo, closing=closing)

    def _read_parts(self, memo: Memo, pieces: list[Piece], kind: str, body: dict[str, Any]) -> str:
        """Read what the API defines for this kind of event; the member in which that stood."""
        stem, _, what = kind.rpartition(".")
        if kind in WHOLE_RESPONSE:
            answer = body.get("response")
            if not isinstance(answer, dict):
                raise MalformedResponse("the upstream sent an event without its response")
            self._read_response(memo, pieces, answer, kind in _LAST)
            return "response"
        if stem in _TEXTS and what in ("delta", "added", "done"):
            place, member = _TEXTS[stem]
            member = "delta" if what == "delta" else member
            text = body.get(member)
            key = _key(body, place)
            if isinstance(text, str):
                shown = stem == "response.output_text"
                if what == "delta":
                    self._lanes.add(memo, pieces, (member,), text, key, shown)
                elif text:
                    self._lanes.again(memo, pieces, (member,), text, key, shown, ends=False)
                if what == "done":
                    self._lanes.end(memo, key)
                return member
            return ""
        if stem in _HOLDERS and what in ("added", "done"):
            place, member = _HOLDERS[stem]
            value = body.get(member)
            key = _key(body, place)
            if member == "item" and isinstance(value, dict) and isinstance(value.get("id"), str):
                self._indexes[value["id"]] = int(key[0])
            self._read_within(memo, pieces, value, (member,), key, what == "done")
            if what == "done" or member == "annotation":
                self._lanes.end(memo, key)
            return member
        return ""

    def _read_response(self, memo: Memo, pieces: list[Piece], answer: dict[str, Any], last: bool) -> None:
        for name, value in answer.items():
            if name == "output" and isinstance(value, list):
                for position, item in enumerate(value):
                    ident = item.get("id") if isinstance(item, dict) else None
                    index = self._indexes.get(ident, position) if isinstance(ident, str) else position
                    self._read_within(memo, pieces, item, ("response", "output", position), (index,), last)
            else:
                for path, text in others(name, value, ("response", name)):
                    if text not in self._told:
                        self._lanes.again(memo, pieces, path, text, path)

    def _read_within(self, memo: Memo, pieces: list[Piece], value: Any, at: Path, key: Key, done: bool) -> None:
        for path, text in texts(value, at, pictures=self._pictures):
            rest = path[len(at) :]
            word = next((step for step in reversed(rest) if isinstance(step, str)), "")
            shown = _is_shown(value, rest, key)
            self._lanes.again(memo, pieces, path, text, (*key, *rest), shown, ends=done or word not in _STILL_OPEN)

    # -- writing -------------------------------------------------------------------------------------------------

    def tell(self, event: Event, texts: Mapping[Path, str]) -> bytes:
        """The event as it leaves, with what is left of each of its texts."""
        memo = event.memo
        if not isinstance(memo, Memo):
            return event.raw
        changes: dict[Path, Any] = {}
        for place in memo.places:
            lane = place.lane
            if place.new:
                left = place.left(texts.get(place.path, ""))
                lane.left.append(left)
                if place.whole and lane.pending:
                    words, lane.pending = lane.pending, ""
                    lane.left = [lane.told() + words] if words.startswith("\n") else [words + lane.told()]
            left = lane.told() if place.whole else left
            if left != place.text:
                changes[place.path] = left
        for lane in memo.ends:
            lane.closed = True
        self._frame.count(memo.number)
        raw = event.raw
        if changes or memo.odd:
            payload = sse.data(raw) or b"{}"
            body = memo.body = memo.body or msgspec.json.decode(payload)
            for path in list(changes):
                holder = value_at(body, path[:-1])
                if isinstance(holder, dict) and holder.get("logprobs"):
                    changes[(*path[:-1], "logprobs")] = []  # they spell the text that was taken out
            raw = framed(memo.kind, json.replace(payload, changes))
            for path, value in changes.items():
                value_at(body, path[:-1])[path[-1]] = value
        if memo.body is not None:
            self._frame.keep(memo.kind, memo.body)
        return raw

    write_event = tell

    def sent(self, step: tuple[str | int, ...]) -> None:
        """Nothing: `tell` knows what leaves."""

    def delta(self, like: bytes | None, choice: int, text: str) -> bytes:
        """An event that adds `text` to a text that is open; words for one that is not wait until it comes, or until
        the stream is closed."""
        numbered = self._lanes.numbered
        lane = numbered[choice] if 0 <= choice < len(numbered) else None
        if lane is None or not lane.shown or lane.closed:
            self._words += text
        elif not self._frame.knows(lane.key):
            lane.pending += text
        else:
            lane.left.append(text)
            return self._frame.delta(lane.key, text)
        return b""

    def mark_event(self, raw: bytes, member: bytes) -> bytes:
        """The event with the `guardrail` object spliced into it and into its response."""
        return mark(raw, member)

    def close(self, like: bytes | None, choices: Sequence[int], member: bytes) -> bytes:
        """The events that end a stream we stopped."""
        words = "".join([lane.pending for lane in self._lanes.numbered]) + self._words
        return self._frame.close(words, member)

    def note(self, like: bytes | None, member: bytes) -> bytes:
        """A comment that carries the `guardrail` object, where the upstream's stream ended without its last event."""
        return b": guardrail " + member + b"\n\n"

    def answer(self, base: dict[str, Any], text: str, reason: str, member: bytes) -> bytes:
        """A whole stream of our own that says `text`; `reason` is content_filter or stop."""
        return self._frame.answer(base, text, reason, member)


def _is_odd(raw: bytes, kind: str) -> bool:
    """Whether an event's lines name another kind than its data does, or say more: it is written anew, then."""
    name = b"event: " + kind.encode()
    if raw.startswith(b"data: ") and raw.find(b"\n") == len(raw) - 2:
        return False
    return any(line and line != name and not line.startswith((b"data:", b":", b"retry:")) for line in _LINE.split(raw))


def _is_shown(value: Any, rest: Path, key: Key) -> bool:
    """Whether the text at `rest` of an item or a part is what a user is shown as the answer."""
    if len(key) == 1 and len(rest) == 3 and rest[0] == "content" and isinstance(value, dict):
        item, part = value, value_at(value, rest[:2])
        return item.get("type") == "message" and rest[2] == "text" and part.get("type") == "output_text"
    return len(key) == 3 and rest == ("text",) and value.get("type") == "output_text"


def _key(body: dict[str, Any], place: Key) -> Key:
    steps = (index_of(body, str(step), 0) if step in _INDEX else step for step in place)
    return (index_of(body, "output_index", 0), *steps)
