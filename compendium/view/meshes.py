"""Surfaces of masks as triangle meshes, in STL and VTP files.

Points are LPS coordinates in mm. Both formats say so in the file (``SPACE=LPS``), the way 3D Slicer looks for it;
other programs take millimetres for granted and show the same shape.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from skimage.measure import marching_cubes

from magunet.base.errors import InputError
from magunet.base.provenance import whole_file
from magunet.surfaces import bounding_box
from magunet.volume import Volume

STL_RECORD = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
"""One triangle of a binary STL file: 50 bytes."""
STL_HEADER = b"magunet; SPACE=LPS; UNIT=mm".ljust(80)
"""Must not begin with "solid", which marks the text form of STL."""


@dataclass(frozen=True)
class Mesh:
    """A closed surface. points: (n, 3) LPS mm, float64. triangles: (m, 3) int32, three indices of points each,
    counter-clockwise seen from outside."""

    points: np.ndarray
    triangles: np.ndarray

    def corners(self) -> np.ndarray:
        """The triangles' corners in mm, (m, 3, 3): triangle, corner, x-y-z."""
        return self.points[self.triangles]

    def normals(self) -> np.ndarray:
        """Unit vectors (m, 3) that point out of each triangle."""
        a, b, c = np.moveaxis(self.corners(), 1, 0)
        normals = np.cross(b - a, c - a)
        return normals / np.linalg.norm(normals, axis=1, keepdims=True)

    def volume_ml(self) -> float:
        """What the surface encloses, by the divergence theorem."""
        a, b, c = np.moveaxis(self.corners() - self.points.mean(axis=0), 1, 0)
        return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6000)


def surface_mesh(mask: Volume) -> Mesh:
    """The surface of a mask's non-zero voxels, halfway between the voxels inside and those outside.

    Marching cubes after Lewiner (scikit-image), on a grid of any orientation. Outside the scan counts as background, so
    that a mask at the border is closed there. Nothing is smoothed: the mesh is the mask, with its steps.
    Raises InputError for an empty mask, which has no surface.
    """
    inside = mask.array != 0
    if not inside.any():
        raise InputError("the mask is empty, so it has no surface; export another case, or leave the meshes out")
    box = bounding_box(inside)
    index, triangles, _, _ = marching_cubes(np.pad(inside[box], 1).astype(np.float32), 0.5)
    index = index + [b.start - 1 for b in box]                                  # z-y-x, of the whole grid
    step = mask.direction * np.asarray(mask.spacing[::-1])                      # columns: one voxel along x, y, z
    mesh = Mesh(np.asarray(mask.origin) + index[:, ::-1] @ step.T, triangles.astype(np.int32))
    if mesh.volume_ml() < 0:                                                    # depends on the handedness of the grid
        mesh = Mesh(mesh.points, np.ascontiguousarray(mesh.triangles[:, ::-1]))
    return mesh


def write_stl(mesh: Mesh, path: Path | str) -> None:
    """Binary STL, float32, whole or not at all."""
    records = np.zeros(len(mesh.triangles), STL_RECORD)
    records["normal"], records["corners"] = mesh.normals(), mesh.corners()
    with whole_file(Path(path)) as part:
        part.write_bytes(STL_HEADER + np.uint32(len(records)).astype("<u4").tobytes() + records.tobytes())


def write_vtp(mesh: Mesh, path: Path | str, values: Mapping[str, np.ndarray] | None = None) -> None:
    """VTK's XML format for surfaces, float64, whole or not at all. values: a number for each point (n,), by its name."""
    count = len(mesh.triangles)
    root = ElementTree.Element("VTKFile", type="PolyData", version="1.0", byte_order="LittleEndian", header_type="UInt64")
    data = ElementTree.SubElement(root, "PolyData")
    field = ElementTree.SubElement(data, "FieldData")
    space = ElementTree.SubElement(field, "Array", type="String", Name="SPACE", NumberOfTuples="1", format="ascii")
    space.text = " ".join(str(byte) for byte in b"LPS\0")
    piece = ElementTree.SubElement(data, "Piece", NumberOfPoints=str(len(mesh.points)), NumberOfPolys=str(count))
    numbers, points, polygons = (ElementTree.SubElement(piece, name) for name in ("PointData", "Points", "Polys"))
    for parent, name, kind, column in (
            *((numbers, name, "Float64", np.asarray(one, "<f8")) for name, one in (values or {}).items()),
            (points, "Points", "Float64", mesh.points.astype("<f8")),
            (polygons, "connectivity", "Int64", mesh.triangles.astype("<i8")),
            (polygons, "offsets", "Int64", 3 * np.arange(1, count + 1, dtype="<i8"))):
        array = ElementTree.SubElement(parent, "DataArray", type=kind, Name=name, format="binary",
                                       NumberOfComponents="3" if name == "Points" else "1")
        content = column.tobytes()
        array.text = base64.b64encode(np.uint64(len(content)).astype("<u8").tobytes() + content).decode()
    with whole_file(Path(path)) as part:
        ElementTree.ElementTree(root).write(part, encoding="utf-8", xml_declaration=True)
