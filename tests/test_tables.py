"""Tables 1 to 4 from scores: every row of the paper, numbers checked by hand, forms that can be read; and
what is stored of a profile's runs gives back its tables, verdicts and curves, or says why it cannot."""

import io
import itertools
import lzma
import re

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, refused
from printed import assert_readable
from scipy import stats
from stored import store_study

from compendium import redraw, tables
from compendium.effects import effects_report
from compendium.figures.curves import learning_curves
from compendium.figures.forest import forest
from compendium.figures.planes import FIGURE_WIDTH, source_of
from compendium.fits import network_cost
from compendium.formats import FORMATS, study_blocks, study_notes, study_report
from compendium.grid import study_rows
from compendium.paper import TABLES
from compendium.results import read_stored
from compendium.tables import NOT_TRAINED, TRAINED, extent, study_table
from magunet.base import project
from magunet.base.provenance import git_revision

NONE = pd.DataFrame(columns=["network"])


@pytest.fixture(autouse=True)
def few_costs(request, monkeypatch):
    """Every day only those of the 3D U-Net are counted; test_fits.py counts others."""
    if not request.node.get_closest_marker("slow"):
        cost = network_cost("3D U-Net")
        monkeypatch.setattr(tables, "network_cost", lambda name: cost if name == "3D U-Net" else (0, 0))


def row(network, patient, dice, seed=0, **more):
    return {"network": network, "seed": seed, "case": f"case of {patient}", "patient": patient, "dice": dice,
            "iou": dice / 2, "precision": dice, "recall": dice, "hd95": 10 * (1 - dice), "assd": 1 - dice,
            "nsd": dice, "undefined": 0, "truth_ml": 20.0, "predicted_ml": 18.0, "missed": 0, "seconds": 2.0,
            "peak_memory_mb": 900.0} | more


def scored(**networks):
    """Scores of networks from lists of Dice, one a patient, and sides that equal their case."""
    names = {"unet": "3D U-Net", "full": "MAG-UNet", "da": "+DA", "mff": "+MFF"}
    cases = [row(names[key], f"p{i}", dice) for key, own in networks.items() for i, dice in enumerate(own)]
    sides = [case | {"side": side, "grade": grade} for case in cases for side, grade in
             (("left", 2), ("right", 0))]
    return pd.DataFrame(cases), pd.DataFrame(sides)


def number(table, name, measure, group="all"):
    found = table[(table["row"] == name) & (table["measure"] == measure) & (table["group"] == group)]
    assert len(found) == 1, f"{len(found)} numbers of {name}, {measure}, {group}"
    return found.iloc[0]


def test_rows_and_numbers_are_the_papers_where_nothing_is_trained():
    for table, rows in enumerate(TABLES, 1):
        numbers = study_table(table, NONE, NONE)
        more = ["+MFF+LGAG", "+DA placebo", "Wide 3D U-Net"] * (table == 4)     # which the paper leaves out
        assert list(numbers["row"].unique()) == [r.name for r in rows] + more
        assert set(numbers["status"]) == {NOT_TRAINED}
        assert numbers.loc[numbers["measure"] == "Dice", "value"].isna().all()
        for r in rows:
            shown = [number(numbers, r.name, measure)["paper"]
                     for measure in ("Dice", "IoU", "precision", "recall", "parameters")]
            wanted = [value or np.nan for value in (r.dice, r.iou, r.precision, r.recall, r.params_mi)]
            assert shown == pytest.approx(wanted, nan_ok=True), (table, r.name)
    assert [row.name for row in study_rows(2, {"+DA open scales", "nnU-Net"})[6:]] == ["+DA open scales"]
    refused(lambda: study_table(5, NONE, NONE), "Tables 1 to 4, no Table 5")


def test_numbers_by_hand():
    table = study_table(4, *scored(unet=(0.5, 0.7, 0.5, 0.7, 0.6), full=(0.8, 0.9, 0.8, 0.9, 0.85)))
    dice, hd95 = number(table, "base", "Dice"), number(table, "base", "HD95")
    columns = ["value", "paper", "difference", "low", "high", "patients", "seeds", "sd_seeds"]
    low, high = stats.t(4, 60, 20**0.5).interval(0.95)              # the SD is 10, and 5 patients' mean has
    assert list(dice[columns]) == pytest.approx([60, 90.4, -30.4, low, high, 5, 1, np.nan], nan_ok=True)
    assert dice["status"] == TRAINED
    assert (hd95["value"], hd95["unit"]) == (pytest.approx(4), "mm") and np.isnan(hd95["paper"])
    assert number(table, "all", "Dice")["value"] == pytest.approx(85)
    assert number(table, "base", "parameters")["difference"] == pytest.approx(22.448 - 22.45, abs=0.001)
    assert number(table, "base", "TFLOP")["value"] == pytest.approx(1.195, abs=0.001)
    assert number(table, "base", "peak memory")["value"] == pytest.approx(0.9)
    few = number(study_table(4, *scored(unet=(0.5, 0.7, 0.6, 0.6))), "base", "Dice")
    assert few["value"] == pytest.approx(60) and np.isnan(list(few[["low", "high", "difference"]])).all()


def test_what_stands_behind_a_table_is_said():
    scores, sides = scored(unet=(0.5, 0.7) * 3, full=(0.8, 0.9) * 3, da=(0.75, 0.85) * 3)
    assert extent(study_table(4, scores, sides)) == "3 of 10 networks, 1 training each, 6 patients"
    assert extent(study_table(4, NONE, NONE)) == "0 of 10 networks trained"
    more = pd.concat([scores.assign(seed=seed) for seed in range(5)])
    assert extent(study_table(4, more, sides)) == "3 of 10 networks, 5 trainings each, 6 patients"


def test_tables_describe_of_one_cohort_what_scores_and_runs_have():
    scores, sides = scored(full=np.linspace(0.80, 0.85, 6), unet=np.linspace(0.70, 0.80, 6))
    runs = [{"network": "3D U-Net", "seconds": 60.0 * n, "peak_memory_mb": 500.0 * n} for n in (1, 2, 9)]
    table = study_table(4, scores, sides, runs)
    assert not {"p", "p_holm", "effect"} & set(table) and number(table, "base", "seeds")["value"] == 1
    costs = {"minutes a training": 2, "training memory": 4.5, "peak memory": 0.9}
    assert {name: number(table, "base", name)["value"] for name in costs} == pytest.approx(costs)
    assert "minutes a training" not in set(table.loc[table["row"] == "all", "measure"])
    refused(lambda: study_table(4, scores[1:], sides), "MAG-UNet, seed 0, has no score of p0")
    assert not table["measure"].str.contains("within").any(), "no such scores, no such row"
    within = study_table(4, *(frame.assign(dice_within=0.9) for frame in (scores, sides)))
    shown = number(within, "all", "Dice within the target's slices")
    assert list(shown[["value", "paper", "difference"]]) == pytest.approx([90, 92.4, -2.4])
    assert study_blocks(within)["Without the slices that hold no target"].loc["all"].iloc[0][:4] == "90.0"


def test_failures_stay_in_the_mean_and_are_counted():
    cases = pd.DataFrame([row("+DA", "p1", 0.9),
                          row("+DA", "p2", 0.0, hd95=300.0, undefined=1, predicted_ml=0.0, missed=2),
                          row("+DA", "p3", 1.0, truth_ml=0.0, predicted_ml=0.0)])
    sides = pd.concat([cases.assign(side=side, grade=np.nan, missed=cases["missed"] // 2)
                       for side in ("left", "right")], ignore_index=True)
    sides.loc[sides["patient"] == "p3", "predicted_ml"] = (0.0, 4.0)
    table = study_table(2, cases, sides)
    assert number(table, "+DA", "Dice")["value"] == pytest.approx(100 * 1.9 / 3)
    assert number(table, "+DA", "HD95")["value"] == pytest.approx(301 / 3)
    counts = {"seeds": 1, "predictions": 3, "empty predictions": 2, "empty truths": 1,
              "undefined distances": 1, "joints": 4, "missed joints": 2, "empty sides": 2, "false joints": 1}
    assert {name: number(table, "+DA", name)["value"] for name in counts} == counts
    unknown = number(table, "+DA", "Dice", "grade unknown")
    assert (unknown["value"], unknown["patients"]) == (pytest.approx(45), 2)


def test_joints_are_grouped_by_side_and_by_grade():
    """Two patients; grades 1 and 4 left, 4 and 4 right: grade 4 is 30 and the mean of 50 and 70."""
    joints = ("p1", "left", 1, 0.9), ("p1", "right", 4, 0.3), ("p2", "left", 4, 0.5), ("p2", "right", 4, 0.7)
    sides = pd.DataFrame([row("+DA", patient, dice, side=side, grade=grade)
                          for patient, side, grade, dice in joints])
    table = study_table(2, pd.DataFrame([row("+DA", p, 0.5) for p in ("p1", "p2")]), sides)
    values = {g: number(table, "+DA", "Dice", g)["value"] for g in ("left", "right", "grade 1", "grade 4")}
    assert values == pytest.approx({"left": 70, "right": 50, "grade 1": 90, "grade 4": (30 + 60) / 2})
    assert number(table, "+DA", "joints", "grade 4")["value"] == 3
    assert "grade 0" not in set(table["group"])


def test_seeds_have_a_spread_and_count_once_a_patient():
    cases = pd.DataFrame([row("+DA", patient, dice, seed) for patient, seed, dice in
                          (("p1", 0, 0.6), ("p1", 1, 0.8), ("p2", 0, 0.4), ("p2", 1, 0.8))])
    table = study_table(2, cases, cases.assign(side="left", grade=1))
    shown = list(number(table, "+DA", "Dice")[["value", "sd_seeds", "seeds", "patients"]])
    assert shown == pytest.approx([65, np.std([50, 80], ddof=1), 2, 2])
    assert "over patients alone" not in " ".join(study_notes(table))


@pytest.fixture(scope="module")
def kernels():
    """Table 3, whose row [1,3,5] is the network +MFF."""
    return study_table(3, *scored(mff=(0.7, 0.6, 0.8, 0.65, 0.75), full=(0.8, 0.9, 0.7, 0.8, 0.8)))


def test_text_shows_all_rows_intervals_the_paper_and_what_is_missing(kernels):
    shown, beside = study_blocks(kernels), "Ours minus the paper's number, which is in brackets"
    assert all(table.index.tolist() == [r.name for r in TABLES[2]] for table in shown.values())
    for block, name, column, cell in (
            ("Overlap with the truth", "[1,3,5]", "Dice", "70.0 [60.2, 79.8]"),
            ("Overlap with the truth", "[3]", "Dice", "not trained"),
            ("Surfaces", "[1,3,5]", "HD95", "3.00 [2.02, 3.98]"),
            (beside, "[1,3,5]", "IoU", "-48.2 (83.2)"), (beside, "[3]", "IoU", "(82.6)"),
            ("Missed of all joints", "[1,3,5]", "grade 2", "0 of 5")):
        assert shown[block].loc[name, column] == cell, (block, name)
    text = study_report(kernels, ["Profile x."]).text()
    assert text.startswith("Table 3: kernel sizes") and text.endswith("Profile x.")
    assert max(map(len, text.splitlines())) <= 130
    assert all("not trained" in form(study_report(study_table(2, NONE, NONE))) for form in FORMATS.values())


def test_notes_say_what_an_interval_lacks_where_effects_are_and_that_the_paper_had_another_target(kernels):
    of_kernels, ablation, empty = (" ".join(study_notes(table)) for table in (
        kernels, study_table(4, *scored(full=(0.8, 0.9))), study_table(4, NONE, NONE)))
    assert "over patients alone" in of_kernels and "5 patients" in of_kernels
    assert "magunet tables effects" in ablation and "magunet tables effects" not in of_kernels + empty
    assert all("a radiologist drew" in notes for notes in (of_kernels, ablation, empty))


def test_a_saved_table_is_what_is_printed_with_every_number_and_whole_markdown(kernels, tmp_path):
    report = study_report(kernels, ["A note."])
    saved = report.save(tmp_path / "table3")
    assert saved == [tmp_path / "table3.csv", tmp_path / "table3.md"]
    for file, form in zip(saved, ("csv", "md")):
        assert file.read_text() == FORMATS[form](report) + "\n"
    read = pd.read_csv(io.StringIO(report.csv()))
    assert list(read.columns) == list(kernels.columns) and len(read) == len(kernels)
    for column in ("value", "low"):
        np.testing.assert_allclose(read[column], kernels[column], rtol=1e-5)
    markdown = re.findall(r"(?:^\|.*\|\n?)+", report.markdown(), re.M)
    assert len(markdown) == len(study_blocks(kernels))
    for lines in map(str.splitlines, markdown):
        assert len({line.count("|") for line in lines}) == 1 and set(lines[1]) <= set("|- ")
        assert len(lines) == 2 + 8


def test_latex_is_escaped_and_no_row_begins_with_a_bracket(kernels):
    r"""After ``\\`` or ``\midrule`` LaTeX takes [1,3,5] for a length and fails."""
    latex = study_report(kernels).latex()
    body = [line for line in latex.splitlines() if not line.startswith("%")]
    assert latex.count("\\begin{table}") == latex.count("\\end{table}") == len(study_blocks(kernels))
    assert not any(line.lstrip().startswith("[") for line in body)
    assert "{[1,3,5]} & 70.0 [60.2, 79.8]" in latex and "single joints, \\%" in latex
    assert not re.search(r"(?<!\\)[%#_±]", "\n".join(body))


def test_the_figure_has_the_first_row_on_top_means_with_intervals_and_says_what_is_not_trained(kernels):
    axes = forest(kernels.assign(low=kernels["value"] - 3, high=kernels["value"] + 1)).axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == [r.name for r in TABLES[2]][::-1]
    means, (low, high), _ = axes.containers[0]
    place = names.index("[1,3,5]")
    assert means.get_ydata()[place] == place
    assert [marks.get_xdata()[place] for marks in (means, low, high)] == pytest.approx([70, 67, 71])
    missing = [text.get_position()[1] for text in axes.texts if text.get_text() == "not trained"]
    assert sorted([*missing, place]) == list(range(len(names)))


# Stored results -----------------------------------------------------------------------------------------
STORED = ("scores.csv.xz", "scores_by_side.csv.xz", "curves.csv", "runs.json")
DRAWN = {"claims.md", "effects.csv", "effects.md",
         *(f"{name}.{end}" for name in ("curves", "effects") for end in ("png", "pdf")),
         *(f"table{n}.{end}" for n in range(1, 5) for end in ("csv", "md", "png", "pdf"))}
FEW = ["+SE", "+ECA", "+MFF"]


@pytest.fixture
def few(tmp_path, monkeypatch):
    """A study of three networks in a compendium that holds nothing else, where asking for runs or data fails;
    pictures hold only what made them."""
    def save_figure(figure, path, source, dpi):
        for ending in (".png", ".pdf"):
            path.with_suffix(ending).write_text(source)
        return path

    monkeypatch.setattr(redraw, "save_figure", save_figure)
    folder = store_study(tmp_path / "figures" / "cpu", FEW)
    (tmp_path / project.MARKER).mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("runs", "data"):
        monkeypatch.setattr(project, name, lambda: pytest.fail("asked for runs or data"))
    return folder


def test_of_few_networks_all_rows_are_there_and_pictures_name_their_runs(few):
    """Others keep their rows, too."""
    results = read_stored(few)
    files = redraw.redraw(results, few)
    assert {path.name for path in files} == DRAWN and {p.name for p in few.iterdir()} == DRAWN | set(STORED)
    for number, rows in enumerate(([], FEW[:2], ["[1,3,5]"], FEW[2:]), 1):
        table = pd.read_csv(few / f"table{number}.csv")
        assert list(table["row"].unique()) == [row.name for row in study_rows(number)], number
        assert set(table.loc[table["status"] == "trained", "row"]) == set(rows), number
    names = {run["network"]: [] for run in results.runs}
    for run in results.runs:
        names[run["network"]].append(f"{run['network']}-{run['settings_hash']}-s{run['seed']}")
    source = source_of(results.settings)
    for name, networks in (("table1", []), ("table2", FEW[:2]), ("table3", FEW[2:]), ("table4", FEW[2:]),
                           ("effects", FEW[2:]), ("curves", sorted(FEW))):
        shown = source + f", runs {', '.join(run for n in networks for run in names[n])}" * bool(networks)
        assert (few / f"{name}.png").read_text() == shown, name
    claims = (few / "claims.md").read_text()
    assert f"{source}, git {git_revision(few.parents[1])}." in claims and claims.count("study runs") == 6


@pytest.mark.slow
def test_the_stored_study_gives_the_stored_tables():
    """To the byte; who changes one on purpose runs: magunet tables --scores figures/cpu --out figures/cpu"""
    folder = ROOT / "figures" / "cpu"
    results = read_stored(folder)
    reports = {f"table{number}": results.report(number) for number in (1, 2, 3, 4)}
    for name, report in (reports | {"effects": effects_report(results.scores)}).items():
        assert report.csv() + "\n" == (folder / f"{name}.csv").read_text(encoding="utf-8"), name
        assert report.markdown() + "\n" == (folder / f"{name}.md").read_text(encoding="utf-8"), name


def changed(old, new, count=-1):
    return lambda text: text.replace(old, new, count)


SPOILT = [
    *(("curves.csv", "curves.csv", change) for change in (
        lambda text: "", lambda text: "\0\1", lambda text: text[:len(text) // 2],
        lambda text: text[:text.rstrip().rindex("\n") + 1], lambda text: text + text[text.index("\n") + 1:],
        changed("val_dice", "dice"), changed(",1.7,", ",,"), changed(",1.7,", ",inf,"),
        changed("+ECA,0,7,", "+ECA,0,8,"), changed("+SE,0,", "+SE,5,"))),
    ("runs.json", "runs.json", changed('"seed": 0,', "", 1)),
    ("curves.csv", "runs.json", changed('"epochs": 7,', '"epochs": "7",', 1)),
    ("runs.json", "runs.json", changed('"settings_hash"', '"hash"', 1)),
    ("no score of phantom_2", "scores.csv.xz", changed("001,phantom_001", "001,phantom_2", 1)),
    ("scores.csv.xz", "scores.csv.xz", changed("network", "net", 1))]
"""What the error names, the file that is damaged, and how."""


def test_what_is_damaged_is_named_and_nothing_is_written(few):
    for word, file, change in SPOILT:
        whole, packed = (few / file).read_bytes(), file.endswith(".xz")
        text = (lzma.decompress(whole) if packed else whole).decode()
        spoilt = change(text).encode()
        assert spoilt != text.encode()
        (few / file).write_bytes(lzma.compress(spoilt) if packed else spoilt)
        before = {path.name: path.read_bytes() for path in few.iterdir()}
        refused(lambda: redraw.redraw(read_stored(few), few), word)
        assert {path.name: path.read_bytes() for path in few.iterdir()} == before
        (few / file).write_bytes(whole)
    (few / "curves.csv").unlink()
    refused(lambda: redraw.redraw(read_stored(few), few), "curves.csv")
    (few / "scores_by_side.csv.xz").write_bytes((few / "scores_by_side.csv.xz").read_bytes()[:-20])
    refused(lambda: redraw.redraw(read_stored(few), few), "scores_by_side.csv.xz")


def synthetic(lengths, networks=("3D U-Net", "MAG-UNet")):
    """Curves of as many seeds as there are lengths, in epochs; numbers at random."""
    rng = np.random.default_rng(0)
    return pd.concat([pd.DataFrame({"network": name, "seed": seed, "epoch": range(1, 1 + epochs),
                                    "loss": 2 * rng.random(epochs), "val_dice": rng.random(epochs)})
                      for name, (seed, epochs) in itertools.product(networks, enumerate(lengths))],
                     ignore_index=True)


def test_curves_are_means_over_seeds_as_far_as_all_go_and_each_table_shows_what_it_has():
    curves = synthetic((7, 5, 9)).sample(frac=1, random_state=0)  # the order of rows does not matter
    figure = learning_curves(curves, {"A": ["MAG-UNet", "+SE"], "B": ["+SE"], "C": ["3D U-Net", "MAG-UNet"]})
    assert [part.get_suptitle() for part in figure.subfigs] == ["A", "C"]
    for axes, column in zip(figure.subfigs[1].axes, ("loss", "val_dice")):
        for line, name in zip(axes.get_lines(), ("3D U-Net", "MAG-UNet"), strict=True):
            own = curves[(curves["network"] == name) & (curves["epoch"] <= 5)].sort_values("epoch")
            average = [[epoch, part[column].mean()] for epoch, part in own.groupby("epoch")]
            np.testing.assert_allclose(line.get_xydata(), average, rtol=1e-12)
            assert line.get_label() == f"{name}, 3 seeds"


TITLED = {f"Table {n}": [row.network for row in table] for n, table in enumerate(TABLES, 1)}


@pytest.mark.parametrize("titled", [{"A": ["MAG-UNet"]}, TITLED], ids=len)
def test_curves_of_any_length_can_be_read_at_the_printed_width(titled):
    networks = list(dict.fromkeys(itertools.chain(*titled.values())))
    for lengths in ((1,), (300, 300, 300)):
        figure = learning_curves(synthetic(lengths, networks), titled)
        for part, names in zip(figure.subfigs, titled.values(), strict=True):
            for axes, label in zip(part.axes, ("training loss", "Dice of the validation cases")):
                assert axes.get_xlabel() == "epoch" and axes.get_ylim()[0] == 0
                assert axes.get_ylabel().replace("\n", " ").startswith(label)
                for axis in (axes.xaxis, axes.yaxis):  # those beyond the limits are not drawn
                    low, high = axis.get_view_interval()
                    axis.set_ticks([tick for tick in axis.get_ticklocs() if low <= tick <= high])
                assert len(axes.get_xticks()) and all(tick % 1 == 0 for tick in axes.get_xticks())
                lines = axes.get_lines()
                looks = {(line.get_color(), line.is_dashed(), line.get_marker()) for line in lines}
                assert len(lines) == len(names) == len(looks), lengths
                assert all(1 <= len(line.get_xdata()) / line.get_markevery() <= 20 for line in lines)
        assert figure.get_figwidth() == FIGURE_WIDTH
        assert_readable(figure)
