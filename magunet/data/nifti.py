"""What a NIfTI file must be before SimpleITK may read it."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from magunet.errors import InputError

FLOATS = {16: np.dtype(np.float32), 64: np.dtype(np.float64)}
"""NIfTI's datatype codes of floating-point voxels."""
SHEARED = "the axes of the volume are not perpendicular (sheared or tilted gantry); resample it to a rectangular grid first"


def check_nifti(path: Path) -> None:
    """Refuse what SimpleITK reads without a word: a truncated file (as zeros), NaN (as zeros), a sheared grid
    (as a rectangular one, where the header has that too), and a file beside its uncompressed or compressed twin
    (as the twin)."""
    twin = path.with_suffix("") if path.name.lower().endswith(".gz") else path.with_name(path.name + ".gz")
    if twin.exists():
        raise InputError(f"{path}: {twin.name} lies beside it and may be read in its place; remove or rename one")
    try:
        with (gzip.open(path) if path.suffix.lower() == ".gz" else open(path, "rb")) as stream:
            content = stream.read()
        order = "<" if content[:4] in (struct.pack("<i", 348), struct.pack("<i", 540)) else ">"
        if struct.unpack_from(f"{order}i", content)[0] == 348:
            dims, (kind, bits) = struct.unpack_from(f"{order}8h", content, 40), struct.unpack_from(f"{order}2h", content, 70)
            offset = int(struct.unpack_from(f"{order}f", content, 108)[0])
            sform = struct.unpack_from(f"{order}h", content, 254)[0] and struct.unpack_from(f"{order}12f", content, 280)
        else:                                               # NIfTI-2
            (kind, bits), dims = struct.unpack_from(f"{order}2h", content, 12), struct.unpack_from(f"{order}8q", content, 16)
            offset = struct.unpack_from(f"{order}q", content, 168)[0]
            sform = struct.unpack_from(f"{order}i", content, 348)[0] and struct.unpack_from(f"{order}12d", content, 400)
        voxels = int(np.prod([max(1, n) for n in dims[1:1 + dims[0]]], dtype=np.int64))
    except (OSError, EOFError, zlib.error, struct.error, ValueError, OverflowError) as error:
        raise InputError(f"{path}: cannot be read as a medical image (damaged or not NIfTI); copy or export it again") from error
    if len(content) < offset + voxels * bits // 8:
        raise InputError(f"{path}: truncated, {len(content)} of {offset + voxels * bits // 8} bytes; copy or export it again")
    if sform and _sheared(np.reshape(sform, (3, 4))[:, :3]):
        raise InputError(f"{path}: {SHEARED}")
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


def _sheared(axes: np.ndarray) -> bool:
    """Whether the columns of a matrix (3, 3) have lengths, and are not perpendicular."""
    lengths = np.linalg.norm(axes, axis=0)
    return bool(lengths.all()) and not np.allclose((axes / lengths).T @ (axes / lengths), np.eye(3), atol=1e-3)
