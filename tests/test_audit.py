"""Units, sums, bounds and verdicts against simulated tables and brute force; claims against notebook 11."""

import itertools
import math
import re

import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from scipy.optimize import linprog

from compendium import paper
from compendium.audit import bounds, claims, paper_rows, parameters, read_table, sums
from compendium.audit.claims import Verdict
from compendium.scores import OVERLAPS
from magunet.metrics import Overlap
from magunet.model import MAGUNet, MAGUNetConfig, count_parameters
from magunet.studies import ALIASES, build_on_meta, variant

CELLS = nbformat.read(ROOT / "notebooks" / "11_paper_audit.ipynb", as_version=4).cells
HEADINGS = [line.lstrip("#").strip() for cell in CELLS if cell.cell_type == "markdown"
            for line in cell.source.splitlines() if re.match(r"##+ ", line)]
CLAIMS = read_table("claims")
REASONS = CLAIMS.set_index("key")["found"]
PAPER = paper_rows().groupby("network", sort=False)[list(OVERLAPS)].first()
"""The paper's own tables, as if they were scores of runs."""
NONE = pd.DataFrame(columns=["network", "seed", "patient", *OVERLAPS])


def test_counts_print_with_two_decimals():
    rng = np.random.default_rng(0)
    for unit, count in itertools.product(parameters.UNITS.values(), rng.integers(10**6, 10**8, 200)):
        assert f"{parameters.printed(count, unit):.2f}" == f"{count / unit:.2f}"
        assert -1e-9 <= count / unit - parameters.printed(count, unit, cut=True) < 0.01 + 1e-9


def test_explanations_hold_the_canonical_one_and_none_in_millions():
    """In the default decoder every normalisation follows a convolution: so many biases can be left out."""
    network = MAGUNet(MAGUNetConfig(widths=(2, 4, 8, 16, 32)))
    channels = sum(m.num_features for m in network.modules() if hasattr(m, "num_features"))
    assert parameters.normalised_biases(network) == channels
    table = parameters.explanations()
    assert table.loc[0, "parameters"] == count_parameters(build_on_meta("3D U-Net")) == parameters.count()
    assert {name.split()[0] for name in table["unit"]} == {"2^20"}
    for row in table.itertuples():
        unit, cut = parameters.UNITS[row.unit], row.digits == "cut"
        with_da = parameters.count(row[1], row.biases, row.decoder, {"attention": "da"})
        assert parameters.printed(row.parameters, unit, cut) == 22.45, row
        assert ("+DA" in row[8]) == (parameters.printed(with_da, unit, cut) == 23.01), row


def test_other_readings_differ_by_what_their_layers_hold():
    """Weights and biases worked out by hand, in parameters."""
    wide = 2 * (512 * 512 + 512 - 512 * 64 - 64)
    no_convolution = -(512 * 512 + 512 + 2 * 512)
    groups = sum(2 * 27 * c * (c // 8 - c // 16) for c in (32, 64, 128, 256))
    projection = sum(c * c + c for c in (32, 64, 128, 256))
    for reading, module, weights in (
            ({"reduction": 1}, "DA", wide), ({"after_sum": False}, "DA", no_convolution),
            ({"groups": 8}, "LGAG", groups),
            ({"groups": 8, "projection": True}, "LGAG", groups + projection)):
        for row in paper.TABLE_4:
            expected = weights if module in row.name or row.name == "all" else 0
            more = (count_parameters(parameters.alternative(variant(row.network), **reading))
                    - count_parameters(build_on_meta(row.network)))
            assert more == expected, (reading, row.name)
    projected = parameters.alternative(variant("+LGAG"), groups=8, projection=True)
    assert count_parameters(projected) / paper.MI == pytest.approx(23.095, abs=5e-4)
    for decoder, weights in (("add", 23_538_657), ("trilinear", 23_538_177), ("classic", 22_581_217)):
        assert parameters.count(decoder=decoder) == weights


def test_the_linear_programme_finds_what_brute_force_finds():
    """The least largest error over a grid of costs 0.02 apart, each at most twice in a row."""
    costs = np.array(list(itertools.product(np.arange(0, 4, 0.02), repeat=2)))
    for seed in range(8):
        rng = np.random.default_rng(seed)
        design = pd.DataFrame(rng.integers(0, 3, (4, 2)), columns=["a", "b"], index=list("wxyz"))
        values = pd.Series(rng.uniform(0, 3, 4).round(2), list("wxyz"))
        best = np.abs(costs @ design.to_numpy().T - values.to_numpy()).max(1).min()
        needed, cost, _ = sums.needed_rounding(design, values)
        assert best - 0.04 <= needed <= best + 1e-9, seed
        assert np.abs(design @ cost - values).max() == pytest.approx(needed), seed


def test_the_papers_tables_are_no_sums_and_the_certificates_prove_it():
    """Every one of the largest sets is a sum, and no set with one row more is."""
    for (design, values), most in ((sums.table_4(), 5), (sums.table_3(), 5), (sums.table_3(True), 6)):
        needed, _, multipliers = sums.needed_rounding(design, values)
        assert multipliers.abs().sum() == pytest.approx(1) and (multipliers @ design <= 1e-9).all()
        assert multipliers @ values == pytest.approx(needed)

        def is_sum(rows, design=design, values=values):
            return sums.needed_rounding(design.loc[list(rows)], values[list(rows)])[0] <= sums.HALF + 1e-9

        largest = sums.largest_sums(design, values)
        assert largest and {len(rows) for rows in largest} == {most} and all(map(is_sum, largest))
        assert not any(map(is_sum, itertools.combinations(values.index, most + 1)))


def test_rounded_sums_are_sums_as_are_the_networks_built_here_and_a_wrong_digit_is_found():
    design, printed = sums.table_4()
    counts = {row.name: count_parameters(build_on_meta(row.network)) for row in paper.TABLE_4}
    assert sums.needed_rounding(design, pd.Series(counts) / paper.MI)[0] < 1e-9
    for seed in range(2):
        values = (design @ np.random.default_rng(seed).uniform(0.1, 20, design.shape[1])).round(2)
        assert sums.largest_sums(design, values) == [tuple(printed.index)], seed
        values["+DA+MFF"] += 0.1
        clashes = sums.conflicts(design, values)
        assert clashes and all("+DA+MFF" in rows for rows in clashes), seed


def test_every_claim_and_erratum_has_a_place_and_a_heading_and_every_link_leads_to_one():
    assert len(set(HEADINGS)) == len(HEADINGS)
    for entry in pd.concat([CLAIMS, read_table("errata")]).itertuples():
        assert re.search(r"Abstract|Secs?\. \d|Tables? \d|Eqs?\. \d", entry.place), entry
        assert HEADINGS.count(entry.shown) == 1, entry
        assert re.fullmatch(r"[A-Za-z0-9 ]+", entry.shown), entry           # other signs make other anchors
    outputs = [output["data"].get("text/markdown", "") for cell in CELLS
               for output in cell.get("outputs", []) if "data" in output]
    links = re.findall(r"\]\(#([^)]+)\)", "\n".join([*(cell.source for cell in CELLS), *outputs]))
    assert len(links) > len(CLAIMS) and set(links) <= {heading.replace(" ", "-") for heading in HEADINGS}


def as_runs(table, seeds=5, sd=0.0):
    """Scores of networks whose means are those of a table in percent, over three patients; ``sd``: of
    trainings, in points."""
    noise = np.random.default_rng(3).normal(size=(seeds, len(table), 1))
    levels = [table + sd * of_networks for of_networks in noise]
    return pd.concat([(level / 100 + patient / 1000).reset_index().assign(seed=seed, patient=str(patient))
                      for seed, level in enumerate(levels) for patient in range(5)], ignore_index=True)


def test_every_claim_has_either_a_verdict_or_leads_that_follow_the_scores():
    """The paper's own tables, taken for runs, bear all of them out; turned upside down, none. All alike, few
    seeds, or seeds that differ by 20 points tell nothing."""
    assert CLAIMS["key"].is_unique and CLAIMS["claim"].is_unique
    assert set(claims.CLAIMED) <= set(CLAIMS["key"])
    studies = CLAIMS["key"].isin(claims.CLAIMED)
    assert set(CLAIMS["verdict"][~studies]) <= set(map(str, Verdict)) - {str(Verdict.PENDING)}
    assert CLAIMS["found"].all() and not CLAIMS["verdict"][studies].any()
    table = claims.judged(NONE)
    assert (studies == (table["verdict"] == Verdict.PENDING)).all() and table["found"].str.len().min() > 0
    own = PAPER.fillna(90.0)
    own.loc["+MFF+LGAG"] = own.loc[["+MFF", "+LGAG"]].mean()                # which the paper leaves out
    cases = {Verdict.HOLDS: as_runs(own), Verdict.FAILS: as_runs(100 - own),
             Verdict.PENDING: as_runs(own.drop(["3D U-Net", "+DA", "+MFF", "[3]"]))}
    unclear = [as_runs(own.assign(**dict.fromkeys(OVERLAPS, 90.0))), as_runs(own, seeds=4),
               as_runs(own, sd=20)]
    for verdict, scores in (*cases.items(), *((Verdict.UNTOLD, scores) for scores in unclear)):
        verdicts = {key: claims.judge(scores, leads)[0] for key, leads in claims.CLAIMED.items()}
        assert verdicts == dict.fromkeys(claims.CLAIMED, verdict)
    assert "4 seeds" in claims.judge(unclear[1], claims.CLAIMED["eca"])[1]


def test_one_lead_below_0_refutes_a_claim_only_if_it_does_after_holm():
    """Of seven rivals one lies below with p .03: alone that is enough, among seven it is not."""
    leads = {name: ("dice", {"MAG-UNet": 1, name: -1}) for name in "abcdefg"}
    spread = dict.fromkeys("bcdefg", np.array([-1, 1.1, 0, 0, 0]))
    spread["a"] = np.array([0.3, 1.5, 1.4, 0.4, 0.9])
    scores = pd.DataFrame([{"network": name, "seed": seed, "patient": str(patient),
                            "dice": 0.8 + spread.get(name, np.zeros(5))[seed] / 100}
                           for name in ("MAG-UNet", *leads) for seed in range(5) for patient in range(5)])
    verdict, reason = claims.judge(scores, {"a": leads["a"]})
    assert verdict is Verdict.FAILS and reason == "least lead -0.9 [-1.6, -0.2], a; 5 seeds, SD 0.6"
    assert claims.judge(scores, leads)[0] is Verdict.UNTOLD
    assert claims.judge(scores, {"b": leads["b"]})[1].startswith("least lead +0.0 [")          # of -0.02


def test_a_lead_within_its_spread_over_seeds_tells_nothing_however_narrow_its_interval():
    """0.7 points with an SD of 0.9 over 20 seeds: the interval lies above 0, yet a training could turn it."""
    noise = 0.9 * np.tile([-1, 1], 10) * np.sqrt(19 / 20)
    for lead, verdict in ((0.7, Verdict.UNTOLD), (1.0, Verdict.HOLDS), (-0.7, Verdict.UNTOLD),
                          (-1.0, Verdict.FAILS)):
        dice = {"a": np.zeros(20), "b": -lead + noise}
        scores = pd.DataFrame([{"network": name, "seed": seed, "patient": str(patient),
                                "dice": 0.8 + points[seed] / 100}
                               for name, points in dice.items()
                               for seed in range(20) for patient in range(5)])
        judged, reason = claims.judge(scores, {"a": ("dice", {"a": 1, "b": -1})})
        low, high = map(float, re.findall(r"\[(.*), (.*)\]", reason)[0])
        assert low * high > 0 and judged is verdict, reason


def test_verdicts_are_fair():
    """What the paper leaves open, or says of most, is no contradiction."""
    verdicts = CLAIMS.set_index("key")["verdict"]
    for key in ("augmentation", "attention", "lighter", "iou_gain", "quotes"):
        assert verdicts[key] == Verdict.AGREES, key
    assert verdicts["count"] == Verdict.UNTOLD


def test_the_numbers_in_the_reasons_are_those_that_are_computed():
    quotes, scores = bounds.quote_audit(), bounds.score_audit()
    impossible, ablation = scores[~scores["possible"]], quotes[quotes["place"] == "Sec. 2.5"]
    count = count_parameters(build_on_meta("MAG-UNet"))
    gains = PAPER["iou"] - PAPER.loc["3D U-Net", "iou"]
    three, *pairs = (f"{gains[whole] - gains[list(parts)].sum():+.1f}" for whole, *parts in (
        ("MAG-UNet", "+DA", "+MFF", "+LGAG"), ("+DA+MFF", "+DA", "+MFF"), ("+DA+LGAG", "+DA", "+LGAG")))
    expected = {
        "count": f"{count:,} = {count / paper.MI:.2f} x 2^20 = {count / 1e6:.2f} x 10^6",
        "table_3": f"errors of {sums.needed_rounding(*sums.table_3())[0]:.3f}",
        "table_4": f"errors of {sums.needed_rounding(*sums.table_4())[0]:.3f}",
        "quotes": f"{(ablation['agrees'] != 'none').sum()} of {len(ablation)} numbers agree",
        "possible": ", ".join(f"{row.row} (Table {row.table})" for row in impossible.itertuples()),
        "loss": f"Eq. 16 is {math.log(2) * math.prod(paper.INPUT_SIZE):,.0f}",
        "synergy": f"gain {three} IoU beyond their sum, the two pairs {' and '.join(pairs)}"}
    for key, table, name in (("best", paper.TABLE_1, "MAG-UNet"), ("da", paper.TABLE_2, "+DA")):
        (ours,), rest = [row for row in table if row.name == name], [row for row in table if row.name != name]
        leads = [getattr(ours, m) > getattr(row, m) for row in rest for m in ("dice", "iou", "precision")]
        expected[key] = f"{sum(leads)} of {len(leads)} comparisons"
    for key, text in expected.items():
        assert text in REASONS[key], key


def test_leads_are_of_the_papers_rows_as_they_are_trained():
    best, kernels = claims.CLAIMED["best"], claims.CLAIMED["kernel_iou"]
    assert len(best) == 21 and best["dice of MAG-UNet over SegNet"] == ("dice", {"MAG-UNet": 1, "SegNet": -1})
    assert len(kernels) == 7 and {*itertools.chain(*(weights for _, weights in kernels.values()))} == {
        ALIASES.get(row.network, row.network) for row in paper.TABLE_3}
    assert len(claims.CLAIMED["da"]) == 15 and len(claims.CLAIMED["eca"]) == 3
    assert claims.CLAIMED["synergy"]["iou, gained beyond the sum"][1] == {
        "MAG-UNet": 1, "3D U-Net": 2, "+DA": -1, "+MFF": -1, "+LGAG": -1}


# Bounds of mean scores --------------------------------------------------------------------------------
def patients(seed):
    """Voxel counts of up to 21 patients, from alike to very different, some of them missed altogether."""
    rng = np.random.default_rng(seed)
    n, spread = int(rng.integers(1, 22)), rng.choice([0.02, 0.3, 1.5])
    counts = rng.lognormal(np.log([1000, rng.uniform(20, 800), rng.uniform(20, 800)]), spread, (n, 3))
    counts[rng.random(n) < 0.05, 0] = 0
    weights = rng.dirichlet(np.ones(n))
    return [Overlap(*row) for row in counts], counts, weights


def means(cases, weights=None):
    return [100 * np.average([getattr(case, m) for case in cases], weights=weights) for m in OVERLAPS]


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
    for row in ((30, 95, np.nan, np.nan), (0, 10, np.nan, np.nan), (0, 0, 90, 90)):     # absurd
        assert least_error(row) == pytest.approx(bounds.needed_rounding(*row), abs=0.01), row


def test_quotes_are_of_networks_and_measures_of_the_tables_and_held_against_every_table():
    quotes = read_table("quotes")
    assert set(quotes["network"]) <= {row.network for table in paper.TABLES for row in table}
    assert set(quotes["measure"]) <= set(paper.Row._fields) and set(quotes["over"]) == {"", "3D U-Net"}
    agrees = bounds.quote_audit().set_index(["place", "number"])["agrees"]
    assert agrees["Sec. 2.2", "dice of MAG-UNet over 3D U-Net"] == "none"
    assert agrees["Abstract", "iou of MAG-UNet over 3D U-Net"] == "all"
    assert agrees["Abstract", "dice of MAG-UNet"] == "some"
    assert (agrees == "none").sum() == 1
