"""What DICOM series mean, slice by slice: HU, padding, places and which files count, by pydicom."""

import itertools
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from bad_files import JPEG, JPEG_2000, SCAN, rewrite
from bad_files import series as sound
from conftest import refused
from dicom_series import planted, read, write_series
from pydicom.dataset import Dataset
from pydicom.uid import JPEGLSLossless, RLELossless, generate_uid
from scipy.spatial.transform import Rotation

from compendium.view.dicom_seg import read_source
from magunet.base.errors import InputError
from magunet.volume import Volume, read_volume

SPACING, ORIGIN = (2.5, 0.7, 0.9), (-10.0, 20.0, -300.0)
SHAPE = (4, 8, 9)
SIDES = {"HFS": (1, 1, 0), "HFP": (-1, -1, 0), "FFS": (-1, 1, 0), "FFP": (1, -1, 0),
         "HFDR": (1, -1, 1), "HFDL": (-1, 1, 1), "FFDL": (1, 1, 1), "FFDR": (-1, -1, 1)}
"""Patient positions: signs of the rows' and columns' direction, and whether rows run along y."""
TURN = np.array([[0.8, 0, 0.6], [0, 1, 0], [-0.6, 0, 0.8]])
DIRECTIONS = {"OBLIQUE": TURN, "CORONAL": np.eye(3)[:, [0, 2, 1]] * [1, -1, 1],
              "SAGITTAL": np.eye(3)[:, [1, 2, 0]]}
for position, (a, b, turned) in SIDES.items():
    sides = np.roll([a, 0, 0], turned), np.roll([b, 0, 0], 1 - turned)
    DIRECTIONS[position] = np.stack([*sides, np.cross(*sides)], axis=1)


def stored(bits, signed, photometric=lambda k: "MONOCHROME2", rescale=lambda k: (1, -1000), seed=0):
    """A change for `write_series`: random stored values, all that the bits allow."""
    low = -2**(bits - 1) if signed else 0
    values = np.random.default_rng(seed).integers(low, low + 2**bits, SHAPE)
    values[:, 0, :2] = low, low + 2**bits - 1

    def change(header, k):
        header.BitsAllocated, header.BitsStored, header.HighBit = 8 if bits == 8 else 16, bits, bits - 1
        header.PixelRepresentation, header.PhotometricInterpretation = int(signed), photometric(k)
        header.RescaleSlope, header.RescaleIntercept = rescale(k)
        header.PixelData = (values[k] % 2**bits).astype(f"<u{header.BitsAllocated // 8}").tobytes()
    return change


def written(folder: Path, change=None, direction=None, **options) -> Path:
    direction = np.eye(3) if direction is None else direction
    return write_series(folder, np.full(SHAPE, -1000), SPACING, ORIGIN, direction, change=change, **options)


def by_pydicom(path):
    """World coordinates (h, w, 3) and HU (h, w) of a slice: PS3.3, C.7.6.2.1.1 and C.11.1.1.2."""
    header = read(path)
    (dy, dx), orientation = map(float, header.PixelSpacing), np.array(header.ImageOrientationPatient, float)
    j, i = np.indices((header.Rows, header.Columns))
    at = i[..., None] * dx * orientation[:3] + j[..., None] * dy * orientation[3:]
    hu = header.pixel_array * float(header.RescaleSlope) + float(header.RescaleIntercept)
    return at + np.array(header.ImagePositionPatient, float), hu


def is_right(folder, case, tolerance=1e-3):
    """Every voxel of every slice lies in the volume where its header says, with its HU."""
    volume = read_volume(folder)
    for path in folder.iterdir():
        points, hu = by_pydicom(path)
        index = (points - volume.origin) @ volume.direction / volume.spacing[::-1]
        near = np.rint(index).astype(int)
        assert np.abs(index - near).max() < 1e-3, (case, path.name)
        assert np.abs(volume.array[tuple(near.T[::-1])].T - hu).max() <= tolerance, (case, path.name)
    return volume


# HU ---------------------------------------------------------------------------------------------------
def test_hu_are_slope_times_stored_value_plus_intercept_whatever_the_photometric_interpretation(tmp_path):
    photometrics = {"1": lambda k: "MONOCHROME1", "2": lambda k: "MONOCHROME2",
                    "mixed": lambda k: f"MONOCHROME{k % 2 + 1}"}
    rescales = {"one": lambda k: (1, -1024), "halves": lambda k: (0.5, -1000.5),
                "own": lambda k: (1 + k % 3, -k)}
    kinds = (8, 0), (12, 0), (12, 1), (16, 0), (16, 1)
    for case in itertools.product(kinds, photometrics, rescales):
        kind, one, two = case
        is_right(written(tmp_path / str(case), stored(*kind, photometrics[one], rescales[two])), case, 0.01)


@pytest.mark.parametrize("compress", ["RLE", "JPEG-LS", "JPEG", "JPEG 2000"])
def test_compressed_slices_are_read_as_they_were(compress, tmp_path):
    folder, syntax = tmp_path / "series", {"RLE": RLELossless, "JPEG-LS": JPEGLSLossless}.get(compress)
    {"JPEG": JPEG, "JPEG 2000": JPEG_2000}.get(compress, sound)(folder)
    for path in folder.iterdir() if syntax else ():
        rewrite(path, lambda header: header.compress(syntax))
    for number in (1, 4):
        rewrite(folder / f"IM{number:04d}.dcm",
                lambda header: setattr(header, "PhotometricInterpretation", "MONOCHROME1"))
    assert np.array_equal(read_volume(folder).array, SCAN.array)


def padded(values, rescale, bits, signed, vr, value, limit, photometric):
    """A change for `write_series`: these stored values in cells of 16 bits, and the tags of padding."""
    def change(header, k):
        stored(bits, signed, lambda _: photometric, lambda _: rescale)(header, k)
        header.PixelData = (values[k] % 2**16).astype("<u2").tobytes()
        header.add_new("PixelPaddingValue", vr, value)
        if limit is not None:
            header.add_new("PixelPaddingRangeLimit", vr, limit)
    return change


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_padding_is_air_and_nothing_else_is(tmp_path, capsys):
    for number, (bits, signed, raw, vr, value, limit, rescale) in enumerate([
            (16, 1, (-2000,), "SS", -2000, None, (1, 0)), (16, 1, (-2000,), "US", 63536, None, (1, 0)),
            (16, 0, (63536,), "US", 63536, None, (1, 0)), (16, 0, (63536,), "SS", -2000, None, (1, -1024)),
            (12, 0, (4095,), "US", 4095, None, (1, -1024)), (16, 0, (60000,), "US", 60000, None, (0.5, 3)),
            (12, 0, (63536,), "US", 63536, None, (1, -1024)), (12, 1, (-2048,), "SS", -2048, None, (1, 0)),
            (16, 0, (4000, 4095), "US", 4095, 4000, (1, -1024)), (16, 0, (0, 9), "US", 0, 9, (-1, 3000)),
            (16, 1, (-2000, -1990), "SS", -2000, -1990, (1, 0)),
            (16, 1, (2000, 2010), "US", 2000, 2010, (2, 0))]):
        values = np.random.default_rng(number).integers(100, 1900, SHAPE)
        values[:, :3, :3], values[:, 1, 1] = raw[0], raw[-1]
        values[:, 4, 4] = 1000 if signed else 2096                  # of 63536 the lowest 12 bits
        expected = values * rescale[0] + rescale[1]
        expected[:, :3, :3] = -1000
        for photometric in ("MONOCHROME1", "MONOCHROME2"):
            case = bits, signed, vr, value, limit, photometric
            folder = written(tmp_path / str(case), padded(values, rescale, *case))
            assert np.array_equal(read_volume(folder).array, expected), case
            assert ("12.5 % of the voxels are padding" in capsys.readouterr().err) == (
                raw[0] * rescale[0] + rescale[1] > -500), case


# Places -----------------------------------------------------------------------------------------------
def test_all_positions_lie_where_their_headers_say_whatever_spacing_between_slices_states(tmp_path):
    for name, direction in DIRECTIONS.items():
        for between in (-SPACING[0], 0, 7, None):
            folder = written(tmp_path / f"{name} {between}", stored(12, 0), direction, reverse=between == 7,
                             tags={"PatientPosition": name, "SpacingBetweenSlices": between})
            volume = is_right(folder, name)
            assert volume.direction == pytest.approx(direction) and volume.spacing == pytest.approx(SPACING)
            assert (name[:2] == "FF") == (volume.direction[2, 2] < 0)


def uneven(folder: Path, along) -> tuple[Volume, list]:
    """The volume of slices at these places along an oblique normal, of HU that are linear in the patient, and
    the places of all voxels."""
    def change(header, k):
        header.ImagePositionPatient = [round(v, 6) for v in (ORIGIN + TURN[:, 2] * along[k])]
        j, i = np.indices((*SHAPE[1:], 1))[:2]
        points = header.ImagePositionPatient + i * SPACING[2] * TURN[:, 0] + j * SPACING[1] * TURN[:, 1]
        header.PixelData = np.rint(linear(points) * 10).astype("<i2").tobytes()
        header.RescaleSlope = 0.1

    write_series(folder, np.zeros((len(along), *SHAPE[1:])), SPACING, ORIGIN, TURN, change=change)
    volume = read_volume(folder)
    return volume, np.array([volume.to_world(index) for index in np.ndindex(volume.array.shape)])


def linear(points):
    """HU that grow by 3, -2 and 5 a mm."""
    return (points - np.array(ORIGIN)) @ (3, -2, 5)


def test_slices_whose_steps_add_up_are_resampled_to_even_ones_and_the_note_says_how_far_they_lie_off(
        tmp_path, capsys):
    upper = np.cumsum(np.r_[0, [3.0] * 20, [3.29] * 20])
    ramp = np.cumsum(np.r_[0, np.linspace(3, 3.5, 40)])
    rounded = np.round(np.arange(60) * 0.65, 1)
    for name, along, off in (("upper", upper, 2.9), ("ramp", ramp, 2.56), ("last", [0, 3, 6, 9, 12, 16], 0.8),
                             ("alternating", np.cumsum(np.r_[0, [0.6, 0.7] * 30]), 0),
                             ("rounded", rounded, 0), ("exact", np.arange(9) * 1.25, 0)):
        volume, points = uneven(tmp_path / name, np.asarray(along))
        said = capsys.readouterr().err
        assert ("resampled" in said) == (off > 0), name
        assert not off or f"up to {off:.2f} mm off" in said, said
        assert volume.spacing[0] * (len(volume.array) - 1) == pytest.approx(along[-1], abs=1e-4), name
        most = 0.11 if off else 0.1 * 5.8 + 0.11                    # HU of the tolerance
        assert np.abs(volume.array.ravel() - linear(points)).max() <= most, name
    for word, along in (("missing", [0, 3, 6, 12, 15]), ("missing", [0, 1, 2, 3, 6, 9]),
                        ("same", [0, 3, 3, 6])):
        refused(partial(uneven, tmp_path / str(along), np.array(along, float)), str(along), word)


def enhanced(folder: Path, change=None, direction=SIDES["FFS"]) -> np.ndarray:
    """An enhanced CT, MONOCHROME1 and 12 bits, whose frames are not in order; HU on the grid of `written`."""
    a, b, _ = direction
    header = read(min(written(folder).iterdir()))
    shutil.rmtree(folder)
    folder.mkdir()
    values = np.random.default_rng(1).integers(0, 4096, SHAPE)
    header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    stored(12, 0, lambda k: "MONOCHROME1")(header, 0)
    header.NumberOfFrames = SHAPE[0]
    for name in ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "RescaleSlope",
                 "RescaleIntercept"):
        delattr(header, name)

    def tags(**values):
        part = Dataset()
        part.update(values)
        return part

    header.SharedFunctionalGroupsSequence = [tags(
        PixelMeasuresSequence=[tags(PixelSpacing=[*SPACING[1:]], SliceThickness=9)],
        PlaneOrientationSequence=[tags(ImageOrientationPatient=[a, 0, 0, 0, b, 0])])]
    order = np.random.default_rng(2).permutation(SHAPE[0]).tolist()
    header.PerFrameFunctionalGroupsSequence = [tags(
        PlanePositionSequence=[tags(ImagePositionPatient=[*ORIGIN[:2], ORIGIN[2] + k * SPACING[0] * a * b])],
        PixelValueTransformationSequence=[tags(RescaleSlope=1 + k, RescaleIntercept=-1024)]) for k in order]
    header.PixelData = values[order].astype("<u2").tobytes()
    if change:
        change(header)
    header.save_as(folder / "one")
    return values * np.arange(1, SHAPE[0] + 1)[:, None, None] - 1024


def test_an_enhanced_ct_is_read_frame_by_frame_also_compressed(tmp_path):
    for name, change in (("plain", None), ("RLE", lambda header: header.compress(RLELossless))):
        expected = enhanced(tmp_path / name, change)
        volume = read_volume(tmp_path / name)
        assert np.array_equal(volume.array, expected), name
        assert volume.spacing == pytest.approx(SPACING) and volume.origin == pytest.approx(ORIGIN)
        assert volume.direction == pytest.approx(np.diag([-1, 1, -1]))
        refused(partial(read_source, tmp_path / name, volume), "enhanced CT", "choose other formats")
    for says, name, values in (
            ("give a CT", "PixelValueTransformationSequence", {"RescaleType": "HU_MOD"}),
            ("a localiser", "CTImageFrameTypeSequence", {"FrameType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]})):
        item = Dataset()
        item.update(values)
        enhanced(tmp_path / says, lambda header, name=name, item=item: setattr(
            header.PerFrameFunctionalGroupsSequence[1], name, [item]))
        refused(partial(read_volume, tmp_path / says), says)
    enhanced(tmp_path / "cut", lambda header: header.PerFrameFunctionalGroupsSequence.pop())
    refused(partial(read_volume, tmp_path / "cut"), "does not say where each frame lies", "convert it")


# Which files count ------------------------------------------------------------------------------------
def added(folder: Path, count: int, placed=True, **values) -> None:
    """Other objects in the folder of a series, as series of their own."""
    other = written(folder / "other", tags={"SeriesNumber": 99} | values)
    for number, path in enumerate(sorted(other.iterdir())[:count]):
        if not placed:
            rewrite(path, lambda header: delattr(header, "ImagePositionPatient"))
        path.rename(folder / f"other_{number}_{generate_uid()[-9:]}.dcm")
    shutil.rmtree(other)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_localisers_reports_and_a_dicomdir_beside_the_slices_are_ignored_with_a_note(tmp_path, capsys):
    scout, coronal = ["ORIGINAL", "PRIMARY", "LOCALIZER"], [1, 0, 0, 0, 0, -1]
    directory, report = "1.2.840.10008.1.3.10", "1.2.840.10008.5.1.4.1.1.88.67"
    for name, *more in (("localisers", (2, True, scout, coronal)), ("many", (4, True, scout, coronal)),
                        ("without a name", (1, True, "ORIGINAL", coronal)),
                        ("a picture of doses", (1, False, "SECONDARY", coronal)),
                        ("all", (2, True, scout, coronal), (1, False, "SECONDARY", coronal))):
        folder = written(tmp_path / name, stored(12, 0))
        own = {*folder.iterdir()}
        for count, placed, kind, orientation in more:
            added(folder, count, placed, ImageType=kind, ImageOrientationPatient=orientation)
        volume, files = read_volume(folder), sum(one[0] for one in more)
        assert f"{name}: {files} files are ignored" in (said := capsys.readouterr().err), said
        for path in {*folder.iterdir()} - own:
            path.unlink()
        assert np.array_equal(volume.array, is_right(folder, name).array)
    for name, kind in (("DICOMDIR", directory), ("dicomdir", directory), ("DicomDir", directory),
                       ("SR0001", report)):
        folder = written(tmp_path / f"beside {name}")
        for number, path in enumerate(sorted(folder.iterdir())):
            path.rename(folder / f"IM_{number:04d}")                # without an ending
        beside = Dataset()
        beside.SOPInstanceUID = generate_uid()
        beside.file_meta = read(folder / "IM_0000").file_meta
        beside.file_meta.MediaStorageSOPClassUID = kind
        beside.save_as(folder / name, enforce_file_format=True)
        assert read_volume(folder).array.shape == SHAPE, name


def test_a_damaged_slice_whose_name_has_no_ending_is_refused_or_noted(tmp_path, capsys):
    for name, others in (("IM_{}", ("notes.txt", "log.1")), ("1.2.840.{}", ("README", ".hidden", "a.txt"))):
        folder = written(tmp_path / name)
        for number, path in enumerate(sorted(folder.iterdir())):
            path.rename(folder / name.format(number))
        for other in others:
            (folder / other).write_text("mine")
        (folder / name.format(9)).write_bytes(b"")
        refused(partial(read_volume, folder), name.format(9), "no readable slice")
        (folder / name.format(9)).write_bytes(bytes(200))       # as of a file that is no slice at all
        assert read_volume(folder).array.shape == SHAPE
        assert "1 files are ignored" in capsys.readouterr().err, name


def test_two_series_of_slices_are_refused_and_named_by_number_alone(tmp_path):
    for name, count, values in (
            ("more slices", 4, {}), ("few, in the same plane", 2, {}),
            ("reformatted", 4, {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]})):
        folder = written(tmp_path / name)
        added(folder, count, **values)
        with pytest.raises(InputError, match=r"2 DICOM series .*4 files of number 3.*move one") as error:
            read_volume(folder)
        assert f"{count} files of number 99" in str(error.value), name
        assert not [word for word in planted() if word in str(error.value).encode()], name


@pytest.mark.parametrize("tags, says", [
    ({"Modality": "MR"}, "give a CT"), ({"RescaleType": "MGML"}, "give a CT"), ({"RescaleType": "HU"}, None)])
def test_what_says_that_it_is_not_in_hu_is_refused(tags, says, tmp_path):
    folder = written(tmp_path / "series", tags=tags)
    refused(lambda: read_volume(folder), says) if says else read_volume(folder)


def test_slices_of_two_patients_are_never_mixed_though_their_series_have_one_uid(tmp_path):
    folder, other = (written(tmp_path / name, tags={"SeriesInstanceUID": "1.2.3"}) for name in ("a", "b"))
    for path in other.iterdir():
        path.rename(folder / f"other-{path.name}")
    refused(lambda: read_volume(folder), "holds 2 DICOM series")


def test_a_tilted_gantry_is_refused_and_a_corrected_one_is_not(tmp_path):
    direction = Rotation.from_euler("x", 15, degrees=True).as_matrix()
    is_right(written(tmp_path / "corrected", stored(12, 0), direction), "corrected")

    def along_table(header, k):
        header.ImagePositionPatient = [*ORIGIN[:2], ORIGIN[2] + k * SPACING[0]]

    folder = written(tmp_path / "tilted", along_table, direction)
    refused(partial(read_volume, folder), "tilted gantry", "resample the series")
