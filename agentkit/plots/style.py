"""The style of every chart: palette, page layout, legend.

What it holds: the palette, one meaning per color; `page`, which lays out a figure in pixels; `legend`; `text_width`.
Guarantees: text is measured before it is placed, so nothing is clipped and nothing overlaps at 700 pixels; the colors
can be told apart in grayscale and by color-blind readers, and whatever matters also has a shape or a hatch.
Source of the palette: Okabe and Ito, Color Universal Design (2008).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLORS", "DPI", "heading", "house_style", "legend", "level", "page", "plain", "text_width", "ticks"]

_DRAWING = threading.RLock()

DPI = 80
WIDTH = 700  # pixels: what a notebook shows without scaling
COLORS = 64  # in a PNG

WAITING = "#d2d2d2"  # for a slot
CALLING = "#0072b2"  # a request at the provider
WORK = "#e69f00"  # the agent's own work
BACKING_OFF = "#56b4e9"  # hatched: between two attempts
TROUBLE = "#d55e00"  # refused, failed, timed out, cancelled; each with its own shape
RETRIES = ("#f0b98d", "#e58a4a", "#c9560a", "#6e2f00")  # 1st, 2nd, 3rd, later: the darker, the more often
INK = "#222222"  # text, limits, the one series of a chart that compares nothing
SOFT = "#707070"  # ideal lines and remarks
FAINT = "#e9e9e9"  # grid
FILL = "#d9e8f3"  # the area under a curve of calls
SERIES = (  # runs to compare: these colors have no other meaning, and each has its own dash
    (INK, "-"),
    ("#009e73", (0, (6, 2))),
    ("#a0478a", (0, (1, 1.2))),
    (SOFT, (0, (6, 2, 1, 2))),
)
MARKS = {  # what happened -> (matplotlib marker, size in points)
    "retried": ("X", 6.5),
    "timed out": ("D", 6.0),
    "failed": ("s", 6.0),
    "cancelled": ("o", 6.5),
    "rejected": ("v", 7.5),
}
TEXT = 9.0  # points; 10 pixels
TITLE = 11.0


@cache
def _settings() -> dict[Any, Any]:
    """Return matplotlib's defaults with our settings on top; the user's own style is ignored."""
    import matplotlib

    ours = {
        "font.family": ["DejaVu Sans"],
        "font.size": TEXT,
        "text.parse_math": False,  # an agent may be called $x$
        "hatch.linewidth": 0.7,
        "axes.linewidth": 0.8,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "path.simplify": True,
        "figure.dpi": DPI,
        "svg.hashsalt": "agentkit",
    }
    skip = ("backend", "toolbar", "interactive", "timezone")
    theirs: dict[Any, Any] = dict(matplotlib.rcParamsDefault)
    return {name: value for name, value in theirs.items() if not name.startswith(skip)} | ours


@contextmanager
def house_style() -> Iterator[None]:
    """Context manager: matplotlib uses our settings inside, and the user's settings are restored afterwards."""
    import matplotlib

    # One thread at a time: of two overlapping blocks, the one that ends last would restore the other's settings.
    with _DRAWING, matplotlib.rc_context(_settings()):
        yield


@cache
def text_width(text: str, size: float = TEXT) -> float:
    """Width of a line of text in pixels."""
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.font_manager import FontProperties

    renderer: Any = RendererAgg  # untyped in matplotlib
    font = FontProperties(family="DejaVu Sans", size=size)
    return float(renderer(1, 1, DPI).get_text_width_height_descent(text, font, False)[0])


def plain(text: object, width: float | None = None) -> str:
    """Return text as a single line, shortened to `width` pixels; characters missing in the font become `?`."""
    from matplotlib.font_manager import findfont, get_font

    known = get_font(findfont("DejaVu Sans"))
    line = "".join(c if known.get_char_index(ord(c)) else "?" for c in " ".join(str(text).split()))
    if width is None or text_width(line) <= width:
        return line
    while line and text_width(line + "…") > width:
        line = line[:-1]
    return line.rstrip() + "…"


def _lines(title: str, width: float) -> list[str]:
    """Break a title into lines of at most `width` pixels."""
    lines: list[str] = []
    for word in title.split():
        if lines and text_width(f"{lines[-1]} {word}", TITLE) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def page(
    title: str,
    heights: Sequence[float],
    *,
    names: Iterable[str] = (),
    entries: Sequence[str] = (),
    ylabel: bool = True,
    gap: float = 12,
    above: float = 0,
    right: float = 24,
) -> tuple[Figure, list[Axes]]:
    """Return a figure with one panel per height (pixels), top to bottom, and space for all text around them.

    `names` are the longest strings left of the panels, `entries` those of the legend that `legend` will draw. `gap` is
    the space between panels and `above` the space over the first, both in pixels, for headings.
    """
    from matplotlib.figure import Figure

    left = 10 + max([text_width(name) for name in names] or [22]) + 10 + (18 if ylabel else 0)
    lines = _lines(plain(title), WIDTH - left - 10)
    top, bottom = 14 + 18 * len(lines) + above, 40 + 18 * len(_rows(entries))
    total = top + sum(heights) + gap * (len(heights) - 1) + bottom
    figure = Figure(figsize=(WIDTH / DPI, total / DPI), dpi=DPI, facecolor="white")
    figure.text(
        left / WIDTH, 1 - 8 / total, "\n".join(lines), ha="left", va="top", size=TITLE, linespacing=1.15, color=INK
    )
    axes, y = [], total - top
    for height in heights:
        y -= height
        axes.append(figure.add_axes((left / WIDTH, y / total, (WIDTH - left - right) / WIDTH, height / total)))
        y -= gap
        _bare(axes[-1])
    return figure, axes


def _bare(axes: Axes) -> None:
    """Remove the parts of the frame that carry no scale."""
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="x", length=0, pad=6)  # far enough down that the two zeros do not overlap
    axes.tick_params(axis="y", length=0, pad=6)
    axes.set_axisbelow(True)


def heading(axes: Axes, text: str) -> None:
    """Draw the heading of a panel, above its left end."""
    axes.set_title(text, loc="left", size=TEXT, pad=5, color=INK)


def level(axes: Axes, value: float, said: str) -> None:
    """Draw a horizontal limit line across the panel, with its name on it."""
    axes.axhline(value, color=INK, linewidth=1.0, linestyle=(0, (4, 2.5)))
    above: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "ha": "right"}
    axes.annotate(said, (1, value), (0, 5), **above)


def ticks(axes: Axes, xs: Sequence[float]) -> None:
    """Put ticks at the measured points if there are 20 or fewer, skipping labels that would touch."""
    if len(set(xs)) > 20:
        return
    left, right = axes.get_xlim()
    wide, taken, shown = axes.bbox.width / (right - left), -1e9, []
    for x in sorted(set(xs)):
        half = text_width(f"{x:,.6g}") / 2
        if (x - left) * wide - half > taken + 8:
            shown.append(x)
            taken = (x - left) * wide + half
    axes.set_xticks(shown, [f"{x:,.6g}" for x in shown])


def _rows(entries: Sequence[str]) -> list[Sequence[str]]:
    """Break the entries of a legend into rows that fit the page width."""
    columns = len(entries)
    while columns > 1 and sum(_columns(entries, columns)) > WIDTH - 12:
        columns = -(-len(entries) // (-(-len(entries) // columns) + 1))  # one row more
    return [entries[i : i + columns] for i in range(0, len(entries), columns)] if columns else []


def _columns(entries: Sequence[str], columns: int) -> list[float]:
    """Return the column widths in pixels: sample, text and gap."""
    return [max(text_width(entry) for entry in entries[i::columns]) + 42 for i in range(columns)]


def legend(figure: Figure, handles: Sequence[Any], entries: Sequence[str]) -> None:
    """Draw the legend below the panels, in as few rows as fit."""
    rows = _rows(entries)
    if not rows:
        return
    columns = len(rows[0])
    order = [i for c in range(columns) for i in range(c, len(entries), columns)]  # matplotlib fills column by column
    figure.legend(
        [handles[i] for i in order],
        [entries[i] for i in order],
        loc="lower center",
        bbox_to_anchor=(0.5, 0.0),
        ncols=columns,
        frameon=False,
        handlelength=1.7,
        handletextpad=0.7,
        columnspacing=1.6,
        borderaxespad=0.35,
        labelspacing=0.45,
    )
