"""User-named spans inside the bars of a timeline: a line per span, and its name if the bar has room for it.

What it holds: `draw`; `depths`, the nesting depth of each span; `height`, the row height that names need.
Guarantees: a name is written whole or not at all, within its own span, over a single fill, and never over a mark or a
nested span; white on blue and ink on orange, a contrast of at least 4.5 to 1 in color and in grayscale.
Strategy: subtract nested spans, marks and other fills from the span, and write the name into the longest remaining
interval.
Used by `timeline` and `compare`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import agentkit.plots.events as events
from agentkit.plots.style import DPI, INK, plain, text_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["SPAN", "THICK", "depths", "draw", "height"]

THICK = 0.66  # height of a bar, as a share of the row
SPAN: dict[str, Any] = {"color": INK, "linewidth": 1.4, "solid_capstyle": "butt"}
CASING: dict[str, Any] = {
    "color": "white",
    "linewidth": 3.0,
    "solid_capstyle": "butt",
}  # separates the line from a dark fill
NESTED = 3  # levels with a line of their own; deeper spans share the last one
LEVEL = 3.5  # pixels from line to line
FOOT = 2.2  # pixels of the lowest line, including its casing
SIZE = 8.0  # points: the smallest size that is easy to read at 700 pixels
EM = SIZE * DPI / 72
RISE = 0.76 * EM  # of DejaVu Sans above the baseline; 0.24 em are below it
CLEAR = 3.0  # pixels of free space left and right of a name
MARK = 6.0  # pixels that a mark takes in each direction


def depths(named: Sequence[tuple[str, float, float]]) -> list[int]:
    """Return how many other spans contain each span; of two identical spans, the later one is the inner.

    >>> depths([("plan", 0, 9), ("look up", 1, 3), ("parse", 2, 3), ("write", 4, 9)])
    [0, 1, 2, 1]
    """

    def inside(i: int, j: int) -> bool:
        (_, start, end), (_, others_start, others_end) = named[i], named[j]
        return others_start <= start and end <= others_end and ((start, end) != (others_start, others_end) or j < i)

    return [sum(inside(i, j) for j in range(len(named)) if j != i) for i in range(len(named))]


def _levels(row: events.Row) -> int:
    return min(max(depths(row.named), default=-1) + 1, NESTED)


def height(rows: Iterable[events.Row], least: float) -> float:
    """Return the row height in pixels at which names fit into the bars; `least` if there are no named spans."""
    levels = max(map(_levels, rows), default=0)
    return max(least, 22 + (levels - 1) * LEVEL / THICK) if levels else least


def draw(axes: Axes, rows: Sequence[events.Row], room: float, avoid: Sequence[float] = ()) -> None:
    """Draw spans into rows of `room` pixels, after the axes limits are set; names avoid the x positions in `avoid`."""
    left, right = axes.get_xlim()
    wide = axes.bbox.width / (right - left)
    for y, row in enumerate(rows):
        for (_, start, end), depth in zip(row.named, depths(row.named), strict=True):
            foot = y + THICK / 2 - (FOOT / 2 + min(depth, NESTED - 1) * LEVEL) / room
            apart = min(0.75 / wide, (end - start) / 4)  # so that two adjacent spans show as two lines
            for look in (CASING, SPAN):
                axes.plot([start + apart, end - apart], [foot, foot], **look)
        free = THICK * room - FOOT - (_levels(row) - 1) * LEVEL
        if row.named and free >= EM:
            baseline = y - THICK / 2 + ((free - EM) / 2 + RISE) / room
            _write(axes, row, baseline, wide, avoid)


def _write(axes: Axes, row: events.Row, baseline: float, wide: float, avoid: Sequence[float]) -> None:
    taken = [(at - MARK / wide, at + MARK / wide) for at in (*avoid, *(at for at, _ in row.marks))]
    for name, (start, end), color in _rooms(row, taken):
        said = plain(name)
        if said and text_width(said, SIZE) + 2 * CLEAR <= (end - start) * wide:
            middle = (start + end) / 2
            axes.text(middle, baseline, said, size=SIZE, color=color, ha="center", va="baseline", zorder=3)


def _rooms(row: events.Row, taken: Sequence[events.Interval]) -> list[tuple[str, events.Interval, str]]:
    """Return for each span the longest interval that its name could be written in, and the text color."""
    deep, found = depths(row.named), []
    for (name, start, end), depth in zip(row.named, deep, strict=True):
        inner = [(a, b) for (_, a, b), d in zip(row.named, deep, strict=True) if d > depth]
        same = [(a, b) for n, a, b in row.named if (n, a, b) != (name, start, end) and _cross((a, b), (start, end))]
        best, color = (start, start), INK
        for intervals, ink in ((row.calling, "white"), (row.working, INK)):
            here = [(max(a, start), min(b, end)) for a, b in intervals]
            for piece in events.without(here, [*inner, *same, *taken]):
                if piece[1] - piece[0] > best[1] - best[0]:
                    best, color = piece, ink
        found.append((name, best, color))
    return found


def _cross(one: events.Interval, other: events.Interval) -> bool:
    """Whether two spans overlap without one containing the other, as spans of concurrent branches can."""
    return one[0] < other[0] < one[1] < other[1] or other[0] < one[0] < other[1] < one[1]
