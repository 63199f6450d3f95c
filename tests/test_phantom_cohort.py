"""Cohorts of phantoms: the same files from any number of processes, errors and Ctrl-C as in one."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import psutil
import pytest
import torch
from conftest import refused
from test_cohort import PHANTOMS, contents, quietly

from compendium.cli import main
from magunet.base import device, profiles
from magunet.base.errors import InputError
from magunet.base.provenance import whole_file, write_json
from magunet.cohort import load_cohort
from magunet.volume import Volume, read_volume, reorient, write_volume
from sijphantom import cohort as phantom_cohort
from sijphantom.cohort import make_phantom_cohort, phantom_folder, phantom_processes, phantom_scan, run_all
from sijphantom.likeness import noise_of
from sijphantom.phantom import make_phantom
from sijphantom.scanner import Protocol

# Processes ----------------------------------------------------------------------------------------------

def note(folder, name):
    """Write which process did this, with how many threads."""
    (folder / name).write_text(f"{os.getpid()} {torch.get_num_threads()}")
    time.sleep(0.3)                                                     # so that one process cannot do all


def fail(folder, name):
    """One mistake, or one process killed; the other jobs would take minutes."""
    if name == "wrong":
        raise InputError("x.txt: wrong; correct it")
    if name == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    with whole_file(folder / name) as part:
        part.write_text("half")
        time.sleep(120)


def test_every_job_is_done_once_in_several_processes_of_one_thread(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    titles = []

    def progress(items, what):
        for item in items:
            yield item
            titles.append(what)

    run_all(note, [(tmp_path, str(n)) for n in range(6)], 2, progress, "notes")
    texts = [(tmp_path / str(n)).read_text().split() for n in range(6)]
    pids = {pid for pid, _ in texts}
    assert len(pids) == 2 and str(os.getpid()) not in pids and {threads for _, threads in texts} == {"1"}
    assert titles == ["notes"] * 6 and os.environ["OMP_NUM_THREADS"] == "3"
    run_all(note, [(tmp_path, "a")], 1, quietly, "notes")
    assert (tmp_path / "a").read_text().split()[0] == str(os.getpid())


def test_a_script_needs_no_main_guard(compendium):
    script = """
from test_cohort import PHANTOMS, quietly
from sijphantom import cohort
cohort.phantom_processes = lambda *_: 2
print("once", len(cohort.cohort_of(PHANTOMS, quietly).cases))
"""
    done = subprocess.run([sys.executable, "-"], input=script, capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == 0 and done.stdout == "once 3\n", done.stderr


@pytest.mark.parametrize("processes, name, words", [
    (1, "wrong", ["x.txt: wrong; correct it"]), (2, "wrong", ["x.txt: wrong; correct it"]),
    pytest.param(2, "killed", ["jobs", "lack of memory", "run this again"],
                 marks=pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals"))])
def test_an_error_is_raised_in_one_line_and_ends_the_rest(tmp_path, processes, name, words):
    jobs = [(tmp_path, name), (tmp_path, "b"), (tmp_path, "c")]
    refused(lambda: run_all(fail, jobs, processes, quietly, "jobs"), *words)
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith(".")]


def test_a_container_limits_the_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(device, "CONTAINER_LIMIT", tmp_path / "memory.max")
    free = device.free_memory()
    assert 0 < free < 1e5
    (tmp_path / "memory.max").write_text("max\n")
    assert device.free_memory() > 0.5 * free
    (tmp_path / "memory.max").write_text(f"{2**28}\n")
    assert device.free_memory() == 0.25


@pytest.mark.parametrize("profile, count, cores, gib, processes", [
    ("paper", 70, 16, 26.0, 10), ("paper", 2, 16, 26.0, 2), ("paper", 70, 1, 26.0, 1),
    ("paper", 70, 16, 1.0, 1), ("gpu", 70, 16, 26.0, 15), ("smoke", 6, 16, 26.0, 1)])
def test_phantoms_are_made_on_all_cores_as_far_as_memory_goes_unless_that_takes_longer(
        monkeypatch, profile, count, cores, gib, processes):
    monkeypatch.setattr(phantom_cohort.joblib, "cpu_count", lambda: cores)
    monkeypatch.setattr(phantom_cohort, "free_memory", lambda: gib)
    settings = profiles.load(profile)
    options = {"matrix": settings.scan_matrix, "slices": settings.scan_slices}
    assert phantom_processes([options] * count) == processes


def test_phantoms_are_the_same_from_any_number_of_processes_and_after_a_stop(compendium, monkeypatch):
    root, results = phantom_folder(PHANTOMS), []
    for processes in (2, 1):
        monkeypatch.setattr(phantom_cohort, "phantom_processes", lambda options, n=processes: n)
        results.append(contents(make_phantom_cohort(PHANTOMS, quietly)))
        root.rename(compendium / f"by-{processes}")
    assert results[0] == results[1] and len(results[0]) == 3 * 3 + 1

    def interrupted(items, what):
        yield items[0]                                                  # one case is done
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_phantom_cohort(PHANTOMS, interrupted)
    assert not (root / "dataset.json").exists() and not list(root.rglob(".part-*"))
    assert contents(make_phantom_cohort(PHANTOMS, quietly)) == results[0]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("sent", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.torture)])
def test_stopping_the_command_stops_every_process_and_leaves_whole_cases(compendium, sent):
    """Ctrl-C reaches all processes of a terminal; SIGKILL here only the first, and the others end soon."""
    settings = replace(profiles.load("smoke"), profile="mine", cases=120, scan_matrix=256,
                       # 120 phantoms take longer than this test
                       scan_slices=(60, 61))
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
        for path in (root / f"imagesTr/{record.stem}_0000.nii.gz", root / f"labelsTr/{record.stem}.nii.gz"):
            assert read_volume(path).array.any()


# Phantoms like the scans of a cohort ----------------------------------------------------------------------

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
        protocol = Protocol(pixel_mm=(1.6, 1.6), noise_hu=(noise, noise))
        case = make_phantom(seed, matrix=200, slices=(24, 24), protocol=protocol)
        assert noise_of(phantom_scan(case)[0]) == pytest.approx(noise, rel=0.33)


def test_a_scan_without_soft_tissue_has_no_noise_to_read():
    refused(lambda: noise_of(Volume(np.full((4, 40, 40), -1000, np.int16), (1.0, 1.0, 1.0))), "soft tissue")


@pytest.fixture
def cohort(tmp_path):
    """Two scans that differ in matrix, pixels, slices and noise; the second one lies in RAS."""
    root = tmp_path / "mine"
    for name, matrix, slices, pixel, noise in (("a", 96, 40, 3.0, 8.0), ("b", 128, 60, 2.5, 40.0)):
        protocol = Protocol(pixel_mm=(pixel, pixel), noise_hu=(noise, noise), slice_mm=(3.0, 3.0))
        case = make_phantom(ord(name), matrix=matrix, slices=(slices, slices), protocol=protocol)
        image, mask = phantom_scan(case)
        code = "LPS" if name == "a" else "RAS"
        write_volume(reorient(image, code), root / f"imagesTr/{name}_0000.nii.gz")
        write_volume(reorient(mask, code), root / f"labelsTr/{name}.nii.gz")
    (root / "dataset.json").write_text(json.dumps({
        "channel_names": {"0": "CT"}, "labels": {"background": 0, "SIJ": 1}, "numTraining": 2,
        "file_ending": ".nii.gz"}))
    return root


def test_phantoms_like_a_cohort_have_its_grids_and_noise(cohort, tmp_path, capsys):
    out = tmp_path / "phantoms"
    assert main(["cohort", "--like", str(cohort), "--out", str(out), "--cases", "3", "--seed", "7"]) == 0
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
    out = tmp_path / "phantoms"
    command = ["cohort", "--like", str(cohort), "--out", str(out), "--cases"]
    assert main([*command, "1"]) == 0
    first = (out / "imagesTr/phantom_000_0000.nii.gz").stat().st_mtime_ns
    assert main([*command, "2"]) == 0
    assert (out / "imagesTr/phantom_000_0000.nii.gz").stat().st_mtime_ns == first
    other = reorient(read_volume(cohort / "imagesTr/a_0000.nii.gz"), "LPS")
    write_volume(replace(other, spacing=(3.0, 2.8, 2.8)), cohort / "imagesTr/a_0000.nii.gz")
    label = reorient(read_volume(cohort / "labelsTr/a.nii.gz"), "LPS")
    write_volume(replace(label, spacing=(3.0, 2.8, 2.8)), cohort / "labelsTr/a.nii.gz")
    assert main([*command, "2"]) == 0
    spacing = read_volume(out / "imagesTr/phantom_000_0000.nii.gz").spacing
    assert spacing == pytest.approx((3.0, 2.8, 2.8), abs=1e-4)


def test_fewer_phantoms_leave_none_behind(cohort, tmp_path):
    out = tmp_path / "phantoms"
    command = ["cohort", "--like", str(cohort), "--out", str(out), "--cases"]
    assert main([*command, "3"]) == 0
    load_cohort(out)                                                    # writes splits.json
    assert main([*command, "2"]) == 0
    assert sorted(load_cohort(out).cases) == ["phantom_000", "phantom_001"]
    assert sorted(p.name for p in out.rglob("phantom_002*")) == []


def test_a_scan_too_short_for_the_joints_is_named(cohort, tmp_path, capsys):
    for folder, name in (("imagesTr", "a_0000"), ("labelsTr", "a")):
        path = cohort / folder / f"{name}.nii.gz"
        volume = read_volume(path)
        write_volume(replace(volume, array=volume.array[:20]), path)
    assert main(["cohort", "--like", str(cohort), "--out", str(tmp_path / "x")]) == 2
    error = capsys.readouterr().err
    assert "a_0000.nii.gz: is 60 mm high" in error and len(error.splitlines()[-1:]) == 1


def test_mistakes_are_one_line(cohort, tmp_path, capsys):
    for arguments, words in (
            (["--like", str(tmp_path / "none"), "--out", str(tmp_path / "x")], "dataset.json: missing"),
            (["--like", str(cohort), "--out", str(cohort)], "is not empty"),
            (["--like", str(cohort), "--out", str(tmp_path)], "is not empty"),
            (["--like", str(cohort), "--out", str(cohort / "dataset.json")], "is not empty")):
        assert main(["cohort", *arguments]) == 2
        error = capsys.readouterr().err
        assert words in error and len(error.splitlines()) == 1
