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
    n = a.shape[1]
    s = np.empty((n, n))
    for j in range(n):
        e = np.array([math.exp(b[:, i] @ c[:, j]) for i in range(n)])
        s[j] = e / e.sum()
    out = np.empty_like(a)
    for j in range(n):
        out[:, j] = module.alpha.item() * sum(s[j, i] * d[:, i] for i in range(n)) + a[:, j]
    return out


def naive_cam(module, a):
    """Eqs. 6-8 with loops. a: (c, n) -> (c, n)."""
    c = len(a)
    out = np.empty_like(a)
    for j in range(c):
        logits = np.array([a[i] @ a[j] for i in range(c)])
        e = np.exp(logits - logits.max())
        x = e / e.sum()
        out[j] = module.beta.item() * sum(x[i] * a[i] for i in range(c)) + a[j]
    return out


def per_case(function, module, x):
    return torch.stack([torch.from_numpy(function(module, case.flatten(1).numpy())).view(case.shape)
                        for case in x])


def with_scale(module, name, value):
    torch.nn.init.constant_(getattr(module, name), value)
    return module


def assert_close(ours, naive, relative=1e-6):
    error = (ours - naive).norm() / naive.norm()
    assert error < relative, f"relative error {error:.2e}"


@pytest.mark.parametrize("reduction", [1, 4, 5, 8, 64])             # 5 leaves a rest: heads of one channel
def test_pam_is_eqs_3_to_5(reduction):
    module = with_scale(PAM(16, reduction).double(), "alpha", 0.7)
    x = feature_map()
    assert_close(module(x).detach(), per_case(naive_pam, module, x))


def test_pam_in_float32_stays_within_1e_6_of_float64():
    module = with_scale(PAM(16).double(), "alpha", 0.7)
    x = feature_map()
    naive = per_case(naive_pam, module, x)
    assert_close(module.float()(x.float()).double().detach(), naive)


def test_pam_never_takes_the_kernel_that_forms_the_matrix():
    module = with_scale(PAM(32), "alpha", 1.0)
    x = torch.randn(1, 32, 2, 3, 4, requires_grad=True)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):           # anything else raises
        module(x).sum().backward()
    assert x.grad.isfinite().all()


def test_pam_survives_logits_that_overflow_a_plain_exponential():
    module = with_scale(PAM(16), "alpha", 1.0)
    assert module(1e3 * torch.randn(1, 16, 2, 3, 4)).isfinite().all()


def test_cam_is_eqs_6_to_8():
    module = with_scale(CAM().double(), "beta", -0.4)
    x = 0.3 * feature_map()
    assert_close(module(x).detach(), per_case(naive_cam, module, x))


def without_convolution(channels):
    """DA without the convolution after its sum, which Eqs. 1 and 2 do not have."""
    module = DualAttention(channels)
    module.out = torch.nn.Identity()
    return module


@pytest.mark.parametrize("module", [PAM(16), CAM(), without_convolution(16)])
def test_attention_starts_as_the_identity(module):
    x = torch.randn(2, 16, 3, 4, 5)
    assert torch.equal(module(x), x)


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
    size = weight.shape[1]
    per_group = len(weight) // conv.groups
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (1, 1)))
    out = np.empty((len(weight), *x.shape[1:]))
    for o in range(len(weight)):
        first = (o // per_group) * size
        for z, y, k in np.ndindex(x.shape[1:]):
            out[o, z, y, k] = (weight[o] * padded[first:first + size, z:z + 3, y:y + 3,
                                                  k:k + 3]).sum() + bias[o]
    return out


def naive_batch_norm(x, bn):
    """Evaluation mode, from running statistics. x: (c, ...)."""
    shape = (-1, 1, 1, 1)
    mean, var, weight, bias = (p.detach().numpy().reshape(shape)
                               for p in (bn.running_mean, bn.running_var, bn.weight, bn.bias))
    return (x - mean) / np.sqrt(var + bn.eps) * weight + bias


@pytest.mark.parametrize("channels, groups", [(4, 4), (16, 16), (24, 8)])
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
                                          ("MFF", MFF(4, 4)), ("LGAG", LGAG(4))])
def test_blocks_pass_gradcheck(name, module):
    module = module.double().eval()                         # running statistics: one function of x alone
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    shape = (1, 4, 2, 2, 2)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    inputs = (torch.randn(shape, dtype=torch.float64, requires_grad=True), x) if name == "LGAG" else (x,)
    parameters = tuple(module.parameters())
    names = [n for n, _ in module.named_parameters()]

    def function(*values):
        given = dict(zip(names, values[len(inputs):]))
        return torch.func.functional_call(module, given, values[:len(inputs)])

    assert torch.autograd.gradcheck(function, (*inputs, *parameters))


@pytest.mark.parametrize("loss", [losses.dice_loss, losses.cross_entropy_loss, losses.dice_ce_loss])
def test_losses_pass_gradcheck(loss):
    logits = torch.randn(2, 1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    target = (torch.rand(2, 1, 2, 3, 3) > 0.6).to(torch.uint8)
    assert torch.autograd.gradcheck(lambda x: loss(x, target), (logits,))


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


def naive_scores(x, y):
    """Eqs. 11-14 on sets of voxels."""
    x, y = ({tuple(i) for i in np.argwhere(m)} for m in (x, y))
    return {"dice": 2 * len(x & y) / (len(x) + len(y)), "iou": len(x & y) / len(x | y),
            "precision": len(x & y) / len(x), "recall": len(x & y) / len(y)}


@pytest.mark.parametrize("seed", range(4))
def test_metrics_are_eqs_11_to_14(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.random((2, 5, 6, 7)) > rng.uniform(0.2, 0.9)
    counts = overlap(x, y.astype(np.uint8) * 3)             # any non-zero value is foreground
    for name, value in naive_scores(x, y).items():
        assert getattr(counts, name) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("prediction, truth, expected", [(0, 0, 1.0), (1, 0, 0.0), (0, 1, 0.0), (1, 1, 1.0)])
def test_empty_masks_follow_the_stated_policy(prediction, truth, expected):
    counts = overlap(np.full((2, 2, 2), prediction), np.full((2, 2, 2), truth))
    for name in ("dice", "iou", "precision", "recall"):
        assert getattr(counts, name) == expected
