"""Fit the n-gram scorer: one logistic regression a label, by stochastic gradient descent on hashed n-grams."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from guardrail.errors import SettingsError
from guardrail.inference.ngrams import NgramScorer, buckets, pieces
from guardrail.training.rows import Row
from guardrail.training.targets import LABELS, targets

SIZE = 18
"""Buckets: 2 ** 18 hold the n-grams of twenty thousand texts with few of them shared by two that matter."""

_PENALTY, _EPOCHS = 2e-6, 12


def fit_ngrams(rows: Sequence[Row], labels: Sequence[str], *, seed: int = 0, size: int = SIZE) -> NgramScorer:
    """A scorer for `labels`, each learnt from the rows whose target for it is known and no even chance.

    Raises SettingsError without scikit-learn.
    """
    try:
        from scipy.sparse import csr_matrix
        from sklearn.linear_model import SGDClassifier
    except ImportError:
        raise SettingsError("training needs scikit-learn: pip install 'guardrail[train]'") from None
    found = [buckets(pieces(row.text)[0], size) for row in rows]
    lengths = np.array([len(places) for places in found])
    values = np.repeat(1 / np.sqrt(np.maximum(lengths, 1)), lengths).astype(np.float32)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    matrix = csr_matrix((values, np.concatenate(found), starts), shape=(len(rows), 2**size))
    wanted, known = (np.array(part) for part in zip(*(targets(row) for row in rows), strict=True))
    weights = np.zeros((2**size, len(labels)), dtype=np.float32)
    bias = np.zeros(len(labels), dtype=np.float32)
    for column, label in enumerate(labels):
        place = LABELS.index(label)
        chosen: NDArray[np.bool_] = (known[:, place] > 0) & (wanted[:, place] != 0.5)
        if len(set(wanted[chosen, place])) < 2:
            continue  # nothing to tell apart: the label's score stays 0
        model = SGDClassifier(
            "log_loss", alpha=_PENALTY, max_iter=_EPOCHS, tol=None, average=True, class_weight="balanced",
            random_state=seed,
        )  # fmt: skip
        model.fit(matrix[chosen], wanted[chosen, place] > 0.5, sample_weight=known[chosen, place])
        weights[:, column] = model.coef_[0]
        bias[column] = model.intercept_[0]
    return NgramScorer.rounded(weights, bias, labels)
