"""The handle of a run: watch it, pause it, cancel it, wait for its report.

What it holds: `Run`, which `ParallelAgentExecutor.start` returns. What it does is in `dispatch.py`.
Guarantees: awaiting it gives the report, or raises with the report attached; leaving it early leaves no task behind;
a run that failed and was never awaited says so.
Opened by notebook 03.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from agentkit.executor.dispatch import BaseRun
from agentkit.executor.settings import Plan
from agentkit.limits import BudgetExceeded
from agentkit.report import Outcome, Report, attach

__all__ = ["Run"]


class Run(BaseRun):
    """A run in progress: watch it, pause it, cancel it, wait for its report.

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

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self._kept = []
        self._report: Report | None = None
        self._awaited = False

    def __await__(self) -> Generator[Any, None, Report]:
        return self._wait().__await__()

    def __aiter__(self) -> Any:
        raise TypeError("this run keeps its outcomes for a report: await it, or use executor.stream() to iterate")

    async def _wait(self) -> Report:
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

    def _made(self) -> Report:
        """The report, made once, of the outcomes in input order."""
        if self._report is None:
            broken, source, reason = self._source.error, self._source, self.stopped
            if broken is not None and reason is None:
                reason = f"the source of tasks failed: {type(broken).__name__}"
            outcomes = (self._kept or []) + (source.rest(reason, self._writer) if reason else [])
            if source.order is not None:
                outcomes.sort(key=lambda outcome: outcome.task_id)
            if self._gate.closed is not None:
                reason = _not_started(self._gate.closed[1], outcomes)
            self._report = Report(outcomes, limits=self.limits, stopped=reason, stalls=self.stalls)
            self._kept = []
        return self._report

    def __del__(self) -> None:
        if self._failure is not None and not self._awaited and self._loop is not None:
            said = "a run failed, and was never awaited"
            self._loop.call_exception_handler({"message": said, "exception": self._failure})


def _not_started(error: Exception, outcomes: list[Outcome]) -> str:
    """Why a run started no more tasks, and how many those are."""
    count = sum(1 for outcome in outcomes if outcome.started is None and outcome.status != "success")
    if isinstance(error, BudgetExceeded):  # which says so itself
        error.not_started = count, len(outcomes)
        return str(error)
    return f"{count} of {len(outcomes)} tasks not started: {error}"
