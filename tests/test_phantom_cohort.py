"""Cohorts of phantoms: the same files from any number of processes, errors and Ctrl-C as in one."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import psutil
import pytest
from conftest import refused
from test_cohort import quietly

from compendium.cli import main
from magunet.base import device, profiles
from magunet.base.errors import InputError
from magunet.base.provenance import write_json
from magunet.cohort import load_cohort
from magunet.volume import Volume, read_volume, reorient, write_volume
from sijphantom import cohort as phantom_cohort
from sijphantom.cohort import phantom_folder, phantom_processes, phantom_scan, run_all
from sijphantom.likeness import noise_of, options_like
from sijphantom.phantom import make_phantom
from sijphantom.scanner import Protocol

# What processes call is defined within a test: they get its code, and need not import this file.

def test_every_job_is_done_once_in_several_processes(tmp_path):
    def note(name):
        with (tmp_path / name).open("x") as file:                       # a second time would fail
            file.write(str(os.getpid()))
        limit = time.monotonic() + 60                                   # so that one process does not do all
        while len({path.read_text() for path in tmp_path.iterdir()}) < 2 and time.monotonic() < limit:
            time.sleep(0.05)

    def progress(items, what):
        for item in items:
            yield item
            titles.append(what)

    titles = []
    run_all(note, [(str(n),) for n in range(6)], 2, progress, "notes")
    processes = {(tmp_path / str(n)).read_text() for n in range(6)}
    assert len(processes) == 2 and str(os.getpid()) not in processes and titles == ["notes"] * 6
    run_all(note, [("a",)], 1, quietly, "notes")
    assert (tmp_path / "a").read_text() == str(os.getpid())


def test_an_error_is_raised_in_one_line_and_ends_the_rest(tmp_path):
    """One mistake, or one process killed; the other jobs would take minutes."""
    def fail(name):
        (tmp_path / str(os.getpid())).touch()
        if name == "wrong":
            raise InputError("x.txt: wrong; correct it")
        if name == "killed":
            os._exit(1)
        time.sleep(120)

    for processes, name, words in ((1, "wrong", ["x.txt: wrong; correct it"]),
                                   (2, "wrong", ["x.txt: wrong; correct it"]),
                                   (2, "killed", ["jobs", "lack of memory", "run this again"])):
        jobs = [(name,), ("b",), ("c",)]
        refused(lambda jobs=jobs, n=processes: run_all(fail, jobs, n, quietly, "jobs"), *words)
        workers = [child for child in psutil.Process().children(recursive=True)
                   if (tmp_path / str(child.pid)).exists()]
        assert not psutil.wait_procs(workers, timeout=10)[1], (processes, name)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_stopping_the_command_stops_every_process_and_leaves_cases_as_one_process_makes(compendium, sent):
    """Ctrl-C reaches all processes of a terminal; SIGKILL here only the first, and the others end soon."""
    settings = replace(profiles.load("smoke"), profile="mine", cases=120, scan_matrix=256,
                       scan_slices=(60, 61))                            # which takes longer than this test
    write_json(compendium / "papermill_params" / "mine.yaml", settings.as_dict())             # JSON is YAML
    root = phantom_folder(settings)
    command = [sys.executable, "-c", "import sys; from compendium import cli; from sijphantom import cohort; "
               "cohort.joblib.cpu_count = lambda: 2; sys.exit(cli.main(['cohort', '--profile', 'mine']))"]
    with open(compendium / "log.txt", "w") as log:
        running = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    limit = time.monotonic() + 120
    while not list(root.glob("parameters/p*.json")):
        assert running.poll() is None and time.monotonic() < limit, (compendium / "log.txt").read_text()
        time.sleep(0.05)
    children = psutil.Process(running.pid).children(recursive=True)
    assert len(children) >= 2
    os.killpg(running.pid, sent) if sent == signal.SIGINT else os.kill(running.pid, sent)
    assert running.wait(timeout=60) == (130 if sent == signal.SIGINT else -sent)
    assert not psutil.wait_procs(children, timeout=10 if sent == signal.SIGINT else 90)[1]
    assert not (root / "dataset.json").exists()
    log = (compendium / "log.txt").read_text()
    assert "Traceback" not in log and ("the same command goes on" in log) == (sent == signal.SIGINT)
    for record in root.glob("parameters/*.json"):
        alone = make_phantom(int(record.stem[-3:]), matrix=256, slices=(60, 61), thickness=settings.target_mm)
        for volume, name in zip(phantom_scan(alone), ("imagesTr/{}_0000.nii.gz", "labelsTr/{}.nii.gz")):
            np.testing.assert_array_equal(read_volume(root / name.format(record.stem)).array, volume.array)


def test_a_container_limits_the_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(device, "CONTAINER", tmp_path)
    free = device.free_memory()
    assert 0 < free < 1e5
    (tmp_path / "memory.max").write_text(f"{2**28}\n")                   # alone, where its use is not told
    assert device.free_memory() == 0.25
    (tmp_path / "memory.stat").write_text(f"anon 7\ninactive_file {2**27}\nfile 9\n")
    for limit, used, least, most in (("max", 5, free / 2, 1e5), (2**28, 2**27, 0.25, 0.25), (2, 2**30, 0, 0)):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text(f"{used}\n")
        assert least <= device.free_memory() <= most, limit


def test_phantoms_are_made_on_all_cores_as_far_as_memory_goes_unless_that_takes_longer(monkeypatch):
    for profile, count, cores, gib, processes in (
            ("paper", 70, 16, 26.0, 10), ("paper", 2, 16, 26.0, 2), ("paper", 70, 1, 26.0, 1),
            ("paper", 70, 16, 1.0, 1), ("gpu", 70, 16, 26.0, 15), ("smoke", 6, 16, 26.0, 1)):
        monkeypatch.setattr(phantom_cohort.joblib, "cpu_count", lambda cores=cores: cores)
        monkeypatch.setattr(phantom_cohort, "free_memory", lambda gib=gib: gib)
        settings = profiles.load(profile)
        options = {"matrix": settings.scan_matrix, "slices": settings.scan_slices}
        assert phantom_processes([options] * count) == processes, (profile, count, cores, gib)


def test_noise_of_an_even_body_is_read_as_it_is_and_none_without_soft_tissue():
    y, x = np.mgrid[:120, :120] - 60
    for noise, hu in ((5.0, 10.0), (20.0, 10.0), (5.0, 60.0), (20.0, 60.0)):
        body = np.where(np.hypot(x, y) < 45, hu, -1000.0)
        image = np.repeat(body[None], 12, 0) + np.random.default_rng(0).normal(0, noise, (12, 120, 120))
        scan = Volume(image.astype(np.float32), (2.0, 0.8, 0.8))
        assert noise_of(scan) == pytest.approx(noise, rel=0.15), (noise, hu)
    refused(lambda: options_like(scan), "is 24 mm high", "leave this case out")
    refused(lambda: noise_of(Volume(np.full((4, 40, 40), -1000, np.int16), (1.0, 1.0, 1.0))), "soft tissue")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Two scans that differ in matrix, pixels, slices and noise, as is read; the second one lies in RAS."""
    root = tmp_path_factory.mktemp("scans")
    for name, code, matrix, slices, pixel, noise in (("a", "LPS", 96, 40, 3.0, 15.0),
                                                     ("b", "RAS", 120, 50, 2.4, 40.0)):
        protocol = Protocol(pixel_mm=(pixel, pixel), noise_hu=(noise, noise), slice_mm=(3.0, 3.0))
        case = make_phantom(ord(name), matrix=matrix, slices=(slices, slices), protocol=protocol)
        image, mask = phantom_scan(case)
        assert noise_of(image) == pytest.approx(noise, rel=0.33), name
        write_volume(reorient(image, code), root / f"imagesTr/{name}_0000.nii.gz")
        write_volume(reorient(mask, code), root / f"labelsTr/{name}.nii.gz")
    write_json(root / "dataset.json", {"channel_names": {"0": "CT"}, "labels": {"background": 0, "SIJ": 1},
                                       "numTraining": 2, "file_ending": ".nii.gz"})
    return root


def test_phantoms_like_a_cohort_have_its_grids_and_noise_and_stay_while_they_fit(cohort, tmp_path, capsys):
    """Of two in place of three phantoms, one is kept; the scan of the other has got larger pixels."""
    cohort, out = shutil.copytree(cohort, tmp_path / "mine"), tmp_path / "phantoms"
    command = ["cohort", "--like", str(cohort), "--out", str(out), "--seed", "7", "--cases"]
    assert main([*command, "3"]) == 0 and capsys.readouterr().out == f"{out}\n"
    made, theirs = load_cohort(out), load_cohort(cohort)                # which writes splits.json
    assert list(made.cases) == ["phantom_007", "phantom_008", "phantom_009"]
    for case, like in zip(made.cases.values(), ("a", "b", "a")):
        ours, original = read_volume(case.image), reorient(read_volume(theirs.cases[like].image), "LPS")
        assert ours.array.shape == original.array.shape, case.name
        assert ours.spacing == pytest.approx(original.spacing, abs=1e-4), case.name
        assert noise_of(ours) == pytest.approx(noise_of(original), rel=0.4), case.name
        assert read_volume(case.label).array.any(), case.name
    first, second, _ = (case.image for case in made.cases.values())
    before = second.stat().st_mtime_ns
    for path in (theirs.cases["a"].image, theirs.cases["a"].label):
        write_volume(replace(read_volume(path), spacing=(3.0, 2.8, 2.8)), path)
    assert main([*command, "2"]) == 0
    assert sorted(load_cohort(out).cases) == ["phantom_007", "phantom_008"]
    assert not list(out.rglob("phantom_009*")) and second.stat().st_mtime_ns == before
    assert read_volume(first).spacing == pytest.approx((3.0, 2.8, 2.8), abs=1e-4)
