"""The queues between the stages of a pipeline, over time.

What it holds: `stages`, a curve for each stage: how many items wait in front of it.
Guarantee: the curves count the log's own stretches, instant by instant.
How to read it: the queue that stands at its bound is the one in front of the slowest stage; all queues before it
fill up in turn, which is backpressure.
Opened by notebook 08.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentkit.plots import bars, events
from agentkit.plots.chart import Chart, count, number, seconds
from agentkit.plots.style import SERIES, legend, page, plain
from agentkit.report import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["stages"]

PREFIX = "waiting for "


def stages(report: Report, *, title: str | None = None) -> Chart:
    """Draw how many items wait in front of each stage; `report` is what `Pipeline.execute` returned.

    >>> from agentkit import Outcome
    >>> from agentkit.report.outcome import Span
    >>> item = Outcome(0, "a", "success", started=0.0, finished=5.0, spans=(Span("waiting for write", 1.0, 4.0),))
    >>> stages(Report([item]))
    <Stages: 1 item in 5 s; write: at most 1 waiting, 0.6 on average>
    """
    end = events.now(report)
    queues: dict[str, list[events.Stretch]] = {}
    for outcome in report.individual_results:
        for span in outcome.spans:
            if span.name.startswith(PREFIX):
                queues.setdefault(span.name.removeprefix(PREFIX), []).append((span.started, span.finished))
    queues = dict(sorted(queues.items(), key=lambda queue: min(queue[1])))  # the order in which items came to them
    measured = {name: _queue(waits, end) for name, waits in queues.items()}
    facts: dict[str, Any] = {"items": len(report), "seconds": end, "stages": measured}
    said = [f"{count(len(report), 'item')} in {seconds(end)};"] + [
        f"{name}: at most {queue['peak']:,} waiting, {number(queue['mean'])} on average;"
        for name, queue in measured.items()
    ]
    said[-1] = said[-1].rstrip(";")
    if title is None:
        fullest = max(measured, key=lambda name: measured[name]["mean"], default=None)
        title = f"The longest queue stands in front of {fullest!r}" if fullest else "Nothing waits between stages"
    return Chart("Stages", title, said, facts, lambda: _draw(queues, end, str(title)))


def _queue(waits: list[events.Stretch], end: float) -> dict[str, float]:
    return {"peak": max(events.steps(waits)[1]), "mean": events.duration(waits) / end if end else 0.0}


def _draw(queues: dict[str, list[events.Stretch]], end: float, title: str) -> Figure:
    entries = [plain(name, 200) for name in queues]
    figure, (axes,) = page(title, [210], names=["1,000"], entries=entries)
    highest, handles = 1, []
    for i, waits in enumerate(queues.values()):
        times, counts = events.steps(waits)
        highest = max(highest, *counts)
        colour, dash = SERIES[i % len(SERIES)]
        handles += axes.step([*times, end], [*counts, counts[-1]], where="post", color=colour, linestyle=dash, lw=1.6)
    axes.set_ylim(0, 1.08 * highest)
    bars.whole_ticks(axes, highest)
    axes.set_ylabel("items waiting")
    bars.time_axis(axes, end, labelled=True)
    legend(figure, handles, entries)
    return figure
