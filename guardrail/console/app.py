"""What operators see on their own listener: metrics, and how the proxy is."""

from __future__ import annotations

from collections.abc import Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route


def operators_app(metrics: Callable[[], tuple[bytes, str]], ready: Callable[[], dict[str, object]]) -> Starlette:
    """The operators' app. `metrics()` renders a scrape and its content type; `ready()` as for the portal."""

    async def scrape(request: Request) -> Response:
        body, media = metrics()
        return Response(body, media_type=media)

    async def livez(request: Request) -> Response:
        return PlainTextResponse("alive\n")

    async def readyz(request: Request) -> Response:
        state = ready()
        return JSONResponse(state, 200 if state["ready"] else 503)

    return Starlette(routes=[Route("/metrics", scrape), Route("/livez", livez), Route("/readyz", readyz)])
