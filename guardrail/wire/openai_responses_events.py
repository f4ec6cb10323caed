"""What a client knows of a streamed response, and the events that we write ourselves."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from guardrail.core.content import Path
from guardrail.errors import MalformedResponse
from guardrail.wire import json, sse
from guardrail.wire.openai_responses_lanes import Key, Lanes

WHOLE_RESPONSE = frozenset(
    {
        "response.created", "response.queued", "response.in_progress", "response.completed", "response.incomplete",
        "response.failed",
    }
)  # fmt: skip
"""Events that tell the response as it is."""

_LINE = re.compile(rb"\r\n|\n|\r")


class Frame:
    """The items and parts that a client has been told of, and the numbers of its events."""

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._number = -1
        self._base: dict[str, Any] | None = None
        self._items: dict[int, dict[str, Any]] = {}
        self._done: set[int] = set()

    def count(self, number: Any) -> None:
        """An event of this number leaves."""
        if type(number) is int:
            self._number = number

    def keep(self, kind: str, body: dict[str, Any]) -> None:
        """Remember what the client knows of the answer's frame."""
        index = index_of(body, "output_index", -1)
        if kind in WHOLE_RESPONSE:
            self._base = body["response"]
        elif kind.startswith("response.output_item.") and isinstance(body.get("item"), dict):
            self._items[index] = body["item"]
            if kind.endswith(".done"):
                self._done.add(index)
        elif kind.startswith("response.content_part.") and index in self._items:
            item = self._items[index]
            content = item["content"] = list(item["content"]) if isinstance(item.get("content"), list) else []
            position = index_of(body, "content_index", len(content))
            content[position : position + 1] = [body.get("part")]

    def knows(self, key: Key) -> bool:
        """Whether the client knows of the part in which this text stands."""
        item = self._items.get(int(key[0])) if key and isinstance(key[0], int) else None
        return item is not None and len(key) == 4 and len(item.get("content") or ()) > int(key[2])

    def delta(self, key: Key, text: str) -> bytes:
        """An event that adds `text` to the text at `key`."""
        index, part = int(key[0]), int(key[2])
        return self._text_delta(index, part, self._items[index].get("id"), text)

    def close(self, words: str, member: bytes) -> bytes:
        """The events that end a stream which was stopped: an open message is closed, `words` of ours follow in one of
        their own, and the response is `incomplete`. A call whose end the client has not got is left out of it."""
        out: list[bytes] = []
        base = self._base
        if base is None:
            base = response("resp_guardrail", int(time.time()), "guardrail")
            out.append(self._say("response.created", response=base))
        for index in sorted(self._items.keys() - self._done):
            if self._items[index].get("type") == "message":
                out += self._close_message(index)
        if words:
            out += self._message(max(self._items, default=-1) + 1, "msg_guardrail", words)
        output = [self._items[index] for index in sorted(self._done)]
        ended = {**base, "status": "incomplete", "incomplete_details": {"reason": "content_filter"}, "output": output}
        out.append(mark(self._say("response.incomplete", response=ended), member))
        return b"".join(out)

    def answer(self, base: dict[str, Any], text: str, reason: str, member: bytes) -> bytes:
        """A whole stream of our own that says `text`; `reason` is content_filter or stop."""
        ident = str(base["id"]).replace("resp_", "msg_")
        out = [self._say(kind, response=base) for kind in ("response.created", "response.in_progress")]
        out += self._message(0, ident, text)
        kind, end = "response.completed", {**base, "status": "completed", "output": [self._items[0]]}
        if reason == "content_filter":
            kind = "response.incomplete"
            end |= {"status": "incomplete", "incomplete_details": {"reason": reason}}
        return b"".join((*out, mark(self._say(kind, response=end), member)))

    def _say(self, kind: str, **members: Any) -> bytes:
        self._number += 1
        return framed(kind, json.encode({"type": kind, "sequence_number": self._number, **members}))

    def _text_delta(self, index: int, part: int, ident: Any, text: str) -> bytes:
        return self._say(
            "response.output_text.delta",
            item_id=ident, output_index=index, content_index=part, delta=text, logprobs=[],
        )  # fmt: skip

    def _close_message(self, index: int) -> Iterator[bytes]:
        item = self._items[index]
        parts = []
        for position, part in enumerate(item["content"] if isinstance(item.get("content"), list) else ()):
            if not isinstance(part, dict):
                continue
            kind = "refusal" if part.get("type") == "refusal" else "output_text"
            field = "refusal" if kind == "refusal" else "text"
            lane = self._lanes.at((index, "content", position, field))
            at = {"item_id": item.get("id"), "output_index": index, "content_index": position}
            if lane is None or not lane.closed:
                text = lane.told() if lane is not None else ""
                part = {**part, field: text}
                more: dict[str, Any] = {} if kind == "refusal" else {"logprobs": []}
                yield self._say(f"response.{kind}.done", **at, **{field: text}, **more)
                yield self._say("response.content_part.done", **at, part=part)
            parts.append(part)
        self._items[index] = {**item, "status": "incomplete", "content": parts}
        self._done.add(index)
        yield self._say("response.output_item.done", output_index=index, item=self._items[index])

    def _message(self, index: int, ident: str, text: str) -> Iterator[bytes]:
        at = {"item_id": ident, "output_index": index, "content_index": 0}
        item = self._items[index] = written_message(ident, text, "completed")
        self._done.add(index)
        (part,) = item["content"]
        begun = {**item, "status": "in_progress", "content": []}
        yield self._say("response.output_item.added", output_index=index, item=begun)
        yield self._say("response.content_part.added", **at, part={**part, "text": ""})
        yield self._text_delta(index, 0, ident, text)
        yield self._say("response.output_text.done", **at, text=text, logprobs=[])
        yield self._say("response.content_part.done", **at, part=part)
        yield self._say("response.output_item.done", output_index=index, item=item)


def response(ident: str, created: int, model: str) -> dict[str, Any]:
    """A response that has begun, with the members that the API always has."""
    return {
        "id": ident, "object": "response", "created_at": created, "status": "in_progress", "error": None,
        "incomplete_details": None, "instructions": None, "metadata": {}, "model": model, "output": [],
        "parallel_tool_calls": True, "temperature": None, "tool_choice": "auto", "tools": [], "top_p": None,
        "usage": None,
    }  # fmt: skip


def written_message(ident: str, text: str, status: str) -> dict[str, Any]:
    """A message of the assistant's with one text."""
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"id": ident, "type": "message", "status": status, "role": "assistant", "content": [part]}


def framed(kind: str, payload: bytes) -> bytes:
    """An event of this kind that carries `payload`, on lines as the API writes them."""
    return b"event: " + kind.encode() + b"\n" + sse.event(_LINE.sub(b" ", payload))


def mark(raw: bytes, member: bytes) -> bytes:
    """An event with the `guardrail` object spliced into it and into its response."""
    payload = sse.data(raw) or b"{}"
    body = msgspec.json.decode(payload)
    if isinstance(body.get("response"), dict):
        payload = json.replace(payload, {("response", "guardrail"): msgspec.Raw(member)})
    return framed(body["type"], json.add_member(payload, "guardrail", member))


def index_of(body: dict[str, Any], name: str, default: int) -> int:
    number = body.get(name, default)
    if type(number) is not int:
        raise MalformedResponse("the upstream sent an event whose index is not a number")
    return number


def value_at(value: Any, path: Path) -> Any:
    """What stands at `path` within `value`."""
    for step in path:
        value = value[step]
    return value
