"""Draws parametric phantoms beside renders of the Visible Human pelvises: three planes through the joint, and
the midline.

    python benchmarks/phantom_beside_visible_human.py FOLDER

FOLDER holds visible_human_male_pelvis.nii.gz and visible_human_female_pelvis.nii.gz: label maps with 1
sacrum, 3 and 4 left hip, 5 and 6 right hip (HuBMAP CCF 3D Reference Object Library, Visible Human Project, CC
BY 4.0). Writes figures/phantom_beside_visible_human.png. Both kinds of anatomy go through the same renderer.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from compendium.figures.planes import TRUTH_COLOUR, central_slices, draw_plane, save_figure
from magunet.base import project
from magunet.base.provenance import whole_file
from magunet.volume import read_volume, reorient
from sijphantom.anatomy import label_map_pelvis
from sijphantom.cohort import phantom_scan
from sijphantom.phantom import make_phantom
from sijphantom.scanner import Protocol

GRID = dict(matrix=320, slices=(140, 140), grades=(0, 0),
            protocol=Protocol(pixel_mm=(1.05, 1.05), margin_mm=(60, 60), noise_hu=(12, 12)))


def rows(folder: Path) -> dict:
    """Row title -> phantom."""
    made = {f"parametric, seed {seed}": make_phantom(seed, **GRID) for seed in (1, 4)}
    for sex in ("male", "female"):
        labels = reorient(read_volume(folder / f"visible_human_{sex}_pelvis.nii.gz"), "LPS")
        bones = label_map_pelvis(labels.array, labels.spacing)
        made[f"Visible Human, {sex}"] = make_phantom(11, bones=bones, **GRID)
    return made


def main(folder: Path) -> None:
    """Draw one row a phantom, one column a plane."""
    made = rows(folder)
    figure = Figure(figsize=(14, 3.0 * len(made)), layout="constrained")
    for line, (title, phantom) in zip(figure.subplots(len(made), 4, width_ratios=(1.1, 1.1, 1, 1)),
                                      made.items()):
        scan, truth = phantom_scan(phantom)
        axial, coronal, sagittal = central_slices(truth.array, truth.array.shape)
        midline = int(np.argwhere(phantom.bones == 1)[:, 2].mean())
        views = ("axial", axial), ("coronal", coronal), ("sagittal", sagittal), ("sagittal", midline)
        for axes, (name, index) in zip(line, views):
            draw_plane(axes, scan, name, index, {TRUTH_COLOUR: truth.array})
            axes.set_title(f"{title}: {'midline' if index == midline else name}", fontsize=8)
    path = project.root() / "figures" / "phantom_beside_visible_human.png"
    print(save_figure(figure, path, "seeds 1, 4 and 11", dpi=80, vector=False))
    # 64 colours, rare ones too: a fifth of the size
    with Image.open(path) as drawn, whole_file(path) as part:
        made_by = PngInfo()
        for key, text in drawn.text.items():
            made_by.add_text(key, text)
        drawn.convert("RGB").quantize(64, Image.Quantize.MAXCOVERAGE).save(part, format="png", optimize=True,
                                                                           pnginfo=made_by)


if __name__ == "__main__":
    words = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    words.add_argument("folder", type=Path, help="of the Visible Human label maps")
    folder = words.parse_args().folder
    if not folder.is_dir():
        words.error(f"{folder}: no such folder; give the one with the Visible Human label maps")
    main(folder)
