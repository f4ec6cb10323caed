"""Numbers against ones worked out by hand."""

from __future__ import annotations

import pytest

from guardrail.training.metrics import auroc, measure, threshold_at


def test_a_small_set_measured_by_hand() -> None:
    # Scores in order: 0.9 unsafe, 0.8 safe, 0.7 unsafe, 0.4 unsafe, 0.3 safe, 0.1 safe.
    labels = [True, False, True, True, False, False]
    scores = [0.9, 0.8, 0.7, 0.4, 0.3, 0.1]
    found = measure(labels, scores, 0.5)
    assert found["n"] == 6
    assert found["threshold"] == 0.5
    assert found["auroc"] == pytest.approx(7 / 9)  # of nine pairs, the 0.8 is above two unsafe ones
    assert found["auprc"] == pytest.approx((1 / 1 + 2 / 3 + 3 / 4) / 3)
    assert found["precision"] == pytest.approx(2 / 3)
    assert found["recall"] == pytest.approx(2 / 3)
    assert found["f1"] == pytest.approx(2 / 3)
    assert found["fpr"] == pytest.approx(1 / 3)


def test_a_score_at_the_threshold_is_flagged() -> None:
    assert measure([True, False], [0.5, 0.5], 0.5)["fpr"] == 1.0
    assert measure([True, False], [0.5, 0.5], 0.5)["recall"] == 1.0


def test_ties_count_half() -> None:
    assert auroc([True, False], [0.5, 0.5]) == 0.5


def test_one_class_only_leaves_what_compares_them_empty() -> None:
    safe = measure([False, False], [0.1, 0.9], 0.5)
    assert safe == {
        "n": 2,
        "threshold": 0.5,
        "auroc": None,
        "auprc": None,
        "f1": None,
        "precision": None,
        "recall": None,
        "fpr": 0.5,
    }
    unsafe = measure([True, True], [0.1, 0.9], 0.5)
    assert unsafe["recall"] == 0.5
    assert unsafe["fpr"] is None
    assert unsafe["auroc"] is None
    assert auroc([True], [0.2]) is None


def test_nothing_flagged_has_no_precision() -> None:
    found = measure([True, False], [0.1, 0.2], 0.5)
    assert found["precision"] is None
    assert found["f1"] == 0.0


@pytest.mark.parametrize(("rate", "flagged"), [(0.0, 0), (0.04, 4), (0.1, 10), (0.005, 0)])
def test_a_threshold_lets_at_most_the_rate_through(rate: float, flagged: int) -> None:
    safe = [i / 100 for i in range(100)]
    threshold = threshold_at(safe, rate)
    assert sum(score >= threshold for score in safe) == flagged


def test_equal_scores_stay_below_together() -> None:
    safe = [0.5] * 50 + [0.1] * 50
    assert sum(score >= threshold_at(safe, 0.1) for score in safe) == 0
