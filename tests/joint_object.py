"""Two joints of different shape and size at known places in the patient, on any grid."""

import numpy as np
from scipy.spatial.transform import Rotation

from magunet.volume import Volume

CENTRES = {"left": np.array([45.0, 10.0, 5.0]), "right": np.array([-38.0, -6.0, -4.0])}
"""LPS mm."""
SHAPE, SPACING = (44, 48, 56), (3.0, 2.5, 2.2)
WIDE = (44, 48, 90)
"""With room for the bones beside a joint."""
COARSE = (22, 24, 28), (6.0, 5.0, 4.4)
"""As wide, in fewer slices, for the time."""
TILT, LEAN = Rotation.from_euler("xyz", [(14, -17, 20), (15, -10, 20)], degrees=True).as_matrix()
DIRECTIONS = {
    "LPS": np.eye(3), "RAS": np.diag([-1.0, -1, 1]), "upside down": np.diag([-1.0, 1, -1]),
    "coronal": np.eye(3)[:, [0, 2, 1]], "sagittal": np.eye(3)[:, [1, 2, 0]], "oblique": TILT,
    "oblique PIR": LEAN[:, [1, 2, 0]] * [1, -1, -1],
    "mirrored rows": np.diag([-1.0, 1, 1]), "mirrored slices": np.diag([1.0, 1, -1]),
    "oblique, mirrored": TILT @ np.diag([1.0, -1, 1])}
"""With both handednesses."""


def world(volume: Volume) -> np.ndarray:
    """LPS coordinates (d, h, w, 3) of all voxel centres: a plain sum over the axes."""
    z, y, x = (step * index[..., None] for step, index in zip(volume.spacing, np.indices(volume.array.shape)))
    d = volume.direction
    return np.asarray(volume.origin) + x * d[:, 0] + y * d[:, 1] + z * d[:, 2]


def grid(direction, shape=SHAPE, spacing=SPACING, centre=(0.0, 0.0, 0.0)) -> Volume:
    """An empty grid whose middle lies at ``centre``."""
    middle = (np.array(shape[::-1]) - 1) / 2 * spacing[::-1]
    origin = tuple(np.asarray(centre) - np.asarray(direction) @ middle)
    return Volume(np.zeros(shape, np.uint8), spacing, origin, direction)


def parts(on: Volume) -> dict[str, np.ndarray]:
    """Side -> (d, h, w): left an ellipsoid with a spur forwards, right a block with a step."""
    at = world(on)
    left, right = (at - CENTRES[side] for side in ("left", "right"))
    ellipsoid = (left[..., 0] / 8) ** 2 + (left[..., 1] / 15) ** 2 + (left[..., 2] / 17) ** 2 < 1
    spur = (np.abs(left[..., 0]) < 4) & (np.abs(left[..., 2] - 8) < 5) & (np.abs(left[..., 1] + 12) < 12)
    block = (np.abs(right[..., 0]) < 6) & (np.abs(right[..., 1]) < 12) & (np.abs(right[..., 2]) < 14)
    step = (np.abs(right[..., 0]) < 6) & (np.abs(right[..., 1] - 10) < 10) & (np.abs(right[..., 2] - 6) < 6)
    return {"left": ellipsoid | spur, "right": block | step}


def single(on: Volume, side: str) -> tuple[Volume, Volume]:
    """A mask of one joint, a plate from the front and outside to the back and middle, and the CT of both: the
    ilium's dense bone outside, the sacrum inside."""
    at, hu, plates = world(on), np.full(on.array.shape, 80, np.int16), {}
    for name, centre in CENTRES.items():
        x, y, z = np.moveaxis(at - centre, -1, 0)
        outside = x * np.sign(centre[0]) + 0.5 * y
        plates[name] = (np.abs(outside) < 5) & (np.abs(y) < 15) & (np.abs(z) < 17)
        hu[(outside > 0) & (at[..., 0] * centre[0] > 0)] = 300
    return on.with_array(plates[side].astype(np.uint8)), on.with_array(hu)


def in_order(at: np.ndarray) -> np.ndarray:
    """Points (n, 3) sorted by their coordinates, whatever order a file has them in."""
    return at[np.lexsort(np.round(at, 3).T)]


def places(on: Volume, inside: np.ndarray) -> np.ndarray:
    return in_order(world(on)[inside])


def both(on: Volume) -> Volume:
    """The mask of both joints."""
    return on.with_array(np.any(list(parts(on).values()), axis=0).astype(np.uint8))


def ct(on: Volume) -> Volume:
    """The two, of bone, in a body of water that fills the grid but for some air at its first columns."""
    hu = np.where(both(on).array != 0, 700, 0).astype(np.int16)
    hu[..., :2] = -1000
    return on.with_array(hu)
