"""What headers tell of a patient reaches no file, no name and no line that magunet writes, whichever tag it
stands in; nor an output of notebook 10."""

# ruff: noqa: F811

import ast
import gzip
import io
import json
import re
import shutil
import struct
import zipfile
import zlib
from dataclasses import replace
from functools import partial
from pathlib import Path

import nbformat
import numpy as np
import pytest
from bad_files import not_rescaled, rewrite
from boxes import TINY, write_cohort, write_scan
from conftest import ROOT
from dicom_series import PATIENT, STANDARD, planted, read, write_series
from IPython.core.pylabtools import print_figure
from joint_object import DIRECTIONS, both, ct, grid
from matplotlib.figure import Figure
from printed import words as words_of
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset
from test_cli import call
from test_exports import ALL, finds_the_object  # noqa: F401
from test_sources import LEFT, RIGHT, SACRUM, labelled
from test_sources import scan as ct_of_boxes

from magunet.volume import write_volume
from sijphantom import cohort

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
FILES = {".nii.gz": 5, ".nrrd": 3, ".mha": 2}
"""Formats, and how many marks a header of theirs has room for."""
WITHOUT_SEG = ALL.replace("dicom-seg,", "")
GIVEAWAYS = [*WORDS, *planted(), b"Geheimnis", PATIENT.encode()]
"""Also other words of the series' headers, and its folder's name."""


# A mark in every text tag and field, and a search for marks ----------------------------------------------
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


# What is read and what may stand in what is written -------------------------------------------------------
@pytest.fixture(scope="module")
def scan():
    """The object on a grid coarse enough for headers of thousands of tags."""
    return ct(grid(DIRECTIONS["oblique"], (9, 24, 28), (13.0, 5.0, 4.4)))


def series_of(scan, folder, **options):
    return write_series(folder, scan.array, scan.spacing, scan.origin, scan.direction, **options)


@pytest.fixture(scope="module")
def series(scan, tmp_path_factory):
    """A DICOM series with a mark in every text tag, in a folder that is named after the patient."""
    folder = series_of(scan, tmp_path_factory.mktemp("archive") / PATIENT)
    mark_series(folder)
    return folder


def own_words(folder):
    """What the standard wants of the study, and the slices' UIDs: only a DICOM SEG may hold them."""
    headers = map(read, folder.iterdir())
    return [*planted(STANDARD), *{str(header[name].value).encode() for header in headers
                                  for name in header.dir("UID") if "Class" not in name}]


def test_the_search_finds_every_mark_wherever_it_stands(series, scan, tmp_path):
    """In the series itself, compressed, in a name, and at the head of other formats: the tests below are not
    blind."""
    content = min(series.iterdir()).read_bytes()
    assert len(TAGS) > 2400 and sum(map(content.count, WORDS)) >= len(TAGS)
    for form in (content, gzip.compress(content), b"NRRD0005\n\n" + gzip.compress(content),
                 b"\x89PNG" + zlib.compress(content)):
        assert found(form, [*WORDS, b"Geheimnis"]) == [*WORDS, b"Geheimnis"]
    (tmp_path / TEXT).touch()
    np.savez_compressed(tmp_path / "a.npz", text=TEXT.encode())
    assert found_in(tmp_path).keys() == {TEXT, "a.npz"}
    for ending, count in FILES.items():
        path = tmp_path / f"scan{ending}"
        write_scan(scan, path)
        mark_file(path)
        content = path.read_bytes()
        content = gzip.decompress(content) if ending == ".nii.gz" else content
        assert content.count(TEXT.encode()) == count and found(path.read_bytes()), ending


@pytest.mark.parametrize("anonymise", [False, True])
def test_a_series_is_segmented_and_nothing_of_its_headers_is_written(
        anonymise, series, run, finds_the_object, tmp_path, capfd):
    status, printed, said = call(capfd, "predict", series, "--model", run, "--out", tmp_path,
                                 "--formats", ALL, *["--anonymise"] * anonymise)
    assert status == 0, said
    assert len(printed.splitlines()) == len(list(tmp_path.iterdir())) == 7
    assert not found(printed + said.replace(str(series), ""), WORDS + own_words(series))
    assert found_in(tmp_path) == {}
    keeping = found_in(tmp_path, own_words(series))
    assert [Path(name).suffix for name in keeping] == [".dcm"] * (not anonymise)


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-400])


FAULTS = {"a slice is missing": (slice(4, 5), Path.unlink), "a slice is cut off": (slice(1), cut_off),
          "a tag is missing": (slice(1), lambda path: rewrite(path, lambda tags: tags.pop("PixelSpacing"))),
          "a tag is no number": (slice(None), lambda path: rewrite(
              path, lambda tags: setattr(tags, "ImageOrientationPatient", [0] * 6))),
          "values are not HU": (slice(None), lambda path: rewrite(path, not_rescaled))}
"""Which slices, and what is done to them."""


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_series_is_told_without_what_its_headers_hold(fault, series, run, tmp_path, capfd):
    folder = shutil.copytree(series, tmp_path / "in")
    slices, spoil = FAULTS[fault]
    for path in sorted(folder.iterdir())[slices]:
        spoil(path)
    status, printed, said = call(capfd, "predict", folder, "--model", run, "--out", tmp_path / "out")
    assert status == 2 and len(said.splitlines()) == 1
    assert not found(printed + said) and not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("always")
def test_odd_values_of_a_header_are_not_quoted(scan, run, finds_the_object, tmp_path, capfd, recwarn):
    """Values that the standard does not allow, as scanners write them; pydicom warns of them, and quotes."""
    odd = {"PatientName": f"{'x' * 70}Musterfrau", "PatientSex": "Musterfrau, weiblich",
           **dict.fromkeys(("PatientBirthDate", "StudyDate", "StudyTime"), "Musterfrau"),
           **dict.fromkeys(("StudyID", "AccessionNumber"), "Musterfrau" * 3),
           **dict.fromkeys(("PatientID", "ReferringPhysicianName"), "Musterfrau" * 9)}
    folder = series_of(scan, tmp_path / "in", tags=odd)
    recwarn.clear()
    status, _, said = call(capfd, "predict", folder, "--model", run, "--out", tmp_path / "out")
    assert status == 0 and not list(recwarn) and "Musterfrau" not in said, said
    assert len(list((tmp_path / "out").iterdir())) == 7
    assert {Path(name).suffix for name in found_in(tmp_path / "out", [b"Musterfrau"])} == {".dcm"}


@pytest.mark.parametrize("ending", FILES)
def test_nothing_of_a_files_header_is_written_nor_told_when_it_is_cut_off(
        ending, scan, run, finds_the_object, tmp_path, capfd):
    path, out = tmp_path / "in" / f"scan{ending}", tmp_path / "out"
    write_scan(scan, path)
    mark_file(path)
    words = "predict", path, "--model", run, "--formats", WITHOUT_SEG, "--out"
    status, printed, said = call(capfd, *words, out)
    assert status == 0, said
    assert found_in(out) == {} and not found(printed + said)
    assert len(list(out.iterdir())) == 6
    cut_off(path)
    status, printed, said = call(capfd, *words, tmp_path / "other")
    assert status == 2 and len(said.splitlines()) == 1
    assert not found(printed + said) and not (tmp_path / "other").exists()


def test_nothing_of_a_cohorts_headers_reaches_checks_runs_records_tables_or_exports(compendium, capfd):
    """From check to export, a search of all that lies in the compendium but the cohort's own images and
    masks."""
    root = write_cohort(compendium / "data" / "boxes", 2).root
    for path in root.rglob("*.nii.gz"):
        mark_file(path)
    settings = replace(TINY, profile="tiny", cohort="data/boxes", epochs=1, samples_per_case=1)
    (compendium / "papermill_params" / "tiny.yaml").write_text(json.dumps(settings.as_dict()))
    own = set(found_in(compendium))
    status, printed, said = call(capfd, "check", root)
    assert status == 0 and not found(printed + said)
    status, run, said = call(capfd, "train", "3D U-Net", "--profile", "tiny")
    assert status == 0, said
    tables = "tables", "--profile", "tiny"
    for words in (("evaluate", run.strip()), tables, (*tables, 1),
                  ("export", run.strip(), "box_0", "--formats", WITHOUT_SEG)):
        status, printed, other = call(capfd, *words)
        said += printed + other
        assert status == 0, said
    assert {"run.json", "metrics.jsonl", "scores.csv", "checkpoint.safetensors", "box_0_sij.json"} <= {
        path.name for path in compendium.rglob("*")}
    assert len(own) == 4 and set(found_in(compendium)) == own and not found(run + said)


def test_nothing_of_a_series_or_its_folders_name_reaches_an_imported_cohort(tmp_path, capfd):
    ct = ct_of_boxes(shape=(29, 33, 51))
    folder, out = series_of(ct, tmp_path / "in" / PATIENT), tmp_path / "out"
    labels = tmp_path / "in" / f"{PATIENT}.nii.gz"
    write_volume(labelled(ct, (25, SACRUM), (77, LEFT), (78, RIGHT)), labels)
    mark_series(folder)
    mark_file(labels)
    command = "import", "labelmap", folder, "--labels", labels, "--out", out
    status, printed, said = call(capfd, *command)
    assert status == 2 and "give another one with --patient" in said and said.count("\n") == 1
    assert not out.exists()
    status, printed, said = call(capfd, *command, "--patient", "p1")
    assert status == 0, said
    words = [*GIVEAWAYS, *own_words(folder)]
    assert not found(printed + said, words) and found_in(out, words) == {}
    assert {"p1_0000.nii.gz", "p1.nii.gz", "dataset.json", "import.json"} <= {
        path.name for path in out.rglob("*")}


# Links --------------------------------------------------------------------------------------------------
ERIKA = "Mustermann_Erika"


def linked(archive, link, make):
    """A link to a file of the patient's name in the archive, which ``make`` writes, or to a folder of it."""
    target = archive / ERIKA / f"{ERIKA}{''.join(link.suffixes)}"
    target.parent.mkdir(parents=True, exist_ok=True)
    make(target)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target)
    return link


def silent_of_erika(folder, *texts):
    return found_in(folder, [ERIKA.encode()]) == {} and not found("".join(texts), [ERIKA.encode()])


@pytest.mark.parametrize("name, typed, begin", [
    ("case007.nii.gz", "case007.nii.gz", "case007"), ("case007.mha", "./case007.mha", "case007"),
    ("case007.NII.GZ", "../mine/case007.NII.GZ", "case007"), ("series", "series", "ct-"),
    ("series", "series/.", "ct-"), ("series", "slices/../series", "ct-")])
def test_outputs_of_predict_are_named_by_what_was_typed_not_by_what_a_link_leads_to(
        name, typed, begin, scan, run, finds_the_object, tmp_path, monkeypatch, capfd):
    def make(path):
        if name == "series":
            return series_of(scan, path)
        write_scan(scan, plain := path.with_name(f"scan{''.join(path.suffixes).lower()}"))
        plain.rename(path)

    linked(tmp_path / "archive", tmp_path / "mine" / name, make)
    (tmp_path / "mine" / "slices").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    (tmp_path / "latest").symlink_to(run)
    words = "predict", typed, "--model", tmp_path / "latest", "--out", tmp_path / "out"
    status, printed, said = call(capfd, *words)
    assert status == 0 and silent_of_erika(tmp_path / "out", printed, said), said
    assert {path.name.startswith(begin) for path in (tmp_path / "out").iterdir()} == {True}
    (tmp_path / "part").mkdir()
    (tmp_path / "part/1.dcm").symlink_to(tmp_path / "archive" / ERIKA / "gone")
    assert "1.dcm: a link to what is not there" in call(capfd, "predict", tmp_path / "part", *words[2:])[2]
    (tmp_path / "gone.nii.gz").symlink_to(tmp_path / "archive" / ".git" / ERIKA)
    status, _, said = call(capfd, "predict", tmp_path / "gone.nii.gz", *words[2:])
    assert status == 2 and "gone.nii.gz: a link to what is not there; fetch it" in said and ERIKA not in said


def test_an_import_of_links_and_phantoms_like_it_name_nothing_that_links_lead_to(
        compendium, monkeypatch, capfd):
    """Links in folders that are links, from where a shell went along a link."""
    pelvis, mine, archive = ct_of_boxes(shape=(29, 33, 51)), compendium / "mine", compendium / ERIKA
    labels = labelled(pelvis, (25, SACRUM), (77, LEFT), (78, RIGHT))
    for part, volume in (("cts", pelvis), ("bones", labels)):
        linked(archive / part, archive / "mine" / part / "a.nii.gz", partial(write_volume, volume))
    mine.symlink_to(archive / "mine")
    monkeypatch.chdir(mine)
    monkeypatch.setenv("PWD", str(mine))
    for number, (image, bones) in enumerate((
            ("cts", "bones"), ("cts/a.nii.gz", "bones/a.nii.gz"), (mine / "cts", "bones"),
            ("bones/../cts/a.nii.gz", mine / "bones/a.nii.gz"))):
        out = compendium / f"out{number}"
        status, printed, said = call(capfd, "import", "labelmap", image, "--labels", bones, "--out", out)
        assert status == 0 and silent_of_erika(out, printed, said), said
        assert [path.name for path in (out / "imagesTr").iterdir()] == ["a_0000.nii.gz"]
    shutil.move(out, archive / ERIKA)
    (compendium / "own").symlink_to(archive / ERIKA)
    monkeypatch.setattr(cohort, "options_like", lambda scan: {})
    monkeypatch.setattr(cohort, "write_phantoms", lambda root, phantoms, title, _: print(title))
    status, printed, said = call(capfd, "cohort", "--like", compendium / "own", "--out", compendium / "like")
    assert status == 0 and printed.startswith("magunet phantoms like own\n")
    assert silent_of_erika(compendium / "like", printed, said)


@pytest.mark.parametrize("masked", [True, False])
def test_notebook_10_shows_nothing_of_the_patient_on_ones_own_series(masked, series, scan, compendium, capfd):
    """All its cells run here after a user has typed settings and a scan into them, with a mask or without;
    pictures as a kernel sends them, for their headers could name somebody."""
    write_cohort(compendium / "boxes", 2)
    mask = compendium / "in" / f"{PATIENT}.nii.gz"
    write_volume(both(scan), mask)
    mark_file(mask)
    own = str(series), str(mask) if masked else None
    tiny = [f"{name} = {getattr(TINY, name)}" for name in ("voxel_mm", "depth", "size", "width_divisor")]
    quick = ['profile = "smoke"', "cohort = 'boxes'", "epochs = 4", "samples_per_case = 6",
             "learning_rate = 0.05"]
    typed = {'profile: str = "smoke"': "\n".join([*quick, *tiny]) + "\n",
             "own_scan, own_mask = None, None": f"own_scan, own_mask = {own!r}",
             "case, network = study.val[0]": "case, network = 'my scan'", "%matplotlib inline": ""}
    cells = [cell.source for cell in nbformat.read(ROOT / "notebooks/10_inspect_in_3d.ipynb", 4).cells
             if cell.cell_type == "code"]
    outputs, places = [], dict.fromkeys(typed, 0)
    names = {"In": [], "display": outputs.append}
    for source in cells:
        for old, new in typed.items():
            places[old] += source.count(old)
            source = source.replace(old, new)
        names["In"].append(source)
        tree = ast.parse(source)
        last = [tree.body.pop()] if isinstance(tree.body[-1], ast.Expr) else []
        exec(compile(tree, "cell", "exec"), names)
        outputs += [eval(compile(ast.Expression(node.value), "cell", "eval"), names) for node in last]
    assert set(places.values()) == {1}
    figures = [output for output in outputs if isinstance(output, Figure)]
    texts = [" ".join(words_of(figure)) for figure in figures]
    assert sum("my scan" in text for text in texts) == 2 + masked
    for content in (*texts, print_figure(figures[0]), repr(outputs), *capfd.readouterr()):
        assert not found(content, GIVEAWAYS)
    drawn = {"error_map.png"} | ({"surface_distance.png"} if masked else set())
    assert drawn | {"run.json"} <= {path.name for path in compendium.rglob("*")}
    assert not found_in(compendium / "figures", GIVEAWAYS) and not found_in(compendium / "runs", GIVEAWAYS)
