"""Work on several cores: the same files as on one, errors and Ctrl-C as on one, and nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest
import torch
from conftest import refused
from test_cohort import PHANTOMS, contents, quietly

from magunet.base import profiles
from magunet.base.errors import InputError
from magunet.base.provenance import whole_file, write_json
from magunet.volume import read_volume
from sijphantom import cohort as phantom_cohort
from sijphantom import parallel
from sijphantom.cohort import make_phantom_cohort, phantom_folder, phantom_processes


def note(folder, name):
    """Write which process did this, with how many threads."""
    with whole_file(folder / name) as part:
        part.write_text(f"{os.getpid()} {torch.get_num_threads()}")
    time.sleep(0.3)                                                     # so that one process cannot do all


def fail(folder, name):
    """One mistake; the other jobs would take minutes."""
    if name == "bad":
        raise InputError("x.txt: wrong; correct it")
    with whole_file(folder / name) as part:
        part.write_text("half")
        time.sleep(120)


def die(folder, name):
    os.kill(os.getpid(), signal.SIGKILL) if name == "bad" else fail(folder, name)


def ended(children):
    """Processes that still run a moment later."""
    return psutil.wait_procs(children, timeout=10)[1]


def test_every_job_is_done_once_in_several_processes_of_one_thread(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    before = {name: os.environ.get(name) for name in parallel.ONE_THREAD}, signal.getsignal(signal.SIGINT)
    seen = []

    def progress(items, what):
        for item in items:
            yield item
            seen.append(what)

    parallel.run_all(note, [(tmp_path, str(n)) for n in range(6)], 2, progress, "notes")
    texts = [(tmp_path / str(n)).read_text().split() for n in range(6)]
    pids = {pid for pid, _ in texts}
    assert len(pids) == 2 and str(os.getpid()) not in pids and {threads for _, threads in texts} == {"1"}
    assert seen == ["notes"] * 6
    assert before == ({name: os.environ.get(name) for name in parallel.ONE_THREAD}, signal.getsignal(signal.SIGINT))
    assert not [pid for pid in pids if psutil.pid_exists(int(pid))]


def test_one_process_is_this_one(tmp_path):
    parallel.run_all(note, [(tmp_path, "a")], 1, quietly, "notes")
    assert (tmp_path / "a").read_text().split()[0] == str(os.getpid())


SCRIPT = """
from test_cohort import PHANTOMS, quietly
from magunet import cohort
from sijphantom import cohort as phantom_cohort
phantom_cohort.phantom_processes = lambda *_: 2
print("once", len(cohort.load_cohort(cohort.make_phantom_cohort(PHANTOMS, quietly)).cases))
"""


@pytest.mark.parametrize("from_file", [True, False])
def test_a_script_needs_no_main_guard(compendium, from_file):
    (compendium / "script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, "script.py" if from_file else "-"], input=None if from_file else SCRIPT,
                          capture_output=True, text=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == 0 and done.stdout == "once 3\n", done.stderr


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_is_raised_as_it_was_and_ends_the_rest(tmp_path, processes):
    refused(lambda: parallel.run_all(fail, [(tmp_path, "bad"), (tmp_path, "b"), (tmp_path, "c")], processes, quietly, "jobs"),
            "x.txt: wrong; correct it")
    assert list(tmp_path.iterdir()) == []                               # no half-written file either


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_process_that_is_killed_is_explained(tmp_path):
    jobs = [(tmp_path, "bad"), (tmp_path, "b"), (tmp_path, "c")]
    refused(lambda: parallel.run_all(die, jobs, 2, quietly, "phantoms"), "phantoms", "lack of memory", "run this again")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("jobs, cores, gib, count", [
    (70, 16, 100.0, 16), (70, 16, 11.0, 4), (3, 16, 100.0, 3), (70, 1, 100.0, 1), (70, 16, 1.0, 1), (900, 128, 9999.0, 61)])
def test_processes_are_limited_by_work_cores_and_memory(monkeypatch, jobs, cores, gib, count):
    monkeypatch.setattr(parallel, "core_count", lambda: cores)
    monkeypatch.setattr(parallel, "free_memory", lambda: gib)
    assert parallel.process_count(jobs, 2.5) == count


def test_a_container_limits_the_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(parallel, "CONTAINER_LIMIT", tmp_path / "memory.max")
    free = parallel.free_memory()
    assert 0 < free < 1e5
    (tmp_path / "memory.max").write_text("max\n")
    assert parallel.free_memory() > 0.5 * free
    (tmp_path / "memory.max").write_text(f"{2**28}\n")
    assert parallel.free_memory() == 0.25


def test_phantoms_are_made_on_all_cores_unless_that_takes_longer(monkeypatch):
    monkeypatch.setattr(parallel, "core_count", lambda: 16)
    monkeypatch.setattr(parallel, "free_memory", lambda: 26.0)
    def processes(name, count):
        settings = profiles.load(name)
        return phantom_processes([{"matrix": settings.scan_matrix, "slices": settings.scan_slices}] * count)
    assert processes("paper", 70) == 10 and processes("paper", 2) == 2                 # 2.5 GiB each
    assert processes("gpu", 70) == 15
    assert processes("smoke", 6) == 1


# Phantoms ---------------------------------------------------------------------------------------------

def test_phantoms_are_the_same_from_any_number_of_processes_and_after_a_stop(compendium, monkeypatch):
    root, results = phantom_folder(PHANTOMS), []
    for processes in (1, 2):
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
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_stopping_the_command_stops_every_process_and_leaves_whole_cases(compendium, sent):
    """Ctrl-C reaches all processes of a terminal; SIGKILL here only the first one."""
    settings = replace(profiles.load("smoke"), profile="mine", cases=120, scan_matrix=256, scan_slices=(60, 61))
    write_json(compendium / "papermill_params" / "mine.yaml", settings.as_dict())             # JSON is YAML
    root = phantom_folder(settings)
    command = [sys.executable, "-c", "import sys; from magunet import cli, parallel; parallel.core_count = lambda: 2; "
               "sys.exit(cli.main(['cohort', '--profile', 'mine']))"]
    with open(compendium / "log.txt", "w") as log:
        running = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    limit = time.monotonic() + 120
    while not (root / "parameters").exists() or not list((root / "parameters").glob("p*.json")):
        assert running.poll() is None and time.monotonic() < limit, (compendium / "log.txt").read_text()
        time.sleep(0.05)
    children = psutil.Process(running.pid).children(recursive=True)
    assert len(children) >= 2
    os.killpg(running.pid, sent) if sent == signal.SIGINT else os.kill(running.pid, sent)
    assert running.wait(timeout=60) == (130 if sent == signal.SIGINT else -sent)                # 120 phantoms take longer
    assert not ended(children)
    assert not list(root.rglob(".part-*")) and not (root / "dataset.json").exists()
    log = (compendium / "log.txt").read_text()
    assert "Traceback" not in log and ("the same command goes on" in log) == (sent == signal.SIGINT)
    for record in root.glob("parameters/*.json"):
        for path in (root / f"imagesTr/{record.stem}_0000.nii.gz", root / f"labelsTr/{record.stem}.nii.gz"):
            assert read_volume(path).array.any()
