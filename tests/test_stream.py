"""Training on phantoms that are made meanwhile: which step sees which, and the same weights after an end."""

from concurrent.futures import Future
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from test_prepare import ball_scan

from magunet.base import profiles
from magunet.base.provenance import read_json
from magunet.predict import RECORD_FILE, WEIGHTS_FILE, load_model
from magunet.volume import same_geometry
from workflow import stream
from workflow.weights import ship

SETTINGS = replace(profiles.load("weights"), voxel_mm=6.0, depth=16, size=16, width_divisor=32, cases=9,
                   cohort_seed=7, precision="float32", scan_matrix=32)


class AtOnce:
    """Does what it is asked in this process, at once."""

    def __init__(self, *_):
        self.made = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, call, settings, seed, varied, path):
        call(settings, seed, varied, path)
        self.made.append(seed)
        (done := Future()).set_result(None)
        return done

    def shutdown(self, **_):
        pass


@pytest.fixture
def quick(compendium, monkeypatch):
    """Blocks of four steps, lines of the log of three, balls in place of phantoms."""
    for name, value in (("BLOCK", 4), ("REPORT", 3), ("START", 2), ("ProcessPoolExecutor", AtOnce),
                        ("PART", 99), ("make_phantom", lambda seed, **_: 10.0 + seed % 7)):
        monkeypatch.setattr(stream, name, value)
    monkeypatch.setattr(stream.cohort, "phantom_scan", lambda radius: ball_scan(radius=radius))
    return compendium


def test_each_phantom_is_seen_as_often_as_the_settings_say_and_then_forgotten(quick, tmp_path):
    pool = AtOnce()
    phantoms = stream.Stream(SETTINGS, False, tmp_path, pool)
    seen = []
    for step in range(16):
        image = phantoms.at(step).image
        seen.append(phantoms.seeds(step // 4)[step % 4])
        ball = stream.prepare.prepare(*ball_scan(radius=10.0 + seen[-1] % 7), SETTINGS)
        np.testing.assert_array_equal(image, ball.image.astype(np.float16))
        kept = {int(path.stem) for path in tmp_path.glob("*.safetensors")}
        needed = {*phantoms.seeds(step // 4)[step % 4:], *phantoms.seeds(step // 4 + 1)}
        assert needed <= kept and len(kept) <= 5
    assert sorted(seen) == sorted(2 * list(range(7, 15))) and sorted(pool.made) == list(range(7, 17))
    assert seen != sorted(seen)


def test_a_training_that_was_ended_goes_on_to_the_same_weights_and_a_finished_one_is_taken(
        quick, monkeypatch, capsys):
    def watched(network):
        return 0.5

    whole = stream.learn("[1]", SETTINGS, watched)
    weights, record = (whole / WEIGHTS_FILE).read_bytes(), read_json(whole / RECORD_FILE)
    assert [line["step"] for line in record["log"]] == [3, 6, 9, 12, 15, 16] and record["steps"] == 16
    assert record["train"] == ["phantoms of seeds 7 to 14"]
    assert stream.learn("[1]", SETTINGS, lambda network: 1 / 0) == whole
    (whole / RECORD_FILE).unlink(), (whole / "checkpoint.safetensors").unlink()
    step, number = stream.train.train_step, iter(range(99))
    monkeypatch.setattr(stream.train, "STEP_SECONDS", -1)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        def interrupted(*words):
            if next(number) == 7:
                raise KeyboardInterrupt
            step(*words)
        patched.setattr(stream.train, "train_step", interrupted)
        stream.learn("[1]", SETTINGS, watched)
    assert not (whole / RECORD_FILE).exists()
    torch.manual_seed(99)
    assert stream.learn("[1]", SETTINGS, watched) == whole and "from step 7 of 16" in capsys.readouterr().err
    assert (whole / WEIGHTS_FILE).read_bytes() == weights
    assert read_json(whole / RECORD_FILE)["log"] == record["log"]
    assert load_model(whole).record["pixel_mm"] == 6.0


def test_a_training_that_goes_on_from_weights_begins_with_them_and_every_second_pelvis_is_varied(
        quick, monkeypatch):
    first, pelvises, begun = stream.learn("[1]", SETTINGS, lambda network: 0.5), {}, []
    step, add = stream.train.train_step, pelvises.setdefault
    monkeypatch.setattr(stream, "make_phantom", lambda seed, bones, **_: add(seed, bones) or 15.0)
    monkeypatch.setattr(stream, "parametric_pelvis", lambda seed, spacing, varied: 10.0 * varied)

    def spy(state, *words):
        begun.append({name: tensor.clone() for name, tensor in state.network.state_dict().items()})
        step(state, *words)
    monkeypatch.setattr(stream.train, "train_step", spy)
    ship(first, half := first / "half")
    then = stream.learn("[1]", replace(SETTINGS, cohort_seed=107), lambda network: 0.5, start=half)
    weights = safetensors.torch.load_file(half / WEIGHTS_FILE)
    assert weights.keys() == begun[0].keys() and len(begun) == 16
    assert all(torch.equal(tensor.to(begun[0][name]), begun[0][name]) for name, tensor in weights.items())
    assert then != first and read_json(then / RECORD_FILE)["start"] == read_json(half / RECORD_FILE)
    assert pelvises == {seed: 10.0 if seed % 2 else None for seed in range(107, 117)}


def test_the_locator_sees_parts_too_with_their_masks_also_without_a_joint(quick, tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "PART", 2)
    shares, cuts = [], set()
    for seed in range(40):
        scan, mask = ball_scan(radius=10.0 + seed % 7)
        stream.make(SETTINGS, seed, False, path := tmp_path / f"{seed}.safetensors")
        prepared = safetensors.numpy.load_file(path)
        whole = stream.prepare.prepare(scan, mask, SETTINGS)
        if seed % 2:
            assert np.array_equal(prepared["mask"], whole.mask)
            continue
        (shown, target), again = stream.a_part(seed, scan, mask), stream.a_part(seed, scan, mask)
        assert np.array_equal(shown.array, again[0].array) and same_geometry(shown, target)
        first = np.subtract(shown.origin, scan.origin)[::-1] / scan.spacing
        box = tuple(slice(start, start + n) for start, n in zip(first.round().astype(int), shown.array.shape))
        assert np.array_equal(shown.array, scan.array[box]) and np.array_equal(target.array, mask.array[box])
        assert np.array_equal(prepared["mask"], stream.prepare.prepare(shown, target, SETTINGS).mask)
        shares.append(shown.array.size / scan.array.size)
        (axis,) = np.flatnonzero(np.not_equal(shown.array.shape, scan.array.shape))
        cuts.add((int(axis), bool(first[axis] > 0)))
    assert 0.2 < min(shares) < 0.4 and 0.6 < max(shares) < 0.8
    assert cuts == {(0, False), (0, True), (2, False), (2, True)}


def test_phantoms_of_a_profile_have_protocols_of_their_own():
    for profile, (low, high) in stream.FIELDS_MM.items():
        settings = profiles.load(profile)
        fields = [settings.scan_matrix * stream.options(settings, seed)["protocol"].pixel_mm[0]
                  for seed in range(200)]
        assert low <= min(fields) < low + 20 and high - 20 < max(fields) <= high
        assert stream.options(settings, 3) == stream.options(settings, 3)
