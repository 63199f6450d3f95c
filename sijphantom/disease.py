"""Sacroiliitis of the phantom, graded 0 to 4 after the modified New York criteria.

van der Linden et al., Arthritis Rheum 1984;27:361: blurred margins, erosions, sclerosis, narrowing or
widening, ankylosis.
"""

from collections import namedtuple

import numpy as np
from scipy.special import ndtri

from sijphantom.anatomy import Parameters
from sijphantom.fields import Array

_BY_GRADE = {
    "margin": (0.0, 0.8, 1.2, 1.8, 1.4),                # mm, blur of the margin
    "erosion": (0.0, 0.5, 2.0, 3.5, 2.0),               # mm, depth
    "sclerosis": (0.0, 150.0, 280.0, 430.0, 500.0),     # HU
    "reach": (3.0, 5.0, 6.0, 8.0, 10.0),                # mm, of the sclerosis
    "bridged": (0.0, 0.0, 0.0, 0.22, 0.8)}              # share of the joint that is bridged by bone
"""Sizes of lesions, of grade 0 to 4."""
_DEEPEST = 3.0
"""mm that an erosion reaches into a bone, at most."""
_GRAFTED = 1.5
"""mm that a bridge reaches into a bone; deeper, it would draw cortex inside it."""


def draw_disease(rng: np.random.Generator, grades: tuple[int, int]) -> dict[str, Parameters]:
    """Lesions of each side: what the grade asks for, give or take. The cleft narrows with age, too."""
    lesions = {}
    for side, grade in zip(("left", "right"), grades):
        vary = rng.uniform(0.75, 1.25, len(_BY_GRADE)).tolist()
        lesion = {name: sizes[grade] * factor for (name, sizes), factor in zip(_BY_GRADE.items(), vary)}
        age = float(rng.uniform(-1.5, 0.2))  # mm
        shift = float(rng.choice([-1.4, 0.6], p=[0.8, 0.2]) * rng.uniform(0.6, 1.2))  # mm, of grade 3
        lesion |= {"bridged": min(0.95, lesion["bridged"]), "age": age}
        lesions[side] = lesion | {"widening": (0.0, -0.2, -0.5, shift, -1.6)[grade]}
    return lesions


DiseasedJoint = namedtuple("DiseasedJoint", "sacrum hip sclerosis margin")
"""Voxels (n,) after disease: distances to both bones (mm), sclerosis (HU), blur of the margin (mm)."""


def diseased_joint(lesion: Parameters, sacrum: Array, hip: Array, noise: dict[str, Array]) -> DiseasedJoint:
    """Erodes, narrows, hardens and bridges one joint.

    sacrum, hip: distances in mm (n,) of the voxels near it. noise: the random fields of its lesions.
    """
    to_joint = np.maximum(sacrum, hip)  # mm from the opposite bone
    near = np.clip(1.5 - to_joint / 10, 0, 1)
    pits = np.clip(noise["erosion"] - 0.7, 0, 1.2) / 1.2
    change = near * np.minimum(lesion["erosion"] * pits + (lesion["widening"] + lesion["age"]) / 2, _DEEPEST)
    bony = 1.5 * (noise["bridge"] - ndtri(1 - lesion["bridged"]))
    bridge = np.maximum(-3 * bony, (sacrum + hip - 8) / 2)
    bridge = np.maximum(bridge, -_GRAFTED - np.minimum(sacrum, hip))    # ends where it meets a bone
    patch = np.clip(0.75 + 0.45 * noise["patch"], 0, 1.4)
    reach = np.exp(-((np.clip(to_joint - 2, 0, None) / lesion["reach"]) ** 2))
    bones = (np.minimum(np.where(other < -_GRAFTED, np.maximum(bone, bone + change), bone + change), bridge)
             for bone, other in ((sacrum, hip), (hip, sacrum)))         # nor does one grow inside the other
    return DiseasedJoint(*bones, lesion["sclerosis"] * patch * reach, lesion["margin"] * near)
