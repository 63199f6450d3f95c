"""The pelvis against measured anatomy, on its full extent."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from magunet.data.anatomy import Bones, label_map_pelvis
from magunet.data.pelvis import parametric_pelvis
from magunet.errors import InputError

SEEDS = range(8)
SPACING = 1.5  # mm
DATA = Path(__file__).parents[2] / "shared" / "data"

# Mean and SD over 19 adults: surface models made from CT, VSD full-body bone models,
# doi:10.5281/zenodo.8316730 (mm; degrees from the sagittal axis, positive: converges posteriorly).
REFERENCE = {
    "sacrum_width": (118.4, 7.1),
    "sacrum_height": (127.7, 18.1),
    "sacrum_depth": (96.6, 10.2),
    "biiliac_width": (278.0, 18.3),
    "hip_height": (219.5, 11.9),
    "joint_height": (64.7, 5.3),
    "joint_ap": (62.8, 7.0),
    "joint_centre_lat": (48.9, 2.6),
    "obliq_lower": (9.8, 11.1),
    "obliq_middle": (22.9, 11.6),
    "obliq_upper": (32.4, 12.3),
}


@pytest.fixture(scope="module")
def pelvises() -> list[Bones]:
    return [parametric_pelvis(seed, SPACING) for seed in SEEDS]


def extent(mask: np.ndarray, axis: int, spacing: float) -> float:
    where = np.flatnonzero(mask.any(tuple(a for a in range(3) if a != axis)))
    return float((where[-1] - where[0] + 1) * spacing)


def cleft(sacrum: np.ndarray, hip: np.ndarray, spacing: float, width: float = 4.0) -> np.ndarray:
    """Voxels in the middle between two bones that are at most `width` mm apart."""
    return (sacrum > 0) & (hip > 0) & (sacrum + hip < width) & (np.abs(sacrum - hip) < spacing)


def measure(bones: Bones) -> dict[str, float]:
    """The figures of the reference; of the joints the mean of both sides."""
    hips = (bones.left_hip < 0) | (bones.right_hip < 0)
    found = {
        "sacrum_width": extent(bones.sacrum < 0, 2, bones.spacing),
        "sacrum_height": extent(bones.sacrum < 0, 0, bones.spacing),
        "sacrum_depth": extent(bones.sacrum < 0, 1, bones.spacing),
        "biiliac_width": extent(hips, 2, bones.spacing),
        "hip_height": extent(bones.left_hip < 0, 0, bones.spacing),
    }
    sides = [measure_joint(bones, bones.left_hip, 1), measure_joint(bones, bones.right_hip, -1)]
    centres = [side.pop("x") for side in sides]
    found["joint_centre_lat"] = (centres[0] - centres[1]) / 2
    return found | {key: float(np.mean([side[key] for side in sides])) for key in sides[0]}


def measure_joint(bones: Bones, hip: np.ndarray, sign: int) -> dict[str, float]:
    joint = cleft(bones.sacrum, hip, bones.spacing)
    z, y, x = np.argwhere(joint).T * bones.spacing
    found = {"joint_height": extent(joint, 0, bones.spacing), "joint_ap": extent(joint, 1, bones.spacing)}
    thirds = np.clip((z - z.min()) / (np.ptp(z) + 1e-6) * 3, 0, 2.999).astype(int)
    for third, name in enumerate(("lower", "middle", "upper")):
        here = thirds == third
        centred = y[here] - y[here].mean(), x[here] - x[here].mean()
        found[f"obliq_{name}"] = -sign * np.degrees(
            np.arctan((centred[0] @ centred[1]) / (centred[0] @ centred[0]))
        )
    return found | {"x": float(x.mean())}


@pytest.mark.parametrize("seed", SEEDS)
def test_dimensions_are_those_of_people(pelvises, seed):
    found = measure(pelvises[seed])
    wrong = {
        k: (round(found[k], 1), m, sd) for k, (m, sd) in REFERENCE.items() if not abs(found[k] - m) <= 3 * sd
    }
    assert not wrong


@pytest.mark.parametrize("name", REFERENCE)
def test_dimensions_are_right_on_average_and_vary(pelvises, name):
    mean, sd = REFERENCE[name]
    found = [measure(bones)[name] for bones in pelvises]
    assert abs(np.mean(found) - mean) < 1.2 * sd
    assert np.std(found) > 0.1 * sd


def test_the_cleft_is_one_to_three_mm_over_most_of_the_joint(pelvises):
    for bones in pelvises:
        for hip in (bones.left_hip, bones.right_hip):
            width = (bones.sacrum + hip)[cleft(bones.sacrum, hip, bones.spacing)]
            assert ((width > 1) & (width < 3)).mean() > 0.7
            assert width.std() > 0.15, "the surfaces undulate"


def test_bones_do_not_overlap(pelvises):
    for bones in pelvises:
        assert not ((bones.sacrum < 0) & ((bones.left_hip < 0) | (bones.right_hip < 0))).any()
        assert not ((bones.sacrum < 0) & (bones.other < 0)).mean() > 1e-5


def test_axes_are_lps(pelvises):
    """Left hip at larger x; sacrum behind the hips (larger y), L5 above the sacrum, femurs below."""
    for bones in pelvises:
        centre = {n: np.argwhere(getattr(bones, n) < 0).mean(0) for n in ("sacrum", "left_hip", "right_hip")}
        assert centre["left_hip"][2] > centre["sacrum"][2] + 40 > centre["right_hip"][2] + 80
        assert centre["sacrum"][1] > centre["left_hip"][1] + 20
        middle = slice(int(centre["sacrum"][2]) - 10, int(centre["sacrum"][2]) + 10)
        top = np.argwhere(bones.other[:, :, middle] < 0)[:, 0].max()
        assert top > np.argwhere(bones.sacrum < 0)[:, 0].max()


def test_the_sacrum_is_concave_in_front_and_holds_a_canal(pelvises):
    for bones in pelvises:
        middle = bones.sacrum[:, :, bones.sacrum.shape[2] // 2] < 0
        front = np.array([row.argmax() if row.any() else np.nan for row in middle])
        z = np.flatnonzero(np.isfinite(front))
        chord = np.interp(z, [z[0], z[np.argmin(front[z])]], [front[z[0]], np.nanmin(front)])
        below = z < z[np.argmin(front[z])]
        assert (front[z] - chord)[below].max() * bones.spacing > 4, (
            "mm behind the chord from apex to promontory"
        )
        row = middle[z[int(0.6 * len(z))]]
        assert np.count_nonzero(np.diff(row.astype(int)) == 1) == 2, "body, canal, lamina"


def test_sides_differ_but_resemble_each_other(pelvises):
    bones = pelvises[0]
    left, mirrored = bones.left_hip < 0, bones.right_hip[..., ::-1] < 0
    dice = 2 * (left & mirrored).sum() / (left.sum() + mirrored.sum())
    assert 0.6 < dice < 0.999


def test_distances_are_distances(pelvises):
    """A unit slope across the surface, where the band of the target is measured."""
    for part in (pelvises[0].sacrum, pelvises[0].left_hip):
        slope = np.linalg.norm(np.gradient(part, SPACING), axis=0)
        near = (part > 0) & (part < 6)
        assert 0.85 < np.median(slope[near]) < 1.05


def test_same_seed_same_pelvis_at_every_spacing():
    first, again = parametric_pelvis(3, 3.0), parametric_pelvis(3, 3.0)
    assert np.array_equal(first.sacrum, again.sacrum) and first.parameters == again.parameters
    finer = parametric_pelvis(3, 1.5)
    shape = [min(a, -(-b // 2)) for a, b in zip(first.left_hip.shape, finer.left_hip.shape)]
    coarse, fine = first.left_hip[:, :, -40:], finer.left_hip[::2, ::2]
    assert shape[0] == first.left_hip.shape[0]
    volumes = (coarse < 0).sum() * 27, (fine < 0).sum() * 13.5
    assert volumes[0] == pytest.approx(volumes[1], rel=0.3)
    assert not np.array_equal(first.sacrum, parametric_pelvis(4, 3.0).sacrum)


@pytest.fixture(scope="module")
def boxes():
    labels = np.zeros((30, 40, 60), np.uint8)
    labels[5:25, 10:30, 22:38] = 1
    labels[5:25, 10:30, 39:55] = 3
    labels[5:25, 10:30, 6:21] = 5
    labels[0:3, 10:20, 25:35] = 2
    return labels


def test_label_map_keeps_places_and_opens_the_cleft(boxes):
    bones = label_map_pelvis(boxes, (2.0, 1.0, 1.0), resolution=1.0)
    assert bones.sacrum.shape == (60, 40, 60)
    assert (
        bones.sacrum[30, 20, 30] < -5 and bones.left_hip[30, 20, 47] < -5 and bones.right_hip[30, 20, 13] < -5
    )
    assert bones.other[2, 15, 30] < 0 and not (bones.other[20:] < 0).any()
    assert (bones.sacrum + bones.left_hip).min() > 1.4
    assert bones.sacrum[30, 20, 38 + 10] == pytest.approx(48 - 37.5, abs=0.7)  # mm to the face of the sacrum


@pytest.mark.parametrize("label, name", [(1, "sacrum"), (3, "left hip"), (5, "right hip")])
def test_a_missing_label_is_named(boxes, label, name):
    with pytest.raises(InputError, match=name):
        label_map_pelvis(np.where(boxes == label, 0, boxes), (1, 1, 1))


@pytest.mark.parametrize("person", ["male", "female"])
def test_visible_human_reads_as_a_pelvis(person):
    bones = visible_human(person)
    found = measure(bones)
    assert 110 < found["sacrum_width"] < 135 and 265 < found["biiliac_width"] < 330
    assert 45 < found["joint_centre_lat"] < 62
    assert np.argwhere(bones.left_hip < 0)[:, 2].mean() > np.argwhere(bones.right_hip < 0)[:, 2].mean()


@cache
def visible_human(person: str) -> Bones:
    """The bones of a Visible Human at 2 mm; skips the test when the label maps are not there."""
    path = DATA / f"visible_human_{person}_pelvis.nii.gz"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.ReadImage(str(path))
    return label_map_pelvis(sitk.GetArrayFromImage(image), image.GetSpacing()[::-1], resolution=2.0)
