"""A cohort of bright boxes in air, settings to learn it with, and scans as files that magunet only reads."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK

from magunet.base import profiles
from magunet.base.provenance import write_json
from magunet.cohort import load_cohort
from magunet.volume import NIFTI_ENDINGS, Volume, write_volume

TINY = replace(profiles.load("smoke"), voxel_mm=None, depth=16, size=32, scan_matrix=32, margin_mm=10.0,
               width_divisor=16, epochs=6, samples_per_case=2, learning_rate=0.003, warmup_steps=0, cases=3,
               test_cases=1)


def write_cohort(root, cases=4):
    """Scans of a bright box in air, its place random; quick to make and to learn."""
    rng = np.random.default_rng(0)
    for i in range(cases):
        scan, mask = np.full((20, 32, 32), -1000, np.int16), np.zeros((20, 32, 32), np.uint8)
        z, y, x = rng.integers(3, 8), *rng.integers(6, 16, 2)
        box = slice(z, z + 9), slice(y, y + 10), slice(x, x + 10)
        scan[box], mask[box] = 700, 1
        scan = scan + rng.normal(0, 50, scan.shape).astype(np.int16)
        write_volume(Volume(scan, (3.0, 2.0, 2.0)), root / f"imagesTr/box_{i}_0000.nii.gz")
        write_volume(Volume(mask, (3.0, 2.0, 2.0)), root / f"labelsTr/box_{i}.nii.gz")
    write_json(root / "dataset.json", {"channel_names": {"0": "CT"}, "labels": {"background": 0, "SIJ": 1},
                                       "numTraining": cases, "file_ending": ".nii.gz", "cases": {
                                           f"box_{i}": {"any_values": True} for i in range(cases)}})
    return load_cohort(root)


def as_image(volume: Volume) -> SimpleITK.Image:
    image = SimpleITK.GetImageFromArray(volume.array)
    image.SetSpacing([float(step) for step in volume.spacing[::-1]])
    image.SetOrigin([float(v) for v in volume.origin])
    image.SetDirection(volume.direction.ravel().tolist())
    return image


def write_scan(volume: Volume, path: Path) -> None:
    """NRRD and MetaImage by SimpleITK, compressed, NIfTI by magunet."""
    if path.name.endswith(NIFTI_ENDINGS):
        return write_volume(volume, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(as_image(volume), str(path), useCompression=True)
