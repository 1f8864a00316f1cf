"""Requests arriving at a rate limit: the level of a token bucket, and the waves of a retry storm.

What it holds: `bucket` and `storm`.
Guarantees: `bucket` replays the requests it is given on a bucket of the size it is given; `storm` counts every attempt
once, in the second in which it arrived.
How to read a storm: first tries are blue; the bars on top of them are requests that the provider has rejected before.
Waves that do not flatten are retries without jitter: they all come back at the same time.
Source: Turner, New Directions in Communications (1986), for the bucket.
Opened by notebook 07.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import agentkit.plots.bars as bars
import agentkit.plots.events as events
from agentkit.plots.chart import Chart, count, number, seconds
from agentkit.plots.facts import labels_for
from agentkit.plots.style import CALLING, FILL, INK, MARKS, RETRIES, TROUBLE, WAITING, heading, legend, page, plain
from agentkit.plots.style import level as level_line
from agentkit.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["bucket", "storm"]

Asked = tuple[float, float | None, float]
"""When a request arrived, when it was let through (None if rejected), and the tokens it took from the bucket."""
Log = Iterable[Any] | Report
Arrival = tuple[float, int]
"""When an attempt arrived, in seconds, and how often the request had been tried before."""

BARS = 200  # at most, in one panel
RETRY_WORDS = ("first try", "1st retry", "2nd retry", "3rd retry", "later retries")


def bucket(
    requests: Iterable[Sequence[Any]],
    *,
    rate: float,
    capacity: float,
    level: float | None = None,
    unit: str = "requests",
    title: str | None = None,
) -> Chart:
    """Draw the level of a token bucket, and the requests it let through, delayed and rejected.

    >>> bucket([(0, 0), (0, 0), (0, 1.0), (0, None)], rate=1, capacity=2)
    <Bucket: 4 requests, 2 let through at once, 1 held for 1 s at most and 1 s in all, 1 refused; 1 per s, room for 2,
     lowest level 0>

    A request is `(arrived, let_through)` or `(arrived, let_through, amount)`, in seconds; `let_through` is None if it
    was rejected, the amount is 1 by default. `rate` is the refill per second, `capacity` the maximum level, `level` the
    initial level (full by default). `unit` names what is in the bucket. Levels below 0 are debt.
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
        "Bucket", title, _bucket_words(facts), facts, lambda: _draw_bucket(rows, (times, levels), facts, unit, title)
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
    """Return the level over time as points of a line: refilled up to the capacity, reduced by each request."""
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


def _draw_bucket(
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
        bars.time_axis(axes, end, labeled=axes is lanes)
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


def storm(
    log: Log, *others: Log, labels: Sequence[object] | None = None, per: float = 1.0, title: str | None = None
) -> Chart:
    """Draw attempts per second, stacked by retry number.

    >>> storm([(0.0, 0), (0.1, 0), (0.2, 0), (2.1, 1), (2.2, 1), (4.0, 2)])
    <Storm: 6 attempts in 4 s, 3 first tries, 2 1st retries, 1 2nd retry; at most 3 in 1 s, at 0 s, mean arrival 1.43 s>

    A log is a report, a provider's log (records with `arrived` and `retry`), or rows `(second, retry number)`.
    Several logs are drawn one below the other on the same scale; `labels` names them. `per` is the width of a bar in s.
    """
    if not per > 0:
        raise ValueError(f"per must be more than 0 seconds, got {per!r}; 1 counts attempts per second")
    logs = [sorted(_arrivals(one)) for one in (log, *others)]
    names = labels_for(logs, labels)
    end = max((at for one in logs for at, _ in one), default=0.0)
    per = per * max(1, math.ceil(end / per / BARS))
    runs = [_storm_facts(one, per) for one in logs]
    facts = runs[0] if not others else {"runs": dict(zip(names, runs, strict=True))}
    said = _storm_words(runs[0])
    if others:
        said = [
            f"{name}: {', '.join(_storm_words(run)).replace(';,', ',')};" for name, run in zip(names, runs, strict=True)
        ]
        said[-1] = said[-1].rstrip(";")
    if title is None:
        title = _storm_finding(names, runs)
    return Chart("Storm", title, said, facts, lambda: _draw_storm(title, names, logs, runs, end))


def _arrivals(log: Log) -> list[Arrival]:
    if isinstance(log, Report):
        return [(a.started, i) for outcome in log.individual_results for i, a in enumerate(outcome.attempts)]
    rows = list(log)
    if all(hasattr(row, "arrived") and hasattr(row, "retry") for row in rows):
        return [(float(row.arrived), int(row.retry)) for row in rows]
    return [(float(at), int(retry)) for at, retry in rows]


def _storm_facts(log: Sequence[Arrival], per: float) -> dict[str, Any]:
    arrivals = Counter(math.floor(round(at / per, 9)) for at, _ in log)
    fullest = max(sorted(arrivals), key=lambda slot: arrivals[slot], default=0)
    return {
        "attempts": len(log),
        "by_retry": dict(sorted(Counter(retry for _, retry in log).items())),
        "peak": arrivals[fullest],
        "peak_at": fullest * per,
        "per": per,
        "seconds": max((at for at, _ in log), default=0.0),
        "mean_arrival": math.fsum(at for at, _ in log) / len(log) if log else 0.0,
    }


def _storm_words(run: dict[str, Any]) -> list[str]:
    said = [f"{count(run['attempts'], 'attempt')} in {seconds(run['seconds'])}"]
    for retry, times in run["by_retry"].items():
        ordinal = f"{retry}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(retry, 'th') }"
        said.append(
            count(times, "first try", "first tries")
            if not retry
            else count(times, f"{ordinal} retry", f"{ordinal} retries")
        )
    said[-1] += ";"
    said.append(f"at most {run['peak']:,} in {seconds(run['per'])}, at {seconds(run['peak_at'])}")
    return [*said, f"mean arrival {seconds(run['mean_arrival'])}"]


def _storm_finding(names: Sequence[str], runs: Sequence[dict[str, Any]]) -> str:
    if len(runs) > 1:
        return "Attempts: " + ", ".join(f"{name} {run['attempts']:,}" for name, run in zip(names, runs, strict=True))
    interval = "one second" if runs[0]["per"] == 1 else seconds(runs[0]["per"])
    return f"{_tries(runs[0])}, at most {runs[0]['peak']:,} in {interval}"


def _draw_storm(
    title: str, names: Sequence[str], logs: Sequence[Sequence[Arrival]], runs: Sequence[dict[str, Any]], end: float
) -> Figure:
    from matplotlib.patches import Patch

    most = min(len(RETRY_WORDS), 1 + max((retry for log in logs for _, retry in log), default=0))
    several, per, entries = len(logs) > 1, runs[0]["per"], RETRY_WORDS[:most]
    highest = max(run["peak"] for run in runs) or 1
    figure, panels = page(
        title, [max(70, 190 / len(logs))] * len(logs), names=["1,000"], entries=entries, gap=28, above=22 * several
    )
    handles = [Patch(color=color) for color in (CALLING, *RETRIES)[:most]]
    for axes, name, log, run in zip(panels, names, logs, runs, strict=True):
        _stack(axes, log, per, most)
        axes.set_ylim(0, 1.1 * highest)
        bars.whole_ticks(axes, highest)
        axes.set_ylabel("attempts" if several else "attempts per s" if per == 1 else f"attempts per {number(per)} s")
        bars.time_axis(axes, per * (math.floor(round(end / per, 9)) + 1), labeled=axes is panels[-1])
        if several:
            heading(axes, f"{plain(name, 300)}: {_tries(run)}" + (f", bars of {number(per)} s" if per != 1 else ""))
    legend(figure, handles, entries)
    return figure


def _tries(run: dict[str, Any]) -> str:
    first = count(run["by_retry"].get(0, 0), "first try", "first tries")
    return f"{count(run['attempts'], 'attempt')} for {first}"


def _stack(axes: Axes, log: Sequence[Arrival], per: float, most: int) -> None:
    """Draw one stacked bar per interval of `per` seconds, first tries at the bottom."""
    counts = Counter((math.floor(round(at / per, 9)), min(retry, len(RETRY_WORDS) - 1)) for at, retry in log)
    slots = sorted({slot for slot, _ in counts})
    floor = [0] * len(slots)
    for retry, color in enumerate((CALLING, *RETRIES)[:most]):
        tall = [counts[slot, retry] for slot in slots]
        look: dict[str, Any] = {"color": color, "edgecolor": "white", "linewidth": 0.5, "align": "edge"}
        axes.bar([slot * per for slot in slots], tall, width=per, bottom=floor, **look)
        floor = [low + more for low, more in zip(floor, tall, strict=True)]
