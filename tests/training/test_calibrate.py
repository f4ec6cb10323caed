"""Calibration: log-odds come right on rows that trained nothing, and a scorer that is no help is left out."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from guardrail.inference.blend import columns, mix
from guardrail.inference.ngrams import NgramScorer
from guardrail.training.calibrate import calibrate
from guardrail.training.metrics import auroc, calibration_error
from guardrail.training.rows import Row
from guardrail.training.targets import LABELS, POLITICAL, UNSAFE

Drawn = tuple[list[Row], list[list[float]], np.ndarray]


def draw(count: int, *, temperature: float, spelling: float) -> Drawn:
    """Rows whose truth follows log-odds x; the encoder says `temperature` * x and noise, n-grams `spelling` * x."""
    dice = random.Random(4)
    rows, scores, odds = [], [], []
    for i in range(count):
        x = dice.gauss(0, 2)
        unsafe = dice.random() < 1 / (1 + math.exp(-x))
        rows.append(Row(f"t{i}", "unsafe" if unsafe else "safe", "en", "prompt", "illegal" if unsafe else "safe"))
        seen = temperature * (x + dice.gauss(0, 1))
        scores.append([1 / (1 + math.exp(-seen))] * len(LABELS))
        odds.append([spelling * (x + dice.gauss(0, 1)) if spelling >= 0 else -x])
    return rows, scores, np.array(odds)


def blended(drawn: Drawn, *, half: int) -> list[float]:
    rows, scores, odds = drawn
    found = calibrate(rows[:half], scores[:half], odds[:half], (UNSAFE,))
    scorer = NgramScorer.rounded(np.zeros((2, 1)), np.zeros(1), (UNSAFE,))
    made = columns(LABELS, found, scorer)
    place = LABELS.index(UNSAFE)
    return [mix(row, z, made)[place] for row, z in zip(scores[half:], odds[half:].tolist(), strict=True)]


def test_an_overconfident_encoder_is_cooled_and_the_second_scorer_adds_what_it_knows() -> None:
    drawn = draw(4_000, temperature=4.0, spelling=1.0)
    truth = [row.label == "unsafe" for row in drawn[0][2_000:]]
    raw = [row[LABELS.index(UNSAFE)] for row in drawn[1][2_000:]]
    both = blended(drawn, half=2_000)
    assert (calibration_error(truth, both) or 1.0) < 0.05 < (calibration_error(truth, raw) or 0.0)
    assert (auroc(truth, both) or 0.0) > (auroc(truth, raw) or 1.0) + 0.01


def test_a_scorer_that_points_the_wrong_way_is_left_out_of_the_blend() -> None:
    rows, scores, odds = draw(1_000, temperature=1.0, spelling=-1.0)
    # Log-odds that only repeat the truth with the other sign would count against themselves.
    found = calibrate(rows, scores, odds, (UNSAFE,))
    assert found[UNSAFE].ngrams == 0.0
    assert found[UNSAFE].scale > 0.0


def test_a_label_that_hardly_any_row_has_stays_as_the_encoder_scores_it() -> None:
    rows, scores, odds = draw(300, temperature=1.0, spelling=1.0)
    found = calibrate(rows, scores, odds, (UNSAFE, POLITICAL)[:1])
    assert POLITICAL not in found
    assert UNSAFE in found


@pytest.mark.parametrize("count", [0, 3])
def test_too_few_rows_calibrate_nothing(count: int) -> None:
    rows, scores, _ = draw(count, temperature=1.0, spelling=1.0)
    assert calibrate(rows, scores, np.zeros((count, 1)), (UNSAFE,)) == {}
