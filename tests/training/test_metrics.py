"""Numbers against ones worked out by hand."""

from __future__ import annotations

import pytest

from guardrail.training.metrics import (
    Bin,
    auroc,
    calibration_error,
    measure,
    recall_at,
    reliability,
    threshold_at,
    wilson,
)


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
        "fpr_low": pytest.approx(0.0945, abs=1e-4),
        "fpr_high": pytest.approx(0.9055, abs=1e-4),
        "recall_at_fpr_1": None,
        "recall_at_fpr_2": None,
        "recall_at_fpr_5": None,
        "ece": None,
    }
    unsafe = measure([True, True], [0.1, 0.9], 0.5)
    assert unsafe["recall"] == 0.5
    assert unsafe["fpr"] is unsafe["fpr_low"] is unsafe["fpr_high"] is None
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


# -- Wilson bounds -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "of", "low", "high"),
    [
        # 0 of n: z^2 / (n + z^2); the others from the closed form with z = 1.95996.
        (0, 20, 0.0, 0.16113),
        (20, 20, 0.83887, 1.0),
        (1, 10, 0.01788, 0.40415),
        (81, 263, 0.25527, 0.36622),
        (15, 148, 0.06238, 0.16049),
    ],
)
def test_bounds_are_those_of_wilsons_formula(count: int, of: int, low: float, high: float) -> None:
    assert wilson(count, of) == (pytest.approx(low, abs=2e-5), pytest.approx(high, abs=2e-5))


def test_bounds_hold_the_share_and_close_in_with_more_rows() -> None:
    widths = []
    for of in (10, 100, 1000, 10_000):
        low, high = wilson(of // 5, of)
        assert 0 < low < 0.2 < high < 1
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True)


def test_bounds_agree_with_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    for count, of in ((0, 7), (3, 7), (7, 7), (1, 1000), (499, 1000)):
        theirs = stats.binomtest(count, of).proportion_ci(method="wilson")
        assert wilson(count, of) == (pytest.approx(theirs.low, abs=1e-12), pytest.approx(theirs.high, abs=1e-12))


# -- recall at a fixed rate of false alarms ----------------------------------------------------------------------


def test_recall_is_taken_above_the_first_safe_score_that_must_not_be_flagged() -> None:
    safe = [i / 100 for i in range(100)]  # 0.00 ... 0.99
    unsafe = [0.97, 0.98, 0.985, 0.995]
    labels = [False] * 100 + [True] * 4
    scores = safe + unsafe
    assert recall_at(labels, scores, 0.0) == 0.25
    assert recall_at(labels, scores, 0.01) == 0.5  # 0.99 may be flagged, 0.98 and its equal may not
    assert recall_at(labels, scores, 0.02) == 0.75
    assert recall_at(labels, scores, 0.05) == 1.0
    assert recall_at(labels, scores, 1.0) == 1.0
    found = measure(labels, scores, 0.5)
    assert [found["recall_at_fpr_1"], found["recall_at_fpr_2"], found["recall_at_fpr_5"]] == [0.5, 0.75, 1.0]


def test_too_few_safe_rows_for_the_rate_allow_no_false_alarm() -> None:
    assert recall_at([False, False, True, True], [0.1, 0.6, 0.5, 0.9], 0.01) == 0.5


def test_a_rate_of_whole_rows_is_not_lost_to_rounding() -> None:
    labels = [False] * 150 + [True]
    scores = [i / 1000 for i in range(150)] + [0.1465]  # three safe scores lie above it
    assert recall_at(labels, scores, 0.02) == 1.0


# -- calibration -------------------------------------------------------------------------------------------------


def test_bins_are_of_equal_width_and_one_point_zero_is_in_the_last() -> None:
    found = reliability([True, False, True, False], [1.0, 0.96, 0.5, 0.0])
    assert found == [
        Bin(0.0, 1 / 15, 1, 0.0, 0.0),
        Bin(7 / 15, 8 / 15, 1, 0.5, 1.0),
        Bin(14 / 15, 1.0, 2, 0.98, 0.5),
    ]


def test_calibration_error_weighs_each_bin_by_its_rows() -> None:
    labels = [True, False, True, False]
    scores = [1.0, 0.96, 0.5, 0.0]
    assert calibration_error(labels, scores) == pytest.approx((2 * 0.48 + 1 * 0.5 + 0) / 4)
    assert measure(labels, scores, 0.5)["ece"] == pytest.approx(0.365)


def test_scores_that_are_the_shares_have_no_calibration_error_and_sure_wrong_ones_have_all() -> None:
    assert calibration_error([True, False, False, False] * 5, [0.25] * 20) == pytest.approx(0.0)
    assert calibration_error([True, False], [0.0, 1.0]) == 1.0
