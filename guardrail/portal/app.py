"""The public endpoints under `/guardrail`, and the two that say how the proxy is."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Awaitable, Callable
from typing import Annotated

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from guardrail.core.content import Direction
from guardrail.core.verdict import Verdict
from guardrail.errors import PolicyError
from guardrail.portal import casework, notices
from guardrail.portal.service import Service

ROUTES = ("/livez", "/readyz", "/guardrail/")
"""What the public listener keeps from the guarded app."""

MOST_TEXT = 1_000_000  # code points

Screen = Callable[..., Awaitable[tuple[Verdict, str]]]


class _Question(msgspec.Struct, forbid_unknown_fields=True):
    text: Annotated[str, msgspec.Meta(max_length=MOST_TEXT)]
    direction: Direction = Direction.PROMPT
    policies: list[str] | None = None


def portal_app(
    screen: Screen,
    ready: Callable[[], dict[str, object]],
    tokens: Callable[[], frozenset[str]],
    service: Service,
) -> Starlette:
    """The public app.

    `screen(text, direction=, policies=)` gives a verdict and the redacted text. `ready()` says what is there, with
    "ready" true or false. `tokens()` are the SHA-256 (hex) of the bearer tokens that may screen. `service` is what the
    public pages work with.
    """

    async def livez(request: Request) -> Response:
        return PlainTextResponse("alive\n")

    async def readyz(request: Request) -> Response:
        state = ready()
        return JSONResponse(state, 200 if state["ready"] else 503)

    async def screening(request: Request) -> Response:
        if not _may(request, tokens()):
            return _error(
                401, "unauthorized", "expected Authorization: Bearer with a tenant's key or the operators' token"
            )
        try:
            question = msgspec.json.decode(await request.body(), type=_Question)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            # The decoder's message names keys and types, never the text itself.
            return _error(422, "malformed", f"{error}; expected text, direction (prompt or completion), policies")
        try:
            verdict, text = await screen(question.text, direction=question.direction, policies=question.policies)
        except PolicyError as error:
            return _error(422, "unknown_policy", str(error))
        return JSONResponse(verdict_json(verdict, text))

    app = Starlette(
        routes=[
            Route("/livez", livez),
            Route("/readyz", readyz),
            Route("/guardrail/screen", screening, methods=["POST"]),
            *casework.routes(service),
            *notices.routes(service),
        ]
    )
    app.router.redirect_slashes = False  # the address it redirects to would be made of the Host header
    return app


def verdict_json(verdict: Verdict, redacted: str | None) -> dict[str, object]:
    """A verdict as programs read it; `text` is there where redaction changed it. Offsets are code points."""
    answer: dict[str, object] = {
        "action": verdict.action.word,
        "matches": [
            {
                "rule": match.rule.id,
                "category": match.rule.category,
                "detector": match.finding.detector,
                "score": round(match.finding.score, 6),
                "start": match.finding.start,
                "end": match.finding.end,
            }
            for match in verdict.matches
        ],
        "failures": [{"detector": failure.detector, "kind": failure.kind} for failure in verdict.failures],
        "policy": verdict.policies,
    }
    if verdict.action.word == "redact" and redacted is not None:
        answer["text"] = redacted
    return answer


def _may(request: Request, hashes: frozenset[str]) -> bool:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        return False
    given = hashlib.sha256(token.strip().encode()).hexdigest()
    return sum(hmac.compare_digest(given, known) for known in hashes) > 0


def _error(status: int, code: str, message: str) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": "guardrail", "code": code, "param": None}}, status)
