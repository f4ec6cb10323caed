"""Serve one classifier to many processes: `POST /predict` and `GET /health` as text-embeddings-inference words them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from guardrail.errors import DetectorError
from guardrail.inference.remote import PRIORITY_HEADER
from guardrail.protocols import Classifier, Priority

# TEI's own: 429 for a full queue, 424 for a model that failed.
STATUS = {"overloaded": 429, "timeout": 504, "error": 424}
MAX_BODY = 8 * 1024 * 1024


class PredictRequest(msgspec.Struct, frozen=True):
    """One text, or a list in which each text stands alone or in a list of one."""

    inputs: str | list[str | list[str]]
    raw_scores: bool = False


_DECODER = msgspec.json.Decoder(PredictRequest)


def classifier_app(classifier: Classifier) -> Starlette:
    """An ASGI app around `classifier`, which it starts and closes with its lifespan."""
    ready = False

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        nonlocal ready
        await classifier.start()
        ready = True
        try:
            yield
        finally:
            ready = False
            await classifier.close()

    async def health(request: Request) -> Response:
        return Response(status_code=200 if ready else 503)

    async def predict(request: Request) -> Response:
        try:
            texts = _texts(await _body(request))
        except ValueError as error:
            return _error(422, "validation", str(error))
        priority = Priority.__members__.get(request.headers.get(PRIORITY_HEADER, "").upper(), Priority.PROMPT)
        try:
            rows = await _unless_gone(request, classifier, texts, priority)
        except DetectorError as error:
            return _error(STATUS[error.kind], error.kind, str(error))
        labels = classifier.labels
        answer = [[{"label": label, "score": score} for label, score in zip(labels, row, strict=True)] for row in rows]
        return Response(msgspec.json.encode(answer), media_type="application/json")

    return Starlette(
        routes=[Route("/predict", predict, methods=["POST"]), Route("/health", health, methods=["GET"])],
        lifespan=lifespan,
    )


async def _unless_gone(
    request: Request, classifier: Classifier, texts: list[str], priority: Priority
) -> list[tuple[float, ...]]:
    """Score, but stop when the caller hangs up, so that what it no longer wants leaves the queue."""
    scoring = asyncio.ensure_future(classifier.score(texts, priority))
    hangup = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({scoring, hangup}, return_when=asyncio.FIRST_COMPLETED)
        if not scoring.done():
            raise DetectorError("the caller has gone")
        return scoring.result()
    finally:
        for task in (scoring, hangup):
            task.cancel()
        await asyncio.gather(scoring, hangup, return_exceptions=True)


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise ValueError(f"the body is over {MAX_BODY} bytes")
    return bytes(body)


def _texts(body: bytes) -> list[str]:
    try:
        asked = _DECODER.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(f'expected {{"inputs": ["text", ...]}}: {error}') from None
    if asked.raw_scores:
        raise ValueError("raw_scores is true; expected false: these scores are probabilities, and there are no others")
    inputs = asked.inputs
    texts = []
    for item in [inputs] if isinstance(inputs, str) else inputs:
        if isinstance(item, list):
            if len(item) != 1:
                raise ValueError("expected one text in each inner list; pairs are not supported")
            item = item[0]
        texts.append(item)
    return texts


def _error(status: int, kind: str, message: str) -> Response:
    return Response(
        msgspec.json.encode({"error": message, "error_type": kind}), status_code=status, media_type="application/json"
    )
