"""Sacroiliitis of the phantom, graded 0 to 4 after the modified New York criteria.

van der Linden et al., Arthritis Rheum 1984;27:361: blurred margins, erosions, sclerosis, narrowing or widening,
ankylosis.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

Array = NDArray[np.float32]
Figures = dict[str, float]

# Disease by grade 0..4: blur of the margin (mm), depth of erosions (mm), sclerosis (HU) and its reach (mm),
# fraction of the joint that is bridged by bone.
_MARGIN = (0.0, 1.4, 1.6, 2.0, 1.6)
_EROSION = (0.0, 0.5, 2.0, 3.5, 2.0)
_SCLEROSIS = (0.0, 50.0, 170.0, 320.0, 400.0)
_REACH = (3.0, 4.0, 5.0, 8.0, 10.0)
_BRIDGED = (0.0, 0.0, 0.0, 0.22, 0.8)


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


def diseased_joint(
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
