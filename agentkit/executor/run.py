"""A run in progress: the handle to watch, pause and cancel it, and to get what it yields.

What it holds: `Run`, which `ParallelAgentExecutor.start` and `.stream` return, and `RunStatistics`.
Guarantees: awaiting it gives the report, or raises with the report attached; leaving it early, by `break`, an error
or cancellation, leaves no task behind. Not for threads; bound to the loop it began on.
Strategy: `Workers` does the work; this file decides what is kept, in which order it is handed on, and when to wait.
Opened by notebook 03.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from agentkit.executor.attempt import Attempter
from agentkit.executor.lending import lent
from agentkit.executor.settings import Settings
from agentkit.executor.source import Source
from agentkit.executor.workers import Workers
from agentkit.report import Outcome, Report, attach
from agentkit.report.stalls import LoopMonitor, Stall, is_real
from agentkit.semaphore import CapacityLimiter

if TYPE_CHECKING:
    from agentkit.journal.writer import JournalWriter

__all__ = ["Reader", "Run", "RunStatistics"]

WINDOW = 4  # the workers of a stream run ahead of its reader by at most this many times the limit


@dataclass(frozen=True, slots=True)
class RunStatistics:
    """A run at one instant."""

    total: int | None
    """Tasks in the input; None where that cannot be known."""
    waiting: int | None
    """Tasks not yet started; None where `total` is."""
    in_flight: int
    """Tasks being attempted now."""
    backing_off: int
    """Tasks that failed and will be tried again; they hold no slot."""
    succeeded: int
    """Tasks that ended well."""
    failed: int
    """Tasks that ended in any other way."""
    elapsed: float
    """Seconds since the run began; stands still once it has ended."""


class Run(Workers):
    """A run in progress: watch it, pause it, cancel it, wait for its report.

    >>> from agentkit import ParallelAgentExecutor
    >>> async def main():
    ...     run = ParallelAgentExecutor(max_concurrency=2).start(["a", "b", "c"], str.upper)
    ...     report = await run
    ...     return run, report.results
    >>> asyncio.run(main())  # doctest: +ELLIPSIS
    (<Run: 3 of 3 done, 0 failed, ended, ... s>, ['A', 'B', 'C'])

    Made by `ParallelAgentExecutor.start` (await it for the `Report`) or `.stream` (iterate over it with `async for`).
    As an async context manager it is cancelled, and waited for, when the block is left before it has ended.
    """

    def __init__(
        self,
        source: Source,
        attempter: Attempter,
        limiter: CapacityLimiter,
        settings: Settings,
        *,
        keep: bool = True,
        ordered: bool = False,
        bar: Any = None,
        ledger: JournalWriter | None = None,
        on_end: Callable[[], None] | None = None,
        on_loop: bool = True,
    ) -> None:
        super().__init__(source, attempter, limiter, settings)
        self._keep, self._ordered, self._bar, self._ledger, self._on_end = keep, ordered, bar, ledger, on_end
        source.kept = [] if keep else None
        self._watchful, self._watched = source.slow or not keep, not keep or bar is not None or ledger is not None
        self._ready: deque[Outcome] = deque()  # stream: finished, not yet handed to the reader
        self._early: dict[int, Outcome] = {}  # ordered stream: finished ahead of their turn
        self._released = self.yielded = 0  # stream: outcomes moved to `_ready`, handed to the reader
        self._news: asyncio.Event = asyncio.Event()  # stream: something is ready, or the run has ended
        self._report: Report | None = None
        self._on_loop = on_loop  # whether agents run on the loop, which they should not block
        self._monitor: LoopMonitor | None = None
        self.stalls: list[Stall] = []
        """Agents that have blocked the loop so far, and for how long."""

    # -- what a caller may do -------------------------------------------------------------------------------------

    def statistics(self) -> RunStatistics:
        """Return what the run is doing now."""
        in_flight, backing_off = self._in_flight(), len(self._later) + len(self._due)
        begun = self._succeeded + self._failed + in_flight + backing_off
        total = self._source.total
        waiting = None if total is None else total - begun
        return RunStatistics(total, waiting, in_flight, backing_off, self._succeeded, self._failed, self._now())

    def pause(self) -> None:
        """Start nothing new; what is in flight goes on."""
        self._paused = self._watchful = True

    def resume(self) -> None:
        """Go on after `pause`."""
        self._paused = False
        self._watchful = not self._keep or self._source.slow or self._cut_off is not None
        self._gate.let_on()

    def cancel(self) -> None:
        """Stop now: cancel what is in flight. Awaiting the run then gives the report of what was done."""
        self.begin()
        self._cut("cancelled", "cancelled by its owner")

    def __await__(self) -> Generator[Any, None, Report]:
        return self._wait().__await__()

    def __aiter__(self) -> AsyncIterator[Outcome]:
        if self._keep:
            raise TypeError("this run keeps its outcomes for a report: await it, or use executor.stream() to iterate")
        self.begin()
        return Reader(self)

    async def __aenter__(self) -> Run:
        self.begin()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._abandon()

    def __repr__(self) -> str:
        now = self.statistics()
        if self._cut_off:
            state = f"stopped: {self._cut_off[1]}"
        else:
            ended = self._loop is not None and self._end is not None
            state = "ended" if ended else "paused" if self._paused else f"{now.in_flight} in flight"
        of = "" if now.total is None else f" of {now.total}"
        return f"<Run: {now.succeeded + now.failed}{of} done, {now.failed} failed, {state}, {now.elapsed:.3g} s>"

    # -- what the workers ask and tell ----------------------------------------------------------------------------

    def _must_wait(self) -> bool:
        source = self._source
        if self._paused:
            return bool(self._due) or source.total is None or source.taken < source.total
        if self._keep or self._due:  # what is to be tried again was let in already
            return False
        return source.taken - self.yielded >= WINDOW * max(1, self.limiter.limit)

    def _opened(self) -> None:
        if self._ledger is not None:
            self._ledger.open(self._now)
        loop = asyncio.get_running_loop()
        if self._on_loop and is_real(loop):
            self._monitor = LoopMonitor(loop, self._works_for)
            self.stalls = self._monitor.detector.stalls

    def _works_for(self, worker: asyncio.Task[Any]) -> int | None:
        """The task a worker is busy with; asked by another thread."""
        held = self._workers.get(worker)
        task = held.doing if held is not None and held.busy else None
        return task.task_id if isinstance(task, Outcome) else task

    def _settled(self, outcome: Outcome) -> None:
        if self._ledger is not None and (error := self._ledger.record(outcome)) is not None:
            self._failure = self._failure or error
            self._attempter.close("cancelled", error)  # start nothing that could not be written down
        if self._attempter.closed is not None:
            self._wind_up()
        if self._bar is not None:
            self._bar.update()
        if self._keep:
            return
        if not self._ordered:
            self._ready.append(outcome)
        else:
            self._early[outcome.task_id] = outcome
            while self._released in self._early:
                self._ready.append(self._early.pop(self._released))
                self._released += 1
        if self._ready:
            self._news.set()

    def _wind_up(self) -> None:
        """Let tasks go by that cannot start any more; take none where that would have no end."""
        source = self._source
        if source.total is None:
            source.exhausted = True
            if source.waiting and not self._in_flight() and self._attempter.closed is not None:
                status, error = self._attempter.closed
                self._cut(status, str(error))

    def _ended(self) -> None:
        self._news.set()  # first: whoever waits is not to wait for ever because something below fails
        if self._monitor is not None:
            self._monitor.stop()
        if self._bar is not None:
            self._bar.close()
        if self._on_end is not None:
            self._on_end()
        if self._ledger is not None:
            self._ledger.close()

    # -- handing on -----------------------------------------------------------------------------------------------

    async def _wait(self) -> Report:
        if not self._keep:
            raise TypeError("a stream keeps no outcomes: iterate over it with `async for`, or use executor.start()")
        self.begin()
        await self._hear()
        if self._report is None:
            broken = self._source.error
            failed = f"the source of tasks failed: {type(broken).__name__}" if broken else None
            reason = self._cut_off[1] if self._cut_off else failed
            kept = self._source.kept or []
            rest = self._source.rest(reason) if reason else []
            outcomes = kept + rest  # in the order in which they were taken
            if not self._source.in_order:
                outcomes.sort(key=lambda outcome: outcome.task_id)
            if self._attempter.closed is not None:
                reason = _not_started(self._attempter.closed[1], outcomes)
            self._report = Report(outcomes, limits=self.limits, stopped=reason, stalls=self.stalls)
            if (failure := self._failure or broken) is not None:
                attach(failure, self._report, "the run was stopped")
        if (failure := self._failure or self._source.error) is not None:
            raise failure
        return self._report

    async def _hear(self) -> None:
        """Wait for news; whoever is cancelled meanwhile leaves the run."""
        try:
            async with lent(self.limiter):
                await self._news.wait()
        except asyncio.CancelledError:
            await self._abandon()
            raise

    async def _abandon(self) -> None:
        """Leave no task behind."""
        if self._loop is not None:
            self._cut("cancelled", "left before its end")
            await self._all_left()

    async def next_outcome(self) -> Outcome | None:
        """Return the next outcome of a stream; None after the last."""
        while not self._ready and self._end is None:
            self._news.clear()
            await self._hear()
        if self._ready:
            self.yielded += 1
            self._gate.let_on(1)
            return self._ready.popleft()
        if (failure := self._failure or self._source.error) is not None:
            raise failure
        return None


def _not_started(error: Exception, outcomes: list[Outcome]) -> str:
    """Why a run started no more tasks, and how many those are."""
    count = sum(1 for outcome in outcomes if outcome.started is None and outcome.status != "success")
    if hasattr(error, "not_started"):  # a budget's refusal says so itself
        error.not_started = count, len(outcomes)
        return str(error)
    return f"{count} of {len(outcomes)} tasks not started: {error}"


class Reader:
    """The iterator of a stream. When its loop is left by `break` or an error, it goes, and ends the run."""

    __slots__ = ("_run",)

    def __init__(self, run: Run) -> None:
        self._run = run

    def __aiter__(self) -> Reader:
        return self

    async def __anext__(self) -> Outcome:
        outcome = await self._run.next_outcome()
        if outcome is None:
            raise StopAsyncIteration
        return outcome

    def __del__(self) -> None:
        self._run.stop("cancelled", "left before its end")
