"""A model server to test against: OpenAI chat completions in full, answers as scripted, faults on demand.

It runs in a thread of the test's process, so that a test can look at what it received. A request says what it wants
with its model's name (`FAULTS` lists the faults) and with `metadata.script`, the JSON that `script()` writes.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import uvicorn

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

CREATED = 1_767_225_600
FAULTS = {
    "slow": "says nothing for SLOW_SECONDS",
    "slow-stream": "says nothing for SLOW_SECONDS after its third event",
    "cut": "closes the connection in the middle of its answer",
    "broken-sse": "sends an event that is not JSON",
    "html": "answers 200 with a page",
    "html-error": "answers 503 with a page",
    "error-429": "answers 429 with an error in JSON and Retry-After",
    "error-500": "answers 500 with an error in JSON",
    "error-event": "reports an error within its stream",
    "not-json": "answers 200 with application/json that is not JSON",
    "no-choices": "answers 200 with JSON that is no chat completion",
    "compressed": "compresses its answer though it was asked not to",
    "after-finish": "sends text for a choice that it has finished",
    "no-done": "ends its stream without [DONE]",
    "crlf": "ends its lines with CRLF",
    "bytewise": "sends its stream byte by byte",
    "bytewise-crlf": "both",
    "comments": "sends comments and blank lines between and within its events",
}
SLOW_SECONDS = 30.0


@dataclass(frozen=True)
class Call:
    """A tool call of an answer."""

    name: str
    arguments: str
    id: str = "call_e2e"


@dataclass(frozen=True)
class Say:
    """One choice of an answer. Texts are cut into pieces of `piece` characters when streamed (0: words)."""

    content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    calls: tuple[Call, ...] = ()
    finish: str = ""
    logprobs: bool = False


def script(*choices: Say, piece: int = 0, pause: float = 0.0) -> dict[str, Any]:
    """Arguments of a request that make this server answer so; `pause` is the time between events, in seconds."""
    what = {"choices": [asdict(choice) for choice in choices], "piece": piece, "pause": pause}
    return {"metadata": {"script": json.dumps(what)}}


@dataclass
class Received:
    """A request as it came, and what became of the answer."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    sent: int = 0  # events of a stream, or bodies
    left: threading.Event = field(default_factory=threading.Event)  # the client hung up before the end
    done: threading.Event = field(default_factory=threading.Event)  # the answer was sent whole

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Upstream:
    """The server. `url` is its base with `/v1`; `received` grows with each request."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        config = uvicorn.Config(
            self._app, interface="asgi3", log_level="critical", lifespan="off", timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)

    def start(self) -> None:
        self._thread.start()
        until = time.monotonic() + 10
        while not self._server.started:
            assert time.monotonic() < until, "the test upstream did not start"
            time.sleep(0.01)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)

    @property
    def last(self) -> Received:
        return self.received[-1]

    # -- the app -------------------------------------------------------------------------------------------------

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        request = Received(scope["method"], scope["path"], scope["query_string"].decode(), headers, body)
        self.received.append(request)
        watch = asyncio.ensure_future(self._watch(request, receive))
        try:
            await self._answer(request, _Out(request, send))
        finally:
            watch.cancel()

    async def _watch(self, request: Received, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        if not request.done.is_set():
            request.left.set()

    async def _answer(self, request: Received, out: _Out) -> None:
        if request.method != "POST":
            models = {
                "object": "list",
                "data": [{"id": "echo", "object": "model", "created": CREATED, "owned_by": "e2e"}],
            }
            return await out.whole(200, "application/json", json.dumps(models).encode())
        asked = request.json
        model = asked.get("model", "")
        if await _fails(model, out):
            return None
        answer = _scripted(asked)
        if not asked.get("stream"):
            body = json.dumps(_completion(asked, answer["choices"]), ensure_ascii=False).encode()
            if model == "cut":
                await out.start(200, "application/json", length=len(body))
                await out.piece(body[: len(body) // 2])
                raise ConnectionError("cut, as asked")
            return await out.whole(
                200, "application/json", body, **({"encoding": "gzip"} if model == "compressed" else {})
            )
        await out.start(200, "text/event-stream; charset=utf-8")
        async for data in _as_asked(model, _events(asked, answer)):
            await out.piece(data)
            if answer["pause"]:
                await asyncio.sleep(answer["pause"])
            if request.left.is_set():
                return None
        return await out.end()


class _Out:
    """The way out of one answer."""

    def __init__(self, request: Received, send: Send) -> None:
        self._request = request
        self._send = send

    async def start(self, status: int, media: str, length: int | None = None, **more: str) -> None:
        headers = [(b"content-type", media.encode()), (b"x-upstream", b"e2e")]
        if length is not None:
            headers.append((b"content-length", b"%d" % length))
        headers += [(name.replace("_", "-").encode(), value.encode()) for name, value in more.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def piece(self, data: bytes) -> None:
        self._request.sent += 1
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        self._request.done.set()
        await self._send({"type": "http.response.body", "body": b""})

    async def whole(self, status: int, media: str, body: bytes, encoding: str = "", **more: str) -> None:
        if encoding:
            body, more = gzip.compress(body), {**more, "content_encoding": encoding}
        await self.start(status, media, len(body), **more)
        self._request.done.set()
        await self._send({"type": "http.response.body", "body": body})


# -- answers ---------------------------------------------------------------------------------------------------------


def _scripted(asked: Mapping[str, Any]) -> dict[str, Any]:
    written = (asked.get("metadata") or {}).get("script")
    if written:
        answer: dict[str, Any] = json.loads(written)
        return answer
    content = asked["messages"][-1].get("content") or ""
    if isinstance(content, list):
        content = "".join(part.get("text", "") for part in content)
    choices = [asdict(Say(content, logprobs=bool(asked.get("logprobs")))) for _ in range(asked.get("n") or 1)]
    return {"choices": choices, "piece": 0, "pause": 0.0}


def _finish(choice: Mapping[str, Any]) -> str:
    return choice["finish"] or ("tool_calls" if choice["calls"] else "stop")


def _usage(asked: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "prompt_tokens": 11,
        "completion_tokens": 7,
        "total_tokens": 18,
        "completion_tokens_details": {"reasoning_tokens": 3, "x_made_up": 1},
    }


def _logprobs(text: str) -> dict[str, Any]:
    tokens = [{"token": t, "logprob": -0.125, "bytes": list(t.encode()), "top_logprobs": []} for t in words(text)]
    return {"content": tokens, "refusal": None}


def _completion(asked: Mapping[str, Any], choices: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    out = []
    for index, choice in enumerate(choices):
        message: dict[str, Any] = {"role": "assistant", "content": choice["content"], "refusal": choice["refusal"]}
        if choice["reasoning"] is not None:
            message["reasoning_content"] = choice["reasoning"]
        if choice["calls"]:
            message["tool_calls"] = [
                {
                    "id": call["id"],
                    "type": "function",
                    "function": {"name": call["name"], "arguments": call["arguments"]},
                }
                for call in choice["calls"]
            ]
        logprobs = _logprobs(choice["content"]) if choice["logprobs"] else None
        out.append({"index": index, "message": message, "logprobs": logprobs, "finish_reason": _finish(choice)})
    return {
        "id": "chatcmpl-e2e",
        "object": "chat.completion",
        "created": CREATED,
        "model": asked["model"],
        "choices": out,
        "usage": _usage(asked),
        "service_tier": "default",
        "system_fingerprint": "fp_e2e",
        "x_made_up": {"big": 12345678901234567890, "float": 1.10, "list": [1, None, True]},
    }


def words(text: str, piece: int = 0) -> list[str]:
    """The pieces in which a text is streamed: of `piece` characters, or else words with the space before them."""
    if piece:
        return [text[i : i + piece] for i in range(0, len(text), piece)]
    return re.findall(r"\s*\S+\s*?", text) if text.strip() else [text] if text else []


async def _events(asked: Mapping[str, Any], answer: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """The chunks of a stream; the choices of `n > 1` take turns, as real servers do."""
    with_usage = bool((asked.get("stream_options") or {}).get("include_usage"))

    def chunk(choices: list[dict[str, Any]], usage: Any = None) -> dict[str, Any]:
        base = {"id": "chatcmpl-e2e", "object": "chat.completion.chunk", "created": CREATED, "model": asked["model"]}
        base |= {"service_tier": "default", "system_fingerprint": "fp_e2e", "x_made_up": 1.10, "choices": choices}
        return base | ({"usage": usage} if with_usage else {})

    lanes = [list(_deltas(choice, answer["piece"])) for choice in answer["choices"]]
    for turn in range(max(map(len, lanes))):
        for index, lane in enumerate(lanes):
            if turn < len(lane):
                delta, logprobs = lane[turn]
                yield chunk([{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None}])
    for index, choice in enumerate(answer["choices"]):
        yield chunk([{"index": index, "delta": {}, "logprobs": None, "finish_reason": _finish(choice)}])
    if with_usage:
        yield chunk([], _usage(asked))


def _deltas(choice: Mapping[str, Any], piece: int) -> Iterable[tuple[dict[str, Any], Any]]:
    yield {"role": "assistant", "content": "" if choice["content"] is not None else None, "refusal": None}, None
    for text in words(choice["reasoning"] or "", piece):
        yield {"reasoning_content": text}, None
    for text in words(choice["content"] or "", piece):
        yield {"content": text}, _logprobs(text) if choice["logprobs"] else None
    for text in words(choice["refusal"] or "", piece):
        yield {"refusal": text}, None
    for number, call in enumerate(choice["calls"]):
        opening = {
            "index": number,
            "id": call["id"],
            "type": "function",
            "function": {"name": call["name"], "arguments": ""},
        }
        yield {"tool_calls": [opening]}, None
        for text in words(call["arguments"], piece or 4):
            yield {"tool_calls": [{"index": number, "function": {"arguments": text}}]}, None


# -- faults ----------------------------------------------------------------------------------------------------------


async def _fails(model: str, out: _Out) -> bool:
    """Answer as a fault of the whole answer wants it; whether `model` names one."""
    page = b"<html><body><h1>Bad Gateway</h1></body></html>"
    if model == "slow":
        await asyncio.sleep(SLOW_SECONDS)
    elif model == "html":
        await out.whole(200, "text/html", page)
    elif model == "html-error":
        await out.whole(503, "text/html; charset=utf-8", page)
    elif model.startswith(("error-4", "error-5")):
        status = int(model.removeprefix("error-"))
        error = {"message": "as asked", "type": "e2e", "param": None, "code": f"code_{status}"}
        await out.whole(status, "application/json", json.dumps({"error": error}).encode(), retry_after="7")
    elif model == "not-json":
        await out.whole(200, "application/json", b'{"id": "chatcmpl-e2e", "choices": [')
    elif model == "no-choices":
        await out.whole(200, "application/json", b'{"object": "list", "data": []}')
    else:
        return False
    return True


async def _as_asked(model: str, events: AsyncIterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    """The bytes of a stream, with the fault that `model` names."""
    end = b"\r\n" if model.endswith("crlf") else b"\n"
    number = 0
    async for chunk in events:
        number += 1
        if number == 4 and model == "cut":
            yield b'data: {"id": "chatcmpl-e2e", "choi'
            raise ConnectionError("cut, as asked")
        if number == 4 and model == "slow-stream":
            await asyncio.sleep(SLOW_SECONDS)
        if number == 4 and model == "broken-sse":
            yield b'data: {"id": "chatcmpl-e2e", "choices": [}\n\n'
        if number == 4 and model == "error-event":
            yield b'data: {"error": {"message": "overloaded", "type": "server_error", "code": null}}\n\n'
            return
        if model == "comments":
            yield b": thinking\n\n\n" if number % 2 else b": still thinking\n"
        data = b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + end + end
        if model.startswith("bytewise"):
            for byte in data:
                yield bytes([byte])
        else:
            yield data
        if model == "after-finish" and chunk["choices"] and chunk["choices"][0]["finish_reason"]:
            late = {**chunk, "choices": [{"index": 0, "delta": {"content": " and more"}, "finish_reason": None}]}
            yield b"data: " + json.dumps(late).encode() + b"\n\n"
    if model != "no-done":
        yield b"data: [DONE]" + end + end
