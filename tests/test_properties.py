"""What holds for any grid, any pair of masks, any settings: preparation, metrics and the keys of caches."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from test_volume import small, volumes

from magunet.base import profiles
from magunet.metrics import overlap
from magunet.prepare import cache_key
from magunet.region import cut, put_back, whole_planes
from magunet.runs import run_hash
from magunet.studies import VARIANTS
from magunet.surfaces import surface_scores
from magunet.volume import bounding_box, same_geometry
from sijphantom.cohort import phantom_folder

SMOKE = profiles.load("smoke")
BOUNDED = settings(max_examples=40)


@settings(BOUNDED, max_examples=20)
@given(volumes(st.tuples(*[st.integers(20, 26)] * 3)), st.integers(26, 40), st.sampled_from((None, 1.0, 3.0)))
def test_planes_that_are_cut_and_put_back_stay_in_their_place(grid, size, slice_mm):
    """A ramp along each axis of the array: linear interpolation keeps it, away from the borders and the
    padding."""
    grid = replace(grid, spacing=tuple(2 + s / 12 for s in grid.spacing))
    axes = np.meshgrid(*[np.linspace(0, 400, n) for n in grid.array.shape], indexing="ij")
    scan = grid.with_array((axes[0] + axes[1] / 2 + axes[2] / 3).astype(np.float32))
    region = whole_planes(scan, replace(SMOKE, size=size, slice_mm=slice_mm))
    back = put_back(cut(scan, region), region, scan)
    assert same_geometry(back, scan, 1e-9) and region.shape[1:] == (size, size)
    inside = (slice(6, -6),) * 3
    assert np.allclose(back.array[inside], scan.array[inside], atol=2)


@BOUNDED
@given(arrays(np.uint8, small, elements=st.integers(0, 2)), st.tuples(*[st.integers(0, 3)] * 3))
def test_a_bounding_box_holds_the_mask_and_a_margin_within_the_array(mask, margin):
    if mask.any():
        places = np.argwhere(mask)
        first, end = np.maximum(places.min(0) - margin, 0), np.minimum(places.max(0) + margin + 1, mask.shape)
        assert bounding_box(mask, margin) == tuple(map(slice, first.tolist(), end.tolist()))
        assert bounding_box(mask > 0, 2) == bounding_box(mask, (2, 2, 2))
        assert bounding_box(mask) == bounding_box(mask, (0, 0, 0))


# Metrics ----------------------------------------------------------------------------------------------
@BOUNDED
@given(arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 2)),
       arrays(np.int8, (3, 4, 5), elements=st.integers(-1, 1)))
def test_overlaps_are_symmetric_bounded_and_related(x, y):
    ours, back = overlap(x, y), overlap(y, x)
    assert (ours.dice, ours.iou, ours.precision) == (back.dice, back.iou, back.recall)
    assert 0 <= ours.iou <= ours.dice <= 1
    assert ours.iou == pytest.approx(ours.dice / (2 - ours.dice))
    assert min(ours.precision, ours.recall) - 1e-12 <= ours.dice <= max(ours.precision, ours.recall) + 1e-12
    assert overlap(x, x).dice == 1 and overlap(x, x == 0).dice == 0
    # air around changes nothing
    assert overlap(np.pad(x, 2), np.pad(y, 2)) == ours


@BOUNDED
@given(small.flatmap(lambda shape: st.tuples(*[arrays(bool, shape)] * 2)), st.permutations(range(3)),
       st.tuples(*[st.floats(0.2, 5)] * 3), st.tuples(*[st.tuples(*[st.integers(0, 3)] * 2)] * 3))
def test_surface_scores_are_symmetric_bounded_and_follow_the_grid(masks, order, spacing, around):
    x, y = masks
    ours = surface_scores(x, y, spacing)
    assert asdict(ours) == pytest.approx(asdict(surface_scores(y, x, spacing)))
    longest = np.linalg.norm(np.multiply(x.shape, spacing))
    assert 0 <= ours.nsd <= 1 and 0 <= ours.hd95 <= longest + 1e-9 and 0 <= ours.assd <= longest + 1e-9
    assert asdict(surface_scores(x, x, spacing)) == {"hd95": 0, "assd": 0, "nsd": 1, "undefined": False}
    coarse = surface_scores(x, y, np.multiply(spacing, 3), tolerance=3)
    assert (coarse.hd95, coarse.assd, coarse.nsd) == pytest.approx((3 * ours.hd95, 3 * ours.assd, ours.nsd))
    other = surface_scores(x.transpose(order), y.transpose(order), [spacing[axis] for axis in order])
    assert asdict(other) == pytest.approx(asdict(ours))
    here, moved = (surface_scores(a, b, spacing, penalty=9)
                   for a, b in ((x, y), (np.pad(x, around), np.pad(y, around))))
    assert asdict(moved) == pytest.approx(asdict(here))


# Caches -----------------------------------------------------------------------------------------------
PREPARES = {"size": (32, 48), "slice_mm": (None, 2.0, 3.0), "margin_mm": (0.0, 10.0), "voxel_mm": (None, 3.0)}
TRAINS = PREPARES | {
    "depth": (16, 32), "width_divisor": (8, 16), "epochs": (1, 2), "samples_per_case": (1, 20),
    "learning_rate": (1e-3, 1e-4), "weight_decay": (0.0, 1e-4), "augmentation": ("paper", "strong"),
    "schedule": ("constant", "cosine"), "optimizer": ("adam", "adamw"), "warmup_steps": (0, 9),
    "clip_norm": (None, 1.0)}
DRAWS = {"profile": ("smoke", "mine"), "cases": (3, 4), "cohort_seed": (0, 7), "scan_matrix": (64, 96),
         "scan_slices": ((36, 48), (36, 40)), "target_mm": (5.0, 6.0), "test_cases": (1, 2),
         "test_seed": (20, 30)}
VALUES = TRAINS | PREPARES | DRAWS | {"seeds": ((0,), (0, 1)), "cohort": (None, "data/mine"),
                                      "other_seeds": (None, 1), "networks": (None, ("+DA",))}
"""Settings, by what must be made anew when they change: prepared cases, runs, phantoms, nothing."""
some_settings = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in VALUES.items()}).map(
    lambda values: replace(SMOKE, **values))


@settings(BOUNDED, max_examples=8)
@given(some_settings, st.permutations(list(VARIANTS)))
def test_keys_are_others_where_a_setting_that_counts_or_the_network_is(one, networks):
    files = Path(__file__), Path(profiles.__file__)
    for name, values in VALUES.items():
        for other in (replace(one, **{name: value}) for value in values if value != getattr(one, name)):
            assert (cache_key(*files, one) != cache_key(*files, other)) == (name in PREPARES), name
            assert (phantom_folder(one) != phantom_folder(other)) == (name in DRAWS), name
            assert (run_hash("+DA", one, "data") != run_hash("+DA", other, "data")) == (name in TRAINS), name
    assert run_hash("+DA", one, "data") == run_hash("+DA", replace(one), "data")
    assert run_hash("+DA", one, "data") != run_hash("+DA", one, "other data")
    rated = replace(one, learning_rates=(("+DA", 0.5),))                    # of one network, and no other's
    assert run_hash("+DA", one, "data") != run_hash("+DA", rated, "data") == run_hash(
        "+DA", replace(rated, learning_rate=0.3), "data")
    assert run_hash("+SE", one, "data") == run_hash("+SE", rated, "data")
    assert len({run_hash(name, one, "data") for name in networks[:4]}) == 4
