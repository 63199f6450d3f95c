"""The bones around the joint's own: L5 to L3, the proximal femur and the coccyx, for x >= 0."""

import numpy as np

from magunet.target import FAR
from sijphantom.anatomy import Parameters
from sijphantom.fields import Array
from sijphantom.pelvis_tables import EAR_HEIGHT
from sijphantom.shapes import Knot, box, open_axes, point_distance, rounded_cone, smooth_cut, smooth_union


def femoral_head(p: Parameters) -> tuple[tuple[float, float, float], float]:
    scale = p["hip_height"] / 211
    return (-74 * scale, -46 * scale, p["lateral"] + 0.4 * p["half_biiliac"] - 18), 22.5 * scale


def other_bones(p: Parameters, z: Array, y: Array, x: Array) -> Array:
    """L5 to L3 (bodies, arches, processes), the proximal femur and the coccyx."""
    grid, bones = (z, y, x), np.full((len(z), len(y), len(x)), FAR, np.float32)
    deep, lift = p["sacrum_depth"] / 107, 36 * (p["mean_height"] / EAR_HEIGHT - 1)  # of the endplate of S1
    spine, axes = box(grid, (20, 140), (-105, 60), (-1, 65))
    spots = (48, -48, 0.5), (85, -60, 0.2), (122, -65, 0.0)  # z, y and tilt of L5, L4 and L3
    bones[spine] = np.minimum.reduce([_vertebra(*axes, up + lift, by * deep, tilt) for up, by, tilt in spots])
    leg, axes = box(grid, (-190, -25), (-105, 25), (40, 170))
    bones[leg] = _femur(*femoral_head(p), *axes)
    high, tip = 48 - p["sacrum_height"], 54 * deep - p["hook"]
    tail, axes = box(grid, (high - 50, high + 30), (-20, 80), (-1, 30))
    bones[tail] = rounded_cone(*open_axes(*axes), (high - 8, tip - 1, 0, 6), (high - 28, tip - 14, 0, 3))
    return bones


def _femur(head: tuple[float, float, float], radius: float, z: Array, y: Array, x: Array) -> Array:
    """Head, neck, greater trochanter and the start of the shaft."""
    hz, hy, hx = head
    grid = open_axes(z, y, x)
    neck, trochanter = (hz - 20, hy + 6, hx + 36), (hz - 6, hy + 16, hx + 42)
    shaft = (hz - 120, hy + 4, hx + 40)
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
