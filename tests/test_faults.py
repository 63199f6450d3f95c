"""Processes are killed, disks fill up, files are damaged: the last good state stays, and work goes on.

The short form runs with all tests, the full one with ``make torture`` (``pytest tests/test_faults.py
--torture``).
"""

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from boxes import write_cohort
from faults import (
    JOBS,
    PROFILE,
    ROOT,
    after,
    assert_done,
    assert_whole,
    before,
    finish,
    here,
    make_references,
    names,
    start,
)

from compendium.fits import fit_all
from magunet import checkpoint, train
from magunet.base import profiles
from magunet.volume import read_volume

torture = pytest.mark.torture


def long(*values):
    """A case of a parametrised test that only the full form runs."""
    return pytest.param(*values, marks=torture)


@pytest.fixture(scope="session")
def references(tmp_path_factory):
    """Compendia before and after each job, undisturbed."""
    base = tmp_path_factory.mktemp("undisturbed")
    make_references(base)
    return base


@pytest.fixture(scope="session")
def seconds(references, tmp_path_factory):
    """How long each job takes in a process of its own."""
    found = {}
    for job in JOBS:
        root = before(references, job, tmp_path_factory.mktemp(job))
        began = time.monotonic()
        finish(root, job)
        found[job] = time.monotonic() - began
        assert_done(root, after(references, job))
    return found


# Signals ----------------------------------------------------------------------------------------------

def wait_for(process, condition):
    """Waits until the condition holds; False when the process ends before."""
    while process.poll() is None:
        if condition():
            return True
        time.sleep(0.001)
    return False


def wait_for_files(process, root, count):
    """Waits until so many new files, finished or not, have been seen."""
    old, seen = names(root), set()

    def enough():
        seen.update(names(root) - old)
        return len(seen) >= count
    return wait_for(process, enough)


def wait_for_pause(process):
    """Until a process started with ``paused_at`` has stopped itself; a late look cannot miss that."""
    stopped = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    assert stopped.si_code == os.CLD_STOPPED, process.communicate()[1]


def end(process, sent):
    """Send a signal; returns stderr. Once more where Python lost it, which may happen within an import."""
    process.send_signal(sent)
    process.send_signal(signal.SIGCONT)                     # where it paused
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.communicate(timeout=30)[1]
    process.send_signal(sent)
    return process.communicate(timeout=60)[1]


def check_ending(process, said, sent):
    """The exit status and the last words of a process that was sent a signal."""
    assert "Traceback" not in said
    if sent == signal.SIGKILL:
        assert process.returncode == -sent
    else:
        assert process.returncode == 130, said
        assert said.splitlines()[-1].endswith("; the same command goes on from the last finished step")


WINDOWS = 2
"""Of an epoch of the tiny training."""


def test_training_that_is_killed_again_and_again_comes_to_the_very_weights_of_an_undisturbed_one(references,
                                                                                                 tmp_path):
    """By SIGTERM at a checkpoint within the first epoch, then by SIGKILL; three cases are prepared first."""
    root, chance = before(references, "train", tmp_path), random.Random(7)
    for sent, write in ((signal.SIGTERM, 3 + 2), (signal.SIGKILL, chance.randint(1, 4)),
                        (signal.SIGKILL, chance.randint(1, 5))):
        process = start(root, "train", paused_at=write)
        wait_for_pause(process)
        check_ending(process, end(process, sent), sent)
        assert_whole(root, after(references, "train"))
    assert not list(root.glob("runs/*/run.json"))
    assert "going on after epoch" in finish(root, "train")
    assert_done(root, after(references, "train"))


@pytest.mark.parametrize("seconds, where",
                         [(60, "epoch 1 of 3\n"), (0, "epoch 1 of 3 and window 1 of 2 of the next")])
def test_an_interruption_within_a_step_goes_on_from_the_last_checkpoint(
        seconds, where, references, tmp_path, monkeypatch, capsys):
    """In the second step of the second epoch, which is not half saved."""
    root, calls, real = before(references, "train", tmp_path), [], train.losses.dice_ce_loss

    def interrupting(*arguments):
        calls.append(arguments)
        if len(calls) == WINDOWS + 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(train, "STEP_SECONDS", seconds)
    with monkeypatch.context() as patched:
        patched.setattr(train.losses, "dice_ce_loss", interrupting)
        assert here(root, "train") == 130
    assert "Traceback" not in capsys.readouterr().err
    assert_whole(root, after(references, "train"))
    assert here(root, "train") == 0
    assert f"going on after {where}" in capsys.readouterr().err
    assert_done(root, after(references, "train"))


def test_an_interruption_within_the_validation_repeats_no_step(references, tmp_path, monkeypatch, capsys):
    root, steps, real = before(references, "train", tmp_path), [], train.train_step

    def interrupting(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "STEP_SECONDS", 0)
    with monkeypatch.context() as patched:
        patched.setattr(train, "validation_dice", interrupting)
        assert here(root, "train") == 130
    monkeypatch.setattr(train, "train_step", lambda *arguments: steps.append(real(*arguments)))
    assert here(root, "train") == 0 and len(steps) == 2 * WINDOWS
    assert "going on after epoch 0 of 3 and window 2 of 2 of the next" in capsys.readouterr().err
    log = next(root.glob("runs/*/metrics.jsonl")).read_text().splitlines()
    assert [json.loads(line)["step_seconds"] is None for line in log] == [True, False, False]
    assert_done(root, after(references, "train"))


def test_where_checkpoints_take_long_fewer_are_written(references, tmp_path, monkeypatch):
    """As on a GPU: none after an epoch, but one at the end."""
    root, saves, save = before(references, "train", tmp_path), [], checkpoint.save
    monkeypatch.setitem(train.EPOCH_SECONDS, "cpu", 1e9)
    monkeypatch.setattr(train.checkpoint, "save", lambda state, *others: saves.append(len(state.log))
                        or save(state, *others))
    assert here(root, "train") == 0 and saves == [3]
    assert_done(root, after(references, "train"))


def catches(process, sent):
    """Whether the process handles a signal: it is neither just starting nor about to end."""
    with open(f"/proc/{process.pid}/status") as status:
        caught = next(line for line in status if line.startswith("SigCgt")).split()[1]
    return bool(int(caught, 16) >> (sent - 1) & 1)


@torture
@pytest.mark.parametrize("sent, times", [(signal.SIGKILL, 6), (signal.SIGTERM, 2), (signal.SIGINT, 2)])
@pytest.mark.parametrize("job", JOBS)
def test_any_job_ended_at_a_random_moment_goes_on(job, sent, times, references, seconds, tmp_path):
    """Half by the clock, half at a write."""
    for number in range(times):
        end_and_finish(job, number, sent, references, seconds, tmp_path / str(number))


def end_and_finish(job, number, sent, references, seconds, folder):
    root, chance = before(references, job, folder), random.Random(f"{job} {number} {sent}")
    new = len(names(after(references, job))) - len(names(references / job))
    process = start(root, job)
    if number % 2:
        wait_for_files(process, root, chance.randint(1, 2 * new))
    elif sent == signal.SIGKILL:
        time.sleep(chance.uniform(0, seconds[job]))
    else:
        wait_for(process, lambda: catches(process, signal.SIGTERM))
        time.sleep(chance.uniform(0, seconds[job]))
    in_time = process.poll() is None and (sent == signal.SIGKILL or catches(process, signal.SIGTERM))
    said = end(process, sent)
    # 0: it was on its way out, its work all done
    if in_time and (sent, process.returncode) != (signal.SIGKILL, 0):
        check_ending(process, said, sent)
    assert_whole(root, after(references, job))
    if process.returncode == 0:
        assert_done(root, after(references, job))
    finish(root, job)
    assert_done(root, after(references, job))


# Two at once ------------------------------------------------------------------------------------------

def locked(root):
    return list(root.rglob(".lock"))


@pytest.mark.parametrize("job, dies",
                         [("train", True), long("train", False), long("cohort", True), long("cohort", False)])
def test_the_second_of_two_waits_for_the_first_or_for_its_death(job, dies, references, tmp_path):
    root = before(references, job, tmp_path)
    first = start(root, job, paused_at=1)
    wait_for_pause(first)
    assert locked(root)
    second = start(root, job)
    said = second.stderr.readline().strip()
    first.send_signal(signal.SIGKILL if dies else signal.SIGCONT)
    assert said.endswith(": another process works here; waiting until it ends")
    assert first.wait() == (-signal.SIGKILL if dies else 0)
    _, said = second.communicate()
    assert second.returncode == 0 and (job == "cohort" or ("epoch 3/3" in said) == dies)
    first.communicate()
    assert_done(root, after(references, job))


# Full and read-only disks ------------------------------------------------------------------------------

def refused_in_one_line(root, job, capfd, *says):
    """The job's exit status is 2, and one line names the file and says why, beside lines of libraries."""
    capfd.readouterr()
    assert here(root, job) == 2
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("magunet ")]
    assert len(said) == 1 and any(word in said[0] for word in says), said
    assert "Traceback" not in said[0] and "cannot be written" in said[0]


@contextlib.contextmanager
def mounted(root, *words):
    """A file system mounted at ``root``; skips where that is not allowed."""
    done = subprocess.run(["mount", *words, str(root)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this user may not mount: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=True)


def remount(root, options):
    subprocess.run(["mount", "-o", f"remount,{options}", str(root)], check=True)


def size_of(root):
    """Bytes on a tmpfs, which counts in pages of 4096."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in root.rglob("*") if path.is_file())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="tmpfs")
@pytest.mark.parametrize("job, shares", [("train", (0.5,)), ("predict", (0.3,)), ("export", (0.8,)),
                                         *(long(job, tuple(n / 10 for n in range(9))) for job in JOBS)])
def test_a_disk_that_fills_up_at_any_moment_is_named_and_leaves_only_whole_files(job, shares, references,
                                                                                 tmp_path, capfd):
    used, full = (size_of(root) for root in (references / job, after(references, job)))
    for share in shares:
        (folder := tmp_path / str(share)).mkdir()
        with mounted(folder, "-t", "tmpfs", "-o", "size=64m", "tmpfs"):
            root = before(references, job, folder)
            remount(root, f"size={int(used + share * (full - used))}")
            refused_in_one_line(root, job, capfd, "No space left on device", "no space left on the device")
            assert_whole(root, after(references, job))
            remount(root, "size=64m")
            assert here(root, job) == 0
            assert_done(root, after(references, job))


@pytest.mark.parametrize("job", ["cohort", long("train"), long("predict"), long("export")])
def test_files_that_may_not_grow_are_named_and_no_half_one_stays(job, references, tmp_path, capfd):
    """As on a full disk, for any user: no file may become nearly as large as this job's largest."""
    root, old = before(references, job, tmp_path), results_sizes(references / job)
    largest = max(size for path, size in results_sizes(after(references, job)).items() if path not in old)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest * 3 // 4, hard))
    try:
        refused_in_one_line(root, job, capfd, "File too large", "no space left on the device")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_whole(root, after(references, job))
    assert here(root, job) == 0
    assert_done(root, after(references, job))


def results_sizes(root):
    return {path.relative_to(root): path.stat().st_size for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("job", [long("cohort"), "train", "predict", long("export")])
def test_a_folder_that_may_only_be_read_is_named(job, references, tmp_path, capfd):
    root = before(references, job, tmp_path)
    with mounted(root, "--bind", str(root)):
        remount(root, "bind,ro")
        capfd.readouterr()
        assert here(root, job) == 2
        said = capfd.readouterr().err.splitlines()
        assert len(said) == 1 and str(root) in said[0], said
        assert "Read-only file system" in said[0] or "nothing can be written there" in said[0]
    assert here(root, job) == 0
    assert_done(root, after(references, job))


# Damaged files ----------------------------------------------------------------------------------------

def cut(path, share):
    path.write_bytes(path.read_bytes()[:int(share * path.stat().st_size)])


def interrupted_after(epochs, root, monkeypatch):
    """A training that stops within its next epoch."""
    real, steps = train.train_step, []

    def train_step(*arguments):
        if len(steps) == epochs * WINDOWS:
            raise KeyboardInterrupt
        steps.append(real(*arguments))

    with monkeypatch.context() as patched:
        patched.setattr(train, "train_step", train_step)
        assert here(root, "train") == 130


@pytest.mark.parametrize("pattern, share, says", [
    ("runs/*/checkpoint.safetensors", 0.5, "checkpoint.safetensors: damaged checkpoint"),
    long("runs/*/checkpoint.safetensors", 0, "removed; training from the start"),
    ("data/prepared/phantom_001-*.safetensors", 0.5, ".safetensors: damaged"),
    long("data/prepared/phantom_001-*.safetensors", 0, "removed; preparing the case anew"),
    ("runs/*/metrics.jsonl", 0.7, "going on after epoch 2 of 3")])
# NumPy leaves a damaged file open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_file_cut_short_is_said_and_made_anew(pattern, share, says, references, tmp_path, monkeypatch,
                                                capsys):
    root = before(references, "train", tmp_path)
    interrupted_after(2, root, monkeypatch)
    cut(next(root.glob(pattern)), share)
    assert here(root, "train") == 0
    assert says in capsys.readouterr().err
    assert_done(root, after(references, "train"))


def test_a_checkpoint_that_may_not_be_read_is_not_taken_for_damaged(references, tmp_path, monkeypatch,
                                                                    capsys):
    root = before(references, "train", tmp_path)
    interrupted_after(1, root, monkeypatch)

    def denied(*_):
        raise PermissionError(13, "Permission denied", "checkpoint.safetensors")

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint.safetensors, "safe_open", denied)
        assert here(root, "train") == 2
    assert "checkpoint.safetensors: Permission denied" in capsys.readouterr().err
    assert here(root, "train") == 0
    assert_done(root, after(references, "train"))


# The clock --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("years", [-40, long(40)])
def test_dates_of_files_mean_nothing(years, references, tmp_path, monkeypatch):
    """The clock was wrong when half of this was made; what is finished stays, and the rest is made right."""
    root = before(references, "train", tmp_path)
    interrupted_after(1, root, monkeypatch)
    dates = {}
    for path in map(os.fspath, sorted(names(root))[::2]):
        dates[path] = os.stat(path).st_mtime_ns + years * 365 * 86400 * 10**9
        os.utime(path, ns=(dates[path],) * 2)
    for job in ("cohort", "train"):
        assert here(root, job) == 0
    assert_done(root, after(references, "train"))
    assert all(os.stat(path).st_mtime_ns == date for path, date in dates.items() if "/runs/" not in path)


JUMPING = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
static long calls;
int clock_gettime(clockid_t id, struct timespec *t) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int done = real(id, t);
    if (id == CLOCK_REALTIME) t->tv_sec += (++calls % 2 ? 1 : -1) * (calls * 86400L % 315360000L);
    return done;
}
"""


@torture
def test_a_clock_that_jumps_by_years_changes_nothing(references, tmp_path):
    """A day more at every reading, forwards and backwards in turns, up to ten years."""
    if not shutil.which("cc"):
        pytest.skip("no C compiler")
    subprocess.run(["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", tmp_path / "jump.so", "-ldl"],
                   input=JUMPING, text=True,
                   check=True)
    check = "import time; dates = [time.time() for _ in range(99)]; print(max(dates) - min(dates) > 86400)"
    jumping = {"LD_PRELOAD": str(tmp_path / "jump.so")}
    done = subprocess.run([sys.executable, "-c", check], env=os.environ | jumping, capture_output=True,
                          text=True)
    assert done.stdout == "True\n"
    for job in JOBS:
        root = before(references, job, tmp_path / job)
        process = start(root, job, **jumping)
        assert process.communicate() and process.returncode == 0
        assert_done(root, after(references, job))
        for log in root.glob("runs/*/metrics.jsonl"):
            assert all(0 <= json.loads(line)["seconds"] < 600 for line in log.read_text().splitlines())


# A workflow -------------------------------------------------------------------------------------------

RECEIPT = "runs/tiny/receipts/evaluate-MAG-UNet-s0.txt"


def workflow(root):
    """The project's workflow up to one network's scores, as ``make reproduce`` calls it."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", "workflow/Snakefile", "--cores", "1",
               "--scheduler", "greedy",
               "--keep-going", "--rerun-incomplete", "--nolock", "--config", "profile=tiny", "--", RECEIPT]
    with open(root / "said.txt", "w") as said:
        return subprocess.Popen(command, cwd=root, stdout=said, stderr=said, start_new_session=True,
                                env=os.environ | {"PYTHONPATH": str(ROOT)})


@torture
@pytest.mark.parametrize("sent, everything",
                         [(signal.SIGKILL, True), (signal.SIGKILL, False), (signal.SIGINT, True),
                                              (signal.SIGTERM, False)])
@pytest.mark.parametrize("moment", ["data", "runs"])
def test_a_workflow_that_is_killed_is_continued(moment, sent, everything, references, tmp_path):
    """All of its processes, or only the first one, whose jobs then go on beside those of the next call."""
    root = before(references, "cohort", tmp_path)
    shutil.copytree(ROOT / "workflow", root / "workflow")
    process = workflow(root)
    assert wait_for(process, lambda: list(root.glob(f"{moment}/*/.lock"))), (root / "said.txt").read_text()
    (os.killpg if everything else os.kill)(process.pid, sent)
    process.wait()
    if everything and sent == signal.SIGKILL:               # else its jobs are still at work
        assert_whole(root, after(references, "train"), others=True)
    assert workflow(root).wait() == 0, (root / "said.txt").read_text()
    folder = next(root.glob("runs/MAG-UNet*"))
    straight = after(references, "train") / folder.relative_to(root)
    assert (folder / "weights.safetensors").read_bytes() == (straight / "weights.safetensors").read_bytes()
    assert (root / RECEIPT).read_text().startswith(" network") and not list(root.rglob(".part-*"))


# Memory -----------------------------------------------------------------------------------------------

def too_large_above(depth, size, error):
    """Stands in for a network's forward pass on a machine whose memory holds windows up to a size."""
    def limited(forward):
        def call(self, x, *rest):
            if x.shape[2] > depth or x.shape[3] > size:
                raise error
            return forward(self, x, *rest)
        return call
    return limited


ERRORS = [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
          MemoryError("Unable to allocate 2 GiB"),
          RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9."),
          RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
          RuntimeError("std::bad_alloc"),
          RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")]


@pytest.fixture
def large(references, tmp_path, monkeypatch):
    """A compendium whose network sees windows of 40 x 32 x 32, and a way to give it too little memory."""
    from magunet.model import MAGUNet
    root = before(references, "train", tmp_path)
    (root / "papermill_params" / "tiny.yaml").write_text(json.dumps(PROFILE | {"depth": 40, "epochs": 1}))
    real = MAGUNet.forward

    def limit(depth, size, error):
        monkeypatch.setattr(MAGUNet, "forward", too_large_above(depth, size, error)(real))
    return root, limit


TOO_LARGE = "training MAG-UNet on windows of 40 x 32 x 32 voxels does not fit"


@pytest.mark.parametrize("error", [ERRORS[0], *map(long, ERRORS[1:])], ids=str)
def test_training_that_does_not_fit_says_so_in_one_line(error, large, capsys):
    root, limit = large
    limit(20, 32, error)
    assert here(root, "train") == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"not enough memory ({TOO_LARGE}); close other programs, or lower size, depth" in said
    assert not list(root.glob("runs/*/*"))


@torture
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_AS")
def test_memory_that_is_really_too_little_is_said(references, tmp_path):
    root = before(references, "train", tmp_path)
    (root / "papermill_params" / "tiny.yaml").write_text(json.dumps(PROFILE
                                                                    | {"depth": 64, "size": 512,
                                                                       "epochs": 1}))
    process = start(root, "train",
                    preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30,) * 2))
    _, said = process.communicate()
    assert process.returncode == 2 and "Traceback" not in said, said
    assert "not enough memory (training MAG-UNet on windows of 64 x 512 x 512 voxels does not fit)" in said


def test_prediction_falls_back_to_smaller_windows_and_says_so(large, capsys):
    root, limit = large
    assert here(root, "train") == 0
    limit(16, 32, ERRORS[0])
    assert here(root, "predict") == 0
    said = capsys.readouterr().err
    assert "going on with windows of 20 instead of 40 slices" in said
    assert "going on with windows of 16 instead of 40 slices" in said
    (mask,) = root.glob("out/*_sij.nii.gz")
    assert set(np.unique(read_volume(mask).array)) <= {0, 1}
    limit(15, 32, ERRORS[0])
    assert here(root, "predict") == 2
    said = capsys.readouterr().err
    assert "not enough memory (windows of 16 x 32 x 32 voxels do not fit; a run with smaller size" in said


@pytest.mark.parametrize("job", ["train", "predict"])
def test_other_errors_of_a_network_are_not_taken_for_too_little_memory(job, large):
    root, limit = large
    if job == "predict":
        assert here(root, "train") == 0
    limit(1, 1, RuntimeError("a defect"))
    with pytest.raises(RuntimeError, match="a defect"):
        here(root, job)


def test_one_network_that_does_not_fit_stops_no_other(large, capsys):
    root, limit = large
    limit(20, 32, ERRORS[0])
    settings = profiles.load(str(root / "papermill_params" / "tiny.yaml"))
    with contextlib.chdir(root):
        found = fit_all(["MAG-UNet", "SegNet"], settings, write_cohort(root / "data" / "boxes"))
    assert list(found) == ["SegNet"]
    assert f"failed: MAG-UNet: {TOO_LARGE}\n" in capsys.readouterr().err


# Losses that are no numbers ---------------------------------------------------------------------------

@pytest.mark.parametrize("value", ["nan", long("inf")])
def test_a_loss_that_is_no_number_names_the_case_and_keeps_the_last_good_state(value, references, tmp_path,
                                                                               monkeypatch, capsys):
    root = before(references, "train", tmp_path)
    interrupted_after(1, root, monkeypatch)
    kept = next(root.glob("runs/*/checkpoint.safetensors")).read_bytes()
    real = train.losses.dice_ce_loss
    with monkeypatch.context() as patched:
        patched.setattr(train.losses, "dice_ce_loss", lambda logits, mask: real(logits, mask) * float(value))
        assert here(root, "train") == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "case phantom_00" in said and f": the loss became {value}; lower learning_rate" in said
    assert next(root.glob("runs/*/checkpoint.safetensors")).read_bytes() == kept
    assert here(root, "train") == 0
    assert_done(root, after(references, "train"))


def test_a_last_step_that_ruins_the_weights_does_not_reach_the_checkpoint(references, tmp_path, monkeypatch,
                                                                          capsys):
    """Its loss is still a number; no later one of that epoch shows what it did."""
    root = before(references, "train", tmp_path)
    interrupted_after(1, root, monkeypatch)
    kept = next(root.glob("runs/*/checkpoint.safetensors")).read_bytes()
    real = train.train_step

    def train_step(state, *rest):
        real(state, *rest)
        if len(state.losses) == WINDOWS:
            next(state.network.parameters()).data.view(-1)[0] = float("nan")

    with monkeypatch.context() as patched:
        patched.setattr(train, "train_step", train_step)
        assert here(root, "train") == 2
    assert "holds NaN or infinite values after epoch 2; lower learning_rate" in capsys.readouterr().err
    assert next(root.glob("runs/*/checkpoint.safetensors")).read_bytes() == kept
    assert here(root, "train") == 0
    assert_done(root, after(references, "train"))
