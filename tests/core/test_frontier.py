"""What leaves a channel depends on its text alone, and never holds a character of what was stopped."""

from __future__ import annotations

import random
from itertools import pairwise

from guardrail.core.content import Direction
from guardrail.core.findings import Failure, Finding
from guardrail.core.frontier import NOTHING, Channel, Scan, Window
from guardrail.core.policy import Action, Mode, Policy, Rule, Rulebook
from guardrail.testing import WordDetector

ALPHABET = "abc 。"


def rule(name: str, action: Action, detector: str = "words", mode: Mode = Mode.ENFORCE, **more: object) -> Rule:
    return Rule(name, detector, frozenset({name}), "test", 0.5, action, mode=mode, **more)  # type: ignore[arg-type]


def book(*rules: Rule, on_error: Action = Action.BLOCK) -> Rulebook:
    return Rulebook([Policy("p", "P", rules, on_error=on_error)], "digest")


class Sentences:
    """A windowed scanner: asks about each sentence when its full stop has come, or about the rest at the end."""

    def __init__(self) -> None:
        self.text = ""
        self.start = 0
        self.ends: list[int] = []

    def feed(self, text: str, *, last: bool) -> Scan:
        begin, self.text = len(self.text), self.text + text
        windows = []
        for index in range(begin, len(self.text)):
            if self.text[index] == "。":
                windows.append(self._window(index + 1, index + 1))
        if last and self.start < len(self.text):
            windows.append(self._window(len(self.text), len(self.text) + 1))
        return Scan((), windows) if windows else NOTHING

    def _window(self, end: int, at: int) -> Window:
        window = Window(self.text[self.start : end], self.start, self.start, at)
        self.start = end
        self.ends.append(end)
        return window

    def frontier(self, at: int) -> int:
        return max((end for end in self.ends if end <= at), default=0)


def run(
    text: str, cuts: list[int], rng: random.Random, rules: Rulebook, words: dict[str, list[str]], bad: str
) -> tuple[str, list[tuple[str, int, int]]]:
    """Feed `text` cut at `cuts`, answering windows in random order and at random times; return what left and what
    was found."""
    scanners = {
        name: WordDetector(found, name=name, label=name).scanner(Direction.COMPLETION, frozenset())
        for name, found in words.items()
    }
    channel = Channel(rules, {**scanners, "sentences": Sentences()})
    open_windows: list[tuple[str, Window]] = []
    out = []
    edges = [0, *sorted(cuts), len(text)]
    for index, (low, high) in enumerate(pairwise(edges)):
        open_windows += channel.feed(text[low:high], last=index == len(edges) - 2)
        while open_windows and rng.random() < 0.5:
            answer(channel, open_windows.pop(rng.randrange(len(open_windows))), bad)
        if rng.random() < 0.7:
            out.append(channel.take(channel.clear))
    rng.shuffle(open_windows)
    for item in open_windows:
        answer(channel, item, bad)
    out.append(channel.take(channel.clear))
    assert channel.settled
    found = sorted((finding.category, finding.start, finding.end) for finding in channel.findings)
    return "".join(out), found


def answer(channel: Channel, item: tuple[str, Window], bad: str) -> None:
    detector, window = item
    at = window.text.find(bad)
    findings = (
        [] if at < 0 else [Finding(detector, "sentences", 1.0, window.offset + at, window.offset + at + len(bad), 0)]
    )
    channel.resolve(detector, window, findings)


def test_what_leaves_and_what_is_found_depend_on_the_text_alone() -> None:
    rng = random.Random(20261125)
    stopped = redacted = 0
    for _ in range(20_000):
        words = {
            "block": ["".join(rng.choices("abc", k=rng.randint(2, 5))) for _ in range(2)],
            "mask": ["".join(rng.choices("abc ", k=rng.randint(2, 4))) for _ in range(2)],
            "watch": ["ab"],
        }
        bad = "".join(rng.choices("abc", k=4))
        rules = book(
            rule("block", Action.BLOCK, "block"),
            rule("mask", Action.REDACT, "mask", placeholder="<x>"),
            rule("watch", Action.BLOCK, "watch", Mode.OBSERVE),
            rule("sentences", Action.BLOCK, "sentences"),
        )
        text = "".join(rng.choices(ALPHABET, weights=[4, 4, 4, 1, 1], k=rng.randint(1, 60)))
        cuts = [rng.randrange(len(text)) for _ in range(rng.randint(0, 12))]
        whole = run(text, [], rng, rules, words, bad)
        every = run(text, list(range(1, len(text))), rng, rules, words, bad)
        some = run(text, cuts, rng, rules, words, bad)
        assert whole == every == some, (text, words, bad, cuts)
        released, found = whole
        stops = [(start, end) for name, start, end in found if name in ("block", "sentences")]
        redacted += any(name == "mask" for name, _, _ in found)
        masks = [(start, end) for name, start, end in found if name == "mask"]
        if stops:
            stopped += 1
            # What leaves is, redactions aside, a prefix of the text that ends before the first stop begins.
            clean = min(start for start, _ in stops)
            assert any(released == masked(text[:cut], masks) for cut in range(clean + 1)), (text, found, released)
        else:
            assert released == masked(text, masks)
    assert stopped > 4_000
    assert redacted > 4_000


def masked(text: str, spans: list[tuple[int, int]]) -> str:
    """The text with each run of overlapping spans replaced: written apart from the channel's way of doing it."""
    covered = {index for start, end in spans for index in range(start, end)}
    starts = {start for start, end in spans if not any(low < start < high for low, high in spans)}
    return "".join("<x>" if i in starts else "" if i in covered else char for i, char in enumerate(text))


def test_the_same_harness_fails_on_a_pass_through() -> None:
    """A channel that nothing enforces lets everything leave: the harness would see it."""
    observing = book(rule("block", Action.BLOCK, "block", Mode.OBSERVE))
    released, found = run("xxabcxx", [3], random.Random(1), observing, {"block": ["abc"]}, "zzzz")
    assert ("block", 2, 5) in found
    assert "abc" in released


def test_an_observing_detector_never_holds_text_back() -> None:
    channel = Channel(
        book(rule("watch", Action.BLOCK, "watch", Mode.OBSERVE)),
        {
            "watch": WordDetector(["abcdef"], name="watch", label="watch").scanner(None, frozenset()),
        },
    )
    channel.feed("xxabcde")
    assert channel.clear == 7


def test_text_is_held_from_the_start_of_what_may_become_a_match() -> None:
    channel = Channel(
        book(rule("words", Action.BLOCK)), {"words": WordDetector(["abcdef"], label="words").scanner(None, frozenset())}
    )
    channel.feed("xxabc")
    assert channel.take(99) == "xx"
    channel.feed("zz")
    assert channel.take(99) == "abczz"


def test_a_stop_waits_for_every_window_that_was_due_before_it() -> None:
    rules = book(rule("words", Action.BLOCK), rule("sentences", Action.BLOCK, "sentences"))
    channel = Channel(
        rules,
        {
            "words": WordDetector(["bad"], label="words").scanner(None, frozenset()),
            "sentences": Sentences(),
        },
    )
    [(detector, window)] = channel.feed("one。two bad")
    assert channel.cut is None
    assert channel.clear == 0
    channel.resolve(detector, window, [Finding(detector, "sentences", 1.0, 0, 3, 0)])
    assert channel.cut == 0
    assert [finding.category for finding in channel.findings] == ["sentences"]


def test_a_detector_that_fails_stops_the_text_where_the_policy_says_block() -> None:
    rules = book(rule("sentences", Action.FLAG, "sentences"))
    channel = Channel(rules, {"sentences": Sentences()})
    [(detector, window)] = channel.feed("fine。")
    channel.resolve(detector, window, [])
    [(detector, window)] = channel.feed("unknown。and so on")
    channel.resolve(detector, window, Failure(detector, "timeout"))
    assert channel.take(99) == "fine。"
    assert channel.cut == 5
    assert channel.failures[0].kind == "timeout"


def test_a_detector_that_fails_lets_the_text_pass_where_the_policy_says_allow() -> None:
    channel = Channel(
        book(rule("sentences", Action.BLOCK, "sentences"), on_error=Action.ALLOW), {"sentences": Sentences()}
    )
    [(detector, window)] = channel.feed("unknown。")
    channel.resolve(detector, window, Failure(detector, "error"))
    assert channel.take(99) == "unknown。"


def test_redactions_that_overlap_leave_one_placeholder() -> None:
    rules = book(rule("mask", Action.REDACT, "mask", placeholder="<x>"))
    channel = Channel(
        rules, {"mask": WordDetector(["abc", "cde"], name="mask", label="mask").scanner(None, frozenset())}
    )
    channel.feed("-abcde-", last=True)
    assert channel.take(99) == "-<x>-"


def test_a_redaction_is_made_across_separate_takes() -> None:
    rules = book(rule("mask", Action.REDACT, "mask", placeholder="<x>"))
    channel = Channel(rules, {"mask": WordDetector(["abcd"], name="mask", label="mask").scanner(None, frozenset())})
    channel.feed("1abcd2", last=True)
    assert [channel.take(n) for n in (1, 2, 4, 6)] == ["1", "<x>", "", "2"]
