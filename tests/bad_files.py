"""Files that a user may give and that cannot be used, most of them a sound one with one thing wrong.

Every function that ends in a path or a folder makes one file or one series there.
"""

import gzip
import locale
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK
from dicom_series import write_series
from pydicom.encaps import encapsulate
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, JPEG2000Lossless, RLELossless, generate_uid
from scans import write_scan
from test_check import pelvis

from magunet.volume import FILE_ENDINGS, Volume

SCAN = pelvis(0, (6, 20, 22))[0]
"""A sound one; on another grid than those of the cohorts."""
HTJ2K = UID("1.2.840.10008.1.2.4.201")
"""High-throughput JPEG 2000, which GDCM does not know."""
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20


def sound(path: Path) -> None:
    write_scan(SCAN, path)


def text(content: bytes | str) -> Callable[[Path], None]:
    """A file of this content."""
    def make(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return make


def spoilt(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """A sound scan whose bytes are changed."""
    def make(path: Path) -> None:
        sound(path)
        path.write_bytes(change(path.read_bytes()))
    return make


def packed_then(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """The sound scan with compressed voxels, its bytes changed."""
    def make(path: Path) -> None:
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(SCAN.array), str(path), useCompression=True)
        path.write_bytes(change(path.read_bytes()))
    return make


def voxels(change: Callable[[np.ndarray], np.ndarray], spacing=SCAN.spacing) -> Callable[[Path], None]:
    """A sound scan with other voxels or another spacing."""
    return lambda path: write_scan(Volume(change(SCAN.array), spacing, SCAN.origin), path)


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


def worded(old: bytes, new: bytes) -> Callable[[Path], None]:
    """A sound MetaImage or NRRD, not compressed, with other words in its header."""
    def make(path: Path) -> None:
        plain = SimpleITK.GetImageFromArray(SCAN.array)
        plain.SetSpacing(SCAN.spacing[::-1])
        SimpleITK.WriteImage(plain, str(path), useCompression=False)
        assert path.read_bytes().count(old) == 1
        path.write_bytes(path.read_bytes().replace(old, new))
    return make


def flipped(content: bytes) -> bytes:
    """One byte in the middle has all its bits turned."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1:]


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
    def make(folder: Path) -> None:
        series(folder)
        for number in numbers or range(1, 7):
            rewrite(folder / f"IM{number:04d}.dcm", change)
    return make


def not_rescaled(header: pydicom.Dataset) -> None:
    """Values as scanners store them, 1024 above HU, and nothing that says so."""
    header.PixelData = (header.pixel_array.astype(np.int32) + 1024).astype(header.pixel_array.dtype).tobytes()
    del header.RescaleIntercept, header.RescaleSlope


def tags(*numbers: int, **values) -> Callable[[Path], None]:
    """A series with other tags in some slices, or all; None leaves a tag out."""
    def change(header: pydicom.Dataset) -> None:
        for name, value in values.items():
            if value is None:
                delattr(header, name)
            else:
                setattr(header, name, value)
    return sliced(change, *numbers)


def filed(change: Callable[[Path], object], number: int) -> Callable[[Path], None]:
    """A series with something done to the file of one slice."""
    return lambda folder: change(series(folder) / f"IM{number:04d}.dcm")


def two_series(folder: Path) -> None:
    series(folder)
    for path in series(folder.with_name("other")).iterdir():
        path.rename(folder / f"b{path.name}")
    folder.with_name("other").rmdir()


def single_slice(folder: Path) -> None:
    for path in sorted(series(folder).iterdir())[1:]:
        path.unlink()


def many_frames(header: pydicom.Dataset) -> None:
    header.NumberOfFrames, header.PixelData = 6, SCAN.array.astype("<i2").tobytes()


def colour(header: pydicom.Dataset) -> None:
    header.SamplesPerPixel, header.PhotometricInterpretation, header.PlanarConfiguration = 3, "RGB", 0
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 8, 8, 7, 0
    header.PixelData = bytes(header.Rows * header.Columns * 3)
    del header.RescaleSlope, header.RescaleIntercept


def localiser(header: pydicom.Dataset) -> None:
    header.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]


def own_localiser(header: pydicom.Dataset) -> None:
    localiser(header)
    header.ImageOrientationPatient, header.SeriesInstanceUID = [1, 0, 0, 0, 0, -1], generate_uid()


def damaged_codestream(syntax: UID) -> Callable[[pydicom.Dataset], None]:
    """Pixels that a JPEG 2000 decoder cannot read."""
    def change(header: pydicom.Dataset) -> None:
        header.PixelData = encapsulate([b"\xff\x4f\xff\x51" + bytes(200)])
        header["PixelData"].is_undefined_length = True
        header.file_meta.TransferSyntaxUID = syntax
    return change


def no_number(path: Path) -> None:
    """A position that pydicom would not write."""
    content, value = (path.read_bytes(),
                      str(pydicom.dcmread(path).ImagePositionPatient[0]).rstrip("0").encode())
    at = content.index(b"\x20\x00\x32\x00DS") + 8
    assert content[at:].startswith(value[:2])
    path.write_bytes(content[:at] + b"NaN"[:len(value)] + content[at + min(3, len(value)):])


def rle(header: pydicom.Dataset) -> None:
    header.compress(RLELossless)


def deflated(header: pydicom.Dataset) -> None:
    header.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian


def compressed(compressor: str) -> Callable[[Path], None]:
    """A series as SimpleITK compresses it: "JPEG" (lossless) or "JPEG2000"."""
    def make(folder: Path) -> None:
        writer = SimpleITK.ImageFileWriter()
        writer.SetUseCompression(True)
        writer.SetCompressor(compressor)
        writer.KeepOriginalImageUIDOn()
        before = locale.setlocale(locale.LC_ALL)
        for path in series(folder).iterdir():
            one = SimpleITK.ReadImage(str(path))
            writer.SetFileName(str(path))
            writer.Execute(one)
            assert pydicom.dcmread(path).file_meta.TransferSyntaxUID.is_compressed
        # writing DICOM sets "C", and text is ASCII for all later tests
        locale.setlocale(locale.LC_ALL, before)
    return make


UNSTATED = ["does not state three dimensions", "copy or export it again"]
"""Of an NRRD or MetaImage that is none, or without a spacing above 0 along each axis."""
UNREADABLE = ["cannot be read", "copy or export it again"]
"""By SimpleITK."""
TWO_SPACINGS = ["by pixdim", "by the sform", "export it again"]
"""Of a NIfTI file, one of which may be no number."""
SCANS = {
    "missing": ("a.nii.gz", lambda path: None, ["no such file"]),
    "2-D": ("a.nii.gz", image((6, 5)), ["2 dimensions", "single 3D volume"]),
    "2-D, NRRD": ("a.nrrd", image((6, 5)), UNSTATED),
    "2-D, MetaImage": ("a.mha", image((6, 5)), UNSTATED),
    "4-D": ("a.nii", image((6, 5, 4, 3)), ["4 dimensions", "single 3D volume"]),
    "4-D, NRRD": ("a.nrrd", image((6, 5, 4, 3)), UNSTATED),
    "4-D, MetaImage": ("a.mha", image((6, 5, 4, 3)), UNSTATED),
    "RGB": ("a.nii.gz", image((6, 5, 4), SimpleITK.sitkVectorUInt8), ["5 dimensions", "single 3D volume"]),
    "RGB, NRRD": ("a.nrrd", image((6, 5, 4), SimpleITK.sitkVectorUInt8), ["4 dimensions", "one channel"]),
    "RGB, MetaImage": ("a.mha", image((6, 5, 4), SimpleITK.sitkVectorUInt8), ["4 dimensions", "one channel"]),
    "complex": ("a.nii.gz", image((6, 5, 4), SimpleITK.sitkComplexFloat32),
                ["complex64", "export magnitude or HU"]),
    "complex, NRRD": ("a.nrrd", image((6, 5, 4), SimpleITK.sitkComplexFloat32),
                      ["complex64", "export magnitude or HU"]),
    "one slice": ("a.nii.gz", voxels(lambda a: a[:1]), ["(1, 20, 22)", "at least 2 of each"]),
    "one column": ("a.mha", voxels(lambda a: a[:, :, :1]), ["(6, 20, 1)", "at least 2 of each"]),
    "a picture": ("a.png", text(PNG), ["not a format magunet reads", "give a DICOM folder"]),
    "a slice": ("a.dcm", text(b"DICM"), ["not a format magunet reads", "give a DICOM folder"]),
    "a name without ending": ("scan", text(b"?"), ["not a format magunet reads", "give a DICOM folder"]),
    "a picture by another name": ("a.nii", text(PNG), ["not NIfTI", "export it again"]),
    "a picture as NRRD": ("a.nrrd", text(PNG), UNSTATED),
    "gzip, one byte flipped": ("a.nii.gz", spoilt(flipped), ["damaged", "copy or export it again"]),
    "gzip, wrong checksum": ("a.nii.gz", spoilt(lambda c: c[:-8] + bytes(8)),
                             ["damaged", "copy or export it again"]),
    "gzip, more behind it": ("a.nii.gz", spoilt(lambda c: c + b"more"),
                             ["damaged", "copy or export it again"]),
    "gzip, by name only": ("a.nii.gz", spoilt(gzip.decompress), ["damaged", "copy or export it again"]),
    "gzip twice": ("a.nii.gz", spoilt(gzip.compress), ["damaged", "copy or export it again"]),
    "gzip without the name": ("a.nii", spoilt(gzip.compress), ["damaged", "copy or export it again"]),
    **{f"compressed {ending}, {name}": (f"a.{ending}", packed_then(change),
                                        ["compressed voxels are damaged or cut off",
                                         "copy or export it again"])
       for ending in ("nrrd", "mha") for name, change in {
           "one byte flipped": flipped, "wrong checksum": lambda c: c[:-4] + bytes(4),
           "cut off": lambda c: c[:-9]}.items()},
    "header alone": ("a.nii", spoilt(lambda c: c[:352]),
        ["truncated", "Expected 5280 bytes", "copy or export it again"]),
    "NIfTI without dimensions": ("a.nii", packed((40, "h", 0)), ["damaged", "export it again"]),
    "NIfTI of -22 columns": ("a.nii", packed((42, "h", -22)), ["damaged", "export it again"]),
    "NIfTI of too many voxels": ("a.nii", packed((42, "3h", 32767, 32767, 32767)),
        ["more voxels than there is memory for", "export it again"]),
    "NIfTI of unknown numbers": ("a.nii", packed((70, "2h", 5, 16)), ["damaged", "export it again"]),
    "NIfTI of floats of 2 bytes": ("a.nii", packed((70, "2h", 16, 16)), ["damaged", "export it again"]),
    "NIfTI with voxels in the header": ("a.nii", packed((108, "f", 0)), ["damaged", "export it again"]),
    "NIfTI pair without its other half": ("a.nii", packed((344, "4s", b"ni1")),
                                          ["damaged", "export it again"]),
    "NIfTI, spacing 0": ("a.nii", packed((80, "3f", 0, 0, 0)), TWO_SPACINGS),
    "NIfTI, spacing below 0": ("a.nii", packed((80, "3f", 2, 2, -3)), TWO_SPACINGS),
    "NIfTI, spacing NaN": ("a.nii", packed((80, "f", np.nan)), TWO_SPACINGS),
    "NIfTI, two spacings": ("a.nii", packed((80, "3f", 1, 1, 1)), TWO_SPACINGS),
    "NIfTI, axes aslant": ("a.nii", packed((252, "2h", 1, 1), (296 + 8, "f", 0.5)),
                           ["not perpendicular", "resample it"]),
    "NIfTI, sform NaN": ("a.nii", packed((252, "2h", 0, 1), (280, "f", np.nan)), TWO_SPACINGS),
    "NIfTI, qform infinite": ("a.nii", packed((252, "2h", 1, 0), (268, "f", np.inf)),
                              ["position", "export it again"]),
    "NIfTI, slope infinite": ("a.nii", packed((112, "f", np.inf)), ["infinite values", "export it again"]),
    "MetaImage, spacing absent": ("a.mha", worded(b"ElementSpacing", b"Spacing"), UNSTATED),
    "MetaImage, spacing 0": ("a.mha", worded(b"ElementSpacing = 2", b"ElementSpacing = 0"),
        ["spacing", *UNREADABLE]),
    "MetaImage, spacing below 0": ("a.mha", worded(b"2 2 3", b"2 2 -3"), UNSTATED),
    "MetaImage, spacing NaN": ("a.mha", worded(b"2 2 3", b"2 2 nan"), UNSTATED),
    "MetaImage, two spacings": ("a.mha", worded(b"2 2 3", b"2 3"), UNSTATED),
    "MetaImage, spacing of kilometres": ("a.mha", worded(b"2 2 3", b"2 2 3e6"),
        ["must be positive", "to 1000 mm", "export it again"]),
    "MetaImage, axes aslant": ("a.mha", worded(b"1 0 0 0 1 0 0 0 1", b"1 0 0 0 1 0.2 0 0 1"),
        ["not perpendicular", "resample it"]),
    "MetaImage, no axes": ("a.mha", worded(b"1 0 0 0 1 0 0 0 1", b"0 0 0 0 0 0 0 0 0"), UNREADABLE),
    "MetaImage, place NaN": ("a.mha", worded(b"Offset = 0 0 0", b"Offset = nan 0 0"), UNSTATED),
    "MetaImage of 100 dimensions": ("a.mha", worded(b"NDims = 3", b"NDims = 100"), UNSTATED),
    "MetaImage that says it twice": ("a.mha", worded(b"NDims = 3", b"NDims = 3\nNDims = 9"), UNSTATED),
    "MetaImage without slices": ("a.mha", worded(b"22 20 6", b"22 20 0"), ["no voxels", "export it again"]),
    "MetaImage of too many slices": ("a.mha", worded(b"22 20 6", b"22 20 60000"), UNREADABLE),
    "MetaImage of unknown numbers": ("a.mha", worded(b"MET_SHORT", b"MET_OTHER"), ["PixelType", *UNREADABLE]),
    "MetaImage of another file": ("a.mha", worded(b"LOCAL", b"../../secret.raw"), UNREADABLE),
    "MetaImage header without voxels": ("a.mhd",
                                        worded(b"ElementDataFile = a.raw", b"ElementDataFile = b.raw"),
        UNREADABLE),
    "NRRD, spacing absent": ("a.nrrd", worded(b"space directions: (2,0,0) (0,2,0) (0,0,3)\n", b""), UNSTATED),
    "NRRD, one axis absent": ("a.nrrd", worded(b"(2,0,0) (0,2,0)", b"none (0,2,0)"), UNSTATED),
    "NRRD, spacing 0": ("a.nrrd", worded(b"(2,0,0)", b"(0,0,0)"), ["spacing", *UNREADABLE]),
    "NRRD, spacing below 0": ("a.nrrd", worded(b"space directions: (2,0,0) (0,2,0) (0,0,3)",
                                               b"spacings: 2 2 -3"),
        UNSTATED),
    "NRRD, axes aslant": ("a.nrrd", worded(b"(0,0,3)", b"(0,1,3)"), ["not perpendicular", "resample it"]),
    "NRRD without slices": ("a.nrrd", worded(b"22 20 6", b"22 20 0"), ["size is zero", *UNREADABLE]),
    "NRRD of another file": ("a.nrrd", worded(b"encoding", b"data file: secret.raw\nencoding"),
        ["secret.raw", *UNREADABLE]),
    "NRRD with an endless field": ("a.nrrd", worded(b"encoding: raw", b"encoding: raw" + b"w" * 20000),
        UNSTATED),
    "NRRD with an endless line": ("a.nrrd", worded(b"encoding", b"x" * 2000 + b"\nencoding"), UNSTATED),
    "NRRD of unknown encoding": ("a.nrrd", worded(b"encoding: raw", b"encoding: rot13"),
        ["rot13", *UNREADABLE]),
    "NaN": ("a.nii.gz", voxels(lambda a: np.where(a > 0, np.nan, a)), ["NaN", "export it again"]),
    "NaN, NRRD": ("a.nrrd", voxels(lambda a: np.where(a > 0, np.nan, a)), ["NaN", "export it again"]),
    "infinite": ("a.mha", voxels(lambda a: np.where(a > 0, np.inf, a)), ["infinite", "export it again"]),
    "out of range": ("a.nii.gz", voxels(lambda a: np.where(a > 0, 1e300, a)),
                     ["beyond 1,000,000", "export it again"]),
    "out of range, whole numbers": ("a.nrrd", voxels(lambda a: a.astype(np.int32) * 10**4),
        ["beyond 1,000,000", "export it again"]),
}
"""What is wrong -> the file's name, what makes it, what the message says of fault and remedy."""
for ending in FILE_ENDINGS:
    SCANS |= {f"no bytes, {ending}": (f"a{ending}", text(b""), ["damaged", "export it again"]),
              f"a text, {ending}": (f"a{ending}", text("Patient came late.\n"),
                                    ["damaged", "export it again"])}
for ending, words in {".nii.gz": ["damaged", "copy"], ".nii": ["truncated", "copy"],
                      ".nrrd": ["damaged or cut off", "copy"],
                      ".mha": ["damaged or cut off", "copy"]}.items():
    SCANS[f"truncated, {ending}"] = f"a{ending}", spoilt(lambda c: c[:len(c) * 3 // 4]), words

SERIES = {
    "empty folder": (Path.mkdir, ["no DICOM images", "give the folder that holds the slices"]),
    "folder of other files": (lambda folder: text("notes")(folder / "a.txt"),
                              ["no DICOM images", "give the folder"]),
    "folder around the series": (lambda folder: series(folder / "inside"),
                                 ["no DICOM images", "give the folder"]),
    "single slice": (single_slice, ["single slice", "at least 2"]),
    "missing slice": (filed(Path.unlink, 3), ["6.00 mm at", "a slice is missing", "export it completely"]),
    "copied slice": (filed(lambda path: shutil.copy(path, path.with_name("copy.dcm")), 3),
        ["same position", "remove the duplicate"]),
    "doubled position": (tags(4, ImagePositionPatient=[*SCAN.origin[:2], SCAN.origin[2] + 6]),
                         ["same position", "remove"]),
    "uneven spacing": (tags(6, ImagePositionPatient=[*SCAN.origin[:2], SCAN.origin[2] + 16]),
                       ["4.00 mm at", "completely"]),
    "two series": (two_series, ["2 DICOM series", "folder of its own"]),
    "last slice of no bytes": (filed(text(b""), 6),
                               ["IM0006.dcm", "no readable slice", "export the series again"]),
    "last slice cut in its preamble": (filed(text(bytes(100)), 6),
        ["IM0006.dcm", "no readable slice", "export the series again"]),
    "last slice cut in its header": (filed(lambda p: p.write_bytes(p.read_bytes()[:600]), 6),
        ["IM0006.dcm", "export the series again"]),
    "last slice cut in its pixels": (filed(lambda p: p.write_bytes(p.read_bytes()[:-99]), 6),
        ["IM0006.dcm", "export the series again"]),
    "last slice a text": (filed(text("not found " * 99), 6),
                          ["IM0006.dcm", "no readable slice", "export the series again"]),
    "a slice without pixels": (tags(6, PixelData=None),
                               ["IM0006.dcm", "no readable slice", "export the series again"]),
    "localisers": (sliced(localiser), ["IM0001.dcm", "localiser", "keep only the slices"]),
    "localiser among the slices": (sliced(localiser, 1), ["IM0001.dcm", "localiser", "keep only the slices"]),
    "localiser of a series of its own": (sliced(own_localiser, 1), ["2 DICOM series", "folder of its own"]),
    "spacing absent": (tags(PixelSpacing=None), ["Pixel Spacing is missing", "export the series again"]),
    "spacing below 0": (tags(PixelSpacing=[2, -2]),
                        ["Pixel Spacing must be positive", "export the series again"]),
    "spacing 0": (tags(PixelSpacing=[0, 0]), ["Pixel Spacing must be positive", "export the series again"]),
    "spacings that differ": (tags(3, PixelSpacing=[3, 3]), ["different pixel spacings", "keep one series"]),
    "position absent": (tags(2, ImagePositionPatient=None),
                        ["IM0002.dcm", "Image Position", "export the series again"]),
    "position no number": (filed(no_number, 2), ["IM0002.dcm", "Image Position", "export the series again"]),
    "orientation absent": (tags(5, ImageOrientationPatient=None),
                           ["IM0005.dcm", "Image Orientation", "export the series again"]),
    "axes aslant": (tags(ImageOrientationPatient=[1, 0, 0, 0.3, 1, 0]), ["not perpendicular", "resample it"]),
    "axes of no length": (tags(ImageOrientationPatient=[0] * 6), ["not perpendicular", "resample it"]),
    "orientations that differ": (tags(1, ImageOrientationPatient=[0, 1, 0, -1, 0, 0]),
        ["different image orientations", "keep one"]),
    "tilted gantry": (tags(6, ImagePositionPatient=[0, 0, SCAN.origin[2] + 15]),
                      ["shifted against each other", "resample"]),
    "rescale tags absent": (sliced(not_rescaled),
                            ["no Rescale Intercept", "not HU", "export the series again"]),
    "rescale tags in some slices": (tags(3, RescaleIntercept=None), ["ways to HU", "keep one series"]),
    "colour": (sliced(colour), ["4 dimensions", "one channel"]),
    "many frames": (lambda folder: (single_slice(folder), rewrite(folder / "IM0001.dcm", many_frames)),
                    ["multi-frame", "NIfTI"]),
    "many frames in many files": (sliced(many_frames), ["multi-frame", "convert it to NIfTI"]),
    "unknown compression": (sliced(damaged_codestream(HTJ2K)),
                            ["cannot be read", "compressed in an unusual way"]),
    "damaged JPEG 2000": (sliced(damaged_codestream(JPEG2000Lossless)), UNREADABLE),
}
"""What is wrong with a series -> what makes the folder, what the message says of fault and remedy."""
SEEDS_OF_SERIES = [series, sliced(rle), sliced(deflated), compressed("JPEG"), compressed("JPEG2000"),
                   sliced(colour),
                   sliced(many_frames), sliced(localiser)]
"""Folders whose slices differ as much as files of DICOM do."""
