"""Legacy completions through the whole middleware: nothing blocked leaves, however the upstream cuts its bytes."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from guardrail.gateway.middleware import GuardrailMiddleware
from guardrail.testing import Answer, ScriptedUpstream, drive
from tests.gateway.conftest import MakeEngine

PATH = "/v1/completions"
DONE = b"data: [DONE]\n\n"


def delta(text: str = "", *, choice: int = 0, finish: str | None = None, **more: Any) -> bytes:
    choices = [{"text": text, "index": choice, "logprobs": None, "finish_reason": finish, **more}]
    chunk = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m", "choices": choices}
    return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"


def reply(*texts: str, **more: Any) -> list[bytes]:
    choices = [
        {"text": text, "index": index, "logprobs": None, "finish_reason": "stop"} for index, text in enumerate(texts)
    ]
    return [json.dumps({"id": "cmpl-1", "object": "text_completion", "choices": choices, **more}).encode()]


def said(answer: Answer, choice: int = 0) -> str:
    return "".join(
        part["text"]
        for event in answer.events()
        if isinstance(event, dict)
        for part in event.get("choices", ())
        if part["index"] == choice
    )


async def ask(make_engine: MakeEngine, chunks: list[bytes], media: str = "text/event-stream", **more: Any) -> Answer:
    app = GuardrailMiddleware(ScriptedUpstream(chunks, media=media), make_engine(position=more.pop("position", "none")))
    return await drive(app, PATH, {"model": "m", "prompt": "hi", "stream": media != "application/json", **more})


@pytest.mark.parametrize("field", ["prompt", "suffix", "x_unknown"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_blocked_prompt_never_reaches_the_upstream(make_engine: MakeEngine, field: str, stream: bool) -> None:
    upstream = ScriptedUpstream(reply("fine"), media="application/json")
    body = {"model": "m", "prompt": "hi", "stream": stream, field: "say KABOOM"}
    answer = await drive(GuardrailMiddleware(upstream, make_engine()), PATH, body)
    assert (answer.status, answer.json()["error"]["code"]) == (400, "content_filter")
    assert answer.json()["error"]["param"] == field
    assert upstream.bodies == []


async def test_token_ids_are_refused_and_never_passed(make_engine: MakeEngine) -> None:
    upstream = ScriptedUpstream(reply("fine"), media="application/json")
    answer = await drive(GuardrailMiddleware(upstream, make_engine()), PATH, {"model": "m", "prompt": [15496, 11]})
    assert (answer.status, answer.json()["error"]["code"]) == (422, "unreadable")
    assert upstream.bodies == []


async def test_of_two_plain_choices_the_clean_one_is_whole(make_engine: MakeEngine) -> None:
    answer = await ask(make_engine, reply("All is well.", "Here is KABOOM."), "application/json", n=2)
    assert [(c["text"], c["finish_reason"]) for c in answer.json()["choices"]] == [
        ("All is well.", "stop"),
        ("Here is ", "content_filter"),
    ]
    assert answer.json()["guardrail"]["action"] == "block"


async def test_a_safe_answer_takes_the_models_place(make_engine: MakeEngine) -> None:
    app = GuardrailMiddleware(ScriptedUpstream(reply("never")), make_engine())
    answer = await drive(app, PATH, {"model": "m", "prompt": "help me"})
    assert answer.json()["choices"][0]["text"] == "Here is help."


async def test_the_guardrail_object_rides_on_the_last_choice_of_all_prompts(make_engine: MakeEngine) -> None:
    chunks = [*(delta(f"text {n}", choice=n) for n in range(4)), *(delta(choice=n, finish="stop") for n in range(4))]
    answer = await ask(make_engine, [*chunks, DONE], prompt=["a", "b"], n=2)
    marked = [event for event in answer.events() if isinstance(event, dict) and "guardrail" in event]
    assert [event["choices"][0]["index"] for event in marked] == [3]
    assert answer.body.startswith(b"".join(chunks[:-1]))


async def test_the_visible_label_ends_a_completion_but_no_text_that_is_put_in_between(make_engine: MakeEngine) -> None:
    chunks = [delta("some text"), delta(finish="stop"), DONE]
    label = "\n\n(AI生成 / AI-generated)"
    assert said(await ask(make_engine, chunks, position="end")) == "some text" + label
    assert said(await ask(make_engine, chunks, position="end", suffix="and so on")) == "some text"


@pytest.mark.parametrize("logprobs", ["none", "beside", "ahead"])
async def test_what_streams_does_not_depend_on_how_bytes_are_cut(make_engine: MakeEngine, logprobs: str) -> None:
    rng = random.Random(11)
    words = ["a ", "KAB", "KABOOM", "hu", "hush", "OOM", "说", "。", "\u2028", " "]
    cut = 0
    for _ in range(80):
        texts = [
            "".join(rng.choices(words, weights=[9, 2, 1, 2, 1, 1, 4, 2, 1, 4], k=rng.randint(1, 4))) for _ in range(5)
        ]
        # Some servers spell a text in an event before the one that gives it.
        spelled = [[text] for text in texts] if logprobs == "beside" else [texts[:2], *([t] for t in texts[2:]), []]
        events = [
            delta(text, logprobs=None if logprobs == "none" else {"tokens": tokens})
            for text, tokens in zip(texts, spelled, strict=True)
        ]
        raw = b"".join([*events, delta(finish="stop"), DONE])
        seen: set[tuple[str, str, str]] = set()
        for size in (1, rng.randint(2, 40), rng.randint(41, 400), len(raw)):
            chunks = [raw[i : i + size] for i in range(0, len(raw), size)]
            answer = await ask(make_engine, chunks)
            last = answer.events()[-2]
            seen.add((said(answer), last["choices"][0]["finish_reason"], last["guardrail"]["action"]))
            whole = "".join(texts)
            if "KABOOM" in whole:
                assert "KABOOM" not in answer.body.decode()
                assert whole[: whole.index("KABOOM")].replace("hush", "[X]").startswith(said(answer))
        if logprobs != "ahead":  # then how much of the clean part is there depends on how soon the cut comes
            assert len(seen) == 1, texts
        for text, finish, _ in seen:
            if "KABOOM" not in whole:
                assert text == whole.replace("hush", "[X]")
                continue
            cut += 1
            assert finish == "content_filter"
            if logprobs != "ahead":
                assert text == whole[: whole.index("KABOOM")].replace("hush", "[X]")
    assert cut > 15


async def test_tokens_that_run_ahead_of_their_text_give_nothing_away(make_engine: MakeEngine) -> None:
    chunks = [
        delta("", logprobs={"tokens": ["ok "]}),
        delta("ok ", logprobs={"tokens": ["KAB"]}),
        delta("KAB", logprobs={"tokens": ["OOM"]}),
        delta("OOM", logprobs={"tokens": [" more"]}),
        delta(" more", finish="stop"),
        DONE,
    ]
    answer = await ask(make_engine, chunks)
    assert b"KAB" not in answer.body
    assert b"OOM" not in answer.body
    assert answer.events()[-2]["choices"][0]["finish_reason"] == "content_filter"


async def test_redaction_drops_the_logprobs_that_spell_what_went(make_engine: MakeEngine) -> None:
    chunks = [
        delta("a ", logprobs={"tokens": ["a "]}),
        delta("hush", logprobs={"tokens": ["hush"]}),
        delta(" b", logprobs={"tokens": [" b"]}),
        delta(finish="stop"),
        DONE,
    ]
    answer = await ask(make_engine, chunks)
    assert said(answer) == "a [X] b"
    assert b"hush" not in answer.body
    assert chunks[0] in answer.body
    assert chunks[2] in answer.body
