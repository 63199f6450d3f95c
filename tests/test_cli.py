"""The command: results on stdout, one line on stderr and status 2 where anything is wrong."""

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from boxes import TINY, write_cohort
from scans import write_scan

from compendium import cli
from magunet.base.provenance import read_json, write_json
from magunet.cohort import load_cohort
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


def own_profile(compendium, **changes):
    """A profile of a cohort of boxes, named own."""
    write_cohort(compendium / "data" / "boxes")
    write_json(compendium / "papermill_params" / "own.yaml",               # JSON is YAML
               TINY.as_dict() | {"cohort": "data/boxes", "epochs": 1, "profile": "own"} | changes)


@pytest.mark.parametrize("words, says", [
    ((), "VERB"),
    (("train",), "required: network"),
    (("train", "MAG-UNet", "--seed", "one"), "'one' is no whole number from 0 to"),
    (("cohort", "--profile", "missing.yaml"), "missing.yaml: no such settings"),
    (("cohort", "--out", "phantoms"), "--out, --cases and --seed are for phantoms like a cohort"),
    (("cohort", "--like", "data/boxes"), "give it with --out"),
    (("tables", "5"), "argument table: invalid choice: '5'"),
    (("tables", "1", "--profile", "smok"), "no such settings; papermill_params has cpu, gpu, paper, smoke"),
    (("tables", "1", "--out", "out"), "--out writes all tables, not only 1"),
    (("predict", "ct.nii.gz", "--model", "nowhere", "--out", "out"), "nowhere/run.json: missing"),
    (("predict", "ct.nii.gz", "--out", "out", "--quick"), "unrecognized arguments: --quick"),
])
def test_a_users_mistake_is_one_line_and_status_2(words, says, compendium, capsys):
    before = snapshot(compendium)
    status, out, error = call(capsys, *words)
    assert status == 2
    assert says in error and error.startswith("magunet")
    assert error.count("\n") == 1 and "Traceback" not in error
    assert out == ""
    assert snapshot(compendium) == before


def test_a_verb_of_earlier_versions_names_the_new_way(capsys):
    for verb in cli.GONE:
        status, out, error = call(capsys, verb, "1", "--profile", "smoke")
        assert (status, out, error.count("\n")) == (2, "", 1)
        assert error.startswith(f"magunet {verb}: is no verb any more; use: {cli.GONE[verb]}")
    verbs = cli.parser()._subparsers._group_actions[0].choices
    assert {
        "phantom",
        "study",
        "claims",
        "findings",
        "store",
        "redraw",
        "report",
        "audit",
        "viewer",
        "bench",
    } < set(cli.GONE)
    new_ways = [way.split()[1] for way in cli.GONE.values() if way.startswith("magunet ")]
    assert set(new_ways) <= set(verbs) and not set(cli.GONE) & set(verbs)


def test_help_of_every_verb_ends_with_an_example_that_can_be_parsed():
    verbs = cli.parser()._subparsers._group_actions[0].choices
    assert list(verbs) == [
        "sample",
        "cohort",
        "import",
        "check",
        "train",
        "evaluate",
        "predict",
        "export",
        "tables",
        "doctor",
    ]
    for name, parser in verbs.items():
        example = parser.format_help().split("example: ")[1].split()
        assert example[:2] == ["magunet", name]
        cli.parser().parse_args(shlex.split(" ".join(example[1:])))


def test_a_scan_that_is_not_in_hu_is_said(run, tmp_path, capsys):
    write_scan(Volume(np.ones((20, 20, 20), np.uint8), (1, 1, 1)), tmp_path / "labels.mha")
    status, _, error = call(
        capsys, "predict", tmp_path / "labels.mha", "--model", run, "--out", tmp_path / "out"
    )
    assert status == 0
    assert "no voxel below -500; unless it is a CT in HU, the mask means nothing" in error


def test_predict_writes_a_mask_on_the_scans_grid_and_a_picture(run, tmp_path, capsys):
    turned = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]])
    scan = np.full((24, 40, 36), -1000, np.int16)
    scan[6:16, 10:24, 12:26] = 700
    write_scan(Volume(scan, (3.0, 1.7, 1.7), (10, -20, 5), turned), tmp_path / "a scan.nrrd")
    status, out, _ = call(
        capsys, "predict", tmp_path / "a scan.nrrd", "--model", run, "--out", tmp_path / "out"
    )
    assert status == 0
    mask_path, picture = (tmp_path / "out" / name for name in ("a scan_sij.nii.gz", "a scan_sij.png"))
    assert out.split("\n")[:2] == [str(mask_path), str(picture)]
    mask = read_volume(mask_path)
    assert same_geometry(mask, read_volume(tmp_path / "a scan.nrrd"))
    assert set(np.unique(mask.array)) <= {0, 1}
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_mask_without_a_joint_is_said(run, tmp_path, capsys, monkeypatch):
    from magunet.predict import Model

    monkeypatch.setattr(
        Model, "segment", lambda self, scan: scan.with_array(np.zeros(scan.array.shape, np.uint8))
    )
    write_volume(Volume(np.full((20, 20, 20), -1000, np.int16), (1, 1, 1)), tmp_path / "air.nii.gz")
    status, _, error = call(
        capsys, "predict", tmp_path / "air.nii.gz", "--model", run, "--out", tmp_path / "out"
    )
    assert status == 0
    assert "found no joint" in error


def test_train_evaluate_and_tables_of_a_cohort_of_ones_own(compendium, capsys, monkeypatch):
    own_profile(compendium)
    status, out, _ = call(capsys, "train", "MAG-UNet", "--profile", "own")
    assert status == 0 and (compendium / out.strip() / "run.json").exists()
    status, table, _ = call(capsys, "evaluate", out.strip())
    assert status == 0 and "dice" in table
    status, overview, _ = call(capsys, "tables", "--profile", "own")
    assert status == 0 and re.search(rf"{Path(out.strip()).name} +scored run", overview)
    row = next(line for line in overview.splitlines() if line.startswith("MAG-UNet"))
    assert row.split()[1] == "1" and len(row.split()) == 6  # one validation case, scored once
    (compendium / out.strip() / "scores.json").unlink()
    monkeypatch.setattr("magunet.metrics.overlap", lambda *_: Overlap(1, 0, 0))
    assert (
        call(capsys, "evaluate", out.strip())[1].splitlines()[1].split()[4] == "1.0"
    )  # stale scores are made anew
    own_profile(compendium, learning_rate=0.5)
    for form in ("text", "csv", "md", "latex"):
        status, overview, _ = call(capsys, "tables", "--profile", "own", "--format", form)
        assert status == 0 and (form == "csv" or "no scored run yet" in overview)


def test_a_table_of_untrained_networks_makes_nothing_and_says_how_to_train_them(compendium, capsys):
    before = snapshot(compendium)
    status, out, error = call(capsys, "tables", "4")
    assert status == 0
    assert error.splitlines()[1] == "+DA, seed 0: not trained; magunet train '+DA' --profile smoke --seed 0"
    assert out.startswith("Table 4: ablation") and "not trained" in out and "(92.4)" in out
    for name in ("claims", "parameters"):
        assert call(capsys, "tables", name)[0] == 0
    assert "there are no scores yet" in call(capsys, "tables", "effects")[2]
    assert snapshot(compendium) == before


def test_tables_score_finished_runs_and_compare_them(compendium, capsys):
    own_profile(compendium, seeds=[0, 1])
    for words in (("MAG-UNet",), ("[1,3,5]",), ("[1,3,5]", "--seed", "1")):
        assert call(capsys, "train", *words, "--profile", "own")[0] == 0
    status, out, error = call(capsys, "tables", "3", "--profile", "own", "--format", "csv")
    assert status == 0
    table = pd.read_csv(io.StringIO(out))
    ours = table[(table["row"] == "[1,3,5]") & (table["group"] == "all")].set_index("measure")
    assert ours.loc["Dice", "seeds"] == 2 and ours.loc["Dice", ["value", "sd_seeds", "p_holm"]].notna().all()
    assert ours.loc["predictions", "value"] == 2 and ours.loc["HD95", "value"] >= 0
    assert (
        "MAG-UNet, seed 1: not trained" in error
        and "[1,3,5], seed" not in error
        and "[5], seed 0: not trained" in error
    )
    folder = next(compendium.glob("runs/MAG-UNet*"))
    scores = pd.read_csv(folder / "scores.csv")
    assert len(pd.read_csv(folder / "scores_by_side.csv")) == 2 * len(scores)
    note = "Profile own: widths / 16, input 16 x 32 x 32, 1 epoch, 2 x each case an epoch, seeds 0, 1."
    assert note in call(capsys, "tables", "4", "--profile", "own", "--format", "md")[1]


def test_stored_results_say_what_the_runs_say(compendium, capsys):
    own_profile(compendium, epochs=2)
    assert "make reproduce" in call(capsys, "tables", "--profile", "own", "--out", "stored")[2]
    for network in ("MAG-UNet", "[1,3,5]"):
        assert call(capsys, "train", network, "--profile", "own")[0] == 0
    printed = {
        table: call(capsys, "tables", table, "--profile", "own") for table in ("3", "4", "claims", "effects")
    }
    status, out, _ = call(capsys, "tables", "--profile", "own", "--out", "stored")
    files = list(map(Path, out.split()))
    assert status == 0 and all(file.exists() for file in files)
    assert {"scores.csv", "scores_by_side.csv", "curves.csv", "runs.json", "table1.md"} <= {
        file.name for file in files
    }
    curves, runs = pd.read_csv("stored/curves.csv"), read_json(Path("stored/runs.json"))["runs"]
    assert list(curves["epoch"]) == [1, 2, 1, 2] and curves["loss"].notna().all()
    assert {run["network"]: run["epochs"] for run in runs} == {"MAG-UNet": 2, "+MFF": 2}
    shutil.rmtree(compendium / "runs")
    for table, (_, text, missing) in printed.items():
        status, again, missing_again = call(capsys, "tables", table, "--scores", "stored")
        assert (
            status == 0
            and again == text
            and missing_again.count("not in stored") == missing.count("not trained")
        )
    assert missing.count("not trained") == 0 < printed["3"][2].count("not trained")


def test_the_tables_of_the_cpu_profile_come_from_its_stored_scores(capsys):
    folder = Path(__file__).parents[1] / "figures" / "cpu"
    for table in ("1", "2", "3", "4"):
        for form in ("md", "csv"):
            out = call(capsys, "tables", table, "--scores", folder, "--format", form)[1]
            assert out == (folder / f"table{table}.{form}").read_text()
    claims = call(capsys, "tables", "claims", "--scores", folder, "--format", "md")[1]
    rows = [line.replace("](", "](../../") for line in claims.splitlines() if re.match(r"\| \d", line)]
    assert len(rows) == 33 and "\n".join(rows) in (folder / "claims.md").read_text()
    assert (
        call(capsys, "tables", "effects", "--scores", folder, "--format", "md")[1]
        == (folder / "effects.md").read_text()
    )


def test_parameters_of_every_row_are_printed(capsys):
    status, out, _ = call(capsys, "tables", "parameters")
    assert status == 0
    assert "25,156,241" in out and "101,624,993" in out
    assert len(out.splitlines()) == 4 + 8 + 6 + 8 + 7


def test_interruption_says_how_to_go_on(compendium, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt
    monkeypatch.setattr("sijphantom.cohort.cohort_of", interrupt)
    status, _, error = call(capsys, "cohort")
    assert status == 130
    assert "the same command goes on" in error


@pytest.mark.parametrize("sent", ["SIGINT", "SIGTERM"])
def test_the_status_after_a_signal_is_130_even_within_an_exec_of_text(sent, tmp_path):
    """As dataclasses do on import; Python would then end itself by SIGINT after a plain KeyboardInterrupt."""
    (tmp_path / "ended.py").write_text(
        "import signal, sys\nfrom compendium import cli, sample\n"
        f"sample.fetch_sample = lambda: exec('signal.raise_signal(signal.{sent})', {{'signal': signal}})\n"
        "sys.exit(cli.main())")
    done = subprocess.run([sys.executable, "-m", "ended", "sample"], capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])})
    assert done.returncode == 130
    assert (
        done.stderr == "magunet sample: interrupted; the same command goes on from the last finished step\n"
    )


def test_the_module_is_the_command_and_starts_without_what_computes():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "compendium", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "usage: magunet" in done.stdout
    imported = {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "monai", "pandas", "matplotlib", "SimpleITK", "scipy"}


def test_a_target_that_the_input_size_swallows_is_said(compendium, capsys):
    own_profile(compendium, size=16)
    label = load_cohort(compendium / "data" / "boxes").cases["box_1"].label
    one = np.zeros((20, 32, 32), np.uint8)
    one[9, 9, 9] = 1
    write_volume(Volume(one, (3.0, 2.0, 2.0)), label)
    status, _, error = call(capsys, "train", "MAG-UNet", "--profile", "own")
    assert status == 2
    assert "box_1" in error and "the target vanishes when resized to" in error


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried"),
                                   RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")])
def test_too_little_memory_is_one_line(error, compendium, capsys, monkeypatch):
    def fail(*_):
        raise error
    monkeypatch.setattr("sijphantom.cohort.cohort_of", fail)
    status, _, line = call(capsys, "cohort")
    assert status == 2
    assert (
        f"not enough memory{f' ({error})' if str(error) else ''}; close other programs, or lower size" in line
    )
    assert line.count("\n") == 1


def test_other_errors_are_not_swallowed(compendium, monkeypatch):
    def fail(*_):
        raise RuntimeError("a defect")
    monkeypatch.setattr("sijphantom.cohort.cohort_of", fail)
    with pytest.raises(RuntimeError, match="a defect"):
        cli.main(["cohort"])
