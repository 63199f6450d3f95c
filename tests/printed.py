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
    shrink, (left, low, right, high) = PRINT_WIDTH / (figure.get_figwidth() * INCH), figure.bbox.extents
    boxes = [(t, t.get_window_extent()) for t in texts(figure)]
    for text, box in boxes:
        assert text.get_fontsize() * shrink >= SMALLEST_FONT - 1e-6, text
        assert box.x0 >= left - 0.5 and box.x1 <= right + 0.5, text
        assert box.y0 >= low - 0.5 and box.y1 <= high + 0.5, text
    for (text, a), (other, b) in itertools.combinations(boxes, 2):
        across, along = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert across < 0.5 or along < 0.5, (text, other)
