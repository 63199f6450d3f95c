"""Seconds a step, memory and the share of the ceilings, from what runs noted of themselves."""

import contextlib
import shutil

import numpy as np
import pandas as pd
import pytest
from boxes import TINY
from conftest import ROOT

from compendium import cli
from compendium import efficiency as module
from compendium.bench.ceilings import Ceilings
from compendium.cost import count_flop
from compendium.efficiency import efficiency
from magunet.base.provenance import read_json
from magunet.model import count_parameters
from magunet.studies import build_on_meta

RUN = {"network": "3D U-Net", "seed": 1, "epochs": 3, "seconds": 7200.0, "peak_memory_mb": 2500.0, "device": "a machine",
       "precision": "float32"}


def curves(*steps, seed=1):
    return pd.DataFrame({"network": "3D U-Net", "seed": seed, "epoch": range(1, 1 + len(steps)), "step_seconds": steps})


def test_seconds_are_the_median_and_the_share_is_of_the_ceiling(monkeypatch):
    monkeypatch.setattr(module, "operations", lambda *asked: [(100, 4), (0, 4), (10, 40)])     # 10 + 2 + 20 seconds at least
    others = curves(1.0, 1.0, 1.0, seed=2)
    row = efficiency([RUN], pd.concat([others, curves(50.0, 60.0, 1000.0)]), TINY, Ceilings(10.0, 2.0)).iloc[0]
    assert row["seconds a step"] == 60 and row["of the ceiling, %"] == pytest.approx(100 * 32 / 60, abs=0.05)
    assert row["epochs"] == f"3 of {TINY.epochs}" and row["hours"] == 2 and row["peak memory, GB"] == 2.5


def test_operations_are_those_of_the_network_its_width_and_its_window():
    """Where copies cost nothing, a step is its floating-point operations: three forward passes or so."""
    row = efficiency([RUN], curves(1.0), TINY, Ceilings(1e9, 1e30)).iloc[0]
    net = build_on_meta("3D U-Net", TINY.width_divisor)
    flop = count_flop(net, (TINY.depth, TINY.size, TINY.size))
    assert count_parameters(net) < 10**6 and 2.8 < row["of the ceiling, %"] / 100 * 1e9 / flop < 3.2


def test_runs_that_noted_no_steps_have_no_share():
    row = efficiency([RUN], curves(np.nan, np.nan), TINY, Ceilings(1e9, 1e9)).iloc[0]
    assert np.isnan(row["seconds a step"]) and np.isnan(row["of the ceiling, %"])


def test_a_training_notes_its_steps(run):
    log = pd.read_json(run / "metrics.jsonl", lines=True)
    steps = TINY.samples_per_case * len(read_json(run / "run.json")["train"])
    assert (log["step_seconds"] > 0).all() and (log["step_seconds"] * steps <= log["seconds"] + 0.02).all()


def called(capsys, *words):
    with contextlib.suppress(SystemExit):
        return cli.main(list(map(str, words))), *capsys.readouterr()


def test_the_ceilings_of_another_machine_must_be_told(compendium, capsys):
    shutil.copytree(ROOT / "figures" / "cpu", compendium / "stored")
    text = (compendium / "stored" / "runs.json").read_text().replace("x86_64 processor, 2 cores", "NVIDIA H000")
    (compendium / "stored" / "runs.json").write_text(text)
    status, out, said = called(capsys, "efficiency", "stored")
    assert status == 2 and out == "" and "trained on NVIDIA H000" in said and "--ceilings" in said and said.count("\n") == 1
    status, out, _ = called(capsys, "efficiency", "stored", "--ceilings", "800", "3")
    assert status == 0 and len(out.splitlines()) == 1 + 25 and "30 of 30" in out and "NVIDIA H000" in out
