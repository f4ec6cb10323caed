"""The PII detector: scanners that decide most things at once, and a thread in which presidio is asked the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TYPE_CHECKING

from guardrail.core.content import Direction
from guardrail.core.findings import Finding
from guardrail.core.frontier import Window
from guardrail.detectors.pii.consult import answer, build
from guardrail.detectors.pii.labels import THRESHOLDS, Hit, distinct
from guardrail.detectors.pii.scanner import NAME, PiiScanner, suspicious
from guardrail.errors import DetectorError
from guardrail.protocols import Priority

if TYPE_CHECKING:
    from presidio_analyzer import AnalyzerEngine

_building = Lock()
_engine: AnalyzerEngine | None = None  # one for the process: it is large, and stateless once built


class PiiDetector:
    """Finds personal information (`guardrail.protocols.Detector`). Its labels are the keys of `labels.THRESHOLDS`.

    presidio is imported when `examine` is first called, in a thread: that call waits for seconds. With `preload` the
    import begins in the background at `start`, for those who would rather spend the memory (some 390 MB) always.
    """

    name = NAME

    def __init__(self, *, preload: bool = False) -> None:
        self._executor: ThreadPoolExecutor | None = None
        self._preload = preload

    @property
    def thresholds(self) -> Mapping[str, float]:
        return THRESHOLDS

    @property
    def strike_thresholds(self) -> Mapping[str, float]:
        """Empty: personal information never counts against the person who writes it."""
        return {}

    def scanner(self, direction: Direction, labels: frozenset[str]) -> PiiScanner:
        """A scanner for one text; what is found does not depend on `direction`."""
        return PiiScanner(labels)

    def clears(self, texts: Sequence[str], direction: Direction, labels: frozenset[str]) -> bool:
        """Whether scanners would surely find nothing in any of these whole texts; a false answer says nothing."""
        return suspicious("\n".join(texts)) is None

    async def examine(self, windows: Sequence[Window], priority: Priority) -> Sequence[Sequence[Finding]]:
        """Ask presidio about `windows`, all in one go, in this detector's thread; raises `DetectorError`."""
        hits = await asyncio.get_running_loop().run_in_executor(self._thread(), _consult, tuple(windows))
        return [
            [Finding(NAME, hit.label, hit.score, hit.start, hit.end, window.at) for hit in found]
            for window, found in zip(windows, hits, strict=True)
        ]

    async def start(self) -> None:
        """Begin to import presidio if that was asked for; else it comes with the first question."""
        if self._preload:
            self._thread().submit(_consult, ())

    async def close(self) -> None:
        """Let the thread go once it has answered what it was asked."""
        if self._executor is not None:
            self._executor.shutdown(wait=False)
            self._executor = None

    def _thread(self) -> ThreadPoolExecutor:
        if self._executor is None:
            self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="guardrail-pii")
        return self._executor


def find(text: str) -> list[tuple[int, int, str]]:
    """The personal information in a whole text as (start, end, label), in order, without overlaps.

    The same path as in a stream, with every label at its default threshold; offsets are code points. Asks presidio, and
    so imports it, where the text holds something that needs it. Raises `DetectorError`.
    """
    scan = PiiScanner(frozenset(THRESHOLDS)).feed(text, last=True)
    hits = [Hit(finding.start, finding.end, finding.category, finding.score) for finding in scan.findings]
    if scan.windows:
        for found in _consult(tuple(scan.windows)):
            hits.extend(found)
    counting = [hit for hit in hits if hit.score >= THRESHOLDS[hit.label]]
    return [(hit.start, hit.end, hit.label) for hit in distinct(counting)]


def _consult(windows: Sequence[Window]) -> list[list[Hit]]:
    global _engine
    try:
        with _building:
            if _engine is None:
                _engine = build()
        return answer(_engine, windows)
    except Exception as error:
        # The text of the error may quote what was examined; its type does not.
        raise DetectorError(f"presidio failed on {len(windows)} windows: {type(error).__name__}") from None
