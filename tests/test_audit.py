"""Units, sums and verdicts of the audit against simulated tables and brute force; claims against notebook 11."""

import itertools
import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from compendium import paper
from compendium.audit import additivity, footprint, rankings, units, verdicts
from compendium.audit import parameters as audit
from compendium.audit.claims import CLAIMS, ERRATA, Verdict
from magunet.base import profiles
from magunet.fast import BatchNorm
from magunet.model import MAGUNet, MAGUNetConfig, count_parameters
from magunet.studies import ALIASES, NETWORKS, build_on_meta

NOTEBOOK = Path(__file__).resolve().parents[1] / "notebooks" / "11_paper_audit.ipynb"


# --- units

@pytest.mark.parametrize("unit", units.UNITS.values())
@pytest.mark.parametrize("cut", [False, True])
def test_a_count_lies_in_the_window_of_what_it_prints_as(unit, cut):
    for count in np.random.default_rng(0).integers(10**6, 10**8, 200):
        low, high = units.window(units.printed(count, unit, cut), unit, cut)
        assert low - 1 <= count <= high + 1
        assert f"{units.printed(count, unit):.2f}" == f"{count / unit:.2f}"


@pytest.mark.parametrize("unit", units.UNITS.values())
@pytest.mark.parametrize("cut", [False, True])
def test_the_swap_window_holds_the_channels_of_a_simulated_convolution(unit, cut):
    rng = np.random.default_rng(1)
    for _ in range(200):
        product, rest = int(rng.integers(16, 5000)), int(rng.integers(10**6, 10**8))
        low, high = units.swap_window({k: units.printed(rest + product * k**3, unit, cut) for k in (1, 3, 5)}, unit)
        assert low < product < high


def test_biases_before_normalisation_are_as_many_as_normalised_channels():
    """Where every normalisation follows a convolution, which holds for the default decoder."""
    network = MAGUNet(MAGUNetConfig(widths=(2, 4, 8, 16, 32)))
    assert units.normalised_biases(network) == sum(m.num_features for m in network.modules() if isinstance(m, BatchNorm))


def test_readings_hold_the_canonical_one_and_none_in_millions():
    table = units.readings()
    assert table.loc[0, "parameters"] == count_parameters(build_on_meta("3D U-Net")) == units.count()
    assert {name.split()[0] for name in table["unit"]} == {"2^20"}
    for row in table.itertuples():
        unit = units.UNITS[row.unit]
        assert units.printed(row.parameters, unit, row.digits == "cut") == 22.45
        network = units.count(row[1], row.biases, row.decoder, attention="da")
        assert ("+DA" in row[8]) == (units.printed(network, unit, row.digits == "cut") == 23.01)


def test_other_readings_differ_by_what_their_layers_hold():
    """Weights and biases reckoned by hand, in parameters."""
    table = audit.reading_audit()
    more = (table.drop("paper") - table.loc["as built here"]).mul(paper.MI).round()
    wide = 2 * (512 * 512 + 512 - 512 * 64 - 64)
    no_convolution = -(512 * 512 + 512 + 2 * 512)
    groups = sum(2 * 27 * c * (c // 8 - c // 16) for c in (32, 64, 128, 256))
    projection = sum(c * c + c for c in (32, 64, 128, 256))
    for reading, module, parameters in (
            ("PAM's B, C as wide as D", "DA", wide), ("no convolution after DA's sum", "DA", no_convolution),
            ("LGAG in 8 groups", "LGAG", groups), ("LGAG in 8 groups, 1^3 convolution behind it", "LGAG", groups + projection)):
        for row in paper.TABLE_4:
            expected = parameters if module in row.name or row.name == "all" else 0
            assert more.loc[reading, row.name] == expected, (reading, row.name)
    assert table.loc["LGAG in 8 groups, 1^3 convolution behind it", "+LGAG"] == pytest.approx(23.095, abs=5e-4)
    assert table.loc["paper", "exact"] == 7 and table.loc["as built here", "exact"] == 4
    assert table.loc["decoder: trilinear, two convolutions"].isna().sum() == 3


def test_the_claims_are_kept_with_what_they_rest_on(tmp_path):
    table = verdicts.judged()
    verdicts.save_claims(table, tmp_path / "cpu" / "claims.md", "profile cpu, settings 0")
    _, _, source, _, *lines = (tmp_path / "cpu" / "claims.md").read_text().splitlines()
    assert source.startswith("profile cpu, settings 0, git ")
    assert len(lines) == len(CLAIMS) + 2
    for line, claim in zip(lines[2:], CLAIMS):
        assert claim.says.replace("|", "\\|") in line
        assert f"(../../notebooks/11_paper_audit.ipynb#{claim.shown.replace(' ', '-')})" in line


def test_stock_networks_have_the_known_counts_and_none_the_papers():
    """Counts as the audit that this began with has them, in millions."""
    table = audit.stock_networks().set_index("network")
    for name, millions in (("MONAI's VNet", 45.6), ("MONAI's AttentionUnet, 64 to 1024", 94.5),
                           ("MONAI's UNETR for 48 x 256 x 256", 93.2)):
        assert table.loc[name, "Mi"] * paper.MI / 1e6 == pytest.approx(millions, abs=0.05)
    assert table["difference"].abs().min() > 5


# --- sums

def brute_force(design, values, steps):
    """Least largest error over a grid of costs."""
    costs = np.array(list(itertools.product(steps, repeat=design.shape[1])))
    return np.abs(costs @ design.to_numpy().T - values.to_numpy()).max(1).min()


@pytest.mark.parametrize("seed", range(8))
def test_the_linear_programme_finds_what_brute_force_finds(seed):
    rng = np.random.default_rng(seed)
    design = pd.DataFrame(rng.integers(0, 3, (4, 2)), columns=["a", "b"], index=list("wxyz"))
    values = pd.Series(rng.uniform(0, 3, 4).round(2), list("wxyz"))
    steps = np.arange(0, 4, 0.02)
    needed, costs, _ = additivity.needed_rounding(design, values)
    assert brute_force(design, values, steps) - 0.04 <= needed <= brute_force(design, values, steps) + 1e-9
    assert np.abs(design @ costs - values).max() == pytest.approx(needed)


@pytest.mark.parametrize("table", [additivity.table_4(), additivity.table_3(), additivity.table_3(True)])
def test_the_certificate_proves_that_no_costs_do_better(table):
    design, values = table
    needed, _, multipliers = additivity.needed_rounding(design, values)
    assert multipliers.abs().sum() == pytest.approx(1)
    assert (multipliers @ design <= 1e-9).all()
    assert multipliers @ values == pytest.approx(needed)


@pytest.mark.parametrize("seed", range(10))
def test_rounded_sums_are_sums_and_a_wrong_digit_is_found(seed):
    design, printed = additivity.table_4()
    costs = np.random.default_rng(seed).uniform(0.1, 20, design.shape[1])
    values = (design @ costs).round(2)
    assert additivity.is_sum(design, values)
    assert additivity.largest_sums(design, values) == [tuple(printed.index)] and not additivity.conflicts(design, values)
    values["+DA+MFF"] += 0.1
    assert not additivity.is_sum(design, values)
    assert all("+DA+MFF" in rows for rows in additivity.conflicts(design, values))


def test_the_networks_built_here_are_sums_of_their_modules():
    design, _ = additivity.table_4()
    counts = {row.name: count_parameters(build_on_meta(row.network)) for row in paper.TABLE_4}
    assert additivity.needed_rounding(design, pd.Series(counts) / paper.MI)[0] < 1e-9


def test_the_papers_tables_are_no_sums_and_the_largest_sets_are_maximal():
    for (design, values), most in ((additivity.table_4(), 5), (additivity.table_3(), 5), (additivity.table_3(True), 6)):
        sums, clashes = additivity.largest_sums(design, values), additivity.conflicts(design, values)
        assert {len(rows) for rows in sums} == {most}
        assert not any(set(clash) <= set(rows) for clash in clashes for rows in sums)
        for larger in itertools.combinations(values.index, most + 1):
            assert any(set(clash) <= set(larger) for clash in clashes)


# --- costs

def test_operations_are_those_counted_before():
    """Figures of an audit with other code, in TFLOP."""
    assert footprint.flops("3D U-Net")[""] / 1e12 == pytest.approx(1.195, abs=5e-4)
    assert footprint.flops("MAG-UNet")[""] / 1e12 == pytest.approx(3.791, abs=1e-3)
    assert (footprint.flops("+MFF")[""] - footprint.flops("3D U-Net")[""]) / 1e12 == pytest.approx(2.55, abs=5e-3)


def test_training_keeps_at_least_every_map_that_a_convolution_reads():
    levels = [np.prod(shape) for name, _, shape in footprint.trace("3D U-Net") if name.startswith(("encoder", "decoder"))]
    maps, weights = footprint.training_bytes("3D U-Net")
    assert maps > 4 * sum(levels)
    assert weights == 16 * count_parameters(build_on_meta("3D U-Net"))


# --- claims

def headings():
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    return [line.lstrip("#").strip() for cell in cells if cell.cell_type == "markdown"
            for line in cell.source.splitlines() if re.match(r"##+ ", line)]


def test_every_claim_and_erratum_has_a_place_and_a_heading_that_shows_it():
    found = headings()
    assert len(set(found)) == len(found)
    for entry in (*CLAIMS, *ERRATA):
        assert re.search(r"Abstract|Secs?\. \d|Tables? \d|Eqs?\. \d", entry.place), entry
        assert found.count(entry.shown) == 1, entry
        assert re.fullmatch(r"[A-Za-z0-9 ]+", entry.shown), entry           # other signs make other anchors


def test_every_link_in_the_notebook_leads_to_a_heading():
    anchors = {heading.replace(" ", "-") for heading in headings()}
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    stored = [out["data"].get("text/markdown", "") for cell in cells for out in cell.get("outputs", []) if "data" in out]
    links = re.findall(r"\]\(#([^)]+)\)", "\n".join([*(cell.source for cell in cells), *stored]))
    assert len(links) > len(CLAIMS) and set(links) <= anchors


def test_every_claim_has_one_judge():
    keys = [claim.key for claim in CLAIMS]
    assert sorted(keys) == sorted([*verdicts.PAPER_JUDGES, *verdicts.STUDY_JUDGES])
    assert len({claim.says for claim in CLAIMS}) == len(CLAIMS)


def test_only_claims_about_trained_networks_wait():
    table = verdicts.judged()
    pending = {claim.key for claim, verdict in zip(CLAIMS, table["verdict"]) if verdict == Verdict.PENDING}
    assert pending == set(verdicts.STUDY_JUDGES)
    assert table["found"].str.len().min() > 0 and set(table["verdict"]) <= {str(v) for v in Verdict}


@pytest.mark.parametrize("key, judge", verdicts.STUDY_JUDGES.items())
def test_claims_about_trained_networks_follow_the_scores(key, judge):
    """The paper's own tables, taken for runs, bear all of them out; turned upside down, none."""
    scores = rankings.paper_scores()
    assert judge(scores)[0] is Verdict.HOLDS
    upside_down = scores.set_index("network").rsub(100).reset_index()
    assert judge(upside_down)[0] is Verdict.FAILS
    level = scores.assign(**dict.fromkeys(rankings.MEASURES, 90.0))
    assert judge(level)[0] is Verdict.FAILS
    without = scores[~scores["network"].isin(["3D U-Net", "+DA", "+MFF", "[3]"])]
    assert judge(without)[0] is judge(None)[0] is Verdict.PENDING


def test_scores_under_either_name_of_a_network_count():
    scores = rankings.paper_scores()
    renamed = scores.replace({"network": {new: old for old, new in ALIASES.items()}})
    assert "[1,3,5]" in set(renamed["network"])
    assert verdicts.judged(renamed)["found"].tolist() == verdicts.judged(scores)["found"].tolist()


@pytest.mark.parametrize("cases", [2, 7])
def test_runs_count_from_enough_cases_on(cases, tmp_path, monkeypatch):
    folders = []
    for seed, dice in ((0, 0.8), (1, 0.6)):
        folders.append(tmp_path / f"run{seed}")
        folders[-1].mkdir()
        scores = {"network": "+ECA", "seed": seed, **dict.fromkeys(rankings.MEASURES, dice)}
        pd.DataFrame([scores | {"case": f"c{n}"} for n in range(cases)]).to_csv(folders[-1] / "scores.csv", index=False)
    monkeypatch.setattr(rankings, "scored_runs", lambda settings: folders)
    found = rankings.run_scores(profiles.load("smoke"))
    if cases < rankings.LEAST_CASES:
        assert found is None
    else:
        assert found.to_dict("records") == [{"network": "+ECA", **dict.fromkeys(rankings.MEASURES, pytest.approx(70))}]


def test_the_table_in_markdown_keeps_its_cells():
    table = pd.DataFrame([{"claim": "a | b", "shown": "Two words"}], index=[1])
    assert verdicts.as_markdown(table).splitlines() == [
        "|  | claim | shown |", "| --- | --- | --- |", "| 1 | a \\| b | [Two words](#Two-words) |"]


def test_quotes_name_networks_and_measures_of_the_tables():
    rows = {row.network for table in paper.TABLES for row in table}
    assert {quote.network for quote in paper.QUOTES} <= rows
    assert {quote.measure for quote in paper.QUOTES} <= set(paper.Row.__dataclass_fields__)
    assert paper.TRAIN_CASES + paper.VAL_CASES == paper.CASES
    assert set(paper.KERNELS_IN_TEXT) <= {*NETWORKS, *ALIASES}
