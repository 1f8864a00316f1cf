"""Where the tasks of a run come from: any iterable, sync or async, asked only when a worker is free.

What it holds: `Source`, which makes outcomes of tasks, one at a time.
Guarantees: never asked ahead of need, so it may be endless; two workers never ask an async source at once; an error
of the source ends the input, not what is in flight.
Strategy: one counter numbers the tasks; with a cost hint they are sorted first, longest first, which shortens the
tail of a run (LPT scheduling, Graham 1969).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Sized
from typing import Any

from agentkit.report.outcome import Outcome

__all__ = ["Source"]


class Source:
    """Tasks to be taken one by one.

    >>> source = Source(["a", "bcd"], cost=len)
    >>> source.total, source.take().task, source.take().task, source.take()
    (2, 'bcd', 'a', None)
    """

    def __init__(
        self,
        tasks: Any,
        cost: Callable[[Any], float] | None = None,
        recall: Callable[[Outcome], None] | None = None,
    ) -> None:
        if isinstance(tasks, str | bytes):
            raise TypeError(f"tasks must be an iterable of tasks, got the single text {tasks!r:.40}; put it in a list")
        self.slow = isinstance(tasks, AsyncIterable)
        """Whether it must be awaited: an async iterable."""
        if not self.slow and not isinstance(tasks, Iterable):
            remedy = "tasks come first, then the agent" if callable(tasks) else "put a single task in a list"
            raise TypeError(f"tasks must be an iterable or async iterable, got {tasks!r:.60}; {remedy}")
        self._order: list[int] | None = None  # input index of each task, where they are not taken in input order
        if cost is not None:
            tasks, self._order = _longest_first(tasks, cost)
        self.in_order = cost is None
        """Whether tasks are taken in the order of the input."""
        self.total = len(tasks) if isinstance(tasks, Sized) else None
        """How many tasks there are; None where that cannot be known."""
        self.taken = self.waiting = 0
        """Tasks taken so far; workers waiting for a slow source now."""
        self.kept: list[Outcome] | None = None
        """The outcomes of all tasks taken, in that order, for a run that keeps them."""
        self.exhausted = False
        """Whether there will be no more."""
        self.error: Exception | None = None
        """What the source raised, if that is why there will be no more."""
        self._recall = recall  # ends the outcome of a task that a journal knows as done
        self._tasks: Any = aiter(tasks) if self.slow else iter(tasks)
        self.numbered = self._number()
        """The tasks with their numbers, for whoever needs no outcomes; not for a slow source."""
        self._turn = asyncio.Lock()

    def _number(self) -> Iterator[tuple[int, Any]]:
        """Give each task its number, as long as there are tasks."""
        try:
            for task in self._tasks:
                number = self.taken
                self.taken = number + 1
                yield number, task
        except Exception as error:
            self.error = error
        self.exhausted = True

    def take(self) -> Outcome | None:
        """Return a fresh outcome for the next task; None if there is none."""
        if self.exhausted:
            return None
        try:
            task = next(self._tasks)
        except StopIteration:
            self.exhausted = True
            return None
        except Exception as error:
            self.exhausted, self.error = True, error
            return None
        number = self.taken
        self.taken = number + 1
        outcome = Outcome(number if self._order is None else self._order[number], task)
        if self._recall is not None and not self._recalled(outcome):
            return None
        if self.kept is not None:
            self.kept.append(outcome)
        return outcome

    def _recalled(self, outcome: Outcome) -> bool:
        """Ask the journal; where it cannot say, the input ends."""
        assert self._recall is not None
        try:
            self._recall(outcome)
        except Exception as error:
            self.exhausted, self.error, self.taken = True, error, self.taken - 1
        return self.error is None

    async def take_slowly(self, now: Callable[[], float]) -> Outcome | None:
        """Do the same for a slow source; `now` says when the task arrived."""
        self.waiting += 1
        try:
            async with self._turn:
                if self.exhausted:
                    return None
                task = await anext(self._tasks)
        except StopAsyncIteration:
            self.exhausted = True
            return None
        except Exception as error:
            self.exhausted, self.error = True, error
            return None
        finally:
            self.waiting -= 1
        outcome = Outcome(self.taken, task, submitted=now())
        self.taken += 1
        if self._recall is not None and not self._recalled(outcome):
            return None
        if self.kept is not None:
            self.kept.append(outcome)
        return outcome

    def rest(self, reason: str) -> list[Outcome]:
        """Return outcomes for the tasks nobody took, where it is known how many those are."""
        if self.total is None or self.error is not None:
            return []
        self.kept = None
        outcomes = list(iter(self.take, None))
        for outcome in (outcome for outcome in outcomes if outcome.finished is None):
            outcome.error = asyncio.CancelledError(f"not started: {reason}")
        return outcomes

    def __repr__(self) -> str:
        of = "" if self.total is None else f" of {self.total}"
        return f"<Source: {self.taken}{of} tasks taken{', no more' if self.exhausted else ''}>"


def _longest_first(tasks: Any, cost: Any) -> tuple[list[Any], list[int]]:
    """Return the tasks in the order of falling cost, and the input index of each."""
    if not callable(cost):
        raise TypeError(f"cost must be a function of a task, got {cost!r}; use len, or lambda task: task.length")
    if not isinstance(tasks, Sized) or not isinstance(tasks, Iterable):
        raise TypeError("cost needs all tasks at once to sort them; hand in a list, or leave cost out")
    items = list(tasks)
    order = sorted(range(len(items)), key=lambda i: -cost(items[i]))
    return [items[i] for i in order], order
