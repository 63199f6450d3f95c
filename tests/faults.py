"""The jobs that the fault tests break, the results of undisturbed ones, and what must hold after a fault."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
from boxes import TINY
from PIL import Image

from compendium import cli
from magunet.base.provenance import file_hash, write_json

ROOT = Path(__file__).resolve().parents[1]
PROFILE = TINY.as_dict() | {"profile": "tiny", "cases": 3, "scan_slices": [20, 24], "epochs": 3,
                            "samples_per_case": 1}
JOBS = ("cohort", "train", "predict", "export")
"""Each needs what those before it made."""
TIMING = ("seconds", "step_seconds", "peak_memory_mb")
"""What differs from run to run."""


def words_of(job, root):
    """The command line of a job in a compendium."""
    def made(pattern):
        return next(root.glob(pattern)).relative_to(root).as_posix()

    match job:
        case "cohort":
            return [job, "--profile", "tiny"]
        case "train":
            return [job, "MAG-UNet", "--profile", "tiny"]
        case "predict":
            return [job, made("data/phantoms-*/imagesTr/phantom_000_0000.nii.gz"), "--model",
                    made("runs/MAG-UNet*"),
                    "--out", "out"]
        case "export":
            return [job, made("runs/MAG-UNet*"), "phantom_002", "--out", "exports", "--formats",
                    "nifti,stl,json"]


PAUSED = """
import os, signal, sys
from compendium import cli
from magunet import train
train.STEP_SECONDS = 0
rename, names, paused_at = os.replace, [], int(sys.argv.pop(1))
def replace(part, path):
    names.append(path)
    if len(names) == paused_at:
        os.kill(os.getpid(), signal.SIGSTOP)
    rename(part, path)
os.replace = replace
sys.exit(cli.main())
"""


def start(root, job, preexec_fn=None, paused_at=None, **variables):
    """The job as a process of its own, with these environment variables; everything it prints goes to pipes.

    paused_at: it stops itself (SIGSTOP) when its so many-th file is written but does not have its final name
    yet; a training then writes a checkpoint after every step.
    """
    program = ["-m", "compendium"] if paused_at is None else ["-c", PAUSED, str(paused_at)]
    return subprocess.Popen([sys.executable, *program, *words_of(job, root)], cwd=root, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
                            preexec_fn=preexec_fn, env=os.environ | {"PYTHONPATH": str(ROOT)} | variables)


def finish(root, job):
    """Run the job to its end in a process of its own; returns what it said on stderr."""
    process = start(root, job)
    _, said = process.communicate()
    assert process.returncode == 0, said
    return said


def here(root, job):
    """The job's exit status, in this process: quick where no signal is sent."""
    with contextlib.chdir(root):
        return cli.main(words_of(job, root))


def make_references(base):
    """For every job, a compendium as it is before and after: folders base/JOB, and base/end."""
    root = base / "work"
    (root / "papermill_params").mkdir(parents=True)
    write_json(root / "papermill_params" / "tiny.yaml", PROFILE)                # JSON is YAML
    for job in JOBS:
        shutil.copytree(root, base / job)
        assert here(root, job) == 0
    root.rename(base / "end")


def before(references, job, root):
    """A compendium in which everything that this job needs is made."""
    shutil.copytree(references / job, root, dirs_exist_ok=True)
    return root


def after(references, job):
    """The compendium after this job, undisturbed."""
    return references / (*JOBS[1:], "end")[JOBS.index(job)]


def names(root):
    """Paths of all files, those of an unfinished write included."""
    found = set()
    for folder, _, files in os.walk(root):
        found.update(os.path.join(folder, name) for name in files)
    return found


def results(root):
    """Path -> content of everything under a final name, without what tells the time."""
    found = {}
    for path in map(Path, names(root)):
        if not path.name.startswith("."):
            found[path.relative_to(root).as_posix()] = _content(path)
    return found


def _content(path):
    if path.name in ("run.json", "metrics.jsonl"):
        texts = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        return [{k: v for k, v in json.loads(text).items() if k not in TIMING} for text in texts]
    if path.name == "checkpoint.safetensors":
        with safetensors.safe_open(path, "pt") as stored:
            log = json.loads(stored.metadata()["state"])["log"]
        return len(log), {k: v.numpy().tobytes() for k, v in safetensors.torch.load_file(path).items()}
    if path.name.endswith("_sij.json"):
        return json.loads(path.read_text()) | {"sha256_of_files": None}
    # a comment says when it was made
    if path.name.endswith(".seg.nrrd"):
        return [line for line in path.read_bytes().split(b"\n") if not line.startswith(b"# on ")]
    return Picture(path) if path.suffix == ".png" else file_hash(path)


class Picture:
    """A whole picture and what is written in it; equal where no pixel is off by more than 2 of 255.

    Matplotlib rounds a pixel or so at the rim of a line otherwise in another process.
    """

    def __init__(self, path):
        with Image.open(path) as opened:
            self.text, self.pixels = opened.text, np.asarray(opened.convert("RGB")).astype(int)

    def __eq__(self, other):
        return (self.text == other.text and self.pixels.shape == other.pixels.shape
                and int(np.abs(self.pixels - other.pixels).max()) <= 2)


def assert_whole(root, reference, others=False):
    """Every file under a final name is what an undisturbed job writes; a training's, up to some epoch.

    others: whether there may be files that the reference does not have.
    """
    expected = results(reference)
    for path, content in results(root).items():
        if others and path not in expected:
            continue
        if path.endswith("metrics.jsonl"):
            assert content == expected[path][:len(content)], path
        elif path.endswith("checkpoint.safetensors"):
            assert content[0] < expected[path][0] or content == expected[path], path
        else:
            assert content == expected[path], path


def assert_done(root, reference):
    """Everything is as after an undisturbed job, and nothing else is left."""
    found, expected = results(root), results(reference)
    assert found.keys() == expected.keys()
    for path, content in expected.items():
        assert found[path] == content, path
    for report in root.glob("*/*_sij.json"):
        for name, written in json.loads(report.read_text())["sha256_of_files"].items():
            assert file_hash(report.with_name(name)) == written, name
    assert [path for path in names(root) if os.path.basename(path).startswith(".")] == []
