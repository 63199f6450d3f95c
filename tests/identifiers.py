"""An identifier of its own in every text tag of DICOM and every text field of NIfTI, NRRD and MHA, and how to
find them again.

Each has the shape that its value representation demands, so that one search tells all of them from chance.
"""

import gzip
import io
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

from dicom_series import STANDARD, read
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset

SHAPES = {                                                      # value representation -> the nth identifier
    **dict.fromkeys(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"), lambda n: f"QX{n:05d}ZW"),
    "DA": lambda n: f"{date(1803, 1, 1) + timedelta(days=n):%Y%m%d}",
    "TM": lambda n: f"112233.{n:06d}",
    "DT": lambda n: f"18011224112233.{n:06d}",
    "AS": lambda n: f"{900 + n % 100}W",
    "IS": lambda n: f"{1735100000 + n}",
    "DS": lambda n: f"173.51{n:05d}",
}
LIKELY = re.compile(rb"QX\d{5}ZW|18\d{6}|112233\.\d{6}|9\d\dW|17351\d{5}|173\.51\d{5}")
"""All that has one of these shapes; of date and time in one, the time."""
OF_THE_IMAGE = {
    "SpecificCharacterSet", "ImageType", "Modality", "PatientPosition", "SeriesNumber", "InstanceNumber",
                "SliceThickness",
    "PhotometricInterpretation", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
                "SpacingBetweenSlices",
    "RescaleIntercept", "RescaleSlope", "NumberOfFrames"}
"""These say how to read the voxels, and so hold what they must; nothing of the patient."""
PRIVATE = {kind: SHAPES[kind](9000 + n) for n, kind in enumerate(sorted(SHAPES))}
NESTED, STATION = SHAPES["LO"](8000), SHAPES["AE"](8001)
"""In an item of a sequence, and in the file's own header."""
IN_FILES = {name: SHAPES["LO"](7000 + n) for n, name in enumerate(
    ("db_name", "descrip", "aux_file", "intent_name", "extension", "key", "comment", "name"))}


def every_text_tag() -> dict[str, str]:
    """Keyword -> identifier, for every tag of a data set whose value is text, but those that the standard
    wants in each object of the study (`STANDARD`, which only the DICOM SEG may keep)."""
    return {keyword: SHAPES[kind](number)
            for number, (tag, (kind, _, _, _, keyword)) in enumerate(sorted(DicomDictionary.items()))
            if kind in SHAPES and keyword and tag >> 16 > 0x0002 and keyword not in OF_THE_IMAGE
            | set(STANDARD)}


def plant_in_series(folder: Path) -> set[bytes]:
    """Put an identifier into every text tag of all slices, an item of a sequence and a private block; returns
    those that no file may hold."""
    tags, nested = every_text_tag(), Dataset()
    nested.PatientComments = NESTED
    for path in folder.iterdir():
        header = read(path)
        block = header.private_block(0x0031, "HERSTELLER", create=True)
        for element, (kind, value) in enumerate(PRIVATE.items()):
            block.add_new(element, kind, value)
        for name, value in tags.items():
            setattr(header, name, value)
        header.ReferencedPatientSequence = [nested]
        header.file_meta.SourceApplicationEntityTitle = STATION
        header.save_as(path)
    return {value.encode()[-13:] for value in (*tags.values(), *PRIVATE.values(), NESTED, STATION)}


def plant_in_nifti(path: Path) -> set[bytes]:
    """Put an identifier into every text field of a NIfTI-1 header, and into an extension of it."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    for name, at in (("db_name", 14), ("descrip", 148), ("aux_file", 228), ("intent_name", 328)):
        content[at:at + 9] = IN_FILES[name].encode()
    comment = struct.pack("<2i24s", 32, 6, IN_FILES["extension"].encode())
    first = int(struct.unpack_from("<f", content, 108)[0])
    struct.pack_into("<f", content, 108, first + len(comment))
    content[348:352], content[352:first] = b"\1\0\0\0", comment
    path.write_bytes(gzip.compress(bytes(content), 1))
    return {value.encode() for value in IN_FILES.values()}


def plant_in_text_header(path: Path) -> set[bytes]:
    """As `plant_in_nifti`, into the text that NRRD and MHA begin with."""
    content = path.read_bytes()
    if path.suffix == ".nrrd":
        old = b"\n\n"
        new = f"\n# {IN_FILES['comment']}\nPatient:={IN_FILES['key']}\ncontent: {IN_FILES['descrip']}\n\n"
    else:
        old = b"ElementDataFile"
        new = f"Comment = {IN_FILES['comment']}\nName = {IN_FILES['name']}\nElementDataFile"
    assert old in content
    path.write_bytes(content.replace(old, new.encode(), 1))
    return {value.encode() for value in IN_FILES.values()}


# The search ----------------------------------------------------------------------------------------------

def layers(content: bytes) -> Iterator[bytes]:
    """The bytes, and all that is compressed in them: gzip and zlib streams wherever they begin (NRRD, PNG,
    PDF), and zip."""
    yield content
    for start in re.finditer(rb"\x1f\x8b\x08|\x78[\x01\x5e\x9c\xda]", content):
        try:
            yield zlib.decompressobj(wbits=47).decompress(content[start.start():])
        except zlib.error:
            continue
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            yield from (archive.read(name) for name in archive.namelist())


def found(words: set[bytes], *contents: bytes) -> set[bytes]:
    """The identifiers that contents hold, also inside of what is compressed."""
    return {hit for content in contents for layer in layers(content) for hit in LIKELY.findall(layer)} & words


def found_in(words: set[bytes], folder: Path) -> dict[str, set[bytes]]:
    """File -> the identifiers that it holds, or its name and those of its folders below ``folder``; only
    files with some."""
    hits = {path.relative_to(folder).as_posix(): found(words, path.read_bytes(),
                                                       str(path.relative_to(folder)).encode())
            for path in folder.rglob("*") if path.is_file()}
    return {name: words for name, words in hits.items() if words}
