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
    from agentkit.agent import Agent, BrokenAnswer, ChatAgent, Reply
    from agentkit.executor import ParallelAgentExecutor
    from agentkit.executor.run import Run
    from agentkit.journal import Journal
    from agentkit.limits import Budget, BudgetExceeded, RateLimiter, TokenBucket
    from agentkit.locks import KeyedLock, LockOrder, LockOrderError, TracedLock
    from agentkit.orchestration import CoordinatorOrchestrator, ParallelOrchestrator, Pipeline, SequentialOrchestrator
    from agentkit.report import Report, Summary, Usage
    from agentkit.report.outcome import Attempt, Outcome, span
    from agentkit.retry import RetryPolicy
    from agentkit.semaphore import CapacityLimiter, QueueFull
    from agentkit.semaphore.adaptive import AdaptiveLimiter
    from agentkit.state import Conflict, ConversationState, SharedState, VersionedState

__version__ = "0.1.0"

_HOME = {
    "AdaptiveLimiter": "semaphore",
    "Agent": "agent",
    "Attempt": "report",
    "BrokenAnswer": "agent",
    "Budget": "limits",
    "BudgetExceeded": "limits",
    "CapacityLimiter": "semaphore",
    "ChatAgent": "agent",
    "Conflict": "state",
    "ConversationState": "state",
    "CoordinatorOrchestrator": "orchestration",
    "Journal": "journal",
    "KeyedLock": "locks",
    "LockOrder": "locks",
    "LockOrderError": "locks",
    "Outcome": "report",
    "ParallelAgentExecutor": "executor",
    "ParallelOrchestrator": "orchestration",
    "Pipeline": "orchestration",
    "QueueFull": "semaphore",
    "RateLimiter": "limits",
    "Reply": "agent",
    "Report": "report",
    "RetryPolicy": "retry",
    "Run": "executor",
    "SequentialOrchestrator": "orchestration",
    "SharedState": "state",
    "Summary": "report",
    "TokenBucket": "limits",
    "TracedLock": "locks",
    "Usage": "report",
    "VersionedState": "state",
    "span": "report",
}

__all__ = [
    "AdaptiveLimiter",
    "Agent",
    "Attempt",
    "BrokenAnswer",
    "Budget",
    "BudgetExceeded",
    "CapacityLimiter",
    "ChatAgent",
    "Conflict",
    "ConversationState",
    "CoordinatorOrchestrator",
    "Journal",
    "KeyedLock",
    "LockOrder",
    "LockOrderError",
    "Outcome",
    "ParallelAgentExecutor",
    "ParallelOrchestrator",
    "Pipeline",
    "QueueFull",
    "RateLimiter",
    "Reply",
    "Report",
    "RetryPolicy",
    "Run",
    "SequentialOrchestrator",
    "SharedState",
    "Summary",
    "TokenBucket",
    "TracedLock",
    "Usage",
    "VersionedState",
    "span",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
