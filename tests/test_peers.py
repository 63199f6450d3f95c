"""The networks that MAG-UNet is compared with: what they are made of, on any grid, saved and read back; what
they compute in any precision is in test_fast.py."""

import json
from dataclasses import replace
from itertools import product

import monai.networks.nets  # noqa: F401 - takes seconds, which belong to no test
import numpy as np
import pytest
import safetensors.torch
import torch
from boxes import TINY, write_cohort
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from magunet import blocks, runs, train
from magunet.fast import Conv3d, accelerate, evaluate_by_input
from magunet.model import count_parameters
from magunet.peers.adapt import AnyGrid, sine_positions
from magunet.predict import load_model
from magunet.studies import NETWORKS, PEERS, build, build_on_meta, configuration

PARTS = {
    "3D V-Net": (45_597_509, {"BatchNorm3d", "PReLU"}),
    "ResUNet": (22_753_889, {"BatchNorm3d", "ReLU"}),
    "Attention UNet": (23_626_909, {"BatchNorm3d", "ReLU", "Sigmoid"}),
    "SegNet": (88_279_681, {"BatchNorm3d", "ReLU"}),
    "UNETR": (101_624_993, {"InstanceNorm3d", "LeakyReLU", "LayerNorm", "GELU"}),
    "DeepLabv3+": (49_445_297, {"BatchNorm3d", "ReLU"}),
    "nnU-Net": (30_452_097, {"InstanceNorm3d", "LeakyReLU"}),
    "MedNeXt": (10_510_817, {"GroupNorm", "GELU"}),
    "SegResNet": (18_795_969, {"GroupNorm", "ReLU"}),
    "SwinUNETR": (62_195_971, {"InstanceNorm3d", "LeakyReLU", "LayerNorm", "GELU"}),
    "TransUNet": (108_790_017, {"BatchNorm3d", "ReLU", "LayerNorm", "GELU"}),
}
"""The count at full width, and every normalisation and activation (softmax aside): a default of MONAI's would
show here."""


@pytest.mark.parametrize("name", PEERS)
def test_counts_normalisation_and_activation_are_those_stated_and_nothing_is_dropped_out(name):
    network = build_on_meta(name)
    kinds = {type(m).__name__ for m in network.modules() if not list(m.children())}
    found = {k for k in kinds if "Norm" in k or k.endswith(("LU", "Sigmoid", "Tanh"))}
    assert (count_parameters(network), found) == PARTS[name]
    assert not {m for m in network.modules() if isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0}


@pytest.mark.parametrize("name", NETWORKS)
def test_quick_layers_replace_torchs_own_and_all_code_of_ours_is_hashed(name):
    plain, quick = ({type(module) for module in network.modules()}
                    for network in (build_on_meta(name, 8), accelerate(build_on_meta(name, 8))))
    assert not quick & {nn.Conv3d, nn.ConvTranspose3d, nn.BatchNorm3d, nn.MaxPool3d, blocks.BatchNorm3d}
    assert Conv3d in quick
    ours = {kind.__module__ for kind in plain | quick if kind.__module__.startswith("magunet")}
    assert ours <= {module.__name__ for module in runs.CODE}
    assert runs.run_hash(name, TINY, "data", plain=True) != runs.run_hash(name, TINY, "data")


@pytest.mark.parametrize("name", PEERS)
def test_any_grid_is_kept_and_a_prediction_that_of_training_also_with_weights_read_back(name, tmp_path):
    """Whatever the scans were like that came before; the deepest map of the smallest grid is normalised."""
    torch.manual_seed(0)
    network, again, x = build(name, 32).train(), build(name, 32), torch.rand(1, 1, 17, 23, 31)
    with torch.no_grad():
        expected, smallest = network(x), network(5 + 100 * torch.randn(1, 1, 16, 16, 16))
        assert expected.shape == x.shape and smallest.shape == (1, 1, 16, 16, 16)
        assert expected.isfinite().all() and smallest.isfinite().all()
        # refuses one weight under two names
        safetensors.torch.save_file(network.state_dict(), tmp_path / "w.safetensors")
        again.load_state_dict(safetensors.torch.load_file(tmp_path / "w.safetensors"))
        evaluate_by_input(again)
        torch.testing.assert_close(again(x), expected)


def test_a_trained_peer_predicts_the_same_when_it_is_loaded(compendium, monkeypatch):
    states, original = [], train.train
    monkeypatch.setattr(train, "train", lambda *inputs: states.append(original(*inputs)) or states[0])
    tiny = replace(TINY, epochs=1, samples_per_case=1)
    cohort = write_cohort(compendium / "data" / "boxes", 3)
    folder = runs.fit("SegNet", tiny, 0, cohort)
    model = load_model(folder)
    image = np.random.default_rng(0).random((16, 32, 32), dtype=np.float32)
    expected = replace(model, network=states[0].network).probability(image)
    np.testing.assert_array_equal(model.probability(image), expected)
    record = json.loads((folder / "run.json").read_text())
    assert record["network"] == "SegNet" and record["config"] == configuration("SegNet", tiny.width_divisor)
    assert record["libraries"]["monai"] == configuration("UNETR", 1)["monai"]


# Any grid -----------------------------------------------------------------------------------------------

class Recorder(nn.Module):
    def forward(self, x):
        self.seen = x
        return x


# loading hypothesis is slow on a busy machine
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(sides=st.tuples(*[st.integers(16, 70)] * 3),
       multiple=st.sampled_from([(16, 16, 16), (32, 32, 32), (8, 32, 32)]))
def test_padding_continues_the_input_evenly_and_is_cut_off_again(sides, multiple):
    recorder = Recorder()
    x = torch.randn(1, 1, *sides)
    assert torch.equal(AnyGrid(recorder, *multiple)(x), x)
    seen = recorder.seen.shape[2:]
    assert all(n % m == 0 for n, m in zip(seen, multiple)) and seen != multiple
    before = [(n - s) // 2 for n, s in zip(seen, sides)]
    pad = [(0, 0), (0, 0), *((b, n - s - b) for b, n, s in zip(before, seen, sides))]
    np.testing.assert_array_equal(recorder.seen, np.pad(x, pad, mode="edge"))


def test_sine_positions_are_the_stated_formula_and_do_not_depend_on_the_grid():
    small, large = (sine_positions(torch.empty(1, 24, *grid))[0].reshape(*grid, 24)
                    for grid in ((2, 3, 4), (3, 4, 5)))
    torch.testing.assert_close(small, large[:2, :3, :4])
    for z, y, x in product(range(2), range(3), range(4)):
        angles = [n / 1e4 ** (k / 3) for n in (z, y, x) for k in range(4)]
        np.testing.assert_allclose(small[z, y, x], [*np.sin(angles), *np.cos(angles)], atol=1e-6)
    assert len(large.reshape(-1, 24).unique(dim=0)) == 60
