"""JSON text in pieces is read as what it means, whatever its escapes and wherever it is cut."""

from __future__ import annotations

import json
import random

import pytest

from guardrail.wire.escapes import Unescaped, written


def read(*pieces: str) -> tuple[str, str]:
    """What these pieces are as JSON text, and to read."""
    text = Unescaped()
    fed = [text.feed(piece) for piece in pieces]
    return "".join(raw for raw, _ in fed), "".join(plain for _, plain in fed)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("{}", "{}"),
        (r'"\u7981\u6b62"', '"禁止"'),
        (r'"\ud83d\ude00"', '"😀"'),
        (r'"\u0022\u005c\u0007"', r'"\u0022\u005c\u0007"'),
        (r'"\"\\u7981"', r'"\"\\u7981"'),
        (r'"\\\u7981"', r'"\\禁"'),
        (r'"a\nb\tc"', '"a\vb\fc"'),
        (r'"\ud83d!"', r'"\ud83d!"'),
        (r'"\ude00"', r'"\ude00"'),
        (r'"\uzz"', r'"\uzz"'),
    ],
)
def test_an_escape_reads_as_its_character_where_json_can_hold_that(text: str, plain: str) -> None:
    assert read(text) == (text, plain)
    assert read(*text) == (text, plain), "and so it does in pieces of one character"


def test_an_escape_cut_in_two_belongs_to_the_next_piece() -> None:
    text = Unescaped()
    assert text.feed(r"a\u79") == ("a", "a")
    assert text.feed("81b") == (r"\u7981b", "禁b")


def test_what_was_read_is_json_again_with_the_same_meaning() -> None:
    rng = random.Random(3)
    for _ in range(2000):
        value = {"k": "".join(rng.choices('ab"\\/\n\t\b禁止😀é\u2028\u0000', k=rng.randint(0, 12)))}
        text = json.dumps(value, ensure_ascii=rng.random() < 0.7)
        cuts = sorted(rng.randrange(len(text) + 1) for _ in range(rng.randint(0, 4)))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        raw, plain = read(*pieces)
        assert raw == text
        assert json.loads(written(plain)) == value
