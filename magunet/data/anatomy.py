"""The bones of a pelvis as signed distances: drawn from parameters, or taken from a label map.

The parametric pelvis is a set of height fields, because both bones of the joint are single-valued when seen
from the right side: the hip bone is the space between a medial and a lateral face x = f(z, y) inside a
sagittal outline, the sacrum that between an anterior and a posterior face y = f(z, |x|). The node values are
rounded averages read off the Visible Human pelvises (HuBMAP CCF 3D Reference Object Library and Visible Human
Project, CC BY 4.0); the sizes drawn around them follow 19 adults (VSD full-body bone models,
doi:10.5281/zenodo.8316730).

Frame in mm: x to the patient's left, y posterior, z superior; the origin lies midway between the two joints.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import CubicSpline, RectBivariateSpline

from magunet.errors import InputError

Array = NDArray[np.float32]
Figures = dict[str, float]
Knot = tuple[float, float, float, float]  # z, y, x, radius in mm

FAR = 40.0  # mm, the distances are cut off here
_BOX = {"z": (-150.0, 95.0), "y": (-130.0, 80.0), "x": 165.0}  # mm, field of the parametric pelvis

# Faces of the left hip bone, mm from the midline: rows z = 80..-140, columns y = -110..50, in steps of 20.
_HIP_Z, _HIP_Y = np.arange(-140.0, 81.0, 20.0), np.arange(-110.0, 51.0, 20.0)
_MEDIAL = np.array([
    [138, 137, 134, 125, 107, 85, 73, 67, 63],
    [138, 137, 134, 125, 107, 79, 69, 65, 61],
    [136, 135, 132, 120, 98, 59, 55, 57, 56],
    [131, 129, 124, 113, 86, 58, 46, 46, 50],
    [124, 121, 114, 102, 65, 58, 52, 44, 47],
    [120, 112, 100, 81, 63, 55, 51, 49, 48],
    [108, 100, 84, 71, 70, 69, 61, 53, 50],
    [81, 80, 64, 64, 67, 67, 62, 57, 54],
    [41, 45, 50, 59, 62, 59, 61, 62, 62],
    [13, 4, 26, 54, 59, 61, 67, 69, 69],
    [9, 5, 5, 27, 47, 57, 64, 69, 70],
    [10, 13, 20, 30, 39, 52, 63, 67, 69],
])[::-1]  # fmt: skip
_LATERAL = np.array([
    [145, 144, 142, 133, 120, 98, 79, 72, 68],
    [145, 145, 143, 137, 122, 99, 80, 72, 68],
    [145, 147, 147, 138, 115, 90, 78, 70, 66],
    [143, 147, 141, 127, 106, 85, 77, 68, 62],
    [140, 136, 129, 117, 98, 85, 76, 66, 60],
    [131, 127, 121, 112, 96, 83, 68, 62, 60],
    [115, 113, 114, 111, 99, 82, 68, 62, 60],
    [88, 93, 103, 103, 104, 84, 69, 64, 62],
    [51, 64, 77, 84, 91, 85, 69, 68, 67],
    [30, 38, 46, 67, 85, 87, 78, 75, 74],
    [20, 20, 24, 39, 65, 83, 78, 75, 74],
    [17, 20, 28, 40, 56, 68, 72, 73, 73],
])[::-1]  # fmt: skip
_TABLE_JOINT, _TABLE_CREST = 52.0, 146.0  # mm, joint centre and widest point of the table
_HIP_OUTLINE = [  # (y, z): iliac crest, PSIS, greater sciatic notch, ischium, pubis, ASIS
    (-110, -9), (-103, 10), (-89, 26), (-73, 41), (-56, 54), (-37, 62), (-17, 66), (3, 59), (20, 47),
    (33, 30), (42, 11), (37, -9), (23, -23), (2, -26), (-14, -37), (-11, -58), (3, -74), (4, -94), (11, -114),
    (3, -133), (-14, -145), (-35, -144), (-54, -137), (-72, -125), (-91, -117), (-104, -102), (-91, -86),
    (-84, -66), (-91, -47), (-98, -28),
]  # fmt: skip
_EAR = [  # (y, z) of the auricular surface: long caudal limb backwards, short cranial limb upwards
    (12, -25), (25, -25), (36, -18), (36, -8), (30, 0), (20, 7), (10, 14), (0, 20), (-6, 32), (-14, 37),
    (-24, 30), (-31, 13), (-33, -2), (-28, -14), (-16, -20), (-2, -23),
]  # fmt: skip
_EAR_AP, _EAR_HEIGHT = 69.0, 62.0  # mm, extents of _EAR

# Faces of the sacrum, mm: rows z = 50..-80, columns |x| = 0..60, in steps of 10 (S1 without its endplate).
_SACRUM_Z, _SACRUM_X = np.arange(-80.0, 51.0, 10.0), np.arange(0.0, 61.0, 10.0)
_ANTERIOR = np.array([
    [-62, -60, -52, -40, -30, -26, -24],
    [-56, -54, -48, -37, -30, -26, -24],
    [-50, -48, -43, -34, -28, -26, -25],
    [-43, -41, -36, -30, -27, -26, -27],
    [-30, -29, -25, -22, -24, -27, -29],
    [-15, -14, -12, -14, -20, -27, -30],
    [3, 4, 3, 0, -8, -20, -29],
    [20, 21, 23, 22, 17, 4, -15],
    [34, 35, 38, 37, 34, 24, 10],
    [44, 45, 47, 45, 40, 34, 30],
    [50, 50, 51, 47, 43, 40, 40],
    [53, 53, 52, 50, 48, 46, 46],
    [54, 54, 53, 52, 50, 48, 48],
    [52, 52, 52, 52, 50, 48, 48],
])[::-1]  # fmt: skip
_POSTERIOR = np.array([
    [18, 2, -8, -6, -10, -14, -16],
    [26, 8, -4, 0, -5, -10, -14],
    [32, 15, 2, 4, -1, -7, -13],
    [37, 22, 9, 10, 5, -3, -13],
    [41, 29, 19, 18, 13, 3, -10],
    [46, 36, 28, 29, 24, 10, -5],
    [51, 43, 36, 38, 32, 16, 0],
    [55, 49, 43, 44, 38, 22, 8],
    [58, 54, 47, 47, 41, 30, 18],
    [59, 57, 52, 50, 45, 38, 32],
    [61, 59, 56, 52, 48, 45, 45],
    [63, 61, 58, 55, 52, 50, 50],
    [63, 62, 59, 57, 54, 52, 52],
    [61, 60, 58, 57, 54, 52, 52],
])[::-1]  # fmt: skip
_HALF_WIDTH = [7, 14, 21, 29, 35, 41, 49, 54, 60, 62, 62, 62, 62, 62]  # mm, at _SACRUM_Z
# Sacral canal at z = 40, 20, 0, -20, -40, -60: centre y, half depth, half width (mm).
_CANAL_Z = [-60, -40, -20, 0, 20, 40]
_CANAL = [(60, 2.5, 3), (51.5, 3, 4.5), (40.5, 5.5, 7), (22, 7, 10), (11, 7.5, 12), (6, 8, 13)]
_FORAMINA = [(23, -20, 5), (20, 4, -11), (18, 22, -22), (16, 37, -34)]  # (x, y, z) of the anterior openings


@dataclass(frozen=True)
class Bones:
    """Signed distances (mm, negative inside, cut off at 40 mm) to the bones of a pelvis, float32 (d, h, w).

    The grid is isotropic with `spacing` mm in LPS patient axes: index x grows to the patient's left, y to
    posterior, z to superior. `other` holds all other bones (L4, L5, femurs, coccyx). `parameters` are the
    figures that were drawn; `landmarks` are the joint centres in mm from voxel 0 (none for a label map).
    """

    sacrum: Array
    left_hip: Array
    right_hip: Array
    other: Array
    spacing: float
    landmarks: Figures = field(default_factory=dict)
    parameters: Figures = field(default_factory=dict)


def parametric_pelvis(seed: int, spacing: float = 1.0) -> Bones:
    """Returns the pelvis of this seed on an isotropic grid of `spacing` mm (1 mm: 245 x 210 x 329 voxels).

    Sizes, sex, joint angles, curvature and the undulation of the joint differ from seed to seed; left and
    right are correlated, not mirrored. The same seed gives the same pelvis at every spacing.
    """
    rng = np.random.default_rng([seed, 1])
    common = _draw_common(rng)
    sides = {name: _draw_side(common, rng) for name in ("left", "right")}
    z, y = (np.arange(low, high, spacing) for low, high in (_BOX["z"], _BOX["y"]))
    x = np.arange(0.0, _BOX["x"], spacing)
    halves = [_half_pelvis({**common, **sides[name]}, z, y, x) for name in ("left", "right")]
    far = np.full((len(z), len(y), len(x) - 1), FAR, np.float32)
    left, right = halves
    sacrum, other = (np.concatenate([b[..., :0:-1], a], 2) for a, b in zip(left[::2], right[::2]))
    left_hip = np.concatenate([far, left[1]], 2)
    right_hip = np.concatenate([right[1][..., ::-1], far], 2)
    parameters = common | {f"{name}_{key}": v for name, side in sides.items() for key, v in side.items()}
    landmarks = {"joint_z": -z[0], "joint_y": -y[0]}
    for name, sign in (("left", 1), ("right", -1)):
        landmarks[f"{name}_joint_x"] = x[-1] + sign * sides[name]["lateral"]
    plain = {key: float(value) for key, value in landmarks.items()}
    return Bones(sacrum, left_hip, right_hip, other, float(spacing), plain, parameters)


def label_map_pelvis(
    labels: NDArray[np.integer],
    spacing: Sequence[float],
    sacrum: Sequence[int] = (1,),
    left_hip: Sequence[int] = (3, 4),
    right_hip: Sequence[int] = (5, 6),
    resolution: float = 1.0,
) -> Bones:
    """Returns the bones of a label map (d, h, w) in LPS order with `spacing` (z, y, x) in mm.

    All other nonzero labels become `other`. The surfaces are smoothed by about a voxel, and a cleft tighter
    than 1.5 mm is opened to that, since label maps often let the two bones touch. Raises `InputError` when a
    bone is missing.
    """
    labels = np.asarray(labels)
    bones = {"sacrum": sacrum, "left hip": left_hip, "right hip": right_hip}
    masks = {name: np.isin(labels, list(values)) for name, values in bones.items()}
    for name, mask in masks.items():
        if not mask.any():
            raise InputError(f"no {name} in the label map: no voxel has a label of {tuple(bones[name])}")
    masks["other"] = (labels != 0) & ~np.any(list(masks.values()), axis=0)
    fields = {name: _mask_distance(mask, spacing, resolution) for name, mask in masks.items()}
    cleft = _open_cleft(*(fields[name] for name in bones))
    return Bones(*cleft, fields["other"], float(resolution), {}, {"resolution": float(resolution)})


def _mask_distance(mask: NDArray[np.bool_], spacing: Sequence[float], resolution: float) -> Array:
    """Signed distance of a mask on an isotropic grid; the smoothed edge gives sub-voxel surfaces."""
    zoom = [s / resolution for s in spacing]
    shape = [max(2, round(n * f)) for n, f in zip(mask.shape, zoom)]
    soft = ndimage.gaussian_filter(mask.astype(np.float32), [0.7 * resolution / s for s in spacing])
    soft = ndimage.affine_transform(soft, [1 / f for f in zoom], output_shape=shape, order=1, mode="nearest")
    distance = np.full(shape, FAR, np.float32)
    inside = soft > 0.5
    if not inside.any():
        return distance
    (box,) = ndimage.find_objects(inside.astype(np.uint8))
    pad = int(30 / resolution)  # farther away the distance does not matter
    box = tuple(slice(max(0, b.start - pad), b.stop + pad) for b in box)
    inside, soft = inside[box], soft[box]
    rim = inside & ~ndimage.binary_erosion(inside)
    side = np.where(inside, -1, 1)
    signed = side * ndimage.distance_transform_edt(~rim) - 0.5  # the rim lies half a voxel deep
    near = np.abs(signed) < 1
    slope = np.sqrt(2 * np.pi) * 0.85  # of the smoothed edge, in voxels a unit
    signed[near] = np.clip((0.5 - soft[near]) * slope, -1, 1)
    distance[box] = np.clip(signed * resolution, -FAR, FAR)
    return distance


def _open_cleft(
    sacrum: Array, left_hip: Array, right_hip: Array, gap: float = 1.5
) -> tuple[Array, Array, Array]:
    """Moves both surfaces apart by the same amount wherever they are closer than `gap` mm."""
    hips = []
    for hip in (left_hip, right_hip):
        missing = np.maximum(gap - sacrum - hip, 0) / 2
        sacrum = sacrum + missing
        hips.append(hip + missing)
    return sacrum, hips[0], hips[1]


def _draw_common(rng: np.random.Generator) -> Figures:
    """Figures of the whole pelvis; a woman's sacrum is lower and her joints lie farther apart."""
    female = float(rng.random() < 0.5)
    sex = 1 - 2 * female  # +1 man, -1 woman
    figures = {
        "female": female,
        "lateral": rng.normal(48.9 - 0.6 * sex, 2.0),
        "half_biiliac": rng.normal(139, 6.5),
        "hip_height": rng.normal(219 + 4 * sex, 8),
        "sacrum_height": np.clip(rng.normal(126 + 9 * sex, 13), 98, 160),
        "sacrum_depth": rng.normal(97, 6),
        "joint_height": rng.normal(65 + 2 * sex, 4),
        "joint_ap": rng.normal(63 + sex, 4),
        "lower": rng.normal(5, 8),
        "middle": rng.normal(22, 8),
        "upper": rng.normal(34, 8),
        "gap": rng.uniform(1.4, 2.3),
        "recess": rng.uniform(4, 9),
        "hook": rng.uniform(0, 14),
        "flare": rng.normal(0, 3),
    }
    return {name: float(value) for name, value in figures.items()}


def _draw_side(common: Figures, rng: np.random.Generator) -> Figures:
    """Figures of one side: those of the pelvis plus about half their spread."""
    spread = {"lateral": 0.8, "half_biiliac": 3, "joint_height": 2, "joint_ap": 2.5, "flare": 2}
    spread |= {"lower": 4, "middle": 4, "upper": 4, "gap": 0.15, "recess": 1}
    side = {key: float(rng.normal(common[key], sd)) for key, sd in spread.items()}
    side["gap"] = float(np.clip(side["gap"], 1.3, 2.4))  # cartilage to cartilage 1 to 3 mm
    return side | {
        "undulation": float(rng.uniform(0.5, 1.3)),
        "rough": float(rng.uniform(0.5, 1.2)),
        "noise_seed": int(rng.integers(2**31)),
    }


def _half_pelvis(p: Figures, z: Array, y: Array, x: Array) -> tuple[Array, Array, Array]:
    """Signed distances (z, y, x) to the sacrum, the hip and the other bones for x >= 0."""
    joint, ear = _joint_surface(p, z, y)
    recess = p["recess"] * _step(ear / 9) * _step((y + 0.6 * z[:, None] - 2) / 10)  # opens behind the joint
    gap = p["gap"] * (1 + 0.18 * _waves(p["noise_seed"] + 1, 9.0, z, y)) / 2
    hip_face, sacral_face = joint + gap + 0.3 * recess, joint - gap - 0.7 * recess
    hip = _hip(p, z, y, x, hip_face, _step(1.2 - ear / 16))
    sacrum = np.full(hip.shape, FAR, np.float32)
    box = np.ix_(_span(z, -110, 75), _span(y, -75, 80), _span(x, -1, 75))
    rows, columns = box[0].ravel(), box[1].ravel()
    face = sacral_face[np.ix_(rows, columns)]
    sacrum[box] = _sacrum(p, z[rows], y[columns], x[box[2].ravel()], face)
    other = _other_bones(p, z, y, x)
    return tuple(np.clip(part, -FAR, FAR).astype(np.float32) for part in (sacrum, hip, other))


def _joint_surface(p: Figures, z: Array, y: Array) -> tuple[Array, Array]:
    """Lateral position (z, y) of the middle of the cleft, and the distance to the auricular outline in mm."""
    height = p["joint_height"] / 3
    angle = np.interp(z, [-height, 0, height], [p["lower"], p["middle"], p["upper"]])
    slope = np.tan(np.radians(ndimage.gaussian_filter1d(angle, 8 / (z[1] - z[0]), mode="nearest")))[:, None]
    along = y + 0.4 * z[:, None]  # mm behind the middle of the joint at this height
    surface = p["lateral"] + 0.15 * z[:, None] - slope * 45 * np.tanh(along / 45)
    surface = surface + p["undulation"] * _waves(p["noise_seed"], 14.0, z, y)
    scale = np.array([p["joint_ap"] / _EAR_AP, p["joint_height"] / _EAR_HEIGHT])
    return surface, _outline_distance(np.array(_EAR) * scale, z, y)


def _hip(p: Figures, z: Array, y: Array, x: Array, face: Array, near: Array) -> Array:
    """Hip bone: between its two faces inside the sagittal outline; `near` (z, y) weighs the joint surface."""
    size = np.array([0.5 + p["hip_height"] / 438, p["hip_height"] / 211])  # y, z
    wing = (p["half_biiliac"] - p["lateral"]) / (_TABLE_CREST - _TABLE_JOINT)
    flare = p["flare"] * _step((z[:, None] - y - 20) / 60)

    def table_face(nodes: NDArray) -> Array:
        spline = RectBivariateSpline(_HIP_Z * size[1], _HIP_Y * size[0], nodes)
        return p["lateral"] + wing * (spline(z, y) - _TABLE_JOINT) + flare

    lateral, medial = (
        table_face(nodes) + 0.8 * p["rough"] * _waves(p["noise_seed"] + n, 18.0, z, y)
        for n, nodes in ((5, _LATERAL), (6, _MEDIAL))
    )
    shift = near * (face - medial)
    medial = medial + shift
    lateral = np.maximum(lateral + 0.5 * shift, medial + 3.5)
    outline = _outline_distance(_smooth_closed(np.array(_HIP_OUTLINE) * size), z, y)
    hole = np.hypot((y + 50 + 0.25 * (z[:, None] + 112)) / 27, (z[:, None] + 112) / 14)
    edge = _cut(outline, (1 - hole) * 16, 6)[..., None]
    blade = _cut(_sheet(x, medial, lateral, z, y), edge, 7)
    centre, radius = _femoral_head(p)
    ball = _ball(z, y, x, centre)
    socket = np.maximum(ball - radius - 9, x - centre[2] - 0.45 * radius)  # acetabulum, opens laterally
    return np.maximum(_union(blade, socket, 6), radius + 3 - ball)


def _femoral_head(p: Figures) -> tuple[tuple[float, float, float], float]:
    scale = p["hip_height"] / 211
    return (-74 * scale, -46 * scale, p["lateral"] + 0.4 * p["half_biiliac"] - 18), 22.5 * scale


def _sacrum(p: Figures, z: Array, y: Array, x: Array, face: Array) -> Array:
    """Sacrum: between its anterior and posterior faces, up to the joint, less the canal and the foramina."""
    high, deep = p["sacrum_height"] / 128, p["sacrum_depth"] / 107
    zt = np.where(z < 0, z / high, z)  # height in the table; only the part below S1 stretches
    bend = -p["hook"] * np.clip((-30 - zt) / 50, 0, 1.2)[:, None] ** 2  # the apex turns forward
    segments = 1.2 * np.cos((zt[:, None] - 8) * np.pi / 12) * _step((40 - x) / 20)  # fused discs stand out
    anterior, posterior = (
        bend
        + deep * RectBivariateSpline(_SACRUM_Z, _SACRUM_X, nodes)(np.clip(zt, -85, 55), np.clip(x, 0, 62))
        for nodes in (_ANTERIOR, _POSTERIOR)
    )
    rough = _step(x / 12) * p["rough"]  # the two halves meet smoothly in the midline
    anterior = anterior - segments + 0.8 * rough * _waves(p["noise_seed"] + 2, 16.0, z, x)
    posterior = posterior - 0.5 * segments + 1.8 * rough * _waves(p["noise_seed"] + 3, 9.0, z, x)
    bone = _sheet(y, anterior, posterior, z, x).swapaxes(1, 2)
    bone = _cut(bone, _across(x, face, z, y), 3)
    width = np.interp(zt, _SACRUM_Z, _HALF_WIDTH) * p["lateral"] / 48.9
    bone = _cut(bone, (x - ndimage.gaussian_filter1d(width, 3)[:, None])[:, None], 5)
    bone = _cut(bone, _sacrum_top(p, z, y / deep, x), 3)
    bone = _cut(bone, (-80 * high - z)[:, None, None], 4)
    bone = _union(bone, rounded_cone(*_open(z, y, x), (26, 4, 20, 6), (45, 4, 21, 5)), 5)  # facet for L5
    return _cut(bone, -_openings(z, y, x, zt, deep, high), 2)


def _sacrum_top(p: Figures, z: Array, y: Array, x: Array) -> Array:
    """Level of the upper end of the sacrum: the sloped endplate of S1, and the domed alae and laminae."""
    endplate = (z[:, None] - 36 - 0.72 * (y + 20)) * 0.81
    dome = 39 - 0.012 * (y[:, None] + 4) ** 2 - 0.012 * np.clip(x - 38, 0, None) ** 2
    dome = dome + 2.5 * p["rough"] * _step(x / 12) * _waves(p["noise_seed"] + 4, 15.0, y, x)
    return np.maximum(endplate[..., None], z[:, None, None] - dome)


def _openings(z: Array, y: Array, x: Array, zt: Array, deep: float, high: float) -> Array:
    """Sacral canal and four foramina a side, each open to the front, to the back and to the canal."""
    centre, depth, width = (CubicSpline(_CANAL_Z, c)(np.clip(zt, -65, 48)) for c in zip(*_CANAL))
    oval = np.hypot(((y - centre[:, None] * deep) / depth[:, None])[..., None], x / width[:, None, None])
    openings = (oval - 1) * depth[:, None, None]
    grid = _open(z, y, x)
    for n, (fx, fy, fz) in enumerate(_FORAMINA):
        fz, fy, length = fz * (high if fz < 0 else 1), fy * deep, 40 - 8 * n

        def at(share: float, fx: float, radius: float, fy=fy, fz=fz, length=length, n=n) -> Knot:
            return fz + 0.75 * share * length, fy + 0.65 * share * length, fx, radius - 0.3 * n

        for start, end in (
            (at(-0.08, fx + 2, 6.5), at(0.4, fx, 4.2)),
            (at(0.4, fx, 4.0), at(1, fx + 1, 2.8)),
            (at(0.4, fx, 3.8), at(0.5, 6, 3.2)),
        ):
            openings = np.minimum(openings, rounded_cone(*grid, start, end))
    return openings


def _other_bones(p: Figures, z: Array, y: Array, x: Array) -> Array:
    """L5 and L4 (bodies, arches, processes), the proximal femur and the coccyx."""
    bones = np.full((len(z), len(y), len(x)), FAR, np.float32)
    deep = p["sacrum_depth"] / 107
    spine = (_span(z, 20, 115), _span(y, -105, 60), _span(x, -1, 65))
    zs, ys, xs = (axis[part] for axis, part in zip((z, y, x), spine))
    vertebrae = _vertebra(zs, ys, xs, 48, -48 * deep, 0.5), _vertebra(zs, ys, xs, 85, -60 * deep, 0.2)
    bones[np.ix_(*spine)] = np.minimum(*vertebrae)
    leg = (_span(z, -150, -25), _span(y, -105, 25), _span(x, 40, 170))
    bones[np.ix_(*leg)] = _femur(*_femoral_head(p), *(axis[part] for axis, part in zip((z, y, x), leg)))
    high, tip = -80 * p["sacrum_height"] / 128, 54 * deep - p["hook"]
    tail = (_span(z, high - 50, high + 30), _span(y, -20, 80), _span(x, -1, 30))
    grid = _open(*(axis[part] for axis, part in zip((z, y, x), tail)))
    bones[np.ix_(*tail)] = rounded_cone(*grid, (high - 8, tip - 1, 0, 6), (high - 28, tip - 14, 0, 3))
    return bones


def _femur(head: tuple[float, float, float], radius: float, z: Array, y: Array, x: Array) -> Array:
    """Head, neck, greater trochanter and the start of the shaft."""
    hz, hy, hx = head
    grid = _open(z, y, x)
    neck, trochanter, shaft = (
        (hz - 20, hy + 6, hx + 36),
        (hz - 6, hy + 16, hx + 42),
        (hz - 120, hy + 4, hx + 40),
    )
    bone = rounded_cone(*grid, (*head, 15), (*neck, 14))
    bone = _union(bone, rounded_cone(*grid, (*neck, 15), (*shaft, 13)), 8)
    bone = _union(bone, rounded_cone(*grid, (*neck, 14), (*trochanter, 11)), 8)
    return _union(bone, _ball(z, y, x, head) - radius, 4)


def _vertebra(z: Array, y: Array, x: Array, bz: float, by: float, tilt: float) -> Array:
    """A lumbar vertebra whose body is centred on (bz, by) and leans forward by `tilt` radians."""
    dz, dy = z[:, None] - bz, y[None] - by
    up, back = np.cos(tilt) * dz - np.sin(tilt) * dy, np.cos(tilt) * dy + np.sin(tilt) * dz
    waist = 1 - 0.1 * np.cos(np.clip(up / 13, -1, 1) * np.pi / 2)
    round_ = (np.hypot((back / (17 * waist))[..., None], x / (25 * waist[..., None])) - 1) * 17
    body = _cut(round_, (np.abs(up) - 13)[..., None], 3)

    def at(up: float, back: float, x: float, radius: float) -> Knot:
        c, s = np.cos(tilt), np.sin(tilt)
        return bz + c * up + s * back, by - s * up + c * back, x, radius

    for start, end in (
        (at(5, 10, 15, 5.5), at(4, 28, 17, 6)),  # pedicle
        (at(5, 22, 17, 5), at(8, 25, 42, 3.5)),  # transverse process
        (at(4, 28, 17, 5), at(-4, 40, 3, 4)),  # lamina
        (at(-4, 40, 0, 4), at(-8, 62, 0, 5)),  # spinous process
        (at(14, 28, 18, 5), at(-16, 34, 20, 5)),  # articular processes
    ):
        body = _union(body, rounded_cone(*_open(z, y, x), start, end), 3)
    return body


def _sheet(x: Array, low: Array, high: Array, z: Array, y: Array) -> Array:
    """Signed distance (z, y, x), to first order, to the space between x = low(z, y) and x = high(z, y)."""
    return np.maximum(-_across(x, low, z, y), _across(x, high, z, y))


def _across(x: Array, face: Array, z: Array, y: Array) -> Array:
    """Signed distance (z, y, x), to first order, to the surface x = face(z, y)."""
    slopes = np.gradient(face, z, y)
    steep = np.sqrt(1 + slopes[0] ** 2 + slopes[1] ** 2).astype(np.float32)
    return (x.astype(np.float32) - face[..., None].astype(np.float32)) / steep[..., None]


def _ball(z: Array, y: Array, x: Array, centre: Sequence[float]) -> Array:
    squares = [((axis - c) ** 2).astype(np.float32) for axis, c in zip((z, y, x), centre)]
    return np.sqrt(squares[0][:, None, None] + squares[1][:, None] + squares[2])


def _open(z: Array, y: Array, x: Array) -> tuple[Array, Array, Array]:
    """The axes as arrays that broadcast to (z, y, x)."""
    return tuple(a.astype(np.float32) for a in (z[:, None, None], y[:, None], x))


def rounded_cone(z: Array, y: Array, x: Array, start: Knot, end: Knot) -> Array:
    """Signed distance (mm) at points z, y, x (shapes that broadcast) to the cone between two round knots."""
    axis = np.subtract(end, start).astype(np.float32)
    offsets = [p - np.float32(c) for p, c in zip((z, y, x), start)]
    length = np.float32(max(axis[:3] @ axis[:3], 1e-6))
    along = np.clip(sum(o * (d / length) for o, d in zip(offsets, axis)), 0, 1)
    square = sum((o - along * d) ** 2 for o, d in zip(offsets, axis))
    return np.sqrt(square) - (np.float32(start[3]) + axis[3] * along)


def _cut(a: Array, b: Array, radius: float) -> Array:
    """Intersection of two signed distances with an edge rounded over about `radius` mm."""
    return np.maximum(a, b) + np.maximum(radius - np.abs(a - b), 0) ** 2 / np.float32(4 * radius)


def _union(a: Array, b: Array, radius: float) -> Array:
    return -_cut(-a, -b, radius)


def _step(t: Array) -> Array:
    """Smooth step from 0 (t <= 0) to 1 (t >= 1)."""
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)


def _span(axis: Array, low: float, high: float) -> NDArray[np.intp]:
    return np.flatnonzero((axis > low) & (axis < high))


def _waves(seed: float, scale: float, z: Array, y: Array) -> Array:
    """Smooth random field (z, y) of unit variance with bumps of about `scale` mm, the same at any spacing."""
    rows, columns = np.arange(-160, 120, scale), np.arange(-140, 100, scale)
    noise = np.random.default_rng(int(seed)).standard_normal((len(rows), len(columns)))
    return RectBivariateSpline(rows, columns, noise)(z, y)


def _smooth_closed(points: NDArray, factor: int = 3) -> NDArray:
    """A closed curve through the points, `factor` times as many."""
    closed = np.vstack([points, points[:1]])
    n = len(points)
    return CubicSpline(np.arange(n + 1), closed, bc_type="periodic")(np.arange(n * factor) / factor)


def _outline_distance(points: NDArray, z: Array, y: Array) -> Array:
    """Signed distance (z, y) to a closed polygon of (y, z) points, negative inside."""
    yy, zz = y[None], z[:, None]
    nearest, inside = np.full((len(z), len(y)), np.inf), np.zeros((len(z), len(y)), bool)
    for (y0, z0), (y1, z1) in zip(points, np.roll(points, -1, 0)):
        ey, ez = y1 - y0, z1 - z0
        t = np.clip(((yy - y0) * ey + (zz - z0) * ez) / (ey * ey + ez * ez), 0, 1)
        nearest = np.minimum(nearest, (yy - y0 - t * ey) ** 2 + (zz - z0 - t * ez) ** 2)
        if ez:
            inside ^= ((zz < z0) != (zz < z1)) & (yy < y0 + (zz - z0) * ey / ez)
    return np.sqrt(nearest) * np.where(inside, -1, 1)
