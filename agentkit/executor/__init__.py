"""One agent over many tasks.

`executor`: what people use. `run`: a run in progress, from its first task to its report; `stream`: its outcomes as they
come. One part each: `source` (where tasks come from), `settings` (limits, and all that a run is made of), `grants` (the
budget, the rate and pauses), `call` (threads and processes).
"""

from __future__ import annotations

from agentkit.executor.executor import ParallelAgentExecutor
from agentkit.executor.run import Run, RunStatistics
from agentkit.executor.stream import Stream

__all__ = [
    "ParallelAgentExecutor",
    "Run",
    "RunStatistics",
    "Stream",
]
