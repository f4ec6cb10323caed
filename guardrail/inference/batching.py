"""Pack waiting texts into batches and run them on one device: batch while busy, never wait for a fuller one.

`pack` decides and is pure; `BatchingClassifier` waits. It needs no torch: the device is any object with `score`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

from guardrail.errors import DetectorError, DetectorOverloaded, DetectorTimeout
from guardrail.inference.tokens import TokenEncoder
from guardrail.protocols import Priority

BUCKETS = (16, 32, 64, 128, 256, 512)


class Scorer(Protocol):
    """A model on a device. `score` blocks; it is called from one thread at a time."""

    @property
    def labels(self) -> tuple[str, ...]: ...

    def score(self, batch: Sequence[Sequence[int]]) -> list[tuple[float, ...]]: ...


class Call:
    """One caller's texts: the windows still out, each text's best scores so far, and the future that answers."""

    __slots__ = ("answer", "open", "rows")

    def __init__(self, texts: int, windows: int, answer: asyncio.Future[None]) -> None:
        self.rows: list[tuple[float, ...] | None] = [None] * texts
        self.open = windows
        self.answer = answer

    @property
    def gone(self) -> bool:
        """Whether nobody waits any more: cancelled, timed out, or failed by another of its windows."""
        return self.answer.done()

    def take(self, text: int, scores: tuple[float, ...]) -> None:
        """Keep the highest score of each label over a text's windows; the last window answers the call."""
        held = self.rows[text]
        self.rows[text] = scores if held is None else tuple(map(max, held, scores))
        self.open -= 1
        if not self.open:
            self.answer.set_result(None)


class Entry(NamedTuple):
    """One window in the queue. Entries sort by priority, then by age."""

    priority: Priority
    number: int
    ids: list[int]
    text: int
    call: Call


def bucket(length: int) -> int:
    """The padded length a window of `length` tokens is batched at."""
    return next((size for size in BUCKETS if length <= size), length)


def pack(waiting: Sequence[Entry], budget: int) -> list[Entry]:
    """Choose the next batch from entries in order: the first one, and those that ride along at little cost.

    Riders share the first one's length bucket, so that padding stays under half, and come in order; the batch's
    padded size, count times longest, stays within `budget` tokens (the first entry always goes). An entry of a lower
    priority rides only where none of a higher one is left waiting by this batch.
    """
    first = waiting[0]
    size = bucket(len(first.ids))
    batch = [first]
    longest = len(first.ids)
    left: Priority | None = None
    for entry in waiting[1:]:
        if left is not None and entry.priority > left:
            break
        if bucket(len(entry.ids)) != size:
            left = entry.priority if left is None else left
            continue
        wider = max(longest, len(entry.ids))
        if wider * (len(batch) + 1) > budget:
            break
        batch.append(entry)
        longest = wider
    return batch


class BatchingClassifier:
    """A `Classifier` around a scorer that runs in one worker thread.

    `queue` bounds the windows that wait: beyond it callers get DetectorOverloaded at once. A call not answered within
    `deadline` seconds gets DetectorTimeout. Windows of callers that have gone are dropped before they cost anything.
    `on_depth` is told the number of windows waiting whenever it changes, `on_batch` each batch's padded tokens.
    """

    def __init__(
        self,
        scorer: Scorer,
        encoder: TokenEncoder,
        *,
        overlap: int = 32,
        batch_tokens: int = 1_024,
        queue: int = 1_024,
        deadline: float = 10.0,
        on_depth: Callable[[int], None] = lambda depth: None,
        on_batch: Callable[[int], None] = lambda tokens: None,
    ) -> None:
        self._scorer = scorer
        self._encoder = encoder
        self._overlap = overlap
        self._batch_tokens = batch_tokens
        self._queue = queue
        self._deadline = deadline
        self._on_depth = on_depth
        self._on_batch = on_batch
        self._waiting: list[Entry] = []
        self._encoding = 0  # texts being tokenised, and their characters
        self._characters = 0
        self._numbers = 0
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._device: ThreadPoolExecutor | None = None
        self._tokenizer: ThreadPoolExecutor | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        return self._scorer.labels

    @property
    def depth(self) -> int:
        """Windows waiting for the device."""
        return len(self._waiting)

    async def start(self) -> None:
        """Warm the device up with one short and one full window, and start the worker. Raises DetectorError."""
        if self._task is not None:
            return
        self._device = ThreadPoolExecutor(1, thread_name_prefix="guardrail-device")
        self._tokenizer = ThreadPoolExecutor(1, thread_name_prefix="guardrail-tokens")
        loop = asyncio.get_running_loop()
        for ids in self._encoder.head_and_tail(["warm-up", "word " * self._encoder.max_tokens]):
            await loop.run_in_executor(self._device, self._scorer.score, [ids])
        self._task = asyncio.create_task(self._work(), name="guardrail-classifier")

    async def close(self) -> None:
        """Answer everyone who waits with DetectorError, let the batch on the device end, and free the threads."""
        task, self._task = self._task, None
        if task is None:
            return
        self._fail([entry.call for entry in self._waiting], "the classifier is closing")
        self._waiting.clear()
        self._wake.set()
        # A device that hangs must not keep the process: its callers have had their deadline by then.
        _, stuck = await asyncio.wait({task}, timeout=self._deadline)
        for worker in stuck:
            worker.cancel()
        for pool in (self._device, self._tokenizer):
            if pool is not None:
                # Texts being tokenised are let through, to be told that the classifier is closing.
                pool.shutdown(wait=False)

    async def score(self, texts: Sequence[str], priority: Priority = Priority.PROMPT) -> list[tuple[float, ...]]:
        """For each text the probability of each label, the highest over its windows. Raises DetectorError's kinds."""
        if self._task is None or self._tokenizer is None:
            raise DetectorError("the classifier is not running")
        if not texts:
            return []
        loop = asyncio.get_running_loop()
        characters = sum(map(len, texts))
        # A token is rarely longer than eight characters: what cannot fit is refused before it costs tokenising.
        room = self._queue * self._encoder.max_tokens * 8
        if len(self._waiting) + self._encoding + len(texts) > self._queue or self._characters + characters > room:
            raise DetectorOverloaded(f"the classifier's queue is full ({self._queue} windows)")
        call: Call | None = None
        try:
            async with asyncio.timeout(self._deadline):
                self._encoding += len(texts)
                self._characters += characters
                try:
                    windows = await loop.run_in_executor(
                        self._tokenizer, self._encoder.windows, list(texts), self._overlap
                    )
                finally:
                    self._encoding -= len(texts)
                    self._characters -= characters
                call = Call(len(texts), sum(map(len, windows)), loop.create_future())
                self._enqueue(call, [(i, window.ids) for i, found in enumerate(windows) for window in found], priority)
                await call.answer
        except TimeoutError:
            raise DetectorTimeout(f"the classifier did not answer within {self._deadline:g} s") from None
        finally:
            if call is not None and call.open:
                self._forget(call)
        return [row for row in call.rows if row is not None]

    def _enqueue(self, call: Call, windows: Sequence[tuple[int, list[int]]], priority: Priority) -> None:
        if self._task is None:
            raise DetectorError("the classifier is closing")
        if len(self._waiting) + len(windows) > self._queue:
            raise DetectorOverloaded(f"the classifier's queue is full ({self._queue} windows)")
        for text, ids in windows:
            self._numbers += 1
            self._waiting.append(Entry(priority, self._numbers, ids, text, call))
        self._on_depth(len(self._waiting))
        self._wake.set()

    def _forget(self, call: Call) -> None:
        """Take out what is left of a call that nobody waits for."""
        if not call.answer.cancel() and not call.answer.cancelled():
            call.answer.exception()  # read it, or asyncio logs an error nobody can act on
        kept = [entry for entry in self._waiting if entry.call is not call]
        if len(kept) != len(self._waiting):
            self._waiting = kept
            self._on_depth(len(kept))

    async def _work(self) -> None:
        while self._task is not None:
            self._waiting = [entry for entry in self._waiting if not entry.call.gone]
            if not self._waiting:
                self._wake.clear()
                await self._wake.wait()
                continue
            # Sorting by (priority, number) alone: numbers are unique, so nothing after them is compared.
            self._waiting.sort(key=lambda entry: entry[:2])
            batch = pack(self._waiting, self._batch_tokens)
            taken = {entry.number for entry in batch}
            self._waiting = [entry for entry in self._waiting if entry.number not in taken]
            self._on_depth(len(self._waiting))
            self._on_batch(len(batch) * max(len(entry.ids) for entry in batch))
            await self._run(batch)

    async def _run(self, batch: Sequence[Entry]) -> None:
        loop = asyncio.get_running_loop()
        calls = [entry.call for entry in batch]
        try:
            scores = await loop.run_in_executor(self._device, self._scorer.score, [entry.ids for entry in batch])
            self._check(scores, len(batch))
        except DetectorError as error:
            self._fail(calls, str(error))
        except Exception as error:  # whatever the device raises becomes the callers' DetectorError; the worker lives
            self._fail(calls, f"the classifier failed: {type(error).__name__}", error)
        else:
            for entry, row in zip(batch, scores, strict=True):
                if not entry.call.gone:
                    entry.call.take(entry.text, row)

    def _check(self, scores: Sequence[Sequence[float]], rows: int) -> None:
        width = len(self._scorer.labels)
        if len(scores) != rows or any(len(row) != width for row in scores):
            raise DetectorError(f"the classifier returned scores of the wrong shape; expected {rows} x {width}")
        if any(math.isnan(score) for row in scores for score in row):
            raise DetectorError("the classifier returned NaN")

    @staticmethod
    def _fail(calls: Sequence[Call], message: str, cause: BaseException | None = None) -> None:
        for call in calls:
            if not call.gone:
                error = DetectorError(message)
                error.__cause__ = cause
                call.answer.set_exception(error)
