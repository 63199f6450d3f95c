"""Figures show what masks and scores say, the patient the right way round, in millimetres."""

import itertools
import re
import subprocess
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from boxes import TINY
from conftest import refused
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from PIL import Image
from printed import assert_readable, words

from compendium import paper
from compendium.figures import flow, panels, planes
from compendium.figures.page import INCH, PRINT_WIDTH, page
from compendium.figures.panels import CROP_MARGIN, ComparedCase, comparison, quantile_cases
from compendium.figures.planes import AGREEMENT_COLOURS as COLOURS
from compendium.figures.planes import BONE_WINDOW, save_figure, source_of, three_planes
from magunet import __version__
from magunet.base import profiles, project
from magunet.base.provenance import git_revision
from magunet.cohort import load_cohort
from magunet.metrics import overlap
from magunet.prepare import prepare, target_slices
from magunet.volume import Volume, reorient
from sijphantom.cohort import phantom_scan
from sijphantom.phantom import make_phantom

RNG = np.random.default_rng(0)


# Three planes, and how a figure is saved ----------------------------------------------------------------
def test_planes_have_right_on_the_left_front_on_top_and_head_on_top():
    """One voxel far left, anterior and superior in the patient: LPS index (z high, y low, x high)."""
    array = np.zeros((4, 5, 6))
    array[3, 0, 5] = 1
    for name, index, place in (("axial", 3, (0, 5)),            # top: anterior; right of the picture: left
                               ("coronal", 0, (0, 5)),          # top: superior; right of the picture: left
                               ("sagittal", 5, (0, 0))):        # top: superior; left of the picture: anterior
        assert np.argwhere(planes.plane(array, name, index)).tolist() == [list(place)], name


def test_truth_and_prediction_differ_without_their_colours_and_can_be_read_at_the_printed_width():
    scan, truth, prediction = (Volume(np.zeros((8, 40, 50)), (2.0, 1.0, 1.0)) for _ in range(3))
    truth.array[2:6, 10:20, 10:20] = prediction.array[2:6, 12:25, 20:40] = 1
    figure = three_planes(scan, prediction, truth, title="case")
    lines = [dashes for _, dashes in (line.get_linestyle()[0] for line in figure.axes[0].collections)]
    assert lines[0] is None and len(lines[1]) == 2
    assert [line.is_dashed() for line in figure.legends[0].get_lines()] == [False, True]
    assert_readable(figure)


def test_any_orientation_gives_the_same_picture_in_millimetres_and_another_grid_none():
    scan = Volume(RNG.normal(size=(10, 20, 30)), (4.0, 1.0, 0.5))
    mask = scan.with_array((scan.array > 1).astype(np.uint8))
    straight, turned = (three_planes(reorient(scan, code), reorient(mask, code)) for code in ("LPS", "RIA"))
    extents = [0, 15, 20, 0], [0, 15, 40, 0], [0, 20, 40, 0]
    for one, other, extent in zip(straight.axes, turned.axes, extents, strict=True):
        (shown,), (again,) = one.get_images(), other.get_images()
        np.testing.assert_array_equal(shown.get_array(), again.get_array())
        assert shown.get_extent() == again.get_extent() == extent and one.get_aspect() == 1
    shifted = Volume(mask.array, (4.0, 1.0, 0.6))
    refused(lambda: three_planes(scan, prediction=shifted), "different grids")


def test_the_slices_shown_hold_most_of_the_mask():
    mask = np.zeros((8, 9, 10), bool)
    assert planes.central_slices(mask, mask.shape) == (4, 4, 5)
    mask[2, 3:6, 4:9] = mask[3, 3, 4] = True
    assert planes.central_slices(mask, mask.shape) == (2, 3, 4)


def test_saved_pictures_say_what_made_them_and_keep_text_as_text(tmp_path):
    figure = three_planes(Volume(RNG.normal(300, 400, (10, 40, 40)), (4.0, 1.0, 1.0)))
    path = save_figure(figure, tmp_path / "f.png", "run x")
    with Image.open(path) as picture:
        png, pdf = picture.text, (tmp_path / "f.pdf").read_bytes()
    revision = git_revision(project.root())
    assert path == tmp_path / "f.png" and png["Description"] == "run x"
    assert f"magunet {__version__}, git {revision}" in png["Software"]
    assert b"/Subject (run x)" in pdf and revision.encode() in pdf and b"/CreationDate" not in pdf
    assert b"/FontFile2" in pdf                                     # TrueType, which an editor can change
    save_figure(figure, tmp_path / "screen.png", "", vector=False)
    assert {p.name for p in tmp_path.iterdir()} == {"f.png", "f.pdf", "screen.png"}
    smoke, cpu = (profiles.load(name) for name in ("smoke", "cpu"))
    text = source_of(smoke, [tmp_path / "MAG-UNet-0123456789-s0", tmp_path / "3D-U-Net-abc-s0"])
    assert re.fullmatch(r"profile smoke, settings \w{10}, runs MAG-UNet-0123456789-s0, 3D-U-Net-abc-s0", text)
    assert source_of(smoke) != source_of(replace(smoke, epochs=3)) != source_of(cpu)


def test_figures_of_changed_settings_never_lie_in_the_folder_of_the_profile_and_say_so(capsys):
    smoke = profiles.load("smoke")
    assert planes.figure_folder(smoke) == project.root() / "figures" / "smoke"
    assert not capsys.readouterr().err
    changed = replace(smoke, target_mm=4.0, seeds=(0, 1))
    assert planes.figure_folder(changed).name == "smoke,target_mm=4.0,seeds=0,1,258019"
    assert "target_mm, seeds not as in profile smoke: figures go to" in capsys.readouterr().err
    others = {planes.figure_folder(replace(smoke, networks=(name,))).name
              for name in ("[1,3]", "[13]", "a/b")}
    assert len(others) == 3 and not any("/" in name or len(name) > 100 for name in others)
    elsewhere = replace(smoke, profile="mine", epochs=9)
    assert planes.figure_folder(elsewhere).name == "mine"


def test_a_revision_counts_changed_code_and_not_what_it_drew(tmp_path, monkeypatch):
    drawn = [tmp_path / name for name in ("figures/cpu/drawn.png", "benchmarks/results.json")]

    def write(content, *paths):
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)

    assert git_revision(tmp_path) == "unknown"
    monkeypatch.setenv("MAGUNET_REVISION", "0123456789ab")
    assert git_revision(tmp_path) == "0123456789ab"
    write("1", tmp_path / "code.py", *drawn)
    for command in (("init",), ("add", "."), ("commit", "-m", "first")):
        own = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *own, *command], cwd=tmp_path, check=True, capture_output=True)
    revision = git_revision(tmp_path)
    write("2", *drawn)
    assert git_revision(tmp_path) == revision and len(revision) == 12
    write("2", tmp_path / "code.py")
    assert git_revision(tmp_path) == revision + "+changes"


# Figs. 9 and 10 -----------------------------------------------------------------------------------------
RULE = "Cases at evenly spaced ranks of the mean Dice over the networks shown, lowest first"
COLUMNS = {"base": "3D U-Net", "shifted": "+DA+LGAG", "absent": "UNETR"}


def box_case(name="box", spacing=(3.0, 1.0, 2.0)):
    """Two joints in 8 x 40 x 60 voxels, largest in slice 5; one network is right, one two columns off."""
    scan, truth = RNG.normal(100, 300, (8, 40, 60)), np.zeros((8, 40, 60), np.uint8)
    truth[2:7, 12:22, 15:20] = truth[2:7, 14:26, 30:34] = truth[5, 12:26, 30] = 1
    volume = Volume(scan, spacing, (5.0, -3.0, 2.0))
    shifted = np.roll(truth, 2, axis=2)
    shifted[5, 30:33, 20:25] = 1                                    # and a patch that is nowhere near
    masks = {"base": volume.with_array(truth.copy()), "shifted": volume.with_array(shifted)}
    return ComparedCase(name, volume, volume.with_array(truth), masks)


def scores_of(*cases):
    rows = [(network, case.name, overlap(mask.array, case.truth.array).dice)
            for case in cases for network, mask in case.masks.items()]
    return pd.DataFrame(rows, columns=["network", "case", "dice"])


def compare(*cases):
    return comparison(cases, COLUMNS, scores_of(*cases), "The rule")


def panel(figure, label):
    return next(axes for axes in figure.axes if axes.get_label() == label)


def coloured(axes):
    """Colour -> pixels (rows, columns) of a panel that have it."""
    overlay = axes.get_images()[1].get_array()
    return {name: np.abs(overlay - (*to_rgb(colour), 1)).max(axis=-1) < 1e-6
            for name, colour in COLOURS.items()}


def test_colours_lie_where_masks_agree_and_differ_right_on_the_left_and_front_on_top():
    """On the slice with most of the truth, and the same in any orientation."""
    case = box_case()
    truth, shifted = case.truth.array[5] != 0, case.masks["shifted"].array[5] != 0
    wanted = {"correct": truth & shifted, "missed": truth & ~shifted, "extra": shifted & ~truth}
    agreed = {"correct": truth, "missed": truth & False, "extra": truth & False}
    for code in ("LPS", "RAS", "ASR"):
        figure = compare(ComparedCase(case.name, reorient(case.scan, code), reorient(case.truth, code),
                                      {name: reorient(mask, code) for name, mask in case.masks.items()}))
        for name, colours in (("shifted", wanted), ("base", agreed), ("truth", agreed)):
            axes = panel(figure, f"box: {name}")
            np.testing.assert_equal(coloured(axes), colours, f"{code}, {name}")
        overlay, (right, left), (back, front) = axes.get_images()[1], axes.get_xlim(), axes.get_ylim()
        assert overlay.get_extent() == [0, 120, 40, 0] and overlay.origin == "upper"
        assert right < left and back > front
        assert overlay.get_interpolation() == "nearest" and overlay.get_alpha() is None, "colours are unmixed"
        letters = {t.get_text(): t.xy for t in panel(figure, "box: CT").texts}
        assert letters == {"R": (0, 0.5), "L": (1, 0.5), "A": (0.5, 1), "P": (0.5, 0)}


DEFICIENT = {
    "protan": [0.152286, 1.052583, -0.204868, 0.114503, 0.786281, 0.099216, -0.003882, -0.048116, 1.051998],
    "deutan": [0.367322, 0.860646, -0.227968, 0.280085, 0.672501, 0.047413, -0.011820, 0.042940, 0.968881],
    "tritan": [1.255528, -0.076749, -0.178779, -0.078411, 0.930809, 0.147602, 0.004733, 0.691367, 0.303900]}
"""Machado, Oliveira, Fernandes: A model for simulation of color vision deficiency, IEEE TVCG 2009."""


def test_the_colours_differ_in_grey_and_for_every_colour_vision():
    colours = np.array([to_rgb(colour) for colour in COLOURS.values()])
    greys = colours @ (0.299, 0.587, 0.114)
    assert np.diff(np.sort(greys)).min() > 0.2 and greys.max() < 0.9
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    for vision, matrix in DEFICIENT.items():
        seen = np.clip(linear @ np.reshape(matrix, (3, 3)).T, 0, 1) ** (1 / 2.2)
        assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 0.3, vision


def test_millimetres_are_square_and_one_scale_and_window_hold_for_all():
    spacings = {"near": (3.0, 1.0, 2.0), "far": (2.0, 0.5, 1.5)}
    figure, scales = compare(*(box_case(name, spacing) for name, spacing in spacings.items())), []
    FigureCanvasAgg(figure).draw()
    shown = [axes for axes in figure.axes if axes.get_images()]
    assert len(shown) == 2 * 4
    for axes in shown:
        (image, *_), size = axes.get_images(), axes.get_window_extent().size
        assert axes.get_position().bounds == pytest.approx(axes.get_position(original=True).bounds)   # filled
        scales += [size[0] / np.ptp(axes.get_xlim()), size[1] / np.ptp(axes.get_ylim())]
        _, height, width = spacings[axes.get_label().split(":")[0]]
        assert image.get_extent() == pytest.approx([0, 60 * width, 40 * height, 0])
        assert image.get_clim() == BONE_WINDOW
    np.testing.assert_allclose(scales, scales[0], rtol=1e-3)


def test_the_crop_holds_both_joints_with_the_margin_also_at_the_edge_of_the_scan():
    """It is the same along a row, and black where no scan is."""
    case = box_case()
    limits = {(axes.get_xlim(), axes.get_ylim()) for axes in compare(case).axes if axes.get_images()}
    assert limits == {((15 * 2 - CROP_MARGIN, 34 * 2 + CROP_MARGIN), (26 + CROP_MARGIN, 12 - CROP_MARGIN))}
    truth = np.zeros_like(case.truth.array)
    truth[3, :5, :4] = 1
    axes = panel(compare(ComparedCase("edge", case.scan, case.scan.with_array(truth), {})), "edge: truth")
    assert axes.get_xlim()[0] == -CROP_MARGIN and axes.get_images()[0].get_extent()[0] == 0
    assert coloured(axes)["correct"].sum() == 20 and to_rgb(axes.get_facecolor()) == (0, 0, 0)


def test_a_network_without_a_run_says_so_an_empty_mask_is_a_result_and_the_caption_tells_the_rest():
    case = box_case()
    case.masks["base"].array[:] = 0
    scores = pd.DataFrame([("base", "box", 0.0), ("shifted", "box", 0.456), ("base", "other", 0.9)],
                          columns=["network", "case", "dice"])
    figure = comparison([case], COLUMNS, scores, "Some rule", window=(-160, 240))
    labels = [axes.get_label() for axes in figure.axes if axes.get_label() != "page"]
    assert labels == [f"box: {column}" for column in ("CT", "truth", *COLUMNS)]
    absent = panel(figure, "box: absent")
    assert not absent.get_images() and [t.get_text() for t in absent.texts] == ["not\ntrained"]
    counts = {name: where.sum() for name, where in coloured(panel(figure, "box: base")).items()}
    assert counts == {"correct": 0, "missed": case.truth.array[5].sum(), "extra": 0}
    lines = words(figure)
    assert [line for line in lines if line.startswith("Dice 0")] == ["Dice 0.00", "Dice 0.46"]
    assert lines.count("not\ntrained") == 1 and "UNETR" in lines
    assert "a, box. Some rule." in " ".join(lines) and "Window −160 to 240 HU." in " ".join(lines)


def test_what_cannot_be_compared_is_refused():
    case = box_case()
    scores, other = scores_of(case), Volume(case.truth.array, (3.0, 1.0, 2.5))
    empty = case.truth.with_array(0 * case.truth.array)
    for cases, table, says in (
            ([], scores, ["no case"]), ([case], scores[1:], ["base", "0 scores", "box"]),
            ([case], pd.concat([scores, scores]), ["2 scores"]),
            ([case._replace(masks={"base": other})], scores, ["box", "base", "another grid"]),
            ([case._replace(truth=empty)], scores, ["box", "empty"])):
        refused(lambda cases=cases, table=table: comparison(cases, COLUMNS, table, ""), *says)


@pytest.mark.parametrize("table", [paper.TABLE_1, paper.TABLE_4], ids=["fig10", "fig09"])
def test_the_figures_of_the_paper_can_be_read(table, phantom):
    scan, truth = phantom
    masks = {row.network: truth for row in table[:-2]}
    cases = [ComparedCase(f"patient_with_a_long_name_{i}", scan, truth, masks) for i in range(4)]
    columns = {row.network: row.name for row in table}
    figure = comparison(cases, columns, scores_of(*cases), RULE)
    assert_readable(figure)
    assert figure.get_figwidth() * INCH == pytest.approx(PRINT_WIDTH)
    assert [t for t in words(figure) if t in "abcd"] == list("abcd")


def test_a_scale_bar_is_as_long_as_it_says_and_the_longest_below_a_third():
    figure = compare(box_case())
    axes, (bar,) = panel(figure, "box: CT"), panel(figure, "page").lines
    scale = np.ptp(axes.get_xlim()) / (axes.get_position().width * PRINT_WIDTH)     # mm of the patient per mm
    assert f"{np.ptp(bar.get_xdata()) * scale:.0f} mm" in words(figure)
    for width, length in ((400, 100), (180, 50), (50, 10), (2, 1)):
        figure, axes = page(40, "")
        planes.scale_bar(axes, 10, 10, 10, width / 10)
        assert np.ptp(axes.lines[0].get_xdata()) == pytest.approx(length / 10), width
        assert words(figure) == [f"{length} mm"] and planes.bar_length(width) == length


def test_cases_are_chosen_by_rank_of_the_mean_over_networks_and_ties_by_name():
    def chosen(dice, count, **others):
        scores = pd.DataFrame({"A": dice, "B": {case: value + 0.1 for case, value in dice.items()} | others})
        scores = scores.melt(var_name="network", value_name="dice", ignore_index=False).rename_axis("case")
        return quantile_cases(scores.reset_index().sample(frac=1, random_state=0), count)

    dice = {"e": 0.5, "a": 0.9, "c": 0.1, "b": 0.7, "d": 0.3, "f": 0.6, "g": 0.2}
    for count, cases in ((4, "cdfa"), (3, "cea"), (2, "ca"), (99, "cgdefba")):
        assert chosen(dice, count) == list(cases), count
    assert chosen({"x": 0.9, "y": 0.4, "z": 0.5}, 3, x=0.1, y=0.4, z=0.3) == ["y", "z", "x"]
    assert quantile_cases(pd.DataFrame(columns=["network", "case", "dice"])) == []
    refused(lambda: chosen({"a": 0.1, "b": 0.2}, 4, b=np.nan), "B", "b")


def test_finished_runs_become_panels_and_unfinished_ones_do_not(run):
    cohort = load_cohort(run.parents[1] / "data" / "boxes")
    names = dict.fromkeys(["3D U-Net", "MAG-UNet"], "a network")
    cases, scores, rule = panels.compared_cases({}, cohort)
    assert [case.name for case in cases] == sorted(cohort.val) and scores.empty and "first by name" in rule
    assert words(comparison(cases, names, scores, rule)).count("not\ntrained") == 2 * len(cases)
    cases, scores, rule = panels.compared_cases({"3D U-Net": run}, cohort)
    assert {case.name for case in cases} <= set(cohort.val) and rule == RULE
    assert (run / "scores.csv").exists()
    lines = words(comparison(cases, names, scores, rule))
    assert lines.count("not\ntrained") == len(cases)
    assert sum(line.startswith("Dice 0.") for line in lines) == len(cases)


# Fig. 8 -------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def phantom():
    return phantom_scan(make_phantom(0, matrix=64, slices=(24, 28)))


def cut(volumes, rows, code):
    """Both volumes with these rows only, in another orientation."""
    return [reorient(Volume(v.array[:, rows], v.spacing, v.origin), code) for v in volumes]


def test_the_steps_end_where_preparation_does(phantom):
    for code, rows in (("LPS", slice(None)), ("RAS", slice(4, 58)), ("ASR", slice(4, 58))):
        scan, mask = cut(phantom, rows, code)
        steps, prepared = flow.preparation_steps(scan, mask, TINY), prepare(scan, mask, TINY)
        first = len(steps[-2].image) - len(prepared.image) - round(steps[-1].above / prepared.spacing[0])
        for step, shown in ((steps[-1], slice(None)), (steps[-2], slice(first, first + len(prepared.image)))):
            np.testing.assert_allclose(step.image[shown], prepared.image, atol=1e-6, err_msg=code)
            np.testing.assert_array_equal(step.mask[shown], prepared.mask != 0, code)
        assert steps[-1].spacing == prepared.spacing == steps[2].spacing
        assert steps[0].image.shape == scan.array.shape and f"({code})" in steps[0].name
        assert all(step.image.shape == step.mask.shape and step.mask.any() for step in steps), code


def test_the_flow_shows_every_step_with_shape_and_spacing_at_one_scale(phantom):
    scan, mask = cut(phantom, slice(4, 58), "RAS")
    figure, steps = flow.preprocessing_flow(scan, mask, TINY), flow.preparation_steps(scan, mask, TINY)
    assert_readable(figure)
    lines = words(figure)
    for step in steps:
        assert " × ".join(map(str, step.image.shape)) in lines
        assert " × ".join(f"{s:#.2g}" for s in step.spacing) + " mm" in lines
    thumbnails = [axes for axes in figure.axes if axes.get_images()]
    arrows = [note for note in figure.axes[0].texts if hasattr(note, "arrow_patch")]
    assert len(thumbnails) == 2 * len(steps) and len(arrows) == len(steps) - 1
    scales = [size / abs(np.ptp(limits)) for axes in thumbnails for size, limits in zip(
        axes.get_window_extent().size, (axes.get_xlim(), axes.get_ylim()))]
    np.testing.assert_allclose(scales, scales[0], rtol=1e-3)
    letters = {axes.get_label(): {t.get_text(): t.xy for t in axes.texts}
               for axes in figure.axes[1:] if axes.texts}
    sides = {"R": (0, 0.5), "L": (1, 0.5)}
    assert letters == {"turned to LPS: axial": sides | {"A": (0.5, 1), "P": (0.5, 0)},
                       "turned to LPS: coronal": sides | {"S": (0.5, 1), "I": (0.5, 0)}}
    whole, rest = (panel(figure, f"{step.name}: coronal").get_position() for step in steps[-2:])
    mm = whole.height / (len(steps[-2].image) * steps[-2].spacing[0])
    first, stop = target_slices(steps[-2].mask, steps[-1].spacing[0], TINY.margin_mm)
    above = (len(steps[-2].mask) - stop) * steps[-1].spacing[0]
    assert (whole.y1 - rest.y1) / mm == pytest.approx(above), "slices at the joints stand at their height"
    assert (rest.y0 - whole.y0) / mm == pytest.approx(first * steps[-1].spacing[0])
