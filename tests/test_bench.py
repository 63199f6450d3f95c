"""Contests compare like with like, take turns, and keep what they measured."""

import json
import os
import signal
import subprocess
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from boxes import TINY
from conftest import refused
from test_cli import call

from compendium.bench import ceilings, contests, others, passes, suite
from compendium.bench.contest import GPU_MEGABYTES, MEGABYTES, Contest, alone, megabytes_of, run
from compendium.fits import count_flop
from magunet.base import profiles
from magunet.base.errors import InputError
from magunet.blocks import PAM
from magunet.predict import load_model
from magunet.prepare import prepare
from magunet.volume import read_volume, same_geometry, write_volume

SMALL = {
    "forward": partial(contests.forward, (16, 16, 16), 16),
    "training-step": partial(contests.training_step, "smoke"),
    "preparation": partial(contests.preparation, 64, 40),
    "preparation-areas": partial(contests.preparation, 64, 40, False),
    "augmentation": partial(contests.augmentation, (40, 32, 32)),
    "metrics": partial(contests.metrics, 64, 40),
    "pam": partial(contests.position_attention, (2, 8, 8)),
    "phantom": partial(contests.phantom_generation, 32, 40),
    "epoch": partial(contests.epoch, replace(profiles.load("smoke"), samples_per_case=1), 1),
}
"""Contests at sizes for tests. Prediction alone takes the paper's size."""


@pytest.fixture(autouse=True)
def quick_ceilings(monkeypatch):
    monkeypatch.setattr(ceilings, "SIDE", {"cpu": 64, "cuda": 64})
    monkeypatch.setattr(ceilings, "COPIED", {"cpu": 2**20, "cuda": 2**20})
    measured = ceilings.flop_per_second, ceilings.bytes_per_second
    for ceiling in measured:
        ceiling.cache_clear()
    yield
    for ceiling in measured:
        ceiling.cache_clear()


@pytest.mark.parametrize("name", SMALL)
def test_every_contest_measures_both_ways(name):
    assert name in contests.CONTESTS
    try:
        with SMALL[name]() as contest:
            for way in (contest.ours, contest.theirs):
                way()
            assert contest.floor is None or contest.floor > 0
    except InputError as error:
        if "clone the whole history" not in str(error):
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize("name", ["gpu-training-step", "gpu-training-memory", "gpu-prediction"])
def test_contests_for_a_gpu_say_so_where_there_is_none(name, monkeypatch):
    monkeypatch.setattr(contests, "choose_device", lambda: torch.device("cpu"))
    refused(lambda: contests.CONTESTS[name]().__enter__(), "is for a GPU")


def test_contests_for_a_gpu_measure_both_ways_on_any_device(monkeypatch):
    with contests.training_memory("smoke") as contest:
        assert contest.unit == GPU_MEGABYTES and run(contest).ratio > 0
    monkeypatch.setattr(contests.profiles, "load", lambda name: replace(TINY, profile=name))
    with contests.prediction_loaded(64, 40) as contest:
        masks = [way().array for way in (contest.ours, contest.theirs)]
        assert masks[0].shape == masks[1].shape == (40, 64, 64)


def test_operations_are_counted_from_shapes():
    a, b, c = torch.zeros(3, 5), torch.zeros(5, 7), torch.zeros(3, 7)
    with torch.no_grad(), ceilings.Operations() as operations:
        product = a @ b
        product.view(7, 3).relu_()
        torch.add(product, c, out=c)
    assert operations.counts == [(2 * 3 * 5 * 7, 4 * (15 + 35 + 21)), (0, 4 * 42), (0, 4 * (21 + 21 + 21))]


def test_a_copy_is_reckoned_by_its_bytes(monkeypatch):
    monkeypatch.setattr(ceilings, "bytes_per_second", lambda device: 100.0)
    assert ceilings.copy_seconds(None, np.zeros(50, np.float32), torch.zeros(10, dtype=torch.float16)) == 2.2


def test_the_cases_of_an_epoch_are_mapped_from_files_as_in_training(tmp_path):
    settings = replace(TINY, scan_matrix=64, scan_slices=(40, 40))
    first, again = (contests.prepared_phantoms(tmp_path, 2, settings) for _ in range(2))
    assert len(list(tmp_path.glob("prepared/*.safetensors"))) == 2
    for name, case in first.items():
        assert case.mask.any() and np.array_equal(case.image, again[name].image)


def test_the_floor_takes_the_slower_of_arithmetic_and_memory(monkeypatch):
    monkeypatch.setattr(ceilings, "flop_per_second", lambda device, precision: 10.0)
    monkeypatch.setattr(ceilings, "bytes_per_second", lambda device: 2.0)
    assert ceilings.floor_seconds([(100, 4), (0, 4), (10, 40)], ceilings.ceilings_of(None, None)) == 10 + 2 + 20


@pytest.mark.parametrize("network", ["MAG-UNet", "3D U-Net", "[3,5,7]"])
def test_operations_of_a_pass_are_those_that_the_tables_show(network):
    counts = [sum(flop for flop, _ in passes.operations(network, 4, (32, 64, 64), training, torch.float32))
              for training in (False, True)]
    expected = count_flop(passes.build_on_meta(network, 4), (32, 64, 64))
    assert counts[0] == pytest.approx(expected, rel=1e-3)                # all but attention's
    assert 2.8 < counts[1] / expected < 3.2                              # two more passes for gradients


def test_too_little_memory_leaves_a_contest_out(quick_contests, monkeypatch):
    def fails(message):
        raise RuntimeError(message)
    monkeypatch.setattr(suite, "run", lambda contest: fails("CUDA out of memory. Tried to allocate"))
    assert suite.measure(["a"], None) == ({}, {"a": "there is too little memory"})
    monkeypatch.setattr(suite, "run", lambda contest: fails("a defect"))
    with pytest.raises(RuntimeError, match="a defect"):
        suite.measure(["a"], None)


def test_the_run_that_prediction_is_measured_with_can_be_loaded(tmp_path):
    model = load_model(contests.untrained_run(tmp_path / "run", profiles.load("smoke")))
    assert model.record["network"] == contests.NETWORK


def test_ways_take_turns_and_the_first_round_does_not_count():
    calls = []
    result = run(Contest("a", "b", lambda: calls.append("ours"), lambda: calls.append("theirs"), target=1.0, rounds=2))
    assert sorted(calls[:2]) == ["ours", "theirs"] and calls[2:] == ["theirs", "ours", "ours", "theirs"]
    assert len(result.ours) == len(result.theirs) == 2 and result.ratio > 0


def test_a_ratio_is_the_median_of_the_rounds():
    result = suite.Result("a", "b", 0.5, None, "s", None, "", [1.0, 1.0, 9.0], [4.0, 2.0, 3.0])
    assert result.ratios == [0.25, 0.5, 3.0] and result.ratio == 0.5 and result.met
    assert result.as_dict()["lowest"] == 0.25 and result.as_dict()["highest"] == 3.0


@pytest.mark.parametrize("target, most, met, shown", [
    (0.5, None, True, "0.5"), (0.4, None, False, "0.4"), (None, 1.0, True, "1 s"), (None, 0.9, False, "0.9 s"),
    (0.5, 0.9, False, "0.5, 0.9 s"), (0.5, 1.0, True, "0.5, 1 s"), (None, None, None, "")])
def test_a_ratio_and_a_limit_are_both_to_be_met(target, most, met, shown):
    result = suite.Result("a", "b", target, most, "s", None, "", [1.0, 1.0, 9.0], [4.0, 2.0, 3.0])
    assert result.met is met
    assert suite.table({"a": result}).loc["a", ["target", "met"]].tolist() == [shown, {True: "yes", False: "no", None: ""}[met]]


def hold(megabytes):
    np.ones(int(megabytes * 1e6), np.uint8).sum()


def die():
    os._exit(9)


def test_memory_is_that_of_a_fresh_process_each():
    few, many = (megabytes_of(partial(hold, amount)) for amount in (1, 301))
    assert 270 < many - few < 330
    refused(lambda: megabytes_of(die), "die", "ended with 9")


def fail(error):
    raise error


def test_work_alone_is_done_in_another_process_and_its_errors_come_back():
    assert alone("work", os.getpid) != os.getpid()
    assert alone("work", torch.get_num_threads) == torch.get_num_threads()
    refused(lambda: alone("work", fail, InputError("no such file")), "no such file")
    with pytest.raises(MemoryError):
        alone("work", fail, MemoryError())
    with pytest.raises(RuntimeError, match="a defect") as found:
        alone("work", fail, RuntimeError("a defect"))
    assert "in fail" in found.value.__notes__[0]


def test_an_interruption_ends_the_processes_that_work_alone():
    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(15)                                                            # by then the inner one has begun
    try:
        with pytest.raises(KeyboardInterrupt):
            alone("outer", alone, "inner", time.sleep, 60)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert not [child for child in psutil.Process().children(recursive=True) if "spawn_main" in " ".join(child.cmdline())]


def test_the_naive_matrix_computes_what_pam_computes():
    torch.manual_seed(0)
    pam, x = PAM(16, reduction=2), torch.randn(1, 16, 3, 4, 5)
    with torch.no_grad():
        pam.alpha.fill_(0.7)
        torch.testing.assert_close(others.naive_position_attention(pam, x), pam(x), rtol=1e-4, atol=1e-5)


def test_a_matrix_beyond_the_memory_is_refused():
    refused(lambda: contests.position_attention((400, 400, 400)).__enter__(), "GB", "400x400x400")


@pytest.mark.parametrize("linear", (True, False))
def test_monai_prepares_the_same_case(linear):
    scan, mask = contests.scan_and_mask(128, 40)
    settings = replace(profiles.load("paper"), size=64, margin_mm=1000.0)
    ours, _ = prepare(scan, mask, settings)
    theirs = others.prepare_with_monai(scan, mask, settings.size, settings.margin_mm, linear)
    image, target = (theirs[name][0].numpy() for name in ("image", "mask"))
    assert image.shape == ours.image.shape and np.abs(image - ours.image).mean() < 0.01
    assert 2 * (target * ours.mask).sum() / (target.sum() + ours.mask.sum()) > (0.95 if linear else 0.8)


def test_monais_network_takes_its_window():
    with torch.device("meta"):
        assert others.attention_unet()(torch.empty(1, 1, *others.WINDOW)).shape == (1, 1, *others.WINDOW)


def test_monai_segments_from_file_to_file(tmp_path, monkeypatch):
    monkeypatch.setattr(others, "WINDOW", (16, 32, 32))
    monkeypatch.setattr(others, "WIDTHS", (2, 2, 2, 2, 2))
    scan, _ = contests.scan_and_mask(64, 40)
    write_volume(scan, tmp_path / "ct.nii.gz")
    others.segment_with_monai(tmp_path / "ct.nii.gz", tmp_path / "mask.nii.gz")
    assert same_geometry(read_volume(tmp_path / "mask.nii.gz"), read_volume(tmp_path / "ct.nii.gz"))


def test_metrics_of_both_lie_close():
    made = contests.phantom(64, 40)
    pair = (np.roll(made.mask, 1, 0), made.mask, made.spacing)
    ours, theirs = contests.our_metrics(*pair), others.metrics_with_monai(*pair, 1.0)
    assert ours[0] == pytest.approx(theirs[0], abs=1e-6)
    assert ours[1:3] == pytest.approx(theirs[1:3], abs=max(made.spacing) / 2)


def test_augmentation_by_monai_moves_image_and_mask():
    image = torch.rand(1, 16, 24, 24)
    done = others.augment_with_monai(image, (image > 0.5).float())
    assert done["image"].shape == image.shape and not torch.equal(torch.as_tensor(done["image"]), image)
    assert set(np.unique(done["mask"])) == {0, 1}


@pytest.fixture
def quick_contests(monkeypatch):
    """Two contests that take no time; the list of what they measured."""
    measured = []

    @contextmanager
    def contest(name, fails=False):
        if fails:
            raise InputError("nothing to measure")
        yield Contest(name, "nothing", lambda: measured.append(name), lambda: None, target=2.0, rounds=1, note="a note")

    monkeypatch.setattr(suite, "CONTESTS", {"a": partial(contest, "a"), "b": partial(contest, "b"),
                                            "c": partial(contest, "c", fails=True)})
    monkeypatch.setattr(suite, "alone", lambda what, work, *arguments: work(*arguments))        # which have no names to import
    return measured


def test_results_are_kept_and_not_measured_again(quick_contests, tmp_path, monkeypatch):
    monkeypatch.setattr(suite.provenance, "git_revision", lambda root, besides: "0123456789ab")
    file = tmp_path / "bench.json"
    suite.measure(["a"], file)
    first = json.loads(file.read_text())
    quick_contests.clear()
    results, left_out = suite.measure(["a", "b", "c"], file)
    assert set(quick_contests) == {"b"} and list(results) == ["a", "b"] and left_out == {"c": "nothing to measure"}
    second = json.loads(file.read_text())
    assert second["results"]["a"] == first["results"]["a"] and list(second["results"]) == ["a", "b"]
    assert second["results"]["b"]["revision"] == "0123456789ab" and "torch" in second["machine"]["libraries"]


def test_what_is_measured_again_at_another_revision_leaves_the_others_with_theirs(quick_contests, tmp_path, monkeypatch):
    file = tmp_path / "bench.json"
    for revision, names in {"0123456789ab": ["a", "b"], "ba9876543210": ["b"]}.items():
        monkeypatch.setattr(suite.provenance, "git_revision", lambda root, besides, revision=revision: revision)
        assert list(suite.measure(names, file)[0]) == names
    assert {name: result.revision for name, result in suite.read(file).items()} == {"a": "0123456789ab", "b": "ba9876543210"}
    assert suite.described(file).endswith("revision 0123456789ab; b: ba9876543210")


def test_the_file_of_results_is_no_change_of_the_code(quick_contests, tmp_path, monkeypatch):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setattr(suite.project, "root", lambda: tmp_path)
    suite.measure(["a"], tmp_path / "bench.json")
    assert quick_contests
    quick_contests.clear()
    assert list(suite.measure(["a"], tmp_path / "bench.json")[0]) == ["a"] and not quick_contests
    (tmp_path / "code.py").touch()
    suite.measure(["a"], tmp_path / "bench.json")
    assert quick_contests


def test_results_of_another_machine_are_not_kept(quick_contests, tmp_path, monkeypatch):
    file = tmp_path / "bench.json"
    for device in ("this", "that"):
        monkeypatch.setattr(suite.provenance, "environment", lambda _, device=device: {"device": device})
        suite.measure(["a" if device == "this" else "b"], file)
    assert list(suite.read(file)) == ["b"]


def test_results_of_another_revision_or_of_changed_files_are_measured_again(quick_contests, tmp_path, monkeypatch):
    file = tmp_path / "bench.json"
    for revision in ("0123456789ab", "ba9876543210", "ba9876543210+changes", "ba9876543210+changes"):
        monkeypatch.setattr(suite.provenance, "git_revision", lambda root, besides, revision=revision: revision)
        quick_contests.clear()
        suite.measure(["a"], file)
        assert quick_contests


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"machine": {"git": ""}, "results": {"a": {}}}'])
def test_another_file_is_refused(content, quick_contests, tmp_path):
    file = tmp_path / "notes.json"
    file.write_text(content)
    refused(lambda: suite.measure(["a"], file), "notes.json", "is not from 'magunet bench'")
    assert file.read_text() == content


def test_the_verb_prints_ratios_notes_and_what_was_left_out(quick_contests, monkeypatch, capsys):
    monkeypatch.setattr(contests, "CONTESTS", suite.CONTESTS)
    status, out, _ = call(capsys, "bench")
    assert status == 0 and "ratio" in out and "a: a note" in out and "left out: c: nothing to measure" in out
    status, out, said = call(capsys, "bench", "nope")
    assert status == 2 and "no contest 'nope'" in said and "a, b, c" in said


def test_the_verb_puts_the_results_into_a_document(quick_contests, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(contests, "CONTESTS", suite.CONTESTS)
    file, readme = tmp_path / "bench.json", tmp_path / "README.md"
    readme.write_text("# A\n\n| work | beside | ours |\n| --- | --- | --- |\n| old | b | 1 |\n\n"
                      "Measured on: an old machine\nand so on.\n")
    assert call(capsys, "bench", "a", "b", "--json", str(file), "--readme", str(readme))[0] == 0
    title, _, *table, _, machine, rest = readme.read_text().splitlines()
    assert "\n".join(table) == suite.as_markdown(suite.table(suite.read(file))) and "old" not in "".join(table)
    assert machine == f"Measured on: {suite.described(file)}" and (title, rest) == ("# A", "and so on.")
    readme.write_text("nothing")
    status, _, said = call(capsys, "bench", "a", "--json", str(file), "--readme", str(readme))
    assert status == 2 and "README.md: must have one table" in said and readme.read_text() == "nothing"
    status, _, said = call(capsys, "bench", "a", "--readme", "nowhere.md")
    assert status == 2 and "nowhere.md: --readme needs a document" in said


def test_memory_contests_pass_functions_that_a_process_can_import():
    with SMALL["pam"]() as contest:
        assert contest.unit == MEGABYTES and run(contest).ratio > 0


def test_the_readme_shows_the_stored_results_and_the_machine():
    root = Path(__file__).resolve().parents[1]
    stored, readme = root / "benchmarks" / "results.json", (root / "README.md").read_text()
    assert suite.as_markdown(suite.table(suite.read(stored))) in readme
    assert suite.described(stored) in readme
