"""Phantoms like the scans of a cohort: the same grids, and noise as strong."""

import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import refused

from compendium.cli import main
from magunet.cohort import load_cohort
from magunet.volume import Volume, read_volume, reorient, write_volume
from sijphantom.cohort import phantom_scan
from sijphantom.likeness import noise_of
from sijphantom.phantom import make_phantom
from sijphantom.scanner import Protocol


@pytest.mark.parametrize("noise", [5.0, 20.0])
@pytest.mark.parametrize("hu", [10.0, 60.0])
def test_noise_of_an_even_body_is_read_as_it_is(noise, hu):
    y, x = np.mgrid[:120, :120] - 60
    body = np.where(np.hypot(x, y) < 45, hu, -1000.0)
    image = np.repeat(body[None], 12, 0) + np.random.default_rng(0).normal(0, noise, (12, 120, 120))
    assert noise_of(Volume(image.astype(np.float32), (2.0, 0.8, 0.8))) == pytest.approx(noise, rel=0.15)


@pytest.mark.parametrize("noise", [15.0, 40.0])
def test_noise_of_a_phantom_is_read_within_a_third(noise):
    for seed in (0, 1):
        made = make_phantom(seed, matrix=200, slices=(24, 24), protocol=Protocol(pixel_mm=(1.6, 1.6), noise_hu=(noise, noise)))
        assert noise_of(phantom_scan(made)[0]) == pytest.approx(noise, rel=0.33)


def test_a_scan_without_soft_tissue_has_no_noise_to_read():
    refused(lambda: noise_of(Volume(np.full((4, 40, 40), -1000, np.int16), (1.0, 1.0, 1.0))), "soft tissue")


@pytest.fixture
def cohort(tmp_path):
    """Two scans that differ in matrix, pixels, slices and noise; the second one lies in RAS."""
    root = tmp_path / "mine"
    for name, matrix, slices, pixel, noise in (("a", 96, 40, 3.0, 8.0), ("b", 128, 60, 2.5, 40.0)):
        protocol = Protocol(pixel_mm=(pixel, pixel), noise_hu=(noise, noise), slice_mm=(3.0, 3.0))
        image, mask = phantom_scan(make_phantom(ord(name), matrix=matrix, slices=(slices, slices), protocol=protocol))
        code = "LPS" if name == "a" else "RAS"
        write_volume(reorient(image, code), root / f"imagesTr/{name}_0000.nii.gz")
        write_volume(reorient(mask, code), root / f"labelsTr/{name}.nii.gz")
    (root / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}, "labels": {"background": 0, "SIJ": 1},
                                                   "numTraining": 2, "file_ending": ".nii.gz"}))
    return root


def test_phantoms_like_a_cohort_have_its_grids_and_noise(cohort, tmp_path, capsys):
    out = tmp_path / "phantoms"
    assert main(["phantom", "--like", str(cohort), "--out", str(out), "--cases", "3", "--seed", "7"]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    made, theirs = load_cohort(out), load_cohort(cohort)
    assert list(made.cases) == ["phantom_007", "phantom_008", "phantom_009"]
    for case, like in zip(made.cases.values(), ("a", "b", "a")):
        ours, original = read_volume(case.image), reorient(read_volume(theirs.cases[like].image), "LPS")
        assert ours.array.shape == original.array.shape
        assert ours.spacing == pytest.approx(original.spacing, abs=1e-4)
        assert noise_of(ours) == pytest.approx(noise_of(original), rel=0.4)
        assert read_volume(case.label).array.any()


def test_a_second_call_keeps_what_fits_and_makes_the_rest(cohort, tmp_path):
    out, command = tmp_path / "phantoms", ["phantom", "--like", str(cohort), "--out", str(tmp_path / "phantoms"), "--cases"]
    assert main([*command, "1"]) == 0
    first = (out / "imagesTr/phantom_000_0000.nii.gz").stat().st_mtime_ns
    assert main([*command, "2"]) == 0
    assert (out / "imagesTr/phantom_000_0000.nii.gz").stat().st_mtime_ns == first
    other = reorient(read_volume(cohort / "imagesTr/a_0000.nii.gz"), "LPS")
    write_volume(replace(other, spacing=(3.0, 2.8, 2.8)), cohort / "imagesTr/a_0000.nii.gz")
    label = reorient(read_volume(cohort / "labelsTr/a.nii.gz"), "LPS")
    write_volume(replace(label, spacing=(3.0, 2.8, 2.8)), cohort / "labelsTr/a.nii.gz")
    assert main([*command, "2"]) == 0
    assert read_volume(out / "imagesTr/phantom_000_0000.nii.gz").spacing == pytest.approx((3.0, 2.8, 2.8), abs=1e-4)


def test_fewer_phantoms_leave_none_behind(cohort, tmp_path):
    out, command = tmp_path / "phantoms", ["phantom", "--like", str(cohort), "--out", str(tmp_path / "phantoms"), "--cases"]
    assert main([*command, "3"]) == 0
    load_cohort(out)                                                    # writes splits.json
    assert main([*command, "2"]) == 0
    assert sorted(load_cohort(out).cases) == ["phantom_000", "phantom_001"]
    assert sorted(p.name for p in out.rglob("phantom_002*")) == []


def test_an_interrupted_call_goes_on(cohort, tmp_path, monkeypatch):
    out = tmp_path / "phantoms"
    command = ["phantom", "--like", str(cohort), "--out", str(out), "--cases", "1"]

    def interrupted(*_, **__):
        raise KeyboardInterrupt
    with monkeypatch.context() as patch:
        patch.setattr("sijphantom.phantom.make_phantom", interrupted)
        assert main(command) == 130
    assert main(command) == 0 and list(load_cohort(out).cases) == ["phantom_000"]


def test_a_scan_too_short_for_the_joints_is_named(cohort, tmp_path, capsys):
    for folder, name in (("imagesTr", "a_0000"), ("labelsTr", "a")):
        path = cohort / folder / f"{name}.nii.gz"
        volume = read_volume(path)
        write_volume(replace(volume, array=volume.array[:20]), path)
    assert main(["phantom", "--like", str(cohort), "--out", str(tmp_path / "x")]) == 2
    error = capsys.readouterr().err
    assert "a_0000.nii.gz: is 60 mm high" in error and len(error.splitlines()[-1:]) == 1


def test_mistakes_are_one_line(cohort, tmp_path, capsys):
    for arguments, words in (
            (["--like", str(tmp_path / "none"), "--out", str(tmp_path / "x")], "dataset.json: missing"),
            (["--like", str(cohort), "--out", str(cohort)], "is not empty"),
            (["--like", str(cohort), "--out", str(tmp_path)], "is not empty"),
            (["--like", str(cohort), "--out", str(cohort / "dataset.json")], "is not empty")):
        assert main(["phantom", *arguments]) == 2
        error = capsys.readouterr().err
        assert words in error and len(error.splitlines()) == 1
