"""What leaves magunet: files for other programs, and pictures to turn in the hand."""

FORMATS = ("nifti", "png", "seg.nrrd", "dicom-seg", "stl", "vtp", "slicer", "json")
"""That a case is exported in, in the order in which they are written."""
