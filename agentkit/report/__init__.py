"""What a run leaves.

`outcome`: what happened to one task, the record that everything else is made of. `report`: all of them, with their
figures, frame and picture. `stalls`: agents that held up the loop.
"""

from __future__ import annotations

from agentkit.report.outcome import STATUSES, Attempt, Outcome, Span, span
from agentkit.report.report import Report, Summary, attach, peak, percentile
from agentkit.report.stalls import Stall

__all__ = [
    "STATUSES",
    "Attempt",
    "Outcome",
    "Report",
    "Span",
    "Stall",
    "Summary",
    "attach",
    "peak",
    "percentile",
    "span",
]
