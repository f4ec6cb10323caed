"""Surfaces that answer with numbers, pictures or sound: what is read, what passes, what a stop takes away."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest

from guardrail.core.surface import Ending, Prompt
from guardrail.errors import MalformedRequest, MalformedResponse, Unreadable
from guardrail.wire.openai_embeddings import OpenAIEmbeddings
from guardrail.wire.openai_media import OpenAIImages, OpenAISpeech
from guardrail.wire.textless import Textless

EMBEDDINGS, IMAGES, SPEECH = OpenAIEmbeddings(), OpenAIImages(), OpenAISpeech()
MEMBER = b'{"action":"allow"}'


def read(dialect: Textless, **request: Any) -> Prompt:
    return dialect.read_prompt(json.dumps({"model": "m", **request}).encode())


@pytest.mark.parametrize(
    ("dialect", "request_"),
    [
        (EMBEDDINGS, {}),
        (EMBEDDINGS, {"input": []}),
        (EMBEDDINGS, {"input": {"text": "hi"}}),
        (IMAGES, {}),
        (IMAGES, {"prompt": ["hi"]}),
        (IMAGES, {"prompt": "hi", "n": "two"}),
        (IMAGES, {"prompt": "hi", "stream": 1}),
        (SPEECH, {"input": 7}),
        (SPEECH, {"input": "hi", "instructions": ["x"]}),
    ],
)
def test_what_a_surface_does_not_define_is_malformed(dialect: Textless, request_: dict[str, Any]) -> None:
    with pytest.raises(MalformedRequest):
        read(dialect, **request_)


@pytest.mark.parametrize(("given", "param"), [([1, 2], "input"), ([[1], [2]], "input[0]"), (["text", [2]], "input[1]")])
def test_token_ids_are_refused_by_embeddings(given: Any, param: str) -> None:
    with pytest.raises(Unreadable) as caught:
        read(EMBEDDINGS, input=given)
    assert (caught.value.status, caught.value.param) == (422, param)


def test_each_surface_says_what_its_answers_are() -> None:
    assert read(EMBEDDINGS, input="hi").media == "vector"
    assert read(SPEECH, input="hi").media == "audio"
    images = read(IMAGES, prompt="hi", n=3, stream=True, user="u-1")
    assert (images.media, images.choices, images.stream, images.end_user) == ("image", 3, True, "u-1")


def test_a_parameter_is_screened_when_it_reads_like_a_text() -> None:
    prompt = read(IMAGES, prompt="a cat", style="vivid", size="1024x1024", quality="as bad as can be")
    assert [segment.text for segment in prompt.content.segments] == ["a cat", "as bad as can be"]
    assert [segment.latest for segment in prompt.content.segments] == [True, False]


# -- embeddings ------------------------------------------------------------------------------------------------------


def test_vectors_pass_as_numbers_or_base64_byte_for_byte() -> None:
    packed = base64.b64encode(struct.pack("<3f", 0.1, -2.0, 3.5)).decode()
    raw = (
        b'{ "object":"list", "model":"m", "data":[ {"object":"embedding","index":0,"embedding":[0.10, -1.0e-2, 3]},'
        b'{"object":"embedding","index":1,"embedding":"' + packed.encode() + b'"} ], "usage":{"total_tokens":2}}'
    )
    event = EMBEDDINGS.read_reply(raw)
    assert event.pieces == ()
    assert EMBEDDINGS.write_reply(event, {}, {}, {}, MEMBER) == raw[:-1] + b',"guardrail":' + MEMBER + b"}"


@pytest.mark.parametrize("hidden", ['"no vector at all"', '[0.1, "a text"]', '{"a": "text"}', '"abc"'])
def test_what_stands_in_a_vectors_place_is_screened_if_it_is_text(hidden: str) -> None:
    event = EMBEDDINGS.read_reply(b'{"data":[{"embedding":' + hidden.encode() + b"}]}")
    assert len(event.pieces) == 1


@pytest.mark.parametrize("body", [b"{", b"[]", b"{}", b'{"data":7}', b'{"data":[7]}', b'{"data":"\xff"}'])
def test_an_answer_that_is_no_list_of_embeddings_is_no_answer(body: bytes) -> None:
    with pytest.raises(MalformedResponse):
        EMBEDDINGS.read_reply(body)


def test_embeddings_have_no_streams() -> None:
    with pytest.raises(MalformedResponse):
        EMBEDDINGS.read_event(b'data: {"a":1}\n\n')


# -- pictures and sound ----------------------------------------------------------------------------------------------


def test_a_picture_goes_with_the_text_beside_it_that_is_stopped() -> None:
    items = [
        {"b64_json": "AAAA", "revised_prompt": "fine"},
        {"url": "https://a.example/b", "revised_prompt": "ok then bad"},
    ]
    event = IMAGES.read_reply(json.dumps({"created": 1, "data": items}).encode())
    assert [(piece.lane, piece.text) for piece in event.pieces] == [
        ((0, "revised_prompt"), "fine"),
        ((1, "revised_prompt"), "ok then bad"),
    ]
    written = IMAGES.write_reply(event, {event.pieces[1].path: "ok then "}, {1: Ending()}, {}, MEMBER)
    assert json.loads(written)["data"] == [items[0], {"url": None, "revised_prompt": "ok then "}]
    all_gone = json.loads(IMAGES.write_reply(event, {}, {-1: Ending()}, {}, MEMBER))
    assert [item.get("b64_json") or item.get("url") for item in all_gone["data"]] == [None, None]


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        ("AAAA", []),
        ("https://images.example/a?b=c%20d", []),
        ("", []),
        ("two words", ["two words"]),
        ("\u4e2d\u6587", ["\u4e2d\u6587"]),
        (["AAAA"], ["AAAA"]),
    ],
)
def test_what_stands_in_a_pictures_place_is_screened_if_it_reads_like_text(value: Any, texts: list[str]) -> None:
    event = IMAGES.read_reply(json.dumps({"data": [{"b64_json": value}]}).encode())
    assert [piece.text for piece in event.pieces] == texts


def test_the_event_that_completes_an_answer_carries_our_object_and_keeps_its_name() -> None:
    raw = b'event: image_generation.completed\ndata: {"type":"image_generation.completed","b64_json":"AA=="}\n\n'
    event = IMAGES.read_event(raw)
    assert event.finished == {0: "image_generation.completed"}
    assert IMAGES.mark_event(raw, MEMBER) == raw[:-3] + b',"guardrail":' + MEMBER + b"}\n\n"
    assert SPEECH.read_event(b'data: {"type":"speech.audio.done"}\n\n').finished == {0: "speech.audio.done"}
    assert SPEECH.read_event(b'data: {"type":"speech.audio.delta","audio":"AA=="}\n\n').finished == {}


def test_a_changed_event_keeps_its_name() -> None:
    event = IMAGES.read_event(b'event: a.b\r\ndata: {"type":"a.b","note":"bad words"}\r\n\r\n')
    written = IMAGES.write_event(event, {event.pieces[0].path: "[X]"})
    assert written.startswith(b"event: a.b")
    assert json.loads(written.partition(b"data: ")[2]) == {"type": "a.b", "note": "[X]"}


def test_a_stopped_stream_ends_with_an_error_event() -> None:
    name, data = IMAGES.close(None, [0], b'{"action":"block"}').split(b"\n", 1)
    assert name == b"event: error"
    body = json.loads(data[6:])
    assert (body["error"]["code"], body["guardrail"]["action"]) == ("content_filter", "block")


@pytest.mark.parametrize("raw", [b"data: {\n\n", b"data: 7\n\n", b'data: {"error":{"message":"x"}}\n\n'])
def test_an_event_that_cannot_be_understood_breaks_the_stream(raw: bytes) -> None:
    with pytest.raises(MalformedResponse):
        SPEECH.read_event(raw)
