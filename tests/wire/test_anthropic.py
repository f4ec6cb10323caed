"""Anthropic's Messages API as bytes: whose words are whose, what is refused, what is put back and how a block looks."""

from __future__ import annotations

import json
from typing import Any

import pytest

from guardrail.core.surface import Ending, Notice
from guardrail.errors import MalformedRequest, MalformedResponse, Unreadable
from guardrail.wire import sse
from guardrail.wire.anthropic_blocks import WORDS
from guardrail.wire.anthropic_messages import AnthropicMessages

DIALECT = AnthropicMessages()
MEMBER = b'{"action":"block"}'


def ask(*messages: Any, **more: Any) -> bytes:
    return json.dumps({"model": "m", "max_tokens": 9, "messages": list(messages), **more}, ensure_ascii=False).encode()


def said(*blocks: Any, role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": list(blocks)}


def reply(*blocks: Any, reason: str = "end_turn") -> bytes:
    body = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": list(blocks)}
    return json.dumps({**body, "stop_reason": reason, "stop_sequence": None, "usage": {"output_tokens": 4}}).encode()


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **more}


# -- requests --------------------------------------------------------------------------------------------------------


def test_only_what_the_user_adds_now_is_the_users() -> None:
    prompt = DIALECT.read_prompt(
        ask(
            {"role": "user", "content": "old"},
            said(text("answer"), role="assistant"),
            said({"type": "tool_result", "tool_use_id": "t", "content": [text("found")]}, text("new")),
            system="be kind",
            tools=[{"name": "look", "description": "looks around", "input_schema": {"type": "object"}}],
        )
    )
    whose = {segment.text: (segment.role, segment.latest) for segment in prompt.content.segments}
    assert whose["be kind"] == ("system", False)
    assert whose["old"] == ("user", False)
    assert whose["answer"] == ("assistant", False)
    assert whose["found"] == ("tool", False)
    assert whose["new"] == ("user", True)
    assert whose["looks around"] == ("tools", False)
    assert prompt.tools


def test_an_answer_begun_by_the_client_does_not_make_its_question_history() -> None:
    prompt = DIALECT.read_prompt(ask({"role": "user", "content": "ask"}, {"role": "assistant", "content": "Sure, "}))
    assert [(segment.text, segment.latest) for segment in prompt.content.segments] == [("ask", True), ("Sure, ", False)]


def test_who_asks_streams_and_schemas_are_read_from_the_body() -> None:
    hello = {"role": "user", "content": "hi"}
    prompt = DIALECT.read_prompt(ask(hello, stream=True, metadata={"user_id": "u-7"}))
    assert (prompt.stream, prompt.end_user, prompt.structured, prompt.tools) == (True, "u-7", False, False)
    assert DIALECT.read_prompt(ask(hello, output_config={"format": {"type": "json_schema", "schema": {}}})).structured


@pytest.mark.parametrize(
    "block",
    [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}},
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "aGk="}},
        {"type": "document", "source": {"type": "url", "url": "https://example.org/a.pdf"}},
        {"type": "document", "source": {"type": "file", "file_id": "file_1"}},
        {"type": "document", "source": {"type": "content", "content": [
            {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}}]}},
        {"type": "tool_result", "tool_use_id": "t", "content": [
            {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}}]},
        {"type": "container_upload", "file_id": "file_1"},
        {"type": "hologram", "text": "boo"},
        "a string where a block belongs",
        None,
    ],
)  # fmt: skip
def test_what_cannot_be_screened_is_refused_with_its_place(block: Any) -> None:
    with pytest.raises(Unreadable, match=r"messages\[0\]\.content\[1\]") as caught:
        DIALECT.read_prompt(ask(said(text("look"), block)))
    assert caught.value.status == 422


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b'{"messages":[]}',
        ask("hi"),
        ask({"role": "wizard", "content": "hi"}),
        ask({"role": "user", "content": 7}),
        ask({"role": "user", "content": "hi"}, stream="yes"),
        ask({"role": "user", "content": "hi"}, tools={"name": "x"}),
    ],
)
def test_what_the_surface_does_not_define_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedRequest):
        DIALECT.read_prompt(body)


def test_a_changed_text_goes_back_and_every_other_byte_stays() -> None:
    body = b'{ "x":1.10, "messages":[{"role":"user","content":[{"type":"text","text":"a b","n":1e5}]}] }'
    changed = DIALECT.write_prompt(body, {("messages", 0, "content", 0, "text"): "[X]"})
    assert changed == b'{"x":1.10,"messages":[{"role":"user","content":[{"type":"text","text":"[X]","n":1e5}]}]}'


def test_the_names_in_a_calls_input_are_read_and_can_be_changed() -> None:
    call = {"type": "tool_use", "id": "t", "name": "look", "input": {"secret": {"of": ["marmalade", "a b"]}, "n": 1}}
    body = ask({"role": "user", "content": "hi"}, said(call, role="assistant"))
    at = ("messages", 1, "content", 0, "input")
    texts = {segment.path: segment.text for segment in DIALECT.read_prompt(body).content.segments}
    assert texts[(*at, WORDS)] == "secret\nof\nmarmalade\nn"
    changed = json.loads(DIALECT.write_prompt(body, {(*at, WORDS): "[X]\nof\n[Y]\nn", (*at, "secret", "of", 1): "c"}))
    assert changed["messages"][1]["content"][0]["input"] == {"[X]": {"of": ["[Y]", "c"]}, "n": 1}
    with pytest.raises(Unreadable):
        DIALECT.write_prompt(body, {(*at, WORDS): "[X]\n[Y]"})


def test_sealed_fields_pass_for_as_long_as_they_read_like_it() -> None:
    def texts(block: dict[str, Any]) -> list[str]:
        return [s.text for s in DIALECT.read_prompt(ask(said(block, role="assistant"))).content.segments]

    assert texts({"type": "redacted_thinking", "data": "c2VhbGVk" * 99}) == []
    assert texts({"type": "redacted_thinking", "data": "plain words"}) == ["plain words"]
    assert texts({"type": "thinking", "thinking": "hm", "signature": "wörter"}) == ["hm", "wörter"]


# -- answers ---------------------------------------------------------------------------------------------------------


def test_neighbouring_text_blocks_are_one_text_and_others_are_not() -> None:
    cited = text("b", citations=[{"type": "char_location", "cited_text": "quoted"}])
    call = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    pieces = DIALECT.read_reply(reply(text("a"), cited, text("c"), call, text("d"))).pieces
    assert [piece.text for piece in pieces] == ["a", "b", "c", "quoted", "f", "d"]
    assert [piece.lane for piece in pieces if piece.text in "abcd"] == [(0, "content")] * 4


def test_an_answer_stopped_in_its_text_keeps_what_came_before() -> None:
    call = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    thought = {"type": "thinking", "thinking": "hm", "signature": "c2ln"}
    event = DIALECT.read_reply(reply(thought, text("good bad worse"), call, reason="tool_use"))
    at = ("content", 1, "text")
    number = [piece.path for piece in event.pieces].index(at)
    out = json.loads(DIALECT.write_reply(event, {at: "good "}, {0: Ending("Sorry.", number)}, {}, MEMBER))
    assert out["content"] == [thought, text("good "), text("Sorry.")]
    assert (out["stop_reason"], out["guardrail"]) == ("refusal", {"action": "block"})


@pytest.mark.parametrize(
    "block",
    [
        {"type": "tool_use", "id": "t", "name": "f", "input": {"q": "good bad"}},
        {"type": "web_search_tool_result", "tool_use_id": "t", "content": [{"title": "good bad", "url": "u"}]},
    ],
)
def test_an_answer_stopped_within_a_call_or_result_loses_it_whole(block: dict[str, Any]) -> None:
    event = DIALECT.read_reply(reply(text("fine"), block, text("later")))
    [(number, piece)] = [(n, piece) for n, piece in enumerate(event.pieces) if piece.text == "good bad"]
    out = json.loads(DIALECT.write_reply(event, {piece.path: "good "}, {0: Ending("", number)}, {}, MEMBER))
    assert out["content"] == [text("fine")]
    assert out["stop_reason"] == "refusal"


def test_a_thought_that_is_cut_loses_its_signature() -> None:
    event = DIALECT.read_reply(reply({"type": "thinking", "thinking": "good bad", "signature": "c2ln"}, text("x")))
    out = json.loads(DIALECT.write_reply(event, {("content", 0, "thinking"): "good "}, {0: Ending("", 0)}, {}, MEMBER))
    assert out["content"] == [{"type": "thinking", "thinking": "good ", "signature": ""}]


@pytest.mark.parametrize(
    "body",
    [
        b"no json",
        b"[]",
        b'{"type":"message"}',
        b'{"content":["text"]}',
        reply({"type": "image", "source": {"type": "base64", "data": "aGk="}}),
    ],
)
def test_an_answer_that_is_none_is_the_upstreams_fault(body: bytes) -> None:
    with pytest.raises(MalformedResponse):
        DIALECT.read_reply(body)


# -- streams ---------------------------------------------------------------------------------------------------------


def event(kind: str, **more: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **more})}\n\n".encode()


BEGIN = event("message_start", message={"id": "msg_1", "content": [], "usage": {"output_tokens": 3}})


def start(index: int = 0, **block: Any) -> bytes:
    return event("content_block_start", index=index, content_block=block or text(""))


def delta(words: str, index: int = 0) -> bytes:
    return event("content_block_delta", index=index, delta={"type": "text_delta", "text": words})


def stop(index: int = 0) -> bytes:
    return event("content_block_stop", index=index)


def through(*events: bytes) -> Any:
    """A stream that has read and sent all of these."""
    stream = DIALECT.stream()
    for raw in events:
        step = stream.read_event(raw).step
        if step:
            stream.sent(step)
    return stream


def bodies(raw: bytes) -> list[dict[str, Any]]:
    """The data of events, each of which has an `event:` line with its type."""
    found = []
    for one in sse.Splitter().feed(raw):
        name, line = one.decode().splitlines()[:2]
        found.append(json.loads(line.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def test_a_stream_that_is_cut_closes_its_block_and_its_message() -> None:
    closed = bodies(through(BEGIN, start(), delta("a")).close(None, [0], MEMBER))
    assert [body["type"] for body in closed] == ["content_block_stop", "message_delta", "message_stop"]
    assert closed[1] == {
        "type": "message_delta",
        "delta": {"stop_reason": "refusal", "stop_sequence": None},
        "usage": {"output_tokens": 3},
        "guardrail": {"action": "block"},
    }


def test_between_two_blocks_there_is_none_to_close() -> None:
    closed = bodies(through(BEGIN, start(), stop()).close(None, [0], MEMBER))
    assert [body["type"] for body in closed] == ["message_delta", "message_stop"]


def test_a_stream_cut_before_it_began_is_a_whole_message_all_the_same() -> None:
    closed = bodies(through().close(None, [0], MEMBER))
    assert [body["type"] for body in closed] == ["message_start", "message_delta", "message_stop"]


def test_text_of_ours_goes_into_the_open_text_block_or_into_one_of_its_own() -> None:
    [added] = bodies(through(BEGIN, start(), delta("a")).delta(None, 0, "b"))
    assert (added["index"], added["delta"]) == (0, {"type": "text_delta", "text": "b"})
    thinking = through(BEGIN, start(type="thinking", thinking="", signature=""))
    assert [(body["type"], body["index"]) for body in bodies(thinking.delta(None, 0, "b"))] == [
        ("content_block_stop", 0), ("content_block_start", 1), ("content_block_delta", 1), ("content_block_stop", 1),
    ]  # fmt: skip
    assert [body["type"] for body in bodies(thinking.close(None, [0], MEMBER))] == ["message_delta", "message_stop"]


@pytest.mark.parametrize(
    "events",
    [
        [delta("a")],
        [start()],
        [BEGIN, BEGIN],
        [BEGIN, delta("a")],
        [BEGIN, start(), delta("a", 1)],
        [BEGIN, start(), start(1)],
        [BEGIN, start(), stop(), delta("a")],
        [BEGIN, start(), stop(), start()],
        [BEGIN, event("content_block_start", index="0", content_block=text(""))],
        [BEGIN, event("content_block_start", index=0)],
        [BEGIN, b"data: {\n\n"],
    ],
)
def test_events_out_of_turn_are_the_upstreams_fault(events: list[bytes]) -> None:
    with pytest.raises(MalformedResponse):
        through(*events)


def test_a_changed_event_keeps_its_other_lines_and_their_ends() -> None:
    raw = b'id: 7\r\nevent: content_block_delta\r\ndata: {"type":"content_block_delta","index":0,\r\n'
    raw += b'data: "delta":{"type":"text_delta","text":"a bad b"},"n":1.10}\r\n\r\n'
    read = DIALECT.read_event(raw)
    assert [piece.text for piece in read.pieces] == ["a bad b"]
    assert DIALECT.write_event(read, {("delta", "text"): "a [X] b"}) == (
        b'id: 7\r\nevent: content_block_delta\r\ndata: {"type":"content_block_delta","index":0,'
        b'"delta":{"type":"text_delta","text":"a [X] b"},"n":1.10}\r\n\r\n'
    )


def test_a_servers_done_ends_the_stream_too() -> None:
    assert through(BEGIN).read_event(b"data: [DONE]\n\n").last


def test_a_comment_passes_and_a_ping_carries_nothing() -> None:
    assert DIALECT.read_event(b": hello\n\n").pieces == ()
    assert DIALECT.read_event(event("ping")).pieces == ()


# -- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "invalid_request_error"), (401, "authentication_error"), (403, "permission_error"),
     (413, "request_too_large"), (422, "invalid_request_error"), (429, "rate_limit_error"), (500, "api_error"),
     (502, "api_error"), (503, "overloaded_error"), (504, "timeout_error")],
)  # fmt: skip
def test_an_error_has_the_apis_shape_and_word(status: int, kind: str) -> None:
    notice = Notice(status, "some_code", "A sentence.", param="messages[0]", incident="I1", rules=("r",))
    assert json.loads(DIALECT.error(notice)) == {
        "type": "error",
        "error": {
            "type": kind,
            "message": "A sentence.",
            "guardrail": {"code": "some_code", "param": "messages[0]", "incident": "I1", "rules": ["r"]},
        },
    }
    assert DIALECT.stream_error(notice) == b"event: error\ndata: " + DIALECT.error(notice) + b"\n\n"
