"""For tests of apps that use the guard: drive an ASGI app by hand, and script an upstream that says what you want.

httpx's ASGI transport buffers whole answers; a guard that holds streams back has to be driven message by message.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from guardrail.core.findings import Finding
from guardrail.core.frontier import NOTHING, Scan, Scanner, Window
from guardrail.protocols import Priority


@dataclass(slots=True)
class Answer:
    """What an ASGI app answered. `chunks` are the bodies of its messages, in order."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)
    complete: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    def json(self) -> Any:
        return json.loads(self.body)

    def events(self) -> list[Any]:
        """The data of each event of a stream: decoded JSON, or the text where it is none (`[DONE]`)."""
        found: list[Any] = []
        for line in self.body.decode().replace("\r\n", "\n").split("\n"):
            if line.startswith("data: "):
                found.append(line[6:] if line[6:] == "[DONE]" else json.loads(line[6:]))
        return found

    def text(self, choice: int = 0) -> str:
        """All streamed `content` of one choice."""
        return "".join(
            part["delta"].get("content") or ""
            for event in self.events()
            if isinstance(event, dict)
            for part in event.get("choices", [])
            if part["index"] == choice
        )


async def drive(
    app: ASGIApp,
    path: str,
    body: bytes | Mapping[str, Any] = b"",
    *,
    method: str = "POST",
    headers: Mapping[str, str] | None = None,
    peer: str = "127.0.0.1",
    pieces: Iterable[bytes] | None = None,
    leave_after: Callable[[Answer], bool] | None = None,
) -> Answer:
    """Send one request and collect the answer.

    `path` is written as in a request line: it may be percent-encoded and carry a query. `pieces` are sent as the body
    in place of `body`. `leave_after` is asked after each message of the answer; once it is true, the client has left.
    """
    raw = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
    parts = list(pieces) if pieces is not None else [raw]
    sent = {"content-type": "application/json", **(headers or {})}
    encoded, _, query = path.partition("?")
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(encoded),
        "raw_path": encoded.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in sent.items()],
        "client": (peer, 50000),
        "server": ("127.0.0.1", 80),
    }
    answer = Answer()
    gone = asyncio.Event()

    async def receive() -> Message:
        if parts:
            part = parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(parts)}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if gone.is_set():
            return
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            if message.get("body"):
                answer.chunks.append(message["body"])
            answer.complete = not message.get("more_body", False)
        if leave_after is not None and leave_after(answer):
            gone.set()
        await asyncio.sleep(0)

    await app(scope, receive, send)
    return answer


def chat(text: str, **more: Any) -> dict[str, Any]:
    """A chat completions request with one user message."""
    return {"model": "m", "messages": [{"role": "user", "content": text}], **more}


def delta(text: str | None = None, *, choice: int = 0, finish: str | None = None, **fields: Any) -> bytes:
    """One event of a streamed chat completion."""
    content = {} if text is None else {"content": text}
    choices = [{"index": choice, "delta": {**content, **fields}, "finish_reason": finish}]
    chunk = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices}
    return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"


class ScriptedUpstream:
    """An ASGI app that answers every request with `status` and `chunks`, and keeps the bodies that it was sent.

    `stopped` is true once its `send` raised, as it does when the guard cuts the stream or the client leaves.
    """

    def __init__(
        self, chunks: Sequence[bytes], *, media: str = "text/event-stream", status: int = 200, pause: float = 0.0
    ) -> None:
        self.chunks = chunks
        self.media = media
        self.status = status
        self.pause = pause
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.sent = 0
        self.stopped = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        self.bodies.append(message["body"])
        self.headers.append({name.decode(): value.decode() for name, value in scope["headers"]})
        await send(
            {
                "type": "http.response.start",
                "status": self.status,
                "headers": [(b"content-type", self.media.encode())],
            }
        )
        try:
            for chunk in self.chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                self.sent += 1
                await asyncio.sleep(self.pause)
            await send({"type": "http.response.body", "body": b""})
        except (OSError, asyncio.CancelledError):
            self.stopped = True
            raise


class WordDetector:
    """A detector for tests and demonstrations: finds given words, exactly as they are written, in one label."""

    def __init__(self, words: Sequence[str], *, name: str = "words", label: str = "word") -> None:
        self.name = name
        self._words = tuple(words)
        self._label = label

    @property
    def thresholds(self) -> Mapping[str, float]:
        return {self._label: 1.0}

    @property
    def strike_thresholds(self) -> Mapping[str, float]:
        return {self._label: 1.0}

    def scanner(self, direction: object, labels: frozenset[str]) -> Scanner:
        return _WordScanner(self._words, self.name, self._label)

    async def examine(self, windows: Sequence[Window], priority: Priority) -> Sequence[Sequence[Finding]]:
        return [() for _ in windows]

    async def start(self) -> None:
        """Nothing to start."""

    async def close(self) -> None:
        """Nothing to close."""


class _WordScanner:
    def __init__(self, words: tuple[str, ...], detector: str, label: str) -> None:
        self._words = words
        self._detector = detector
        self._label = label
        self._text = ""
        self._seen = 0

    def feed(self, text: str, *, last: bool) -> Scan:
        self._text += text
        findings = []
        for end in range(self._seen + 1, len(self._text) + 1):
            for word in self._words:
                if self._text.endswith(word, 0, end):
                    findings.append(Finding(self._detector, self._label, 1.0, end - len(word), end, end))
        self._seen = len(self._text)
        return Scan(findings) if findings else NOTHING

    def frontier(self, at: int) -> int:
        for start in range(max(0, at - max(map(len, self._words)) + 1), at):
            if any(word.startswith(self._text[start:at]) for word in self._words):
                return start
        return at
