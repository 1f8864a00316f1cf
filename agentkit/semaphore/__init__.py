"""Limiting how many calls run at once.

`capacity`: a semaphore you can resize and inspect. `adaptive`: one that finds its limit from refusals and latency.
`waiters`: the queue in which tasks wait, also for locks, rates and budgets.
"""

from __future__ import annotations

from agentkit.semaphore.adaptive import AdaptiveLimiter, AdaptiveStatistics
from agentkit.semaphore.capacity import CapacityLimiter, LimiterStatistics, QueueFull

__all__ = ["AdaptiveLimiter", "AdaptiveStatistics", "CapacityLimiter", "LimiterStatistics", "QueueFull"]
