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
    "DS": lambda n: f"173.51{n:05d}"}
LIKELY = re.compile(rb"QX\d{5}ZW|18\d{6}|112233\.\d{6}|9\d\dW|17351\d{5}|173\.51\d{5}")
"""All that has one of these shapes; of date and time in one, the time."""
OF_THE_IMAGE = {"SpecificCharacterSet", "ImageType", "Modality", "PatientPosition", "SeriesNumber",
                "InstanceNumber", "SliceThickness", "PhotometricInterpretation", "ImagePositionPatient",
                "ImageOrientationPatient", "PixelSpacing", "SpacingBetweenSlices", "RescaleIntercept",
                "RescaleSlope", "NumberOfFrames"}
"""These say how to read the voxels, and so hold what they must; nothing of the patient."""
PRIVATE = {kind: SHAPES[kind](9000 + n) for n, kind in enumerate(sorted(SHAPES))}
NESTED, STATION = SHAPES["LO"](8000), SHAPES["AE"](8001)
"""In an item of a sequence, and in the file's own header."""
IN_FILES = {name: SHAPES["LO"](7000 + n) for n, name in enumerate(
    ("db_name", "descrip", "aux_file", "intent_name", "extension", "key", "comment", "name"))}
TEXT_TAGS = {keyword: SHAPES[kind](number)
             for number, (tag, (kind, _, _, _, keyword)) in enumerate(sorted(DicomDictionary.items()))
             if kind in SHAPES and keyword and tag >> 16 > 2 and keyword not in OF_THE_IMAGE | set(STANDARD)}
"""Keyword -> identifier, for every tag of a data set whose value is text, but those that the standard wants
in each object of the study, which only the DICOM SEG may keep."""


def plant_in_series(folder: Path) -> set[bytes]:
    """Put an identifier into every text tag of all slices, an item of a sequence and a private block; returns
    those that no file may hold."""
    first, nested = read(min(folder.iterdir())), Dataset()
    nested.PatientComments = NESTED
    for name, value in TEXT_TAGS.items():
        setattr(first, name, value)
    planted = {element.tag: element for element in first if element.keyword in TEXT_TAGS}
    for path in folder.iterdir():
        header = read(path)
        header.update(planted)
        block = header.private_block(0x0031, "HERSTELLER", create=True)
        for element, (kind, value) in enumerate(PRIVATE.items()):
            block.add_new(element, kind, value)
        header.ReferencedPatientSequence = [nested]
        header.file_meta.SourceApplicationEntityTitle = STATION
        header.save_as(path)
    return {value.encode()[-13:] for value in (*TEXT_TAGS.values(), *PRIVATE.values(), NESTED, STATION)}


def plant_in_file(path: Path) -> set[bytes]:
    """Put an identifier into every text field of a NIfTI-1 header and an extension of it, or into the text
    that NRRD and MHA begin with."""
    content = path.read_bytes()
    if path.suffix == ".gz":
        header = bytearray(gzip.decompress(content))
        for name, at in (("db_name", 14), ("descrip", 148), ("aux_file", 228), ("intent_name", 328)):
            header[at:at + 9] = IN_FILES[name].encode()
        comment = struct.pack("<2i24s", 32, 6, IN_FILES["extension"].encode())
        first = int(struct.unpack_from("<f", header, 108)[0])
        struct.pack_into("<f", header, 108, first + len(comment))
        header[348:352], header[352:first] = b"\1\0\0\0", comment
        path.write_bytes(gzip.compress(bytes(header), 1))
    else:
        old, new = {
            ".nrrd": ("\n\n", "\n# {comment}\nPatient:={key}\ncontent: {descrip}\n\n"),
            ".mha": ("ElementDataFile", "Comment = {comment}\nName = {name}\nElementDataFile")}[path.suffix]
        assert old.encode() in content
        path.write_bytes(content.replace(old.encode(), new.format_map(IN_FILES).encode(), 1))
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


def found(identifiers: set[bytes], *contents: bytes, words: list[bytes] = ()) -> set[bytes]:
    """The identifiers, and other words, that contents hold, also inside of what is compressed."""
    parts = [part for content in contents for part in layers(content)]
    return ({hit for part in parts for hit in LIKELY.findall(part)} & identifiers
            | {word for word in words if any(word in part for part in parts)})


def found_in(identifiers: set[bytes], folder: Path, words: list[bytes] = ()) -> dict[str, set[bytes]]:
    """File -> those that it, its name or those of its folders below ``folder`` hold; only files with some."""
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    hits = {name: found(identifiers, path.read_bytes(), name.encode(), words=words)
            for name, path in paths.items()}
    return {name: hit for name, hit in hits.items() if hit}
