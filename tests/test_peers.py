"""The networks that MAG-UNet is compared with: what they compute, on any grid, in any precision, saved and
read back."""

import copy
import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import safetensors.torch
import torch
from boxes import TINY, write_cohort
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from magunet import blocks, runs, studies, train
from magunet.base.device import autocast, has_bfloat16
from magunet.fast import Conv3d, ConvTranspose3d, accelerate, evaluate_by_input
from magunet.model import count_parameters
from magunet.peers.adapt import AnyGrid, sine_positions
from magunet.predict import load_model
from magunet.studies import PEERS, build, build_on_meta, configuration

CPU = torch.device("cpu")
needs_bfloat16 = pytest.mark.skipif(not has_bfloat16(CPU), reason="this processor has no bfloat16 arithmetic")
COUNTS = {"3D V-Net": 45_597_509, "ResUNet": 22_753_889, "Attention UNet": 23_626_909, "SegNet": 88_279_681,
          "UNETR": 101_624_993, "DeepLabv3+": 49_445_297, "nnU-Net": 30_452_097, "MedNeXt": 10_510_817,
          "SegResNet": 18_795_969, "SwinUNETR": 62_195_971, "TransUNet": 108_790_017}
LAYERS = {
    "3D V-Net": {"BatchNorm3d", "PReLU"},
    "ResUNet": {"BatchNorm3d", "ReLU"},
    "Attention UNet": {"BatchNorm3d", "ReLU", "Sigmoid"},
    "SegNet": {"BatchNorm3d", "ReLU"},
    "UNETR": {"InstanceNorm3d", "LeakyReLU", "LayerNorm", "GELU"},
    "DeepLabv3+": {"BatchNorm3d", "ReLU"},
    "nnU-Net": {"InstanceNorm3d", "LeakyReLU"},
    "MedNeXt": {"GroupNorm", "GELU"},
    "SegResNet": {"GroupNorm", "ReLU"},
    "SwinUNETR": {"InstanceNorm3d", "LeakyReLU", "LayerNorm", "GELU"},
    "TransUNet": {"BatchNorm3d", "ReLU", "LayerNorm", "GELU"},
}
"""Every normalisation and activation of each network (softmax aside): a default of MONAI's would show
here."""


def dirty_memory():
    """Leave NaN where the next tensors will lie, so that code which reads what it never wrote shows it."""
    held = [torch.full((n,), float("nan"), dtype=torch.bfloat16) for n in 4 ** np.arange(3, 11)
            for _ in range(4)]
    del held


def gradients(network, x, precision):
    network.zero_grad()
    dirty_memory()
    with autocast(CPU, precision):
        out = network(x.contiguous(memory_format=torch.channels_last_3d))
    out.float().square().mean().backward()
    return {name: p.grad for name, p in network.named_parameters()}


# Every peer


@pytest.mark.parametrize("name", PEERS)
def test_counts_at_full_width(name):
    assert count_parameters(build_on_meta(name)) == COUNTS[name]


@pytest.mark.parametrize("name", PEERS)
def test_every_width_builds_and_counts_alike_on_the_meta_device(name):
    counts = []
    for divisor in (3, 4, 5, 8, 13, 32):
        counts.append(count_parameters(build_on_meta(name, divisor)))
    assert count_parameters(build(name, divisor)) == counts[-1]
    assert counts == sorted(counts, reverse=True) and counts[0] < COUNTS[name]


@pytest.mark.parametrize("name", PEERS)
def test_normalisation_and_activation_are_those_stated(name):
    kinds = {type(m).__name__ for m in build(name, 8).modules() if not list(m.children())}
    assert {k for k in kinds if "Norm" in k or k.endswith(("LU", "Sigmoid", "Tanh"))} == LAYERS[name]
    assert not {m for m in build(name, 8).modules() if isinstance(m, nn.modules.dropout._DropoutNd)
                and m.p > 0}


@pytest.mark.parametrize("name", PEERS)
def test_torchs_own_layers_are_replaced_by_quick_ones(name):
    kinds = {type(m) for m in accelerate(build(name, 8)).modules()}
    assert not kinds & {nn.Conv3d, nn.ConvTranspose3d, nn.BatchNorm3d, nn.MaxPool3d, blocks.BatchNorm3d}
    assert Conv3d in kinds


@pytest.mark.parametrize("name", PEERS)
def test_any_grid_is_kept_in_training_and_evaluation(name):
    torch.manual_seed(0)
    network = build(name, 32)
    for size, training in (((16, 16, 16), True), ((17, 23, 31), False), ((16, 40, 18), True)):
        out = network.train(training)(torch.randn(1, 1, *size))
        assert out.shape == (1, 1, *size) and out.isfinite().all(), size


@pytest.mark.parametrize("precision", [torch.float32, pytest.param(torch.bfloat16, marks=needs_bfloat16)])
@pytest.mark.parametrize("name", PEERS)
def test_every_parameter_gets_a_finite_gradient(name, precision):
    torch.manual_seed(0)
    network = accelerate(build(name, 16)).to(memory_format=torch.channels_last_3d)
    for parameter, gradient in gradients(network, torch.rand(1, 1, 17, 23, 31), precision).items():
        assert gradient is not None and gradient.isfinite().all(), parameter
        if not parameter.endswith("bias"):      # one before a normalisation cannot change the output
            assert gradient.abs().max() > 0, parameter


@needs_bfloat16
@pytest.mark.parametrize("name", PEERS)
def test_bfloat16_weight_gradients_are_right_in_every_convolution(name):
    """Each beside the float32 gradient of the same convolution from the same input and the same gradient
    behind it."""
    torch.manual_seed(0)
    network, met = accelerate(build(name, 16)).to(memory_format=torch.channels_last_3d), {}

    def note(conv, inputs, out):
        met[conv] = [inputs[0].detach()]
        out.register_hook(met[conv].append)

    for module in network.modules():
        if isinstance(module, Conv3d | ConvTranspose3d):
            module.register_forward_hook(note)
    gradients(network, torch.rand(1, 1, 16, 23, 31), torch.bfloat16)
    for conv, (x, behind) in met.items():
        exact, = torch.autograd.grad(conv(x.float()), conv.weight, behind.float())
        # may nearly cancel
        summed, = torch.autograd.grad(conv(x.float().abs()), conv.weight, behind.float().abs())
        bound = 0.02 * exact.norm() + 1e-3 * summed.norm()
        assert (conv.weight.grad - exact).norm() <= bound, (conv, x.shape)


@pytest.mark.parametrize("name", PEERS)
def test_memory_layout_changes_nothing_and_bfloat16_no_more_than_noise_of_one_rounding(name):
    torch.manual_seed(0)
    network, x = accelerate(build(name, 8)), torch.rand(1, 1, 16, 20, 33)
    evaluate_by_input(network)
    last = copy.deepcopy(network).to(memory_format=torch.channels_last_3d)
    with torch.inference_mode():
        full, noisy = network(x), network(x + 2**-9 * torch.randn_like(x))
        torch.testing.assert_close(last(x.contiguous(memory_format=torch.channels_last_3d)), full, atol=1e-3,
                                   rtol=1e-3)
        if has_bfloat16(CPU):
            with autocast(CPU, torch.bfloat16):
                half = last(x.contiguous(memory_format=torch.channels_last_3d)).float()
            error, noise = ((torch.sigmoid(full) - torch.sigmoid(other)).abs().mean()
                            for other in (half, noisy))
            assert error < 3 * noise < 0.2


@pytest.mark.parametrize("name", PEERS)
def test_prediction_is_that_of_training_whatever_other_scans_were_like(name):
    torch.manual_seed(0)
    network, x = build(name, 32), torch.rand(1, 1, 16, 24, 32)
    with torch.no_grad():
        expected = network.train()(x)
        network(5 + 100 * torch.randn(1, 1, 16, 24, 32))
        evaluate_by_input(network)
        torch.testing.assert_close(network(x), expected)


@pytest.mark.parametrize("name", PEERS)
def test_weights_are_stored_once_and_read_back(name, tmp_path):
    torch.manual_seed(0)
    first, second = build(name, 32).eval(), build(name, 32).eval()
    # refuses one weight under two names
    safetensors.torch.save_file(first.state_dict(), tmp_path / "w.safetensors")
    second.load_state_dict(safetensors.torch.load_file(tmp_path / "w.safetensors"))
    x = torch.rand(1, 1, 16, 24, 32)
    with torch.inference_mode():
        assert torch.equal(first(x), second(x))


# Runs


@pytest.mark.parametrize("name", ["nnU-Net", "SegNet"])
def test_a_trained_peer_predicts_the_same_when_it_is_loaded(name, compendium, monkeypatch):
    states, original = [], train.train
    monkeypatch.setattr(train, "train", lambda *inputs: states.append(original(*inputs)) or states[0])
    tiny = replace(TINY, epochs=1, samples_per_case=1)
    cohort = write_cohort(compendium / "data" / "boxes", 3)
    folder = runs.fit(name, tiny, 0, cohort)
    model = load_model(folder)
    image = np.random.default_rng(0).random((16, 32, 32), dtype=np.float32)
    expected = replace(model, network=states[0].network).probability(image)
    np.testing.assert_array_equal(model.probability(image), expected)
    record = json.loads((folder / "run.json").read_text())
    assert record["network"] == name and record["config"] == configuration(name, tiny.width_divisor)
    assert record["libraries"]["monai"] == configuration("UNETR", 1)["monai"]
    monkeypatch.setattr(train, "train", lambda *_: pytest.fail("trained again"))
    assert runs.fit(name, tiny, 0, cohort) == folder


@pytest.mark.parametrize("name", studies.NETWORKS)
def test_the_hashed_code_of_a_network_is_complete(name):
    """Whatever of magunet a network has is hashed."""
    code = {module.__name__ for module in runs.CODE}
    kinds = {type(module) for network in (build_on_meta(name), accelerate(build_on_meta(name)))
             for module in network.modules()}
    assert {kind.__module__ for kind in kinds if kind.__module__.startswith("magunet")} <= code
    assert runs.run_hash(name, TINY, "data", plain=True) != runs.run_hash(name, TINY, "data")


# Any grid


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


@needs_bfloat16
def test_bfloat16_gradients_of_grouped_transposed_convolutions_are_right_on_one_voxel():
    torch.manual_seed(0)
    conv = accelerate(nn.ConvTranspose3d(64, 64, 3, stride=2, padding=1,
                                         groups=64)).to(memory_format=torch.channels_last_3d)
    for size in ((1, 1, 1), (1, 2, 2), (2, 2, 2)):
        x = torch.randn(1, 64, *size)
        full, half = (gradients(conv, x, p)["weight"].clone() for p in (torch.float32, torch.bfloat16))
        assert (full - half).norm() < 0.02 * full.norm(), size
