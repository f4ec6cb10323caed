"""Two scorers in one: the encoder's probabilities and the n-gram scorer's log-odds, weighed and calibrated by the card.

Each label's score becomes sigmoid(scale * logit(p) + ngrams * z + bias): a temperature where there is no n-gram scorer
(Guo et al. 2017), a logistic stack where there is one.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from guardrail.errors import SettingsError
from guardrail.inference.card import Calibration, ModelCard
from guardrail.inference.ngrams import NgramScorer
from guardrail.protocols import Classifier, Priority

_EDGE = 1e-6  # probabilities nearer to 0 or 1 than this have no log-odds worth the name


class Blend:
    """A `Classifier` around the encoder's; see `blended`."""

    def __init__(
        self, classifier: Classifier, calibrations: Mapping[str, Calibration], ngrams: NgramScorer | None
    ) -> None:
        self._classifier = classifier
        self._ngrams = ngrams
        self._columns = columns(classifier.labels, calibrations, ngrams)
        self._thread: ThreadPoolExecutor | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        return self._classifier.labels

    async def score(self, texts: Sequence[str], priority: Priority = Priority.PROMPT) -> list[tuple[float, ...]]:
        """As `Classifier.score`; n-grams are counted in a thread of their own while the encoder works."""
        if self._ngrams is None or self._thread is None:
            rows = await self._classifier.score(texts, priority)
            return [mix(row, (), self._columns) for row in rows]
        counting = asyncio.get_running_loop().run_in_executor(self._thread, self._ngrams.score, list(texts))
        try:
            rows = await self._classifier.score(texts, priority)
        except BaseException:
            counting.cancel()
            raise
        spelt = (await counting).tolist()
        return [mix(row, odds, self._columns) for row, odds in zip(rows, spelt, strict=True)]

    async def start(self) -> None:
        if self._ngrams is not None and self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="guardrail-ngrams")
        await self._classifier.start()

    async def close(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.shutdown(wait=False)
        await self._classifier.close()


Column = tuple[Calibration, int] | None
"""How a label's score is made, and its place among the n-gram scorer's labels (-1: it has none)."""


def columns(
    labels: Sequence[str], calibrations: Mapping[str, Calibration], ngrams: NgramScorer | None
) -> tuple[Column, ...]:
    """For each of `labels` what `mix` needs; none where the encoder's score stands. Raises SettingsError where a
    label is to be blended with n-gram scores that are not there."""
    found: list[Column] = []
    for label in labels:
        calibration = calibrations.get(label)
        place = ngrams.labels.index(label) if ngrams is not None and label in ngrams.labels else -1
        if calibration is not None and calibration.ngrams and place < 0:
            raise SettingsError(f'the card blends "{label}" with n-gram scores, which the model folder has not')
        found.append((calibration, place) if calibration is not None else None)
    return tuple(found)


def mix(row: Sequence[float], odds: Sequence[float], columns: Sequence[Column]) -> tuple[float, ...]:
    """One text's scores from the encoder's probabilities and the n-gram scorer's log-odds."""
    return tuple(
        p if column is None else _sigmoid(_logit(p) * column[0].scale + column[0].bias + _spelt(column, odds))
        for p, column in zip(row, columns, strict=True)
    )


def blended(classifier: Classifier, card: ModelCard, folder: Path) -> Classifier:
    """The classifier as its folder's card wants it: with the n-gram scorer, calibrated, or as it is."""
    calibrations = {label: use.calibration for label, use in card.labels.items() if use.calibration is not None}
    if not calibrations:
        return classifier
    needed = any(calibration.ngrams for calibration in calibrations.values())
    return Blend(classifier, calibrations, NgramScorer.load(folder) if needed else None)


def _spelt(column: tuple[Calibration, int], odds: Sequence[float]) -> float:
    calibration, place = column
    return calibration.ngrams * odds[place] if place >= 0 and calibration.ngrams else 0.0


def _logit(p: float) -> float:
    p = min(max(p, _EDGE), 1 - _EDGE)
    return math.log(p / (1 - p))


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-max(-60.0, min(60.0, x))))
