"""Ollama's bodies: what is read of them, and that all else stays as it came."""

from __future__ import annotations

import json
from typing import Any

import pytest

from guardrail.core.surface import Ending, Notice
from guardrail.errors import MalformedRequest, MalformedResponse, Unreadable
from guardrail.wire.ollama import OllamaChat, OllamaGenerate

CHAT, GENERATE = OllamaChat(), OllamaGenerate()
MEMBER = b'{"action":"allow"}'
BLOCKED = b'{"action":"block"}'


def line(text: str = "", **more: Any) -> bytes:
    body = {"model": "m", "created_at": "T", "message": {"role": "assistant", "content": text}, "done": False}
    return json.dumps({**body, **more}).encode() + b"\n"


def test_a_stream_is_what_is_asked_for_where_nothing_else_is_said() -> None:
    assert CHAT.read_prompt(b'{"model":"m","messages":[]}').stream
    assert CHAT.read_prompt(b'{"model":"m","messages":[],"stream":true}').stream
    assert not CHAT.read_prompt(b'{"model":"m","messages":[],"stream":false}').stream
    assert not GENERATE.read_prompt(b'{"model":"m","stream":false}').stream


def test_what_the_user_added_counts_and_what_stands_before_it_does_not() -> None:
    body = {
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "before"},
            {"role": "assistant", "content": "answer"},
            {"role": "user", "content": "now"},
            {"role": "tool", "content": "found"},
        ]
    }
    segments = CHAT.read_prompt(json.dumps(body).encode()).content.segments
    assert [segment.text for segment in segments if segment.latest] == ["now"]
    asked = GENERATE.read_prompt(b'{"prompt":"p","suffix":"x","system":"s","template":"t","other":"o"}').content
    assert [segment.text for segment in asked.segments if segment.latest] == ["p", "x"]
    assert [segment.role for segment in asked.segments] == ["user", "user", "system", "system", "user"]


def test_a_schema_asks_for_an_answer_that_a_machine_reads() -> None:
    assert CHAT.read_prompt(b'{"messages":[],"format":"json"}').structured
    assert CHAT.read_prompt(b'{"messages":[],"format":{"type":"object"}}').structured
    assert not CHAT.read_prompt(b'{"messages":[],"format":""}').structured
    assert CHAT.read_prompt(b'{"messages":[],"tools":[{"type":"function"}]}').tools


@pytest.mark.parametrize(
    ("body", "error", "param"),
    [
        (b"[]", MalformedRequest, None),
        (b'{"messages":"hi"}', MalformedRequest, "messages"),
        (b'{"messages":[7]}', MalformedRequest, "messages[0]"),
        (b'{"messages":[{"content":"x"}]}', MalformedRequest, "messages[0].role"),
        (b'{"messages":[{"role":"says: KABOOM","content":"x"}]}', MalformedRequest, "messages[0].role"),
        (b'{"messages":[{"role":"user","content":["x"]}]}', MalformedRequest, "messages[0].content"),
        (b'{"messages":[],"stream":"no"}', MalformedRequest, "stream"),
        (b'{"messages":[{"role":"user","content":"x","images":["aGk="]}]}', Unreadable, "messages[0].images"),
        (b'{"prompt":"x","images":["aGk="]}', Unreadable, "images"),
        (b'{"prompt":"x","context":[1,2,3]}', Unreadable, "context"),
    ],
)
def test_what_cannot_be_screened_is_refused_and_named(body: bytes, error: type[Exception], param: str | None) -> None:
    for dialect in (CHAT, GENERATE):
        with pytest.raises(error) as raised:
            dialect.read_prompt(body)
        assert getattr(raised.value, "param", None) == param


def test_a_changed_prompt_keeps_every_other_value_as_it_came() -> None:
    body = (
        b'{"options":{"temperature":0.70,"top_p":1.0e0,"stop":["\\u0041"],"x":12345678901234567890},"keep_alive":"5m",'
        b'"messages":[{"role":"user","content":"hush"}],"stream":false}'
    )
    assert CHAT.write_prompt(body, {("messages", 0, "content"): "[X]"}) == body.replace(b"hush", b"[X]")


def test_the_arguments_of_a_call_are_one_text_with_the_names_that_a_model_chose() -> None:
    call = {"function": {"name": "f", "arguments": {"KABOOM": 1, "b": ["茶"]}}}
    body = json.dumps({"messages": [{"role": "assistant", "tool_calls": [call]}]}).encode()
    (name, arguments) = CHAT.read_prompt(body).content.segments
    assert name.text == "f"
    assert arguments.text == '{"KABOOM":1,"b":["茶"]}'
    changed = CHAT.write_prompt(body, {arguments.path: '{"[X]":1,"b":["茶"]}'})
    assert json.loads(changed)["messages"][0]["tool_calls"][0]["function"]["arguments"] == {"[X]": 1, "b": ["茶"]}
    cut = CHAT.write_prompt(body, {arguments.path: '{"'})
    assert json.loads(cut)["messages"][0]["tool_calls"][0]["function"]["arguments"] == {}


def test_white_space_in_arguments_is_read_as_such_and_written_as_json() -> None:
    call = {"function": {"name": "f", "arguments": {"a": 'one\ntwo\tthree \\n "q" \u2028'}}}
    event = CHAT.read_event(line("", message={"role": "assistant", "content": "", "tool_calls": [call]}))
    arguments = event.pieces[-1]
    assert arguments.text == '{"a":"one\vtwo\fthree \\\\n \\"q\\" \u2028"}'
    out = CHAT.write_event(event, {arguments.path: arguments.text.replace("one", "[X]")})
    [written] = json.loads(out)["message"]["tool_calls"]
    assert written["function"]["arguments"] == {"a": '[X]\ntwo\tthree \\n "q" \u2028'}


def test_an_answer_keeps_every_byte_and_gains_one_member() -> None:
    body = b'{ "message": {"role":"assistant","content":"ok"}, "done":true, "total_duration":1.50, "x":[1e3] }\n'
    out = CHAT.write_reply(CHAT.read_reply(body), {}, {}, {}, MEMBER)
    assert out == body[:-2] + b',"guardrail":' + MEMBER + b"}\n"


def test_a_stopped_answer_ends_with_its_reason_and_without_what_spells_it_again() -> None:
    whole = {
        "message": {"role": "assistant", "content": "a KABOOM", "tool_calls": [{"function": {"name": "f"}}]},
        "done": True,
        "done_reason": "stop",
        "logprobs": [{"token": "KABOOM", "logprob": -1}],
        "context": [1, 2],
    }
    event = CHAT.read_reply(json.dumps(whole).encode())
    out = CHAT.write_reply(event, {("message", "content"): "a "}, {0: Ending("Safe.")}, {}, BLOCKED)
    assert json.loads(out) == {
        "message": {"role": "assistant", "content": "a Safe.", "tool_calls": None},
        "done": True,
        "done_reason": "content_filter",
        "logprobs": None,
        "context": [],
        "guardrail": {"action": "block"},
    }


def test_the_label_goes_in_front_of_an_answer_or_behind_it() -> None:
    event = GENERATE.read_reply(b'{"response":"text","done":true}')
    assert json.loads(GENERATE.write_reply(event, {}, {}, {0: "\n\nAI"}, MEMBER))["response"] == "text\n\nAI"
    assert json.loads(GENERATE.write_reply(event, {}, {}, {0: "AI\n\n"}, MEMBER))["response"] == "AI\n\ntext"


def test_the_last_line_ends_the_stream_with_its_reason() -> None:
    assert CHAT.read_event(line("hi")).finished == {}
    last = CHAT.read_event(line(done=True, done_reason="length"))
    assert (last.finished, last.last) == ({0: "length"}, True)
    assert CHAT.read_event(b"\r\n").pieces == ()


def test_a_line_is_read_in_the_same_way_whatever_else_is_in_it() -> None:
    """Lines of nothing but text take a quicker way: what they hold besides must not slip through there."""
    for dialect, plain in (
        (CHAT, line("hi 茶")),
        (GENERATE, b'{"model":"m","response":"hi \xe8\x8c\xb6","done":false}\n'),
    ):
        [quick] = dialect.read_event(plain).pieces
        [slow] = dialect.read_event(plain.replace(b'"done"', b'"eval_count":1,"done"')).pieces
        assert quick == slow
        assert quick.text == "hi 茶"
        odd = plain.replace(b'"model":', b'"model" :').replace(b'"m"', b'"a model that says KABOOM"')
        assert "a model that says KABOOM" in [piece.text for piece in dialect.read_event(odd).pieces]
        assert dialect.read_event(plain.replace(b'"done"', b'"note":"KABOOM","done"')).pieces[-1].text == "KABOOM"
        assert dialect.read_event(plain.replace(b"false", b"true")).last


def test_a_call_that_was_cut_is_no_call() -> None:
    call = {"function": {"name": "f", "arguments": {"a": "KABOOM"}}}
    raw = line("", message={"role": "assistant", "content": "", "tool_calls": [call]})
    event = CHAT.read_event(raw)
    arguments = event.pieces[-1]
    assert arguments.text == '{"a":"KABOOM"}'
    assert json.loads(CHAT.write_event(event, {arguments.path: '{"a":"'}))["message"]["tool_calls"] is None
    redacted = json.loads(CHAT.write_event(event, {arguments.path: '{"a":"[X]"}'}))["message"]["tool_calls"]
    assert redacted == [{"function": {"name": "f", "arguments": {"a": "[X]"}}}]


def test_token_ids_of_a_changed_text_do_not_leave_with_the_last_line() -> None:
    raw = b'{"model":"m","response":"","done":true,"context":[1,2,3]}\n'
    assert json.loads(GENERATE.mark_event(raw, MEMBER))["context"] == [1, 2, 3]
    assert json.loads(GENERATE.mark_event(raw, b'{"action":"redact"}'))["context"] == []


def test_our_own_lines_are_dressed_like_the_upstreams() -> None:
    assert json.loads(CHAT.delta(line("x"), 0, "label")) == {
        "model": "m", "created_at": "T", "message": {"role": "assistant", "content": "label"}, "done": False,
    }  # fmt: skip
    closing = json.loads(GENERATE.close(b'{"model":"m","created_at":"T","response":"x"}\n', [0], BLOCKED))
    assert closing == {
        "model": "m", "created_at": "T", "response": "", "done": True, "done_reason": "content_filter",
        "guardrail": {"action": "block"},
    }  # fmt: skip


@pytest.mark.parametrize(
    "raw",
    [
        b"{not json}\n",
        b"7\n",
        b'{"error":"overloaded"}\n',
        b'{"model":"m"}\n',
        b'{"message":"text"}\n',
        b'{"message":{"content":7}}\n',
        b'{"message":{"content":"","images":["aGk="]}}\n',
        b'{"message":{"content":""},"image":"aGk="}\n',
    ],
)
def test_a_line_that_cannot_be_understood_is_the_upstreams_fault(raw: bytes) -> None:
    with pytest.raises(MalformedResponse):
        CHAT.read_event(raw)
    with pytest.raises(MalformedResponse):
        CHAT.read_reply(raw)


def test_an_error_is_a_sentence_with_what_a_program_needs_beside_it() -> None:
    notice = Notice(400, "content_filter", "No.", param="prompt", incident="I1", rules=("a/b",))
    body = json.loads(CHAT.error(notice))
    assert body["error"] == "No."
    assert body["guardrail"] == {
        "type": "guardrail", "code": "content_filter", "param": "prompt", "incident": "I1", "rules": ["a/b"],
    }  # fmt: skip
    assert CHAT.stream_error(notice) == CHAT.error(notice) + b"\n"
