"""A pelvis drawn from parameters: sizes, sex, joint angles and undulation differ from seed to seed.

The parametric pelvis is a set of height fields, because both bones of the joint are single-valued when seen
from the right side: the hip bone is the space between a medial and a lateral face x = f(z, y) inside a
sagittal outline, the sacrum that between an anterior and a posterior face y = f(z, |x|). The node values are
rounded averages read off the Visible Human pelvises (HuBMAP CCF 3D Reference Object Library and Visible Human
Project, CC BY 4.0); the sizes drawn around them follow 19 adults (VSD full-body bone models,
doi:10.5281/zenodo.8316730).

Frame in mm: x to the patient's left, y posterior, z superior; the origin lies midway between the two joints.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import CubicSpline, RectBivariateSpline

from magunet.target import FAR
from sijphantom.anatomy import Array, Bones, Figures
from sijphantom.pelvis_sizes import draw_common, draw_side
from sijphantom.pelvis_tables import (
    ANTERIOR,
    CANAL,
    CANAL_Z,
    EAR,
    EAR_AP,
    EAR_HEIGHT,
    FORAMINA,
    HALF_WIDTH,
    HIP_OUTLINE,
    HIP_Y,
    HIP_Z,
    LATERAL,
    MEDIAL,
    POSTERIOR,
    SACRUM_X,
    SACRUM_Z,
    TABLE_CREST,
    TABLE_JOINT,
)
from sijphantom.shapes import (
    Knot,
    across,
    open_axes,
    outline_distance,
    point_distance,
    rounded_cone,
    sheet,
    smooth_closed,
    smooth_cut,
    smooth_step,
    smooth_union,
    span,
    waves,
)

_NOTCH = slice(12, 15)  # of HIP_OUTLINE: the roof of the greater sciatic notch, below the joint
_BOX = {"z": (-185.0, 140.0), "y": (-130.0, 80.0), "x": 165.0}  # mm, field of the parametric pelvis


def parametric_pelvis(seed: int, spacing: float = 1.0) -> Bones:
    """Returns the pelvis of this seed on an isotropic grid of `spacing` mm (1 mm: 325 x 210 x 329 voxels).

    Sizes, sex, joint angles, curvature and the undulation of the joint differ from seed to seed; left and
    right are correlated, not mirrored. The same seed gives the same pelvis at every spacing.
    """
    rng = np.random.default_rng([seed, 1])
    common = draw_common(rng)
    sides = {name: draw_side(common, rng) for name in ("left", "right")}
    z, y = (np.arange(low, high, spacing) for low, high in (_BOX["z"], _BOX["y"]))
    x = np.arange(0.0, _BOX["x"], spacing)
    shared = {"mean_height": common["joint_height"]}
    halves = [_half_pelvis(common | sides[name] | shared, z, y, x) for name in ("left", "right")]
    far = np.full((len(z), len(y), len(x) - 1), FAR, np.float32)
    left, right = halves
    sacrum, other = (np.concatenate([b[..., :0:-1], a], 2) for a, b in zip(left[::2], right[::2]))
    left_hip = np.concatenate([far, left[1]], 2)
    right_hip = np.concatenate([right[1][..., ::-1], far], 2)
    parameters = common | {f"{name}_{key}": v for name, side in sides.items() for key, v in side.items()}
    return Bones(sacrum, left_hip, right_hip, other, float(spacing), parameters)


def _half_pelvis(p: Figures, z: Array, y: Array, x: Array) -> tuple[Array, Array, Array]:
    """Signed distances (z, y, x) to the sacrum, the hip and the other bones for x >= 0."""
    joint, ear = _joint_surface(p, z, y)
    behind = smooth_step((y + 0.6 * z[:, None] - 2) / 10)  # the recess opens behind the joint
    recess = (4.5 + (p["recess"] - 4.5) * behind) * smooth_step(ear / 6)
    uneven = waves(p["noise_seed"] + 1, 8.0, z, y)
    uneven = (uneven - np.median(uneven[ear < 0])) / uneven[ear < 0].std()
    gap = p["gap"] * np.exp(0.45 * uneven) / 2
    hip_face, sacral_face = joint + gap + 0.3 * recess, joint - gap - 0.7 * recess
    hip = _hip(p, z, y, x, hip_face, smooth_step(1.2 - ear / 16))
    sacrum = np.full(hip.shape, FAR, np.float32)
    box = np.ix_(span(z, -110, 75), span(y, -75, 80), span(x, -1, 75))
    rows, columns = box[0].ravel(), box[1].ravel()
    face = sacral_face[np.ix_(rows, columns)]
    sacrum[box] = _sacrum(p, z[rows], y[columns], x[box[2].ravel()], face)
    joint_box = np.ix_(span(z, -65, 70), span(y, -60, 65), span(x, 10, 95))
    for bone in (sacrum, hip):
        bone[joint_box] = _outside_distance(bone[joint_box], float(z[1] - z[0]))
    other = _other_bones(p, z, y, x)
    return tuple(np.clip(part, -FAR, FAR).astype(np.float32) for part in (sacrum, hip, other))


def _outside_distance(level: Array, spacing: float) -> Array:
    """Makes a level a true distance outside the bone, which it is only to first order."""
    far = spacing * (ndimage.distance_transform_edt(level > 0) - 0.5)
    share = np.clip((level - 1) / 2, 0, 1)  # close to the surface the level is exact, and finer than a voxel
    return level + share * (far - level)


def _joint_surface(p: Figures, z: Array, y: Array) -> tuple[Array, Array]:
    """Lateral position (z, y) of the middle of the cleft, and the distance to the auricular outline in mm."""
    height = p["joint_height"] / 3
    angle = np.interp(z, [-height, 0, height], [p["lower"], p["middle"], p["upper"]])
    slope = np.tan(np.radians(ndimage.gaussian_filter1d(angle, 8 / (z[1] - z[0]), mode="nearest")))[:, None]
    along = y + 0.4 * z[:, None]  # mm behind the middle of the joint at this height
    surface = p["lateral"] + 0.15 * z[:, None] - slope * 45 * np.tanh(along / 45)
    surface = surface + p["rugged"] * waves(p["noise_seed"], 14.0, z, y)
    scale = np.array([p["joint_ap"] / EAR_AP, p["joint_height"] / EAR_HEIGHT])
    return surface, outline_distance(np.array(EAR) * scale, z, y) - p["ear"]


def _hip(p: Figures, z: Array, y: Array, x: Array, face: Array, near: Array) -> Array:
    """Hip bone: between its two faces inside the sagittal outline; `near` (z, y) weighs the joint surface."""
    size = np.array([0.5 + p["hip_height"] / 438, p["hip_height"] / 211])  # y, z
    wing = (p["half_biiliac"] - p["lateral"]) / (TABLE_CREST - TABLE_JOINT)
    flare = p["flare"] * smooth_step((z[:, None] - y - 20) / 60)

    def table_face(nodes: NDArray) -> Array:
        spline = RectBivariateSpline(HIP_Z * size[1], HIP_Y * size[0], nodes)
        return p["lateral"] + wing * (spline(z, y) - TABLE_JOINT) + flare

    lateral, medial = (
        table_face(nodes) + 0.8 * p["rough"] * waves(p["noise_seed"] + n, 18.0, z, y)
        for n, nodes in ((5, LATERAL), (6, MEDIAL))
    )
    shift = near * (face - medial)
    medial = medial + shift
    lateral = np.maximum(lateral + 0.5 * shift, medial + 3.5)
    outline = np.array(HIP_OUTLINE) * size
    outline[_NOTCH, 1] *= p["joint_height"] / EAR_HEIGHT / size[1]  # ends below the joint, whatever its height
    outline = outline_distance(smooth_closed(outline), z, y)
    hole = np.hypot((y + 50 + 0.25 * (z[:, None] + 112)) / 27, (z[:, None] + 112) / 14)
    edge = smooth_cut(outline, (1 - hole) * 16, 6)[..., None]
    blade = smooth_cut(sheet(x, medial, lateral, z, y), edge, 7)
    centre, radius = _femoral_head(p)
    ball = point_distance(z, y, x, centre)
    socket = np.maximum(ball - radius - 9, x - centre[2] - 0.45 * radius)  # acetabulum, opens laterally
    return np.maximum(smooth_union(blade, socket, 6), radius + 3 - ball)


def _femoral_head(p: Figures) -> tuple[tuple[float, float, float], float]:
    scale = p["hip_height"] / 211
    return (-74 * scale, -46 * scale, p["lateral"] + 0.4 * p["half_biiliac"] - 18), 22.5 * scale


def _sacrum(p: Figures, z: Array, y: Array, x: Array, face: Array) -> Array:
    """Sacrum: between its anterior and posterior faces, up to the joint, less the canal and the foramina."""
    high, deep = (p["sacrum_height"] - 48) / 80, p["sacrum_depth"] / 107
    tall = p["mean_height"] / EAR_HEIGHT  # the same on both sides, which meet in the midline
    zt = np.interp(z, [-150 * high, -80 * high, -28 * tall, 0, 45 * tall], [-150, -80, -28, 0, 45])  # height in the table
    bend = -p["hook"] * np.clip((-30 - zt) / 50, 0, 1.2)[:, None] ** 2  # the apex turns forward
    segments = 1.2 * np.cos((zt[:, None] - 8) * np.pi / 12) * smooth_step((40 - x) / 20)  # fused discs stand out
    anterior, posterior = (
        bend
        + deep * RectBivariateSpline(SACRUM_Z, SACRUM_X, nodes)(np.clip(zt, -85, 55), np.clip(x, 0, 62))
        for nodes in (ANTERIOR, POSTERIOR)
    )
    rough = smooth_step(x / 12) * p["rough"]  # the two halves meet smoothly in the midline
    anterior = anterior - segments + 0.8 * rough * waves(p["noise_seed"] + 2, 16.0, z, x)
    posterior = posterior - 0.5 * segments + 1.8 * rough * waves(p["noise_seed"] + 3, 9.0, z, x)
    bone = sheet(y, anterior, posterior, z, x).swapaxes(1, 2)
    bone = smooth_cut(bone, across(x, face, z, y), 3)
    width = np.interp(zt, SACRUM_Z, HALF_WIDTH) * p["lateral"] / 46.8
    bone = smooth_cut(bone, (x - ndimage.gaussian_filter1d(width, 3)[:, None])[:, None], 5)
    bone = smooth_cut(bone, _sacrum_top(p, z, y / deep, x, tall), 3)
    bone = smooth_cut(bone, (-80 * high - z)[:, None, None], 4)
    bone = smooth_union(bone, rounded_cone(*open_axes(z, y, x), (26, 4, 20, 6), (45, 4, 21, 5)), 5)  # facet for L5
    return smooth_cut(bone, -_openings(z, y, x, zt, deep, high), 2)


def _sacrum_top(p: Figures, z: Array, y: Array, x: Array, tall: float) -> Array:
    """Level of the upper end of the sacrum: the sloped endplate of S1, and the domed alae and laminae."""
    endplate = (z[:, None] - 36 * tall - 0.72 * (y + 20)) * 0.81
    dome = 40 * tall - 0.012 * (y[:, None] + 4) ** 2 - 0.012 * np.clip(x - 38, 0, None) ** 2
    dome = dome + 2.5 * p["rough"] * smooth_step(x / 12) * waves(p["noise_seed"] + 4, 15.0, y, x)
    return np.maximum(endplate[..., None], z[:, None, None] - dome)


def _openings(z: Array, y: Array, x: Array, zt: Array, deep: float, high: float) -> Array:
    """Sacral canal and four foramina a side, each open to the front, to the back and to the canal."""
    centre, depth, width = (CubicSpline(CANAL_Z, c)(np.clip(zt, -65, 48)) for c in zip(*CANAL))
    oval = np.hypot(((y - centre[:, None] * deep) / depth[:, None])[..., None], x / width[:, None, None])
    openings = (oval - 1) * depth[:, None, None]
    grid = open_axes(z, y, x)
    for n, (fx, fy, fz) in enumerate(FORAMINA):
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
    """L5 to L3 (bodies, arches, processes), the proximal femur and the coccyx."""
    bones = np.full((len(z), len(y), len(x)), FAR, np.float32)
    deep, lift = p["sacrum_depth"] / 107, 36 * (p["mean_height"] / EAR_HEIGHT - 1)  # of the endplate of S1
    spine = (span(z, 20, 140), span(y, -105, 60), span(x, -1, 65))
    zs, ys, xs = (axis[part] for axis, part in zip((z, y, x), spine))
    places = (48, -48, 0.5), (85, -60, 0.2), (122, -65, 0.0)  # z, y and tilt of L5, L4 and L3
    bones[np.ix_(*spine)] = np.minimum.reduce([_vertebra(zs, ys, xs, up + lift, by * deep, tilt) for up, by, tilt in places])
    leg = (span(z, -190, -25), span(y, -105, 25), span(x, 40, 170))
    bones[np.ix_(*leg)] = _femur(*_femoral_head(p), *(axis[part] for axis, part in zip((z, y, x), leg)))
    high, tip = 48 - p["sacrum_height"], 54 * deep - p["hook"]
    tail = (span(z, high - 50, high + 30), span(y, -20, 80), span(x, -1, 30))
    grid = open_axes(*(axis[part] for axis, part in zip((z, y, x), tail)))
    bones[np.ix_(*tail)] = rounded_cone(*grid, (high - 8, tip - 1, 0, 6), (high - 28, tip - 14, 0, 3))
    return bones


def _femur(head: tuple[float, float, float], radius: float, z: Array, y: Array, x: Array) -> Array:
    """Head, neck, greater trochanter and the start of the shaft."""
    hz, hy, hx = head
    grid = open_axes(z, y, x)
    neck, trochanter, shaft = (
        (hz - 20, hy + 6, hx + 36),
        (hz - 6, hy + 16, hx + 42),
        (hz - 120, hy + 4, hx + 40),
    )
    bone = rounded_cone(*grid, (*head, 15), (*neck, 14))
    bone = smooth_union(bone, rounded_cone(*grid, (*neck, 15), (*shaft, 13)), 8)
    bone = smooth_union(bone, rounded_cone(*grid, (*neck, 14), (*trochanter, 11)), 8)
    return smooth_union(bone, point_distance(z, y, x, head) - radius, 4)


def _vertebra(z: Array, y: Array, x: Array, bz: float, by: float, tilt: float) -> Array:
    """A lumbar vertebra whose body is centred on (bz, by) and leans forward by `tilt` radians."""
    dz, dy = z[:, None] - bz, y[None] - by
    up, back = np.cos(tilt) * dz - np.sin(tilt) * dy, np.cos(tilt) * dy + np.sin(tilt) * dz
    waist = 1 - 0.1 * np.cos(np.clip(up / 13, -1, 1) * np.pi / 2)
    round_ = (np.hypot((back / (17 * waist))[..., None], x / (25 * waist[..., None])) - 1) * 17
    body = smooth_cut(round_, (np.abs(up) - 13)[..., None], 3)

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
        body = smooth_union(body, rounded_cone(*open_axes(z, y, x), start, end), 3)
    return body
