"""Threads at work, and the pulse of the event loop beside them.

What it holds: `pool`.
Guarantee: rows and beats are drawn as they were measured; a pause in the pulse is a stretch in which the loop ran
nothing else, whatever it was doing.
How to read it: blue bars in several rows are threads that work at once; a hatched pause below is a loop standing still.
Opened by notebook 02.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from agentkit.plots import bars, events
from agentkit.plots.chart import Chart, count, seconds
from agentkit.plots.style import CALLING, INK, TROUBLE, legend, page, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["pool"]

LISTED = 12  # threads a repr names one by one
LATE = 2.0  # a beat that comes after more than this many periods counts as a stall
Call = tuple[str, float, float]
"""Thread, started, finished."""
Pause = tuple[float, float]
"""Its length, and when it began."""


def pool(
    calls: Iterable[Sequence[Any]], beats: Sequence[float] = (), *, every: float = 0.1, title: str | None = None
) -> Chart:
    """Draw which thread ran what when, and the heartbeat of the loop.

    >>> calls = [("thread 1", 0.0, 1.0), ("thread 2", 0.0, 1.0), ("thread 1", 1.0, 2.0)]
    >>> pool(calls, beats=[0.0, 0.5, 1.0, 2.0], every=0.4)
    <Pool: 2 threads, 3 calls, at most 2 at once, 3 s of work in 2 s; thread 1 2 s, thread 2 1 s; 4 beats, 1 stall,
     longest pause 1 s from 1 s on>

    A call is `(thread name, started, finished)`, `beats` are the instants at which a task of the loop woke up that
    sleeps `every` seconds; all in seconds on one clock. A pause of more than twice `every` is a stall.
    """
    rows = sorted(((str(name), float(start), float(end)) for name, start, end in calls), key=lambda row: row[1:])
    names = list(dict.fromkeys(name for name, *_ in rows))  # in the order of their first calls
    work = {name: events.duration((start, end) for one, start, end in rows if one == name) for name in names}
    pauses = sorted(((round(b - a, 9), a) for a, b in pairwise(sorted(beats))), key=lambda pause: (-pause[0], pause[1]))
    stalls = [pause for pause in pauses if pause[0] > LATE * every]
    facts: dict[str, Any] = {
        "threads": len(names),
        "calls": len(rows),
        "peak": max(events.steps((start, end) for _, start, end in rows)[1]),
        "work": events.duration((start, end) for _, start, end in rows),
        "work_of": work,
        "seconds": max([end for *_, end in rows] + list(beats), default=0.0),
        "beats": len(beats),
        "stalls": len(stalls),
        "longest_pause": pauses[0] if pauses else None,
    }
    if title is None:
        title = f"{count(len(rows), 'call')} on {count(len(names), 'thread')}: {seconds(facts['seconds'])}"
        if pauses:
            title += f"; the loop stood still for {seconds(pauses[0][0])}" if stalls else "; the loop never stood still"
    return Chart(
        "Pool", title, _words(facts), facts, lambda: _draw(rows, names, beats, stalls, facts["seconds"], str(title))
    )


def _words(facts: dict[str, Any]) -> list[str]:
    words = [count(facts["threads"], "thread"), count(facts["calls"], "call"), f"at most {facts['peak']} at once"]
    words.append(f"{seconds(facts['work'])} of work in {seconds(facts['seconds'])};")
    if facts["threads"] <= LISTED:
        words += [f"{name} {seconds(spent)}" for name, spent in facts["work_of"].items()]
    if facts["longest_pause"] is not None:
        length, start = facts["longest_pause"]
        words[-1] = words[-1].rstrip(";") + f"; {count(facts['beats'], 'beat')}"
        words += [count(facts["stalls"], "stall"), f"longest pause {seconds(length)} from {seconds(start)} on"]
    words[-1] = words[-1].rstrip(";")
    return words


def _draw(
    rows: Sequence[Call], names: Sequence[str], beats: Sequence[float], stalls: Sequence[Pause], end: float, title: str
) -> Figure:
    pulse = len(beats) > 0
    entries = ["running in a thread", *["the loop wakes up"] * pulse, *["it stands still"] * bool(stalls)]
    room = 22 if len(names) <= 12 else max(8, 300 / len(names))
    shown = [plain(name, 160) for name in names] if room >= 12 else []
    heights = [max(30, room * len(names)), *[40] * pulse]
    figure, panels = page(title, heights, names=[*shown, "loop"], entries=entries, ylabel=False)
    place = {name: y for y, name in enumerate(names)}
    look: dict[str, Any] = {"height": 0.66, "color": CALLING, "edgecolor": "white", "linewidth": 0.8}
    lengths, starts = [end - start for _, start, end in rows], [start for _, start, _ in rows]
    handles: list[Any] = [panels[0].barh([place[name] for name, *_ in rows], lengths, left=starts, **look)]
    panels[0].set_ylim(max(len(names), 1) - 0.4, -0.6)
    panels[0].set_yticks(range(len(shown)), shown)
    if pulse:
        handles += _pulse(panels[1], beats, stalls)
    for axes in panels:
        bars.time_axis(axes, end, labelled=axes is panels[-1])
    legend(figure, handles, entries)
    return figure


def _pulse(axes: Axes, beats: Sequence[float], stalls: Sequence[Pause]) -> list[Any]:
    handles: list[Any] = [axes.vlines(beats, 0.15, 0.85, color=INK, linewidth=1.0)]
    look: dict[str, Any] = {"facecolor": "white", "edgecolor": TROUBLE, "hatch": "xxx"}
    handles += [axes.axvspan(start, start + length, 0.15, 0.85, **look) for length, start in stalls][:1]
    axes.set_ylim(0, 1)
    axes.set_yticks([0.5], ["loop"])
    return handles
