"""NIfTI files by nibabel, told to refuse what it would mend: damaged files, and two spacings in one."""

import gzip
import zlib
from pathlib import Path

import nibabel
import numpy as np

from magunet.base.errors import InputError, require

FLIP = np.array([-1.0, -1.0, 1.0])
"""From LPS to NIfTI's world axes, whose x and y point to the right and to the front, and back."""
MM = {1: 1000.0, 3: 0.001}
"""Millimetres of a metre and a micrometre by NIfTI's codes; other files are taken to be in millimetres."""
DAMAGED = (OSError, EOFError, MemoryError, OverflowError, ValueError, zlib.error,
           nibabel.spatialimages.HeaderDataError, nibabel.wrapstruct.WrapStructError)
"""What Python and nibabel raise for a file that is no NIfTI, or not all of one."""
nibabel.imageglobals.logger.disabled = True                         # it prints what it mends in a header


def read_nifti(path: Path) -> tuple[np.ndarray, tuple, tuple, np.ndarray]:
    """Array, spacing, origin and direction of a NIfTI-1 or -2 file, as a `magunet.volume.Volume` has them.

    The sform says where it lies if its code is 1 or there is no qform; else the qform does. Raises InputError
    for a damaged or truncated file, and where that form and pixdim state different spacings.
    """
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else open(path, "rb") as stream:
            start = stream.read(nibabel.Nifti2Header.sizeof_hdr)
            second = nibabel.Nifti2Header.may_contain_header(start)
            kind = nibabel.Nifti2Header if second else nibabel.Nifti1Header
            header = kind(start[:kind.sizeof_hdr], check=False)
            spacing = header["pixdim"][1:4].astype(float)           # x, y, z, before they are mended
            header.check_fix()
            shape, offset, dtype = header.get_data_shape(), int(header["vox_offset"]), header.get_data_dtype()
            if header["magic"] != header.single_magic or offset < header.single_vox_offset or min(shape) < 1:
                raise ValueError("its header does not fit")
            array = nibabel.volumeutils.array_from_file(shape, dtype, stream, offset, mmap=False)
            stream.read(2**16)                                      # to the end, where gzip has its checksum
        codes = header["sform_code"], header["qform_code"]
        form = "sform" if codes[0] == 1 or (codes[0] and not codes[1]) else "qform"
        with np.errstate(all="ignore"):
            affine = header.get_sform() if form == "sform" else header.get_qform()
    except DAMAGED as error:
        reason = " ".join(str(error).split()) or "it states more voxels than there is memory for"
        raise InputError(f"{path}: damaged, truncated or not NIfTI ({reason}); copy or export it "
                         "again") from error
    array = (array.reshape(shape[:3]) if set(shape[3:]) == {1} else array).T
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    slope, intercept = slope if abs(slope) > 0 else 1.0, 0.0 if np.isnan(intercept) else intercept
    if not any(codes):
        affine = np.diag([*FLIP * spacing, 1])
    with np.errstate(all="ignore"):                                 # a volume refuses what comes of 0 and NaN
        array = array.astype(dtype.newbyteorder("="), copy=False)
        if (slope, intercept) != (1.0, 0.0):
            array = array * np.float64(slope) + intercept
            array = array.astype(np.float64 if dtype.itemsize == 8 and dtype.kind == "f" else np.float32)
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
        axes = FLIP[:, None] * affine[:3, :3] / lengths + 0.0       # no -0.0
        aslant = np.abs(axes.T @ axes - np.eye(3)).max() > 1e-3     # which a volume refuses, too
    require(array.ndim != 3 or aslant or np.allclose(lengths, spacing, rtol=1e-2), f"{path}: voxels are "
            f"{spacing.tolist()} mm apart by pixdim, {lengths.tolist()} by the {form}; export it again")
    unit = MM.get(int(header["xyzt_units"]) & 7, 1.0)
    return array, tuple((unit * spacing[::-1]).tolist()), tuple((unit * FLIP * affine[:3, 3]).tolist()), axes
