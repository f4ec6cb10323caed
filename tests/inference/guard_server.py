"""An OpenAI-shaped server around a tiny guard model of transformers: greedy decoding, with the real alternatives."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.inference.guards import chat_prompt


class GuardServer:
    """Answers /v1/chat/completions and /v1/completions; `asked` keeps the requests, `passes` counts the model's."""

    def __init__(self, folder: Path, template: str) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._model = AutoModelForCausalLM.from_pretrained(folder).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._template = template
        self.asked: list[dict[str, Any]] = []
        self.passes = 0

    def _decode(self, prompt: str, body: dict[str, Any], width: int) -> tuple[list[tuple[str, dict[str, float]]], str]:
        import torch

        ids = self._tokenizer(prompt, add_special_tokens=False).input_ids
        steps: list[tuple[str, dict[str, float]]] = []
        text = ""
        for _ in range(body["max_tokens"]):
            self.passes += 1
            with torch.inference_mode():
                logits = self._model(input_ids=torch.tensor([ids])).logits[0, -1]
            values, places = torch.log_softmax(logits, -1).topk(width)
            top = {self._tokenizer.decode([i]): v for i, v in zip(places.tolist(), values.tolist(), strict=True)}
            token = int(places[0])
            ids.append(token)
            steps.append((self._tokenizer.decode([token]), top))
            if token == self._tokenizer.eos_token_id:
                return steps, "stop"
            text += steps[-1][0]
            if any(text.endswith(stop) for stop in body.get("stop", [])):
                return steps, "stop"
        return steps, "length"

    async def chat(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        steps, reason = self._decode(chat_prompt(self._template, body["messages"]), body, body["top_logprobs"])
        content = [
            {
                "token": token,
                "logprob": top[token],
                "top_logprobs": [{"token": other, "logprob": value} for other, value in top.items()],
            }
            for token, top in steps
        ]
        return web.json_response({"choices": [{"logprobs": {"content": content}, "finish_reason": reason}]})

    async def text(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        steps, reason = self._decode(body["prompt"], body, body["logprobs"])
        logprobs = {
            "tokens": [token for token, _ in steps],
            "token_logprobs": [top[token] for token, top in steps],
            "top_logprobs": [top for _, top in steps],
        }
        return web.json_response({"choices": [{"logprobs": logprobs, "finish_reason": reason}]})

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": []})

    async def _body(self, request: web.Request) -> dict[str, Any]:
        body: dict[str, Any] = await request.json()
        self.asked.append(body)
        return body

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_post("/v1/completions", self.text)
        app.router.add_get("/v1/models", self.models)
        return app


@asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[str]:
    """Serve `app` on a port of its own; gives the URL."""
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
