"""Detects possible deadlocks: all locks must be taken in one order.

What it holds: `LockOrder` and `LockOrderError`. Import them from `agentkit.locks`.
Guarantees: if two tasks ever take two locks in opposite orders, one of them gets an error that names both orders and
both lines, even if they ran at different times and there was no deadlock.
Strategy: each "took B while holding A" is an edge of a graph; an edge that would close a cycle is refused. (The method
of lockdep in the Linux kernel.) One event loop at a time; not thread-safe. Opened by notebook 05.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import linecache
import os
from pathlib import Path
from typing import Any

__all__ = ["LockOrder", "LockOrderError"]

Task = asyncio.Task[Any]

_NOT_USER_CODE = tuple(f"{path}{os.sep}" for path in (Path(asyncio.__file__).parents[1], Path(__file__).parents[1]))


class LockOrderError(RuntimeError):
    """Two locks are taken in both orders, so two tasks can deadlock. Remedy: take them in one order everywhere."""


class LockOrder:
    """Turns a possible deadlock into an error.

    >>> from agentkit.locks import TracedLock
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

    Pass the same `LockOrder` to every `TracedLock` and `KeyedLock` that may be held together; it tells locks apart
    by name.
    """

    def __init__(self) -> None:
        self._after: dict[str, dict[str, tuple[str, str]]] = {}  # held -> taken next -> (task, line) of the first time
        self._held: dict[Task, list[str]] = {}  # only tasks that hold a lock
        self._refused = 0

    def acquiring(self, name: str, task: Task) -> None:
        """Record that `task` is about to wait for `name`; raises `LockOrderError` if that can deadlock."""
        for held in self._held.get(task, ()):
            if name in self._after.get(held, ()):
                continue
            cycle = self._path(name, held)
            if cycle:
                self._refused += 1
                raise LockOrderError(self._explain(held, name, task, cycle))
            self._after.setdefault(held, {})[name] = (task.get_name(), _place())

    def acquired(self, name: str, task: Task) -> None:
        """Record that `task` holds `name` now."""
        self._held.setdefault(task, []).append(name)

    def released(self, name: str, task: Task) -> None:
        """Record that `task` released `name`."""
        self._held[task].remove(name)
        if not self._held[task]:
            del self._held[task]

    @property
    def orders(self) -> list[tuple[str, str, str, str]]:
        """Every order seen so far, as `(first lock, second lock, task, line)`."""
        return [(one, two, *seen) for one, after in self._after.items() for two, seen in after.items()]

    def _path(self, start: str, goal: str) -> list[str]:
        """Return a chain of locks that were taken in the order start, ..., goal; empty if there is none."""
        paths, seen = [[start]], {start}
        for path in paths:  # breadth first, so the shortest one; the list grows during the loop
            if path[-1] == goal:
                return path
            for after in self._after.get(path[-1], ()):
                if after not in seen:
                    seen.add(after)
                    paths.append([*path, after])
        return []

    def _explain(self, held: str, name: str, task: Task, cycle: list[str]) -> str:
        if held == name:
            return f"task {task.get_name()!r} takes two locks named {name!r}; give each lock a name of its own"
        before = ", and ".join(
            "task {2!r} took {0!r} then {1!r} ({3})".format(one, two, *self._after[one][two])
            for one, two in itertools.pairwise(cycle)
        )
        return (
            f"possible deadlock: task {task.get_name()!r} takes {held!r} then {name!r} ({_place()}), but {before}; "
            "take them in one order everywhere"
        )

    def __repr__(self) -> str:
        return f"<LockOrder {len(self.orders)} orders seen, {len(self._held)} tasks holding, {self._refused} refused>"


def _place() -> str:
    """Return the innermost line of the caller that is neither asyncio's nor agentkit's."""
    frame = inspect.currentframe()
    assert frame is not None
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_NOT_USER_CODE):
        frame = frame.f_back
    text = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
    return f"{frame.f_code.co_name}, line {frame.f_lineno}" + (f": {text}" if text else "")
