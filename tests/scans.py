"""Scans as files of the formats that magunet reads and does not write."""

from pathlib import Path

import SimpleITK

from magunet.volume import NIFTI_ENDINGS, Volume, write_volume


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
