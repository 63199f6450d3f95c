"""Effects of modules that were planted, worst cases, and what of both is printed."""

import numpy as np
import pandas as pd
import pytest
from conftest import refused
from scipy import stats

from compendium.effects import COMPARISONS, effects_report, module_effects, worst_cases
from compendium.statistics import bootstrap_interval, holm

MAIN, FIRST, LAST = COMPARISONS
NETWORKS = {"3D U-Net": "", "+DA": "d", "+MFF": "m", "+LGAG": "l", "+DA+MFF": "dm", "+DA+LGAG": "dl",
            "+MFF+LGAG": "ml", "MAG-UNet": "dml"}
"""The factorial, written out: network -> first letters of its modules."""


def row(network, patient, dice, seed=0, case=None, **more):
    return {"network": network, "seed": seed, "case": case or f"case of {patient}", "patient": patient,
            "dice": dice, "hd95": 100 * (1 - dice), "missed": 0, "grade_left": 0, "grade_right": 1} | more


def factorial(points, patients=6, seeds=(0,)):
    """Scores whose Dice is 50 % and points(letters of the modules, number of the patient, seed) above it."""
    return pd.DataFrame([row(name, f"p{i}", 0.5 + points(letters, i, seed) / 100, seed)
                         for name, letters in NETWORKS.items() for i in range(patients) for seed in seeds])


def effect(scores, module, comparison):
    return module_effects(scores).set_index(["module", "comparison"]).loc[(module, comparison)]


def noisy():
    noise = np.random.default_rng(5)
    return factorial(lambda letters, i, seed: len(letters) + noise.normal(0, 3), 7, (0, 1))


def test_effects_are_found_exactly_in_the_surroundings_that_have_them():
    """DA, MFF and LGAG give 1, -2 and 0.5 points, and 4 more where DA is beside MFF: in 2 of its 4
    surroundings, no first step, both last ones. All patients gain alike, and so intervals are points."""
    scores = factorial(lambda letters, i, seed: sum({"d": 1, "m": -2, "l": 0.5}[x] for x in letters)
                       + 4 * ({"d", "m"} <= set(letters)) + i)
    for module, points in (("DA", (3, 1, 5)), ("MFF", (0, -2, 2)), ("LGAG", (0.5, 0.5, 0.5))):
        for comparison, expected in zip((MAIN, FIRST, LAST), points):
            found = effect(scores, module, comparison)[["points", "low", "high"]].tolist()
            assert found == pytest.approx([expected] * 3, abs=1e-9), (module, comparison)


def test_a_change_by_rounding_is_none():
    """0.1 + 0.2 is more than 0.3, in all patients; it is no help."""
    scores = factorial(lambda letters, i, seed: 0, 6)
    scores["dice"] = np.where(scores["network"].str.contains("DA|MAG"), 0.1 + 0.2, 0.3)
    assert effect(scores, "DA", MAIN)[["points", "low", "high", "p"]].tolist() == [0, 0, 0, 1]


def test_main_effects_are_those_of_a_plain_loop_with_interval_p_and_spread_over_seeds():
    scores, p = noisy(), []
    dice = {(r.network, r.patient, r.seed): 100 * r.dice for r in scores.itertuples()}
    network_of = {frozenset(letters): name for name, letters in NETWORKS.items()}
    for module, letter in (("DA", "d"), ("MFF", "m"), ("LGAG", "l")):
        steps = [(network_of[letters | {letter}], name) for letters, name in network_of.items()
                 if letter not in letters]
        change = np.array([[sum(dice[more, f"p{i}", seed] - dice[less, f"p{i}", seed] for more, less in steps)
                            for seed in (0, 1)] for i in range(7)]) / 4
        each, ours = change.mean(1), effect(scores, module, MAIN)
        assert ours["points"] == pytest.approx(each.mean()), module
        assert (ours["low"], ours["high"]) == pytest.approx(bootstrap_interval(each)), module
        assert ours["p"] == pytest.approx(stats.wilcoxon(each, method="exact").pvalue), module
        assert ours["sd_seeds"] == pytest.approx(abs(np.subtract(*change.mean(0))) / 2**0.5), module
        assert (ours["patients"], ours["seeds"]) == (7, 2), module
        p.append(ours["p"])
    table = module_effects(scores)
    assert table.loc[table["comparison"] == MAIN, "p_holm"].tolist() == pytest.approx(holm(p))
    assert holm(p) != p and table.loc[table["comparison"] != MAIN, ["p", "p_holm"]].isna().all(axis=None)


def test_a_network_with_fewer_seeds_weighs_as_much_and_spread_is_of_common_seeds():
    """Of MAG-UNet only seed 0 exists: 3 points above its neighbours' mean of 1 and 3, so 1; no spread."""
    scores = factorial(lambda letters, i, seed: 3 if letters == "dml" else 1 + 2 * seed, 5, (0, 1))
    scores = scores[(scores["network"] != "MAG-UNet") | (scores["seed"] == 0)]
    last = effect(scores, "DA", LAST)
    assert last["points"] == pytest.approx(1) and last["seeds"] == 1 and np.isnan(last["sd_seeds"])
    assert effect(scores, "DA", FIRST)["seeds"] == 2


def test_scans_of_a_patient_are_averaged():
    """Nine scans without a gain and one patient with 4 points: 2 over patients, 0.4 over scans."""
    scores = pd.DataFrame([row(name, patient, 0.5 + gain * ("d" in letters), case=f"{patient} {i}")
                           for name, letters in NETWORKS.items()
                           for patient, scans, gain in (("p1", 9, 0), ("p2", 1, 0.04)) for i in range(scans)])
    assert effect(scores, "DA", MAIN)["points"] == pytest.approx(2)


def test_a_missing_network_is_named_and_only_what_exists_is_given():
    scores = noisy()
    scores = scores[scores["network"] != "+MFF+LGAG"]
    table = module_effects(scores).set_index(["module", "comparison"])
    assert table.loc["DA", "missing"].to_dict() == {MAIN: "+MFF+LGAG", FIRST: "", LAST: "+MFF+LGAG"}
    assert table.loc["MFF", "missing"].to_dict() == {MAIN: "+MFF+LGAG", FIRST: "", LAST: ""}
    assert (table["points"].isna() == (table["missing"] != "")).all()


def test_worst_cases_are_lowest_over_seeds_and_equal_ones_by_name():
    """Over seeds: d 0.25, b and c 0.3, b as 0.1 + 0.2, more by rounding; a 0.5."""
    dice = {"d": (0.2, 0.3), "c": (0.3, 0.3), "b": (0.1 + 0.2, 0.1 + 0.2), "a": (0.0, 1.0)}
    scores = pd.DataFrame([row("MAG-UNet", name, value, seed, case=name) for name, each in dice.items()
                           for seed, value in enumerate(each)] + [row("+DA", "a", 0.0, case="a")])
    assert np.mean(dice["b"]) > np.mean(dice["c"])
    assert worst_cases(scores, "MAG-UNet") == ["d", "b", "c"]
    assert worst_cases(scores, "MAG-UNet", 1) == ["d"]
    assert worst_cases(scores, "MAG-UNet", 9) == ["d", "b", "c", "a"]
    refused(lambda: worst_cases(scores, "+SE"), "+SE has no scores")


def row_of(report, name):
    """Cells of a line of a report in Markdown."""
    (line,) = [line for line in report.markdown().splitlines() if line.startswith(f"| {name} |")]
    return line.removesuffix(" |").split(" | ")[1:]


def test_where_mag_unet_fails_by_hand_without_what_is_missing():
    """Of six cases it is worst in c0 and c1 with all, and in c5 alone. Its Dice, HD95, missed joints, grades,
    and the median of the others: of 20, 32 and 40 % in the first case."""
    full, rest = (0.1, 0.2, 0.7, 0.7, 0.9, 0.3), (0.3, 0.4, 0.5, 0.7, 0.8, 0.6)
    grades = ((0, 4), (2, np.nan), (np.nan, np.nan), (1, 0), (1, 1), (0, 0))
    networks = {"MAG-UNet": (full, 0), "+DA": (rest, -0.1), "+SE": (rest, 0.02), "+MFF": (rest, 0.1)}
    scores = pd.DataFrame([
        row(name, f"p{i}", dice[i] + more, case=f"c{i}", grade_left=left, grade_right=right, missed=i)
        for name, (dice, more) in networks.items() for i, (left, right) in enumerate(grades)])
    expected = {"c0": ["10", "90", "0", "0", "4", "32"], "c1": ["20", "80", "1", "2", "-", "42"],
                "c5": ["30", "70", "5", "0", "0", "62"]}
    report, is_full = effects_report(scores), scores["network"] == "MAG-UNet"
    effects, worst = report.tables
    assert [(name, row_of(report, name)) for name in report.tables[worst].index] == list(expected.items())
    assert "grade" not in effects_report(scores.drop(columns=["grade_left", "grade_right"])).markdown()
    assert list(effects_report(scores[~is_full]).tables) == [effects]
    assert row_of(effects_report(scores[is_full]), "c0") == [*expected["c0"][:-1], "-"]


def test_cases_are_means_over_seeds_before_anything_else():
    """MAG-UNet 20 and 60 %, missed joints 1 and 0; others 60, 50 and 90 %; of all six the median is 70."""
    dice = {"MAG-UNet": (0.2, 0.6), "+DA": (0.2, 1.0), "+SE": (0.5, 0.5), "+MFF": (0.9, 0.9)}
    scores = pd.DataFrame([row(name, "p0", value, seed, missed=1 - seed) for name, each in dice.items()
                           for seed, value in enumerate(each)])
    assert row_of(effects_report(scores), "case of p0") == ["40", "60", "0.5", "0", "1", "60"]


def test_scores_of_other_patients_are_refused():
    scores = noisy()
    cut = scores[(scores["network"] != "+DA") | (scores["seed"] != 1) | (scores["patient"] != "p3")]
    refused(lambda: effects_report(cut), "+DA, seed 1, has no score of p3")
    refused(lambda: effects_report(scores[:0]), "no scores yet")
