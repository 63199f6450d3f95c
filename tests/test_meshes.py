"""Meshes: closed, turned outwards, where the mask is, and read back by other programs; and maps of signed
distances on them, against spheres and shifted boxes whose distances are known."""

import numpy as np
import pytest
import trimesh
from boxes import as_image
from conftest import refused
from joint_object import DIRECTIONS, WIDE, both, grid, parts, single, world
from scipy.spatial import KDTree

from compendium.view.meshes import STL_HEADER, surface_mesh, write_stl
from compendium.view.surface_map import VIEWS, joint_maps, surface_figure, surface_map
from magunet.volume import Volume

MIDDLE = (31.0, -12.0, 7.0)


def ball(radius, spacing=(1.0, 1.0, 1.0), direction=DIRECTIONS["LPS"], shift=(0, 0, 0)):
    """A ball beside the middle of a grid, all in mm along the world's axes."""
    on = grid(direction, tuple(round(60 / step) for step in spacing), spacing, MIDDLE)
    return on.with_array((np.linalg.norm(world(on) - MIDDLE - shift, axis=-1) < radius).astype(np.uint8))


def as_trimesh(mesh):
    return trimesh.Trimesh(mesh.points, mesh.triangles, process=False)


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_a_mesh_is_closed_turned_outwards_and_halfway_between_voxels_inside_and_outside(direction):
    """Told by SimpleITK's index of the point. Lewiner puts a few more inside of cells whose corners do not
    settle the surface."""
    mesh = surface_mesh(ball(20, (1.5, 0.8, 1.0), direction))
    theirs = as_trimesh(mesh)
    assert theirs.is_watertight and theirs.is_winding_consistent
    assert theirs.volume / 1000 == pytest.approx(4 / 3 * np.pi * 8, rel=0.02)
    np.testing.assert_allclose(mesh.normals(), theirs.face_normals, atol=1e-6)
    assert (np.einsum("ij,ij->i", mesh.normals(), mesh.corners().mean(axis=1) - MIDDLE) > 0).all()
    assert np.linalg.norm(mesh.points - MIDDLE, axis=1) == pytest.approx(20, abs=0.8)     # half a voxel
    mask = both(grid(direction))
    image = as_image(mask)
    points = surface_mesh(mask).points.tolist()
    index = np.array([image.TransformPhysicalPointToContinuousIndex(point) for point in points])
    halves = np.abs(index - np.round(index)) > 0.4
    on_edge = halves.sum(axis=1) == 1
    assert on_edge.mean() > 0.995
    index, halves = index[on_edge], halves[on_edge]
    assert np.abs(np.where(halves, 0, index - np.round(index))).max() < 1e-6
    inside = np.pad(mask.array, 1) != 0
    low, high = (tuple(np.round(index + sign * 0.5 * halves).astype(int)[:, ::-1].T + 1) for sign in (-1, 1))
    assert (inside[low] != inside[high]).all()


def test_borders_single_voxels_hollows_and_pieces_have_closed_surfaces_and_empty_masks_none():
    full = Volume(np.ones((3, 4, 5), np.uint8), (2.0, 1.0, 1.5), (10, 20, 30))
    mesh = surface_mesh(full)
    np.testing.assert_allclose(mesh.points.min(axis=0), (10 - 0.75, 20 - 0.5, 30 - 1))
    np.testing.assert_allclose(mesh.points.max(axis=0), (10 + 6 + 0.75, 20 + 3 + 0.5, 30 + 4 + 1))
    assert as_trimesh(mesh).is_watertight
    single = np.zeros((3, 4, 5))
    single[1, 1, 1] = 5
    voxel = as_trimesh(surface_mesh(full.with_array(single)))
    assert voxel.is_watertight and voxel.volume > 0
    refused(lambda: surface_mesh(full.with_array(0 * single)), "the mask is empty", "no surface")
    mask = ball(20, (1.5, 0.8, 1.0))
    hollow = mask.with_array(mask.array.copy())
    hollow.array[18:22, 34:42, 26:34] = 0
    solid, mesh = (as_trimesh(surface_mesh(one)) for one in (mask, hollow))
    assert solid.volume - mesh.volume == pytest.approx(4 * 8 * 8 * np.prod(mask.spacing), rel=0.12)
    assert mesh.body_count == 2


def test_stl_is_read_back_by_trimesh(tmp_path):
    on = grid(DIRECTIONS["oblique, mirrored"])
    mesh = surface_mesh(on.with_array(parts(on)["left"]))
    write_stl(mesh, tmp_path / "left.stl")
    back = trimesh.load_mesh(str(tmp_path / "left.stl"))
    np.testing.assert_allclose(back.triangles, mesh.corners(), atol=1e-4)              # float32
    assert back.is_watertight and back.volume == pytest.approx(as_trimesh(mesh).volume, rel=1e-4)
    header = (tmp_path / "left.stl").read_bytes()[:80]
    assert header == STL_HEADER and b"SPACE=LPS" in header and not header.startswith(b"solid")


# Signed distances -------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["LPS", "oblique", "mirrored rows", "coronal"])
def test_distances_are_those_to_the_mesh_to_a_fifth_of_a_voxel_positive_inside_of_the_prediction(name):
    """Against every triangle of the prediction's mesh, each sampled densely."""
    grid = (2.0, 1.0, 1.5), DIRECTIONS[name]
    prediction = ball(6, *grid)
    result = surface_map(ball(8, *grid, shift=(5, -2, 3)), prediction)
    u, v = np.meshgrid(np.linspace(0, 1, 25), np.linspace(0, 1, 25))
    weights = np.stack([u, v, 1 - u - v], axis=-1)[u + v <= 1]
    samples = np.einsum("wc,tcx->twx", weights, surface_mesh(prediction).corners()).reshape(-1, 3)
    wanted = KDTree(samples).query(result.mesh.points)[0]
    assert np.abs(np.abs(result.distance) - wanted).max() < 0.4
    inside, clear = np.linalg.norm(result.mesh.points - MIDDLE, axis=1) < 6, wanted > 1
    np.testing.assert_array_equal(result.distance[clear] > 0, inside[clear])
    assert 0.1 < inside[clear].mean() < 0.9
    assert np.abs(surface_map(prediction, prediction).distance).max() < 1e-9
    some, none = ball(5), ball(0)
    for other, word in ((none, "empty"), (ball(5, (2.0, 1.0, 1.0)), "different grids")):
        refused(lambda other=other, word=word: surface_map(some, other), word)
        refused(lambda other=other, word=word: surface_map(other, some), word)


def two_joints(shift: int = 0, width: int = 80) -> Volume:
    array = np.zeros((30, 40, width), np.uint8)
    array[5:25, 10:30, 8 + shift:14 + shift] = array[8:22, 10:30, 70 + shift:76 + shift] = 1
    return Volume(array, (1.0, 1.0, 1.0))


def panels_of(figure):
    return {axes.get_title().replace("\n", " "): axes for axes in figure.axes if axes.get_title()}


def test_each_side_of_each_joint_has_its_panel_seen_from_where_it_says():
    """Prediction 2 mm to the patient's left: faces that look left reach too far and are orange, more red than
    blue; those that look right fall short."""
    panels = panels_of(surface_figure(two_joints(), two_joints(shift=2)))
    assert list(panels) == ["both joints from the front", "right joint, iliac side from the right",
                            "right joint, sacral side from the left",
                            "left joint, sacral side from the right",
                            "left joint, iliac side from the left"]
    heights = []
    for title, axes in panels.items():
        (surface,) = axes.collections
        red, _, blue = surface.get_facecolors()[:, :3].mean(axis=0)
        assert red - blue > 0.1 or "from the left" not in title, title
        assert red - blue < -0.1 or "from the right" not in title, title
        heights.append(np.ptp(np.concatenate([path.vertices[:, 1] for path in surface.get_paths()])))
    assert heights == pytest.approx([20, 20, 20, 14, 14], abs=0.1)
    towards = {name: tuple(np.cross(across, (0, 0, 1))) for name, (across, _) in VIEWS.items()}
    assert towards == {"from the front": (0, -1, 0), "from the left": (1, 0, 0), "from the right": (-1, 0, 0)}


def test_a_single_joint_leaves_a_panel_empty_and_is_drawn_wherever_it_lies():
    """Where the CT does not tell its side, only in the panel of both joints."""
    mask, scan = single(grid(np.eye(3), WIDE), "left")
    for known, empty in ((scan, [1, 2]), (None, [1, 2, 3, 4])):
        panels = panels_of(surface_figure(mask, mask, scan=known)).values()
        words = [[text.get_text() for text in axes.texts] for axes in panels]
        assert [i for i, texts in enumerate(words) if texts == ["no joint"]] == empty
    for first in (6, 10, 14, 16, 2):
        array = np.zeros((20, 32, 32), np.uint8)
        array[5:14, 8:18, first:first + 10] = 1
        joint = Volume(array, (3.0, 2.0, 2.0))
        assert len(panels_of(surface_figure(joint, joint))) == 5, first


def test_a_joint_that_was_not_predicted_is_grey_and_leaves_the_scale_alone():
    """The true joints say where left and right part, also where the middle of the scan is beyond both."""
    truth, prediction = (two_joints(shift, width=150) for shift in (0, 1))
    prediction.array[..., :40] = 0
    maps = joint_maps(truth, prediction)
    assert np.isnan(maps["right"].distance).all() and np.abs(maps["left"].distance).max() < 3
    figure = surface_figure(truth, prediction)
    missed = panels_of(figure)["right joint, iliac side from the right not predicted"]
    assert np.ptp(missed.collections[0].get_facecolors()[:, :3], axis=1).max() < 1e-6
    (bar,) = [axes for axes in figure.axes if axes.get_xlabel()]
    assert bar.get_xlim()[1] < 3
