"""Places the boxes of a diagram in layers from left to right, as Sugiyama, Tagawa and Toda (IEEE Trans SMC 1981) do.

Lengths are millimetres, y grows downwards.
"""

import itertools
from collections.abc import Iterable, Sequence
from statistics import fmean, median

Point = tuple[float, float]

GAP = 3.0
"""Between boxes of one layer."""
SWEEPS = 24


def layers(sources: Sequence[Sequence[int]], late: Iterable[int]) -> list[int]:
    """The layer of each box: one further than its last source; those in ``late`` right before what uses them first.

    sources: for each box the earlier boxes that it is made from.
    """
    layer: list[int] = []
    for made_from in sources:
        layer.append(1 + max((layer[s] for s in made_from), default=-1))
    for box in sorted(late, reverse=True):
        layer[box] = min(layer[i] for i, made_from in enumerate(sources) if box in made_from) - 1
    return [number - min(layer) for number in layer]


def place(sizes: Sequence[Point], sources: Sequence[Sequence[int]], late: Iterable[int], width: float,
          ) -> tuple[list[Point], dict[tuple[int, int], list[Point]], float]:
    """Centres of the boxes, the bends of the line between each (source, box), and the height of all.

    sizes: width and height of each box. ``width`` is that of the diagram; layers are spread over it evenly. Lines that
    pass a layer get a place of their own in it, so that none runs through a box.
    """
    layer, heights = layers(sources, late), [height for _, height in sizes]
    edges, chains = [], {}
    for box, made_from in enumerate(sources):
        for source in made_from:
            chain = [source]
            for number in range(layer[source] + 1, layer[box]):
                layer.append(number)
                heights.append(0.0)
                chain.append(len(heights) - 1)
            chains[source, box] = [*chain, box]
            edges += itertools.pairwise(chains[source, box])
    columns = [[i for i, number in enumerate(layer) if number == n] for n in range(max(layer) + 1)]
    y = _heights(columns, edges, heights)
    widths = [max((sizes[i][0] for i in column if i < len(sizes)), default=0) for column in columns]
    gap = (width - sum(widths)) / max(1, len(columns) - 1)
    centres = [sum(widths[:n]) + n * gap + widths[n] / 2 for n in range(len(columns))]
    x = [centres[number] for number in layer]
    top = min(a - h / 2 for a, h in zip(y, heights))
    points = [(a, b - top) for a, b in zip(x, y)]
    bends = {ends: [(points[i][0] + side * widths[layer[i]] / 2, points[i][1]) for i in chain[1:-1] for side in (-1, 1)]
             for ends, chain in chains.items()}
    return points[:len(sizes)], bends, max(b + h / 2 for b, h in zip(y, heights)) - top


def _heights(columns: list[list[int]], edges: list[tuple[int, int]], heights: list[float]) -> list[float]:
    """y of every box and bend: first near all neighbours, for an order with few crossings, then in line with the left ones."""
    left, right = ({i: [e[1 - side] for e in edges if e[side] == i] for i in range(len(heights))} for side in (1, 0))
    y = [0.0] * len(heights)
    for column in columns:
        _stack(column, {i: float(n) for n, i in enumerate(column)}, heights, y)
    for sweep in range(SWEEPS):
        for column in columns if sweep % 2 == 0 else columns[::-1]:
            wanted = {i: fmean(y[j] for j in (*left[i], *right[i])) for i in column}
            column.sort(key=wanted.get)
            _stack(column, wanted, heights, y)
    for column in columns[1:]:
        main = {i: [j for j in left[i] if left[j] or len(right[j]) > 1] or left[i] for i in column}     # not a late source
        _stack(column, {i: median(y[j] for j in main[i]) if main[i] else y[i] for i in column}, heights, y)
    return y


def _stack(column: list[int], wanted: dict[int, float], heights: list[float], y: list[float]) -> None:
    """Set y of a column's boxes in their order, as near to ``wanted`` as they go without overlap."""
    blocks: list[tuple[list[int], float]] = []              # boxes that touch, and where their first wants to be
    for box in column:
        blocks.append(([box], wanted[box]))
        while len(blocks) > 1 and blocks[-1][1] < blocks[-2][1] + (shift := _offset(blocks[-2][0], blocks[-1][0], heights)):
            (first, at), (second, then) = blocks[-2:]
            share = len(second) / (len(first) + len(second))
            blocks[-2:] = [(first + second, (1 - share) * at + share * (then - shift))]
    for boxes, at in blocks:
        for n, box in enumerate(boxes):
            y[box] = at + _offset(boxes[:n], boxes[n:], heights)


def _offset(above: list[int], below: list[int], heights: list[float]) -> float:
    """From the first centre of one stack to that of the stack under it."""
    chain = [*above, below[0]]
    return sum((heights[a] + heights[b]) / 2 + GAP for a, b in itertools.pairwise(chain))
