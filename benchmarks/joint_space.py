"""How wrong the measured joint space is, on healthy phantoms whose clefts are known.

    python benchmarks/joint_space.py [--phantoms 16] [--seed 100]

Phantoms of 0.6 to 0.9 mm pixels, with their true masks. The true width is the distance to the sacrum plus that to the hip
bone, halfway between the two, less what age takes off the cleft; 0 where the bones are grown together. It is taken in the very
places that were measured, and over the whole joint.
"""

import argparse

import numpy as np
from scipy import ndimage

from compendium.view.joint_space import REACH, STEP, joint_space, measured_widths
from magunet.distance import distance_at_voxels
from magunet.joints import JOINTS, left_and_right
from magunet.volume import Volume
from sijphantom.phantom import Phantom, make_phantom
from sijphantom.scanner import Protocol

HIPS = {"left": 2, "right": 3}


def healthy_phantom(seed: int) -> Phantom:
    """Both joints of grade 0, in a short scan around them."""
    return make_phantom(seed, matrix=384, slices=(40, 90), grades=(0, 0),
                        protocol=Protocol(pixel_mm=(0.6, 0.9), margin_mm=(6.0, 20.0)))


def true_widths(phantom: Phantom, side: str, places: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """The cleft's width (n,) in mm where lines along the normals (n, 3) through the places (n, 3) cross its middle."""
    held = ndimage.find_objects(phantom.mask)[0]
    near = tuple(slice(max(0, part.start - round(25 / mm)), part.stop + round(25 / mm))
                 for part, mm in zip(held, phantom.spacing))
    first = np.array([part.start for part in near]) * phantom.spacing                  # z-y-x, mm
    along = np.arange(-REACH, REACH, STEP)[:, None] * normals[:, None]
    index = ((places[:, None] + along)[..., ::-1] - first) / phantom.spacing
    to_bones = [ndimage.map_coordinates(distance_at_voxels(phantom.bones[near] == bone, phantom.spacing),
                                        np.moveaxis(index, -1, 0), order=1, mode="nearest") for bone in (1, HIPS[side])]
    middle = np.abs(np.subtract(*to_bones)).argmin(axis=1)
    gap = np.add(*to_bones)[np.arange(len(places)), middle]
    return np.clip(gap + phantom.parameters["lesions"][side]["age"], 0, None)


def main() -> None:
    """Measure both joints of each phantom; print each, and the errors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--phantoms", type=int, default=16)
    parser.add_argument("--seed", type=int, default=100, help="of the first phantom")
    arguments = parser.parse_args()
    errors, count = [], 2 * arguments.phantoms
    for seed in range(arguments.seed, arguments.seed + arguments.phantoms):
        phantom = healthy_phantom(seed)
        scan = Volume(phantom.image, phantom.spacing)
        labels = left_and_right(scan.with_array(phantom.mask))
        for joint in JOINTS:
            one = labels.with_array(labels.array == joint.label)
            found = joint_space(scan, one)
            if found.mean is None:
                print(f"phantom {seed} {joint.side:5}: not measured: {found.reason}")
                continue
            places, normals, widths = measured_widths(scan, one)
            true = true_widths(phantom, joint.side, places, normals)
            here, whole = true[np.isfinite(widths)].mean(), true.mean()
            errors.append((found.mean - here, found.mean - whole))
            print(f"phantom {seed} {joint.side:5}: {found.mean:.2f} mm in {found.share:.0%} of the joint; "
                  f"truth there {here:.2f}, in the whole joint {whole:.2f}")
    print(f"measured {len(errors)} of {count} joints")
    for name, error in zip(("where measured", "whole joint"), np.transpose(errors)):
        print(f"error, {name}: mean {error.mean():+.2f}, mean absolute {np.abs(error).mean():.2f}, "
              f"largest {np.abs(error).max():.2f} mm")


if __name__ == "__main__":
    main()
