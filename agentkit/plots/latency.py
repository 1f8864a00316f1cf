"""How long agents took: the whole distribution, not its mean.

What it holds: `latency`.
Guarantee: percentiles are nearest-rank, values that really occurred, the same that `report.summary` gives.
How to read it: half of the agents took at most p50, 95 of 100 at most p95; a long way between the two lines is a tail.
Opened by notebook 08.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from agentkit.plots.bars import whole_ticks
from agentkit.plots.chart import Chart, count, seconds
from agentkit.plots.facts import labels_for
from agentkit.plots.style import CALLING, FAINT, INK, WAITING, heading, legend, page, plain
from agentkit.report import Outcome, Report, percentile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["latency"]

OF = {
    "latency": "seconds from first attempt to end",
    "waited": "seconds from submission to first attempt",
    "total": "seconds from submission to end",
}
BINS = 40
LINES: dict[str, dict[str, Any]] = {
    "p50": {"color": INK, "linewidth": 1.5, "linestyle": "-"},
    "p95": {"color": INK, "linewidth": 1.5, "linestyle": (0, (4, 2))},
}


def latency(
    report: Report,
    *others: Report,
    of: str = "latency",
    labels: Sequence[object] | None = None,
    title: str | None = None,
) -> Chart:
    """Draw how the seconds of the successful agents are distributed, with p50 and p95.

    >>> from agentkit import Outcome, Report
    >>> latency(Report([Outcome(i, i, "success", started=0.0, finished=1.0 + i) for i in range(4)]))
    <Latency: 4 agents, least 1 s, p50 2 s, p95 4 s, most 4 s, mean 2.5 s>

    `of` is `"latency"` (first attempt to end), `"waited"` (submission to first attempt) or `"total"` (both).
    Several runs are drawn one below the other on one axis; `labels` names them.
    """
    if of not in OF:
        raise ValueError(f"of must be one of {', '.join(OF)}, got {of!r}")
    reports = [report, *others]
    names = labels_for(reports, labels)
    values = [[_seconds(o, of) for o in one.individual_results if o.status == "success"] for one in reports]
    runs = [_facts(one, sample) for one, sample in zip(reports, values, strict=True)]
    facts = runs[0] if not others else {"runs": dict(zip(names, runs, strict=True))}
    said = _words(runs[0], of)
    if others:
        said = [f"{name}: {', '.join(_words(run, of))};" for name, run in zip(names, runs, strict=True)]
        said[-1] = said[-1].rstrip(";")
    if title is None:
        title = _finding(names, runs, of)
    return Chart("Latency", title, said, facts, lambda: _draw(title, names, values, runs, of))


def _seconds(outcome: Outcome, of: str) -> float:
    waited, took = outcome.waited or 0.0, outcome.latency or 0.0
    return {"latency": took, "waited": waited, "total": waited + took}[of]


def _facts(report: Report, sample: Sequence[float]) -> dict[str, Any]:
    return {
        "agents": len(sample),
        "least": min(sample, default=None),
        "p50": percentile(sample, 0.50),
        "p95": percentile(sample, 0.95),
        "most": max(sample, default=None),
        "mean": math.fsum(sample) / len(sample) if sample else None,
        "not_succeeded": report.summary.failed,
    }


def _words(run: dict[str, Any], of: str) -> list[str]:
    words = [count(run["agents"], "agent") + ("" if of == "latency" else f", {OF[of]}")]
    words += (
        [f"{what} {seconds(run[what])}" for what in ("least", "p50", "p95", "most", "mean")] if run["agents"] else []
    )
    return words + ([f"{run['not_succeeded']:,} not successful, left out"] if run["not_succeeded"] else [])


def _finding(names: Sequence[str], runs: Sequence[dict[str, Any]], of: str) -> str:
    what = {"latency": "took", "waited": "waited", "total": "were done within"}[of]
    if len(runs) > 1:
        return "p95: " + ", ".join(f"{name} {seconds(run['p95'])}" for name, run in zip(names, runs, strict=True))
    if not runs[0]["agents"]:
        return "No agent succeeded, nothing to measure"
    return f"Half of the agents {what} {seconds(runs[0]['p50'])} or less, 95 of 100 {seconds(runs[0]['p95'])} or less"


def _draw(
    title: str, names: Sequence[str], values: Sequence[Sequence[float]], runs: Sequence[dict[str, Any]], of: str
) -> Figure:
    from matplotlib.lines import Line2D

    several = len(values) > 1
    entries = ["half took at most this long (p50)", "95 of 100 did (p95)"]
    figure, panels = page(
        title, [max(70, 180 / len(values))] * len(values), names=["1,000"], entries=entries, gap=28, above=22 * several
    )
    end = max([value for sample in values for value in sample] + [0.0]) or 1.0
    for axes, name, sample, run in zip(panels, names, values, runs, strict=True):
        _histogram(axes, sample, run, end, WAITING if of == "waited" else CALLING)
        axes.tick_params(axis="x", labelbottom=axes is panels[-1])
        if several:
            heading(axes, f"{plain(name, 300)}: p50 {seconds(run['p50'])}, p95 {seconds(run['p95'])}")
    panels[-1].set_xlabel(OF[of], labelpad=3)
    legend(figure, [Line2D([], [], **LINES[p]) for p in LINES], entries)
    return figure


def _histogram(axes: Axes, sample: Sequence[float], run: dict[str, Any], end: float, colour: str) -> None:
    bins = [i * end / BINS for i in range(BINS + 1)]
    heights, _, _ = axes.hist(sample, bins=bins, color=colour, edgecolor="white", linewidth=0.6)
    top = max(int(max(heights)), 1)
    axes.set_ylim(0, 1.1 * top)
    axes.set_xlim(0, 1.02 * end)
    whole_ticks(axes, top)
    axes.grid(axis="x", color=FAINT, linewidth=0.8)
    axes.set_ylabel("agents")
    for p, look in LINES.items():
        if run[p] is not None:
            axes.axvline(run[p], **look)
