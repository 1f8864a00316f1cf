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

# Which folder each name comes from.
_NAMES = {
    "agent": "Agent BrokenAnswer ChatAgent Reply",
    "executor": "ParallelAgentExecutor Run",
    "journal": "Journal",
    "limits": "Budget BudgetExceeded RateLimiter TokenBucket",
    "locks": "KeyedLock LockOrder LockOrderError TracedLock",
    "orchestration": "CoordinatorOrchestrator ParallelOrchestrator Pipeline SequentialOrchestrator",
    "report": "Attempt Outcome Report Summary Usage span",
    "retry": "RetryPolicy",
    "semaphore": "AdaptiveLimiter CapacityLimiter QueueFull",
    "state": "Conflict ConversationState SharedState VersionedState",
}
_HOME = {name: home for home, names in _NAMES.items() for name in names.split()}

__all__ = [
    "AdaptiveLimiter", "Agent", "Attempt", "BrokenAnswer", "Budget", "BudgetExceeded", "CapacityLimiter", "ChatAgent",
    "Conflict", "ConversationState", "CoordinatorOrchestrator", "Journal", "KeyedLock", "LockOrder", "LockOrderError",
    "Outcome", "ParallelAgentExecutor", "ParallelOrchestrator", "Pipeline", "QueueFull", "RateLimiter", "Reply",
    "Report", "RetryPolicy", "Run", "SequentialOrchestrator", "SharedState", "Summary", "TokenBucket", "TracedLock",
    "Usage", "VersionedState", "span",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
