"""The pelvis against measured anatomy, on its full extent."""

import numpy as np
import pytest
import SimpleITK
from conftest import ROOT, refused

from benchmarks.anatomy import REFERENCE
from benchmarks.pelvimetry import pelvimetry
from sijphantom.anatomy import Bones, label_map_pelvis
from sijphantom.pelvis import _VARIED, draw_common, parametric_pelvis

SPACING = 2.0  # mm


@pytest.fixture(scope="module")
def pelvises() -> list[Bones]:
    return [parametric_pelvis(seed, SPACING) for seed in range(5)]


def label_map(bones: Bones) -> np.ndarray:
    return np.select([bones.sacrum < 0, bones.left_hip < 0, bones.right_hip < 0], [1, 2, 3])


def wedge(gap=3.0, spacing=(1.0, 1.0, 1.0)):
    """A sacrum between two hips; straight clefts `gap` mm wide, 20 degrees from the sagittal plane."""
    z, y, x = np.meshgrid(*(np.arange(0, n, s) for n, s in zip((70, 60, 160), spacing)), indexing="ij")
    inside = (abs(z - 35) < 25) & (abs(y - 30) < 20)
    turn = np.radians(20)
    across = (abs(x - 80) - 40 + np.tan(turn) * (y - 30)) * np.cos(turn)        # mm lateral of the cleft
    labels = np.zeros(z.shape, np.uint8)
    labels[inside & (across < -gap / 2)] = 1
    labels[inside & (across > gap / 2) & (across < gap / 2 + 20)] = 2
    labels[(labels == 2) & (x < 80)] = 3
    return labels


def test_a_straight_cleft_is_measured_as_it_is_and_what_is_missing_is_named():
    expected = {"obliq_middle_L": (-20, 1.5), "obliq_upper_R": (20, 1.5), "joint_height_R": (50, 4),
                "joint_ap_R": (40, 3), "joint_centre_lat_L": (40, 1.5), "sacrum_height": (50, 2),
                "sacrum_depth": (40, 2), "gap_median_L": (3 + 1, 0.5)}     # between voxel centres
    rim = np.sqrt(3**2 - 2**2)  # mm past the bones' ends, where the distances to both still sum to 6 mm
    area = (50 + 2 * rim) * (40 / np.cos(np.radians(20)) + 2 * rim) / 100
    for spacing in ((1.0, 1.0, 1.0), (2.0, 1.0, 1.0)):
        sizes = pelvimetry(labels := wedge(spacing=spacing), spacing)
        for name, (value, tolerance) in expected.items():
            assert sizes[name] == pytest.approx(value, abs=tolerance), (spacing, name)
        assert sizes["joint_area_cm2_L"] == pytest.approx(area, rel=0.13), spacing
        assert sizes["sacrum_cm3"] == pytest.approx((labels == 1).sum() * spacing[0] / 1000), spacing
    for label, name in ((1, "no sacrum"), (2, "no left hip"), (3, "no right hip")):
        refused(lambda label=label: pelvimetry(labels * (labels != label), spacing), name)
    refused(lambda: pelvimetry(wedge(30.0, spacing), spacing), "no joint")


def test_dimensions_are_those_of_people(pelvises):
    """Each within 3.5 SD of people's mean: they vary up to 1.4 times as much as people's do, on purpose.
    `benchmarks/anatomy.py` holds a hundred seeds at 1 mm to narrower limits."""
    measures = [pelvimetry(label_map(bones), (SPACING,) * 3) for bones in pelvises]
    for name, (mean, sd) in REFERENCE.items():
        if not name.startswith("gap"):                      # gaps are for 1 mm voxels
            values = np.array([one[name] for one in measures])
            assert (abs(values - mean) <= 3.5 * sd).all(), (name, values)
            assert abs(values.mean() - mean) < 1.2 * sd, name
            assert 0.25 * sd < values.std(ddof=1) < 2.5 * sd, name


def test_sexes_differ_as_people_do():
    """Men's hip bones are higher, their sacrums longer, their joints larger and more rugged."""
    people = [draw_common(np.random.default_rng(seed)) for seed in range(400)]
    women, men = ({name: np.mean([person[name] for person in people if person["female"] == sex])
                   for name in people[0]} for sex in (1, 0))
    assert 0.4 < np.mean([person["female"] for person in people]) < 0.6
    for name in ("hip_height", "sacrum_height", "joint_height", "joint_ap", "rugged"):
        assert men[name] > women[name], name
    assert women["lateral"] > men["lateral"]


def test_clefts_are_one_to_four_mm_wide_over_most_of_the_joint_and_bones_do_not_overlap(pelvises):
    for seed, bones in enumerate(pelvises):
        for hip in (bones.left_hip, bones.right_hip):
            width = bones.sacrum + hip
            cleft = (bones.sacrum > 0) & (hip > 0) & (width < 4) & (np.abs(bones.sacrum - hip) < SPACING)
            assert ((width[cleft] > 1) & (width[cleft] < 3.8)).mean() > 0.7, seed
            assert width[cleft].std() > 0.15, f"{seed}: the surfaces undulate"
            assert not ((bones.sacrum < 0) & (hip < 0)).any(), seed
        overlap = (bones.sacrum < 0) & (bones.other < 0)  # the facets of L5 and S1 may touch
        assert overlap.mean() < 1e-5, seed


def test_axes_are_lps_and_the_sacrum_is_concave_in_front_and_holds_a_canal(pelvises):
    """Left hip at larger x; sacrum behind the hips (larger y), L5 above the sacrum."""
    for seed, bones in enumerate(pelvises):
        sacrum, left, right = (np.argwhere(level < 0).mean(0) * SPACING
                               for level in (bones.sacrum, bones.left_hip, bones.right_hip))
        assert left[2] > sacrum[2] + 60 > right[2] + 120 and sacrum[1] > left[1] + 30, seed
        near = slice(*(int(sacrum[2] / SPACING) + side for side in (-10, 10)))
        top = np.argwhere(bones.other[:, :, near] < 0)[:, 0].max()
        assert top > np.argwhere(bones.sacrum < 0)[:, 0].max(), seed
        middle = bones.sacrum[:, :, bones.sacrum.shape[2] // 2] < 0
        middle = middle[middle.any(1)]
        front = middle.argmax(1)                                    # from the apex to the promontory, and up
        chord = np.linspace(front[0], front.min(), front.argmin() + 1)
        assert (front[:len(chord)] - chord).max() * SPACING > 4, f"{seed}: mm behind apex and promontory"
        row = middle[int(0.6 * len(middle))]
        assert np.count_nonzero(np.diff(row.astype(int)) == 1) == 2, f"{seed}: body, canal, lamina"


def test_sides_resemble_each_other_and_distances_have_a_unit_slope(pelvises):
    """Across the surface, where the band of the target is measured."""
    left, mirrored = pelvises[0].left_hip < 0, pelvises[0].right_hip[..., ::-1] < 0
    assert 0.6 < 2 * (left & mirrored).sum() / (left.sum() + mirrored.sum()) < 0.999
    for part in (pelvises[0].sacrum, pelvises[0].left_hip):
        slope = np.linalg.norm(np.gradient(part, SPACING), axis=0)
        assert 0.85 < np.median(slope[(part > 0) & (part < 6)]) < 1.05


def test_same_seed_same_pelvis_at_every_spacing():
    first, again, finer = (parametric_pelvis(3, spacing) for spacing in (3.0, 3.0, 2.0))
    assert np.array_equal(first.sacrum, again.sacrum) and first.parameters == again.parameters
    volumes = [(bones.left_hip < 0).sum() * bones.spacing**3 for bones in (first, finer)]
    assert volumes[0] == pytest.approx(volumes[1], rel=0.1)
    assert not np.array_equal(first.sacrum, parametric_pelvis(4, 3.0).sacrum)


def test_a_varied_pelvis_differs_in_what_it_says_within_its_limits_and_has_both_joints():
    for seed in range(4):
        plain, varied = (parametric_pelvis(seed, 3.0, varied=wide) for wide in (False, True))
        more = {name: size - plain.parameters[name] for name, size in varied.parameters.items()}
        for name, change in more.items():
            low, high = _VARIED.get(name.removeprefix("left_").removeprefix("right_"), (0, 0))
            assert low <= change <= high and bool(change) == (low < high), (seed, name)
        for hip in (varied.left_hip, varied.right_hip):
            band = np.count_nonzero((varied.sacrum < 6) & (hip < 6)) * 3.0**3
            assert 15_000 < band < 70_000 and not np.array_equal(varied.sacrum, plain.sacrum)
            assert np.count_nonzero((varied.sacrum < 0) & (hip < 0)) < 0.05 * np.count_nonzero(hip < 0)


def test_a_label_map_keeps_its_places_opens_the_cleft_and_names_a_missing_bone():
    labels = np.zeros((30, 40, 60), np.uint8)
    for label, columns in ((1, slice(22, 38)), (3, slice(39, 55)), (5, slice(6, 21))):
        labels[5:25, 10:30, columns] = label
    labels[0:3, 10:20, 25:35] = 2
    bones = label_map_pelvis(labels, (2.0, 1.0, 1.0))
    assert bones.sacrum.shape == (60, 40, 60)
    assert max(bones.sacrum[30, 20, 30], bones.left_hip[30, 20, 47], bones.right_hip[30, 20, 13]) < -5
    assert bones.other[2, 15, 30] < 0 and not (bones.other[20:] < 0).any()
    assert (bones.sacrum + bones.left_hip).min() > 1.4
    assert bones.sacrum[30, 20, 38 + 10] == pytest.approx(48 - 37.5, abs=0.7)  # mm to the face of the sacrum
    for label, name in ((1, "sacrum"), (3, "left hip"), (5, "right hip")):
        refused(lambda label=label: label_map_pelvis(np.where(labels == label, 0, labels), (1, 1, 1)), name)


@pytest.mark.parametrize("person", ["female", "male"])
def test_visible_human_reads_as_a_pelvis(person):
    """From every second voxel of the label maps, where they are there."""
    path = ROOT.parent / "shared" / "data" / f"visible_human_{person}_pelvis.nii.gz"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    image = SimpleITK.ReadImage(str(path))[::2, ::2, ::2]
    bones = label_map_pelvis(SimpleITK.GetArrayFromImage(image), image.GetSpacing()[::-1], resolution=SPACING)
    found = pelvimetry(label_map(bones), (SPACING,) * 3)
    assert 110 < found["sacrum_width"] < 135 and 265 < found["biiliac_width"] < 330
    assert 45 < found["joint_centre_lat_L"] < 62
    assert np.argwhere(bones.left_hip < 0)[:, 2].mean() > np.argwhere(bones.right_hip < 0)[:, 2].mean()
