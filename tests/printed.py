"""What a figure looks like once it is drawn: where its texts lie, how large they are, what they say."""

import itertools

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from compendium.figures.page import INCH, PRINT_WIDTH, SMALLEST_FONT


def texts(figure):
    """Every visible text of a figure that says something."""
    return [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]


def words(figure):
    return [t.get_text().replace("\N{NO-BREAK SPACE}", " ") for t in texts(figure)]


def assert_readable(figure):
    """At the printed width no text is smaller than 7 pt, none leaves the figure, and no two overlap."""
    FigureCanvasAgg(figure).draw()
    shrink = PRINT_WIDTH / (figure.get_figwidth() * INCH)
    boxes = [(t.get_text(), t.get_window_extent()) for t in texts(figure)]
    for text in texts(figure):
        assert text.get_fontsize() * shrink >= SMALLEST_FONT - 1e-6, text
    for text, box in boxes:
        assert box.x0 >= figure.bbox.x0 - 0.5 and box.x1 <= figure.bbox.x1 + 0.5, text
        assert box.y0 >= figure.bbox.y0 - 0.5 and box.y1 <= figure.bbox.y1 + 0.5, text
    for (a, one), (b, other) in itertools.combinations(boxes, 2):
        across = min(one.x1, other.x1) - max(one.x0, other.x0)
        along = min(one.y1, other.y1) - max(one.y0, other.y0)
        assert across < 0.5 or along < 0.5, (a, b)
