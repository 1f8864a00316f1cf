"""The timeline: a row per agent, and how many were in flight at each instant.

What it holds: `timeline`.
Guarantee: every bar is a stretch of the log; nothing is smoothed, sampled or left out, whatever the number of rows.
How to read it: a thin grey bar waits, blue is a call, orange the agent's own work, a hatched bar backs off
before another attempt; a dark line along the foot of a bar is a span of yours, named in the bar if there is room; a
vermilion mark is trouble, each kind with its shape. The curve below counts the attempts.
Opened by notebook 00.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from agentkit.plots import bars, events, spans
from agentkit.plots.chart import Chart, count, seconds
from agentkit.plots.facts import facts_of, gains, mark_of, mark_words, words_of
from agentkit.plots.style import WIDTH, legend, page, plain
from agentkit.report import Outcome, Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["timeline"]

SINGLY = 40  # rows that get a label and a bar with room around it


def timeline(
    report: Report,
    *,
    labels: Sequence[object] | Callable[[Outcome], object] | None = None,
    title: str | None = None,
    serial: float | Report | None = None,
    mark: tuple[float, str] | None = None,
) -> Chart:
    """Draw a run: a row per agent, and the number in flight below.

    >>> from agentkit import Outcome, Report
    >>> a, b = (Outcome(i, i, "success", started=0.0, finished=2.0 + i) for i in range(2))
    >>> timeline(Report([a, b], limits=[(0.0, 5)]))
    <Timeline: 2 agents, at most 2 in flight, 3 s, 2 succeeded; 5 s one after another, limit 5, waited 0 s, ran 5 s>

    `labels` names the rows: a text per task, or a function of its `Outcome`. `serial` is what the title compares with:
    the seconds, or the report, of the same work done one after another; without it, the sum of the latencies.
    `mark=(3, "the caller leaves")` draws an upright line at 3 s and says in the legend what it stands for.
    """
    rows = events.rows(report)
    facts = facts_of(report, serial)
    names = _names(report, labels)
    title = title if title is not None else _finding(facts)
    facts["mark"] = mark = mark_of(mark)
    said = words_of(facts) + ([mark_words(mark)] if mark else [])
    return Chart("Timeline", title, said, facts, lambda: _draw(report, rows, names, title, mark))


def _finding(facts: dict[str, Any]) -> str:
    agents, peak = count(facts["agents"], "agent"), facts["peak_in_flight"]
    if not facts["agents"]:
        return "No agents, nothing ran"
    if not peak:
        return f"{agents}, none of them started"
    together = "" if facts["agents"] == 1 else ", one at a time" if peak == 1 else f", {peak} at a time"
    compared = f" instead of {seconds(facts['one_after_another'])} one after another" if gains(facts) else ""
    return f"{agents}{together}: {seconds(facts['seconds'])}{compared}"


def _names(report: Report, labels: Sequence[object] | Callable[[Outcome], object] | None) -> list[str]:
    total = len(report)
    if labels is None:
        digits = len(str(max(total - 1, 0)))
        return [f"agent {outcome.task_id:0{digits}d}" for outcome in report.individual_results]
    if callable(labels):
        return [str(labels(outcome)) for outcome in report.individual_results]
    if isinstance(labels, str) or len(labels) != total:
        raise ValueError(
            f"labels must hold one text per task, got {len(labels)} for {total} tasks; leave it out for numbers"
        )
    return [str(label) for label in labels]


def _draw(
    report: Report, rows: Sequence[events.Row], names: list[str], title: str, mark: tuple[float, str] | None
) -> Figure:
    singly = len(rows) <= SINGLY
    tall = 22.0 if len(rows) <= 6 else 16.0 if len(rows) <= 20 else 13.0
    height = max(24, len(rows) * (spans.height(rows, tall) if len(rows) <= 20 else tall)) if singly else 300
    shown = [plain(name, 0.22 * WIDTH) for name in names] if singly else []
    room = height / max(len(rows), 1)
    key = bars.key(rows, events.has_spans(report), room, mark)
    figure, (top, below) = page(title, [height, 64], names=shown or ["1,000"], entries=list(key))
    end = max(events.now(report), mark[0] if mark else 0.0)
    bars.draw(top, rows, room)
    top.set_ylim(len(rows) - 0.4 if singly else len(rows) - 0.5, -0.6 if singly else -0.5)
    if singly:
        top.set_yticks(range(len(rows)), shown)
    else:
        top.set_yticks([])
        top.set_ylabel(f"{len(rows):,} agents")
    bars.in_flight(below, report)
    for axes in (top, below):
        bars.time_axis(axes, end, labelled=axes is below)
        bars.upright(axes, mark)
    if singly:
        spans.draw(top, rows, room, [mark[0]] if mark else [])
    legend(figure, list(key.values()), list(key))
    return figure
