"""Implicit shapes: signed distances in mm, negative inside, on a grid with axes z, y, x."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline, RectBivariateSpline

from sijphantom.fields import Array, Axes

Knot = tuple[float, float, float, float]  # z, y, x, radius in mm


def sheet(x: Array, low: Array, high: Array, z: Array, y: Array) -> Array:
    """Signed distance (z, y, x), to first order, to the space between x = low(z, y) and x = high(z, y)."""
    return np.maximum(-across(x, low, z, y), across(x, high, z, y))


def across(x: Array, face: Array, z: Array, y: Array) -> Array:
    """Signed distance (z, y, x), to first order, to the surface x = face(z, y)."""
    slopes = np.gradient(face, z, y)
    steep = np.sqrt(1 + slopes[0] ** 2 + slopes[1] ** 2).astype(np.float32)
    return (x.astype(np.float32) - face[..., None].astype(np.float32)) / steep[..., None]


def point_distance(z: Array, y: Array, x: Array, centre: Sequence[float]) -> Array:
    """Distance (z, y, x) of the grid of axes z, y, x to a point."""
    squares = [((axis - c) ** 2).astype(np.float32) for axis, c in zip((z, y, x), centre)]
    return np.sqrt(squares[0][:, None, None] + squares[1][:, None] + squares[2])


def open_axes(z: Array, y: Array, x: Array) -> tuple[Array, Array, Array]:
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


def smooth_cut(a: Array, b: Array, radius: float) -> Array:
    """Intersection of two signed distances with an edge rounded over about `radius` mm."""
    edge = a - b
    np.subtract(radius, np.abs(edge, out=edge), out=edge)
    np.square(np.maximum(edge, 0, out=edge), out=edge)
    edge /= np.float32(4 * radius)
    edge += np.maximum(a, b)
    return edge


def smooth_union(a: Array, b: Array, radius: float) -> Array:
    return -smooth_cut(-a, -b, radius)


def smooth_step(t: Array) -> Array:
    """Smooth step from 0 (t <= 0) to 1 (t >= 1)."""
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)


def box(axes: Axes, *ranges: tuple[float, float]) -> tuple[tuple[NDArray, ...], list[Array]]:
    """Index of the part of a grid (z, y, x) that lies within these ranges in mm, and its own axes."""
    places = [np.flatnonzero((axis > low) & (axis < high)) for axis, (low, high) in zip(axes, ranges)]
    return np.ix_(*places), [axis[place] for axis, place in zip(axes, places)]


def waves(seed: float, scale: float, z: Array, y: Array) -> Array:
    """Smooth random field (z, y) of unit variance with bumps of about `scale` mm, the same at any spacing."""
    rows, columns = np.arange(-160, 120, scale), np.arange(-140, 100, scale)
    noise = np.random.default_rng(int(seed)).standard_normal((len(rows), len(columns)))
    return RectBivariateSpline(rows, columns, noise)(z, y)


def smooth_closed(points: NDArray, factor: int = 3) -> NDArray:
    """A closed curve through the points, `factor` times as many."""
    closed = np.vstack([points, points[:1]])
    n = len(points)
    return CubicSpline(np.arange(n + 1), closed, bc_type="periodic")(np.arange(n * factor) / factor)


def outline_distance(points: NDArray, z: Array, y: Array) -> Array:
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
