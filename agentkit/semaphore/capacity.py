"""Bounding how many run at once: a semaphore that can be resized and watched.

What it holds: `CapacityLimiter`, its `LimiterStatistics`, and `QueueFull`.
Guarantees: first come, first served; a slot is never lost, doubled or taken by a latecomer, whoever is cancelled
and whenever; at most `limit` holders, except right after `limit` was lowered, when nobody is interrupted.
Strategy: a released slot is handed to the longest waiter in the same step, so nobody can overtake between the
release and the waiter's waking up. (Leaving it free until the waiter wakes is how older asyncio and anyio
semaphores lost wake-ups.) One event loop at a time; not for threads.
Opened by notebook 07; notebook 01 uses it.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

__all__ = ["CapacityLimiter", "LimiterStatistics", "QueueFull"]


class QueueFull(RuntimeError):
    """A bounded queue refuses one more waiter. Remedy: shed the work, or try again later."""


@dataclass(frozen=True, slots=True)
class LimiterStatistics:
    """A limiter at one instant."""

    in_flight: int
    """Slots taken now."""
    limit: float
    """Slots there are; `math.inf` where there is no limit."""
    queue_depth: int
    """Callers waiting for a slot now."""
    peak_in_flight: int
    """The most slots ever taken at once."""
    peak_queue_depth: int
    """The most callers that ever waited at once."""


class CapacityLimiter:
    """A semaphore that can be resized and watched: at most `limit` holders at once.

    >>> async def main():
    ...     limiter = CapacityLimiter(2)
    ...     async with limiter:
    ...         return limiter
    >>> asyncio.run(main())
    <CapacityLimiter 0 of 2 in flight, 0 waiting>

    It takes the place of an `asyncio.Semaphore` (`async with`, `acquire`, `release`, `locked`). Raising `limit` admits
    waiters at once; lowering it takes effect as holders leave; 0 admits nobody until it is raised; None is no limit.
    With `max_queue`, a caller that would have to wait behind that many others gets `QueueFull` instead.
    It bounds how many run at the same time, not how many start per minute: for that see `RateLimiter`.
    """

    __slots__ = ("_in_flight", "_limit", "_listeners", "_max_queue", "_peak_in_flight", "_peak_queue", "_waiters",
                 "contended")  # fmt: skip

    def __init__(self, limit: int | None, *, max_queue: int | None = None) -> None:
        self._limit = _whole("limit", limit, "0 to admit nobody, None for no limit")
        self._max_queue = _whole("max_queue", max_queue, "0 to refuse whoever would wait, None for no bound")
        self._in_flight = 0  # slots taken, those just handed to a waiter that has not woken up yet included
        # who waits; non-empty only while all slots are taken
        self._waiters: OrderedDict[asyncio.Future[None], None] = OrderedDict()
        self._peak_in_flight = self._peak_queue = 0
        self.contended = False
        """Whether a holder should give its slot up before its next piece of work: others wait, or the limit fell."""
        self._listeners: list[Callable[[], None]] = []

    @property
    def limit(self) -> float:
        """Slots there are; assign to it at any time."""
        return self._limit

    @limit.setter
    def limit(self, limit: float | None) -> None:
        self._limit = _whole("limit", limit, "0 to admit nobody, None for no limit")
        self._admit()
        for listener in list(self._listeners):
            listener()

    def locked(self) -> bool:
        """Whether an `acquire` now would have to wait."""
        return bool(self._waiters) or self._in_flight >= self._limit

    def acquire_nowait(self) -> bool:
        """Take a slot if one is free; return whether it was. Never waits, never overtakes a waiter."""
        if self._waiters or self._in_flight >= self._limit:
            return False
        self._take()
        return True

    def acquire_anyway(self) -> None:
        """Take a slot even if none is free: for work that goes on unasked, such as a thread nobody waits for."""
        self._take()
        self._consider()

    async def acquire(self) -> bool:
        """Take a slot, waiting for one in the order of arrival; returns True, as a semaphore does."""
        if self.acquire_nowait():
            return True
        if len(self._waiters) >= self._max_queue:
            raise QueueFull(
                f"{len(self._waiters)} callers wait already and max_queue is {self._max_queue:g}; "
                "shed this work, try again later, or raise max_queue"
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._waiters and next(iter(self._waiters)).get_loop() is not turn.get_loop():
            raise RuntimeError(f"{self!r} has waiters on another event loop; give each loop a limiter of its own")
        self._waiters[turn], self.contended = None, True
        self._peak_queue = max(self._peak_queue, len(self._waiters))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._waiters.pop(turn, None)
                self._consider()
            else:  # cancelled after the slot was handed over, before waking up: pass it on
                self.release()
            raise
        return True

    def release(self) -> None:
        """Give a slot back; the longest waiter has it from this moment on."""
        if self._in_flight <= 0:
            raise RuntimeError(f"{self!r}: release without acquire; use `async with limiter:` to pair them")
        self._in_flight -= 1
        if self._waiters or self.contended:
            self._admit()

    def statistics(self) -> LimiterStatistics:
        """Return what the limiter is doing now, and its peaks so far."""
        return LimiterStatistics(
            self._in_flight, self._limit, len(self._waiters), self._peak_in_flight, self._peak_queue
        )

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener()` after every change of `limit`; returns a function that ends the subscription."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def _take(self) -> None:
        self._in_flight += 1
        if self._in_flight > self._peak_in_flight:
            self._peak_in_flight = self._in_flight

    def _admit(self) -> None:
        while self._waiters and self._in_flight < self._limit:
            turn, _ = self._waiters.popitem(last=False)
            if not turn.cancelled():  # a cancelled one has not woken up yet to leave the queue by itself
                self._take()
                turn.set_result(None)
        self._consider()

    def _consider(self) -> None:
        self.contended = bool(self._waiters) or self._in_flight > self._limit

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        of = "in flight, no limit" if self._limit == math.inf else f"of {self._limit:g} in flight"
        return f"<{type(self).__name__} {self._in_flight} {of}, {len(self._waiters)} waiting>"


def _whole(name: str, value: float | None, remedy: str) -> float:
    """Check a count; None stands for no bound."""
    if value is None:
        return math.inf
    if isinstance(value, bool) or not (isinstance(value, int) or value == math.inf):
        raise TypeError(f"{name} must be a whole number, got {value!r}; use {remedy}")
    if value < 0:
        raise ValueError(f"{name} must be 0 or more, got {value}; use {remedy}")
    return value
