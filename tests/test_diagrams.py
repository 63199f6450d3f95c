"""Diagrams say what the modules do: change a module and the picture changes. They can be read at the printed width."""

import itertools
import re

import numpy as np
import pytest
import torch
from conftest import ROOT
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from printed import assert_readable, texts, words
from torch import nn

from compendium.figures import layout
from compendium.figures.diagrams import MODULES, module_diagram, network_diagram, network_diagrams
from compendium.figures.trace import describe, power, shape_text, trace
from magunet.attention import CBAM, ECA, SE, NonLocal
from magunet.base import profiles
from magunet.blocks import CAM, LGAG, MFF, PAM, DualAttention
from magunet.fast import BatchNorm, Conv3d
from magunet.model import ATTENTIONS, DECODERS, DecoderStep, MAGUNet, MAGUNetConfig, count_parameters

PROFILES = sorted(path.stem for path in (ROOT / "papermill_params").glob("*.yaml"))
TINY = (2, 4, 8, 16, 32)
MAP = (1, 16, 6, 8, 8)


@pytest.fixture(scope="module")
def diagrams():
    made = {}

    def of(profile):
        if profile not in made:
            made[profile] = network_diagrams(profiles.load(profile))
        return made[profile]
    return of


def counted(figure):
    """Sum of the parameter counts in the boxes, and the one in the caption."""
    lines = [line for line in words(figure) if re.fullmatch(r"[\d,]+ parameters?", line)]
    total = next(re.search(r": ([\d,]+) parameter", line) for line in words(figure) if ": " in line and "parameter" in line)
    return sum(int(line.split()[0].replace(",", "")) for line in lines), int(total[1].replace(",", ""))


@pytest.mark.parametrize("profile", PROFILES)
def test_every_diagram_can_be_read_in_every_profile(diagrams, profile):
    figures = diagrams(profile)
    assert sorted(figures) == ["fig01_network", *sorted(MODULES)]
    for figure in figures.values():
        assert_readable(figure)


@pytest.mark.parametrize("profile", PROFILES)
def test_texts_lie_inside_their_boxes_and_no_line_runs_through_a_box(diagrams, profile):
    """A text that crosses a frame, or an arrow that enters a box it does not end at, makes a picture wrong."""
    for figure in diagrams(profile).values():
        boxes = [p.get_window_extent() for p in figure.findobj(FancyBboxPatch)]
        for box in boxes:
            assert figure.bbox.x0 + 2 < box.x0 and box.x1 < figure.bbox.x1 - 2
            assert figure.bbox.y0 + 2 < box.y0 and box.y1 < figure.bbox.y1 - 2
            for text in (t.get_window_extent() for t in texts(figure)):
                inside = box.x0 <= text.x0 and text.x1 <= box.x1 and box.y0 <= text.y0 and text.y1 <= box.y1
                apart = text.x1 < box.x0 or box.x1 < text.x0 or text.y1 < box.y0 or box.y1 < text.y0
                assert inside or apart
        for points in arrow_points(figure):
            for box in boxes:
                inner = box.padded(-2)
                assert not ((points > inner.min) & (points < inner.max)).all(axis=1).any()


def arrow_points(figure):
    """Points along every arrow, in pixels."""
    for arrow in figure.findobj(FancyArrowPatch):
        line = arrow._path_original.to_polygons(closed_only=False)[0]
        points = np.concatenate([np.linspace(a, b, 60) for a, b in itertools.pairwise(line)])
        yield arrow.axes.transData.transform(points)


@pytest.mark.parametrize("profile", PROFILES)
def test_no_two_lines_of_the_network_meet_on_the_way(diagrams, profile):
    lines = list(arrow_points(diagrams(profile)["fig01_network"]))
    assert len(lines) == 5 + 4 + 1 + 4 * 6 + 2
    for one, other in itertools.combinations(lines, 2):
        ends = [np.linalg.norm(one[i] - other[i]).min() for i in (0, -1)]
        if min(ends) > 3:
            assert np.linalg.norm(one[:, None] - other[None], axis=2).min() > 3


@pytest.mark.parametrize("profile", PROFILES)
def test_the_counts_shown_add_up_to_those_of_the_network(diagrams, profile):
    settings = profiles.load(profile)
    with torch.device("meta"):
        network = MAGUNet(MAGUNetConfig(widths=tuple(w // settings.width_divisor for w in MAGUNetConfig().widths)))
    wanted = {"fig01_network": network} | {name: network.get_submodule(path) for name, path in MODULES.items()}
    for name, figure in diagrams(profile).items():
        assert counted(figure) == (count_parameters(wanted[name]),) * 2, name


def test_the_paper_profile_shows_the_papers_shapes(diagrams):
    shown = words(diagrams("paper")["fig01_network"])
    assert "512 × 3 × 16²" in shown and shown.count("1 × 50 × 256²") == 2           # bottleneck; input and head
    assert "10,619,904 parameters" in shown
    assert "768 × 768 positions," in words(diagrams("paper")["fig04_pam"])


def seen(module, *shapes):
    return words(module_diagram(module, *(shapes or (MAP,)), title="test"))


@pytest.mark.parametrize("one, other, only_one, only_other", [
    (MFF(16, 8), MFF(16, 8, (1, 3)), ["conv 5³, BN, max pool 2³, ReLU", "branches.2", "24 → 8"], []),
    (MFF(16, 8), MFF(16, 8, (1, 3, 9)), ["conv 5³, BN, max pool 2³, ReLU"], ["conv 9³, BN, max pool 2³, ReLU"]),
    (MFF(16, 8), MFF(16, 12), ["8 × 3 × 4²"], ["12 × 3 × 4²", "36 → 12"]),
    (PAM(16), PAM(16, 4), ["16 → 2", "34 parameters"], ["16 → 4", "68 parameters"]),
    (DualAttention(16), DualAttention(16, out_conv=False), ["out", "conv 1³, BN, ReLU"], []),
    (DualAttention(16), DualAttention(16, 4), ["341 parameters"], ["409 parameters"]),
])
def test_another_module_gives_another_picture(one, other, only_one, only_other):
    a, b = set(seen(one)), set(seen(other))
    assert set(only_one) <= a - b
    assert set(only_other) <= b - a


def test_groups_and_projection_of_the_gate_are_shown():
    both = MAP, MAP
    assert "conv 3³ in 16 groups, BN" in seen(LGAG(16), *both)
    assert "conv 3³ in 4 groups, BN" in seen(LGAG(16, 4), *both)
    assert "conv 3³, BN" in seen(LGAG(16, 1), *both)
    assert "projection" in seen(LGAG(16, projection=True), *both) and "projection" not in seen(LGAG(16), *both)


def test_what_the_forward_no_longer_does_is_no_longer_drawn():
    class Open(LGAG):
        def forward(self, g, x):
            return x + torch.tanh(self.gate(self.g(g) * self.x(x)))

    assert {"sigmoid", "ReLU", "×", "+"} <= set(seen(LGAG(16), MAP, MAP))
    drawn = seen(Open(16), MAP, MAP)
    assert "tanh" in drawn and "sigmoid" not in drawn and "ReLU" not in drawn


def test_what_is_written_in_place_and_what_comes_in_parts_is_drawn():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu = Conv3d(16, 16, 1), nn.ReLU(inplace=True)

        def forward(self, x):
            y = self.relu(self.conv(x))
            y += x
            a, b = y.chunk(2, dim=1)
            return torch.cat([a.relu_(), b], dim=1)

    assert arrows(InPlace(), MAP) == {
        ("x", "conv"), ("conv", "relu"), ("relu", "+"), ("x", "+"), ("+", "chunk"), ("chunk", "ReLU"), ("chunk", "concatenate"),
        ("ReLU", "concatenate"), ("concatenate", "output")}


def arrows(module, *shapes, **options):
    """(from, to) by the names of modules and functions."""
    nodes = trace(module, *shapes, **options)
    names = [node.path if node.kind == "module" else node.lines[0] for node in nodes]
    return {(names[source], names[i]) for i, node in enumerate(nodes) for source in node.sources}


def test_arrows_follow_the_data():
    assert arrows(LGAG(16), MAP, MAP) == {
        ("g", "g"), ("x", "x"), ("g", "+"), ("x", "+"), ("+", "ReLU"), ("ReLU", "gate"), ("gate", "sigmoid"), ("sigmoid", "×"),
        ("x", "×"), ("×", "output")}
    assert arrows(CAM(), MAP) == {
        ("x", "x · xᵀ"), ("x · xᵀ", "softmax"), ("softmax", "softmax · x"), ("x", "softmax · x"), ("softmax · x", "×"),
        ("β", "×"), ("×", "+"), ("x", "+"), ("+", "output")}
    assert arrows(DualAttention(16), MAP) == {
        ("w", "softmax"), ("softmax", "softmax₁"), ("softmax", "softmax₂"), ("x", "pam"), ("x", "cam"), ("softmax₁", "×"),
        ("softmax₂", "×"), ("pam", "×"), ("cam", "×"), ("×", "+"), ("+", "out"), ("out", "output")}


def test_the_formula_of_position_attention_is_that_of_equations_3_to_5():
    """S_ji is a softmax over i of B_i . C_j, and E = D Sᵀ: as rows, softmax(Cᵀ B) Dᵀ. Other roles give another formula."""
    class Other(PAM):
        def __init__(self, channels):
            super().__init__(channels)
            self.B, self.C = self.C, self.B

    class Swapped(PAM):
        def forward(self, x):
            self.B, self.C, b, c = self.C, self.B, self.B, self.C
            result = super().forward(x)
            self.B, self.C = b, c
            return result

    assert "softmax(Cᵀ · B) · Dᵀ" in seen(PAM(16)) and "softmax(Cᵀ · B) · Dᵀ" in seen(Other(16))
    assert "softmax(Cᵀ · B) · Dᵀ" not in seen(Swapped(16))


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_every_switch_can_be_drawn_and_its_counts_add_up(decoder, attention):
    gated = decoder != "trilinear" and attention != "none"
    config = MAGUNetConfig(widths=TINY, decoder=decoder, attention=attention, lgag=gated,
                           mff_kernels=(3, 3) if gated else None, da_reduction=2)
    network = MAGUNet(config)
    figure = network_diagram(network, (24, 40, 32), "test")
    assert_readable(figure)
    assert counted(figure) == (count_parameters(network),) * 2
    assert ("+" in words(figure)) == (decoder == "add")
    assert ("attention" in " ".join(words(figure))) == (attention != "none")
    assert any("trilinear" in line for line in words(figure)) == (decoder == "trilinear")


@pytest.mark.parametrize("module", [SE(16), CBAM(16), NonLocal(16), ECA(16)])
def test_the_other_attention_modules_can_be_drawn(module):
    figure = module_diagram(module, MAP, title="test")
    assert_readable(figure)
    assert counted(figure) == (count_parameters(module),) * 2


def test_a_module_too_wide_for_the_page_gets_shorter_lines():
    with torch.device("meta"):
        module = MFF(1024, 2048)
    figure = module_diagram(module, (1, 1024, 50, 256, 250), title="test")
    assert_readable(figure)
    assert max(p.get_window_extent().x1 for p in figure.findobj(FancyBboxPatch)) < figure.bbox.x1


def test_shapes_in_the_trace_are_those_of_real_tensors():
    network = MAGUNet(MAGUNetConfig(widths=TINY)).eval()
    seen_shapes = {}
    for name, module in network.named_modules():
        module.register_forward_hook(lambda m, i, o, name=name: seen_shapes.update({name: tuple(o.shape[1:])}))
    network(torch.zeros(1, 1, 25, 50, 33))
    traced = trace(MAGUNet(MAGUNetConfig(widths=TINY)), (1, 1, 25, 50, 33), opened=(DecoderStep,))
    nodes = [node for node in traced if node.kind == "module"]
    assert len(nodes) == 5 + 4 + 1 + 3 * 4 + 1
    assert {node.path: node.shape for node in nodes} == {node.path: seen_shapes[node.path] for node in nodes}


def test_tracing_leaves_the_module_as_it_was():
    module = MFF(4, 8)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    trace(module, (1, 4, 8, 8, 8))
    assert module.training and all(p.device.type == "cpu" for p in module.parameters())
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert not module._forward_hooks and not module.branches[0][2]._forward_hooks


def test_a_module_that_runs_twice_is_counted_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = Conv3d(2, 2, 3, padding=1)

        def forward(self, x):
            return self.conv(self.conv(x))

    nodes = trace(Twice(), (1, 2, 4, 4, 4))
    assert [n.path for n in nodes if n.kind == "module"] == ["conv", "conv"]
    assert sum(n.parameters for n in nodes) == count_parameters(Twice())


@pytest.mark.parametrize("module, lines", [
    (nn.Sequential(Conv3d(1, 2, 3), BatchNorm(2), nn.ReLU(), Conv3d(2, 4, 3), BatchNorm(4), nn.ReLU()),
     ("2 × (conv 3³, BN, ReLU)", "1 → 2 → 4")),
    (Conv3d(2, 4, (1, 3, 3), groups=2), ("conv 1×3×3 in 2 groups", "2 → 4")),
    (nn.ConvTranspose3d(4, 2, 2, stride=2), ("transposed conv 2³ stride 2³", "4 → 2")),
    (nn.ConvTranspose3d(4, 2, 2, stride=(1, 2, 2)), ("transposed conv 2³ stride 1×2×2", "4 → 2")),
    (nn.MaxPool3d((1, 2, 2)), ("max pool 1×2×2",)),
    (MFF(2, 4, (1, 7)), ("MFF: conv 3³, 1³, 7³, 3³",)),
])
def test_descriptions_come_from_the_attributes(module, lines):
    assert tuple(line.replace("\N{NO-BREAK SPACE}", " ") for line in describe(module)) == lines


def test_shapes_and_powers_as_text():
    assert (shape_text((32, 50, 256, 256)), shape_text((32, 50, 256, 200))) == ("32 × 50 × 256²", "32 × 50 × 256 × 200")
    assert (shape_text((8, 8)), power((3, 3, 3)), power((1, 3, 3))) == ("8 × 8", "3³", "1×3×3")


def test_layers_put_parameters_right_before_their_use_and_boxes_apart():
    sources = [(), (), (0,), (2,), (1, 3), (0, 4)]               # 1 is a parameter that 4 uses
    assert layout.layers(sources, [1]) == [0, 2, 1, 2, 3, 4]
    sizes = [(10.0, 8.0)] * 6
    centres, bends, height = layout.place(sizes, sources, [1], 100)
    assert list(bends[0, 5]) and not bends[0, 2]                 # the long line makes way for the boxes between
    assert abs(centres[1][1] - centres[3][1]) >= 8 + layout.GAP - 1e-9
    assert min(y for _, y in centres) >= 4 and max(y for _, y in centres) <= height - 4
    assert (min(x for x, _ in centres), max(x for x, _ in centres)) == (5, 95)
