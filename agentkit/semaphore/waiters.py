"""The queue of waiting tasks that limiters, locks and budgets share.

What it holds: `Waiters`, which keeps the order, while its owner decides when a waiter may continue; `is_real`.
Guarantees: first come, first served. A waiter gets its turn in the same step in which the owner calls `serve`, so no
other task can take what it was given. A cancelled waiter leaves the queue, or gives back what it was given. Waiters of
a closed event loop do not count. Waiters are served in their own event loop, even if another thread calls `serve`.
Strategy: one future for each waiter, as in trio's `ParkingLot`.
"""

from __future__ import annotations

import asyncio
import time
from asyncio import _get_running_loop
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

__all__ = ["Waiters", "is_real"]

N = TypeVar("N")


class Waiters(Generic[N]):
    """A first-in, first-out queue of tasks, each waiting with what it needs.

    >>> async def main():
    ...     waiters, is_open = Waiters[str]("door"), asyncio.Event()
    ...     task = asyncio.create_task(waiters.wait("Ann", grant=lambda name: is_open.is_set()))
    ...     await asyncio.sleep(0)
    ...     print(list(waiters))
    ...     is_open.set()
    ...     waiters.serve(grant=lambda name: is_open.is_set())
    ...     await task
    >>> asyncio.run(main())
    ['Ann']

    `kind` is what the owner is called in the error for waiters on two event loops at once. `len` is how many wait now;
    iterating gives what they need, longest wait first.
    """

    __slots__ = ("_kind", "_turns", "peak")

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._turns: OrderedDict[asyncio.Future[None], N] = OrderedDict()  # all on one loop
        self.peak = 0
        """The most tasks that have waited at once."""

    async def wait(self, need: N, grant: Callable[[N], bool], undo: Callable[[N], object] | None = None) -> None:
        """Wait at the end of the queue; raises what `grant` raised for this waiter in `serve`.

        A task that is alone in the queue is served with `grant` at once: a thread may have released in between.
        A waiter that is cancelled after it was served, before it resumed, calls `undo(need)` to give it back.
        """
        loop = asyncio.get_running_loop()
        self.check_loop(loop)
        turn: asyncio.Future[None] = loop.create_future()
        self._turns[turn] = need
        self.peak = max(self.peak, len(self._turns))
        if len(self._turns) == 1:
            self.serve(grant)
        try:
            await turn
        except BaseException:  # a task that is left on a closed loop gets a GeneratorExit when it is collected
            self._turns.pop(turn, None)
            if undo is not None and turn.done() and not turn.cancelled() and turn.exception() is None:
                undo(need)
            raise

    def serve(self, grant: Callable[[N], bool]) -> None:
        """Wake waiters from the front until `grant(need)` returns False; what it raises is raised in that waiter."""
        if not self._turns or not self:
            return
        if (loop := self._loop()) is not _get_running_loop():
            loop.call_soon_threadsafe(self.serve, grant)
            return
        while self._turns:
            turn, need = next(iter(self._turns.items()))
            if not turn.done():  # a cancelled waiter leaves by itself, but only when it resumes
                try:
                    if not grant(need):
                        return
                    turn.set_result(None)
                except Exception as error:
                    turn.set_exception(error)
            self._turns.pop(turn, None)

    def check_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Raise `RuntimeError` if tasks of another loop than `loop` wait."""
        if self and self._loop() is not loop:
            raise RuntimeError(
                f"this {self._kind} has waiters on another event loop; give each loop a {self._kind} of its own"
            )

    def _loop(self) -> asyncio.AbstractEventLoop:
        return next(iter(self._turns)).get_loop()

    def __len__(self) -> int:
        if self._turns and self._loop().is_closed():
            self._turns = OrderedDict()
        return len(self._turns)

    def __iter__(self) -> Iterator[N]:
        return iter(self._turns.values())


def is_real(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether the loop uses the machine's clock, as those of asyncio and uvloop do; a virtual clock is its own.

    >>> async def main():
    ...     return is_real(asyncio.get_running_loop())
    >>> asyncio.run(main())
    True
    """
    return abs(loop.time() - time.monotonic()) < 1
