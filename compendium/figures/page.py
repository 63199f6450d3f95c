"""A figure as a printed page: positions in millimetres, y downwards, one size of type that is read with ease."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patheffects import withStroke
from matplotlib.textpath import text_to_path

INCH = 25.4
"""mm."""
PRINT_WIDTH, SMALLEST_FONT = 180.0, 7.0
"""Width of a journal's page in mm, and the smallest type on it in points."""
LINE, MARGIN = 2.95, 1.5
"""Height of a line of the smallest type; around what is on the page."""
PLANES = {"axial": ("R", "L", "A", "P"), "coronal": ("R", "L", "S", "I"), "sagittal": ("A", "P", "S", "I")}
"""Letters at the left, right, top and bottom edge of each view."""
SCALE_BARS_MM = (100, 50, 20, 10, 5, 2, 1)
"""The longest that fits is drawn."""


def page(height: float) -> tuple[Figure, Axes]:
    """An empty figure of the printed width, and axes in mm that cover it; 0, 0 is the top left corner."""
    figure = Figure(figsize=(PRINT_WIDTH / INCH, height / INCH), dpi=200)
    axes = figure.add_axes((0, 0, 1, 1), label="page")
    axes.set(xlim=(0, PRINT_WIDTH), ylim=(height, 0))
    axes.axis("off")
    return figure, axes


def panel(figure: Figure, left: float, top: float, width: float, height: float, label: str) -> Axes:
    """Axes of that place and size in mm on a page, without ticks."""
    whole = figure.get_figheight() * INCH
    axes = figure.add_axes((left / PRINT_WIDTH, 1 - (top + height) / whole, width / PRINT_WIDTH, height / whole), label=label)
    axes.set(xticks=[], yticks=[])
    return axes


def text_width(text: str, weight: str = "normal") -> float:
    """Of one line in the smallest type, mm."""
    points, _, _ = text_to_path.get_text_width_height_descent(text, FontProperties(size=SMALLEST_FONT, weight=weight), False)
    return points / 72 * INCH


def broken(text: str, widest: float, weight: str = "normal") -> list[str]:
    """The text in lines no wider than ``widest`` mm, where it has spaces to break it."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        lines[-1:] = [longer] if not lines[-1] or text_width(longer, weight) <= widest else [lines[-1], word]
    return lines


def number(value: float) -> str:
    """Short, with a proper minus sign."""
    return f"{value:g}".replace("-", "\N{MINUS SIGN}")


def write(axes: Axes, x: float, y: float, lines: list[str] | str, **options) -> None:
    """Lines of the smallest type, the first one's top at y; ``options`` are those of ``Axes.text``."""
    for i, line in enumerate([lines] if isinstance(lines, str) else lines):
        axes.text(x, y + (i + 0.5) * LINE, line, fontsize=SMALLEST_FONT, va="center_baseline", **options)


def edge_letters(axes: Axes, view: str) -> None:
    """The orientation letters at the edges of a view, white with a black rim."""
    for letter, place, inward in zip(PLANES[view], ((0, 0.5), (1, 0.5), (0.5, 1), (0.5, 0)), ((5, 0), (-5, 0), (0, -5), (0, 5))):
        axes.annotate(letter, place, inward, "axes fraction", "offset points", color="white", fontsize=SMALLEST_FONT, ha="center",
                      va="center", path_effects=[withStroke(linewidth=1.5, foreground="black")])


def scale_bar(axes: Axes, left: float, top: float, scale: float, widest: float) -> None:
    """A bar and its length on a page where 1 mm is ``scale`` mm of the patient: the longest that fits ``widest`` mm."""
    length = next((n for n in SCALE_BARS_MM if n / scale + 1 + text_width(f"{n} mm") <= widest), SCALE_BARS_MM[-1])
    axes.plot([left, left + length / scale], [top + LINE / 2] * 2, color="black", linewidth=1.5, solid_capstyle="butt")
    write(axes, left + length / scale + 1, top, f"{length} mm")
