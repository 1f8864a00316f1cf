"""Locks for asyncio.

`keyed`: one lock per key. `traced`: a lock that records who waited and who held it. `order`: detects deadlocks.
"""

from __future__ import annotations

from agentkit.locks.keyed import KeyedLock, KeyedLockStatistics
from agentkit.locks.order import LockOrder, LockOrderError
from agentkit.locks.traced import LockSpan, LockStatistics, TracedLock

__all__ = [
    "KeyedLock",
    "KeyedLockStatistics",
    "LockOrder",
    "LockOrderError",
    "LockSpan",
    "LockStatistics",
    "TracedLock",
]
