"""Stages joined by bounded queues: the slowest stage sets the pace, and the stages before it wait for it.

What it holds: `Pipeline`, `Flow` (a running pipeline, to iterate over), `StageStatistics`.
Guarantees: at most `max_queue` items wait between two stages; finished items that do not fit keep their workers blocked
(backpressure). An item that fails goes straight to the output, with its error. Leaving early, by `break`, an error or
cancellation, ends all stages. Memory does not grow with the input, which may be endless.
Strategy: a stage is a `stream` of an executor whose source is the queue before it; it takes another item only while it
has room for it (credit-based flow control). Opened by notebook 08.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Iterable
from types import TracebackType
from typing import Any

from agentkit.base import arguments
from agentkit.base.arguments import attribute, choice, instance, refusal, whole
from agentkit.executor import ParallelAgentExecutor
from agentkit.orchestration.stage import Intake, Queue, StageRunner, StageStatistics
from agentkit.report import Report, attach
from agentkit.report.outcome import Outcome

__all__ = ["Flow", "Pipeline", "StageStatistics"]


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
        self._intake, self._out = Intake(items), Queue()
        last = len(pipeline.stages) - 1
        self._runners = [
            StageRunner(*stage, pipeline.max_queue, self._out, last=place == last)
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

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
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
            raise self._error or StopAsyncIteration
        if self._raises and item.error is not None:
            await self.aclose()
            raise _named(item)
        return item

    def __repr__(self) -> str:
        return f"<Flow: {'; '.join(map(repr, self._runners))}>"

    # -- inside ---------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._tasks:
            return
        loop = asyncio.get_running_loop()
        self._intake.began = loop.time()
        upstream: Intake | Queue = self._intake
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

    __slots__ = ("_flow",)

    def __init__(self, flow: Flow) -> None:
        self._flow = flow

    def __aiter__(self) -> _FlowReader:
        return self

    async def __anext__(self) -> Outcome:
        return await self._flow.next_outcome()

    def __del__(self) -> None:
        self._flow.stop()


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
    for place, stage in enumerate(arguments.items("stages", stages, "write Pipeline([fetch, (parse, 4)])")):
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
