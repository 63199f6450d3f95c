"""A pelvis drawn from parameters: sizes, sex, joint angles and undulation differ from seed to seed.

The parametric pelvis is a set of height fields, because both bones of the joint are single-valued when seen
from the right side: the hip bone is the space between a medial and a lateral face x = f(z, y) inside a
sagittal outline, the sacrum that between an anterior and a posterior face y = f(z, |x|). The node values are
rounded averages read off the Visible Human pelvises (`pelvis_tables`); the sizes drawn around them follow 19
adults (VSD full-body bone models, doi:10.5281/zenodo.8316730). All is in mm, in the frame of `pelvis_tables`.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import CubicSpline, RectBivariateSpline

from magunet.target import FAR
from sijphantom import pelvis_tables as table
from sijphantom import shapes
from sijphantom.anatomy import Bones, Parameters
from sijphantom.fields import Array
from sijphantom.other_bones import femoral_head, other_bones
from sijphantom.shapes import outline_distance, smooth_cut, smooth_step, smooth_union, waves

_NOTCH = slice(12, 15)  # of HIP_OUTLINE: the roof of the greater sciatic notch, below the joint
_BOX = {"z": (-185.0, 140.0), "y": (-130.0, 80.0), "x": 165.0}  # mm, field of the parametric pelvis
_VARIED = {"lateral": (-4, 4), "joint_height": (-8, 8), "joint_ap": (-14, 14), "lower": (-8, 8),
           "middle": (-8, 8), "upper": (-8, 8), "gap": (-2.3, 1.2), "recess": (-2, 4), "rim": (-4, 3),
           "opening": (-8, 8), "swing": (0, 1.5), "bumps": (0, 0.6), "ear": (-3, 5), "lobes": (-4, 4),
           "rugged": (-0.4, 0.4), "flare": (-5, 5)}
"""What a varied pelvis has more, at least and at most, than one drawn as people are; mm, degrees, a share."""


def parametric_pelvis(seed: int, spacing: float = 1.0, varied: bool = False) -> Bones:
    """Returns the pelvis of this seed on an isotropic grid of `spacing` mm (1 mm: 325 x 210 x 329 voxels).

    Left and right are correlated, not mirrored. The same seed gives the same pelvis at every spacing.
    varied: joints of more sizes and shapes than people are known to have, to train on; bones may overlap.
    """
    rng = np.random.default_rng([seed, 1])
    common = draw_common(rng)
    sides = {name: _draw_side(common, rng) for name in ("left", "right")}
    more = {name: float(rng.uniform(*limits)) for name, limits in _VARIED.items()} if varied else {}
    for sizes in (common, *sides.values()):
        sizes |= {name: sizes[name] + more[name] for name in sizes.keys() & more.keys()}
    z, y = (np.arange(low, high, spacing) for low, high in (_BOX["z"], _BOX["y"]))
    x = np.arange(0.0, _BOX["x"], spacing)
    shared = {"mean_height": common["joint_height"]}
    left, right = (_half_pelvis(common | side | shared, z, y, x) for side in sides.values())
    far = np.full((len(z), len(y), len(x) - 1), FAR, np.float32)
    sacrum, other = (np.concatenate([b[..., :0:-1], a], 2) for a, b in zip(left[::2], right[::2]))
    left_hip = np.concatenate([far, left[1]], 2)
    right_hip = np.concatenate([right[1][..., ::-1], far], 2)
    parameters = common | {f"{name}_{key}": v for name, side in sides.items() for key, v in side.items()}
    return Bones(sacrum, left_hip, right_hip, other, float(spacing), parameters)


def draw_common(rng: np.random.Generator) -> Parameters:
    """Sizes (mm) and angles (degrees) of the whole pelvis, which differ by sex.

    A woman's pelvis is roomier and her sacrum shorter (Fischer and Mitteroecker, Anat Rec 2017;300:698), her
    auricular surfaces are smaller (13.7 for 16.2 cm2 of cartilage alone, mean over 29 patients: "Auricular
    surface morphology and surface area does not influence subchondral bone density distribution in the
    dysfunctional sacroiliac joint", Clin Anat) and less rugged (Vleeming et al., Spine 1990;15:130). The
    spreads follow the 19 adults; how far the sexes are apart within them is our choice.
    """
    female = float(rng.random() < 0.5)
    sex = 1 - 2 * female  # +1 man, -1 woman
    size = rng.normal(0, 1)  # of the person: what all lengths share
    angle = rng.normal(0, 9)  # degrees, shared by the thirds of the joint
    parameters = {
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
        "rim": 4.5,  # mm by which the cleft is wider all around the auricular surface
        "opening": 2,  # mm behind the joint's middle, where the cleft opens to the recess
        "swing": 0, "bumps": 0, "lobes": 0,  # unevenness of both faces (mm), recess (share) and outline (mm)
    }
    return {name: float(value) for name, value in parameters.items()}


def _draw_side(common: Parameters, rng: np.random.Generator) -> Parameters:
    """Sizes and angles of one side: those of the pelvis plus about half their spread."""
    spread = {"lateral": 0.8, "half_biiliac": 3, "joint_height": 2, "joint_ap": 4.5, "flare": 2}
    spread |= {"lower": 4, "middle": 4, "upper": 4, "gap": 0.07, "recess": 1, "rugged": 0.15}
    side = {key: float(rng.normal(common[key], sd)) for key, sd in spread.items()}
    side["gap"] = float(np.clip(side["gap"], 2.5, 3.6))
    return side | {"rough": float(rng.uniform(0.5, 1.2)), "noise_seed": int(rng.integers(2**31))}


def _half_pelvis(p: Parameters, z: Array, y: Array, x: Array) -> tuple[Array, Array, Array]:
    """Signed distances (z, y, x) to the sacrum, the hip and the other bones for x >= 0."""
    joint, ear = _joint_surface(p, z, y)
    behind = smooth_step((y + 0.6 * z[:, None] - p["opening"]) / 10)  # the recess opens behind the joint
    recess = (p["rim"] + (p["recess"] - p["rim"]) * behind) * smooth_step(ear / 6)
    recess = recess * np.maximum(1 + p["bumps"] * waves(p["noise_seed"] + 8, 16.0, z, y), 0)
    uneven = waves(p["noise_seed"] + 1, 8.0, z, y)
    uneven = (uneven - np.median(uneven[ear < 0])) / uneven[ear < 0].std()
    gap = p["gap"] * np.exp(0.45 * uneven) / 2
    swing = [p["swing"] * waves(p["noise_seed"] + number, 11.0, z, y) for number in (9, 10)]
    hip_face, sacral_face = joint + gap + 0.3 * recess + swing[0], joint - gap - 0.7 * recess + swing[1]
    hip = _hip(p, z, y, x, hip_face, smooth_step(1.2 - ear / 16))
    sacrum = np.full(hip.shape, FAR, np.float32)
    box, axes = shapes.box((z, y, x), (-110, 75), (-75, 80), (-1, 75))
    sacrum[box] = _sacrum(p, *axes, sacral_face[box[0][..., 0], box[1][..., 0]])
    near_joint, _ = shapes.box((z, y, x), (-65, 70), (-60, 65), (10, 95))
    for bone in (sacrum, hip):  # a level is a true distance only to first order
        level = bone[near_joint]
        far = float(z[1] - z[0]) * (ndimage.distance_transform_edt(level > 0) - 0.5)
        share = np.clip((level - 1) / 2, 0, 1)  # near the surface a level is exact and fine
        bone[near_joint] = level + share * (far - level)
    other = other_bones(p, z, y, x)
    return tuple(np.clip(part, -FAR, FAR).astype(np.float32) for part in (sacrum, hip, other))


def _joint_surface(p: Parameters, z: Array, y: Array) -> tuple[Array, Array]:
    """Lateral position (z, y) of the middle of the cleft, and the distance to the auricular outline in mm."""
    height = p["joint_height"] / 3
    angle = np.interp(z, [-height, 0, height], [p["lower"], p["middle"], p["upper"]])
    slope = np.tan(np.radians(ndimage.gaussian_filter1d(angle, 8 / (z[1] - z[0]), mode="nearest")))[:, None]
    along = y + 0.4 * z[:, None]  # mm behind the middle of the joint at this height
    surface = p["lateral"] + 0.15 * z[:, None] - slope * 45 * np.tanh(along / 45)
    surface = surface + p["rugged"] * waves(p["noise_seed"], 14.0, z, y)
    scale = np.array([p["joint_ap"] / table.EAR_AP, p["joint_height"] / table.EAR_HEIGHT])
    lobes = p["lobes"] * waves(p["noise_seed"] + 7, 25.0, z, y)
    return surface, outline_distance(np.array(table.EAR) * scale, z, y) - p["ear"] + lobes


def _hip(p: Parameters, z: Array, y: Array, x: Array, face: Array, near: Array) -> Array:
    """Hip bone: between its two faces inside the sagittal outline; `near` (z, y) weighs the joint surface."""
    size = np.array([0.5 + p["hip_height"] / 438, p["hip_height"] / 211])  # y, z
    wing = (p["half_biiliac"] - p["lateral"]) / (table.CREST - table.JOINT)
    flare = p["flare"] * smooth_step((z[:, None] - y - 20) / 60)

    def table_face(nodes: NDArray, number: int) -> Array:
        spline = RectBivariateSpline(table.HIP_Z * size[1], table.HIP_Y * size[0], nodes)
        uneven = 0.8 * p["rough"] * waves(p["noise_seed"] + number, 18.0, z, y)
        return p["lateral"] + wing * (spline(z, y) - table.JOINT) + flare + uneven

    lateral, medial = table_face(table.HIP[1], 5), table_face(table.HIP[0], 6)
    shift = near * (face - medial)
    medial = medial + shift
    lateral = np.maximum(lateral + 0.5 * shift, medial + 3.5)
    outline = np.array(table.HIP_OUTLINE) * size
    outline[_NOTCH, 1] *= p["joint_height"] / table.EAR_HEIGHT / size[1]  # ends below any joint
    outline = outline_distance(shapes.smooth_closed(outline), z, y)
    hole = np.hypot((y + 50 + 0.25 * (z[:, None] + 112)) / 27, (z[:, None] + 112) / 14)
    edge = smooth_cut(outline, (1 - hole) * 16, 6)[..., None]
    blade = smooth_cut(shapes.sheet(x, medial, lateral, z, y), edge, 7)
    centre, radius = femoral_head(p)
    ball = shapes.point_distance(z, y, x, centre)
    socket = np.maximum(ball - radius - 9, x - centre[2] - 0.45 * radius)  # acetabulum, opens laterally
    return np.maximum(smooth_union(blade, socket, 6), radius + 3 - ball)


def _sacrum(p: Parameters, z: Array, y: Array, x: Array, face: Array) -> Array:
    """Sacrum: between its anterior and posterior faces, up to the joint, less the canal and the foramina."""
    high, deep = (p["sacrum_height"] - 48) / 80, p["sacrum_depth"] / 107
    tall = p["mean_height"] / table.EAR_HEIGHT  # the same on both sides, which meet in the midline
    heights = [-150 * high, -80 * high, -28 * tall, 0, 45 * tall]
    zt = np.interp(z, heights, [-150, -80, -28, 0, 45])  # height in the table
    bend = -p["hook"] * np.clip((-30 - zt) / 50, 0, 1.2)[:, None] ** 2  # the apex turns forward
    discs = 1.2 * np.cos((zt[:, None] - 8) * np.pi / 12) * smooth_step((40 - x) / 20)  # fused, standing out
    place = np.clip(zt, -85, 55), np.clip(x, 0, 62)
    anterior, posterior = (
        bend + deep * RectBivariateSpline(table.SACRUM_Z, table.SACRUM_X, nodes)(*place)
        for nodes in table.SACRUM)
    rough = smooth_step(x / 12) * p["rough"]  # the two halves meet smoothly in the midline
    anterior = anterior - discs + 0.8 * rough * waves(p["noise_seed"] + 2, 16.0, z, x)
    posterior = posterior - 0.5 * discs + 1.8 * rough * waves(p["noise_seed"] + 3, 9.0, z, x)
    bone = shapes.sheet(y, anterior, posterior, z, x).swapaxes(1, 2)
    bone = smooth_cut(bone, shapes.across(x, face, z, y), 3)
    width = np.interp(zt, table.SACRUM_Z, table.HALF_WIDTH) * p["lateral"] / 46.8
    bone = smooth_cut(bone, (x - ndimage.gaussian_filter1d(width, 3)[:, None])[:, None], 5)
    bone = smooth_cut(bone, _sacrum_top(p, z, y / deep, x, tall), 3)
    bone = smooth_cut(bone, (-80 * high - z)[:, None, None], 4)
    facet = shapes.rounded_cone(*shapes.open_axes(z, y, x), (26, 4, 20, 6), (45, 4, 21, 5))  # for L5
    bone = smooth_union(bone, facet, 5)
    return smooth_cut(bone, -_openings(z, y, x, zt, deep, high), 2)


def _sacrum_top(p: Parameters, z: Array, y: Array, x: Array, tall: float) -> Array:
    """Level of the upper end of the sacrum: the sloped endplate of S1, and the domed alae and laminae."""
    endplate = (z[:, None] - 36 * tall - 0.72 * (y + 20)) * 0.81
    dome = 40 * tall - 0.012 * (y[:, None] + 4) ** 2 - 0.012 * np.clip(x - 38, 0, None) ** 2
    dome = dome + 2.5 * p["rough"] * smooth_step(x / 12) * waves(p["noise_seed"] + 4, 15.0, y, x)
    return np.maximum(endplate[..., None], z[:, None, None] - dome)


def _openings(z: Array, y: Array, x: Array, zt: Array, deep: float, high: float) -> Array:
    """Sacral canal and four foramina a side, each open to the front, to the back and to the canal."""
    heights, *sizes = zip(*table.CANAL)
    centre, depth, width = (CubicSpline(heights, size)(np.clip(zt, -65, 48)) for size in sizes)
    oval = np.hypot(((y - centre[:, None] * deep) / depth[:, None])[..., None], x / width[:, None, None])
    openings = (oval - 1) * depth[:, None, None]
    grid = shapes.open_axes(z, y, x)
    for n, (fx, fy, fz) in enumerate(table.FORAMINA):
        fz, fy, length = fz * (high if fz < 0 else 1), fy * deep, 40 - 8 * n

        def at(share: float, fx: float, radius: float, fy=fy, fz=fz, length=length, n=n) -> shapes.Knot:
            return fz + 0.75 * share * length, fy + 0.65 * share * length, fx, radius - 0.3 * n

        for start, end in (
            (at(-0.08, fx + 2, 6.5), at(0.4, fx, 4.2)),
            (at(0.4, fx, 4.0), at(1, fx + 1, 2.8)),
            (at(0.4, fx, 3.8), at(0.5, 6, 3.2)),
        ):
            openings = np.minimum(openings, shapes.rounded_cone(*grid, start, end))
    return openings
