"""Find personal information in one text that arrives in pieces. Nothing here waits, loads a model or knows a clock."""

from __future__ import annotations

import re
from typing import Final

from guardrail.core.findings import Finding
from guardrail.core.frontier import NOTHING, Scan, Window
from guardrail.detectors.pii.labels import CONSULTED
from guardrail.detectors.pii.recognise import recognise, shapes, worth_asking
from guardrail.detectors.pii.runs import CONTEXT, HOLD, LONGEST, SPACES, STRIDE, fold, may_join, run_end, run_start

NAME: Final = "pii"

# Every entity has a digit or an @. One character class is the quickest way to see that a piece has neither.
_TRIGGER: Final = re.compile("[0-9@０-９＠]")


class PiiScanner:
    """A scanner (`guardrail.core.frontier.Scanner`) for `labels`.

    A run is examined when the character after it is known, or when it has grown by `STRIDE` beyond what the longest
    entity needs; that, the frontier and each finding's `at` are functions of the text alone. What a recogniser decides
    is a finding at once, what needs presidio is a window: up to `CONTEXT` characters before the run, and the run.
    """

    __slots__ = ("_base", "_buffer", "_cut", "_ended", "_floor", "_labels", "_length", "_reach", "_run", "_since")

    def __init__(self, labels: frozenset[str]) -> None:
        self._labels = labels
        self._buffer = ""  # the context, what is undecided, and the last piece
        self._base = 0  # where the buffer begins in the text
        self._length = 0  # characters fed
        self._run = 0  # where the run begins that the text ends in
        self._cut = 0  # what lies before it has been decided; the run itself, or a stride inside it
        self._since = self._floor = 0  # `_run` and `_cut` as they stood before the last piece
        self._reach = 0  # where the last hit ends
        self._ended = False

    def feed(self, text: str, *, last: bool) -> Scan:
        """Take the next piece; see `guardrail.core.frontier.Scanner`."""
        keep = self._cut - CONTEXT - self._base
        if keep > 0:
            self._buffer = self._buffer[keep:]
            self._base += keep
        self._since, self._floor = self._run, self._cut
        buffer = self._buffer = self._buffer + text
        low = self._cut - self._base
        self._length += len(text)
        self._ended = last
        scan = NOTHING
        trigger = suspicious(buffer, low)
        if trigger is not None:
            scan = self._walk(low, trigger, last)
        if not last:
            self._run, self._cut = self._open(self._length)
        return scan

    def frontier(self, at: int) -> int:
        """The offset before which nothing can become a finding later; see `guardrail.core.frontier.Scanner`."""
        if at > self._length:
            return self._length if self._ended else self._cut
        if at == self._length and not self._ended:
            return self._cut
        return self._open(at)[1]

    def _open(self, at: int) -> tuple[int, int]:
        """For the text before offset `at`: where the run begins that it ends in, and what of that is decided."""
        buffer, base = self._buffer, self._base
        start = run_start(buffer[: at - base] if at < self._length else buffer, at - base, self._floor - base) + base
        if start == self._floor:
            start = self._since
        joins = buffer[at - 1 - base : at - base] in SPACES and may_join(buffer, at - 1 - base)
        end = at - 1 if joins else at
        strides = max(0, (end - start - LONGEST) // STRIDE)
        return start, start + strides * STRIDE

    def _walk(self, low: int, trigger: int, last: bool) -> Scan:
        """Examine every run of the buffer from `low` on that has ended or grown too long."""
        buffer, size = self._buffer, len(self._buffer)
        findings: list[Finding] = []
        windows: list[Window] = []
        floor = low
        while True:
            start = run_start(buffer, trigger + 1, floor)
            end = run_end(buffer, trigger)
            joint = may_join(buffer, end)
            while end - start >= HOLD:
                # What lies past the first stride is seen again, with what follows it.
                certain = start + HOLD + (buffer[start + HOLD - 1] in SPACES)
                self._examine(start, start + HOLD, certain, findings, windows)
                start += STRIDE
            # Where a space may join the run to what follows, one more character has to be known.
            certain = end + 1 + joint
            if certain > size and not last:
                break
            self._examine(start, end, certain, findings, windows)
            floor = end
            following = _TRIGGER.search(buffer, end)
            if following is None:
                break
            trigger = following.start()
        return Scan(findings, windows) if findings or windows else NOTHING

    def _examine(self, start: int, end: int, certain: int, findings: list[Finding], windows: list[Window]) -> None:
        """Examine `buffer[start:end]`, a run or a piece of one; `certain` is where that became possible."""
        seen = shapes(fold(self._buffer[start:end]))
        if not seen:
            return
        base, at = self._base, self._base + certain
        low = max(0, start - CONTEXT)
        view = fold(self._buffer[low:end])
        hits = recognise(view, start - low, self._buffer[end : end + 1], seen)
        past = settled(start, end)
        for hit in hits:
            first, last = base + low + hit.start, base + low + hit.end
            if first < base + past and first >= self._reach:
                self._reach = last
                if hit.label in self._labels:
                    findings.append(Finding(NAME, hit.label, hit.score, first, last, at))
        if self._labels & CONSULTED and worth_asking(view, start - low, past - low, hits, seen):
            windows.append(Window(view, base + low, base + start, at))


def suspicious(text: str, start: int = 0) -> int | None:
    """Where in `text` from `start` on something may begin that is worth a look; none where nothing can."""
    trigger = _TRIGGER.search(text, start)
    return trigger.start() if trigger is not None and shapes(fold(text[start:])) else None


def settled(start: int, end: int) -> int:
    """Where in the piece `start:end` of a run what begins is decided by a later piece, which sees more of it."""
    return start + STRIDE if end - start >= HOLD else end
