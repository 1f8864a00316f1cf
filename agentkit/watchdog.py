"""One timer for every timeout of a run.

What it holds: `Watchdog`, which cancels tasks that are still busy when their time is up.
Guarantee: at most one timer is set, however many tasks are watched; nobody is cancelled early, and a task that
reports back in time is not cancelled at all.
Strategy: the timer is set for the earliest instant and, when it fires, looks through the watched tasks. An
`asyncio.timeout` per call would set and clear a timer each time, which costs more than all the rest of the executor.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import Any

__all__ = ["Watchdog"]


class Watchdog:
    """Cancels each watched task at its instant, unless it is released first."""

    __slots__ = ("_bitten", "_due", "_loop", "_timer", "_watched")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._watched: dict[asyncio.Task[Any], float] = {}
        self._bitten: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._due = inf  # when the timer fires

    def watch(self, task: asyncio.Task[Any], when: float) -> None:
        """Cancel `task` at the loop's instant `when`."""
        self._watched[task] = when
        if when < self._due:
            self._set(when)

    def release(self, task: asyncio.Task[Any]) -> bool:
        """Stop watching; return whether the task's time ran out (its cancellation is then taken back)."""
        if self._watched.pop(task, None) is not None:
            return False
        self._bitten.remove(task)
        task.uncancel()
        return True

    def close(self) -> None:
        """Clear the timer; watched tasks are left alone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._due = None, inf

    def _set(self, when: float) -> None:
        self.close()
        self._timer, self._due = self._loop.call_at(when, self._fire), when

    def _fire(self) -> None:
        now = max(self._due, self._loop.time())
        for task, when in list(self._watched.items()):
            if when <= now:
                del self._watched[task]
                self._bitten.add(task)
                task.cancel()
        self._timer, self._due = None, inf
        if self._watched:
            self._set(min(self._watched.values()))

    def __repr__(self) -> str:
        return f"<Watchdog: {len(self._watched)} watched>"
