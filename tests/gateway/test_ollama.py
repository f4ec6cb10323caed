"""Ollama's surfaces through the whole line of travel: JSON lines in, JSON lines out, and nothing that was stopped."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest

from guardrail.gateway.middleware import GuardrailMiddleware
from guardrail.testing import Answer, ScriptedUpstream, drive
from guardrail.wire.ollama import OllamaChat, OllamaGenerate
from tests.gateway.conftest import MakeEngine
from tests.gateway.test_middleware import Slow

MEDIA = "application/x-ndjson"
CHAT, GENERATE = "/api/chat", "/api/generate"


def guarded(make_engine: MakeEngine, upstream: ScriptedUpstream, **more: Any) -> GuardrailMiddleware:
    engine = make_engine(**more)
    engine.dialects = {path: dialect for dialect in (OllamaChat(), OllamaGenerate()) for path in dialect.paths}
    return GuardrailMiddleware(upstream, engine)


def ask(path: str, text: str = "hi", **more: Any) -> dict[str, Any]:
    said = {"messages": [{"role": "user", "content": text}]} if path == CHAT else {"prompt": text}
    return {"model": "m", **said, **more}


def line(path: str, text: str = "", *, end: bool = False, **more: Any) -> bytes:
    said = {"message": {"role": "assistant", "content": text, **more}} if path == CHAT else {"response": text, **more}
    ending = {"done": True, "done_reason": "stop", "total_duration": 7} if end else {"done": False}
    return json.dumps({"model": "m", "created_at": "T", **said, **ending}, ensure_ascii=False).encode() + b"\n"


def stream(path: str, *texts: str) -> list[bytes]:
    return [*(line(path, text) for text in texts), line(path, end=True)]


def lines(answer: Answer) -> list[dict[str, Any]]:
    return [json.loads(text) for text in answer.body.split(b"\n") if text.strip()]


def text(answer: Answer) -> str:
    return "".join(
        (found.get("message") or {}).get("content", "") + found.get("response", "") for found in lines(answer)
    )


@pytest.mark.parametrize("path", [CHAT, GENERATE])
async def test_a_clean_stream_arrives_line_for_line(path: str, make_engine: MakeEngine) -> None:
    chunks = stream(path, "a", "b 茶", "c")
    upstream = ScriptedUpstream(chunks, media=MEDIA)
    sent = json.dumps(ask(path, options={"temperature": 0.70})).encode()
    answer = await drive(guarded(make_engine, upstream), path, sent)
    assert upstream.bodies == [sent]
    assert answer.headers["content-type"] == MEDIA
    assert answer.body.startswith(b"".join(chunks[:-1]))
    last = lines(answer)[-1]
    assert last.pop("guardrail")["action"] == "allow"
    assert last == json.loads(chunks[-1])


@pytest.mark.parametrize("path", [CHAT, GENERATE])
async def test_a_stream_is_cut_before_the_match_and_ends_with_done(path: str, make_engine: MakeEngine) -> None:
    upstream = ScriptedUpstream(stream(path, "good ", "KAB", "OO", "M and more", "never"), media=MEDIA)
    answer = await drive(guarded(make_engine, upstream), path, ask(path))
    assert text(answer) == "good "
    last = lines(answer)[-1]
    assert (last["done"], last["done_reason"]) == (True, "content_filter")
    assert last["guardrail"]["action"] == "block"
    assert upstream.stopped
    assert answer.complete


@pytest.mark.parametrize("path", [CHAT, GENERATE])
async def test_a_blocked_prompt_is_an_error_of_the_surface(path: str, make_engine: MakeEngine) -> None:
    upstream = ScriptedUpstream([], media=MEDIA)
    answer = await drive(guarded(make_engine, upstream), path, ask(path, "say KABOOM"))
    assert answer.status == 400
    assert isinstance(answer.json()["error"], str)
    assert answer.json()["guardrail"]["rules"] == ["test/blocked"]
    assert answer.json()["guardrail"]["param"] == ("messages[0].content" if path == CHAT else "prompt")
    assert upstream.bodies == []
    app = guarded(make_engine, upstream, refusal="message")
    for streamed in (True, False):
        said = await drive(app, path, ask(path, "say KABOOM", stream=streamed))
        assert said.headers["content-type"] == (MEDIA if streamed else "application/json")
        assert lines(said)[-1]["done_reason"] == "content_filter"
        assert text(said)


@pytest.mark.parametrize("path", [CHAT, GENERATE])
async def test_a_plain_answer_is_cut_and_redacted_like_a_stream(path: str, make_engine: MakeEngine) -> None:
    for said, got, reason in (("a hush b", "a [X] b", "stop"), ("clean KABOOM", "clean ", "content_filter")):
        upstream = ScriptedUpstream([line(path, said, end=True)], media="application/json; charset=utf-8")
        answer = await drive(guarded(make_engine, upstream), path, ask(path, stream=False))
        assert text(answer) == got
        assert answer.json()["done_reason"] == reason


async def test_thinking_and_calls_are_screened_in_a_stream(make_engine: MakeEngine) -> None:
    calls = [{"function": {"name": "f", "arguments": {"KABOOM": 1}}}]
    for field in ({"thinking": "KABOOM"}, {"tool_calls": calls}, {"a_field_nobody_knows": ["KABOOM"]}):
        chunks = [line(CHAT, "fine "), line(CHAT, **field), line(CHAT, end=True)]
        answer = await drive(guarded(make_engine, ScriptedUpstream(chunks, media=MEDIA)), CHAT, ask(CHAT))
        assert b"KABOOM" not in answer.body, field
        assert text(answer) == "fine "
        assert lines(answer)[-1]["done_reason"] == "content_filter"
        assert not any(found["message"].get("tool_calls") for found in lines(answer))


async def test_a_call_arrives_as_it_was_made(make_engine: MakeEngine) -> None:
    calls = [{"function": {"name": name, "arguments": {"n": 1.50}}} for name in ("f", "g")]
    chunks = [line(CHAT, tool_calls=calls[:1]), line(CHAT, tool_calls=calls[1:]), line(CHAT, end=True)]
    answer = await drive(guarded(make_engine, ScriptedUpstream(chunks, media=MEDIA)), CHAT, ask(CHAT))
    assert answer.body.startswith(b"".join(chunks[:-1]))


async def test_what_streams_does_not_depend_on_how_bytes_are_cut(make_engine: MakeEngine) -> None:
    rng = random.Random(11)
    words = ["a ", "KAB", "KABOOM", "hu", "hush", "OOM", "说", "。", "\u2028", " "]
    cut = 0
    for number in range(300):
        path = (CHAT, GENERATE)[number % 2]
        texts = [
            "".join(rng.choices(words, weights=[9, 2, 1, 2, 1, 1, 4, 2, 1, 4], k=rng.randint(1, 4))) for _ in range(5)
        ]
        raw = b"".join(stream(path, *texts))
        seen: set[tuple[str, Any, Any]] = set()
        for size in (1, rng.randint(2, 40), rng.randint(41, 400), len(raw)):
            chunks = [raw[i : i + size] for i in range(0, len(raw), size)]
            if rng.random() < 0.5:
                chunks = [chunk.replace(b"\n", b"\r\n") for chunk in chunks]
            answer = await drive(guarded(make_engine, ScriptedUpstream(chunks, media=MEDIA)), path, ask(path))
            last = lines(answer)[-1]
            seen.add((text(answer), last["done_reason"], last["guardrail"]["action"]))
        assert len(seen) == 1, texts
        [(said, reason, _)] = seen
        whole = "".join(texts)
        if "KABOOM" in whole:
            cut += 1
            assert reason == "content_filter"
            assert said == whole[: whole.index("KABOOM")].replace("hush", "[X]")
        else:
            assert said == whole.replace("hush", "[X]")
    assert cut > 60


async def test_a_line_that_we_wrote_anew_is_one_line_for_every_reader(make_engine: MakeEngine) -> None:
    chunks = stream(CHAT, "one\u2028hush\u0085two")
    answer = await drive(guarded(make_engine, ScriptedUpstream(chunks, media=MEDIA)), CHAT, ask(CHAT))
    assert text(answer) == "one\u2028[X]\u0085two"
    assert len(answer.body.decode().splitlines()) == 2


async def test_nothing_is_put_between_lines_while_text_is_held(make_engine: MakeEngine) -> None:
    engine: dict[str, Any] = {"detectors": {"blocked": Slow(0.2)}, "keepalive": 0.02}
    answer = await drive(
        guarded(make_engine, ScriptedUpstream(stream(CHAT, "One."), media=MEDIA), **engine), CHAT, ask(CHAT, "hi.")
    )
    assert text(answer) == "One."
    assert len(lines(answer)) == answer.body.count(b"\n") == 2


@pytest.mark.parametrize("broken", [b"{not json}\n", b'{"error":"an error was encountered while running the model"}\n'])
async def test_a_stream_that_breaks_ends_with_an_error_line(broken: bytes, make_engine: MakeEngine) -> None:
    chunks = [line(CHAT, "fine "), line(CHAT, "KAB"), broken, line(CHAT, "OOM")]
    answer = await drive(guarded(make_engine, ScriptedUpstream(chunks, media=MEDIA)), CHAT, ask(CHAT))
    *said, error = lines(answer)
    assert [found["message"]["content"] for found in said] == ["fine "]
    assert isinstance(error["error"], str)
    assert error["guardrail"]["code"] == "bad_upstream_response"
    assert answer.complete


async def test_a_stream_without_its_last_line_still_carries_the_guardrail_object(make_engine: MakeEngine) -> None:
    chunks = [line(CHAT, "one "), line(CHAT, "two")[:-1]]
    answer = await drive(guarded(make_engine, ScriptedUpstream(chunks, media=MEDIA)), CHAT, ask(CHAT))
    assert text(answer) == "one two"
    assert lines(answer)[-1]["guardrail"]["action"] == "allow"


async def test_an_event_stream_is_no_answer_of_this_surface(make_engine: MakeEngine) -> None:
    answer = await drive(guarded(make_engine, ScriptedUpstream([b"data: {}\n\n"])), CHAT, ask(CHAT))
    assert answer.status == 502
    assert answer.json()["guardrail"]["code"] == "bad_upstream_response"


async def test_the_visible_label_is_a_line_before_the_last(make_engine: MakeEngine) -> None:
    for path in (CHAT, GENERATE):
        upstream = ScriptedUpstream(stream(path, "te", "xt"), media=MEDIA)
        answer = await drive(guarded(make_engine, upstream, position="end"), path, ask(path))
        assert text(answer) == "text\n\n(AI生成 / AI-generated)"
        assert lines(answer)[-1]["done"]


async def test_a_late_verdict_cuts_a_stream_of_lines_too(make_engine: MakeEngine) -> None:
    upstream = ScriptedUpstream([line(CHAT, "Good one."), line(CHAT, "A bad one."), line(CHAT, "more")], media=MEDIA)

    async def quiet(scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: Any) -> None:
            await send(message)
            if b"bad" in message.get("body", b""):
                await asyncio.sleep(60)

        await upstream(scope, receive, sending)

    async with asyncio.timeout(5):
        app = guarded(make_engine, quiet, detectors={"blocked": Slow(0.02)})  # type: ignore[arg-type]
        answer = await drive(app, CHAT, ask(CHAT))
    assert text(answer) == "Good one."
    assert lines(answer)[-1]["done_reason"] == "content_filter"
