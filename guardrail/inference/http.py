"""One HTTP server that scores for us: a connection pool, a deadline, and its failures as the errors that policies know.

What a server says is never passed on: its messages may quote the text that it was sent.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import aiohttp
import msgspec

from guardrail.errors import DetectorError, DetectorOverloaded, DetectorTimeout, SettingsError

LARGEST = 32 * 1024 * 1024
"""Most bytes of an answer that are read: scores are short, whatever a broken server sends."""

_SERVER = "the classifier's server"
# A server's own word for what went wrong: TEI's error_type, OpenAI's type; nothing that could be a sentence.
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,39}\Z")
_HINTS = {
    401: "; it wants another key: expected GUARDRAIL_CLASSIFIER_API_KEY",
    403: "; it wants another key: expected GUARDRAIL_CLASSIFIER_API_KEY",
    404: "; expected the URL before its path, and the model's name as the server has it",
    413: "; the text or the batch is larger than it takes: expected a smaller window",
}

T = TypeVar("T")


class Endpoint:
    """A server at `unix:/run/classifier.sock` or `http(s)://host:port[/path]`.

    `deadline` seconds are allowed for a call in all, connecting included. `key` goes with each request as
    `Authorization: Bearer`. At most `connections` requests are on their way at once; others wait for their turn.
    Raises SettingsError for an address that is none.
    """

    def __init__(self, address: str, *, deadline: float = 10.0, key: str | None = None, connections: int = 100) -> None:
        self._socket = address.removeprefix("unix:") if address.startswith("unix:") else None
        if self._socket is None and not address.startswith(("http://", "https://")):
            raise SettingsError(f'classifier address is "{address}"; expected unix:/path, http://host:port or https://')
        # Over a Unix socket the host is not looked up; HTTP wants one all the same.
        self._base = "http://classifier" if self._socket is not None else address.rstrip("/")
        self._deadline = deadline
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None

    def open(self) -> None:
        """Open the connection pool; the server is first reached by a request."""
        if self._session is None:
            connector = (
                aiohttp.UnixConnector(self._socket, limit=self._connections)
                if self._socket
                else aiohttp.TCPConnector(limit=self._connections)
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=self._deadline),
                cookie_jar=aiohttp.DummyCookieJar(),
            )

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def post(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
        """The body of a 200 answer to JSON. Raises DetectorError's kinds for every other answer, and for none."""
        sent = {"Content-Type": "application/json", **(headers or {})}
        status, answer = await self.request("POST", path, data=body, headers=sent)
        if status != 200:
            refused(status, answer)
        return answer

    async def ready(self, path: str = "/health") -> bool:
        """Whether the server says that it can score."""
        try:
            status, _ = await self.request("GET", path)
        except DetectorError:
            return False
        return status == 200

    async def request(self, method: str, path: str, **options: Any) -> tuple[int, bytes]:
        """Status and body of an answer. Raises DetectorError when none came, DetectorTimeout when it took too long."""
        if self._session is None:
            raise DetectorError("the classifier's client is not running")
        try:
            # A redirect would send the text, and the key, to a place that nobody configured.
            async with self._session.request(method, self._base + path, allow_redirects=False, **options) as response:
                answer = bytearray()
                async for chunk in response.content.iter_any():
                    answer += chunk
                    if len(answer) > LARGEST:
                        raise DetectorError(f"{_SERVER} answered with more than {LARGEST} bytes")
                return response.status, bytes(answer)
        except TimeoutError:
            raise late(self._deadline) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise DetectorError(f"{_SERVER} is away: {type(error).__name__}") from error

    async def all(self, calls: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
        """Make several calls at once, within one deadline; the first that fails ends the others."""
        if len(calls) == 1:
            return [await calls[0]]
        tasks = [asyncio.ensure_future(call) for call in calls]
        try:
            async with asyncio.timeout(self._deadline):
                return await asyncio.gather(*tasks)
        except TimeoutError:
            raise late(self._deadline) from None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def late(deadline: float) -> DetectorTimeout:
    """The error of a server that did not answer within `deadline` seconds."""
    return DetectorTimeout(f"{_SERVER} did not answer within {deadline:g} s")


def refused(status: int, answer: bytes) -> NoReturn:
    """Raise the error that a status other than 200 stands for; 429 and 503 mean that there is no room (TEI, Ray Serve,
    vLLM), 408 and 504 that it took too long."""
    word = _word(answer)
    said = f"{_SERVER} answered {status}" + (f" ({word})" if word else "")
    if status in (429, 503):
        raise DetectorOverloaded(f"{said}: it is overloaded")
    if status in (408, 504):
        raise DetectorTimeout(f"{said}: it timed out")
    raise DetectorError(said + _HINTS.get(status, ""))


def _word(answer: bytes) -> str:
    """The kind of error in a body as TEI ({"error", "error_type"}), OpenAI ({"error": {"type"}}) or vLLM word it."""
    try:
        body = msgspec.json.decode(answer)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""
    if not isinstance(body, dict):
        return ""
    inner = body["error"] if isinstance(body.get("error"), dict) else body
    word = inner.get("error_type", inner.get("type"))
    return word if isinstance(word, str) and _WORD.match(word) else ""
