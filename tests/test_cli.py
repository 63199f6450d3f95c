"""The command: results on stdout, one line on stderr and status 2 where anything is wrong."""

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from boxes import TINY, write_cohort, write_scan
from conftest import ROOT, refused
from scipy.spatial.transform import Rotation
from stored import store_study
from test_sources import snapshot

from compendium import cli
from compendium.effects import effects_report
from compendium.results import read_stored, store
from magunet.base import profiles, provenance
from magunet.cohort import load_cohort
from magunet.metrics import overlap
from magunet.predict import NOTHING, Answer, Model
from magunet.volume import Volume, read_volume, reorient, same_geometry
from sijphantom.cohort import phantom_folder


def call(capsys, *words):
    """Exit status, stdout and stderr of one command."""
    try:
        status = cli.main([str(w) for w in words])
    except SystemExit as stop:
        status = stop.code
    return status, *capsys.readouterr()


@pytest.fixture
def said(capsys):
    """Calls a command that succeeds; returns what it said on stdout."""
    def said(*words):
        status, out, error = call(capsys, *words)
        assert status == 0, error
        return out.rstrip("\n")
    return said


def own_profile(compendium, **changes):
    """A profile of a cohort of boxes, named own."""
    provenance.write_json(compendium / "papermill_params" / "own.yaml",               # JSON is YAML
               TINY.as_dict() | {"cohort": "data/boxes", "epochs": 1, "profile": "own"} | changes)


def test_predict_refuses_what_is_not_hu_and_says_where_there_is_no_joint(run, tmp_path, capsys, monkeypatch):
    def answer(model, scan):
        mask = scan.with_array(np.uint8(scan.array == 1))
        return Answer(mask, note=NOTHING * (not mask.array.any()))

    monkeypatch.setattr(Model, "answer", answer)
    scan = np.resize(np.repeat(np.int16([-1000, 0, 0, 0, 700]), 80), (20, 20, 20))      # 80 mm wide
    for name, array, force, status, says in (
            ("empty", scan, (), 0, NOTHING),
            ("offset", scan + np.int16(1024), (), 2, "no voxel is below -500 HU"),
            ("padded", np.where(scan < 0, -2000, scan + 1024), (), 2, "perhaps an offset of 1024"),
            ("cut off", scan + (scan == 700), (), 0, "cut off, or a child's"),
            ("taken", np.where(scan < 0, 0, scan * 0 + 1), ("--force",), 0, "the mask may mean nothing"),
            ("tilted", scan, (), 0, "its axes are 17 degrees off"),
            ("cut", np.where(scan == 700, 1, scan), ("--force",), 0, "from the border of the scan")):
        path, out = tmp_path / f"{name}.mha", tmp_path / name
        turn = Rotation.from_euler("x", 17 * (name == "tilted"), degrees=True).as_matrix()
        write_scan(Volume(array.astype(np.int16), (4, 4, 4), direction=turn), path)
        words = ("predict", path, "--model", run, "--out", out, "--formats", "nifti,json", *force)
        got, _, error = call(capsys, *words)
        assert got == status and says in error and out.exists() == (status == 0), error
        if status == 0 and name != "cut":               # which the report says of each joint
            assert says in provenance.read_json(out / f"{name}_sij.json")["note"], name


def test_tables_replace_no_scores_of_ones_own(compendium, capsys):
    (compendium / "scores.csv.xz").write_text("mine")
    for words in (("--profile", "smoke"), ("--scores", ROOT / "figures/cpu")):
        status, _, said = call(capsys, "tables", *words, "--out", compendium)
        assert status == 2 and "scores.csv.xz: is there already, and not from" in said
    assert (compendium / "scores.csv.xz").read_text() == "mine"


def test_from_phantom_to_export(compendium, said):
    """Every command takes what the one before has printed. A score is that of the files that are exported,
    and a prediction does not depend on the way a scan is stored."""
    own_profile(compendium, cohort=None, cases=2, test_cases=1, scan_slices=[20, 24],
                learning_rate=0.1, epochs=4)
    cohort = load_cohort(said("cohort", "--profile", "own"))
    assert cohort.root == phantom_folder(profiles.load("own"))
    assert "3 cases: 2 to train on, 1 to score" in said("check", cohort.root)
    run = said("train", "MAG-UNet", "--profile", "own")
    (case,) = (cohort.cases[name] for name in provenance.read_json(Path(run) / "run.json")["val"])
    header, row, *used = (line.split() for line in said("evaluate", run).splitlines())
    assert ["What", "the", "trained", "networks", "use"] in used and (Path(run) / "diagnostics.csv").exists()
    scores = dict(zip(header, row))
    prediction, truth = map(read_volume, said("export", run, case.name, "--out", "out", "--formats",
                                              "nifti").splitlines())
    assert np.array_equal(truth.array, read_volume(case.label).array) and prediction.array.any()
    dice = overlap(prediction.array, truth.array).dice
    assert (scores["case"], float(scores["dice"])) == (case.name, pytest.approx(dice, abs=1e-4))

    turned = reorient(read_volume(case.image), "SRA")
    write_scan(turned, Path("a scan.nrrd"))
    files = said("predict", "a scan.nrrd", "--model", run, "--out", "out", "--formats", "nifti,png")
    assert files.splitlines() == ["out/a scan_sij.nii.gz", "out/a scan_sij.png"]
    mask = read_volume("out/a scan_sij.nii.gz")
    assert same_geometry(mask, turned) and mask.array.max() == 1
    assert np.array_equal(reorient(mask, "LPS").array, prediction.array)
    assert Path("out/a scan_sij.png").read_bytes().startswith(b"\x89PNG")


def test_train_takes_seed_recomputing_and_plainness_from_the_command_line(compendium, said, monkeypatch):
    own_profile(compendium, seeds=[5, 0])
    fit = Mock(return_value="run")
    monkeypatch.setattr("compendium.fits.fit_with_room", fit)
    monkeypatch.setattr("sijphantom.cohort.cohort_of", Mock(return_value="cohort"))
    for words, seed, *more in (("", 5, None, False), ("--seed 0 --recompute always", 0, True, False),
                               ("--recompute never --plain", 5, False, True)):
        said("train", "+DA", "--profile", "own", *words.split())
        assert fit.call_args.args == ("+DA", profiles.load("own"), seed, "cohort", *more), words


@pytest.fixture
def trained(compendium, said):
    """Three finished runs of profile own, none of them scored."""
    write_cohort(compendium / "data" / "boxes", 2)
    own_profile(compendium, seeds=[0, 1], learning_rates=[["+MFF", 0.002]])
    for words in (("MAG-UNet",), ("[1,3,5]",), ("[1,3,5]", "--seed", "1")):
        said("train", *words, "--profile", "own")


def test_tables_score_finished_runs_compare_them_and_say_the_same_once_they_are_stored(
        trained, said, capsys, monkeypatch):
    assert "make reproduce" in call(capsys, "tables", "--profile", "own", "--out", "stored")[2]
    _, out, error = call(capsys, "tables", "4", "--profile", "own", "--format", "csv")
    table = pd.read_csv(io.StringIO(out))
    ours = table[(table["row"] == "+MFF") & (table["group"] == "all")].set_index("measure")
    assert ours.loc["Dice", "seeds"] == 2 and ours.loc["Dice", ["value", "sd_seeds"]].notna().all()
    assert ours.loc["predictions", "value"] == 2 and ours.loc["HD95", "value"] >= 0
    assert "MAG-UNet, seed 1: not trained" in error and "+DA, seed 0: not trained" in error
    assert "\n+MFF, seed" not in error
    overview, run = said("tables", "--profile", "own"), next(Path("runs").glob("MAG-UNet*"))
    assert re.search(rf"{run.name} +scored run", overview)
    assert re.search(r"^MAG-UNet +1( +\S+){4} *$", overview, re.M)          # one validation case, scored once
    assert [len(pd.read_csv(run / file)) for file in ("scores.csv", "scores_by_side.csv")] == [1, 1]
    for file, text in (("scores.json", '{"key": "of earlier code"}'), ("weights.safetensors", None)):
        content = (run / file).read_bytes()
        (run / file).write_text(text) if text else (run / file).unlink()
        _, overview, error = call(capsys, "tables", "--profile", "own")
        assert "scores of 1 runs are of other code" in error and run.name not in overview, file
        (run / file).write_bytes(content)
    printed = {name: call(capsys, "tables", name, "--profile", "own") for name in ("4", "claims", "effects")}
    assert ("Profile own: widths / 16, input 16 x 32 x 32, 1 epoch, 2 x each case an epoch, learning rate "
            "0.003, of +MFF 0.002, seeds 0, 1.") in " ".join(printed["4"][1].split())
    redraw = Mock(return_value=["drawn.png"])
    monkeypatch.setattr("compendium.redraw.redraw", redraw)
    files = said("tables", "--profile", "own", "--out", "stored").split("\n")
    assert files == [f"stored/{name}" for name in ("scores.csv.xz", "scores_by_side.csv.xz", "curves.csv",
                                                   "scales.csv", "runs.json")] + ["drawn.png"]
    assert redraw.call_args.args[0].folder == redraw.call_args.args[1] == Path("stored")
    curves, runs = pd.read_csv("stored/curves.csv"), provenance.read_json(Path("stored/runs.json"))["runs"]
    assert list(curves["epoch"]) == [1, 1, 1] and curves["loss"].notna().all()
    assert [(run["network"], run["seed"], run["epochs"]) for run in runs] == [
        ("MAG-UNet", 0, 1), ("+MFF", 0, 1), ("+MFF", 1, 1)]
    other = profiles.from_mapping(profiles.load("own").as_dict() | {"profile": "other"}, "test")
    refused(lambda: store(other, Path("stored")), "of 3 trainings there this machine has only 0")
    shutil.rmtree(run)
    assert "has only 2" in call(capsys, "tables", "--profile", "own", "--out", "stored")[2]
    shutil.rmtree("runs")
    for name, (_, text, missing) in printed.items():
        status, again, missing_again = call(capsys, "tables", name, "--scores", "stored")
        assert (status, again) == (0, text), name
        assert missing_again.count("not in stored") == missing.count("not trained"), name


def test_stored_scores_and_the_paper_alone_give_tables_and_nothing_is_made(compendium, said, capsys):
    stored = store_study(compendium / "figures" / "cpu", ["3D U-Net", "+DA", "+ECA"])
    before = snapshot(compendium)
    claims = said("tables", "claims", "--scores", stored, "--format", "md")
    assert len(re.findall(r"^\| \d", claims, re.M)) == 33
    assert re.search(r"\| cannot be told here \| least lead .* of 3D U-Net over \+ECA; 2 seeds", claims)
    effects = said("tables", "effects", "--scores", stored, "--format", "md")
    assert effects == effects_report(read_stored(stored).scores).markdown()
    status, out, error = call(capsys, "tables", "4")
    assert status == 0 and out.startswith("Table 4: ablation") and "not trained" in out and "(92.4)" in out
    few = read_stored(stored)._replace(settings=replace(TINY, networks=("3D U-Net", "+DA"), seeds=(0, 4)))
    assert few.missing(4) == [f"{name}, seed 4: not in {stored}" for name in ("3D U-Net", "+DA")]
    assert error.splitlines()[1] == "+DA, seed 0: not trained; magunet train '+DA' --profile smoke --seed 0"
    assert "there are no scores yet" in call(capsys, "tables", "effects")[2]
    assert said("tables", "claims")
    for form in ("text", "csv", "md", "latex"):
        overview = said("tables", "--format", form)
        assert form == "csv" or "no scored run yet" in overview, form
    parameters = said("tables", "parameters")
    assert "25,156,241" in parameters and "101,624,993" in parameters
    assert len(parameters.splitlines()) == 4 + 8 + 6 + 8 + 7
    assert snapshot(compendium) == before


def test_help_of_every_verb_ends_with_an_example_that_can_be_parsed():
    verbs = cli.parser()._subparsers._group_actions[0].choices
    assert " ".join(verbs) == "sample cohort import check train evaluate predict export tables doctor"
    for name, parser in verbs.items():
        example = parser.format_help().split("example: ")[1].split()
        assert example[:2] == ["magunet", name]
        cli.parser().parse_args(shlex.split(" ".join(example[1:])))


def test_what_ends_a_command_early_is_one_line_but_a_defect_is_not_swallowed(compendium, capsys, monkeypatch):
    def cohort(reason):
        monkeypatch.setattr("sijphantom.cohort.cohort_of", Mock(side_effect=reason))
        return call(capsys, "cohort")

    for reason, status, says in (
            (KeyboardInterrupt(), 130, "interrupted; the same command goes on from the last finished step"),
            (MemoryError(), 2, "not enough memory; close other programs, or lower size"),
            (RuntimeError("CUDA out of memory. Tried"), 2,
             "not enough memory (CUDA out of memory. Tried); close other programs"),
            (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 2,
             "not enough memory (DefaultCPUAllocator: can't allocate memory: you tried); close other")):
        found, _, line = cohort(reason)
        assert (found, line.count("\n")) == (status, 1) and says in line, line
    with pytest.raises(RuntimeError, match="a defect"):
        cohort(RuntimeError("a defect"))


def test_the_status_after_a_signal_is_130_even_within_an_exec_of_text(tmp_path):
    """As dataclasses do on import; Python would then end itself by SIGINT after a plain KeyboardInterrupt."""
    for sent in ("SIGINT", "SIGTERM"):
        (tmp_path / "ended.py").write_text(
            "import signal, sys\nfrom compendium import cli\n"
            f"call = lambda words: exec('signal.raise_signal(signal.{sent})', {{'signal': signal}})\n"
            "cli.VERBS['sample'] = cli.VERBS['sample']._replace(call=call)\nsys.exit(cli.main())")
        done = subprocess.run([sys.executable, "-m", "ended", "sample"], capture_output=True, text=True,
                              env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])})
        assert (done.returncode, done.stderr) == (
            130, "magunet sample: interrupted; the same command goes on from the last finished step\n"), sent


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""A locale in which text is ASCII; Python takes UTF-8 all the same unless it is told not to."""


def in_ascii(*words, code="-m compendium", **environment):
    """Status, bytes on stdout and on stderr of a command in an ASCII locale."""
    done = subprocess.run([sys.executable, *code.split(), *map(str, words)], capture_output=True, cwd=ROOT,
                          env=os.environ | ASCII | environment)
    return done.returncode, done.stdout, done.stderr


def test_what_an_encoding_lacks_is_a_question_mark_but_names_of_files_keep_their_bytes():
    name = os.fsdecode(b"Gr\xf6\xdfe")
    for encoding, expected in (("ascii", b"9.5 ? ?? Gr\xf6\xdfe"), ("latin-1", b"9.5 \xb1 ?? Gr\xf6\xdfe"),
                               ("utf-8", "9.5 ± 骶髂 ".encode() + b"Gr\xf6\xdfe")):
        assert f"9.5 ± 骶髂 {name}".encode(encoding, "shown") == expected, encoding


@pytest.mark.slow
def test_an_ascii_terminal_is_shown_what_it_can_show_and_names_of_files_are_whole(tmp_path):
    for environment in ({}, {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"}):
        status, out, error = in_ascii("tables", "--scores", "figures/cpu", **environment)
        sign = "±" if environment.get("PYTHONIOENCODING") == "latin-1" else "?"
        assert status == 0 and re.search(rf"\d \{sign} \d".encode("latin-1"), out), error
    status, out, error = in_ascii("predict", tmp_path / "Größe 骶.nii.gz", "--out", tmp_path, "--model", "a")
    assert status == 2 and not out and error.startswith(b"magunet predict: a/run.json: missing"), error
    status, _, error = in_ascii("check", "/Größe 骶")
    assert status == 2 and error.decode().startswith("magunet check: /Größe 骶/dataset.json: missing"), error


@pytest.mark.slow
def test_hashes_of_code_and_json_do_not_depend_on_the_locale(tmp_path):
    """Nor does what SimpleITK is told to read."""
    path = tmp_path / "Größe 骶.mha"
    write_scan(Volume(np.zeros((2, 3, 4), np.int16), (1, 1, 1)), path)
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\nfrom pathlib import Path\nfrom magunet.base.provenance import code_hash, write_json\n"
        "from magunet import joints, prepare\nfrom compendium import formats\n"
        "from magunet.volume import read_volume\nwrite_json(Path(sys.argv[2]), {'ä': '骶'})\n"
        "print(code_hash(joints, prepare, formats), read_volume(sys.argv[1]).array.shape)\n")
    runs = [in_ascii(path, tmp_path / f"{number}.json", code=str(program), **environment,
                     PYTHONPATH=os.pathsep.join(sys.path))
            for number, environment in enumerate(({}, {"PYTHONUTF8": "1"}))]
    assert runs[0] == runs[1] and runs[0][0] == 0 and runs[0][1].endswith(b"(2, 3, 4)\n"), runs
    assert (tmp_path / "0.json").read_bytes() == (tmp_path / "1.json").read_bytes()


def test_the_module_is_the_command_and_starts_without_what_computes():
    done = subprocess.run([sys.executable, "-X", "importtime", "-m", "compendium", "--help"],
                          capture_output=True, text=True)
    assert done.returncode == 0 and "usage: magunet" in done.stdout
    imported = {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "monai", "pandas", "matplotlib", "SimpleITK", "scipy"}
