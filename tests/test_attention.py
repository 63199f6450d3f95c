"""SE, CBAM, non-local and ECA against their papers' formulas in NumPy."""

import numpy as np
import torch

from magunet.attention import CBAM, ECA, SE, NonLocal

X = torch.randn(2, 16, 2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


def dense(conv, v):
    """A 1^3 convolution as a matrix product. v: (c, n)."""
    return conv.weight.detach().numpy()[:, :, 0, 0, 0] @ v + conv.bias.detach().numpy()[:, None]


def mlp(module, v):
    """v: (c,) -> (c,)."""
    return dense(module[2], np.maximum(dense(module[0], v[:, None]), 0))[:, 0]


def check(module, naive):
    ours = module(X).detach().numpy()
    for case, expected in zip(ours, (naive(x) for x in X.numpy())):
        np.testing.assert_allclose(case, expected, rtol=1e-10)


def test_se_scales_channels_by_a_gate_of_their_means():
    module = SE(16, reduction=4).double()
    check(module, lambda x: x * sigmoid(mlp(module.mlp, x.mean((1, 2, 3))))[:, None, None, None])


def test_cbam_gates_channels_then_positions():
    module = CBAM(16, reduction=4, kernel=3).double()
    weight, bias = module.spatial.weight.detach().numpy()[0], module.spatial.bias.item()

    def naive(x):
        both = mlp(module.mlp, x.mean((1, 2, 3))) + mlp(module.mlp, x.max((1, 2, 3)))
        x = x * sigmoid(both)[:, None, None, None]
        maps = np.pad(np.stack([x.mean(0), x.max(0)]), ((0, 0), (1, 1), (1, 1), (1, 1)))
        gate = np.empty(x.shape[1:])
        for z, y, k in np.ndindex(gate.shape):
            gate[z, y, k] = (weight * maps[:, z:z + 3, y:y + 3, k:k + 3]).sum() + bias
        return x * sigmoid(gate)

    check(module, naive)


def test_non_local_starts_as_the_identity_and_attends_over_all_positions():
    module = NonLocal(16).double().eval()
    assert torch.equal(module(X), X)
    conv, norm = module.out
    torch.nn.init.normal_(norm.weight)

    def naive(x):
        a = x.reshape(16, -1)
        theta, phi, g = (dense(f, a) for f in (module.theta, module.phi, module.g))
        weights = np.exp(theta.T @ phi)
        y = dense(conv, g @ (weights / weights.sum(1, keepdims=True)).T)
        return (y / np.sqrt(1 + norm.eps) * norm.weight.detach().numpy()[:, None] + a).reshape(x.shape)

    check(module, naive)


def test_eca_gates_channels_by_as_many_neighbours_as_the_published_rule_says():
    for channels, kernel in ((16, 3), (64, 3), (128, 5), (256, 5), (512, 5)):       # their Eq. 12
        assert ECA(channels).conv.kernel_size == (kernel,), channels
    module = ECA(16).double()
    weight = module.conv.weight.detach().numpy()[0, 0]
    half = len(weight) // 2

    def naive(x):
        means = np.pad(x.mean((1, 2, 3)), half)
        gate = np.array([weight @ means[i:i + len(weight)] for i in range(16)])
        return x * sigmoid(gate)[:, None, None, None]

    check(module, naive)
