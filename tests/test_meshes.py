"""Meshes: closed, turned outwards, where the mask is, and read back by other programs."""

import numpy as np
import pytest
import SimpleITK
import trimesh
from conftest import refused
from joint_object import DIRECTIONS, both, grid, parts, world

from compendium.view.meshes import STL_HEADER, surface_mesh, write_stl
from magunet.volume import Volume

every_direction = pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)


def ball(direction=DIRECTIONS["LPS"], radius=20.0, spacing=(1.5, 0.8, 1.0), centre=(31.0, -12.0, 7.0)):
    shape = tuple(int(2 * radius / s) + 6 for s in spacing)
    on = grid(direction, shape, spacing, centre)
    return on.with_array((np.linalg.norm(world(on) - centre, axis=-1) < radius).astype(np.uint8))


def as_trimesh(mesh):
    return trimesh.Trimesh(mesh.points, mesh.triangles, process=False)


@every_direction
def test_a_mesh_is_closed_turned_outwards_and_in_its_place(direction):
    mesh = surface_mesh(ball(direction))
    theirs = as_trimesh(mesh)
    assert theirs.is_watertight and theirs.is_winding_consistent
    assert theirs.volume / 1000 == pytest.approx(4 / 3 * np.pi * 8, rel=0.02)
    np.testing.assert_allclose(theirs.center_mass, (31, -12, 7), atol=0.05)
    np.testing.assert_allclose(mesh.normals(), theirs.face_normals, atol=1e-6)
    outwards = np.einsum("ij,ij->i", mesh.normals(), mesh.corners().mean(axis=1) - (31, -12, 7))
    assert (outwards > 0).all()
    assert np.linalg.norm(mesh.points - (31, -12, 7), axis=1) == pytest.approx(20, abs=0.8)     # half a voxel


@every_direction
def test_every_point_lies_halfway_between_a_voxel_inside_and_one_outside(direction):
    """Told by SimpleITK's index of the point. Lewiner puts a few more inside of cells whose corners do not
    settle the surface."""
    mask = both(grid(direction))
    image = SimpleITK.GetImageFromArray(mask.array)
    image.SetSpacing(mask.spacing[::-1])
    image.SetOrigin(mask.origin)
    image.SetDirection(mask.direction.ravel().tolist())
    index = np.array([image.TransformPhysicalPointToContinuousIndex(p)
                      for p in surface_mesh(mask).points.tolist()])
    halves = np.abs(index - np.round(index)) > 0.4
    on_edge = halves.sum(axis=1) == 1
    assert on_edge.mean() > 0.995
    index, halves = index[on_edge], halves[on_edge]
    assert np.abs(np.where(halves, 0, index - np.round(index))).max() < 1e-6
    inside = np.pad(mask.array, 1) != 0
    low, high = (tuple((np.round(index + sign * 0.5 * halves)).astype(int)[:, ::-1].T + 1)
                 for sign in (-1, 1))
    assert (inside[low] != inside[high]).all()


def test_masks_at_the_border_and_single_voxels_have_a_closed_surface_and_empty_ones_none():
    mesh = surface_mesh(Volume(np.ones((3, 4, 5), np.uint8), (2.0, 1.0, 1.5), (10, 20, 30)))
    assert as_trimesh(mesh).is_watertight
    np.testing.assert_allclose(mesh.points.min(axis=0), (10 - 0.75, 20 - 0.5, 30 - 1))
    np.testing.assert_allclose(mesh.points.max(axis=0), (10 + 6 + 0.75, 20 + 3 + 0.5, 30 + 4 + 1))
    single = np.zeros((3, 3, 3))
    single[1, 1, 1] = 5
    mesh = as_trimesh(surface_mesh(Volume(single, (1, 1, 1))))
    assert mesh.is_watertight and mesh.volume > 0
    for kind in (np.uint8, bool):
        empty = Volume(np.zeros((4, 5, 6), kind), (1, 1, 1))
        refused(lambda empty=empty: surface_mesh(empty), "the mask is empty", "no surface")


def test_hollows_and_pieces_count_as_they_should():
    mask = ball()
    hollow = mask.array.copy()
    hollow[10:14, 22:30, 18:26] = 0
    mesh = as_trimesh(surface_mesh(mask.with_array(hollow)))
    removed = as_trimesh(surface_mesh(mask)).volume - mesh.volume
    assert removed == pytest.approx(4 * 8 * 8 * np.prod(mask.spacing), rel=0.12)
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
