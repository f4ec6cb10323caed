"""A model server that speaks Anthropic's Messages API: /v1/messages, plain and streamed, with answers as scripted.

Written from the public API reference and its page on streaming. The model's name chooses the answer: a name in
`answers` gives that one, "echo" repeats what was asked, and `FAULTS` lists what goes wrong on demand.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.e2e.upstream import Received, Upstream, _Out

FAULTS = {
    "overloaded": "answers 529 with the API's own error",
    "missing": "answers 404 with the API's own error",
    "overloaded-stream": "sends an error event after its fourth event",
    "out-of-turn": "sends a part of a block that it has not opened",
    "cut": "closes the connection after its fourth event",
}
SEALED = "EqQBCgIYAhIkZGVhZGJlZWY="


@dataclass(frozen=True)
class Say:
    """An answer: its content blocks as the reference has them. Texts are cut into pieces of `piece` characters when
    they are streamed (0: words); `pause` is the time between events, in seconds."""

    blocks: tuple[dict[str, Any], ...] = ()
    reason: str = "end_turn"
    piece: int = 0
    pause: float = 0.0
    end: bytes = b"\n"
    bytewise: bool = False
    escaped: bool = False  # inputs of calls as ASCII


class AnthropicUpstream(Upstream):
    """The server; `url` is its root, as the SDK's `base_url`."""

    def __init__(self) -> None:
        super().__init__()
        self.url = f"http://127.0.0.1:{self.port}"
        self.answers: dict[str, Say] = {}

    async def _answer(self, request: Received, out: _Out) -> None:
        if (request.method, request.path) != ("POST", "/v1/messages"):
            return await _error(out, 404, "not_found_error", "Not found")
        if "anthropic-version" not in request.headers:
            return await _error(out, 400, "invalid_request_error", "anthropic-version: header is required")
        asked = request.json
        model = asked["model"]
        if model == "overloaded":
            return await _error(out, 529, "overloaded_error", "Overloaded")
        if model == "missing":
            return await _error(out, 404, "not_found_error", "model: missing")
        say = self.answers.get(model) or Say(({"type": "text", "text": _said(asked)},))
        if not asked.get("stream"):
            whole = json.dumps({**_message(model), **_closing(say)}, ensure_ascii=False).encode()
            return await out.whole(200, "application/json", whole, request_id="req_e2e")
        await out.start(200, "text/event-stream; charset=utf-8", request_id="req_e2e")
        for number, body in enumerate(_events(model, say)):
            if number == 4 and model == "overloaded-stream":
                body = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
            elif number == 4 and model == "out-of-turn":
                body = {"type": "content_block_delta", "index": 7, "delta": {"type": "text_delta", "text": "boo"}}
            elif number == 4 and model == "cut":
                raise ConnectionError("cut, as asked")
            data = json.dumps(body, ensure_ascii=False).encode()
            raw = b"event: " + body["type"].encode() + say.end + b"data: " + data + say.end * 2
            for piece in [bytes([byte]) for byte in raw] if say.bytewise else [raw]:
                await out.piece(piece)
            if body["type"] == "error":
                break
            await asyncio.sleep(say.pause)
            if request.left.is_set():
                return None
        return await out.end()


async def _error(out: _Out, status: int, kind: str, message: str) -> None:
    body = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_e2e"}
    await out.whole(status, "application/json", json.dumps(body).encode(), request_id="req_e2e")


def _said(asked: dict[str, Any]) -> str:
    content = next((m["content"] for m in reversed(asked["messages"]) if m["role"] == "user"), "")
    return content if isinstance(content, str) else "".join(block.get("text", "") for block in content)


def _message(model: str) -> dict[str, Any]:
    usage = {"input_tokens": 25, "output_tokens": 1, "cache_read_input_tokens": 0, "service_tier": "standard"}
    return {
        "id": "msg_e2e", "type": "message", "role": "assistant", "model": model, "content": [], "stop_reason": None,
        "stop_sequence": None, "usage": usage, "x_made_up": 1.10,
    }  # fmt: skip


def _closing(say: Say) -> dict[str, Any]:
    usage = {"input_tokens": 25, "output_tokens": 15, "cache_read_input_tokens": 0, "service_tier": "standard"}
    return {"content": list(say.blocks), "stop_reason": say.reason, "usage": usage}


def _events(model: str, say: Say) -> Iterator[dict[str, Any]]:
    yield {"type": "message_start", "message": _message(model)}
    for index, block in enumerate(say.blocks):
        empty, deltas = _streamed(block, say.piece, say.escaped)
        yield {"type": "content_block_start", "index": index, "content_block": empty}
        if index == 0:
            yield {"type": "ping"}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    delta = {"stop_reason": say.reason, "stop_sequence": None}
    yield {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 15}}
    yield {"type": "message_stop"}


def _streamed(block: dict[str, Any], piece: int, escaped: bool) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A block as it begins, and its deltas."""
    kind = block["type"]
    if kind == "text":
        deltas = [{"type": "text_delta", "text": part} for part in _pieces(block["text"], piece)]
        deltas += [{"type": "citations_delta", "citation": citation} for citation in block.get("citations") or []]
        return {"type": "text", "text": "", **({"citations": []} if "citations" in block else {})}, deltas
    if kind == "thinking":
        deltas = [{"type": "thinking_delta", "thinking": part} for part in _pieces(block["thinking"], piece)]
        deltas.append({"type": "signature_delta", "signature": block["signature"]})
        return {"type": "thinking", "thinking": "", "signature": ""}, deltas
    if kind in ("tool_use", "server_tool_use"):
        written = json.dumps(block["input"], ensure_ascii=escaped)
        parts = ["", *_pieces(written, piece or 4)]
        return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": part} for part in parts]
    return block, []  # results and sealed thoughts come whole


def _pieces(text: str, size: int) -> list[str]:
    return re.findall(r"\S+\s*|\s+", text) if not size else [text[i : i + size] for i in range(0, len(text), size)]
