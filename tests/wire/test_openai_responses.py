"""The Responses dialect on bytes: what it reads, what it writes, and what it leaves as it came."""

from __future__ import annotations

import json
from typing import Any

import pytest

from guardrail.core.surface import Ending, Event, Notice, Piece
from guardrail.errors import MalformedRequest, MalformedResponse, Unreadable
from guardrail.wire.openai_responses import OpenAIResponses
from guardrail.wire.openai_responses_stream import ResponseStream
from tests.responses import answer, events, function_call, message, output_text, reasoning, sse, stream

DIALECT = OpenAIResponses()


def segments(body: dict[str, Any]) -> list[tuple[str, str, bool]]:
    found = DIALECT.read_prompt(json.dumps(body).encode()).content.segments
    return [(segment.text, segment.role, segment.latest) for segment in found]


def test_whose_words_a_request_holds_is_read_from_its_items() -> None:
    body = {
        "instructions": "Be kind.",
        "input": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "What is there?"},
            reasoning("I look."),
            function_call("look", "{}"),
            {"type": "function_call_output", "call_id": "c", "output": "bread"},
            {"role": "user", "content": [{"type": "input_text", "text": "And now?"}]},
        ],
    }
    assert segments(body) == [
        ("Be kind.", "system", False),
        ("Be brief.", "developer", False),
        ("What is there?", "user", False),
        ("I look.", "assistant", False),
        ("look", "assistant", False),
        ("{}", "assistant", False),
        ("bread", "tool", False),
        ("And now?", "user", True),
    ]


def test_credentials_of_tools_handles_and_blobs_are_no_texts() -> None:
    mcp = {"type": "mcp", "server_label": "s", "server_url": "https://example.org/?a=b", "authorization": "Bearer a b"}
    body = {
        "model": "m",
        "user": "jane doe",
        "prompt_cache_key": "what ever",
        "tools": [{**mcp, "headers": {"x-key": "a key"}, "require_approval": "never"}],
        "input": [{"type": "reasoning", "id": "rs_1", "encrypted_content": "gAAAA+/==" * 100, "summary": []}],
    }
    assert [text for text, _, _ in segments(body)] == ["s", "never"]
    body["prompt"] = {"id": "pmpt_1", "version": "no version"}
    body["tools"] = [{"type": "function", "parameters": {"properties": {"headers": {"description": "said here"}}}}]
    assert [text for text, _, _ in segments(body)] == ["said here", "no version"]
    body["input"] = [{"type": "reasoning", "encrypted_content": "these are words"}]
    assert "these are words" in [text for text, _, _ in segments(body)]


def test_what_is_asked_for_is_read_from_the_request() -> None:
    def read(**body: Any) -> Any:
        return DIALECT.read_prompt(json.dumps({"input": "hi", **body}).encode())

    assert read().stream is False
    assert read(stream=True).stream is True
    assert read(text={"format": {"type": "text"}}).structured is False
    assert read(text={"format": {"type": "json_schema", "name": "n", "schema": {}}}).structured is True
    assert read(tools=[{"type": "web_search"}]).tools is True
    assert read(tools=[{"type": "image_generation"}]).media == "image"
    assert read(user="u", safety_identifier="s").end_user == "s"


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"[]", MalformedRequest),
        (b'{"input":7}', MalformedRequest),
        (b'{"input":"hi","input":"ho"}', MalformedRequest),
        (b'{"input":[{"role":"a user","content":"x"}]}', MalformedRequest),
        (b'{"input":[{"type":"message","role":"user","content":{"a":1}}]}', MalformedRequest),
        (b'{"input":"hi","stream":1}', MalformedRequest),
        (b'{"input":"hi","background":true}', Unreadable),
        (b'{"input":[{"type":"x"}]}', Unreadable),
        (b'{"input":[{"role":"user","content":[{"type":"input_audio"}]}]}', Unreadable),
        (b'{"input":"hi","tools":[{"type":"image_generation","input_image_mask":{"image_url":"x"}}]}', Unreadable),
    ],
)
def test_a_request_that_cannot_be_read_is_refused(body: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        DIALECT.read_prompt(body)


@pytest.mark.parametrize("body", [b"{", b"[]", b"{}", b'{"output":7}', b'{"output":["x"]}', b"\xff"])
def test_an_answer_that_is_none_is_said_to_be_none(body: bytes) -> None:
    with pytest.raises(MalformedResponse):
        DIALECT.read_reply(body)


def test_a_changed_answer_keeps_every_other_value_as_it_came() -> None:
    body = b'{"id":"r","temperature":1.0,"output":[{"type":"message","id":"m","x":1.50,"content":[%s]}],"n":1e3}'
    part = b'{"type":"output_text","text":"a b","annotations":[],"logprobs":[{"token":"b"}]}'
    event = DIALECT.read_reply(body % part)
    (piece,) = event.pieces
    written = DIALECT.write_reply(event, {piece.path: "a [X]"}, {}, {}, b'{"action":"redact"}')
    changed = b'{"type":"output_text","text":"a [X]","annotations":[],"logprobs":[]}'
    assert written == (body % changed)[:-1] + b',"guardrail":{"action":"redact"}}'


def test_an_answer_stopped_within_a_message_keeps_the_parts_before_it() -> None:
    items = [message("First.", output_text("good bad", {"type": "file_path", "file_id": "f", "index": 0}), "Third.")]
    event = DIALECT.read_reply(json.dumps(answer([*items, function_call("f", "{}")])).encode())
    bad = next(piece for piece in event.pieces if piece.text == "good bad")
    stopped = {int(bad.lane[0]): Ending("Sorry.")}
    written = json.loads(DIALECT.write_reply(event, {bad.path: "good "}, stopped, {}, b"{}"))
    assert [item["type"] for item in written["output"]] == ["message"]
    assert [part["text"] for part in written["output"][0]["content"]] == ["First.", "good Sorry."]
    assert written["output"][0]["status"] == written["status"] == "incomplete"


def tell(follower: ResponseStream, raw: bytes, **changed: str) -> tuple[Event, bytes]:
    """Read an event and let it leave at once; `changed` are texts by the last step of their paths."""
    event = follower.read_event(raw)
    texts = {piece.path: changed.get(str(piece.path[-1]), piece.text) for piece in event.pieces}
    return event, follower.tell(event, texts)


def test_a_text_that_is_told_again_is_no_new_text() -> None:
    follower = ResponseStream()
    pieces: list[Piece] = []
    for raw in stream([reasoning("I look."), message("Some text."), function_call("look", "{}")], piece=3):
        event, left = tell(follower, raw)
        assert left == raw
        pieces += event.pieces
    whole: dict[Any, str] = {}
    for piece in pieces:
        whole[piece.lane] = whole.get(piece.lane, "") + piece.text
    assert list(whole.values()) == ["I look.", "Some text.", "look", "{}"]
    assert [text for lane, text in whole.items() if lane[1:] == ("content",)] == ["Some text."]


def test_what_is_told_again_is_what_was_left_of_it() -> None:
    follower = ResponseStream()
    for event in events([message("Some text.")], piece=100):
        _, left = tell(follower, sse(event), delta="Some [X].")
        assert b"Some text" not in left
        if event["type"] in ("response.output_text.done", "response.content_part.done", "response.completed"):
            assert b"Some [X]." in left


def test_a_stream_that_tells_one_text_in_ever_new_ways_is_broken_off() -> None:
    follower = ResponseStream()

    def tell_again(number: int) -> None:
        body = {"type": "response.in_progress", "sequence_number": number, "response": {"x": f"way {number}"}}
        follower.read_event(sse(body))

    for number in range(17):
        tell_again(number)
    with pytest.raises(MalformedResponse):
        tell_again(17)


@pytest.mark.parametrize(
    "raw",
    [
        b"data: {\n\n",
        b"data: []\n\n",
        b'data: {"delta":"x"}\n\n',
        b'data: {"type":"not a type"}\n\n',
        b'data: {"error":{"message":"x"}}\n\n',
        b'data: {"type":"response.completed"}\n\n',
        b'data: {"type":"response.output_text.delta","output_index":"0","content_index":0,"delta":"x"}\n\n',
        b'data: {"type":"response.audio.delta","delta":"AAAA"}\n\n',
        b'data: {"type":"response.image_generation_call.partial_image","partial_image_b64":"AAAA"}\n\n',
    ],
)
def test_an_event_that_cannot_be_understood_is_said_to_be_none(raw: bytes) -> None:
    with pytest.raises(MalformedResponse):
        ResponseStream().read_event(raw)


def test_comments_and_keep_alives_pass_as_they_came() -> None:
    for raw in (b": hello\n\n", b"retry: 5\n\n", b"\n\n"):
        event, left = tell(ResponseStream(), raw)
        assert (event.pieces, left) == ((), raw)


def test_a_stream_of_which_nothing_was_told_is_closed_all_the_same() -> None:
    said = [
        json.loads(line[6:]) for line in ResponseStream().close(None, [0], b"{}").split(b"\n") if line[:5] == b"data:"
    ]
    assert [event["type"] for event in said] == ["response.created", "response.incomplete"]
    assert said[-1]["response"]["output"] == []


def test_errors_have_the_shape_that_the_sdk_raises_from() -> None:
    notice = Notice(400, "content_filter", "No.", incident="I1")
    assert json.loads(DIALECT.error(notice))["error"]["guardrail"] == {"incident": "I1"}
    name, data, *_ = DIALECT.stream_error(notice).split(b"\n")
    assert name == b"event: error"
    assert json.loads(data.removeprefix(b"data: "))["error"]["code"] == "content_filter"
