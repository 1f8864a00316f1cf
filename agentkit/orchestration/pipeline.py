"""Stages joined by bounded queues: the slowest stage sets the pace, and the stages before it wait for it.

What it holds: `Pipeline`, `Flow` (a running pipeline, to iterate over), `StageStatistics`.
Guarantees: at most `max_queue` items wait between two stages; finished items that do not fit keep their workers blocked
(backpressure). Every item taken is output exactly once; one that fails goes straight to the output, with its error.
Leaving early ends all stages. Memory does not grow with the input, which may be endless.
Strategy: a stage is a `stream` of an executor whose source is the queue before it. It takes an item only while those it
took and the next stage has not are fewer than its concurrency plus the queue (credit-based flow control). An item has
one `Outcome` from end to end, to which every stage adds a span. Opened by notebook 08.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, Iterable, Sized
from dataclasses import dataclass
from typing import Any

from agentkit.base.arguments import attribute, choice, instance, items, refusal, whole
from agentkit.executor import ParallelAgentExecutor
from agentkit.executor.stream import Stream
from agentkit.report import Report, attach
from agentkit.report.outcome import Outcome

__all__ = ["Flow", "Pipeline", "StageStatistics"]


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


class Pipeline:
    """Stages joined by bounded queues.

    >>> async def fetch(number):
    ...     return f"page {number}"
    >>> async def count(page):
    ...     return len(page)
    >>> async def main():
    ...     async with Pipeline([fetch, (count, 4)]).stream(range(8, 12)) as flow:
    ...         return sorted([(outcome.task, outcome.result) async for outcome in flow])
    >>> asyncio.run(main())
    [(8, 6), (9, 6), (10, 7), (11, 7)]

    A stage is a function of one item, or `(function, concurrency)`; instead of a number, `concurrency` may be an
    executor with its retries, limits and timeouts. A function alone has one worker, or uses `executor` if that is
    given: such stages share its slots. Plain functions run in threads, as in any executor. `max_queue`: how many items
    may wait between two stages, and before the reader. The output is an `Outcome` per item, as they finish: `.task` is
    the input item, `.result` the result of the last stage, `.spans` the time in each stage. With `on_error="raise"` the
    first failure ends the flow and is raised; with `"collect"` it is part of the output. The report that `execute`
    returns can draw the queues between the stages: `.plot("stages")`.
    """

    max_queue: int = attribute(whole, remedy="use 0 to pass items on directly", least=0)
    on_error: str = attribute(choice, choices=("collect", "raise"), remedy="use 'collect' to keep failures")

    def __init__(
        self,
        stages: Iterable[Any],
        *,
        max_queue: int = 10,
        on_error: str = "collect",
        executor: ParallelAgentExecutor | None = None,
    ) -> None:
        self.stages = _stages(stages, executor)
        """The stages as `(name, function, executor)`."""
        self.max_queue, self.on_error = max_queue, on_error
        self._latest: Flow | None = None

    def stream(self, items: Iterable[Any] | AsyncIterable[Any]) -> Flow:
        """Return a `Flow` to iterate over with `async for`; it starts with the iteration."""
        self._latest = Flow(self, items)
        return self._latest

    async def execute(self, items: Iterable[Any] | AsyncIterable[Any]) -> Report:
        """Process all items and return the `Report`, in the order of the input."""
        outcomes: list[Outcome] = []
        async with self.stream(items) as flow:
            try:
                async for outcome in flow:
                    outcomes.append(outcome)
            except BaseException as error:
                attach(error, Report(outcomes), "the pipeline was stopped")
                raise
            outcomes += flow.not_started()
        return Report(sorted(outcomes, key=lambda outcome: outcome.task_id), stopped=flow.stopped)

    def statistics(self) -> tuple[StageStatistics, ...]:
        """Return the state of each stage of the latest flow; empty before the first."""
        return self._latest.statistics() if self._latest is not None else ()

    def __repr__(self) -> str:
        return f"<Pipeline {' -> '.join(name for name, _, _ in self.stages)}, at most {self.max_queue} waiting between>"


class Flow:
    """A running pipeline: iterate over it, read its `statistics()`, leave it at any time."""

    def __init__(self, pipeline: Pipeline, items: Iterable[Any] | AsyncIterable[Any]) -> None:
        if isinstance(items, str | bytes) or not isinstance(items, Iterable | AsyncIterable):
            rule = "must be an iterable or async iterable"
            raise refusal("items", rule, items, "put a single item in a list", TypeError)
        self._raises = pipeline.on_error == "raise"
        self.stopped: str | None = None
        """Why the flow ended before its input was used up; None if it did not."""
        self._error: BaseException | None = None  # from the source, or from a stage's run
        self._intake, self._out = _Intake(items), _Queue()
        last = len(pipeline.stages) - 1
        self._runners = [
            _Stage(*stage, pipeline.max_queue, self._out, last=place == last)
            for place, stage in enumerate(pipeline.stages)
        ]
        self._tasks: list[asyncio.Task[None]] = []

    def statistics(self) -> tuple[StageStatistics, ...]:
        """Return the state of each stage now."""
        return tuple(runner.statistics() for runner in self._runners)

    def not_started(self) -> list[Outcome]:
        """Return outcomes for the items that the flow did not take, if it was stopped and they can be counted."""
        return self._intake.rest(self.stopped) if self.stopped else []

    def __aiter__(self) -> _FlowReader:
        self._begin()
        return _FlowReader(self)

    async def __aenter__(self) -> Flow:
        self._begin()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End all stages now, and wait until all their tasks have finished."""
        self.stop()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def stop(self) -> None:
        """End all stages now, without waiting for their tasks."""
        for runner in self._runners:
            runner.stop()
        for task in self._tasks:
            task.cancel()
        self._out.close()

    async def next_outcome(self) -> Outcome:
        """Return the next outcome; raises `StopAsyncIteration` after the last."""
        try:
            item = await self._out.get()
        except asyncio.CancelledError:
            await self.aclose()
            raise
        if item is None:
            raise StopAsyncIteration if self._error is None else self._error
        if self._raises and item.error is not None:
            await self.aclose()
            raise _named(item)
        return item

    def __repr__(self) -> str:
        return f"<Flow: {'; '.join(map(repr, self._runners))}>"

    def _begin(self) -> None:
        if self._tasks:
            return
        loop = asyncio.get_running_loop()
        self._intake.began = loop.time()
        upstream: _Intake | _Queue = self._intake
        for runner in self._runners:
            runner.connect(upstream, self._intake.began)
            upstream = runner.queue
        self._tasks = [loop.create_task(self._run_stage(place)) for place in range(len(self._runners))]
        self._stages_left = len(self._tasks)

    async def _run_stage(self, place: int) -> None:
        """Run a stage to its end, then stop the stages before it, since nothing takes their items any more."""
        runner = self._runners[place]
        try:
            await runner.work()
            self.stopped = self.stopped or runner.ended_early
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._error = self._error or error
        finally:
            for earlier in self._runners[:place]:
                earlier.stop(f"stage {runner.name!r} has ended")
            runner.queue.close()
            self._stages_left -= 1
            if not self._stages_left:
                self._out.close()


class _FlowReader:
    """The iterator of a flow. Leaving the loop by `break` or an error deletes it, which ends the flow."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow

    def __aiter__(self) -> _FlowReader:
        return self

    async def __anext__(self) -> Outcome:
        return await self._flow.next_outcome()

    def __del__(self) -> None:
        self._flow.stop()


class _Intake:
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


class _Queue:
    """Finished items, each with the stage it counts against until it is taken."""

    def __init__(self) -> None:
        self.items: deque[tuple[Outcome, _Stage]] = deque()
        self._news = asyncio.Event()
        self._closed = False

    def put(self, item: Outcome, runner: _Stage) -> None:
        """Add an item."""
        self.items.append((item, runner))
        self._news.set()

    def close(self) -> None:
        """Mark the end of the items."""
        self._closed = True
        self._news.set()

    async def get(self) -> Outcome | None:
        """Return the next item; None after the last."""
        while not self.items:
            if self._closed:
                return None
            self._news.clear()
            await self._news.wait()
        item, runner = self.items.popleft()
        runner.hand_on()
        return item


class _Stage:
    """Runs one stage. Its own run iterates over it, and the next stage takes from its `queue`."""

    def __init__(
        self, name: str, fn: Any, executor: ParallelAgentExecutor, max_queue: int, out: _Queue, *, last: bool
    ) -> None:
        self.name, self._fn, self._executor = name, fn, executor
        self._max_queue, self._out, self._last = max_queue, out, last
        self._inside: dict[int, Outcome] = {}  # items in this stage, by their number in its run
        self.queue = _Queue()
        """Finished items, for the next stage to take."""
        self._room = asyncio.Event()
        self._taken = self._finished = self._passed = self._peak = 0
        self._stopped = self._at_end = False
        self.ended_early: str | None = None
        """Why its run ended before its input did; None if it did not."""
        self._run: Stream | None = None

    def connect(self, upstream: _Intake | _Queue, began: float) -> None:
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
        while self.queue.items:
            self._lose(self.queue.items.popleft()[0])

    def hand_on(self) -> None:
        """Count one finished item as taken."""
        self._passed += 1
        self._room.set()

    def __aiter__(self) -> _Stage:
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

    def _finish(self, item: Outcome, outcome: Outcome, shift: float) -> None:
        self._finished += 1
        finished = item.finished = shift + (outcome.finished or 0.0)
        if outcome.started is not None:
            self._note(item, outcome, shift + outcome.started, finished, shift)
        succeeded = outcome.status == "success"
        item.result = outcome.result if succeeded else None
        if succeeded:
            self._peak = max(self._peak, min(self._finished - self._passed, self._max_queue))
        if self._last or not succeeded:
            item.end(outcome.status, outcome.error, finished)
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


def _named(item: Outcome) -> BaseException:
    """Return an item's error with a note of where it happened; a CancelledError is wrapped."""
    error = item.error
    if not isinstance(error, Exception):  # raised unchanged, it would look as if the reader were cancelled
        wrapped = RuntimeError(f"item {item.task_id} was cancelled from inside: {item.reason}")
        wrapped.__cause__ = error
        return wrapped
    stage = next((span.name for span in reversed(item.spans)), "none")
    error.add_note(f"in stage {stage!r} of a pipeline, item {item.task_id}: {item.task!r:.80}")
    return error


def _stages(stages: Iterable[Any], executor: Any) -> list[tuple[str, Any, ParallelAgentExecutor]]:
    instance("executor", executor, ParallelAgentExecutor, "leave it out for a plain one", none=True)
    found: list[tuple[str, Any, ParallelAgentExecutor]] = []
    for place, stage in enumerate(items("stages", stages, "write Pipeline([fetch, (parse, 4)])")):
        fn, how = stage if isinstance(stage, tuple) and len(stage) == 2 else (stage, executor or 1)
        if not callable(fn):
            raise refusal(f"stages[{place}]", "must be a function or (function, concurrency)", stage, kind=TypeError)
        try:
            runs = how if isinstance(how, ParallelAgentExecutor) else ParallelAgentExecutor(how)
        except (TypeError, ValueError) as error:
            raise type(error)(f"stages[{place}]: {error}") from None
        name = getattr(fn, "__name__", type(fn).__name__)
        again = sum(known.split(" (")[0] == name for known, _, _ in found)
        found.append((f"{name} ({again + 1})" if again else name, fn, runs))
    if not found:
        raise ValueError("stages must hold at least one stage, got none; write Pipeline([fetch, (parse, 4)])")
    return found
