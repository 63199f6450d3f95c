"""Pictures show the patient the right way round, in millimetres."""

import subprocess
from dataclasses import replace

import numpy as np
from conftest import refused
from matplotlib.figure import Figure
from PIL import Image
from printed import assert_readable

from compendium.figures import planes as figures
from magunet import __version__
from magunet.base import profiles, project
from magunet.base.provenance import git_revision
from magunet.volume import Volume, reorient

RNG = np.random.default_rng(0)


def noise(side):
    return Volume(RNG.normal(300, 400, size=(side // 4, side, side)), (4.0, 1.0, 1.0))


def test_planes_have_right_on_the_left_front_on_top_and_head_on_top():
    """One voxel far left, anterior and superior in the patient: LPS index (z high, y low, x high)."""
    array = np.zeros((4, 5, 6))
    array[3, 0, 5] = 1
    for name, index, place in (("axial", 3, (0, 5)),            # top: anterior; right of the picture: left
                               ("coronal", 0, (0, 5)),          # top: superior; right of the picture: left
                               ("sagittal", 5, (0, 0))):        # top: superior; left of the picture: anterior
        assert np.argwhere(figures.plane(array, name, index)).tolist() == [list(place)], name


def test_pixels_keep_their_proportions():
    figure = figures.three_planes(Volume(np.zeros((10, 20, 30)), (4.0, 1.0, 0.5)))
    extents = {name: axes.get_images()[0].get_extent() for name, axes in zip(figures.PLANES, figure.axes)}
    assert extents == {"axial": [0, 15, 20, 0], "coronal": [0, 15, 40, 0], "sagittal": [0, 20, 40, 0]}
    assert all(axes.get_aspect() == 1 for axes in figure.axes)


def test_truth_and_prediction_differ_without_their_colours():
    scan, truth, prediction = (Volume(np.zeros((8, 40, 50)), (2.0, 1.0, 1.0)) for _ in range(3))
    truth.array[2:6, 10:20, 10:20] = prediction.array[2:6, 12:25, 20:40] = 1
    figure = figures.three_planes(scan, prediction, truth)
    lines = [dashes for _, dashes in (line.get_linestyle()[0] for line in figure.axes[0].collections)]
    assert lines[0] is None and len(lines[1]) == 2
    assert [line.is_dashed() for line in figure.legends[0].get_lines()] == [False, True]


def test_any_orientation_gives_the_same_picture_and_another_grid_none():
    scan = Volume(RNG.normal(size=(8, 9, 10)), (2.0, 1.0, 1.0))
    mask = scan.with_array((scan.array > 1).astype(np.uint8))
    straight, turned = (figures.three_planes(reorient(scan, code), reorient(mask, code))
                        for code in ("LPS", "RIA"))
    for a, b in zip(straight.axes, turned.axes):
        np.testing.assert_array_equal(a.get_images()[0].get_array(), b.get_images()[0].get_array())
    other = Volume(mask.array, (2.0, 1.0, 1.1))
    refused(lambda: figures.three_planes(scan, prediction=other), "different grids")


def test_the_slices_shown_hold_most_of_the_mask():
    mask = np.zeros((8, 9, 10), bool)
    mask[2, 3:6, 4:9] = mask[3, 3, 4] = True
    assert figures.central_slices(mask, mask.shape) == (2, 3, 4)
    assert figures.central_slices(np.zeros_like(mask), mask.shape) == (4, 4, 5)


def test_three_planes_can_be_read_at_the_printed_width():
    scan = noise(40)
    mask = scan.with_array((scan.array > 900).astype(np.uint8))
    assert_readable(figures.three_planes(scan, prediction=mask, truth=mask, title="case"))


def test_saved_pictures_say_what_made_them_and_keep_text_as_text(tmp_path):
    path = figures.save_figure(figures.three_planes(noise(40)), tmp_path / "f.png", "run x")
    with Image.open(path) as picture:
        png, pdf = picture.text, (tmp_path / "f.pdf").read_bytes()
    revision = git_revision(project.root())
    assert path == tmp_path / "f.png" and png["Description"] == "run x"
    assert f"magunet {__version__}, git {revision}" in png["Software"]
    assert b"/Subject (run x)" in pdf and revision.encode() in pdf and b"/CreationDate" not in pdf
    assert b"/FontFile2" in pdf                                     # TrueType, which an editor can change
    figures.save_figure(figures.three_planes(noise(40)), tmp_path / "screen.png", "", vector=False)
    assert {p.name for p in tmp_path.iterdir()} == {"f.png", "f.pdf", "screen.png"}


def test_the_source_names_profile_settings_and_runs(tmp_path):
    smoke, cpu = (profiles.load(name) for name in ("smoke", "cpu"))
    text = figures.source_of(smoke, [tmp_path / "MAG-UNet-0123456789-s0", tmp_path / "3D-U-Net-abc-s0"])
    assert text.startswith("profile smoke, settings ")
    assert text.endswith(", runs MAG-UNet-0123456789-s0, 3D-U-Net-abc-s0")
    assert figures.source_of(smoke) != figures.source_of(replace(smoke, epochs=3)) != figures.source_of(cpu)


def test_a_picture_of_noise_is_coarser_rather_than_large(tmp_path):
    figure = Figure(figsize=(3, 3))
    figure.add_axes((0, 0, 1, 1)).imshow(RNG.normal(size=(1200, 1200)), cmap="gray")
    path = figures.save_figure(figure, tmp_path / "f.png", "noise")
    with Image.open(path) as picture:
        assert 600 <= picture.width < 900
    assert max(path.stat().st_size, path.with_suffix(".pdf").stat().st_size) <= 2**20


def test_a_revision_counts_changed_code_and_not_what_it_drew(tmp_path, monkeypatch):
    def git(*words):
        own = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *own, *words], check=True, capture_output=True)

    drawn = [tmp_path / name for name in ("figures/cpu/drawn.png", "benchmarks/results.json")]
    assert git_revision(tmp_path) == "unknown"
    monkeypatch.setenv("MAGUNET_REVISION", "0123456789ab")
    assert git_revision(tmp_path) == "0123456789ab"
    for path in (tmp_path / "code.py", *drawn):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1")
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    revision = git_revision(tmp_path)
    assert len(revision) == 12
    for path in drawn:
        path.write_text("2")
    assert git_revision(tmp_path) == revision
    (tmp_path / "code.py").write_text("2")
    assert git_revision(tmp_path) == revision + "+changes"
