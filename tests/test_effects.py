"""Effects of modules that were planted, studies in which nothing has one, worst cases, what is printed."""

import numpy as np
import pandas as pd
import pytest
from conftest import refused
from printed import assert_readable
from scipy import stats

from compendium import effects
from compendium.effects import MAIN, effects_report, module_effects, worst_cases
from compendium.figures.forest import effects_forest
from compendium.statistics import holm, pooled

FIRST, LAST = "beside none", "last step to MAG-UNet"
NETWORKS = {"3D U-Net": "", "+DA": "d", "+MFF": "m", "+LGAG": "l", "+DA+MFF": "dm", "+DA+LGAG": "dl",
            "+MFF+LGAG": "ml", "MAG-UNet": "dml"}
"""The factorial, written out: network -> first letters of its modules."""


def row(network, patient, dice, seed=0, case=None, **more):
    return {"network": network, "seed": seed, "case": case or f"case of {patient}", "patient": patient,
            "dice": dice, "hd95": 100 * (1 - dice), "missed": 0, "grade_left": 0, "grade_right": 1} | more


def planted(points, patients=6, seeds=(0,), networks=NETWORKS):
    """Scores whose Dice is 50 % and points(letters of the modules, number of the patient, seed) above it."""
    return pd.DataFrame([row(name, f"p{i}", 0.5 + points(letters, i, seed) / 100, seed)
                         for name, letters in networks.items() for i in range(patients) for seed in seeds])


def effect(scores, module, comparison):
    return module_effects(scores).set_index(["module", "comparison"]).loc[(module, comparison)]


def noisy(seeds=(0, 1)):
    noise = np.random.default_rng(5)
    return planted(lambda letters, i, seed: len(letters) + noise.normal(0, 3), 7, seeds)


def test_effects_are_found_exactly_in_the_surroundings_that_have_them():
    """DA, MFF and LGAG give 1, -2 and 0.5 points, and 4 more where DA is beside MFF: in 2 of its 4
    surroundings, no first step, both last ones. All patients gain alike, and so intervals are points."""
    scores = planted(lambda letters, i, seed: sum({"d": 1, "m": -2, "l": 0.5}[x] for x in letters)
                     + 4 * ({"d", "m"} <= set(letters)) + i)
    for module, points in (("DA", (3, 1, 5)), ("MFF", (0, -2, 2)), ("LGAG", (0.5, 0.5, 0.5))):
        for comparison, expected in zip((MAIN, FIRST, LAST), points):
            numbers = effect(scores, module, comparison)[["mean", "low", "high"]].tolist()
            assert numbers == pytest.approx([expected] * 3, abs=1e-9), (module, comparison)
    for modules, expected in (("DA x MFF", 2), ("DA x LGAG", 0), ("MFF x LGAG", 0), ("DA x MFF x LGAG", 0)):
        assert effect(scores, modules, "interaction")["mean"] == pytest.approx(expected), modules
    all_three = planted(lambda letters, i, seed: 4 * (letters == "dml"))
    assert effect(all_three, "DA x MFF x LGAG", "interaction")["mean"] == pytest.approx(1)


def test_main_effects_are_those_of_a_plain_loop_and_of_one_seed_of_a_t_test_over_patients(monkeypatch):
    assert np.isnan(effect(noisy((0, 1)), "DA", MAIN)["p"]), "a p of fewer than five seeds"
    monkeypatch.setattr(effects, "LEAST_SEEDS", 1)
    for seeds in ((0, 1), (0,)):
        scores, p = noisy(seeds), []
        dice = {(r.network, r.patient, r.seed): 100 * r.dice for r in scores.itertuples()}
        network_of = {frozenset(letters): name for name, letters in NETWORKS.items()}
        for module, letter in (("DA", "d"), ("MFF", "m"), ("LGAG", "l")):
            steps = [(network_of[letters | {letter}], name) for letters, name in network_of.items()
                     if letter not in letters]
            change = np.array([[sum(dice[more, f"p{i}", seed] - dice[less, f"p{i}", seed]
                                    for more, less in steps) for seed in seeds] for i in range(7)]) / 4
            ours, wanted = effect(scores, module, MAIN), pooled(change, len(seeds) - 1 or np.inf)._asdict()
            assert ours[list(wanted)].tolist() == pytest.approx(list(wanted.values()), nan_ok=True), module
            p.append(ours["p"])
        assert ours["p"] == pytest.approx(stats.ttest_1samp(change[:, 0], 0).pvalue) or len(seeds) > 1
        table = module_effects(scores)
        assert table.loc[table["comparison"] == MAIN, "p_holm"].tolist() == pytest.approx(holm(p))
        rest = table[table["comparison"] != MAIN]
        assert rest[["p", "p_holm"]].isna().all(axis=None) and not rest["verdict"].any()


def test_seeds_that_some_network_lacks_are_left_out_of_its_comparisons_alone():
    """Of MAG-UNet only seed 0 exists: 3 points above its neighbours' 1."""
    scores = planted(lambda letters, i, seed: 3 if letters == "dml" else 1 + 2 * seed, 5, (0, 1))
    scores = scores[(scores["network"] != "MAG-UNet") | (scores["seed"] == 0)]
    last = effect(scores, "DA", LAST)
    assert last["mean"] == pytest.approx(2) and last["seeds"] == 1 and np.isnan(last["sd_seeds"])
    assert effect(scores, "DA", FIRST)["seeds"] == 2
    apart = scores.assign(seed=scores["seed"] + 5 * (scores["network"] == "MAG-UNet"))
    assert effect(apart, "DA", MAIN)["verdict"] == "no verdict: 0 seeds"


def test_a_missing_network_is_named_and_only_what_exists_is_computed():
    scores = noisy()
    table = module_effects(scores[scores["network"] != "+MFF+LGAG"]).set_index(["module", "comparison"])
    lacking = table["missing"].to_dict()
    assert [lacking["DA", name] for name in (MAIN, FIRST, LAST)] == ["+MFF+LGAG", "", "+MFF+LGAG"]
    assert lacking["+DA", "minus +DA placebo"] == "+DA placebo"
    assert lacking["Wide 3D U-Net", "minus 3D U-Net"] == "Wide 3D U-Net"
    assert (table["mean"].isna() == (table["missing"] != "")).all() and not table["verdict"].any()


def test_a_placebo_and_a_large_network_are_described_beside_what_they_stand_for():
    networks = NETWORKS | {"+DA placebo": "p", "Wide 3D U-Net": "ww"}
    scores = planted(lambda letters, i, seed: len(letters) + seed, 6, range(5), networks)
    for more, less, expected in (("+DA", "+DA placebo", 0), ("+DA placebo", "3D U-Net", 1),
                                 ("MAG-UNet", "Wide 3D U-Net", 1), ("Wide 3D U-Net", "3D U-Net", 2)):
        assert effect(scores, more, f"minus {less}")["mean"] == pytest.approx(expected), more


def test_verdicts_are_by_p_after_holm_by_the_margin_and_never_below_five_seeds():
    effects_of = pd.DataFrame(
        [(2, 1.5, 2.5, 0.01, 5, "helps"), (-2, -2.5, -1.5, 0.01, 5, "hurts"),
         (0.5, 0.1, 0.9, 0.04, 9, "helps, by less than 1 point"), (0.5, 0.1, 0.9, 0.06, 9, "equivalent"),
         (-0.5, -0.9, -0.1, 0.04, 9, "hurts, by less than 1 point"), (0, -0.99, 0.99, 1, 5, "equivalent"),
         (0, -1.01, 0.9, 1, 5, "cannot be told"), (0.9, 0.1, 1.1, 0.06, 5, "cannot be told"),
         (2, 1.5, 2.5, 0.01, 4, "no verdict: 4 seeds"), (2, 1.5, 2.5, 0.01, 1, "no verdict: 1 seed")],
        columns=["mean", "low", "high", "p_holm", "seeds", "wanted"])
    for _, case in effects_of.iterrows():
        assert effects.verdict(case) == case["wanted"]


def simulated(monkeypatch, studies, seeds, sd, response=0.0, gain=0.0):
    """The main effects of studies of eight networks and 100 patients, each module worth ``gain`` points.
    Trainings differ by ``sd`` points; patients by 8, by ``response`` in what a network is to them, and by 3
    from one training to the next."""
    columns = pd.MultiIndex.from_product([NETWORKS, range(seeds)], names=["network", "seed"])
    modules = np.repeat([len(letters) for letters in NETWORKS.values()], seeds)
    monkeypatch.setattr(effects, "crossed", lambda scores, measure: pd.DataFrame(
        (70 + gain * modules + 8 * rng.normal(size=(100, 1)) + sd * rng.normal(size=len(columns))
         + response * np.repeat(rng.normal(size=(100, 8)), seeds, axis=1)
         + 3 * rng.normal(size=(100, len(columns)))) / 100, columns=columns))
    monkeypatch.setattr(effects, "PAIRS", ())
    rng = np.random.default_rng(0)
    return [module_effects("scores")[:3] for _ in range(studies)]


@pytest.mark.parametrize("seeds, sd, response, studies", [
    (10, 2.5, 0, 40), *(pytest.param(*case, 200, marks=pytest.mark.slow) for case in (
        (5, 1.3, 0), (5, 2.5, 0), (10, 1.3, 0), (10, 2.5, 0), (5, 1.3, 2)))])
def test_of_studies_without_any_effect_few_declare_a_module(monkeypatch, seeds, sd, response, studies):
    """At most 5 %, and three standard errors of so many studies more."""
    declared = [table["verdict"].str.contains("helps|hurts").any()
                for table in simulated(monkeypatch, studies, seeds, sd, response)]
    assert np.mean(declared) <= 0.05 + 3 * (0.05 * 0.95 / studies)**0.5


@pytest.mark.slow
def test_ten_seeds_see_eight_tenths_of_a_point_in_85_percent_of_studies(monkeypatch):
    """An SD over seeds of 1 point; by p as it is, and somewhat less after Holm. Three standard errors: 0.06.
    The interval reaches about half a point to each side."""
    tables = pd.concat(simulated(monkeypatch, 300, 10, 1.0, gain=0.8))
    assert (tables["p"] < 0.05).mean() == pytest.approx(0.85, abs=0.06)
    assert tables["verdict"].str.contains("helps").mean() == pytest.approx(0.82, abs=0.06)
    assert (tables["high"] - tables["mean"]).mean() == pytest.approx(0.51, abs=0.05)


def test_the_figure_shows_each_difference_with_interval_margin_and_verdict():
    table = module_effects(noisy(range(6)))
    figure = effects_forest(table)
    axes = figure.axes[0]
    axes.set_xticks([])                                      # some lie beyond the limits and are not drawn
    assert_readable(figure)
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[2] == f"LGAG, main effect\n{table['verdict'][2]}" and labels[7] == "DA, beside none"
    drawn_rows = {}
    for means, (low, high), _ in axes.containers:
        drawn_rows |= {y: (x, *ends) for y, x, *ends in zip(
            means.get_ydata(), means.get_xdata(), low.get_xdata(), high.get_xdata())}
    for place, numbers in table[["mean", "low", "high"]].dropna().iterrows():
        assert drawn_rows[place] == pytest.approx(tuple(numbers)), labels[place]
    missing = [text.get_position()[1] for text in axes.texts if text.get_text() == "not trained"]
    assert missing == table.index[table["missing"] != ""].tolist() and len(missing) == 4
    band = axes.patches[0].get_extents().transformed(axes.transData.inverted())
    assert (band.x0, band.x1) == pytest.approx((-1, 1))


def test_differences_are_those_from_each_reference_and_are_not_tested():
    """Two of Table 3's rows, of which one is a row of Table 4; [5] is not trained."""
    rows = {"[3]": "[3]", "[1,3,5]": "[1,3,5]", "[5]": "[5]"}
    scores = planted(lambda letters, i, seed: 2 * len(letters) + i, 6, range(5), {"[3]": "", "+MFF": "m"})
    table = effects.differences(scores, rows, ["[3]", "[1,3,5]"])
    assert (table["module"] + " " + table["comparison"]).tolist() == [
        "[1,3,5] minus [3]", "[5] minus [3]", "[5] minus [1,3,5]"]
    assert table["mean"].tolist() == pytest.approx([2, np.nan, np.nan], nan_ok=True)
    assert table["missing"].tolist() == ["", "[5]", "[5]"]
    assert table[["p", "p_holm"]].isna().all(axis=None) and not table["verdict"].any()
    axes = effects_forest(table).axes[0]
    assert [text.get_text() for text in axes.figure.legends[0].texts][1:] == ["difference, not tested"]


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
