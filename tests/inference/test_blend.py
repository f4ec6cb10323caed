"""Encoder and n-gram scorer together: the card's arithmetic, what stays as it is, and a card that asks too much."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from guardrail.errors import DetectorError, SettingsError
from guardrail.inference.blend import Blend, blended
from guardrail.inference.card import Calibration, LabelUse, ModelCard
from guardrail.inference.ngrams import NgramScorer
from guardrail.protocols import Priority


class Fixed:
    """A classifier with one answer, or one failure."""

    labels = ("unsafe", "hate")

    def __init__(self, row: tuple[float, ...] | None = (0.5, 0.25)) -> None:
        self.row = row
        self.running = False

    async def score(self, texts: Sequence[str], priority: Priority = Priority.PROMPT) -> list[tuple[float, ...]]:
        if self.row is None:
            raise DetectorError("the device is gone")
        return [self.row for _ in texts]

    async def start(self) -> None:
        self.running = True

    async def close(self) -> None:
        self.running = False


def scorer(bias: float) -> NgramScorer:
    return NgramScorer.rounded(np.zeros((4, 1)), np.array([bias]), ["unsafe"])


async def test_log_odds_are_weighed_as_the_card_says_and_other_labels_stay() -> None:
    blend = Blend(Fixed((0.8, 0.25)), {"unsafe": Calibration(scale=2.0, ngrams=0.5, bias=-1.0)}, scorer(3.0))
    await blend.start()
    try:
        [(unsafe, hate)] = await blend.score(["x"])
    finally:
        await blend.close()
    assert unsafe == pytest.approx(1 / (1 + math.exp(-(2 * math.log(4) + 0.5 * 3 - 1))))
    assert hate == 0.25


async def test_a_temperature_alone_needs_no_n_grams_and_certainty_is_no_error() -> None:
    blend = Blend(Fixed((1.0, 0.0)), {"unsafe": Calibration(scale=0.5), "hate": Calibration(scale=3.0)}, None)
    await blend.start()
    [(unsafe, hate)] = await blend.score(["x"])
    await blend.close()
    assert 0.99 < unsafe < 1.0
    assert 0.0 < hate < 1e-9


async def test_a_failure_of_the_encoder_is_the_blends_own() -> None:
    inner = Fixed(None)
    blend = Blend(inner, {"unsafe": Calibration(ngrams=1.0)}, scorer(0.0))
    await blend.start()
    assert inner.running
    with pytest.raises(DetectorError, match="device is gone"):
        await blend.score(["x"])
    await blend.close()
    assert not inner.running


def test_a_card_without_calibration_leaves_the_classifier_and_one_that_asks_for_missing_n_grams_is_refused(
    tmp_path: Path,
) -> None:
    inner = Fixed()
    plain = ModelCard(id="m", title="m", labels={"unsafe": LabelUse("unsafe", "unsafe")})
    assert blended(inner, plain, tmp_path) is inner
    asking = LabelUse("unsafe", "unsafe", calibration=Calibration(ngrams=0.3))
    with pytest.raises(SettingsError, match="n-gram scores, which the model folder has not"):
        blended(inner, ModelCard(id="m", title="m", labels={"unsafe": asking}), tmp_path)
