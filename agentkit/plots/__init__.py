"""Pictures of a run that state their facts.

`report.plot("timeline")` and `timeline(report)` are the same. Each function returns a `Chart`: a picture in a
notebook, facts in words as its `repr`, the same facts as numbers in `.facts`.
Loading this package loads neither matplotlib nor pandas.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agentkit.plots.chart import Chart
from agentkit.plots.compare import compare
from agentkit.plots.cost import cost
from agentkit.plots.curves import curve, knee
from agentkit.plots.interleaving import interleaving
from agentkit.plots.latency import latency
from agentkit.plots.limits import bucket, little
from agentkit.plots.lines import ways
from agentkit.plots.load import in_flight, queue_depth
from agentkit.plots.pool import pool
from agentkit.plots.side_by_side import SideBySide, side_by_side
from agentkit.plots.stages import stages
from agentkit.plots.storm import storm
from agentkit.plots.tally import outcomes
from agentkit.plots.timeline import timeline

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
    """Draw a report as the named kind of chart; what `Report.plot` calls."""
    if kind not in _KINDS:
        raise ValueError(f"kind must be one of {', '.join(sorted(_KINDS))}, got {kind!r}")
    return _KINDS[kind](report, **options)
