"""SimpleITK for NRRD, MetaImage and DICOM, imported at need; it prints nothing, and an error is one line."""

import contextlib
import os
import re
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from magunet.base.errors import InputError, require

LONGEST_LINE = 500
"""Characters of a field in an NRRD's header; from about 1000 on SimpleITK ends the process."""
SPACING_FIELDS = ("space directions", "spacings", "elementspacing", "elementsize")
"""Of an NRRD and a MetaImage; a MetaImage may have both of its own."""
UNIT_FIELDS = ("space units", "units", "distanceunits")
"""Of an NRRD, for the world and for its axes, and of a MetaImage."""
SIDES = re.compile("(TransformMatrix|Orientation|Rotation) *=|"
                   "(?i:space: *(lps|ras|las|(left|right)-(posterior|anterior)-superior)) *$")
"""Lines of a MetaImage and an NRRD that state sides of the patient, as no other space of an NRRD does."""
UNITS = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "um": 0.001}
"""In mm."""


def load():
    """The module SimpleITK; phantoms, NIfTI files, training and scoring do without it."""
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    return SimpleITK


def execute(call: Callable, path: Path, *arguments, **options) -> Any:
    """Run a SimpleITK call that reads ``path``. Raises InputError where it fails.

    What C libraries print about a damaged file, past Python's stderr, goes nowhere.
    """
    sys.stderr.flush()
    stderr = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        return call(*arguments, **options)
    except RuntimeError as error:
        lines = [line for line in str(error).strip().splitlines() if not line.startswith("Reason: ")]
        reason = re.sub(r"\w*( |::)?ERROR: |\w+\(0x\w+\): ", "", lines[-1])
        raise InputError(f"{path}: cannot be read ({reason}); copy or export it again, complete, and not "
                         "compressed in an unusual way") from error
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def read_image(path: Path) -> tuple:
    """The SimpleITK image in an NRRD or MetaImage file, of 3 dimensions or, in layers, 4, in mm; and whether
    the file states directions in the patient, which SimpleITK takes to be LPS where it does not.

    Raises InputError also for what SimpleITK misreads in silence: a spacing that is not stated (as 1 mm) or
    below 0 (as another direction), an origin of NaN (as 0), damaged voxels; and for a header that crashes it.
    """
    with open(path, "rb") as stream:
        start = stream.read(2**20)
        end = re.search(rb"(?m)\r?\n\r?\n|^ElementDataFile.*\n|\Z", start)
        lines = start[:end.start()].decode("latin-1").splitlines()
        pairs = [re.match(r"\s*(\w[\w ]*?)\s*[:=](?!=)(.*)", line) for line in lines]
        fields = {pair[1].lower(): pair[2].strip().lower() for pair in pairs if pair}
        steps = re.findall(r"\([^)]*\)|[^\s()]+", " ".join(fields.get(name, "") for name in SPACING_FIELDS))
        steps = [step for step in steps if step not in ("none", "nan")]
        require(fields.get("dimension", fields.get("ndims")) in ("3", "4") and len(steps) in (3, 6)
                and not any(step.startswith("-") for step in steps)
                and "nan" not in "".join(fields.get(name, "") for name in ("offset", "origin", "position"))
                and all(len(line) <= LONGEST_LINE or re.match("#|[^:]*:=", line) for line in lines),
                f"{path}: damaged, or its header does not state three dimensions, a distance of voxels above "
                "0 along each, and an origin; copy or export it again")
        data = end[0].partition(b"=")[2].rstrip(b"\r\n").decode("latin-1").removeprefix(" ")
    apart, packed = "ndims" in fields and data != "LOCAL", fields.get("encoding") in ("gzip", "gz")
    packed = packed or fields.get("compresseddata") == "true"
    file = path.parent / Path(data).name if apart else path
    require(file.is_file(), f"{path}: cannot be read, its voxels are not there; copy or export it again")
    size = file.stat().st_size
    if packed:
        unpack, size = zlib.decompressobj(zlib.MAX_WBITS + 32), 0           # as zlib or gzip packs
        with open(file, "rb") as stream, contextlib.suppress(zlib.error):
            start = stream.seek(0 if apart else end.end())
            while not unpack.eof and (part := stream.read(2**16)):
                size += len(unpack.decompress(part))
            used = str(stream.tell() - start - len(unpack.unused_data))
        require(unpack.eof, f"{path}: compressed voxels are damaged or cut off; copy or export it again")
        require("ndims" not in fields or fields.get("compresseddatasize") in (used, *("0", None) * apart),
                f"{path}: its CompressedDataSize is not that of its voxels, {used}; copy or export it again")
    units = {*re.findall(r'[^\s"?]+', " ".join(fields.get(name, "") for name in UNIT_FIELDS))} - {"none"}
    require(len(units) < 2 and units <= UNITS.keys(), f"{path}: lengths are in {sorted(units)}; export it "
            f"again with one of {list(UNITS)}")
    name = os.fsencode(path).decode("utf-8", "replace")         # other text ends the process
    image = execute(load().ReadImage, path, name)
    if "ndims" in fields and (apart or packed) and "headersize" not in fields:
        count = image.GetNumberOfPixels() * image.GetNumberOfComponentsPerPixel()
        require(size == count * image.GetSizeOfPixelComponent(), f"{path}: states other voxels than "
                f"the {size} bytes of {file.name} hold; copy or export both again")
    for unit in units:
        image.SetSpacing(UNITS[unit] * np.array(image.GetSpacing()))
        image.SetOrigin(UNITS[unit] * np.array(image.GetOrigin()))
    return image, any(map(SIDES.match, lines))
