"""Diagrams show shapes, counts and data flow of the network, and can be read at the printed width."""

import itertools
import re

import numpy as np
import pytest
import torch
from conftest import ROOT
from matplotlib.text import Annotation
from printed import assert_readable, texts, words
from torch import nn

from compendium.figures.diagrams import (
    PICTURES,
    description,
    network_diagrams,
    network_shapes,
    shape_text,
)
from magunet.base import profiles
from magunet.blocks import MFF
from magunet.model import count_parameters
from magunet.studies import build, build_on_meta

PROFILES = sorted(path.stem for path in (ROOT / "papermill_params").glob("*.yaml"))
PATHS = {name: picture["module"] for name, picture in PICTURES.items()}


@pytest.fixture(scope="module", params=PROFILES)
def diagrams(request):
    """Settings, and the figures of each profile, drawn once."""
    settings = profiles.load(request.param)
    figures = network_diagrams(settings)
    for figure in figures.values():
        assert_readable(figure)
    return settings, figures


def boxes_of(figure):
    """Box and text in pixels of everything that is written in a box, or stands where one would."""
    return [(text.get_bbox_patch().get_window_extent(), text.get_window_extent())
            for text in texts(figure) if text.get_bbox_patch()]


def arrows_of(figure):
    """Points along every arrow, in pixels."""
    for note in figure.findobj(Annotation):
        path = note.arrow_patch.get_transform().transform_path(note.arrow_patch.get_path())
        line = path.to_polygons(closed_only=False)[0]
        yield np.concatenate([np.linspace(a, b, 60) for a, b in itertools.pairwise(line)])


def test_boxes_lie_on_the_page_and_apart_and_no_arrow_runs_through_one(diagrams):
    for name, figure in diagrams[1].items():
        boxes = [box for box, text in boxes_of(figure)]
        for box, text in boxes_of(figure):
            assert box.x0 <= text.x0 and text.x1 <= box.x1 and box.y0 <= text.y0 and text.y1 <= box.y1
            assert figure.bbox.x0 < box.x0 and box.x1 < figure.bbox.x1 and box.y1 < figure.bbox.y1, name
        for one, other in itertools.combinations(boxes, 2):
            assert not one.overlaps(other), name
        for points in arrows_of(figure):
            for box in boxes:
                inner = box.padded(-2)
                assert not ((points > inner.min) & (points < inner.max)).all(axis=1).any(), name


def test_no_two_lines_of_the_network_meet_on_the_way(diagrams):
    lines = list(arrows_of(diagrams[1]["fig01_network"]))
    assert len(lines) == 1 + 4 * 8 + 1 + 2
    for one, other in itertools.combinations(lines, 2):
        if min(np.linalg.norm(one[i] - other[i]) for i in (0, -1)) > 3:
            assert np.linalg.norm(one[:, None] - other[None], axis=2).min() > 3


def test_the_counts_of_the_boxes_add_up_to_those_of_the_network(diagrams):
    settings, figures = diagrams
    network = build_on_meta("MAG-UNet", settings.width_divisor)
    assert list(figures) == list(PATHS)
    for name, figure in figures.items():
        numbers = [re.search(r"([\d,]+) parameters?$", text) for text in words(figure)]
        caption = re.search(r": ([\d,]+) parameters?\.", " ".join(words(figure)))
        total = count_parameters(network.get_submodule(PATHS[name]))
        assert sum(int(match[1].replace(",", "")) for match in numbers if match) == total
        assert int(caption[1].replace(",", "")) == total


def test_the_paper_profile_shows_the_papers_shapes():
    figures = network_diagrams(profiles.load("paper"))
    lines = "\n".join(words(figures["fig01_network"])).split("\n")
    assert "512 × 3 × 16²" in lines and lines.count("1 × 50 × 256²") == 2       # bottleneck; input and head
    assert "10,619,904 parameters" in lines
    assert "768 × 768 positions," in "\n".join(words(figures["fig04_pam"])).split("\n")


def run_with_hooks(network, size):
    """Path -> inputs and output of every module, as real tensors."""
    tensors = {}
    for path, module in network.named_modules():
        module.register_forward_hook(lambda _, inputs, output, path=path: tensors.update(
            {path: ([x.clone() for x in inputs], output.clone())}))
    network(torch.randn(1, 1, *size))
    return tensors


def test_shapes_are_those_of_real_tensors():
    size, tensors = (25, 50, 33), run_with_hooks(build("MAG-UNet", 16), (25, 50, 33))
    shapes = network_shapes(build_on_meta("MAG-UNet", 16), size)
    assert shapes == {path: (tuple(inputs[0].shape[1:]), tuple(output.shape[1:]))
                      for path, (inputs, output) in tensors.items()}


def test_arrows_follow_the_data():
    """Where an arrow joins two parts, what comes out of one goes into the other; every part has its box."""
    network = build("MAG-UNet", 16)
    tensors = run_with_hooks(network, (32, 32, 32))
    for picture in PICTURES.values():
        path = picture["module"]
        parts = {name for name, box in picture["boxes"].items() if len(box) == 2}
        children = network.get_submodule(path).named_children()
        assert parts >= {name for name, child in children if not isinstance(child, nn.ModuleList)}
        for chain in map(str.split, picture["arrows"]):
            for source, target in zip(chain[::2], chain[2::2]):
                if source in parts and target in parts:
                    output, inputs = (tensors[f"{path}.{name}".strip(".")] for name in (source, target))
                    assert any(torch.equal(output[1], x) for x in inputs[0]), (source, target)


@pytest.mark.parametrize("module, lines", [
    (nn.Sequential(*(nn.Sequential(nn.Conv3d(n, 2 * n, 3), nn.BatchNorm3d(2), nn.ReLU()) for n in (1, 2))),
     ["2 × (conv 3³, BN, ReLU)", "1 → 2 → 4"]),
    (nn.Sequential(nn.Conv3d(2, 4, 5, groups=2), nn.BatchNorm3d(4)), ["conv 5³ in 2 groups, BN", "2 → 4"]),
    (nn.Sequential(nn.ConvTranspose3d(4, 2, 3, stride=2)), ["transposed conv 3³", "4 → 2"]),
    (nn.MaxPool3d(2), ["max pool 2³"]), (nn.Conv3d(2, 1, 1), ["conv 1³", "2 → 1"]), (MFF(2, 4), ["MFF"])])
def test_descriptions_come_from_the_attributes(module, lines):
    assert description(module) == lines


def test_shapes_as_text():
    assert shape_text((32, 50, 256, 256)) == "32 × 50 × 256²"
    assert shape_text((32, 50, 256, 200)) == "32 × 50 × 256 × 200"
