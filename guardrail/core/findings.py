"""What detectors report. A finding has no opinion on blocking: policies judge."""

from __future__ import annotations

from typing import NamedTuple


class Finding(NamedTuple):
    """A detector saw `category` (its own word for it) in `text[start:end]` of a segment with `score` in [0, 1].

    `at` is the offset at which the detector became certain: the end of the match plus any look-ahead it needed. It
    depends on the text alone, so that an upstream's chunking cannot change the order in which findings count.
    """

    detector: str
    category: str
    score: float
    start: int
    end: int
    at: int
    segment: int = 0


class Failure(NamedTuple):
    """A detector gave no answer for the text up to `at`. `kind` is one of error, timeout, overloaded."""

    detector: str
    kind: str
    at: int = 0
    segment: int = 0
