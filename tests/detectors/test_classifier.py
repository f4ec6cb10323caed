"""Windows depend on the text alone; one number drives findings; an answer's cost is linear in its length."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrail.core.content import Direction
from guardrail.core.findings import Finding
from guardrail.core.frontier import Window
from guardrail.detectors.classifier import CONTEXT, MAX_NEW, MIN_NEW, ClassifierDetector, SentenceScanner
from guardrail.errors import SettingsError
from guardrail.inference.card import LabelUse
from guardrail.protocols import Detector, Priority

USES = {
    "unsafe": LabelUse("unsafe", "unsafe", flag=0.3, block=0.7, strike=0.95),
    "political": LabelUse("political", "own", flag=0.4, block=0.8, strike=0.97),
    "hate": LabelUse("hate", "class", flag=0.3, block=0.7, strike=0.95),
    "sexual": LabelUse("sexual", "class", flag=0.3, block=0.7, strike=0.95),
}


class Scores:
    """A classifier that gives each text the scores it is told to."""

    labels = ("political", "hate", "sexual", "unsafe")

    def __init__(self, rows: Sequence[tuple[float, ...]] = ()) -> None:
        self.rows = list(rows)
        self.asked: list[tuple[list[str], Priority]] = []

    async def score(self, texts: Sequence[str], priority: Priority = Priority.PROMPT) -> list[tuple[float, ...]]:
        self.asked.append((list(texts), priority))
        return self.rows[: len(texts)]

    async def start(self) -> None: ...

    async def close(self) -> None: ...


def windows_of(text: str, cuts: Sequence[int], direction: Direction = Direction.COMPLETION) -> list[Window]:
    """Feed a text in the pieces that `cuts` make and gather the windows; frontiers are checked on the way."""
    scanner = ClassifierDetector(Scores(), USES).scanner(direction, frozenset({"hate"}))
    windows: list[Window] = []
    ends = [*sorted(cuts), len(text)]
    begin, before = 0, 0
    for i, end in enumerate(ends):
        scan = scanner.feed(text[begin:end], last=i == len(ends) - 1)
        assert not scan.findings
        for at in range(begin, end + 1):
            frontier = scanner.frontier(at)
            assert before <= frontier <= at
            before = frontier
        windows.extend(scan.windows)
        begin = end
    return windows


def chinese(count: int) -> str:
    return "今天天气很好，我们去公园散步。" * count


def test_it_is_a_detector_with_the_thresholds_of_its_card() -> None:
    detector = ClassifierDetector(Scores(), USES)
    assert isinstance(detector, Detector)
    assert detector.thresholds == {"unsafe": 0.7, "political": 0.8, "hate": 0.7, "sexual": 0.7}
    assert detector.strike_thresholds["hate"] == 0.95
    assert detector.flag_thresholds["political"] == 0.4


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ((0.1, 0.8, 0.1, 0.9), {"political": 0.1, "hate": 0.9}),
        ((0.1, 0.8, 0.85, 0.9), {"political": 0.1, "hate": 0.9, "sexual": 0.9}),
        ((0.1, 0.78, 0.6, 0.9), {"political": 0.1, "hate": 0.9}),
        ((0.1, 0.7, 0.1, 0.9), {"political": 0.1, "unsafe": 0.9}),
        ((0.1, 0.1, 0.1, 0.9), {"political": 0.1, "unsafe": 0.9}),
        ((0.9, 0.0, 0.0, 0.2), {"political": 0.9, "unsafe": 0.2}),
    ],
)
async def test_the_unsafe_score_goes_to_the_classes_that_stand_out(
    row: tuple[float, ...], found: dict[str, float]
) -> None:
    detector = ClassifierDetector(Scores([row]), USES)
    [findings] = await detector.examine([Window("text", 10, 12, 14)], Priority.STREAM)
    assert {finding.category: finding.score for finding in findings} == found
    assert all(finding == Finding("classifier", finding.category, finding.score, 12, 14, 14) for finding in findings)


async def test_windows_are_scored_together_at_the_priority_asked_for() -> None:
    classifier = Scores([(0.0, 0.0, 0.0, 0.1), (0.0, 0.9, 0.0, 0.8)])
    detector = ClassifierDetector(classifier, USES)
    first, second = await detector.examine([Window("a", 0, 0, 1), Window("b", 1, 1, 2)], Priority.OFFLINE)
    assert classifier.asked == [(["a", "b"], Priority.OFFLINE)]
    assert [f.score for f in first] == [0.0, 0.1]
    assert {f.category: f.score for f in second} == {"political": 0.0, "hate": 0.8}


def test_a_card_and_a_classifier_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SettingsError, match="spam"):
        ClassifierDetector(Scores(), {"spam": LabelUse("spam")})
    with pytest.raises(SettingsError, match="one with the role"):
        ClassifierDetector(Scores(), {"hate": LabelUse("hate", "class")})
    with pytest.raises(SettingsError, match="at most one"):
        ClassifierDetector(Scores(), {"hate": LabelUse("hate", "unsafe"), "sexual": LabelUse("sexual", "unsafe")})


def test_a_prompt_is_one_window_due_when_it_ends() -> None:
    text = chinese(60)
    assert windows_of(text, [3, 500], Direction.PROMPT) == [Window(text, 0, 0, len(text) + 1)]
    assert windows_of("", [], Direction.PROMPT) == []
    assert windows_of(" \n ", [1], Direction.PROMPT) == []


def test_a_window_ends_at_the_first_sentence_end_after_enough_new_text() -> None:
    text = chinese(20)
    first, second, *_ = windows_of(text, [])
    sentence = len(chinese(1))
    new = -(-MIN_NEW // sentence) * sentence
    assert (first.offset, first.start, first.at) == (0, 0, new)
    assert first.text == text[:new]
    assert (second.start, second.at) == (new, 2 * new)
    assert second.text == text[max(0, new - CONTEXT) : 2 * new]


def test_english_sentences_end_before_white_space_only() -> None:
    filler = "a" * MIN_NEW
    [window, rest] = windows_of(f"{filler} costs 3.14 at example.com today. And then", [])
    assert window.text.endswith("today. ")
    assert rest.start == window.at
    [window, _] = windows_of(f"{filler}\nmore", [])
    assert window.text == f"{filler}\n"


def test_text_without_sentence_ends_is_cut_at_a_fixed_length() -> None:
    windows = windows_of("x" * (2 * MAX_NEW + 5), [])
    assert [window.start for window in windows] == [0, MAX_NEW, 2 * MAX_NEW]
    assert [window.at for window in windows] == [MAX_NEW, 2 * MAX_NEW, 2 * MAX_NEW + 6]


def test_the_end_of_a_text_is_a_window_of_its_own_even_when_short() -> None:
    assert windows_of("短。", []) == [Window("短。", 0, 0, 3)]
    assert windows_of("", []) == []
    exact = "x" * (MIN_NEW - 1) + "。"
    assert windows_of(exact, []) == [Window(exact, 0, 0, MIN_NEW)]
    assert windows_of(exact + " \n", []) == [Window(exact, 0, 0, MIN_NEW)]


TEXT = st.text(st.sampled_from("ab好。！ \n.?x"), min_size=1, max_size=60).flatmap(
    lambda part: st.integers(1, 60).map(lambda times: part * times)
)


@settings(max_examples=200, deadline=None)
@given(TEXT, st.lists(st.integers(0, 2_000), max_size=12))
def test_chunking_cannot_move_a_window(text: str, cuts: list[int]) -> None:
    whole = windows_of(text, [])
    assert windows_of(text, [min(cut, len(text)) for cut in cuts]) == whole
    position = 0
    for window in whole:
        assert window.start == position
        assert text[window.offset : window.offset + len(window.text)] == window.text
        assert window.start - window.offset <= CONTEXT
        position = window.offset + len(window.text)
    assert not text[position:].strip()


def test_the_whole_cost_of_an_answer_is_linear_in_its_length() -> None:
    def cost(count: int) -> float:
        text = chinese(count)
        return sum(len(window.text) for window in windows_of(text, range(0, len(text), 7))) / len(text)

    assert cost(1_000) < 1.3 * cost(100)
    assert cost(1_000) < (CONTEXT + MIN_NEW + 20) / MIN_NEW + 0.1


def test_the_scanner_keeps_no_more_text_than_it_needs() -> None:
    scanner = SentenceScanner()
    for _ in range(200):
        scanner.feed(chinese(5), last=False)
    assert len(scanner._text) <= CONTEXT + MAX_NEW
    assert len(scanner._ends) < 10
