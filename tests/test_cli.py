"""The command: results on stdout, one line on stderr and status 2 for anything wrong, nothing half-written."""

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from boxes import TINY, write_cohort

from compendium import cli
from compendium.verbs import data
from magunet import __version__
from magunet.base.provenance import read_json, write_json
from magunet.metrics import Overlap
from magunet.volume import Volume, read_volume, same_geometry, write_volume


def call(capsys, *words):
    """Exit status, stdout and stderr of one command."""
    try:
        status = cli.main([str(w) for w in words])
    except SystemExit as stop:
        status = stop.code
    return status, *capsys.readouterr()


def snapshot(folder):
    return sorted((p.relative_to(folder), p.stat().st_size) for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("words, says", [
    ((), "VERB"),
    (("train",), "required: network"),
    (("train", "MAG-UNet", "--seed", "one"), "'one' is no whole number from 0 to"),
    (("cohort", "--profile", "missing.yaml"), "missing.yaml: no such settings"),
    (("study",), "required: table"),
    (("study", "one"), "argument table: invalid int value: 'one'"),
    (("study", "1", "--profile", "smok"), "no such settings; there are cpu, gpu, paper, smoke"),
    (("predict", "ct.nii.gz", "--model", "nowhere", "--out", "out"), "nowhere/run.json: missing"),
])
def test_a_users_mistake_is_one_line_and_status_2(words, says, compendium, capsys):
    before = snapshot(compendium)
    status, out, error = call(capsys, *words)
    assert status == 2
    assert says in error and error.startswith("magunet")
    assert error.count("\n") == 1 and "Traceback" not in error
    assert out == ""
    assert snapshot(compendium) == before


def test_a_scan_that_is_not_in_hu_is_said(run, tmp_path, capsys):
    write_volume(Volume(np.ones((20, 20, 20), np.uint8), (1, 1, 1)), tmp_path / "labels.mha")
    status, _, error = call(capsys, "predict", tmp_path / "labels.mha", "--model", run, "--out", tmp_path / "out")
    assert status == 0
    assert "no voxel below -500; unless it is a CT in HU, the mask means nothing" in error


def test_predict_writes_a_mask_on_the_scans_grid_and_a_picture(run, tmp_path, capsys):
    turned = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]])
    scan = np.full((24, 40, 36), -1000, np.int16)
    scan[6:16, 10:24, 12:26] = 700
    write_volume(Volume(scan, (3.0, 1.7, 1.7), (10, -20, 5), turned), tmp_path / "a scan.nrrd")
    status, out, _ = call(capsys, "predict", tmp_path / "a scan.nrrd", "--model", run, "--out", tmp_path / "out")
    assert status == 0
    mask_path, picture = (tmp_path / "out" / name for name in ("a scan_sij.nii.gz", "a scan_sij.png"))
    assert out.split("\n")[:2] == [str(mask_path), str(picture)]
    mask = read_volume(mask_path)
    assert same_geometry(mask, read_volume(tmp_path / "a scan.nrrd"))
    assert set(np.unique(mask.array)) <= {0, 1}
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_mask_without_a_joint_is_said(run, tmp_path, capsys, monkeypatch):
    from magunet.predict import Model
    monkeypatch.setattr(Model, "segment", lambda self, scan, quick=False: scan.with_array(np.zeros(scan.array.shape, np.uint8)))
    write_volume(Volume(np.full((20, 20, 20), -1000, np.int16), (1, 1, 1)), tmp_path / "air.nii.gz")
    status, _, error = call(capsys, "predict", tmp_path / "air.nii.gz", "--model", run, "--out", tmp_path / "out")
    assert status == 0
    assert "found no joint" in error


def test_train_evaluate_and_report_of_a_cohort_of_ones_own(compendium, capsys, monkeypatch):
    write_cohort(compendium / "data" / "boxes")
    settings = TINY.as_dict() | {"cohort": "data/boxes", "epochs": 1, "profile": "own"}
    write_json(compendium / "papermill_params" / "own.yaml", settings)     # JSON is YAML
    status, out, _ = call(capsys, "train", "MAG-UNet", "--profile", "own")
    assert status == 0 and (compendium / out.strip() / "run.json").exists()
    status, table, _ = call(capsys, "evaluate", out.strip())
    assert status == 0 and "dice" in table
    status, report, _ = call(capsys, "report", "--profile", "own")
    assert status == 0
    row = next(line for line in report.splitlines() if line.startswith("MAG-UNet"))
    assert row.split()[1] == "1" and len(row.split()) == 6                    # one validation case, scored once
    (compendium / out.strip() / "scores.json").unlink()
    monkeypatch.setattr("compendium.scores.overlap", lambda *_: Overlap(1, 0, 0))
    assert call(capsys, "evaluate", out.strip())[1].splitlines()[1].split()[4] == "1.0"     # stale scores are made anew
    write_json(compendium / "papermill_params" / "own.yaml", settings | {"learning_rate": 0.5})
    assert "no scored run yet" in call(capsys, "report", "--profile", "own")[1]


def test_study_of_untrained_networks_makes_nothing_and_says_how_to_train_them(compendium, capsys):
    before = snapshot(compendium)
    status, out, error = call(capsys, "study", "4")
    assert status == 0
    assert error.splitlines()[1] == "+DA, seed 0: not trained; magunet train '+DA' --profile smoke --seed 0"
    assert out.startswith("Table 4: ablation") and "not trained" in out and "(92.4)" in out
    assert snapshot(compendium) == before


def test_study_scores_finished_runs_and_compares_them(compendium, capsys):
    write_cohort(compendium / "data" / "boxes")
    settings = TINY.as_dict() | {"cohort": "data/boxes", "epochs": 1, "profile": "own", "seeds": [0, 1]}
    write_json(compendium / "papermill_params" / "own.yaml", settings)
    for words in (("MAG-UNet",), ("[1,3,5]",), ("[1,3,5]", "--seed", "1")):
        assert call(capsys, "train", *words, "--profile", "own")[0] == 0
    status, out, error = call(capsys, "study", "3", "--profile", "own", "--format", "csv")
    assert status == 0
    table = pd.read_csv(io.StringIO(out))
    ours = table[(table["row"] == "[1,3,5]") & (table["group"] == "all")].set_index("measure")
    assert ours.loc["Dice", "seeds"] == 2 and ours.loc["Dice", ["value", "sd_seeds", "p_holm"]].notna().all()
    assert ours.loc["predictions", "value"] == 2 and ours.loc["HD95", "value"] >= 0
    assert "MAG-UNet, seed 1: not trained" in error and "[1,3,5], seed" not in error and "[5], seed 0: not trained" in error
    folder = next(compendium.glob("runs/MAG-UNet*"))
    scores = pd.read_csv(folder / "scores.csv")
    assert len(pd.read_csv(folder / "scores_by_side.csv")) == 2 * len(scores)
    assert "Profile own: widths / 16, input 16 x 32 x 32, 1 epoch, 2 x each case an epoch, seeds 0, 1." in call(
        capsys, "study", "4", "--profile", "own", "--format", "md")[1]


def test_stored_results_say_what_the_runs_say(compendium, capsys):
    write_cohort(compendium / "data" / "boxes")
    settings = TINY.as_dict() | {"cohort": "data/boxes", "epochs": 2, "profile": "own"}
    write_json(compendium / "papermill_params" / "own.yaml", settings)
    assert "make reproduce" in call(capsys, "store", "--profile", "own", "--out", "stored")[2]
    for network in ("MAG-UNet", "[1,3,5]"):
        assert call(capsys, "train", network, "--profile", "own")[0] == 0
    said = {table: call(capsys, "study", table, "--profile", "own") for table in (3, 4)}
    claims = call(capsys, "claims", "--profile", "own")[1]
    status, out, _ = call(capsys, "store", "--profile", "own", "--out", "stored")
    assert status == 0 and [Path(line).name for line in out.split()] == [p.name for p in map(Path, out.split()) if p.exists()]
    curves, runs = pd.read_csv("stored/curves.csv"), read_json(Path("stored/runs.json"))["runs"]
    assert list(curves["epoch"]) == [1, 2, 1, 2] and curves["loss"].notna().all()
    assert {run["network"]: run["epochs"] for run in runs} == {"MAG-UNet": 2, "+MFF": 2}
    shutil.rmtree(compendium / "runs")
    for table, (_, text, missing) in said.items():
        status, again, missing_again = call(capsys, "study", table, "--scores", "stored")
        assert status == 0 and again == text and missing_again.count("not in stored") == missing.count("not trained") > 0
    assert call(capsys, "claims", "--scores", "stored")[1] == claims


@pytest.mark.parametrize("table", [1, 2, 3, 4])
def test_the_tables_of_the_cpu_profile_come_from_its_stored_scores(table, capsys):
    folder = Path(__file__).parents[1] / "figures" / "cpu"
    for form in ("md", "csv"):
        out = call(capsys, "study", table, "--scores", folder, "--format", form)[1]
        assert out == (folder / f"table{table}.{form}").read_text()


def test_so_do_its_claims(capsys):
    folder = Path(__file__).parents[1] / "figures" / "cpu"
    assert (folder / "claims.md").read_text().endswith(call(capsys, "claims", "--scores", folder)[1].replace("](", "](../../"))


def test_audit_prints_every_row(capsys):
    status, out, _ = call(capsys, "audit")
    assert status == 0
    assert "25,156,241" in out and "101,624,993" in out
    assert len(out.splitlines()) == 2 + 8 + 6 + 8 + 7


def test_interruption_says_how_to_go_on(compendium, capsys, monkeypatch):
    def interrupt(arguments):
        raise KeyboardInterrupt
    monkeypatch.setattr(data, "run_cohort", interrupt)
    status, _, error = call(capsys, "cohort")
    assert status == 130
    assert "the same command goes on" in error


@pytest.mark.parametrize("sent", ["SIGINT", "SIGTERM"])
def test_the_status_after_a_signal_is_130_even_within_an_exec_of_text(sent, tmp_path):
    """As dataclasses do on import; Python would then end itself by SIGINT after a plain KeyboardInterrupt."""
    (tmp_path / "ended.py").write_text(
        "import signal, sys\nfrom magunet import cli\nfrom compendium.verbs import results\n"
        f"results.run_audit = lambda arguments: exec('signal.raise_signal(signal.{sent})', {{'signal': signal}})\n"
        "sys.exit(cli.main(['audit']))")
    done = subprocess.run([sys.executable, "-m", "ended"], capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])})
    assert done.returncode == 130
    assert done.stderr == "magunet audit: interrupted; the same command goes on from the last finished step\n"


def test_the_installed_command_is_this_one():
    done = subprocess.run([sys.executable, "-m", "magunet", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    names = "sample", "cohort", "check", "train", "predict", "export", "study", "viewer", "audit", "report"
    assert all(verb in done.stdout for verb in names)
    assert __version__ == "0.1.0"


def test_a_target_that_the_input_size_swallows_is_said(compendium, capsys):
    cohort = write_cohort(compendium / "data" / "boxes")
    label = cohort.cases["box_1"].label
    one = np.zeros((20, 32, 32), np.uint8)
    one[9, 9, 9] = 1
    write_volume(Volume(one, (3.0, 2.0, 2.0)), label)
    write_json(compendium / "papermill_params" / "own.yaml",
               TINY.as_dict() | {"cohort": "data/boxes", "profile": "own", "size": 16})
    status, _, error = call(capsys, "prepare", "--profile", "own")
    assert status == 2
    assert "box_1" in error and "the target vanishes when resized to" in error


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried"),
                                   RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")])
def test_too_little_memory_is_one_line(error, compendium, capsys, monkeypatch):
    def fail(arguments):
        raise error
    monkeypatch.setattr(data, "run_cohort", fail)
    status, _, said = call(capsys, "cohort")
    assert status == 2
    assert f"not enough memory{f' ({error})' if str(error) else ''}; close other programs, or lower size" in said
    assert said.count("\n") == 1


def test_other_errors_are_not_swallowed(compendium, monkeypatch):
    def fail(arguments):
        raise RuntimeError("a defect")
    monkeypatch.setattr(data, "run_cohort", fail)
    with pytest.raises(RuntimeError, match="a defect"):
        cli.main(["cohort"])
