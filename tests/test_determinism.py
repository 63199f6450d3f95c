"""docs/reproducibility.md names what a GPU does not compute twice alike; the source is torch's manual."""

import monai.networks.nets  # noqa: F401 - takes seconds, which belong to no test
import torch
from conftest import ROOT
from torch.utils._python_dispatch import TorchDispatchMode

from magunet.studies import PEERS, build_on_meta

LISTED = {"convolution": "Conv3d", "max_pool3d_with_indices": "MaxPool3d", "max_unpool3d": "MaxUnpool3d",
          "index": "indexing", "replication_pad3d": "ReplicationPad3d", "upsample_trilinear3d": "interpolate"}
"""Operation of torch -> what `torch.use_deterministic_algorithms` and docs/reproducibility.md call it."""
ORDERED = """_prelu_kernel _safe_softmax _softmax _unsafe_view add add_ addmm alias amax arange bmm cat clone
    constant_pad_nd copy_ cos empty eq expand gelu leaky_relu_ linspace masked_fill mean mm mul ne neg
    native_batch_norm native_group_norm native_layer_norm permute pow relu relu_ repeat roll scalar_tensor
    select sigmoid sin slice squeeze stack sub t transpose unbind unsqueeze view zeros"""
"""Operations that torch does not list: forwards and backwards, each of their sums has one order."""
ALL = {*PEERS, "3D U-Net", "MAG-UNet", "+SE", "+CBAM", "+Non-local", "+ECA"}
"""The other rows of the tables are made of these parts."""


class Watched(TorchDispatchMode):
    """Remembers the names of all operations inside."""

    def __enter__(self):
        self.seen = set()
        return super().__enter__()

    def __torch_dispatch__(self, function, kinds, arguments=(), named=None):
        self.seen.add(function.overloadpacket.__name__)
        return function(*arguments, **(named or {}))


def test_every_operation_is_known_to_be_repeatable_or_listed_and_the_page_names_who_computes_it():
    """One that is in neither list is new: look it up in torch's documentation, and add it to one."""
    users = {}
    for name in ALL:
        network = build_on_meta(name, 4).eval()
        with Watched() as watched, torch.no_grad():
            network(torch.empty(1, 1, 50, 64, 64, device="meta"))           # 50 is no multiple of 16
        for operation in watched.seen:
            users.setdefault(operation, set()).add(name)
    assert set(users) <= {*LISTED, *ORDERED.split()}
    page = (ROOT / "docs" / "reproducibility.md").read_text()
    cells = [line.split("|") for line in page.splitlines() if line.startswith("| ")]
    for operation, name in LISTED.items():
        (row,) = [row for row in cells if name in row[1]]
        names = row[2].strip().removeprefix("every network")
        said = {name.strip() for name in names.removeprefix(" but ").split(",") if name.strip()}
        assert users[operation] == (ALL - said if "every network" in row[2] else said), operation
