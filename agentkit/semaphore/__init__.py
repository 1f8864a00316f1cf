"""How many at once.

`capacity`: a semaphore that can be turned and watched. `adaptive`: one that finds its limit; `gradient`: by latency.
"""

from __future__ import annotations

from agentkit.semaphore.adaptive import AdaptiveLimiter, AdaptiveStatistics
from agentkit.semaphore.capacity import CapacityLimiter, LimiterStatistics, QueueFull

__all__ = [
    "AdaptiveLimiter",
    "AdaptiveStatistics",
    "CapacityLimiter",
    "LimiterStatistics",
    "QueueFull",
]
