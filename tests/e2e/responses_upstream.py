"""A model server for OpenAI's Responses API: every kind of item and event, as its reference has them.

What it answers is arranged before it is asked: `arrange("m", [item, ...])` are the output items of model `m`. It keeps
what it has answered under its id, refuses what it does not know of, and speaks chat as well (`tests.e2e.upstream`).
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests import responses
from tests.e2e.upstream import Received, Upstream


class ResponsesUpstream(Upstream):
    """The server; see the module."""

    def __init__(self) -> None:
        super().__init__()
        self._arranged: dict[str, dict[str, Any]] = {}

    def arrange(self, model: str, items: list[dict[str, Any]], **how: Any) -> str:
        """What `model` answers. `piece`: characters of an event, `pause`: seconds between events, `fault`: "error" or
        "failed" in mid-stream. Returns `model`."""
        self._arranged[model] = {"items": items, "piece": 4, "pause": 0.0, "fault": "", **how}
        return model

    async def _answer(self, request: Received, out: Any) -> None:
        if request.path != "/v1/responses" or request.method != "POST":
            await super()._answer(request, out)
            return
        asked = request.json
        how = self._arranged.get(asked.get("model", ""))
        if how is None:
            error = {"message": "no such model", "type": "invalid_request_error", "param": "model", "code": "no_model"}
            await out.whole(404, "application/json", json.dumps({"error": error}).encode())
        elif asked.get("stream"):
            await self._stream(request, asked, how, out)
        else:
            body = json.dumps(responses.answer(how["items"], asked), ensure_ascii=False)
            await out.whole(200, "application/json", body.encode())

    async def _stream(self, request: Received, asked: dict[str, Any], how: dict[str, Any], out: Any) -> None:
        await out.start(200, "text/event-stream; charset=utf-8")
        for event in responses.events(how["items"], asked, how["piece"]):
            number = event["sequence_number"]
            if number == 6 and how["fault"]:
                await out.piece(responses.sse(_fault(how["fault"], number, asked)))
                break
            await out.piece(responses.sse(event))
            if how["pause"]:
                await asyncio.sleep(how["pause"])
            if request.left.is_set():
                return
        await out.end()


def _fault(kind: str, number: int, asked: dict[str, Any]) -> dict[str, Any]:
    if kind == "error":
        return {"type": "error", "sequence_number": number, "code": "overloaded", "message": "as asked", "param": None}
    broken = {"status": "failed", "error": {"code": "server_error", "message": "as asked"}, "usage": None}
    return {"type": "response.failed", "sequence_number": number, "response": responses.answer([], asked, **broken)}
