"""The handle of a run: watch it, pause it, cancel it, wait for its report.

What it holds: `Handle`, what all handles have, and `Run`, which `ParallelAgentExecutor.start` returns. What a run does
is in `dispatch.py`.
Guarantees: awaiting it gives the report, or raises with the report attached; leaving it early leaves no task behind;
a run that failed and was never awaited says so.
Opened by notebook 03.
"""

from __future__ import annotations

from collections.abc import Generator
from types import TracebackType
from typing import Any, Self

from agentkit.executor.dispatch import Dispatcher
from agentkit.executor.settings import Plan, RunStatistics
from agentkit.executor.source import Source
from agentkit.limits import BudgetExceeded
from agentkit.report import Outcome, Report, attach
from agentkit.report.outcome import R, T

__all__ = ["Handle", "Run"]


class Handle(Dispatcher[T, R]):
    """What a caller may do with a run, whether it awaits a report or iterates over a stream."""

    @property
    def stopped(self) -> str | None:
        """Why the run ended early; None if it did not."""
        return self._cut_off and self._cut_off[1]

    @property
    def timed_out(self) -> bool:
        """Whether it was stopped because its time was up."""
        return self._cut_off is not None and self._cut_off[0] == "timeout"

    def statistics(self) -> RunStatistics:
        """Return what the run is doing now."""
        in_flight, backing_off, total = len(self._live), len(self._later) + len(self._due), self._source.total
        begun = self._succeeded + self._failed + in_flight + backing_off
        waiting = None if total is None else total - begun
        return RunStatistics(total, waiting, in_flight, backing_off, self._succeeded, self._failed, self._now())

    def pause(self) -> None:
        """Start no more tasks; those in flight run on."""
        self._paused = True

    def resume(self) -> None:
        """Start tasks again after `pause`."""
        self._paused = False
        self._wake()

    def cancel(self) -> None:
        """Stop now: cancel what is in flight and start nothing more."""
        self.begin()
        self.stop("cancelled", "cancelled by its owner")

    async def __aenter__(self) -> Self:
        self.begin()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop("cancelled", "left before its end")
        await self.wait_until_over()

    def __repr__(self) -> str:
        now = self.statistics()
        state = "ended" if self._elapsed is not None else "paused" if self._paused else f"{now.in_flight} in flight"
        if self._cut_off:
            state = f"stopped: {self.stopped}"
        of, name = "" if now.total is None else f" of {now.total}", type(self).__name__
        return f"<{name}: {now.succeeded + now.failed}{of} done, {now.failed} failed, {state}, {now.elapsed:.3g} s>"


class Run(Handle[T, R]):
    """A run in progress: watch it, pause it, cancel it, wait for its report.

    >>> import asyncio
    >>> from agentkit import ParallelAgentExecutor
    >>> async def main():
    ...     run = ParallelAgentExecutor(max_concurrency=2).start(["a", "b", "c"], str.upper)
    ...     report = await run
    ...     return run, report.results
    >>> asyncio.run(main())  # doctest: +ELLIPSIS
    (<Run: 3 of 3 done, 0 failed, ended, ... s>, ['A', 'B', 'C'])

    Made by `ParallelAgentExecutor.start`; await it for the `Report`. As an async context manager it is cancelled, and
    waited for, when the block is left before it has ended.
    """

    def __init__(self, plan: Plan[T, R], source: Source[T]) -> None:
        super().__init__(plan, source)
        self._kept = []
        self._report: Report[T, R] | None = None
        self._awaited = False

    def __await__(self) -> Generator[Any, None, Report[T, R]]:
        return self._wait().__await__()

    def __aiter__(self) -> None:
        raise TypeError("this run keeps its outcomes for a report: await it, or use executor.stream() to iterate")

    async def _wait(self) -> Report[T, R]:
        self.begin()
        self._awaited = True
        try:
            await self.wait_until_over()
        except BaseException as error:
            attach(error, self._made(), "the run was stopped")
            raise
        report = self._made()
        if self._failure is not None:
            attach(self._failure, report, "the run was stopped")
            raise self._failure
        return report

    def _made(self) -> Report[T, R]:
        """The report, made once, of the outcomes in input order."""
        if self._report is None:
            broken, source, reason = self._source.error, self._source, self.stopped
            if broken is not None and reason is None:
                reason = f"the source of tasks failed: {type(broken).__name__}"
            outcomes, self._kept = self._kept or [], []
            if reason is not None:
                outcomes += source.rest(reason, self._writer)
            if source.order is not None:
                outcomes.sort(key=lambda outcome: outcome.task_id)
            if self._gate.closed is not None:
                reason = _not_started(self._gate.closed[1], outcomes)
            self._report = Report(outcomes, limits=self.limits, stopped=reason, stalls=self.stalls)
        return self._report

    def __del__(self) -> None:
        if self._failure is not None and not self._awaited and self._loop is not None:
            said = "a run failed, and was never awaited"
            self._loop.call_exception_handler({"message": said, "exception": self._failure})


def _not_started(error: Exception, outcomes: list[Outcome[T, R]]) -> str:
    """Why a run started no more tasks, and how many those are."""
    count = sum(1 for outcome in outcomes if outcome.started is None and outcome.status != "success")
    if isinstance(error, BudgetExceeded):  # which says so itself
        error.not_started = count, len(outcomes)
        return str(error)
    return f"{count} of {len(outcomes)} tasks not started: {error}"
