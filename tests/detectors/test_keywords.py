from __future__ import annotations

import random
import threading
import time
import tracemalloc

import pytest

from guardrail.core.content import Direction
from guardrail.core.findings import Finding
from guardrail.core.lexicon import MatchMode, PhraseError, PhraseList
from guardrail.detectors.keywords import KeywordDetector
from guardrail.errors import PolicyError
from guardrail.protocols import Detector, Priority

HIDDEN = "hidden-characters"


def find(detector: KeywordDetector, *pieces: str, labels: frozenset[str] = frozenset({"x"})) -> list[Finding]:
    scanner = detector.scanner(Direction.COMPLETION, labels)
    found: list[Finding] = []
    for number, piece in enumerate(pieces):
        found += scanner.feed(piece, last=number == len(pieces) - 1).findings
    return found


def texts(phrases: PhraseList, text: str) -> list[str]:
    return [text[finding.start : finding.end] for finding in find(KeywordDetector({"x": phrases}), text)]


def terms(*words: str, match: MatchMode = "auto") -> PhraseList:
    return PhraseList(words, match=match)


# -- what is found ---------------------------------------------------------------------------------------------------


def test_it_is_a_detector() -> None:
    assert isinstance(KeywordDetector({}), Detector)


@pytest.mark.parametrize(
    ("term", "text", "hits"),
    [
        ("AV", "watch av now", ["av"]),
        ("AV", "java", []),
        ("AV", "看AV片", ["AV"]),
        ("AV", "ＡＶ", ["ＡＶ"]),
        ("AV", "AV1", []),
        ("AV", "AV_1", ["AV"]),
        ("c4", "make c4.", ["c4"]),
        ("c4", "c45", []),
        ("刀", "菜刀片", ["刀"]),
        ("bad word", "a BAD \n word.", ["BAD \n word"]),
        ("bad word", "bad words", []),
        ("bomb", "b\u200bo\u00admb\u200b", ["b\u200bo\u00admb"]),
        ("café", "cafe\u0301", ["cafe\u0301"]),
        ("cafe", "cafe\u0301", []),
        ("cafe", "cafe\u200b\u0301", []),
        ("бомба", "бомбардир", []),
        ("straße", "STRASSE", ["STRASSE"]),
    ],
)
def test_a_term_matches_where_its_edges_allow_it(term: str, text: str, hits: list[str]) -> None:
    assert texts(terms(term), text) == hits


def test_match_substring_finds_a_term_inside_of_words() -> None:
    assert texts(terms("AV", match="substring"), "java lava") == ["av", "av"]


def test_match_word_wants_a_boundary_at_any_script() -> None:
    assert texts(terms("刀", match="word"), "菜刀 刀,刀a") == ["刀", "刀"]


def test_overlapping_terms_are_all_found() -> None:
    assert sorted(texts(terms("天气", "天气预报", "气预"), "天气预报")) == ["天气", "天气预报", "气预"]


def test_a_pattern_is_found_without_regard_to_case_and_at_its_longest() -> None:
    assert texts(PhraseList(patterns=(r"ignore (all|all previous) rules?",)), "Ignore all\nPREVIOUS rules") == [
        "Ignore all\nPREVIOUS rules"
    ]


def test_a_match_inside_of_an_exception_does_not_count() -> None:
    phrases = PhraseList(("kill", "自杀"), ("dea[dr]",), ("kill the process", "防自杀热线", "dear all"))
    assert texts(phrases, "kill the process, 防自杀热线, dear all") == []
    assert texts(phrases, "kill the processes, 自杀热线, dead") == ["kill", "自杀", "dead"]
    assert texts(phrases, "kill the") == ["kill"]


def test_an_exception_of_one_list_says_nothing_of_another() -> None:
    detector = KeywordDetector({"x": PhraseList(("kill",), exceptions=("kill time",)), "y": terms("kill")})
    found = find(detector, "kill time", labels=frozenset({"x", "y"}))
    assert [finding.category for finding in found] == ["y"]


def test_only_the_labels_asked_for_are_reported() -> None:
    detector = KeywordDetector({"x": terms("one"), "y": terms("one", "two"), "z": PhraseList(patterns=("on.",))})
    found = find(detector, "one two", labels=frozenset({"y", "z"}))
    assert sorted((finding.category, finding.start) for finding in found) == [("y", 0), ("y", 4), ("z", 0)]


def test_a_detector_without_lists_finds_nothing() -> None:
    assert find(KeywordDetector({}), "anything at all", labels=frozenset()) == []


# -- when it is certain ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phrases", "text", "at"),
    [
        (terms("天气"), "今天天气好", 4),
        (terms("天气"), "天气", 2),
        (terms("bomb"), "a bomb.", 7),
        (terms("bomb"), "a bomb", 7),
        (terms("bomb"), "a bomb\u200b\u200b.", 9),
        (terms("bomb", match="substring"), "bombs", 5),
        (PhraseList(("天气",), exceptions=("天气预报",)), "天气预警", 4),
        (PhraseList(("天气",), exceptions=("天气预报",)), "天气预", 4),
        (PhraseList(patterns=("天.{0,2}气",)), "天气很好的", 4),
    ],
)
def test_a_finding_is_certain_with_the_last_character_it_depends_on(phrases: PhraseList, text: str, at: int) -> None:
    (finding,) = find(KeywordDetector({"x": phrases}), *text, "")
    assert finding.at == at


@pytest.mark.parametrize(
    ("phrases", "text", "frontier"),
    [
        (terms("bomb"), "nothing here", 12),
        (terms("bomb"), "a bo", 2),
        (terms("bomb"), "carbo", 5),
        (terms("bomb"), "a bomb", 2),
        (terms("bomb"), "a bombs", 7),
        (terms("天气"), "今天", 1),
        (terms("天气"), "天气", 2),
        (terms("café"), "a caf", 2),
        (terms("café"), "a cafe", 2),
        (terms("cafes"), "a café", 2),
        (terms("bad word"), "so bad \n\n", 3),
        (PhraseList(("天气",), exceptions=("天气预报",)), "今天气预", 1),
        (PhraseList(("天气",), exceptions=("好天气",)), "好", 1),
        (PhraseList(patterns=("天.{0,2}气",)), "一二三四五六", 3),
    ],
)
def test_the_frontier_holds_what_may_become_a_match_and_no_more(phrases: PhraseList, text: str, frontier: int) -> None:
    scanner = KeywordDetector({"x": phrases}).scanner(Direction.COMPLETION, frozenset({"x"}))
    scanner.feed(text, last=False)
    assert scanner.frontier(len(text)) == frontier


# -- hidden characters -----------------------------------------------------------------------------------------------


def test_more_than_64_ignorable_characters_in_a_row_are_a_finding_of_their_own() -> None:
    detector = KeywordDetector({"x": terms("bomb")})
    hidden = "".join(
        chr(0xE0000 + ord(letter)) for letter in "a message that no reader sees, for another model to obey" * 3
    )
    (first, *_) = find(detector, "hi " + hidden, labels=frozenset({HIDDEN}))
    assert (first.category, first.start, first.end, first.at) == (HIDDEN, 3, 68, 68)
    assert find(detector, "hi " + hidden[:64] + "!", labels=frozenset({HIDDEN})) == []
    assert find(detector, "hi " + hidden) == []


def test_what_is_left_of_a_run_when_its_findings_are_taken_out_is_at_most_64_long() -> None:
    detector = KeywordDetector({})
    for size in range(0, 400, 7):
        found = find(detector, "a", "\u200b" * size, "b", labels=frozenset({HIDDEN}))
        assert size - sum(finding.end - finding.start for finding in found) <= 64


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phrases", "part", "index", "says"),
    [
        (terms("ok", " \u200b "), "terms", 1, "empty"),
        (terms("a"), "terms", 0, "single letter"),
        (terms("刀", "!"), "terms", 1, "single letter"),
        (terms("x" * 65), "terms", 0, "at most 64"),
        (terms("Same  term", "ok", "ｓame term"), "terms", 2, r"terms\[0\]"),
        (PhraseList(("ok",), exceptions=("",)), "exceptions", 0, "empty"),
        (PhraseList(patterns=("fine", "a.*b")), "patterns", 1, "any length"),
        (PhraseList(patterns=("a{1,300}",)), "patterns", 0, "up to 300"),
        (PhraseList(patterns=("a?",)), "patterns", 0, "empty text"),
        (PhraseList(patterns=("(?=a)b",)), "patterns", 0, "look-around"),
        (PhraseList(patterns=(r"(a)\1",)), "patterns", 0, "RE2"),
        (PhraseList(patterns=("(",)), "patterns", 0, "RE2"),
        (PhraseList(patterns=("[[:alpha:]]",)), "patterns", 0, "POSIX"),
    ],
)
def test_an_entry_that_cannot_be_used_is_refused_with_its_place(
    phrases: PhraseList, part: str, index: int, says: str
) -> None:
    with pytest.raises(PhraseError, match=says) as caught:
        KeywordDetector({"x": phrases})
    assert (caught.value.label, caught.value.part, caught.value.index) == ("x", part, index)


def test_the_detectors_own_label_cannot_be_a_lists() -> None:
    with pytest.raises(PolicyError, match=HIDDEN):
        KeywordDetector({HIDDEN: terms("ok")})


# -- at scale --------------------------------------------------------------------------------------------------------


def many_terms(count: int) -> tuple[str, ...]:
    dice = random.Random(3)
    found: set[str] = set()
    while len(found) < count:
        if dice.random() < 0.5:
            found.add("".join(chr(dice.randrange(0x4E00, 0x5E00)) for _ in range(dice.randint(2, 6))))
        else:
            found.add("".join(dice.choices("etaoinshrdlucmfwypvbgk", k=dice.randint(5, 12))))
    return tuple(sorted(found))


def test_a_hundred_thousand_terms_are_compiled_in_seconds_and_found() -> None:
    every = many_terms(100_000)
    started = time.perf_counter()
    detector = KeywordDetector({"x": terms(*every)})
    assert time.perf_counter() - started < 20  # about 1.5 s on a quiet machine
    sample = random.Random(4).sample(every, 200)
    text = "。".join(sample)
    found = {text[finding.start : finding.end] for finding in find(detector, text)}
    assert found >= set(sample)
    in_pieces = find(detector, *(text[at : at + 3] for at in range(0, len(text), 3)))
    assert sorted(in_pieces) == sorted(find(detector, text))


def test_what_a_scanner_keeps_of_a_long_text_does_not_grow_with_it() -> None:
    scanner = KeywordDetector({"x": terms(*many_terms(2000))}).scanner(Direction.COMPLETION, frozenset({"x"}))
    dice = random.Random(5)
    tracemalloc.start()
    try:
        for _ in range(3000):
            scanner.feed("".join(dice.choices("etaoin shrdlu，今天", k=16)), last=False)
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(9000):
            scanner.feed("".join(dice.choices("etaoin shrdlu，今天", k=16)), last=False)
        # 144,000 characters went by; what is left is the free lists of the interpreter.
        assert tracemalloc.get_traced_memory()[0] - before < 60_000
    finally:
        tracemalloc.stop()


def test_lists_are_compiled_and_scanned_in_several_threads_at_once() -> None:
    results: list[int] = []

    def work(seed: int) -> None:
        words = many_terms(300)
        detector = KeywordDetector({"x": PhraseList(words, (f"seed{seed}.{{0,9}}end",))})
        results.append(len(find(detector, "。".join(words) + f" seed{seed} to end")))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all(count > 300 for count in results)


async def test_no_window_of_it_is_ever_examined() -> None:
    detector = KeywordDetector({"x": terms("ok")})
    await detector.start()
    assert await detector.examine([], Priority.PROMPT) == []
    await detector.close()
    assert detector.thresholds == detector.strike_thresholds == {"x": 1.0, HIDDEN: 1.0}
