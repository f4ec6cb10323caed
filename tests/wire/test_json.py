"""JSON is read strictly, and changed only where it must be."""

from __future__ import annotations

import pytest

from guardrail.errors import MalformedRequest
from guardrail.wire import json


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"a":1} {"b":2}',
        b'{"a":1,"a":2}',
        b'{"x":[{"a":1,"a":1}]}',
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":"\\ud800"}',
        b'{"\\udfff":1}',
        b'{"a":"\xff"}',
        b"[" * 100_000,
        b'{"a":' + b"9" * 5000 + b"}",
    ],
)
def test_what_two_readers_could_take_differently_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedRequest):
        json.decode(body)


def test_what_is_plain_is_read() -> None:
    assert json.decode(b' {"a": [1, 2.5, null, "\\u4e2d\\ud83d\\ude00"]}\r\n') == {"a": [1, 2.5, None, "中😀"]}


def test_a_changed_value_leaves_the_bytes_of_its_neighbours() -> None:
    body = b'{"a":1.0e5,"b":[{"c":"old","d":0.10},2],"e":"\\u0041"}'
    changed = json.replace(body, {("b", 0, "c"): "new"})
    assert changed == b'{"a":1.0e5,"b":[{"c":"new","d":0.10},2],"e":"\\u0041"}'
    assert json.replace(body, {}) is body
    assert json.replace(b'{"a":{}}', {("a", "n"): None}) == b'{"a":{"n":null}}'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b'{"a":1}', b'{"a":1,"g":{}}'),
        (b"{}", b'{"g":{}}'),
        (b"{ }\n", b'{ "g":{}}\n'),
        (b'data: {"a":{"b":1}}\n\n', b'data: {"a":{"b":1},"g":{}}\n\n'),
    ],
)
def test_a_member_is_added_at_the_end_of_the_outermost_object(text: bytes, expected: bytes) -> None:
    assert json.add_member(text, "g", b"{}") == expected


def test_every_text_within_a_value_is_found_with_its_place() -> None:
    value = {"a": "x", "b": [{"c": "y"}, "", 3, None], "d": {"e": ["z"]}}
    assert list(json.strings(value, ("root",))) == [
        (("root", "a"), "x"),
        (("root", "b", 0, "c"), "y"),
        (("root", "d", "e", 0), "z"),
    ]
