"""One timer for every timeout of a run.

What it holds: `Watchdog`, which cancels tasks that are still busy when their time is up.
Guarantee: at most one timer is set, however many tasks are watched; nobody is cancelled early, and a task that
reports back in time is not cancelled at all.
Strategy: the timer is set for the earliest instant and, when it fires, looks through the watched tasks. An
`asyncio.timeout` per call would set and clear a timer each time, which costs more than all the rest of the executor.
For the same reason `agentkit.executor.attempt` does what `watch` and `release` do on `watched` and `due` itself.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import Any

__all__ = ["Watchdog"]


class Watchdog:
    """Cancels each watched task at its instant, unless it is released first."""

    __slots__ = ("_bitten", "_loop", "_timer", "due", "watched")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.watched: dict[asyncio.Task[Any], float] = {}
        """When to cancel whom."""
        self._bitten: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self.due = inf
        """When the timer fires."""

    def watch(self, task: asyncio.Task[Any], when: float) -> None:
        """Cancel `task` at the loop's instant `when`."""
        self.watched[task] = when
        if when < self.due:
            self.wake(when)

    def release(self, task: asyncio.Task[Any]) -> bool:
        """Stop watching; return whether the task's time ran out (its cancellation is then taken back)."""
        if self.watched.pop(task, None) is not None:
            return False
        self.forgive(task)
        return True

    def forgive(self, task: asyncio.Task[Any]) -> None:
        """Take back the cancellation of a task whose time ran out."""
        self._bitten.remove(task)
        task.uncancel()

    def close(self) -> None:
        """Clear the timer; watched tasks are left alone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self.due = None, inf

    def wake(self, when: float) -> None:
        """Set the timer."""
        self.close()
        self._timer, self.due = self._loop.call_at(when, self._fire), when

    def _fire(self) -> None:
        now = max(self.due, self._loop.time())
        for task, when in list(self.watched.items()):
            if when <= now:
                del self.watched[task]
                self._bitten.add(task)
                task.cancel()
        self._timer, self.due = None, inf
        if self.watched:
            self.wake(min(self.watched.values()))

    def __repr__(self) -> str:
        return f"<Watchdog: {len(self.watched)} watched>"
