"""Sizes and angles of a parametric pelvis, drawn for one person and for each side; lengths in mm, angles in degrees."""

import numpy as np

from sijphantom.anatomy import Figures


def draw_common(rng: np.random.Generator) -> Figures:
    """Figures of the whole pelvis. Sexes differ in size, in the spread of the joints and in their surfaces.

    A woman's pelvis is roomier and her sacrum shorter (Fischer and Mitteroecker, Anat Rec 2017;300:698), her
    auricular surfaces are smaller (13.7 for 16.2 cm2 of cartilage alone, mean over 29 patients: "Auricular surface
    morphology and surface area does not influence subchondral bone density distribution in the dysfunctional
    sacroiliac joint", Clin Anat) and less rugged (Vleeming et al., Spine 1990;15:130). The spreads follow the 19
    adults; how far the sexes are apart within them is our choice.
    """
    female = float(rng.random() < 0.5)
    sex = 1 - 2 * female  # +1 man, -1 woman
    size = rng.normal(0, 1)  # of the person: what all lengths share
    angle = rng.normal(0, 9)  # degrees, shared by the thirds of the joint
    figures = {
        "female": female,
        "lateral": 47.6 - 0.8 * sex + 0.8 * size + rng.normal(0, 2),
        "half_biiliac": 139 + 3 * size + rng.normal(0, 7),
        "hip_height": 219.5 + 6.5 * sex + 7 * size + rng.normal(0, 7.5),
        "sacrum_height": np.clip(128 + 6 * sex + 5 * size + rng.normal(0, 14.5), 99, 164),
        "sacrum_depth": 99 + 2 * size + rng.normal(0, 8),
        "joint_height": np.clip(66.5 + 2.5 * sex + 2.2 * size + rng.normal(0, 6), 53, 74),
        "joint_ap": 75 + 3 * sex + 2 * size + rng.normal(0, 11),
        "lower": 0 + angle + rng.normal(0, 4),
        "middle": 22 + angle + rng.normal(0, 4),
        "upper": 34 + angle + rng.normal(0, 4),
        "gap": rng.normal(3.27, 0.11),
        "recess": rng.uniform(2, 9),
        "hook": rng.uniform(0, 14),
        "flare": rng.normal(0, 3),
        "ear": 0.8 * sex + rng.normal(0, 0.3),  # mm by which the auricular surface is wider all around
        "rugged": rng.uniform(0.5, 1.1) + 0.15 * sex,
    }
    return {name: float(value) for name, value in figures.items()}


def draw_side(common: Figures, rng: np.random.Generator) -> Figures:
    """Figures of one side: those of the pelvis plus about half their spread."""
    spread = {"lateral": 0.8, "half_biiliac": 3, "joint_height": 2, "joint_ap": 4.5, "flare": 2}
    spread |= {"lower": 4, "middle": 4, "upper": 4, "gap": 0.07, "recess": 1, "rugged": 0.15}
    side = {key: float(rng.normal(common[key], sd)) for key, sd in spread.items()}
    side["gap"] = float(np.clip(side["gap"], 2.5, 3.6))
    return side | {"rough": float(rng.uniform(0.5, 1.2)), "noise_seed": int(rng.integers(2**31))}
