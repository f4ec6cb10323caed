"""The built-in demo upstream: OpenAI-shaped, and plainly no model. It says so, then echoes, token by token."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from guardrail.wire import json, sse

MODEL = "guardrail-demo"
OPENING = "This is guardrail's built-in demo upstream, not a model. You said: "
BACKWARDS = "backwards:"
"""A prompt that begins with it is echoed in reverse: a way to see an answer blocked whose prompt was not."""

_TOKEN = re.compile(r"\s*[A-Za-z0-9_]+|\s*.", re.DOTALL)


def demo_app(pace: float = 0.02) -> Starlette:
    """The demo as an ASGI app; `pace` is the seconds between two streamed tokens."""

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "guardrail"}]})

    async def completions(request: Request) -> Response:
        body = json.decode(await request.body())
        text = OPENING + _echo(body)
        base = {"id": f"chatcmpl-demo-{time.time_ns():x}", "created": int(time.time()), "model": MODEL}
        if body.get("stream"):
            return StreamingResponse(_stream(base, text, pace), media_type="text/event-stream")
        words = len(_TOKEN.findall(text))
        return JSONResponse(
            {
                **base,
                "object": "chat.completion",
                "choices": [
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": text},
                        "logprobs": None,
                        "finish_reason": "stop",
                    }
                ],
                "usage": {"prompt_tokens": words, "completion_tokens": words, "total_tokens": 2 * words},
            }
        )

    return Starlette(routes=[Route("/v1/models", models), Route("/v1/chat/completions", completions, methods=["POST"])])


def _echo(body: dict[str, Any]) -> str:
    texts = list(_user_texts(body))
    said = texts[-1] if texts else ""
    if said.lower().startswith(BACKWARDS):
        return said[len(BACKWARDS) :].strip()[::-1]
    return said


def _user_texts(body: dict[str, Any]) -> Iterator[str]:
    for message in body.get("messages", []):
        content = message.get("content")
        if message.get("role") == "user":
            if isinstance(content, str):
                yield content
            elif isinstance(content, list):
                yield " ".join(part.get("text", "") for part in content)


async def _stream(base: dict[str, Any], text: str, pace: float) -> AsyncIterator[bytes]:
    def chunk(delta: dict[str, str], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return sse.event(json.encode({**base, "object": "chat.completion.chunk", "choices": [choice]}))

    yield chunk({"role": "assistant", "content": ""})
    for token in _TOKEN.findall(text):
        yield chunk({"content": token})
        await asyncio.sleep(pace)
    yield chunk({}, "stop")
    yield sse.DONE
