"""Run waiting texts on one device in batches: batch while busy, never wait for a fuller one.

`packing` decides, this waits. It needs no torch: the device is any object with `score`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, runtime_checkable

from guardrail.errors import DetectorError, DetectorOverloaded, DetectorTimeout
from guardrail.inference.packing import BUCKETS, Call, Entry, pack, slices
from guardrail.inference.tokens import TokenEncoder
from guardrail.protocols import Priority


class Scorer(Protocol):
    """A model on a device. `score` blocks; it is called from one thread at a time."""

    @property
    def labels(self) -> tuple[str, ...]: ...

    def score(self, batch: Sequence[Sequence[int]]) -> list[tuple[float, ...]]: ...


@runtime_checkable
class Warming(Protocol):
    """What a `Scorer` may have besides: work to be done once before the first batch (compiling, capturing graphs)."""

    def warm(self) -> None: ...


class BatchingClassifier:
    """A `Classifier` around a scorer that runs in one worker thread.

    `queue` bounds the windows that wait: beyond it callers get DetectorOverloaded at once. A call not answered within
    `deadline` seconds gets DetectorTimeout. Windows of like length, by `buckets`, go together; those of callers that
    have gone are dropped before they cost anything. `on_depth` is told the number of windows waiting whenever it
    changes, `on_batch` each batch's padded tokens.
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
        buckets: Sequence[int] = BUCKETS,
        on_depth: Callable[[int], None] = lambda depth: None,
        on_batch: Callable[[int], None] = lambda tokens: None,
    ) -> None:
        self._scorer = scorer
        self._encoder = encoder
        self._overlap = overlap
        self._batch_tokens = batch_tokens
        self._queue = queue
        self._deadline = deadline
        self._buckets = tuple(buckets)
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
        if isinstance(self._scorer, Warming):
            await loop.run_in_executor(self._device, self._scorer.warm)
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
                    windows = await self._tokenise(texts, self._tokenizer)
                finally:
                    self._encoding -= len(texts)
                    self._characters -= characters
                call = Call(len(texts), len(windows), loop.create_future())
                self._enqueue(call, windows, priority)
                await call.answer
        except TimeoutError:
            raise DetectorTimeout(f"the classifier did not answer within {self._deadline:g} s") from None
        finally:
            if call is not None and call.open:
                self._forget(call)
        return [row for row in call.rows if row is not None]

    async def _tokenise(self, texts: Sequence[str], tokenizer: ThreadPoolExecutor) -> list[tuple[int, list[int]]]:
        """The windows of all texts, each with its text's number, slice by slice: a caller that has gone, or whose
        texts cannot fit the queue any more, costs one slice at most."""
        loop = asyncio.get_running_loop()
        windows: list[tuple[int, list[int]]] = []
        for job in slices(texts):
            windows += await loop.run_in_executor(tokenizer, self._cut, job)
            self._check_room(len(windows))
        return windows

    def _cut(self, job: Sequence[tuple[int, str]]) -> list[tuple[int, list[int]]]:
        # One text at a time: given several, the tokenizer would spread them over cores that others are meant to have.
        return [
            (number, window.ids)
            for number, stretch in job
            for window in self._encoder.windows([stretch], self._overlap)[0]
        ]

    def _check_room(self, windows: int) -> None:
        if self._task is None:
            raise DetectorError("the classifier is closing")
        if len(self._waiting) + windows > self._queue:
            raise DetectorOverloaded(f"the classifier's queue is full ({self._queue} windows)")

    def _enqueue(self, call: Call, windows: Sequence[tuple[int, list[int]]], priority: Priority) -> None:
        self._check_room(len(windows))
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
            batch = pack(self._waiting, self._batch_tokens, self._buckets)
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
