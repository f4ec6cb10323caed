"""Read a request's body whole, within its limits, and refuse what cannot be read before anything is parsed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from starlette.types import Message, Receive

from guardrail.errors import GuardrailError, MalformedRequest, TooLarge, Unreadable


class ClientGone(GuardrailError):
    """The client left before its request was complete; there is nobody to answer."""


async def read_body(receive: Receive, headers: Mapping[bytes, bytes], limit: int, timeout: float) -> bytes:
    """The body as sent; raises `Unreadable`, `TooLarge`, `MalformedRequest` or `ClientGone`.

    `limit` is in bytes, `timeout` in seconds for the whole body.
    """
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding not in (b"", b"identity"):
        raise Unreadable("a compressed body cannot be screened; send it with Content-Encoding: identity", status=415)
    media = headers.get(b"content-type", b"").split(b";", 1)[0].strip().lower()
    if media != b"application/json" and not (media.startswith(b"application/") and media.endswith(b"+json")):
        raise Unreadable("this content type cannot be screened; expected application/json", status=415)
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length) > limit:
        raise TooLarge(f"the body has {int(length)} bytes; at most {limit} are accepted")
    message = await _receive(receive, timeout)
    if not message.get("more_body"):
        body: bytes = message.get("body", b"")
        if len(body) > limit:
            raise TooLarge(f"the body is larger than the {limit} bytes accepted")
        return body
    parts, size = [message.get("body", b"")], len(message.get("body", b""))
    deadline = asyncio.get_running_loop().time() + timeout
    while message.get("more_body"):
        message = await _receive(receive, deadline - asyncio.get_running_loop().time())
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise TooLarge(f"the body is larger than the {limit} bytes accepted")
    return b"".join(parts)


async def _receive(receive: Receive, timeout: float) -> Message:
    try:
        async with asyncio.timeout(timeout):
            message = await receive()
    except TimeoutError:
        raise MalformedRequest("the body did not arrive in time") from None
    if message["type"] == "http.disconnect":
        raise ClientGone("the client left")
    return message
