"""A run of which only the results are kept: what `executor.map` does.

What it holds: `Mapping`.
Guarantees: one result for each task, in the order of the input, or an exception; nothing runs on after it.
Strategy: where nothing but the call is asked for (no time limit, retry, rate, budget, journal or bar), a task needs no
record: a worker goes from one to the next with a number. Anything more is a usual run, whose records are dropped.
"""

from __future__ import annotations

import asyncio
from typing import Any

from agentkit.executor.lending import holder, numbered
from agentkit.executor.run import Run
from agentkit.report.outcome import Outcome, current
from agentkit.report.report import annotate

__all__ = ["Mapping"]

LOOK = 8  # how often, in tasks, somebody looks at the clock, which is dear


class Mapping(Run):
    """A run of which only the results are kept; wait for them with `results`."""

    def __init__(self, *args: Any, **how: Any) -> None:
        super().__init__(*args, **how)
        source, recorded = self._source, self._bar is not None or self._ledger is not None
        self._bare = self._attempter.plain and source.in_order and not source.slow and not recorded
        self._results: dict[int, Any] = {}
        self._share_end = self._share  # with which number a share of the loop's time is over
        if self._bare:
            source.kept = None

    async def results(self) -> list[Any]:
        """Wait for all results, and return them in the order of the input."""
        self.begin()
        await self._hear()
        found, failure = self._results, self._failure or self._source.error
        for outcome in self._source.kept or ():
            if outcome.status == "success":
                found[outcome.task_id] = outcome.result
        if failure is None and self._cut_off is not None:
            status, reason = self._cut_off
            failure = (TimeoutError if status == "timeout" else RuntimeError)(reason)
        if failure is None:
            return [found[number] for number in range(len(found))]
        said = f"a map was stopped; the {len(found)} results it had are in .results, by task number"
        annotate(failure, said, results=found)
        raise failure

    def _opened(self) -> None:
        super()._opened()
        if self._bare:
            self._context.run(current.set, None)  # spans of these tasks belong to nobody

    def _spawn(self, count: int = 1) -> None:
        super()._spawn((self._bare and self._source.total) or count)  # all at once, where it is known how many

    async def _work(self) -> None:
        if not self._bare:
            return await super()._work()
        me, held = self._come()
        limiter, call, usual = self.limiter, self._attempter.call, self._attempter.usual
        results, work_for, unsized = self._results, numbered.set, self._source.total is None
        holder.set(held)
        try:
            for number, task in self._source.numbered:
                if not held.holding:
                    if held.doing is None and unsized:  # its first task: there may be more, for two more workers
                        self._spawn(2)
                    held.doing = None
                    held.holding = limiter.acquire_nowait() or await self._slot_for(number, task, me)
                    if not held.holding:
                        return None
                work_for(number)
                held.doing = number
                try:
                    results[number] = result = await call(task)
                except BaseException as error:
                    self._fail(Outcome(number, task, error=error, started=self._now()), me)
                else:
                    if type(result) not in usual:
                        self._look_at(Outcome(number, task, "success", result, started=self._now()), me)
                if number >= self._share_end or (number % LOOK == 0 and self._is_time_over()):
                    held.doing = None
                    await self._be_fair()
                if me.cancelling() and not self._cut_off:  # an agent has swallowed a cancellation that was for all
                    self._cut("cancelled", "a worker was cancelled")
                if limiter.contended or self._cut_off:
                    if self._cut_off or len(self._workers) > max(1, limiter.limit):
                        return None
                    limiter.release()
                    held.holding = False
        except BaseException as error:
            self._fall(me, error)
            raise
        finally:
            self._leave(me, held)

    async def _slot_for(self, number: int, task: Any, me: asyncio.Task[None]) -> bool:
        """Wait for a slot; False if a bounded queue has refused."""
        outcome = Outcome(number, task)
        if await self._slot(outcome, me):
            return True
        self._settle(outcome)
        return False

    def _begin_share(self) -> None:
        super()._begin_share()
        self._share_end = self._source.taken + self._share

    def _is_time_over(self) -> bool:
        if self._now() <= self._fair_until:
            return False
        self._share_end = 0  # for all workers
        return True

    def _fail(self, outcome: Outcome, me: asyncio.Task[None]) -> None:
        """Record a failure; what is not the agent's own error passes through."""
        assert outcome.error is not None
        assert outcome.started is not None
        self._attempter.raised(outcome, outcome.error, me, outcome.started, None)
        self._settle(outcome)

    def _look_at(self, outcome: Outcome, me: asyncio.Task[None]) -> None:
        """Take a result back that is none, but a coroutine somebody forgot to await."""
        assert outcome.started is not None
        self._attempter.returned(outcome, me, outcome.started, None)
        if outcome.status != "success":
            del self._results[outcome.task_id]
            self._settle(outcome)
