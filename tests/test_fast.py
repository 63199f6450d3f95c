"""`accelerate` changes no weight, no output, no gradient and no prediction of any network; each of its ways,
alone."""

import copy
from dataclasses import replace
from itertools import product

import monai.networks.nets  # noqa: F401 - takes seconds, which belong to no test
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from boxes import TINY, write_cohort
from torch import nn

from magunet import fast, runs
from magunet.base.device import autocast, fast_type
from magunet.blocks import BatchNorm3d, conv_bn_relu
from magunet.fast import accelerate, evaluate_by_input, halve_in_place, merge_groups, through_joined
from magunet.metrics import overlap
from magunet.model import DecoderStep
from magunet.predict import load_model
from magunet.studies import NETWORKS, PEERS, build
from magunet.volume import read_volume

CPU, LAST = torch.device("cpu"), torch.channels_last_3d
HAS_BFLOAT16 = fast_type(CPU) == torch.bfloat16
EVERY = [pytest.param(name, marks=[pytest.mark.slow] * (name == "SwinUNETR")) for name in NETWORKS]
"""SwinUNETR is slow and has no other blocks of MONAI's than UNETR where layers are swapped."""
SCALES = "alpha", "beta", "attention.out.1.weight"
"""Ends of the names of parameters that start at 0, which hides the attention behind them."""


def network_of(name, divisor=16):
    """The same weights at each call, and no scale of an attention is 0."""
    torch.manual_seed(0)
    network = build(name, divisor)
    for parameter in (p for n, p in network.named_parameters() if n.endswith(SCALES)):
        nn.init.constant_(parameter, 0.5)
    return network


def passes(network, x):
    """What a network computes in a training step and in a prediction, and its running statistics between."""
    logits = network.train()(x)
    logits.square().mean().backward()
    training = [logits.detach(), *(p.grad for p in network.parameters()),
                *(b.clone() for b in network.buffers())]
    evaluate_by_input(network)
    with torch.inference_mode():
        return [*training, network(x)]


@pytest.mark.parametrize("name", EVERY)
def test_a_network_and_its_accelerated_copy_are_the_same_to_the_bit(name):
    """In another memory layout to rounding, in bfloat16 to three times the effect of rounding the input to
    it, in MAG-UNets to 0.01 of the probability more."""
    divisor, allowed, size = (8, 0, (16, 20, 33)) if name in PEERS else (16, 0.01, (17, 32, 24))
    if name == "MAG-UNet":
        size = 34, 40, 24                                   # floor pooling and padding at every level
    plain, quick = network_of(name, divisor), accelerate(network_of(name, divisor))
    weights = plain.state_dict()
    assert list(weights) == list(quick.state_dict())
    assert all(map(torch.equal, weights.values(), quick.state_dict().values()))
    for network in (plain, quick):
        network.to(memory_format=LAST)
    x = torch.rand(1, 1, *size).contiguous(memory_format=LAST)
    before = x.clone()
    expected = passes(plain, x)
    assert all(torch.equal(*pair) for pair in zip(passes(quick, x), expected, strict=True))
    assert not any(type(module).__module__ == "magunet.fast" for module in plain.modules())
    with torch.inference_mode():
        exact, noisy = expected[-1], plain(x + 2**-9 * torch.randn_like(x))
        other = plain.to(memory_format=torch.contiguous_format)(x.contiguous())
        torch.testing.assert_close(other, exact, atol=1e-3, rtol=1e-3)
        with autocast(CPU, torch.bfloat16):
            rounded = quick(x).float()
    error, noise = ((torch.sigmoid(exact) - torch.sigmoid(y)).abs().mean() for y in (rounded, noisy))
    assert torch.equal(x, before)
    assert not HAS_BFLOAT16 or error < 3 * noise + allowed < 0.2


def gradients(network, x, precision):
    """Of every parameter; NaN lie where the next tensors will, so that code which reads what it never wrote
    shows it."""
    network.zero_grad()
    held = [torch.full([n], torch.nan).bfloat16() for n in 4 ** np.arange(3, 11) for _ in range(4)]
    del held
    with autocast(CPU, precision):
        out = network(x.contiguous(memory_format=LAST))
    out.float().square().mean().backward()
    return {name: p.grad for name, p in network.named_parameters()}


@pytest.mark.parametrize("name", EVERY)
def test_every_parameter_gets_a_finite_gradient_also_in_bfloat16_and_there_the_right_one(name):
    """At a width that does not divide the paper's. In bfloat16 each convolution's weight gets the float32
    gradient of the same convolution from the same input and the same gradient behind it."""
    network, met = accelerate(network_of(name, 11)).to(memory_format=LAST), {}

    def note(conv, inputs, out):
        call = [inputs[0].detach()]
        met.setdefault(conv, []).append(call)
        out.register_hook(call.append)

    # a bottleneck of 2 x 1 x 2 positions: over a single one no softmax has a gradient
    x = torch.rand(1, 1, 33, 23, 32)
    for precision in (torch.float32, torch.bfloat16)[:1 + HAS_BFLOAT16]:
        for module in network.modules():
            if precision == torch.bfloat16 and isinstance(module, fast.Conv3d | fast.ConvTranspose3d):
                module.register_forward_hook(note)
        for parameter, gradient in gradients(network, x, precision).items():
            assert gradient is not None and gradient.isfinite().all(), (parameter, precision)
            if not parameter.endswith("bias"):      # one before a normalisation cannot change the output
                assert gradient.abs().max() > 0, (parameter, precision)
    for conv, calls in met.items():
        exact, summed = (                                                   # may nearly cancel
            sum(torch.autograd.grad(conv.forward(sign(x.float())), conv.weight, sign(behind.float()))[0]
                for x, behind in calls) for sign in (torch.positive, torch.abs))
        bound = 0.02 * exact.norm() + 1e-3 * summed.norm()
        assert (conv.weight.grad - exact).norm() <= bound, (conv, calls[0][0].shape)


def test_no_part_of_a_plain_prediction_overwrites_its_input():
    network, inputs, checks = network_of("MAG-UNet"), [], []
    evaluate_by_input(network)
    for module in network.modules():
        if not isinstance(module, nn.ReLU | nn.Sequential | nn.ModuleList):     # ReLU does its convolution's
            module.register_forward_pre_hook(lambda _, x: inputs.append((x[0], x[0].clone())))
    network.attention.register_forward_hook(lambda *_: checks.extend(torch.equal(*pair) for pair in inputs))
    with torch.inference_mode():
        network(torch.rand(1, 1, 16, 32, 16))
    assert len(inputs) > 60 and checks and all(checks)


def test_a_plain_step_and_a_plain_prediction_are_those_of_float32(compendium):
    cohort = write_cohort(compendium / "data" / "boxes", 3)
    settings = replace(TINY, epochs=1, samples_per_case=1, precision="float32")
    folders = [runs.fit("MAG-UNet", settings, 0, cohort, plain=plain) for plain in (False, True)]
    assert folders[0] != folders[1]
    quick, plain = (load_model(folder, plain=plain) for folder, plain in zip(folders, (False, True)))
    assert all(map(torch.equal, quick.network.state_dict().values(), plain.network.state_dict().values()))
    assert plain.precision == torch.float32 and not isinstance(plain.network.head, fast.Conv3d)
    scan = read_volume(cohort.cases[cohort.val[0]].image)
    assert np.array_equal(quick.segment(scan).array, plain.segment(scan).array)


def test_a_prediction_in_the_default_precision_finds_the_plain_mask(run):
    scan = read_volume(run.parents[1] / "data/boxes/imagesTr/box_0_0000.nii.gz")
    quick, plain = (load_model(run, plain=plain).segment(scan).array for plain in (False, True))
    assert quick.any() and overlap(quick, plain).dice > 0.99


@pytest.mark.parametrize("change, precision", [(lambda network: network, torch.float32),
                                               (accelerate, torch.float32), (accelerate, torch.bfloat16)])
def test_computing_maps_again_changes_neither_gradients_nor_statistics(change, precision):
    answers, x = [], torch.rand(1, 1, 25, 32, 48)
    for again in (False, True):
        network = change(network_of("MAG-UNet")).train()
        if again:
            fast.recompute(network)
            network = copy.deepcopy(network)
        with autocast(CPU, precision):
            logits = network(x)
        logits.float().square().mean().backward()
        answers.append([*(p.grad for p in network.parameters()), *network.buffers()])
        assert all(m.momentum == 0.1 for m in network.modules() if isinstance(m, BatchNorm3d))
    assert all(map(torch.equal, *answers))


# Each way, alone ----------------------------------------------------------------------------------------
def test_pooling_in_place_and_under_autocast_is_max_pooling_in_the_maps_own_precision():
    for size, dtype, layout in product([(2, 3, 5, 4, 7), (1, 3, 4, 2, 6), (1, 4, 8, 9, 6)],
                                       [torch.float32, torch.bfloat16], [torch.contiguous_format, LAST]):
        x = torch.randn(size).to(dtype).contiguous(memory_format=layout)
        x[0, 0, 0, 0, 0], x[0, 1] = torch.nan, -torch.inf
        expected = F.max_pool3d(x, 2)
        with autocast(CPU, torch.bfloat16), torch.no_grad():
            for answer in (accelerate(nn.MaxPool3d(2))(x), halve_in_place(x.clone())):
                assert answer.dtype == dtype and answer.stride() == expected.stride(), (size, dtype, layout)
                assert torch.equal(answer.nan_to_num(7), expected.nan_to_num(7)), (size, dtype, layout)


def test_padding_under_autocast_repeats_the_outermost_values_in_the_maps_own_precision():
    torch.manual_seed(0)
    step = accelerate(DecoderStep(32, 16, lgag=False)).eval()
    x, skip = torch.randn(1, 32, 2, 2, 2).bfloat16(), torch.zeros(1, 16, 5, 4, 5).bfloat16()
    with autocast(CPU, torch.bfloat16), torch.no_grad():
        g, up = step.pair(x, skip)[1], step.up(x)
    assert g.dtype == torch.bfloat16
    assert torch.equal(g.float(), F.pad(up.float(), (0, 1, 0, 0, 0, 1), mode="replicate"))


def test_a_norm_before_its_convolution_leaves_alone_what_others_read():
    torch.manual_seed(0)
    plain, x = nn.Sequential(BatchNorm3d(4), nn.Conv3d(4, 4, 3, padding=1)), torch.randn(1, 4, 6, 7, 5)
    answers = []
    for stage in (plain, accelerate(copy.deepcopy(plain))):
        evaluate_by_input(stage)
        with torch.inference_mode():
            answers.append(stage(y := x.clone()) + y)
    assert torch.equal(*answers) and accelerate(conv_bn_relu(4, 4))[1].in_place


def test_under_autocast_maps_are_not_joined_and_their_convolution_is_that_of_the_joined_map(monkeypatch):
    torch.manual_seed(0)
    network = accelerate(build("MAG-UNet", 16))
    evaluate_by_input(network)
    with monkeypatch.context() as patched, torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        patched.setattr(torch, "cat", lambda *_: pytest.fail("joined"))
        network(torch.rand(1, 1, 16, 32, 16))
        cases = []
        for kernel, size in product((1, 3, 5), ((6, 7, 5), (2, 4, 2))):
            stage = accelerate(conv_bn_relu(6, 4, kernel)).double().eval()
            maps = [torch.randn(2, c, *size).double() for c in (1, 3, 2)]   # autocast leaves float64 alone
            cases.append((stage, maps, through_joined(stage, iter(maps))))
    for stage, maps, apart in cases:
        torch.testing.assert_close(apart, stage(torch.cat(maps, dim=1)), rtol=1e-12, atol=1e-12)


def test_joined_groups_compute_the_same():
    torch.manual_seed(0)
    for channels, outputs, groups, left in ((8, 8, 8, 1), (32, 32, 16, 4), (64, 128, 16, 8), (12, 12, 6, 3),
                                            (128, 64, 16, 16)):
        conv = nn.Conv3d(channels, outputs, 3, padding=1, groups=groups)
        x = torch.randn(2, channels, 5, 6, 7)
        weight, joined = merge_groups(conv.weight, groups)
        assert joined == left and weight.shape == (outputs, channels // left, 3, 3, 3), conv
        same = F.conv3d(x, weight, conv.bias, padding=1, groups=joined)
        torch.testing.assert_close(same, conv(x), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not HAS_BFLOAT16, reason="this processor has no bfloat16 arithmetic")
@pytest.mark.parametrize("conv, sizes", [
    *((nn.Conv3d(64, outputs, kernel, padding=kernel // 2, groups=groups),
       [(1, 1, 1), (2, 2, 2), (2, 4, 4), (2, 8, 8), (3, 4, 4), (4, 8, 8), (6, 8, 8), (8, 8, 8)])
      for kernel, groups, outputs in ((3, 1, 64), (3, 16, 64), (5, 1, 64), (7, 1, 1))),
    (nn.ConvTranspose3d(64, 64, 3, stride=2, padding=1, groups=64), [(1, 1, 1), (1, 2, 2), (2, 2, 2)])])
def test_bfloat16_weight_gradients_are_right_on_small_maps(conv, sizes):
    torch.manual_seed(0)
    conv.reset_parameters()
    conv = accelerate(conv).to(memory_format=LAST)
    for size in sizes:
        x = torch.randn(1, 64, *size)
        full, half = (gradients(conv, x, p)["weight"].clone() for p in (torch.float32, torch.bfloat16))
        assert (full - half).norm() < 0.02 * full.norm(), size
