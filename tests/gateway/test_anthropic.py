"""Anthropic's Messages API through the whole middleware: what goes in, what comes out, what neither side sees."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from guardrail.gateway.middleware import GuardrailMiddleware
from guardrail.testing import Answer, ScriptedUpstream, drive
from tests.gateway.conftest import MakeEngine
from tests.gateway.test_middleware import Slow

PATH = "/v1/messages"
KEY = {"x-api-key": "key-1", "anthropic-version": "2023-06-01"}
LABEL = "\n\n(AI生成 / AI-generated)"


def ask(text: str | list[Any] = "hi", **more: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 99, "messages": [{"role": "user", "content": text}], **more}


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **more}


def reply(*blocks: Any, reason: str = "end_turn") -> ScriptedUpstream:
    body = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": list(blocks),
        "stop_reason": reason, "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 2}, "x": 1.50,
    }  # fmt: skip
    return ScriptedUpstream([json.dumps(body).encode()], media="application/json")


def event(kind: str, **more: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **more}, ensure_ascii=False)}\n\n".encode()


BEGIN = event(
    "message_start",
    message={"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None,
             "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1}},
)  # fmt: skip
PING = event("ping")


def block(index: int, kind: str, *parts: str, **more: Any) -> list[bytes]:
    """The events of one block, streamed in these parts."""
    opened, form, field = {
        "text": (text(""), "text_delta", "text"),
        "thinking": ({"type": "thinking", "thinking": "", "signature": ""}, "thinking_delta", "thinking"),
        "tool_use": ({"type": "tool_use", "id": "t", "name": "f", "input": {}}, "input_json_delta", "partial_json"),
    }[kind]
    return [
        event("content_block_start", index=index, content_block={**opened, **more}),
        *(event("content_block_delta", index=index, delta={"type": form, field: part}) for part in parts),
        event("content_block_stop", index=index),
    ]


def end(reason: str = "end_turn") -> list[bytes]:
    delta = {"stop_reason": reason, "stop_sequence": None}
    return [event("message_delta", delta=delta, usage={"output_tokens": 7}), event("message_stop")]


def whole(*parts: str) -> list[bytes]:
    return [BEGIN, *block(0, "text", *parts), *end()]


def message(answer: Answer) -> dict[str, Any]:
    """The message that a stream adds up to; asserts that its events come in an order that clients can follow."""
    found: dict[str, Any] = {}
    texts: list[str] = []
    opened: int | None = None
    for body in answer.events():
        kind = body["type"]
        if kind == "ping":
            continue
        assert kind == "message_start" or found, f"{kind} before message_start"
        assert "ended" not in found, f"{kind} after message_stop"
        if kind == "message_start":
            found = {"content": [], "id": body["message"]["id"]}
        elif kind == "content_block_start":
            assert opened is None
            assert body["index"] == len(found["content"])
            opened = body["index"]
            found["content"].append(dict(body["content_block"]))
            texts.append("")
        elif kind == "content_block_delta":
            assert body["index"] == opened
            delta = body["delta"]
            texts[-1] += delta.get("text") or delta.get("thinking") or delta.get("partial_json") or ""
        elif kind == "content_block_stop":
            assert body["index"] == opened
            opened = None
        elif kind == "message_delta":
            assert opened is None
            found |= body["delta"]
            found["guardrail"] = body.get("guardrail")
        elif kind == "message_stop":
            found["ended"] = True
    assert found["ended"]
    return {**found, "texts": texts}


# -- answers that come at once ---------------------------------------------------------------------------------------


async def test_a_clean_request_and_answer_arrive_as_they_were_sent(make_engine: MakeEngine) -> None:
    upstream = reply(text("fine"))
    sent = json.dumps(ask("hello", temperature=0.70)).encode()
    answer = await drive(GuardrailMiddleware(upstream, make_engine()), PATH, sent, headers=KEY)
    assert (answer.status, upstream.bodies) == (200, [sent])
    assert upstream.headers[0]["x-api-key"] == "key-1"
    assert answer.body.startswith(upstream.chunks[0][:-1]), "only the guardrail object is added, at the end"
    assert answer.json()["guardrail"]["action"] == "allow"
    assert answer.headers["ai-generated"] == "1"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_blocked_prompt_gets_the_apis_own_error(make_engine: MakeEngine, stream: bool) -> None:
    upstream = reply(text("fine"))
    body = ask([text("well"), text("say KABOOM")], stream=stream)
    answer = await drive(GuardrailMiddleware(upstream, make_engine()), PATH, body, headers=KEY)
    assert (answer.status, answer.json()["type"]) == (400, "error")
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert (error["guardrail"]["code"], error["guardrail"]["param"]) == (
        "content_filter",
        "messages[0].content[1].text",
    )
    assert error["guardrail"]["rules"] == ["test/blocked"]
    assert error["guardrail"]["incident"] == answer.headers["guardrail-incident"]
    assert error["guardrail"]["incident"] in error["guardrail"]["appeal_url"]
    assert upstream.bodies == []
    assert b"KABOOM" not in answer.body


@pytest.mark.parametrize(
    "body",
    [
        ask(system="KABOOM"),
        ask(system=[text("KABOOM")]),
        ask([{"type": "tool_result", "tool_use_id": "t", "content": "KABOOM"}]),
        ask([{"type": "tool_result", "tool_use_id": "t", "content": [text("KABOOM")]}]),
        ask([{"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "KABOOM"}}]),
        ask([{"type": "document", "title": "KABOOM", "source": {"type": "content", "content": "x"}}]),
        ask([{"type": "search_result", "source": "s", "title": "t", "content": [text("KABOOM")]}]),
        ask([{"type": "tool_use", "id": "t", "name": "f", "input": {"a": [{"b": "KABOOM"}]}}]),
        ask([{"type": "tool_use", "id": "t", "name": "f", "input": {"KABOOM": 1}}]),
        ask([{"type": "tool_use", "id": "t", "name": "KABOOM", "input": {}}]),
        ask([{"type": "thinking", "thinking": "KABOOM", "signature": "c2ln"}]),
        ask([{"type": "redacted_thinking", "data": "plainly: KABOOM"}]),
        ask([text("x", cache_control={"type": "ephemeral"}, x_more="KABOOM")]),
        ask(tools=[{"name": "f", "description": "KABOOM", "input_schema": {}}]),
        ask(tools=[{"name": "f", "input_schema": {"properties": {"KABOOM": {"type": "string"}}}}]),
        ask(tools=[{"name": "f", "input_schema": {"properties": {"a": {"enum": ["b", "KABOOM"]}}}}]),
        ask(x_extension={"deep": ["KABOOM"]}),
        ask(metadata={"user_id": "say KABOOM"}),
    ],
)
async def test_every_text_of_a_prompt_is_screened(make_engine: MakeEngine, body: dict[str, Any]) -> None:
    upstream = reply(text("fine"))
    answer = await drive(GuardrailMiddleware(upstream, make_engine()), PATH, body)
    assert answer.status == 400
    assert answer.json()["error"]["guardrail"]["code"] == "content_filter"
    assert upstream.bodies == []


async def test_what_a_tool_found_is_blocked_and_is_no_strike_of_the_users(make_engine: MakeEngine) -> None:
    engine = make_engine()
    app = GuardrailMiddleware(reply(text("fine")), engine)
    for _ in range(4):
        result = {"type": "tool_result", "tool_use_id": "t", "content": "KABOOM"}
        assert (await drive(app, PATH, ask([result, text("and?")]), headers=KEY)).status == 400
    assert engine.store.in_force(1_000_000.0) == {}
    await drive(app, PATH, ask("KABOOM"), headers=KEY)
    limited = await drive(app, PATH, ask("KABOOM"), headers=KEY)
    assert limited.status == 400
    limited = await drive(app, PATH, ask("KABOOM"), headers=KEY)
    assert (limited.status, limited.json()["error"]["type"]) == (429, "rate_limit_error")
    assert limited.json()["error"]["guardrail"]["code"] == "rate_limited"
    assert limited.headers["x-should-retry"] == "false"


async def test_a_picture_is_refused_as_what_cannot_be_screened(make_engine: MakeEngine) -> None:
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
    answer = await drive(GuardrailMiddleware(reply(text("fine")), make_engine()), PATH, ask([picture]))
    assert (answer.status, answer.json()["error"]["guardrail"]["code"]) == (422, "unreadable")


async def test_a_redacted_prompt_and_answer_change_nothing_else(make_engine: MakeEngine) -> None:
    upstream = reply(
        text("a hu"), text("sh b"), {"type": "tool_use", "id": "t", "name": "f", "input": {"hush": "hush"}}
    )
    body = b'{"max_tokens":1.0,"messages":[{"role":"user","content":"a hush b"}]}'
    answer = await drive(GuardrailMiddleware(upstream, make_engine()), PATH, body)
    assert upstream.bodies == [body.replace(b"hush", b"[X]")]
    assert [part.get("text", part.get("input")) for part in answer.json()["content"]] == ["a [X]", " b", {"[X]": "[X]"}]
    assert b'"x": 1.5' in upstream.chunks[0]
    assert answer.json()["guardrail"]["action"] == "redact"


@pytest.mark.parametrize(
    ("blocks", "left"),
    [
        ([text("clean KABOOM rest"), text("more")], [text("clean ")]),
        ([text("clean KA"), text("BOOM")], [text("clean ")]),
        ([text("fine"), {"type": "tool_use", "id": "t", "name": "f", "input": {"q": "KABOOM"}}], [text("fine")]),
        ([text("fine"), {"type": "tool_use", "id": "t", "name": "f", "input": {"KABOOM": 1}}], [text("fine")]),
        ([{"type": "thinking", "thinking": "a KABOOM", "signature": "c2ln"}, text("x")],
         [{"type": "thinking", "thinking": "a ", "signature": ""}]),
        ([text("fine", citations=[{"type": "char_location", "cited_text": "KABOOM"}])], [text("fine")]),
        ([text("fine"), {"type": "made_up", "deep": [{"words": "KABOOM"}]}, text("x")], [text("fine")]),
    ],
)  # fmt: skip
async def test_a_blocked_answer_ends_before_the_match_with_the_reason_refusal(
    make_engine: MakeEngine, blocks: list[Any], left: list[Any]
) -> None:
    answer = await drive(GuardrailMiddleware(reply(*blocks), make_engine()), PATH, ask())
    assert answer.status == 200
    assert answer.json()["content"] == left
    assert answer.json()["stop_reason"] == "refusal"
    assert answer.json()["guardrail"]["action"] == "block"
    assert b"KABOOM" not in answer.body


async def test_the_upstreams_own_error_passes_as_it_came(make_engine: MakeEngine) -> None:
    body = b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}'
    upstream = ScriptedUpstream([body], media="application/json", status=529)
    answer = await drive(GuardrailMiddleware(upstream, make_engine()), PATH, ask())
    assert (answer.status, answer.body) == (529, body)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_can_be_a_message_and_a_safe_answer_is_one(make_engine: MakeEngine, stream: bool) -> None:
    app = GuardrailMiddleware(reply(text("fine")), make_engine(refusal="message"))
    for asked, reason in (("KABOOM", "refusal"), ("help me", "end_turn")):
        answer = await drive(app, PATH, ask(asked, stream=stream))
        assert answer.status == 200
        found = message(answer) if stream else answer.json()
        words = found["texts"][0] if stream else found["content"][0]["text"]
        assert found["stop_reason"] == reason
        assert words == "Here is help." if reason == "end_turn" else words
        assert found["guardrail"]["action"] in ("block", "answer")


# -- streams ---------------------------------------------------------------------------------------------------------


async def test_a_clean_stream_arrives_event_for_event_with_its_names(make_engine: MakeEngine) -> None:
    chunks = [
        BEGIN, b": hello\n\n", PING, *block(0, "thinking", "hm", " so KA"), *block(1, "text", "a", "KA", "b"), PING,
        *block(2, "tool_use", '{"q":', '"KABO"}', name="KAB"), *end("tool_use"),
    ]  # fmt: skip
    answer = await drive(GuardrailMiddleware(ScriptedUpstream(chunks), make_engine()), PATH, ask(stream=True))
    before, last = chunks[:-2], chunks[-1]
    assert answer.body.startswith(b"".join(before)), "everything before the end is byte for byte the upstream's"
    rest = answer.body[len(b"".join(before)) :]
    assert rest.startswith(b'event: message_delta\ndata: {"type": "message_delta"')
    assert rest.endswith(b"}\n\n" + last)
    assert message(answer)["guardrail"]["action"] == "allow"


@pytest.mark.parametrize(
    ("events", "texts"),
    [
        (block(0, "text", "good ", "KAB", "OO", "M and more", "never"), ["good "]),
        ([*block(0, "text", "good KA"), *block(1, "text", "BOOM")], ["good "]),
        ([*block(0, "text", "good"), *block(1, "thinking", "a KABO", "OM KABOOM")], ["good", "a "]),
        (block(0, "tool_use", '{"q":"KAB', 'OOM"}'), ['{"q":"']),
        ([*block(0, "text", "good"), *block(1, "tool_use", "{}", name="KABOOM")], ["good"]),
        ([*block(0, "text", "good"), *block(1, "tool_use", "{}", input={"KABOOM": 1})], ["good"]),
        ([*block(0, "text", "good"), *block(1, "text", "x", note="KABOOM")], ["good"]),
        ([*block(0, "text", "good"), event("ping", note="KABOOM")], ["good"]),
        ([*block(0, "text", "good"), event("made_up", deep=["KABOOM"])], ["good"]),
        (
            [*block(0, "text", "good")[:-1],
             event("content_block_delta", index=0, delta={"type": "citations_delta", "citation": {
                 "type": "char_location", "cited_text": "KABOOM"}})],
            ["good"],
        ),
        ([event("made_up", deep=["KABOOM"])], []),
    ],
)  # fmt: skip
async def test_a_stream_is_cut_before_the_match_and_closed_as_its_clients_know_it(
    make_engine: MakeEngine, events: list[bytes], texts: list[str]
) -> None:
    engine = make_engine()
    upstream = ScriptedUpstream([BEGIN, *events, *block(2, "text", *("more " for _ in range(20))), *end()])
    answer = await drive(GuardrailMiddleware(upstream, engine), PATH, ask(stream=True), headers=KEY)
    found = message(answer)
    assert [part for part in found["texts"] if part] == [part for part in texts if part]
    assert found["stop_reason"] == "refusal"
    assert found["guardrail"]["action"] == "block"
    assert found["guardrail"]["incident"]
    assert found["id"] == "msg_1"
    assert b"KABOOM" not in answer.body
    assert upstream.stopped
    assert answer.complete
    assert engine.store.in_force(1_000_000.0) == {}, "what a model says is not its user's strike"


async def test_a_match_in_the_messages_own_fields_leaves_an_empty_refusal(make_engine: MakeEngine) -> None:
    chunks = [event("message_start", message={"id": "msg_1", "content": [], "note": "KABOOM"}), *whole("x")[1:]]
    answer = await drive(GuardrailMiddleware(ScriptedUpstream(chunks), make_engine()), PATH, ask(stream=True))
    assert b"KABOOM" not in answer.body
    assert (message(answer)["content"], message(answer)["stop_reason"]) == ([], "refusal")


async def test_redaction_in_a_stream_rewrites_only_the_events_it_touches(make_engine: MakeEngine) -> None:
    chunks = whole("one ", "hu", "sh", " two")
    answer = await drive(GuardrailMiddleware(ScriptedUpstream(chunks), make_engine()), PATH, ask(stream=True))
    assert message(answer)["texts"] == ["one [X] two"]
    assert chunks[2] in answer.body
    assert chunks[5] in answer.body


@pytest.mark.parametrize("cuts", [(), (9,), (10,), (12,), (14,), (9, 10, 11, 12, 13, 14)])
async def test_an_escaped_word_in_a_calls_input_is_found_and_what_is_left_is_json(
    make_engine: MakeEngine, cuts: tuple[int, ...]
) -> None:
    def parts(written: str) -> list[str]:
        return [written[a:b] for a, b in zip((0, *cuts), (*cuts, len(written)), strict=True)]

    chunks = [BEGIN, *block(0, "tool_use", *parts(r'{"q":"aK\u0041BOOM"}')), *end("tool_use")]
    answer = await drive(GuardrailMiddleware(ScriptedUpstream(chunks), make_engine()), PATH, ask(stream=True))
    assert message(answer)["stop_reason"] == "refusal"
    assert '{"q":"a'.startswith(message(answer)["texts"][0])
    chunks = [BEGIN, *block(0, "tool_use", *parts(r'{"q":"ah\u0075sh\n\u7206"}')), *end("tool_use")]
    answer = await drive(GuardrailMiddleware(ScriptedUpstream(chunks), make_engine()), PATH, ask(stream=True))
    assert json.loads(message(answer)["texts"][0]) == {"q": "a[X]\n爆"}
    chunks = [BEGIN, *block(0, "tool_use", *parts(r'{"q":"af\u0075sh\n\u7206"}')), *end("tool_use")]
    answer = await drive(GuardrailMiddleware(ScriptedUpstream(chunks), make_engine()), PATH, ask(stream=True))
    assert message(answer)["texts"] == [r'{"q":"af\u0075sh\n\u7206"}']


async def test_text_that_ends_like_a_phrase_waits_no_longer_than_its_block(make_engine: MakeEngine) -> None:
    """A thought that ends in `KA` is whole once its block has ended: the answer behind it need not wait for more."""
    chunks = [BEGIN, *block(0, "thinking", "so KA"), *block(1, "text", "a")[:-1]]
    sent: list[bytes] = []

    async def upstream(scope: Any, receive: Any, send: Any) -> None:
        scripted = ScriptedUpstream([*chunks, *block(1, "text")[-1:], *end()])

        async def sending(event: Any) -> None:
            await send(event)
            if event.get("body") == chunks[-1]:
                sent.append(b"".join(answered.chunks))

        await scripted(scope, receive, sending)

    answered = Answer()

    def look(answer: Answer) -> bool:
        answered.chunks = answer.chunks
        return False

    await drive(GuardrailMiddleware(upstream, make_engine()), PATH, ask(stream=True), leave_after=look)
    assert sent == [b"".join(chunks)]


async def test_an_error_in_the_stream_arrives_as_one_and_nothing_after_it(make_engine: MakeEngine) -> None:
    error = event("error", error={"type": "overloaded_error", "message": "Overloaded"})
    chunks = [BEGIN, *block(0, "text", "a KA")[:-1], error, *block(1, "text", "never")]
    answer = await drive(GuardrailMiddleware(ScriptedUpstream(chunks), make_engine()), PATH, ask(stream=True))
    assert answer.body.startswith(b"".join(chunks[:3]))
    assert answer.body.endswith(error)
    assert b"never" not in answer.body


async def test_a_stream_that_breaks_the_apis_order_is_broken_off_with_its_error(make_engine: MakeEngine) -> None:
    chunks = [BEGIN, *block(0, "text", "good"), event("content_block_delta", index=0, delta=text("KAB")), *end()]
    answer = await drive(GuardrailMiddleware(ScriptedUpstream(chunks), make_engine()), PATH, ask(stream=True))
    last = answer.events()[-1]
    assert (last["type"], last["error"]["type"]) == ("error", "api_error")
    assert last["error"]["guardrail"]["code"] == "bad_upstream_response"
    assert b"event: error\n" in answer.body
    assert b"KAB" not in answer.body


async def test_a_stream_without_an_end_still_says_what_was_done(make_engine: MakeEngine) -> None:
    chunks = [BEGIN, *block(0, "text", "good KA")]
    answer = await drive(GuardrailMiddleware(ScriptedUpstream(chunks), make_engine()), PATH, ask(stream=True))
    assert answer.body.startswith(b"".join(chunks))
    assert answer.events()[-1]["type"] == "ping"
    assert answer.events()[-1]["guardrail"]["action"] == "allow"


async def test_a_late_verdict_cuts_the_same_way(make_engine: MakeEngine) -> None:
    engine = make_engine(detectors={"blocked": Slow(0.02)})
    chunks = [BEGIN, *block(0, "thinking", "All well."), *block(1, "text", "Good one.", "A bad one.", "more."), *end()]
    answer = await drive(GuardrailMiddleware(ScriptedUpstream(chunks), engine), PATH, ask("hi.", stream=True))
    found = message(answer)
    assert (found["texts"], found["stop_reason"]) == (["All well.", "Good one."], "refusal")


@pytest.mark.parametrize("position", ["start", "end"])
async def test_the_visible_label_is_in_the_answer_once_streamed_or_not(make_engine: MakeEngine, position: str) -> None:
    label = LABEL if position == "end" else "(AI生成 / AI-generated)\n\n"
    labelled = f"text{label}" if position == "end" else f"{label}text"
    plain = GuardrailMiddleware(reply(text("te"), text("xt")), make_engine(position=position))
    assert "".join(part["text"] for part in (await drive(plain, PATH, ask())).json()["content"]) == labelled
    for chunks in (whole("te", "xt"), [BEGIN, *block(0, "text", "xt", text="te"), *end()]):
        app = GuardrailMiddleware(ScriptedUpstream(chunks), make_engine(position=position))
        found = message(await drive(app, PATH, ask(stream=True)))
        first = found["content"][0]["text"] + found["texts"][0]
        assert first + "".join(found["texts"][1:]) == labelled


async def test_the_visible_label_stays_out_of_schemas_and_calls(make_engine: MakeEngine) -> None:
    call = [BEGIN, *block(0, "text", "let me"), *block(1, "tool_use", "{}"), *end("tool_use")]
    answer = await drive(
        GuardrailMiddleware(ScriptedUpstream(call), make_engine(position="end")), PATH, ask(stream=True)
    )
    assert message(answer)["texts"] == ["let me", "{}"]
    body = ask(output_config={"format": {"type": "json_schema", "schema": {"type": "object"}}})
    answer = await drive(GuardrailMiddleware(reply(text('{"a":1}')), make_engine(position="end")), PATH, body)
    assert answer.json()["content"] == [text('{"a":1}')]


async def test_no_cut_of_the_bytes_changes_what_arrives(make_engine: MakeEngine) -> None:
    """Random answers of several blocks, each cut at random bytes several times: one outcome, and no leak."""
    rng = random.Random(11)
    words = ["all ", "KA", "KAB", "OOM", "KABOOM", "hu", "hush", "爆炸 ", "\u2028", "x"]
    cut = 0
    for _ in range(300):
        chunks, texts, kinds = [BEGIN], [], []
        for index in range(rng.randint(1, 4)):
            kind = rng.choice(["text", "text", "thinking", "tool_use"])
            parts = ["".join(rng.choices(words, [9, 2, 1, 2, 1, 1, 3, 2, 1, 4], k=rng.randint(1, 3))) for _ in range(3)]
            chunks += block(index, kind, *parts)
            texts.append("".join(parts))
            kinds.append(kind)
            if rng.random() < 0.3:
                chunks.append(PING)
        raw = b"".join([*chunks, *end()])
        seen: set[tuple[Any, ...]] = set()
        for size in (1, rng.randint(2, 40), rng.randint(41, 400), len(raw)):
            cuts = [raw[i : i + size] for i in range(0, len(raw), size)]
            if rng.random() < 0.5:
                cuts = [part.replace(b"\n", b"\r\n") for part in cuts]
            answer = await drive(GuardrailMiddleware(ScriptedUpstream(cuts), make_engine()), PATH, ask(stream=True))
            found = message(answer)
            seen.add(
                (tuple(part for part in found["texts"] if part), found["stop_reason"], found["guardrail"]["action"])
            )
        assert len(seen) == 1, texts
        [(left, reason, _)] = seen
        wanted = expected(kinds, texts)
        assert list(left) == wanted[0]
        assert (reason == "refusal") == wanted[1]
        cut += wanted[1]
    assert cut > 60


def expected(kinds: list[str], texts: list[str]) -> tuple[list[str], bool]:
    """What may be left of blocks with these texts, and whether they end in a refusal: neighbouring text blocks are
    read as one text, in which a word may begin in one and end in another."""
    runs: list[tuple[str, list[int]]] = []
    for number, kind in enumerate(kinds):
        if kind == "text" and number and kinds[number - 1] == "text":
            runs[-1] = (runs[-1][0] + texts[number], [*runs[-1][1], len(texts[number])])
        else:
            runs.append((texts[number], [len(texts[number])]))
    left: list[str] = []
    for joined, lengths in runs:
        stop = joined.find("KABOOM")
        offset = 0
        for length in lengths:
            upto = offset + length if stop < 0 else min(offset + length, stop)
            left.append(masked(joined, offset, max(offset, upto)))
            offset += length
        if stop >= 0:
            return [part for part in left if part], True
    return [part for part in left if part], False


def masked(text: str, start: int, end: int) -> str:
    """`text[start:end]` with every `hush` as `[X]`, which stands where the word begins."""
    out, at = "", 0
    while (found := text.find("hush", at)) >= 0:
        out += "".join(text[max(at, start) : min(found, end)])
        if start <= found < end:
            out += "[X]"
        at = found + 4
    return out + text[max(at, start) : end]


async def test_the_same_harness_finds_the_leak_of_a_pass_through() -> None:
    answer = await drive(ScriptedUpstream(whole("good ", "KABOOM")), PATH, ask(stream=True))
    assert message(answer)["texts"] != expected(["text"], ["good KABOOM"])[0]
