"""What a NIfTI file must be before SimpleITK may read it."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import psutil

from magunet.base.errors import InputError
from magunet.itk import SHEARED

BITS = {2: 8, 4: 16, 8: 32, 16: 32, 32: 64, 64: 64, 128: 24, 256: 8, 512: 16, 768: 32, 1024: 64, 1280: 64, 1792: 128, 2304: 32}
"""Of a voxel, by NIfTI's datatype codes, complex and colour among them."""
FLOATS = {16: np.dtype(np.float32), 64: np.dtype(np.float64)}
"""NIfTI's datatype codes of floating-point voxels."""
MAGIC = {348: (344, b"n+1\0"), 540: (4, b"n+2\0")}
"""Length of the header of NIfTI-1 and -2 -> where the name of the format stands in it, and the name."""
HEADER = 540
"""Bytes of the longer of the two headers, NIfTI-2's."""


def check_nifti(path: Path) -> None:
    """Refuse what SimpleITK reads without a word: a truncated file (as zeros), NaN (as zeros), a spacing that is 0 or no
    number (as 1 mm), negative (as another direction) or not the one of the sform, a sheared grid (as a rectangular one,
    where the header has that too), and a file beside its uncompressed or compressed twin (as the twin)."""
    twin = path.with_suffix("") if path.name.lower().endswith(".gz") else path.with_name(path.name + ".gz")
    if twin.exists():
        raise InputError(f"{path}: {twin.name} lies beside it and may be read in its place; remove or rename one")
    try:
        with (gzip.open(path) if path.suffix.lower() == ".gz" else open(path, "rb")) as stream:
            head = stream.read(HEADER)
        order, length = next((o, n) for o in "<>" for n in MAGIC if head[:4] == struct.pack(f"{o}i", n))
        at, magic = MAGIC[length]
        if head[at:at + 4] != magic:
            raise ValueError(magic)
        if length == 348:
            dims, (kind, bits) = struct.unpack_from(f"{order}8h", head, 40), struct.unpack_from(f"{order}2h", head, 70)
            spacing, offset = struct.unpack_from(f"{order}3f", head, 80), int(struct.unpack_from(f"{order}f", head, 108)[0])
            qform, sform = struct.unpack_from(f"{order}2h", head, 252)
            scale = struct.unpack_from(f"{order}2f", head, 112)
            quaternion, rows = struct.unpack_from(f"{order}6f", head, 256), struct.unpack_from(f"{order}12f", head, 280)
        else:                                               # NIfTI-2
            (kind, bits), dims = struct.unpack_from(f"{order}2h", head, 12), struct.unpack_from(f"{order}8q", head, 16)
            spacing, offset = struct.unpack_from(f"{order}3d", head, 112), struct.unpack_from(f"{order}q", head, 168)[0]
            qform, sform = struct.unpack_from(f"{order}2i", head, 344)
            scale = struct.unpack_from(f"{order}2d", head, 176)
            quaternion, rows = struct.unpack_from(f"{order}6d", head, 352), struct.unpack_from(f"{order}12d", head, 400)
        if not 1 <= dims[0] <= 7 or min(dims[1:1 + dims[0]]) < 1 or BITS.get(kind) != bits or offset < length + 4:
            raise ValueError(dims)
        voxels = math.prod(dims[1:1 + dims[0]])
        size = offset + voxels * bits // 8
        fits = size < psutil.virtual_memory().available
        if fits:
            with (gzip.open(path) if path.suffix.lower() == ".gz" else open(path, "rb")) as stream:
                content = stream.read(size)                 # not all: a small file can be compressed gigabytes
                stream.read(2**16)                          # to the end, where gzip keeps its checksum
    except (OSError, EOFError, zlib.error, struct.error, StopIteration, ValueError, OverflowError) as error:
        raise InputError(f"{path}: cannot be read as a medical image (damaged or not NIfTI); copy or export it again") from error
    if not fits:
        raise InputError(f"{path}: its header tells of {size / 2**30:.3g} GiB of voxels, more than the memory that is free; crop "
                         "or resample it, or export it again")
    if len(content) < size:
        raise InputError(f"{path}: truncated, {len(content)} of {size} bytes; copy or export it again")
    if dims[0] >= 3 and not (np.isfinite(spacing).all() and min(spacing) > 0):
        raise InputError(f"{path}: voxel spacing must be positive, and pixdim says {spacing} (x, y, z); export it again")
    if (qform and not np.isfinite(quaternion).all()) or (sform and not np.isfinite(rows).all()):
        raise InputError(f"{path}: qform or sform, which say where it lies in the patient, hold NaN; export it again")
    if sform:
        axes = np.reshape(rows, (3, 4))[:, :3].astype(float)
        lengths = np.linalg.norm(axes, axis=0)
        if lengths.all() and not np.allclose((axes / lengths).T @ (axes / lengths), np.eye(3), atol=1e-3):
            raise InputError(f"{path}: {SHEARED}")
        if dims[0] >= 3 and not np.allclose(lengths, spacing, rtol=1e-2):
            raise InputError(f"{path}: voxels are {spacing} mm apart by pixdim, {tuple(lengths.tolist())} by the sform; export "
                             "it again")
    if np.isinf(scale).any():                               # NaN says that there is none
        raise InputError(f"{path}: scl_slope or scl_inter, which make HU of what is stored, are infinite; export it again")
    if kind in FLOATS:
        values = np.frombuffer(content, FLOATS[kind].newbyteorder(order), voxels, offset)
        if not np.isfinite(values).all():
            raise InputError(f"{path}: holds NaN or infinite values; export it again")


def is_truncated(path: Path) -> bool:
    """Whether a NIfTI-1 file that SimpleITK has just written ends early; False for files of other names.

    Its NIfTI writer reports no error when a disk is full. Files that it wrote have this machine's byte order.
    """
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        return False
    try:
        with (gzip.open(path) if path.suffix.lower() == ".gz" else open(path, "rb")) as stream:
            header = stream.read(352)
            dims, (bits,) = struct.unpack_from("8h", header, 40), struct.unpack_from("h", header, 72)
            missing = int(struct.unpack_from("f", header, 108)[0]) - len(header) + math.prod(dims[1:1 + dims[0]]) * bits // 8
            while got := len(stream.read(2**24)):           # to the very end, where gzip keeps its checksum
                missing -= got
    except (EOFError, zlib.error, struct.error, gzip.BadGzipFile):
        return True
    return missing > 0
