"""A seeded phantom of the pelvis in CT, from the bones to the scan.

Everything is drawn from one seed; each part has its own stream of random numbers, so that a change of the
noise leaves the anatomy as it is.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from magunet.base.errors import require
from magunet.target import FAR, joint_band
from sijphantom import scanner, tissue
from sijphantom.anatomy import Bones, Parameters
from sijphantom.disease import draw_disease
from sijphantom.fields import Axes, SmoothField
from sijphantom.pelvis import parametric_pelvis
from sijphantom.projection import add_artefacts
from sijphantom.scanner import Acquisition, Protocol

_LATTICE = 5.0  # mm, pitch of the lattice that carries the deformation
_GRADES = (0.35, 0.15, 0.2, 0.15, 0.15)  # share of joints with grade 0..4
_STREAMS = ("pose", "scan", "grades", "tissue", "fields", "disease", "lesions", "noise")  # random, one a part


@dataclass(frozen=True)
class Phantom:
    """A CT with its truth.

    `image` is int16 HU, `mask` uint8 (1 joint), `bones` uint8 (1 sacrum, 2 left hip, 3 right hip), all
    (d, h, w) in LPS order: z grows to superior, y to posterior, x to the patient's left. `spacing` is
    (z, y, x) in mm, `grades` (left, right) are 0 to 4. `mask` and `bones` show the anatomy before disease, so
    an ankylosed joint keeps its target. `parameters` holds all that was drawn and can be written as JSON.
    """

    image: NDArray[np.int16]
    mask: NDArray[np.uint8]
    bones: NDArray[np.uint8]
    spacing: tuple[float, float, float]
    grades: tuple[int, int]
    parameters: dict[str, Any]


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """torch computes in one thread, and so comes to the same bits on any number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@_one_thread()
def make_phantom(seed: int, *, matrix: int = 512, slices: tuple[int, int] = (50, 200),
                 bones: Bones | None = None, grades: tuple[int, int] | None = None, thickness: float = 6.0,
                 protocol: Protocol | None = None) -> Phantom:
    """Returns the phantom of this seed: `matrix` x `matrix` pixels, a number of slices drawn from `slices`.

    `bones=None` draws a parametric pelvis; given bones are deformed anew for every seed. `grades` (left,
    right) overrides the drawn ones; `thickness` is that of the target in mm; `protocol` sets the ranges of
    pixels, slices, coverage and noise, those of the paper's cohort without it. Raises `InputError` for bones
    without a joint, grades outside 0 to 4, or a scan too short or too narrow for the joints.
    """
    children = np.random.SeedSequence(seed).spawn(len(_STREAMS))
    rng = {name: np.random.default_rng(child) for name, child in zip(_STREAMS, children)}
    protocol = protocol or Protocol()
    parametric = bones is None
    if parametric:
        bones = parametric_pelvis(seed, float(np.clip(1.75 * np.mean(protocol.pixels(matrix)), 1.0, 2.5)))
    grades = _draw_grades(rng["grades"]) if grades is None else grades
    require(len(grades) == 2 and all(grade in range(5) for grade in grades),
            f"grades are two whole numbers from 0 to 4 (left, right), not {grades}")
    grades = int(grades[0]), int(grades[1])
    joints = _joint_points(bones)
    pose = Pose(rng["pose"], joints.mean(0), stretched=not parametric)
    places = pose.to_scan(joints)
    scan = scanner.draw_acquisition(rng["scan"], matrix, slices, protocol, places.min(0), places.max(0))
    tissues = tissue.draw_tissue(rng["tissue"])
    lesions = draw_disease(rng["disease"], grades)
    lattice = SmoothField.lattice(scan.axes(), _LATTICE)
    points = pose.to_bones(np.meshgrid(*lattice, indexing="ij"))
    body = tissue.Body(rng["fields"], rng["lesions"], scan, bones, points, pose.centre, tissues, lesions)
    image, (sacrum, left, right) = _render(body, bones, pose, points, lattice, scan)
    add_artefacts(image, scan, rng["noise"])
    mask = np.logical_or(*(joint_band(sacrum, hip, scan.spacing, thickness) for hip in (left, right)))
    image = np.clip(np.rint(image), -1024, 3071).astype(np.int16)       # whole HU in the range of 12-bit CT
    labels = np.zeros(scan.shape, np.uint8)
    for value, distance in enumerate((sacrum, left, right), 1):
        labels[distance < 0] = value
    parameters = {
        "seed": int(seed), "thickness": float(thickness), "grades": list(grades),
        "scan": asdict(scan) | {"origin": list(scan.origin)}, "pose": pose.parameters,
        "pelvis": dict(bones.parameters), "tissue": tissues, "lesions": lesions}
    return Phantom(image, mask.astype(np.uint8), labels, scan.spacing, grades, parameters)


class Pose:
    """Rotation, scale and smooth deformation from scan space to the bones' frame, both in mm from the joints.

    The deformation is a sum of random plane waves at a few wavelengths: body shape (140 mm), bone shape
    (60 mm) and surface (28 mm). Bones that are given are stretched along the axes, too; others differ in size
    anyway. `swelling` is how far in mm the surfaces of the bones move outwards, nothing in a quarter: bone
    models differ in where they put them, and clefts in whether CT resolves them.
    """

    _WAVES = ((140.0, 4.0), (60.0, 1.6), (28.0, 0.4))  # wavelength and amplitude in mm
    _COUNT = 6  # waves of each length

    def __init__(self, rng: np.random.Generator, centre: NDArray, stretched: bool) -> None:
        self.centre = centre
        angles = rng.normal(0, [4, 3, 9])  # degrees about z (turned), y (leaning), x (pelvic tilt)
        stretch = np.clip(rng.normal(1, 0.05, 3), 0.88, 1.12) if stretched else np.ones(3)
        turn = Rotation.from_euler("zyx", angles, degrees=True).as_matrix()[::-1, ::-1]
        self.matrix = turn @ np.diag(1 / stretch)
        self.scale = float(stretch.prod() ** (1 / 3))
        self.waves = []
        for length, amplitude in np.repeat(self._WAVES, self._COUNT, axis=0):
            way = rng.standard_normal(3)
            wave = way / np.linalg.norm(way) * 2 * np.pi / length
            self.waves.append((wave, rng.normal(0, amplitude / 2, 3), rng.uniform(0, 2 * np.pi)))
        self.swelling = float(max(0, rng.uniform(-0.6, 1.8)))
        names = "turn", "lean", "tilt", "stretch_z", "stretch_y", "stretch_x"
        self.parameters: Parameters = dict(zip(names, [*angles.tolist(), *stretch.tolist()]))
        self.parameters["swelling"] = self.swelling

    def to_bones(self, points: Axes) -> list[NDArray]:
        """Scan points (z, y, x), any shape, in the bones' frame."""
        places = [sum(m * p for m, p in zip(row, points)) for row in self.matrix]
        for wave, amplitude, phase in self.waves:
            swing = np.sin(sum(k * p for k, p in zip(wave, points)) + phase)
            for along, size in zip(places, amplitude):
                along += size * swing
        return places

    def to_scan(self, joints: NDArray) -> NDArray:
        """Inverse of `to_bones` for points (n, 3) in mm of the bones' grid, by fixed-point iteration."""
        target = joints - self.centre
        points = np.linalg.solve(self.matrix, target.T).T
        for _ in range(8):
            points += np.linalg.solve(self.matrix, (target - np.stack(self.to_bones(points.T), 1)).T).T
        return points


def _draw_grades(rng: np.random.Generator) -> tuple[int, int]:
    """Two grades; the second side often resembles the first."""
    left, right = rng.choice(5, 2, p=_GRADES)
    if rng.random() < 0.5:
        right = np.clip(left + rng.integers(-1, 2), 0, 4)
    return int(left), int(right)


def _joint_points(bones: Bones) -> NDArray:
    """Points (n, 3) in mm of both joints: closer than 5 mm to both bones."""
    step = max(1, round(2 / bones.spacing))
    points = []
    for name in ("left_hip", "right_hip"):
        sacrum, hip = (b[::step, ::step, ::step] for b in (bones.sacrum, getattr(bones, name)))
        where = np.argwhere((sacrum < 5) & (hip < 5))
        require(len(where), f"the bones have no joint between sacrum and {name.replace('_', ' ')}")
        points.append(where * step * bones.spacing)
    count = min(len(p) for p in points)  # both sides weigh the same in the mean
    return np.concatenate([p[np.linspace(0, len(p) - 1, count).astype(int)] for p in points])


def _render(body: tissue.Body, bones: Bones, pose: Pose, points: list[NDArray], lattice: Axes,
            scan: Acquisition) -> tuple[NDArray, NDArray]:
    """HU without noise, and the distances (3, d, h, w) to sacrum, left and right hip, on the scan grid."""
    fields = [SmoothField(p + c, lattice) for p, c in zip(points, pose.centre)]
    levels = np.stack([bones.sacrum, bones.left_hip, bones.right_hip, bones.other])
    rim = np.pad(np.zeros(np.subtract(levels.shape[1:], 2), bool), 1, constant_values=True)
    levels[:, rim] = np.maximum(levels[:, rim], 5)  # mm: beyond their grid, whose rim counts there, bones end
    volume = torch.from_numpy(levels)[None]  # (1, 4, d, h, w)
    _, y, x = scan.axes()
    rows, columns = _bone_box(volume, fields, lattice, bones.spacing, (y, x))
    image, distances = np.empty(scan.shape, np.float32), np.empty((3, *scan.shape), np.float32)
    for part in scan.slabs():
        box = (part, rows, columns)
        fine, axes = (scan.fine_z(part), y[rows], x[columns]), (scan.axes()[0][part], y, x)
        near = _sample(volume, [f.at(fine) for f in fields], bones.spacing)
        near *= np.float32(pose.scale)
        near -= np.float32(pose.swelling)
        share, dense = (scan.average(values) for values in body.bone(tissue.Distances(*near), fine))
        around = np.full((4, *image[part].shape), FAR, np.float32)
        around[:, :, rows, columns] = scan.average(near)
        distances[:, part] = around[:3]
        image[part] = body.soft_tissue(tissue.Distances(*around), axes)
        image[box] += dense - share * image[box]
        body.add_metal(image[part], axes)
        image[part] = scanner.blur(image[part], scan)
    return image, distances


def _bone_box(volume: torch.Tensor, fields: list[SmoothField], lattice: Axes, spacing: float,
              axes: tuple[NDArray, NDArray]) -> tuple[slice, slice]:
    """Rows and columns of the scan that hold the bones with 15 mm around them."""
    nearest = _sample(volume, [f.at(lattice) for f in fields], spacing).min(0) < 15
    box = []
    for places, line, along in zip(lattice[1:], axes, (1, 2)):
        near = places[nearest.any(tuple(a for a in range(3) if a != along))]
        ends = (near.min() - _LATTICE, near.max() + _LATTICE) if len(near) else (-np.inf, np.inf)
        first, last = np.searchsorted(line, ends)
        box.append(slice(int(min(first, len(line) - 1)), int(max(last, first + 1))))
    return tuple(box)


def _sample(volume: torch.Tensor, points: list[NDArray], spacing: float) -> NDArray:
    """Linear interpolation of (1, c, d, h, w) at points (z, y, x) in mm; (c, ...) like the points."""
    sizes = volume.shape[2:]
    grid = [torch.from_numpy(p * (2 / (spacing * (n - 1))) - 1) for p, n in zip(points, sizes)]
    grid = torch.stack(grid[::-1], -1)[None]
    return torch.nn.functional.grid_sample(volume, grid, padding_mode="border", align_corners=True)[0].numpy()
