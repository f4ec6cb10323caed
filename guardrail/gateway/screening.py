"""Screen the texts of one direction of one exchange: detectors run here, side by side, and the verdict is drawn."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import count
from time import perf_counter
from typing import NamedTuple

from guardrail.core.content import Content, Direction, Path
from guardrail.core.findings import Failure, Finding
from guardrail.core.frontier import Channel, Cleared, Scan, Scanner, Window
from guardrail.core.policy import Rulebook
from guardrail.core.verdict import Verdict, judge
from guardrail.errors import DetectorError
from guardrail.metrics import Metrics
from guardrail.protocols import Clearing, Detector, Priority

log = logging.getLogger("guardrail.screening")

AT_ONCE = 8192
"""Code points that are scanned without a pause: some ten milliseconds at the worst."""


_TOGETHER = 64  # texts


class Look(NamedTuple):
    """One detector in a plan: what makes its scanner, the labels to look for, and its quick look, if it has one."""

    name: str
    scanner: Callable[[Direction, frozenset[str]], Scanner]
    labels: frozenset[str]
    clears: Callable[[Sequence[str], Direction, frozenset[str]], bool] | None


class Plan:
    """What screening a text takes under one rulebook: made once, used by every request that it holds for."""

    __slots__ = ("clean", "detectors", "looks", "rulebook")

    def __init__(self, detectors: Mapping[str, Detector], rulebook: Rulebook) -> None:
        self.detectors = detectors
        self.rulebook = rulebook
        self.clean = judge(rulebook, ())
        self.looks = tuple(
            Look(
                name,
                detectors[name].scanner,
                labels,
                detector.clears if isinstance(detector := detectors[name], Clearing) else None,
            )
            for name, labels in rulebook.labels.items()
            if name in detectors
        )


class Screening:
    """The channels of one direction, and the windows that detectors still owe an answer for."""

    def __init__(
        self,
        plan: Plan,
        direction: Direction,
        priority: Priority,
        metrics: Metrics,
        on_answer: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.channels: list[Channel | Cleared] = []
        self.direction = direction
        self._plan = plan
        self._priority = priority
        self._metrics = metrics
        self._on_answer = on_answer
        self._asked: dict[str, list[tuple[Channel, Window]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._spent: dict[str, float] = {}
        self._drawn: Verdict | None = plan.clean  # for as long as no text needed more than a quick look

    def channel(self, looks: Sequence[Look] | None = None) -> Channel:
        """A new channel for one more text, for all detectors or for those of `looks` alone."""
        spent = self._spent
        scanners: dict[str, Scanner] = {}
        for look in self._plan.looks if looks is None else looks:
            spent.setdefault(look.name, 0.0)
            scanners[look.name] = _Timed(look.scanner(self.direction, look.labels), look.name, spent)
        self._drawn = None
        channel = Channel(self._plan.rulebook, scanners, segment=len(self.channels))
        self.channels.append(channel)
        return channel

    def feed(self, channel: Channel, text: str, *, last: bool = False) -> None:
        """Give a channel its next piece; what must be examined elsewhere waits for `dispatch`."""
        for name, window in channel.feed(text, last=last):
            self._asked.setdefault(name, []).append((channel, window))

    async def look_at(self, texts: Sequence[str]) -> None:
        """Give each text a new channel, and wait until all that detectors owe is answered."""
        for start in range(0, len(texts), _TOGETHER):
            if start:
                await asyncio.sleep(0)  # ten thousand messages must not stall the streams beside them
            some = texts[start : start + _TOGETHER]
            unclear = self._glance(some)
            if not unclear:
                self.channels += map(Cleared, some, count(len(self.channels)))
                continue
            for index, text in enumerate(some):
                looks = unclear.get(index)
                if looks is None:
                    self.channels.append(Cleared(text, len(self.channels)))
                elif len(text) <= AT_ONCE:
                    self.feed(self.channel(looks), text, last=True)
                else:
                    await self._read_through(text)
        if self._asked:
            self.dispatch()
            await self.settled()

    def _glance(self, texts: Sequence[str]) -> dict[int, list[Look]]:
        """Which texts have to be looked at closer, by index, and by whom. What the quick looks cost is counted."""
        unclear: dict[int, list[Look]] = {}
        direction, spent = self.direction, self._spent
        few = sum(map(len, texts)) <= AT_ONCE
        began = perf_counter()
        for look in self._plan.looks:
            name, _, labels, clears = look
            if clears is None or not (few and clears(texts, direction, labels)):
                for index, text in enumerate(texts):
                    if clears is None or len(text) > AT_ONCE or not clears((text,), direction, labels):
                        unclear.setdefault(index, []).append(look)
            now = perf_counter()
            spent[name] = spent.get(name, 0.0) + now - began
            began = now
        return unclear

    async def _read_through(self, text: str) -> None:
        """Feed a long text in slices, so that what runs beside it is not stalled."""
        channel = self.channel()
        for start in range(0, len(text), AT_ONCE):
            self.feed(channel, text[start : start + AT_ONCE], last=start + AT_ONCE >= len(text))
            await asyncio.sleep(0)

    def dispatch(self) -> None:
        """Send off all windows that have become due, one call for each detector."""
        if self._asked:
            for name, asked in self._asked.items():
                task = asyncio.create_task(self._examine(name, asked))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            self._asked = {}

    async def settled(self) -> None:
        """Wait until every window is answered."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def progress(self) -> None:
        """Wait until some window is answered."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), return_when=asyncio.FIRST_COMPLETED)

    def cancel(self) -> None:
        """Let go of windows nobody waits for any more."""
        for task in self._tasks:
            task.cancel()

    @property
    def pending(self) -> bool:
        return bool(self._tasks or self._asked)

    @property
    def stopped(self) -> Channel | None:
        """The first channel whose text may not go on, if any."""
        for channel in self.channels:
            if channel.cut is not None and isinstance(channel, Channel):
                return channel
        return None

    def draw(self) -> Verdict:
        """The verdict, for good: nothing more will be fed or answered."""
        if self._drawn is None:
            self._drawn = self.verdict
        return self._drawn

    @property
    def verdict(self) -> Verdict:
        """Everything found so far, judged."""
        if self._drawn is not None:
            return self._drawn
        findings: list[Finding] = []
        failures: list[Failure] = []
        for channel in self.channels:
            findings += channel.findings
            failures += channel.failures
        return judge(self._plan.rulebook, findings, failures)

    @property
    def length(self) -> int:
        """How much text came, in code points."""
        return sum(channel.received for channel in self.channels)

    def rest(self) -> dict[int, tuple[int, str]]:
        """The text that has not been released: for each channel the offset at which it begins, and it."""
        return {channel.segment: (channel.taken, channel.held) for channel in self.channels}

    def changed(self, content: Content) -> dict[Path, str]:
        """The segments of `content` that redaction changes, by path: channel n screened segment n."""
        texts: dict[Path, str] = {}
        for segment, channel in zip(content.segments, self.channels, strict=True):
            text = channel.take(channel.received)
            if text != segment.text:
                texts[segment.path] = text
        return texts

    def spent(self) -> Iterable[tuple[str, float]]:
        """The seconds that each detector has cost, by its name."""
        return self._spent.items()

    async def _examine(self, name: str, asked: Sequence[tuple[Channel, Window]]) -> None:
        windows = [window for _, window in asked]
        answers: Sequence[Sequence[Finding] | Failure]
        started = perf_counter()
        try:
            answers = await self._plan.detectors[name].examine(windows, self._priority)
            if len(answers) != len(windows):
                raise DetectorError(f"{name} answered {len(answers)} of {len(windows)} windows")
        except DetectorError as error:
            answers = [Failure(name, error.kind)] * len(windows)
            self._metrics.detector_failed(name, error.kind)
            log.warning("detector %s gave no answer: %s", name, error.kind)
        except Exception as error:  # a detector of the user's own: whatever it raises is its failure, not ours
            answers = [Failure(name, DetectorError.kind)] * len(windows)
            self._metrics.detector_failed(name, DetectorError.kind)
            log.error("detector %s raised %s", name, type(error).__name__)
        self._spent[name] = self._spent.get(name, 0.0) + perf_counter() - started
        for (channel, window), answer in zip(asked, answers, strict=True):
            channel.resolve(name, window, answer)
        if self._on_answer is not None:
            await self._on_answer()


async def screen(content: Content, plan: Plan, metrics: Metrics, priority: Priority = Priority.PROMPT) -> Screening:
    """Screen whole texts; one channel a segment, all settled."""
    screening = Screening(plan, content.direction, priority, metrics)
    await screening.look_at([segment.text for segment in content.segments])
    return screening


class _Timed:
    """A scanner with a stopwatch, which looks at the first piece of a text and then at every eighth, for all eight."""

    __slots__ = ("_feed", "_name", "_passed", "_spent", "_weight", "frontier")

    def __init__(self, scanner: Scanner, name: str, spent: dict[str, float]) -> None:
        self._feed = scanner.feed
        self.frontier = scanner.frontier
        self._name = name
        self._spent = spent
        self._passed = 7
        self._weight = 1

    def feed(self, text: str, *, last: bool) -> Scan:
        self._passed += 1
        if self._passed < 8:
            return self._feed(text, last=last)
        weight, self._weight, self._passed = self._weight, 8, 0
        started = perf_counter()
        scan = self._feed(text, last=last)
        self._spent[self._name] += (perf_counter() - started) * weight
        return scan
