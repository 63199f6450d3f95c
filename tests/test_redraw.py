"""What is stored of a profile's runs gives back its tables, verdicts and curves, or says why it cannot."""

import itertools
import json
import re
import shutil
from functools import partial

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, refused
from PIL import Image
from printed import assert_readable

from compendium import paper, redraw, tables
from compendium.audit.claims import judged, means, save_claims
from compendium.figures.curves import learning_curves, read_curves
from compendium.figures.planes import FIGURE_WIDTH, save_figure, source_of
from compendium.grid import networks_of
from compendium.results import read_stored
from magunet.base import project
from magunet.base.provenance import git_revision

CPU = ROOT / "figures" / "cpu"
STORED = ("scores.csv", "scores_by_side.csv", "curves.csv", "runs.json")
MADE = {"claims.md", "effects.csv", "effects.md", "curves.png", "curves.pdf",
        *(f"table{n}.{end}" for n in range(1, 5) for end in ("csv", "md", "png", "pdf"))}


FEW = ["+SE", "+ECA", "+MFF"]
RUNS = {run["network"]: f"{run['network'].replace(' ', '-')}-{run['settings_hash']}-s{run['seed']}"
        for run in json.loads((CPU / "runs.json").read_text())["runs"]}


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """The stored files of the cpu profile in a compendium that holds nothing else, where asking for runs or
    data fails."""
    folder = tmp_path / "figures" / "cpu"
    folder.mkdir(parents=True)
    (tmp_path / project.MARKER).mkdir()
    for file in STORED:
        shutil.copy(CPU / file, folder)
    monkeypatch.chdir(tmp_path)
    for name in ("runs", "data"):
        monkeypatch.setattr(project, name, lambda: pytest.fail("asked for runs or data"))
    return folder


@pytest.fixture
def few(stored, monkeypatch):
    """Of three networks only, none of which has its curves compared; costs are not counted, and pictures are
    coarse."""
    monkeypatch.setattr(tables, "network_cost", lambda name: (0, 0))
    monkeypatch.setattr(redraw, "save_figure", partial(save_figure, dpi=50))
    told = json.loads((stored / "runs.json").read_text())
    told["runs"] = [run for run in told["runs"] if run["network"] in FEW]
    (stored / "runs.json").write_text(json.dumps(told, indent=1))
    for file in STORED[:3]:
        table = pd.read_csv(stored / file, dtype=str)
        table[table["network"].isin(FEW)].to_csv(stored / file, index=False)
    return stored


def described(path):
    with Image.open(path) as picture:
        assert picture.text["Software"].startswith("magunet ")
        return picture.text["Description"]


def test_claims_come_back_byte_for_byte(stored):
    """But for the stamp of what drew them: the revision is unknown outside git."""
    results = read_stored(stored)
    source = source_of(results.settings)
    save_claims(judged(means(results.scores)), stored / "claims.md", source)
    stamp, told = rf"{source}, git [0-9a-f]{{12}}(\+changes)?\.", (CPU / "claims.md").read_text()
    told, stamps = re.subn(stamp, f"{source}, git {git_revision(stored.parents[1])}.", told)
    assert stamps == 1 and (stored / "claims.md").read_text() == told


@pytest.mark.slow
def test_all_tables_and_effects_come_back_byte_for_byte(stored):
    redraw.redraw(read_stored(stored), stored)
    for name, form in itertools.product(("table1", "table2", "table3", "table4", "effects"), ("csv", "md")):
        assert (stored / f"{name}.{form}").read_bytes() == (CPU / f"{name}.{form}").read_bytes(), name
    assert described(stored / "curves.png").endswith(f", runs {RUNS['3D U-Net']}, {RUNS['MAG-UNet']}")


def test_of_few_networks_the_rows_are_as_stored_and_pictures_name_their_runs(few):
    """Others keep their rows, too. Nothing is tested against MAG-UNet, for it has no scores here."""
    files = redraw.redraw(read_stored(few), few)
    assert {path.name for path in files} == MADE and {p.name for p in few.iterdir()} == MADE | set(STORED)
    columns = ["value", "low", "high", "paper", "difference", "patients", "seeds"]
    for name, rows in (("table1", []), ("table2", FEW[:2]), ("table3", ["[1,3,5]"]), ("table4", FEW[2:])):
        made, stored = (pd.read_csv(folder / f"{name}.csv", index_col=["row", "measure", "group"]).drop(
            index=["parameters", "TFLOP"], level="measure") for folder in (few, CPU))
        assert made.index.unique("row").equals(stored.index.unique("row")), name
        assert made.loc[made["status"] == "trained", columns].equals(stored.loc[rows, columns]), name
    source = source_of(read_stored(few).settings)
    for name, networks in (("table1", []), ("table2", FEW[:2]), ("table3", FEW[2:]), ("table4", FEW[2:]),
                           ("curves", FEW[:1])):
        shown = source + f", runs {', '.join(map(RUNS.get, networks))}" * bool(networks)
        assert described(few / f"{name}.png") == shown, name
        assert f"/Subject ({shown}".encode() in (few / f"{name}.pdf").read_bytes(), name
    assert [networks_of(table)[-1] for table in (2, 3)] == ["MAG-UNet"] * 2      # it has no row in these


def changed(old, new, count=-1):
    return lambda text: text.replace(old, new, count)


NUMBER = "1.6518791913986202"
SPOILT = [
    *(("curves.csv", "curves.csv", change) for change in (
        lambda text: "", lambda text: "\0\1", lambda text: text[:len(text) // 2],
        lambda text: text[:text.rstrip().rindex("\n") + 1], lambda text: text + text[text.index("\n") + 1:],
        changed("val_dice", "dice"), changed(NUMBER, ""), changed(NUMBER, "inf"),
        changed("+ECA,0,30,", "+ECA,0,31,"), changed("+SE,0,", "+SE,1,"))),
    ("runs.json", "runs.json", changed('"seed": 0,', "", 1)),
    ("curves.csv", "runs.json", changed('"epochs": 30,', '"epochs": "30",', 1)),
    ("runs.json", "runs.json", changed('"settings_hash"', '"hash"', 1)),
    ("no score of phantom_2", "scores.csv", changed("phantom_001,phantom_001", "phantom_001,phantom_2", 1))]
"""What the error names, the file that is damaged, and how."""


def test_what_is_damaged_is_named_and_nothing_is_written(few):
    for word, file, change in SPOILT:
        text = (few / file).read_text()
        assert change(text) != text
        (few / file).write_text(change(text))
        before = {path.name: path.read_bytes() for path in few.iterdir()}
        refused(lambda: redraw.redraw(read_stored(few), few), word)
        assert {path.name: path.read_bytes() for path in few.iterdir()} == before
        (few / file).write_text(text)
    (few / "curves.csv").unlink()
    refused(lambda: redraw.redraw(read_stored(few), few), "curves.csv")


def test_one_seed_is_one_line_of_the_stored_numbers():
    curves = pd.read_csv(CPU / "curves.csv").set_index("network")
    for axes, column in zip(learning_curves(read_curves(read_stored(CPU))).axes, ("loss", "val_dice")):
        lines = {line.get_label(): line.get_xydata().T.tolist() for line in axes.get_lines()}
        assert lines == {name: [list(range(1, 31)), curves.loc[name, column].tolist()]
                         for name in ("3D U-Net", "MAG-UNet")}


def synthetic(lengths, networks=("3D U-Net", "MAG-UNet")):
    """Curves of as many seeds as there are lengths, in epochs; numbers at random."""
    rng = np.random.default_rng(0)
    return pd.concat([pd.DataFrame({"network": name, "seed": seed, "epoch": range(1, 1 + epochs),
                                    "loss": 2 * rng.random(epochs), "val_dice": rng.random(epochs)})
                      for name, (seed, epochs) in itertools.product(networks, enumerate(lengths))],
                     ignore_index=True)


def test_several_seeds_are_thin_lines_and_a_thick_mean_as_far_as_all_go():
    curves = synthetic((7, 5, 9)).sample(frac=1, random_state=0)  # the order of rows does not matter
    for axes, column in zip(learning_curves(curves).axes, ("loss", "val_dice")):
        lines = axes.get_lines()
        for name, (*seeds, mean) in (("3D U-Net", lines[:4]), ("MAG-UNet", lines[4:])):
            own = curves[curves["network"] == name].sort_values("epoch")
            wanted = [own.loc[own["seed"] == seed, ["epoch", column]].to_numpy() for seed in range(3)]
            for line, one in zip(seeds, wanted):
                np.testing.assert_array_equal(line.get_xydata()[np.isfinite(line.get_ydata())], one)
                assert line.get_linewidth() < mean.get_linewidth() and line.get_color() == mean.get_color()
            assert mean.get_label() == f"{name}, 3 seeds"
            average = np.mean([one[:5] for one in wanted], axis=0)
            np.testing.assert_allclose(mean.get_xydata(), average, rtol=1e-12)


@pytest.mark.parametrize("networks", [("MAG-UNet",), tuple(row.network for row in paper.TABLE_1)], ids=len)
def test_curves_of_any_length_can_be_read_at_the_printed_width(networks):
    for lengths in ((1,), (2, 2, 2), (300, 300, 300)):
        figure = learning_curves(synthetic(lengths, networks), networks)
        for axes, label in zip(figure.axes, ("training loss", "Dice of the validation cases")):
            assert axes.get_xlabel() == "epoch" and axes.get_ylim()[0] == 0
            assert axes.get_ylabel().replace("\n", " ").startswith(label)
            for axis in (axes.xaxis, axes.yaxis):  # those beyond the limits are not drawn
                low, high = axis.get_view_interval()
                axis.set_ticks([tick for tick in axis.get_ticklocs() if low <= tick <= high])
            assert len(axes.get_xticks()) and all(tick % 1 == 0 for tick in axes.get_xticks())
            named = [line for line in axes.get_lines() if not line.get_label().startswith("_")]
            looks = {(line.get_color(), line.is_dashed(), line.get_marker()) for line in named}
            assert len(named) == len(networks) == len(looks), lengths
            assert all(1 <= len(line.get_xdata()) / line.get_markevery() <= 20 for line in named), lengths
            assert [line.is_dashed() for line in named[:2]] == [False, True][:len(named)]
        assert figure.get_figwidth() == FIGURE_WIDTH
        assert_readable(figure)
    names = ", ".join(networks)
    refused(lambda: learning_curves(synthetic((2,), networks), (*networks, "SegNot")), "SegNot", names)
