"""A script for 3D Slicer that loads a case's CT, segmentations and meshes, each where it lies in the patient."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from magunet.base.provenance import whole_file

SCRIPT = '''"""Loads a CT, its sacroiliac joints and their surfaces into 3D Slicer 5:

    Slicer --python-script FILE

or, in Slicer's Python console, exec(open(FILE).read(), {{"__file__": FILE}}), where FILE is the path of
this file. Keep it in one folder with the files it names.
"""

from pathlib import Path

import slicer

CT = {ct!r}
SEGMENTATIONS = {segmentations!r}
MASKS = {masks!r}
MESHES = {meshes!r}     # file: name, colour

folder = Path(__file__).resolve().parent
ct = slicer.util.loadVolume(str(folder / CT))
ct.GetDisplayNode().SetAutoWindowLevel(False)
ct.GetDisplayNode().SetWindowLevelMinMax(-200, 1000)
for file in SEGMENTATIONS:
    slicer.util.loadSegmentation(str(folder / file)).SetReferenceImageGeometryParameterFromVolumeNode(ct)
for file in MASKS:
    slicer.util.loadLabelVolume(str(folder / file))
for file, (name, colour) in MESHES.items():
    mesh = slicer.util.loadModel(str(folder / file))
    mesh.SetName(name)
    mesh.GetDisplayNode().SetColor(*colour)
    mesh.GetDisplayNode().SetOpacity(0.6)
slicer.util.setSliceViewerLayers(background=ct, fit=True)
slicer.util.resetThreeDViews()
'''


def write_script(path: Path, ct: str, segmentations: Sequence[str], masks: Sequence[str],
                 meshes: Mapping[str, tuple[str, tuple[float, float, float]]]) -> None:
    """Write the script, whole or not at all. All files are names in the script's own folder; masks are label volumes, and
    meshes map a file to its name and colour."""
    text = SCRIPT.format(ct=ct, segmentations=list(segmentations), masks=list(masks), meshes=dict(meshes))
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")
