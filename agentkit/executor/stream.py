"""The outcomes of a run as they come: what `executor.stream` returns.

What it holds: `Stream`.
Guarantees: nothing is kept that was handed over, so the input may be endless; a slow reader slows the run; a stream
that is left open ends its run when it is collected, on whatever thread that happens.
Opened by notebook 03.
"""

from __future__ import annotations

import asyncio
import warnings
from collections import deque
from typing import Generic, Self

from agentkit.executor.run import Handle
from agentkit.executor.settings import Plan
from agentkit.executor.source import Source
from agentkit.report.outcome import Outcome, R, T

__all__ = ["Stream"]

WINDOW = 4  # a stream runs ahead of its reader by at most this many times the limit


class Stream(Handle[T, R]):
    """A run to iterate over with `async for`: outcomes as they finish, or in input order.

    >>> from agentkit import ParallelAgentExecutor
    >>> async def main():
    ...     async with ParallelAgentExecutor(2).stream(["a", "b"], str.upper, ordered=True) as stream:
    ...         return [outcome.result async for outcome in stream]
    >>> asyncio.run(main())
    ['A', 'B']

    It begins with the iteration. `stopped` says why it ended early, if it did.
    """

    def __init__(self, plan: Plan[T, R], source: Source[T], *, ordered: bool) -> None:
        super().__init__(plan, source)
        self._ready: deque[Outcome[T, R]] = deque()  # finished, not yet handed to the reader
        self._early: dict[int, Outcome[T, R]] = {}  # ordered: finished before an earlier one
        self._ordered, self._in_order = ordered, 0
        self._arrival = asyncio.Event()  # something is ready, or the run is over
        self._in_block = False  # `async with` ends the run, however its readers leave

    async def __aenter__(self) -> Self:
        self._in_block = True
        return await super().__aenter__()

    def __aiter__(self) -> _Reader[T, R]:
        self.begin()
        return _Reader(self)

    def __await__(self) -> None:
        raise TypeError("a stream keeps no outcomes: iterate over it with `async for`, or use executor.start()")

    async def next_outcome(self) -> Outcome[T, R] | None:
        """Return the next outcome; None after the last."""
        self.begin()
        while not self._ready and not self._over.is_set():
            self._arrival.clear()
            await self.wait_until_over(self._arrival.wait)
        if self._ready:
            self._handed_over += 1
            self._wake()
            return self._ready.popleft()
        if self._failure is not None:
            raise self._failure
        return None

    def _limit_changed(self) -> None:
        super()._limit_changed()
        self._window = WINDOW * self._width

    def _deliver(self, outcome: Outcome[T, R]) -> None:
        if not self._ordered:
            self._ready.append(outcome)
        else:
            self._early[outcome.task_id] = outcome
            while self._in_order in self._early:
                self._ready.append(self._early.pop(self._in_order))
                self._in_order += 1
        if self._ready:
            self._arrival.set()

    def _finish(self) -> None:
        super()._finish()
        self._arrival.set()

    def abandon(self) -> None:
        """End the run from any thread: its reader is gone."""
        if self._in_block or self._loop is None or self._over.is_set() or self._cut_off or self._loop.is_closed():
            return
        warnings.warn(f"{self!r} was left open; use `async with` to end it", ResourceWarning, stacklevel=3)
        self._loop.call_soon_threadsafe(self.stop, "cancelled", "left before its end")


class _Reader(Generic[T, R]):
    """The iterator of a stream. When its loop is left by `break` or an error it is collected, and ends the run."""

    __slots__ = ("_stream",)

    def __init__(self, stream: Stream[T, R]) -> None:
        self._stream = stream

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Outcome[T, R]:
        outcome = await self._stream.next_outcome()
        if outcome is None:
            raise StopAsyncIteration
        return outcome

    def __del__(self) -> None:
        self._stream.abandon()
