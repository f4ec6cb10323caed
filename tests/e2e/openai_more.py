"""A model server for the rest of OpenAI's API: completions, embeddings, images and speech, as its reference has them.

What a model says is arranged before it is asked: `arrange("m", "text", ...)` are the answers of model `m` to one
prompt each. It speaks chat as well (`tests.e2e.upstream`), and answers everything else with an error.
"""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import Mapping
from typing import Any

from tests.e2e.upstream import CREATED, Received, Upstream, words

PICTURE = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(range(256))).decode()
SOUND = b"ID3\x04\x00" + bytes(range(256)) * 40


class MoreUpstream(Upstream):
    """The server; see the module."""

    def __init__(self) -> None:
        super().__init__()
        self._arranged: dict[str, dict[str, Any]] = {}

    def arrange(self, model: str, *texts: str, **how: Any) -> str:
        """What `model` says, choice by choice. `piece`: characters of an event (0: a word), `pause`: seconds between
        events, `finish`: the reason at the end, `revised`: a picture's revised prompt. Returns `model`."""
        self._arranged[model] = {"texts": texts, **how}
        return model

    async def _answer(self, request: Received, out: Any) -> None:
        surface = request.path.removeprefix("/v1/")
        asked = request.json if request.body else {}
        how = self._arranged.get(asked.get("model", ""), {"texts": ("Nothing was arranged.",)})
        if surface == "completions":
            await _complete(request, asked, how, out)
        elif surface == "embeddings":
            await out.whole(200, "application/json", json.dumps(_embeddings(asked)).encode())
        elif surface == "images/generations":
            await _draw(asked, how, out)
        elif surface == "audio/speech":
            await _speak(asked, out)
        elif surface == "moderations":
            await out.whole(500, "application/json", b'{"error": {"message": "nobody should have asked"}}')
        else:
            await super()._answer(request, out)


def _logprobs(text: str) -> dict[str, Any]:
    tokens, offsets, at = words(text), [], 0
    for token in tokens:
        offsets.append(at)
        at += len(token)
    likely = [{token: -0.125, " or": -2.5} for token in tokens]
    return {"tokens": tokens, "token_logprobs": [-0.125] * len(tokens), "top_logprobs": likely, "text_offset": offsets}


async def _complete(request: Received, asked: Mapping[str, Any], how: Mapping[str, Any], out: Any) -> None:
    prompts = asked["prompt"] if isinstance(asked["prompt"], list) else [asked["prompt"]]
    texts = []
    for prompt in prompts:
        for number in range(asked.get("n") or 1):
            said = how["texts"][number % len(how["texts"])]
            texts.append((prompt if asked.get("echo") else "") + said)
    base = {"id": "cmpl-e2e", "object": "text_completion", "created": CREATED, "model": asked["model"]}
    base["system_fingerprint"] = "fp_e2e"
    usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
    finish = how.get("finish", "stop")

    def choice(index: int, text: str, reason: str | None) -> dict[str, Any]:
        spelled = _logprobs(text) if asked.get("logprobs") is not None and text else None
        return {"text": text, "index": index, "logprobs": spelled, "finish_reason": reason}

    if not asked.get("stream"):
        body = {**base, "choices": [choice(i, text, finish) for i, text in enumerate(texts)], "usage": usage}
        return await out.whole(200, "application/json", json.dumps(body, ensure_ascii=False).encode())
    with_usage = bool((asked.get("stream_options") or {}).get("include_usage"))
    await out.start(200, "text/event-stream; charset=utf-8")
    lanes = [words(text, how.get("piece", 0)) for text in texts]
    chunks: list[tuple[list[dict[str, Any]], Any]] = []
    for turn in range(max(map(len, lanes))):
        chunks += [([choice(i, lane[turn], None)], None) for i, lane in enumerate(lanes) if turn < len(lane)]
    chunks += [([choice(i, "", finish)], None) for i in range(len(lanes))]
    chunks += [([], usage)] if with_usage else []
    for choices, counted in chunks:
        chunk = {**base, "choices": choices, **({"usage": counted} if with_usage else {})}
        await out.piece(b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n")
        await asyncio.sleep(how.get("pause", 0))
        if request.left.is_set():
            return None
    await out.piece(b"data: [DONE]\n\n")
    return await out.end()


def _embeddings(asked: Mapping[str, Any]) -> dict[str, Any]:
    texts = asked["input"] if isinstance(asked["input"], list) else [asked["input"]]
    size = asked.get("dimensions") or 6
    data = []
    for index, text in enumerate(texts):
        vector: Any = [(len(text) + 1) / (place + 3) for place in range(size)]
        if asked.get("encoding_format") == "base64":
            vector = base64.b64encode(struct.pack(f"<{size}f", *vector)).decode()
        data.append({"object": "embedding", "index": index, "embedding": vector})
    usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
    return {"object": "list", "data": data, "model": asked["model"], "usage": usage}


async def _draw(asked: Mapping[str, Any], how: Mapping[str, Any], out: Any) -> None:
    made = {"background": "opaque", "output_format": "png", "quality": "high", "size": "1024x1024"}
    kinds = {"image_tokens": 0, "text_tokens": 3}
    usage = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7, "input_tokens_details": kinds}
    if asked.get("stream"):
        await out.start(200, "text/event-stream")
        for number in range(asked.get("partial_images") or 0):
            part = {"type": "image_generation.partial_image", "b64_json": PICTURE, "partial_image_index": number}
            await out.piece(_event({**part, "created_at": CREATED, **made}))
        whole = {"type": "image_generation.completed", "b64_json": PICTURE, "created_at": CREATED, "usage": usage}
        await out.piece(_event({**whole, **made}))
        return await out.end()
    links = asked.get("response_format") == "url"
    item = {"url": "https://pictures.example/1.png?sig=a%2Fb"} if links else {"b64_json": PICTURE}
    if "revised" in how:
        item["revised_prompt"] = how["revised"]
    body = {"created": CREATED, "data": [item] * (asked.get("n") or 1), **made, "usage": usage}
    return await out.whole(200, "application/json", json.dumps(body).encode())


async def _speak(asked: Mapping[str, Any], out: Any) -> None:
    step = 1024
    if asked.get("stream_format") == "sse":
        await out.start(200, "text/event-stream")
        for at in range(0, len(SOUND), step):
            piece = base64.b64encode(SOUND[at : at + step]).decode()
            await out.piece(_event({"type": "speech.audio.delta", "audio": piece}))
        usage = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
        await out.piece(_event({"type": "speech.audio.done", "usage": usage}))
        return await out.end()
    await out.start(200, f"audio/{asked.get('response_format') or 'mpeg'}")
    for at in range(0, len(SOUND), step):
        await out.piece(SOUND[at : at + step])
        await asyncio.sleep(0)
    return await out.end()


def _event(data: Mapping[str, Any]) -> bytes:
    return f"event: {data['type']}\ndata: {json.dumps(data)}\n\n".encode()
