"""Figs. 1 to 6: MAG-UNet and its modules. Boxes are placed by hand; their numbers come from the network."""

import math
import re
import tomllib
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn

from compendium.figures.page import SMALLEST_FONT, broken, page
from magunet.base.profiles import Settings
from magunet.model import count_parameters
from magunet.studies import build_on_meta

PICTURES = tomllib.loads(Path(__file__).with_name("diagrams.toml").read_text("utf-8"))
"""File -> module, height, arrows and boxes of its diagram, as the comments in that file explain."""


def network_shapes(network: nn.Module, size: tuple[int, int, int]) -> dict[str, tuple]:
    """Module's path -> shapes (c, d, h, w) of its first input and output; free on the meta device."""
    shapes = {}
    for path, module in network.named_modules():
        module.register_forward_hook(lambda _, inputs, output, path=path: shapes.update(
            {path: (tuple(inputs[0].shape[1:]), tuple(output.shape[1:]))}))
    network(torch.zeros(1, 1, *size, device="meta"))
    return shapes


def shape_text(shape: tuple[int, ...]) -> str:
    """Channels, slices, rows and columns; equal rows and columns as a square: "32 × 50 × 256²"."""
    last = (f"{shape[-1]}²",) if shape[-1] == shape[-2] else shape[-2:]
    return " × ".join(map(str, (*shape[:-2], *last)))


def count_text(count: int) -> str:
    """A number of parameters in words; "" for none."""
    return f"{count:,} parameter{'s' * (count != 1)}" if count else ""


def description(module: nn.Module) -> list[str]:
    """Operations of a sequence of layers, and channels from convolution to convolution; else the class."""
    if not isinstance(module, nn.Sequential | nn.Conv3d | nn.MaxPool3d):
        return [type(module).__name__]
    names = {"BatchNorm3d": "BN", "Conv3d": "conv", "ConvTranspose3d": "transposed conv",
             "MaxPool3d": "max pool"}
    texts, channels = [], []
    for layer in (layer for layer in module.modules() if not isinstance(layer, nn.Sequential)):
        text = names.get(type(layer).__name__, type(layer).__name__)
        if kernel := getattr(layer, "kernel_size", None):
            text += f" {kernel if isinstance(kernel, int) else kernel[0]}³"
        if hasattr(layer, "out_channels"):
            channels += [layer.out_channels] if channels else [layer.in_channels, layer.out_channels]
        texts.append(f"{text} in {layer.groups} groups" if getattr(layer, "groups", 1) > 1 else text)
    half = texts[:len(texts) // 2]
    line = f"2 × ({', '.join(half)})" if half and texts == 2 * half else ", ".join(texts)
    return [*broken(line, 40), *([" → ".join(map(str, channels))] if channels else [])]


def draw(module: nn.Module, shapes: dict[str, tuple], title: str, picture: dict) -> Figure:
    """A page with the diagram of a module, one of PICTURES; shapes: of its parts, by their path in it."""
    caption = (f"{title}: {count_text(count_parameters(module))}. Boxes: name, operation, channels, shape of "
               f"output (channels × slices × rows × columns), parameters.{picture.get('note', '')}")
    figure, axes = page(picture["height"], caption)
    channels, *grid = shapes[""][0]
    parameters = {name: count_text(own.numel()) for name, own in module.named_parameters(recurse=False)}
    values = {name: shape_text(shape) for name, (shape, _) in shapes.items()} | parameters
    values |= {"channels": str(channels), "positions": str(math.prod(grid))}
    texts, modules = {}, picture.get("modules", {})
    for name, (x, y, *text) in picture["boxes"].items():
        if text:                # what comes in and goes out has no frame; colours are light, also in grey
            end, number, colour = re.search("{}|output", text[0]), 0, ("white", "#fdf2c8")[name in parameters]
            text = re.sub("{(.*?)}", lambda match: values[match[1]], text[0])
        else:
            end, part = None, module.get_submodule(name)
            number, colour = modules.get(name, (0, "#eef1f4"))
            heading = (f"{name} (Fig. {number})" if number else name).replace(" ", r"\ ").replace(".", r".\!")
            lines = rf"$\bf{{{heading}}}$", *description(part), shape_text(shapes[name][1])
            text = "\n".join(filter(None, [*lines, count_text(count_parameters(part))]))
        frame = {"boxstyle": "circle,pad=0.25" if text in "+×" else "round,pad=0.4",
                 "lw": 0.7 + bool(number), "fc": "none" if end else colour, "ec": "none" if end else "black"}
        texts[name] = axes.text(x, y, text, fontsize=SMALLEST_FONT, ha="center", va="center", bbox=frame)
    routes = {"->": "arc3", "-|": "angle,angleA=0,angleB=90", "|-": "angle,angleA=90,angleB=0"}
    for chain in map(str.split, picture["arrows"]):
        for source, route, target in zip(chain[::2], chain[1::2], chain[2::2]):
            start, end = texts[source], texts[target]
            axes.annotate("", end.get_position(), start.get_position(), arrowprops=dict(
                arrowstyle="-|>", connectionstyle=routes.get(route, f"bar,fraction={route[1:]}"),
                mutation_scale=6, linewidth=0.7, color="black", shrinkA=0, shrinkB=0,
                patchA=start.get_bbox_patch(), patchB=end.get_bbox_patch()))
    return figure


def network_diagrams(settings: Settings) -> dict[str, Figure]:
    """Figs. 1 to 6 at the width and input size of a profile: file name -> figure."""
    network = build_on_meta("MAG-UNet", settings.width_divisor)
    shapes = network_shapes(network, settings.shape)
    divisor = f" / {settings.width_divisor:g}" if settings.width_divisor != 1 else ""
    whole = f"MAG-UNet at the paper's widths{divisor}, input {shape_text(shapes[''][0])}"
    figures = {}
    for name, picture in PICTURES.items():
        module = network.get_submodule(path := picture["module"])
        inside = {part[len(path):].strip("."): both for part, both in shapes.items() if part.startswith(path)}
        title = f"{type(module).__name__} ({path}) in {whole}" if path else whole
        figures[name] = draw(module, inside, title, picture)
    return figures
