"""Diagrams show shapes, counts and data flow of the network, and can be read at the printed width; maps of
its modules are what computing them by hand gives."""

import functools
import itertools
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.text import Annotation
from printed import assert_readable, texts, words
from torch import nn

from compendium.figures.diagrams import PICTURES, description, network_diagrams, network_shapes, shape_text
from compendium.figures.inside import map_figure, maps
from magunet.base import profiles
from magunet.blocks import MFF
from magunet.fast import evaluate_by_input
from magunet.model import count_parameters
from magunet.predict import Model
from magunet.studies import build, build_on_meta


@functools.cache
def figures_of(profile):
    """The diagrams of a profile, drawn, and every text of them can be read."""
    figures = network_diagrams(profiles.load(profile))
    for figure in figures.values():
        assert_readable(figure)
    return figures


@pytest.fixture(scope="module", params=["paper", "smoke", *(
    pytest.param(name, marks=pytest.mark.slow) for name in ("cpu", "gpu", "weights"))])
def profile(request):
    return request.param


def arrows_of(figure):
    """Points along every arrow, in pixels."""
    for note in figure.findobj(Annotation):
        path = note.arrow_patch.get_transform().transform_path(note.arrow_patch.get_path())
        line = path.to_polygons(closed_only=False)[0]
        yield np.concatenate([np.linspace(a, b, 60) for a, b in itertools.pairwise(line)])


def test_boxes_lie_on_the_page_and_apart_and_no_arrow_runs_through_one(profile):
    """Boxes: frames, and texts that stand where one would."""
    for name, figure in figures_of(profile).items():
        boxes = []
        for written in (text for text in texts(figure) if text.get_bbox_patch()):
            box, text = written.get_bbox_patch().get_window_extent(), written.get_window_extent()
            assert box.x0 <= text.x0 and text.x1 <= box.x1 and box.y0 <= text.y0 and text.y1 <= box.y1, name
            assert figure.bbox.x0 < box.x0 and box.x1 < figure.bbox.x1 and box.y1 < figure.bbox.y1, name
            assert not any(box.overlaps(other) for other in boxes), name
            boxes.append(box)
        for points, box in itertools.product(arrows_of(figure), boxes):
            inner = box.padded(-2)
            assert not ((points > inner.min) & (points < inner.max)).all(axis=1).any(), name


def test_the_counts_of_the_boxes_add_up_to_those_of_the_network(profile):
    network = build_on_meta("MAG-UNet", profiles.load(profile).width_divisor)
    assert list(figures_of(profile)) == list(PICTURES)
    for name, figure in figures_of(profile).items():
        numbers = [re.search(r"([\d,]+) parameters?$", text) for text in words(figure)]
        caption = re.search(r": ([\d,]+) parameters?\.", " ".join(words(figure)))
        counts = [int(match[1].replace(",", "")) for match in (caption, *filter(None, numbers))]
        total = count_parameters(network.get_submodule(PICTURES[name]["module"]))
        assert counts[0] == sum(counts[1:]) == total, name


def test_the_paper_profile_shows_the_papers_shapes():
    network, pam = ("\n".join(words(figures_of("paper")[name])).split("\n")
                    for name in ("fig01_network", "fig04_pam"))
    assert "512 × 3 × 16²" in network                                       # bottleneck
    assert network.count("1 × 50 × 256²") == 2                              # input and head
    assert "10,619,904 parameters" in network and "768 × 768 positions," in pam
    assert shape_text((32, 50, 256, 200)) == "32 × 50 × 256 × 200"


def run_with_hooks(network, size):
    """Path -> inputs and output of every module, as real tensors."""
    tensors = {}
    for path, module in network.named_modules():
        module.register_forward_hook(lambda _, inputs, output, path=path: tensors.update(
            {path: ([x.clone() for x in inputs], output.clone())}))
    network(torch.randn(1, 1, *size))
    return tensors


def test_shapes_are_those_of_real_tensors():
    size = 25, 50, 33
    assert network_shapes(build_on_meta("MAG-UNet", 16), size) == {
        path: (tuple(inputs[0].shape[1:]), tuple(output.shape[1:]))
        for path, (inputs, output) in run_with_hooks(build("MAG-UNet", 16), size).items()}


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


def test_descriptions_come_from_the_attributes():
    twice = (nn.Sequential(nn.Conv3d(n, 2 * n, 3), nn.BatchNorm3d(2), nn.ReLU()) for n in (1, 2))
    for module, lines in (
            (nn.Sequential(*twice), ["2 × (conv 3³, BN, ReLU)", "1 → 2 → 4"]),
            (nn.Sequential(nn.Conv3d(2, 4, 5, groups=2), nn.BatchNorm3d(4)),
             ["conv 5³ in 2 groups, BN", "2 → 4"]),
            (nn.Sequential(nn.ConvTranspose3d(4, 2, 3, stride=2)), ["transposed conv 3³", "4 → 2"]),
            (nn.MaxPool3d(2), ["max pool 2³"]), (nn.Conv3d(2, 1, 1), ["conv 1³", "2 → 1"]),
            (MFF(2, 4), ["MFF"])):
        assert description(module) == lines


# What modules do with a window ------------------------------------------------------------------------
def test_maps_are_what_goes_in_and_out_of_a_module_in_evaluation():
    torch.manual_seed(0)
    model = Model(build("MAG-UNet", 32), profiles.load("smoke"), {}, torch.device("cpu"), torch.float32)
    window = np.random.default_rng(0).random((16, 16, 32), np.float32)
    net = model.network
    tensors = maps(model, window, {"first": net.encoder[0], "pam": net.attention.pam})
    evaluate_by_input(net)
    with torch.no_grad():
        x = torch.from_numpy(window)[None, None]
        torch.testing.assert_close(tensors["first"][0], x)
        torch.testing.assert_close(tensors["first"][1], net.encoder[0](x))
        torch.testing.assert_close(tensors["pam"][1], net.attention.pam(tensors["pam"][0]))
    assert not any(module._forward_hooks for module in net.modules())


def test_maps_are_drawn_as_they_are_on_their_own_scale_or_on_the_given_one():
    grids = {"fine": np.arange(64.0).reshape(8, 8) / 64, "coarse": np.arange(4.0).reshape(2, 2)}
    for limits in ((None, None), (0, 2)):
        figure = map_figure(np.zeros((8, 8)), np.eye(8), grids, (2.0, 3.0), limits)
        scan, *shown = (axes.images[0] for axes in figure.axes if axes.get_title())
        assert [axes.get_title() for axes in figure.axes[:3]] == ["CT and true joints", *grids]
        assert [len(axes.collections) for axes in figure.axes[:3]] == [1, 1, 1], "joints without outline"
        assert scan.get_clim() == pytest.approx((0, 1200 / 1400))            # -200 to 1000 HU
        for image, values in zip(shown, grids.values(), strict=True):
            np.testing.assert_array_equal(image.get_array(), values)
            assert image.get_clim() == ((0, 2) if any(limits) else (values.min(), values.max()))
            assert image.get_extent() == [0, 24, 16, 0]                      # mm, whatever the map's own size
        plt.close(figure)
