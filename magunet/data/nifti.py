"""What a NIfTI file must be before SimpleITK may read it."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import psutil

from magunet.errors import InputError

FLOATS = {16: np.dtype(np.float32), 64: np.dtype(np.float64)}
"""NIfTI's datatype codes of floating-point voxels."""
HEADER = 540
"""Bytes of the longer of the two headers, NIfTI-2's."""
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
            head = stream.read(HEADER)
            order = "<" if head[:4] in (struct.pack("<i", 348), struct.pack("<i", 540)) else ">"
            if struct.unpack_from(f"{order}i", head)[0] == 348:
                dims, (kind, bits) = struct.unpack_from(f"{order}8h", head, 40), struct.unpack_from(f"{order}2h", head, 70)
                offset = int(struct.unpack_from(f"{order}f", head, 108)[0])
                sform = struct.unpack_from(f"{order}h", head, 254)[0] and struct.unpack_from(f"{order}12f", head, 280)
            else:                                           # NIfTI-2
                (kind, bits), dims = struct.unpack_from(f"{order}2h", head, 12), struct.unpack_from(f"{order}8q", head, 16)
                offset = struct.unpack_from(f"{order}q", head, 168)[0]
                sform = struct.unpack_from(f"{order}i", head, 348)[0] and struct.unpack_from(f"{order}12d", head, 400)
            voxels = math.prod(max(1, n) for n in dims[1:1 + dims[0]])
            size = offset + voxels * bits // 8
            if size < 0:
                raise ValueError("voxels begin before the file does")
            fits = size < psutil.virtual_memory().available
            stream.seek(0)
            content = stream.read(size) if fits else b""    # no more: a small file can be compressed gigabytes
    except (OSError, EOFError, zlib.error, struct.error, ValueError, OverflowError) as error:
        raise InputError(f"{path}: cannot be read as a medical image (damaged or not NIfTI); copy or export it again") from error
    if not fits:
        raise InputError(f"{path}: its header tells of {size / 2**30:.3g} GiB of voxels, more than the memory that is free; crop "
                         "or resample it, or export it again")
    if len(content) < size:
        raise InputError(f"{path}: truncated, {len(content)} of {size} bytes; copy or export it again")
    if sform and _sheared(np.reshape(sform, (3, 4))[:, :3]):
        raise InputError(f"{path}: {SHEARED}")
    if kind in FLOATS:
        values = np.frombuffer(content, FLOATS[kind].newbyteorder(order), voxels, offset)
        if not np.isfinite(values).all():
            raise InputError(f"{path}: holds NaN or infinite values; export it again")


def _sheared(axes: np.ndarray) -> bool:
    """Whether the columns of a matrix (3, 3) have lengths, and are not perpendicular."""
    lengths = np.linalg.norm(axes, axis=0)
    return bool(lengths.all()) and not np.allclose((axes / lengths).T @ (axes / lengths), np.eye(3), atol=1e-3)
