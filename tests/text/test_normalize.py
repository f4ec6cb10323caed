from __future__ import annotations

import re
import sys
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from guardrail.text import characters
from guardrail.text.normalize import fold, fold_cluster, normalise, settled, squeeze

EVERY = [chr(point) for point in range(sys.maxunicode + 1) if not 0xD800 <= point < 0xE000]
EXTENDING = re.compile(f"[{characters.EXTENDING}]")
IGNORABLE = re.compile(f"[{characters.IGNORABLE}]")

ALPHABET = st.one_of(
    st.sampled_from(
        list("abeoK1 .-\n\t\u3000\xa0，。！刀天気가각かは<=ßﬁ㎏…½ｈＡ７´¨İıſͅﾞ\u1161\u11a8ᄀㅏﾡ\u0e33😀𑄮🄐\ud83d")
    ),
    st.sampled_from(list("\u0301\u0308\u0323\u0327\u3099\u200b\u200d\xad\ufe0f\U000e0061\u202e\x00\u0345")),
    st.characters(),
)
TEXTS = st.lists(ALPHABET, max_size=24).map("".join)


def test_case_width_marks_and_white_space_are_made_equal() -> None:
    assert normalise("Ｈe\u200bＬLO \n\t W\xadorld Cafe\u0301 ㎏ 今天，好").text == "hello world café kg 今天,好"


def test_ascii_and_ordinary_chinese_need_no_offset_map() -> None:
    assert normalise("Plain English, with a line.\nAnd one more.").offsets.layers == ()
    assert normalise("今天天气很好，我们去公园。").offsets.layers == ()


@pytest.mark.parametrize(
    ("original", "found", "expected"),
    [
        ("x  \n the  B\u200bo\u0301mb!", "bómb", "B\u200bo\u0301mb"),
        ("a\ufb03x", "f", "\ufb03"),
        ("12㎏…", "kg", "㎏"),
        ("\u202eＡＶ\u202c", "av", "ＡＶ"),
        ("か\u3099く", "がく", "か\u3099く"),
        ("ᄀ\u1161\u11a8인", "각", "ᄀ\u1161\u11a8"),
        ("two\n\n\nlines", "two lines", "two\n\n\nlines"),
    ],
)
def test_a_span_of_the_result_maps_to_the_characters_it_came_from(original: str, found: str, expected: str) -> None:
    text, offsets = normalise(original)
    start = text.index(found)
    assert original[offsets.start(start) : offsets.end(start + len(found))] == expected


def test_every_mark_of_unicode_is_known_to_extend_what_comes_before() -> None:
    assert not [char for char in EVERY if unicodedata.category(char)[0] == "M" and not EXTENDING.match(char)
                and not IGNORABLE.match(char)]  # fmt: skip


def test_whatever_may_compose_with_the_character_before_it_is_known_to_extend() -> None:
    seconds = set()
    for char in EVERY:
        parts = unicodedata.normalize("NFD", char)
        if len(parts) > 1 and unicodedata.normalize("NFC", parts) == char:
            seconds.update(parts[1:])
    first = [char for char in EVERY if unicodedata.normalize("NFKD", char)[0] in seconds]
    assert not [char for char in seconds.union(first) if not EXTENDING.match(char) and not IGNORABLE.match(char)]


def test_nothing_composes_with_a_closed_character() -> None:
    marks = [char for char in EVERY if EXTENDING.match(char)]
    composing = {unicodedata.normalize("NFD", char)[0] for char in EVERY if len(unicodedata.normalize("NFD", char)) > 1}
    for closed in filter(characters.is_closed, EVERY):
        folded = fold_cluster(closed)
        assert folded[-1] not in composing or all(fold_cluster(closed + m) == folded + fold_cluster(m) for m in marks)


def test_folding_a_second_time_changes_nothing() -> None:
    squeezed = [char for char in EVERY if not char.isspace() or char == " "]
    assert not [char for char in squeezed if fold(fold_cluster(char))[0] != fold_cluster(char)]


def test_a_mark_does_not_change_the_word_class_of_what_it_composes_with() -> None:
    for char in EVERY:
        parts = unicodedata.normalize("NFD", char)
        if len(parts) > 1 and unicodedata.normalize("NFC", parts) == char:
            assert characters.word_class(char) == characters.word_class(parts[0]), hex(ord(char))


def test_a_spacing_accent_does_not_become_a_space() -> None:
    assert normalise("a´b").text == "a´b"


def test_half_a_surrogate_pair_becomes_the_replacement_character() -> None:
    assert normalise("a\ud83db").text == "a\ufffdb"
    assert normalise("a\ud83d").text.encode() == b"a\xef\xbf\xbd"


def test_a_tower_of_marks_is_cut_into_clusters_of_bounded_length() -> None:
    text, offsets = normalise("e" + "\u0301" * 100)
    assert text[0] == "é"
    assert offsets.end(1) == 32


@settings(max_examples=600, deadline=None)
@given(TEXTS)
def test_every_normalised_character_maps_into_the_text_in_order(original: str) -> None:
    text, offsets = normalise(original)
    starts = [offsets.start(index) for index in range(len(text))]
    ends = [offsets.end(index + 1) for index in range(len(text))]
    assert starts == sorted(starts)
    assert ends == sorted(ends)
    for index, (start, end) in enumerate(zip(starts, ends, strict=True)):
        assert 0 <= start < end <= len(original)
        assert text[index] in normalise(original[start:end]).text
    assert offsets.start(len(text)) == len(original)


@settings(max_examples=600, deadline=None)
@given(TEXTS, TEXTS)
def test_what_is_settled_does_not_change_with_what_comes_next(head: str, tail: str) -> None:
    squeezed, _ = squeeze(head)
    folded, layer = fold(squeezed)
    whole = normalise(head + tail).text
    assert whole.startswith(folded[: settled(squeezed, layer)])


@settings(max_examples=600, deadline=None)
@given(TEXTS, TEXTS)
def test_a_text_cut_where_it_is_settled_normalises_to_its_parts(head: str, tail: str) -> None:
    squeezed, _ = squeeze(head)
    folded, layer = fold(squeezed)
    if settled(squeezed, layer) == len(folded):
        rest = normalise(tail, after_space=squeezed.endswith(" "))
        assert normalise(head + tail).text == folded + rest.text


@settings(max_examples=400, deadline=None)
@given(TEXTS)
@example("´ㅏ")
def test_normalised_text_is_normal(original: str) -> None:
    text = normalise(original).text
    assert "  " not in text
    assert not IGNORABLE.search(text)
    for char in text:
        assert fold_cluster(char) == char
