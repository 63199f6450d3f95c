"""Means over patients and trainings against loops, t-tests and simulation; Holm against textbook numbers."""

import numpy as np
import pandas as pd
import pytest
from conftest import refused
from scipy import stats

from compendium.statistics import crossed, holm, pooled


def drawn_table(seed, patients, seeds, of_patients, of_seeds, rest):
    """A table (patients, seeds) with mean 1 and these SDs."""
    rng = np.random.default_rng(seed)
    return (1 + of_patients * rng.normal(size=(patients, 1)) + of_seeds * rng.normal(size=(1, seeds))
            + rest * rng.normal(size=(patients, seeds)))


def by_loops(y):
    """Variance of the mean and its degrees of freedom, from sums of squares that are written out."""
    n, s = y.shape
    rows, columns, mean = [sum(row) / s for row in y], [sum(column) / n for column in y.T], y.sum() / n / s
    ms_rows = sum(s * (row - mean)**2 for row in rows) / (n - 1)
    ms_columns = sum(n * (column - mean)**2 for column in columns) / (s - 1)
    ms_rest = sum((y[i, j] - rows[i] - columns[j] + mean)**2
                  for i in range(n) for j in range(s)) / (n - 1) / (s - 1)
    total = ms_rows + ms_columns - ms_rest
    if total > max(ms_rows, ms_columns):
        return total / n / s, total**2 / (ms_rows**2 / (n - 1) + ms_columns**2 / (s - 1)
                                          + ms_rest**2 / (n - 1) / (s - 1))
    return max((ms_rows / n / s, n - 1), (ms_columns / n / s, s - 1))


def test_interval_and_p_are_those_of_a_two_way_analysis_of_variance_written_out():
    floors = 0
    for seed in range(30):
        y = drawn_table(seed, 7 + seed % 5, 2 + seed % 4, *np.random.default_rng(seed).uniform(0, 2, 3))
        ours, (variance, freedom) = pooled(y), by_loops(y)
        reference = stats.t(freedom, y.mean(), variance**0.5)
        assert (ours.low, ours.high) == pytest.approx(reference.interval(0.95)), seed
        assert ours.p == pytest.approx(2 * min(reference.cdf(0), reference.sf(0))), seed
        assert (ours.mean, ours.patients, ours.seeds) == (pytest.approx(y.mean()), *y.shape)
        floors += freedom in (len(y) - 1, y.shape[1] - 1)
    assert 0 < floors < 30, "both branches"


def test_where_only_seeds_or_only_patients_differ_it_is_their_t_test():
    """Of one seed it can only be the patients'."""
    values = np.random.default_rng(1).normal(1, 1, 6)
    test = stats.ttest_1samp(values, 0)
    for table, seeds in ((np.tile(values, (9, 1)), 6), (np.tile(values[:, None], 4), 4),
                         (values[:, None], 1)):
        ours = pooled(table)
        assert ours.p == pytest.approx(test.pvalue) and ours.seeds == seeds
        assert (ours.low, ours.high) == pytest.approx(tuple(test.confidence_interval()))
    assert pooled(np.tile(values, (9, 1))).sd_seeds == pytest.approx(values.std(ddof=1))


def test_what_four_patients_one_seed_or_no_spread_at_all_cannot_tell_is_nan_or_certain():
    few = pooled(np.array([[0.5, 0.7]] * 4))
    assert few.mean == 0.6 and np.isnan([few.low, few.high, few.p]).all()
    assert np.isnan(pooled(np.ones((5, 1))).sd_seeds) and np.isnan(pooled(np.ones((5, 0))).mean)
    assert pooled(np.full((5, 4), 0.1 + 0.2 - 0.3)).p == 1, "a rounding error is no difference"
    assert pooled(np.full((5, 4), 0.5))[:4] == (0.5, 0.5, 0.5, 0)


@pytest.mark.parametrize("patients, seeds, sds, least", [
    (100, 10, (8, 1, 3), 0.93), (100, 4, (8, 1, 3), 0.93), (100, 5, (2, 0.9, 2.1), 0.92),
    (20, 10, (0, 1, 3), 0.93), (100, 2, (8, 1, 3), 0.91)])
def test_intervals_hold_the_true_mean_as_often_as_stated(patients, seeds, sds, least):
    """95 % but for chance, at most 0.97 in 1500 simulated studies; of two seeds somewhat less."""
    studies = (pooled(drawn_table(n, patients, seeds, *sds)) for n in range(1500))
    assert least <= np.mean([low <= 1 <= high for _, low, high, *_ in studies]) <= 0.97


def test_holm_by_hand():
    for p, adjusted in (((0.01, 0.04, 0.03, 0.005), (0.03, 0.06, 0.06, 0.02)),      # Wikipedia's example
                        ((0.04,), (0.04,)), ((0.5, 0.6), (1.0, 1.0)), ((), ())):
        assert holm(p) == pytest.approx(adjusted), p


def test_patients_count_not_scans_and_each_is_needed_everywhere():
    """A patient scanned nine times weighs as much as one scanned once."""
    scans = [("+DA", "p2", 0, 0.5), ("+SE", "p1", 3, 0.1), ("+SE", "p2", 3, 0.2)]
    scores = pd.DataFrame([("+DA", "p1", 0, 0.9)] * 9 + scans, columns=["network", "patient", "seed", "dice"])
    table = crossed(scores, "dice")
    assert table["+DA"][0].to_dict() == pytest.approx({"p1": 0.9, "p2": 0.5})
    assert pooled(table["+DA"]).mean == pytest.approx(0.7)
    refused(lambda: crossed(scores[:-1], "dice"), "+SE, seed 3, has no score of p2")
