"""MAG-UNet as a whole: exact counts, any size, every switch, gradients everywhere."""

import numpy as np
import pytest
import torch

from compendium import paper
from compendium.audit.parameters import parameter_audit
from magunet.base.device import autocast, has_bfloat16
from magunet.base.errors import InputError
from magunet.blocks import MFF
from magunet.fast import BatchNorm, Conv3d, MaxPool, evaluate_by_input, merge_groups
from magunet.model import ATTENTIONS, DECODERS, DecoderStep, MAGUNet, MAGUNetConfig, count_parameters
from magunet.studies import (
    ALIASES,
    NARROWEST,
    NETWORKS,
    PEERS,
    VARIANTS,
    build,
    build_on_meta,
    code_of,
    configuration,
    variant,
)

TINY = (2, 4, 8, 16, 32)
TABLE_4 = {"3D U-Net": 23_538_177, "+DA": 24_130_181, "+MFF": 24_267_105, "+LGAG": 23_835_309,
           "+DA+MFF": 24_859_109, "+DA+LGAG": 24_427_313, "MAG-UNet": 25_156_241}
"""Counts of the canonical reading."""


@pytest.mark.parametrize("name, count", TABLE_4.items())
def test_counts_of_table_4_are_exact(name, count):
    assert count_parameters(build_on_meta(name)) == count


@pytest.mark.parametrize("changes, mi", [
    (dict(mff_kernels=None, attention="none", lgag=False, decoder="add"), 23_538_657 / paper.MI),
    (dict(mff_kernels=None, attention="none", lgag=False, decoder="trilinear"), 23_538_177 / paper.MI),
    (dict(mff_kernels=None, attention="none", lgag=False, decoder="classic"), 22_581_217 / paper.MI),
    (dict(mff_kernels=None, attention="none", lgag_groups=8, lgag_projection=True), 23.095),
])
def test_alternative_readings_have_the_audited_counts(changes, mi):
    with torch.device("meta"):
        network = MAGUNet(MAGUNetConfig(**changes))
    assert count_parameters(network) / paper.MI == pytest.approx(mi, abs=5e-4)


def test_paper_size_reaches_the_bottleneck_as_3_16_16():
    network, seen = build_on_meta("MAG-UNet"), []
    network.attention.register_forward_hook(lambda module, inputs, output: seen.append(tuple(inputs[0].shape)))
    assert network(torch.zeros(1, 1, *paper.INPUT_SIZE, device="meta")).shape == (1, 1, *paper.INPUT_SIZE)
    assert seen == [(1, 512, 3, 16, 16)]


@pytest.mark.parametrize("size", [(16, 16, 16), (17, 31, 20), (50, 33, 18), (16, 48, 23)])
@pytest.mark.parametrize("training", [True, False])
def test_any_size_from_16_up_keeps_its_grid(size, training):
    network = MAGUNet(MAGUNetConfig(widths=TINY)).train(training)
    out = network(torch.randn(1, 1, *size))
    assert out.shape == (1, 1, *size)
    assert out.isfinite().all()


@pytest.mark.parametrize("size", [(15, 16, 16), (16, 16, 8)])
def test_a_smaller_input_is_refused_with_its_size(size):
    with pytest.raises(InputError, match="at least 16 voxels a side; got " + " x ".join(map(str, size))):
        MAGUNet(MAGUNetConfig(widths=TINY))(torch.zeros(1, 1, *size))


@pytest.mark.parametrize("name", VARIANTS)
def test_every_row_gives_every_parameter_a_finite_gradient(name):
    torch.manual_seed(1)
    network = build(name, width_divisor=8)
    for parameter_name, parameter in network.named_parameters():        # scales that start at 0 block gradients
        if parameter_name.endswith(("alpha", "beta")) or "attention.out.1.weight" in parameter_name:
            torch.nn.init.constant_(parameter, 0.5)
    x = torch.randn(2, 1, 32, 32, 32)
    network(x).square().mean().backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        # a bias before batch normalisation, and a key bias before a softmax over keys, cannot change the output
        if not parameter_name.endswith("bias"):
            assert parameter.grad.abs().max() > 0, parameter_name


def test_the_scales_that_start_at_zero_get_a_gradient_at_once():
    network = build("MAG-UNet", width_divisor=8)
    network(torch.randn(1, 1, 32, 32, 32)).square().mean().backward()
    assert network.attention.pam.alpha.grad.abs() > 0
    assert network.attention.cam.beta.grad.abs() > 0


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("decoder", DECODERS)
def test_switches_combine(attention, decoder):
    gates = decoder != "trilinear"
    network = MAGUNet(MAGUNetConfig(widths=TINY, attention=attention, decoder=decoder, lgag=gates, mff_kernels=(3, 5)))
    assert network(torch.randn(1, 1, 16, 20, 17)).shape == (1, 1, 16, 20, 17)


@pytest.mark.parametrize("changes, words", [
    (dict(attention="se2"), "attention must be one of none, da"),
    (dict(mff_kernels=(2,)), "mff_kernels must be odd"),
    (dict(decoder="other"), "decoder must be one of"),
    (dict(widths=(1, 2)), "widths must be five"),
    (dict(decoder="trilinear"), "lgag needs a decoder"),
])
def test_wrong_switches_are_refused(changes, words):
    with pytest.raises(InputError, match=words):
        MAGUNet(MAGUNetConfig(**changes))


@pytest.mark.parametrize("call", [build, configuration])
def test_unknown_rows_and_widths_are_refused(call):
    with pytest.raises(InputError, match="unknown network 'MAGUNet'; known: 3D U-Net"):
        call("MAGUNet", 1)
    for divisor in (0, -1, 33):
        for name in ("MAG-UNet", "UNETR"):
            with pytest.raises(InputError, match=r"width_divisor must be from 0\.125 to 32"):
                call(name, divisor)


@pytest.mark.parametrize("name", [*VARIANTS, *PEERS])
def test_every_row_builds_at_every_width_and_keeps_the_grid(name):
    counts = []
    for divisor in range(1, NARROWEST + 1):
        network, x = build_on_meta(name, divisor).eval(), torch.empty(1, 1, 20, 17, 33, device="meta")
        with torch.inference_mode():
            assert network(x).shape == x.shape, divisor
        counts.append(count_parameters(network))
    assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize("name", ["MAG-UNet", "UNETR", "DeepLabv3+", "SwinUNETR", "TransUNet"])
def test_a_width_that_does_not_divide_the_papers_learns(name):
    torch.manual_seed(0)
    network = build(name, 11)
    network(torch.rand(1, 1, 17, 23, 31)).square().mean().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())


def test_widths_double_level_by_level_at_any_scale():
    assert variant("MAG-UNet", 1).widths == MAGUNetConfig().widths
    assert variant("MAG-UNet", 4).widths == (8, 16, 32, 64, 128)
    assert variant("MAG-UNet", 3).widths == (10, 20, 40, 80, 160)
    assert variant("MAG-UNet", 0.5).widths == (64, 128, 256, 512, 1024)
    assert variant("MAG-UNet", 2 / 3).widths == (48, 96, 192, 384, 768)


@pytest.mark.parametrize("name", ["MAG-UNet", *PEERS])
def test_networks_can_be_wider_than_the_papers_or_between(name):
    counts = [count_parameters(build_on_meta(name, divisor)) for divisor in (0.5, 2 / 3, 1, 4 / 3, 2)]
    assert counts == sorted(set(counts), reverse=True)


@pytest.mark.parametrize("channels, outputs, groups, left",
                         [(8, 8, 8, 1), (32, 32, 16, 4), (64, 128, 16, 8), (12, 12, 6, 3), (128, 64, 16, 16)])
def test_joined_groups_compute_the_same(channels, outputs, groups, left):
    torch.manual_seed(0)
    conv = Conv3d(channels, outputs, 3, padding=1, groups=groups)
    x = torch.randn(2, channels, 5, 6, 7)
    weight, joined = merge_groups(conv.weight, groups)
    assert joined == left and weight.shape == (outputs, channels // left, 3, 3, 3)
    same = torch.nn.functional.conv3d(x, weight, conv.bias, padding=1, groups=joined)
    torch.testing.assert_close(same, conv(x), rtol=1e-5, atol=1e-5)
    (same * x[:, :1]).sum().backward()
    gradient, conv.weight.grad = conv.weight.grad, None
    (conv(x) * x[:, :1]).sum().backward()
    torch.testing.assert_close(gradient, conv.weight.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_pooling_under_autocast_is_max_pooling_in_the_maps_own_precision(precision):
    x = torch.randn(1, 3, 7, 8, 9).to(precision)
    with autocast(torch.device("cpu"), torch.bfloat16):
        pooled = MaxPool()(x)
    assert pooled.dtype == precision
    assert torch.equal(pooled, torch.nn.functional.max_pool3d(x.float(), 2).to(precision))


def test_padding_under_autocast_repeats_the_outermost_values_in_the_maps_own_precision():
    torch.manual_seed(0)
    decoder = build("3D U-Net", width_divisor=16).decoder[0].eval()
    x, skip = torch.randn(1, 32, 2, 2, 2).bfloat16(), torch.zeros(1, 16, 5, 4, 5).bfloat16()
    with autocast(torch.device("cpu"), torch.bfloat16), torch.no_grad():
        grown, up = decoder.grown(x, skip), decoder.up(x)
    assert grown.dtype == torch.bfloat16
    assert torch.equal(grown.float(), torch.nn.functional.pad(up.float(), (0, 1, 0, 0, 0, 1), mode="replicate"))


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(16, 32, 32), (25, 33, 18)])
@pytest.mark.parametrize("name", ["MAG-UNet", "3D U-Net", "+MFF+LGAG"])
def test_normalisation_in_place_changes_nothing(name, size, precision):
    """Without gradients maps are overwritten; with gradients, which need them, they are not."""
    torch.manual_seed(0)
    network, x = build(name, width_divisor=8), torch.randn(1, 1, *size)
    evaluate_by_input(network)
    for part in network.modules():
        if isinstance(part, (MFF, DecoderStep)):
            part.in_place = False                           # what they do differently rounds differently: tests/test_plain.py
    kept = x.clone()
    with autocast(torch.device("cpu"), precision):
        with torch.inference_mode():
            in_place = network(x)
        assert torch.equal(in_place, network(x)) and torch.equal(x, kept)


@pytest.mark.skipif(not has_bfloat16(torch.device("cpu")), reason="this processor has no bfloat16 arithmetic")
def test_bfloat16_agrees_with_float32():
    torch.manual_seed(0)
    network = build("MAG-UNet", width_divisor=4).eval()
    x = torch.rand(1, 1, 32, 48, 48)
    with torch.inference_mode():
        full = torch.sigmoid(network(x))
        with autocast(torch.device("cpu"), torch.bfloat16):
            half = torch.sigmoid(network(x.to(memory_format=torch.channels_last_3d)).float())
    assert (full - half).abs().max() < 0.02


def gradients(network, x, precision):
    network.zero_grad()
    with autocast(torch.device("cpu"), precision):
        out = network(x.to(memory_format=torch.channels_last_3d))
    out.float().square().mean().backward()
    return {name: p.grad.clone() for name, p in network.named_parameters()}


@pytest.mark.skipif(not has_bfloat16(torch.device("cpu")), reason="this processor has no bfloat16 arithmetic")
@pytest.mark.parametrize("kernel, groups, outputs", [(3, 1, 64), (3, 16, 64), (5, 1, 64), (7, 1, 1)])
def test_bfloat16_weight_gradients_are_right_on_small_maps(kernel, groups, outputs):
    torch.manual_seed(0)
    conv = Conv3d(64, outputs, kernel, padding=kernel // 2, groups=groups).to(memory_format=torch.channels_last_3d)
    for depth, side in [(1, 1), (2, 2), (2, 4), (2, 8), (3, 4), (4, 8), (6, 8), (8, 8)]:
        x = torch.randn(1, 64, depth, side, side)
        full, half = (gradients(conv, x, precision)["weight"] for precision in (torch.float32, torch.bfloat16))
        assert (full - half).norm() < 0.02 * full.norm(), (depth, side)


@pytest.mark.skipif(not has_bfloat16(torch.device("cpu")), reason="this processor has no bfloat16 arithmetic")
@pytest.mark.parametrize("name", ["3D U-Net", "MAG-UNet", "+CBAM"])
def test_bfloat16_gradients_follow_float32_in_the_whole_network(name):
    torch.manual_seed(0)
    network = build(name, width_divisor=8).to(memory_format=torch.channels_last_3d)
    x = torch.rand(1, 1, 32, 64, 64)                        # bottleneck 2 x 4 x 4
    full, half = (gradients(network, x, precision) for precision in (torch.float32, torch.bfloat16))
    for parameter, exact in full.items():
        if parameter.endswith("0.weight") and exact.norm() > 1e-4:
            cosine = torch.nn.functional.cosine_similarity(exact.flatten(), half[parameter].flatten(), dim=0)
            assert cosine > 0.3, f"{parameter}: {cosine:.3f}"                   # garbage would be near 0
            assert 0.5 < half[parameter].norm() / exact.norm() < 2, parameter   # or of any size


def test_channels_last_changes_no_value():
    network = MAGUNet(MAGUNetConfig(widths=TINY)).double().eval()
    x = torch.randn(1, 1, 16, 18, 20, dtype=torch.float64)
    plain = network(x)
    last = network.to(memory_format=torch.channels_last_3d)(x.contiguous(memory_format=torch.channels_last_3d))
    assert torch.allclose(plain, last, atol=1e-12)


def test_audit_has_every_row_of_the_paper():
    table = parameter_audit()
    assert table.groupby("table").size().tolist() == [8, 6, 8, 7]
    assert (table["parameters"] > 0).all()
    row = table[(table["table"] == 4) & (table["row"] == "all")].iloc[0]
    assert row["parameters"] == 25_156_241
    assert row["difference"] == pytest.approx(25_156_241 / 2**20 - 23.98)
    assert np.isnan(table.loc[table["row"] == "+SE", "difference"].item())


def test_table_rows_name_networks_that_exist():
    named = {row.network for table in paper.TABLES for row in table}
    assert named <= {*NETWORKS, *ALIASES}


def test_a_variant_is_recorded_by_its_switches():
    assert configuration("[1,3,5]", 4) == configuration("+MFF", 4)
    assert configuration("+MFF", 4)["widths"] == (8, 16, 32, 64, 128)
    assert code_of("[1,3,5]") == code_of("+MFF")


def test_evaluation_by_input_does_not_care_how_bright_or_noisy_other_scans_were():
    """The answer to a scan is the one of training, whatever the running statistics; they stay as they are."""
    torch.manual_seed(0)
    net = BatchNorm(4)
    torch.nn.init.normal_(net.weight), torch.nn.init.normal_(net.bias)
    x = 3 + 2 * torch.randn(1, 4, 5, 6, 7)
    expected = net.train()(x)
    for _ in range(5):
        net(torch.randn(1, 4, 5, 6, 7) * 100)
    before = net.running_mean.clone()
    torch.testing.assert_close(net.eval()(x), (x - before.view(-1, 1, 1, 1)) / (net.running_var + net.eps).sqrt().view(
        -1, 1, 1, 1) * net.weight.view(-1, 1, 1, 1) + net.bias.view(-1, 1, 1, 1))       # the usual evaluation
    evaluate_by_input(net)
    torch.testing.assert_close(net(x), expected)
    assert not net.training and torch.equal(net.running_mean, before)
    torch.testing.assert_close(net(x[..., :1, :1, :1]), (x[..., :1, :1, :1] - before.view(-1, 1, 1, 1)) / (
        net.running_var + net.eps).sqrt().view(-1, 1, 1, 1) * net.weight.view(-1, 1, 1, 1) + net.bias.view(-1, 1, 1, 1))
