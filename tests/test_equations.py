"""The paper's equations against readings in plain loops and float64, written apart from the module."""

import math

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from magunet import losses
from magunet.blocks import CAM, LGAG, MFF, PAM, BatchNorm3d, DualAttention
from magunet.metrics import overlap

torch.manual_seed(0)


def feature_map(b=2, c=16, d=3, h=4, w=5, seed=0):
    return torch.randn(b, c, d, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def projected(conv, a):
    """A 1^3 convolution as a matrix product. a: (c, n)."""
    return conv.weight.detach().numpy()[:, :, 0, 0, 0] @ a + conv.bias.detach().numpy()[:, None]


def naive_pam(module, a):
    """Eqs. 3-5 with the whole N x N matrix and loops. a: (c, n) -> (c, n)."""
    b, c, d = (projected(conv, a) for conv in (module.B, module.C, module.D))
    out = np.empty_like(a)
    for j in range(a.shape[1]):
        e = np.array([math.exp(b[:, i] @ c[:, j]) for i in range(a.shape[1])])
        out[:, j] = module.alpha.item() * sum(e[i] / e.sum() * d[:, i] for i in range(len(e))) + a[:, j]
    return out


def naive_cam(module, a):
    """Eqs. 6-8 with loops. a: (c, n) -> (c, n)."""
    out = np.empty_like(a)
    for j in range(len(a)):
        logits = np.array([a[i] @ a[j] for i in range(len(a))])
        e = np.exp(logits - logits.max())
        out[j] = module.beta.item() * sum(e[i] / e.sum() * a[i] for i in range(len(a))) + a[j]
    return out


def per_case(function, module, x):
    return torch.stack([torch.from_numpy(function(module, case.flatten(1).numpy())).view(case.shape)
                        for case in x])


def with_scale(module, name, value):
    torch.nn.init.constant_(getattr(module, name), value)
    return module


def assert_close(ours, naive, relative=1e-6, what=""):
    error = (ours - naive).norm() / naive.norm()
    assert error < relative, f"relative error {error:.2e} {what}"


def test_pam_is_eqs_3_to_5_also_in_float32():
    x = feature_map()
    for reduction in (1, 4, 5, 8, 64):                      # 5 leaves a rest: heads of one channel
        module = with_scale(PAM(16, reduction).double(), "alpha", 0.7)
        naive = per_case(naive_pam, module, x)
        assert_close(module(x).detach(), naive, what=f"reduction {reduction}")
        assert_close(module.float()(x.float()).double().detach(), naive, what=f"float32, {reduction}")


def test_pam_never_forms_the_matrix_and_survives_logits_that_overflow_a_plain_exponential():
    module = with_scale(PAM(32), "alpha", 1.0)
    x = (1e3 * torch.randn(1, 32, 2, 3, 4)).requires_grad_()
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):           # any kernel that forms it raises
        out = module(x)
        out.sum().backward()
    assert out.isfinite().all() and x.grad.isfinite().all()


def test_cam_is_eqs_6_to_8():
    module = with_scale(CAM().double(), "beta", -0.4)
    x = 0.3 * feature_map()
    assert_close(module(x).detach(), per_case(naive_cam, module, x))


def without_convolution(channels):
    """DA without the convolution after its sum, which Eqs. 1 and 2 do not have."""
    module = DualAttention(channels)
    module.out = torch.nn.Identity()
    return module


def test_attention_starts_as_the_identity():
    x = torch.randn(2, 16, 3, 4, 5)
    for module in (PAM(16), CAM(), without_convolution(16)):
        assert torch.equal(module(x), x), module


def test_dual_attention_is_eqs_1_and_2():
    module = without_convolution(16).double()
    with_scale(module.pam, "alpha", 0.5), with_scale(module.cam, "beta", 0.9)
    module.w.data = torch.tensor([0.3, -1.1], dtype=torch.float64)
    x = 0.3 * feature_map()
    e1, e2 = math.exp(0.3), math.exp(-1.1)
    naive = (e1 * per_case(naive_pam, module.pam, x) + e2 * per_case(naive_cam, module.cam, x)) / (e1 + e2)
    assert_close(module(x).detach(), naive)


def test_attention_in_bfloat16_autocast_keeps_float32_digits():
    module = with_scale(PAM(16), "alpha", 1.0)
    x = torch.randn(1, 16, 2, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module(x), PAM.forward(module, x))
        half = module(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert torch.allclose(half.float(), module(x.bfloat16().float()), atol=0.02, rtol=0.01)


def naive_conv(x, conv):
    """A grouped 3^3 convolution with zero padding, voxel by voxel. x: (c, d, h, w)."""
    weight, bias = conv.weight.detach().numpy(), conv.bias.detach().numpy()
    size, per_group = weight.shape[1], len(weight) // conv.groups
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (1, 1)))
    out = np.empty((len(weight), *x.shape[1:]))
    for o in range(len(weight)):
        first = (o // per_group) * size
        for z, y, k in np.ndindex(x.shape[1:]):
            seen = padded[first:first + size, z:z + 3, y:y + 3, k:k + 3]
            out[o, z, y, k] = (weight[o] * seen).sum() + bias[o]
    return out


def naive_batch_norm(x, bn):
    """Evaluation mode, from running statistics. x: (c, ...)."""
    shape = (-1, 1, 1, 1)
    mean, var, weight, bias = (p.detach().numpy().reshape(shape)
                               for p in (bn.running_mean, bn.running_var, bn.weight, bn.bias))
    return (x - mean) / np.sqrt(var + bn.eps) * weight + bias


@pytest.mark.parametrize("channels, groups", [(4, 4), (24, 8)])
def test_lgag_is_eqs_9_and_10(channels, groups):
    module = LGAG(channels).double().eval()
    for bn in (m for m in module.modules() if isinstance(m, BatchNorm3d)):
        torch.nn.init.normal_(bn.running_mean), torch.nn.init.uniform_(bn.running_var, 0.5, 2)
        torch.nn.init.normal_(bn.weight), torch.nn.init.normal_(bn.bias)
    assert module.g[0].groups == module.x[0].groups == groups
    g, x = feature_map(1, channels, 3, 4, 3, 1), feature_map(1, channels, 3, 4, 3, 2)
    q = (naive_batch_norm(naive_conv(g[0].numpy(), module.g[0]), module.g[1])
         + naive_batch_norm(naive_conv(x[0].numpy(), module.x[0]), module.x[1]))
    q = np.maximum(q, 0)
    one = np.tensordot(module.gate[0].weight.detach().numpy()[0, :, 0, 0, 0], q, 1)[None]
    one = naive_batch_norm(one + module.gate[0].bias.item(), module.gate[1])
    naive = x[0].numpy() / (1 + np.exp(-one))
    assert_close(module(g, x)[0].detach(), torch.from_numpy(naive), 1e-12)


def test_mff_pools_each_branch_of_one_shared_map():
    module = MFF(2, 3, kernels=(1, 3)).double().eval()
    x = feature_map(1, 2, 4, 4, 6)
    shared = torch.relu(module.shared[1](torch.from_numpy(naive_conv(x[0].numpy(), module.shared[0]))[None]))
    wide = naive_conv(shared[0].detach().numpy(), module.branches[1][0])
    narrow = np.tensordot(module.branches[0][0].weight.detach().numpy()[:, :, 0, 0, 0],
                          shared[0].detach().numpy(), 1)
    narrow += module.branches[0][0].bias.detach().numpy()[:, None, None, None]
    pooled = []
    for values, branch in ((narrow, module.branches[0]), (wide, module.branches[1])):
        values = np.maximum(naive_batch_norm(values, branch[1]), 0)
        pooled.append(values.reshape(3, 2, 2, 2, 2, 3, 2).max(axis=(2, 4, 6)))
    fused = naive_conv(np.concatenate(pooled), module.fuse[0])
    naive = np.maximum(naive_batch_norm(fused, module.fuse[1]), 0)
    assert_close(module(x)[0].detach(), torch.from_numpy(naive), 1e-12)


@pytest.mark.parametrize("name, module", [("PAM", PAM(4, 2)), ("CAM", CAM()), ("DA", DualAttention(4, 2)),
                                          ("MFF", MFF(1, 2)), ("LGAG", LGAG(4))])
def test_blocks_pass_gradcheck(name, module):
    module = module.double().eval()                         # running statistics: one function of x alone
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    inputs = torch.randn(1 + (name == "LGAG"), 1, 1 if name == "MFF" else 4, 2, 2, 2, dtype=torch.float64)
    inputs, names = list(inputs.unbind()), [n for n, _ in module.named_parameters()]

    def function(*values):
        given = dict(zip(names, values[len(inputs):]))
        return torch.func.functional_call(module, given, values[:len(inputs)])

    values = (*(x.requires_grad_() for x in inputs), *module.parameters())
    assert torch.autograd.gradcheck(function, values)


def test_losses_pass_gradcheck():
    logits = torch.randn(2, 1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    target = (torch.rand(2, 1, 2, 3, 3) > 0.6).to(torch.uint8)
    for loss in (losses.dice_loss, losses.cross_entropy_loss, losses.dice_ce_loss):
        assert torch.autograd.gradcheck(lambda x, loss=loss: loss(x, target), (logits,)), loss


def test_losses_are_eqs_15_to_17():
    logits = torch.randn(2, 1, 2, 3, 4, dtype=torch.float64)
    target = (torch.rand(2, 1, 2, 3, 4) > 0.7).to(torch.uint8)
    dice, entropy = [], []
    for row, truth in zip(logits.flatten(1).tolist(), target.flatten(1).tolist()):
        p = [1 / (1 + math.exp(-v)) for v in row]
        overlap_sum = sum(a * g for a, g in zip(p, truth))
        dice.append(1 - (2 * overlap_sum + losses.SMOOTH) / (sum(p) + sum(truth) + losses.SMOOTH))
        entropy += [-(g * math.log(a) + (1 - g) * math.log(1 - a)) for a, g in zip(p, truth)]
    dice, entropy = sum(dice) / 2, sum(entropy) / len(entropy)
    assert losses.dice_loss(logits, target).item() == pytest.approx(dice, rel=1e-12)
    assert losses.cross_entropy_loss(logits, target).item() == pytest.approx(entropy, rel=1e-12)
    assert losses.dice_ce_loss(logits, target).item() == pytest.approx(dice + entropy, rel=1e-12)


def test_loss_of_an_empty_mask_predicted_empty_is_nothing_and_finite_at_extremes():
    empty = torch.zeros(1, 1, 4, 4, 4)
    assert losses.dice_ce_loss(torch.full_like(empty, -60.0), empty).item() == pytest.approx(0, abs=1e-6)
    assert losses.dice_ce_loss(torch.full_like(empty, 1e4), empty).isfinite()


def test_overlaps_of_empty_masks_follow_the_stated_policy_and_any_other_value_is_foreground():
    """That those of others are Eqs. 11-14 is in test_agreement.py."""
    for prediction, truth, expected in ((0, 0, 1.0), (1, 0, 0.0), (0, 1, 0.0), (1, 3, 1.0)):
        counts = overlap(np.full((2, 2, 2), prediction), np.full((2, 2, 2), truth))
        for name in ("dice", "iou", "precision", "recall"):
            assert getattr(counts, name) == expected, (prediction, truth, name)
