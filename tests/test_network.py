"""MAG-UNet as a whole: exact counts, any size, every switch, gradients everywhere."""

import numpy as np
import pytest
import torch

from compendium import paper
from compendium.audit.parameters import alternative, parameter_audit
from magunet.base.device import autocast, has_bfloat16
from magunet.base.errors import InputError
from magunet.blocks import BatchNorm3d
from magunet.fast import accelerate, evaluate_by_input
from magunet.model import ATTENTIONS, MAGUNet, MAGUNetConfig, count_parameters
from magunet.studies import ALIASES, NETWORKS, PEERS, VARIANTS, build, build_on_meta, configuration, variant

TINY = (2, 4, 8, 16, 32)
TABLE_4 = {"3D U-Net": 23_538_177, "+DA": 24_130_181, "+MFF": 24_267_105, "+LGAG": 23_835_309,
           "+DA+MFF": 24_859_109, "+DA+LGAG": 24_427_313, "MAG-UNet": 25_156_241}
"""Counts of the canonical reading."""


def test_counts_of_table_4_are_exact():
    for name, count in TABLE_4.items():
        assert count_parameters(build_on_meta(name)) == count, name


@pytest.mark.parametrize("gates, reading, mi", [
    (False, dict(decoder="add"), 23_538_657 / paper.MI),
    (False, dict(decoder="trilinear"), 23_538_177 / paper.MI),
    (False, dict(decoder="classic"), 22_581_217 / paper.MI),
    (True, dict(groups=8, projection=True), 23.095),
])
def test_alternative_readings_have_the_audited_counts(gates, reading, mi):
    network = alternative(MAGUNetConfig(mff_kernels=None, attention="none", lgag=gates), **reading)
    assert count_parameters(network) / paper.MI == pytest.approx(mi, abs=5e-4)


def test_the_reading_that_is_built_is_the_default_and_an_unknown_one_is_refused():
    for name in TABLE_4:
        shapes = ({n: p.shape for n, p in network.named_parameters()} for network in (
            alternative(variant(name, 16)), build(name, 16)))
        assert next(shapes) == next(shapes)
    with pytest.raises(ValueError, match="no decoder 'other'"):
        alternative(variant("MAG-UNet", 16), decoder="other")


def test_paper_size_reaches_the_bottleneck_as_3_16_16():
    network, shapes = build_on_meta("MAG-UNet"), []
    network.attention.register_forward_hook(lambda module, inputs,
                                            output: shapes.append(tuple(inputs[0].shape)))
    assert network(torch.zeros(1, 1, *paper.INPUT_SIZE, device="meta")).shape == (1, 1, *paper.INPUT_SIZE)
    assert shapes == [(1, 512, 3, 16, 16)]


@pytest.mark.parametrize("size", [(16, 16, 16), (17, 31, 20), (50, 33, 18), (16, 48, 23)])
def test_any_size_from_16_up_keeps_its_grid(size):
    for training in (True, False):
        out = MAGUNet(MAGUNetConfig(widths=TINY)).train(training)(torch.randn(1, 1, *size))
        assert out.shape == (1, 1, *size) and out.isfinite().all()


@pytest.mark.parametrize("size", [(15, 16, 16), (16, 16, 8)])
def test_a_smaller_input_is_refused_with_its_size(size):
    with pytest.raises(ValueError, match="at least 16 voxels a side; got " + " x ".join(map(str, size))):
        MAGUNet(MAGUNetConfig(widths=TINY))(torch.zeros(1, 1, *size))


@pytest.mark.parametrize("name", VARIANTS)
def test_every_row_gives_every_parameter_a_finite_gradient(name):
    torch.manual_seed(1)
    network = build(name, width_divisor=8)
    # scales that start at 0 block gradients
    for parameter_name, parameter in network.named_parameters():
        if parameter_name.endswith(("alpha", "beta")) or "attention.out.1.weight" in parameter_name:
            torch.nn.init.constant_(parameter, 0.5)
    x = torch.randn(2, 1, 32, 32, 32)
    network(x).square().mean().backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        # a bias before batch normalisation, and a key bias before a softmax over keys, cannot change the
        # output
        if not parameter_name.endswith("bias"):
            assert parameter.grad.abs().max() > 0, parameter_name


def test_the_scales_that_start_at_zero_get_a_gradient_at_once():
    network = build("MAG-UNet", width_divisor=8)
    network(torch.randn(1, 1, 32, 32, 32)).square().mean().backward()
    assert network.attention.pam.alpha.grad.abs() > 0
    assert network.attention.cam.beta.grad.abs() > 0


def test_switches_combine():
    for attention in ATTENTIONS:
        for gates in (False, True):
            config = MAGUNetConfig(widths=TINY, attention=attention, lgag=gates, mff_kernels=(3, 5),
                                   out_channels=2)
            assert MAGUNet(config)(torch.randn(1, 1, 16, 20, 17)).shape == (1, 2, 16, 20, 17)


@pytest.mark.parametrize("changes, words", [
    (dict(attention="se2"), "attention must be one of none, da"),
    (dict(mff_kernels=(2,)), "mff_kernels must be odd"),
    (dict(widths=(1, 2)), "widths must be five"),
])
def test_wrong_switches_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        MAGUNetConfig(**changes)


@pytest.mark.parametrize("call", [build, configuration])
def test_unknown_rows_and_widths_are_refused(call):
    with pytest.raises(InputError, match="unknown network 'MAGUNet'; known: 3D U-Net"):
        call("MAGUNet", 1)
    for divisor in (0, -1, 33):
        for name in ("MAG-UNet", "UNETR"):
            with pytest.raises(InputError, match=r"width_divisor must be from 0\.125 to 32"):
                call(name, divisor)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_row_builds_at_every_width_and_keeps_the_grid(name):
    counts = []
    for divisor in (1, 3, 32):
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


@pytest.mark.skipif(not has_bfloat16(torch.device("cpu")), reason="this processor has no bfloat16 arithmetic")
def test_bfloat16_agrees_with_float32():
    torch.manual_seed(0)
    network = accelerate(build("MAG-UNet", width_divisor=4)).eval()
    x = torch.rand(1, 1, 32, 48, 48)
    with torch.inference_mode():
        full = torch.sigmoid(network(x))
        with autocast(torch.device("cpu"), torch.bfloat16):
            half = torch.sigmoid(network(x.to(memory_format=torch.channels_last_3d)).float())
    assert (full - half).abs().max() < 0.02


def test_channels_last_changes_no_value():
    network = MAGUNet(MAGUNetConfig(widths=TINY)).double().eval()
    x = torch.randn(1, 1, 16, 18, 20, dtype=torch.float64)
    plain = network(x)
    x = x.contiguous(memory_format=torch.channels_last_3d)
    last = network.to(memory_format=torch.channels_last_3d)(x)
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
    names = {row.network for table in paper.TABLES for row in table}
    assert names <= {*NETWORKS, *ALIASES}


def test_a_variant_is_recorded_by_its_switches():
    assert configuration("[1,3,5]", 4) == configuration("+MFF", 4)
    assert configuration("+MFF", 4)["widths"] == (8, 16, 32, 64, 128)


@pytest.mark.parametrize("kind", [BatchNorm3d, lambda channels: accelerate(torch.nn.BatchNorm3d(channels))])
def test_evaluation_by_input_does_not_care_how_bright_or_noisy_other_scans_were(kind):
    """The answer to a scan is the one of training, whatever the running statistics; they stay as they are."""
    torch.manual_seed(0)
    net = kind(4)
    torch.nn.init.normal_(net.weight), torch.nn.init.normal_(net.bias)
    x = 3 + 2 * torch.randn(1, 4, 5, 6, 7)
    expected = net.train()(x)
    for _ in range(5):
        net(torch.randn(1, 4, 5, 6, 7) * 100)
    before = net.running_mean.clone()
    torch.testing.assert_close(net.eval()(x),
                               (x - before.view(-1, 1, 1, 1)) / (net.running_var + net.eps).sqrt().view(
        -1, 1, 1, 1) * net.weight.view(-1, 1, 1, 1) + net.bias.view(-1, 1, 1, 1))       # the usual evaluation
    evaluate_by_input(net)
    torch.testing.assert_close(net(x), expected)
    assert not net.training and torch.equal(net.running_mean, before)
    torch.testing.assert_close(net(x[..., :1, :1, :1]), (x[..., :1, :1, :1] - before.view(-1, 1, 1, 1)) / (
        net.running_var + net.eps).sqrt().view(-1, 1, 1, 1) * net.weight.view(-1, 1, 1, 1)
                               + net.bias.view(-1, 1, 1, 1))
