"""The result of a run.

`outcome.py`: the record of one task, from which everything else is computed. `report.py`: the outcomes of a run with
summary, data frame and charts. `archive.py`: reports as files. `stalls.py`: detects agents that block the event loop.
`usage.py`: requests and tokens that calls used.
"""

from __future__ import annotations

from agentkit.report.outcome import STATUSES, Attempt, Outcome, Span, span
from agentkit.report.report import Report, Summary, attach, peak, percentile
from agentkit.report.stalls import Stall
from agentkit.report.usage import Usage

__all__ = [
    "STATUSES", "Attempt", "Outcome", "Report", "Span", "Stall", "Summary", "Usage", "attach", "peak", "percentile",
    "span",
]  # fmt: skip
