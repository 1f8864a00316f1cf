"""Two laws of limits, drawn: Little's law and the token bucket.

What it holds: `little` and `bucket`.
Guarantee: `little` computes its two sides independently, one from the curve and one from the agents; `bucket` replays
the requests it is given on a bucket of the size it is given.
Sources: Little, A Proof for the Queuing Formula L = λW (1961); Turner, New Directions in Communications (1986).
Opened by notebooks 07 and 08.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from agentkit.plots import bars, events
from agentkit.plots.chart import Chart, count, number, seconds
from agentkit.plots.style import CALLING, FILL, INK, MARKS, TROUBLE, WAITING, heading, page
from agentkit.plots.style import level as level_line
from agentkit.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["bucket", "little"]


def little(report: Report, *, title: str | None = None) -> Chart:
    """Draw Little's law, L = λ × W: what is in flight on average, counted in two ways.

    >>> from agentkit import Outcome, Report
    >>> little(Report([Outcome(i, i, "success", started=0.0, finished=2.0 + 2 * i) for i in range(2)]))
    <Little: L 1.5 in flight on average, λ 0.5 agents per s × W 3 s each = 1.5, 2 agents, 6 agent-seconds in 4 s>

    Above, instant by instant: the area under the in-flight curve. Below, agent by agent: the seconds of each, longest
    first. Both areas are the same agent-seconds. Seconds in flight count; waiting and backing off do not.
    """
    end = events.now(report)
    tried = [events.attempts(outcome, end) for outcome in report.individual_results]
    each = sorted((events.duration(stretches) for stretches in tried if stretches), reverse=True)
    times, counts = events.steps([stretch for stretches in tried for stretch in stretches])
    area = math.fsum(level * (stop - start) for level, (start, stop) in zip(counts, pairwise(times), strict=False))
    rate, mean = (len(each) / end if end else 0.0), (math.fsum(each) / len(each) if each else 0.0)
    facts = {
        "in_flight": area / end if end else 0.0,
        "rate": rate,
        "mean_seconds": mean,
        "product": rate * mean,
        "agents": len(each),
        "agent_seconds": area,
        "seconds": end,
    }
    left = number(facts["in_flight"])
    said = [f"L {left} in flight on average"]
    said += [f"λ {number(rate)} agents per s × W {seconds(mean)} each = {number(rate * mean)}"]
    said += [count(len(each), "agent"), f"{number(area)} agent-seconds in {seconds(end)}"]
    if title is None:
        title = f"{left} in flight on average = {number(rate)} agents per second × {seconds(mean)} each"
    return Chart("Little", title, said, facts, lambda: _little(report, each, facts, str(title)))


def _little(report: Report, each: Sequence[float], facts: dict[str, Any], title: str) -> Figure:
    figure, (top, below) = page(title, [120, 140], names=["1,000"], gap=58, above=22)
    bars.in_flight(top, Report(report.individual_results))
    top.axhline(facts["in_flight"], color=INK, linewidth=1.3, linestyle=(0, (4, 2)))
    bars.time_axis(top, facts["seconds"], labelled=True)
    left, total = number(facts["in_flight"]), number(facts["agent_seconds"])
    heading(top, f"instant by instant: {total} agent-seconds over {seconds(facts['seconds'])}: L = {left}, dashed")
    below.barh(
        range(len(each)), each, height=1.0, color=FILL, edgecolor=CALLING, linewidth=0.8 if len(each) < 60 else 0
    )
    below.axvline(facts["mean_seconds"], color=INK, linewidth=1.3, linestyle=(0, (4, 2)))
    below.set_ylim(max(len(each), 1) - 0.5, -0.5)
    below.set_xlim(0, 1.02 * max([*each, 0.0]) or 1.0)
    below.set_yticks([])
    below.set_ylabel(count(len(each), "agent"))
    below.set_xlabel("seconds in flight, agent by agent", labelpad=3)
    heading(
        below, f"agent by agent: {total} agent-seconds over {len(each)}: W = {seconds(facts['mean_seconds'])}, dashed"
    )
    return figure


Asked = tuple[float, float | None, float]
"""When a request arrived, when it was let through (None: refused), what it took from the bucket."""


def bucket(
    requests: Iterable[Sequence[Any]],
    *,
    rate: float,
    capacity: float,
    level: float | None = None,
    unit: str = "requests",
    title: str | None = None,
) -> Chart:
    """Draw the level of a token bucket, and the requests it let through, held back and refused.

    >>> bucket([(0, 0), (0, 0), (0, 1.0), (0, None)], rate=1, capacity=2)
    <Bucket: 4 requests, 2 let through at once, 1 held for 1 s at most and 1 s in all, 1 refused; 1 per s, room for 2,
     lowest level 0>

    A request is `(arrived, let_through)` or `(arrived, let_through, amount)`, in seconds, `let_through` None where it
    was refused; the amount is 1 if not given. `rate` is the refill per second, `capacity` the brim, `level` what is in
    it at first (full, if not given). `unit` names what is in the bucket. Levels below 0 are debt.
    """
    rows = sorted((_asked(row) for row in requests), key=lambda row: (row[0], row[1] is None, row[1] or 0.0))
    taken = sorted((through, amount) for _, through, amount in rows if through is not None)
    times, levels = _levels(taken, rate, capacity, capacity if level is None else level)
    holds = [(arrived, through) for arrived, through, _ in rows if through is not None and through > arrived]
    facts = {
        "requests": len(rows),
        "at_once": len(taken) - len(holds),
        "held": len(holds),
        "longest_hold": max((through - arrived for arrived, through in holds), default=0.0),
        "held_seconds": events.duration(holds),
        "refused": len(rows) - len(taken),
        "amount": math.fsum(amount for _, amount in taken),
        "lowest_level": min(levels),
        "rate": rate,
        "capacity": capacity,
    }
    if title is None:
        title = f"{facts['at_once']} let through at once, {facts['held']} held, {facts['refused']} refused"
    return Chart(
        "Bucket", title, _bucket_words(facts), facts, lambda: _bucket(rows, (times, levels), facts, unit, title)
    )


def _asked(row: Sequence[Any]) -> Asked:
    if len(row) not in (2, 3) or (row[1] is not None and row[1] < row[0]):
        raise ValueError(f"a request must be (arrived, let_through) or (arrived, let_through, amount), got {row!r:.80}")
    return float(row[0]), None if row[1] is None else float(row[1]), float(row[2]) if len(row) == 3 else 1.0


def _bucket_words(facts: dict[str, Any]) -> list[str]:
    words = [count(facts["requests"], "request"), f"{facts['at_once']} let through at once"]
    if facts["held"]:
        longest, total = seconds(facts["longest_hold"]), seconds(facts["held_seconds"])
        words.append(f"{facts['held']} held for {longest} at most and {total} in all")
    words += [f"{facts['refused']} refused"] if facts["refused"] else []
    words += [f"{number(facts['amount'])} taken"] if facts["amount"] != facts["at_once"] + facts["held"] else []
    words[-1] += ";"
    words += [f"{number(facts['rate'])} per s", f"room for {number(facts['capacity'])}"]
    return [*words, f"lowest level {number(facts['lowest_level'])}"]


def _levels(
    taken: Sequence[tuple[float, float]], rate: float, capacity: float, level: float
) -> tuple[list[float], list[float]]:
    """The level as a line: refilled up to the brim, and what each request took."""
    times, levels = [0.0], [level]
    for at, amount in taken:
        full = times[-1] + (capacity - level) / rate
        if full < at:
            times.append(full)
            levels.append(capacity)
        level = min(capacity, level + rate * (at - times[-1])) if full >= at else capacity
        times += [at, at]
        levels += [level, level - amount]
        level -= amount
    return times, [round(value, 9) for value in levels]


def _bucket(
    rows: Sequence[Asked], line: tuple[list[float], list[float]], facts: dict[str, Any], unit: str, title: str
) -> Figure:
    end = max([time for row in rows for time in row[:2] if time is not None] + [0.0])
    holds = [(arrived, through) for arrived, through, _ in rows if through is not None and through > arrived]
    figure, panels = page(
        title, [130, *([60] if holds else []), 46], names=["let through", f"{facts['lowest_level']:,.0f}0"], gap=14
    )
    top, lanes = panels[0], panels[-1]
    top.plot(*line, color=INK, linewidth=1.2)
    top.fill_between(*line, facecolor=FILL, linewidth=0)
    level_line(top, facts["capacity"], f"full: {number(facts['capacity'])}")
    top.set_ylim(min(0.0, 1.1 * facts["lowest_level"]), facts["capacity"] * 130 / (130 - 19))
    top.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    top.set_ylabel(f"{unit} left")
    if holds:
        times, counts = events.steps(holds)
        panels[1].fill_between(times, counts, step="post", facecolor=WAITING, linewidth=0)
        panels[1].set_ylim(0, 1.1 * max(counts))
        bars.whole_ticks(panels[1], max(counts))
        panels[1].set_ylabel("held")
    _lanes(lanes, rows)
    for axes in panels:
        bars.time_axis(axes, end, labelled=axes is lanes)
    return figure


def _lanes(axes: Axes, rows: Sequence[Asked]) -> None:
    through = [through for _, through, _ in rows if through is not None]
    refused = [arrived for arrived, passed, _ in rows if passed is None]
    axes.vlines(through, 0.65, 1.35, color=CALLING, linewidth=1.2)
    marker, size = MARKS["rejected"]
    look: dict[str, Any] = {"linestyle": "", "marker": marker, "markersize": size, "color": TROUBLE}
    axes.plot(refused, [0.0] * len(refused), clip_on=False, **look)
    axes.set_ylim(-0.6, 1.6)
    axes.set_yticks([1, 0], ["let through", "refused"])
    axes.tick_params(axis="y", pad=9)
