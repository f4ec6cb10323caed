"""However a text is cut, the same leaves: up to the first match on a block, with placeholders on a redaction."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import lru_cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guardrail.core.findings import Finding
from guardrail.core.frontier import Channel, Scan, Scanner, Window
from guardrail.core.policy import Action, Policy, Rule, Rulebook
from guardrail.core.verdict import judge
from guardrail.detectors.pii.consult import answer, build
from guardrail.detectors.pii.detector import find
from guardrail.detectors.pii.labels import THRESHOLDS
from guardrail.detectors.pii.runs import HOLD
from guardrail.detectors.pii.scanner import NAME, PiiScanner

ENGINE = build()

PERSONAL = (
    "13800138000",
    "+86 138-0013-8000",
    "１３８００１３８０００",
    "010-65529988",
    "11010519491231002X",
    "440308 19990110 1512",
    "6225 7583 1490 2769 435",
    "4539578763621486",
    "lin.qing+x@mail-demo.cn",
    "203.119.25.7",
    "2001:db8:85a3::8a2e:370:7334",
    "GB82 WEST 1234 5698 7654 32",
    "de89370400440532013000",
    "(415) 382-0946",
    "+44 20 7183 8750",
    "536-22-8714",
    "1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN2",
    "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq",
)
PROSE = (
    "今天天气很好", "我的手机是", "请联系", "，", "。\n", "the quick brown fox ", "In 2024 we sold 35% more, ",
    "NASA ", "GB82 ", "My SSN is ", "call ", "at 12:30:45 ", "2024-05-06 ", "1234 ", "1 2 3 4 5 6 7 8 9 ",
    " ", "  ", "\u00a0", "-", ".", ":", "(", ")", "@", "+", "\ud800", "ISBN 978-7-302-51112-8",
    "x" * 40, "9" * 33, "aGVsbG8gd29ybGQ3" * 7,
)  # fmt: skip

TEXTS = st.lists(st.one_of(st.sampled_from(PROSE), st.sampled_from(PERSONAL), st.text(max_size=4)), max_size=9).map(
    "".join
)
CUTS = st.lists(st.integers(0, 400), max_size=14)


def book(action: Action) -> Rulebook:
    rules = tuple(
        Rule(f"pii/{label}", NAME, frozenset({label}), "privacy", score, action, placeholder=f"[{label}]")
        for label, score in THRESHOLDS.items()
    )
    return Rulebook([Policy("pii", "P", rules)], "digest")


BLOCK, REDACT = book(Action.BLOCK), book(Action.REDACT)


@lru_cache(maxsize=4096)
def consult(window: Window) -> tuple[Finding, ...]:
    [hits] = answer(ENGINE, [window])
    return tuple(Finding(NAME, hit.label, hit.score, hit.start, hit.end, window.at) for hit in hits)


def pieces(text: str, cuts: Sequence[int]) -> list[str]:
    ends = sorted({cut for cut in cuts if 0 < cut < len(text)})
    return [text[low:high] for low, high in zip([0, *ends], [*ends, len(text)], strict=True)]


def stream(
    parts: Sequence[str],
    rulebook: Rulebook,
    rng: random.Random,
    scanner: Callable[[], Scanner] = lambda: PiiScanner(frozenset(THRESHOLDS)),
) -> tuple[str, int, list[tuple[str, int, int]], int]:
    """Send `parts` through a channel, windows answered late and in any order: what left, the verdict, the most held."""
    channel = Channel(rulebook, {NAME: scanner()})
    waiting: list[Window] = []
    out, most = "", 0

    def answer_one() -> None:
        window = waiting.pop(rng.randrange(len(waiting)))
        channel.resolve(NAME, window, consult(window))

    for number, part in enumerate(parts):
        waiting += [window for _, window in channel.feed(part, last=number == len(parts) - 1)]
        while waiting and rng.random() < 0.5:
            answer_one()
        out += channel.take(channel.clear)
        if not waiting and channel.cut is None and number < len(parts) - 1:
            most = max(most, channel.received - channel.taken)
    while waiting:
        answer_one()
        out += channel.take(channel.clear)
    assert channel.settled
    verdict = judge(rulebook, channel.findings, channel.failures)
    return out, verdict.action, [(m.rule.id, m.finding.start, m.finding.end) for m in verdict.matches], most


def check_blocked(text: str, out: str) -> None:
    """No character of a span that a rule blocks has left."""
    spans = find(text)
    assert text.startswith(out)
    assert out == text if not spans else len(out) <= min(start for start, _, _ in spans)


@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TEXTS, CUTS, st.randoms(use_true_random=False))
def test_a_block_gives_the_same_verdict_and_the_same_text_however_it_is_cut(text, cuts, rng) -> None:
    whole = stream([text], BLOCK, rng)
    assert stream(pieces(text, cuts), BLOCK, rng)[:3] == whole[:3]
    check_blocked(text, whole[0])


@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TEXTS, CUTS, st.randoms(use_true_random=False))
def test_redaction_replaces_exactly_what_is_found_however_the_text_is_cut(text, cuts, rng) -> None:
    expected, position = "", 0
    for start, end, label in find(text):
        expected += text[position:start] + f"[{label}]"
        position = end
    expected += text[position:]
    for parts in ([text], pieces(text, cuts), list(text) or [""]):
        out, _, _, most = stream(parts, REDACT, rng)
        assert out == expected
        assert most <= HOLD + 1


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(PERSONAL), st.sampled_from(["", "收件人，", "see: ", "。\n", "ok, "]), CUTS, st.randoms())
def test_personal_information_never_passes_a_redacting_stream(value, before, cuts, rng) -> None:
    text = f"{before}{value}，谢谢"
    out = stream(pieces(text, cuts), REDACT, rng)[0]
    assert value not in out
    assert out.startswith(before + "[")
    assert out.endswith("]，谢谢")


class Careless(PiiScanner):
    """Finds the same, but holds nothing back."""

    def feed(self, text: str, *, last: bool) -> Scan:
        return super().feed(text, last=last)

    def frontier(self, at: int) -> int:
        return at


def test_the_same_check_fails_on_a_scanner_that_holds_nothing_back() -> None:
    text = "我的手机是13800138000请"
    out = stream(list(text), BLOCK, random.Random(1), lambda: Careless(frozenset(THRESHOLDS)))[0]
    with pytest.raises(AssertionError):
        check_blocked(text, out)


@settings(max_examples=300, deadline=None)
@given(TEXTS, CUTS)
def test_the_frontier_depends_on_the_text_alone_and_never_falls(text, cuts) -> None:
    def frontiers(parts: Sequence[str]) -> list[int]:
        scanner, seen, fed = PiiScanner(frozenset(THRESHOLDS)), [], 0
        for part in parts:
            scanner.feed(part, last=False)
            seen += [scanner.frontier(at) for at in range(fed + 1, fed + len(part) + 1)]
            fed += len(part)
        return seen

    whole = frontiers([text])
    assert frontiers(pieces(text, cuts)) == whole
    assert frontiers(list(text)) == whole
    assert whole == sorted(whole)


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("今天天气很好，我们去公园", ""),
        ("The quick brown fo", "fo"),
        ("In 2024 ", "2024 "),
        ("打电话13800138", "13800138"),
        ("卡号6225 7583 1490", "6225 7583 1490"),
        ("a" * 200, "a" * (200 - 32 * ((200 - 64) // 32))),
    ],
)
def test_only_what_may_still_grow_into_an_entity_is_held(text: str, held: str) -> None:
    scanner = PiiScanner(frozenset(THRESHOLDS))
    scanner.feed(text, last=False)
    assert text[scanner.frontier(len(text)) :] == held
