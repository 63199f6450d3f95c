"""MAG-UNet as a whole: exact counts, any size, every switch. Its gradients are in test_fast.py."""

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
from compendium.audit.parameters import alternative, parameter_audit
from magunet.blocks import BatchNorm3d
from magunet.fast import accelerate, evaluate_by_input
from magunet.model import ATTENTIONS, MAGUNet, MAGUNetConfig, count_parameters
from magunet.peers.adapt import scaled
from magunet.studies import ALIASES, NETWORKS, build, build_on_meta, configuration, variant

TINY = (2, 4, 8, 16, 32)
TABLE_4 = {"3D U-Net": 23_538_177, "+DA": 24_130_181, "+MFF": 24_267_105, "+LGAG": 23_835_309,
           "+DA+MFF": 24_859_109, "+DA+LGAG": 24_427_313, "MAG-UNet": 25_156_241}
"""Counts of the canonical reading."""


def test_counts_of_table_4_are_exact():
    """Those of other readings: test_audit.py."""
    for name, count in TABLE_4.items():
        assert count_parameters(build_on_meta(name)) == count, name
    with pytest.raises(ValueError, match="no decoder 'other'"):
        alternative(variant("MAG-UNet", 16), decoder="other")


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
    for changes, words in ((dict(attention="se2"), "attention must be one of none, da"),
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
