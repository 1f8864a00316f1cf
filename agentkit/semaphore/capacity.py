"""Limiting how many calls run at once: a semaphore you can resize and inspect.

What it holds: `CapacityLimiter`, its `LimiterStatistics`, and `QueueFull`.
Guarantees: first come, first served; no slot is ever lost, granted twice or taken out of turn, whenever a waiter or
holder is cancelled; at most `limit` holders, except after `limit` was lowered, because holders are not interrupted.
Strategy: `release` hands the slot to the longest waiter in the same step. (Leaving the slot free until the waiter
resumes is how older asyncio and anyio semaphores lost wake-ups.) Use one event loop at a time; not thread-safe.
Opened by notebook 07; notebook 01 uses it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from agentkit.base.arguments import called, whole
from agentkit.semaphore.waiters import Waiters

__all__ = ["CapacityLimiter", "LimiterStatistics", "QueueFull"]


class QueueFull(RuntimeError):
    """A bounded queue has no room for another waiter. Remedy: shed the work, or try again later."""


@dataclass(frozen=True, slots=True)
class LimiterStatistics:
    """A snapshot of a limiter."""

    in_flight: int
    """Slots in use now."""
    limit: float
    """Number of slots; `math.inf` for no limit."""
    queue_depth: int
    """Callers waiting for a slot now."""
    peak_in_flight: int
    """The most slots that have been in use at once."""
    peak_queue_depth: int
    """The most callers that have waited at once."""


class CapacityLimiter:
    """A semaphore you can resize and inspect: at most `limit` holders at once.

    >>> import asyncio
    >>> async def main():
    ...     limiter = CapacityLimiter(2)
    ...     async with limiter:
    ...         return limiter
    >>> asyncio.run(main())
    <CapacityLimiter 0 of 2 in flight, 0 waiting>

    It replaces `asyncio.Semaphore` (`async with`, `acquire`, `release`, `locked`). Raising `limit` admits waiters
    immediately; lowering it takes effect as holders release their slots; 0 admits no caller until you raise it; None
    means no limit. With `max_queue`, a caller that would wait behind that many others gets `QueueFull` instead. It
    limits how many calls run at the same time, not how many start per minute; for that, see `RateLimiter`.
    """

    __slots__ = ("_in_flight", "_limit", "_listeners", "_max_queue", "_peak_in_flight", "_waiters", "runs")

    def __init__(self, limit: int | None, *, max_queue: int | None = None) -> None:
        self._limit = _count("limit", limit, "use 0 to admit no caller, None for no limit")
        remedy = "use 0 to refuse callers that would wait, None for no limit"
        self._max_queue = _count("max_queue", max_queue, remedy)
        self._in_flight = 0  # including slots handed to a waiter that has not resumed yet
        self._peak_in_flight = 0
        self._waiters = Waiters[None]("limiter")
        self.runs = 0
        """Runs of executors in progress that take their slots from here."""
        self._listeners: list[Callable[[], None]] = []

    @property
    def limit(self) -> float:
        """Number of slots; assign at any time.

        An assignment calls all listeners, then raises their errors, if any, as one `ExceptionGroup`.
        """
        return self._limit

    @limit.setter
    def limit(self, limit: float | None) -> None:
        self._limit = _count("limit", limit, "use 0 to admit no caller, None for no limit")
        self._waiters.serve(self._grant)
        errors: list[Exception] = []
        for listener in list(self._listeners):
            try:
                called("listener of the limiter", listener)
            except Exception as error:
                errors.append(error)
        if errors:
            raise ExceptionGroup(f"limit is {self._limit:g} now, but listeners raised", errors)

    def locked(self) -> bool:
        """Whether an `acquire` now would have to wait."""
        return self._in_flight >= self._limit

    def acquire_nowait(self) -> bool:
        """Take a slot if one is free; return whether it did. Never waits and never overtakes a waiter."""
        if self._in_flight >= self._limit:  # as always while others wait
            return False
        self.acquire_anyway()
        return True

    def acquire_anyway(self) -> None:
        """Take a slot even if none is free: for work already running, such as a thread that outlived its timeout."""
        self._in_flight += 1
        if self._in_flight > self._peak_in_flight:
            self._peak_in_flight = self._in_flight

    async def acquire(self) -> bool:
        """Take a slot, waiting in FIFO order if necessary; returns True, as `asyncio.Semaphore` does."""
        if self.acquire_nowait():
            return True
        if len(self._waiters) >= self._max_queue:
            raise QueueFull(
                f"{len(self._waiters)} callers wait already and max_queue is {self._max_queue:g}; "
                "shed this work, try again later, or raise max_queue"
            )
        await self._waiters.wait(None, self._grant, lambda _: self.release())
        return True

    def release(self) -> None:
        """Release a slot; the longest waiter gets it immediately.

        A thread may call it too, when it has outlived the event loop in which the slot was taken.
        """
        if self._in_flight <= 0:
            raise RuntimeError(f"{self!r}: release without acquire; use `async with limiter:` to pair them")
        self._in_flight -= 1
        self._waiters.serve(self._grant)

    def statistics(self) -> LimiterStatistics:
        """Return the limiter's current state and its peaks."""
        waiting, peak = len(self._waiters), self._waiters.peak
        return LimiterStatistics(self._in_flight, self._limit, waiting, self._peak_in_flight, peak)

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener()` after every change of `limit`; returns a function that unsubscribes it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def acquire_again(self) -> None:
        """Reacquire a slot that was lent, in FIFO order; if that fails, take it over the limit."""
        try:
            await self.acquire()
        except QueueFull:
            self.acquire_anyway()
        except BaseException:
            self.acquire_anyway()
            raise

    def join(self, listener: Callable[[], None]) -> Callable[[], None]:
        """`subscribe` for a run that takes slots from here; returns a function that ends both."""
        end = self.subscribe(listener)
        self.runs += 1

        def leave() -> None:
            self.runs -= 1
            end()

        return leave

    def _grant(self, _: None) -> bool:
        return self.acquire_nowait()

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(self, *_: object) -> None:
        self.release()

    def __repr__(self) -> str:
        of = "in flight, no limit" if self._limit == math.inf else f"of {self._limit:g} in flight"
        return f"<{type(self).__name__} {self._in_flight} {of}, {len(self._waiters)} waiting>"


def _count(name: str, value: float | None, remedy: str) -> float:
    """Check a count; None or infinity means no limit."""
    unlimited = value is None or (isinstance(value, float) and value == math.inf)
    return math.inf if unlimited else whole(name, value, remedy, least=0)
