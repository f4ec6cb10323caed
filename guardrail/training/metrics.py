"""The arithmetic of evaluation, over plain lists of labels and scores; scikit-learn does the curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from guardrail.errors import SettingsError


class Metrics(TypedDict):
    """What is measured of a set of rows. A value is None where the rows cannot tell, e.g. hold one class only."""

    n: int
    threshold: float | None
    auroc: float | None
    auprc: float | None
    f1: float | None
    precision: float | None
    recall: float | None
    fpr: float | None


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
    return Metrics(
        n=len(labels),
        threshold=threshold,
        auroc=curves[0],
        auprc=curves[1],
        f1=2 * hit / (positives + hit + false) if both else None,
        precision=hit / (hit + false) if both and hit + false else None,
        recall=hit / positives if positives else None,
        fpr=false / negatives if negatives else None,
    )


def auroc(labels: Sequence[bool], scores: Sequence[float]) -> float | None:
    """Area under the ROC curve, ties counted half; None where one class is missing."""
    return _curves(labels, scores)[0] if 0 < sum(labels) < len(labels) else None


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
