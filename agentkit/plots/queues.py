"""Queues over time: tasks that wait for their first attempt, and items that wait between the stages of a pipeline.

What it holds: `queue_depth` and `stages`.
Guarantee: curves count the intervals of the log, without sampling.
How to read it: a growing queue means that work arrives faster than it is done. In a pipeline, the queue that stays at
its bound is the one in front of the slowest stage; the queues before it fill up one after another (backpressure).
Opened by notebook 08.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import agentkit.plots.bars as bars
import agentkit.plots.events as events
from agentkit.plots.chart import Chart, count, number, seconds
from agentkit.plots.facts import labels_for
from agentkit.plots.style import MARKS, SERIES, TROUBLE, WAITING, legend, page, plain
from agentkit.report import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["queue_depth", "stages"]

PREFIX = "waiting for "


def queue_depth(
    report: Report, *others: Report, labels: Sequence[object] | None = None, title: str | None = None
) -> Chart:
    """Draw the number of tasks waiting for their first attempt over time; several runs share the axes.

    >>> from agentkit import Outcome, Report
    >>> tasks = [Outcome(i, i, "success", started=2.0 * i, finished=2.0 * i + 2) for i in range(3)]
    >>> queue_depth(Report(tasks))
    <QueueDepth: 3 agents in 6 s, at most 2 waiting, 1 on average, longest wait 4 s>

    `labels` names the runs, one string per report. A task rejected by a full queue is marked.
    """
    reports = [report, *others]
    names = labels_for(reports, labels)
    runs = [_queue_facts(one) for one in reports]
    facts = runs[0] if not others else {"runs": dict(zip(names, runs, strict=True))}
    said = []
    for name, run in zip(names, runs, strict=True):
        words = _queue_words(run)
        said += words if not others else [f"{name}: {words[0]}", *words[1:-1], words[-1] + ";"]
    said[-1] = said[-1].rstrip(";")
    if title is None and not others:
        wait = "wait" + events.queued_for(report).removeprefix("waiting")
        title = f"Up to {count(runs[0]['peak'], 'agent')} {wait}, the longest for {seconds(runs[0]['longest'])}"
    if title is None:
        title = "Most waiting at once: " + ", ".join(f"{n} {r['peak']:,}" for n, r in zip(names, runs, strict=True))
    return Chart("QueueDepth", title, said, facts, lambda: _draw_queues(reports, names, str(title)))


def _waits(report: Report) -> list[events.Interval]:
    end = events.now(report)
    return [events.waiting(outcome, end) for outcome in report.individual_results]


def _queue_facts(report: Report) -> dict[str, Any]:
    waits, end = _waits(report), events.now(report)
    return {
        "agents": len(report),
        "seconds": end,
        "peak": max(events.steps(waits)[1]),
        "mean": events.duration(waits) / end if end else 0.0,
        "longest": max((stop - start for start, stop in waits), default=0.0),
        "rejected": report.summary.by_status.get("rejected", 0),
        "not_succeeded": report.summary.failed,
    }


def _queue_words(run: dict[str, Any]) -> list[str]:
    words = [f"{count(run['agents'], 'agent')} in {seconds(run['seconds'])}", f"at most {run['peak']:,} waiting"]
    words += [f"{number(run['mean'])} on average", f"longest wait {seconds(run['longest'])}"]
    words += [f"{run['rejected']:,} rejected"] if run["rejected"] else []
    other = run["not_succeeded"] - run["rejected"]
    return words + ([f"{other:,} did not succeed"] if other else [])


def _draw_queues(reports: Sequence[Report], names: Sequence[str], title: str) -> Figure:
    end, several = max(events.now(report) for report in reports), len(reports) > 1
    entries = [plain(name, 200) for name in names] if several else []
    rejected = [_rejected(report) for report in reports]
    figure, (axes,) = page(title, [210], names=["1,000"], entries=[*entries, *(["rejected"] if any(rejected) else [])])
    highest, handles = 1, []
    for i, report in enumerate(reports):
        times, counts = events.steps(_waits(report))
        highest = max(highest, *counts)
        times, counts = [*times, max(events.now(report), times[-1])], [*counts, counts[-1]]
        color, dash = SERIES[i % len(SERIES)]
        if not several:
            axes.fill_between(times, counts, step="post", facecolor=WAITING, linewidth=0, alpha=0.6)
        handles += axes.step(times, counts, where="post", color=color, linestyle=dash, linewidth=1.6)
        marker, size = MARKS["rejected"]
        at = [(time, counts[bisect_right(times, time) - 1]) for time in rejected[i]]
        if at:
            spots = axes.plot(*zip(*at, strict=True), linestyle="", marker=marker, markersize=size * 0.8, color=TROUBLE)
            handles += spots if len(handles) == len(reports) else []
    axes.set_ylim(0, 1.08 * highest)
    bars.whole_ticks(axes, highest)
    axes.set_ylabel(events.queued_for(*reports))
    bars.time_axis(axes, end, labeled=True)
    if several or any(rejected):
        legend(figure, handles, [*entries, *(["rejected"] if any(rejected) else [])])
    return figure


def _rejected(report: Report) -> list[float]:
    """Return the times at which tasks were rejected."""
    return [o.finished or o.submitted for o in report.individual_results if o.status == "rejected"]


def stages(report: Report, *, title: str | None = None) -> Chart:
    """Draw the number of items waiting in front of each stage; `report` is what `Pipeline.execute` returned.

    >>> from agentkit import Outcome
    >>> from agentkit.report.outcome import Span
    >>> item = Outcome(0, "a", "success", started=0.0, finished=5.0, span_log=[Span("waiting for write", 1.0, 4.0)])
    >>> stages(Report([item]))
    <Stages: 1 item in 5 s; write: at most 1 waiting, 0.6 on average>
    """
    end = events.now(report)
    queues: dict[str, list[events.Interval]] = {}
    for outcome in report.individual_results:
        for span in outcome.spans:
            if span.name.startswith(PREFIX):
                queues.setdefault(span.name.removeprefix(PREFIX), []).append((span.started, span.finished))
    queues = dict(sorted(queues.items(), key=lambda queue: min(queue[1])))  # in the order in which items reached them
    measured = {name: _stage_facts(waits, end) for name, waits in queues.items()}
    facts: dict[str, Any] = {"items": len(report), "seconds": end, "stages": measured}
    said = [f"{count(len(report), 'item')} in {seconds(end)};"] + [
        f"{name}: at most {queue['peak']:,} waiting, {number(queue['mean'])} on average;"
        for name, queue in measured.items()
    ]
    said[-1] = said[-1].rstrip(";")
    if title is None:
        fullest = max(measured, key=lambda name: measured[name]["mean"], default=None)
        title = f"The longest queue stands in front of {fullest!r}" if fullest else "Nothing waits between stages"
    return Chart("Stages", title, said, facts, lambda: _draw_stages(queues, end, str(title)))


def _stage_facts(waits: list[events.Interval], end: float) -> dict[str, float]:
    return {"peak": max(events.steps(waits)[1]), "mean": events.duration(waits) / end if end else 0.0}


def _draw_stages(queues: dict[str, list[events.Interval]], end: float, title: str) -> Figure:
    entries = [plain(name, 200) for name in queues]
    figure, (axes,) = page(title, [210], names=["1,000"], entries=entries)
    highest, handles = 1, []
    for i, waits in enumerate(queues.values()):
        times, counts = events.steps(waits)
        highest = max(highest, *counts)
        color, dash = SERIES[i % len(SERIES)]
        handles += axes.step([*times, end], [*counts, counts[-1]], where="post", color=color, linestyle=dash, lw=1.6)
    axes.set_ylim(0, 1.08 * highest)
    bars.whole_ticks(axes, highest)
    axes.set_ylabel("items waiting")
    bars.time_axis(axes, end, labeled=True)
    legend(figure, handles, entries)
    return figure
