"""Lines are split at LF alone, whatever pieces the bytes come in, and not a byte is lost."""

from __future__ import annotations

import json
import random

import pytest

from guardrail.errors import MalformedResponse
from guardrail.wire import jsonl

STREAM = '{"t":"a\u2028b\u0085c\x0b"}\n\n{"t":"中文"}\n \t\n{"t":"😀"}\n'.encode()


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_lines_do_not_depend_on_how_the_bytes_are_cut(end: bytes) -> None:
    raw = STREAM.replace(b"\n", end)
    dice = random.Random(5)
    whole = [line + b"\n" for line in raw.split(b"\n")[:-1]]
    for _ in range(300):
        splitter, lines, at = jsonl.Splitter(), list[bytes](), 0
        while at < len(raw):
            size = dice.choice([1, 2, 3, 7, 40, len(raw)])
            lines += splitter.feed(raw[at : at + size])
            at += size
        assert splitter.finish() == b""
        assert lines == whole
    texts = [jsonl.data(line) for line in whole]
    assert [text is None for text in texts] == [False, True, False, True, False]


def test_what_ends_without_its_line_feed_is_closed_and_kept() -> None:
    splitter = jsonl.Splitter()
    assert splitter.feed(b'{"a":1}\n{"b"') == [b'{"a":1}\n']
    assert splitter.feed(b":2}") == []
    assert splitter.finish() == b'{"b":2}\n'
    assert splitter.finish() == b""
    assert splitter.feed(b" \r") == []
    assert splitter.finish() == b""


def test_a_line_that_we_write_is_one_line_for_whoever_reads_it() -> None:
    said = "one\u2028two\u2029three\u0085four\nfive\r\x0b\x0c\x1c\x1d\x1e"
    line = jsonl.event(json.dumps(said, ensure_ascii=False).encode())
    [read] = line.decode().splitlines()
    assert json.loads(read) == said


def test_a_byte_order_mark_is_no_part_of_the_first_line() -> None:
    assert jsonl.data(b'\xef\xbb\xbf{"a":1}\r\n') == b'{"a":1}'


def test_a_line_that_does_not_end_is_not_kept_for_ever() -> None:
    splitter = jsonl.Splitter()
    piece = b"a" * (1 << 20)
    for _ in range(20):
        assert splitter.feed(piece + b"\n")
    for _ in range(8):
        assert splitter.feed(piece) == []
    with pytest.raises(MalformedResponse):
        splitter.feed(b"a")
