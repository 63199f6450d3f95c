"""Work on slabs gives what work on whole arrays gives; boxes are in test_surfaces.py and test_target.py."""

from dataclasses import replace

import numpy as np
import pytest
from boxes import TINY

from magunet import prepare
from magunet.volume import Volume
from sijphantom import scanner
from sijphantom.phantom import make_phantom

EVERYTHING = 10**12
"""More slices or voxels than there are."""


@pytest.fixture(scope="module")
def phantom():
    return make_phantom(3, matrix=96, slices=(40, 40))


def test_phantoms_are_the_same_voxels(phantom, monkeypatch):
    monkeypatch.setattr(scanner, "_SLAB", EVERYTHING)
    again = make_phantom(3, matrix=96, slices=(40, 40))
    assert np.array_equal(phantom.image, again.image) and np.array_equal(phantom.mask, again.mask)


def test_preparation_and_restoration_are_the_same_voxels(phantom, monkeypatch):
    scan, mask = Volume(phantom.image, phantom.spacing), Volume(phantom.mask, phantom.spacing)

    def there_and_back(slice_mm):
        settings = replace(TINY, size=40, slice_mm=slice_mm, margin_mm=5.0)
        prepared, frame = prepare.prepare(scan, mask, settings)
        return prepared.image, prepared.mask, prepare.restore(prepared.image, frame, 0.3).array

    for slice_mm in (None, 2.5):
        slabs = there_and_back(slice_mm)
        with monkeypatch.context() as patched:
            patched.setattr(prepare, "SLAB", EVERYTHING)
            assert all(map(np.array_equal, slabs, there_and_back(slice_mm))), slice_mm
