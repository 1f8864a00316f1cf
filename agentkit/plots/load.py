"""How many run and how many wait, over time.

What it holds: `in_flight` and `queue_depth`.
Guarantee: the curves count the log's own stretches, instant by instant; the area under them is the sum of the seconds.
How to read it: where the in-flight curve lies on the limit, the limit is what holds the run back; where the queue
grows, work arrives faster than it leaves.
Opened by notebook 08.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from agentkit.plots import bars, events
from agentkit.plots.chart import Chart, count, number, seconds
from agentkit.plots.facts import labels_for
from agentkit.plots.style import MARKS, SERIES, TROUBLE, WAITING, legend, page, plain
from agentkit.report import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["in_flight", "queue_depth"]


def in_flight(report: Report, *, title: str | None = None) -> Chart:
    """Draw how many attempts were under way at each instant, with the limit.

    >>> from agentkit import Outcome, Report
    >>> a, b = (Outcome(i, i, "success", started=0.0, finished=2.0 + 2 * i) for i in range(2))
    >>> in_flight(Report([a, b], limits=[(0.0, 2)]))
    <InFlight: 2 agents in 4 s, at most 2 in flight, 1.5 on average, at the limit 50 % of the time, limit 2>
    """
    end = events.now(report)
    tried = [stretch for outcome in report.individual_results for stretch in events.attempts(outcome, end)]
    busy = events.duration(tried)
    facts: dict[str, Any] = {
        "agents": len(report),
        "seconds": end,
        "peak_in_flight": report.summary.peak_in_flight,
        "mean_in_flight": busy / end if end else 0.0,
        "share_at_limit": _share_at_limit(tried, report.limits, end),
        "limits": report.limits,
    }
    mean, share = number(facts["mean_in_flight"]), round(100 * facts["share_at_limit"], 6)
    said = [f"{count(len(report), 'agent')} in {seconds(end)}", f"at most {facts['peak_in_flight']} in flight"]
    said += [f"{mean} on average", f"at the limit {number(share)} % of the time", events.limit_words(report.limits)]
    if title is None:
        title = f"At most {facts['peak_in_flight']} in flight, {mean} on average over {seconds(end)}"

    def draw() -> Figure:
        figure, (axes,) = page(title, [170], names=["1,000"])
        bars.in_flight(axes, report)
        bars.time_axis(axes, end, labelled=True)
        return figure

    return Chart("InFlight", title, said, facts, draw)


def _share_at_limit(tried: Sequence[events.Stretch], limits: Sequence[tuple[float, float]], end: float) -> float:
    """For which share of the time all slots were taken."""
    times, counts = events.steps(tried)
    edges = sorted({0.0, end, *times, *(at for at, _ in limits)})
    full = []
    for start, stop in pairwise(edges):
        running = counts[bisect_right(times, start) - 1]
        limit = next((limit for at, limit in reversed(limits) if at <= start), math.inf)
        full.append((start, stop) if start < end and running >= limit else (start, start))
    return events.duration(full) / end if end else 0.0


def queue_depth(
    report: Report, *others: Report, labels: Sequence[object] | None = None, title: str | None = None
) -> Chart:
    """Draw how many tasks waited for their first attempt at each instant; several runs share the axes.

    >>> from agentkit import Outcome, Report
    >>> tasks = [Outcome(i, i, "success", started=2.0 * i, finished=2.0 * i + 2) for i in range(3)]
    >>> queue_depth(Report(tasks))
    <QueueDepth: 3 agents in 6 s, at most 2 waiting, 1 on average, longest wait 4 s>

    `labels` names the runs, one text per report. A task that a full queue turned away is marked as rejected.
    """
    reports = [report, *others]
    names = labels_for(reports, labels)
    runs = [_queue(one) for one in reports]
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
    return Chart("QueueDepth", title, said, facts, lambda: _draw(reports, names, str(title)))


def _waits(report: Report) -> list[events.Stretch]:
    end = events.now(report)
    return [events.waiting(outcome, end) for outcome in report.individual_results]


def _queue(report: Report) -> dict[str, Any]:
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


def _draw(reports: Sequence[Report], names: Sequence[str], title: str) -> Figure:
    end, several = max(events.now(report) for report in reports), len(reports) > 1
    entries = [plain(name, 200) for name in names] if several else []
    rejected = [_rejected(report) for report in reports]
    figure, (axes,) = page(title, [210], names=["1,000"], entries=[*entries, *(["rejected"] if any(rejected) else [])])
    highest, handles = 1, []
    for i, report in enumerate(reports):
        times, counts = events.steps(_waits(report))
        highest = max(highest, *counts)
        times, counts = [*times, max(events.now(report), times[-1])], [*counts, counts[-1]]
        colour, dash = SERIES[i % len(SERIES)]
        if not several:
            axes.fill_between(times, counts, step="post", facecolor=WAITING, linewidth=0, alpha=0.6)
        handles += axes.step(times, counts, where="post", color=colour, linestyle=dash, linewidth=1.6)
        marker, size = MARKS["rejected"]
        at = [(time, counts[bisect_right(times, time) - 1]) for time in rejected[i]]
        if at:
            spots = axes.plot(*zip(*at, strict=True), linestyle="", marker=marker, markersize=size * 0.8, color=TROUBLE)
            handles += spots if len(handles) == len(reports) else []
    axes.set_ylim(0, 1.08 * highest)
    bars.whole_ticks(axes, highest)
    axes.set_ylabel(events.queued_for(*reports))
    bars.time_axis(axes, end, labelled=True)
    if several or any(rejected):
        legend(figure, handles, [*entries, *(["rejected"] if any(rejected) else [])])
    return figure


def _rejected(report: Report) -> list[float]:
    """When tasks were turned away."""
    return [o.finished or o.submitted for o in report.individual_results if o.status == "rejected"]
