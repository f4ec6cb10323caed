"""The proxy that one writes in an afternoon: uvicorn, Starlette and aiohttp's client, which looks at nothing."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

URL = os.environ["UPSTREAM"] + "/v1/chat/completions"
PASSED_ON = ("authorization", "content-type", "accept")


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    app.state.client = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=256),
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(60),
        cookie_jar=aiohttp.DummyCookieJar(),
    )
    yield
    await app.state.client.close()


async def chat(request: Request) -> Response:
    headers = {name: request.headers[name] for name in PASSED_ON if name in request.headers}
    answer = await request.app.state.client.post(URL, headers=headers, data=await request.body())
    kind = answer.headers.get("content-type", "")
    if "event-stream" not in kind:
        return Response(await answer.read(), answer.status, media_type=kind)

    async def pieces() -> AsyncIterator[bytes]:
        try:
            async for piece in answer.content.iter_any():
                yield piece
        finally:
            answer.release()

    return StreamingResponse(pieces(), answer.status, media_type=kind)


app = Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])], lifespan=lifespan)
