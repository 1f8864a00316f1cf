"""A slot lent while its holder waits: what keeps nested runs on one limiter from locking each other out.

What it holds: `Holder`, one per worker, and `lent`, which a run enters while somebody waits for it.
Guarantee: an agent that starts a run of its own on the limiter it is running under, and waits for it, takes no slot
meanwhile; so runs may nest as deep as they like, under any limit, and the limit still holds.
Strategy: a context variable says which slot the waiting code holds. It is released for the wait and taken again after.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

from agentkit.report.outcome import Outcome, current
from agentkit.semaphore import CapacityLimiter, QueueFull

__all__ = ["Holder", "holder", "lent"]


class Holder:
    """A worker's slot, as its agent sees it."""

    __slots__ = ("doing", "holding", "limiter", "waits")

    def __init__(self, limiter: CapacityLimiter) -> None:
        self.limiter = limiter
        self.holding = False  # whether the worker has a slot
        self.doing: Outcome | int | None = None  # what the worker is busy with, or was last
        self.waits = 0  # runs the agent is waiting for; the slot is lent while there are any

    @property
    def busy(self) -> bool:
        """Whether an attempt is under way."""
        return self.doing is not None and getattr(self.doing, "finished", None) is None

    def works_for(self, task: Outcome | int | None) -> bool:
        """Whether the worker is busy with this task; what an agent left behind in the background holds no slot."""
        return task is not None and task is self.doing and self.busy

    async def take_back(self) -> None:
        """Take the slot again: in turn, and anyway if that is not to be."""
        try:
            await self.limiter.acquire()
        except (QueueFull, asyncio.CancelledError) as error:
            self.limiter.acquire_anyway()  # the worker will release it in a moment
            if isinstance(error, asyncio.CancelledError):
                raise


holder: ContextVar[Holder | None] = ContextVar("agentkit holder", default=None)
numbered: ContextVar[int | None] = ContextVar("agentkit number", default=None)
"""The number of the task that the running code works for, where a run keeps no outcome of it."""


@asynccontextmanager
async def lent(limiter: CapacityLimiter) -> AsyncIterator[None]:
    """Lend the slot of whoever waits in this block, if it is one of `limiter`."""
    mine = holder.get()
    task = numbered.get() if (outcome := current.get()) is None else outcome
    if mine is None or mine.limiter is not limiter or not mine.works_for(task):
        yield
        return
    mine.waits += 1
    if mine.waits == 1:
        limiter.release()
    try:
        yield
    finally:
        mine.waits -= 1
        if mine.waits == 0:
            await mine.take_back()
