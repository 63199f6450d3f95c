"""What the single networks of `magunet.peers.monai` and its neighbours compute, beside independent readings
of them."""

from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from monai.networks.nets.resnet import ResNet
from monai.networks.nets.unetr import UNETR
from monai.networks.nets.vnet import VNet
from torch import nn

from magunet.peers import monai, transunet, unetr
from magunet.peers.adapt import sine_positions
from magunet.peers.deeplab import ASPP, DeepLabV3Plus, resnet_50
from magunet.peers.segnet import SegNet
from magunet.studies import build_on_meta


def test_unpooling_puts_every_maximum_back_where_it_was():
    """With the convolutions of SegNet away, five poolings and unpoolings leave the maximum of each 32^3
    block, in its place."""
    network = SegNet(widths=(1,) * 5)
    for stages in (network.encoder, network.decoder):
        for i in range(5):
            stages[i] = nn.Identity()
    network.head = nn.Identity()
    # odd sides: the rest has no block
    x = np.random.default_rng(0).random((33, 64, 71), dtype=np.float32)
    expected = np.zeros_like(x)
    for z, y, x_ in product((0,), (0, 32), (0, 32)):
        block = x[z:z + 32, y:y + 32, x_:x_ + 32]
        peak = np.add(np.unravel_index(block.argmax(), block.shape), (z, y, x_))
        expected[tuple(peak)] = block.max()
    np.testing.assert_array_equal(network(torch.from_numpy(x)[None, None])[0, 0], expected)


def test_segnet_is_vgg_16_and_its_mirror_image():
    convolutions = [m for m in build_on_meta("SegNet").modules() if isinstance(m, nn.Conv3d)]
    through = [(c.in_channels, c.out_channels) for c in convolutions]
    assert all(c.kernel_size == (3, 3, 3) for c in convolutions)
    assert [o for _, o in through[:13]] == [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    assert through[13:] == [(o, i) for i, o in through[12::-1]]


# DeepLabv3+ ---------------------------------------------------------------------------------------------

def dense(separable, x, rate):
    """A separable convolution as a dense one of composed kernels."""
    depth, point = separable
    kernel = torch.einsum("oi,idhw->oidhw", point.weight[:, :, 0, 0, 0], depth.weight[:, 0])
    return F.conv3d(x, kernel, padding=rate, dilation=rate)


def test_aspp_joins_a_voxel_dense_convolutions_of_all_rates_and_the_mean():
    torch.manual_seed(0)
    aspp, x = ASPP(2, 4, (1, 3, 6)).double().eval(), torch.randn(2, 2, 9, 10, 8, dtype=torch.float64)
    voxel, *atrous = aspp.branches
    parts = [voxel(x), *(branch[1:](dense(branch[0], x, rate))
                         for branch, rate in zip(atrous, (1, 3, 6), strict=True)),
             aspp.mean(x.mean((2, 3, 4), keepdim=True)).expand(-1, -1, 9, 10, 8)]
    torch.testing.assert_close(aspp(x), aspp.project(torch.cat(parts, 1)))


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


# MONAI's networks ---------------------------------------------------------------------------------------

def assert_same(ours, theirs, *size):
    x = torch.randn(1, 1, *size)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), theirs(x))


def test_v_net_is_monais_at_its_width():
    torch.manual_seed(0)
    ours = monai.VNet(16).eval()
    theirs = VNet(act="prelu", dropout_prob_down=None, dropout_prob_up=(None, 0.0)).eval()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    assert_same(ours, theirs, 16, 16, 32)


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
    assert_same(ours, theirs, 32, 16, 48)


def test_transunets_tokens_return_to_their_places(monkeypatch):
    network = transunet.TransUNet((1, 1, 1, 1, 2), 24)
    network.blocks, network.norm, seen = nn.Identity(), nn.Identity(), []
    monkeypatch.setattr(transunet, "sine_positions", lambda *_: 0)
    network.embed.register_forward_hook(lambda m, inputs, out: seen.append(out))
    network.back.register_forward_hook(lambda m, inputs, out: seen.append(inputs[0]))
    network(torch.randn(2, 1, 16, 32, 48))
    assert seen[0].shape == (2, 24, 1, 2, 3) and torch.equal(*seen)
