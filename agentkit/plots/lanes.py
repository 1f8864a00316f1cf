"""Lanes: which thread ran which call, and which task ran which line.

What it holds: `pool`, a row per thread with the heartbeat of the event loop below, and `interleaving`, a column per
task, time downward, with the shared variables on the right.
Guarantees: calls and beats are drawn as they were measured, and a gap between beats is a time in which the loop ran
nothing else, for whatever reason. Lines are drawn in the order in which they ran; lines without a gap between them ran
without a switch to another task; a change of a shared variable is written next to the line that made it.
How to read a pool: blue bars in several rows are threads at work at the same time; a hatched gap is a blocked loop.
Opened by notebooks 02 and 04; `explore` finds the interleavings worth drawing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import agentkit.plots.bars as bars
import agentkit.plots.events as events
from agentkit.plots.chart import Chart, count, seconds
from agentkit.plots.style import CALLING, FILL, INK, SOFT, TROUBLE, WIDTH, legend, page, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["interleaving", "pool"]

LISTED = 12  # threads listed one by one in the repr
LATE = 2.0  # periods; a longer gap between two beats counts as a stall
Call = tuple[str, float, float]
"""Thread, started, finished."""
Pause = tuple[float, float]
"""Length of a gap between two beats, and when it began."""

MAX_LINES = 40  # drawn; `facts` has them all
ROW, GAP = 19, 6  # pixels: a line, and the gap at a switch to another task
FIXED = ("step", "task", "line", "source", "ended")


def pool(
    calls: Iterable[Sequence[Any]], beats: Sequence[float] = (), *, every: float = 0.1, title: str | None = None
) -> Chart:
    """Draw which thread ran which call when, and the heartbeat of the event loop.

    >>> calls = [("thread 1", 0.0, 1.0), ("thread 2", 0.0, 1.0), ("thread 1", 1.0, 2.0)]
    >>> pool(calls, beats=[0.0, 0.5, 1.0, 2.0], every=0.4)
    <Pool: 2 threads, 3 calls, at most 2 at once, 3 s of work in 2 s; thread 1 2 s, thread 2 1 s; 4 beats, 1 stall,
     longest pause 1 s from 1 s on>

    A call is `(thread name, started, finished)`. `beats` are the times at which a task that sleeps `every` seconds woke
    up. All times are seconds on the same clock. A pause of more than twice `every` counts as a stall.
    """
    rows = sorted(((str(name), float(start), float(end)) for name, start, end in calls), key=lambda row: row[1:])
    names = list(dict.fromkeys(name for name, *_ in rows))  # by first call
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
        "Pool",
        title,
        _pool_words(facts),
        facts,
        lambda: _draw_pool(rows, names, beats, stalls, facts["seconds"], str(title)),
    )


def _pool_words(facts: dict[str, Any]) -> list[str]:
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


def _draw_pool(
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
        bars.time_axis(axes, end, labeled=axes is panels[-1])
    legend(figure, handles, entries)
    return figure


def _pulse(axes: Axes, beats: Sequence[float], stalls: Sequence[Pause]) -> list[Any]:
    handles: list[Any] = [axes.vlines(beats, 0.15, 0.85, color=INK, linewidth=1.0)]
    look: dict[str, Any] = {"facecolor": "white", "edgecolor": TROUBLE, "hatch": "xxx"}
    handles += [axes.axvspan(start, start + length, 0.15, 0.85, **look) for length, start in stalls][:1]
    axes.set_ylim(0, 1)
    axes.set_yticks([0.5], ["loop"])
    return handles


def interleaving(steps: Any, *, title: str | None = None) -> Chart:
    """Draw an interleaving: what `explore` returned, its `.interleaving`, or the rows of one.

    >>> row = {"step": 1, "task": "A", "line": 3, "source": "n = 1", "ended": True, "n": ("0", "1")}
    >>> interleaving([row])
    <Interleaving: 1 step of 1 task: A 3 (n 0 → 1)>
    """
    found = getattr(steps, "interleaving", steps)
    rows = list(found.rows()) if hasattr(found, "rows") else [dict(row) for row in found or ()]
    lanes = list(dict.fromkeys(row["task"] for row in rows))
    told = [f"{row['task']} {row['line']}{_changes(row, ' ({})')}" for row in rows]
    switches = len({row["step"] for row in rows})
    facts = {"rows": rows, "tasks": lanes, "steps": switches}
    said = [f"{count(switches, 'step')} of {count(len(lanes), 'task')}: {', '.join(told)}"]
    finding = title or f"{count(switches, 'step')} of {', '.join(lanes) or 'no task'}, time downwards"
    return Chart("Interleaving", finding, said, facts, lambda: _draw_interleaving(rows[:MAX_LINES], lanes, finding))


def _changes(row: Mapping[str, Any], form: str) -> str:
    """Describe how a line changed shared variables; empty if it did not."""
    shared = {name: value for name, value in row.items() if name not in FIXED}
    changed = [f"{name} {before} → {after}" for name, (before, after) in shared.items() if before != after]
    return form.format("; ".join(changed)) if changed else ""


def _draw_interleaving(rows: Sequence[Mapping[str, Any]], lanes: Sequence[str], title: str) -> Figure:
    tops, y = [], 0
    for i, row in enumerate(rows):
        y += GAP if i and row["step"] != rows[i - 1]["step"] else 0
        tops.append(y)
        y += ROW
    figure, (axes,) = page(title, [y + 26], ylabel=False)
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(y + 2, -24)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines["bottom"].set_visible(False)
    lane = WIDTH / (len(lanes) + 1)
    heads = [*lanes, "what is shared"]
    for i, name in enumerate(heads):
        axes.text(i * lane + 6, -12, plain(name, lane - 12), va="center", weight="bold", color=INK)
    for row, top in zip(rows, tops, strict=True):
        _line(axes, row, lanes.index(row["task"]) * lane, top, lane, len(lanes) * lane)
    return figure


def _line(axes: Axes, row: Mapping[str, Any], left: float, top: float, lane: float, shared: float) -> None:
    from matplotlib.patches import Rectangle

    change = _changes(row, "{}")
    axes.add_patch(Rectangle((left, top), lane - 4, ROW, facecolor=CALLING if change else FILL, linewidth=0))
    source = plain(f"{row['line']}  {row['source']}", lane - 16)
    axes.text(left + 6, top + ROW / 2, source, va="center", color="white" if change else INK)
    if change:
        axes.plot([left + lane - 4, shared], [top + ROW / 2] * 2, color=SOFT, linewidth=0.6)
        axes.text(shared + 6, top + ROW / 2, plain(change, lane - 12), va="center", color=INK)
