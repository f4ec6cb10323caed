"""Events are split on CR, LF and CRLF alone, whatever pieces the bytes come in, and not a byte is lost."""

from __future__ import annotations

import random

import pytest

from guardrail.errors import MalformedResponse
from guardrail.wire import sse

STREAM = (
    'data: {"t":"a\u2028b\u0085c"}\n\n: comment\n\nevent: x\ndata: one\ndata: two\n\ndata: 中文\n\ndata: [DONE]\n\n'
).encode()


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_events_do_not_depend_on_how_the_bytes_are_cut(end: bytes) -> None:
    raw = STREAM.replace(b"\n", end)
    dice = random.Random(5)
    for _ in range(300):
        splitter, events, at = sse.Splitter(), list[bytes](), 0
        while at < len(raw):
            size = dice.choice([1, 2, 3, 7, 40, len(raw)])
            events += splitter.feed(raw[at : at + size])
            at += size
        rest = splitter.finish()
        if rest:
            events.append(rest)
        assert [sse.data(event) for event in events] == [
            '{"t":"a\u2028b\u0085c"}'.encode(),
            None,
            b"one\ntwo",
            "中文".encode(),
            b"[DONE]",
        ]
        if end != b"\r":  # a lone CR at the very end may be half of a CRLF: it is closed with LF instead
            assert b"".join(events) == raw


def test_what_ends_without_its_blank_line_is_closed_and_kept() -> None:
    splitter = sse.Splitter()
    assert splitter.feed(b"data: a\n\ndata: b") == [b"data: a\n\n"]
    assert splitter.finish() == b"data: b\n\n"
    assert splitter.finish() == b""


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: x\n\n", b"x"),
        (b"data:x\n\n", b"x"),
        (b"data:  x\n\n", b" x"),
        (b"\xef\xbb\xbfdata: x\n\n", b"x"),
        (b"id: 1\nretry: 5\n\n", None),
        (b"data\n\n", b""),
    ],
)
def test_the_data_of_an_event_is_what_the_standard_says(event: bytes, data: bytes | None) -> None:
    assert sse.data(event) == data


def test_data_of_several_lines_stays_data() -> None:
    assert sse.event(b'{"a":\n1,\r\n"b":2}') == b'data: {"a":\ndata: 1,\ndata: "b":2}\n\n'
    assert sse.data(sse.event(b"one\ntwo")) == b"one\ntwo"


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_an_event_can_have_the_other_lines_of_another(end: bytes) -> None:
    like = b"id: 1\nevent: token\ndata: a\ndata: b\ndata\nretry: 5\n\n".replace(b"\n", end)
    assert sse.event_like(b"new", like) == b"id: 1\nevent: token\nretry: 5\ndata: new\n\n"
    assert sse.event_like(b"new", sse.without_id(like)) == b"event: token\nretry: 5\ndata: new\n\n"
    assert sse.event_like(b"new", b"data: old" + end * 2) == b"data: new\n\n"


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"])
def test_an_event_that_does_not_end_is_not_kept_for_ever(end: bytes) -> None:
    splitter = sse.Splitter()
    piece = b"data: " + b"a" * (1 << 20)
    for _ in range(20):
        assert splitter.feed(piece + end)
    for _ in range(7):
        assert splitter.feed(piece + end[: len(end) // 2]) == []
    with pytest.raises(MalformedResponse):
        splitter.feed(piece * 2)
