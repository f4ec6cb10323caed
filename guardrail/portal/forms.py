"""Read what someone sends to the portal, as a form or as JSON, within limits of size and time."""

from __future__ import annotations

import asyncio
from typing import TypeVar
from urllib.parse import parse_qsl

import msgspec
from starlette.requests import Request

MOST_BYTES = 65_536
"""A statement of 4,000 characters takes 48,000 bytes in a form at most (four bytes each, percent-encoded)."""
MOST_SECONDS = 15.0
MOST_FIELDS = 16

T = TypeVar("T", bound=msgspec.Struct)


class Unacceptable(Exception):
    """Why a body is not taken. `status` and `code` are those of the answer."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status, self.code = status, code


async def read_fields(request: Request, shape: type[T]) -> T:
    """The fields of a form (`application/x-www-form-urlencoded`) or of a JSON object, as `shape`, all of them text.

    Raises `Unacceptable`, which tells nothing of what was sent.
    """
    media, _, parameters = request.headers.get("content-type", "").lower().partition(";")
    charset = parameters.partition("charset=")[2].strip(' "') or "utf-8"
    plain = request.headers.get("content-encoding", "identity").lower() == "identity"
    if (
        media.strip() not in ("application/json", "application/x-www-form-urlencoded")
        or charset != "utf-8"
        or not plain
    ):
        raise Unacceptable(415, "unsupported")
    body = await _read(request)
    try:
        if media.strip() == "application/json":
            return msgspec.json.decode(body, type=shape)
        pairs = parse_qsl(
            body.decode(), keep_blank_values=True, encoding="utf-8", errors="strict", max_num_fields=MOST_FIELDS
        )
        fields = dict(pairs)
        if len(fields) != len(pairs):
            raise Unacceptable(422, "malformed")  # which of the two was meant cannot be known
        return msgspec.convert(fields, type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, RecursionError):
        raise Unacceptable(422, "malformed") from None


async def _read(request: Request) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(MOST_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MOST_BYTES:
                    raise Unacceptable(413, "too_large")
    except TimeoutError:
        raise Unacceptable(408, "malformed") from None
    return bytes(body)
