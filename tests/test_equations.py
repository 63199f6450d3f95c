"""The equations of the paper, and of the attention modules beside DA, against readings in plain loops and
float64, written apart from the modules."""

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch.nn.attention import SDPBackend, sdpa_kernel

from magunet import losses
from magunet.attention import CBAM, ECA, SE, NonLocal
from magunet.blocks import CAM, LGAG, MFF, PAM, BatchNorm3d, DualAttention
from magunet.metrics import overlap


def feature_map(b=2, c=16, d=3, h=4, w=5, seed=0):
    return torch.randn(b, c, d, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def projected(conv, a):
    """A 1^3 convolution as a matrix product. a: (c, n)."""
    return conv.weight.detach().numpy()[:, :, 0, 0, 0] @ a + conv.bias.detach().numpy()[:, None]


def naive_pam(module, a, divisor=1):
    """Eqs. 3-5 with the whole N x N matrix, all energies divided by a number. a: (c, n) -> (c, n)."""
    b, c, d = (projected(conv, a) for conv in (module.B, module.C, module.D))
    e = np.exp(np.einsum("ki,kj->ij", b, c) / divisor)                                     # (i, j)
    return module.alpha.item() * d @ (e / e.sum(0)) + a


def naive_cam(module, a, divisor=1):
    """Eqs. 6-8, all energies divided by a number. a: (c, n) -> (c, n)."""
    e = np.exp(np.einsum("in,jn->ij", a, a) / divisor)                                     # (i, j)
    return module.beta.item() * (e / e.sum(0)).T @ a + a


def per_case(function, module, x):
    return torch.stack([torch.from_numpy(function(module, case.flatten(1).numpy())).view(case.shape)
                        for case in x])


def assert_close(ours, naive, relative=1e-6, what=""):
    error = (ours - naive).norm() / naive.norm()
    assert error < relative, f"relative error {error:.2e} {what}"


def naive_da(module, a):
    """Eqs. 1-2 without the convolution after the sum, which they do not have. a: (c, n) -> (c, n)."""
    weights = np.exp(module.w.detach().numpy())
    return weights / weights.sum() @ [naive_pam(module.pam, a).ravel(), naive_cam(module.cam, a).ravel()]


def test_attention_is_eqs_1_to_8_also_in_float32_and_starts_as_the_identity():
    x, da = 0.3 * feature_map(), DualAttention(16)
    da.out = torch.nn.Identity()
    for module, naive in (*((PAM(16, reduction), naive_pam) for reduction in (1, 4, 5, 8, 64)),   # 5: a rest
                          (CAM(start=0), naive_cam), (da, naive_da)):
        out = module.double()(x)
        assert torch.equal(out, x), module
        out.square().sum().backward()
        for name, parameter in module.named_parameters():
            if name.endswith(("alpha", "beta", "w")):
                assert parameter.grad.abs().max() > 0 or name == "w", (name, module)
                torch.nn.init.normal_(parameter)
        expected = per_case(naive, module, x)
        assert_close(module(x).detach(), expected, what=module)
        assert_close(module.float()(x.float()).double().detach(), expected, what=f"{module} in float32")


def test_scaled_energies_are_divided_by_the_root_of_the_vectors_length_and_open_scales_start_at_1():
    x, da = 0.5 * feature_map(), DualAttention(16, 4, 1.0, True)
    for module, naive, length in ((da.pam, naive_pam, 4), (da.cam, naive_cam, 3 * 4 * 5)):
        def scaled(module, a, naive=naive, length=length):
            return naive(module, a, length**0.5)

        assert_close(module.double()(x).detach(), per_case(scaled, module, x), what=module)
        assert (module(x) - per_case(naive, module, x)).norm() > 0.01 * x.norm()    # of another function
    assert da.pam.alpha.item() == da.cam.beta.item() == 1


def test_pam_never_forms_the_matrix_and_survives_logits_that_overflow_a_plain_exponential():
    module = PAM(32)
    torch.nn.init.ones_(module.alpha)
    x = (1e3 * torch.randn(1, 32, 2, 3, 4)).requires_grad_()
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):           # any kernel that forms it raises
        out = module(x)
        out.sum().backward()
    assert out.isfinite().all() and x.grad.isfinite().all()


def test_attention_in_bfloat16_autocast_keeps_float32_digits():
    module = PAM(16)
    torch.nn.init.ones_(module.alpha)
    x = torch.randn(1, 16, 2, 4, 4)
    expected = module(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module(x), expected)
        half = module(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert torch.allclose(half.float(), module(x.bfloat16().float()), atol=0.02, rtol=0.01)


def naive_conv(x, conv):
    """A grouped convolution of odd size with zero padding, voxel by voxel. x: (c, d, h, w)."""
    weight, bias = conv.weight.detach().numpy(), conv.bias.detach().numpy()
    size = weight.shape[2:]
    around = sliding_window_view(np.pad(x, ((0, 0), *((n // 2,) * 2 for n in size))), size, axis=(1, 2, 3))
    groups = zip(np.split(around, conv.groups), np.split(weight, conv.groups))
    sums = [np.einsum("cdhwijk,ocijk->odhw", *group) for group in groups]
    return np.concatenate(sums) + bias[:, None, None, None]


def naive_batch_norm(x, bn):
    """Evaluation mode, from running statistics. x: (c, ...)."""
    mean, var, weight, bias = (p.detach().numpy().reshape(-1, 1, 1, 1)
                               for p in (bn.running_mean, bn.running_var, bn.weight, bn.bias))
    return (x - mean) / np.sqrt(var + bn.eps) * weight + bias


def test_lgag_is_eqs_9_and_10():
    for channels, groups in ((4, 4), (16, 16), (24, 8)):
        module = LGAG(channels).double().eval()
        for bn in (m for m in module.modules() if isinstance(m, BatchNorm3d)):
            torch.nn.init.normal_(bn.running_mean), torch.nn.init.uniform_(bn.running_var, 0.5, 2)
            torch.nn.init.normal_(bn.weight), torch.nn.init.normal_(bn.bias)
        assert module.g[0].groups == module.x[0].groups == groups
        g, x = feature_map(1, channels, seed=1), feature_map(1, channels, seed=2)
        q = sum(naive_batch_norm(naive_conv(y[0].numpy(), conv), bn)
                for y, (conv, bn) in ((g, module.g), (x, module.x)))
        one = naive_batch_norm(naive_conv(np.maximum(q, 0), module.gate[0]), module.gate[1])
        assert_close(module(g, x)[0].detach(), torch.from_numpy(x[0].numpy() / (1 + np.exp(-one))), 1e-12)


def test_mff_pools_each_branch_of_one_shared_map():
    module, x = MFF(2, 3, kernels=(1, 3)).double().eval(), feature_map(1, 2, 4, 4, 6)

    def stage(a, conv, bn, *_):
        return np.maximum(naive_batch_norm(naive_conv(a, conv), bn), 0)

    shared = stage(x[0].numpy(), *module.shared)
    pooled = [stage(shared, *branch).reshape(3, 2, 2, 2, 2, 3, 2).max(axis=(2, 4, 6))
              for branch in module.branches]
    naive = stage(np.concatenate(pooled), *module.fuse)
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


def test_losses_are_eqs_15_to_17_and_so_are_their_gradients():
    logits = torch.randn(2, 1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    target = (torch.rand(2, 1, 2, 3, 3) > 0.6).to(torch.uint8)
    dice, entropy = [], []
    for p, g in zip(1 / (1 + np.exp(-logits.detach().flatten(1).numpy())), target.flatten(1).numpy()):
        dice.append(1 - (2 * (p * g).sum() + 1) / (p.sum() + g.sum() + 1))
        entropy.append(-np.where(g == 1, np.log(p), np.log(1 - p)).mean())
    dice, entropy = sum(dice) / 2, sum(entropy) / 2
    for loss, expected in ((losses.dice_loss, dice), (losses.cross_entropy_loss, entropy),
                           (losses.dice_ce_loss, dice + entropy)):
        assert loss(logits, target).item() == pytest.approx(expected, rel=1e-12), loss
        assert torch.autograd.gradcheck(lambda x, loss=loss: loss(x, target), (logits,)), loss
    empty = torch.zeros(1, 1, 4, 4, 4)                      # nothing, predicted empty, and finite at extremes
    assert losses.dice_ce_loss(empty - 60, empty).item() == pytest.approx(0, abs=1e-6)
    assert losses.dice_ce_loss(empty + 1e4, empty).isfinite()


def test_overlaps_of_empty_masks_follow_the_stated_policy_and_any_other_value_is_foreground():
    """That those of others are Eqs. 11-14 is in test_agreement.py."""
    for prediction, truth, expected in ((0, 0, 1.0), (1, 0, 0.0), (0, 1, 0.0), (1, 3, 1.0)):
        counts = overlap(np.full((2, 2, 2), prediction), np.full((2, 2, 2), truth))
        for name in ("dice", "iou", "precision", "recall"):
            assert getattr(counts, name) == expected, (prediction, truth, name)


# Attention of Table 2 beside DA -------------------------------------------------------------------------
def sigmoid(v):
    return 1 / (1 + np.exp(-v))


def mlp(module, v):
    """v: (c,) -> (c,)."""
    return projected(module[2], np.maximum(projected(module[0], v[:, None]), 0))[:, 0]


def check(module, naive):
    module, x = module.double().eval(), feature_map()
    assert_close(module(x).detach(), per_case(lambda _, a: naive(a), module, x), 1e-10)


def test_se_scales_channels_by_a_gate_of_their_means():
    module = SE(16, reduction=4)
    check(module, lambda a: a * sigmoid(mlp(module.mlp, a.mean(1)))[:, None])


def test_cbam_gates_channels_then_positions():
    module = CBAM(16, reduction=4, kernel=3)

    def naive(a):
        a = a * sigmoid(mlp(module.mlp, a.mean(1)) + mlp(module.mlp, a.max(1)))[:, None]
        maps = np.stack([a.mean(0), a.max(0)]).reshape(2, 3, 4, 5)
        return a * sigmoid(naive_conv(maps, module.spatial)).reshape(1, -1)

    check(module, naive)


def test_non_local_starts_as_the_identity_and_attends_over_all_positions():
    module, x = NonLocal(16).double().eval(), feature_map()
    assert torch.equal(module(x), x)
    conv, norm = module.out
    torch.nn.init.normal_(norm.weight)

    def naive(a):
        theta, phi, g = (projected(f, a) for f in (module.theta, module.phi, module.g))
        weights = np.exp(theta.T @ phi)
        y = projected(conv, g @ (weights / weights.sum(1, keepdims=True)).T)
        return y / np.sqrt(1 + norm.eps) * norm.weight.detach().numpy()[:, None] + a

    check(module, naive)


def test_eca_gates_channels_by_as_many_neighbours_as_the_published_rule_says():
    for channels, kernel in ((16, 3), (64, 3), (128, 5), (256, 5), (512, 5)):       # their Eq. 12
        assert ECA(channels).conv.kernel_size == (kernel,), channels
    module = ECA(16)

    def naive(a):
        weight = module.conv.weight.detach().numpy()[0, 0]
        return a * sigmoid(np.convolve(a.mean(1), weight[::-1], "same"))[:, None]

    check(module, naive)
