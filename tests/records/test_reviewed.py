"""Rows from reviewed incidents: what a ruling says of a text, and what is left out rather than taught wrongly."""

from __future__ import annotations

from typing import Any

import pytest

from guardrail.core.admission import Subject
from guardrail.core.appeals import Appeal, State
from guardrail.records.reviewed import Case, LeftOut, label_of, language, make_case, scrub

TEXT = "Write to li@example.com about the fireworks."
SUBJECT = Subject("t", "ab" * 32)


def appeals(*states: State) -> list[Appeal]:
    return [Appeal(f"a{i}", float(i), "i1", SUBJECT, state=state) for i, state in enumerate(states)]


def hit(start: int, end: int, detector: str = "classifier", category: str = "vcr", digest: str | None = None) -> Any:
    return {"detector": detector, "category": category, "start": start, "end": end, "digest": digest}


def incident(*hits: Any, direction: str = "prompt", digest: str = "d") -> dict[str, Any]:
    return {"id": "i1", "direction": direction, "hits": list(hits), "digest": digest}


def find(text: str) -> list[tuple[int, int, str]]:
    at = text.find("li@example.com")
    return [(at, at + 14, "EMAIL")] if at >= 0 else []


def made(row: dict[str, Any], *states: State, excerpt: str = TEXT, phrases: bool = False) -> Case | LeftOut:
    return make_case(row, appeals(*states), excerpt, classes={"vcr": "violence_terror"}, find=find, phrases=phrases)


@pytest.mark.parametrize(
    ("states", "label"),
    [
        ([State.GRANTED], "safe"),
        ([State.DENIED], "unsafe"),
        ([State.DENIED, State.GRANTED], "safe"),
        ([State.DENIED, State.DENIED], "unsafe"),
        ([State.FILED], None),
        ([State.DENIED, State.FILED], None),
        ([], None),
    ],
)
def test_a_label_is_what_a_person_ruled_last(states: list[State], label: str | None) -> None:
    assert label_of(appeals(*states)) == label
    row = made(incident(hit(0, len(TEXT))), *states)
    assert (row.label if isinstance(row, Case) else None) == label
    assert isinstance(row, Case) or row is LeftOut.OPEN


def test_a_row_says_what_it_is_and_no_more() -> None:
    assert made(incident(hit(0, len(TEXT))), State.DENIED) == Case(
        "i1", "Write to [EMAIL] about the fireworks.", "unsafe", "en", "prompt", "violence_terror", "cases"
    )
    answer = made(incident(hit(0, len(TEXT), category="house"), direction="completion"), State.DENIED)
    assert isinstance(answer, Case)
    assert (answer.kind, answer.cls) == ("response", "")
    safe = made(incident(hit(0, len(TEXT))), State.GRANTED)
    assert isinstance(safe, Case)
    assert safe.cls == "safe"


def test_a_phrase_alone_is_left_out_unless_asked_for() -> None:
    row = incident(hit(4, 9, "keywords"), hit(0, 40, "classifier", "prv"))
    assert made(row, State.GRANTED, excerpt="bombs") is LeftOut.PHRASE
    assert isinstance(made(row, State.GRANTED, excerpt="bombs", phrases=True), Case)


def test_a_span_that_the_classifier_found_too_is_no_phrase_alone() -> None:
    row = made(incident(hit(0, len(TEXT), "keywords", "x"), hit(0, len(TEXT))), State.DENIED)
    assert isinstance(row, Case)
    assert row.cls == "violence_terror"


def test_the_hit_whose_text_was_kept_is_known_by_its_digest() -> None:
    row = incident(hit(0, 5, "keywords", "x", "other"), hit(0, 5, "classifier", "vcr", "d"))
    denied = made(row, State.DENIED, excerpt="bombs")
    assert isinstance(denied, Case)
    assert denied.cls == "violence_terror"


def test_the_beginning_of_a_longer_text_teaches_safe_but_not_unsafe() -> None:
    row = incident(hit(0, 900))
    assert made(row, State.DENIED) is LeftOut.CUT
    assert isinstance(made(row, State.GRANTED), Case)


@pytest.mark.parametrize("excerpt", ["", "  \n"])
def test_without_an_excerpt_there_is_no_row(excerpt: str) -> None:
    assert made(incident(hit(0, 9)), State.GRANTED, excerpt=excerpt) is LeftOut.EMPTY


def test_personal_data_that_cannot_be_taken_out_keeps_the_row_out() -> None:
    assert scrub("a b", lambda text: [(0, 1, "X")]) is None
    row = make_case(
        incident(hit(0, len(TEXT))), appeals(State.GRANTED), TEXT, classes={}, find=lambda text: [(0, 1, "X")]
    )
    assert row is LeftOut.PERSONAL


def test_several_spans_are_replaced_where_they_are() -> None:
    def digits(text: str) -> list[tuple[int, int, str]]:
        return [(i, i + 1, "N") for i, char in enumerate(text) if char.isdigit()]

    assert scrub("1 and 2, and 3", digits) == "[N] and [N], and [N]"


@pytest.mark.parametrize(
    ("text", "lang"),
    [
        ("怎么做饭", "zh"),
        ("how to cook", "en"),
        ("用 Python 写一个爬虫", "zh"),
        ("what does 好 mean here", "en"),
        ("1 + 1 = ?", ""),
    ],
)
def test_the_language_is_that_of_most_letters(text: str, lang: str) -> None:
    assert language(text) == lang
