"""The arithmetic of evaluation, over plain lists of labels and scores; scikit-learn does the curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, TypedDict

from guardrail.errors import SettingsError

BINS = 15
"""Bins of the calibration error: of equal width, as published figures mostly have it."""

Z95 = 1.959963984540054
"""The normal quantile of a two-sided 95 % interval."""


class Metrics(TypedDict):
    """What is measured of a set of rows. A value is None where the rows cannot tell, e.g. hold one class only.

    `fpr_low` and `fpr_high` are the 95 % Wilson bounds of `fpr`; `recall_at_fpr_1` is the recall at the least threshold
    that flags at most 1 % of the safe rows; `ece` is the expected calibration error.
    """

    n: int
    threshold: float | None
    auroc: float | None
    auprc: float | None
    f1: float | None
    precision: float | None
    recall: float | None
    fpr: float | None
    fpr_low: float | None
    fpr_high: float | None
    recall_at_fpr_1: float | None
    recall_at_fpr_2: float | None
    recall_at_fpr_5: float | None
    ece: float | None


class Bin(NamedTuple):
    """The rows whose scores lie in [low, high): how many, their mean score, and the share of them that is unsafe."""

    low: float
    high: float
    rows: int
    score: float
    unsafe: float


def measure(labels: Sequence[bool], scores: Sequence[float], threshold: float) -> Metrics:
    """Measure scores against labels (True = unsafe). A row counts as flagged at `score >= threshold`.

    Where rows of one class are missing, everything that compares the two is None; recall needs unsafe rows only,
    and fpr, the share of safe rows flagged, needs safe rows only.
    """
    positives = sum(labels)
    negatives = len(labels) - positives
    hit = sum(1 for label, score in zip(labels, scores, strict=True) if label and score >= threshold)
    false = sum(1 for label, score in zip(labels, scores, strict=True) if not label and score >= threshold)
    both = positives > 0 and negatives > 0
    curves = _curves(labels, scores) if both else (None, None)
    bounds = wilson(false, negatives) if negatives else (None, None)
    at = [recall_at(labels, scores, rate) if both else None for rate in (0.01, 0.02, 0.05)]
    return Metrics(
        n=len(labels),
        threshold=threshold,
        auroc=curves[0],
        auprc=curves[1],
        f1=2 * hit / (positives + hit + false) if both else None,
        precision=hit / (hit + false) if both and hit + false else None,
        recall=hit / positives if positives else None,
        fpr=false / negatives if negatives else None,
        fpr_low=bounds[0],
        fpr_high=bounds[1],
        recall_at_fpr_1=at[0],
        recall_at_fpr_2=at[1],
        recall_at_fpr_5=at[2],
        ece=calibration_error(labels, scores) if both else None,
    )


def auroc(labels: Sequence[bool], scores: Sequence[float]) -> float | None:
    """Area under the ROC curve, ties counted half; None where one class is missing."""
    return _curves(labels, scores)[0] if 0 < sum(labels) < len(labels) else None


def wilson(count: int, of: int, z: float = Z95) -> tuple[float, float]:
    """Bounds of a share that was `count` in `of` (at least 1): the score interval of Wilson (1927), 95 % by default.

    Unlike the share with its standard error on both sides it stays in [0, 1] and says something where `count` is 0.
    """
    share = count / of
    spread = z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    middle, scale = share + z * z / (2 * of), 1 + z * z / of
    # At the ends the bound is the share itself, but for what rounding leaves.
    low = 0.0 if count == 0 else (middle - spread) / scale
    high = 1.0 if count == of else (middle + spread) / scale
    return low, high


def recall_at(labels: Sequence[bool], scores: Sequence[float], rate: float) -> float:
    """The share of unsafe rows above the least threshold that flags at most `rate` of the safe rows.

    Both classes must be there. With fewer than 1 / `rate` safe rows none of them may be flagged.
    """
    safe = sorted((score for label, score in zip(labels, scores, strict=True) if not label), reverse=True)
    unsafe = [score for label, score in zip(labels, scores, strict=True) if label]
    allowed = math.floor(rate * len(safe) + 1e-9)  # 0.02 * 150 is a little less than 3
    if allowed >= len(safe):
        return 1.0
    return sum(score > safe[allowed] for score in unsafe) / len(unsafe)


def reliability(labels: Sequence[bool], scores: Sequence[float], bins: int = BINS) -> list[Bin]:
    """The rows in `bins` bins of equal width by score in [0, 1], empty ones left out; the last holds 1.0 too."""
    held: dict[int, list[tuple[bool, float]]] = {}
    for label, score in zip(labels, scores, strict=True):
        held.setdefault(min(int(score * bins), bins - 1), []).append((label, score))
    return [
        Bin(
            place / bins,
            (place + 1) / bins,
            len(rows),
            sum(score for _, score in rows) / len(rows),
            sum(label for label, _ in rows) / len(rows),
        )
        for place, rows in sorted(held.items())
    ]


def calibration_error(labels: Sequence[bool], scores: Sequence[float], bins: int = BINS) -> float:
    """Expected calibration error (Naeini, Cooper and Hauskrecht 2015) of the probability "unsafe" over bins of equal
    width: the mean distance of a bin's scores from its share of unsafe rows, each bin weighing its rows.

    It hangs on how many rows are unsafe: a score that is right on one mix of rows is off on another.
    """
    found = reliability(labels, scores, bins)
    return sum(each.rows * abs(each.score - each.unsafe) for each in found) / len(labels)


def threshold_at(safe_scores: Sequence[float], rate: float) -> float:
    """The least threshold, to 4 places, at which at most `rate` of the safe scores are flagged (`>= threshold`)."""
    if not safe_scores:
        return 0.5
    ordered = sorted(safe_scores, reverse=True)
    allowed = int(rate * len(ordered))
    # The first score that must stay below: everything above it may be flagged, it and its equals may not.
    edge = ordered[allowed] if allowed < len(ordered) else 0.0
    return min(1.0, round(edge + 1e-4, 4))


def _curves(labels: Sequence[bool], scores: Sequence[float]) -> tuple[float, float]:
    try:
        from sklearn.metrics import average_precision_score, roc_auc_score
    except ImportError:
        raise SettingsError("measuring needs scikit-learn: pip install 'guardrail[train]'") from None
    return float(roc_auc_score(labels, scores)), float(average_precision_score(labels, scores))
