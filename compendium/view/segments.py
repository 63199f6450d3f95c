"""Segmentations of 3D Slicer, `.seg.nrrd`: one named and coloured segment a joint is written, named segments are read."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import slicerio

from magunet import itk
from magunet.base.errors import InputError
from magunet.base.provenance import whole_file
from magunet.joints import JOINTS
from magunet.volume import Volume

TERMINOLOGY = {"contextName": "Segmentation category and type - DICOM master list",
               "category": ("SCT", "123037004", "Anatomical Structure"),
               "type": ("SCT", "39723000", "Sacroiliac joint"),
               "anatomicContextName": "Anatomic codes - DICOM master list"}
"""SNOMED CT. The category is the one that 3D Slicer knows; DICOM now calls it 91723000."""


def write_segments(labels: Volume, path: Path | str) -> None:
    """Write labels of `left_and_right` on their own grid; a joint without voxels keeps its segment, empty."""
    affine = np.eye(4)
    affine[:3, :3] = labels.direction * np.asarray(labels.spacing[::-1])
    affine[:3, 3] = labels.origin
    extent = [end for size in labels.array.shape[::-1] for end in (0, size - 1)]
    segments = [{"id": f"sij_{joint.side}", "labelValue": joint.label, "layer": 0, "name": joint.name,
                 "color": joint.colour, "extent": extent,
                 "terminology": TERMINOLOGY | {"typeModifier": ("SCT", *joint.laterality)}} for joint in JOINTS]
    with whole_file(Path(path)) as part:
        slicerio.write_segmentation(str(part), {
            "voxels": labels.array.T, "ijkToLPS": affine, "segments": segments,         # x-y-z
            "containedRepresentationNames": ["Binary labelmap"]})


def read_segments(path: Path | str, names: Sequence[str]) -> Volume:
    """Named segments as labels 1, 2, ... (uint8), in one or several layers.

    Raises InputError, naming the file, when it is damaged or names none of the segments.
    """
    path = Path(path)
    image = itk.read_image(path)
    array = itk.load().GetArrayFromImage(image)
    layers = array[..., None] if image.GetNumberOfComponentsPerPixel() == 1 else array     # (d, h, w, layers)
    labels = np.zeros(layers.shape[:3], np.uint8)
    try:
        keys = {image.GetMetaData(key): key.removesuffix("_Name") for key in image.GetMetaDataKeys() if key.endswith("_Name")}
        for number, name in enumerate(names, 1):
            if key := keys.get(name):
                layer = int(image.GetMetaData(f"{key}_Layer")) if image.HasMetaDataKey(f"{key}_Layer") else 0
                labels[layers[..., layer] == int(image.GetMetaData(f"{key}_LabelValue"))] = number
        grid = image.GetSpacing()[::-1], image.GetOrigin(), np.reshape(image.GetDirection(), (3, 3))
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise InputError(f"{path}: does not say which voxels are {', '.join(names)}; save it again in 3D Slicer") from error
    if not set(names) & set(keys):
        raise InputError(f"{path}: no segment is named {', '.join(names)}; rename them in 3D Slicer")
    try:
        return Volume(labels, *grid)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
