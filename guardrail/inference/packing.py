"""Decide what goes together: which stretch of a text to the tokenizer, which windows to the device. Pure."""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from guardrail.protocols import Priority

BUCKETS = (16, 32, 64, 128, 256, 512)
"""Padded lengths a GPU is given, in tokens: few, as each is a graph of its own."""

FINE_BUCKETS = (*range(8, 64, 8), *range(64, 128, 16), *range(128, 513, 32))
"""Lengths that go together on a CPU, where padding costs as much as text and nothing depends on a shape."""

SLICE = 8_192
"""Characters tokenised at a time: other callers' texts are let in between. Some characters become eighteen."""

SEAM = 256
"""Characters that two slices of one text share, so that what lies across their border is seen whole."""


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


def bucket(length: int, sizes: Sequence[int] = BUCKETS) -> int:
    """The padded length a window of `length` tokens is batched at."""
    place = bisect.bisect_left(sizes, length)
    return sizes[place] if place < len(sizes) else length


def slices(texts: Sequence[str]) -> Iterator[list[tuple[int, str]]]:
    """Cut texts into jobs for the tokenizer: each a list of (number of the text, stretch of it), some `SLICE`
    characters in all. A text is cut at offsets that depend on nothing else, and its stretches overlap by `SEAM`."""
    job: list[tuple[int, str]] = []
    room = SLICE
    for number, text in enumerate(texts):
        for start in range(0, max(len(text) - SEAM, 1), SLICE - SEAM):
            stretch = text[start : start + SLICE]
            if job and len(stretch) > room:
                yield job
                job, room = [], SLICE
            job.append((number, stretch))
            room -= len(stretch)
    if job:
        yield job


def pack(waiting: Sequence[Entry], budget: int, sizes: Sequence[int] = BUCKETS) -> list[Entry]:
    """Choose the next batch from entries in order: the first one, and those that ride along at little cost.

    Riders share the first one's length bucket, so that padding stays under half, and come in order; the batch's
    padded size, count times longest, stays within `budget` tokens (the first entry always goes). An entry of a lower
    priority rides only where none of a higher one is left waiting by this batch.
    """
    first = waiting[0]
    size = bucket(len(first.ids), sizes)
    batch = [first]
    longest = len(first.ids)
    left: Priority | None = None
    for entry in waiting[1:]:
        if left is not None and entry.priority > left:
            break
        if bucket(len(entry.ids), sizes) != size:
            left = entry.priority if left is None else left
            continue
        wider = max(longest, len(entry.ids))
        if wider * (len(batch) + 1) > budget:
            break
        batch.append(entry)
        longest = wider
    return batch
