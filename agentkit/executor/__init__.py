"""One agent over many tasks.

`executor`: what people use. `dispatch`: how a run starts its attempts, and how they end. `run` and `stream`: the
handles of a run, for its report and for its outcomes as they come. One part each: `source` (where tasks come from),
`settings` (all that a run is made of), `grants` (the budget, the rate and pauses), `call` (kinds of agents, and runs
inside runs), `attempts` (time limits).
"""

from __future__ import annotations

from agentkit.executor.executor import ParallelAgentExecutor
from agentkit.executor.run import Run
from agentkit.executor.settings import RunStatistics
from agentkit.executor.stream import Stream

__all__ = [
    "ParallelAgentExecutor",
    "Run",
    "RunStatistics",
    "Stream",
]
