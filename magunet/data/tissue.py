"""Tissue of the phantom: bone, soft tissue and joint disease as HU on a scan grid.

Levels are signed distances in mm, negative inside, so that every surface is sub-voxel and every edge carries
partial volume. HU ranges: cortical bone 600 to 1300, trabecular bone 100 to 300, muscle 40 to 70, fat -120 to
-80. Disease follows the modified New York criteria (van der Linden et al., Arthritis Rheum 1984;27:361).
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import ndtri

from magunet.data.anatomy import Bones, rounded_cone
from magunet.data.scanner import Axes, Scan, SmoothField

Array = NDArray[np.float32]
Figures = dict[str, float]

_LATTICE = 5.0  # mm, pitch of the lattice on which soft tissue is laid out
_TEXTURE = dict(fine=2.2, trabecular=4.0, streak=5.0, soft=9.0, bowel=17.0, marrow=18.0, gas=30.0)  # mm
_LESION_TEXTURE = dict(erosion=4.5, patch=13.0, bridge=9.0)  # mm

# Disease by grade 0..4: blur of the margin (mm), depth of erosions (mm), sclerosis (HU) and its reach (mm),
# fraction of the joint that is bridged by bone.
_MARGIN = (0.0, 1.4, 1.6, 2.0, 1.6)
_EROSION = (0.0, 0.5, 2.0, 3.5, 2.0)
_SCLEROSIS = (0.0, 50.0, 170.0, 320.0, 400.0)
_REACH = (3.0, 4.0, 5.0, 8.0, 10.0)
_BRIDGED = (0.0, 0.0, 0.0, 0.22, 0.8)


@dataclass(frozen=True)
class Distances:
    """Signed distances (mm) on part of the scan grid, all (d, h, w)."""

    sacrum: Array
    left_hip: Array
    right_hip: Array
    other: Array


def draw_tissue(rng: np.random.Generator) -> Figures:
    """HU values and thicknesses of one person."""
    contrast = rng.random() < 0.35
    figures = {
        "cortical_hu": rng.uniform(700, 1250),
        "cortical_mm": rng.uniform(0.9, 1.9),
        "trabecular_hu": rng.uniform(110, 270),
        "trabecular_sd": rng.uniform(25, 50),
        "marrow_sd": rng.uniform(25, 55),
        "muscle_hu": rng.uniform(48, 66),
        "fat_hu": rng.uniform(-115, -95),
        "cartilage_hu": rng.uniform(25, 85),
        "vessel_hu": rng.uniform(110, 200) if contrast else rng.uniform(35, 50),
        "fat_mm": rng.uniform(7, 32),
        "muscle_fat": rng.uniform(0.0, 1.0),
        "belly_mm": rng.uniform(20, 75),
        "flank_mm": rng.uniform(14, 34),
        "back_mm": rng.uniform(14, 34),
        "gas": rng.uniform(0.3, 1.1),
    }
    return {name: float(value) for name, value in figures.items()}


def draw_disease(rng: np.random.Generator, grades: tuple[int, int]) -> dict[str, Figures]:
    """Lesions of each side: what the grade asks for, give or take."""
    lesions = {}
    for side, grade in zip(("left", "right"), grades):
        vary = rng.uniform(0.75, 1.25, 5).tolist()
        shift = float(rng.uniform(-0.5, 0.7))  # mm, narrowing or widening of the space in grade 3
        lesions[side] = {
            "margin": _MARGIN[grade] * vary[0],
            "erosion": _EROSION[grade] * vary[1],
            "sclerosis": _SCLEROSIS[grade] * vary[2],
            "reach": _REACH[grade] * vary[3],
            "bridged": min(0.95, _BRIDGED[grade] * vary[4]),
            "widening": (0.0, 0.0, 0.1, shift, -0.4)[grade],
        }
    return lesions


class Body:
    """All tissue of one person, ready to be rendered slab by slab.

    `points` are the scan lattice mapped into the bones' frame (see `phantom`), in mm from `centre`, the
    middle between the joints; `bones` give the landmarks that the soft tissue hangs on.
    """

    def __init__(
        self, rng: np.random.Generator, disease_rng: np.random.Generator, scan: Scan, bones: Bones,
        points: Axes, centre: NDArray, figures: Figures, lesions: dict[str, Figures],
    ) -> None:  # fmt: skip
        self.figures, self.lesions, self.scan = figures, lesions, scan
        axes = SmoothField.lattice(scan, _LATTICE)
        levels = _soft_levels(rng, bones, points, centre, figures)
        levels["table"] = _table(levels["body"], axes)
        self.levels = {name: SmoothField.sampled(level, axes) for name, level in levels.items()}
        self.noise = {name: SmoothField.noise(rng, scan, scale) for name, scale in _TEXTURE.items()}
        self.lesion_noise = {
            name: SmoothField.noise(disease_rng, scan, scale) for name, scale in _LESION_TEXTURE.items()
        }

    def render(self, distances: Distances, axes: Axes) -> Array:
        """HU (d, h, w) of one slab, without blur and noise."""
        d = distances
        hips = np.minimum(d.left_hip, d.right_hip)
        hu = self._soft_tissue(d, hips, axes)
        bone, sclerosis, margin = self._diseased_bone(d, hips, axes)
        thinner = np.float32(0.75)  # the cortex of the sacrum and the spine
        shell = np.where(hips < d.sacrum, np.float32(1.1), thinner)
        return self._paint_bone(hu, bone, shell, sclerosis, margin, np.maximum(d.sacrum, hips), axes)

    def _soft_tissue(self, d: Distances, hips: Array, axes: Axes) -> Array:
        """Air, couch, skin, fat, organs, muscles and what fills the joints, painted in this order."""
        at = {name: field.at(axes) for name, field in self.levels.items()}
        noise = {name: self.noise[name].at(axes) for name in ("soft", "streak", "bowel", "gas")}
        hu = np.full(d.sacrum.shape, -1000.0, np.float32)
        edge = max(0.8, 0.8 * self.scan.pixel)
        couch = np.abs(at["table"] - 7) - 7  # foam between two carbon sheets
        _paint(hu, couch, -150.0, edge)
        _paint(hu, couch + 1, -820.0, edge)
        _paint(hu, at["body"], 30.0, edge)
        _paint(hu, at["body"] + 2, self.figures["fat_hu"] + 6 * noise["soft"], edge)
        self._paint_organs(hu, at, noise, edge)
        self._paint_muscles(hu, at, hips, noise, edge)
        self._paint_joints(hu, d, hips, noise, edge)
        return hu

    def _paint_organs(self, hu: Array, at: dict[str, Array], noise: dict[str, Array], edge: float) -> None:
        """Bowel (wall, content, gas), bladder and rectum."""
        soft, bowel = noise["soft"], 1.3 * noise["bowel"]
        wall = np.maximum(at["cavity"] + 4, 9 * (0.15 - bowel))
        _paint(hu, wall, 42 + 5 * soft, edge)
        _paint(hu, wall + 3, 18 + 10 * soft, edge)
        gas = 9 * (2.3 - self.figures["gas"] - bowel - 0.8 * noise["gas"])
        _paint(hu, np.maximum(wall + 4, gas), -880.0, edge)
        _paint(hu, at["bladder"], 9.0, edge)
        _paint(hu, at["rectum"], 38 + 5 * soft, edge)
        _paint(hu, np.maximum(at["rectum"] + 4, 8 * (0.7 - bowel)), -850.0, edge)

    def _paint_muscles(
        self, hu: Array, at: dict[str, Array], hips: Array, noise: dict[str, Array], edge: float
    ) -> None:
        """Muscles, streaked with fat in some people, and the vessels between them."""
        f, soft, streak = self.figures, noise["soft"], noise["streak"]
        muscle = f["muscle_hu"] + 4 * soft - 25 * f["muscle_fat"] * np.clip(streak - 0.8, 0, 2)
        gluteal = at["gluteal"]
        for depth in (13.0, 29.0):  # fat planes between the three gluteal muscles
            gluteal = np.maximum(gluteal, 1.1 - np.abs(hips - depth - 3 * soft))
        iliacus = np.maximum(at["iliacus"], hips - 13 - 3 * soft)
        spinal = np.maximum(at["paraspinal"], 0.9 * streak - 1.6 + f["muscle_fat"])
        for level in (gluteal, iliacus, spinal, at["psoas"], at["wall"], at["piriformis"]):
            _paint(hu, level, muscle, edge)
        _paint(hu, at["vessels"], f["vessel_hu"] + 3 * soft, edge)

    def _paint_joints(
        self, hu: Array, d: Distances, hips: Array, noise: dict[str, Array], edge: float
    ) -> None:
        """Cartilage and ligaments of the sacroiliac joints, the lumbosacral disc, the hip joints."""
        joint = np.maximum(np.maximum(d.sacrum, hips) - 9, d.sacrum + hips - 13)
        _paint(hu, joint, self.figures["cartilage_hu"] + 10 * noise["streak"], edge)
        disc = np.maximum(np.maximum(d.sacrum, d.other) - 12, d.sacrum + d.other - 15)
        _paint(hu, disc, 75 + 8 * noise["soft"], edge)
        _paint(hu, np.maximum(hips, d.other) - 4, 50.0, edge)

    def _diseased_bone(self, d: Distances, hips: Array, axes: Axes) -> tuple[Array, Array, Array]:
        """Distance to all bone after disease, sclerosis in HU, and the extra blur of the margin in mm."""
        bone = np.minimum(np.minimum(d.sacrum, hips), d.other)
        sclerosis, margin = np.zeros_like(bone), np.zeros_like(bone)
        noises = {name: field.at(axes) for name, field in self.lesion_noise.items()}
        for side, hip in (("left", d.left_hip), ("right", d.right_hip)):
            lesion = self.lesions[side]
            where = (d.sacrum < 25) & (hip < 25) & (d.sacrum + hip < 30)
            if lesion["margin"] == 0 or not where.any():
                continue
            local = {name: noise[where] for name, noise in noises.items()}
            joint = d.sacrum[where], hip[where], bone[where]
            bone[where], sclerosis[where], margin[where] = _lesions(lesion, *joint, local)
        return bone, sclerosis, margin

    def _paint_bone(
        self,
        hu: Array,
        bone: Array,
        shell: Array,
        sclerosis: Array,
        margin: Array,
        to_joint: Array,
        axes: Axes,
    ) -> Array:
        f = self.figures
        where = np.flatnonzero(bone < 3)
        depth = -bone.ravel()[where]
        fine, trabecular, marrow = (
            self.noise[n].at(axes).ravel()[where] for n in ("fine", "trabecular", "marrow")
        )
        near = np.exp(-np.clip(to_joint.ravel()[where], 0, None) / 4)  # 1 at the joint
        inner = (
            f["trabecular_hu"]
            + f["trabecular_sd"] * (0.5 * fine + 0.7 * trabecular)
            + f["marrow_sd"] * marrow
        )
        inner = np.maximum(inner, -40) + sclerosis.ravel()[where] * (1 + 0.15 * trabecular)
        shell_mm = f["cortical_mm"] * shell.ravel()[where] * (1 + 0.2 * marrow.clip(-2, 2)) * (1 + 0.4 * near)
        edge = max(0.6, 0.7 * self.scan.pixel)
        cortex = np.clip(0.5 - (depth - shell_mm) / (1.2 + margin.ravel()[where]), 0, 1)
        cortical = f["cortical_hu"] * (1 + 0.08 * trabecular + 0.1 * near)
        inner += cortex * np.maximum(cortical - inner, 0)
        inside = np.clip(0.5 + depth / (edge + margin.ravel()[where]), 0, 1)
        flat = hu.ravel()
        flat[where] += inside * (inner - flat[where])
        return hu


def _lesions(
    lesion: Figures, sacrum: Array, hip: Array, bone: Array, noise: dict[str, Array]
) -> tuple[Array, Array, Array]:
    """Erodes, hardens and bridges one joint; all arrays are lists of the voxels near it."""
    to_joint = np.maximum(sacrum, hip)  # mm from the opposite bone
    near = np.clip(1.5 - to_joint / 10, 0, 1)
    pits = np.clip(noise["erosion"] - 0.7, 0, 1.2) / 1.2
    bone = bone + near * (lesion["erosion"] * pits + lesion["widening"] / 2)
    bridged = 1.5 * (noise["bridge"] - ndtri(1 - lesion["bridged"]))
    bone = np.minimum(bone, np.maximum(-3 * bridged, (sacrum + hip - 8) / 2))
    patch = np.clip(0.75 + 0.45 * noise["patch"], 0, 1.4)
    sclerosis = (
        lesion["sclerosis"] * patch * np.exp(-((np.clip(to_joint - 2, 0, None) / lesion["reach"]) ** 2))
    )
    return bone, sclerosis, lesion["margin"] * near


def _paint(hu: Array, level: Array, value: Array | float, edge: float) -> None:
    """Mixes `value` into `hu` where `level` is negative, with an edge of `edge` mm."""
    inside = np.clip(0.5 - level / np.float32(edge), 0, 1)
    inside *= value - hu
    hu += inside


def _soft_levels(
    rng: np.random.Generator, bones: Bones, points: Axes, centre: NDArray, f: Figures
) -> dict[str, Array]:
    """Signed distances (mm) of organs and muscles at lattice points (z, y, x) in the bones' frame."""
    z, y, x = points
    lateral, behind, low, high = _sheets(bones, points, centre)
    outer, inner = _outline(z, y, x, low, high, f)
    medial = np.maximum(lateral, behind)  # negative: in front of the sacrum and between the hips
    ax = np.abs(x)

    def tube(*knots: tuple[float, float, float, float]) -> Array:
        """Union of rounded cones through knots (z, y, |x|, radius)."""
        return np.minimum.reduce([rounded_cone(z, y, ax, a, b) for a, b in pairwise(knots)])

    j = rng.normal(0, 2.5, 12)
    psoas = tube((95, -50, 40, 17), (40, -65, 52, 19), (-20, -82, 72, 18), (-80, -78, 88, 15))
    vessels = np.minimum(
        tube(
            (60, -88 + j[0], 16, 6), (20, -72 + j[1], 34, 5.5), (-30, -78, 54 + j[2], 5), (-80, -100, 62, 5)
        ),
        tube((60, -78 + j[3], 10, 8), (20, -60 + j[4], 36, 7), (-30, -66, 58 + j[5], 6.5), (-80, -92, 66, 6)),
    )
    vessels = np.minimum(vessels, tube((20, -62, 36, 4), (0, -25 + j[6], 44, 3.5), (-25, 0, 42, 3)))
    rectum = tube((-10, -5 + j[7], 0, 13), (-35, 18, 0, 14), (-60, 28, 0, 15), (-90, 20, 0, 14))
    piriformis = tube((-8, 8, 22, 7), (-22, 10, 55, 11), (-38, 2, 95, 8))
    bladder = np.sqrt(((z + 85) / 28) ** 2 + ((y + 62) / 32) ** 2 + (x / 38) ** 2) * 30 - 30 + 3 * j[8]
    wall_mm = np.where(ax > 60, 17, 11)
    return {
        "body": outer,
        "cavity": np.maximum.reduce([medial + 14, inner + 20, -psoas, -vessels, -rectum, -bladder]),
        "gluteal": np.maximum(inner, -lateral),
        "iliacus": np.maximum.reduce([lateral, inner, y + 22]),
        "paraspinal": np.maximum.reduce([inner, -behind, lateral, ax - 52, 3 - ax]),
        "psoas": np.maximum(psoas, inner),
        "wall": np.maximum.reduce([inner, -(inner + wall_mm), y + 55, 2.5 - ax]),
        "vessels": vessels,
        "rectum": rectum,
        "bladder": bladder,
        "piriformis": piriformis,
    }


def _outline(z: Array, y: Array, x: Array, low: NDArray, high: NDArray, f: Figures) -> tuple[Array, Array]:
    """Levels of the skin and of the inner border of the subcutaneous fat."""
    front, back = low[1] - f["belly_mm"], high[1] + f["back_mm"]
    half_width = (high[2] - low[2]) / 2 + f["flank_mm"] - 0.05 * np.clip(z, 0, None)
    ry, yc = (back - front) / 2, (back + front) / 2
    u, v = np.abs(x) / half_width, np.abs(y - yc) / ry
    radius = (u**2.5 + v**2.5) ** 0.4
    outer = (1 - 1 / np.maximum(radius, 0.05)) * np.hypot(x, y - yc)
    cleft = np.exp(-((x / 9) ** 2)) * np.clip((-z - 5) / 50, 0, 1) * 35  # between the buttocks
    outer = outer + cleft * np.clip((y - yc) / ry - 0.4, 0, 1)
    thick = f["fat_mm"] * (1 + 0.5 * np.clip((y - yc) / ry, -0.4, 1) + 0.3 * np.clip(u - 0.5, 0, 0.5))
    return outer, outer + thick + 2


def _table(body: Array, axes: Axes) -> Array:
    """Depth (mm) below the curved top of the couch, on which the body rests."""
    _, y, x = np.meshgrid(*axes, indexing="ij")
    lowest = float(y[body < 0].max()) - 3 if (body < 0).any() else axes[1][-1]
    radius = 420.0
    return np.maximum(np.hypot(x, y - (lowest - radius)) - radius, np.abs(x) - 215)


def _sheets(bones: Bones, points: Axes, centre: NDArray) -> tuple[Array, Array, NDArray, NDArray]:
    """Levels of the sheets on which the hips (negative: medial) and the sacrum (negative: in front) lie.

    Also the box (low, high) of the hips. All in mm from `centre`, the middle between the joints.
    """
    _, y, x = points
    step = max(1, round(4 / bones.spacing))
    pitch = step * bones.spacing
    sacrum, left, right = (
        b[::step, ::step, ::step] < 0 for b in (bones.sacrum, bones.left_hip, bones.right_hip)
    )
    index = np.stack([(c + m) / pitch for c, m in zip(points, centre)])
    xs, ys = np.arange(left.shape[2]) * pitch - centre[2], np.arange(left.shape[1]) * pitch - centre[1]
    hips = [_lookup(_mean_position(side, 2, xs), index[:2]) for side in (left, right)]
    lateral = np.where(x > 0, x - hips[0], hips[1] - x)
    behind = y - _lookup(_mean_position(sacrum, 1, ys), index[::2])
    corners = np.argwhere(left | right)
    return lateral, behind, corners.min(0) * pitch - centre, corners.max(0) * pitch - centre


def _mean_position(mask: NDArray[np.bool_], axis: int, position: NDArray) -> Array:
    """Mean position of the mask along an axis; where the mask has none, that of the nearest place."""
    shape = [1, 1, 1]
    shape[axis] = -1
    count = mask.sum(axis)
    mean = (mask * position.reshape(shape)).sum(axis) / np.maximum(count, 1)
    nearest = ndimage.distance_transform_edt(count == 0, return_distances=False, return_indices=True)
    return ndimage.gaussian_filter(mean[tuple(nearest)], 1.5)


def _lookup(table: NDArray, index: NDArray) -> Array:
    return ndimage.map_coordinates(table, index, order=1, mode="nearest")
