"""Timelines: a row per agent, time from left to right; of one run, or of several on the same axis.

What it holds: `timeline`, one run with the number in flight below it, and `compare`, several runs.
Guarantees: every bar is an interval of the log; nothing is smoothed, sampled or left out, whatever the number of rows.
In `compare` all panels share one scale, so a bar twice as long took twice the time.
How to read it: a thin gray bar is waiting, blue is a call, orange the agent's own work, hatched a wait between two
attempts; a dark line along the foot of a bar is a span of yours, labeled if there is room; a vermilion mark is an
error, each kind with its own shape.
Opened by notebooks 00 and 01.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import agentkit.plots.bars as bars
import agentkit.plots.events as events
import agentkit.plots.spans as spans
from agentkit.plots.chart import Chart, count, number, seconds
from agentkit.plots.facts import facts_of, gains, labels_for, mark_of, mark_words, words_of
from agentkit.plots.style import INK, WIDTH, heading, legend, page, plain
from agentkit.report import Outcome, Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["compare", "timeline"]

SINGLY = 40  # rows; with more, a row has no label and no space around its bar


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

    `labels` names the rows: one string per task, or a function of its `Outcome`. `serial` is the baseline in the title:
    the seconds, or the report, of the same work done one after another; by default, the sum of the latencies.
    `mark=(3, "the caller leaves")` draws a vertical line at 3 s and explains it in the legend.
    """
    rows = events.rows(report)
    facts = facts_of(report, serial)
    names = _row_names(report, labels)
    title = title if title is not None else _timeline_finding(facts)
    facts["mark"] = mark = mark_of(mark)
    said = words_of(facts) + ([mark_words(mark)] if mark else [])
    return Chart("Timeline", title, said, facts, lambda: _draw_timeline(report, rows, names, title, mark))


def _timeline_finding(facts: dict[str, Any]) -> str:
    agents, peak = count(facts["agents"], "agent"), facts["peak_in_flight"]
    if not facts["agents"]:
        return "No agents, nothing ran"
    if not peak:
        return f"{agents}, none of them started"
    together = "" if facts["agents"] == 1 else ", one at a time" if peak == 1 else f", {peak} at a time"
    compared = f" instead of {seconds(facts['one_after_another'])} one after another" if gains(facts) else ""
    return f"{agents}{together}: {seconds(facts['seconds'])}{compared}"


def _row_names(report: Report, labels: Sequence[object] | Callable[[Outcome], object] | None) -> list[str]:
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


def _draw_timeline(
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
        bars.time_axis(axes, end, labeled=axes is below)
        bars.draw_mark(axes, mark)
    if singly:
        spans.draw(top, rows, room, [mark[0]] if mark else [])
    legend(figure, list(key.values()), list(key))
    return figure


def compare(
    *reports: Report,
    labels: Sequence[object] | None = None,
    title: str | None = None,
    mark: tuple[float, str] | None = None,
) -> Chart:
    """Draw several runs, one below the other, on the same time axis.

    >>> from agentkit import Outcome, Report
    >>> one = Report([Outcome(i, i, "success", started=2.0 * i, finished=2.0 * i + 2) for i in range(3)])
    >>> all_ = Report([Outcome(i, i, "success", started=0.0, finished=2.0) for i in range(3)])
    >>> compare(one, all_, labels=["one after another", "all at once"]).title
    'One after another 6 s, all at once 2 s: 3 times as fast'

    `labels` names the runs, one string per report. `mark=(3, "the caller leaves")` draws a vertical line through all of
    them at 3 s and explains it in the legend.
    """
    if not reports:
        raise ValueError("compare needs at least 1 report, got none; call compare(first, second)")
    names = labels_for(reports, labels)
    facts = {name: facts_of(report) for name, report in zip(names, reports, strict=True)}
    if len(facts) != len(names):
        raise ValueError(f"labels must differ from each other, got {names}")
    said = [f"{name}: {', '.join(words_of(fact)).replace(';,', ',')};" for name, fact in facts.items()]
    mark = mark_of(mark)
    said = [*said, mark_words(mark)] if mark else [*said[:-1], said[-1].rstrip(";")]
    title = title if title is not None else _compare_finding(facts)
    return Chart(
        "Compare", title, said, {"runs": facts, "mark": mark}, lambda: _draw_compare(reports, names, facts, title, mark)
    )


def _compare_finding(facts: dict[str, dict[str, Any]]) -> str:
    times = [fact["seconds"] for fact in facts.values()]
    said = ", ".join(f"{name} {seconds(time)}" for name, time in zip(facts, times, strict=True))
    said = said[:1].upper() + said[1:]
    if len(times) != 2 or not all(times):
        return said
    gain = times[0] / times[1]
    if 0.98 < gain < 1.02:
        return f"{said}: no difference"
    return f"{said}: {number(gain if gain > 1 else 1 / gain)} times as {'fast' if gain > 1 else 'long'}"


def _draw_compare(
    reports: Sequence[Report],
    names: Sequence[str],
    facts: dict[str, dict[str, Any]],
    title: str,
    mark: tuple[float, str] | None,
) -> Figure:
    runs = [events.rows(report) for report in reports]
    heights = [min(max(26, spans.height(rows, 18) * len(rows)), max(60, 420 / len(runs))) for rows in runs]
    rooms = [height / max(len(rows), 1) for height, rows in zip(heights, runs, strict=True)]
    called = any(map(events.has_spans, reports))
    key = bars.key([row for rows in runs for row in rows], called, max(rooms), mark)
    figure, panels = page(title, heights, names=[""], entries=list(key), ylabel=False, gap=28, above=22)
    end = max([*(events.now(report) for report in reports), *([mark[0]] if mark else [])])
    for axes, rows, name, room in zip(panels, runs, names, rooms, strict=True):
        fact = facts[name]
        about = f"{count(fact['agents'], 'agent')}, at most {fact['peak_in_flight']} in flight"
        bars.draw(axes, rows, room)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_yticks([])
        axes.axvline(fact["seconds"], color=INK, linewidth=0.9)
        heading(axes, f"{plain(name, 300)}: {about}, {seconds(fact['seconds'])}")
        bars.time_axis(axes, end, labeled=axes is panels[-1])
        bars.draw_mark(axes, mark)
        if room >= bars.DENSE_BELOW:
            spans.draw(axes, rows, room, [fact["seconds"], *([mark[0]] if mark else [])])
    legend(figure, list(key.values()), list(key))
    return figure
