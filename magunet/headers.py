"""What MetaImage and NRRD files must say before SimpleITK may read them.

It takes voxels that are nowhere said to lie 2 mm apart for voxels of 1 mm, an origin that is no number for 0, a negative
spacing for another direction, what comes out of damaged compressed voxels for voxels, and a header of a hundred dimensions
or with an endless field ends the process.
"""

import math
import re
import zlib
from pathlib import Path

from magunet.base.errors import InputError

LONGEST_HEADER = 2**20
LONGEST_FIELD = 500
"""Characters of an NRRD's field; from about 1000 on the program that reads it ends the process."""
MOST_PACKED = 1032
"""Bytes that zlib can make of one."""
BYTES = {"MET_CHAR": 1, "MET_UCHAR": 1, "MET_SHORT": 2, "MET_USHORT": 2, "MET_INT": 4, "MET_UINT": 4, "MET_LONG": 4,
         "MET_ULONG": 4, "MET_LONG_LONG": 8, "MET_ULONG_LONG": 8, "MET_FLOAT": 4, "MET_DOUBLE": 8}
"""Of a voxel of each type of MetaImage."""
COUNTS = {"DimSize": 3, "ElementSpacing": 3, "ElementSize": 3, "Offset": 3, "Position": 3, "Origin": 3, "CenterOfRotation": 3,
          "TransformMatrix": 9, "Rotation": 9, "Orientation": 9}
"""Numbers that a field of MetaImage holds."""
NO_SPACING = "does not say how far apart its voxels lie"


def check_metaimage(path: Path) -> None:
    """Refuse a MetaImage (.mha, .mhd) that is no single 3D volume with a spacing. Raises InputError, naming the file."""
    fields = _fields(path, rb"[ \t]*(\w+)[ \t]*[=:](.*)")
    dimensions, channels = fields.get("ndims"), fields.get("elementnumberofchannels", "1")
    if dimensions is None:
        raise _unfit(path, "damaged or not MetaImage")
    if dimensions != "3":
        raise InputError(f"{path}: has {dimensions} dimensions; give a single 3D volume")
    if channels != "1":
        raise InputError(f"{path}: has {channels} channels; give a single-channel CT or mask")
    values = {name: _numbers(path, name, fields[name.lower()].split(), count)
              for name, count in COUNTS.items() if name.lower() in fields}
    if not values.keys() & {"ElementSpacing", "ElementSize"}:
        raise _unfit(path, NO_SPACING)
    for name in values.keys() & {"DimSize", "ElementSpacing", "ElementSize"}:
        if min(values[name]) <= 0:
            raise _unfit(path, f"{name} is {fields[name.lower()]}, and must be positive")
    kind, data = fields.get("elementtype"), fields.get("elementdatafile", "")
    voxels = path if data.upper() == "LOCAL" else path.parent / data
    if kind not in BYTES or "DimSize" not in values or Path(data).name != data or not voxels.is_file():
        raise _unfit(path, f"ElementType is {kind}, DimSize {fields.get('dimsize')}, ElementDataFile {data or None}")
    packed = fields.get("compresseddata", "").lower() == "true"
    most = voxels.stat().st_size * (MOST_PACKED if packed else 1)
    if math.prod(values["DimSize"]) * BYTES[kind] > most:
        raise _unfit(path, f"truncated, {fields['dimsize']} voxels in {voxels.stat().st_size} bytes")
    if packed:
        _check_packed(path, voxels, rb"(?im)^[ \t]*ElementDataFile[^\n]*\n" if voxels == path else b"")


def check_nrrd(path: Path) -> None:
    """Refuse an NRRD that does not say its spacing, or keeps its voxels elsewhere. Raises InputError, naming the file."""
    _check_lines(path)
    fields = _fields(path, rb"([a-zA-Z][\w ]*):(?!=)(.*)")
    dimensions = fields.get("dimension")
    if dimensions is None:
        raise _unfit(path, "damaged or not NRRD")
    if dimensions not in ("3", "4"):                            # the fourth may be channels, or layers of a segmentation
        raise InputError(f"{path}: has {dimensions} dimensions; give a single 3D volume")
    if fields.keys() & {"data file", "datafile"}:
        raise _unfit(path, "its voxels lie in another file")
    if min(_numbers(path, "sizes", fields.get("sizes", "").split(), int(dimensions))) <= 0:
        raise _unfit(path, f"sizes are {fields['sizes']}")
    if directions := fields.get("space directions"):
        vectors = [text.split(",") for text in re.findall(r"\(([^)]*)\)", directions)]
        if len(vectors) < 3 or not all(any(_numbers(path, "space directions", vector, len(vectors))) for vector in vectors):
            raise _unfit(path, NO_SPACING)
    else:
        spacings = [text for text in fields.get("spacings", "").split() if text.lower() != "nan"]
        if len(spacings) < 3:
            raise _unfit(path, NO_SPACING)
        if min(_numbers(path, "spacings", spacings, len(spacings))) <= 0:
            raise _unfit(path, f"spacings are {fields['spacings']}, and must be positive")
    skips = fields.keys() & {"line skip", "lineskip", "byte skip", "byteskip"}
    if fields.get("encoding", "").lower() in ("gz", "gzip") and not skips:
        _check_packed(path, path, rb"\r?\n\r?\n")


def _check_lines(path: Path) -> None:
    """Refuse an NRRD with a field of more characters than any has; comments and keys (``key:=value``) may have more."""
    with open(path, "rb") as stream:
        for line in stream.read(LONGEST_HEADER).split(b"\n"):
            if not line.strip(b"\r"):
                break
            if len(line) > LONGEST_FIELD and not re.match(rb"#|[^:]*:=", line):
                raise _unfit(path, f"a field of its header has {len(line)} characters")


def _fields(path: Path, form: bytes) -> dict[str, str]:
    """Names, in small letters, and values of a header's lines of a form; an empty line or the name of a data file ends it."""
    found = {}
    with open(path, "rb") as stream:
        for line in stream.read(LONGEST_HEADER).splitlines():
            if not line or "elementdatafile" in found:
                break
            if match := re.fullmatch(form, line):
                name = match[1].decode("latin-1").lower()
                if name in found:
                    raise _unfit(path, f"says {name} twice")
                found[name] = match[2].decode("latin-1").strip()
    return found


def _check_packed(path: Path, voxels: Path, header_end: bytes) -> None:
    """Refuse voxels that zlib cannot unpack to their end, where their checksum is; they begin behind a header's end."""
    unpack = zlib.decompressobj(zlib.MAX_WBITS + 32)                    # as zlib or gzip packs
    with open(voxels, "rb") as stream:
        end = re.search(header_end, stream.read(LONGEST_HEADER))
        stream.seek(end.end() if end else 0)
        try:
            while not unpack.eof and (part := stream.read(2**16)):
                unpack.decompress(part)
        except zlib.error:
            pass
    if not unpack.eof:
        raise _unfit(path, "its compressed voxels are damaged or cut off")


def _numbers(path: Path, name: str, texts: list[str], count: int) -> list[float]:
    try:
        values = [float(text) for text in texts]
    except ValueError:
        values = []
    if len(values) != count or not all(map(math.isfinite, values)):
        raise _unfit(path, f"{name} must be {count} numbers, and is {' '.join(texts)[:60] or None}")
    return values


def _unfit(path: Path, why: str) -> InputError:
    return InputError(f"{path}: cannot be read as a medical image ({why}); copy or export it again")
