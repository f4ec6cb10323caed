"""Find harm with a classifier: a prompt is judged whole, an answer by windows that end where sentences do.

One number, the `unsafe` score, says whether a window is harmful; the class heads only name the harm. So
one threshold drives the rate of false alarms, whatever the number of classes.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence

from guardrail.core.content import Direction
from guardrail.core.findings import Finding
from guardrail.core.frontier import NOTHING, Scan, Window
from guardrail.errors import SettingsError
from guardrail.inference.card import LabelUse
from guardrail.protocols import Classifier, Priority

MIN_NEW = 80
MAX_NEW = 400
CONTEXT = 200

# A full stop in Chinese ends a sentence by itself; one in English only before white space (3.14, example.com).
_ENDS_ALONE = frozenset("。！？；…\n\u2028\u2029")
_ENDS_BEFORE_SPACE = frozenset(".!?;")
# A class names the harm when it is likely, or the likeliest by some way; else the finding is called what `unsafe` is.
_NAMED = 0.8
_STANDS_OUT = 0.75


class ClassifierDetector:
    """A `Detector` around a `Classifier`; `uses` says what each of its labels is for (a model card's `labels`)."""

    def __init__(self, classifier: Classifier, uses: Mapping[str, LabelUse], *, name: str = "classifier") -> None:
        if missing := [label for label in uses if label not in classifier.labels]:
            raise SettingsError(f"detector {name}: the card names labels {missing} that the classifier does not score")
        self.name = name
        self._classifier = classifier
        self._views = {way: _View(name, classifier.labels, uses, way) for way in Direction}
        self._thresholds = {use.category: use.block for use in uses.values()}
        self._flag_thresholds = {use.category: use.flag for use in uses.values()}
        self._strike_thresholds = {use.category: use.strike for use in uses.values()}

    @property
    def thresholds(self) -> Mapping[str, float]:
        return self._thresholds

    @property
    def flag_thresholds(self) -> Mapping[str, float]:
        """The looser thresholds, for rules that only flag."""
        return self._flag_thresholds

    @property
    def strike_thresholds(self) -> Mapping[str, float]:
        return self._strike_thresholds

    def scanner(self, direction: Direction, labels: frozenset[str]) -> WholeScanner | SentenceScanner:
        return WholeScanner() if direction is Direction.PROMPT else SentenceScanner(AnswerWindow)

    async def examine(self, windows: Sequence[Window], priority: Priority) -> list[list[Finding]]:
        """Findings of each window, over its new text. Raises DetectorError's kinds."""
        rows = await self._classifier.score([window.text for window in windows], priority)
        return [self._findings(window, row) for window, row in zip(windows, rows, strict=True)]

    async def start(self) -> None:
        await self._classifier.start()

    async def close(self) -> None:
        await self._classifier.close()

    def attribute(self, row: Sequence[float], direction: Direction = Direction.PROMPT) -> dict[str, float]:
        """The categories one text's scores amount to, each with its score: the classes that the `unsafe` score is
        attributed to (its own name where none stands out), and every label that is a finding of its own."""
        return self._views[direction].attribute(row)

    def _findings(self, window: Window, row: Sequence[float]) -> list[Finding]:
        end = window.offset + len(window.text)
        direction = Direction.COMPLETION if isinstance(window, AnswerWindow) else Direction.PROMPT
        return [
            Finding(self.name, category, score, window.start, end, window.at)
            for category, score in self.attribute(row, direction).items()
        ]


class AnswerWindow(Window):
    """A window of an answer: the labels that speak about answers judge it."""


class _View:
    """The labels that speak about one direction, by what each is for."""

    def __init__(
        self, detector: str, labels: Sequence[str], uses: Mapping[str, LabelUse], direction: Direction
    ) -> None:
        self._own: list[tuple[int, str]] = []
        self._classes: list[tuple[int, str]] = []
        self._unsafe: tuple[int, str] | None = None
        for label, use in uses.items():
            if use.directions and direction.value not in use.directions:
                continue
            place = (labels.index(label), use.category)
            if use.role == "own":
                self._own.append(place)
            elif use.role == "class":
                self._classes.append(place)
            elif self._unsafe is None:
                self._unsafe = place
            else:
                raise SettingsError(
                    f'detector {detector}: two labels have the role "unsafe" for a {direction.value}; '
                    "expected at most one"
                )
        if self._classes and self._unsafe is None:
            raise SettingsError(f'detector {detector}: labels with the role "class" need one with the role "unsafe"')

    def attribute(self, row: Sequence[float]) -> dict[str, float]:
        found = {category: row[place] for place, category in self._own}
        if self._unsafe is not None:
            place, fallback = self._unsafe
            named = [category for at, category in self._classes if row[at] >= _NAMED]
            if not named and self._classes:
                best, category = max((row[at], category) for at, category in self._classes)
                named = [category] if best >= _STANDS_OUT else []
            for category in named or [fallback]:
                found[category] = max(row[place], found.get(category, 0.0))
        return found


class WholeScanner:
    """Keeps a text until it ends and asks for it in one window; the engine cuts what the model cannot take whole."""

    __slots__ = ("_parts", "_seen")

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._seen = 0

    def feed(self, text: str, *, last: bool) -> Scan:
        self._parts.append(text)
        self._seen += len(text)
        if not last:
            return NOTHING
        whole = "".join(self._parts)
        self._parts.clear()
        return Scan(windows=[Window(whole, 0, 0, self._seen + 1)]) if whole.strip() else NOTHING

    def frontier(self, at: int) -> int:
        return 0


class SentenceScanner:
    """Cuts a text that is still being written into windows, at places that depend on the text alone.

    A window's new text begins where the last one ended and runs to the first sentence end that is at least
    `MIN_NEW` characters on, or for `MAX_NEW` characters where no sentence ends. Up to `CONTEXT` characters before it
    go along as context. Each character is thus scored a bounded number of times: cost is linear in the length.
    """

    __slots__ = ("_ends", "_offset", "_seen", "_start", "_text", "_window")

    def __init__(self, window: type[Window] = Window) -> None:
        self._window = window
        self._text = ""  # from `_offset` on: context and what is new
        self._offset = 0
        self._start = 0  # where the new text begins
        self._seen = 0
        self._ends: list[int] = [0]  # where windows ended, those the piece fed last can ask about

    def feed(self, text: str, *, last: bool) -> Scan:
        windows: list[Window] = []
        # Only ends in this piece can matter again, and the latest before it.
        self._ends = self._ends[-1:]
        self._text += text
        fresh = self._seen
        self._seen += len(text)
        for position in range(fresh, self._seen):
            length = position + 1 - self._start
            if length >= MAX_NEW or (length >= MIN_NEW and self._ends_at(position)):
                windows.append(self._cut(position + 1, position + 1))
        if last and self._text[self._start - self._offset :].strip():
            windows.append(self._cut(self._seen, self._seen + 1))
        return Scan(windows=windows) if windows else NOTHING

    def frontier(self, at: int) -> int:
        return self._ends[bisect.bisect_right(self._ends, at) - 1]

    def _ends_at(self, position: int) -> bool:
        here = self._text[position - self._offset]
        if here in _ENDS_ALONE:
            return True
        return here.isspace() and self._text[position - 1 - self._offset] in _ENDS_BEFORE_SPACE

    def _cut(self, end: int, at: int) -> Window:
        window = self._window(self._text[: end - self._offset], self._offset, self._start, at)
        self._ends.append(end)
        self._start = end
        begin = max(0, end - CONTEXT)
        self._text = self._text[begin - self._offset :]
        self._offset = begin
        return window
