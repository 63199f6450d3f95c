"""Training learns and repeats itself bit for bit; what it survives is in test_faults.py."""

import contextlib
import json
import os
from dataclasses import replace

import numpy as np
import pytest
import safetensors
import torch
from boxes import TINY, write_cohort

from compendium.fits import fit_all
from compendium.scores import score_run, summary
from magunet import checkpoint, losses, runs, train
from magunet.base.errors import InputError
from magunet.base.provenance import file_hash, write_json
from magunet.cohort import load_cohort
from magunet.predict import load_model
from magunet.prepare import Prepared
from magunet.studies import build
from magunet.volume import read_volume, same_geometry, write_volume


@pytest.fixture
def cohort(compendium):
    return write_cohort(compendium / "data" / "boxes")


def test_one_volume_can_be_learnt_by_heart(compendium):
    torch.manual_seed(0)
    mask = torch.zeros(1, 1, 16, 32, 32)
    mask[..., 4:12, 8:20, 10:26] = 1
    image = mask + 0.3 * torch.randn_like(mask)
    network = build("MAG-UNet", width_divisor=8)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        losses.dice_ce_loss(network(image), mask).backward()
        optimizer.step()
    found = network.train()(image) > 0
    assert 2 * (found & (mask > 0)).sum() / (found.sum() + mask.sum()) > 0.99


def test_training_lowers_the_loss_and_records_what_it_did(cohort):
    folder = runs.fit("3D U-Net", TINY, 0, cohort)
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [entry["epoch"] for entry in log] == list(range(1, TINY.epochs + 1))
    assert log[-1]["loss"] < 0.95 * log[0]["loss"]
    assert log[0]["learning_rate"] == TINY.learning_rate > log[-1]["learning_rate"] > 0
    record = json.loads((folder / "run.json").read_text())
    assert record["outputs"]["weights.safetensors"] == file_hash(folder / "weights.safetensors")
    assert record["train"] == list(cohort.train) and record["val"] == list(cohort.val)
    for key in ("git", "data_hash", "settings_hash", "libraries", "device", "peak_memory_mb", "seconds",
                "precision"):
        assert record[key] is not None, key


def test_same_seed_same_weights_and_another_seed_others(cohort, compendium):
    first = runs.fit("MAG-UNet", replace(TINY, epochs=2), 3, cohort)
    weights = file_hash(first / "weights.safetensors")
    os.rename(first, compendium / "runs" / "put-aside")
    again = runs.fit("MAG-UNet", replace(TINY, epochs=2), 3, cohort)
    other = runs.fit("MAG-UNet", replace(TINY, epochs=2), 4, cohort)
    assert again != compendium / "runs" / "put-aside"
    assert file_hash(again / "weights.safetensors") == weights != file_hash(other / "weights.safetensors")


def test_the_validation_cases_choose_nothing(cohort, compendium, monkeypatch):
    """Whatever the validation curve says, the weights are those of the last epoch."""
    settings = replace(TINY, epochs=3)
    hashes = []
    for curve in ((0.9, 0.1, 0.1), (0.1, 0.1, 0.9)):
        answers = iter(curve)
        monkeypatch.setattr(train, "validation_dice", lambda *_, answers=answers: next(answers))
        folder = runs.fit("3D U-Net", settings, 0, cohort)
        hashes.append(file_hash(folder / "weights.safetensors"))
        folder.rename(compendium / f"put-aside-{len(hashes)}")
    assert hashes[0] == hashes[1]


def test_training_leaves_the_callers_random_numbers_alone(cohort):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    runs.fit("3D U-Net", replace(TINY, epochs=1), 0, cohort)
    assert torch.equal(torch.rand(3), expected)


def test_a_finished_run_is_not_trained_again(cohort, monkeypatch):
    settings = replace(TINY, epochs=1)
    folder = runs.fit("3D U-Net", settings, 0, cohort)
    monkeypatch.setattr(runs.train, "train", lambda *_: pytest.fail("trained again"))
    assert runs.fit("3D U-Net", settings, 0, cohort) == folder


def test_one_network_that_fails_does_not_stop_the_others(cohort, monkeypatch, capsys):
    build = runs.train.build
    monkeypatch.setattr(runs.train, "build", lambda name, width: 1 / 0
                        if name == "+ECA" else build(name, width))
    settings = replace(TINY, epochs=1, seeds=[0, 1])
    found = fit_all(["3D U-Net", "+ECA", "+SE"], settings, cohort)
    assert found == {name: [runs.fit(name, settings, seed, cohort) for seed in (0, 1)]
                     for name in ("3D U-Net", "+SE")}
    assert "failed: +ECA: division by zero" in capsys.readouterr().err
    with pytest.raises(InputError, match="unknown network"):
        fit_all(["3D U-Net", "MAGUNet"], settings, cohort)


def test_changed_data_or_settings_are_another_run(cohort):
    folder = runs.fit("3D U-Net", replace(TINY, epochs=1), 0, cohort)
    assert runs.fit("3D U-Net", replace(TINY, epochs=1, learning_rate=1e-4), 0, cohort) != folder
    mask = cohort.cases[cohort.train[0]].label
    changed = read_volume(mask)
    changed.array[5, 5, 5] ^= 1
    write_volume(changed, mask)
    assert runs.fit("3D U-Net", replace(TINY, epochs=1), 0, cohort) != folder


def test_a_checkpoint_restores_optimiser_scheduler_and_random_states(tmp_path):
    state = train.new_state("3D U-Net", TINY, 0, 40, torch.device("cpu"))
    for _ in range(3):
        state.network(torch.randn(1, 1, 16, 16, 16)).mean().backward()
        state.optimizer.step(), state.scheduler.step()
    torch.rand(5, generator=state.generator)
    checkpoint.save(state, tmp_path / "c.safetensors", "hash")
    expected = torch.rand(4), torch.rand(4, generator=state.generator), state.optimizer.param_groups[0]["lr"]
    fresh = train.new_state("3D U-Net", TINY, 99, 40, torch.device("cpu"))
    checkpoint.restore(fresh, tmp_path / "c.safetensors", "hash")
    assert torch.equal(torch.rand(4), expected[0])
    assert torch.equal(torch.rand(4, generator=fresh.generator), expected[1])
    assert fresh.optimizer.param_groups[0]["lr"] == expected[2] < TINY.learning_rate
    saved, restored = (s.optimizer.state_dict()["state"] for s in (state, fresh))
    assert saved.keys() == restored.keys()
    for index, values in saved.items():
        assert all(torch.equal(values[key], restored[index][key]) for key in values)


def state_with(network="3D U-Net"):
    return train.new_state(network, replace(TINY, width_divisor=16), 0, 10, torch.device("cpu"))


@pytest.mark.parametrize("change", [
    lambda header, tensors: header.pop("log"), lambda header, tensors: header.pop("settings"),
    lambda header, tensors: header.update(scheduler=None), lambda header,
    tensors: header["scheduler"].update(_last_lr=3),
    lambda header, tensors: tensors.pop("rng.data"),
    lambda header, tensors: tensors.pop(next(name for name in tensors if name.startswith("model."))),
    lambda header, tensors: tensors.update({"optimizer.9999.step": torch.zeros(())}),
    lambda header, tensors: tensors.update({"rng.cpu": torch.zeros(3)}),
    lambda header, tensors: tensors.update({"rng.cpu": tensors["rng.cpu"].flip(0)}),
    lambda header, tensors: header.update(order=None), lambda header, tensors: header.update(seconds=None),
    lambda header, tensors: tensors.update(losses=torch.zeros(3)),
    lambda header, tensors: tensors.update(losses=torch.zeros(())),
])
def test_a_checkpoint_in_which_something_is_missing_is_said_and_removed(change, tmp_path, capsys):
    path, state = tmp_path / "checkpoint.safetensors", state_with()
    checkpoint.save(state, path, "hash")
    with safetensors.safe_open(path, "pt") as stored:
        header = json.loads(stored.metadata()["state"])
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}
    change(header, tensors)
    checkpoint.write_tensors(tensors, path, {"state": json.dumps(header)})
    assert not checkpoint.restore(state_with(), path, "hash")
    assert "damaged checkpoint" in capsys.readouterr().err and not path.exists()


def test_after_a_damaged_checkpoint_training_is_that_from_the_start(cohort):
    settings = replace(TINY, epochs=1)
    first = runs.fit("3D U-Net", settings, 0, cohort)
    weights = file_hash(first / "weights.safetensors")
    for name in ("run.json", "weights.safetensors"):
        (first / name).unlink()
    path = first / "checkpoint.safetensors"
    with safetensors.safe_open(path, "pt") as stored:
        texts, tensors = stored.metadata(), {name: stored.get_tensor(name) for name in stored.keys()}
    checkpoint.write_tensors({name: tensor for name, tensor in tensors.items() if name != "rng.cpu"}, path,
                             texts)
    assert file_hash(runs.fit("3D U-Net", settings, 0, cohort) / "weights.safetensors") == weights


def test_a_checkpoint_of_another_network_is_said_and_removed(tmp_path, capsys):
    path = tmp_path / "checkpoint.safetensors"
    checkpoint.save(state_with("+LGAG"), path, "hash")
    assert not checkpoint.restore(state_with(), path, "hash")
    assert "damaged checkpoint" in capsys.readouterr().err and not path.exists()


def test_a_checkpoint_within_an_epoch_of_other_cases_is_refused(cohort):
    settings = replace(TINY, epochs=1)
    data = runs.data_hash(cohort, settings)
    folder = runs.run_folder("3D U-Net", settings, 0, data)
    state = train.new_state("3D U-Net", settings, 0, 4, torch.device("cpu"))
    state.order, state.losses = ["somebody", "else"], [torch.tensor(1.0)]
    checkpoint.save(state, folder / train.CHECKPOINT_FILE, runs.run_hash("3D U-Net", settings, data))
    with pytest.raises(InputError, match="names cases that are not trained on; remove it"):
        runs.fit("3D U-Net", settings, 0, cohort)


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    state = train.new_state("3D U-Net", TINY, 0, 40, torch.device("cpu"))
    path = tmp_path / "c.safetensors"
    checkpoint.save(state, path, "hash")
    with pytest.raises(InputError, match="belongs to other settings"):
        checkpoint.restore(state, path, "other")


@pytest.mark.parametrize("slices", [9, 16, 30])
def test_training_windows_have_the_networks_depth_and_hold_the_case(slices):
    image = np.arange(slices, dtype=np.float32)[:, None, None] * np.ones((1, 4, 4), np.float32)
    case = Prepared(image, (image > 3).astype(np.uint8), (1.0, 1.0, 1.0))
    for seed in range(20):
        x, m = train.window(case, 16, torch.Generator().manual_seed(seed))
        assert x.shape == m.shape == (1, 1, 16, 4, 4)
        values = x[0, 0, :, 0, 0].tolist()
        assert values == sorted(values)
        inside = [v for i, v in enumerate(values) if values.count(v) == 1 or values.index(v) == i]
        assert set(inside) <= set(range(slices))
        if slices >= 16:
            assert torch.equal(m[0, 0], (x[0, 0] > 3).to(torch.uint8))


def test_the_learning_rate_follows_its_schedule():
    assert [train.learning_rate_factor("constant", s, 10) for s in (0, 5, 10)] == [1, 1, 1]
    assert [round(train.learning_rate_factor("cosine", s, 10), 6) for s in (0, 5, 10)] == [1, 0.5, 0]


def test_scores_are_on_the_scans_grid_kept_per_case_and_refused_on_training_cases(cohort, compendium):
    folder = runs.fit("3D U-Net", replace(TINY, epochs=1), 0, cohort)
    table = score_run(folder, cohort)
    assert table["case"].tolist() == list(cohort.val)
    for _, row in table.iterrows():
        mask = read_volume(folder / "masks" / f"{row['case']}.nii.gz")
        truth = read_volume(cohort.cases[row["case"]].label)
        assert same_geometry(mask, truth)
        both = ((mask.array > 0) & (truth.array > 0)).sum()
        assert row["dice"] == pytest.approx(2 * both / ((mask.array > 0).sum() + (truth.array > 0).sum()))
    assert summary(table).loc["3D U-Net", "cases"] == len(cohort.val)
    assert load_model(folder).record["network"] == "3D U-Net"
    (folder / "scores.csv").unlink()
    write_json(cohort.root / "splits.json", {"train": cohort.val, "val": cohort.train})
    with pytest.raises(InputError, match="was trained on other data"):
        score_run(folder, load_cohort(cohort.root))


@pytest.mark.parametrize("network", ["MAG-UNet", "3D U-Net"])
def test_no_step_waits_for_a_device(network, monkeypatch):
    meta = torch.device("meta")                             # has no values: to ask for one raises
    monkeypatch.setattr(train, "autocast", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr("magunet.augment.AUGMENTATION_PROBABILITY", 1.0)
    mask = np.zeros((20, 32, 32), np.uint8)
    mask[5:9, 8:20, 10:20] = 1
    case = Prepared(np.zeros((20, 32, 32), np.float32), mask, (3.0, 2.0, 2.0))
    state = train.new_state(network, TINY, 0, 10, meta)
    for _ in range(2):
        train.train_step(state, case, TINY, meta, torch.float32)
    assert [loss.device for loss in state.losses] == [meta] * 2
