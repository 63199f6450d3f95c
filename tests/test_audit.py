"""Units, sums and verdicts against simulated tables and brute force; claims against notebook 11."""

import itertools
import math
import re

import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from compendium import paper
from compendium.audit import bounds, claims, paper_rows, parameters, read_table, sums
from compendium.audit.claims import Verdict
from compendium.scores import OVERLAPS
from magunet.model import MAGUNet, MAGUNetConfig, count_parameters
from magunet.studies import ALIASES, build_on_meta, variant

CELLS = nbformat.read(ROOT / "notebooks" / "11_paper_audit.ipynb", as_version=4).cells
HEADINGS = [line.lstrip("#").strip() for cell in CELLS if cell.cell_type == "markdown"
            for line in cell.source.splitlines() if re.match(r"##+ ", line)]
CLAIMS = read_table("claims")
REASONS = CLAIMS.set_index("key")["found"]
PAPER = paper_rows().groupby("network", sort=False)[list(OVERLAPS)].first()
"""The paper's own tables, as if they were scores of runs."""


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


def test_every_claim_has_either_a_verdict_or_a_judge_that_follows_the_scores():
    """The paper's own tables, taken for runs, bear all of them out; turned upside down, none."""
    assert CLAIMS["key"].is_unique and CLAIMS["claim"].is_unique
    assert set(claims.JUDGES) <= set(CLAIMS["key"])
    studies = CLAIMS["key"].isin(claims.JUDGES)
    assert set(CLAIMS["verdict"][~studies]) <= set(map(str, Verdict)) - {str(Verdict.PENDING)}
    assert CLAIMS["found"].all() and not CLAIMS["verdict"][studies].any()
    table = claims.judged(PAPER[:0])
    assert (studies == (table["verdict"] == Verdict.PENDING)).all() and table["found"].str.len().min() > 0
    level = PAPER.assign(**dict.fromkeys(OVERLAPS, 90.0))
    without = PAPER.drop(["3D U-Net", "+DA", "+MFF", "[3]"])
    for key, judge in claims.JUDGES.items():
        assert judge(PAPER)[0] is Verdict.HOLDS, key
        assert judge(100 - PAPER)[0] is judge(level)[0] is Verdict.FAILS, key
        assert judge(without)[0] is judge(PAPER[:0])[0] is Verdict.PENDING, key


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


def test_means_are_over_cases_and_seeds_under_either_name_of_a_network_from_enough_cases_on():
    scores = pd.concat([(PAPER + shift).div(100).reset_index().assign(case=case)
                        for case in range(claims.LEAST_CASES) for shift in (-1, 1)])
    renamed = scores.replace({"network": {new: old for old, new in ALIASES.items()}})
    assert "[1,3,5]" in set(renamed["network"])
    for cases in (0, claims.LEAST_CASES - 1, claims.LEAST_CASES):
        expected = PAPER if cases == claims.LEAST_CASES else PAPER[:0]
        for table in (scores, renamed):
            found = claims.means(table[table["case"] < cases])
            pd.testing.assert_frame_equal(found, expected, check_index_type=False)
            assert claims.judged(found).equals(claims.judged(expected)), cases
