from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrail.text.sentences import sentence_ends


def sentences(text: str) -> list[str]:
    """The certain sentences of `text`, and what is left."""
    ends = [0, *sentence_ends(text), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(ends)]


@pytest.mark.parametrize(
    "parts",
    [
        ["One.", " Two!", " Three?", " and so on"],
        ["今天很好。", "我们出门吧！", "去哪里？", "不知道"],
        ["他说：“走吧。”", "然后就走了。", "再见"],
        ['He said "go."', " Then he left.", " x"],
        ["真的吗？！", "是的……", "我想是"],
        ["A list\n", "of lines\n", "\nand more"],
        ["Done.", "\n\nNext one.", " x"],
        ["She (quietly) left.)", " x"],
        ["Wait...", " what"],
        ["I came.", " So am I.", " x"],
        ["In 2020.", " Then"],
        ["这是Python。", "好"],
        ["用的是Python.", "他说"],
    ],
)
def test_sentences_end_where_a_reader_ends_them(parts: list[str]) -> None:
    assert sentences("".join(parts)) == parts


@pytest.mark.parametrize(
    "text",
    [
        "Pi is 3.14 and e is 2.7 x",
        "see example.com or a?b=1 x",
        "Fruit, e.g. apples x",
        "Dr. Smith met J. Doe in the U.S. senate x",
        "1. first x",
        "text\n",
        "on one line",
        "他……，然后",
        "x != y",
        "...",
        "3.第一",
    ],
)
def test_what_only_looks_like_an_end_is_none(text: str) -> None:
    assert list(sentence_ends(text)) == []


def test_an_end_needs_the_character_behind_it() -> None:
    assert list(sentence_ends("完了。")) == []
    assert list(sentence_ends("完了。”")) == []
    assert list(sentence_ends("完了。”他")) == [4]


TEXTS = st.lists(
    st.sampled_from(
        ["a", "I", "Dr", "e.g", "1", "3", " ", "\n", ".", "。", "…", "!", "？", '"', "”", ")", "，", "天", "好的"]
    ),
    max_size=30,
).map("".join)


@settings(max_examples=800, deadline=None)
@given(TEXTS)
def test_no_end_is_taken_back_or_found_late_as_the_text_grows(text: str) -> None:
    whole = list(sentence_ends(text))
    for size in range(len(text) + 1):
        assert list(sentence_ends(text[:size])) == [end for end in whole if end < size]


@settings(max_examples=400, deadline=None)
@given(TEXTS)
def test_where_the_search_starts_changes_nothing_behind_it(text: str) -> None:
    whole = list(sentence_ends(text))
    for start in range(len(text) + 1):
        assert list(sentence_ends(text, start)) == [end for end in whole if end > start]
