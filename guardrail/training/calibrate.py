"""Fit each label's calibration on rows that trained nothing: how far the encoder and the n-gram scorer are believed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from guardrail.errors import SettingsError
from guardrail.inference.card import Calibration
from guardrail.training.rows import Row
from guardrail.training.targets import CLASSES, LABELS, targets

LEAST = 25
"""Rows of either answer that a fit needs; a label with fewer stays as the encoder scores it."""


def calibrate(
    rows: Sequence[Row], scores: Sequence[Sequence[float]], odds: np.ndarray, spelt: Sequence[str]
) -> dict[str, Calibration]:
    """A logistic stack for each label in `spelt` that has enough rows, a temperature and a bias for each other one but
    the classes: those say which harm an unsafe text is, as if all were equally common.

    `scores` are the encoder's probabilities [n, labels] in the order of LABELS, `odds` the n-gram scorer's log-odds
    [n, spelt]. A scorer that would count against itself is left out. Raises SettingsError without scikit-learn.
    """
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise SettingsError("training needs scikit-learn: pip install 'guardrail[train]'") from None
    found: dict[str, Calibration] = {}
    taught = [targets(row) for row in rows]
    for place, label in enumerate(LABELS):
        if label in CLASSES:
            continue
        chosen = [i for i, (wanted, known) in enumerate(taught) if known[place] == 1.0 and wanted[place] != 0.5]
        truth = np.array([taught[i][0][place] > 0.5 for i in chosen])
        if min(truth.sum(), len(truth) - truth.sum()) < LEAST:
            continue
        logits = np.array([_logit(scores[i][place]) for i in chosen])
        features = [logits]
        if label in spelt:
            features.append(np.asarray(odds[chosen, spelt.index(label)], dtype=float))
        model = LogisticRegression(C=100.0, max_iter=1000).fit(np.column_stack(features), truth)
        weights = [float(weight) for weight in model.coef_[0]]
        if len(weights) == 2 and min(weights) < 0:
            model = LogisticRegression(C=100.0, max_iter=1000).fit(logits[:, None], truth)
            weights = [float(model.coef_[0][0]), 0.0]
        if weights[0] <= 0:
            continue
        found[label] = Calibration(
            scale=round(weights[0], 4),
            ngrams=round(weights[1], 4) if len(weights) == 2 else 0.0,
            bias=round(float(model.intercept_[0]), 4),
        )
    return found


def _logit(p: float) -> float:
    p = min(max(p, 1e-6), 1 - 1e-6)
    return math.log(p / (1 - p))
