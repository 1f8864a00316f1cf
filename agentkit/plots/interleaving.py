"""Who ran which line, and when: one order of the steps of several tasks.

What it holds: `interleaving`, a lane for each task, time downwards, with what is shared on the right.
Guarantee: each line stands in the lane of the task that ran it, in the order in which it ran; lines without a gap
between them ran without interruption; a change of something shared is written where it happened.
Opened by notebook 04; `explore` finds the orders worth drawing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agentkit.plots.chart import Chart, count
from agentkit.plots.style import CALLING, FILL, INK, SOFT, WIDTH, page, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["interleaving"]

ROWS = 40  # lines drawn; the table has them all
ROW, GAP = 19, 6  # pixels: a line, and the space where another task was let in
FIXED = ("step", "task", "line", "source", "ended")


def interleaving(steps: Any, *, title: str | None = None) -> Chart:
    """Draw an order of steps: what `explore` found (`exploration`, or its `.interleaving`), or its rows.

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
    return Chart("Interleaving", finding, said, facts, lambda: _draw(rows[:ROWS], lanes, finding))


def _changes(row: Mapping[str, Any], form: str) -> str:
    """Return what a line did to what is shared, in words; empty if nothing."""
    shared = {name: value for name, value in row.items() if name not in FIXED}
    changed = [f"{name} {before} → {after}" for name, (before, after) in shared.items() if before != after]
    return form.format("; ".join(changed)) if changed else ""


def _draw(rows: Sequence[Mapping[str, Any]], lanes: Sequence[str], title: str) -> Figure:
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
