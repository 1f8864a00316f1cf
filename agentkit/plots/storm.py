"""A retry storm: attempts per second, told apart by how often they had been tried before.

What it holds: `storm`.
Guarantee: every attempt is counted once, in the second in which it arrived.
How to read it: first tries are blue; what stands above them is work that the provider has already refused. Waves that
do not flatten come back together because nothing told them to come back at different times.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from agentkit.plots.bars import time_axis, whole_ticks
from agentkit.plots.chart import Chart, count, number, seconds
from agentkit.plots.facts import labels_for
from agentkit.plots.style import CALLING, RETRIES, heading, legend, page, plain
from agentkit.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["storm"]

Log = Iterable[Any] | Report
Attempt = tuple[float, int]
"""When it arrived, in seconds, and how often it had been tried before."""

BARS = 200  # at most, side by side
WORDS = ("first try", "1st retry", "2nd retry", "3rd retry", "later retries")


def storm(
    log: Log, *others: Log, labels: Sequence[object] | None = None, per: float = 1.0, title: str | None = None
) -> Chart:
    """Draw attempts per second, stacked by retry number.

    >>> storm([(0.0, 0), (0.1, 0), (0.2, 0), (2.1, 1), (2.2, 1), (4.0, 2)])
    <Storm: 6 attempts in 4 s, 3 first tries, 2 1st retries, 1 2nd retry; at most 3 in 1 s, at 0 s, mean arrival 1.43 s>

    A log is a report, a provider's log (records with `arrived` and `retry`), or rows `(second, retry number)`.
    Several logs are drawn one below the other on one scale; `labels` names them. `per` is a bar's width in seconds.
    """
    if not per > 0:
        raise ValueError(f"per must be more than 0 seconds, got {per!r}; 1 counts attempts per second")
    logs = [sorted(_attempts(one)) for one in (log, *others)]
    names = labels_for(logs, labels)
    end = max((at for one in logs for at, _ in one), default=0.0)
    per = per * max(1, math.ceil(end / per / BARS))
    runs = [_facts(one, per) for one in logs]
    facts = runs[0] if not others else {"runs": dict(zip(names, runs, strict=True))}
    said = _words(runs[0])
    if others:
        said = [f"{name}: {', '.join(_words(run)).replace(';,', ',')};" for name, run in zip(names, runs, strict=True)]
        said[-1] = said[-1].rstrip(";")
    if title is None:
        title = _finding(names, runs)
    return Chart("Storm", title, said, facts, lambda: _draw(title, names, logs, runs, end))


def _attempts(log: Log) -> list[Attempt]:
    if isinstance(log, Report):
        return [(a.started, i) for outcome in log.individual_results for i, a in enumerate(outcome.attempts)]
    rows = list(log)
    if all(hasattr(row, "arrived") and hasattr(row, "retry") for row in rows):
        return [(float(row.arrived), int(row.retry)) for row in rows]
    return [(float(at), int(retry)) for at, retry in rows]


def _facts(log: Sequence[Attempt], per: float) -> dict[str, Any]:
    bars = Counter(math.floor(round(at / per, 9)) for at, _ in log)
    fullest = max(sorted(bars), key=lambda bar: bars[bar], default=0)
    return {
        "attempts": len(log),
        "by_retry": dict(sorted(Counter(retry for _, retry in log).items())),
        "peak": bars[fullest],
        "peak_at": fullest * per,
        "per": per,
        "seconds": max((at for at, _ in log), default=0.0),
        "mean_arrival": math.fsum(at for at, _ in log) / len(log) if log else 0.0,
    }


def _words(run: dict[str, Any]) -> list[str]:
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


def _finding(names: Sequence[str], runs: Sequence[dict[str, Any]]) -> str:
    if len(runs) > 1:
        return "Attempts: " + ", ".join(f"{name} {run['attempts']:,}" for name, run in zip(names, runs, strict=True))
    stretch = "one second" if runs[0]["per"] == 1 else seconds(runs[0]["per"])
    return f"{_tries(runs[0])}, at most {runs[0]['peak']:,} in {stretch}"


def _draw(
    title: str, names: Sequence[str], logs: Sequence[Sequence[Attempt]], runs: Sequence[dict[str, Any]], end: float
) -> Figure:
    from matplotlib.patches import Patch

    most = min(len(WORDS), 1 + max((retry for log in logs for _, retry in log), default=0))
    several, per, entries = len(logs) > 1, runs[0]["per"], WORDS[:most]
    highest = max(run["peak"] for run in runs) or 1
    figure, panels = page(
        title, [max(70, 190 / len(logs))] * len(logs), names=["1,000"], entries=entries, gap=28, above=22 * several
    )
    handles = [Patch(color=colour) for colour in (CALLING, *RETRIES)[:most]]
    for axes, name, log, run in zip(panels, names, logs, runs, strict=True):
        _stack(axes, log, per, most)
        axes.set_ylim(0, 1.1 * highest)
        whole_ticks(axes, highest)
        axes.set_ylabel("attempts" if several else "attempts per s" if per == 1 else f"attempts per {number(per)} s")
        time_axis(axes, per * (math.floor(round(end / per, 9)) + 1), labelled=axes is panels[-1])
        if several:
            heading(axes, f"{plain(name, 300)}: {_tries(run)}" + (f", bars of {number(per)} s" if per != 1 else ""))
    legend(figure, handles, entries)
    return figure


def _tries(run: dict[str, Any]) -> str:
    first = count(run["by_retry"].get(0, 0), "first try", "first tries")
    return f"{count(run['attempts'], 'attempt')} for {first}"


def _stack(axes: Axes, log: Sequence[Attempt], per: float, most: int) -> None:
    """Draw one bar per stretch of `per` seconds, the first tries at the bottom."""
    counts = Counter((math.floor(round(at / per, 9)), min(retry, len(WORDS) - 1)) for at, retry in log)
    slots = sorted({slot for slot, _ in counts})
    floor = [0] * len(slots)
    for retry, colour in enumerate((CALLING, *RETRIES)[:most]):
        tall = [counts[slot, retry] for slot in slots]
        look: dict[str, Any] = {"color": colour, "edgecolor": "white", "linewidth": 0.5, "align": "edge"}
        axes.bar([slot * per for slot in slots], tall, width=per, bottom=floor, **look)
        floor = [low + more for low, more in zip(floor, tall, strict=True)]
