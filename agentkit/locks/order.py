"""Deadlocks found before they happen: every lock must be taken in one order.

What it holds: `LockOrder`, `LockOrderError` and `LockOrderStatistics`. Import them from `agentkit.locks`.
Guarantees: if two tasks ever take two locks in opposite orders, one of them gets an error that names both orders and
both lines, also when the two never met and nothing would have got stuck this time.
Strategy: each "held this, then took that" is an arrow in a graph; an arrow that would close a circle is refused.
(The method of lockdep in the Linux kernel.) One event loop at a time; not for threads. Opened by notebook 05.
"""

from __future__ import annotations

import asyncio
import itertools
import linecache
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["LockOrder", "LockOrderError", "LockOrderStatistics"]

Task = asyncio.Task[Any]

_NOT_YOURS = tuple(f"{path}{os.sep}" for path in (Path(asyncio.__file__).parents[1], Path(__file__).parents[1]))


class LockOrderError(RuntimeError):
    """Two locks are taken in both orders, so two tasks can wait for each other. Remedy: one order everywhere."""


@dataclass(frozen=True, slots=True)
class LockOrderStatistics:
    """A `LockOrder` at one instant."""

    orders: int
    """Pairs of locks seen so far, one held while the other was taken."""
    holding: int
    """Tasks that hold a watched lock now."""
    refused: int
    """Acquisitions refused because they could deadlock."""


class LockOrder:
    """A watcher that turns a possible deadlock into an error.

    >>> from agentkit.locks.keyed import TracedLock
    >>> async def main():
    ...     order = LockOrder()
    ...     history, budget = TracedLock("history", order=order), TracedLock("budget", order=order)
    ...     async with history, budget:
    ...         pass
    ...     async with budget, history:
    ...         pass
    >>> asyncio.run(main())
    Traceback (most recent call last):
        ...
    agentkit.locks.order.LockOrderError: possible deadlock: ... takes 'budget' then 'history' (main, line 6: async with
    budget, history:), but ... took 'history' then 'budget' (main, line 4: async with history, budget:); take them in
    one order everywhere

    Give the same watcher to every `TracedLock` and `KeyedLock` that may be held together. Locks are known by name.
    """

    def __init__(self) -> None:
        self._after: dict[str, dict[str, tuple[str, str]]] = {}  # held -> taken next -> (task, place) of the first time
        self._held: dict[Task, list[str]] = {}  # no entry for a task that holds nothing
        self._refused = 0

    def acquiring(self, name: str, task: Task) -> None:
        """Note that `task` is about to wait for `name`; raise `LockOrderError` if that can end in a deadlock."""
        for held in self._held.get(task, ()):
            if name in self._after.get(held, ()):
                continue
            circle = self._way(name, held)
            if circle:
                self._refused += 1
                raise LockOrderError(self._explain(held, name, task, circle))
            self._after.setdefault(held, {})[name] = (task.get_name(), _place())

    def acquired(self, name: str, task: Task) -> None:
        """Note that `task` holds `name` from now on."""
        self._held.setdefault(task, []).append(name)

    def released(self, name: str, task: Task) -> None:
        """Note that `task` let go of `name`."""
        self._held[task].remove(name)
        if not self._held[task]:
            del self._held[task]

    @property
    def orders(self) -> list[tuple[str, str, str, str]]:
        """Every order seen so far: `(first lock, second lock, task, place)`."""
        return [(one, two, *seen) for one, after in self._after.items() for two, seen in after.items()]

    def statistics(self) -> LockOrderStatistics:
        """Return how many orders were seen, how many tasks hold a lock now, and how often one was refused."""
        return LockOrderStatistics(len(self.orders), len(self._held), self._refused)

    def _way(self, start: str, goal: str) -> list[str]:
        """Return a chain of locks already taken in the order start, ..., goal; empty if there is none."""
        ways, seen = [[start]], {start}
        for way in ways:  # breadth first, so the shortest one; the list grows while it is walked
            if way[-1] == goal:
                return way
            for after in self._after.get(way[-1], ()):
                if after not in seen:
                    seen.add(after)
                    ways.append([*way, after])
        return []

    def _explain(self, held: str, name: str, task: Task, circle: list[str]) -> str:
        if held == name:
            return f"task {task.get_name()!r} takes two locks named {name!r}; give each lock a name of its own"
        before = ", and ".join(
            "task {2!r} took {0!r} then {1!r} ({3})".format(one, two, *self._after[one][two])
            for one, two in itertools.pairwise(circle)
        )
        return (
            f"possible deadlock: task {task.get_name()!r} takes {held!r} then {name!r} ({_place()}), but {before}; "
            "take them in one order everywhere"
        )

    def __repr__(self) -> str:
        now = self.statistics()
        return f"<LockOrder {now.orders} orders seen, {now.holding} tasks holding, {now.refused} refused>"


def _place() -> str:
    """Say which of the reader's own lines is asking."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_NOT_YOURS):
        frame = frame.f_back
    text = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
    return f"{frame.f_code.co_name}, line {frame.f_lineno}" + (f": {text}" if text else "")
