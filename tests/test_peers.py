"""The networks that MAG-UNet is compared with: what they are made of, on any grid, saved and read back, and
their parts beside independent readings; what they compute in any precision is in test_fast.py."""

from itertools import product

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from boxes import TINY
from hypothesis import given
from hypothesis import strategies as st
from monai.networks.nets.resnet import ResNet
from monai.networks.nets.unetr import UNETR
from monai.networks.nets.vnet import VNet
from torch import nn

from magunet import blocks, runs
from magunet.fast import Conv3d, accelerate, evaluate_by_input
from magunet.model import count_parameters
from magunet.peers import monai, transunet, unetr
from magunet.peers.adapt import AnyGrid, sine_positions
from magunet.peers.deeplab import ASPP, DeepLabV3Plus, resnet_50
from magunet.peers.segnet import SegNet
from magunet.studies import NETWORKS, PEERS, build, build_on_meta

PARTS = {
    "3D V-Net": (45_593_537, {"BatchNorm3d", "PReLU"}),
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
        safetensors.torch.save_file(network.state_dict(), tmp_path / "w.safetensors")   # no weight of 2 names
        again.load_state_dict(safetensors.torch.load_file(tmp_path / "w.safetensors"))
        evaluate_by_input(again)
        torch.testing.assert_close(again(x), expected)


# Any grid -----------------------------------------------------------------------------------------------
@given(sides=st.tuples(*[st.integers(16, 70)] * 3),
       multiple=st.sampled_from([(16, 16, 16), (32, 32, 32), (8, 32, 32)]))
def test_padding_continues_the_input_evenly_and_is_cut_off_again(sides, multiple):
    network, seen, x = nn.Identity(), [], torch.randn(1, 1, *sides)
    network.register_forward_hook(lambda module, inputs, out: seen.append(inputs[0]))
    assert torch.equal(AnyGrid(network, *multiple)(x), x)
    padded = seen[0].shape[2:]
    assert all(n % m == 0 for n, m in zip(padded, multiple)) and padded != multiple
    before = [(n - s) // 2 for n, s in zip(padded, sides)]
    pad = [(0, 0), (0, 0), *((b, n - s - b) for b, n, s in zip(before, padded, sides))]
    np.testing.assert_array_equal(seen[0], np.pad(x, pad, mode="edge"))


def test_sine_positions_are_the_stated_formula_and_do_not_depend_on_the_grid():
    for grid in ((2, 3, 4), (3, 4, 5)):
        found = sine_positions(torch.empty(1, 24, *grid))[0].reshape(*grid, 24)
        for place in product(*map(range, grid)):
            angles = [n / 1e4 ** (k / 3) for n in place for k in range(4)]
            np.testing.assert_allclose(found[place], [*np.sin(angles), *np.cos(angles)], atol=1e-6)
    assert len(found.reshape(-1, 24).unique(dim=0)) == 60


# Parts --------------------------------------------------------------------------------------------------
def test_unpooling_puts_every_maximum_back_where_it_was():
    """With the convolutions of SegNet away, five poolings and unpoolings leave the maximum of each 32^3
    block, in its place."""
    network = SegNet(widths=(1,) * 5)
    for stages in (network.encoder, network.decoder):
        for i in range(5):
            stages[i] = nn.Identity()
    network.head = nn.Identity()
    x = np.random.default_rng(0).random((33, 64, 71), dtype=np.float32)     # odd sides: the rest has no block
    expected = np.zeros_like(x)
    for z, y, x_ in product((0,), (0, 32), (0, 32)):
        block = x[z:z + 32, y:y + 32, x_:x_ + 32]
        peak = np.add(np.unravel_index(block.argmax(), block.shape), (z, y, x_))
        expected[tuple(peak)] = block.max()
    np.testing.assert_array_equal(network(torch.from_numpy(x)[None, None])[0, 0], expected)


@pytest.mark.parametrize("size, rates", [((16, 32, 3), ((3, 6, 1), (6, 12, 1), (9, 18, 2))),
                                         ((3, 3, 6), ((1, 1, 1), (1, 1, 2), (2, 2, 3)))])
def test_aspp_joins_a_voxel_dense_convolutions_of_all_rates_and_the_mean(size, rates):
    """Rates are 3/16, 6/16 and 9/16 of each side: the paper's map of 16 has 3, 6, 9."""
    torch.manual_seed(0)
    aspp, x = ASPP(2, 4).double().eval(), torch.randn(2, 2, *size, dtype=torch.float64)
    voxel, *atrous = aspp.branches
    parts = [voxel(x), aspp.mean(x.mean((2, 3, 4), keepdim=True)).expand(-1, -1, *size)]
    for rate, ((depth, point), *rest) in zip(rates, atrous, strict=True):
        kernel = torch.einsum("oi,idhw->oidhw", point.weight[:, :, 0, 0, 0], depth.weight[:, 0])
        out = F.conv3d(x, kernel, padding=rate, dilation=rate)
        parts.insert(-1, nn.Sequential(*rest)(out))
    torch.testing.assert_close(aspp(x), aspp.project(torch.cat(parts, 1)))


@pytest.mark.parametrize("size", [(3, 3, 6), (4, 16, 16), (2, 2, 2)])
def test_every_tap_of_the_pyramid_meets_the_map_also_of_the_quick_layers(size):
    for aspp in (ASPP(2, 2), accelerate(ASPP(2, 2))):
        sums, convolutions = [], [branch[0][0] for branch in aspp.branches[1:]]
        for convolution in convolutions:
            convolution.register_forward_hook(lambda _, inputs, out, sums=sums: sums.append(out.sum()))
        aspp(torch.ones(1, 2, *size))
        sum(sums).backward()
        for convolution in convolutions:            # the gradient counts the positions that a tap reads
            assert len(sums) == 3 and (convolution.weight.grad > 0).all(), convolution


def test_the_encoder_computes_what_resnet_50_does_on_a_grid_twice_as_fine():
    torch.manual_seed(0)
    ours = resnet_50(4).eval()
    theirs = ResNet("bottleneck", [3, 4, 6, 3], [4, 8, 16, 32], n_input_channels=1, conv1_t_stride=2,
                    feed_forward=False, bias_downsample=False).eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(1, 64, 4, 6, 8)
    fine, coarse = ours.layer4(x), theirs.layer4(x)
    assert fine.shape == (1, 128, 4, 6, 8) and coarse.shape == (1, 128, 2, 3, 4)
    torch.testing.assert_close(fine[..., ::2, ::2, ::2], coarse)


def test_deeplab_has_its_pyramid_at_a_sixteenth_and_its_decoder_at_a_quarter():
    seen = []
    with torch.device("meta"):
        network = DeepLabV3Plus()
        for module in (network.aspp, network.decoder):
            module.register_forward_hook(lambda m, inputs, out: seen.append(tuple(inputs[0].shape)))
        network(torch.zeros(1, 1, 64, 256, 256))
    assert seen == [(1, 2048, 4, 16, 16), (1, 304, 16, 64, 64)]


def test_v_net_is_monais_at_its_width_but_for_its_last_layer():
    torch.manual_seed(0)
    ours = monai.VNet(16).eval()
    theirs = VNet(act="prelu", dropout_prob_down=None, dropout_prob_up=(None, 0.0)).eval()
    theirs.out_tr = torch.nn.Conv3d(32, 1, 1)
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    x = torch.randn(1, 1, 16, 16, 32)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), theirs(x))


def test_unetr_is_monais_with_sine_positions():
    torch.manual_seed(0)
    ours = unetr.UNETR(24, 2).eval()
    theirs = UNETR(1, 1, (32, 16, 48), feature_size=2, hidden_size=24, mlp_dim=96,
                   norm_name=("instance", {"affine": True})).eval()
    weights = {k.removeprefix("network.").replace("patch_embedding.project",
                                                  "patch_embedding.patch_embeddings"): v
               for k, v in ours.state_dict().items()}
    weights["vit.patch_embedding.position_embeddings"] = sine_positions(torch.empty(1, 24, 2, 1, 3))
    missing, unexpected = theirs.load_state_dict(weights, strict=False)
    assert not unexpected and all("norm_cross_attn" in name for name in missing)
    x = torch.randn(1, 1, 32, 16, 48)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), theirs(x))


def test_transunets_tokens_return_to_their_places(monkeypatch):
    network = transunet.TransUNet((1, 1, 1, 1, 2), 24)
    network.blocks, network.norm, seen = nn.Identity(), nn.Identity(), []
    monkeypatch.setattr(transunet, "sine_positions", lambda *_: 0)
    network.embed.register_forward_hook(lambda m, inputs, out: seen.append(out))
    network.back.register_forward_hook(lambda m, inputs, out: seen.append(inputs[0]))
    network(torch.randn(2, 1, 16, 32, 48))
    assert seen[0].shape == (2, 24, 1, 2, 3) and torch.equal(*seen)
