"""Files that a user may give and that cannot be used, most of them a sound one with one thing wrong.

Every function that ends in a path or a folder makes one file or one series there. What a message must hold
of fault and remedy is written with " ... " between its parts.
"""

import gzip
import locale
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK
from boxes import as_image, write_scan
from dicom_series import write_series
from pydicom.encaps import encapsulate
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, HTJ2KLossless, JPEG2000Lossless, RLELossless
from test_check import pelvis

from magunet.volume import FILE_ENDINGS, Volume

SCAN = pelvis(0, (6, 30, 32))[0]
"""A sound one; on another grid than those of the cohorts."""
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20
ZEROS = gzip.compress(bytes(2**24)) * 64
"""A megabyte that unpacks to a gigabyte."""


def sound(path: Path) -> None:
    write_scan(SCAN, path)


def text(content: bytes | str) -> Callable[[Path], None]:
    """A file of this content."""
    def make(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return make


def spoilt(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """A sound scan whose bytes are changed; of NRRD and MetaImage, with compressed voxels."""
    def make(path: Path) -> None:
        sound(path)
        path.write_bytes(change(path.read_bytes()))
    return make


def voxels(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    """A sound scan with other voxels."""
    return lambda path: write_scan(Volume(change(SCAN.array), SCAN.spacing, SCAN.origin), path)


def image(size: tuple[int, ...], kind=SimpleITK.sitkInt16) -> Callable[[Path], None]:
    """An image of any dimension (x, y, ...) and kind of voxel."""
    return lambda path: SimpleITK.WriteImage(SimpleITK.Image(size, kind), str(path))


def packed(*changes: tuple) -> Callable[[Path], None]:
    """A sound NIfTI-1 file with values packed into its header: offset, format of `struct`, values."""
    def change(content: bytes) -> bytes:
        header = bytearray(content)
        for at, form, *values in changes:
            struct.pack_into(f"<{form}", header, at, *values)
        return bytes(header)
    return spoilt(change)


def worded(old: str, new: str) -> Callable[[Path], None]:
    """A sound MetaImage or NRRD, not compressed, at 0, with other words in its header."""
    def make(path: Path) -> None:
        SimpleITK.WriteImage(as_image(replace(SCAN, origin=(0, 0, 0))), str(path), useCompression=False)
        assert path.read_bytes().count(old.encode()) == 1
        path.write_bytes(path.read_bytes().replace(old.encode(), new.encode()))
    return make


def apart(path: Path) -> None:
    """A MetaImage with compressed voxels in a file of their own, of which one byte is wrong."""
    SimpleITK.WriteImage(as_image(SCAN), str(path), useCompression=True)
    path.with_suffix(".zraw").write_bytes(flipped(path.with_suffix(".zraw").read_bytes()))


def flipped(content: bytes) -> bytes:
    """One byte in the middle has all its bits turned."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1:]


def huge(content: bytes) -> bytes:
    """The header of a NRRD or MetaImage, or of a compressed NIfTI, claims more voxels than memory holds, and
    zeros without end follow."""
    if content.startswith(b"\x1f\x8b"):
        header = gzip.decompress(content)[:352]
        return gzip.compress(header[:42] + struct.pack("<3h", *[32000] * 3) + header[48:]) + ZEROS
    return content.replace(b"32 30 6", b"60000 60000 60000") + ZEROS


# DICOM ------------------------------------------------------------------------------------------------
def series(folder: Path, **options) -> Path:
    """The sound scan as six slices, IM0001.dcm to IM0006.dcm from the feet up."""
    return write_series(folder, SCAN.array, SCAN.spacing, SCAN.origin, SCAN.direction, **options)


def rewrite(path: Path, change: Callable[[pydicom.Dataset], object]) -> None:
    header = pydicom.dcmread(path)
    change(header)
    header.save_as(path)


def sliced(change: Callable[[pydicom.Dataset], object], *numbers: int) -> Callable[[Path], None]:
    """A series of which some slices, or all, are changed."""
    return lambda folder: [rewrite(path, change) for path in series(folder).iterdir()
                           if not numbers or int(path.stem[2:]) in numbers]


def tags(*numbers: int, **values) -> Callable[[Path], None]:
    """A series with other tags in some slices, or all; None leaves a tag out."""
    def change(header: pydicom.Dataset) -> None:
        for name, value in values.items():
            setattr(header, name, value)
            if value is None:
                delattr(header, name)
    return sliced(change, *numbers)


def filed(change: Callable[[Path], object], number: int) -> Callable[[Path], None]:
    """A series with something done to the file of one slice."""
    return lambda folder: change(series(folder) / f"IM{number:04d}.dcm")


def cut(length: int, number: int) -> Callable[[Path], None]:
    """A series of which the file of one slice ends early."""
    return filed(lambda path: path.write_bytes(path.read_bytes()[:length]), number)


def alone(make: Callable[[Path], object]) -> Callable[[Path], None]:
    """The first slice of a series without the others."""
    return lambda folder: (make(folder), [path.unlink() for path in sorted(folder.iterdir())[1:]])


def not_rescaled(header: pydicom.Dataset) -> None:
    """Values as scanners store them, 1024 above HU, and nothing that says so."""
    header.PixelData = (header.pixel_array.astype(np.int32) + 1024).astype(header.pixel_array.dtype).tobytes()
    del header.RescaleIntercept, header.RescaleSlope


def damaged_codestream(syntax: UID) -> Callable[[Path], None]:
    """A series with pixels that a JPEG 2000 decoder cannot read."""
    def change(header: pydicom.Dataset) -> None:
        header.PixelData = encapsulate([b"\xff\x4f\xff\x51" + bytes(200)])
        header["PixelData"].is_undefined_length = True
        header.file_meta.TransferSyntaxUID = syntax
    return sliced(change)


def compressed(compressor: str) -> Callable[[Path], None]:
    """A series as SimpleITK compresses it: "JPEG" (lossless) or "JPEG2000"."""
    def make(folder: Path) -> None:
        writer, before = SimpleITK.ImageFileWriter(), locale.setlocale(locale.LC_ALL)
        writer.SetUseCompression(True)
        writer.SetCompressor(compressor)
        writer.KeepOriginalImageUIDOn()
        for path in series(folder).iterdir():
            one = SimpleITK.ReadImage(str(path))
            writer.SetFileName(str(path))
            writer.Execute(one)
            assert pydicom.dcmread(path).file_meta.TransferSyntaxUID.is_compressed
        locale.setlocale(locale.LC_ALL, before)     # writing sets "C", and text is ASCII for all later tests
    return make


RLE = sliced(lambda header: header.compress(RLELossless))
DEFLATED = sliced(lambda one: setattr(one.file_meta, "TransferSyntaxUID", DeflatedExplicitVRLittleEndian))
JPEG, JPEG_2000 = compressed("JPEG"), compressed("JPEG2000")
LOCALISERS = tags(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
MANY_FRAMES = tags(NumberOfFrames=6, PixelData=SCAN.array.astype("<i2").tobytes())
COLOUR = tags(SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0, BitsAllocated=8,
              BitsStored=8, HighBit=7, PixelRepresentation=0, PixelData=bytes(30 * 32 * 3), RescaleSlope=None,
              RescaleIntercept=None)


# Tables -----------------------------------------------------------------------------------------------
UNSTATED = "does not state three dimensions ... copy or export it again"
"""Of an NRRD or MetaImage that is none, or without a spacing above 0 along each axis."""
UNREADABLE = "cannot be read ... copy or export it again"
"""By SimpleITK."""
DAMAGED = "damaged ... copy or export it again"
NO_SIDES = "does not state which of its sides is the patient's left ... DICOM ... by --orientation"
SPACE = "space: left-posterior-superior"
RGB, AXES, STEPS = SimpleITK.sitkVectorUInt8, "1 0 0 0 1 0 0 0 1", "space directions: (2,0,0) (0,2,0) (0,0,3)"
TRUNCATED = spoilt(lambda content: content[:len(content) * 3 // 4])
BY_MESSAGE = {
    "no such file": {"a.nii.gz, missing": lambda path: None},
    "2 dimensions ... single 3D volume": {"a.nii.gz, 2-D": image((6, 5))},
    "4 dimensions ... single 3D volume": {"a.nii, 4-D": image((6, 5, 4, 3))},
    "5 dimensions ... single 3D volume": {"a.nii.gz, RGB": image((6, 5, 4), RGB)},
    "4 dimensions ... one channel": {f"a{end}, RGB": image((6, 5, 4), RGB) for end in (".nrrd", ".mha")},
    "complex64 ... export magnitude or HU": {
        f"a{end}, complex": image((6, 5, 4), SimpleITK.sitkComplexFloat32) for end in (".nii.gz", ".nrrd")},
    "(1, 30, 32) ... at least 2 of each": {"a.nii.gz, one slice": voxels(lambda a: a[:1])},
    "(6, 30, 1) ... at least 2 of each": {
        "a.mha, one column": voxels(lambda a: np.resize(np.int16([-1000, 700] + [0] * 18), (6, 30, 1)))},
    "not a format magunet reads ... give a DICOM folder": {
        "a.png, a picture": text(PNG), "a.dcm, a slice": text("DICM"), "scan, without ending": text("?"),
        "a.nrrd.gz, compressed once more": text(gzip.compress(b"NRRD0004"))},
    "not NIfTI ... export it again": {"a.nii, a picture": text(PNG)},
    DAMAGED: {
        **{f"a{end}, no bytes": text("") for end in FILE_ENDINGS},
        **{f"a{end}, a text": text("Patient came late.\n") for end in FILE_ENDINGS},
        "a.nii.gz, one byte flipped": spoilt(flipped), "a.nii.gz, truncated": TRUNCATED,
        "a.nii.gz, wrong checksum": spoilt(lambda content: content[:-8] + bytes(8)),
        "a.nii.gz, more behind it": spoilt(lambda content: content + b"more"),
        "a.nii.gz, compressed by name only": spoilt(gzip.decompress),
        "a.nii.gz, compressed twice": spoilt(gzip.compress),
        "a.nii, compressed without the name": spoilt(gzip.compress),
        "a.nii, qform NaN": packed((256, "f", np.nan)), "a.nii, qform too long": packed((256, "3f", 1, 1, 1)),
        "a.nii, without dimensions": packed((40, "h", 0)), "a.nii, of -22 columns": packed((42, "h", -22)),
        "a.nii, of unknown numbers": packed((70, "2h", 5, 16)),
        "a.nii, of floats of 2 bytes": packed((70, "2h", 16, 16)),
        "a.nii, voxels in the header": packed((108, "f", 0)),
        "a.nii, a pair without its other half": packed((344, "4s", b"ni1"))},
    "truncated ... copy or export it again": {"a.nii, truncated": TRUNCATED},
    "truncated ... Expected 11520 bytes ... copy or export it again": {
        "a.nii, header alone": spoilt(lambda content: content[:352])},
    "more voxels than there is memory for ... export it again": {
        "a.nii, of too many voxels": packed((42, "3h", 32767, 32767, 32767)),
        "a.nii.gz, of too many voxels": spoilt(huge)},
    "compressed voxels are damaged or cut off ... copy or export it again": {
        f"a{end}, {name}": make for end in (".nrrd", ".mha") for name, make in {
            "one byte flipped": spoilt(flipped), "wrong checksum": spoilt(lambda c: c[:-4] + bytes(4)),
            "cut off": spoilt(lambda c: c[:-9]), "truncated": TRUNCATED}.items()} | {"a.mhd, flipped": apart},
    "CompressedDataSize ... export it again": {
        "a.mha, without its size": spoilt(lambda c: c.replace(b"CompressedDataSize", b"Comment")),
        "a.mha, of another size": spoilt(lambda c: c.replace(b"DataSize = ", b"DataSize = 1"))},
    "by pixdim ... by the sform ... export it again": {                 # one of them may be no number
        "a.nii, spacing 0": packed((80, "3f", 0, 0, 0)), "a.nii, spacing NaN": packed((80, "f", np.nan)),
        "a.nii, spacing below 0": packed((80, "3f", 2, 2, -3)),
        "a.nii, two spacings": packed((80, "3f", 1, 1, 1)),
        "a.nii, sform NaN": packed((252, "2h", 0, 1), (280, "f", np.nan))},
    "not perpendicular ... resample it": {
        "a.nii, axes aslant": packed((252, "2h", 1, 1), (296 + 8, "f", 0.5)),
        "a.mha, axes aslant": worded(AXES, "1 0 0 0 1 0.2 0 0 1"),
        "a.nrrd, axes aslant": worded("(0,0,3)", "(0,1,3)")},
    "position ... export it again": {"a.nii, qform infinite": packed((252, "2h", 1, 0), (268, "f", np.inf))},
    "infinite values ... export it again": {"a.nii, slope infinite": packed((112, "f", np.inf))},
    UNSTATED: {
        **{f"a{end}, {len(n)}-D": image(n) for end in (".nrrd", ".mha") for n in ((6, 5), (6, 5, 4, 3))},
        "a.nrrd, a picture": text(PNG),
        "a.mha, spacing absent": worded("ElementSpacing", "Spacing"),
        "a.mha, spacing below 0": worded("2 2 3", "2 2 -3"), "a.mha, two spacings": worded("2 2 3", "2 3"),
        "a.mha, spacing NaN": worded("2 2 3", "2 2 nan"),
        "a.mha, place NaN": worded("Offset = 0 0 0", "Offset = nan 0 0"),
        "a.mha, origin NaN": worded("Offset = 0 0 0", "Origin = 0 nan 0"),
        "a.mha, of 100 dimensions": worded("NDims = 3", "NDims = 100"),
        "a.mha, dimensions said twice": worded("NDims = 3", "NDims = 3\nNDims = 9"),
        "a.nrrd, spacing absent": worded(f"{STEPS}\n", ""),
        "a.nrrd, one axis absent": worded("(2,0,0) (0,2,0)", "none (0,2,0)"),
        "a.nrrd, spacing below 0": worded(STEPS, "spacings: 2 2 -3"),
        "a.nrrd, an endless field": worded("encoding: raw", "encoding: raw" + "w" * 20000),
        "a.nrrd, an endless line": worded("encoding", "x" * 2000 + "\nencoding")},
    f"spacing ... {UNREADABLE}": {
        "a.mha, spacing 0": worded("ElementSpacing = 2", "ElementSpacing = 0"),
        "a.nrrd, spacing 0": worded("(2,0,0)", "(0,0,0)")},
    NO_SIDES: {
        "a.nii, codes 0": packed((252, "2h", 0, 0)),
        "a.mha, no matrix": worded(f"TransformMatrix = {AXES}\n", ""),
        "a.mha, matrix misspelt": worded("TransformMatrix", "transformmatrix"),
        **{f"a.nrrd, {space}": worded(SPACE, space) for space in (
            "space dimension: 3", "space: scanner-xyz", "space: 3D-left-handed", "space: 3D-right-handed")}},
    "sform (LPS) and qform (LPI) disagree about the sides ... set_sform": {
        "a.nii, qform mirrored": packed((252, "2h", 1, 2), (76, "f", -1))},
    "sform (LPS) and qform (ALS) disagree ... set_sform": {
        "a.nii, qform turned": packed((252, "2h", 2, 1), (264, "f", 0.5))},
    "['cm', 'mm'] ... export it again with one of ['mm'": {
        "a.nrrd, two units": worded(SPACE, f'{SPACE}\nspace units: "mm" "cm" "mm"')},
    "['in'] ... export it again": {"a.nrrd, inches": worded(SPACE, f'{SPACE}\nspace units: "in" "in" "in"')},
    "6.4 mm wide, 6 mm deep and 1.8 mm high ... spacing is not in mm ... export it again": {
        "a.nrrd, in cm": worded(STEPS, "space directions: (.2,0,0) (0,.2,0) (0,0,.3)")},
    "640 mm wide, 6000 mm deep ... is not in mm": {"a.mha, deep": worded("2 2 3", "20 200 3")},
    "must be positive ... to 1000 mm ... export it again": {
        "a.mha, spacing of kilometres": worded("2 2 3", "2 2 3e6")},
    "no voxels ... export it again": {"a.mha, without slices": worded("32 30 6", "32 30 0")},
    f"size is zero ... {UNREADABLE}": {"a.nrrd, without slices": worded("32 30 6", "32 30 0")},
    UNREADABLE: {
        "a.mha, no axes": worded(AXES, "0 0 0 0 0 0 0 0 0"),
        "a.mha, of too many slices": worded("32 30 6", "32 30 60000"),
        "a.mha, of another file": worded("LOCAL", "../../secret.raw"),
        "a.mhd, without its voxels": worded("ElementDataFile = a.raw", "ElementDataFile = b.raw"),
        **{f"a{end}, claims to be huge": spoilt(huge) for end in (".nrrd", ".mha")},
        **{f"a{end}, too large": worded("32 30 6", "60000 60000 60000") for end in (".nrrd", ".mha")}},
    "bytes of a.raw ... export both again": {"a.mhd, of other voxels": worded("MET_SHORT", "MET_CHAR")},
    "bytes of a.mha ... export both again": {"a.mha, of more": spoilt(lambda c: c.replace(b"30 6", b"30 7"))},
    f"PixelType ... {UNREADABLE}": {"a.mha, of unknown numbers": worded("MET_SHORT", "MET_OTHER")},
    f"secret.raw ... {UNREADABLE}": {
        "a.nrrd, of another file": worded("encoding", "data file: secret.raw\nencoding")},
    f"rot13 ... {UNREADABLE}": {"a.nrrd, of unknown encoding": worded("encoding: raw", "encoding: rot13")},
    "NaN ... export it again": {
        f"a{end}, NaN": voxels(lambda a: np.where(a > 0, np.nan, a)) for end in (".nii.gz", ".nrrd")},
    "infinite ... export it again": {"a.mha, infinite": voxels(lambda a: np.where(a > 0, np.inf, a))},
    "beyond 1,000,000 ... export it again": {
        "a.nii.gz, out of range": voxels(lambda a: np.where(a > 0, 1e300, a)),
        "a.nrrd, whole numbers out of range": voxels(lambda a: a.astype(np.int32) * 10**4)},
}
"""What the message says -> scans, by the file's name and what is wrong, and what makes the file."""
SCANS = {name: (name.split(",")[0], make, says) for says, scans in BY_MESSAGE.items()
         for name, make in scans.items()}

AGAIN, ASLANT = "export the series again", "not perpendicular ... resample it"
NO_SLICE = f"no readable slice ... {AGAIN}"
NO_IMAGES = "no DICOM images ... give the folder that holds the slices"
SCOUT = "IM0001.dcm ... localiser ... keep only the slices"
SERIES = {
    "empty folder": (Path.mkdir, NO_IMAGES),
    "folder of other files": (lambda folder: text("notes")(folder / "a.txt"), NO_IMAGES),
    "folder around the series": (lambda folder: series(folder / "inside"), NO_IMAGES),
    "single slice": (alone(series), "single slice ... at least 2"),
    "missing slice": (filed(Path.unlink, 3), "6.00 mm at ... a slice is missing ... export it completely"),
    "copied slice": (filed(lambda path: shutil.copy(path, path.with_name("copy.dcm")), 3),
                     "same position ... remove the duplicate"),
    "last slice of no bytes": (filed(text(""), 6), f"IM0006.dcm ... {NO_SLICE}"),
    "last slice cut in its preamble": (filed(text(bytes(100)), 6), f"IM0006.dcm ... {NO_SLICE}"),
    "last slice cut in its header": (cut(600, 6), f"IM0006.dcm ... {AGAIN}"),
    "last slice cut in its pixels": (cut(-99, 6), f"IM0006.dcm ... {AGAIN}"),
    "first slice cut in its header": (cut(300, 1), f"IM0001.dcm ... {NO_SLICE}"),
    "third slice cut in its last pixels": (cut(-40, 3), f"IM0003.dcm ... {AGAIN}"),
    "last slice a text": (filed(text("not found " * 99), 6), f"IM0006.dcm ... {NO_SLICE}"),
    "last slice without pixels": (tags(6, PixelData=None), f"IM0006.dcm ... {NO_SLICE}"),
    "sizes that differ": (tags(5, Rows=19, PixelData=bytes(19 * 32 * 2)), "different image sizes ... keep"),
    "localisers": (LOCALISERS, SCOUT),
    "localiser among the slices": (tags(1, ImageType="LOCALIZER"), SCOUT),
    "spacing absent": (tags(PixelSpacing=None), f"Pixel Spacing is missing ... {AGAIN}"),
    "spacing below 0": (tags(PixelSpacing=[2, -2]), f"Pixel Spacing must be positive ... {AGAIN}"),
    "spacing 0": (tags(PixelSpacing=[0, 0]), f"Pixel Spacing must be positive ... {AGAIN}"),
    "spacings that differ": (tags(3, PixelSpacing=[3, 3]), "different pixel spacings ... keep one series"),
    "position absent": (tags(2, ImagePositionPatient=None), f"IM0002.dcm ... Image Position ... {AGAIN}"),
    "position no number": (
        filed(lambda path: path.write_bytes(path.read_bytes().replace(rb"10\-20\33", rb"NaN\-2\33")), 2),
        f"IM0002.dcm ... Image Position ... {AGAIN}"),
    "no axes": (tags(5, ImageOrientationPatient=None), f"IM0005.dcm ... Image Orientation ... {AGAIN}"),
    "axes aslant": (tags(ImageOrientationPatient=[1, 0, 0, 0.3, 1, 0]), ASLANT),
    "axes of no length": (tags(ImageOrientationPatient=[0] * 6), ASLANT),
    "orientations that differ": (tags(1, ImageOrientationPatient=[0, 1, 0, -1, 0, 0]),
                                 "different image orientations ... keep one"),
    "rescale tags absent": (sliced(not_rescaled), "not HU ... offset of 1024 ... with rescale slope and"),
    "rescale tags in some slices": (tags(3, RescaleIntercept=None), "ways to HU ... keep one series"),
    "colour": (COLOUR, "colours ... one channel"),
    "many frames": (alone(MANY_FRAMES), "multi-frame ... NIfTI"),
    "many frames in many files": (MANY_FRAMES, "multi-frame ... convert it to NIfTI"),
    "unknown compression": (damaged_codestream(HTJ2KLossless), "cannot be read ... compressed in an unusual"),
    "high bit elsewhere": (tags(2, BitsStored=12, HighBit=15), f"IM0002.dcm ... High Bit ... {AGAIN}"),
    "damaged JPEG 2000": (damaged_codestream(JPEG2000Lossless), UNREADABLE),
}
"""What is wrong with a series -> what makes the folder, what the message says."""
SEEDS_OF_SERIES = [series, RLE, DEFLATED, JPEG, JPEG_2000, COLOUR, MANY_FRAMES, LOCALISERS]
"""Folders whose slices differ as much as files of DICOM do."""


def metal(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array[2:4, 8:11, 4:7] = 30000
    return array


WORKS = {
    "spaces and letters of all kinds": ("Größe 骶髂/Fall ä 1.nii.gz", sound),
    "series, spaces and letters of all kinds": ("Größe 骶髂/Fall ä", series),
    "metal": ("a.nii.gz", voxels(metal)),
    "padding": ("a.nrrd", voxels(lambda a: np.where(a < -900, -32768, a))),
    "floats": ("a.mha", voxels(lambda a: a.astype(np.float64))),
    "NIfTI that says no slope": ("a.nii", packed((112, "2f", np.nan, np.nan))),
    "HU without rescale tags": ("series", tags(RescaleIntercept=None, RescaleSlope=None)),
    "RLE": ("series", RLE), "deflated": ("series", DEFLATED),
    "lossless JPEG": ("series", JPEG), "lossless JPEG 2000": ("series", JPEG_2000),
    "without preambles": ("series", lambda folder: series(folder, preamble=False)),
    "a list beside the slices": ("series", lambda folder: text("6 slices")(series(folder) / "README.txt")),
}
"""What only looks odd -> the name of a scan or a series, and what makes it."""
