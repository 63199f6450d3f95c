"""The jobs that the fault tests break, the results of undisturbed ones, and what must hold after a fault."""

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import traceback

import numpy as np
import safetensors
import safetensors.torch
from boxes import TINY
from conftest import ROOT
from PIL import Image

from compendium import cli
from magunet import train
from magunet.base.provenance import file_hash, write_json

PROFILE = TINY.as_dict() | {"profile": "tiny", "cases": 3, "scan_slices": [20, 24], "epochs": 3,
                            "samples_per_case": 1}
WINDOWS = 2
"""Of an epoch of this training."""
JOBS = ("cohort", "train", "predict", "export")
"""Each needs what those before it made."""
TIMING = ("seconds", "step_seconds", "peak_memory_mb")
"""What differs from run to run."""

class Job:
    """A job in a folder that holds all it needs and none of its results, which ``undisturbed`` also holds."""

    def __init__(self, name, root, start, undisturbed):
        self.name, self.root, self.undisturbed = name, root, undisturbed
        shutil.copytree(start, root, dirs_exist_ok=True)

    def words(self, name):
        """The command line of a job here."""
        def path(pattern):
            return next(self.root.glob(pattern)).relative_to(self.root).as_posix()

        match name:
            case "cohort":
                return ["cohort", "--profile", "tiny"]
            case "train":
                return ["train", "MAG-UNet", "--profile", "tiny"]
            case "predict":
                return ["predict", path("data/phantoms-*/imagesTr/phantom_000_0000.nii.gz"),
                        "--model", path("runs/MAG-UNet*"), "--out", "out"]
            case "export":
                return ["export", path("runs/MAG-UNet*"), "phantom_002", "--out", "exports",
                        "--formats", "nifti,stl,json"]

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
        """As a process of its own, with these environment variables; everything it prints goes to pipes."""
        return subprocess.Popen([sys.executable, "-m", "compendium", *self.words(self.name)], cwd=self.root,
                                text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                preexec_fn=preexec_fn, env=os.environ | {"PYTHONPATH": str(ROOT)} | variables)

    def assert_whole(self, others=False):
        """Every file under a final name is what an undisturbed job writes; a training's, up to some epoch.

        others: whether there may be files that the undisturbed one does not have.
        """
        expected = results(self.undisturbed)
        for path, content in results(self.root).items():
            if others and path not in expected:
                continue
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
                assert file_hash(report.with_name(name)) == sha256, name
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
    if path.name in ("run.json", "metrics.jsonl"):
        texts = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        return [{k: v for k, v in json.loads(text).items() if k not in TIMING} for text in texts]
    if path.name == "checkpoint.safetensors":
        with safetensors.safe_open(path, "pt") as stored:
            log = json.loads(stored.metadata()["state"])["log"]
        return len(log), {k: v.numpy().tobytes() for k, v in safetensors.torch.load_file(path).items()}
    if path.name.endswith("_sij.json"):
        return json.loads(path.read_text()) | {"sha256_of_files": None}
    if path.name.endswith(".seg.nrrd"):                         # a comment says when it was made
        return [line for line in path.read_bytes().split(b"\n") if not line.startswith(b"# on ")]
    return Picture(path) if path.suffix == ".png" else file_hash(path)


class Picture:
    """Equal where no pixel is off by more than 2 of 255: Matplotlib rounds otherwise in another process."""

    def __init__(self, path):
        with Image.open(path) as opened:
            self.text, self.pixels = opened.text, np.asarray(opened.convert("RGB")).astype(int)

    def __eq__(self, other):
        return self.text == other.text and np.allclose(self.pixels, other.pixels, rtol=0, atol=2)


def make_references(base):
    """For every job, a compendium as it is before and after: folders base/JOB, and base/end."""
    write_json(base / "cohort" / "papermill_params" / "tiny.yaml", PROFILE)                # JSON is YAML
    for name, following in zip(JOBS, (*JOBS[1:], "end")):
        assert Job(name, base / following, base / name, None).here() == 0
