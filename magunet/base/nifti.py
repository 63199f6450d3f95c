"""NIfTI files by nibabel, told to refuse what it would mend: damaged files, and two spacings in one."""

import gzip
import itertools
import zlib
from pathlib import Path

import nibabel
import numpy as np

from magunet.base.errors import InputError, require
from magunet.base.progress import say

FLIP = np.array([-1.0, -1.0, 1.0])
"""From LPS to NIfTI's world axes, whose x and y point to the right and to the front, and back."""
MM = {1: 1000.0, 3: 0.001}
"""Millimetres of a metre and a micrometre by NIfTI's codes; other files are taken to be in millimetres."""
DAMAGED = (OSError, EOFError, MemoryError, OverflowError, ValueError, zlib.error,
           nibabel.spatialimages.HeaderDataError, nibabel.wrapstruct.WrapStructError)
"""What Python and nibabel raise for a file that is no NIfTI, or not all of one."""
nibabel.imageglobals.logger.disabled = True                         # it prints what it mends in a header


@np.errstate(all="ignore")                                          # a volume refuses what comes of 0 and NaN
def read_nifti(path: Path) -> tuple[np.ndarray, tuple, tuple, np.ndarray, bool]:
    """Array, spacing, origin and direction of a NIfTI-1 or -2 file, as a `magunet.volume.Volume` has them.

    Last, whether it states them: as in nibabel the sform does if its code is above 0, else the qform. Raises
    InputError for a damaged file, and where that form and pixdim differ in spacing, or the forms in a side.
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
        forms = {name: getattr(header, f"get_{name}")() for name in ("sform", "qform")
                 if header[f"{name}_code"] > 0}
        if "qform" in forms and np.isnan(header.get_qform_quaternion()).any():
            raise ValueError("its qform holds NaN")
    except DAMAGED as error:
        reason = " ".join(str(error).split()) or "it states more voxels than there is memory for"
        raise InputError(f"{path}: damaged, truncated or not NIfTI ({reason}); copy or export it "
                         "again") from error
    array = (array.reshape(shape[:3]) if set(shape[3:]) == {1} else array).T
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    slope, intercept = (slope, np.nan_to_num(intercept)) if abs(slope) > 0 else (1.0, 0.0)
    form, affine = next(iter(forms.items()), ("header", np.diag([*FLIP * spacing, 1])))
    array = array.astype(dtype.newbyteorder("="), copy=False)
    if (slope, intercept) != (1.0, 0.0):
        array = array * np.float64(slope) + intercept
        array = array.astype(np.float64 if dtype.itemsize == 8 and dtype.kind == "f" else np.float32)
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    axes = FLIP[:, None] * affine[:3, :3] / lengths + 0.0           # no -0.0
    unit = MM.get(int(header["xyzt_units"]) & 7, 1.0)
    if array.ndim == 3 and not np.abs(axes.T @ axes - np.eye(3)).max() > 1e-3:     # else a volume refuses it
        require(np.allclose(lengths, spacing, rtol=1e-2), f"{path}: voxels are {spacing.tolist()} mm apart "
                f"by pixdim, {lengths.tolist()} by the {form}; export it again")
        if len(forms) == 2:
            _compare(path, shape, unit, **forms)
    origin = unit * FLIP * affine[:3, 3]
    return array, tuple((unit * lengths[::-1]).tolist()), tuple(origin.tolist()), axes, bool(forms)


def _compare(path: Path, shape: tuple, unit: float, sform: np.ndarray, qform: np.ndarray) -> None:
    """Says where forms lie half a voxel apart. Raises InputError where their axes are 60 degrees apart."""
    lengths, others = (np.linalg.norm(form[:3, :3], axis=0) for form in (sform, qform))
    cosines = (sform[:3, :3] * qform[:3, :3]).sum(axis=0) / (lengths * others)
    require(cosines.min() > 0.5, "{}: sform ({}) and qform ({}) disagree about the sides; find out which is "
            "right and write it into both, as nibabel's set_sform and set_qform do".format(
                path, *("".join(nibabel.aff2axcodes(form)) for form in (sform, qform))))
    ends = np.array([*itertools.product(*[(0, size - 1) for size in shape[:3]])])
    apart = np.linalg.norm(nibabel.affines.apply_affine(sform - qform, ends), axis=1).max()
    if not apart <= lengths.min() / 2:
        say(f"note: {path}: its qform lies up to {unit * apart:.3g} mm off its sform, which is taken, as "
            "nibabel does; write the right one into both")
