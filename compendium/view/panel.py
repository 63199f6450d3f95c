"""Choosing what a viewer shows: case, network, labels and transfer function, in drop-downs above it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from compendium.view.inspect import FIGURE, ITKWIDGETS, PRESETS, VIEW_MODES, best_viewer, show
from compendium.view.preview import SHOWN, label_map
from magunet.volume import Volume


@dataclass(frozen=True)
class Shown:
    """One choice's scan, its true mask, and the mask that the network predicts, on one grid; a mask may be missing."""

    scan: Volume
    truth: Volume | None
    prediction: Volume | None


def labels_of(found: Shown, what: str) -> tuple[str, Volume | None]:
    """The wanted labels with their name, or the first that the masks allow; "no mask" and None where there is none."""
    maps = {name: label_map(name, found.truth, found.prediction) for name in dict.fromkeys((what, *SHOWN))}
    return next(((name, labels) for name, labels in maps.items() if labels is not None), ("no mask", None))


def browse(load: Callable[[str, str], Shown], cases: Sequence[str], networks: Sequence[str], labels: str = "error map",
           preset: str = "bone", wanted: str | None = None):
    """A viewer with drop-downs for case, network, labels and preset; ``load`` gets a case's and a network's name.

    Without a browser it is the figure of the first choice; ``labels`` and ``preset`` are what it starts with.
    """
    viewer = best_viewer(wanted)
    if viewer == FIGURE:
        found = load(cases[0], networks[0])
        name, drawn = labels_of(found, labels)
        return show(found.scan, drawn, preset, title=f"{cases[0]}, {networks[0]}: {name}")
    return _panel(load, {"case": cases, "network": networks, "labels": SHOWN, "preset": list(PRESETS)},
                  {"labels": labels, "preset": preset}, viewer)


def _panel(load: Callable[[str, str], Shown], choices: dict[str, Sequence[str]], start: dict[str, str], viewer: str):
    import ipywidgets
    from IPython.display import display

    menus = {name: ipywidgets.Dropdown(options=list(values), value=start.get(name, values[0]), description=name)
             for name, values in choices.items()}
    mode = ipywidgets.Dropdown(options=list(VIEW_MODES), description="view")
    rotate = ipywidgets.ToggleButton(description="rotate")
    place, current = ipywidgets.Output(), {}

    def draw(_=None):
        mode.value, rotate.value = "volume", False
        place.clear_output()
        with place:
            found = load(menus["case"].value, menus["network"].value)
            name, labels = labels_of(found, menus["labels"].value)
            if name != menus["labels"].value:
                print(f"This scan has no {menus['labels'].value}; shown: {name}")
            current["viewer"] = show(found.scan, labels, menus["preset"].value, viewer)
            if viewer != ITKWIDGETS:                                     # which has displayed itself
                display(current["viewer"])

    for menu in menus.values():
        menu.observe(draw, "value")
    rows = [ipywidgets.HBox(list(menus.values()))]
    if viewer == ITKWIDGETS:
        mode.observe(lambda change: current["viewer"].look(change["new"]), "value")
        rotate.observe(lambda change: current["viewer"].rotate(change["new"]), "value")
        rows.append(ipywidgets.HBox([mode, rotate]))
    display(ipywidgets.VBox([*rows, place]))
    draw()
