"""Signed distances on the surface of the joints, against spheres and shifted boxes whose distances are
known."""

import numpy as np
import pytest
from conftest import refused
from joint_object import DIRECTIONS
from scipy.spatial import KDTree

from compendium.view.meshes import surface_mesh
from compendium.view.surface_map import VIEWS, joint_maps, surface_figure, surface_map
from magunet.volume import Volume, reorient


def sphere(radius: float, spacing=(1.0, 1.0, 1.0), direction=None, centre=(0.0, 0.0, 0.0)) -> Volume:
    """A ball around `centre` (x, y, z) in mm of a grid that reaches 30 mm to every side of its middle."""
    axes = [np.arange(round(60 / s)) * s - 30 + s / 2 for s in spacing]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    inside = np.linalg.norm([x - centre[0], y - centre[1], z - centre[2]], axis=0) < radius
    return Volume(inside.astype(np.uint8), spacing, (-100.0, 40.0, 7.0), direction)


def test_concentric_spheres_are_as_far_apart_as_their_radii():
    """Positive outside the truth, negative inside."""
    for name, spacing in (("LPS", (1.0, 1.0, 1.0)), ("oblique", (2.0, 0.8, 0.8)),
                          ("mirrored rows", (2.0, 0.8, 0.8))):
        truth = sphere(15, spacing, DIRECTIONS[name])
        for radius in (19.0, 12.0):
            found = surface_map(truth, sphere(radius, spacing, DIRECTIONS[name])).distance - (radius - 15)
            assert abs(np.median(found)) < 0.4 and np.abs(found).max() < spacing[0], (name, radius)


def test_a_shift_is_positive_ahead_and_negative_behind():
    """A ball moved 3 mm to the patient's left: +3 mm at its left pole, -3 mm at its right one, -0.3 in
    between."""
    found = surface_map(sphere(15), sphere(15, centre=(3, 0, 0)))
    offset = found.mesh.points - found.mesh.points.mean(axis=0)
    error = np.abs(found.distance - (15 - np.linalg.norm(offset - (3, 0, 0), axis=1)))
    assert error.mean() < 0.4 and error.max() < 1


def test_distances_are_those_to_the_mesh_to_a_fifth_of_a_voxel():
    """Against every triangle of the prediction's mesh, each sampled densely."""
    prediction = sphere(6, (2.0, 1.0, 1.5))
    result = surface_map(sphere(8, (2.0, 1.0, 1.5), centre=(1, 0, 2)), prediction)
    u, v = np.meshgrid(np.linspace(0, 1, 25), np.linspace(0, 1, 25))
    weights = np.stack([u, v, 1 - u - v], axis=-1)[u + v <= 1]
    samples = np.einsum("wc,tcx->twx", weights, surface_mesh(prediction).corners()).reshape(-1, 3)
    naive = KDTree(samples).query(result.mesh.points)[0]
    assert np.abs(np.abs(result.distance) - naive).max() < 0.4
    assert np.abs(surface_map(prediction, prediction).distance).max() < 1e-9


def test_orientation_changes_nothing():
    masks = sphere(15), sphere(13, centre=(2, 1, -3))
    first, *others = (surface_map(*(reorient(mask, code) for mask in masks))
                      for code in ("LPS", "RAS", "SLA"))
    order = np.lexsort(first.mesh.points.round(3).T)
    for turned in others:
        same = np.lexsort(turned.mesh.points.round(3).T)
        np.testing.assert_allclose(turned.mesh.points[same], first.mesh.points[order], atol=1e-4)
        apart = np.abs(first.distance[order] - turned.distance[same])
        assert apart.mean() < 0.03 and apart.max() < 0.5    # by which way squares are halved


def test_what_has_no_surface_is_refused():
    ball, empty = sphere(5), sphere(0)
    refused(lambda: surface_map(ball, empty), "empty")
    refused(lambda: surface_map(empty, ball), "empty")
    refused(lambda: surface_map(ball, sphere(5, (2.0, 1.0, 1.0))), "different grids")


def two_joints(shift: int = 0) -> Volume:
    array = np.zeros((30, 40, 80), np.uint8)
    array[5:25, 10:30, 8 + shift:14 + shift] = array[8:22, 10:30, 66 + shift:72 + shift] = 1
    return Volume(array, (1.0, 1.0, 1.0))


def panels_of(figure):
    return {axes.get_title().replace("\n", " "): axes for axes in figure.axes if axes.get_title()}


def test_each_side_of_each_joint_has_its_panel():
    """Prediction 2 mm to the patient's left: faces that look left reach too far and are orange, more red than
    blue; those that look right fall short."""
    panels = panels_of(surface_figure(two_joints(), two_joints(shift=2)))
    assert list(panels) == ["both joints from the front", "right joint, iliac side from the right",
                            "right joint, sacral side from the left",
                            "left joint, sacral side from the right",
                            "left joint, iliac side from the left"]
    heights = {}
    for title, axes in panels.items():
        (surface,) = axes.collections
        red, _, blue = surface.get_facecolors()[:, :3].mean(axis=0)
        assert red - blue > 0.1 or "from the left" not in title, title
        assert red - blue < -0.1 or "from the right" not in title, title
        heights[title] = np.ptp(np.concatenate([path.vertices[:, 1] for path in surface.get_paths()]))
    assert heights["right joint, iliac side from the right"] == pytest.approx(20, abs=0.1)
    assert heights["left joint, iliac side from the left"] == pytest.approx(14, abs=0.1)


def test_views_are_seen_from_where_they_say():
    towards = {name: tuple(np.cross(across, (0, 0, 1))) for name, (across, _) in VIEWS.items()}
    assert towards == {"from the front": (0, -1, 0), "from the left": (1, 0, 0), "from the right": (-1, 0, 0)}


def test_a_single_joint_leaves_a_panel_empty_and_is_drawn_wherever_it_lies():
    """Also where it ends in the middle of the scan, so that nothing of it lies on the other side."""
    single = two_joints()
    single.array[..., :40] = 0
    figure = surface_figure(single, two_joints(shift=1))
    words = [[text.get_text() for text in axes.texts] for axes in panels_of(figure).values()]
    assert words[1] == words[2] == ["no joint"] and "A" in words[3]
    for first in (6, 10, 14, 16, 2):
        array = np.zeros((20, 32, 32), np.uint8)
        array[5:14, 8:18, first:first + 10] = 1
        joint = Volume(array, (3.0, 2.0, 2.0))
        assert len(panels_of(surface_figure(joint, joint))) == 5, first


def test_a_joint_that_was_not_predicted_is_grey_and_leaves_the_scale_alone():
    truth, prediction = two_joints(), two_joints(shift=1)
    prediction.array[..., 40:] = 0
    maps = joint_maps(truth, prediction)
    assert np.isnan(maps["left"].distance).all() and np.abs(maps["right"].distance).max() < 3
    figure = surface_figure(truth, prediction)
    missed = panels_of(figure)["left joint, iliac side from the left not predicted"]
    colours = missed.collections[0].get_facecolors()[:, :3]
    assert np.ptp(colours, axis=1).max() < 1e-6
    (bar,) = [axes for axes in figure.axes if axes.get_xlabel()]
    assert bar.get_xlim()[1] < 3
