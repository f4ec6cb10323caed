"""A model server that speaks Ollama's API: /api/chat and /api/generate, streamed unless asked not to, as scripted.

Written from Ollama's public API reference. The model's name chooses the answer: a name in `answers` gives that one,
"echo" repeats what was asked, "missing" is not there, "breaks" fails in mid-stream.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.e2e.upstream import Received, Upstream, _Out

CREATED = "2026-01-02T03:04:05.678901234Z"
COUNTS = {
    "total_duration": 5191566416,
    "load_duration": 2154458,
    "prompt_eval_count": 26,
    "prompt_eval_duration": 383809000,
    "eval_count": 298,
    "eval_duration": 4799921000,
}


@dataclass(frozen=True)
class Say:
    """An answer. `piece` is how many characters a line of a stream holds (0: a word), `pause` seconds between them."""

    text: str = ""
    thinking: str = ""
    calls: tuple[dict[str, Any], ...] = ()
    reason: str = "stop"
    logprobs: bool = False
    piece: int = 0
    pause: float = 0.0
    end: bytes = b"\n"


class OllamaUpstream(Upstream):
    """The server; `url` is its root, as the SDK's `host`."""

    def __init__(self) -> None:
        super().__init__()
        self.url = f"http://127.0.0.1:{self.port}"
        self.answers: dict[str, Say] = {}

    async def _answer(self, request: Received, out: _Out) -> None:
        if (request.method, request.path) not in (("POST", "/api/chat"), ("POST", "/api/generate")):
            return await out.whole(404, "text/plain", b"404 page not found")
        asked = request.json
        model = asked["model"]
        if model == "missing":
            error = {"error": f"model '{model}' not found"}
            return await out.whole(404, "application/json; charset=utf-8", json.dumps(error).encode())
        chat = request.path == "/api/chat"
        said = _said(asked, chat)
        say = self.answers.get(model, Say(said) if said else Say(reason="load"))
        if not asked.get("stream", True):
            body = _dumped({**_line(model, chat, say.text, say), **_end(say, chat)})
            return await out.whole(200, "application/json; charset=utf-8", body)
        await out.start(200, "application/x-ndjson")
        for number, line in enumerate(_lines(model, chat, say)):
            if model == "breaks" and number == 2:
                line = {"error": "an error was encountered while running the model: unexpected EOF"}
            await out.piece(_dumped(line) + say.end)
            if "error" in line:
                break
            await asyncio.sleep(say.pause)
            if request.left.is_set():
                return None
        return await out.end()


def _said(asked: dict[str, Any], chat: bool) -> str:
    if chat:
        return next((m["content"] for m in reversed(asked.get("messages") or []) if m["role"] == "user"), "")
    return str(asked.get("prompt") or "") + str(asked.get("suffix") or "")


def _line(model: str, chat: bool, text: str, whole: Say | None = None, **more: Any) -> dict[str, Any]:
    """One line, or with `whole` the body of a plain answer but for its end."""
    if whole is not None:
        more |= {"thinking": whole.thinking} if whole.thinking else {}
        more |= {"tool_calls": list(whole.calls)} if whole.calls else {}
    said = {"message": {"role": "assistant", "content": text, **more}} if chat else {"response": text, **more}
    if text and whole is not None and whole.logprobs:
        said["logprobs"] = _logprobs(text)
    return {"model": model, "created_at": CREATED, **said, "done": False}


def _lines(model: str, chat: bool, say: Say) -> Iterator[dict[str, Any]]:
    for piece in _pieces(say.thinking, say.piece):
        yield _line(model, chat, "", thinking=piece)
    for piece in _pieces(say.text, say.piece):
        line = _line(model, chat, piece)
        yield {**line, "logprobs": _logprobs(piece)} if say.logprobs else line
    for call in say.calls:
        yield _line(model, chat, "", tool_calls=[call])
    yield {**_line(model, chat, ""), **_end(say, chat)}


def _end(say: Say, chat: bool) -> dict[str, Any]:
    context = {} if chat or say.reason == "load" else {"context": [128006, 882, 128007, 271]}
    return {"done": True, "done_reason": say.reason, **context, **({} if say.reason == "load" else COUNTS)}


def _logprobs(text: str) -> list[dict[str, Any]]:
    other = {"token": "...", "logprob": -2.5}
    return [{"token": text, "logprob": -0.125, "bytes": list(text.encode()), "top_logprobs": [other]}]


def _pieces(text: str, size: int) -> list[str]:
    return re.findall(r"\S+\s*|\s+", text) if not size else [text[i : i + size] for i in range(0, len(text), size)]


def _dumped(value: Any) -> bytes:
    """JSON as Go writes it: compact, with the line separators of Unicode escaped."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029").encode()
