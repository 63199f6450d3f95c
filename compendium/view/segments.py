"""Segmentations of 3D Slicer: `.seg.nrrd`, one named and coloured segment a joint."""

from pathlib import Path

import numpy as np
import slicerio

from magunet.base.provenance import whole_file
from magunet.joints import JOINTS
from magunet.volume import Volume

CATEGORY, TYPE = ("SCT", "123037004", "Anatomical Structure"), ("SCT", "39723000", "Sacroiliac joint")
"""SNOMED CT. The category is the one that 3D Slicer knows; DICOM now calls it 91723000."""


def write_segments(labels: Volume, path: Path | str) -> None:
    """Write labels of `left_and_right` (d, h, w) on their own grid, whole or not at all; a joint without voxels keeps its
    segment, empty."""
    affine = np.eye(4)
    affine[:3, :3] = labels.direction * np.asarray(labels.spacing[::-1])
    affine[:3, 3] = labels.origin
    segments = [{"id": f"sij_{joint.side}", "labelValue": joint.label, "layer": 0, "name": joint.name, "color": joint.colour,
                 "extent": [end for n in labels.array.shape[::-1] for end in (0, n - 1)],
                 "terminology": {"contextName": "Segmentation category and type - DICOM master list",
                                 "category": CATEGORY, "type": TYPE, "typeModifier": ("SCT", *joint.laterality),
                                 "anatomicContextName": "Anatomic codes - DICOM master list"}}
                for joint in JOINTS]
    with whole_file(Path(path)) as part:
        slicerio.write_segmentation(str(part), {
            "voxels": labels.array.T, "ijkToLPS": affine, "segments": segments,         # x-y-z
            "containedRepresentationNames": ["Binary labelmap"]})
