"""An asyncio lock that records which tasks waited for it and held it, and for how long.

What it holds: `TracedLock`, its `LockSpan` records and `LockStatistics`. Import them from `agentkit.locks`.
Guarantees: first come, first served; regardless of which task is cancelled and when, the lock is never lost, never held
twice and never taken out of turn; only the task that holds it can release it.
Strategy: `release` hands the lock to the first waiter in the same step, so no other task can take it before that waiter
wakes up. One event loop at a time; not thread-safe. Opened by notebook 05.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any

from agentkit.base.arguments import instance, text, whole
from agentkit.locks.order import LockOrder
from agentkit.semaphore.waiters import Waiters

__all__ = ["LockSpan", "LockStatistics", "TracedLock"]

KEEP = "it is how many finished spans to remember"
Task = asyncio.Task[Any]


def _here() -> tuple[Task, float]:
    """Return the running task and the loop's time."""
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("a lock is taken and released inside a task; use asyncio.create_task or simulate")
    return task, task.get_loop().time()


@dataclass(frozen=True, slots=True)
class LockSpan:
    """How long one task waited for a lock and then held it, in seconds of the loop's clock."""

    lock: str
    """Name of the lock."""
    task: str
    """Name of the task."""
    requested: float
    """When the task asked for the lock."""
    acquired: float | None = None
    """When it got the lock; None while it waits, or if it was cancelled first."""
    released: float | None = None
    """When it released the lock or stopped waiting; None before that."""


@dataclass(frozen=True, slots=True)
class LockStatistics:
    """A lock at one instant."""

    holder: str | None
    """Name of the task that holds the lock."""
    queue_depth: int
    """Tasks waiting now."""
    peak_queue_depth: int
    """The most tasks that were ever waiting at once."""
    acquisitions: int
    """How often the lock was taken."""
    abandoned: int
    """How often a task was cancelled while waiting."""
    waited: float
    """Seconds spent waiting so far, summed over all tasks."""


class TracedLock:
    """An asyncio lock that records which tasks waited for it and held it.

    >>> async def main():
    ...     lock = TracedLock("history")
    ...     async with lock:
    ...         return lock.statistics().queue_depth, lock
    >>> asyncio.run(main())
    (0, <TracedLock 'history' free, 0 waiting, taken 1 times>)

    A replacement for `asyncio.Lock` (`async with`, `acquire`, `release`, `locked`) that turns two mistakes into a
    `RuntimeError`: taking the lock twice in one task, which would deadlock, and releasing a lock that another task
    holds. `spans` lists the last `keep` waits and holds, oldest request first. `order` is a `LockOrder` that detects
    deadlocks.
    """

    def __init__(self, name: str = "lock", *, order: LockOrder | None = None, keep: int = 10_000) -> None:
        self.name = text("name", name)
        self._order = instance("order", order, LockOrder, none=True)
        self._holder: Task | None = None
        self._since: tuple[float, float] = (0.0, 0.0)  # when the holder asked, and when it got the lock
        self._waiters = Waiters[tuple[Task, float]]("lock")  # each waiting task, and when it asked
        self._done: deque[LockSpan] = deque(maxlen=whole("keep", keep, KEEP, least=0))
        self._acquisitions = self._abandoned = 0
        self._waited = 0.0

    def locked(self) -> bool:
        """Whether a task holds the lock."""
        return self._holder is not None

    def acquire_nowait(self) -> bool:
        """Take the lock if it is free and return whether it was; never waits."""
        task, now = _here()
        return self._holder is None and self._hand_to(task, now, now)

    async def acquire(self) -> bool:
        """Take the lock, waiting in FIFO order; returns True, like `asyncio.Lock`."""
        task, asked = _here()
        if self._holder is task:
            raise RuntimeError(
                f"task {task.get_name()!r} already holds {self.name!r} and would wait for itself for ever; "
                "move the inner `async with` out, or call a function that does not lock"
            )
        if self._order is not None:
            self._order.acquiring(self.name, task)
        if self._holder is None:
            return self.acquire_nowait()
        if self._holder.get_loop() is not task.get_loop():
            raise RuntimeError(f"{self!r} is held on another event loop; give each loop a lock of its own")
        try:
            await self._waiters.wait((task, asked), self._grant)
        except asyncio.CancelledError:
            if self._holder is task:  # cancelled after the lock was handed to it, before it woke up
                self.release()
            else:
                now = task.get_loop().time()
                self._abandoned += 1
                self._waited += now - asked
                self._done.append(LockSpan(self.name, task.get_name(), asked, None, now))
            raise
        return True

    def release(self) -> None:
        """Release the lock and hand it to the first waiter."""
        task, now = _here()
        if self._holder is not task:
            holder = "nobody" if self._holder is None else f"task {self._holder.get_name()!r}"
            raise RuntimeError(
                f"task {task.get_name()!r} released {self.name!r}, which {holder} holds; use `async with` to pair them"
            )
        self._done.append(LockSpan(self.name, task.get_name(), *self._since, now))
        if self._order is not None:
            self._order.released(self.name, task)
        self._holder = None
        self._waiters.serve(self._grant)

    @property
    def spans(self) -> list[LockSpan]:
        """The waits and holds so far, including those that have not ended."""
        live = [LockSpan(self.name, self._holder.get_name(), *self._since)] if self._holder else []
        live += [LockSpan(self.name, task.get_name(), since) for task, since in self._waiters]
        return sorted([*self._done, *live], key=lambda span: span.requested)

    def statistics(self) -> LockStatistics:
        """Return which task holds the lock, how many wait, and totals."""
        holder = None if self._holder is None else self._holder.get_name()
        queued, peak = len(self._waiters), self._waiters.peak
        return LockStatistics(holder, queued, peak, self._acquisitions, self._abandoned, self._waited)

    def _grant(self, waiter: tuple[Task, float]) -> bool:
        return self._holder is None and self._hand_to(*waiter, waiter[0].get_loop().time())

    def _hand_to(self, task: Task, asked: float, now: float) -> bool:
        self._holder, self._since = task, (asked, now)
        self._acquisitions += 1
        self._waited += now - asked
        if self._order is not None:
            self._order.acquired(self.name, task)
        return True

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(self, *_: object) -> None:
        self.release()

    def __repr__(self) -> str:
        who = "free" if self._holder is None else f"held by {self._holder.get_name()!r}"
        return f"<TracedLock {self.name!r} {who}, {len(self._waiters)} waiting, taken {self._acquisitions} times>"
