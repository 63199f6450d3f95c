"""Three networks through Snakemake's Slurm executor, on a Slurm of one node that lives as long as a test."""

import contextlib
import json
import math
import os
import shutil
import socket
import subprocess
import sys
import time

import pandas as pd
import psutil
import pytest
from conftest import ROOT

pytestmark = pytest.mark.slow
TARGETS = [f"runs/smoke/receipts/evaluate-{network}-s0.txt" for network in ("3D-U-Net", "MAG-UNet", "SegNet")]
SMALLER = {"cases: 16": "cases: 4", "samples_per_case: 3": "samples_per_case: 4", "epochs: 2": "epochs: 3"}
"""Of the profile smoke; a job is ended between its epochs."""


def wait_for(happens, process, seconds=600):
    """What `happens` returns as soon as that is true, at the latest when the process or the time is over."""
    deadline = time.monotonic() + seconds
    while not (value := happens()) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    return value


@contextlib.contextmanager
def slurm_node(folder):
    """The process that the whole node ends with, the environment in which Slurm's commands find it, and what
    calls one of them and returns what it prints."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    for command in ("unshare", "setpriv", "munged", "slurmctld", "slurmd", "sbatch"):
        if not shutil.which(command, path=path):
            pytest.skip(f"{command} is not installed; make test-slurm does it on Debian and Ubuntu")
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        ports = [str(free.getsockname()[1]) for free in (one, other)]
    environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "CUDA_VISIBLE_DEVICES": ""}

    def call(*command):
        return subprocess.run(command, env=environment, capture_output=True, text=True).stdout

    user = [] if os.geteuid() == 0 else ["--map-current-user", "--keep-caps"]
    log = folder / "log"
    with log.open("w") as output, subprocess.Popen(
            ["unshare", *user, "--pid", "--fork", "--mount-proc", "--kill-child",
             "sh", ROOT / "tests" / "slurm_node.sh", folder, *ports],
            stdin=subprocess.PIPE, stdout=output, stderr=output) as node:
        if not wait_for(lambda: "idle" in call("sinfo"), node, seconds=60):
            pytest.skip(f"Slurm does not start here: {log.read_text()}")
        yield node, environment, call


@pytest.mark.parametrize("end", [lambda node: node.kill(), lambda node: node.stdin.close()],
                         ids=["killed", "its test ended"])
def test_everything_on_the_node_ends_with_it(end, tmp_path):
    with slurm_node(tmp_path) as (node, _, call):
        call("sbatch", f"--output={tmp_path}/out", "--wrap=sleep 600")
        assert wait_for(lambda: {"sleep", "slurmstepd", "slurmd", "slurmctld", "munged"} <= {
            process.name() for process in psutil.Process(node.pid).children(recursive=True)}, node)
        everything = psutil.Process(node.pid).children(recursive=True)
        end(node)
        assert not psutil.wait_procs(everything, timeout=10)[1]


def copied(folder):
    """The repository's tracked files, with the smaller profile."""
    folder.mkdir()
    subprocess.run(f"git ls-files -z | xargs -0 cp --parents --target-directory='{folder}'", shell=True,
                   cwd=ROOT, check=True)
    profile = folder / "papermill_params" / "smoke.yaml"
    text = profile.read_text()
    for default, smaller in SMALLER.items():
        assert default in text
        text = text.replace(default, smaller)
    profile.write_text(text)
    return folder


@contextlib.contextmanager
def snakemake(folder, *words, **options):
    """Snakemake at work in a copy; what it says is printed at the end, which a failed test shows."""
    log = folder / "log"
    with log.open("w") as output, subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL",
             sys.executable, "-m", "snakemake", "--snakefile", "workflow/Snakefile", "--config",
             "profile=smoke", *words, "--", *TARGETS],
            cwd=folder, stdout=output, stderr=output, **options) as process:
        try:
            yield process
        finally:
            process.kill()
            print(log.read_text())


def results(folder):
    """By network: the hash of its weights, and its scores to the last digit, but for seconds and memory."""
    records = {path.parent: json.loads(path.read_text()) for path in folder.glob("runs/*/run.json")}
    tables = {run: pd.read_csv(run / "scores.csv", dtype=str) for run in records}
    return {record["network"]: (record["outputs"],
                                tables[run].drop(columns=["seconds", "peak_memory_mb"]).to_csv())
            for run, record in records.items()}


def test_networks_trained_by_slurm_are_those_trained_here_also_after_a_job_was_ended(tmp_path):
    here, there = copied(tmp_path / "here"), copied(tmp_path / "there")
    with snakemake(here, "--cores", "2", "--scheduler", "greedy") as local:
        assert local.wait(600) == 0
    with slurm_node(tmp_path) as (_, environment, call), snakemake(
            there, "--workflow-profile", "workflow/slurm", "--default-resources", "slurm_account=me",
            "slurm_partition=gpus", "--set-threads", "cohort=1", "train=1", "evaluate=1",
            "--slurm-init-seconds-before-status-checks", "2", env=environment) as cluster:

        def jobs():     # trainings of MAG-UNet that wait or run
            lines = call("squeue", "--noheader", "--format=%i %k").splitlines()
            return {line.split()[0] for line in lines if "train" in line and "MAG-UNet" in line}

        def safe_epoch():
            """The log of MAG-UNet's training, once a checkpoint holds what it says."""
            times = {path.name: path.stat().st_mtime for path in there.glob("runs/MAG-UNet-*/*")}
            if times.get("checkpoint.safetensors", 0) >= times.get("metrics.jsonl", math.inf):
                return next(there.glob("runs/MAG-UNet-*/metrics.jsonl"))

        log = wait_for(safe_epoch, cluster)
        (job,) = jobs()
        asked = call("scontrol", "show", "job", job)
        for words in ("Account=me", "Partition=gpus", "TimeLimit=2-00:00", "MinMemoryNode=62.50G", "gpu:1"):
            assert words in asked
        call("scancel", job)
        first_epoch = log.read_text().splitlines()[0]
        assert wait_for(lambda: jobs() - {job}, cluster)
        assert cluster.wait(600) == 0
        assert log.read_text().splitlines()[0] == first_epoch
    assert len(results(here)) == 3 and results(there) == results(here)
