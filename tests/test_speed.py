"""benchmarks/speed: contests compare like with like, take turns, and keep what they measured."""

import os
import runpy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from conftest import ROOT, refused

from benchmarks.speed import contests, others, results, work
from benchmarks.speed.contest import MEGABYTES, Contest, Result, alone, megabytes_of, run
from compendium.fits import OWN_BYTES, tensor_bytes
from magunet.base import profiles
from magunet.base.errors import InputError
from magunet.blocks import PAM
from magunet.metrics import overlap
from magunet.predict import load_model
from magunet.prepare import prepare
from magunet.volume import read_volume, same_geometry, write_volume

SMALL = (40, 64, 64)
SMOKE = profiles.load("smoke")


def result(**more):
    return Result(**{"work": "a", "beside": "b", "ours": [1.0, 1.0, 9.0], "theirs": [4.0, 2.0, 3.0]} | more)


@pytest.mark.parametrize("contest", [
    partial(contests.forward, size=(16, 16, 16), divisor=16),
    partial(contests.training_step, profile="smoke"),
    partial(contests.preparation, size=SMALL), partial(contests.preparation, size=SMALL, linear=False),
    partial(contests.augmentation, size=(40, 32, 32)), partial(contests.metrics, size=SMALL),
    partial(contests.epoch, settings=replace(SMOKE, samples_per_case=1), count=1)])
def test_every_contest_measures_both_ways(contest, tmp_path):
    question = contest(tmp_path)
    question.ours()
    question.theirs()


def test_ways_take_turns_and_the_first_round_does_not_count(monkeypatch):
    monkeypatch.setattr("gc.collect", lambda: None)             # it takes long in a process of many tests
    calls = []
    outcome = run(Contest(work="a", beside="b", ours=lambda: calls.append("ours"),
                          theirs=lambda: calls.append("theirs"), rounds=2))
    assert sorted(calls[:2]) == ["ours", "theirs"] and calls[2:] == ["theirs", "ours", "ours", "theirs"]
    assert len(outcome.ours) == len(outcome.theirs) == 2 and min(outcome.ratios) > 0


def test_a_median_ratio_and_a_limit_are_both_to_be_met():
    for target, most, met, *cells in (
            (0.5, None, True, "0.5", "yes"), (0.4, None, False, "0.4", "no"), (None, 1.0, True, "1 s", "yes"),
            (None, 0.9, False, "0.9 s", "no"), (0.5, 0.9, False, "0.5, 0.9 s", "no"),
            (0.5, 1.0, True, "0.5, 1 s", "yes"), (None, None, None, "", "")):
        outcome = result(target=target, most=most)
        assert outcome.ratios == [0.25, 0.5, 3.0] and outcome.met is met
        assert results.table({"a": outcome}).loc["a", ["target", "met"]].tolist() == cells


def test_work_alone_is_done_in_another_process_on_as_many_threads_and_its_errors_come_back():
    with pytest.raises(MemoryError) as error:
        alone(exec, "import os, torch; raise MemoryError(os.getpid(), torch.get_num_threads())")
    assert error.value.args[0] != os.getpid() and error.value.args[1] == torch.get_num_threads()


@pytest.mark.slow
def test_memory_is_that_of_a_fresh_process_each_and_one_that_dies_is_said():
    few, many = (megabytes_of(partial(np.ones, int(size), np.uint8)) for size in (1e6, 301e6))
    assert 270 < many - few < 330
    refused(lambda: alone(os._exit, 9), "its process ended")


def test_the_naive_matrix_computes_what_pam_computes(tmp_path):
    torch.manual_seed(0)
    pam, x = PAM(16, reduction=2), torch.randn(1, 16, 3, 4, 5)
    with torch.no_grad():
        pam.alpha.fill_(0.7)
        torch.testing.assert_close(work.naive_position_attention(pam, x), pam(x), rtol=1e-4, atol=1e-5)
    for naive in (False, True):
        work.attend(naive, (2, 4, 4))
    refused(lambda: contests.position_attention(tmp_path, (400, 400, 400)), "GB", "400x400x400")
    assert contests.position_attention(tmp_path, (2, 8, 8)).unit == MEGABYTES


@pytest.mark.slow
def test_counted_memory_is_within_a_fifth_of_measured():
    size, divisor, precision = (32, 96, 96), 4, work.default_precision()
    for way, job in (("training", work.two_steps), ("prediction", work.one_pass)):
        tensors = tensor_bytes(way, "MAG-UNet", divisor, size, precision)
        measured_mb = megabytes_of(partial(job, size, divisor, precision))
        assert (tensors + OWN_BYTES["cpu"]) / 1e6 == pytest.approx(measured_mb, rel=0.2), way


@pytest.mark.slow
def test_memory_follows_the_voxels_of_a_scan_and_hardly_the_cases_of_an_epoch():
    small, large = (megabytes_of(partial(work.prepare_cube, side)) for side in (64, 256))
    assert 2 * 256**3 / 1e6 < large - small < 12 * 256**3 / 1e6
    few = replace(SMOKE, samples_per_case=1, scan_matrix=64, scan_slices=(40, 40))
    one, three = (megabytes_of(partial(contests.train_once, few, count)) for count in (1, 3))
    assert three < 1.1 * one


def test_monai_prepares_the_same_case():
    scan, mask = contests.scan_and_mask((40, 128, 128))
    settings = replace(profiles.load("paper"), size=64, margin_mm=1000.0)
    ours = prepare(scan, mask, settings)
    for linear, least in ((True, 0.95), (False, 0.8)):
        theirs = others.prepare(scan, mask, settings.size, settings.margin_mm, linear)
        image, target = (theirs[name][0].numpy() for name in ("image", "mask"))
        assert image.shape == ours.image.shape and np.abs(image - ours.image).mean() < 0.01, linear
        assert overlap(target, ours.mask).dice > least, linear


def test_monai_segments_from_file_to_file_and_the_run_beside_it_can_be_loaded(tmp_path, monkeypatch):
    with torch.device("meta"):
        assert others.attention_unet()(torch.empty(1, 1, *others.WINDOW)).shape == (1, 1, *others.WINDOW)
    monkeypatch.setattr(others, "WINDOW", (16, 32, 32))
    monkeypatch.setattr(others, "WIDTHS", (2, 2, 2, 2, 2))
    write_volume(contests.scan_and_mask(SMALL)[0], tmp_path / "ct.nii.gz")
    others.segment(tmp_path / "ct.nii.gz", tmp_path / "mask.nii.gz")
    assert same_geometry(read_volume(tmp_path / "mask.nii.gz"), read_volume(tmp_path / "ct.nii.gz"))
    assert load_model(contests.untrained_run(tmp_path / "run", SMOKE)).record["network"] == "MAG-UNet"


def test_metrics_and_augmentation_of_both_are_alike():
    case = contests.phantom(SMALL)
    pair = (np.roll(case.mask, 1, 0), case.mask, case.spacing)
    ours, theirs = work.metrics(*pair), others.metrics(*pair, 1.0)
    assert ours[0] == pytest.approx(theirs[0], abs=1e-6)
    assert ours[1:3] == pytest.approx(theirs[1:3], abs=max(case.spacing) / 2)
    image = torch.rand(1, 16, 24, 24)
    moved = others.monai_augmentation(image, (image > 0.5).float())()
    assert moved["image"].shape == image.shape and not torch.equal(torch.as_tensor(moved["image"]), image)
    assert set(np.unique(moved["mask"])) == {0, 1}


def test_results_are_stored_and_measured_again_only_at_another_revision(tmp_path, monkeypatch):
    calls, file, first, second = [], tmp_path / "speed.json", "0123456789ab", "ba9876543210"

    def measured(_, name):
        calls.append(name)
        if name == "c":
            raise InputError("nothing to measure")
        return result()

    def at(revision, *names):
        calls.clear()
        monkeypatch.setattr(results.provenance, "git_revision", lambda root: revision)
        outcomes, missing = results.measure(names, file)
        return calls[:], list(outcomes), missing

    monkeypatch.setattr(results, "alone", measured)
    assert at(first, "a") == (["a"], ["a"], {})
    assert at(first, "a", "b", "c") == (["b", "c"], ["a", "b"], {"c": "nothing to measure"})
    at(second, "b")
    assert {name: one.revision for name, one in results.read(file)[1].items()} == {"a": first, "b": second}
    assert results.origin(file).endswith(f"revision {first}; b: {second}")
    for _ in range(2):
        assert at(f"{second}+changes", "b")[0] == ["b"]
    monkeypatch.setattr(results.provenance, "environment", lambda device: {"device": "another"})
    refused(lambda: at(second, "b"), "speed.json", "is of another machine or other libraries")
    assert not calls and len(results.read(file)[1]) == 2
    for content in ("", "[]", "{}", '{"machine": {"git": ""}, "results": {"a": {}}}'):
        file.write_text(content)
        refused(lambda: results.read(file), "speed.json", "is not from benchmarks/speed")


def test_it_shows_what_its_readme_shows_and_runs_as_a_folder(capsys):
    speed = runpy.run_path(str(ROOT / "benchmarks" / "speed"), run_name="speed")["main"]
    speed(["--show"])
    origin, *lines = capsys.readouterr().out.splitlines()
    readme = (ROOT / "benchmarks" / "README.md").read_text()
    assert origin in readme and "\n".join(line for line in lines if line.startswith("|")) in readme
    refused(lambda: speed(["race"]), "no contest 'race'; there are forward")
