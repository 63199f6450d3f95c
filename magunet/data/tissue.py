"""Tissue of the phantom: soft tissue, bone and its disease painted as HU on a scan grid.

Levels are signed distances in mm, negative inside, so that every surface is sub-voxel and every edge carries
partial volume. HU ranges: cortical bone 600 to 1300, trabecular bone 100 to 300, muscle 40 to 70, fat -120 to
-80.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from magunet.data.anatomy import Bones
from magunet.data.disease import diseased_joint
from magunet.data.organs import soft_levels, table_level
from magunet.data.scanner import Axes, Scan, SmoothField

Array = NDArray[np.float32]
Figures = dict[str, float]

_LATTICE = 5.0  # mm, pitch of the lattice on which soft tissue is laid out
_TEXTURE = dict(fine=2.2, trabecular=4.0, streak=5.0, soft=9.0, bowel=17.0, marrow=18.0, gas=30.0)  # mm
_LESION_TEXTURE = dict(erosion=4.5, patch=13.0, bridge=9.0)  # mm

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
        levels = soft_levels(rng, bones, points, centre, figures)
        levels["table"] = table_level(levels["body"], axes)
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
            bone[where], sclerosis[where], margin[where] = diseased_joint(lesion, *joint, local)
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


def _paint(hu: Array, level: Array, value: Array | float, edge: float) -> None:
    """Mixes `value` into `hu` where `level` is negative, with an edge of `edge` mm."""
    inside = np.clip(0.5 - level / np.float32(edge), 0, 1)
    inside *= value - hu
    hu += inside
