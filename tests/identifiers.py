"""A mark in every text tag of DICOM and every text field of NIfTI, NRRD and MHA, and a search for marks."""

import gzip
import io
import re
import struct
import zipfile
import zlib

from dicom_series import STANDARD, read
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset

TEXT = "QX70431ZW"
MARKS = {**dict.fromkeys(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"), TEXT), "AS": "917W",
         "DA": "18030713", "TM": "112233.704317", "DT": "18030713112233.704317", "IS": "1735170431",
         "DS": "173.5170431"}
"""Value representation -> a mark of the shape that it demands."""
WORDS = sorted({mark.encode() for mark in MARKS.values()})
OF_THE_IMAGE = {"SpecificCharacterSet", "ImageType", "Modality", "PatientPosition", "SeriesNumber",
                "InstanceNumber", "SliceThickness", "PhotometricInterpretation", "ImagePositionPatient",
                "ImageOrientationPatient", "PixelSpacing", "SpacingBetweenSlices", "RescaleIntercept",
                "RescaleSlope", "NumberOfFrames"}
"""These say how to read the voxels, and so hold what they must; nothing of the patient."""
TAGS = {keyword: MARKS[kind] for tag, (kind, _, _, _, keyword) in DicomDictionary.items()
        if kind in MARKS and keyword and tag >> 16 > 2 and keyword not in OF_THE_IMAGE | set(STANDARD)}
"""Keyword -> mark, for every tag of a data set whose value is text, but those that the standard wants in each
object of the study, which only the DICOM SEG may keep."""


def mark_series(folder):
    """Marks all text tags of all slices, an item of a sequence, a private block and the file's own header."""
    first, nested = read(min(folder.iterdir())), Dataset()
    nested.PatientComments = TEXT
    for name, value in TAGS.items():
        setattr(first, name, value)
    marked = {element.tag: element for element in first if element.keyword in TAGS}
    for path in folder.iterdir():
        header = read(path)
        header.update(marked)
        block = header.private_block(0x0031, "HERSTELLER", create=True)
        for element, (kind, value) in enumerate(MARKS.items()):
            block.add_new(element, kind, value)
        header.ReferencedPatientSequence = [nested]
        header.file_meta.SourceApplicationEntityTitle = TEXT
        header.save_as(path)


def mark_file(path):
    """Marks all text fields of a NIfTI-1 header and an extension, or of what NRRD and MHA begin with."""
    content = path.read_bytes()
    if path.suffix == ".gz":
        header = bytearray(gzip.decompress(content))
        for at in (14, 148, 228, 328):                          # db_name, descrip, aux_file, intent_name
            header[at:at + len(TEXT)] = TEXT.encode()
        comment = struct.pack("<2i24s", 32, 6, TEXT.encode())
        first = int(struct.unpack_from("<f", header, 108)[0])
        struct.pack_into("<f", header, 108, first + len(comment))
        header[348:352], header[352:first] = b"\1\0\0\0", comment
        path.write_bytes(gzip.compress(bytes(header), 1))
    else:
        old, new = {".nrrd": ("\n\n", f"\n# {TEXT}\nPatient:={TEXT}\ncontent: {TEXT}\n\n"),
                    ".mha": ("Element", f"Comment = {TEXT}\nName = {TEXT}\nElement")}[path.suffix]
        path.write_bytes(content.replace(old.encode(), new.encode(), 1))


def layers(content):
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


def found(content, words=WORDS):
    """Those of the words that a text or bytes hold, also inside of what is compressed."""
    parts = list(layers(content.encode() if isinstance(content, str) else content))
    return [word for word in words if any(word in part for part in parts)]


def found_in(folder, words=WORDS):
    """File -> those of the words that it, its name or those of its folders below ``folder`` hold."""
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    hits = {name: found(path.read_bytes(), words) + found(name, words) for name, path in paths.items()}
    return {name: hit for name, hit in hits.items() if hit}
