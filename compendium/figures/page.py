"""A figure as a printed page: positions in millimetres, y downwards, one legible size of type."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

INCH = 25.4
"""mm."""
PRINT_WIDTH = 180.0
"""Width of a journal's page in mm."""
SMALLEST_FONT = 7.0
"""Size of the type on a page in points."""
LINE = 2.95
"""Height of a line of that type in mm."""
MARGIN = 1.5
"""Around what is on the page, mm."""
WIDTH = PRINT_WIDTH - 2 * MARGIN
"""Of what is on the page, mm."""


def page(height: float, caption: str) -> tuple[Figure, Axes]:
    """A figure with a caption below this height, and axes in mm that cover it from the top left corner."""
    lines = broken(caption, WIDTH)
    whole = height + len(lines) * LINE + MARGIN
    figure = Figure(figsize=(PRINT_WIDTH / INCH, whole / INCH), dpi=200)
    axes = figure.add_axes((0, 0, 1, 1), label="page", xlim=(0, PRINT_WIDTH), ylim=(whole, 0))
    axes.axis("off")
    write(axes, MARGIN, height, lines)
    return figure, axes


def panel(figure: Figure, left: float, top: float, width: float, height: float, label: str) -> Axes:
    """Axes of that place and size in mm on a page, without ticks."""
    whole = figure.get_figheight() * INCH
    place = left / PRINT_WIDTH, 1 - (top + height) / whole, width / PRINT_WIDTH, height / whole
    return figure.add_axes(place, label=label, xticks=[], yticks=[])


def broken(text: str, widest: float) -> list[str]:
    """The text in lines no wider than ``widest`` mm, where it has spaces to break it."""
    font, lines = FontProperties(size=SMALLEST_FONT), []
    for word in text.split(" "):
        longer = " ".join([*lines[-1:], word])
        width = text_to_path.get_text_width_height_descent(longer, font, False)[0] / 72 * INCH
        lines[-1:] = [longer] if width <= widest else [*lines[-1:], word]
    return lines


def span(low: float, high: float) -> str:
    """Two numbers, rounded, with a proper minus sign: "−200 to 1000"."""
    return f"{low:.0f} to {high:.0f}".replace("-", "\N{MINUS SIGN}")


def write(axes: Axes, x: float, y: float, lines: list[str], ha: str = "left", weight: str = "normal") -> None:
    """Lines of a page's type; y is the top of the first one, ``ha`` says which end of them is at x."""
    for i, line in enumerate(lines):
        axes.text(x, y + (i + 0.5) * LINE, line, ha=ha, va="center_baseline", size=SMALLEST_FONT,
                  weight=weight)
