"""Intervals and tests against enumeration, simulation, SciPy and textbook numbers."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from compendium.statistics import bootstrap_interval, estimate, holm, signed_rank


def enumerated(difference):
    """Two-sided p over all signs of the non-zero differences: how few are as far from the middle."""
    d = np.array([x for x in difference if x != 0])
    ranks = stats.rankdata(abs(d))
    middle = ranks.sum() / 2
    seen = abs(ranks[d > 0].sum() - middle)
    sums = [sum(r for r, up in zip(ranks, signs) if up) for signs in itertools.product((0, 1), repeat=len(d))]
    return np.mean([abs(s - middle) >= seen - 1e-9 for s in sums])


def paired(difference):
    return pd.Series(difference, dtype=float), pd.Series(0.0, range(len(difference)))


def test_p_is_that_of_all_signs_also_with_ties_and_zeros():
    for difference in ((1, 2, 3, 4, 5, 6), (-1, 2, 3, -4, 5, 6, 7), (1, 1, 2, -3, 4, 4, 5),
                       (0, 1, 1.5, 2, -3, 4, 0, 5), (2, -2, 2, -2, 1), (3,)):
        p = signed_rank(*paired(difference)).p
        assert p == pytest.approx(enumerated(difference), rel=1e-12), difference


def test_p_agrees_with_scipy_where_no_two_are_equal():
    for n, method, slack in ((4, "exact", 1e-9), (9, "exact", 1e-9), (21, "exact", 1e-9), (50, "exact", 1e-9),
                             (400, "asymptotic", 0.02)):
        difference = np.random.default_rng(n).normal(0.4 if n < 100 else 0.1, 1, n)
        theirs = stats.wilcoxon(difference, method=method).pvalue
        assert signed_rank(*paired(difference)).p == pytest.approx(theirs, rel=slack), n


def test_effect_is_the_share_of_ranks_for_minus_against():
    """Ranks 1, 2, 3, 4; the second is against: (1 + 3 + 4 - 2) / 10. None where all are equal."""
    for difference, expected in (((0.1, -0.2, 0.3, 0.4), 0.6), ((-0.1, 0.2, -0.3, -0.4), -0.6),
                                 ((1, 2, 3), 1), ((0, 0, 0), 0)):
        assert signed_rank(*paired(difference)).effect == pytest.approx(expected), difference
    assert signed_rank(*paired((0, 0, 0))).p == 1


def test_rounding_errors_of_averages_are_no_differences():
    a, b = paired((0.1 + 0.2 - 0.3, 1, -1))
    assert a.iloc[0] != 0
    assert signed_rank(a, b) == signed_rank(*paired((1, -1))) == (1, 0)


def test_patients_are_paired_by_name():
    a, b = pd.Series({"p1": 1.0, "p2": 5.0, "p3": 9.0}), pd.Series({"p3": 8.0, "p1": 0.5, "p2": 4.8})
    assert signed_rank(a, b).effect == 1
    with pytest.raises(ValueError, match="same patients"):
        signed_rank(a, b.rename({"p3": "p4"}))


def test_holm_by_hand():
    for p, adjusted in (((0.01, 0.04, 0.03, 0.005), (0.03, 0.06, 0.06, 0.02)),      # Wikipedia's example
                        ((0.04,), (0.04,)), ((0.5, 0.6), (1.0, 1.0)), ((), ())):
        assert holm(p) == pytest.approx(adjusted), p


def test_the_bootstrap_is_scipys_percentile_bootstrap_and_repeats_itself():
    values = np.random.default_rng(0).beta(8, 2, 21)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile").confidence_interval
    assert bootstrap_interval(values) == pytest.approx(tuple(theirs), abs=0.003)
    assert bootstrap_interval(values) == bootstrap_interval(values) != bootstrap_interval(values, seed=1)
    assert np.isnan(bootstrap_interval([0.5])).all(), "one patient"
    assert bootstrap_interval([0.5, 0.5, 0.5]) == (0.5, 0.5)


def test_intervals_hold_the_true_mean_as_often_as_stated():
    for patients, stated in (5, 0.83), (7, 0.87), (21, 0.92):
        rng = np.random.default_rng(patients)
        intervals = (bootstrap_interval(rng.beta(8, 2, patients), 1000, seed) for seed in range(2000))
        held = np.mean([low <= 0.8 <= high for low, high in intervals])
        assert held == pytest.approx(stated, abs=0.02), patients


def test_patients_count_not_scans():
    """A patient scanned nine times weighs as much as one scanned once."""
    scans = [{"patient": "p1", "seed": 0, "dice": 0.9}] * 9 + [{"patient": "p2", "seed": 0, "dice": 0.5}]
    found = estimate(pd.DataFrame(scans), "dice")
    assert (found.mean, found.low, found.high, found.patients) == pytest.approx((0.7, 0.5, 0.9, 2))
