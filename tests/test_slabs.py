"""Work on slabs and boxes gives what work on whole arrays gives: each shortcut beside an array without it."""

from dataclasses import asdict, replace

import numpy as np
import pytest
from boxes import TINY
from scipy import ndimage

from magunet import prepare, surfaces, target
from magunet.volume import Volume
from sijphantom import scanner
from sijphantom.phantom import make_phantom

EVERYTHING = 10**12
"""More slices, voxels or mm than there are."""


@pytest.fixture(scope="module")
def phantom():
    return make_phantom(3, matrix=96, slices=(40, 40))


def whole(array, *_):
    """The box that is all of an array."""
    return tuple(slice(0, n) for n in array.shape)


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


def test_scores_are_the_same(phantom, monkeypatch):
    masks = np.roll(phantom.mask, (1, 2), (0, 2)), phantom.mask
    boxes = asdict(surfaces.surface_scores(*masks, phantom.spacing))
    monkeypatch.setattr(surfaces, "bounding_box", whole)
    assert boxes == pytest.approx(asdict(surfaces.surface_scores(*masks, phantom.spacing)), rel=1e-12)


def test_distances_are_the_same_up_to_where_they_are_cut_off(monkeypatch):
    noise, mask = np.random.default_rng(0).normal(size=(30, 40, 50)), np.zeros((60, 90, 100), bool)
    mask[15:45, 25:65, 25:75] = ndimage.gaussian_filter(noise, 3) > 0.03
    box = target.mask_distance(mask, (1.5, 1.0, 1.2), 1.0)
    monkeypatch.setattr(target, "bounding_box", whole)
    expected = target.mask_distance(mask, (1.5, 1.0, 1.2), 1.0)
    near = np.abs(expected) < target.NEAR
    assert 0.05 < near.mean() < 1 and np.array_equal(box[near], expected[near])
    assert (box[~near] >= target.NEAR).all()
