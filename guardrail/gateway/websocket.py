"""Carry a websocket to the upstream and back, unread: only where the operator says that websockets pass."""

from __future__ import annotations

import asyncio

import aiohttp
from multidict import CIMultiDict
from starlette.types import Receive, Scope, Send
from yarl import URL

_HANDSHAKE = frozenset(
    {"sec-websocket-key", "sec-websocket-version", "sec-websocket-extensions", "sec-websocket-accept"}
)
_ABNORMAL = 1011  # RFC 6455, 7.4.1: the server met a condition that kept it from going on


async def bridge(
    session: aiohttp.ClientSession, url: URL, headers: CIMultiDict[str], scope: Scope, receive: Receive, send: Send
) -> None:
    """Connect to `url` and pass messages both ways until either side closes."""
    await receive()  # websocket.connect
    for name in _HANDSHAKE:
        headers.popall(name, None)
    protocols = tuple(scope.get("subprotocols", ()))
    headers.popall("sec-websocket-protocol", None)
    try:
        upstream = await session.ws_connect(url, headers=headers, protocols=protocols, max_msg_size=0)
    except (aiohttp.ClientError, OSError, TimeoutError):
        await send({"type": "websocket.close", "code": _ABNORMAL, "reason": "upstream_unavailable"})
        return
    await send({"type": "websocket.accept", "subprotocol": upstream.protocol})
    up = asyncio.create_task(_up(receive, upstream))
    down = asyncio.create_task(_down(upstream, send))
    try:
        await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
    finally:
        up.cancel()
        down.cancel()
        await asyncio.gather(up, down, return_exceptions=True)
        await upstream.close()


async def _up(receive: Receive, upstream: aiohttp.ClientWebSocketResponse) -> None:
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("text") is not None:
            await upstream.send_str(message["text"])
        else:
            await upstream.send_bytes(message["bytes"])


async def _down(upstream: aiohttp.ClientWebSocketResponse, send: Send) -> None:
    async for message in upstream:
        if message.type is aiohttp.WSMsgType.TEXT:
            await send({"type": "websocket.send", "text": message.data})
        elif message.type is aiohttp.WSMsgType.BINARY:
            await send({"type": "websocket.send", "bytes": message.data})
    await send({"type": "websocket.close", "code": upstream.close_code or _ABNORMAL})
