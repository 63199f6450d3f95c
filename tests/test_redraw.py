"""What is stored of a profile's runs gives back its tables, verdicts and curves, or says why it cannot."""

import contextlib
import csv
import itertools
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, refused
from PIL import Image
from printed import assert_readable

from compendium import paper
from compendium.figures.curves import learning_curves, read_curves
from compendium.figures.planes import FIGURE_WIDTH
from compendium.redraw import redraw
from compendium.results import read_stored
from magunet.base import project
from magunet.base.provenance import content_hash, git_revision

CPU = ROOT / "figures" / "cpu"
STORED = ("scores.csv", "scores_by_side.csv", "curves.csv", "runs.json")
MADE = {"claims.md", "effects.csv", "effects.md", "curves.png", "curves.pdf",
        *(f"table{n}.{end}" for n in range(1, 5) for end in ("csv", "md", "png", "pdf"))}


@contextlib.contextmanager
def beside(root):
    """A compendium of stored files only, where asking for runs or data fails; yields their folder."""

    def none_here():
        raise AssertionError("asked for runs or data")

    folder = root / "figures" / "cpu"
    folder.mkdir(parents=True)
    (root / project.MARKER).mkdir()
    for file in STORED:
        shutil.copy(CPU / file, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(project, "runs", none_here)
        patch.setattr(project, "data", none_here)
        yield folder


@pytest.fixture
def stored(tmp_path):
    with beside(tmp_path) as folder:
        yield folder


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The stored files of the cpu profile, redrawn in a compendium that holds nothing else."""
    root = tmp_path_factory.mktemp("drawn")
    with beside(root) as folder:
        files = redraw(read_stored(folder), folder)
    assert {p.name for p in root.iterdir()} == {project.MARKER, "figures"}
    assert len(files) == len(MADE) and {p.name for p in folder.iterdir()} == {p.name for p in files} | set(
        STORED
    )
    assert {p.name for p in files} == MADE
    return folder


def test_tables_and_effects_come_back_byte_for_byte(drawn):
    for name, form in itertools.product(("table1", "table2", "table3", "table4", "effects"), ("csv", "md")):
        assert (drawn / f"{name}.{form}").read_bytes() == (CPU / f"{name}.{form}").read_bytes(), name


def test_so_do_the_claims_but_for_the_stamp_of_what_drew_them(drawn):
    """The stamp names the settings, as runs.json has them, and the revision, which outside git is unknown."""
    settings = json.loads((drawn / "runs.json").read_text())["settings"]
    stamp = f"settings {content_hash(settings)}, git {git_revision(drawn.parents[1])}."
    before = (CPU / "claims.md").read_bytes()
    told, replaced = re.subn(
        rb"settings [0-9a-f]{10}, git [0-9a-f]{12}(\+changes)?\.", stamp.encode(), before
    )
    assert replaced == 1 and (drawn / "claims.md").read_bytes() == told


@pytest.mark.parametrize("table", range(1, 5))
def test_pictures_name_the_runs_they_show(table, drawn):
    """In the order of the rows; MAG-UNet, which all are tested against, is among them."""
    told = json.loads((drawn / "runs.json").read_text())
    runs = {
        run["network"]: f"{run['network'].replace(' ', '-')}-{run['settings_hash']}-s{run['seed']}"
        for run in told["runs"]
    }
    rows = [{"[1,3,5]": "+MFF"}.get(row.network, row.network) for row in paper.TABLES[table - 1]]
    shown = [*rows, *(["+MFF+LGAG"] if table == 4 else []), *([] if "MAG-UNet" in rows else ["MAG-UNet"])]
    names = ", ".join(runs[name] for name in shown)
    source = f"profile cpu, settings {content_hash(told['settings'])}, runs {names}"
    with Image.open(drawn / f"table{table}.png") as picture:
        assert picture.text["Description"] == source and picture.text["Software"].startswith("magunet ")
    assert b"/Subject (" + source.encode() in (drawn / f"table{table}.pdf").read_bytes()
    with Image.open(drawn / "curves.png") as picture:
        assert picture.text["Description"].endswith(f", runs {runs['3D U-Net']}, {runs['MAG-UNet']}")


def test_networks_without_scores_keep_their_rows(stored):
    """Neither of the two whose curves are compared is there: the first run's are drawn."""
    told = json.loads((stored / "runs.json").read_text())
    told["runs"] = [run for run in told["runs"] if run["network"] in ("+SE", "+ECA")]
    (stored / "runs.json").write_text(json.dumps(told))
    for file in STORED[:3]:
        table = pd.read_csv(stored / file)
        table[table["network"].isin(["+SE", "+ECA"])].to_csv(stored / file, index=False)
    redraw(read_stored(stored), stored)
    status = {
        n: pd.read_csv(stored / f"table{n}.csv").drop_duplicates("row").set_index("row")["status"]
        for n in range(1, 5)
    }
    trained = {n: list(rows.index[rows == "trained"]) for n, rows in status.items()}
    assert trained == {1: [], 2: ["+SE", "+ECA"], 3: [], 4: []}
    assert [len(rows) for rows in status.values()] == [8, 6, 8, 8]
    with Image.open(stored / "table1.png") as one, Image.open(stored / "curves.png") as curves:
        assert "runs" not in one.text["Description"] and re.search(
            r", runs \+SE-\w+-s0$", curves.text["Description"]
        )


def changed(old, new, count=-1):
    return lambda text: text.replace(old, new, count)


SPOILT = [
    ("curves.csv", "curves.csv", change) for change in (
        lambda text: "", lambda text: "\0\1", lambda text: text[:len(text) // 2],
        lambda text: text[:text.rstrip().rindex("\n") + 1], lambda text: text + text[text.index("\n") + 1:],
        changed("val_dice", "dice"), changed("1.6890859603881831", ""), changed("1.6890859603881831", "inf"),
        changed("MAG-UNet,0,30,", "MAG-UNet,0,31,"), changed("+SE,0,", "+SE,1,"))
] + [
    ("runs.json", "runs.json", changed('"seed": 0,', "", 1)),
    ("curves.csv", "runs.json", changed('"epochs": 30,', '"epochs": "30",', 1)),
    ("runs.json", "runs.json", changed('"settings_hash"', '"hash"', 1)),
    ("patients", "scores.csv", changed("[5],0,phantom_001,phantom_001", "[5],0,phantom_001,phantom_2")),
]
"""What the error names, the file that is damaged, and how."""


def test_what_is_damaged_is_named_and_nothing_is_written(stored):
    for word, file, change in SPOILT:
        text = (stored / file).read_text()
        assert change(text) != text
        (stored / file).write_text(change(text))
        before = {path.name: path.read_bytes() for path in stored.iterdir()}
        refused(lambda: redraw(read_stored(stored), stored), word)
        assert {path.name: path.read_bytes() for path in stored.iterdir()} == before
        (stored / file).write_text(text)
    (stored / "curves.csv").unlink()
    refused(lambda: redraw(read_stored(stored), stored), "curves.csv")


def synthetic(lengths, networks=("3D U-Net", "MAG-UNet")):
    """Curves of as many seeds as there are lengths, in epochs; numbers at random."""
    rng = np.random.default_rng(0)
    runs = itertools.product(networks, enumerate(lengths))
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "network": name,
                    "seed": seed,
                    "epoch": range(1, 1 + epochs),
                    "loss": 2 * rng.random(epochs),
                    "val_dice": rng.random(epochs),
                }
            )
            for name, (seed, epochs) in runs
        ],
        ignore_index=True,
    )


def test_one_seed_is_one_line_of_the_stored_numbers():
    with open(CPU / "curves.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    figure = learning_curves(read_curves(read_stored(CPU)))
    for axes, column in zip(figure.axes, ("loss", "val_dice")):
        assert [line.get_label() for line in axes.get_lines()] == ["3D U-Net", "MAG-UNet"]
        for line in axes.get_lines():
            mine = [row for row in rows if row["network"] == line.get_label()]
            assert list(line.get_xdata()) == [int(row["epoch"]) for row in mine] == list(range(1, 31))
            assert line.get_ydata() == pytest.approx([float(row[column]) for row in mine], rel=1e-12)


def test_several_seeds_are_thin_lines_and_a_thick_mean_as_far_as_all_go():
    curves = synthetic((7, 5, 9)).sample(frac=1, random_state=0)  # the order of rows does not matter
    for axes, column in zip(learning_curves(curves).axes, ("loss", "val_dice")):
        lines = axes.get_lines()
        for name, (*seeds, mean) in (("3D U-Net", lines[:4]), ("MAG-UNet", lines[4:])):
            wanted = [
                curves[(curves["network"] == name) & (curves["seed"] == seed)].sort_values("epoch")
                for seed in range(3)
            ]
            for line, one in zip(seeds, wanted):
                drawn = np.isfinite(line.get_ydata())
                assert list(line.get_xdata()[drawn]) == list(one["epoch"]) and list(
                    line.get_ydata()[drawn]
                ) == list(one[column])
                assert line.get_linewidth() < mean.get_linewidth() and line.get_color() == mean.get_color()
            assert list(mean.get_xdata()) == [1, 2, 3, 4, 5] and mean.get_label() == f"{name}, 3 seeds"
            assert mean.get_ydata() == pytest.approx(
                np.mean([one[column].to_numpy()[:5] for one in wanted], axis=0), rel=1e-12
            )


@pytest.mark.parametrize("lengths", [(1,), (2,), (300,), (1, 1, 1), (2, 2, 2), (300, 300, 300)])
def test_curves_of_any_length_can_be_read_at_the_printed_width(lengths):
    for networks in (("MAG-UNet",), ("3D U-Net", "MAG-UNet"), tuple(row.network for row in paper.TABLE_1)):
        figure = learning_curves(synthetic(lengths, networks), networks)
        for axes, label in zip(figure.axes, ("training loss", "Dice of the validation cases")):
            assert (
                axes.get_xlabel() == "epoch"
                and axes.get_ylabel().replace("\n", " ").startswith(label)
                and axes.get_ylim()[0] == 0
            )
            for axis in (axes.xaxis, axes.yaxis):  # those beyond the limits are not drawn
                low, high = axis.get_view_interval()
                axis.set_ticks([tick for tick in axis.get_ticklocs() if low <= tick <= high])
            assert len(axes.get_xticks()) and all(tick % 1 == 0 for tick in axes.get_xticks())
            named = [line for line in axes.get_lines() if not line.get_label().startswith("_")]
            assert (
                len(named)
                == len(networks)
                == len({(line.get_color(), line.is_dashed(), line.get_marker()) for line in named})
            )
            assert all(1 <= len(line.get_xdata()) / line.get_markevery() <= 20 for line in named)
            assert [line.is_dashed() for line in named[:2]] == [False, True][:len(named)]
        assert figure.get_figwidth() == FIGURE_WIDTH
        assert_readable(figure)


def test_a_network_without_a_curve_is_named():
    refused(lambda: learning_curves(synthetic((2,)), ("MAG-UNet", "SegNet")), "SegNet", "3D U-Net, MAG-UNet")
