"""Functions of space on a scan grid: smooth fields from a coarse lattice."""

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.float32]
Axes = tuple[NDArray, NDArray, NDArray]  # z, y, x positions in mm


class SmoothField:
    """A function of space given at lattice nodes and interpolated by cubic B-splines (separable, hence fast).

    `nodes` (a, b, c) lie `pitch` mm apart at `places`, a lattice; `at(axes)` is float32 (d, h, w). The spline
    smooths the nodes by 0.6 pitch, and reproduces linear functions.
    """

    def __init__(self, nodes: NDArray, places: Axes, pitch: float | None = None) -> None:
        self.nodes, self.start = np.asarray(nodes, np.float32), [place[0] for place in places]
        self.pitch = pitch or float(places[0][1] - places[0][0])

    @staticmethod
    def lattice(axes: Axes, pitch: float) -> Axes:
        """Node positions (z, y, x) of a lattice that holds the axes and some mm around them."""
        ends = [(a[0], a[-1], 2 * pitch + a[1] - a[0]) for a in axes]
        return tuple(np.arange(low - margin, high + margin + pitch, pitch) for low, high, margin in ends)

    @classmethod
    def noise(cls, rng: np.random.Generator, axes: Axes, scale: float) -> "SmoothField":
        """Random field with unit variance and bumps of about `scale` mm."""
        places = cls.lattice(axes, scale)
        nodes = rng.standard_normal([len(a) for a in places], dtype=np.float32)
        return cls(nodes * (315 / 151) ** 1.5, places, scale)

    def at(self, axes: Axes) -> Array:
        """Values on the grid of axes (z, y, x) in mm; by torch, whose threads a phantom limits."""
        offsets = [(axis - start) / self.pitch for axis, start in zip(axes, self.start)]
        weights = [_spline_weights(offset, count) for offset, count in zip(offsets, self.nodes.shape)]
        depth, height, width = map(torch.from_numpy, weights)
        planes = torch.tensordot(depth, torch.from_numpy(self.nodes), 1)
        return ((height @ planes) @ width.T).numpy()


def _spline_weights(position: NDArray, count: int) -> Array:
    """Cubic B-spline weights (points, nodes); beyond the lattice the outermost nodes count."""
    position = np.clip(position, 1, count - 2)[:, None]
    near = np.floor(position).astype(np.intp) + np.arange(-1, 3)    # all nodes that have a weight
    distance = np.abs(position - near)
    inner, outer = 2 / 3 - distance**2 + distance**3 / 2, np.clip(2 - distance, 0, None) ** 3 / 6
    weights = np.zeros((len(position), count + 1), np.float32)      # one more than there are
    np.put_along_axis(weights, near, np.where(distance < 1, inner, outer), 1)
    return weights[:, :count]
