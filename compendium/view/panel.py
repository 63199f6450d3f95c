"""Choosing what a viewer shows: case, network, labels and transfer function, in drop-downs above it."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from compendium.view.inspect import PRESETS, best_viewer, show
from compendium.view.preview import CHOICES, label_map
from magunet.volume import Volume


class ScanWithMasks(NamedTuple):
    """A scan, its true mask, and the mask that a network predicts, on one grid; a mask may be missing."""

    scan: Volume
    truth: Volume | None
    prediction: Volume | None


def labels_of(case: ScanWithMasks, choice: str) -> tuple[str, Volume | None]:
    """Labels of a choice and its name, or the first that the masks allow; "no mask" and None without one."""
    maps = {name: label_map(name, case.truth, case.prediction) for name in (choice, *CHOICES)}
    return next(((name, labels) for name, labels in maps.items() if labels is not None), ("no mask", None))


def browse(load: Callable[[str, str], ScanWithMasks], cases: Sequence[str], networks: Sequence[str],
           labels: str = "error map", preset: str = "bone", viewer: str | None = None):
    """A viewer with drop-downs for case, network, labels and preset; ``load`` gets the first two. Without a
    browser it is the figure of the first choice. ``labels`` and ``preset`` are what it starts with."""
    viewer = best_viewer(viewer)
    if viewer == "figure":
        case = load(cases[0], networks[0])
        name, marks = labels_of(case, labels)
        return show(case.scan, marks, preset, title=f"{cases[0]}, {networks[0]}: {name}")
    import ipywidgets
    from IPython.display import display

    choices = {"case": list(cases), "network": list(networks), "labels": CHOICES, "preset": list(PRESETS)}
    menus = {name: ipywidgets.Dropdown(options=values, description=name) for name, values in choices.items()}
    menus["labels"].value, menus["preset"].value = labels, preset
    place = ipywidgets.Output()
    @place.capture(clear_output=True)
    def draw(_=None) -> None:
        case = load(menus["case"].value, menus["network"].value)
        name, marks = labels_of(case, menus["labels"].value)
        if name != menus["labels"].value:
            print(f"This scan has no {menus['labels'].value}; the viewer shows: {name}")
        widget = show(case.scan, marks, menus["preset"].value, viewer)
        if viewer != "itkwidgets":                                           # which has displayed itself
            display(widget)
    for menu in menus.values():
        menu.observe(draw, "value")
    display(ipywidgets.VBox([ipywidgets.HBox([*menus.values()]), place]))
    draw()                                                              # into what the page shows already
