"""Concurrency for multi-agent LLM systems: an executor, limits, state and locks that show what they do.

>>> import asyncio
>>> from agentkit import ParallelAgentExecutor
>>> async def agent(question):
...     return question.upper()
>>> asyncio.run(ParallelAgentExecutor(max_concurrency=5).execute(["a", "b"], agent)).results
['A', 'B']

Names load when first used, so that `import agentkit` costs next to nothing. What draws, serves and teaches lives in
`agentkit.lab`, which the core never imports.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentkit.agent import Agent, ChatAgent, Reply, Usage
    from agentkit.executor import ParallelAgentExecutor
    from agentkit.outcome import Attempt, Outcome, span
    from agentkit.report import Report, Summary
    from agentkit.run import Run
    from agentkit.semaphore import CapacityLimiter, QueueFull

__version__ = "0.1.0"

_HOME = {
    "Agent": "agent",
    "Attempt": "outcome",
    "CapacityLimiter": "semaphore",
    "ChatAgent": "agent",
    "Outcome": "outcome",
    "ParallelAgentExecutor": "executor",
    "QueueFull": "semaphore",
    "Reply": "agent",
    "Report": "report",
    "Run": "run",
    "Summary": "report",
    "Usage": "agent",
    "span": "outcome",
}

__all__ = [
    "Agent",
    "Attempt",
    "CapacityLimiter",
    "ChatAgent",
    "Outcome",
    "ParallelAgentExecutor",
    "QueueFull",
    "Reply",
    "Report",
    "Run",
    "Summary",
    "Usage",
    "span",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
