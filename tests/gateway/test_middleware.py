"""The line of travel, driven as raw ASGI: what goes in, what comes out, and what neither side gets to see."""

from __future__ import annotations

import asyncio
import base64
import json
import random
from typing import Any, ClassVar

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from guardrail.core.findings import Finding
from guardrail.core.frontier import Scan, Window
from guardrail.errors import DetectorTimeout
from guardrail.gateway.middleware import GuardrailMiddleware
from guardrail.metrics import render
from guardrail.testing import Answer, ScriptedUpstream, chat, delta, drive
from tests.gateway.conftest import MakeEngine

PATH = "/v1/chat/completions"
KEY = {"authorization": "Bearer key-1"}


def reply(text: str | None = "fine", **message: Any) -> list[bytes]:
    """A whole answer of one choice, with forms and fields that must survive untouched."""
    body = {
        "id": "c1",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, **message},
                "logprobs": {"content": [{"token": "fine", "logprob": -0.10}]},
                "finish_reason": "stop",
            }
        ],
        "usage": {"total_tokens": 3},
        "vendor": {"x": 1.50},
    }
    return [json.dumps(body).encode()]


def stream(*texts: str) -> list[bytes]:
    return [delta("", role="assistant"), *(delta(text) for text in texts), delta(finish="stop"), b"data: [DONE]\n\n"]


def scrape(engine: Any) -> str:
    engine.accounts.flush()
    return render(engine.metrics.registry)[0].decode()


# -- plain answers -----------------------------------------------------------------------------------------------


async def test_a_clean_request_and_answer_arrive_as_they_were_sent(make_engine: MakeEngine) -> None:
    engine = make_engine()
    upstream = ScriptedUpstream(reply(), media="application/json")
    sent = json.dumps(chat("hello", temperature=0.70, vendor={"n": 1.0e5})).encode()
    answer = await drive(GuardrailMiddleware(upstream, engine), PATH, sent, headers=KEY)
    assert answer.status == 200
    assert upstream.bodies == [sent]
    assert upstream.headers[0]["authorization"] == "Bearer key-1"
    [raw] = upstream.chunks
    assert answer.body.startswith(raw[:-1]), "only the guardrail object is added, at the end"
    assert answer.json()["guardrail"]["action"] == "allow"
    assert answer.headers["guardrail-action"] == "allow"
    assert answer.headers["guardrail-policy"] == "0123456789abcdef"
    assert answer.headers["content-length"] == str(len(answer.body))


async def test_an_answer_carries_its_implicit_label_in_header_and_body(make_engine: MakeEngine) -> None:
    answer = await drive(
        GuardrailMiddleware(ScriptedUpstream(reply(), media="application/json"), make_engine()), PATH, chat("hi")
    )
    label = json.loads(base64.urlsafe_b64decode(answer.headers["aigc"]))
    assert list(label) == [
        "Label", "ContentProducer", "ProduceID", "ReservedCode1", "ContentPropagator", "PropagateID", "ReservedCode2",
    ]  # fmt: skip
    assert label == answer.json()["guardrail"]["label"]["aigc"]
    assert label["ContentProducer"] == "UNREGISTERED"
    assert answer.headers["ai-generated"] == "1"


async def test_a_blocked_prompt_never_reaches_the_upstream(make_engine: MakeEngine) -> None:
    engine = make_engine()
    upstream = ScriptedUpstream(reply(), media="application/json")
    body = {"messages": [{"role": "user", "content": [{"type": "text", "text": "say KABOOM"}]}]}
    answer = await drive(GuardrailMiddleware(upstream, engine), PATH, body, headers=KEY)
    assert answer.status == 400
    error = answer.json()["error"]
    assert error["code"] == "content_filter"
    assert error["type"] == "guardrail"
    assert error["param"] == "messages[0].content[0].text"
    assert error["guardrail"]["rules"] == ["test/blocked"]
    assert error["guardrail"]["incident"] == answer.headers["guardrail-incident"]
    assert error["guardrail"]["incident"] in error["guardrail"]["appeal_url"]
    assert answer.headers["guardrail-action"] == "block"
    assert upstream.bodies == []
    assert "KABOOM" not in answer.body.decode()
    assert 'guardrail_requests_total{outcome="blocked",surface="openai_chat"} 1.0' in scrape(engine)


async def test_refusals_speak_the_language_that_is_asked_for(make_engine: MakeEngine) -> None:
    app = GuardrailMiddleware(ScriptedUpstream(reply()), make_engine())
    answer = await drive(app, PATH, chat("KABOOM"), headers={"accept-language": "fr, zh-CN;q=0.9, en;q=0.5"})
    assert "违反" in answer.json()["error"]["message"]


async def test_a_refusal_can_be_an_assistants_message(make_engine: MakeEngine) -> None:
    app = GuardrailMiddleware(ScriptedUpstream(reply()), make_engine(refusal="message"))
    answer = await drive(app, PATH, chat("KABOOM"))
    assert answer.status == 200
    choice = answer.json()["choices"][0]
    assert choice["finish_reason"] == "content_filter"
    streamed = await drive(app, PATH, chat("KABOOM", stream=True))
    assert streamed.events()[-1] == "[DONE]"
    assert streamed.events()[-2]["choices"][0]["finish_reason"] == "content_filter"


async def test_a_safe_answer_takes_the_models_place_and_is_no_strike(make_engine: MakeEngine) -> None:
    engine = make_engine()
    upstream = ScriptedUpstream(reply())
    app = GuardrailMiddleware(upstream, engine)
    for _ in range(6):
        answer = await drive(app, PATH, chat("help me"), headers=KEY)
        assert answer.json()["choices"][0]["message"]["content"] == "Here is help."
    assert upstream.bodies == []
    assert engine.store.in_force(1_000_000.0) == {}


async def test_a_redacted_prompt_goes_on_without_the_text(make_engine: MakeEngine) -> None:
    upstream = ScriptedUpstream(reply(), media="application/json")
    answer = await drive(
        GuardrailMiddleware(upstream, make_engine()),
        PATH,
        b'{"x":1.0,"messages":[{"role":"user","content":"a hush b"}]}',
    )
    assert upstream.bodies == [b'{"x":1.0,"messages":[{"role":"user","content":"a [X] b"}]}']
    assert answer.json()["guardrail"]["action"] == "redact"


async def test_an_observed_rule_is_recorded_and_changes_nothing(make_engine: MakeEngine) -> None:
    engine = make_engine()
    upstream = ScriptedUpstream(reply("eyes"), media="application/json")
    answer = await drive(GuardrailMiddleware(upstream, engine), PATH, chat("eyes"))
    assert answer.json()["choices"][0]["message"]["content"] == "eyes"
    assert answer.json()["guardrail"]["action"] == "allow"
    assert 'guardrail_rule_matches_total{mode="observe",rule="test/watched"} 2.0' in scrape(engine)


async def test_a_blocked_answer_is_cut_before_the_match_and_says_so(make_engine: MakeEngine) -> None:
    upstream = ScriptedUpstream(reply("clean part KABOOM rest", tool_calls=[{"id": "t"}]), media="application/json")
    answer = await drive(GuardrailMiddleware(upstream, make_engine()), PATH, chat("hi"))
    choice = answer.json()["choices"][0]
    assert answer.status == 200
    assert choice["message"]["content"] == "clean part "
    assert choice["finish_reason"] == "content_filter"
    assert choice["message"]["tool_calls"] is None
    assert choice["logprobs"] is None, "they would spell what was cut"
    assert answer.json()["guardrail"]["action"] == "block"
    assert answer.json()["guardrail"]["incident"]


async def test_every_field_of_an_answer_is_screened(make_engine: MakeEngine) -> None:
    fields: list[dict[str, Any]] = [
        {"reasoning_content": "KABOOM"},
        {"refusal": "KABOOM"},
        {"tool_calls": [{"id": "t", "type": "function", "function": {"name": "f", "arguments": '{"a":"KABOOM"}'}}]},
        {"function_call": {"name": "KABOOM", "arguments": "{}"}},
        {"a_field_nobody_knows": {"deep": ["KABOOM"]}},
    ]
    for field in fields:
        app = GuardrailMiddleware(ScriptedUpstream(reply(**field), media="application/json"), make_engine())
        answer = await drive(app, PATH, chat("hi"))
        assert "KABOOM" not in answer.body.decode(), field
        assert answer.json()["choices"][0]["finish_reason"] == "content_filter"
    app = GuardrailMiddleware(
        ScriptedUpstream([b'{"choices":[],"note":"KABOOM"}'], media="application/json"), make_engine()
    )
    assert b"KABOOM" not in (await drive(app, PATH, chat("hi"))).body


async def test_every_field_of_a_prompt_is_screened(make_engine: MakeEngine) -> None:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "KABOOM"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"arguments": "KABOOM"}}]},
        {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "KABOOM"}]},
        {"role": "user", "content": "hi", "name": "KABOOM"},
        {"role": "user", "content": "hi", "an_extension": {"x": "KABOOM"}},
        {"role": "assistant", "reasoning_content": "KABOOM"},
        {"role": "user", "content": [{"type": "text", "text": "hi", "more": "KABOOM"}]},
        {"role": "tool", "content": "x", "tool_call_id": "an id that reads like text: KABOOM"},
    ]
    for message in messages:
        upstream = ScriptedUpstream(reply())
        answer = await drive(GuardrailMiddleware(upstream, make_engine()), PATH, {"messages": [message]})
        assert answer.status == 400, message
        assert upstream.bodies == []


# -- streams -----------------------------------------------------------------------------------------------------


async def test_a_clean_stream_arrives_event_for_event(make_engine: MakeEngine) -> None:
    usage = b'data: {"id":"c1","choices":[],"usage":{"total_tokens":5}}\n\n'
    chunks = [b": hello\n\n", *stream("a", "b", "c")[:-1], usage, b"data: [DONE]\n\n"]
    answer = await drive(GuardrailMiddleware(ScriptedUpstream(chunks), make_engine()), PATH, chat("hi", stream=True))
    finish = chunks[-3]
    expected = b"".join(chunks).split(finish)
    assert answer.body.startswith(expected[0]), "everything before the finish is byte for byte the upstream's"
    assert answer.body.endswith(expected[1]), "and nothing comes after usage and [DONE]"
    marked = [event for event in answer.events() if isinstance(event, dict) and "guardrail" in event]
    assert len(marked) == 1
    assert marked[0]["choices"][0]["finish_reason"] == "stop"
    assert marked[0]["guardrail"]["action"] == "allow"
    assert answer.headers["guardrail-action"] == "allow"


async def test_a_stream_is_cut_before_the_match_and_closed_in_the_dialect(make_engine: MakeEngine) -> None:
    engine = make_engine()
    upstream = ScriptedUpstream(stream("good ", "KAB", "OO", "M and more", "never"))
    answer = await drive(GuardrailMiddleware(upstream, engine), PATH, chat("hi", stream=True), headers=KEY)
    assert answer.text() == "good "
    *_, closing, done = answer.events()
    assert done == "[DONE]"
    assert closing["choices"][0]["finish_reason"] == "content_filter"
    assert closing["guardrail"]["action"] == "block"
    assert closing["guardrail"]["incident"]
    assert closing["id"] == "c1"
    assert upstream.stopped
    assert upstream.sent < len(upstream.chunks) - 1
    assert answer.complete
    assert engine.store.in_force(1_000_000.0) == {}, "what a model says is not its user's strike"


async def test_the_clean_half_of_an_event_leaves_and_the_rest_does_not(make_engine: MakeEngine) -> None:
    app = GuardrailMiddleware(ScriptedUpstream(stream("ok then KABOOM")), make_engine())
    assert (await drive(app, PATH, chat("hi", stream=True))).text() == "ok then "


async def test_redaction_in_a_stream_rewrites_only_the_events_it_touches(make_engine: MakeEngine) -> None:
    chunks = stream("one ", "hu", "sh", " two")
    answer = await drive(GuardrailMiddleware(ScriptedUpstream(chunks), make_engine()), PATH, chat("hi", stream=True))
    assert answer.text() == "one [X] two"
    assert chunks[1] in answer.body
    assert chunks[4] in answer.body
    assert answer.events()[-2]["guardrail"]["action"] == "redact"


async def test_choices_and_tool_arguments_are_each_a_text_of_their_own(make_engine: MakeEngine) -> None:
    def call(arguments: str) -> bytes:
        return delta(tool_calls=[{"index": 0, "function": {"arguments": arguments}}])

    # Halves that meet only when texts are mixed up are no match; halves of one text are.
    chunks = [delta("KAB", choice=0), delta("OOM", choice=1), delta(finish="stop"), delta(choice=1, finish="stop")]
    answer = await drive(
        GuardrailMiddleware(ScriptedUpstream(chunks), make_engine()), PATH, chat("hi", stream=True, n=2)
    )
    assert (answer.text(0), answer.text(1)) == ("KAB", "OOM")
    chunks = [call('{"x":"KA'), call("BOOM"), call('"}'), delta(finish="tool_calls"), b"data: [DONE]\n\n"]
    answer = await drive(GuardrailMiddleware(ScriptedUpstream(chunks), make_engine()), PATH, chat("hi", stream=True))
    assert b"BOOM" not in answer.body
    assert answer.events()[-2]["choices"][0]["finish_reason"] == "content_filter"


async def test_text_behind_the_end_of_its_stream_never_leaves(make_engine: MakeEngine) -> None:
    for late in (delta("late KABOOM"), delta("late but harmless")):
        chunks = [delta("a"), delta(finish="stop"), late, b"data: [DONE]\n\n"]
        app = GuardrailMiddleware(ScriptedUpstream(chunks), make_engine())
        answer = await drive(app, PATH, chat("hi", stream=True))
        assert answer.text() == "a"
    chunks = [*stream("a"), delta("after the end"), b"data: [DONE]\n\n"]
    answer = await drive(GuardrailMiddleware(ScriptedUpstream(chunks), make_engine()), PATH, chat("hi", stream=True))
    assert answer.text() == "a"
    assert answer.events().count("[DONE]") == 1


async def test_what_streams_does_not_depend_on_how_bytes_are_cut(make_engine: MakeEngine) -> None:
    rng = random.Random(7)
    words = ["a ", "KAB", "KABOOM", "hu", "hush", "OOM", "说", "。", "\u2028", " "]
    cut = 0
    for _ in range(500):
        texts = [
            "".join(rng.choices(words, weights=[9, 2, 1, 2, 1, 1, 4, 2, 1, 4], k=rng.randint(1, 4))) for _ in range(5)
        ]
        raw = b"".join(stream(*texts))
        seen: set[tuple[str, Any, Any]] = set()
        for size in (1, rng.randint(2, 40), rng.randint(41, 400), len(raw)):
            chunks = [raw[i : i + size] for i in range(0, len(raw), size)]
            if rng.random() < 0.5:
                chunks = [chunk.replace(b"\n", b"\r\n") for chunk in chunks]
            answer = await drive(
                GuardrailMiddleware(ScriptedUpstream(chunks), make_engine()), PATH, chat("x", stream=True)
            )
            last = answer.events()[-2]
            seen.add((answer.text(), last["choices"][0]["finish_reason"], last["guardrail"]["action"]))
        assert len(seen) == 1, texts
        [(text, finish, _)] = seen
        whole = "".join(texts)
        if "KABOOM" in whole:
            cut += 1
            assert finish == "content_filter"
            assert text == whole[: whole.index("KABOOM")].replace("hush", "[X]")
        else:
            assert text == whole.replace("hush", "[X]")
    assert cut > 100


class Slow:
    """A detector that answers a moment later, in a task of its own, and calls a text bad that holds `bad`."""

    name = "blocked"
    thresholds: ClassVar[dict[str, float]] = {"word": 1.0}
    strike_thresholds: ClassVar[dict[str, float]] = {"word": 1.0}

    def __init__(self, pause: float = 0.01, *, fail: bool = False) -> None:
        self.pause = pause
        self.fail = fail

    def scanner(self, direction: object, labels: object) -> _SlowScanner:
        return _SlowScanner()

    async def examine(self, windows: list[Window], priority: object) -> list[list[Finding]]:
        await asyncio.sleep(self.pause)
        if self.fail:
            raise DetectorTimeout("too slow")
        return [
            [Finding(self.name, "word", 1.0, w.start, w.start + len(w.text), 0)] if "bad" in w.text else []
            for w in windows
        ]

    async def start(self) -> None: ...

    async def close(self) -> None: ...


class _SlowScanner:
    def __init__(self) -> None:
        self.text, self.begin = "", 0

    def feed(self, text: str, *, last: bool) -> Scan:
        self.text += text
        windows = []
        while (end := self.text.find(".", self.begin) + 1) or (last and self.begin < len(self.text)):
            at = end or len(self.text) + 1
            end = end or len(self.text)
            windows.append(Window(self.text[self.begin : end], self.begin, self.begin, at))
            self.begin = end
        return Scan((), windows)

    def frontier(self, at: int) -> int:
        return self.text.rfind(".", 0, at) + 1


async def test_a_late_verdict_cuts_a_stream_whose_upstream_has_gone_quiet(make_engine: MakeEngine) -> None:
    """The upstream sends a bad sentence and then nothing for a minute: the cut must not wait for its next word."""
    engine = make_engine(detectors={"blocked": Slow(0.02)})
    upstream = ScriptedUpstream([delta("Good one."), delta("A bad one."), delta("more")], pause=0.0)

    async def quiet(scope: Any, receive: Any, send: Any) -> None:
        await upstream(scope, receive, send_then_sleep(send))

    def send_then_sleep(send: Any) -> Any:
        async def sending(message: Any) -> None:
            await send(message)
            if b"bad" in message.get("body", b""):
                await asyncio.sleep(60)

        return sending

    async with asyncio.timeout(5):
        answer = await drive(GuardrailMiddleware(quiet, engine), PATH, chat("hi", stream=True))
    assert answer.text() == "Good one."
    assert answer.events()[-2]["choices"][0]["finish_reason"] == "content_filter"
    assert upstream.stopped
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]


async def test_text_waits_for_its_verdict_while_a_comment_keeps_the_connection_alive(make_engine: MakeEngine) -> None:
    engine = make_engine(detectors={"blocked": Slow(0.2)}, keepalive=0.05)
    answer = await drive(GuardrailMiddleware(ScriptedUpstream(stream("One.")), engine), PATH, chat("hi.", stream=True))
    assert answer.text() == "One."
    assert answer.body.index(b": screening") < answer.body.index(b"One.")


async def test_a_detector_that_fails_closes_the_way_and_is_no_block(make_engine: MakeEngine) -> None:
    engine = make_engine(detectors={"blocked": Slow(0, fail=True)})
    answer = await drive(GuardrailMiddleware(ScriptedUpstream(reply()), engine), PATH, chat("hi."), headers=KEY)
    assert answer.status == 503
    assert answer.json()["error"]["code"] == "screening_unavailable"
    assert answer.headers["retry-after"] == "1"
    assert 'guardrail_failed_closed_total{reason="detector"} 1.0' in scrape(engine)
    assert engine.store.in_force(1_000_000.0) == {}


# -- labels ------------------------------------------------------------------------------------------------------


async def test_the_visible_label_ends_an_answer_once_streamed_or_not(make_engine: MakeEngine) -> None:
    label = "\n\n(AI生成 / AI-generated)"
    plain = GuardrailMiddleware(ScriptedUpstream(reply("text"), media="application/json"), make_engine(position="end"))
    assert (await drive(plain, PATH, chat("hi"))).json()["choices"][0]["message"]["content"] == "text" + label
    app = GuardrailMiddleware(ScriptedUpstream(stream("te", "xt")), make_engine(position="end"))
    answer = await drive(app, PATH, chat("hi", stream=True))
    assert answer.text() == "text" + label
    assert answer.events()[-3]["choices"][0]["delta"]["content"] == label, "a delta before the finish"


async def test_the_visible_label_ends_a_stream_that_never_says_it_has_finished(make_engine: MakeEngine) -> None:
    for end in ([b"data: [DONE]\n\n"], []):
        app = GuardrailMiddleware(ScriptedUpstream([delta("te"), delta("xt"), *end]), make_engine(position="end"))
        answer = await drive(app, PATH, chat("hi", stream=True))
        assert answer.text() == "text\n\n(AI生成 / AI-generated)"
        assert answer.body.endswith(b"".join(end))


async def test_the_visible_label_can_begin_an_answer(make_engine: MakeEngine) -> None:
    label = "(AI生成 / AI-generated)\n\n"
    plain = GuardrailMiddleware(
        ScriptedUpstream(reply("text"), media="application/json"), make_engine(position="start")
    )
    assert (await drive(plain, PATH, chat("hi"))).json()["choices"][0]["message"]["content"] == label + "text"
    app = GuardrailMiddleware(ScriptedUpstream(stream("te", "xt")), make_engine(position="start"))
    assert (await drive(app, PATH, chat("hi", stream=True))).text() == label + "text"


async def test_the_visible_label_stays_out_of_json_code_and_tool_calls(make_engine: MakeEngine) -> None:
    def app(*chunks: bytes, media: str = "text/event-stream") -> GuardrailMiddleware:
        return GuardrailMiddleware(ScriptedUpstream(chunks, media=media), make_engine(position="end"))

    wanted = {"response_format": {"type": "json_object"}}
    answer = await drive(app(*stream('{"a":1}')), PATH, chat("hi", stream=True, **wanted))
    assert answer.text() == '{"a":1}'
    answer = await drive(app(*stream("```py\nx = 1\n```")), PATH, chat("hi", stream=True))
    assert answer.text() == "```py\nx = 1\n```"
    calls = delta("thinking", tool_calls=[{"index": 0, "function": {"arguments": "{}"}}])
    answer = await drive(app(calls, delta(finish="tool_calls"), b"data: [DONE]\n\n"), PATH, chat("hi", stream=True))
    assert answer.text() == "thinking"


# -- what cannot be read -----------------------------------------------------------------------------------------


async def refused(make_engine: MakeEngine, body: bytes | dict[str, Any], **more: Any) -> tuple[int, str]:
    upstream = ScriptedUpstream(reply())
    answer = await drive(GuardrailMiddleware(upstream, make_engine(max_body=4096)), PATH, body, **more)
    assert upstream.bodies == []
    return answer.status, answer.json()["error"]["code"]


async def test_what_cannot_be_read_is_refused_and_never_passed(make_engine: MakeEngine) -> None:
    ok = json.dumps(chat("hi")).encode()
    image = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}]}]}
    cases: list[tuple[bytes | dict[str, Any], dict[str, str], tuple[int, str]]] = [
        (b"{", {}, (400, "malformed")),
        (b"", {}, (400, "malformed")),
        (b"[1]", {}, (400, "malformed")),
        (b'{"messages":[],"messages":[]}', {}, (400, "malformed")),
        (b'{"messages":"hi"}', {}, (400, "malformed")),
        (b'{"messages":[7]}', {}, (400, "malformed")),
        (b'{"messages":[{"content":"no role"}]}', {}, (400, "malformed")),
        (b'{"messages":[{"role":"user","content":5}]}', {}, (400, "malformed")),
        (b'{"messages":[{"role":"user","content":"x"}],"stream":"yes"}', {}, (400, "malformed")),
        (b'{"messages":[{"role":"user","content":"x"}],"n":0}', {}, (400, "malformed")),
        (b'{"messages":[{"role":"user","content":"\xff"}]}', {}, (400, "malformed")),
        (b'{"messages":[{"role":"user","content":"\\ud800"}]}', {}, (400, "malformed")),
        (b"[" * 4000, {}, (400, "malformed")),
        (b'{"messages":[{"role":"user","content":"' + b"a" * 5000 + b'"}]}', {}, (413, "too_large")),
        (ok, {"content-type": "text/plain"}, (415, "unreadable")),
        (ok, {"content-type": ""}, (415, "unreadable")),
        (ok, {"content-encoding": "gzip"}, (415, "unreadable")),
        (image, {}, (422, "unreadable")),
    ]
    for body, headers, expected in cases:
        assert await refused(make_engine, body, headers=headers) == expected, (
            body[:40] if isinstance(body, bytes) else body
        )


async def test_a_body_in_pieces_is_limited_like_one_that_comes_at_once(make_engine: MakeEngine) -> None:
    assert await refused(make_engine, b"", pieces=[b"a" * 1000] * 9) == (413, "too_large")


async def test_an_unknown_path_is_refused_by_a_proxy_and_passed_by_a_middleware(make_engine: MakeEngine) -> None:
    upstream = ScriptedUpstream(reply(), media="application/json")
    engine = make_engine()
    proxy = GuardrailMiddleware(upstream, engine, unknown_surface="refuse")
    answer = await drive(proxy, "/v1/unheard-of", chat("hi"))
    assert (answer.status, answer.json()["error"]["code"]) == (404, "surface_not_guarded")
    assert upstream.bodies == []
    assert (await drive(proxy, "/v1/models/../files", b"", method="GET")).status == 404
    assert (await drive(proxy, "/v1/models", b"", method="GET")).status == 200
    mounted = GuardrailMiddleware(upstream, engine)
    assert (await drive(mounted, "/about", b"", method="GET")).status == 200
    assert 'guardrail_bypassed_total{reason="passthrough"} 1.0' in scrape(engine)
    assert 'guardrail_bypassed_total{reason="unknown_surface"} 1.0' in scrape(engine)


async def test_an_upstreams_answer_that_cannot_be_read_is_a_502(make_engine: MakeEngine) -> None:
    for chunks, media in [
        ([b"<html>oops</html>"], "text/html"),
        ([b"{"], "application/json"),
        ([b'{"choices":7}'], "application/json"),
        ([b'{"choices":[{"index":0}]}'], "application/json"),
    ]:
        app = GuardrailMiddleware(ScriptedUpstream(chunks, media=media), make_engine())
        answer = await drive(app, PATH, chat("hi"))
        assert (answer.status, answer.json()["error"]["code"]) == (502, "bad_upstream_response"), chunks
        assert b"oops" not in answer.body


async def test_an_upstreams_own_error_reaches_the_client(make_engine: MakeEngine) -> None:
    body = b'{"error":{"message":"no such model","code":"model_not_found"}}'
    app = GuardrailMiddleware(ScriptedUpstream([body], media="application/json", status=404), make_engine())
    answer = await drive(app, PATH, chat("hi"))
    assert (answer.status, answer.body) == (404, body)
    html = GuardrailMiddleware(
        ScriptedUpstream([b"<h1>Bad gateway</h1>"], media="text/html", status=502), make_engine()
    )
    answer = await drive(html, PATH, chat("hi"))
    assert (answer.status, answer.json()["error"]["code"]) == (502, "bad_upstream_response")


async def test_a_stream_that_breaks_ends_with_an_error_and_without_uncleared_text(make_engine: MakeEngine) -> None:
    chunks = [delta("fine "), delta("KAB"), b"data: {not json\n\n", delta("OOM")]
    answer = await drive(GuardrailMiddleware(ScriptedUpstream(chunks), make_engine()), PATH, chat("hi", stream=True))
    assert answer.text() == "fine "
    assert answer.events()[-1]["error"]["code"] == "bad_upstream_response"
    assert answer.complete


# -- accountability ----------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


async def test_three_strikes_in_a_row_suspend_that_user_and_no_other(make_engine: MakeEngine) -> None:
    clock = Clock()
    engine = make_engine(clock=clock)
    app = GuardrailMiddleware(ScriptedUpstream(reply(), media="application/json"), engine)

    async def ask(text: str, key: str = "key-1") -> Answer:
        return await drive(app, PATH, chat(text), headers={"authorization": f"Bearer {key}"})

    assert (await ask("KABOOM")).status == 400
    assert (await ask("KABOOM")).status == 400
    limited = await ask("KABOOM")
    assert (limited.status, limited.json()["error"]["code"]) == (429, "rate_limited")
    assert limited.headers["x-should-retry"] == "false"
    clock.now += int(limited.headers["retry-after"])
    assert (await ask("KABOOM")).status == 400, "the third offence itself is refused"
    suspended = await ask("harmless")
    assert (suspended.status, suspended.json()["error"]["code"]) == (403, "account_suspended")
    details = suspended.json()["error"]["guardrail"]
    assert details["until"] == clock.now + 24 * 3600
    assert details["incident"] in details["appeal_url"]
    assert (await ask("harmless", key="key-2")).status == 200
    clock.now += 24 * 3600 + 1
    assert (await ask("harmless")).status == 200


async def test_history_that_is_sent_again_and_the_operators_words_are_no_strike(make_engine: MakeEngine) -> None:
    engine = make_engine()
    app = GuardrailMiddleware(ScriptedUpstream(reply(), media="application/json"), engine)
    for messages in (
        [{"role": "system", "content": "KABOOM"}, {"role": "user", "content": "hi"}],
        [
            {"role": "user", "content": "KABOOM"},
            {"role": "assistant", "content": "no"},
            {"role": "user", "content": "hi"},
        ],
    ):
        assert (await drive(app, PATH, {"messages": messages}, headers=KEY)).status == 400
    assert engine.store.in_force(1_000_000.0) == {}


async def test_an_end_user_header_counts_only_from_a_trusted_proxy(make_engine: MakeEngine) -> None:
    engine = make_engine()
    app = GuardrailMiddleware(ScriptedUpstream(reply(), media="application/json"), engine)
    for index in range(3):
        await drive(app, PATH, chat("KABOOM"), headers={**KEY, "x-end-user-id": f"u{index}"}, peer="10.1.2.3")
    assert {step.name: count for step, count in engine.store.in_force(1_000_000.0).items()} == {"WARN": 3}
    engine = make_engine()
    app = GuardrailMiddleware(ScriptedUpstream(reply(), media="application/json"), engine)
    for index in range(2):
        await drive(app, PATH, chat("KABOOM"), headers={**KEY, "x-end-user-id": f"u{index}"}, peer="8.8.8.8")
    assert {step.name: count for step, count in engine.store.in_force(1_000_000.0).items()} == {"LIMIT": 1}


async def test_a_request_id_is_taken_over_if_it_is_one(make_engine: MakeEngine) -> None:
    upstream = ScriptedUpstream(reply(), media="application/json")
    app = GuardrailMiddleware(upstream, make_engine())
    answer = await drive(app, PATH, chat("hi"), headers={"x-request-id": "abc-1"})
    assert answer.headers["x-request-id"] == upstream.headers[0]["x-request-id"] == "abc-1"
    answer = await drive(app, PATH, chat("hi"), headers={"x-request-id": "no good\x07"})
    assert answer.headers["x-request-id"].startswith("ID")


async def test_a_failure_of_ours_is_answered_by_us_and_not_by_the_apps_error_handlers(make_engine: MakeEngine) -> None:
    """Inside a framework our exception would become the framework's 500, sent through the guard a second time."""

    async def generate(request: Request) -> Response:
        return JSONResponse(json.loads(reply("a text.")[0]))

    async def explode(request: Request, error: Exception) -> Response:
        return PlainTextResponse("the app's own handler", 500)

    app = Starlette(routes=[Route(PATH, generate, methods=["POST"])], exception_handlers={Exception: explode})
    engine = make_engine(detectors={"blocked": Picky()})
    answer = await drive(GuardrailMiddleware(app, engine), PATH, chat("hi"))
    assert (answer.status, answer.json()["error"]["code"]) == (503, "screening_unavailable")


class Picky(Slow):
    """Fails on the answer alone."""

    async def examine(self, windows: list[Window], priority: object) -> list[list[Finding]]:
        if any("text" in window.text for window in windows):
            raise DetectorTimeout("too slow")
        return [[] for _ in windows]


async def test_what_a_proxys_app_raises_is_answered_in_the_surfaces_shape(make_engine: MakeEngine) -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise ZeroDivisionError("what somebody wrote")

    engine = make_engine()
    answer = await drive(GuardrailMiddleware(broken, engine, proxy=True), PATH, chat("hi"))
    assert (answer.status, answer.json()["error"]["code"]) == (500, "internal_error")
    assert b"somebody" not in answer.body
    with pytest.raises(ZeroDivisionError):
        await drive(GuardrailMiddleware(broken, engine), PATH, chat("hi"))


async def test_a_tool_calls_arguments_never_overtake_its_name(make_engine: MakeEngine) -> None:
    """The name ends like the beginning of a phrase and must wait; what it waits for is the call's own arguments."""
    chunks = [
        delta(tool_calls=[{"index": 0, "id": "call_1", "function": {"name": "KAB", "arguments": ""}}]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": "{}"}}]),
        delta(finish="tool_calls"),
        b"data: [DONE]\n\n",
    ]
    answer = await drive(GuardrailMiddleware(ScriptedUpstream(chunks), make_engine()), PATH, chat("hi", stream=True))
    assert answer.body.startswith(chunks[0] + chunks[1])


async def test_an_incident_keeps_what_was_refused_and_not_what_was_taken_out(make_engine: MakeEngine) -> None:
    engine = make_engine()
    app = GuardrailMiddleware(ScriptedUpstream(reply(), media="application/json"), engine)
    kept: list[Any] = []
    engine.store.note = kept.append  # type: ignore[method-assign]
    refuse = engine.store.refuse

    async def refused(incident: Any) -> Any:
        kept.append(incident)
        return await refuse(incident)

    engine.store.refuse = refused  # type: ignore[method-assign]
    await drive(app, PATH, chat("a hush b"))
    await drive(app, PATH, chat("a KABOOM b"))
    assert [incident.excerpt for incident in kept] == ["", "KABOOM"]
    assert [incident.hits[0].digest for incident in kept] == ["digest of 4", "digest of 6"]
