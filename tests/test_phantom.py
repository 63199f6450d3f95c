"""The phantom: repeatable, in range, and with the contrast and the disease of a pelvic CT."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import refused
from scipy import ndimage
from test_anatomy import visible_human

from sijphantom import phantom
from sijphantom.pelvis import parametric_pelvis
from sijphantom.phantom import Phantom, Pose, make_phantom
from sijphantom.scanner import Protocol
from sijphantom.tissue import Body

SMALL = {"matrix": 128, "slices": (36, 44)}


@pytest.fixture(scope="module")
def phantoms() -> list[Phantom]:
    return [make_phantom(seed, **SMALL, grades=(0, 0)) for seed in range(5)]


@pytest.fixture(scope="module")
def bones():
    return parametric_pelvis(0, 2.0)


def test_same_seed_same_voxels(phantoms, bones):
    again = make_phantom(2, **SMALL, grades=(0, 0))
    for name in ("image", "mask", "bones"):
        np.testing.assert_array_equal(getattr(again, name), getattr(phantoms[2], name))
    assert again.parameters == phantoms[2].parameters
    given = [make_phantom(seed, **SMALL, bones=bones) for seed in (7, 7, 8)]
    np.testing.assert_array_equal(given[0].image, given[1].image)
    assert given[0].image.shape != given[2].image.shape or (given[0].mask != given[2].mask).mean() > 0.001


def test_same_voxels_on_any_number_of_cores():
    """A phantom that differed in a few voxels while torch divided its sums."""
    before, made = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            made.append(make_phantom(2, matrix=96, slices=(40, 60)))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(made[0].image, made[1].image)


def test_swelling_moves_the_surfaces_of_bones_outwards_in_mm(monkeypatch, bones):
    def posed(swelling):
        def draw(*args, **kwargs):
            pose = Pose(*args, **kwargs)
            pose.swelling = swelling
            return pose
        return draw

    masks = []
    for mm in (0.0, 2.0):
        monkeypatch.setattr(phantom, "Pose", posed(mm))
        p = make_phantom(4, matrix=200, slices=(120, 120), bones=bones, grades=(0, 0))
        masks.append(p.bones > 0)
    slim, swollen = masks
    beyond = ndimage.distance_transform_edt(~slim, sampling=p.spacing)
    reached = beyond[swollen & ~ndimage.binary_erosion(swollen)]
    assert not (slim & ~swollen).any()
    assert np.median(reached) == pytest.approx(2.0 - max(p.spacing) / 4, abs=max(p.spacing) / 2)


def test_seeds_differ(phantoms):
    assert len({p.spacing for p in phantoms}) == len(phantoms)
    volumes = [p.mask.sum() * np.prod(p.spacing) for p in phantoms]
    assert np.std(volumes) / np.mean(volumes) > 0.03


def test_disease_leaves_anatomy_scan_and_noise_alone(phantoms):
    sick = make_phantom(2, **SMALL, grades=(4, 0))
    healthy = phantoms[2]
    np.testing.assert_array_equal(sick.mask, healthy.mask)
    np.testing.assert_array_equal(sick.bones, healthy.bones)
    difference = np.abs(sick.image.astype(int) - healthy.image)
    assert np.median(difference) <= 1, "the same noise, but for what the denser bone takes from the beam"
    changed = np.argwhere(difference > 60)
    left = np.argwhere(healthy.bones == 2)[:, 2].mean()
    right = np.argwhere(healthy.bones == 3)[:, 2].mean()
    assert len(changed) and (np.abs(changed[:, 2] - left) < np.abs(changed[:, 2] - right)).mean() > 0.99


def test_types_and_shapes(phantoms):
    for p in phantoms:
        d, h, w = p.image.shape
        assert 36 <= d <= 44 and h == w == 128
        assert (p.image.dtype, p.mask.dtype, p.bones.dtype) == (np.int16, np.uint8, np.uint8)
        assert p.mask.shape == p.bones.shape == p.image.shape
        assert set(np.unique(p.mask)) == {0, 1} and set(np.unique(p.bones)) == {0, 1, 2, 3}
        assert p.image.min() >= -1024 and p.image.max() <= 3071
        assert p.grades == (0, 0)
        assert json.loads(json.dumps(p.parameters)) == p.parameters


@pytest.mark.parametrize("matrix", [64, 128])
def test_spacing_is_in_the_stated_range(matrix):
    for seed in range(3):
        p = make_phantom(seed, matrix=matrix, slices=(30, 60))
        assert 0.449 <= p.spacing[1] * matrix / 512 <= 0.801 and p.spacing[1] == p.spacing[2]
        assert 0.5 <= p.spacing[0] <= 5
        assert all(isinstance(s, float) for s in p.spacing)


def test_default_grades_are_drawn_and_cover_the_scale():
    grades = [make_phantom(seed, matrix=32, slices=(24, 24)).grades for seed in range(10)]
    values = {grade for pair in grades for grade in pair}
    assert values <= set(range(5)) and len(values) >= 4
    assert any(left != right for left, right in grades)


def test_both_joints_lie_inside_the_image_between_sacrum_and_hip(phantoms):
    for p in phantoms:
        pieces, count = ndimage.label(p.mask, np.ones((3, 3, 3)))
        sizes = ndimage.sum(p.mask, pieces, range(1, count + 1))
        assert (sizes > 0.2 * sizes.max()).sum() == 2, "one piece a side"
        where = np.argwhere(p.mask)
        margin = np.minimum(where.min(0), np.array(p.mask.shape) - 1 - where.max(0)) * p.spacing
        assert (margin > 5).all()
        middle = np.argwhere(p.bones == 1)[:, 2].mean()
        assert abs((where[:, 2] > middle).mean() - 0.5) < 0.15
        touched = [ndimage.binary_dilation(p.bones == b) & (p.mask > 0) for b in (1, 2, 3)]
        assert all(t.any() for t in touched)


def test_left_is_left_and_the_front_is_the_front(phantoms):
    for p in phantoms:
        centre = {b: np.argwhere(p.bones == b).mean(0) for b in (1, 2, 3)}
        assert centre[2][2] > centre[1][2] > centre[3][2]
        assert centre[1][1] > max(centre[2][1], centre[3][1]), "the sacrum is posterior"
        sacrum = p.bones == 1
        widths = np.array([np.ptp(np.flatnonzero(row)) for row in sacrum.any(1) if row.any()])
        assert widths[: len(widths) // 5].mean() < 0.75 * widths.max(), "the wedge is narrow at the bottom"
        assert widths.argmax() > len(widths) // 3


def test_tissues_have_published_hu(phantoms):
    """Muscle 30 to 80, fat -130 to -60, air below -900; bone from old and fatty to young and dense."""
    for p in phantoms:
        smooth = ndimage.gaussian_filter(p.image.astype(np.float32), (0, 0.8, 0.8))
        soft = smooth[(smooth > -200) & (smooth < 150) & (p.bones == 0)]
        muscle, fat = soft[soft > 10], soft[soft < -40]
        assert 30 < np.median(muscle) < 80 and 0.15 < len(muscle) / len(soft)
        assert -130 < np.median(fat) < -60 and 0.15 < len(fat) / len(soft)
        bone = p.image[p.bones > 0]
        assert np.percentile(bone, 95) > 350 and 50 < np.median(bone) < 700
        assert (p.image < -900).mean() > 0.02, "air around the body"


def test_a_cleft_thinner_than_the_voxels_fades(monkeypatch):
    """Partial volume: the larger the voxels, the brighter are the darkest ones between the same bones."""
    constant = property(lambda self: 0.4, lambda self, value: None)     # mm, leaves a cleft
    monkeypatch.setattr(Pose, "swelling", constant, raising=False)
    def darkness(pixel):
        protocol = Protocol(pixel_mm=(pixel, pixel), slice_mm=(2.0, 2.0), noise_hu=(1, 1))
        p = make_phantom(3, matrix=round(300 / pixel), slices=(60, 60), grades=(0, 0), protocol=protocol)
        left = p.mask * (np.arange(p.mask.shape[2]) > p.mask.shape[2] / 2)
        shrink = np.ones([round(2 * 12 / s) + 1 for s in p.spacing[:2]])
        core = ndimage.binary_erosion(left.any(2), shrink)      # lines through the middle of the joint
        return np.median(np.where(left, p.image, 9999).min(2)[core])
    fine, coarse = darkness(0.8), darkness(3.0)
    assert fine < 120 and coarse > fine + 40


@pytest.mark.parametrize("pixel, margin, aperture", [
    (0.6, 0.0, 1.0), (1.5, 0.0, 1.0), (3.0, 0.0, 1.0), (0.8, 1.5, 1.0), (3.0, 0.0, 0.4)])
def test_bone_fills_its_share_of_what_a_voxel_averages(pixel, margin, aperture):
    """Marrow behind a cortex of 1 mm, against a sum over slices of 0.01 mm."""
    parameters = dict(ala_hu=0, trabecular_hu=100, trabecular_sd=30, marrow_sd=30, cortical_mm=1 / 1.1,
                      cortical_hu=1000, plate=1)
    body = SimpleNamespace(parameters=parameters, scan=SimpleNamespace(aperture=aperture, pixel=pixel))
    level = np.linspace(-6, 3, 91)
    zero = np.zeros_like(level)
    noise = dict.fromkeys(("fine", "trabecular", "marrow"), zero)
    share, hu = Body._bone_voxels(body, "left", level, zero + 100, noise, zero, zero + margin)
    width = max(0.6, aperture * pixel) + margin
    inner = level[:, None] + (np.arange(0.005, width, 0.01) - width / 2)
    np.testing.assert_allclose(share, (inner < 0).mean(1), atol=0.01)
    np.testing.assert_allclose(hu, np.where(inner < 0, np.where(inner > -1, 1000, 100), 0).mean(1), atol=15)


def test_a_protocol_is_kept():
    protocol = Protocol(pixel_mm=(0.9, 0.9), slice_mm=(3.0, 3.0), noise_hu=(5.0, 5.0))
    p = make_phantom(0, matrix=300, slices=(40, 40), protocol=protocol)
    assert p.spacing == pytest.approx((3.0, 0.9, 0.9)) and p.parameters["scan"]["noise"] == pytest.approx(5.0)


def test_thickness_sets_the_band():
    thin, thick = (make_phantom(1, **SMALL, thickness=t).mask.sum() for t in (4.0, 8.0))
    assert 1.5 < thick / thin < 4


def test_thin_and_thick_slices_show_the_same_anatomy():
    thin, thick = (make_phantom(4, matrix=96, slices=(n, n)) for n in (80, 30))
    volumes = [(p.bones == 1).sum() * np.prod(p.spacing) for p in (thin, thick)]
    assert volumes[0] == pytest.approx(volumes[1], rel=0.05)
    masks = [p.mask.sum() * np.prod(p.spacing) for p in (thin, thick)]
    assert masks[0] == pytest.approx(masks[1], rel=0.1)


@pytest.mark.parametrize("options, message", [
    ({"grades": (5, 0)}, "0 to 4"), ({"grades": (0, -1)}, "0 to 4"), ({"grades": (1, 2, 3)}, "0 to 4"),
    ({"slices": (8, 8)}, "allow at least"), ({"slices": (60, 40)}, "range"), ({"slices": (1, 1)}, "range"),
    ({"matrix": 128, "slices": (40, 40), "protocol": Protocol(pixel_mm=(0.8, 0.8))},
     "128 pixels of 0.80 mm cannot hold joints")])
def test_what_cannot_be_is_refused(options, message, bones):
    options = {"matrix": 48, "slices": (20, 20)} | options
    refused(lambda: make_phantom(0, bones=bones, **options), message)


def test_bones_end_where_their_grid_does(bones):
    """Far above and below what was drawn there is no bone, rather than the last slice over and over."""
    protocol = Protocol(slice_mm=(3.0, 3.0), margin_mm=(200, 200))
    p = make_phantom(0, matrix=128, slices=(200, 200), bones=bones, protocol=protocol, grades=(0, 0))
    outside = np.concatenate([p.image[:6], p.image[-6:]])
    smooth = ndimage.gaussian_filter(outside.astype(float), (0, 1.5, 1.5))
    couch_and_arms_aside = smooth[:, 30:80, 45:83]
    assert couch_and_arms_aside.max() < 450 and not p.bones[:6].any() and not p.bones[-6:].any()


def test_bones_without_a_joint_are_refused(bones):
    apart = replace(bones, left_hip=np.full_like(bones.left_hip, 40))
    refused(lambda: make_phantom(0, matrix=48, slices=(20, 20), bones=apart),
            "no joint between sacrum and left hip")


@pytest.mark.parametrize("person", ["male", "female"])
def test_visible_human_is_rendered(person):
    bones = visible_human(person)
    first, second = (make_phantom(seed, matrix=96, slices=(40, 40), bones=bones) for seed in (0, 1))
    for p in (first, second):
        where = np.argwhere(p.mask)
        assert 20 < p.mask.sum() * np.prod(p.spacing) / 1000 < 130, "cm3 of target"
        assert (where.min(0) > 0).all() and (where.max(0) < np.array(p.mask.shape) - 1).all()
        assert np.argwhere(p.bones == 2)[:, 2].mean() > np.argwhere(p.bones == 3)[:, 2].mean()
        assert np.median(p.image[p.bones > 0]) > 100
    assert (first.mask != second.mask).any()


def test_joint_space_falls_and_subchondral_bone_hardens_with_every_grade():
    """Mean of three phantoms: open share of the cleft below 200 HU, HU of the bone in the target, change."""
    sums = np.zeros((5, 3))
    for seed in (30, 31, 32):
        graded = [make_phantom(seed, matrix=128, slices=(30, 30), grades=(g, g)) for g in range(5)]
        healthy = graded[0]
        cleft, bone = (healthy.mask > 0) & (healthy.bones == 0), (healthy.mask > 0) & (healthy.bones > 0)
        near = ndimage.binary_dilation(healthy.mask, iterations=3)
        sums += [((p.image[cleft] < 200).mean(), p.image[bone].mean(),
                  np.abs(p.image[near].astype(float) - healthy.image[near]).mean()) for p in graded]
    space, hardness, change = sums.T
    assert (np.diff(space) < 0).all() and space[4] < 0.6 * space[0]
    assert (np.diff(hardness) > 0).all() and hardness[4] > hardness[0] + 3 * 80
    assert change[0] == 0 and (np.diff(change) > 0).all()
