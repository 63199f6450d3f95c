"""Surfaces of masks as triangle meshes, and STL files of them, in LPS coordinates and mm."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from skimage.measure import marching_cubes

from magunet.base.errors import require
from magunet.base.provenance import whole_file
from magunet.volume import Volume, bounding_box

STL_HEADER = b"magunet; SPACE=LPS; UNIT=mm".ljust(80)
"""As 3D Slicer looks for it. It must not begin with "solid", which marks the text form of STL."""


class Mesh(NamedTuple):
    """A closed surface: points (n, 3) in LPS mm, triangles (m, 3) of points, which turn outwards."""

    points: np.ndarray
    triangles: np.ndarray

    def corners(self) -> np.ndarray:
        """Of the triangles, in mm, (m, 3, 3): triangle, corner, x-y-z."""
        return self.points[self.triangles]

    def normals(self) -> np.ndarray:
        """Unit vectors (m, 3) that point out of each triangle."""
        a, b, c = np.moveaxis(self.corners(), 1, 0)
        normals = np.cross(b - a, c - a)
        return normals / np.linalg.norm(normals, axis=1, keepdims=True)


def surface_mesh(mask: Volume) -> Mesh:
    """The surface of a mask's non-zero voxels, halfway between those inside and those outside: marching cubes
    (Lewiner), not smoothed, closed at the border. Raises InputError for an empty mask."""
    require(mask.array.any(), "the mask is empty, so it has no surface; choose another case or network")
    box = bounding_box(mask.array)
    index, triangles, _, _ = marching_cubes(np.pad(mask.array[box] != 0, 1).astype(np.float32), 0.5)
    index = index + [side.start - 1 for side in box]                     # z-y-x, of the whole grid
    turn = 1 if np.linalg.det(mask.direction) > 0 else -1     # a mirrored grid turns triangles round
    return Mesh(mask.to_world(index), triangles[:, ::turn])


def write_stl(mesh: Mesh, path: Path | str) -> None:
    """Binary STL, float32, whole or not at all."""
    triangle = [("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")]        # 50 bytes
    records = np.zeros(len(mesh.triangles), triangle)
    records["normal"], records["corners"] = mesh.normals(), mesh.corners()
    with whole_file(Path(path)) as part:
        part.write_bytes(STL_HEADER + np.uint32(len(records)).astype("<u4").tobytes() + records.tobytes())
