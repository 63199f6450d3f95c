"""Figs. 1 to 6: diagrams of the network and its modules, drawn from what `compendium.figures.trace` sees them do.

Every kernel, channel, group, shape and parameter count in a picture is read from the module: change the module and
the picture changes. Lengths are millimetres on the printed page, y grows downwards.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse, FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path
from torch import nn

from compendium.figures import layout
from compendium.figures.layout import Point
from compendium.figures.page import LINE, MARGIN, PRINT_WIDTH, broken, page, text_width, write
from compendium.figures.trace import Node, shape_text, trace
from magunet.base.profiles import Settings
from magunet.model import DecoderStep, MAGUNet
from magunet.studies import build

FIGURES = {"MFF": 2, "DualAttention": 3, "PAM": 4, "CAM": 5, "LGAG": 6}
"""Class -> the paper's figure of it."""
MODULES = {"fig02_mff": "down.0", "fig03_da": "attention", "fig04_pam": "attention.pam", "fig05_cam": "attention.cam",
           "fig06_lgag": "decoder.0.gate"}
"""Figure -> where the module is in the network."""
INSET, CIRCLE = 1.1, 5.0
"""From text to the frame of its box; diameter of + and ×."""
FILLS = {"module": "#dce9f5", "function": "#ffffff", "parameter": "#fdf2c8"}
"""Light enough for black text, also in grey."""
WIDEST_TEXT, NARROWEST_GAP = (44, 38, 34, 30, 27, 24), 4.0
"""Longer lines are broken: at the first of these widths that leaves room for the arrows between boxes."""
NO_BREAK = "\N{NO-BREAK SPACE}"
KEY = "Each box: name in the network, operation, channels, shape of the output (channels × slices × rows × columns), parameters."


def labels(node: Node, widest: float) -> list[tuple[str, str]]:
    """The lines of a node's box, none wider than ``widest`` where it can be broken, and their weights."""
    kind = node.lines[0].partition(":")[0]
    name = [node.path + (f" (Fig. {FIGURES[kind]})" if kind in FIGURES else "")] if node.kind == "module" else []
    shown = node.kind in ("module", "input") or (len(node.lines[0]) > 1 and len(node.shape) in (2, 4))
    shape = [shape_text(node.shape).replace(" ×", f"{NO_BREAK}×")] if shown else []
    count = [_counted(node.parameters).replace(" ", NO_BREAK)] if node.parameters else []
    parts = [(line, "bold") for line in name] + [(line, "normal") for line in (*node.lines, *shape, *count)]
    return [(line, weight) for text, weight in parts for line in broken(text, widest, weight)]


def _counted(parameters: int) -> str:
    return f"{parameters:,} parameter{'s' * (parameters != 1)}"


def is_circle(node: Node) -> bool:
    return node.kind == "function" and len(node.lines) == 1 and len(node.lines[0]) == 1


def box_size(node: Node, widest: float) -> Point:
    """Width and height of a node's box."""
    if is_circle(node):
        return CIRCLE, CIRCLE
    lines = labels(node, widest)
    return max(text_width(*line) for line in lines) + 2 * INSET, len(lines) * LINE + 2 * INSET


def module_diagram(module: nn.Module, *shapes: tuple[int, ...], title: str) -> Figure:
    """A module from left to right, every function in it. shapes: of its inputs, with the batch; title: what it is."""
    nodes = _shown(trace(module, *shapes))
    late = [i for i, node in enumerate(nodes) if node.kind == "parameter"]
    number = layout.layers([node.sources for node in nodes], late)
    width = PRINT_WIDTH - 2 * MARGIN
    for widest in WIDEST_TEXT:
        sizes = [box_size(node, widest) for node in nodes]
        columns = [max(w for (w, _), n in zip(sizes, number) if n == column) for column in range(max(number) + 1)]
        if sum(columns) + NARROWEST_GAP * (len(columns) - 1) <= width:
            break
    centres, bends, height = layout.place(sizes, [node.sources for node in nodes], late, width)
    figure, axes = _page(height, caption(title, nodes))
    centres = [(x + MARGIN, y + MARGIN) for x, y in centres]
    for node, centre in zip(nodes, centres):
        _draw_box(axes, node, centre, widest)
    for (source, target), middle in bends.items():
        (x0, y0), (x1, y1) = centres[source], centres[target]
        start, end = (x0 + sizes[source][0] / 2, y0), (x1 - sizes[target][0] / 2, y1)
        _arrow(axes, [start, *((x + MARGIN, y + MARGIN) for x, y in middle), end], curved=True)
    return figure


def network_diagram(network: MAGUNet, size: tuple[int, int, int], title: str) -> Figure:
    """Fig. 1: the encoder on the left, the decoder on the right, one row a level. size: slices, rows, columns in."""
    nodes = _shown(trace(network, (1, network.config.in_channels, *size), opened=(DecoderStep,)))
    levels, widest = len(network.encoder), 33
    sizes = [box_size(node, widest) for node in nodes]
    cells = [_cell(node, levels) for node in nodes]
    widths = [max((w for (w, _), (c, row) in zip(sizes, cells) if c == column and (c == 0 or row % 1 == 0)), default=0)
              for column in range(4)]
    gap = (PRINT_WIDTH - 2 * MARGIN - sum(widths)) / 3
    x = [MARGIN + sum(widths[:column]) + column * gap + widths[column] / 2 for column in range(4)]
    y, bottoms = {}, dict.fromkeys(range(4), MARGIN - NARROWEST_GAP)
    for row in sorted({row for _, row in cells}):
        here = {column: height for (_, height), (column, r) in zip(sizes, cells) if r == row}
        y[row] = max(bottoms[column] + NARROWEST_GAP + height / 2 for column, height in here.items())
        bottoms |= {column: y[row] + height / 2 for column, height in here.items()}
    figure, axes = _page(max(bottoms.values()) - MARGIN, caption(title, nodes))
    centres = [(x[column], y[row]) for column, row in cells]
    for node, centre in zip(nodes, centres):
        _draw_box(axes, node, centre, widest)
    for target, node in enumerate(nodes):
        for source in node.sources:
            rises = cells[target][1] % 1 > 0
            _arrow(axes, _elbow(centres[source], sizes[source], centres[target], sizes[target], rises))
    return figure


def _shown(nodes: list[Node]) -> list[Node]:
    """The nodes that get a box: padding joins that of the map it pads, and no shape is written twice in a row."""
    kept: list[Node] = []
    index: list[int] = []                                           # of the box for each node
    for node in nodes:
        node = replace(node, sources=tuple(dict.fromkeys(index[s] for s in node.sources)))
        if node.kind == "function" and node.lines == ("pad",):
            index.append(node.sources[0])
            made = kept[index[-1]]
            kept[index[-1]] = replace(made, lines=(f"{made.lines[0]}, pad", *made.lines[1:]), shape=node.shape)
            continue
        if node.kind == "output" and not is_circle(kept[node.sources[0]]):
            node = replace(node, shape=())
        index.append(len(kept))
        kept.append(node)
    return kept


def _cell(node: Node, levels: int) -> tuple[int, float]:
    """Column 0 to 3 and row of a node of the network; half rows lie between two levels, -1 above the first."""
    parts = node.path.split(".")
    match parts[0]:
        case "encoder":
            return 0, int(parts[1])
        case "down":
            return 0, int(parts[1]) + 0.5
        case "attention":
            return 3, levels - 1
        case "decoder":
            level = levels - 2 - int(parts[1])
            return {"up": (2, level + 0.5), "gate": (1, level), "merge": (3, level)}.get(parts[-1], (2, level))
        case "head":
            return 3, -1
    return (0, -1) if node.kind == "input" else (2, -1)


def _elbow(start: Point, size: Point, end: Point, other: Point, rises: bool) -> list[Point]:
    """From one box to another: straight where they share a row or column, else along the row first, or, to the left of a
    box that ``rises`` to the next level, along the column first."""
    (x0, y0), (x1, y1) = start, end
    (w0, h0), (w1, h1) = ([side / 2 for side in box] for box in (size, other))
    right, down = (1 if x1 > x0 else -1), (1 if y1 > y0 else -1)
    if y0 == y1:
        return [(x0 + right * w0, y0), (x1 - right * w1, y1)]
    if x0 == x1:
        return [(x0, y0 + down * h0), (x1, y1 - down * h1)]
    if rises and x0 > x1:
        return [(x0, y0 + down * h0), (x0, y1), (x1 - right * w1, y1)]
    return [(x0 + right * w0, y0), (x1, y0), (x1, y1 - down * h1)]


def caption(title: str, nodes: Sequence[Node]) -> str:
    """What the picture shows, with the sum of the counts in its boxes."""
    return f"{title}: {_counted(sum(node.parameters for node in nodes))}. {KEY}"


def _page(height: float, text: str) -> tuple[Figure, Axes]:
    """A page for a diagram of this height, with a caption under it."""
    lines = broken(text, PRINT_WIDTH - 2 * MARGIN)
    figure, axes = page(height + 3 * MARGIN + len(lines) * LINE)
    write(axes, MARGIN, height + 2 * MARGIN, lines)
    return figure, axes


def _draw_box(axes: Axes, node: Node, centre: Point, widest: float) -> None:
    (x, y), (width, height) = centre, box_size(node, widest)
    if is_circle(node):
        axes.add_patch(Ellipse(centre, width, height, facecolor=FILLS["function"], edgecolor="black", linewidth=0.7, zorder=2))
        lines = [(node.lines[0], "normal")]
    else:
        lines = labels(node, widest)
        if node.kind in FILLS:
            axes.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height, facecolor=FILLS[node.kind], zorder=2,
                                          edgecolor="black", linewidth=0.7, boxstyle="round,pad=0,rounding_size=0.8"))
    for i, (line, weight) in enumerate(lines):
        write(axes, x, y + (i - len(lines) / 2) * LINE, line, "center", weight)


def _arrow(axes: Axes, points: list[Point], curved: bool = False) -> None:
    """An arrow through points: straight from one to the next, or curved and level at each."""
    route, codes = [points[0]], [Path.MOVETO]
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        route += [((x0 + x1) / 2, y0), ((x0 + x1) / 2, y1), (x1, y1)] if curved else [(x1, y1)]
        codes += [Path.CURVE4] * 3 if curved else [Path.LINETO]
    axes.add_patch(FancyArrowPatch(path=Path(route, codes), arrowstyle="-|>", mutation_scale=6, color="black", linewidth=0.7,
                                   shrinkA=0, shrinkB=0, zorder=1))


def network_diagrams(settings: Settings) -> dict[str, Figure]:
    """Figs. 1 to 6 at the width and input size of a profile: file name -> figure."""
    with torch.device("meta"):
        network = build("MAG-UNet", settings.width_divisor)
    size = (settings.depth, settings.size, settings.size)
    nodes = trace(network, (1, network.config.in_channels, *size), opened=(DecoderStep,))
    scale = "the paper's widths" if settings.width_divisor == 1 else f"the paper's widths / {settings.width_divisor}"
    figures = {"fig01_network": network_diagram(network, size, f"MAG-UNet at {scale}, input {shape_text((1, *size))}")}
    made_from = {node.path: node.sources for node in nodes if node.kind == "module"}
    for name, path in MODULES.items():
        inputs = [(1, *nodes[source].shape) for source in made_from[path if path in made_from else path.rpartition(".")[0]]]
        module = network.get_submodule(path)
        figures[name] = module_diagram(module, *inputs, title=f"{type(module).__name__} ({path} in MAG-UNet at {scale})")
    return figures
