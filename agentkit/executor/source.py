"""Where the tasks of a run come from: any iterable, sync or async, asked only when a task can start.

What it holds: `Source`, which numbers the tasks and makes an `Outcome` of each.
Guarantees: never asked ahead of need, so it may be endless; an async source is iterated by one asyncio task from
beginning to end; an error of the source ends the input, and what is in flight finishes.
Strategy: with a cost hint the tasks are sorted first, longest first, which shortens the end of a run (LPT scheduling,
Graham 1969).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Iterable, Sized
from typing import Any, Generic

from agentkit.base.arguments import called, function, number, refusal
from agentkit.journal.journal import JournalWriter
from agentkit.report.outcome import Outcome, T

__all__ = ["Source"]


class Source(Generic[T]):
    """Tasks, taken one at a time.

    >>> source = Source(["a", "bcd"], cost=len)
    >>> source.total, source.take().task, source.take().task, source.take()
    (2, 'bcd', 'a', None)
    """

    def __init__(self, tasks: Iterable[T] | AsyncIterable[T], cost: Callable[[T], float] | None = None) -> None:
        if isinstance(tasks, str | bytes):
            rule = "must be an iterable of tasks, not a single string"
            raise refusal("tasks", rule, tasks, "put it in a list", TypeError)
        self.is_async = isinstance(tasks, AsyncIterable)
        """Whether its tasks have to be waited for."""
        if not self.is_async and not isinstance(tasks, Iterable):
            remedy = "tasks come first, then the agent" if callable(tasks) else "put a single task in a list"
            raise refusal("tasks", "must be an iterable or async iterable", tasks, remedy, TypeError)
        self.order: list[int] | None = None
        """The input index of each task, where they are not taken in input order."""
        if cost is not None:
            tasks, self.order = _longest_first(tasks, cost)
        self.total = len(tasks) if isinstance(tasks, Sized) and not self.is_async else None
        """How many tasks there are; None where that cannot be known."""
        self.taken = 0
        """Tasks taken so far."""
        self.exhausted = self.total == 0
        """Whether there are no more."""
        self.error: BaseException | None = None
        """What the source raised, if that is why there are no more."""
        self._tasks: Any = aiter(tasks) if self.is_async else iter(tasks)  # type: ignore[arg-type]
        self._feeder: asyncio.Task[None] | None = None
        self.arrived: list[Outcome[T, Any]] = []
        self._wanted = asyncio.Event()

    @property
    def feeder(self) -> asyncio.Task[None] | None:
        """The asyncio task that iterates over an async source, while it runs."""
        return None if self._feeder is None or self._feeder.done() else self._feeder

    def start(self, now: Callable[[], float], wake: Callable[[], None]) -> None:
        """Begin with an async source: `now()` says when a task arrived, `wake()` is called when one did."""
        feed = self._feed(now, wake)
        try:
            self._feeder = asyncio.get_running_loop().create_task(feed)
        except BaseException:
            feed.close()
            raise
        self._feeder.add_done_callback(lambda _: wake())

    def take(self) -> Outcome[T, Any] | None:
        """Return a new outcome for the next task; None if there is none, or none yet."""
        if self.is_async:
            if self.arrived:
                return self.arrived.pop()
            self._wanted.set()
            return None
        if self.exhausted:
            return None
        try:
            task = next(self._tasks)
        except StopIteration:
            self.exhausted = True
            return None
        except (Exception, asyncio.CancelledError) as error:
            self.exhausted, self.error = True, _not_a_cancellation(error)
            return None
        number = self.taken
        self.taken = number + 1
        self.exhausted = self.taken == self.total
        return Outcome(number if self.order is None else self.order[number], task)

    def fail(self, error: BaseException) -> None:
        """End the input because of an error: the task taken last does not count."""
        self.error, self.taken = error, self.taken - 1
        self.close()

    def close(self) -> None:
        """Take no more."""
        self.exhausted = True
        if self.feeder is not None:
            self.feeder.cancel()

    async def _feed(self, now: Callable[[], float], wake: Callable[[], None]) -> None:
        try:
            while not self.exhausted:
                await self._wanted.wait()
                task = await anext(self._tasks)
                self._wanted.clear()
                self.arrived.append(Outcome(self.taken, task, submitted=now()))
                self.taken += 1
                wake()
        except StopAsyncIteration:
            pass
        except asyncio.CancelledError as error:
            if not self.exhausted:  # the source cancelled the task that iterates over it
                self.error = _not_a_cancellation(error)
        except BaseException as error:
            self.error = error  # KeyboardInterrupt too reaches the caller by way of the run
        finally:
            self.exhausted = True

    def rest(self, reason: str, writer: JournalWriter | None) -> list[Outcome[T, Any]]:
        """Return outcomes for the tasks that were not taken, where it is known how many those are."""
        if self.total is None or self.error is not None:
            return []
        self.exhausted = False
        outcomes: list[Outcome[T, Any]] = []
        try:
            while (outcome := self.take()) is not None:
                outcome.error = asyncio.CancelledError(f"not started: {reason}")
                outcomes.append(outcome)
                if writer is not None:  # which may know that it is done
                    writer.recall(outcome)
                    if outcome.finished is not None and outcome.status == "success":
                        outcome.error = None
        except BaseException:  # the run has ended already, and its report is worth more
            pass
        return outcomes

    def __repr__(self) -> str:
        of = "" if self.total is None else f" of {self.total}"
        return f"<Source: {self.taken}{of} tasks taken{', no more' if self.exhausted else ''}>"


def _not_a_cancellation(error: BaseException) -> BaseException:
    """What the source raised, or what to raise instead so that it does not look as if the caller were cancelled."""
    if not isinstance(error, asyncio.CancelledError):
        return error
    instead = RuntimeError("the source of tasks was cancelled from inside")
    instead.__cause__ = error
    return instead


def _longest_first(tasks: object, cost: Callable[[T], float]) -> tuple[list[T], list[int]]:
    """Return the tasks in the order of falling cost, and the input index of each."""
    function("cost", cost, "use len, or lambda task: task.length")
    if not isinstance(tasks, Sized) or not isinstance(tasks, Iterable):
        raise TypeError("cost needs all tasks at once to sort them; hand in a list, or leave cost out")
    items = list(tasks)
    order = sorted(range(len(items)), key=lambda i: -number("the result of cost", called("cost", cost, items[i])))
    return [items[i] for i in order], order
