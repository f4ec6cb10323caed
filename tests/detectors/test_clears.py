"""A quick look that clears a text is never wrong: whatever a scanner would find or ask, the quick look has seen."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from guardrail.core.content import Direction
from guardrail.core.lexicon import PhraseList
from guardrail.detectors.keywords.detector import KeywordDetector
from guardrail.detectors.pii.detector import PiiDetector

LISTS = {
    "latin": PhraseList(("kaboom", "how to boom", "AV"), patterns=(r"steal .{1,10} cards",)),
    "han": PhraseList(("炸弹制作", "假身份证"), exceptions=("反假身份证宣传",)),
}
PIECES = [
    "kaboom", "KA\u200bBOOM", "how  to\nboom", "java", " AV ", "ＡＶ", "steal my cards", "炸弹", "制作", "假身份证",
    "反假身份证宣传", "\u200b" * 70, "hello ", "一些 ", "13800138000", "bob@example.com", "4111 1111 1111 1111",
    "11010519491231002X", "192.168.0.1", "2024-01-02", "order 123456", "GB82 WEST 1234 5698 7654 32", "078-05-1120",
    "é", "e\u0301", "…", "。", "\n\n", "  ",
]  # fmt: skip


def batches(count: int) -> list[list[str]]:
    """One to three texts each, as the messages of one request."""
    rng = random.Random(4)
    return [
        ["".join(rng.choices(PIECES, k=rng.randint(1, 4))) for _ in range(rng.choice((1, 1, 2, 3)))]
        for _ in range(count)
    ]


Make = Callable[[], KeywordDetector | PiiDetector]


@pytest.mark.parametrize("make", [lambda: KeywordDetector(LISTS), PiiDetector], ids=["keywords", "pii"])
def test_a_text_that_is_cleared_holds_nothing_that_a_scanner_would_find_or_ask(make: Make) -> None:
    detector = make()
    labels = frozenset(detector.thresholds)
    cleared = 0
    for some in batches(6_000):
        if detector.clears(some, Direction.PROMPT, labels):
            cleared += 1
            for text in some:
                found = detector.scanner(Direction.PROMPT, labels).feed(text, last=True)
                assert not found.findings, some
                assert not found.windows, some
    assert 500 < cleared < 5_500, "the texts would show nothing"


@pytest.mark.parametrize("make", [lambda: KeywordDetector(LISTS), PiiDetector], ids=["keywords", "pii"])
def test_ordinary_prose_is_cleared(make: Make) -> None:
    detector = make()
    for text in ("Tell me about the small town by the river.", "请介绍一下这座河边小镇的历史。", ""):
        assert detector.clears([text], Direction.PROMPT, frozenset(detector.thresholds))


def test_a_pattern_that_asks_where_the_text_begins_is_asked_of_each_text_by_itself() -> None:
    detector = KeywordDetector({"opening": PhraseList((), patterns=("^ignore all", "at the end$"))})
    labels = frozenset({"opening"})
    assert detector.clears(["We ignore all of it", "not at the end of it"], Direction.PROMPT, labels)
    assert not detector.clears(["Hello", "ignore all of it"], Direction.PROMPT, labels)
    assert not detector.clears(["it is at the end", "Hello"], Direction.PROMPT, labels)
