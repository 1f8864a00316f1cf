"""Locks for asyncio.

`keyed`: one per key; and a way to force an order in tests. `traced`: who waited for whom. `order`: no deadlock.
"""

from __future__ import annotations

from agentkit.locks.keyed import KeyedLock, KeyedLockStatistics, Sequencer, SequencerStatistics
from agentkit.locks.order import LockOrder, LockOrderError, LockOrderStatistics
from agentkit.locks.traced import LockSpan, LockStatistics, TracedLock

__all__ = [
    "KeyedLock",
    "KeyedLockStatistics",
    "LockOrder",
    "LockOrderError",
    "LockOrderStatistics",
    "LockSpan",
    "LockStatistics",
    "Sequencer",
    "SequencerStatistics",
    "TracedLock",
]
