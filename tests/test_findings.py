"""What the scores say: effects that were planted, orders counted by hand, and words on the right side of their boundary."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, refused
from scipy import stats

from compendium import paper
from compendium.findings import (
    FIRST,
    HELPS,
    HURTS,
    LAST,
    MAIN,
    OPEN,
    findings,
    module_effects,
    orderings,
    wording,
    worst_cases,
)
from compendium.scores import read_scores
from compendium.statistics import bootstrap_interval, holm

NETWORKS = {"3D U-Net": "", "+DA": "d", "+MFF": "m", "+LGAG": "l", "+DA+MFF": "dm", "+DA+LGAG": "dl", "+MFF+LGAG": "ml",
            "MAG-UNet": "dml"}
"""The factorial, written out: network -> first letters of its modules."""
LETTER = {"DA": "d", "MFF": "m", "LGAG": "l"}


def row(network, patient, dice, seed=0, case=None, **more):
    return {"network": network, "seed": seed, "case": case or f"case of {patient}", "patient": patient, "dice": dice,
            "iou": dice / (2 - dice), "hd95": 100 * (1 - dice), "missed": 0, "grade_left": 0, "grade_right": 1} | more


def factorial(points, patients=6, seeds=(0,), networks=NETWORKS):
    """Scores whose Dice is 50 % and points(letters of the modules, number of the patient, seed) above it."""
    return pd.DataFrame([row(name, f"p{i}", 0.5 + points(letters, i, seed) / 100, seed)
                         for name, letters in networks.items() for i in range(patients) for seed in seeds])


def scored(**dice):
    """Scores of networks (a short name each) from lists of Dice, one a patient."""
    names = {"unet": "3D U-Net", "vnet": "3D V-Net", "res": "ResUNet", "se": "+SE", "mff": "+MFF", "three": "[3]"}
    return pd.DataFrame([row(names[key], f"p{i}", value) for key, values in dice.items() for i, value in enumerate(values)])


def effect(scores, module, comparison):
    table = module_effects(scores)
    found = table[(table["module"] == module) & (table["comparison"] == comparison)]
    assert len(found) == 1
    return found.iloc[0]


def order(scores, table):
    return orderings(scores).set_index("table").loc[table]


def section(text, title):
    """The lines under a heading."""
    return text.split(f"## {title}")[1].split("\n## ")[0]


def noisy(seeds=(0, 1)):
    noise = np.random.default_rng(5)
    return factorial(lambda letters, i, seed: len(letters) + noise.normal(0, 3), 7, seeds)


@pytest.mark.parametrize("comparison", [MAIN, FIRST, LAST])
def test_effects_that_add_up_are_found_exactly(comparison):
    planted = {"d": 1.25, "m": -2.5, "l": 0.5}
    scores = factorial(lambda letters, i, seed: sum(planted[x] for x in letters) + i)
    for module, letter in LETTER.items():
        found = effect(scores, module, comparison)
        assert found["points"] == pytest.approx(planted[letter], abs=1e-9)
        assert (found["low"], found["high"]) == pytest.approx((planted[letter],) * 2, abs=1e-9)       # alike in all patients


def test_a_change_by_rounding_is_none():
    """0.1 + 0.2 is more than 0.3, in all patients; it is no help."""
    scores = factorial(lambda letters, i, seed: 0, 6)
    scores["dice"] = np.where(scores["network"].str.contains("DA|MAG"), 0.1 + 0.2, 0.3)
    assert effect(scores, "DA", MAIN)[["points", "low", "high", "p"]].tolist() == [0, 0, 0, 1]


def test_an_interaction_counts_in_the_surroundings_that_have_it():
    """DA gives 1 point, and 4 more beside MFF: in 2 of its 4 surroundings, in none of the first steps, in both last ones."""
    scores = factorial(lambda letters, i, seed: ("d" in letters) + 4 * ({"d", "m"} <= set(letters)))
    assert [effect(scores, "DA", c)["points"] for c in (MAIN, FIRST, LAST)] == pytest.approx([3, 1, 5])
    assert [effect(scores, "MFF", c)["points"] for c in (MAIN, FIRST, LAST)] == pytest.approx([2, 0, 4])
    assert [effect(scores, "LGAG", c)["points"] for c in (MAIN, FIRST, LAST)] == pytest.approx([0, 0, 0])


def test_main_effects_are_those_of_a_plain_loop_with_interval_p_and_spread_over_seeds():
    scores, p = noisy(), []
    dice = {(r.network, r.patient, r.seed): 100 * r.dice for r in scores.itertuples()}
    network_of = {frozenset(letters): name for name, letters in NETWORKS.items()}
    for module, letter in LETTER.items():
        def change(patient, seed, letter=letter):
            total = 0
            for letters, name in network_of.items():
                if letter not in letters:
                    total += dice[network_of[letters | {letter}], patient, seed] - dice[name, patient, seed]
            return total / 4
        patients = [f"p{i}" for i in range(7)]
        each = [(change(patient, 0) + change(patient, 1)) / 2 for patient in patients]
        found = effect(scores, module, MAIN)
        assert found["points"] == pytest.approx(sum(each) / 7)
        assert (found["low"], found["high"]) == pytest.approx(bootstrap_interval(each))
        assert found["p"] == pytest.approx(stats.wilcoxon(each, method="exact").pvalue)
        one, two = (np.mean([change(patient, seed) for patient in patients]) for seed in (0, 1))
        assert found["sd_seeds"] == pytest.approx(abs(one - two) / 2**0.5)
        assert (found["patients"], found["seeds"]) == (7, 2)
        p.append(found["p"])
    table = module_effects(scores)
    assert table.loc[table["comparison"] == MAIN, "p_holm"].tolist() == pytest.approx(holm(p))
    assert holm(p) != p and table.loc[table["comparison"] != MAIN, ["p", "p_holm"]].isna().all(axis=None)


def test_seeds_of_a_patient_are_averaged_and_are_no_further_patients():
    """Five patients can give no p below 2/32, ten could; and ups and downs of seeds leave each patient's mean as it is."""
    scores = factorial(lambda letters, i, seed: ("l" in letters) * (i + 1 + 10 * (1 - 2 * seed)), 5, (0, 1))
    found = effect(scores, "LGAG", MAIN)
    assert found["p"] == pytest.approx(2 / 32)
    assert (found["low"], found["high"]) == pytest.approx(bootstrap_interval([1, 2, 3, 4, 5]))
    assert found["sd_seeds"] == pytest.approx(20 / 2**0.5)


def test_a_network_with_fewer_seeds_weighs_as_much_and_spread_is_of_common_seeds():
    """Of MAG-UNet only seed 0 is there: 3 points above its neighbours' mean of 1 and 3, that is 1; no spread."""
    scores = factorial(lambda letters, i, seed: 3 if letters == "dml" else 1 + 2 * seed, 5, (0, 1))
    scores = scores[(scores["network"] != "MAG-UNet") | (scores["seed"] == 0)]
    last = effect(scores, "DA", LAST)
    assert last["points"] == pytest.approx(1) and last["seeds"] == 1 and np.isnan(last["sd_seeds"])
    assert effect(scores, "DA", FIRST)["seeds"] == 2
    assert "Seeds of each: 1 to 2." in findings(scores) and "Trained only once: 1 of 8 networks" in findings(scores)


def test_scans_of_a_patient_are_averaged():
    """Nine scans without a gain and one patient with 4 points: 2 over patients, 0.4 over scans."""
    scores = pd.DataFrame([row(name, patient, 0.5 + gain * ("d" in letters), case=f"{patient} {i}")
                           for name, letters in NETWORKS.items() for patient, scans, gain in (("p1", 9, 0), ("p2", 1, 0.04))
                           for i in range(scans)])
    assert effect(scores, "DA", MAIN)["points"] == pytest.approx(2)


def test_a_missing_network_is_named_and_only_what_exists_is_given():
    scores = noisy()
    scores = scores[scores["network"] != "+MFF+LGAG"]
    table = module_effects(scores).set_index(["module", "comparison"])
    assert table.loc["DA", "missing"].to_dict() == {MAIN: "+MFF+LGAG", FIRST: "", LAST: "+MFF+LGAG"}
    assert table.loc["MFF", "missing"].to_dict() == {MAIN: "+MFF+LGAG", FIRST: "", LAST: ""}
    assert (table["points"].isna() == (table["missing"] != "")).all()
    text = section(findings(scores), "Does each module help?")
    assert "Not scored: +MFF+LGAG." in text and "computed: 5 of 6" in text and MAIN not in text.split("|", 1)[1]
    assert not any(words.format(module) in text for words in (HELPS, HURTS, OPEN) for module in LETTER)


@pytest.mark.parametrize("low, high, p, words", [
    (0.001, 2, 0.05, HELPS), (0, 2, 0.05, OPEN), (-0.001, 2, 0.01, OPEN), (-2, 0.001, 0.01, OPEN), (-2, 0, 0.01, OPEN),
    (-2, -0.001, 0.05, HURTS), (0.001, 2, 0.051, OPEN), (-2, -0.001, 0.051, OPEN)])
def test_words_change_where_the_interval_leaves_zero_and_the_test_agrees(low, high, p, words):
    assert wording(low, high, p) is words


@pytest.mark.parametrize("gains, begins", [
    ((1, 1, 1, 1, 1, 1, 1, 1), "DA helps here"), ((-1, -1, -1, -1, -1, -1, -1, -1), "DA hurts here"),
    ((0, 0, 0, 0, 0, 0, 0, 0), "Whether DA helps or hurts cannot be told"),
    ((1, 1, 1, 1, 1, 1), "Whether DA helps or hurts cannot be told"),
    ((5, -4, 3, -3, 2, -2), "Whether DA helps or hurts cannot be told")])
def test_sentences_begin_as_the_rule_says(gains, begins):
    text = findings(factorial(lambda letters, i, seed: 0.1 + ("d" in letters) * gains[i], len(gains)))
    assert f"* **{begins}" in text


def test_it_says_where_so_few_patients_can_confirm_nothing():
    """Six patients who all gain: p is 2/64, after Holm 6/64. Eight: 6/256."""
    few, more = (findings(factorial(lambda letters, i, seed: ("d" in letters) * (i + 1), n)) for n in (6, 8))
    assert "p 0.094 after Holm." in few and "cannot give a p below 0.094 after Holm" in few and "**DA helps" not in few
    assert "p 0.023 after Holm." in more and "cannot give a p" not in more and "DA helps here" in more


def test_one_training_is_said_to_be_one_and_several_have_a_spread():
    one, two = findings(noisy((0,))), findings(noisy((0, 1)))
    assert "Patients: 7. Networks: 8. Seeds of each: 1." in one and "Patients: 7. Networks: 8. Seeds of each: 2." in two
    assert "accident of one training" in one and "over 2 seeds" not in one
    assert "accident of one training" not in two and "over 2 seeds" in two


@pytest.mark.parametrize("patients, ranks", [(4, False), (5, True)])
def test_few_patients_get_numbers_without_verdicts(patients, ranks):
    text = findings(factorial(lambda letters, i, seed: ("l" in letters) * (i + 1), patients))
    assert ("Fewer than 5 patients rank nothing" in text) is not ranks
    assert ("Whether LGAG helps" in text) is ranks and ("with certainty" in text) is ranks
    assert ("hard for everybody" in text) is ranks
    assert f"| LGAG | {MAIN} | {(patients + 1) / 2:+.2f} [" in text


def test_orders_are_those_of_a_plain_loop_over_pairs():
    scores = read_scores(ROOT / "figures" / "cpu")
    for number, rows in ((1, paper.TABLE_1), (2, paper.TABLE_2), (3, paper.TABLE_3), (4, paper.TABLE_4)):
        measure, same, certain, opposed, pairs = "iou" if number == 3 else "dice", 0, 0, 0, 0
        for one, other in itertools.combinations(rows, 2):
            values = []
            for r in (one, other):
                network = "+MFF" if r.name == "[1,3,5]" else r.network
                values.append(scores[scores["network"] == network].sort_values("patient")[measure].to_numpy())
            lead = (values[0] - values[1]) * np.sign(getattr(one, measure) - getattr(other, measure))
            low, high = bootstrap_interval(lead)
            pairs, same, certain, opposed = pairs + 1, same + (lead.mean() > 0), certain + (low > 0), opposed + (high < 0)
        found = order(scores, number)
        assert found[["measure", "ordered", "pairs", "same", "certain", "opposed", "equal", "missing"]].tolist() == [
            measure, pairs, pairs, same, certain, opposed, 0, ""]
        assert found["tau"] == pytest.approx((same - (pairs - same)) / pairs)               # without ties


def test_orders_by_hand():
    """Of Table 1, three rows: ResUNet > 3D U-Net > 3D V-Net. ResUNet is 1 point below the U-Net, in the mean of ups and downs.
    With a V-Net above both no pair has the paper's order, two for certain; with one below both, two have it, for certain."""
    res = 0.6 - np.array([0.06, -0.04, 0.06, -0.04, 0.01])
    above, below = (order(scored(vnet=[dice] * 5, unet=[0.6] * 5, res=res), 1) for dice in (0.7, 0.5))
    assert above[["ordered", "pairs", "same", "certain", "opposed"]].tolist() == [28, 3, 0, 0, 2]
    assert below[["ordered", "pairs", "same", "certain", "opposed"]].tolist() == [28, 3, 2, 2, 0]
    assert (above["tau"], below["tau"]) == pytest.approx((-1, 1 / 3))
    assert above["missing"] == "Attention UNet, SegNet, UNETR, DeepLabv3+, MAG-UNet"


def test_pairs_equal_in_print_are_left_out_and_said(monkeypatch):
    """Paper 80, 80, 90, ours 50, 60, 40: two pairs, both against; one equal. Tau-b: -2 / sqrt(2 * 3)."""
    rows = [paper.Row(table=1, name=name, network=name, dice=dice)
            for name, dice in (("3D V-Net", 80.0), ("ResUNet", 80.0), ("3D U-Net", 90.0), ("SegNet", 90.0))]
    monkeypatch.setattr(paper, "TABLES", (tuple(rows), *paper.TABLES[1:]))
    scores = scored(vnet=[0.5] * 5, res=[0.6] * 5, unet=[0.4] * 5)
    found = order(scores, 1)
    assert found[["ordered", "pairs", "same", "opposed", "equal"]].tolist() == [4, 2, 0, 2, 1]
    assert found["tau"] == pytest.approx(-2 / 6**0.5)
    line = next(line for line in findings(scores).splitlines() if line.startswith("* **Table 1, Dice**"))
    assert "0 of 2 pairs" in line and "left out: 1." in line and "Not scored: SegNet, and so 2 more pairs." in line


def test_networks_equal_here_are_not_in_the_papers_order():
    """0.1 + 0.2 and 0.3 are no lead; tau has no order to compare."""
    found = order(scored(unet=[0.1 + 0.2] * 5, se=[0.3] * 5), 2)
    assert found[["pairs", "same", "certain", "opposed"]].tolist() == [1, 0, 0, 0] and np.isnan(found["tau"])
    assert np.isnan(order(scored(unet=[0.5] * 5), 2)["tau"])


def test_a_row_is_looked_up_under_the_name_it_is_trained_under():
    found = order(scored(mff=[0.6] * 5, three=[0.5] * 5), 3)
    assert found[["measure", "pairs", "same"]].tolist() == ["iou", 1, 1] and "[1,3,5]" not in found["missing"]


def test_worst_cases_are_lowest_over_seeds_and_equal_ones_by_name():
    """Over seeds: d 0.25, b and c 0.3, b as 0.1 + 0.2, which is more by rounding; a 0.5, with the lowest single score."""
    dice = {"d": (0.2, 0.3), "c": (0.3, 0.3), "b": (0.1 + 0.2, 0.1 + 0.2), "a": (0.0, 1.0)}
    scores = pd.DataFrame([row("MAG-UNet", name, value, seed, case=name) for name, each in dice.items()
                           for seed, value in enumerate(each)] + [row("+DA", "a", 0.0, case="a")])
    assert np.mean(dice["b"]) > np.mean(dice["c"])
    assert worst_cases(scores, "MAG-UNet") == ["d", "b", "c"]
    assert worst_cases(scores, "MAG-UNet", 1) == ["d"]
    assert worst_cases(scores, "MAG-UNet", 9) == ["d", "b", "c", "a"]
    refused(lambda: worst_cases(scores, "+SE"), "+SE has no scores")


def failing():
    """Six cases; MAG-UNet is worst in p0 and p1 with all, and in p5 alone."""
    full, rest = (0.1, 0.2, 0.7, 0.7, 0.9, 0.3), (0.3, 0.4, 0.5, 0.7, 0.8, 0.6)
    grades = ((0, 4), (2, np.nan), (np.nan, np.nan), (1, 0), (1, 1), (0, 0))
    networks = {"MAG-UNet": (full, 0), "+DA": (rest, -0.1), "+SE": (rest, 0.02), "+MFF": (rest, 0.1)}
    return pd.DataFrame([row(name, f"p{i}", dice[i] + more, case=f"c{i}", grade_left=left, grade_right=right, missed=i)
                         for name, (dice, more) in networks.items() for i, (left, right) in enumerate(grades)])


def test_where_mag_unet_fails_by_hand():
    text = section(findings(failing()), "Where does MAG-UNet fail?")
    assert "| c0 | 10.0 | 90.0 | 0 | 0 | 4 | 32.0 |" in text              # median of 20, 32 and 40 %
    assert "| c1 | 20.0 | 80.0 | 1 | 2 | - | 42.0 |" in text
    assert "| c5 | 30.0 | 70.0 | 5 | 0 | 0 | 62.0 |" in text and "| c2 |" not in text
    assert "hard for everybody: c0, c1." in text
    by_grade = [line for line in text.splitlines() if line.count("|") == 4][2:]
    assert by_grade == ["| 0 | 1 | 30.0 |", "| 1 | 2 | 80.0 |", "| 2 | 1 | 20.0 |", "| 4 | 1 | 10.0 |", "| - | 1 | 70.0 |"]


def test_cases_are_means_over_seeds_before_anything_else():
    """MAG-UNet 20 and 60 %, missed joints 1 and 0; the others' means 60, 50 and 90 %, where the median of all six is 70."""
    dice = {"MAG-UNet": (0.2, 0.6), "+DA": (0.2, 1.0), "+SE": (0.5, 0.5), "+MFF": (0.9, 0.9)}
    scores = pd.DataFrame([row(name, "p0", value, seed, missed=1 - seed) for name, each in dice.items()
                           for seed, value in enumerate(each)])
    assert "| case of p0 | 40.0 | 60.0 | 0.5 | 0 | 1 | 60.0 |" in findings(scores)


def test_nothing_is_minus_zero():
    text = findings(factorial(lambda letters, i, seed: -0.004 * ("d" in letters), 8))
    assert "**DA hurts here**: +0.00 [+0.00, +0.00] points" in text and "-0.00" not in text


def test_what_is_not_there_is_said():
    scores = failing()
    assert "The scores have no grades." in findings(scores.drop(columns=["grade_left", "grade_right"]))
    assert "MAG-UNet has no scores." in findings(scores[scores["network"] != "MAG-UNet"])
    alone = findings(scores[scores["network"] == "MAG-UNet"])
    assert "| c0 | 10.0 | 90.0 | 0 | 0 | 4 | - |" in alone and "hard for everybody" not in alone
    assert "computed: 0 of 6" in alone


def test_scores_of_other_patients_are_refused():
    scores = noisy()
    cut = scores[(scores["network"] != "+DA") | (scores["seed"] != 1) | (scores["patient"] != "p3")]
    for call in (module_effects, orderings, findings):
        refused(lambda call=call: call(cut), "+DA, seed 1, has no score of p3")
        refused(lambda call=call: call(scores[:0]), "no scores yet")


def test_the_text_ends_with_one_newline():
    assert findings(noisy()).endswith("|\n") and not findings(noisy()).endswith("\n\n")


def test_the_stored_scores_say_what_their_file_says():
    """Read line by line, without the project's code: LGAG's main effect, and MAG-UNet's worst case."""
    lines = [line.split(",") for line in Path(ROOT / "figures" / "cpu" / "scores.csv").read_text().splitlines()]
    at = {name: lines[0].index(name) for name in ("network", "case", "dice")}
    dice = {}
    for line in lines[1:]:
        if line[0].startswith('"'):
            continue                                                    # a kernel's name, with a comma in it
        dice.setdefault(line[at["network"]], {})[line[at["case"]]] = float(line[at["dice"]])
    mean = {name: sum(values.values()) / len(values) for name, values in dice.items()}
    lgag = 25 * (mean["+LGAG"] + mean["+DA+LGAG"] + mean["+MFF+LGAG"] + mean["MAG-UNet"]
                 - mean["3D U-Net"] - mean["+DA"] - mean["+MFF"] - mean["+DA+MFF"])
    worst = min(dice["MAG-UNet"], key=dice["MAG-UNet"].get)
    text = findings(read_scores(ROOT / "figures" / "cpu"))
    assert f"| LGAG | {MAIN} | {lgag:+.2f} [" in text
    assert f"| {worst} | {100 * dice['MAG-UNet'][worst]:.1f} |" in text
