"""Looking at a case and handing it on: viewers, meshes and files for other programs."""

FORMATS = ("nifti", "png", "seg.nrrd", "dicom-seg", "stl", "json")
"""That a case is exported in, in the order in which they are written."""
