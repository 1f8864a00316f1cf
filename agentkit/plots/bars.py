"""Bars, curves and axes that several charts share.

What it holds: `draw` (rows of bars), `key` (the entries of their legend), `in_flight` (the curve with its limit),
`time_axis`, `whole_ticks`, and `draw_mark` (a vertical line at one point in time).
Guarantee: one matplotlib collection per color, so drawing time hardly depends on the number of rows.
Used by the charts of a report.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import agentkit.plots.events as events
import agentkit.plots.spans as spans
import agentkit.plots.style as style
from agentkit.plots.chart import number
from agentkit.plots.facts import mark_words
from agentkit.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw", "draw_mark", "in_flight", "key", "time_axis", "whole_ticks"]

THICK, THIN = spans.THICK, 0.24  # share of a row's height
LOOKS: dict[str, dict[str, Any]] = {
    "waiting": {"facecolor": style.WAITING},
    "calling": {"facecolor": style.CALLING},
    "working": {"facecolor": style.WORK},
    "backing_off": {"facecolor": "white", "edgecolor": style.BACKING_OFF, "hatch": "//////", "linewidth": 0.7},
}
DENSE_BELOW = 4  # pixels per row; below this, rows are drawn as plain lines
DENSE: dict[str, dict[str, Any]] = {  # for such rows: no hatch, because it has no room, and a lighter gray
    "waiting": {"facecolor": "#e4e4e4"},
    "backing_off": {"facecolor": "#a6d4f0", "hatch": None, "linewidth": 0},
}
MARK: dict[str, Any] = {"color": style.INK, "linewidth": 1.2, "linestyle": (0, (1.5, 1.5)), "zorder": 3.5}
WORDS = {"waiting": "waiting", "calling": "calling", "backing_off": "backing off", "working": "own work"}


def key(rows: Iterable[events.Row], called: bool, room: float, mark: tuple[float, str] | None = None) -> dict[str, Any]:
    """Return the legend of the rows: each kind of content, with a sample drawn as at `room` pixels per row."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    rows = list(rows)
    waits = style.plain(events.waited_for(name for row in rows if row.waiting for name in row.waits), 220)
    words = {**WORDS, "waiting": waits, "calling": "calling" if called else "running"}
    found: dict[str, Any] = {
        word: Patch(**_look(field, room)) for field, word in words.items() if any(getattr(row, field) for row in rows)
    }
    names = sorted({name for row in rows for name, *_ in row.named})
    if names and room >= DENSE_BELOW:
        found[style.plain(names[0], 150) if len(names) == 1 else "spans of other names"] = Line2D([], [], **spans.SPAN)
    marked = {what for row in rows for _, what in row.marks}
    for what, (marker, size) in style.MARKS.items():
        if what in marked:
            found[what] = Line2D([], [], linestyle="", marker=marker, markersize=size, color=style.TROUBLE)
    if mark:
        found[style.plain(mark_words(mark), 300)] = Line2D([], [], **MARK)
    return found


def draw(axes: Axes, rows: Sequence[events.Row], room: float) -> None:
    """Draw the rows at y = 0, 1, … with `room` pixels each; the caller inverts the axis to put the first on top."""
    from matplotlib.collections import PolyCollection

    few = room >= DENSE_BELOW
    for field in LOOKS:
        tall = (THIN if field == "waiting" else THICK) if few else 1.0
        boxes = [_box(start, end, y, tall) for y, row in enumerate(rows) for start, end in getattr(row, field)]
        if boxes:
            look = {"linewidth": 0, "antialiased": few, **_look(field, room)}
            axes.add_collection(PolyCollection(boxes, **look), autolim=False)
    for what, (marker, size) in style.MARKS.items():
        spots = [(at, y) for y, row in enumerate(rows) for at, said in row.marks if said == what]
        if spots:
            axes.plot(
                *zip(*spots, strict=True),
                linestyle="",
                marker=marker,
                markersize=max(3.5, min(size, 0.6 * room)),
                color=style.TROUBLE,
                markeredgecolor="white",
                markeredgewidth=0.6 if few else 0.0,
                clip_on=False,
                zorder=4,
            )


def _look(field: str, room: float) -> dict[str, Any]:
    return LOOKS[field] if room >= DENSE_BELOW else {**LOOKS[field], **DENSE.get(field, {})}


def _box(start: float, end: float, y: float, tall: float) -> list[tuple[float, float]]:
    low, high = y - tall / 2, y + tall / 2
    return [(start, low), (end, low), (end, high), (start, high)]


def draw_mark(axes: Axes, mark: tuple[float, str] | None) -> None:
    """Draw a mark, if there is one, as a vertical line through the panel."""
    if mark:
        axes.axvline(mark[0], **MARK)


def in_flight(axes: Axes, report: Report) -> None:
    """Draw the number of attempts in flight over time, and the limit with its name on it."""
    end = events.now(report)
    tried = [interval for outcome in report.individual_results for interval in events.attempts(outcome, end)]
    times, counts = events.steps(tried)
    times, counts = [*times, max(end, times[-1])], [*counts, counts[-1]]
    axes.fill_between(times, counts, step="post", facecolor=style.FILL, linewidth=0)
    axes.step(times, counts, where="post", color=style.CALLING, linewidth=1.4, clip_on=False)
    highest: float = max([*counts, 1])
    limits = [(at, limit) for at, limit in report.limits if at <= end and limit < math.inf]
    if limits and min(limit for _, limit in limits) <= 3 * highest:
        highest = max(highest, *(limit for _, limit in limits))
        _limit(axes, limits, end)
        said = f"limit {number(limits[-1][1])}" + (" at the end" if len({limit for _, limit in limits}) > 1 else "")
    else:
        said = f"limit {number(limits[-1][1])}, far above" if limits else ""
    tall = axes.bbox.height
    axes.set_ylim(0, highest * tall / (tall - (19 if said else 6)))
    if said:
        level = limits[-1][1] if limits[-1][1] <= highest else highest
        axes.annotate(said, (end, level), (0, 3), textcoords="offset points", ha="right", va="bottom")
    whole_ticks(axes, highest)
    axes.set_ylabel("in flight")


def _limit(axes: Axes, limits: Sequence[tuple[float, float]], end: float) -> None:
    times = [at for at, _ in limits] + [end]
    values = [limit for _, limit in limits]
    look: dict[str, Any] = {"color": style.INK, "linewidth": 1.0, "linestyle": (0, (4, 2.5)), "clip_on": False}
    axes.step(times, [*values, values[-1]], where="post", **look)


def whole_ticks(axes: Axes, highest: float) -> None:
    """Put whole-number ticks on the y axis: 0, the top if it is a round number, and one or two in between."""
    top = math.floor(max(highest, 1))
    round_steps = [d * 10**e for e in range(len(str(top))) for d in (1, 2, 5)]
    even = [top // parts for parts in (3, 2) if top % parts == 0 and (top <= 20 or top % 10 == 0)]
    step = even[0] if even else next(step for step in round_steps if top / step < 4.5)
    ticks = range(0, top + 1, step)
    axes.set_yticks(ticks, [f"{tick:,}" for tick in ticks])


def time_axis(axes: Axes, end: float, *, labeled: bool) -> None:
    """Make the x axis seconds since the run began, from 0 to just past `end`."""
    axes.set_xlim(0.0, 1.02 * (end or 1.0))
    axes.grid(axis="x", color=style.FAINT, linewidth=0.8)
    axes.tick_params(axis="x", labelbottom=labeled)
    if labeled:
        axes.set_xlabel("seconds since the run began", labelpad=3)
