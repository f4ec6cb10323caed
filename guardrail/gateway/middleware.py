"""`GuardrailMiddleware(app, guard)`: pure ASGI, the one way in. The proxy is this around `gateway.upstream`."""

from __future__ import annotations

from typing import Literal

from starlette._utils import get_route_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from guardrail.core.surface import Notice
from guardrail.errors import UpstreamError
from guardrail.gateway.body import ClientGone
from guardrail.gateway.engine import Engine
from guardrail.gateway.exchange import Exchange
from guardrail.gateway.identity import Unauthorized
from guardrail.gateway.messages import language, message
from guardrail.wire.errors import openai_error

UNGUARDED = "none"


class GuardrailMiddleware:
    """Screen what goes to a generation endpoint in `app` and what comes out of it.

    `guard` is started with the app's lifespan, or at the first request where the server runs none for this app (under
    a `Mount`). Paths that no dialect reads pass to `app`, counted as `unknown_surface`, unless `unknown_surface` is
    "refuse", which answers them with 404: an app's own pages are its business, a proxy's are not. `proxy`
    says that `app` is a forwarder and nobody stands around it: what it raises is answered here, and where tenants are
    configured, paths that pass unread need a key of theirs too (not OPTIONS, which browsers send without one), since
    a proxy that holds the operator's key would spend it for anybody.
    """

    def __init__(
        self,
        app: ASGIApp,
        guard: Engine,
        *,
        unknown_surface: Literal["refuse", "pass"] = "pass",
        websockets: Literal["refuse", "pass"] = "pass",
        proxy: bool = False,
    ) -> None:
        self._app = app
        self._engine = guard
        self._refuse_unknown = unknown_surface == "refuse"
        self._refuse_websockets = websockets == "refuse"
        self._proxy = proxy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if not self._engine.started:
                await self._engine.start()
            path = get_route_path(scope)
            dialect = self._engine.dialect(path)
            if dialect is not None and scope["method"] == "POST":
                await Exchange(self._engine, dialect, scope, receive, send, proxy=self._proxy).run(self._app)
            else:
                await self._unguarded(scope, path, receive, send)
        elif scope["type"] == "lifespan":
            await self._app(scope, receive, self._lifespan(send))
        elif scope["type"] == "websocket" and self._refuse_websockets:
            self._engine.metrics.request(UNGUARDED, "websocket_refused")
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "surface_not_guarded"})
        else:
            if scope["type"] == "websocket":
                self._engine.metrics.bypassed("websocket")
            await self._app(scope, receive, send)

    async def _unguarded(self, scope: Scope, path: str, receive: Receive, send: Send) -> None:
        engine, headers = self._engine, dict(scope["headers"])
        lang = language(headers.get(b"accept-language", b""))
        if self._proxy and scope["method"] != "OPTIONS":
            peer = scope.get("client")
            try:
                engine.identifier.identify(headers, peer[0] if peer else None)
            except Unauthorized:
                engine.metrics.request(UNGUARDED, "invalid_api_key")
                return await _answer(send, Notice(401, "invalid_api_key", message("invalid_api_key", lang)))
        if engine.passes(scope["method"], path):
            engine.metrics.bypassed("passthrough")
        elif self._refuse_unknown:
            engine.metrics.request(UNGUARDED, "surface_not_guarded")
            return await _answer(send, Notice(404, "surface_not_guarded", message("surface_not_guarded", lang)))
        else:
            engine.metrics.bypassed("unknown_surface")
        try:
            await self._app(scope, receive, send)
        except UpstreamError as error:
            engine.metrics.request(UNGUARDED, error.code)
            await _answer(send, Notice(error.status, error.code, message(error.code, lang)))
        except ClientGone:
            engine.metrics.request(UNGUARDED, "client_gone")

    def _lifespan(self, send: Send) -> Send:
        """The app's own lifespan, with the guard started before it says so and closed after it has shut down."""

        async def wrapped(event: Message) -> None:
            if event["type"] == "lifespan.startup.complete":
                await self._engine.start()
            elif event["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
                await self._engine.close()
            await send(event)

        return wrapped


async def _answer(send: Send, notice: Notice) -> None:
    body = openai_error(notice)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": notice.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
