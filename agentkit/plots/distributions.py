"""Distributions: how long agents took, and how often each result occurred.

What it holds: `latency`, a histogram with p50 and p95, and `outcomes`, a bar per result.
Guarantees: percentiles are nearest-rank, that is, values that really occurred, and the same that `report.summary` has;
results are sorted by frequency and then by name, so the same counts give the same picture.
How to read a latency chart: half of the agents took at most p50, 95 of 100 at most p95; a large distance between the
two lines is a long tail.
Opened by notebooks 04 and 08.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agentkit.plots.bars import whole_ticks
from agentkit.plots.chart import Chart, count, number, seconds
from agentkit.plots.facts import labels_for
from agentkit.plots.style import (
    CALLING,
    FAINT,
    INK,
    SOFT,
    TROUBLE,
    WAITING,
    heading,
    legend,
    page,
    plain,
    text_width,
)
from agentkit.report import Outcome, Report, percentile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["latency", "outcomes"]

OF = {
    "latency": "seconds from first attempt to end",
    "waited": "seconds from submission to first attempt",
    "total": "seconds from submission to end",
}
BINS = 40
PERCENTILES: dict[str, dict[str, Any]] = {
    "p50": {"color": INK, "linewidth": 1.5, "linestyle": "-"},
    "p95": {"color": INK, "linewidth": 1.5, "linestyle": (0, (4, 2))},
}
ROWS = 12  # at most; the remaining results share one bar
NONE = object()


def latency(
    report: Report,
    *others: Report,
    of: str = "latency",
    labels: Sequence[object] | None = None,
    title: str | None = None,
) -> Chart:
    """Draw a histogram of the latencies of the successful agents, with p50 and p95.

    >>> from agentkit import Outcome, Report
    >>> latency(Report([Outcome(i, i, "success", started=0.0, finished=1.0 + i) for i in range(4)]))
    <Latency: 4 agents, least 1 s, p50 2 s, p95 4 s, most 4 s, mean 2.5 s>

    `of` is `"latency"` (first attempt to end), `"waited"` (submission to first attempt) or `"total"` (both).
    Several runs are drawn one below the other on the same axis; `labels` names them.
    """
    if of not in OF:
        raise ValueError(f"of must be one of {', '.join(OF)}, got {of!r}")
    reports = [report, *others]
    names = labels_for(reports, labels)
    values = [[_seconds(o, of) for o in one.individual_results if o.status == "success"] for one in reports]
    runs = [_latency_facts(one, sample) for one, sample in zip(reports, values, strict=True)]
    facts = runs[0] if not others else {"runs": dict(zip(names, runs, strict=True))}
    said = _latency_words(runs[0], of)
    if others:
        said = [f"{name}: {', '.join(_latency_words(run, of))};" for name, run in zip(names, runs, strict=True)]
        said[-1] = said[-1].rstrip(";")
    if title is None:
        title = _latency_finding(names, runs, of)
    return Chart("Latency", title, said, facts, lambda: _draw_latency(title, names, values, runs, of))


def _seconds(outcome: Outcome, of: str) -> float:
    waited, took = outcome.waited or 0.0, outcome.latency or 0.0
    return {"latency": took, "waited": waited, "total": waited + took}[of]


def _latency_facts(report: Report, sample: Sequence[float]) -> dict[str, Any]:
    return {
        "agents": len(sample),
        "least": min(sample, default=None),
        "p50": percentile(sample, 0.50),
        "p95": percentile(sample, 0.95),
        "most": max(sample, default=None),
        "mean": math.fsum(sample) / len(sample) if sample else None,
        "not_succeeded": report.summary.failed,
    }


def _latency_words(run: dict[str, Any], of: str) -> list[str]:
    words = [count(run["agents"], "agent") + ("" if of == "latency" else f", {OF[of]}")]
    words += (
        [f"{what} {seconds(run[what])}" for what in ("least", "p50", "p95", "most", "mean")] if run["agents"] else []
    )
    return words + ([f"{run['not_succeeded']:,} not successful, left out"] if run["not_succeeded"] else [])


def _latency_finding(names: Sequence[str], runs: Sequence[dict[str, Any]], of: str) -> str:
    what = {"latency": "took", "waited": "waited", "total": "were done within"}[of]
    if len(runs) > 1:
        return "p95: " + ", ".join(f"{name} {seconds(run['p95'])}" for name, run in zip(names, runs, strict=True))
    if not runs[0]["agents"]:
        return "No agent succeeded, nothing to measure"
    return f"Half of the agents {what} {seconds(runs[0]['p50'])} or less, 95 of 100 {seconds(runs[0]['p95'])} or less"


def _draw_latency(
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
    legend(figure, [Line2D([], [], **PERCENTILES[p]) for p in PERCENTILES], entries)
    return figure


def _histogram(axes: Axes, sample: Sequence[float], run: dict[str, Any], end: float, color: str) -> None:
    bins = [i * end / BINS for i in range(BINS + 1)]
    heights, _, _ = axes.hist(sample, bins=bins, color=color, edgecolor="white", linewidth=0.6)
    top = max(int(max(heights)), 1)
    axes.set_ylim(0, 1.1 * top)
    axes.set_xlim(0, 1.02 * end)
    whole_ticks(axes, top)
    axes.grid(axis="x", color=FAINT, linewidth=0.8)
    axes.set_ylabel("agents")
    for p, look in PERCENTILES.items():
        if run[p] is not None:
            axes.axvline(run[p], **look)


def outcomes(
    counts: Mapping[Any, int] | Any, *, right: object = NONE, of: str = "interleaving", title: str | None = None
) -> Chart:
    """Draw how often each result occurred, with wrong ones marked.

    >>> outcomes({2: 2, 1: 18}, right=2)
    <Outcomes: 20 interleavings, 2 different results: 1 ×18 (wrong), 2 ×2 (right); 2 of 20 right>

    `counts` maps each result to its count, or is what `explore` returns. `right` is the result that should always
    occur; without it, no result counts as wrong. `of` names what was counted.
    """
    table: Mapping[Any, int] = counts if isinstance(counts, Mapping) else counts.outcomes
    rows = sorted(((str(result), times) for result, times in table.items()), key=lambda row: (-row[1], row[0]))
    total = sum(times for _, times in rows)
    good = None if right is NONE else str(right)
    facts: dict[str, Any] = {
        "total": total,
        "counts": dict(rows),
        "right": None if good is None else dict(rows).get(good, 0),
    }
    results = f"{count(total, of)}, {count(len(rows), 'different result')}"
    said = [f"{results}: {', '.join(_result_words(*row, good) for row in rows)}".removesuffix(": ")]
    said[-1] += f"; {facts['right']:,} of {total:,} right" if good is not None else ""
    if title is None:
        title = results
        title += f": {facts['right']:,} right, {total - (facts['right'] or 0):,} wrong" if good is not None else ""
    return Chart("Outcomes", title, said, facts, lambda: _draw_outcomes(_bars(rows, good), total, of, str(title)))


def _result_words(result: str, times: int, good: str | None) -> str:
    verdict = "" if good is None else " (right)" if result == good else " (wrong)"
    return f"{result} ×{times:,}{verdict}"


def _bars(rows: Sequence[tuple[str, int]], good: str | None) -> list[tuple[str, int, bool]]:
    """Return name, count and whether it is wrong per bar; rare wrong results share a bar, the right one never does."""
    keep = len(rows) if len(rows) <= ROWS else ROWS - 1
    shown = [row for i, row in enumerate(rows) if i < keep or row[0] == good]
    rest = [row for row in rows if row not in shown]
    bars = [(plain(name, 240), times, good is not None and name != good) for name, times in shown]
    if rest:
        bars.append((f"{len(rest)} others", sum(times for _, times in rest), good is not None))
    return bars


def _draw_outcomes(bars: Sequence[tuple[str, int, bool]], total: int, of: str, title: str) -> Figure:
    verdicts = {True: "wrong", False: "right"} if any(bad for *_, bad in bars) else {}
    entries = [verdicts[bad] for bad in (False, True) if verdicts and any(bar[2] is bad for bar in bars)]
    names = [name for name, *_ in bars]
    shares = [f"{times:,} ({number(100 * times / total)} %)" if total else "0" for _, times, _ in bars]
    room = 16 + max(map(text_width, shares), default=0)
    figure, (axes,) = page(title, [max(30, 26 * len(bars))], names=names, entries=entries, ylabel=False, right=room)
    handles: dict[str, Any] = {}
    for y, (_, times, bad) in enumerate(bars):
        look: dict[str, Any] = {"color": TROUBLE, "hatch": "///", "edgecolor": "white"} if bad else {"color": SOFT}
        handles[verdicts.get(bad, "")] = axes.barh(y, times, height=0.66, linewidth=0, **look)
        axes.annotate(shares[y], (times, y), (5, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(bars)), names)
    axes.set_ylim(max(len(bars), 1) - 0.4, -0.6)
    axes.set_xlim(0, max([times for _, times, _ in bars] + [0]) or 1)
    axes.locator_params(axis="x", integer=True, nbins=6)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(axis="x", color=FAINT, linewidth=0.8)
    axes.set_xlabel(f"{of}s", labelpad=3)
    legend(figure, [handles[word] for word in entries], entries)
    return figure
