"""One agent over many tasks.

`executor`: what people use. `run`: a run in progress; `mapping`: one of which only the results are kept.
`crew`: how workers come and go; `workers`: what they do; `attempt`: one try at a task.
One part each: `source` (tasks), `gate` (pause), `lending` (nested runs), `settings` (time limits and policies),
`watchdog` (timeouts), `agent_call` (threads and processes), `progress` (a bar).
"""

from __future__ import annotations

from agentkit.executor.executor import ParallelAgentExecutor
from agentkit.executor.run import Run, RunStatistics

__all__ = [
    "ParallelAgentExecutor",
    "Run",
    "RunStatistics",
]
