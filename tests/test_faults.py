"""Processes are killed, disks fill up, files are damaged: the last good state stays, and work goes on.

The slow tests do to every job what the everyday ones do to some, and to processes of their own.
"""

import contextlib
import functools
import itertools
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from boxes import TINY, write_cohort
from conftest import ROOT
from PIL import Image
from test_device import HOLD

from compendium import cli
from compendium.fits import fit_all
from magunet import checkpoint, train
from magunet.base import profiles, provenance
from magunet.base.errors import is_out_of_memory
from magunet.model import MAGUNet
from magunet.volume import read_volume

COMMANDS = {"cohort": "cohort --profile tiny", "train": "train MAG-UNet --profile tiny",
            "predict": "predict {scan} --model {run} --out out --force",
            "export": "export {run} phantom_002 --out exports --formats nifti,stl,json"}
"""Jobs; each needs what those before it made."""
PATHS = {"scan": "data/phantoms-*/imagesTr/phantom_000_0000.nii.gz", "run": "runs/MAG-UNet*"}.items()
END = dict(zip(COMMANDS, [*list(COMMANDS)[1:], "end"]))
"""Job -> the folder of how things are after it."""
PROFILE = TINY.as_dict() | {"profile": "tiny", "cases": 2, "test_cases": 1, "test_seed": 2,
                            "scan_slices": [20, 24], "epochs": 3, "samples_per_case": 1}
WINDOWS = 2
"""Of an epoch of this training."""
TIMING = re.compile(r'"(seconds|step_seconds|peak_memory_mb)": [^,}]*|"sha256_of_files": {[^}]*}')
"""What differs from run to run, as does a comment that says when a .seg.nrrd was made."""
FORKS = pytest.mark.skipif(torch.cuda.is_available() or not hasattr(os, "fork"),
                           reason="a process that has used CUDA cannot be copied, nor one on Windows")
EACH = pytest.mark.parametrize("name", COMMANDS)
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts and limits of Linux")


class Job:
    """A job in a folder that holds all it needs and none of its results, which ``undisturbed`` also holds."""

    def __init__(self, name, root, start, undisturbed):
        self.name, self.root, self.undisturbed = name, root, undisturbed
        shutil.copytree(start, root, dirs_exist_ok=True)

    def words(self, name):
        """The command line of a job here."""
        paths = {word: next((str(path) for path in self.root.glob(pattern)), "") for word, pattern in PATHS}
        return COMMANDS[name].format_map(paths).split()

    def here(self, name=None):
        """The exit status, or that of another job here, in this process: quick where no signal is sent."""
        with contextlib.chdir(self.root):
            return cli.main(self.words(name or self.name))

    def copied(self, sent=None, write=None):
        """The number of a copy of this process, in which the job runs as if from a shell.

        sent, write: it sends itself this signal when its so many-th file is written but has no final name
        yet; a training then writes a checkpoint after every step.
        """
        if number := os.fork():
            return number
        try:
            for name in (signal.SIGINT, signal.SIGTERM):
                signal.signal(name, signal.SIG_DFL)
            rename, writes = os.replace, itertools.count(1)

            def replace(part, path):
                if next(writes) == write:
                    os.kill(os.getpid(), sent)
                rename(part, path)

            if write:
                os.replace, train.STEP_SECONDS = replace, 0
            os.chdir(self.root)
            sys.argv = ["magunet", *self.words(self.name)]
            os._exit(cli.main())
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    def start(self, preexec_fn=None, **variables):
        """As a process of its own, with these variables of the environment; what it prints goes to pipes."""
        return subprocess.Popen([sys.executable, "-m", "compendium", *self.words(self.name)], cwd=self.root,
                                text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                preexec_fn=preexec_fn, env=os.environ | {"PYTHONPATH": str(ROOT)} | variables)

    def new(self):
        """Files that the job makes."""
        return [path for path in files(self.undisturbed)
                if not (self.root / path.relative_to(self.undisturbed)).exists()]

    def assert_whole(self):
        """Every file under a final name is what an undisturbed job writes; a training's, up to some epoch."""
        expected = results(self.undisturbed)
        for path, content in results(self.root).items():
            if path.endswith("metrics.jsonl"):
                assert content == expected[path][:len(content)], path
            elif path.endswith("checkpoint.safetensors"):
                assert content[0] < expected[path][0] or content == expected[path], path
            else:
                assert content == expected[path], path

    def assert_done(self):
        """Everything is as after an undisturbed job, and nothing else is left."""
        content, expected = results(self.root), results(self.undisturbed)
        assert content.keys() == expected.keys()
        assert not [path for path in expected if content[path] != expected[path]]
        for report in self.root.glob("*/*_sij.json"):
            for name, sha256 in json.loads(report.read_text())["sha256_of_files"].items():
                assert provenance.file_hash(report.with_name(name)) == sha256, name
        assert not [path for path in files(self.root) if path.name.startswith(".")]

    def assert_goes_on(self):
        """The same command again, here, comes to the results of an undisturbed job."""
        assert self.here() == 0
        self.assert_done()


def files(root):
    return [path for path in root.rglob("*") if path.is_file()]


def results(root):
    """Path -> content of everything under a final name, without what tells the time."""
    return {path.relative_to(root).as_posix(): _content(path) for path in files(root)
            if not path.name.startswith(".")}


def _content(path):
    if path.suffix in (".json", ".jsonl"):
        return TIMING.sub("", path.read_text())
    if path.name == "checkpoint.safetensors":
        with safetensors.safe_open(path, "pt") as stored:
            log = json.loads(stored.metadata()["state"])["log"]
        return len(log), {k: v.numpy().tobytes() for k, v in safetensors.torch.load_file(path).items()}
    if path.suffix == ".png":                       # a pixel may be rounded otherwise in another process
        with Image.open(path) as picture:
            return picture.text, picture.convert("RGB").reduce(8).getextrema()
    return re.sub(rb"# on .*", b"", path.read_bytes())


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """Makes, once, a compendium as it is before a job, at the "end", or where two epochs are trained."""
    base = tmp_path_factory.mktemp("undisturbed")
    provenance.write_json(base / "cohort" / "papermill_params" / "tiny.yaml", PROFILE)          # JSON is YAML

    @functools.cache
    def made(point):
        if point == "two epochs":
            with pytest.MonkeyPatch.context() as patch:
                stop(Job("train", base / point, made("train"), None), patch, "train_step", 2 * WINDOWS + 1)
        for name, end in END.items():
            if end == point:
                assert Job(name, base / point, made(name), None).here() == 0
        return base / point
    return made


@pytest.fixture
def work(undisturbed, tmp_path):
    """Makes a job in a folder, from what there is before it or at another point."""
    def made(name, point=None, root=None):
        root = root or Path(tempfile.mkdtemp(dir=tmp_path))
        return Job(name, root, undisturbed(point or name), undisturbed(END[name]))
    return made


def stop(job, monkeypatch, name, call, owner=train):
    """Interrupt a training, here, in the so many-th call of a function of its module."""
    real, calls = getattr(owner, name), itertools.count(1)

    def interrupting(*arguments):
        if next(calls) == call:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, interrupting)
        assert job.here() == 130


# Signals ----------------------------------------------------------------------------------------------
def ended(number):
    """Waits for a process; its exit status, or the signal that ended it, below 0."""
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


@FORKS
def test_a_training_killed_at_a_checkpoint_and_again_comes_to_the_very_weights(work, capfd):
    """Within the first epoch, whose three cases are prepared before, and within the next."""
    job = work("train")
    for write in (3 + 2, 4):
        assert ended(job.copied(signal.SIGKILL, write)) == -signal.SIGKILL
        assert list(job.root.glob("runs/*/.part-*")) and not list(job.root.glob("runs/*/run.json"))
        job.assert_whole()
    capfd.readouterr()
    job.assert_goes_on()
    assert "going on after epoch 1 of 3" in capfd.readouterr().err


def assert_ended(job, status, sent, said):
    """A signal has ended the job without a trace, or came too late; the same command again does the rest."""
    expected = -signal.SIGKILL if sent == signal.SIGKILL else 130
    lost = status == 2 and "cannot be read or do not fit" in said   # safetensors takes the signal for damage
    assert (lost or status in (0, expected)) and "Traceback" not in said, said
    assert status != 130 or said.splitlines()[-1].endswith("same command goes on from the last finished step")
    job.assert_whole()
    if status == 0:
        job.assert_done()
    job.assert_goes_on()


@FORKS
@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
@EACH
def test_a_job_ended_at_any_of_its_writes_goes_on(name, sent, work, capfd):
    writes = len(work(name).new())
    for write in itertools.count(1):
        job = work(name)
        status = ended(job.copied(sent, write))
        assert_ended(job, status, sent, capfd.readouterr().err)
        if status == 0:
            break
    assert write > writes


@FORKS
@pytest.mark.slow
@EACH
def test_a_job_ended_at_random_moments_goes_on(name, work, capfd):
    start, chance = time.monotonic(), random.Random(name)
    assert ended(work(name).copied()) == 0
    seconds = time.monotonic() - start
    for sent in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT) * 3:
        job = work(name)
        number = job.copied()
        time.sleep(chance.uniform(0.05, seconds))
        os.kill(number, sent)
        assert_ended(job, ended(number), sent, capfd.readouterr().err)


@pytest.mark.parametrize("seconds, function, call, where, steps", [
    (60, "dice_ce_loss", WINDOWS + 2, "epoch 1 of 3\n", 2 * WINDOWS),
    (0, "dice_ce_loss", WINDOWS + 2, "epoch 1 of 3 and window 1 of 2 of the next\n", 2 * WINDOWS - 1),
    (0, "validation_dice", 1, "epoch 0 of 3 and window 2 of 2 of the next\n", 2 * WINDOWS)])
def test_an_interruption_repeats_no_step_before_the_last_checkpoint(
        seconds, function, call, where, steps, work, monkeypatch, capsys):
    """In the second step of the second epoch, with and without a checkpoint of the first, and after all steps
    of an epoch, which then has none to be timed."""
    job, done, real = work("train"), [], train.train_step
    monkeypatch.setattr(train, "STEP_SECONDS", seconds)
    stop(job, monkeypatch, function, call, train.losses if function == "dice_ce_loss" else train)
    assert "Traceback" not in capsys.readouterr().err
    job.assert_whole()
    monkeypatch.setattr(train, "train_step", lambda *arguments: done.append(real(*arguments)))
    assert job.here() == 0 and len(done) == steps
    assert f"going on after {where}" in capsys.readouterr().err
    log = next(job.root.glob("runs/*/metrics.jsonl")).read_text().splitlines()
    untimed = [json.loads(line)["step_seconds"] is None for line in log]
    assert untimed == [function == "validation_dice", False, False]
    job.assert_done()


def test_where_checkpoints_take_long_fewer_are_written(work, monkeypatch):
    """As on a GPU: none after an epoch, but one at the end."""
    job, saves, save = work("train"), [], checkpoint.save
    monkeypatch.setitem(train.EPOCH_SECONDS, "cpu", 1e9)
    monkeypatch.setattr(train.checkpoint, "save", lambda state, *others: saves.append(len(state.log))
                        or save(state, *others))
    job.assert_goes_on()
    assert saves == [3]


# Two at once ------------------------------------------------------------------------------------------
WAITING = ": another process works here; waiting until it ends"


@pytest.mark.parametrize("name", ["cohort", "train"])
def test_a_job_waits_for_another_process_in_its_folder_until_that_dies(name, work, monkeypatch):
    job, messages = work(name), []
    (folder,) = {path.parent for path in job.new() if path.name in ("dataset.json", "run.json")}
    lock = job.root / folder.relative_to(job.undisturbed) / ".lock"
    lock.parent.mkdir(parents=True)
    pipes = dict.fromkeys(("stdin", "stdout"), subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-uc", HOLD, lock], **pipes) as holder:
        holder.stdout.readline()
        monkeypatch.setattr(provenance, "say", lambda text: messages.append(text) or holder.kill())
        job.assert_goes_on()
    assert len(messages) == 1 and messages[0].endswith(WAITING)


@FORKS
@pytest.mark.slow
@EACH
@pytest.mark.parametrize("dies", [True, False])
def test_of_two_at_once_the_second_does_what_the_first_left(name, dies, work):
    """A cohort's and a training's waits, the others write the same files side by side."""
    job, locks = work(name), name in ("cohort", "train")
    first = job.copied(signal.SIGSTOP, 1)
    os.waitid(os.P_PID, first, os.WSTOPPED | os.WEXITED)
    assert bool(list(job.root.rglob(".lock"))) == locks
    second = job.start()
    said = second.stderr.readline() if locks else WAITING
    os.kill(first, signal.SIGKILL if dies else signal.SIGCONT)
    assert WAITING in said and ended(first) == (-signal.SIGKILL if dies else 0)
    said = second.communicate()[1]
    assert second.returncode == 0 and (name != "train" or ("epoch 3/3" in said) == dies)
    job.assert_goes_on()


# Full and read-only disks ------------------------------------------------------------------------------
def assert_refused(job, capfd, pattern):
    """The job's exit status is 2, and one line, beside those of libraries, matches the pattern."""
    capfd.readouterr()
    assert job.here() == 2
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("magunet ")]
    assert len(said) == 1 and re.search(pattern, said[0]), said


@contextlib.contextmanager
def mounted(folder, *words):
    """A file system mounted at a folder, made here; skips where that is not allowed."""
    folder.mkdir(exist_ok=True)
    mount = subprocess.run(["mount", *words, folder], capture_output=True, text=True)
    if mount.returncode:
        pytest.skip(f"this user may not mount: {mount.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def remount(folder, options):
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


@LINUX
@pytest.mark.slow
@EACH
def test_a_disk_that_fills_up_is_named_and_leaves_only_whole_files(name, work, tmp_path, capfd):
    """At so much of what the job writes, in pages of 4096 bytes."""
    job = work(name)
    used, more = (sum(-(-path.stat().st_size // 4096) * 4096 for path in paths)
                  for paths in (files(job.root), job.new()))
    for share in (0, 0.1, 0.3, 0.5, 0.8, 0.9):
        folder = tmp_path / str(share)
        with mounted(folder, "-t", "tmpfs", "-o", "size=64m", "tmpfs"):
            job = work(name, root=folder)
            remount(folder, f"size={int(used + share * more)}")
            assert_refused(job, capfd, "cannot be written .*[Nn]o space left on")
            job.assert_whole()
            remount(folder, "size=64m")
            job.assert_goes_on()


@EACH
def test_files_that_may_not_grow_are_named_and_no_half_one_stays(name, work, capfd):
    """As on a full disk, for any user: no file may become nearly as large as this job's largest."""
    job = work(name)
    largest = max(path.stat().st_size for path in job.new())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest * 3 // 4, hard))
    try:
        assert_refused(job, capfd, "cannot be written .*(File too large|no space left on the device)")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    job.assert_whole()
    job.assert_goes_on()


@LINUX
@EACH
def test_a_folder_that_may_only_be_read_is_named(name, work, capfd):
    job = work(name)
    with mounted(job.root, "--bind", job.root):
        remount(job.root, "bind,ro")
        assert_refused(job, capfd, f"{job.root}.*(Read-only file system|nothing can be written there)")
    job.assert_goes_on()


# Damaged files ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("pattern, share, says", [
    ("runs/*/checkpoint.safetensors", 0.5, "checkpoint.safetensors: damaged checkpoint"),
    ("runs/*/checkpoint.safetensors", 0, "not used; training from the start"),
    ("data/prepared/phantom_001-*.safetensors", 0.5, ".safetensors: damaged"),
    ("data/prepared/phantom_001-*.safetensors", 0, "removed; preparing the case anew"),
    ("runs/*/metrics.jsonl", 0.7, "going on after epoch 2 of 3")])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # NumPy leaves the file open
def test_a_file_cut_short_is_said_and_made_anew(pattern, share, says, work, capsys):
    job = work("train", "two epochs")
    path = next(job.root.glob(pattern))
    path.write_bytes(path.read_bytes()[:int(share * path.stat().st_size)])
    job.assert_goes_on()
    assert says in capsys.readouterr().err


def test_a_checkpoint_that_may_not_be_read_is_not_taken_for_damaged(work, monkeypatch, capsys):
    def denied(*_):
        raise PermissionError(13, "Permission denied", "checkpoint.safetensors")

    job = work("train", "two epochs")
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint.safetensors, "safe_open", denied)
        assert job.here() == 2
    assert "checkpoint.safetensors: Permission denied" in capsys.readouterr().err
    job.assert_goes_on()


# The clock --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("years", [-40, 40])
def test_dates_of_files_mean_nothing(years, work):
    """The clock was wrong when half of this was made; what is finished stays, and the rest is made right."""
    job, dates = work("train", "two epochs"), {}
    for path in sorted(files(job.root))[::2]:
        dates[path] = path.stat().st_mtime_ns + years * 365 * 86400 * 10**9
        os.utime(path, ns=(dates[path],) * 2)
    assert job.here("cohort") == 0
    job.assert_goes_on()
    assert all(path.stat().st_mtime_ns == date for path, date in dates.items() if "runs" not in path.parts)


def test_a_clock_that_jumps_by_years_changes_nothing(work, monkeypatch):
    """A day more at every reading, forwards and backwards in turns, up to ten years."""
    real, calls = time.time, itertools.count(1)
    monkeypatch.setattr(time, "time", lambda: real() + (n := next(calls)) % 3650 * (-1) ** n * 86400)
    for name in COMMANDS:
        job = work(name)
        job.assert_goes_on()
        for log in job.root.glob("runs/*/metrics.jsonl"):
            assert all(0 <= json.loads(line)["seconds"] < 600 for line in log.read_text().splitlines())


# A workflow -------------------------------------------------------------------------------------------
RECEIPT = "runs/tiny/receipts/evaluate-MAG-UNet-s0.txt"


def workflow(root):
    """The project's workflow up to one network's scores, as ``make reproduce`` calls it."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", "workflow/Snakefile", "--cores", "1",
               "--scheduler", "greedy", "--keep-going", "--rerun-incomplete", "--nolock",
               "--config", "profile=tiny", "--", RECEIPT]
    with open(root / "said.txt", "w") as said:
        return subprocess.Popen(command, cwd=root, stdout=said, stderr=said, start_new_session=True,
                                env=os.environ | {"PYTHONPATH": str(ROOT)})


@pytest.mark.slow
@pytest.mark.parametrize("moment, sent, everything", [
    ("data", signal.SIGKILL, True), ("runs", signal.SIGKILL, False), ("runs", signal.SIGINT, True),
    ("data", signal.SIGTERM, False)])
def test_a_workflow_that_is_killed_is_continued(moment, sent, everything, work):
    """All of its processes, or only the first one, whose jobs then go on beside those of the next call."""
    job = work("train", "cohort")
    root, said = job.root, job.root / "said.txt"
    shutil.copytree(ROOT / "workflow", root / "workflow")
    process = workflow(root)
    while not list(root.glob(f"{moment}/*/.lock")):
        assert process.poll() is None, said.read_text()
        time.sleep(0.001)
    (os.killpg if everything else os.kill)(process.pid, sent)
    process.wait()
    assert workflow(root).wait() == 0, said.read_text()
    (weights,) = root.glob("runs/MAG-UNet*/weights.safetensors")
    assert weights.read_bytes() == (job.undisturbed / weights.relative_to(root)).read_bytes()
    assert (root / RECEIPT).read_text().startswith(" network") and not list(root.rglob(".part-*"))


# Memory -----------------------------------------------------------------------------------------------
NO_MEMORY = [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
             RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
             RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
             RuntimeError("std::bad_alloc"), RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
             MemoryError("Unable to allocate 2 GiB")]
TOO_LARGE = "training MAG-UNet on windows of {} voxels does not fit"


def set_window(job, depth, size):
    """Training windows of so many slices, and pixels a side, in one epoch. Returns the settings."""
    path = job.root / "papermill_params" / "tiny.yaml"
    provenance.write_json(path, PROFILE | {"depth": depth, "size": size, "epochs": 1})
    return profiles.load(str(path))


@pytest.fixture
def limit(monkeypatch):
    """Gives a network memory for windows of so many slices only."""
    real = MAGUNet.forward

    def set_limit(depth, error=NO_MEMORY[0]):
        def forward(self, x, *rest):
            if x.shape[2] > depth:
                raise error
            return real(self, x, *rest)
        monkeypatch.setattr(MAGUNet, "forward", forward)
    return set_limit


def test_training_that_does_not_fit_says_so_in_one_line(work, limit, capsys, monkeypatch):
    """And does not stop others; while a defect is not taken for it."""
    assert all(map(is_out_of_memory, NO_MEMORY))
    job, says = work("train"), TOO_LARGE.format("40 x 32 x 32") + "; it would with width_divisor 32"
    monkeypatch.setattr("compendium.fits.process_bytes", lambda *_: 0)          # which takes seconds
    settings = set_window(job, 40, 32)
    for error in NO_MEMORY[:2]:
        limit(20, error)
        assert job.here() == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert f"not enough memory ({says}); close other programs, or lower size, depth" in said, error
        assert not list(job.root.glob("runs/*/*")), error
    with contextlib.chdir(job.root):
        assert fit_all(["MAG-UNet"], settings, write_cohort(job.root / "data" / "boxes")) == {}
    said = capsys.readouterr().err
    assert said.endswith(f"failed: MAG-UNet: {says}\n") and "Traceback" not in said
    limit(0, RuntimeError("a defect"))
    with pytest.raises(RuntimeError, match="a defect"):
        job.here()


@LINUX
@pytest.mark.slow
def test_memory_that_is_really_too_little_is_said(work):
    job = work("train")
    set_window(job, 64, 512)
    process = job.start(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30,) * 2))
    said = process.communicate()[1]
    assert process.returncode == 2 and "Traceback" not in said, said
    assert f"not enough memory ({TOO_LARGE.format('64 x 512 x 512')}" in said


def test_prediction_falls_back_to_smaller_windows_and_says_so(work, limit, capsys):
    job = work("train")
    set_window(job, 40, 32)
    assert job.here() == 0
    for depth, status, lines in (
            (16, 0, [f"going on with windows of {slices} slices instead of 40" for slices in (20, 16)]),
            (15, 2, ["not enough memory (windows of 16 x 32 x 32 voxels do not fit; a run with smaller"])):
        limit(depth)
        assert job.here("predict") == status
        said = capsys.readouterr().err
        assert all(line in said for line in lines), depth
        assert set(np.unique(read_volume(next(job.root.glob("out/*_sij.nii.gz"))).array)) <= {0, 1}
    limit(0, RuntimeError("a defect"))
    with pytest.raises(RuntimeError, match="a defect"):
        job.here("predict")


# Losses that are no numbers ---------------------------------------------------------------------------
@pytest.mark.parametrize("fault, says", [
    ("nan", ": the loss became nan; lower learning_rate"),
    ("inf", ": the loss became inf; lower learning_rate"),
    ("weights", "holds NaN or infinite values after epoch 3; lower learning_rate")])
def test_what_is_no_number_is_named_and_the_last_good_state_stays(fault, says, work, monkeypatch, capsys):
    """A loss; and weights that a last step ruined, whose loss was a number, and after which no other came."""
    job, loss, step = work("train", "two epochs"), train.losses.dice_ce_loss, train.train_step
    kept = next(job.root.glob("runs/*/checkpoint.safetensors"))
    content = kept.read_bytes()

    def ruining(state, *rest):
        step(state, *rest)
        if len(state.losses) == WINDOWS:
            next(state.network.parameters()).data.view(-1)[0] = float("nan")

    with monkeypatch.context() as patched:
        if fault == "weights":
            patched.setattr(train, "train_step", ruining)
        else:
            patched.setattr(train.losses, "dice_ce_loss", lambda *pair: loss(*pair) * float(fault))
        assert job.here() == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert says in said and (fault == "weights" or "case phantom_00" in said)
    assert kept.read_bytes() == content
    job.assert_goes_on()
