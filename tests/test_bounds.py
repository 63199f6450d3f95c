"""Bounds of mean scores against simulated patients and against a linear programme over all possible ones."""

import numpy as np
import pytest
from scipy.optimize import linprog

from compendium import paper
from compendium.audit import bounds, read_table
from magunet.metrics import Overlap

MEASURES = ("dice", "iou", "precision", "recall")


def patients(seed):
    """Voxel counts of up to 21 patients, from alike to very different, some of them missed altogether."""
    rng = np.random.default_rng(seed)
    n, spread = int(rng.integers(1, 22)), rng.choice([0.02, 0.3, 1.5])
    counts = rng.lognormal(np.log([1000, rng.uniform(20, 800), rng.uniform(20, 800)]), spread, (n, 3))
    counts[rng.random(n) < 0.05, 0] = 0
    weights = rng.dirichlet(np.ones(n))
    return [Overlap(*row) for row in counts], counts, weights


def means(cases, weights=None):
    return [100 * np.average([getattr(case, m) for case in cases], weights=weights) for m in MEASURES]


def test_no_patients_with_any_weights_violate_the_bounds_and_what_they_print_is_never_called_impossible():
    for seed in range(40):
        cases, counts, weights = patients(seed)
        d, i, p, r = means(cases, weights)
        assert bounds.least_iou(d) <= i + 1e-9 and i <= d + 1e-9, seed
        assert max(0, p + r - 100) - 1e-9 <= d <= bounds.most_dice(p, r) + 1e-9, seed
        assert r >= bounds.least_recall(d, p) - 1e-9, seed
        assert bounds.needed_rounding(d, i, p, r) < 1e-9, seed
        d, i, p, r = np.round(means(cases), 1)
        assert bounds.needed_rounding(d, i, p, r) <= bounds.HALF + 1e-9, seed
        low, high = bounds.dice_spread(d, i)
        assert low - 1e-9 <= 100 * np.std([case.dice for case in cases]) <= high + 1e-9, seed
        assert bounds.could_be_pooled(*np.round(means([Overlap(*counts.sum(0))]), 1)), seed


def test_the_bounds_are_reached():
    d, i, p, r = means([Overlap(900, 60, 130)] * 7)                     # alike
    assert (bounds.least_iou(d), bounds.most_dice(p, r)) == pytest.approx((i, d))
    assert bounds.least_recall(d, p) == pytest.approx(r)
    d, i, *_ = means([Overlap(1000, 0, 0)] * 3 + [Overlap(0, 10, 10)])  # perfect or lost
    assert i == pytest.approx(d)
    d, _, p, r = means([Overlap(10**6, 0, 0)] * 5 + [Overlap(1, 10**6, 0)] * 2 + [Overlap(1, 0, 10**6)])
    assert d == pytest.approx(p + r - 100, abs=1e-3)                    # all or hardly anything
    different = means([Overlap(1000, 0, 0), Overlap(1000, 0, 0), Overlap(200, 900, 900)])
    assert not bounds.could_be_pooled(*different) and bounds.dice_spread(*different[:2], half=0)[0] > 5


def least_error(means):
    """How far off the means (NaN where there is none) must be, by a linear programme over a grid of cases."""
    axis = np.linspace(0, 1, 101)
    p, r = (g.ravel() for g in np.meshgrid(axis, axis))
    d = np.divide(2 * p * r, p + r, out=np.zeros_like(p), where=p + r > 0)
    rows, printed = 100 * np.array([d, d / (2 - d), p, r]), np.array(means, float)
    rows, printed = rows[~np.isnan(printed)], printed[~np.isnan(printed)]
    slack = -np.ones((len(rows), 1))
    best = linprog([*np.zeros(p.size), 1], A_ub=np.block([[rows, slack], [-rows, slack]]),
                   b_ub=[*printed, *(-printed)], A_eq=[[*np.ones(p.size), 0]], b_eq=[1], bounds=(0, None))
    return best.x[-1]


def test_the_closed_form_is_what_a_search_over_all_patients_finds():
    """Not only each pair of scores: all four together are possible with the rounding of the worst pair."""
    for row in bounds.score_audit().drop_duplicates(["dice", "iou", "precision"]).itertuples():
        assert least_error(row[3:5] + row[6:8]) == pytest.approx(row.needed, abs=0.01), row


def test_quotes_are_of_networks_and_measures_of_the_tables_and_held_against_every_table():
    quotes = read_table("quotes")
    assert set(quotes["network"]) <= {row.network for table in paper.TABLES for row in table}
    assert set(quotes["measure"]) <= set(paper.Row._fields) and set(quotes["over"]) == {"", "3D U-Net"}
    agrees = bounds.quote_audit().set_index(["place", "number"])["agrees"]
    assert agrees["Sec. 2.2", "dice of MAG-UNet over 3D U-Net"] == "none"
    assert agrees["Abstract", "iou of MAG-UNet over 3D U-Net"] == "all"
    assert agrees["Abstract", "dice of MAG-UNet"] == "some"
    assert (agrees == "none").sum() == 1
