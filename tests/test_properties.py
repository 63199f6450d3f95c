"""What holds for any grid, any pair of masks, any settings: geometry, metrics and the keys of caches."""

import functools
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scans import write_scan
from scipy.spatial.transform import Rotation
from test_volume import CODES

from magunet.base import profiles, provenance
from magunet.metrics import overlap
from magunet.prepare import cache_key, clip_and_scale, prepare, restore
from magunet.runs import run_hash
from magunet.studies import VARIANTS
from magunet.surfaces import surface_distances, surface_scores
from magunet.volume import FILE_ENDINGS, Volume, orientation, read_volume, reorient, same_geometry
from sijphantom.cohort import phantom_folder

SMOKE = profiles.load("smoke")
settings.register_profile("bounded", max_examples=60, deadline=None)
BOUNDED = settings.get_profile("bounded")

small = st.tuples(*[st.integers(1, 6)] * 3)
spacings = st.tuples(*[st.floats(0.05, 12)] * 3)
angles = st.tuples(*[st.floats(-180, 180)] * 3)


@st.composite
def volumes(draw, shape=small, dtype=np.int16):
    """Any grid, also left-handed, and voxels of which no two are alike."""
    turned = Rotation.from_euler("xyz", draw(angles),
                                 degrees=True).as_matrix() * draw(st.tuples(*[st.sampled_from((-1, 1))] * 3))
    size = draw(shape)
    array = np.random.default_rng(draw(st.integers(0,
                                                   99))).permutation(np.prod(size)).reshape(size).astype(dtype)
    return Volume(array, draw(spacings), draw(st.tuples(*[st.floats(-2000, 2000)] * 3)), turned)


# Geometry ---------------------------------------------------------------------------------------------

@BOUNDED
@given(volumes(), st.sampled_from(FILE_ENDINGS))
def test_a_file_gives_back_any_volume(volume, ending):
    with tempfile.TemporaryDirectory() as folder:
        write_scan(volume, Path(folder) / f"a{ending}")
        back = read_volume(Path(folder) / f"a{ending}")
    assert np.array_equal(back.array, volume.array) and same_geometry(back, volume)


@BOUNDED
@given(volumes(), st.sampled_from(CODES), st.data())
def test_turned_axes_leave_every_voxel_where_it_is(volume, code, data):
    turned = reorient(volume, code)
    index = tuple(data.draw(st.integers(0, n - 1)) for n in volume.array.shape)
    there, = np.argwhere(turned.array == volume.array[index])
    assert np.allclose(turned.to_world(tuple(there)), volume.to_world(index), atol=1e-6)
    assert orientation(turned) == code
    back = reorient(turned, orientation(volume))
    assert np.array_equal(back.array, volume.array) and same_geometry(back, volume, 1e-6)


@settings(BOUNDED, max_examples=25)
@given(volumes(st.tuples(*[st.integers(20, 26)] * 3), np.float32), st.integers(26, 40),
       st.sampled_from((None, 1.0, 3.0)))
def test_what_is_prepared_and_restored_stays_in_its_place(grid, size, slice_mm):
    """A ramp along each axis of the array: linear interpolation keeps it, away from the borders and the
    padding."""
    grid = replace(grid, spacing=tuple(2 + s / 12 for s in grid.spacing))
    axes = np.meshgrid(*[np.linspace(0, 400, n) for n in grid.array.shape], indexing="ij")
    scan = grid.with_array((axes[0] + axes[1] / 2 + axes[2] / 3).astype(np.float32))
    prepared, frame = prepare(scan, None, replace(SMOKE, size=size, slice_mm=slice_mm))
    back = restore(prepared.image, frame)
    assert same_geometry(back, scan, 1e-9) and prepared.image.shape[1:] == (size, size)
    inside = (slice(6, -6),) * 3
    assert np.allclose(back.array[inside], clip_and_scale(scan.array)[inside], atol=2e-3)


# Metrics ----------------------------------------------------------------------------------------------

@st.composite
def pairs(draw):
    """Two masks on one grid, often empty, and the grid's spacing."""
    shape = draw(small)
    share = st.sampled_from((0.0, 0.1, 0.4, 1.0))
    masks = [np.random.default_rng(draw(st.integers(0, 999))).random(shape) < draw(share) for _ in range(2)]
    return *masks, draw(st.tuples(*[st.floats(0.2, 5)] * 3))


@BOUNDED
@given(arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 2)),
       arrays(np.int8, (3, 4, 5), elements=st.integers(-1, 1)))
def test_overlaps_are_symmetric_bounded_and_related(x, y):
    ours, swapped = overlap(x, y), overlap(y, x)
    assert (ours.dice, ours.iou, ours.precision, ours.recall) == (swapped.dice, swapped.iou, swapped.recall,
                                                                  swapped.precision)
    assert 0 <= ours.iou <= ours.dice <= 1
    assert ours.iou == pytest.approx(ours.dice / (2 - ours.dice))
    assert min(ours.precision, ours.recall) - 1e-12 <= ours.dice <= max(ours.precision, ours.recall) + 1e-12
    assert overlap(x, x).dice == 1 and overlap(x, x == 0).dice == 0
    # air around changes nothing
    assert overlap(np.pad(x, 2), np.pad(y, 2)) == ours


@BOUNDED
@given(pairs())
def test_surface_scores_are_symmetric_and_bounded(pair):
    x, y, spacing = pair
    ours, swapped = surface_scores(x, y, spacing), surface_scores(y, x, spacing)
    assert asdict(ours) == pytest.approx(asdict(swapped))
    longest = np.linalg.norm(np.multiply(x.shape, spacing))
    assert 0 <= ours.nsd <= 1 and 0 <= ours.hd95 <= longest + 1e-9 and 0 <= ours.assd <= longest + 1e-9
    if distances := surface_distances(x, y, spacing):
        assert ours.hd95 <= distances.hausdorff(1.0) and distances.median() <= distances.hausdorff(1.0)
        assert ours.assd <= distances.hausdorff(1.0) + 1e-9
    assert asdict(surface_scores(x, x, spacing)) == {"hd95": 0, "assd": 0, "nsd": 1, "undefined": False}


@BOUNDED
@given(pairs(), st.tuples(*[st.tuples(st.integers(0, 3), st.integers(0, 3))] * 3))
def test_masks_may_lie_anywhere_in_the_scan(pair, around):
    x, y, spacing = pair
    ours, moved = (surface_scores(a, b, spacing, penalty=9)
                   for a, b in ((x, y), (np.pad(x, around), np.pad(y, around))))
    assert asdict(moved) == pytest.approx(asdict(ours))


@BOUNDED
@given(pairs(), st.integers(0, 2), st.integers(1, 4))
def test_a_mask_is_as_far_from_itself_as_it_was_moved(pair, axis, steps):
    mask, _, spacing = pair
    around = [(0, steps) if k == axis else (0, 0) for k in range(3)]
    there = np.pad(mask, around)
    if distances := surface_distances(there, np.roll(there, steps, axis), spacing):
        assert distances.hausdorff(1.0) == pytest.approx(steps * spacing[axis])


@BOUNDED
@given(pairs(), st.tuples(*[st.floats(0.25, 4)] * 3), st.permutations(range(3)))
def test_distances_grow_with_the_spacing_along_each_axis(pair, factors, order):
    x, y, spacing = pair
    even = surface_scores(x, y, np.multiply(spacing, 3), tolerance=3)
    ours = surface_scores(x, y, spacing)
    assert (even.hd95, even.assd, even.nsd) == pytest.approx((3 * ours.hd95, 3 * ours.assd, ours.nsd))
    other = surface_scores(x.transpose(order), y.transpose(order), [spacing[axis] for axis in order])
    assert asdict(other) == pytest.approx(asdict(ours))
    if distances := surface_distances(x, y, spacing):
        whole = distances.hausdorff(1.0)
        stretched = surface_distances(x, y, np.multiply(spacing, factors)).hausdorff(1.0)
        assert min(factors) * whole - 1e-9 <= stretched <= max(factors) * whole + 1e-9


# Caches -----------------------------------------------------------------------------------------------

code_hash = provenance.code_hash
VALUES = {
    "size": (32, 48), "slice_mm": (None, 2.0, 3.0), "margin_mm": (0.0, 10.0), "epochs": (1, 2),
    "cases": (3, 4),
    "depth": (16, 32), "cohort_seed": (0, 7), "scan_matrix": (64, 96), "scan_slices": ((36, 48), (36, 40)),
    "target_mm": (5.0, 6.0), "learning_rate": (1e-3, 1e-4), "weight_decay": (0.0, 1e-4),
    "schedule": ("constant", "cosine"),
    "augmentation": ("paper", "strong"),
    "samples_per_case": (1, 20), "width_divisor": (8, 16), "seeds": ((0,), (0, 1)),
    "profile": ("smoke", "mine"),
    "cohort": (None, "data/mine")}
PREPARES = {"size", "slice_mm", "margin_mm"}
DRAWS = {"profile", "cases", "cohort_seed", "scan_matrix", "scan_slices", "target_mm"}
TRAINS = {*PREPARES, "depth", "width_divisor", "epochs", "samples_per_case", "learning_rate", "weight_decay",
          "augmentation",
          "schedule"}
some_settings = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in VALUES.items()}).map(
    lambda values: replace(SMOKE, **values))
few = settings(BOUNDED, max_examples=8)


@pytest.fixture(scope="module", autouse=True)
def code_is_read_once():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(provenance, "code_hash", functools.cache(code_hash))
        yield


def others(one: profiles.Settings, name: str) -> list[profiles.Settings]:
    """The settings with every other value of a name."""
    return [replace(one, **{name: value}) for value in VALUES[name] if value != getattr(one, name)]


@pytest.mark.parametrize("name", VALUES)
@few
@given(some_settings)
def test_keys_are_others_where_a_setting_that_counts_is(name, one):
    files = Path(__file__), Path(profiles.__file__)
    for other in others(one, name):
        assert (cache_key(*files, one) != cache_key(*files, other)) == (name in PREPARES)
        assert (phantom_folder(one) != phantom_folder(other)) == (name in DRAWS)
        assert (run_hash("+DA", one, "data") != run_hash("+DA", other, "data")) == (name in TRAINS)
    assert run_hash("+DA", one, "data") == run_hash("+DA", replace(one), "data")
    assert run_hash("+DA", one, "data") != run_hash("+DA", one, "other data")


@few
@given(some_settings, st.permutations(list(VARIANTS)))
def test_a_run_is_another_where_the_network_is(one, networks):
    assert len({run_hash(name, one, "data") for name in networks[:4]}) == 4


@BOUNDED
@given(st.lists(st.binary(max_size=3), min_size=4, max_size=4))
def test_a_prepared_case_is_another_where_a_file_is(contents):
    with tempfile.TemporaryDirectory() as folder:
        image, label, *_ = paths = [Path(folder) / name for name in "abcd"]
        for path, content in zip(paths, contents):
            path.write_bytes(content)
        for position, other in ((0, paths[2]), (1, paths[3])):
            files = [image, label]
            files[position] = other
            same = contents[position] == other.read_bytes()
            assert (cache_key(*files, SMOKE) == cache_key(image, label, SMOKE)) == same


@BOUNDED
@given(st.tuples(*[st.integers(-99, 99)] * 2),
       st.tuples(*[st.text(st.characters(categories=("L", "N", "P")), max_size=9)] * 2))
def test_code_is_another_where_it_computes_otherwise(numbers, comments):
    sources = [f"def f(x):\n    # {comment}\n    return x + {number}\n"
               for number, comment in zip(numbers, comments)]
    keys = []
    with tempfile.TemporaryDirectory() as folder:
        for number, source in enumerate(sources):
            path = Path(folder, f"{number}.py")
            path.write_text(source, encoding="utf-8")
            keys.append(code_hash(SimpleNamespace(__file__=path)))
    assert (keys[0] == keys[1]) == (numbers[0] == numbers[1])
