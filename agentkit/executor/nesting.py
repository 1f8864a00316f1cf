"""Runs inside runs: an agent that waits for a run of its own on the limiter it is running under.

What it holds: `Nesting`, the place of one run among others, `inside`, and `NeverStarts`.
Guarantees: an attempt that waits for a nested run lends it its slot, so runs may nest as deep as they like; a slot is
lent only by the attempt's own asyncio task, so the limit holds; a nested run that no slot can ever reach, because all
are held by attempts that wait for such runs in tasks of their own, is refused at once.
Strategy: a context variable says inside which run the running code is. Taken apart in notebook 05.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any

from agentkit.report.outcome import Outcome, current
from agentkit.semaphore import CapacityLimiter

__all__ = ["Nesting", "NeverStarts", "inside"]


class NeverStarts(RuntimeError):
    """A nested run that would wait for a slot forever. Remedy: await it directly, or give it its own limiter."""


class Nesting:
    """The place of a run: which attempt it was started in, and which of its own attempts have lent their slot."""

    __slots__ = ("_awaited", "_queued", "lent", "limiter", "live", "outcome", "outer")

    def __init__(self, limiter: CapacityLimiter, live: Mapping[int, tuple[asyncio.Task[Any], float]]) -> None:
        self.limiter = limiter
        self.live = live
        """The attempts of the run, by the number of their task."""
        self.lent: set[int] = set()
        """Those whose slot is lent."""
        self.outer, self.outcome = inside.get(), current.get()
        """The run, and the attempt of it, inside which this one was started; None for neither."""
        self._queued = self._awaited = False  # for a slot; by a task that lends it none

    @contextmanager
    def queued(self) -> Iterator[None]:
        """While the run waits for a slot; raises `NeverStarts` if it would wait forever."""
        self._queued = True
        try:
            self.check()
            yield
        finally:
            self._queued = False
            _blocked.discard(self)

    @asynccontextmanager
    async def awaited(self) -> AsyncIterator[None]:
        """While the running code waits for the run: lends the slot of the attempt that it is, if it is one."""
        outer, outcome = inside.get(), current.get()
        if outer is None or outcome is None or not self._may_lend(outer, outcome):
            self._awaited = True
            self.check()
            yield
            return
        outer.lent.add(outcome.task_id)
        self.limiter.release()
        try:
            yield
        finally:
            try:
                await self.limiter.acquire_again()
            finally:
                outer.lent.discard(outcome.task_id)

    def _may_lend(self, outer: Nesting, outcome: Outcome) -> bool:
        """Whether the running code is an attempt under this limiter, and not a task that an agent started."""
        attempt = outer.live.get(outcome.task_id)
        return outer.limiter is self.limiter and attempt is not None and attempt[0] is asyncio.current_task()

    def check(self) -> None:
        """Raise `NeverStarts` if every slot is held by an attempt that waits, without lending it, for such a run."""
        if not (self._queued and self._awaited and self.holders()):
            return
        _blocked.add(self)
        waiting = [nesting for nesting in list(_blocked) if nesting.limiter is self.limiter]
        holders: set[int] = set().union(*(nesting.holders() for nesting in waiting))
        if len(holders) >= self.limiter.statistics().in_flight:
            raise NeverStarts(
                "a nested run can never start: every slot of its limiter is held by an agent that waits for such a "
                "run; await the nested run in the agent itself, not in a task, or give it a limiter of its own"
            )

    def holders(self) -> set[int]:
        """The attempts inside which the run was started and which hold a slot of its limiter now."""
        found, nesting = set(), self
        while (outer := nesting.outer) is not None:
            outcome = nesting.outcome
            held = outcome is not None and outcome.task_id in outer.live and outcome.task_id not in outer.lent
            if outer.limiter is self.limiter and held:
                found.add(id(outcome))
            nesting = outer
        return found


inside: ContextVar[Nesting | None] = ContextVar("agentkit run", default=None)
"""The run whose attempt the running code belongs to."""
_blocked: set[Nesting] = set()  # those that wait for a slot, and are waited for by a task that lends them none
