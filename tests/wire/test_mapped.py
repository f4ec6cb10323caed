"""An app's own bodies, read by paths: what they name, what they do not name, and that all else stays as it came."""

from __future__ import annotations

import json
from typing import Any

import pytest

from guardrail.core.surface import Ending, Notice
from guardrail.errors import MalformedRequest, MalformedResponse
from guardrail.wire import sse, template
from guardrail.wire.jsonpath import parse
from guardrail.wire.mapped import Layout, Mapped

MEMBER = b'{"action":"block","incident":"I1"}'


def mapped(**more: Any) -> Mapped:
    paths = {"prompt": ("$.question",), "context": ("$.history[*].text",), "answer": ("$.reply", "$.more[*].text")}
    layout: dict[str, Any] = {"surface": "chat", "path": "/chat/", "stream": "sse", "delta": ("$.token", "$.thought")}
    layout |= paths | more
    for key in ("prompt", "context", "answer", "ignore", "delta"):
        layout[key] = tuple(parse(path) for path in layout.get(key, ()))
    for key in ("stream_if", "finish", "end_user"):
        if key in layout:
            layout[key] = parse(layout[key])
    return Mapped(Layout(**layout))


def texts(dialect: Mapped, body: Any) -> list[tuple[str, str, bool]]:
    segments = dialect.read_prompt(json.dumps(body).encode()).content.segments
    return [(segment.text, segment.role, segment.latest) for segment in segments]


def test_every_text_of_a_request_is_screened_and_only_the_prompt_can_be_a_strike() -> None:
    body = {
        "history": [{"text": "before", "by": "bot"}],
        "question": "now",
        "id": "a-handle_1",
        "x": {"y": ["unnamed"]},
        "n": 1,
    }
    assert texts(mapped(), body) == [
        ("before", "context", False),
        ("bot", "other", False),
        ("now", "user", True),
        ("unnamed", "other", False),
    ]
    assert ("not a handle: KABOOM", "other", False) in texts(mapped(), body | {"id": "not a handle: KABOOM"})
    assert texts(mapped(ignore=("$.x", "$.history[*].by")), body) == [
        ("before", "context", False),
        ("now", "user", True),
    ]
    assert mapped().paths == ("/chat",)


def test_a_path_that_leads_to_a_part_names_every_text_below_it() -> None:
    dialect = mapped(prompt=("$.ask",), ignore=("$",))
    assert texts(dialect, {"ask": {"title": "a", "parts": ["b", {"text": "c"}]}, "other": "ignored"}) == [
        ("a", "user", True),
        ("b", "user", True),
        ("c", "user", True),
    ]


@pytest.mark.parametrize("body", [b"{", b"{}", b"[]", b'{"question":7}', b'{"question":"a","question":"b"}'])
def test_a_request_without_a_text_where_the_prompt_is_cannot_be_read(body: bytes) -> None:
    with pytest.raises(MalformedRequest):
        mapped().read_prompt(body)


def test_whether_a_stream_is_asked_for_is_where_the_settings_say() -> None:
    assert mapped().read_prompt(b'{"question":""}').stream
    assert not mapped(stream="none").read_prompt(b'{"question":""}').stream
    dialect = mapped(stream_if="$.stream", end_user="$.who")
    assert dialect.read_prompt(b'{"question":"","stream":true}').stream
    assert not dialect.read_prompt(b'{"question":"","stream":false}').stream
    assert not dialect.read_prompt(b'{"question":""}').stream
    assert dialect.read_prompt(b'{"question":"","who":"ann"}').end_user == "ann"
    assert dialect.read_prompt(b'{"question":"","who":7}').end_user is None


def test_a_changed_request_keeps_every_other_value_as_it_came() -> None:
    body = b'{"n":1.50,"question":"hush","x":[1e3,"\\u00e9"]}'
    assert mapped().write_prompt(body, {("question",): "[X]"}) == b'{"n":1.50,"question":"[X]","x":[1e3,"\\u00e9"]}'


def test_an_answer_keeps_every_byte_and_gains_one_member_if_it_may() -> None:
    body = b'{ "reply":"ok", "score":0.50 }\n'
    event = mapped().read_reply(body)
    assert mapped().write_reply(event, {}, {}, {}, MEMBER) == body[:-2] + b',"guardrail":' + MEMBER + b"}\n"
    assert mapped(member=False).write_reply(event, {}, {}, {}, MEMBER) == body
    for other in (b'"text"', b'["a"]', b"[]"):
        assert mapped().write_reply(mapped().read_reply(other), {}, {}, {}, MEMBER) == other


def test_the_texts_of_an_answer_stand_together_and_the_others_behind_them() -> None:
    body = {"note": "n", "more": [{"text": "b"}, {"text": "c"}], "reply": "a"}
    event = mapped().read_reply(json.dumps(body).encode())
    assert [(piece.lane, piece.text) for piece in event.pieces] == [
        ((0, "content"), "b"),
        ((0, "content"), "c"),
        ((0, "content"), "a"),
        ((0, "$", "note"), "n"),
    ]


def test_safe_answer_and_label_go_where_the_answers_text_is() -> None:
    body = {"reply": "a KABOOM", "more": [{"text": "last"}]}
    event = mapped().read_reply(json.dumps(body).encode())
    cut = {("reply",): "a ", ("more", 0, "text"): ""}
    out = json.loads(mapped().write_reply(event, cut, {0: Ending("Safe.", 0)}, {0: "\n\nAI"}, MEMBER))
    assert (out["reply"], out["more"][0]["text"]) == ("a Safe.", "\n\nAI")
    front = json.loads(mapped().write_reply(event, {}, {}, {0: "AI\n\n"}, MEMBER))
    assert front["reply"] == "AI\n\na KABOOM"


def test_an_event_that_is_changed_keeps_its_name_and_its_id() -> None:
    raw = b'id: 7\nevent: token\ndata: {"token":"hush",\ndata:  "n":1.50}\n: c\n\n'
    event = mapped().read_event(raw)
    assert [piece.text for piece in event.pieces] == ["hush"]
    out = mapped().write_event(event, {("token",): "[X]"})
    assert out == b'id: 7\nevent: token\n: c\ndata: {"token":"[X]","n":1.50}\n\n'
    assert sse.data(mapped().mark_event(raw, b"{}")) == b'{"token":"hush",\n "n":1.50,"guardrail":{}}'
    assert mapped(member=False).mark_event(raw, b"{}") == raw


def test_an_event_says_that_it_is_the_end_by_a_field_or_by_being_the_terminator() -> None:
    dialect = mapped(finish="$.done", terminator="[DONE]")
    assert dialect.read_event(b'data: {"token":"x","done":false}\n\n').finished == {}
    assert dialect.read_event(b'data: {"done":true}\n\n').finished == {0: "stop"}
    assert dialect.read_event(b'data: {"done":"length"}\n\n').finished == {0: "length"}
    assert dialect.read_event(b"data: [DONE]\n\n").last
    assert dialect.read_event(b": comment\n\n").pieces == ()
    with pytest.raises(MalformedResponse):
        mapped().read_event(b"data: [DONE]\n\n")


def test_every_text_of_an_event_is_screened() -> None:
    event = mapped().read_event(b'data: {"type":"token","token":"a","thought":"b","x":["c"],"type2":"d"}\n\n')
    assert [(piece.lane, piece.text) for piece in event.pieces] == [
        ((0, "content"), "a"),
        ((0, "delta", 1), "b"),
        ((0, "$", "x", 0), "c"),
        ((0, "$", "type2"), "d"),
    ]
    text = mapped(delta=("$",)).read_event(b'data: "a"\n\n')
    assert [(piece.lane, piece.text) for piece in text.pieces] == [((0, "content"), "a")]


def test_our_own_events_are_dressed_like_the_apps_without_its_texts() -> None:
    like = b'id: 3\nevent: token\ndata: {"type":"token","token":"secret","note":"more","seq":4}\n\n'
    assert mapped().delta(like, 0, "label") == (
        b'event: token\ndata: {"type":"token","token":"label","note":"","seq":4}\n\n'
    )
    assert mapped().delta(b'data: {"thought":"only"}\n\n', 0, "label") == b'data: {"token":"label"}\n\n'
    ending = b'data: {"token":"all","done":true}\n\n'
    assert mapped(finish="$.done").delta(ending, 0, "label") == b'data: {"token":"label"}\n\n'
    assert mapped(stream="jsonl").delta(b'{"token":"a","n":1}\n', 0, "l\u2028") == b'{"token":"l\\u2028","n":1}\n'


def test_a_stopped_stream_ends_as_the_settings_say() -> None:
    assert mapped().close(None, [0], MEMBER) == b'data: {"guardrail":' + MEMBER + b"}\n\n"
    dialect = mapped(finish="$.end.why", terminator="[DONE]")
    assert dialect.close(None, [0], MEMBER) == (
        b'data: {"end":{"why":"content_filter"},"guardrail":' + MEMBER + b"}\n\ndata: [DONE]\n\n"
    )
    closing = template.parse('{"over": true, "why": "{code}: {incident}", "all": "{guardrail}"}', template.CLOSING)
    assert mapped(stream="jsonl", closing=closing, member=False).close(None, [0], MEMBER) == (
        b'{"over":true,"why":"content_filter: I1","all":' + MEMBER + b"}\n"
    )
    assert mapped(member=False).close(None, [0], MEMBER) == b""


def test_an_answer_of_ours_is_a_body_with_the_text_where_the_apps_would_be() -> None:
    dialect = mapped(stream_if="$.stream", finish="$.done", answer=("$.replies[*].text",))
    whole = dialect.read_prompt(b'{"question":""}')
    assert json.loads(dialect.answer(whole, "Help.", "stop", "i", b"{}")) == {
        "replies": [{"text": "Help."}],
        "guardrail": {},
    }
    streamed = dialect.read_prompt(b'{"question":"","stream":true}')
    assert dialect.answer(streamed, "Help.", "stop", "i", b"{}") == (
        b'data: {"token":"Help."}\n\ndata: {"done":"stop","guardrail":{}}\n\n'
    )


def test_an_error_has_the_shape_of_the_settings_or_of_openai() -> None:
    notice = Notice(400, "content_filter", "No.", incident="I1")
    assert json.loads(mapped().error(notice))["error"]["code"] == "content_filter"
    shape = template.parse('{"detail": "{message}", "id": "{incident}"}', template.NOTICE)
    assert mapped(error=shape).error(notice) == b'{"detail":"No.","id":"I1"}'
    assert mapped(error=shape).stream_error(notice) == b'data: {"detail":"No.","id":"I1"}\n\n'
