"""Hold a text back until every enforcing detector has cleared it. Pure: no I/O, no clock, no waiting.

A text arrives in pieces and leaves in pieces. Each detector has a *frontier*, the offset up to which it has cleared
the text; what lies before the least frontier may leave. Three rules make the outcome depend on the text alone and
never on how the upstream cut it:

1. a scanner reports a finding in the very `feed` that brings the text up to the finding's `at`, and its frontier at
   an offset is a function of the text before that offset;
2. findings count in the order of their `at`: a stop waits for every window that became due before it;
3. on a stop at offset `at`, what leaves is the text before the match *and* before every frontier as it stood at `at`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from guardrail.core.findings import Failure, Finding
from guardrail.core.policy import Action, Rule, Rulebook


class Window(NamedTuple):
    """A piece of text that a scanner wants examined elsewhere (by a model, in a thread).

    `text` begins at offset `offset` of the channel (context included); the detector's frontier stays at `start`
    until the window is answered; `at` is the offset of the text at which the window became due. Findings made on it
    have offsets of the channel, and count from the window's `at`.
    """

    text: str
    offset: int
    start: int
    at: int


class Scan(NamedTuple):
    """What one `feed` brought to light: findings at once, windows to be examined."""

    findings: Sequence[Finding] = ()
    windows: Sequence[Window] = ()


NOTHING = Scan()


class Scanner(Protocol):
    """One detector's eye on one text that arrives in pieces. Synchronous and quick; dear work goes into windows."""

    def feed(self, text: str, *, last: bool) -> Scan:
        """Take the next piece (it may be empty) and report all that became certain with it.

        What is certain only because the text ended has `at` one past the length of the text.
        """

    def frontier(self, at: int) -> int:
        """The offset before which nothing can become part of a finding later, as it stood when `at` characters had
        been fed and all windows due by then were clean. `at` lies in the piece fed last. Never falls as `at` grows.
        """


class Cleared:
    """A whole text in which no detector sees anything: a channel that has nothing to decide. Same look, no work."""

    __slots__ = ("_text", "received", "segment", "taken")

    cut = stopped_at = None
    failures: Sequence[Failure] = ()
    findings: Sequence[Finding] = ()
    waiting = False
    settled = True

    def __init__(self, text: str, segment: int = 0) -> None:
        self._text = text
        self.segment = segment
        self.received = len(text)
        self.taken = 0

    @property
    def clear(self) -> int:
        return self.received

    @property
    def held(self) -> str:
        return self._text[self.taken :]

    def take(self, upto: int) -> str:
        """Remove and return the text before offset `upto`."""
        low, self.taken = self.taken, max(self.taken, min(upto, self.received))
        return self._text if low == 0 and upto >= self.received else self._text[low : self.taken]


class _Due(NamedTuple):
    """A window not answered yet, and the least frontier as it stood at the window's `at`."""

    detector: str
    window: Window
    hold: int


class _Stop(NamedTuple):
    at: int
    cut: int


class Channel:
    """One text in one direction: what may leave, what was found, where it must end."""

    __slots__ = (
        "_due",
        "_ended",
        "_findings",
        "_frontiers",
        "_redactions",
        "_rulebook",
        "_scanners",
        "_stop",
        "_text",
        "clear",
        "cut",
        "failures",
        "received",
        "segment",
        "stopped_at",
        "taken",
    )

    def __init__(self, rulebook: Rulebook, scanners: Mapping[str, Scanner], segment: int = 0) -> None:
        self._rulebook = rulebook
        self._scanners = tuple(scanners.items())
        self._frontiers = [scanner.frontier for name, scanner in scanners.items() if name in rulebook.enforcing]
        self._text = ""  # what has not been taken yet
        self._due: list[_Due] = []
        self._findings: list[Finding] = []
        self._redactions: list[tuple[int, int, Rule]] = []  # sorted, disjoint
        self._stop: _Stop | None = None  # the earliest stop seen; effective once nothing due before it is open
        self._ended = False
        self.segment = segment
        self.received = 0
        self.taken = 0
        self.clear = 0
        """The offset up to which the text may leave now."""
        self.cut: int | None = None
        self.stopped_at: int | None = None
        self.failures: list[Failure] = []

    # -- text in, answers in -------------------------------------------------------------------------------------

    def feed(self, text: str, *, last: bool = False) -> list[tuple[str, Window]]:
        """Take the next piece and return the windows it made due, as (detector, window)."""
        if self._ended or self.cut is not None:
            return []
        self._text += text
        self.received += len(text)
        found: list[Finding] = []
        asked: list[tuple[str, Window]] = []
        for name, scanner in self._scanners:
            findings, windows = scanner.feed(text, last=last)
            if findings:
                found.extend(findings)
            for window in windows:
                asked.append((name, window))
        for name, window in asked:
            self._due.append(_Due(name, window, self._frontier(window.at)))
        for finding in found:
            self._note(finding, None)
        self._ended = last
        self._advance()
        return asked

    def resolve(self, detector: str, window: Window, answer: Sequence[Finding] | Failure) -> None:
        """Take a detector's answer to a window that `feed` handed out."""
        due = next((item for item in self._due if item.window is window and item.detector == detector), None)
        if due is None:
            return
        self._due.remove(due)
        if isinstance(answer, Failure):
            self.failures.append(answer._replace(at=window.at, segment=self.segment))
            if self._rulebook.on_error.get(detector, Action.ALLOW) >= Action.ANSWER:
                self._stop_at(window.at, min(window.start, due.hold))
        else:
            for finding in answer:
                self._note(finding._replace(at=window.at), due.hold)
        self._advance()

    # -- text out ------------------------------------------------------------------------------------------------

    def take(self, upto: int) -> str:
        """Remove and return the text before offset `upto` (at most `clear`), with its redactions made."""
        upto = min(upto, self.clear)
        if upto <= self.taken:
            return ""
        raw = self._text[: upto - self.taken]
        out = self._redacted(raw) if self._redactions else raw
        self._text = self._text[upto - self.taken :]
        self.taken = upto
        return out

    @property
    def held(self) -> str:
        """The text that has not been taken."""
        return self._text

    @property
    def settled(self) -> bool:
        """Whether nothing more can change: the text has ended or was cut, and every window is answered."""
        return not self._due and (self._ended or self.cut is not None)

    @property
    def waiting(self) -> bool:
        """Whether an enforcing detector still owes an answer that holds text back."""
        return any(due.detector in self._rulebook.enforcing for due in self._due)

    @property
    def findings(self) -> list[Finding]:
        """What counts towards the verdict: all of it, or on a stop what had become certain by then."""
        if self.stopped_at is None:
            return self._findings
        return [finding for finding in self._findings if finding.at <= self.stopped_at]

    # -- bookkeeping ---------------------------------------------------------------------------------------------

    def _clear(self) -> int:
        if self.cut is not None:
            return max(self.cut, self.taken)
        limit = self.received if self._ended else self._frontier(self.received)
        for due in self._due:
            if due.detector in self._rulebook.enforcing:
                limit = min(limit, due.window.start)
        if self._stop is not None:
            limit = min(limit, self._stop.cut)
        return max(limit, self.taken)

    def _frontier(self, at: int) -> int:
        limit = min(at, self.received)
        for frontier in self._frontiers:
            offset = frontier(at)
            if offset < limit:
                limit = offset
        return limit

    def _note(self, finding: Finding, hold: int | None) -> None:
        finding = finding._replace(segment=self.segment)
        self._findings.append(finding)
        for rule in self._rulebook.matching(finding.detector, finding.category, finding.score):
            if not rule.enforced:
                continue
            if rule.action >= Action.ANSWER:
                if self._stop is None or finding.at <= self._stop.at:
                    self._stop_at(finding.at, min(finding.start, self._frontier(finding.at) if hold is None else hold))
            elif rule.action is Action.REDACT:
                self._redact(finding.start, finding.end, rule)

    def _stop_at(self, at: int, cut: int) -> None:
        if self._stop is None or at < self._stop.at:
            self._stop = _Stop(at, cut)
        elif at == self._stop.at:
            self._stop = _Stop(at, min(cut, self._stop.cut))

    def _advance(self) -> None:
        """Make the earliest stop effective once every enforcing window that was due before it is answered."""
        if self._stop is not None and self.cut is None:
            self._stop_if_due(self._stop)
        self.clear = self._clear()

    def _stop_if_due(self, stop: _Stop) -> None:
        enforcing = self._rulebook.enforcing
        if any(due.window.at <= stop.at and due.detector in enforcing for due in self._due):
            return
        self.cut, self.stopped_at = stop.cut, stop.at
        # What an observing detector was asked before the stop still counts; what came after it does not.
        self._due = [due for due in self._due if due.window.at <= stop.at]

    def _redact(self, start: int, end: int, rule: Rule) -> None:
        merged: list[tuple[int, int, Rule]] = []
        for low, high, held in self._redactions:
            if high <= start or low >= end:
                merged.append((low, high, held))
            elif low <= start:
                start, end, rule = low, max(end, high), held
            else:
                end = max(end, high)
        merged.append((start, end, rule))
        merged.sort(key=lambda item: item[0])
        self._redactions = merged

    def _redacted(self, raw: str) -> str:
        out: list[str] = []
        base, position = self.taken, 0
        for start, end, rule in self._redactions:
            low, high = max(start - base, 0), end - base
            if high <= position or low >= len(raw):
                continue
            out.append(raw[position:low])
            if start >= base:
                out.append(rule.placeholder)
            position = min(high, len(raw))
        out.append(raw[position:])
        return "".join(out)
