"""Draws parametric phantoms beside renders of the Visible Human pelvises, in three planes.

    python benchmarks/phantom_beside_visible_human.py FOLDER

FOLDER holds visible_human_male_pelvis.nii.gz and visible_human_female_pelvis.nii.gz: label maps with 1 sacrum,
3 and 4 left hip, 5 and 6 right hip (HuBMAP CCF 3D Reference Object Library, Visible Human Project, CC BY 4.0).
Writes figures/phantom_beside_visible_human.png. Both kinds of anatomy go through the same renderer.
"""

import sys
from pathlib import Path

from matplotlib.figure import Figure

from magunet import project
from magunet.data.anatomy import label_map_pelvis
from magunet.data.phantom import make_phantom
from magunet.data.phantom_cohort import phantom_scan
from magunet.data.volume import read_volume, reorient
from magunet.report.figures import PLANES, TRUTH_COLOUR, central_slices, draw_plane, save_figure

GRID = dict(matrix=256, slices=(90, 90), grades=(0, 2))


def rows(folder: Path) -> dict:
    """Row title -> phantom."""
    made = {f"parametric, seed {seed}": make_phantom(seed, **GRID) for seed in (1, 4)}
    for sex in ("male", "female"):
        labels = reorient(read_volume(folder / f"visible_human_{sex}_pelvis.nii.gz"), "LPS")
        bones = label_map_pelvis(labels.array, labels.spacing)
        made[f"Visible Human, {sex}"] = make_phantom(10, bones=bones, **GRID)
    return made


def main(folder: Path) -> None:
    """Draw one row a phantom, one column a plane."""
    made = rows(folder)
    figure = Figure(figsize=(12, 3.1 * len(made)), layout="constrained")
    for line, (title, phantom) in zip(figure.subplots(len(made), 3), made.items()):
        scan, truth = phantom_scan(phantom)
        for axes, name, index in zip(line, PLANES, central_slices(truth.array, truth.array.shape)):
            draw_plane(axes, scan, name, index, {TRUTH_COLOUR: truth.array})
            axes.set_title(f"{title}: {name}", fontsize=9)
    path = save_figure(figure, project.root() / "figures" / "phantom_beside_visible_human.png", "seeds 1, 4 and 10", dpi=110)
    print(path)


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit("give the folder of the Visible Human label maps")
    main(Path(sys.argv[1]))
