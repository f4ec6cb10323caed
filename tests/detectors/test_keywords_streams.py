"""Whatever the text and however it is cut, the scanner finds what a plain search of the whole text finds."""

from __future__ import annotations

import itertools
import time

import pytest
import re2
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from guardrail.core.content import Direction
from guardrail.core.findings import Finding
from guardrail.core.frontier import Channel
from guardrail.core.lexicon import PhraseList
from guardrail.core.policy import Action, Policy, Rule, Rulebook
from guardrail.detectors.keywords import KeywordDetector
from guardrail.text.characters import NEUTRAL, is_boundary, word_class
from guardrail.text.normalize import fold_cluster, normalise

HIDDEN = "hidden-characters"
LETTERS = list("abcAB天气刀1 é가각か")
ODD = [
    *"\n\t\u3000ａＢ，.…ßﬁ㎏-_<\u0301\u0323\u200b\xad\ufe0f\u3099\u1161\u11a8",
    *"ᄀㄱㅏﾞ\u0345İ😀´\ud83d",
    "\u200d" * 70,
    "  ",
]

WORDS = st.lists(st.sampled_from([*LETTERS, "e\u0301", "各", "ab", "b c"]), min_size=1, max_size=5).map("".join)
TEXTS = st.lists(st.one_of(st.sampled_from(LETTERS), st.sampled_from(LETTERS), st.sampled_from(ODD)), max_size=30).map(
    "".join
)
PATTERNS = st.sampled_from(
    ["a.{0,3}b", r"\b[a-c]{2,4}\b", "天{1,3}?气{0,2}刀", "1$", "(ab|b c){1,2}", "^ab", "[é가]. ?b", "A|AB"]
)
MATCH = st.sampled_from(["auto", "auto", "word", "substring"])


@st.composite
def lists(draw: st.DrawFn) -> PhraseList:
    """A list that loads: what `PhraseList` refuses is left out."""

    def usable(words: list[str]) -> tuple[str, ...]:
        kept: dict[str, str] = {}
        for word in words:
            text = normalise(word).text.strip(" ")
            if len(text) > 1 or (text and word_class(text) == 2):
                kept.setdefault(text, word)
        return tuple(kept.values())

    terms = usable(draw(st.lists(WORDS, max_size=5)))
    around = st.tuples(st.sampled_from(["", "a", "天", "b "]), st.sampled_from(terms or ("ab",)), WORDS).map("".join)
    patterns = tuple(draw(st.lists(PATTERNS, max_size=2, unique=True)))
    return PhraseList(terms, patterns, usable(draw(st.lists(around, max_size=2))), draw(MATCH))


def cut(text: str, ends: list[int]) -> list[str]:
    """`text` in pieces that end at `ends` (taken modulo its length), the last piece included."""
    places = sorted({end % (len(text) + 1) for end in ends})
    return [text[a:b] for a, b in itertools.pairwise([0, *places, len(text)])]


def scan(detector: KeywordDetector, pieces: list[str]) -> tuple[list[Finding], dict[int, int]]:
    """All findings, and the frontier at every offset of the text."""
    scanner = detector.scanner(Direction.COMPLETION, frozenset(detector.thresholds))
    found: list[Finding] = []
    frontiers: dict[int, int] = {}
    received = 0
    for number, piece in enumerate(pieces):
        new = list(scanner.feed(piece, last=number == len(pieces) - 1).findings)
        for finding in new:
            assert received < finding.at <= received + len(piece) + (number == len(pieces) - 1)
        found += new
        offsets = range(received, received + len(piece) + 1)
        asked = {at: scanner.frontier(at) for at in reversed(offsets)}
        assert [scanner.frontier(at) for at in offsets] == [asked[at] for at in offsets]
        frontiers |= asked
        received += len(piece)
    return found, frontiers


def expected(label: str, phrases: PhraseList, original: str) -> set[tuple[str, int, int]]:
    """What a plain search finds: every place of every term, edge by edge, and RE2's own matches of the patterns."""
    text, offsets = normalise(original)
    starts = [offsets.start(index) for index in range(len(text))]

    def edge(index: int) -> int:
        """The word class of the neighbour at `index`: of the character alone where a cluster begins."""
        if not 0 <= index < len(text):
            return NEUTRAL
        if text[index] == " " or (index and starts[index] == starts[index - 1]):
            return word_class(text[index])
        return word_class(fold_cluster(original[starts[index]].encode(errors="replace").decode())[0])

    def places(phrase: str) -> list[tuple[int, int]]:
        term = normalise(phrase).text.strip(" ")
        out = []
        for start in range(len(text) - len(term) + 1):
            stop = start + len(term)
            if text[start:stop] != term:
                continue
            left, right = word_class(term[0]), word_class(term[-1])
            if phrases.match == "substring" or (phrases.match == "auto" and left != 1):
                left = NEUTRAL
            if phrases.match == "substring" or (phrases.match == "auto" and right != 1):
                right = NEUTRAL
            before = word_class(text[start - 1]) if start else NEUTRAL
            if is_boundary(before, left) and is_boundary(right, edge(stop)):
                out.append((start, stop))
        return out

    options = re2.Options()
    options.case_sensitive, options.longest_match = False, True
    matches = [
        match.span() for regex in phrases.patterns for match in re2.compile(regex, options=options).finditer(text)
    ]
    excepted = [place for phrase in phrases.exceptions for place in places(phrase)]
    return {
        (label, offsets.start(start), offsets.end(stop))
        for start, stop in [*itertools.chain.from_iterable(map(places, phrases.terms)), *matches]
        if not any(low <= start and stop <= high for low, high in excepted)
    }


@settings(max_examples=700, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(lists(), TEXTS)
def test_what_is_found_is_what_a_plain_search_of_the_whole_text_finds(phrases: PhraseList, text: str) -> None:
    detector = KeywordDetector({"list": phrases})
    found, _ = scan(detector, [text])
    spans = {(finding.category, finding.start, finding.end) for finding in found if finding.category != HIDDEN}
    assert spans == expected("list", phrases, text)


@settings(max_examples=700, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(lists(), lists(), TEXTS, st.lists(st.integers(0, 200), max_size=8))
@example(PhraseList(("café",)), PhraseList(("cafe",)), "a cafe\u200b\u0301 b", [6, 7])
def test_findings_and_frontiers_do_not_depend_on_how_the_text_was_cut(
    one: PhraseList, two: PhraseList, text: str, ends: list[int]
) -> None:
    detector = KeywordDetector({"one": one, "two": two})
    whole = scan(detector, [text])
    cuts = scan(detector, cut(text, ends))
    singles = scan(detector, [*text, ""])
    assert sorted(whole[0]) == sorted(cuts[0]) == sorted(singles[0])
    assert whole[1] == cuts[1] == singles[1]


@settings(max_examples=700, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(lists(), TEXTS, TEXTS, st.integers(0, 200))
def test_what_lies_before_a_frontier_is_in_no_later_finding_however_the_text_goes_on(
    phrases: PhraseList, text: str, other: str, place: int
) -> None:
    detector = KeywordDetector({"list": phrases})
    at = place % (len(text) + 1)
    found, frontiers = scan(detector, [text])
    assert all(low <= high for low, high in itertools.pairwise([frontiers[at] for at in range(len(text) + 1)]))
    for offset, frontier in frontiers.items():
        assert 0 <= frontier <= offset
        assert all(finding.start >= frontier for finding in found if finding.at > offset)
    else_found, else_frontiers = scan(detector, [text[:at] + other])
    assert else_frontiers[at] == frontiers[at]
    assert all(finding.start >= frontiers[at] for finding in else_found if finding.at > at)
    known = [finding for finding in found if finding.at <= at]
    assert sorted(known) == sorted(finding for finding in else_found if finding.at <= at)


def rulebook(action: Action) -> Rulebook:
    rule = Rule("p/r", "keywords", frozenset({"list", HIDDEN}), "c", 1.0, action, placeholder="▮")
    return Rulebook([Policy("p", "P", (rule,))], "digest")


def deliver(detector: KeywordDetector, action: Action, pieces: list[str]) -> tuple[str, bool]:
    book = rulebook(action)
    channel = Channel(book, {"keywords": detector.scanner(Direction.COMPLETION, book.labels["keywords"])})
    out = ""
    for number, piece in enumerate(pieces):
        channel.feed(piece, last=number == len(pieces) - 1)
        out += channel.take(channel.clear)
    return out, channel.cut is not None


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(lists(), TEXTS, st.lists(st.integers(0, 200), max_size=8))
def test_a_blocked_stream_delivers_the_same_text_however_it_was_cut_and_nothing_of_the_match(
    phrases: PhraseList, text: str, ends: list[int]
) -> None:
    detector = KeywordDetector({"list": phrases})
    found, _ = scan(detector, [text])
    whole = deliver(detector, Action.BLOCK, [text])
    assert deliver(detector, Action.BLOCK, cut(text, ends)) == whole
    assert deliver(detector, Action.BLOCK, [*text, ""]) == whole
    released, stopped = whole
    assert stopped == bool(found)
    assert text.startswith(released)
    if found:
        first = min(finding.at for finding in found)
        assert len(released) <= min(finding.start for finding in found if finding.at == first)
    else:
        assert released == text


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(lists(), TEXTS, st.lists(st.integers(0, 200), max_size=8))
def test_a_redacted_stream_delivers_the_same_text_however_it_was_cut(
    phrases: PhraseList, text: str, ends: list[int]
) -> None:
    detector = KeywordDetector({"list": phrases})
    whole = deliver(detector, Action.REDACT, [text])
    assert deliver(detector, Action.REDACT, cut(text, ends)) == whole
    assert deliver(detector, Action.REDACT, [*text, ""]) == whole


def test_a_long_piece_is_scanned_as_its_parts_are() -> None:
    detector = KeywordDetector({"list": PhraseList(("bad word", "坏词"), ("x.{0,9}y",))})
    text = ("fine text, bad  word x12345y 好的坏\u200b词 " * 200)[:4500]
    whole = scan(detector, [text])
    parts = scan(detector, cut(text, list(range(0, 4500, 7))))
    assert whole == parts
    assert len(whole[0]) > 300


def test_a_text_full_of_matches_costs_time_in_proportion_to_its_length() -> None:
    detector = KeywordDetector({"list": PhraseList(("bomb", "bomb bomb"), ("x.{0,40}y",), ("bomb disposal unit",))})

    def seconds(repeats: int) -> float:
        """The best of three, in this process's own time: what else the machine does is not the scanner's."""
        spent = []
        for _ in range(3):
            start = time.process_time()
            deliver(detector, Action.BLOCK, ["bomb " * repeats])
            spent.append(time.process_time() - start)
        return min(spent)

    assert seconds(8000) < 50 * max(seconds(800), 0.005)


@pytest.mark.parametrize("filler", ["\n", " ", "\u200b", "\u0301"])
def test_filler_without_end_neither_stalls_the_scanner_nor_makes_it_keep_text(filler: str) -> None:
    detector = KeywordDetector({"list": PhraseList(("bad word",), ("x.{0,200}y",))})
    scanner = detector.scanner(Direction.COMPLETION, frozenset({"list"}))
    scanner.feed("a bad", last=False)
    for _ in range(3000):
        scanner.feed(filler * 8, last=False)
    assert len(scanner._state.tail) < 32 * 300
    assert len(scanner._state.marks) < 300
