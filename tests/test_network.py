"""MAG-UNet as a whole: exact counts, any size, every switch. Its gradients are in test_fast.py."""

from dataclasses import asdict
from importlib.metadata import version

import monai.networks.nets  # noqa: F401 - takes seconds, which belong to no test
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import refused
from hypothesis import given
from hypothesis import strategies as st

from compendium import paper
from compendium.audit.parameters import alternative, count, parameter_audit
from magunet.blocks import BatchNorm3d
from magunet.fast import accelerate, evaluate_by_input
from magunet.model import ATTENTIONS, MAGUNet, MAGUNetConfig, count_parameters
from magunet.peers.adapt import scaled
from magunet.studies import ALIASES, NETWORKS, VARIANTS, build, build_on_meta, checked, configuration, variant

TINY = (2, 4, 8, 16, 32)
TABLE_4 = {"3D U-Net": 23_538_177, "+DA": 24_130_181, "+MFF": 24_267_105, "+LGAG": 23_835_309,
           "+DA+MFF": 24_859_109, "+DA+LGAG": 24_427_313, "MAG-UNet": 25_156_241}
"""Counts of the canonical reading."""


def test_counts_of_table_4_are_exact():
    """Those of other readings: test_audit.py."""
    for name, parameters in TABLE_4.items():
        assert count_parameters(build_on_meta(name)) == parameters, name
    refused(lambda: alternative(variant("MAG-UNet", 16), decoder="other"), "no decoder 'other'")


def test_audit_has_every_row_of_the_paper():
    table = parameter_audit()
    assert table.groupby("table").size().tolist() == [8, 6, 8, 7]
    assert (table["parameters"] > 0).all()
    row = table[(table["table"] == 4) & (table["row"] == "all")].iloc[0]
    assert row["parameters"] == 25_156_241
    assert row["difference"] == pytest.approx(25_156_241 / 2**20 - 23.98)
    assert np.isnan(table.loc[table["row"] == "+SE", "difference"].item())


def test_any_size_from_16_up_keeps_its_grid_and_a_smaller_one_is_refused_with_its_size():
    network, shapes = build_on_meta("MAG-UNet"), []
    network.attention.register_forward_hook(lambda module, inputs, _: shapes.append(tuple(inputs[0].shape)))
    assert network(torch.zeros(1, 1, *paper.INPUT_SIZE, device="meta")).shape == (1, 1, *paper.INPUT_SIZE)
    assert shapes == [(1, 512, 3, 16, 16)]
    network = MAGUNet(MAGUNetConfig(widths=TINY))
    for size in ((16, 16, 16), (17, 31, 20), (50, 33, 18), (16, 48, 23)):
        for training in (True, False):
            out = network.train(training)(torch.randn(1, 1, *size))
            assert out.shape == (1, 1, *size) and out.isfinite().all(), (size, training)
    for size, words in (((15, 16, 16), "15 x 16 x 16"), ((16, 16, 8), "16 x 16 x 8")):
        with pytest.raises(ValueError, match=f"at least 16 voxels a side; got {words}"):
            network(torch.zeros(1, 1, *size))


def test_switches_combine_and_wrong_ones_are_refused():
    for attention in ATTENTIONS:
        for gates in (False, True):
            config = MAGUNetConfig(widths=TINY, attention=attention, lgag=gates, mff_kernels=(3, 5),
                                   out_channels=2)
            out = MAGUNet(config)(torch.randn(1, 1, 16, 20, 17))
            assert out.shape == (1, 2, 16, 20, 17), (attention, gates)
    for level in range(5):
        network, inputs = MAGUNet(MAGUNetConfig(widths=TINY, attention_level=level)), []
        network.attention.register_forward_hook(lambda _, x, out, inputs=inputs: inputs.append(x[0].shape))
        assert network(torch.randn(1, 1, 32, 16, 16)).shape == (1, 1, 32, 16, 16)
        assert inputs == [(1, TINY[level], 32 >> level, 16 >> level, 16 >> level)]
    for changes, words in ((dict(attention="se2"), "attention must be one of none, da"),
                           (dict(attention_level=5), "attention_level must be from 0 to 4, not 5"),
                           (dict(attention_level=-1), "attention_level must be"),
                           (dict(mff_kernels=(2,)), "mff_kernels must be odd"),
                           (dict(mff_kernels=()), "mff_kernels must be odd"),
                           (dict(widths=(1, 2)), "widths must be five")):
        with pytest.raises(ValueError, match=words):
            MAGUNetConfig(**changes)


# Rows of the tables -------------------------------------------------------------------------------------
def test_unknown_rows_and_widths_are_refused():
    for name, divisor, words in (("MAGUNet", 1, "unknown network 'MAGUNet'; known: 3D U-Net"), *(
            (name, divisor, "width_divisor must be from 0.125 to 32")
            for name in ("MAG-UNet", "UNETR") for divisor in (0, -1, 33))):
        for call in (build, configuration):
            refused(lambda name=name, divisor=divisor, call=call: call(name, divisor), words)


@pytest.mark.parametrize("middle", [(3,), pytest.param(range(2, 32), marks=pytest.mark.slow)], ids=len)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_row_builds_at_every_width_and_keeps_the_grid(name, middle):
    """Also wider than the paper's networks, and between; narrower ones never have more parameters."""
    counts = []
    for divisor in (2 / 3, 1, 4 / 3, *middle, 32):
        network, x = build_on_meta(name, divisor).eval(), torch.empty(1, 1, 20, 17, 33, device="meta")
        if divisor % 1 == 0:
            with torch.inference_mode():
                assert network(x).shape == x.shape, divisor
        counts.append(count_parameters(network))
    assert counts == sorted(counts, reverse=True) and counts[:4] == sorted(set(counts[:4]), reverse=True)
    assert count_parameters(build(name, 32)) == counts[-1]


@given(divisor=st.floats(0.125, 32), widths=st.lists(st.integers(1, 1024), min_size=1),
       multiple=st.sampled_from([1, 2, 12]))
def test_scaled_widths_are_the_largest_multiples_that_are_not_too_wide_and_never_none(divisor, widths,
                                                                                      multiple):
    for width, narrow in zip(widths, scaled(divisor, *widths, multiple=multiple), strict=True):
        assert narrow % multiple == 0 and narrow >= multiple
        assert narrow <= width / divisor + 1e-4 or narrow == multiple
        assert narrow + multiple > width / divisor - 1e-4


def test_table_rows_name_networks_that_exist_and_are_recorded_by_what_is_chosen_about_them():
    assert {row.network for table in paper.TABLES for row in table} <= {*NETWORKS, *ALIASES}
    assert configuration("[1,3,5]", 4) == configuration("+MFF", 4)
    for divisor, first in ((1, 32), (4, 8), (3, 10), (0.5, 64), (2 / 3, 48)):
        widths = tuple(first * 2**level for level in range(5))
        assert configuration("+MFF", divisor)["widths"] == widths == variant("+DA", divisor).widths, divisor
    peer = {"network": "SegNet", "width_divisor": 16, "monai": version("monai")}
    assert configuration("SegNet", 16) == peer


def test_a_network_of_ones_own_has_a_name_that_says_it_all_and_is_a_row_where_there_is_one():
    for row in VARIANTS:
        assert checked(variant(row)) == row
    for config in (MAGUNetConfig(mff_kernels=(1, 5), attention="none"), MAGUNetConfig(mff_kernels=(5,)),
                   MAGUNetConfig(widths=(16, 20, 24, 28, 40), lgag=False), MAGUNetConfig(attention_level=3)):
        name = checked(config)
        assert name.startswith("own ") and checked(name) == name
        assert variant(name) == variant(config) == config
        small = variant(config, 4)
        assert small.widths == scaled(4, *config.widths) and configuration(name, 4) == asdict(small)
        assert checked(" ".join(["own", *reversed(name.split()[1:])])) == name, "the order of switches"
    gates_alone = build(MAGUNetConfig(mff_kernels=None, attention="none"), 16)
    assert repr(gates_alone) == repr(build("+LGAG", 16)) and checked("own") == "MAG-UNet"
    for name, reason in (("own x=1", "'x' is no switch"), ("own lgag=True lgag=False", "given twice"),
                         ("own mff_kernels=2", "odd sizes"), ("own mff_kernels=-1", "odd sizes"),
                         ("own widths=1,2", "widths"), ("own attention=dad", "attention must be one of"),
                         ("own attention_level=7", "from 0 to 4"), ("own lgag=maybe", "lgag"),
                         (MAGUNetConfig(in_channels=2), "'in_channels' is no switch"), ("owner", "own mff")):
        refused(lambda name=name: checked(name), reason)


def test_rows_of_ours_change_one_thing_about_da_and_nothing_else():
    def weights(name):
        torch.manual_seed(0)
        return (network := build(name, 16)), network.state_dict()

    undecayed, x = [], torch.randn(1, 32, 2, 3, 4)
    for name in ("+DA", "+DA no decay", "+DA open scales", "+DA scaled energies"):
        (da, expected), (network, ours) = weights("+DA"), weights(name)
        changes = {key for key in expected | ours if not torch.equal(expected[key], ours[key])}
        scales = {"attention.pam.alpha", "attention.cam.beta"}
        assert changes == (scales if name == "+DA open scales" else set()), name
        undecayed += [name for module in network.modules() if getattr(module, "undecayed", False)]
        for key in scales:
            for one in (network, da):
                torch.nn.init.ones_(one.get_parameter(key))
        assert torch.equal(network.attention(x), da.attention(x)) == (name != "+DA scaled energies"), name
    assert undecayed == ["+DA no decay"]
    placebo, upper = build("+DA placebo", 16), build("+DA one level up", 16)
    assert repr(placebo.attention) == repr(da.attention.out)
    maps = []
    for module in (upper.encoder[3], upper.attention, upper.decoder[0], upper.down[3]):
        module.register_forward_hook(lambda _, inputs, out: maps.append((*inputs, out)))
    upper(torch.randn(1, 1, 16, 32, 16))
    (_, encoded), (entered, attended), (pooled, _), (_, skip, _) = maps
    assert type(upper.attention) is type(da.attention) and encoded is entered and attended is pooled is skip
    rest = [{k: v for k, v in configuration(name, 16).items() if k != "attention"} for name in VARIANTS
            if name in ("3D U-Net", "+DA", "+DA placebo", "+DA no decay", "+DA open scales",
                        "+DA scaled energies")]
    assert len(rest) == 6 and all(other == rest[0] for other in rest)


def test_the_wide_unet_is_as_large_as_magunet_and_has_no_module():
    for divisor, share in ((1, 0.03), (4, 0.1)):
        wide, full, narrow = (count_parameters(build_on_meta(name, divisor))
                              for name in ("Wide 3D U-Net", "MAG-UNet", "3D U-Net"))
        assert abs(wide - full) < min(share * full, full - narrow), divisor
        config = configuration("Wide 3D U-Net", divisor)
        assert config | {"widths": 0} == configuration("3D U-Net", divisor) | {"widths": 0}
    misses = {first: abs(count(first) - 25_156_241) for first in range(30, 37)}
    assert min(misses, key=misses.get) == 33 and count(33) == 25_031_986
    assert variant("Wide 3D U-Net").widths == (33, 66, 132, 264, 528)


@pytest.mark.parametrize("kind", [BatchNorm3d, lambda channels: accelerate(torch.nn.BatchNorm3d(channels))])
def test_evaluation_by_input_does_not_care_how_bright_or_noisy_other_scans_were(kind):
    """The answer to a scan is the one of training, whatever the running statistics; they stay as they are."""
    torch.manual_seed(0)
    net, x = kind(4), 3 + 2 * torch.randn(1, 4, 5, 6, 7)
    torch.nn.init.normal_(net.weight), torch.nn.init.normal_(net.bias)
    expected = net.train()(x)
    for _ in range(5):
        net(torch.randn(1, 4, 5, 6, 7) * 100)
    before = net.running_mean.clone()
    usual = F.batch_norm(x, before, net.running_var, net.weight, net.bias, eps=net.eps)
    torch.testing.assert_close(net.eval()(x), usual)
    evaluate_by_input(net)
    torch.testing.assert_close(net(x), expected)
    assert not net.training and torch.equal(net.running_mean, before)
    one = (..., slice(1), slice(1), slice(1))                       # a single position has no variance
    torch.testing.assert_close(net(x[one]), usual[one])
