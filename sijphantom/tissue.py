"""Tissue of the phantom: soft tissue, bone and its disease painted as HU on a scan grid.

Levels are signed distances in mm, negative inside. Bone covers the share of each voxel that it fills, cortex
and marrow alike, so that a cleft or a cortex thinner than a voxel fades as in a real scan.

HU: fat -123 to -89 (reference interval of 4000 samples, PubMed 37296765); muscle 40 to 80 and compact bone
400 to 1000 (Grainger and Allison's Diagnostic Radiology), compact bone up to 1500 in the young; cancellous
bone lowest in the sacral alae (Wagner et al., J Orthop Res 2014;32:1543) and denser in the young than in
the old (pelvis: doi:10.1186/s12891-022-05263-3, spine: Schreiber et al., J Bone Joint Surg Am
2011;93:1057). The cortex of the pelvis is 0.44 to 4.00 mm thick, 1.41 on average (Anderson et al., J
Biomech Eng 2005;127:364). Cartilage, organs, oral and intravenous contrast, skin and couch are our choice
of what routine scans show.
"""

from collections import namedtuple

import numpy as np
from numpy.typing import NDArray

from magunet.target import FAR
from sijphantom.anatomy import Bones, Parameters
from sijphantom.disease import diseased_joint
from sijphantom.fields import Array, Axes, SmoothField
from sijphantom.organs import soft_levels, table_level
from sijphantom.scanner import Acquisition
from sijphantom.shapes import rounded_cone

_LATTICE = 5.0  # mm, pitch of the lattice on which soft tissue is laid out
_SOFT_TEXTURE = dict(streak=5.0, soft=9.0, bowel=17.0, gas=30.0)  # mm
_BONE_TEXTURE = dict(fine=2.2, trabecular=4.0, marrow=18.0)  # mm
_LESION_TEXTURE = dict(erosion=4.5, patch=13.0, bridge=9.0)  # mm
_METAL_HU = 9000.0
_METAL = {
    "screw": [((14, -16, -5, 3.6), (10, -4, 85, 3.6))],
    "prosthesis": [((-74, -46, -88, 14), (-74, -46, -88, 14)), ((-74, -46, -88, 8), (-92, -40, -124, 8)),
                   ((-92, -40, -124, 8), (-200, -42, -128, 6))]}
"""Ends of the rounded cones of which metal consists: z, y, x and radius in mm in the bones' frame."""


Distances = namedtuple("Distances", "sacrum left_hip right_hip other")
"""Signed distances (mm) on part of the scan grid, all (d, h, w)."""


def draw_tissue(rng: np.random.Generator) -> Parameters:
    """HU values and thicknesses of one person: young and dense to old and fatty."""
    contrast = rng.random() < 0.35
    density = rng.uniform(0, 1)
    parameters = {
        "cortical_hu": rng.uniform(550, 900) + 450 * density,
        "cortical_mm": rng.uniform(0.5, 1.8) + 0.7 * density,
        "trabecular_hu": rng.uniform(10, 70) + 200 * density,
        "ala_hu": rng.uniform(-90, 20),
        "trabecular_sd": rng.uniform(15, 55),
        "marrow_sd": rng.uniform(15, 60),
        "muscle_hu": rng.uniform(45, 68),
        "fat_hu": rng.uniform(-118, -92),
        "plate": rng.uniform(0.1, 1.5),  # thickness of the cortex at the joint, relative to elsewhere
        "cartilage_hu": rng.uniform(100, 260) if rng.random() < 0.35 else rng.uniform(25, 100),  # calcified
        "vessel_hu": rng.uniform(110, 220) if contrast else rng.uniform(35, 50),
        "bowel_hu": rng.uniform(120, 400) if rng.random() < 0.2 else rng.uniform(0, 35),  # with oral contrast
        "fat_mm": rng.uniform(5, 42),
        "muscle_fat": rng.uniform(0.0, 1.0),
        "belly_mm": rng.uniform(15, 95),
        "flank_mm": rng.uniform(12, 42),
        "back_mm": rng.uniform(12, 40),
        "gas": rng.uniform(0.2, 1.1),
        "joint_gas": float(rng.random() < 0.15) * rng.uniform(0.5, 1.2),
        "arms": float(rng.random() < 0.25),
        "screw": float(rng.random() < 0.03),
        "prosthesis": float(rng.random() < 0.05),
    }
    return {name: float(value) for name, value in parameters.items()}


class Body:
    """All tissue of one person, ready to be rendered slab by slab.

    `points` are the scan lattice mapped into the bones' frame (see `phantom`), in mm from `centre`, the
    middle between the joints; `bones` give the landmarks that the soft tissue hangs on.
    """

    def __init__(self, rng: np.random.Generator, disease_rng: np.random.Generator, scan: Acquisition,
                 bones: Bones, points: Axes, centre: NDArray, parameters: Parameters,
                 lesions: dict[str, Parameters]) -> None:
        self.parameters, self.lesions, self.scan = parameters, lesions, scan
        axes = scan.axes()
        places = SmoothField.lattice(axes, _LATTICE)
        self.points = [SmoothField(place, places) for place in points]
        levels = soft_levels(rng, bones, points, centre, parameters)
        levels["table"] = table_level(levels["body"], places)
        self.levels = {name: SmoothField(level, places) for name, level in levels.items()}
        self.noise = {n: SmoothField.noise(rng, axes, s) for n, s in (_SOFT_TEXTURE | _BONE_TEXTURE).items()}
        self.lesion_noise = {n: SmoothField.noise(disease_rng, axes, s) for n, s in _LESION_TEXTURE.items()}

    def soft_tissue(self, d: Distances, axes: Axes) -> Array:
        """HU (d, h, w) of a slab without its bones: air, couch, skin, fat, organs, muscles, joints."""
        at = {name: field.at(axes) for name, field in self.levels.items()}
        noise = {name: self.noise[name].at(axes) for name in _SOFT_TEXTURE}
        hips = np.minimum(d.left_hip, d.right_hip)
        hu = np.full(d.sacrum.shape, -1000.0, np.float32)
        p, couch = self.parameters, np.abs(at["table"] - 7) - 7  # foam between two carbon sheets
        self._paint(hu, couch, -150.0)
        self._paint(hu, couch + 1, -820.0)
        if "arms" in at:
            self._paint(hu, at["arms"], p["fat_hu"])
            self._paint(hu, at["arms"] + 5, p["muscle_hu"])
            self._paint(hu, at["forearm"], p["cortical_hu"])
            self._paint(hu, at["forearm"] + 2.5, 80.0)
        self._paint(hu, at["body"], 30.0)
        self._paint(hu, at["body"] + 2, p["fat_hu"] + 6 * noise["soft"])
        self._paint_organs(hu, at, noise)
        self._paint_muscles(hu, at, hips, noise)
        self._paint_joints(hu, d, hips, noise)
        return hu

    def bone(self, d: Distances, axes: Axes) -> tuple[Array, Array]:
        """Share of each voxel (d, h, w) that is bone, in [0, 1], and the HU it adds: share times HU."""
        levels = {"sacrum": d.sacrum.copy(), "left": d.left_hip.copy(), "right": d.right_hip.copy(),
                  "other": d.other}
        sclerosis, margin = np.zeros_like(d.sacrum), np.zeros_like(d.sacrum)
        lesion_noise = {name: field.at(axes) for name, field in self.lesion_noise.items()}
        for side, hip in (("left", d.left_hip), ("right", d.right_hip)):
            where = np.flatnonzero((d.sacrum < 25) & (hip < 25) & (d.sacrum + hip < 30))
            local = {name: noise.ravel()[where] for name, noise in lesion_noise.items()}
            joint = diseased_joint(self.lesions[side], d.sacrum.ravel()[where], hip.ravel()[where], local)
            levels["sacrum"].ravel()[where], levels[side].ravel()[where] = joint.sacrum, joint.hip
            sclerosis.ravel()[where], margin.ravel()[where] = joint.sclerosis, joint.margin
        texture = {name: self.noise[name].at(axes).ravel() for name in _BONE_TEXTURE}
        share, hu = np.zeros(d.sacrum.shape, np.float32), np.zeros(d.sacrum.shape, np.float32)
        opposite = {"sacrum": np.minimum(d.left_hip, d.right_hip), "left": d.sacrum, "right": d.sacrum,
                    "other": np.full_like(d.sacrum, FAR)}
        for name, level in levels.items():
            where = np.flatnonzero(level < 2.5)
            local = {key: values[where] for key, values in texture.items()}
            parts = (part.ravel()[where] for part in (level, opposite[name], sclerosis, margin))
            filled, dense = self._bone_voxels(name, local, *parts)
            share.ravel()[where] += filled
            hu.ravel()[where] += dense
        crowded = np.maximum(share, 1)
        return share / crowded, hu / crowded

    def add_metal(self, hu: Array, axes: Axes) -> None:
        """Paints a screw from the left ilium into S1, or a right hip prosthesis, in the few who have one."""
        knots = [part for name, parts in _METAL.items() if self.parameters[name] for part in parts]
        points = [field.at(axes) for field in self.points] if knots else []
        for start, end in knots:
            self._paint(hu, rounded_cone(*points, start, end), _METAL_HU)

    def _bone_voxels(self, name: str, noise: dict[str, Array], level: Array, to_joint: Array,
                     sclerosis: Array, margin: Array) -> tuple[Array, Array]:
        """Share and share times HU of voxels (n,) near one bone; `to_joint` is mm to the opposite bone."""
        p = self.parameters
        depth = -level
        near = np.exp(-np.clip(to_joint, 0, None) / 4)  # 1 at the joint
        fine, trabecular, marrow = (noise[name] for name in _BONE_TEXTURE)
        ala = p["ala_hu"] * np.clip(to_joint / 15, 0, 1) if name == "sacrum" else np.float32(0)  # empty
        inner = p["trabecular_hu"] + ala + p["trabecular_sd"] * (0.5 * fine + 0.7 * trabecular)
        inner = np.maximum(inner + p["marrow_sd"] * marrow, -80) + sclerosis * (1 + 0.15 * trabecular)
        thin = 1.1 if name in ("left", "right") else 0.7  # the cortex of sacrum and spine is thinner
        shell = p["cortical_mm"] * thin * (1 + 0.35 * marrow.clip(-2, 2)) * (1 + (p["plate"] - 1) * near)
        cortical = np.minimum(p["cortical_hu"] * (1 + 0.08 * trabecular + 0.1 * near), 1500)
        width = np.maximum(0.6, self.scan.aperture * self.scan.pixel) + margin  # mm, spread of the surface
        share = np.clip(0.5 + depth / width, 0, 1)
        cortex = (np.minimum(depth + width / 2, shell) - np.maximum(depth - width / 2, 0)).clip(0) / width
        return share, share * inner + cortex * np.maximum(cortical - inner, 0)

    def _paint(self, hu: Array, level: Array, value: Array | float) -> None:
        """Mixes `value` into `hu` where `level` is negative, with a soft edge."""
        edge = max(0.8, 0.8 * self.scan.pixel)  # mm
        where = np.flatnonzero(level < edge / 2)
        inside = np.minimum(0.5 - level.ravel()[where] / np.float32(edge), 1)
        flat = hu.ravel()
        value = value.ravel()[where] if isinstance(value, np.ndarray) else value
        flat[where] += inside * (value - flat[where])

    def _paint_organs(self, hu: Array, at: dict[str, Array], noise: dict[str, Array]) -> None:
        """Bowel (wall, content, gas), bladder and rectum."""
        soft, bowel = noise["soft"], 1.3 * noise["bowel"]
        wall = np.maximum(at["cavity"] + 4, 9 * (0.15 - bowel))
        self._paint(hu, wall, 42 + 5 * soft)
        self._paint(hu, wall + 3, self.parameters["bowel_hu"] + 10 * soft)
        gas = 9 * (2.3 - self.parameters["gas"] - bowel - 0.8 * noise["gas"])
        self._paint(hu, np.maximum(wall + 4, gas), -880.0)
        self._paint(hu, at["bladder"], 9.0)
        self._paint(hu, at["rectum"], 38 + 5 * soft)
        self._paint(hu, np.maximum(at["rectum"] + 4, 8 * (0.7 - bowel)), -850.0)

    def _paint_muscles(self, hu: Array, at: dict[str, Array], hips: Array, noise: dict[str, Array]) -> None:
        """Muscles, streaked with fat in some people, and the vessels between them."""
        p, soft, streak = self.parameters, noise["soft"], noise["streak"]
        muscle = p["muscle_hu"] + 4 * soft - 25 * p["muscle_fat"] * np.clip(streak - 0.8, 0, 2)
        gluteal = at["gluteal"]
        for depth in (13.0, 29.0):  # fat planes between the three gluteal muscles
            gluteal = np.maximum(gluteal, 1.1 - np.abs(hips - depth - 3 * soft))
        iliacus = np.maximum(at["iliacus"], hips - 13 - 3 * soft)
        spinal = np.maximum(at["paraspinal"], 0.9 * streak - 1.6 + p["muscle_fat"])
        for level in (gluteal, iliacus, spinal, at["psoas"], at["wall"], at["piriformis"]):
            self._paint(hu, level, muscle)
        self._paint(hu, at["vessels"], p["vessel_hu"] + 3 * soft)

    def _paint_joints(self, hu: Array, d: Distances, hips: Array, noise: dict[str, Array]) -> None:
        """Cartilage and ligaments of the sacroiliac joints, the lumbosacral disc, the hip joints."""
        joint = np.maximum(np.maximum(d.sacrum, hips) - 9, d.sacrum + hips - 13)
        self._paint(hu, joint, self.parameters["cartilage_hu"] + 10 * noise["streak"])
        if self.parameters["joint_gas"]:  # vacuum phenomenon
            bubbles = 2 * (1.3 - self.parameters["joint_gas"] - noise["soft"])
            self._paint(hu, np.maximum(np.maximum(joint + 4, d.sacrum + hips - 4), bubbles), -700.0)
        disc = np.maximum(np.maximum(d.sacrum, d.other) - 12, d.sacrum + d.other - 15)
        self._paint(hu, disc, 75 + 8 * noise["soft"])
        self._paint(hu, np.maximum(hips, d.other) - 4, 50.0)
