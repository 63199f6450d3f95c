"""NIfTI files by nibabel, told to refuse what it would mend: damaged files, and two spacings in one."""

import gzip
import zlib
from pathlib import Path

import nibabel
import numpy as np
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import array_from_file
from nibabel.wrapstruct import WrapStructError

from magunet.base.errors import InputError

FLIP = np.array([-1.0, -1.0, 1.0])
"""From LPS to NIfTI's world axes, whose x and y point to the right and to the front, and back."""
MM = {1: 1000.0, 3: 0.001}
"""Millimetres of a metre and a micrometre by NIfTI's codes; other files are taken to be in millimetres."""
nibabel.imageglobals.logger.disabled = True                         # it prints what it mends in a header


def read_nifti(path: Path) -> tuple[np.ndarray, tuple, tuple, np.ndarray]:
    """Array, spacing, origin and direction of a NIfTI-1 or -2 file, as a `magunet.volume.Volume` has them.

    The sform says where it lies if its code is 1 or there is no qform; else the qform does. Raises InputError
    for a damaged or truncated file, and where that form and pixdim state different spacings.
    """
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else open(path, "rb") as stream:
            start = stream.read(540)                                # a header begins with its length
            second = b"\x02\x1c" in (start[2:4], start[1::-1])
            kind = nibabel.Nifti2Header if second else nibabel.Nifti1Header
            header = kind(start[:kind.sizeof_hdr], check=False)
            spacing = header["pixdim"][1:4].astype(float)           # x, y, z
            header.check_fix()
            shape, offset, dtype = header.get_data_shape(), int(header["vox_offset"]), header.get_data_dtype()
            if header["magic"] != header.single_magic or offset < header.single_vox_offset or min(shape) < 1:
                raise ValueError("its header does not fit")
            array = array_from_file(shape, dtype, stream, offset, mmap=False)
            stream.read(2**16)                                      # to the end, where gzip has its checksum
        codes = header["sform_code"], header["qform_code"]
        form = "sform" if codes[0] == 1 or (codes[0] and not codes[1]) else "qform"
        with np.errstate(all="ignore"):
            affine = header.get_sform() if form == "sform" else header.get_qform()
    except (OSError, EOFError, MemoryError, OverflowError, ValueError, zlib.error, HeaderDataError,
            WrapStructError) as error:
        reason = " ".join(str(error).split()) or "it states more voxels than there is memory for"
        raise InputError(f"{path}: damaged, truncated or not NIfTI ({reason}); copy or export it "
                         "again") from error
    array = (array.reshape(shape[:3]) if set(shape[3:]) == {1} else array).T
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    slope, intercept = slope if abs(slope) > 0 else 1.0, 0.0 if np.isnan(intercept) else intercept
    unit = MM.get(int(header["xyzt_units"]) & 7, 1.0)
    if not any(codes):
        affine = np.diag([*FLIP * spacing, 1])
    with np.errstate(all="ignore"):                                 # a volume refuses what comes of 0 and NaN
        array = array.astype(dtype.newbyteorder("="), copy=False)
        if (slope, intercept) != (1.0, 0.0):
            array = (array * np.float64(slope) + intercept)
            array = array.astype(np.float64 if dtype.itemsize == 8 and dtype.kind == "f" else np.float32)
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
        axes = FLIP[:, None] * affine[:3, :3] / lengths + 0.0       # no -0.0
        aslant = np.abs(axes.T @ axes - np.eye(3)).max() > 1e-3     # which a volume refuses, too
    if array.ndim == 3 and not aslant and not np.allclose(lengths, spacing, rtol=1e-2):
        raise InputError(f"{path}: voxels are {spacing.tolist()} mm apart by pixdim, {lengths.tolist()} by "
                         f"the {form}; export it again")
    origin = unit * FLIP * affine[:3, 3]
    return array, tuple((unit * spacing[::-1]).tolist()), tuple(origin.tolist()), axes


def write_nifti(array: np.ndarray, spacing: tuple, origin: tuple, direction: np.ndarray, path: Path) -> None:
    """Write an array (z, y, x) on a grid as `read_nifti` returns it, the same in qform and sform."""
    affine = np.eye(4)
    affine[:3, :3] = FLIP[:, None] * direction * spacing[::-1]
    affine[:3, 3] = FLIP * origin
    image = nibabel.Nifti1Image(array.T, affine, dtype=array.dtype)
    image.set_qform(affine, "scanner")
    image.set_sform(affine, "scanner")
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, path)
