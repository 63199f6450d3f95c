"""Training learns and repeats itself bit for bit; what it survives is in test_faults.py."""

import contextlib
import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import safetensors
import torch
from boxes import TINY, write_cohort
from conftest import refused

from compendium.fits import fit_all
from compendium.grid import study_rows
from magunet import checkpoint, losses, runs, train
from magunet.base.errors import InputError
from magunet.base.provenance import file_hash, read_json, write_json
from magunet.cohort import load_cohort
from magunet.metrics import overlap
from magunet.model import MAGUNetConfig
from magunet.predict import load_model
from magunet.prepare import Prepared
from magunet.studies import NETWORKS, build, variant
from magunet.volume import read_volume, write_volume

SHORT = replace(TINY, epochs=1, samples_per_case=1)


@pytest.fixture
def cohort(compendium):
    return write_cohort(compendium / "data" / "boxes")


def weights_of(folder):
    return file_hash(folder / "weights.safetensors")


def test_one_volume_can_be_learnt_by_heart():
    torch.manual_seed(1)
    mask = torch.zeros(1, 1, 16, 16, 16)
    mask[..., 4:12, 3:11, 5:13] = 1
    image = mask + 0.3 * torch.randn_like(mask)
    network = build("MAG-UNet", width_divisor=8)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        losses.dice_ce_loss(network(image), mask).backward()
        optimizer.step()
    assert overlap(network.train()(image) > 0, mask).dice > 0.99


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_starts_at_the_log_odds_of_the_target(network):
    """The bias alone is moved: the logits before and after differ by one number everywhere."""
    torch.manual_seed(0)
    net, image = build(network, 8).eval(), torch.rand(1, 1, 32, 64, 64)
    with torch.no_grad():
        train.start_at_share(net, 0.5)
        even = net(image)
        train.start_at_share(net, 0.01)
        assert torch.allclose(even - net(image), torch.tensor(np.log(99.0)).float(), atol=1e-3)


def test_training_lowers_the_loss_follows_its_schedule_and_records_what_it_did(run):
    log = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [entry["epoch"] for entry in log] == list(range(1, TINY.epochs + 1))
    assert log[-1]["loss"] < 0.95 * log[0]["loss"]
    assert log[0]["learning_rate"] == TINY.learning_rate > log[-1]["learning_rate"] > 0
    for schedule, warmup_steps, expected in (("constant", 0, [1, 1, 1]), ("cosine", 0, [1, 0.5, 0]), (
            "constant", 3, [0.25, 1, 1]), ("cosine", 7, [1 / 8, 0.5 * 6 / 8, 0])):
        settings = replace(TINY, schedule=schedule, warmup_steps=warmup_steps)
        factors = [train.learning_rate_factor(settings, step, 10) for step in (0, 5, 10)]
        assert factors == pytest.approx(expected), settings
    record, cohort = read_json(run / "run.json"), load_cohort(run.parents[1] / "data" / "boxes")
    assert record["outputs"]["weights.safetensors"] == weights_of(run)
    assert record["train"] == list(cohort.train) and record["val"] == list(cohort.val)
    assert {"git", "data_hash", "settings_hash", "libraries", "device", "peak_memory_mb", "seconds",
            "precision"} <= {key for key, value in record.items() if value is not None}


def test_same_seed_same_weights_and_another_seed_others(cohort, compendium):
    settings = replace(SHORT, epochs=2)
    first = runs.fit("MAG-UNet", settings, 3, cohort).rename(compendium / "put-aside")
    again, other = (runs.fit("MAG-UNet", settings, seed, cohort) for seed in (3, 4))
    assert again != first and weights_of(again) == weights_of(first) != weights_of(other)


def test_a_run_leaves_the_callers_random_numbers_alone_and_is_not_trained_again(cohort, monkeypatch):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    folder = runs.fit("3D U-Net", SHORT, 0, cohort)
    assert torch.equal(torch.rand(3), expected)
    monkeypatch.setattr(runs.train, "train", lambda *_: pytest.fail("trained again"))
    assert runs.fit("3D U-Net", SHORT, 0, cohort) == folder == runs.fit(variant("3D U-Net"), SHORT, 0, cohort)


def test_a_network_of_ones_own_is_trained_and_loaded_by_its_name_and_is_a_row_of_a_table(cohort):
    config, name = MAGUNetConfig(mff_kernels=(1, 5), attention="none"), "own attention=none mff_kernels=1,5"
    (folder,) = fit_all([config], SHORT, cohort)[config]
    model = load_model(folder)
    assert model.record["network"] == name and model.network.config == variant(config, SHORT.width_divisor)
    assert runs.fit(name, SHORT, 0, cohort) == folder
    assert [row.network for row in study_rows(3, {name})[-2:]] == ["[3,5,7]", name]


def test_the_validation_cases_choose_nothing(cohort, compendium, monkeypatch):
    """Whatever the validation curve says, the weights are those of the last epoch."""
    hashes = []
    for curve in ((0.9, 0.1, 0.1), (0.1, 0.1, 0.9)):
        answers = iter(curve)
        monkeypatch.setattr(train, "validation_dice", lambda *_, answers=answers: next(answers))
        folder = runs.fit("3D U-Net", replace(SHORT, epochs=3), 0, cohort)
        hashes.append(weights_of(folder.rename(compendium / f"put-aside-{curve[0]}")))
    assert hashes[0] == hashes[1]


def test_the_learning_curve_is_of_ten_cases_at_most_from_the_first_to_the_last(compendium, monkeypatch):
    cohort, curves = write_cohort(compendium / "data" / "boxes", 24), []
    write_json(cohort.root / "splits.json", {"train": ["box_0"], "val": [f"box_{n}" for n in range(1, 24)]})
    monkeypatch.setattr(train, "validation_dice", lambda _, cases, *__: curves.append(cases) or 0.5)
    for val in (cohort.cases.keys() - {"box_0"}, ("box_1", "box_2", "box_3")):
        val = sorted(val, key=lambda name: int(name[4:]))
        write_json(cohort.root / "splits.json", {"train": ["box_0"], "val": val})
        record = read_json(runs.fit("3D U-Net", SHORT, 0, load_cohort(cohort.root)) / "run.json")
        assert record["val"] == val                                             # all of which are scored
    assert [*curves[1]] == ["box_1", "box_2", "box_3"]
    assert (len(curves[0]), next(iter(curves[0])), [*curves[0]][-1]) == (10, "box_1", "box_23")
    other = cohort.cases[min(cohort.cases.keys() - {"box_0", *curves[0]})]
    write_volume(read_volume(other.label).with_array(np.zeros((20, 32, 32), np.uint8)), other.label)
    write_json(cohort.root / "splits.json", {"train": ["box_0"], "val": [*curves[0], other.name, "box_2"]})
    refused(lambda: runs.fit("3D U-Net", SHORT, 0, load_cohort(cohort.root)), other.label.name, "is empty")


def test_one_network_that_fails_does_not_stop_the_others_but_wrong_input_does(cohort, monkeypatch, capsys):
    def fit(network, settings, seed, *_, **__):
        if network == "MAGUNet":
            raise InputError("unknown network")
        return network, seed / (network != "+ECA")

    monkeypatch.setattr(runs, "fit", fit)
    settings = replace(SHORT, seeds=[0, 1])
    found = fit_all(["3D U-Net", "+ECA", "+SE"], settings, cohort)
    assert found == {name: [(name, 0), (name, 1)] for name in ("3D U-Net", "+SE")}
    assert "failed: +ECA: division by zero" in capsys.readouterr().err
    refused(lambda: fit_all(["3D U-Net", "MAGUNet"], settings, cohort), "unknown network")


def test_changed_data_or_another_split_is_another_run(cohort):
    """Settings: test_properties.py."""
    hashes, mask = [runs.data_hash(cohort, SHORT)], cohort.cases[cohort.train[0]].label
    mask.write_bytes(mask.read_bytes() + b"more")
    hashes.append(runs.data_hash(cohort, SHORT))
    write_json(cohort.root / "splits.json", {"train": cohort.val, "val": cohort.train})
    hashes.append(runs.data_hash(load_cohort(cohort.root), SHORT))
    assert len({runs.run_folder("3D U-Net", SHORT, seed, data) for data in hashes for seed in (0, 1)}) == 6


# Checkpoints --------------------------------------------------------------------------------------------
def new_state(network="3D U-Net", seed=0):
    return train.new_state(network, TINY, seed, 40, torch.device("cpu"))


def read(path):
    """The texts and tensors of a safetensors file."""
    with safetensors.safe_open(path, "pt") as stored:
        return stored.metadata(), {name: stored.get_tensor(name) for name in stored.keys()}


def test_a_checkpoint_restores_optimiser_scheduler_and_random_states_but_no_other_settings(tmp_path):
    state, path = new_state(), tmp_path / "c.safetensors"
    for _ in range(3):
        state.network(torch.randn(1, 1, 16, 16, 16)).mean().backward()
        state.optimizer.step(), state.scheduler.step()
    torch.rand(5, generator=state.generator)
    checkpoint.save(state, path, "hash")
    expected = torch.rand(4), torch.rand(4, generator=state.generator), state.optimizer.param_groups[0]["lr"]
    fresh = new_state(seed=99)
    checkpoint.restore(fresh, path, "hash")
    assert torch.equal(torch.rand(4), expected[0])
    assert torch.equal(torch.rand(4, generator=fresh.generator), expected[1])
    assert fresh.optimizer.param_groups[0]["lr"] == expected[2] < TINY.learning_rate
    saved, restored = (s.optimizer.state_dict()["state"] for s in (state, fresh))
    assert saved.keys() == restored.keys()
    for index, values in saved.items():
        assert all(torch.equal(values[key], restored[index][key]) for key in values), index
    refused(lambda: checkpoint.restore(state, path, "other"), "belongs to other settings")


GONE, ZERO = object(), torch.zeros(())
DAMAGE = [({"log": GONE}, {}), ({"settings": GONE}, {}), ({"scheduler": None}, {}), ({"order": None}, {}),
          ({"scheduler": {"_last_lr": 3}}, {}), ({"seconds": None}, {}), ({}, {"rng.data": GONE}),
          ({}, {"model.head.bias": GONE}), ({}, {"optimizer.9999.step": ZERO}), ({}, {"rng.cpu": ZERO}),
          ({}, {"rng.cpu": torch.arange(5056).byte()}), ({}, {"losses": torch.zeros(3)}),
          ({}, {"losses": ZERO})]
"""Changes of the header and of the tensors; losses are of no window."""


def test_a_checkpoint_that_misses_something_or_is_of_another_network_is_said_and_not_used(tmp_path, capsys):
    path = tmp_path / "checkpoint.safetensors"
    for network, changes in (*(("3D U-Net", pair) for pair in DAMAGE), ("+LGAG", ({}, {}))):
        checkpoint.save(new_state(network), path, "hash")
        texts, tensors = read(path)
        header, tensors = ({name: value for name, value in {**stored, **change}.items() if value is not GONE}
                           for stored, change in zip((json.loads(texts["state"]), tensors), changes))
        checkpoint.write_tensors(tensors, path, {"state": json.dumps(header)})
        assert not checkpoint.restore(new_state(), path, "hash"), (network, changes)
        assert "damaged checkpoint" in capsys.readouterr().err and path.exists(), (network, changes)


def test_after_a_damaged_checkpoint_training_is_that_from_the_start_and_one_of_other_cases_is_refused(cohort):
    first = runs.fit("3D U-Net", SHORT, 0, cohort)
    weights, path = weights_of(first), first / "checkpoint.safetensors"
    texts, tensors = read(path)
    del tensors["rng.cpu"]
    (first / "run.json").unlink()
    checkpoint.write_tensors(tensors, path, texts)
    assert weights_of(runs.fit("3D U-Net", SHORT, 0, cohort)) == weights
    state = new_state()
    state.order, state.losses = ["somebody", "else"], [torch.tensor(1.0)]
    (first / "run.json").unlink()
    checkpoint.save(state, path, json.loads(texts["state"])["settings"])
    refused(lambda: runs.fit("3D U-Net", SHORT, 0, cohort),
            "names cases that are not trained on; remove it")


# Steps --------------------------------------------------------------------------------------------------
class Parts(torch.nn.Module):
    """A kernel, its bias, a normalisation, and a kernel that is left alone."""

    def __init__(self):
        super().__init__()
        self.kernel, self.norm, self.free = (torch.nn.Conv3d(1, 2, 3), torch.nn.BatchNorm3d(2),
                                             torch.nn.Conv3d(2, 1, 1))
        self.free.undecayed = True


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_decay_is_kingmas_or_of_kernels_alone_and_never_of_undecayed_modules(optimizer):
    """Two steps by hand: Kingma, Ba 2015, decay in the gradient; Loshchilov, Hutter 2019, beside it."""
    settings = replace(TINY, optimizer=optimizer, weight_decay=0.3)
    torch.manual_seed(0)
    network = Parts()
    stepper = train.optimizer_of(network, settings, 0.1)
    for name, p in network.named_parameters():
        decay = 0.3 * (not name.startswith("free") and (optimizer == "adam" or name == "kernel.weight"))
        start, gradients = p.detach().double().clone(), torch.randn(2, *p.shape, dtype=torch.float64)
        expected, m, v = start, 0, 0
        for step, gradient in enumerate(gradients, 1):
            coupled = gradient + decay * expected if optimizer == "adam" else gradient
            m, v = 0.9 * m + 0.1 * coupled, 0.999 * v + 0.001 * coupled**2
            shrunk = expected * (1 - 0.1 * decay) if optimizer == "adamw" else expected
            expected = shrunk - 0.1 * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
            stepper.zero_grad()
            p.grad = gradient.float()
            stepper.step()
        torch.testing.assert_close(p.detach().double(), expected, rtol=1e-4, atol=1e-5, msg=name)


def test_gradients_together_are_no_longer_than_clip_norm(monkeypatch):
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self, closure=None: lengths.append(float(torch.cat(
        [p.grad.ravel() for group in self.param_groups for p in group["params"]]).norm())))
    lengths, shape = [], (16, 32, 32)
    case = Prepared(np.zeros(shape, np.float32), np.ones(shape, np.uint8), (1, 1, 1))
    for clip_norm in (None, 1e-3):
        settings = replace(TINY, clip_norm=clip_norm)
        state = train.new_state("3D U-Net", settings, 0, 10, torch.device("cpu"))
        train.train_step(state, case, settings, torch.device("cpu"), torch.float32)
    assert lengths[1] == pytest.approx(1e-3, rel=1e-3) and lengths[0] > 1e-2


def test_boxes_move_by_the_margin_in_training_and_the_joints_are_in_the_middle():
    image = np.arange(18 * 20 * 22, dtype=np.float32).reshape(18, 20, 22)
    case, shape = Prepared(image, (image > 40).astype(np.uint8), (1.0, 1.0, 1.0)), (16, 18, 20)
    starts = set()
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        x, mask = (part[0, 0].numpy() for part in train.window(case, shape, generator))
        start = np.unravel_index(int(x[0, 0, 0]), image.shape)
        box = tuple(slice(first, first + n) for first, n in zip(start, shape))
        assert np.array_equal(x, image[box]) and np.array_equal(mask, case.mask[box]), seed
        starts.add(tuple(map(int, start)))
    assert starts == set(itertools.product(range(3), repeat=3))
    assert np.array_equal(train.middle(case, shape).image, image[1:17, 1:19, 1:21])
    assert np.array_equal(train.middle(case, (30, 18, 20)).mask, case.mask[:, 1:19, 1:21])


def test_training_windows_are_all_runs_of_slices_and_short_cases_are_padded():
    for slices, windows in ((9, [(0, 0, 0, *range(9), 8, 8, 8, 8)]), (16, [range(16)]),
                            (20, [range(start, start + 16) for start in range(5)])):
        image = np.broadcast_to(np.arange(slices, dtype=np.float32)[:, None, None], (slices, 4, 4))
        found = set()
        case = Prepared(image, (image > 3).astype(np.uint8), (1.0, 1.0, 1.0))
        for seed in range(40):
            x, m = train.window(case, (16, 4, 4), torch.Generator().manual_seed(seed))
            assert x.shape == m.shape == (1, 1, 16, 4, 4), (slices, seed)
            assert (m.sum() == 5 * 16) if slices == 9 else torch.equal(m, (x > 3).to(torch.uint8)), seed
            found.add(tuple(x[0, 0, :, 0, 0].tolist()))
        assert found == {tuple(window) for window in windows}, slices


def test_scaled_gradients_make_the_same_steps_an_overflow_none_and_the_scale_is_kept(monkeypatch, tmp_path):
    """Both in float32, where a scale of a power of two changes nothing but what overflows."""
    mask = np.zeros((20, 32, 32), np.uint8)
    mask[5:9, 8:20, 10:20] = 1
    case, cpu = Prepared(mask.astype(np.float32), mask, (3.0, 2.0, 2.0)), torch.device("cpu")
    settings, states = replace(TINY, clip_norm=0.5), []
    for kind in (torch.float32, torch.float16):
        monkeypatch.setattr(train, "choose_precision", lambda *_, kind=kind: kind)
        states.append(train.new_state("3D U-Net", settings, 0, 10, cpu))
        for _ in range(2):
            train.train_step(states[-1], case, settings, cpu, torch.float32)
    plain, scaled = states
    assert not plain.scaler.state_dict() and scaled.scaler.get_scale() == 2**16
    weights = [p.detach().clone() for p in scaled.network.parameters()]
    for ours, theirs in zip(weights, plain.network.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-6, atol=1e-7)
    scaled.scaler.update(2.0**127)
    monkeypatch.setattr(train.losses, "dice_ce_loss", lambda logits, target: 1e3 * logits.mean())
    train.train_step(scaled, case, settings, cpu, torch.float32)
    assert scaled.scaler.get_scale() == 2.0**126
    assert all(map(torch.equal, weights, scaled.network.parameters()))
    scaled.losses.clear()
    checkpoint.save(scaled, tmp_path / "c.safetensors", "hash")
    fresh = train.new_state("3D U-Net", settings, 1, 10, cpu)
    assert checkpoint.restore(fresh, tmp_path / "c.safetensors", "hash")
    assert fresh.scaler.state_dict() == scaled.scaler.state_dict()


def test_no_step_waits_for_a_device(monkeypatch):
    meta = torch.device("meta")                             # has no values: to ask for one raises
    monkeypatch.setattr(train, "autocast", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr("magunet.augment.AUGMENTATION_PROBABILITY", 1.0)
    mask = np.zeros((20, 32, 32), np.uint8)
    mask[5:9, 8:20, 10:20] = 1
    case = Prepared(np.zeros((20, 32, 32), np.float32), mask, (3.0, 2.0, 2.0))
    state = train.new_state("MAG-UNet", TINY, 0, 10, meta)
    for _ in range(2):
        train.train_step(state, case, TINY, meta, torch.float32)
    assert [loss.device for loss in state.losses] == [meta] * 2
