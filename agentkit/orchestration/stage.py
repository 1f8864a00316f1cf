"""One stage of a running pipeline: the items it has taken, and the queue of finished items behind it.

What it holds: `StageRunner` and its `StageStatistics`; `Intake`, the input; `Queue`, behind a stage or the last one.
Guarantees: the items a stage has taken and the next one has not are never more than its concurrency plus the queue;
every item taken is output exactly once: finished, failed or cancelled.
Strategy: a stage runner is the source of its own run. An item has one `Outcome` from end to end, to which every stage
adds a span. Opened by notebook 08.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, Iterator, Sized
from dataclasses import dataclass
from typing import Any

from agentkit.executor import ParallelAgentExecutor
from agentkit.executor.stream import Stream
from agentkit.report.outcome import Outcome

__all__ = ["Intake", "Queue", "StageRunner", "StageStatistics"]


@dataclass(frozen=True, slots=True)
class StageStatistics:
    """A stage at one instant."""

    name: str
    """The function's name."""
    limit: float
    """Items it may work on at the same time."""
    in_flight: int
    """Items it works on now."""
    queue_depth: int
    """Finished items in the queue behind it."""
    blocked: int
    """Finished items that do not fit into the queue; each blocks a worker."""
    peak_queue_depth: int
    """The most items that were ever in the queue behind it."""


class Intake:
    """The input items, each with a new outcome."""

    def __init__(self, items: Any) -> None:
        self._slow, self._sized = isinstance(items, AsyncIterable), isinstance(items, Sized)
        self._items: Any = aiter(items) if self._slow else iter(items)
        self._taken = 0
        self.began = 0.0
        """When the flow began, by the loop's clock."""

    async def get(self) -> Outcome | None:
        """Return the next item; None after the last."""
        try:
            item = await anext(self._items) if self._slow else next(self._items)
        except (StopIteration, StopAsyncIteration):
            return None
        number, self._taken = self._taken, self._taken + 1
        return Outcome(number, item, result=item, submitted=asyncio.get_running_loop().time() - self.began)

    def rest(self, reason: str) -> list[Outcome]:
        """Return outcomes for the items that were not taken, where it is known how many those are."""
        if self._slow or not self._sized:
            return []
        left = enumerate(self._items, self._taken)
        return [Outcome(number, item, error=asyncio.CancelledError(f"not started: {reason}")) for number, item in left]


class Queue:
    """Finished items, each with the stage it counts against until it is taken."""

    def __init__(self) -> None:
        self._items: deque[tuple[Outcome, StageRunner]] = deque()
        self._news = asyncio.Event()
        self._closed = False

    def put(self, item: Outcome, runner: StageRunner) -> None:
        """Add an item."""
        self._items.append((item, runner))
        self._news.set()

    def close(self) -> None:
        """Mark the end of the items."""
        self._closed = True
        self._news.set()

    async def get(self) -> Outcome | None:
        """Return the next item; None after the last."""
        while not self._items:
            if self._closed:
                return None
            self._news.clear()
            await self._news.wait()
        item, runner = self._items.popleft()
        runner.hand_on()
        return item

    def drain(self) -> Iterator[Outcome]:
        """Remove the items; they still count against their stages."""
        while self._items:
            yield self._items.popleft()[0]


class StageRunner:
    """Runs one stage. Its own run iterates over it, and the next stage takes from its `queue`."""

    def __init__(
        self, name: str, fn: Any, executor: ParallelAgentExecutor, max_queue: int, out: Queue, *, last: bool
    ) -> None:
        self.name, self._fn, self._executor = name, fn, executor
        self._max_queue, self._out, self._last = max_queue, out, last
        self._inside: dict[int, Outcome] = {}  # items in this stage, by their number in its run
        self.queue = Queue()
        """Finished items, for the next stage to take."""
        self._room = asyncio.Event()
        self._taken = self._finished = self._passed = self._peak = 0
        self._stopped = self._at_end = False
        self.ended_early: str | None = None
        """Why its run ended before its input did; None if it did not."""
        self._run: Stream | None = None

    def connect(self, upstream: Intake | Queue, began: float) -> None:
        """Set where items come from, and when the flow began."""
        self._upstream, self._began = upstream, began
        self._run = self._executor.stream(self, self._fn)

    async def work(self) -> None:
        """Run the stage until its input ends."""
        assert self._run is not None
        async with self._run as run:
            shift, reason = run.began - self._began, ""
            async for outcome in run:
                self._finish(self._inside.pop(outcome.task_id), outcome, shift)
                reason = outcome.reason
        if not self._at_end and not self._stopped:
            self.ended_early = f"stage {self.name!r} has ended: {run.stopped or reason}"

    def stop(self, reason: str = "the flow was left before its end") -> None:
        """End the stage now; items in the queue behind it are output as cancelled."""
        self._stopped = True
        if self._run is not None:
            self._run.stop("cancelled", reason)
        for item in self.queue.drain():
            self._lose(item)

    def hand_on(self) -> None:
        """Count one finished item as taken."""
        self._passed += 1
        self._room.set()

    # -- iterated over by its own run ---------------------------------------------------------------------------------

    def __aiter__(self) -> StageRunner:
        return self

    async def __anext__(self) -> Any:
        while self._taken - self._passed >= self._executor.limiter.limit + self._max_queue:
            self._room.clear()
            await self._room.wait()
        item = await self._upstream.get()
        if item is None:
            self._at_end = True
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
            self.queue.put(item, self)

    def _note(self, item: Outcome, outcome: Outcome, started: float, finished: float, shift: float) -> None:
        """Add the spans of this stage to the item's outcome."""
        if item.started is None:
            item.started = started
        elif started > (before := max(s.finished for s in item.spans)):
            item.add_span(f"waiting for {self.name}", before, started)
        for s in outcome.spans:
            item.add_span(f"{s.name} · {self.name}", s.started + shift, s.finished + shift)
        item.add_span(self.name, started, finished)

    def _lose(self, item: Outcome) -> None:
        error = asyncio.CancelledError(f"not handed on from {self.name!r}: the flow had ended")
        item.result = None
        item.end("cancelled", error, item.finished or 0.0)
        self._out.put(item, self)

    def statistics(self) -> StageStatistics:
        """Return the state of the stage now."""
        waiting, limit = self._finished - self._passed, self._executor.limiter.limit
        in_flight = 0 if self._run is None else self._run.statistics().in_flight
        queued = min(waiting, self._max_queue)
        return StageStatistics(self.name, limit, in_flight, queued, waiting - queued, self._peak)

    def __repr__(self) -> str:
        now = self.statistics()
        return f"{now.name} {now.in_flight} of {now.limit:g} in flight, {now.queue_depth} behind it"
