"""The app behind the proxy's guard: forward a request to the generation endpoint and stream back what it says."""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

import aiohttp
import msgspec
from multidict import CIMultiDict
from starlette.types import Message, Receive, Scope, Send
from yarl import URL

from guardrail.errors import UpstreamTimeout, UpstreamUnavailable
from guardrail.gateway.body import ClientGone
from guardrail.gateway.sweep import Sweep
from guardrail.gateway.websocket import bridge

# Hop-by-hop fields (RFC 9110, 7.6.1), and what the client library writes itself.
_NOT_FORWARDED = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"host",
        b"content-length",
        b"expect",
    }
)
_NOT_RETURNED = _NOT_FORWARDED - {b"content-length"} | {b"date", b"server"}
_CREDENTIALS = frozenset({b"authorization", b"x-api-key", b"api-key"})
_SAFE = "/:@!$&'()*+,;=~%"  # what may stand in a path as it is (RFC 3986, 3.3), and what is encoded already
_KEPT_OPEN = frozenset({b"keep-alive", b"close"})  # what a Connection field says that is no field's name
_WATCH_AFTER = 0.05  # seconds before it pays to watch for a client that leaves: most answers are there by then


@dataclass(frozen=True, slots=True)
class Target:
    """A generation endpoint. `root` has no `/v1` and no slash at its end. With `api_key` the client's own credentials
    stay here and this key goes upstream in their place. A target without paths and models takes what is left."""

    root: str
    api_key: str | None = None
    paths: tuple[str, ...] = ()
    models: tuple[str, ...] = ()

    def takes(self, path: str, model: str) -> bool:
        return any(fnmatch.fnmatchcase(path, pattern) for pattern in self.paths) or any(
            fnmatch.fnmatchcase(model, pattern) for pattern in self.models
        )


class _Model(msgspec.Struct):
    model: str = ""


class _AsGiven(aiohttp.ClientRequest):
    """A request with the headers that it is given, and none of the library's own (but for what frames it)."""

    skip_auto_headers = CIMultiDict({aiohttp.hdrs.CONTENT_TYPE: None})

    def update_auto_headers(self, skip_auto_headers: object) -> None:
        """Add nothing."""


class Upstream:
    """A pooled forwarder, as an ASGI app. Raises `UpstreamUnavailable`, `UpstreamTimeout` or `ClientGone`.

    `private_headers` are the ones that tell this proxy who asks: they go no further. Timeouts in seconds.
    """

    def __init__(
        self,
        default: Target,
        routes: Sequence[Target] = (),
        *,
        connections: int = 512,
        connect_timeout: float = 10.0,
        read_timeout: float = 600.0,
        private_headers: Sequence[str] = (),
    ) -> None:
        self._default = default
        self._routes = tuple(routes)
        self._connections = connections
        # How long an upstream may say nothing is ours to watch: the library sets a timer anew with every piece.
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout)
        self._patience = read_timeout
        self._private = _NOT_FORWARDED | {name.lower().encode() for name in private_headers}
        self._private_with_key = self._private | _CREDENTIALS
        self._session: aiohttp.ClientSession | None = None
        self._sweep = Sweep(_WATCH_AFTER, _WATCH_AFTER / 2)
        self._urls: dict[tuple[str, bytes, bytes], URL] = {}

    async def start(self) -> None:
        """Open the pool."""
        # Idle connections are let go before common servers (5 s) close them under a request on its way.
        connector = aiohttp.TCPConnector(limit=self._connections, keepalive_timeout=4.0)
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=self._timeout,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            request_class=_AsGiven,
        )

    async def close(self) -> None:
        """Close the pool."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "websocket":
            await self._bridge(scope, receive, send)
        else:
            await self._forward(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self.start()
            else:
                await self.close()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return

    async def _bridge(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._session is None:
            await self.start()
        assert self._session is not None
        target = self._target(scope["path"], b"")
        url = self._url(target, scope["path"], scope.get("query_string", b""))
        await bridge(self._session, url, self._headers(scope["headers"], target), scope, receive, send)

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._session is None:
            await self.start()
        assert self._session is not None
        body = await _body(receive)
        path: str = scope["path"]
        target = self._target(path, body)
        watch = _Watch(receive, self._sweep, self._patience)
        try:
            async with self._session.request(
                scope["method"],
                self._url(target, scope.get("raw_path") or quote(path).encode(), scope.get("query_string", b"")),
                data=body or None,
                headers=self._headers(scope["headers"], target),
                allow_redirects=False,
            ) as response:
                headers = [(k.lower(), v) for k, v in response.raw_headers if k.lower() not in _NOT_RETURNED]
                await send({"type": "http.response.start", "status": response.status, "headers": headers})
                content, more = response.content, True
                while more:
                    chunk = await content.readany()
                    watch.heard()
                    more = not content.at_eof()
                    if chunk or not more:
                        await send({"type": "http.response.body", "body": chunk, "more_body": more})
        except TimeoutError:
            raise UpstreamTimeout("the upstream did not answer in time") from None
        except aiohttp.ClientError as error:
            raise UpstreamUnavailable(f"the upstream cannot be used: {type(error).__name__}") from None
        except asyncio.CancelledError:
            if watch.gone:
                watch.forgive()
                raise ClientGone("the client left") from None
            if watch.late:
                watch.forgive()
                raise UpstreamTimeout("the upstream did not answer in time") from None
            raise
        finally:
            watch.stop()

    def _target(self, path: str, body: bytes) -> Target:
        if not self._routes:
            return self._default
        model = ""
        if any(route.models for route in self._routes) and body:
            with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
                model = msgspec.json.decode(body, type=_Model).model
        return next((route for route in self._routes if route.takes(path, model)), self._default)

    def _url(self, target: Target, path: bytes, query: bytes) -> URL:
        """`path` as the client encoded it: a slash within a model's name must not become one between names."""
        key = (target.root, path, query)
        url = self._urls.get(key)
        if url is None:
            if len(self._urls) > 256:
                self._urls.clear()
            raw = target.root + quote(path, safe=_SAFE) + ("?" + query.decode("latin-1") if query else "")
            url = self._urls[key] = URL(raw, encoded=True)
        return url

    def _headers(self, headers: Sequence[tuple[bytes, bytes]], target: Target) -> CIMultiDict[str]:
        private = self._private if target.api_key is None else self._private_with_key
        if b"connection" in dict(headers):
            # What a client names there concerns its connection to us alone.
            named = [value for name, value in headers if name == b"connection"]
            private = private | {field.strip().lower() for field in b",".join(named).split(b",")} - _KEPT_OPEN
        out = CIMultiDict(
            [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers if name not in private]
        )
        if target.api_key is not None:
            out["authorization"] = f"Bearer {target.api_key}"
            out["x-api-key"] = target.api_key
        return out


class _Watch:
    """Cancels the current task when the client leaves, so that the upstream stops working for nobody, and when the
    upstream has said nothing for `patience` seconds."""

    __slots__ = ("_heard_at", "_loop", "_patience", "_receive", "_sweep", "_task", "_timer", "_token", "_watcher",
                 "gone", "late")  # fmt: skip

    def __init__(self, receive: Receive, sweep: Sweep, patience: float) -> None:
        self.gone = self.late = False
        self._receive = receive
        self._token = sweep.add(self._begin)
        self._loop = sweep.loop
        self._task = asyncio.current_task(self._loop)
        self._watcher: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._sweep = sweep
        self._patience = patience
        self._heard_at = self._loop.time()

    def heard(self) -> None:
        """The upstream said something."""
        self._heard_at = self._loop.time()

    def stop(self) -> None:
        self._sweep.drop(self._token)
        if self._watcher is not None:
            self._watcher.cancel()
        if self._timer is not None:
            self._timer.cancel()

    def forgive(self) -> None:
        """The cancellation was ours: it is taken back."""
        if self._task is not None:
            self._task.uncancel()

    def _begin(self) -> None:
        self._watcher = asyncio.ensure_future(self._watch())
        self._look()

    def _look(self) -> None:
        left = self._heard_at + self._patience - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        elif self._task is not None:
            self.late = True
            self._task.cancel()

    async def _watch(self) -> None:
        message: Message = {"type": ""}
        while message["type"] != "http.disconnect":
            message = await self._receive()
        self.gone = True
        if self._task is not None:
            self._task.cancel()


async def _body(receive: Receive) -> bytes:
    parts = []
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone("the client left")
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)
