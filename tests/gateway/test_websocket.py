"""Websockets through the proxy: refused unless the operator lets them pass, and then carried both ways unread."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn
import websockets
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.types import ASGIApp
from starlette.websockets import WebSocket

from guardrail.gateway.middleware import GuardrailMiddleware
from guardrail.gateway.upstream import Target, Upstream
from guardrail.metrics import render
from tests.gateway.conftest import MakeEngine


async def echo(websocket: WebSocket) -> None:
    await websocket.accept(subprotocol="realtime")
    await websocket.send_text(websocket.headers["authorization"])
    async for text in websocket.iter_text():
        if text == "bye":
            await websocket.close(4001)
            return
        await websocket.send_text(text[::-1])


@asynccontextmanager
async def served(app: ASGIApp) -> AsyncIterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    task = asyncio.create_task(server.serve([listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await task


async def test_a_websocket_is_refused_before_it_opens(make_engine: MakeEngine) -> None:
    engine = make_engine()
    proxy = GuardrailMiddleware(Upstream(Target("http://127.0.0.1:9")), engine, websockets="refuse")
    async with served(proxy) as port:
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(f"ws://127.0.0.1:{port}/v1/realtime")
    assert refused.value.response.status_code == 403
    assert 'outcome="websocket_refused"' in render(engine.metrics.registry)[0].decode()


async def test_a_websocket_that_may_pass_is_carried_both_ways_and_counted(make_engine: MakeEngine) -> None:
    engine = make_engine()
    async with served(Starlette(routes=[WebSocketRoute("/v1/realtime", echo)])) as upstream_port:
        upstream = Upstream(Target(f"http://127.0.0.1:{upstream_port}"))
        async with (
            served(GuardrailMiddleware(upstream, engine, websockets="pass")) as port,
            websockets.connect(
                f"ws://127.0.0.1:{port}/v1/realtime",
                additional_headers={"authorization": "Bearer k"},
                subprotocols=[websockets.Subprotocol("realtime")],
            ) as client,
        ):
            assert client.subprotocol == "realtime"
            assert await client.recv() == "Bearer k"
            await client.send("abc")
            assert await client.recv() == "cba"
            await client.send("bye")
            with pytest.raises(websockets.ConnectionClosedError):
                await client.recv()
            assert client.close_code == 4001
    assert 'guardrail_bypassed_total{reason="websocket"} 1.0' in render(engine.metrics.registry)[0].decode()


async def test_a_websocket_whose_upstream_is_away_is_closed(make_engine: MakeEngine) -> None:
    proxy = GuardrailMiddleware(Upstream(Target("http://127.0.0.1:9")), make_engine(), websockets="pass")
    async with served(proxy) as port:
        with pytest.raises(websockets.InvalidStatus):
            await websockets.connect(f"ws://127.0.0.1:{port}/v1/realtime")
