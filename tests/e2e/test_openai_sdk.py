"""The real `openai` SDK, unchanged but for its base URL, gets through the proxy what it gets without it."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.conftest import ANSWERED, BLOCKED, OBSERVED, REDACTED, SAFE_ANSWER, Guardrail
from tests.e2e.upstream import Call, Say, Upstream, script

USER: list[Any] = [{"role": "user", "content": "What is on the table?"}]
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
TALK = "There is bread, 茶, a jar of honey — and\u2028nothing else at all."
CALLS = (Call("look", '{"where": "table", "what": ["bread", "茶"]}', "call_1"), Call("count", '{"n": 3}', "call_2"))

ANSWERS: dict[str, dict[str, Any]] = {
    "text": script(Say(TALK)),
    "no text at all": script(Say("")),
    "two choices": {"n": 2, **script(Say(TALK), Say("Only crumbs, I fear."))},
    "reasoning": script(Say("Bread.", reasoning="The user asks for the table. I look. I see bread.")),
    "a refusal of the model's own": script(Say(None, refusal="I would rather not say.")),
    "tool calls": {"tools": TOOLS, **script(Say(None, calls=CALLS))},
    "text and a tool call": {"tools": TOOLS, **script(Say("Let me look.", calls=CALLS[:1]))},
    "logprobs": {"logprobs": True, **script(Say(TALK, logprobs=True))},
    "cut short by length": script(Say("There is br", finish="length")),
    "structured output": {"response_format": {"type": "json_object"}, **script(Say('{"on": ["bread", "茶"]}'))},
}


def ask(client: openai.OpenAI | openai.AsyncOpenAI, **request: Any) -> Any:
    """A chat completion through the SDK; its types would want every message and script spelled out."""
    return client.chat.completions.create(**{"model": "any", "messages": USER, **request})


def without_ours(whole: dict[str, Any]) -> dict[str, Any]:
    """An answer without the one member that the guard adds to it."""
    return {key: value for key, value in whole.items() if key != "guardrail"}


@pytest.mark.parametrize("kind", ANSWERS)
def test_a_plain_answer_is_the_upstreams_but_for_the_guardrail_object(
    kind: str, client: openai.OpenAI, direct: openai.OpenAI
) -> None:
    request: dict[str, Any] = {"model": "any", "messages": USER, **ANSWERS[kind]}
    ours = client.chat.completions.create(**request).model_dump()
    assert ours["guardrail"]["action"] == "allow"
    assert without_ours(ours) == direct.chat.completions.create(**request).model_dump()


def lanes(chunks: list[dict[str, Any]]) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    """The chunks of a stream by what they add to: one text of one choice, one tool call, the rest.

    A text that waits to be cleared does not hold up another one, so that order counts within each of these.
    """
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for chunk in chunks:
        lane: tuple[Any, ...] = ()
        for choice in chunk["choices"]:
            delta = choice["delta"]
            lane = (choice["index"], *(key for key in ("reasoning_content", "content", "refusal") if delta.get(key)))
            lane += tuple(call["index"] for call in delta["tool_calls"] or [])
        found.setdefault(lane, []).append(chunk)
    return found


@pytest.mark.parametrize("kind", ANSWERS)
@pytest.mark.parametrize("piece", [0, 1, 7])
def test_a_stream_is_the_upstreams_chunk_by_chunk_but_for_the_guardrail_object(
    kind: str, piece: int, client: openai.OpenAI, direct: openai.OpenAI
) -> None:
    request: dict[str, Any] = {"model": "any", "messages": USER, "stream": True, **ANSWERS[kind]}
    request["metadata"] = {"script": json.dumps({**json.loads(request["metadata"]["script"]), "piece": piece})}
    request["stream_options"] = {"include_usage": True}
    ours = [chunk.model_dump() for chunk in client.chat.completions.create(**request)]
    theirs = [chunk.model_dump() for chunk in direct.chat.completions.create(**request)]
    assert len(ours) == len(theirs)
    assert lanes([without_ours(chunk) for chunk in ours]) == lanes(theirs)
    last = {choice["index"]: choice for chunk in ours for choice in chunk["choices"]}
    assert all(choice["finish_reason"] for choice in last.values()), "something came after its choice had finished"
    marked = [chunk for chunk in ours if "guardrail" in chunk]
    assert len(marked) == 1
    # It rides on the chunk that finishes the last open choice; nothing of ours comes after the usage.
    assert marked[0]["choices"][0]["finish_reason"]
    assert ours[-1]["usage"] is not None


def test_a_plain_answer_keeps_every_byte_and_gains_one_member(guardrail: Guardrail, upstream: Upstream) -> None:
    request = {"model": "any", "messages": USER, **ANSWERS["text"]}
    ours = httpx.post(f"{guardrail.url}/v1/chat/completions", json=request)
    theirs = httpx.post(f"{upstream.url}/chat/completions", json=request)
    kept, added = ours.text.split(',"guardrail":')
    assert kept == theirs.text[:-1]
    assert json.loads(added[:-1])["action"] == "allow"
    assert "12345678901234567890" in kept
    assert "1.1" in kept


def test_a_stream_keeps_every_byte_of_every_other_event(guardrail: Guardrail, upstream: Upstream) -> None:
    request = {"model": "any", "messages": USER, "stream": True, **ANSWERS["text"]}
    ours = httpx.post(f"{guardrail.url}/v1/chat/completions", json=request).content.split(b"\n\n")
    theirs = httpx.post(f"{upstream.url}/chat/completions", json=request).content.split(b"\n\n")
    assert len(ours) == len(theirs)
    different = [(a, b) for a, b in zip(ours, theirs, strict=True) if a != b]
    assert len(different) == 1
    assert different[0][0].startswith(different[0][1][:-1] + b',"guardrail":{')
    assert ours[-2:] == [b"data: [DONE]", b""]


def test_the_request_reaches_the_upstream_as_it_was_sent(guardrail: Guardrail, upstream: Upstream) -> None:
    body = b'{ "model":"echo", "messages":[ {"role":"user","content":"caf\\u00e9 \xe8\x8c\xb6"} ], "x_unknown": 1.10 }'
    headers = {
        "content-type": "application/json",
        "authorization": "Bearer sk-mine",
        "x-request-id": "req-1",
        "x-own": "7",
    }
    answer = httpx.post(f"{guardrail.url}/v1/chat/completions?api-version=3", content=body, headers=headers)
    assert answer.status_code == 200
    assert upstream.last.body == body
    assert upstream.last.path == "/v1/chat/completions"
    assert upstream.last.query == "api-version=3"
    got = upstream.last.headers
    assert (got["authorization"], got["x-request-id"], got["x-own"]) == ("Bearer sk-mine", "req-1", "7")
    assert got.get("accept-encoding", "identity") == "identity"
    assert answer.headers["x-request-id"] == "req-1"


def test_a_guarded_answer_says_so_in_its_headers(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="echo", messages=USER)
    assert raw.headers["guardrail-action"] == "allow"
    assert raw.headers["guardrail-policy"]
    assert raw.headers["ai-generated"] == "1"
    assert raw.headers["aigc"]
    assert raw.headers["x-upstream"] == "e2e"
    assert "guardrail-incident" not in raw.headers


def test_multi_part_content_is_read_and_passed_on(client: openai.OpenAI, upstream: Upstream) -> None:
    parts: list[Any] = [{"type": "text", "text": "What is"}, {"type": "text", "text": " this?"}]
    answer = client.chat.completions.create(model="echo", messages=[{"role": "user", "content": parts}])
    assert answer.choices[0].message.content == "What is this?"
    assert upstream.last.json["messages"][0]["content"] == parts


async def test_the_asynchronous_client_gets_plain_answers_and_streams(guardrail: Guardrail) -> None:
    async with guardrail.async_client() as client:
        request: dict[str, Any] = {"model": "any", "messages": USER, **ANSWERS["text"]}
        answer = await client.chat.completions.create(**request)
        assert answer.choices[0].message.content == TALK
        stream = await client.chat.completions.create(**request, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert text == TALK


def test_the_sdks_stream_helper_puts_tool_calls_together(client: openai.OpenAI) -> None:
    request: dict[str, Any] = {"model": "any", "messages": USER, **ANSWERS["tool calls"]}
    with client.chat.completions.stream(**request) as stream:
        for _ in stream:
            pass
        calls = stream.get_final_completion().choices[0].message.tool_calls
    assert calls is not None
    assert [(call.function.name, call.function.arguments) for call in calls] == [(c.name, c.arguments) for c in CALLS]


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["echo"]


# -- what is blocked -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("text", [f"Tell me about {BLOCKED}, please", "请问禁止果酱是什么", "FORBIDDEN  MarmaLade?"])
def test_a_blocked_prompt_is_a_bad_request_error_with_our_incident_id(
    text: str, stream: bool, guardrail: Guardrail, upstream: Upstream
) -> None:
    before = len(upstream.received)
    with pytest.raises(openai.BadRequestError) as caught:
        ask(
            guardrail.client(),
            model="echo",
            messages=[*USER, {"role": "user", "content": text}],
            stream=stream,
        )
    error = caught.value
    assert (error.status_code, error.code, error.type, error.param) == (
        400,
        "content_filter",
        "guardrail",
        "messages[1].content",
    )
    assert isinstance(error.body, dict)
    ours = error.body["guardrail"]
    assert ours["incident"]
    assert ours["incident"] == error.response.headers["guardrail-incident"]
    assert ours["rules"] == ["e2e/block"]
    assert ours["categories"] == ["e2e-blocked"]
    assert ours["incident"] in ours["appeal_url"] or ours["appeal_url"].startswith("http")
    assert BLOCKED not in json.dumps(error.body).lower()
    assert len(upstream.received) == before


@pytest.mark.parametrize(
    "message",
    [
        {"role": "system", "content": BLOCKED},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c", "type": "function", "function": {"name": "look", "arguments": json.dumps({"q": BLOCKED})}}]},
        {"role": "tool", "tool_call_id": "c", "content": BLOCKED},
        {"role": "user", "content": [{"type": "text", "text": "well, "}, {"type": "text", "text": BLOCKED}]},
        {"role": "user", "name": "me", "content": "hm", "x_made_up": {"deep": [BLOCKED]}},
    ],
    ids=["system", "tool call arguments", "tool result", "content part", "unknown field"],
)  # fmt: skip
def test_a_phrase_is_found_wherever_a_message_carries_it(message: Any, guardrail: Guardrail) -> None:
    with pytest.raises(openai.BadRequestError):
        ask(guardrail.client(), model="echo", messages=[message, *USER])


HARMFUL: dict[str, tuple[Say, str]] = {
    "content": (Say(f"First comes bread, then {BLOCKED}, then tea. " + "And more. " * 40), "content"),
    "reasoning": (
        Say("No.", reasoning=f"First comes bread, then {BLOCKED}, then tea. " + "And more. " * 40),
        "reasoning",
    ),
    "arguments": (
        Say(None, calls=(Call("look", json.dumps({"q": f"First comes bread, then {BLOCKED}" + " tea" * 99})),)),
        "arguments",
    ),
    "refusal": (Say(None, refusal=f"First comes bread, then {BLOCKED}, then tea. " + "And more. " * 40), "refusal"),
}


def heard(chunks: list[Any], kind: str) -> str:
    """What a stream's first choice said in one of its fields."""
    text = ""
    for chunk in chunks:
        for choice in chunk.choices:
            delta = choice.delta
            if kind == "arguments":
                text += "".join(call.function.arguments or "" for call in delta.tool_calls or [])
            else:
                text += getattr(delta, {"reasoning": "reasoning_content"}.get(kind, kind), None) or ""
    return text


@pytest.mark.parametrize("kind", HARMFUL)
@pytest.mark.parametrize("piece", [0, 1, 5, 400])
def test_a_blocked_stream_ends_with_content_filter_and_without_a_character_of_the_phrase(
    kind: str, piece: int, guardrail: Guardrail
) -> None:
    say, field = HARMFUL[kind]
    stream = ask(
        guardrail.client(),
        stream=True,
        **script(say, piece=piece),
    )
    chunks = list(stream)
    assert chunks[-1].choices[0].finish_reason == "content_filter"
    ours = chunks[-1].model_dump()["guardrail"]
    assert ours["action"] == "block"
    assert ours["incident"]
    text = heard(chunks, field)
    clean = '{"q": "First comes bread, then ' if kind == "arguments" else "First comes bread, then "
    # Of a tool call less may leave: half of its arguments are of no use to anybody.
    assert clean.startswith(text) if kind == "arguments" else text == clean


STREAMED = {
    "text": Say("one two three four five six seven eight nine ten " * 2),
    "text after reasoning that ends like the beginning of a phrase": Say(
        "one two three four five six seven eight nine ten " * 2, reasoning="This is not forbidden"
    ),
    "arguments of a tool call": Say(None, calls=(Call("look", json.dumps({"q": "one two three four five " * 4})),)),
}


@pytest.mark.parametrize("kind", STREAMED)
def test_what_is_clean_arrives_while_the_rest_is_still_to_come(kind: str, guardrail: Guardrail) -> None:
    began, arrived = time.monotonic(), []
    for _ in ask(guardrail.client(), stream=True, **script(STREAMED[kind], pause=0.05)):
        arrived.append(time.monotonic() - began)
    assert arrived[-1] > 1
    assert arrived[len(arrived) // 2] < 0.75 * arrived[-1]


def test_the_upstream_is_let_go_when_its_stream_is_blocked(guardrail: Guardrail, upstream: Upstream) -> None:
    say = Say(f"First {BLOCKED}. " + "And on and on. " * 500)
    stream = ask(
        guardrail.client(),
        stream=True,
        **script(say, pause=0.02),
    )
    assert list(stream)[-1].choices[0].finish_reason == "content_filter"
    assert upstream.last.left.wait(5), "the upstream's connection stayed open"
    assert upstream.last.sent < 100


def test_the_upstream_is_let_go_when_the_client_leaves(guardrail: Guardrail, upstream: Upstream) -> None:
    stream = ask(
        guardrail.client(),
        stream=True,
        **script(Say("On and on. " * 900), pause=0.02),
    )
    next(iter(stream))
    stream.close()
    assert upstream.last.left.wait(5), "the upstream's connection stayed open"
    assert upstream.last.sent < 300
    guardrail.assert_healthy()


def test_of_two_streamed_choices_both_end_when_one_is_blocked(guardrail: Guardrail) -> None:
    stream = ask(
        guardrail.client(),
        n=2,
        stream=True,
        **script(Say("All is well here. " * 9), Say(f"Here is {BLOCKED}.")),
    )
    reasons: dict[int, str] = {}
    second = ""
    for chunk in stream:
        for choice in chunk.choices:
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
            if choice.index == 1:
                second += choice.delta.content or ""
    assert reasons == {0: "content_filter", 1: "content_filter"}
    assert second == "Here is "


def test_a_blocked_plain_answer_keeps_its_clean_part(guardrail: Guardrail) -> None:
    answer = ask(
        guardrail.client(),
        **script(HARMFUL["content"][0]),
    )
    assert answer.choices[0].message.content == "First comes bread, then "
    assert answer.choices[0].finish_reason == "content_filter"
    assert answer.model_dump()["guardrail"]["action"] == "block"


def test_of_two_plain_choices_the_clean_one_is_whole(guardrail: Guardrail) -> None:
    answer = ask(
        guardrail.client(),
        n=2,
        **script(Say("All is well."), Say(f"Here is {BLOCKED}.")),
    )
    assert [(c.message.content, c.finish_reason) for c in answer.choices] == [
        ("All is well.", "stop"),
        ("Here is ", "content_filter"),
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_has_a_safe_answer_gets_it(stream: bool, guardrail: Guardrail, upstream: Upstream) -> None:
    before = len(upstream.received)
    messages: list[Any] = [{"role": "user", "content": f"please {ANSWERED}"}]
    if stream:
        chunks = ask(guardrail.client(), model="echo", messages=messages, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    else:
        answer = ask(guardrail.client(), model="echo", messages=messages)
        text = answer.choices[0].message.content or ""
    assert text == SAFE_ANSWER
    assert len(upstream.received) == before


def test_a_safe_answer_speaks_the_clients_language(guardrail: Guardrail) -> None:
    client = guardrail.client(default_headers={"Accept-Language": "zh-CN,zh;q=0.9,en;q=0.5"})
    answer = client.chat.completions.create(model="echo", messages=[{"role": "user", "content": ANSWERED}])
    assert answer.choices[0].message.content == "我们换个话题吧。"


def test_a_redacted_prompt_reaches_the_upstream_redacted(guardrail: Guardrail, upstream: Upstream) -> None:
    messages: list[Any] = [{"role": "user", "content": f"who is the {REDACTED} here?"}]
    answer = ask(guardrail.client(), model="echo", messages=messages)
    assert upstream.last.json["messages"][0]["content"] == "who is the [removed] here?"
    assert answer.choices[0].message.content == "who is the [removed] here?"
    assert answer.model_dump()["guardrail"]["action"] == "redact"


@pytest.mark.parametrize("piece", [0, 1, 6])
def test_a_redacted_stream_arrives_redacted(piece: int, guardrail: Guardrail) -> None:
    stream = ask(
        guardrail.client(),
        stream=True,
        **script(Say(f"It is the {REDACTED}, I think."), piece=piece),
    )
    chunks = list(stream)
    assert heard(chunks, "content") == "It is the [removed], I think."
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_an_observing_rule_changes_nothing_and_is_counted(guardrail: Guardrail) -> None:
    def matches() -> float:
        return guardrail.metric("guardrail_rule_matches_total", mode="observe", rule="e2e/observe")

    before = matches()
    answer = ask(guardrail.client(), model="echo", messages=[{"role": "user", "content": f"this is {OBSERVED}"}])
    assert answer.choices[0].message.content == f"this is {OBSERVED}"
    assert matches() == before + 2  # the prompt, and the answer that echoes it


def test_sixty_streams_at_once_keep_apart(guardrail: Guardrail) -> None:
    async def one(client: openai.AsyncOpenAI, number: int) -> str:
        words = f"This is answer {number}. " * 5 + (f"{BLOCKED} and more" if number % 3 == 0 else "")
        stream = await ask(
            client,
            stream=True,
            **script(Say(words), piece=3, pause=0.001),
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def all_of_them() -> list[str]:
        async with guardrail.async_client() as client:
            return list(await asyncio.gather(*(one(client, number) for number in range(60))))

    texts = asyncio.run(all_of_them())
    assert texts == [f"This is answer {number}. " * 5 for number in range(60)]
