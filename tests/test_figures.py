"""Pictures show the patient the right way round, in millimetres."""

import numpy as np
import pytest

from magunet.data.volume import Volume, reorient
from magunet.errors import InputError
from magunet.report import figures

RNG = np.random.default_rng(0)


def test_planes_have_right_on_the_left_front_on_top_and_head_on_top():
    """One voxel far left, anterior and superior in the patient: LPS index (z high, y low, x high)."""
    array = np.zeros((4, 5, 6))
    array[3, 0, 5] = 1
    axial, coronal, sagittal = (figures.plane(array, name, index) for name, index in
                                (("axial", 3), ("coronal", 0), ("sagittal", 5)))
    assert axial[0, 5] == 1                         # top: anterior; right of the picture: patient's left
    assert coronal[0, 5] == 1                       # top: superior; right of the picture: patient's left
    assert sagittal[0, 0] == 1                      # top: superior; left of the picture: anterior


def test_pixels_keep_their_proportions():
    scan = Volume(np.zeros((10, 20, 30)), (4.0, 1.0, 0.5))
    figure = figures.three_planes(scan)
    shown = {name: axes.get_images()[0].get_extent() for name, axes in zip(figures.PLANES, figure.axes)}
    assert shown == {"axial": [0, 15, 20, 0], "coronal": [0, 15, 40, 0], "sagittal": [0, 20, 40, 0]}
    assert all(axes.get_aspect() == 1 for axes in figure.axes)


def test_any_orientation_gives_the_same_picture():
    scan = Volume(RNG.normal(size=(8, 9, 10)), (2.0, 1.0, 1.0))
    mask = scan.with_array((scan.array > 1).astype(np.uint8))
    straight, turned = (figures.three_planes(reorient(scan, code), prediction=reorient(mask, code)) for code in ("LPS", "RIA"))
    for a, b in zip(straight.axes, turned.axes):
        np.testing.assert_array_equal(a.get_images()[0].get_array(), b.get_images()[0].get_array())


def test_the_slices_shown_hold_most_of_the_mask():
    mask = np.zeros((8, 9, 10), bool)
    mask[2, 3:6, 4:9] = mask[3, 3, 4] = True
    assert figures.central_slices(mask, mask.shape) == (2, 3, 4)
    assert figures.central_slices(np.zeros_like(mask), mask.shape) == (4, 4, 5)


def test_a_mask_on_another_grid_is_refused():
    scan = Volume(np.zeros((8, 9, 10)), (2.0, 1.0, 1.0))
    with pytest.raises(InputError, match="different grids"):
        figures.three_planes(scan, prediction=Volume(np.zeros((8, 9, 10)), (2.0, 1.0, 1.1)))


def test_saved_pictures_say_what_made_them(tmp_path):
    from PIL import Image
    path = figures.save_figure(figures.three_planes(Volume(np.zeros((8, 9, 10)), (2.0, 1.0, 1.0))), tmp_path / "f.png", "run x")
    assert Image.open(path).text["Description"] == "run x"
