"""OpenAI's legacy completions as bytes: what is read, what is refused, what a change leaves as it was."""

from __future__ import annotations

import json
from typing import Any

import pytest

from guardrail.core.surface import Ending, Prompt
from guardrail.errors import MalformedRequest, MalformedResponse, Unreadable
from guardrail.wire.openai_completions import OpenAICompletions

DIALECT = OpenAICompletions()
MEMBER = b'{"action":"block"}'


def read(**request: Any) -> Prompt:
    return DIALECT.read_prompt(json.dumps({"model": "m", **request}).encode())


def answer(*choices: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"id": "cmpl-1", "object": "text_completion", "choices": list(choices), **more}).encode()


def event(*choices: dict[str, Any]) -> bytes:
    return b"data: " + answer(*choices) + b"\n\n"


def test_each_prompt_of_a_list_is_a_text_of_its_own_and_has_n_choices() -> None:
    prompt = read(prompt=["one", "", "three"], n=2, stream=True, user="u-1")
    assert [(s.text, s.path, s.latest) for s in prompt.content.segments] == [
        ("one", ("prompt", 0), True),
        ("three", ("prompt", 2), True),
    ]
    assert (prompt.choices, prompt.stream, prompt.end_user) == (6, True, "u-1")


def test_a_suffix_is_screened_and_leaves_no_place_for_a_label() -> None:
    prompt = read(prompt="def f(", suffix="return x")
    assert [s.text for s in prompt.content.segments] == ["def f(", "return x"]
    assert prompt.structured
    assert not read(prompt="def f(").structured


def test_what_an_extension_carries_is_screened_and_is_no_strike() -> None:
    prompt = read(prompt="hi", chat_template="some words", model="not a model's name")
    assert {(s.text, s.latest) for s in prompt.content.segments} == {
        ("hi", True),
        ("some words", False),
        ("not a model's name", False),
    }


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        ({"prompt": [1, 2, 3]}, "prompt"),
        ({"prompt": [[1, 2], [3]]}, "prompt[0]"),
        ({"prompt": ["text", [3]]}, "prompt[1]"),
        ({"prompt_embeds": "AAAA"}, "prompt_embeds"),
    ],
)
def test_prompts_that_are_no_text_are_refused(request_: dict[str, Any], param: str) -> None:
    with pytest.raises(Unreadable) as caught:
        read(**request_)
    assert (caught.value.status, caught.value.param) == (422, param)


@pytest.mark.parametrize(
    "bad", [{"prompt": 7}, {"prompt": {}}, {"suffix": 1}, {"n": 0}, {"n": True}, {"stream": "yes"}]
)
def test_what_the_surface_does_not_define_is_malformed(bad: dict[str, Any]) -> None:
    with pytest.raises(MalformedRequest):
        read(**{"prompt": "hi", **bad})


def test_a_changed_answer_loses_the_logprobs_that_spell_it_and_nothing_else() -> None:
    spelled = {"tokens": ["a ", "bad", " b"], "top_logprobs": [{"bad": -0.5}]}
    raw = answer(
        {"index": 0, "text": "a bad b", "logprobs": spelled, "token_ids": [5], "finish_reason": "stop"},
        {"index": 1, "text": "fine", "logprobs": {"tokens": ["fine"]}, "finish_reason": "length"},
        x_made_up=1.10,
    )
    read = DIALECT.read_reply(raw)
    assert read.finished == {0: "stop", 1: "length"}
    written = DIALECT.write_reply(read, {("choices", 0, "text"): "a [X] b"}, {}, {}, MEMBER)
    first, second = json.loads(written)["choices"]
    assert (first["text"], first["logprobs"], first["token_ids"]) == ("a [X] b", None, None)
    assert (second["text"], second["logprobs"]) == ("fine", {"tokens": ["fine"]})
    assert b'"x_made_up":1.1' in written
    assert json.loads(written)["guardrail"] == {"action": "block"}


def test_an_unchanged_answer_keeps_every_byte() -> None:
    raw = b'{ "choices" : [ {"text":"caf\\u00e9","index":0,"logprobs":null,"finish_reason":"stop"} ], "x": 1.10 }'
    assert DIALECT.write_reply(DIALECT.read_reply(raw), {}, {}, {}, MEMBER) == (
        raw[:-1].rstrip() + b' ,"guardrail":' + MEMBER + b"}"
    )


def test_a_stopped_choice_ends_with_content_filter_and_its_safe_answer() -> None:
    raw = answer({"index": 0, "text": "ok bad", "finish_reason": "stop", "logprobs": {"tokens": ["ok bad"]}})
    read = DIALECT.read_reply(raw)
    written = DIALECT.write_reply(read, {("choices", 0, "text"): "ok "}, {0: Ending("Safe.")}, {0: "\n\n(AI)"}, MEMBER)
    [choice] = json.loads(written)["choices"]
    assert choice == {"index": 0, "text": "ok Safe.\n\n(AI)", "finish_reason": "content_filter", "logprobs": None}


def test_tokens_spelled_before_their_text_are_a_text_of_their_own() -> None:
    early = DIALECT.read_event(event({"index": 0, "text": "", "logprobs": {"tokens": ["KAB"]}, "finish_reason": None}))
    assert [(piece.lane, piece.text) for piece in early.pieces] == [((0, "tokens"), "KAB")]
    written = DIALECT.write_event(early, {early.pieces[0].path: ""})
    assert b"KAB" not in written
    assert json.loads(written[6:])["choices"][0]["logprobs"] is None


def test_the_plain_event_and_the_rare_one_read_the_same() -> None:
    plain = DIALECT.read_event(event({"index": 1, "text": "hm", "logprobs": None, "finish_reason": None}))
    rare = DIALECT.read_event(event({"index": 1, "text": "hm", "x": 1, "finish_reason": "stop"}))
    assert plain.pieces == rare.pieces
    assert (plain.finished, rare.finished) == ({}, {1: "stop"})
    assert DIALECT.read_event(b"data: [DONE]\n\n").last
    assert DIALECT.read_event(b": comment\n\n").pieces == ()


@pytest.mark.parametrize(
    "raw",
    [b"data: {\n\n", b"data: []\n\n", b'data: {"error":{}}\n\n', b'data: {"choices":7}\n\n', b"data: \xff\n\n"],
)
def test_an_event_that_cannot_be_understood_breaks_the_stream(raw: bytes) -> None:
    with pytest.raises(MalformedResponse):
        DIALECT.read_event(raw)


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b"{}", b'{"choices":[{"index":0}]}', b'{"choices":[{"text":"","index":"0"}]}']
)
def test_an_answer_that_cannot_be_understood_is_no_answer(body: bytes) -> None:
    with pytest.raises(MalformedResponse):
        DIALECT.read_reply(body)


def test_our_own_answer_has_the_surfaces_shape_streamed_or_not() -> None:
    prompt = read(prompt="x")
    body = json.loads(DIALECT.answer(prompt, "No.", "content_filter", "ID1", MEMBER))
    assert (body["object"], body["choices"][0]["text"], body["guardrail"]) == (
        "text_completion",
        "No.",
        {"action": "block"},
    )
    stream = DIALECT.answer(prompt._replace(stream=True), "No.", "stop", "ID1", MEMBER)
    events = [part[6:] for part in stream.split(b"\n\n") if part]
    assert events[-1] == b"[DONE]"
    assert [json.loads(raw)["choices"][0]["text"] for raw in events[:-1]] == ["No.", ""]
