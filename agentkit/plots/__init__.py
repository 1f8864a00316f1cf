"""Charts of a run that state their facts.

`report.plot("timeline")` and `timeline(report)` are the same. Each function returns a `Chart`: an image in a notebook,
facts in words as its `repr`, the same facts as numbers in `.facts`. Importing this package imports neither matplotlib
nor pandas.

Charts: `timeline.py` (a row per agent), `in_flight.py` (calls over time, also of several runs side by side),
`queues.py` (waiting over time), `lanes.py` (threads, and interleaved tasks), `distributions.py` (latencies, results),
`curves.py` (measured points), `traffic.py` (token bucket, retry storm), `cost.py` (tokens and money).
Shared, lowest first: `style.py` (palette, page, legend), `chart.py` (`Chart`, numbers in words), `events.py` (a report
as intervals), `facts.py` (facts of a run), `spans.py` (named spans), `bars.py` (rows, in-flight curve, axes).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agentkit.base.arguments import choice
from agentkit.plots.chart import Chart
from agentkit.plots.cost import cost
from agentkit.plots.curves import curve, knee, ways
from agentkit.plots.distributions import latency, outcomes
from agentkit.plots.in_flight import SideBySide, in_flight, little, side_by_side
from agentkit.plots.lanes import interleaving, pool
from agentkit.plots.queues import queue_depth, stages
from agentkit.plots.timeline import compare, timeline
from agentkit.plots.traffic import bucket, storm

__all__ = [
    "Chart",
    "SideBySide",
    "bucket",
    "compare",
    "cost",
    "curve",
    "draw",
    "in_flight",
    "interleaving",
    "knee",
    "latency",
    "little",
    "outcomes",
    "pool",
    "queue_depth",
    "side_by_side",
    "stages",
    "storm",
    "timeline",
    "ways",
]

_KINDS: dict[str, Callable[..., Chart]] = {
    "cost": cost,
    "in_flight": in_flight,
    "latency": latency,
    "little": little,
    "queue_depth": queue_depth,
    "stages": stages,
    "storm": storm,
    "timeline": timeline,
}


def draw(kind: str, report: Any, **options: Any) -> Chart:
    """Draw the named kind of chart of a report; `Report.plot` calls this."""
    choice("kind", kind, sorted(_KINDS))
    return _KINDS[kind](report, **options)
