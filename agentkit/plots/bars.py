"""Bars, marks and curves that several charts of a run share.

What it holds: `draw` (rows of bars), `key` (their legend), `in_flight` (the curve with its limit), `time_axis`, and
`upright` (an instant marked).
Guarantee: one collection per colour, however many rows, so a thousand agents draw as fast as ten.
Used by `timeline`, `compare` and `in_flight`.
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

__all__ = ["draw", "in_flight", "key", "time_axis", "upright", "whole_ticks"]

THICK, THIN = spans.THICK, 0.24  # of a row
LOOKS: dict[str, dict[str, Any]] = {
    "waiting": {"facecolor": style.WAITING},
    "calling": {"facecolor": style.CALLING},
    "working": {"facecolor": style.WORK},
    "backing_off": {"facecolor": "white", "edgecolor": style.BACKING_OFF, "hatch": "//////", "linewidth": 0.7},
}
DENSE_BELOW = 4  # pixels a row; with fewer, a row is a line
DENSE: dict[str, dict[str, Any]] = {  # there a hatch has no room, a grey area must not be loud
    "waiting": {"facecolor": "#e4e4e4"},
    "backing_off": {"facecolor": "#a6d4f0", "hatch": None, "linewidth": 0},
}
MARK: dict[str, Any] = {"color": style.INK, "linewidth": 1.2, "linestyle": (0, (1.5, 1.5)), "zorder": 3.5}
WORDS = {"waiting": "waiting", "calling": "calling", "backing_off": "backing off", "working": "own work"}


def key(rows: Iterable[events.Row], called: bool, room: float, mark: tuple[float, str] | None = None) -> dict[str, Any]:
    """What the rows contain, as words with a sample of how it is drawn at `room` pixels a row."""
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
    """Draw the rows at y = 0, 1, …, for `room` pixels each; the caller turns the axis so that the first is on top."""
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


def upright(axes: Axes, mark: tuple[float, str] | None) -> None:
    """Draw the line of a mark through a panel, if there is one."""
    if mark:
        axes.axvline(mark[0], **MARK)


def in_flight(axes: Axes, report: Report, *, colour: str = style.CALLING) -> None:
    """Draw how many attempts were under way at each instant, and the limit with its name on it."""
    end = events.now(report)
    tried = [stretch for outcome in report.individual_results for stretch in events.attempts(outcome, end)]
    times, counts = events.steps(tried)
    times, counts = [*times, max(end, times[-1])], [*counts, counts[-1]]
    axes.fill_between(times, counts, step="post", facecolor=style.FILL, linewidth=0)
    axes.step(times, counts, where="post", color=colour, linewidth=1.4, clip_on=False)
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
    """Mark 0, the top where that is a round number, and one or two between."""
    top = math.floor(max(highest, 1))
    round_steps = [d * 10**e for e in range(len(str(top))) for d in (1, 2, 5)]
    even = [top // parts for parts in (3, 2) if top % parts == 0 and (top <= 20 or top % 10 == 0)]
    step = even[0] if even else next(step for step in round_steps if top / step < 4.5)
    ticks = range(0, top + 1, step)
    axes.set_yticks(ticks, [f"{tick:,}" for tick in ticks])


def time_axis(axes: Axes, end: float, *, labelled: bool, start: float = 0.0) -> None:
    """Give the axis seconds since the run began."""
    axes.set_xlim(start, start + 1.02 * ((end - start) or 1.0))
    axes.grid(axis="x", color=style.FAINT, linewidth=0.8)
    axes.tick_params(axis="x", labelbottom=labelled)
    if labelled:
        axes.set_xlabel("seconds since the run began", labelpad=3)
