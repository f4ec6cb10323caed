"""Read a request's body whole, within its limits, and refuse what cannot be read before anything is parsed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from starlette.types import Receive

from guardrail.errors import GuardrailError, MalformedRequest, TooLarge, Unreadable
from guardrail.gateway.sweep import Sweep


class ClientGone(GuardrailError):
    """The client left before its request was complete; there is nobody to answer."""


async def read_body(receive: Receive, headers: Mapping[bytes, bytes], limit: int, sweep: Sweep) -> bytes:
    """The body as sent; raises `Unreadable`, `TooLarge`, `MalformedRequest` or `ClientGone`.

    `limit` is in bytes; `sweep` says when a body is late.
    """
    encoding = headers.get(b"content-encoding", b"").strip().lower()
    if encoding and encoding != b"identity":
        raise Unreadable("a compressed body cannot be screened; send it with Content-Encoding: identity", status=415)
    media = headers.get(b"content-type", b"")
    if media != b"application/json" and not _is_json(media):
        raise Unreadable("this content type cannot be screened; expected application/json", status=415)
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length) > limit:
        raise TooLarge(f"the body has {int(length)} bytes; at most {limit} are accepted")
    late = False

    def expire() -> None:
        nonlocal late
        late = True
        if task is not None:
            task.cancel()

    # As asyncio.timeout() does it, in a tenth of the time: this is on every request's way.
    token = sweep.add(expire)
    task = asyncio.current_task(sweep.loop)  # without a loop it costs a system call
    parts: list[bytes] = []
    size, more = 0, True
    try:
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone("the client left")
            part: bytes = message.get("body", b"")
            size += len(part)
            if size > limit:
                raise TooLarge(f"the body is larger than the {limit} bytes accepted")
            parts.append(part)
            more = message.get("more_body", False)
    except asyncio.CancelledError:
        if not late or task is None:
            raise
        task.uncancel()
        raise MalformedRequest("the body did not arrive in time") from None
    finally:
        sweep.drop(token)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _is_json(media: bytes) -> bool:
    kind = media.split(b";", 1)[0].strip().lower()
    return kind == b"application/json" or (kind.startswith(b"application/") and kind.endswith(b"+json"))
