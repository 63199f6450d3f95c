"""Segmentations of 3D Slicer, `.seg.nrrd`: one named and coloured segment a joint."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import slicerio

from magunet.base import itk
from magunet.base.errors import InputError, require
from magunet.base.provenance import whole_file
from magunet.joints import joints_of
from magunet.volume import UNSTATED, Volume


def write_segments(labels: Volume, path: Path | str) -> None:
    """Write labels of `sides` on their own grid; a joint without voxels keeps its segment, empty."""
    affine = np.eye(4)
    affine[:3] = np.column_stack([labels.direction * labels.spacing[::-1], labels.origin])
    extent = [end for size in labels.array.shape[::-1] for end in (0, size - 1)]
    segments = [{"id": f"sij_{joint.side}", "name": joint.name, "color": joint.colour, "extent": extent,
                 "labelValue": joint.label, "layer": 0, "terminology": {
                     "contextName": "Segmentation category and type - DICOM master list",
                     "category": ("SCT", "123037004", "Anatomical Structure"),       # 91723000 in DICOM now
                     "type": ("SCT", "39723000", "Sacroiliac joint"),
                     "typeModifier": ("SCT", *joint.laterality) if joint.laterality else ("", "", ""),
                     "anatomicContextName": "Anatomic codes - DICOM master list"}}
                for joint in joints_of(labels)]
    with whole_file(Path(path)) as part:
        slicerio.write_segmentation(str(part), {
            "voxels": labels.array.T, "ijkToLPS": affine, "segments": segments,
            "containedRepresentationNames": ["Binary labelmap"]})


def read_segments(path: Path | str, names: Sequence[str]) -> Volume:
    """Named segments as labels 1, 2, ... (uint8), in one or several layers. Raises InputError, naming the
    file, when it is damaged or names none of the segments."""
    (image, stated), all_names = itk.read_image(Path(path)), ", ".join(names)
    array = itk.load().GetArrayFromImage(image)
    layers = array[..., None] if image.GetNumberOfComponentsPerPixel() == 1 else array   # (d, h, w, layers)
    labels = np.zeros(layers.shape[:3], np.uint8)
    try:
        fields = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()}
        keys = {text: key.removesuffix("_Name") for key, text in fields.items() if key.endswith("_Name")}
        for number, key in ((number, keys[name]) for number, name in enumerate(names, 1) if name in keys):
            layer = layers[..., int(fields.get(f"{key}_Layer", 0))]
            labels[layer == int(fields[f"{key}_LabelValue"])] = number
        mask = Volume(labels, image.GetSpacing()[::-1], image.GetOrigin(), image.GetDirection())
    except (RuntimeError, TypeError, KeyError, ValueError, IndexError) as error:
        reason = error if isinstance(error, InputError) else f"does not say which voxels are {all_names}"
        raise InputError(f"{path}: {reason}; save it again in 3D Slicer") from error
    require(stated, f"{path}: {UNSTATED}; save it again in 3D Slicer")
    require(set(names) & set(keys), f"{path}: no segment is named {all_names}; rename them in 3D Slicer")
    return mask
