"""Units, sums and verdicts against simulated tables and brute force; claims against notebook 11."""

import itertools
import math
import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from compendium import paper
from compendium.audit import bounds, parameters, rankings, read_table, readings, sums, verdicts
from compendium.audit.rankings import Verdict
from compendium.scores import OVERLAPS
from magunet.model import MAGUNet, MAGUNetConfig, count_parameters
from magunet.studies import ALIASES, build_on_meta

NOTEBOOK = Path(__file__).resolve().parents[1] / "notebooks" / "11_paper_audit.ipynb"
CLAIMS = read_table("claims")


# --- units

def test_counts_print_with_two_decimals():
    rng = np.random.default_rng(0)
    for unit in parameters.UNITS.values():
        for count in rng.integers(10**6, 10**8, 200):
            assert f"{parameters.printed(count, unit):.2f}" == f"{count / unit:.2f}"
            assert -1e-9 <= count / unit - parameters.printed(count, unit, cut=True) < 0.01 + 1e-9


def test_biases_before_normalisation_are_as_many_as_normalised_channels():
    """Where every normalisation follows a convolution, which holds for the default decoder."""
    network = MAGUNet(MAGUNetConfig(widths=(2, 4, 8, 16, 32)))
    channels = sum(m.num_features for m in network.modules() if hasattr(m, "num_features"))
    assert parameters.normalised_biases(network) == channels


def test_explanations_hold_the_canonical_one_and_none_in_millions():
    table = parameters.explanations()
    assert table.loc[0, "parameters"] == count_parameters(build_on_meta("3D U-Net")) == parameters.count()
    assert {name.split()[0] for name in table["unit"]} == {"2^20"}
    for row in table.itertuples():
        unit, cut = parameters.UNITS[row.unit], row.digits == "cut"
        assert parameters.printed(row.parameters, unit, cut) == 22.45
        with_da = parameters.count(row[1], row.biases, row.decoder, {"attention": "da"})
        assert ("+DA" in row[8]) == (parameters.printed(with_da, unit, cut) == 23.01)


def test_other_readings_differ_by_what_their_layers_hold():
    """Weights and biases worked out by hand, in parameters."""
    table = readings.reading_audit()
    more = (table.drop("paper") - table.loc["as built here"]).mul(paper.MI).round()
    wide = 2 * (512 * 512 + 512 - 512 * 64 - 64)
    no_convolution = -(512 * 512 + 512 + 2 * 512)
    groups = sum(2 * 27 * c * (c // 8 - c // 16) for c in (32, 64, 128, 256))
    projection = sum(c * c + c for c in (32, 64, 128, 256))
    for reading, module, weights in (
            ("PAM's B, C as wide as D", "DA", wide), ("no convolution after DA's sum", "DA", no_convolution),
            ("LGAG in 8 groups", "LGAG", groups),
            ("LGAG in 8 groups, 1^3 convolution behind it", "LGAG", groups + projection)):
        for row in paper.TABLE_4:
            expected = weights if module in row.name or row.name == "all" else 0
            assert more.loc[reading, row.name] == expected, (reading, row.name)
    projected = table.loc["LGAG in 8 groups, 1^3 convolution behind it", "+LGAG"]
    assert projected == pytest.approx(23.095, abs=5e-4)
    assert table.loc["paper", "exact"] == 7 and table.loc["as built here", "exact"] == 4
    assert table.loc["decoder: trilinear, two convolutions"].isna().sum() == 3
    for decoder, weights in (("add", 23_538_657), ("trilinear", 23_538_177), ("classic", 22_581_217)):
        assert parameters.count(decoder=decoder) == weights


# --- sums

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
    for (design, values), most in ((sums.table_4(), 5), (sums.table_3(), 5), (sums.table_3(True), 6)):
        needed, _, multipliers = sums.needed_rounding(design, values)
        assert multipliers.abs().sum() == pytest.approx(1) and (multipliers @ design <= 1e-9).all()
        assert multipliers @ values == pytest.approx(needed)
        largest, clashes = sums.largest_sums(design, values), sums.conflicts(design, values)
        assert {len(rows) for rows in largest} == {most}
        for rows in largest:
            chosen = list(rows)
            assert sums.needed_rounding(design.loc[chosen], values[chosen])[0] <= sums.HALF + sums.TOLERANCE
        for larger in itertools.combinations(values.index, most + 1):
            assert any(set(clash) <= set(larger) for clash in clashes)


def test_rounded_sums_are_sums_and_a_wrong_digit_is_found():
    design, printed = sums.table_4()
    for seed in range(10):
        values = (design @ np.random.default_rng(seed).uniform(0.1, 20, design.shape[1])).round(2)
        assert not sums.conflicts(design, values)
        assert sums.largest_sums(design, values) == [tuple(printed.index)]
        values["+DA+MFF"] += 0.1
        clashes = sums.conflicts(design, values)
        assert clashes and all("+DA+MFF" in rows for rows in clashes), seed


def test_the_networks_built_here_are_sums_of_their_modules():
    design, _ = sums.table_4()
    counts = {row.name: count_parameters(build_on_meta(row.network)) for row in paper.TABLE_4}
    assert sums.needed_rounding(design, pd.Series(counts) / paper.MI)[0] < 1e-9


# --- claims

def headings():
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    return [line.lstrip("#").strip() for cell in cells if cell.cell_type == "markdown"
            for line in cell.source.splitlines() if re.match(r"##+ ", line)]


def test_every_claim_and_erratum_has_a_place_and_a_heading_that_shows_it():
    titles = headings()
    assert len(set(titles)) == len(titles)
    for entry in pd.concat([CLAIMS, read_table("errata")]).itertuples():
        assert re.search(r"Abstract|Secs?\. \d|Tables? \d|Eqs?\. \d", entry.place), entry
        assert titles.count(entry.shown) == 1, entry
        assert re.fullmatch(r"[A-Za-z0-9 ]+", entry.shown), entry           # other signs make other anchors


def test_every_link_in_the_notebook_leads_to_a_heading():
    anchors = {heading.replace(" ", "-") for heading in headings()}
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    outputs = [out["data"].get("text/markdown", "") for cell in cells
               for out in cell.get("outputs", []) if "data" in out]
    links = re.findall(r"\]\(#([^)]+)\)", "\n".join([*(cell.source for cell in cells), *outputs]))
    assert len(links) > len(CLAIMS) and set(links) <= anchors


def test_every_claim_has_either_a_verdict_or_a_judge():
    assert CLAIMS["key"].is_unique and CLAIMS["claim"].is_unique
    assert set(rankings.JUDGES) <= set(CLAIMS["key"])
    studies = CLAIMS["key"].isin(rankings.JUDGES)
    assert set(CLAIMS["verdict"][~studies]) <= set(map(str, Verdict)) - {str(Verdict.PENDING)}
    assert CLAIMS["found"][~studies].all() and not CLAIMS[studies][["verdict", "found"]].any(axis=None)
    table = verdicts.judged()
    assert (studies == (table["verdict"] == Verdict.PENDING)).all() and table["found"].str.len().min() > 0


def test_the_numbers_in_the_reasons_are_those_that_are_computed():
    reasons = CLAIMS.set_index("key")["found"]
    quotes, scores = bounds.quote_audit(), bounds.score_audit()
    impossible, ablation = scores[~scores["possible"]], quotes[quotes["place"] == "Sec. 2.5"]
    count = count_parameters(build_on_meta("MAG-UNet"))
    for key, text in {
            "count": f"{count:,} = {count / paper.MI:.2f} x 2^20 = {count / 1e6:.2f} x 10^6",
            "table_3": f"errors of {sums.needed_rounding(*sums.table_3())[0]:.3f}",
            "table_4": f"errors of {sums.needed_rounding(*sums.table_4())[0]:.3f}",
            "quotes": f"{(ablation['agrees'] != 'none').sum()} of {len(ablation)} numbers agree",
            "possible": ", ".join(f"{row.row} (Table {row.table})" for row in impossible.itertuples()),
            "loss": f"Eq. 16 is {math.log(2) * math.prod(paper.INPUT_SIZE):,.0f}"}.items():
        assert text in reasons[key], key


def test_claims_about_trained_networks_follow_the_scores():
    """The paper's own tables, taken for runs, bear all of them out; turned upside down, none."""
    scores = rankings.paper_scores()
    upside_down = scores.set_index("network").rsub(100).reset_index()
    level = scores.assign(**dict.fromkeys(OVERLAPS, 90.0))
    without = scores[~scores["network"].isin(["3D U-Net", "+DA", "+MFF", "[3]"])]
    for key, judge in rankings.JUDGES.items():
        assert judge(scores)[0] is Verdict.HOLDS, key
        assert judge(upside_down)[0] is judge(level)[0] is Verdict.FAILS, key
        assert judge(without)[0] is judge(None)[0] is Verdict.PENDING, key


def test_scores_under_either_name_of_a_network_count():
    scores = rankings.paper_scores()
    renamed = scores.replace({"network": {new: old for old, new in ALIASES.items()}})
    assert "[1,3,5]" in set(renamed["network"])
    assert verdicts.judged(renamed)["found"].tolist() == verdicts.judged(scores)["found"].tolist()


def test_means_count_from_enough_cases_on():
    for cases in (rankings.LEAST_CASES - 1, rankings.LEAST_CASES):
        scores = pd.DataFrame([{"network": "+ECA", "case": f"c{n}", **dict.fromkeys(OVERLAPS, dice)}
                               for dice in (0.8, 0.6) for n in range(cases)])
        table = rankings.means(scores)
        if cases < rankings.LEAST_CASES:
            assert table is None
        else:
            expected = {"network": "+ECA", **dict.fromkeys(OVERLAPS, pytest.approx(70))}
            assert table.to_dict("records") == [expected]


def test_the_claims_are_kept_with_what_they_rest_on(tmp_path):
    verdicts.save_claims(verdicts.judged(), tmp_path / "cpu" / "claims.md", "profile cpu, settings 0")
    _, _, source, _, *lines = (tmp_path / "cpu" / "claims.md").read_text().splitlines()
    assert source.startswith("profile cpu, settings 0, git ")
    assert len(lines) == len(CLAIMS) + 2
    for line, claim in zip(lines[2:], CLAIMS.itertuples()):
        assert claim.claim in line
        assert f"(../../notebooks/11_paper_audit.ipynb#{claim.shown.replace(' ', '-')})" in line


def test_quotes_name_networks_and_measures_of_the_tables():
    rows = {row.network for table in paper.TABLES for row in table}
    quotes = read_table("quotes")
    assert set(quotes["network"]) <= rows and set(quotes["measure"]) <= set(paper.Row._fields)
    assert set(quotes["over"]) == {"", "3D U-Net"}
    assert paper.TRAIN_CASES + paper.VAL_CASES == paper.CASES
