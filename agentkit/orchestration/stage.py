"""One stage of a pipeline at work: what it has taken, what waits behind it, and what it says of itself.

What it holds: `Station` and its `StageStatistics`; `Intake` and `Output`, the two ends of the line.
Guarantees: what a stage has taken and the next has not is never more than its concurrency plus the queue; every item
taken comes out once, done, failed or cancelled.
Strategy: a station is the source of its own run and the queue for the next; items travel as one `Outcome` each, to
which every stage adds a span.
Taken apart in notebook 08.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable
from dataclasses import dataclass
from typing import Any

from agentkit.executor import ParallelAgentExecutor
from agentkit.executor.run import Run
from agentkit.report.outcome import Outcome, Span

__all__ = ["Intake", "Output", "StageStatistics", "Station"]


@dataclass(frozen=True, slots=True)
class StageStatistics:
    """A stage at one instant."""

    name: str
    """The function's name."""
    limit: float
    """Items it may work on at once."""
    in_flight: int
    """Items it works on now."""
    succeeded: int
    """Items it has finished."""
    failed: int
    """Items that ended here in any other way."""
    queue_depth: int
    """Finished items in the queue behind it."""
    blocked: int
    """Finished items that the queue has no room for; each keeps a worker idle."""
    peak_queue_depth: int
    """The most items that ever were in the queue behind it."""
    busy: float
    """Seconds of work, added up over all its workers."""


class Intake:
    """The items that go in, each with a fresh outcome."""

    def __init__(self, items: Any) -> None:
        self._slow = isinstance(items, AsyncIterable)
        self._items: Any = aiter(items) if self._slow else iter(items)
        self._taken = 0
        self.began = 0.0
        """When the flow began, in the loop's seconds."""

    async def get(self) -> Outcome | None:
        """Return the next item; None after the last."""
        try:
            item = await anext(self._items) if self._slow else next(self._items)
        except (StopIteration, StopAsyncIteration):
            return None
        number, self._taken = self._taken, self._taken + 1
        return Outcome(number, item, result=item, submitted=asyncio.get_running_loop().time() - self.began)


class Output:
    """What comes out: items done by the last stage, and those that failed in any."""

    def __init__(self) -> None:
        self._items: deque[tuple[Outcome, Station]] = deque()
        self._news = asyncio.Event()
        self._closed = False

    def put(self, item: Outcome, station: Station) -> None:
        """Add an item; the station stays charged with it until it is read."""
        self._items.append((item, station))
        self._news.set()

    def close(self) -> None:
        """Say that there will be no more."""
        self._closed = True
        self._news.set()

    async def get(self) -> Outcome | None:
        """Return the next item; None after the last."""
        while not self._items:
            if self._closed:
                return None
            self._news.clear()
            await self._news.wait()
        item, station = self._items.popleft()
        station.hand_on()
        return item


class Station:
    """A stage at work. It is iterated over by its own run, and asked by the next station."""

    def __init__(
        self, name: str, fn: Any, executor: ParallelAgentExecutor, max_queue: int, out: Output, *, last: bool
    ) -> None:
        self.name, self._fn, self._executor = name, fn, executor
        self._max_queue, self._out, self._last = max_queue, out, last
        self._inside: dict[int, Outcome] = {}  # items in this stage's hands, by their number in its run
        self._queue: deque[Outcome] = deque()  # finished, to be asked for by the next station
        self._news, self._room = asyncio.Event(), asyncio.Event()
        self._taken = self._finished = self._passed = self._failed = self._peak = 0
        self._busy = self._began = 0.0
        self._closed = self._stopped = False
        self._upstream: Any = None
        self._run: Run | None = None

    def connect(self, upstream: Any, began: float) -> None:
        """Say where items come from, and when the flow began."""
        self._upstream, self._began = upstream, began
        self._run = self._executor.stream(self, self._fn)

    async def work(self) -> None:
        """Run the stage until there is nothing more to take."""
        assert self._run is not None
        async with self._run as run:
            shift = run._began - self._began
            async for outcome in run:
                self._finish(self._inside.pop(outcome.task_id), outcome, shift)

    def stop(self, reason: str = "the flow was left before its end") -> None:
        """End the stage now; what waits behind it comes out as cancelled."""
        self._stopped = True
        if self._run is not None:
            self._run._cut("cancelled", reason)
        while self._queue:
            self._lose(self._queue.popleft())

    def close(self) -> None:
        """Say that nothing more will come from this stage."""
        self._closed = True
        self._news.set()

    # -- towards the next stage -----------------------------------------------------------------------------------

    async def get(self) -> Outcome | None:
        """Return the next finished item; None after the last."""
        while not self._queue:
            if self._closed:
                return None
            self._news.clear()
            await self._news.wait()
        self.hand_on()
        return self._queue.popleft()

    def hand_on(self) -> None:
        """Note that one finished item has been taken over."""
        self._passed += 1
        self._room.set()

    # -- towards its own run --------------------------------------------------------------------------------------

    def __aiter__(self) -> Station:
        return self

    async def __anext__(self) -> Any:
        while self._taken - self._passed >= self._executor.limiter.limit + self._max_queue:
            self._room.clear()
            await self._room.wait()
        item = await self._upstream.get()
        if item is None:
            raise StopAsyncIteration
        self._inside[self._taken] = item
        self._taken += 1
        return item.result

    # -- one item -------------------------------------------------------------------------------------------------

    def _finish(self, item: Outcome, outcome: Outcome, shift: float) -> None:
        self._finished += 1
        finished = item.finished = shift + (outcome.finished or 0.0)
        if outcome.started is not None:
            self._note(item, outcome, shift + outcome.started, finished, shift)
        if outcome.status != "success":
            item.result = None
            item.end(outcome.status, outcome.error, finished)
            self._failed += 1
            self._out.put(item, self)
            return
        item.result = outcome.result
        self._peak = max(self._peak, min(self._finished - self._passed, self._max_queue))
        if self._last:
            item.end("success", None, finished)
            self._out.put(item, self)
        elif self._stopped:
            self._lose(item)
        else:
            self._queue.append(item)
            self._news.set()

    def _note(self, item: Outcome, outcome: Outcome, started: float, finished: float, shift: float) -> None:
        """Add what happened in this stage to the item's own record."""
        self._busy += finished - started
        inside = [Span(f"{s.name} · {self.name}", s.started + shift, s.finished + shift) for s in outcome.spans]
        if item.started is None:
            item.started = started
        elif started > (before := max(s.finished for s in item.spans)):
            item.spans += (Span(f"waiting for {self.name}", before, started),)
        item.spans += (*inside, Span(self.name, started, finished))

    def _lose(self, item: Outcome) -> None:
        self._failed += 1
        error = asyncio.CancelledError(f"not handed on from {self.name!r}: the flow had ended")
        item.result = None
        item.end("cancelled", error, item.finished or 0.0)
        self._out.put(item, self)

    def statistics(self) -> StageStatistics:
        """Return what the stage is doing now."""
        waiting = self._finished - self._passed
        in_flight = 0 if self._run is None else self._run.statistics().in_flight
        queued = min(waiting, self._max_queue)
        done, limit = self._finished - self._failed, self._executor.limiter.limit
        return StageStatistics(
            self.name, limit, in_flight, done, self._failed, queued, waiting - queued, self._peak, self._busy
        )

    def __repr__(self) -> str:
        now = self.statistics()
        return f"{now.name} {now.in_flight} of {now.limit:g} in flight, {now.queue_depth} behind it"
