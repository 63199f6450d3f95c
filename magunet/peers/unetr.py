"""UNETR on any grid: MONAI's network with positions that are computed, not learned for one input size.

Hatamizadeh et al.: UNETR: Transformers for 3D Medical Image Segmentation, WACV 2022.
"""

from torch import Tensor, nn

from magunet.blocks import rows
from magunet.peers.adapt import AnyGrid, scaled, sine_positions, without_idle_parameters

CELL = 16
"""Voxels along the sides of the cube that becomes one token; MONAI's network has no other."""


class Cells(nn.Module):
    """Cubes of voxels as tokens, with their positions. x: (b, 1, d, h, w) -> (b, n, channels)."""

    def __init__(self, channels: int):
        super().__init__()
        self.project = nn.Conv3d(1, channels, CELL, stride=CELL)

    def forward(self, x: Tensor) -> Tensor:
        x = self.project(x)                                 # (b, channels, d / 16, h / 16, w / 16)
        return rows(x) + sine_positions(x)


class UNETR(nn.Module):
    """12 layers of 12 heads as ViT-B, instance norm, and the leaky ReLU of 0.01 that MONAI's blocks hold.

    x: (b, 1, d, h, w), sides divisible by 16 -> logits (b, 1, d, h, w). hidden must be divisible by 12.
    """

    def __init__(self, hidden: int = 768, features: int = 32):
        from monai.networks.nets import unetr
        super().__init__()
        self.network = without_idle_parameters(unetr.UNETR(
            in_channels=1, out_channels=1, img_size=CELL, feature_size=features, hidden_size=hidden,
            mlp_dim=4 * hidden, num_heads=12, proj_type="conv", norm_name=("instance", {"affine": True}),
            conv_block=True, res_block=True, dropout_rate=0.0, spatial_dims=3, qkv_bias=False))
        self.network.vit.patch_embedding = Cells(hidden)

    def forward(self, x: Tensor) -> Tensor:
        cells = [n // CELL for n in x.shape[2:]]
        self.network.proj_view_shape = [*cells, self.network.hidden_size]   # MONAI fixes it when it builds
        return self.network(x)


def unetr(width_divisor: float) -> nn.Module:
    """UNETR of 32 features: 96.9 Mi parameters (paper 106.27); MONAI's default of 16 is farther off."""
    hidden, = scaled(width_divisor, 768, multiple=12)                   # one share for each head
    return AnyGrid(UNETR(hidden, *scaled(width_divisor, 32)), CELL, CELL, CELL)
