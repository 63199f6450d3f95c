"""The phantom: repeatable, in range, and with the contrast and the disease of a pelvic CT."""

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import refused
from scipy import ndimage

from sijphantom import phantom, scanner
from sijphantom.disease import diseased_joint
from sijphantom.pelvis import parametric_pelvis
from sijphantom.phantom import make_phantom
from sijphantom.scanner import Protocol
from sijphantom.tissue import Body

SMALL = {"matrix": 128, "slices": (36, 44)}


@pytest.fixture(scope="module")
def phantoms():
    return [make_phantom(seed, **SMALL, grades=(0, 0)) for seed in range(3)]


@pytest.fixture(scope="module")
def bones():
    return parametric_pelvis(0, 2.0)


def volume(phantom, mask):
    """mm3 of a mask."""
    return np.count_nonzero(mask) * np.prod(phantom.spacing)


def assert_same(one, other):
    for name in ("image", "mask", "bones"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.parameters == other.parameters and one.grades == other.grades


def test_same_seed_same_voxels_and_grades_and_another_seed_others(phantoms, bones):
    assert_same(make_phantom(2, **SMALL, grades=(0, 0)), phantoms[2])
    given = [make_phantom(seed, matrix=32, slices=(24, 30), bones=bones) for seed in (7, 8)]
    assert given[0].image.shape != given[1].image.shape or (given[0].mask != given[1].mask).mean() > 0.001
    assert given[0].grades != given[1].grades and len({p.spacing for p in phantoms}) == len(phantoms)
    volumes = [volume(p, p.mask) for p in phantoms]
    assert np.std(volumes) / np.mean(volumes) > 0.03


def test_same_voxels_and_grades_on_any_number_of_cores_and_in_slabs_of_any_size(bones, request, monkeypatch):
    """A phantom that differed in a few voxels while torch divided its sums."""
    request.addfinalizer(partial(torch.set_num_threads, torch.get_num_threads()))
    made = []
    for threads, slab in ((1, 10**12), (2, 10**5)):
        torch.set_num_threads(threads)
        monkeypatch.setattr(scanner, "_SLAB", slab)
        made.append(make_phantom(2, matrix=96, slices=(40, 60), bones=bones))
        assert torch.get_num_threads() == threads
    assert_same(*made)


def test_swelling_moves_the_surfaces_of_bones_outwards_in_mm(monkeypatch, bones):
    protocol, masks = Protocol(pixel_mm=(1.7, 1.7), slice_mm=(1.7, 1.7)), []
    for mm in (0.0, 2.0):
        swelling = property(lambda self, mm=mm: mm, lambda self, value: None)
        monkeypatch.setattr(phantom.Pose, "swelling", swelling, raising=False)
        p = make_phantom(4, matrix=128, slices=(80, 80), bones=bones, grades=(0, 0), protocol=protocol)
        masks.append(p.bones > 0)
    slim, swollen = masks
    reached = ndimage.distance_transform_edt(~slim, p.spacing)[swollen & ~ndimage.binary_erosion(swollen)]
    assert not (slim & ~swollen).any()
    assert np.median(reached) == pytest.approx(2.0 - max(p.spacing) / 4, abs=max(p.spacing) / 2)


def test_disease_leaves_anatomy_scan_and_noise_alone(phantoms):
    sick, healthy = make_phantom(2, **SMALL, grades=(4, 0)), phantoms[2]
    assert sick.grades == (4, 0) and healthy.grades == (0, 0)
    np.testing.assert_array_equal(sick.mask, healthy.mask)
    np.testing.assert_array_equal(sick.bones, healthy.bones)
    difference = np.abs(sick.image.astype(int) - healthy.image)
    assert np.median(difference) <= 1, "the same noise, but for what the denser bone takes from the beam"
    changed = np.argwhere(difference > 60)
    left, right = (np.argwhere(healthy.bones == label)[:, 2].mean() for label in (2, 3))
    assert len(changed) and (np.abs(changed[:, 2] - left) < np.abs(changed[:, 2] - right)).mean() > 0.99


def test_default_grades_are_drawn_by_their_shares_and_sides_resemble_each_other():
    grades = np.array([phantom._draw_grades(np.random.default_rng(seed)) for seed in range(2000)])
    assert np.bincount(grades[:, 0]) / 2000 == pytest.approx([0.35, 0.15, 0.2, 0.15, 0.15], abs=0.04)
    apart = np.abs(np.diff(grades))
    assert 0.4 < (apart > 0).mean() < 0.8 and 0.6 < (apart <= 1).mean() < 0.8


def test_both_joints_lie_inside_the_image_between_sacrum_and_hip(phantoms):
    """Left is left, the sacrum is behind, and its wedge is narrow at the bottom."""
    for seed, p in enumerate(phantoms):
        pieces, count = ndimage.label(p.mask, np.ones((3, 3, 3)))
        sizes = ndimage.sum(p.mask, pieces, range(1, count + 1))
        assert (sizes > 0.2 * sizes.max()).sum() == 2, f"{seed}: one piece a side"
        where = np.argwhere(p.mask)
        margin = np.minimum(where.min(0), np.array(p.mask.shape) - 1 - where.max(0)) * p.spacing
        assert (margin > 5).all(), seed
        sacrum, left, right = (np.argwhere(p.bones == label).mean(0) for label in (1, 2, 3))
        assert left[2] > sacrum[2] > right[2] and sacrum[1] > max(left[1], right[1]), seed
        assert abs((where[:, 2] > sacrum[2]).mean() - 0.5) < 0.15, seed
        touched = [ndimage.binary_dilation(p.bones == label) & (p.mask > 0) for label in (1, 2, 3)]
        assert all(each.any() for each in touched), seed
        widths = np.array([np.ptp(np.flatnonzero(row)) for row in (p.bones == 1).any(1) if row.any()])
        assert widths[: len(widths) // 5].mean() < 0.75 * widths.max(), seed
        assert widths.argmax() > len(widths) // 3, seed


def test_tissues_have_published_hu_on_grids_of_the_papers_cohort(phantoms):
    """Muscle 30 to 80, fat -130 to -60, air below -900; bone from old and fatty to young and dense."""
    for seed, p in enumerate(phantoms):
        smooth = ndimage.gaussian_filter(p.image.astype(np.float32), (0, 0.8, 0.8))
        soft = smooth[(smooth > -200) & (smooth < 150) & (p.bones == 0)]
        muscle, fat, bone = soft[soft > 10], soft[soft < -40], p.image[p.bones > 0]
        assert 30 < np.median(muscle) < 80 and 0.15 < len(muscle) / len(soft), seed
        assert -130 < np.median(fat) < -60 and 0.15 < len(fat) / len(soft), seed
        assert np.percentile(bone, 95) > 350 and 50 < np.median(bone) < 700, seed
        assert (p.image < -900).mean() > 0.02, f"{seed}: air around the body"
        assert p.image.dtype == np.int16 and p.image.min() >= -1024 and p.image.max() <= 3071, seed
        assert 36 <= len(p.image) <= 44 and p.image.shape[1:] == (128, 128), seed
        assert 0.5 <= p.spacing[0] <= 5 and p.spacing[1] == p.spacing[2], seed
        assert 0.449 <= p.spacing[1] * 128 / 512 <= 0.801, seed


def test_bone_covers_the_tissue_around_it_by_its_share_of_each_voxel(monkeypatch, bones):
    """0.3 of every voxel near a bone have 1000 HU, all else 100: a cleft thinner than a voxel fades so."""
    monkeypatch.setattr(Body, "bone", lambda self, d, axes: (0 * d.sacrum + 0.3, 0 * d.sacrum + 300))
    monkeypatch.setattr(Body, "soft_tissue", lambda self, d, axes: 0 * d.sacrum + 100)
    monkeypatch.setattr(phantom, "add_artefacts", lambda *scan: None)
    p = make_phantom(0, matrix=64, slices=(24, 24), bones=bones)
    assert set(p.image[p.mask > 0]) == {370} and p.image[:, 0].max() == 100


def test_bone_fills_its_share_of_what_a_voxel_averages():
    """Marrow behind a cortex of 1 mm, against a sum over slices of 0.01 mm."""
    parameters = dict(ala_hu=0, trabecular_hu=100, trabecular_sd=30, marrow_sd=30, cortical_mm=1 / 1.1,
                      cortical_hu=1000, plate=1)
    level = np.linspace(-6, 3, 91)
    zero = np.zeros_like(level)
    noise = dict.fromkeys(("fine", "trabecular", "marrow"), zero)
    for pixel, margin, aperture in ((0.6, 0, 1), (1.5, 0, 1), (3, 0, 1), (0.8, 1.5, 1), (3, 0, 0.4)):
        body = SimpleNamespace(parameters=parameters, scan=SimpleNamespace(aperture=aperture, pixel=pixel))
        share, hu = Body._bone_voxels(body, "left", noise, level, zero + 100, zero, zero + margin)
        width = max(0.6, aperture * pixel) + margin
        inner = level[:, None] + (np.arange(0.005, width, 0.01) - width / 2)
        case, bone = str((pixel, margin, aperture)), np.where(inner > -1, 1000, 100)
        np.testing.assert_allclose(share, (inner < 0).mean(1), atol=0.01, err_msg=case)
        np.testing.assert_allclose(hu, np.where(inner < 0, bone, 0).mean(1), atol=15, err_msg=case)


def test_a_protocol_is_kept_thickness_sets_the_band_and_any_slices_show_the_same_anatomy(bones):
    protocol = Protocol(pixel_mm=(2.0, 2.0), slice_mm=(4.0, 4.0), noise_hu=(5.0, 5.0))
    options = dict(matrix=128, slices=(36, 36), bones=bones, protocol=protocol)
    thin, thick = (make_phantom(1, **options, thickness=thickness) for thickness in (4.0, 8.0))
    assert thin.spacing == pytest.approx((4.0, 2.0, 2.0))
    assert thin.parameters["scan"]["noise"] == pytest.approx(5.0)
    assert 1.5 < thick.mask.sum() / thin.mask.sum() < 4
    many, few = (make_phantom(4, matrix=96, slices=(n, n), bones=bones) for n in (80, 30))
    assert volume(many, many.bones == 1) == pytest.approx(volume(few, few.bones == 1), rel=0.05)
    assert volume(many, many.mask) == pytest.approx(volume(few, few.mask), rel=0.1)


def test_what_cannot_be_is_refused(bones):
    apart = replace(bones, left_hip=np.full_like(bones.left_hip, 40))
    wide = {"matrix": 128, "slices": (40, 40), "protocol": Protocol(pixel_mm=(0.8, 0.8))}
    for options, message in (
            *(({"grades": grades}, "0 to 4") for grades in ((5, 0), (0, -1), (1, 2, 3))),
            *(({"slices": slices}, "range") for slices in ((60, 40), (1, 1))),
            ({"slices": (8, 8)}, "allow at least"), (wide, "128 pixels of 0.80 mm cannot hold joints"),
            ({"bones": apart}, "no joint between sacrum and left hip")):
        options = {"matrix": 48, "slices": (20, 20), "bones": bones} | options
        refused(lambda options=options: make_phantom(0, **options), message)


def test_bones_end_where_their_grid_does(bones):
    """Far above and below what was drawn there is no bone, rather than the last slice over and over."""
    protocol = Protocol(slice_mm=(6.0, 6.0), margin_mm=(200, 200))
    p = make_phantom(0, matrix=64, slices=(100, 100), bones=bones, protocol=protocol, grades=(0, 0))
    assert not p.bones[:6].any() and not p.bones[-6:].any()
    smooth = ndimage.gaussian_filter(np.concatenate([p.image[:6], p.image[-6:]]).astype(float), (0, 1, 1))
    assert smooth[:, 15:40, 22:42].max() < 450, "beside couch and arms"


def test_joint_space_falls_and_subchondral_bone_hardens_with_every_grade():
    """Open share of the cleft below 200 HU, HU of the bone in the target, change in HU around it."""
    graded = [make_phantom(30, matrix=96, slices=(30, 30), grades=(grade, grade)) for grade in range(5)]
    healthy = graded[0]
    cleft, bone = (healthy.mask > 0) & (healthy.bones == 0), (healthy.mask > 0) & (healthy.bones > 0)
    near = ndimage.binary_dilation(healthy.mask, iterations=3)
    space, hardness, change = np.transpose([
        ((p.image[cleft] < 200).mean(), p.image[bone].mean(),
         np.abs(p.image[near].astype(float) - healthy.image[near]).mean()) for p in graded])
    assert (np.diff(space) < 0).all() and space[4] < 0.6 * space[0]
    assert (np.diff(hardness) > 0).all() and hardness[4] > hardness[0] + 80
    assert change[0] == 0 and (np.diff(change) > 0).all()


@pytest.mark.slow
def test_smooth_fields_are_the_same_however_many_threads_numpy_has():
    """A process takes their number from its environment when it starts."""
    script = ("import hashlib, numpy; from sijphantom.fields import SmoothField;"
              "axes = [numpy.arange(n) * 0.7 for n in (40, 300, 300)];"
              "field = SmoothField.noise(numpy.random.default_rng(3), axes, 9.0).at(axes);"
              "print(hashlib.sha256(field.tobytes()).hexdigest())")
    hashes = {subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True,
                             env=os.environ | {"OPENBLAS_NUM_THREADS": threads}).stdout for threads in "12"}
    assert len(hashes) == 1


@pytest.mark.parametrize("seeds", [range(3), pytest.param(range(200), marks=pytest.mark.slow)], ids=len)
def test_disease_draws_no_cortex_deep_inside_a_bone(seeds, monkeypatch):
    """Depths in mm, by seed, in which grades 3 and 4 put a surface at most."""
    depths = dict.fromkeys(seeds, 0)

    def measured(lesion, sacrum, hip, noise):
        joint = diseased_joint(lesion, sacrum, hip, noise)
        for own, other, level in ((sacrum, hip, joint.sacrum), (hip, sacrum, joint.hip)):
            eaten, grafted = own[(own < 0) & (level >= 0)], other[(own >= 0) & (level < 0)]
            depths[seed] = max(depths[seed], -eaten.min(initial=0), -grafted.min(initial=0))
        return joint

    monkeypatch.setattr("sijphantom.tissue.diseased_joint", measured)
    for seed in seeds:
        make_phantom(seed, matrix=64, slices=(30, 40), grades=(3 + seed % 2, 4 - seed % 2))
    assert 0 < min(depths.values()) and 1 < max(depths.values()) < 4, depths
