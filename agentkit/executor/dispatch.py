"""A run: one dispatcher, one asyncio task per attempt.

What it holds: `Dispatcher`. What people hold of it, `Run` and `Stream`, are subclasses in files of their own.
Guarantees: at most `limiter.limit` tasks in flight; every task taken from the source gets exactly one outcome; what an
agent does to its asyncio task or to its context ends with that attempt; a run that could not begin holds nothing; when
a run is over, no task, timer or slot of it is left. Not for threads; bound to the loop it began on.
Strategy: the dispatcher does all the waiting of the run, in this order: for a task to do, for a slot, for what the
attempt must be granted. Then it starts the attempt in an asyncio task and context of its own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from math import inf
from typing import Any, Generic

from agentkit.executor.attempts import LiveAttempts, begun, turn, without_caller
from agentkit.executor.call import UNFINISHED, Nesting, NeverStarts, forgotten_await, inside
from agentkit.executor.grants import Gate, Grant, refusal
from agentkit.executor.settings import Plan, open_bar
from agentkit.executor.source import Source
from agentkit.limits import BudgetExceeded
from agentkit.report.outcome import Attempt, Outcome, R, Status, T, clock, current
from agentkit.report.stalls import LoopMonitor, Stall
from agentkit.semaphore.waiters import is_real

__all__ = ["Dispatcher"]

BATCH = 200  # attempts started in a row, where no limit makes the dispatcher wait, before the loop gets a turn


class Dispatcher(Generic[T, R]):
    """Starts the attempts of a run, and ends them and it."""

    def __init__(self, plan: Plan[T, R], source: Source[T]) -> None:
        self.limiter = plan.limiter
        """The slots."""
        self.began = 0.0
        """When the run began, on the loop's clock."""
        self.limits: list[tuple[float, float]] = []
        """`(seconds since the run began, limit)` for the beginning and each change of the limit."""
        self.stalls: list[Stall] = []
        """Agents that blocked the loop so far, and for how long."""
        self._plan, self._source, self._settings, self._writer = plan, source, plan.settings, plan.writer
        self._call, self._retries = plan.call, plan.retries
        self._timed = plan.settings.timeout is not None or plan.settings.deadline is not None
        self._loop: asyncio.AbstractEventLoop | None = None  # None until the run begins
        self._attempts = LiveAttempts(in_order=plan.settings.deadline is None)
        self._live = self._attempts.live
        self._due: deque[Outcome[T, R]] = deque()  # to be tried again now
        self._later: dict[int, tuple[Outcome[T, R], asyncio.TimerHandle]] = {}  # to be tried again after a wait
        self._kept: list[Outcome[T, R]] | None = None  # the outcomes of all tasks taken, where they are kept
        self._window, self._handed_over = inf, 0  # tasks taken ahead of a reader, at most; outcomes it has
        self._width = 1.0  # attempts at once, at most; a limit of 0 still lets a task queue for a slot
        self._news: asyncio.Future[None] | None = None  # what the dispatcher waits for
        self._bar: Any = None
        self._monitor: LoopMonitor | None = None
        self._paused = False
        self._succeeded = self._failed = 0
        self._cut_off: tuple[Status, str] | None = None  # the status of what is cut off, and why
        self._failure: BaseException | None = None  # what to raise in the end
        self._elapsed: float | None = None  # once the run is over
        self._over = asyncio.Event()
        self._ending: list[Callable[[], object]] = []  # gives back what was acquired, last first

    def stop(self, status: Status, reason: str, failure: BaseException | None = None) -> None:
        """End early: start nothing more, cancel what is in flight and record it with `status`."""
        if self._cut_off or self._elapsed is not None or self._loop is None:
            return
        self._cut_off, self._failure = (status, reason), self._failure or failure
        for _, timer in self._later.values():
            timer.cancel()
        waiting = [*self._due, *(outcome for outcome, _ in self._later.values())]
        self._due, self._later = deque(), {}
        for outcome in waiting:
            self._end_cut_off(outcome)
        self._source.close()
        me = asyncio.current_task(self._loop)
        if self._dispatcher is not me:
            self._dispatcher.cancel()
        self._attempts.cancel(me)

    # -- beginning ------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start the run, once: all of it, or, if anything raises, nothing."""
        if self._loop is not None:
            return
        loop, plan, ending = asyncio.get_running_loop(), self._plan, self._ending
        self.began, self._time = loop.time(), loop.time
        try:
            if plan.close is not None:
                ending.append(plan.close)
            if plan.writer is not None:
                plan.writer.open(self._now)
                ending.append(plan.writer.close)
            if plan.progress and (bar := open_bar(self._source.total)) is not None:
                self._bar = bar
                ending.append(bar.close)
            if plan.monitored and is_real(loop):
                self._monitor = LoopMonitor(loop, self._attempts.task_id_of)
                self.stalls = self._monitor.detector.stalls
                ending.append(self._monitor.stop)
            if (within := self._settings.within) is not None:
                ending.append(loop.call_later(within, self.stop, "timeout", f"within={within:g} s is over").cancel)
            now = loop.time, self.began
            self._gate = Gate(plan.agent, plan.rate_limiter, plan.budget, plan.retries, now)
            self._nesting = Nesting(self.limiter, self._live)
            self._context = copy_context()
            self._context.run(clock.set, now)
            self._context.run(inside.set, self._nesting)
            ending.append(self.limiter.join(self._limit_changed))
            self._limit_changed()
            if self._source.is_async:
                self._context.run(self._source.start, self._now, self._wake)
            self._dispatcher = begun(loop, self._dispatch(), self._context.copy())
            self._loop = loop
        except BaseException:
            self._source.close()
            self._give_back()
            raise

    def _now(self) -> float:
        """Seconds since the run began; fixed once it has ended."""
        if self._elapsed is not None:
            return self._elapsed
        return 0.0 if self._loop is None else self._time() - self.began

    def _limit_changed(self) -> None:
        self.limits.append((self._now(), self.limiter.limit))
        self._width = max(1, self.limits[-1][1])
        self._wake()

    # -- the dispatcher -------------------------------------------------------------------------------------------

    async def _dispatch(self) -> None:
        source, limiter, gate, outcome, started, now = self._source, self.limiter, self._gate, None, 0, 0.0
        try:
            await turn()
            while self._cut_off is None:
                outcome = self._take()
                if outcome is None:
                    if not (self._live or self._due or self._later) and source.exhausted:
                        break
                    await self._hear()
                    now = self._now()  # once for all that start now
                    continue
                grant = None
                if outcome.finished is None and not (gate.is_open and limiter.acquire_nowait()):
                    grant = await self._admit(outcome)
                    now = self._now()
                if outcome.finished is not None:
                    self._end(outcome)
                    continue
                self._start(outcome, grant, now)
                started += 1
                if limiter.runs > 1 or started % BATCH == 0:
                    await asyncio.sleep(0)  # other runs on this limiter have their turn before the next slot
                    now = self._now()
        except asyncio.CancelledError:
            self.stop("cancelled", "the task that runs it was cancelled")
        except BaseException as error:
            self.stop("cancelled", f"it failed: {type(error).__name__}", error)
        if outcome is not None and outcome.finished is None and outcome.task_id not in self._live:
            self._end_cut_off(outcome)
        outcome = None
        while self._live or source.feeder is not None:
            try:
                await self._hear()
            except asyncio.CancelledError:  # once more: for agents and sources that swallow it
                self._attempts.cancel()
                source.close()
        for outcome in source.arrived:  # taken, and never started
            if self._kept is not None:
                self._kept.append(outcome)
            self._end_cut_off(outcome)
        self._finish()

    def _take(self) -> Outcome[T, R] | None:
        """The next task to start now; None if there is none, or it has to wait."""
        if self._paused or len(self._live) >= self._width:
            return None
        if self._due:
            return self._due.popleft()
        source = self._source
        if source.exhausted or source.taken - self._handed_over >= self._window or (outcome := source.take()) is None:
            return None
        if self._writer is not None:
            try:
                self._writer.recall(outcome)  # it may be done already
            except Exception as error:
                source.fail(error)
                return None
            except BaseException as error:
                outcome.end("failed", error, self._now())
                self.stop("cancelled", f"{type(error).__name__} was raised", error)
        if self._kept is not None:
            self._kept.append(outcome)
        return outcome

    async def _admit(self, outcome: Outcome[T, R]) -> Grant | None:
        """Wait for a slot, and for what the attempt must be granted; the outcome has ended if it cannot be had."""
        limiter, gate, deadline, holding = self.limiter, self._gate, self._settings.deadline, False
        grant = None if gate.is_open else Grant()
        until = None if deadline is None else self.began + outcome.submitted + deadline
        try:
            async with asyncio.timeout_at(until) as limit:
                if grant is not None:
                    await gate.claim(outcome, grant)  # without a slot, which a nested run may need to end
                while not holding or self._paused:
                    if holding:
                        limiter.release()
                        holding = False
                        await self._hear()
                    elif not (holding := limiter.acquire_nowait()):
                        with self._nesting.queued():
                            holding = await limiter.acquire()
                        gate.since = None
                    if holding and not self._paused and not gate.is_open:
                        grant = grant or Grant()
                        await gate.reserve(outcome, grant)
            if gate.closed is None:
                return grant
            status, error = gate.closed
        except NeverStarts:
            raise
        except Exception as raised:
            status, error = refusal(raised, deadline if limit.expired() else None)
            if isinstance(raised, BudgetExceeded):
                self._close(raised)
        except BaseException:
            self._release(holding, grant)
            raise
        self._release(holding, grant)
        outcome.end(status, error, self._now())
        return None

    def _release(self, holding: bool, grant: Grant | None) -> None:
        if grant is not None:
            grant.give_back()
        if holding:
            self.limiter.release()

    def _close(self, error: Exception) -> None:
        """Start nothing more, without cancelling what is in flight, for it is paid already."""
        if self._gate.closed is None:
            self._gate.close("rejected" if isinstance(error, BudgetExceeded) else "cancelled", error)
        if self._source.total is None:  # the rest of the input may have no end
            self._source.close()
            self._wake()

    def _start(self, outcome: Outcome[T, R], grant: Grant | None, now: float) -> None:
        """Start an attempt, which from here on holds the slot and the grant."""
        when, context, started = inf, self._context.copy(), False
        try:
            if self._cut_off:  # by the source, or by a function of the user's that was called meanwhile
                return
            if self._timed:
                waited = now - outcome.submitted
                if (seconds := self._settings.seconds_left(waited)) <= 0:
                    said = f"not started: {self._settings.rule(waited)} had passed"
                    outcome.end("timeout", TimeoutError(said), now)
                    return
                when = self.began + now + seconds
            if grant is not None:
                context.run(grant.begin)
            if self._retries is not None:
                self._retries.start(self.began + now, outcome.started is not None)
            self._live[outcome.task_id] = begun(self._loop, self._attempt(outcome, grant, now), context), when
            started = True
            if outcome.started is None:
                outcome.started = now
            if when < self._attempts.due:
                self._attempts.set_timer(self._loop, when)
        except BudgetExceeded as error:
            self._close(error)
            outcome.end("rejected", error, now)
        finally:
            if not started:
                self._release(True, grant)
                if outcome.finished is not None:
                    self._end(outcome)
                elif self._cut_off:
                    self._end_cut_off(outcome)

    # -- an attempt -----------------------------------------------------------------------------------------------

    async def _attempt(self, outcome: Outcome[T, R], grant: Grant | None, started: float) -> None:
        """Call the agent once. Everything that can come of it ends here."""
        result = error = None
        try:
            await turn()
            current.set(outcome)
            if grant is not None:
                grant.used = True
            result = await self._call(outcome.task)
        except BaseException as raised:
            error = without_caller(raised)
        try:
            self._settle(outcome, result, error, grant, started)
        except BaseException as raised:  # a hook
            self._fail(outcome, raised)
        finally:
            del self._live[outcome.task_id]
            if self._attempts.late:
                self._attempts.late.discard(outcome.task_id)
            self.limiter.release()
            if self._news is not None:
                self._wake()
            self = outcome = grant = result = error = None  # type: ignore[assignment]  # the agent's frame may live

    def _settle(
        self, outcome: Outcome[T, R], result: Any, error: BaseException | None, grant: Grant | None, started: float
    ) -> None:
        """Correct what was granted; then end the outcome, or try again later."""
        plan, finished = self._plan, self._time() - self.began
        if error is None and isinstance(result, UNFINISHED):
            error, result = forgotten_await(result), None
        if outcome.task_id in self._attempts.late and isinstance(error, asyncio.CancelledError):
            error = TimeoutError(f"took longer than {self._settings.rule(started - outcome.submitted)}")
        if grant is not None or plan.observe is not None or plan.usage is not None:
            plan.settle(outcome, grant, (self.began + started, self.began + finished), result, error)
        if error is None:
            outcome.result, outcome.status, outcome.finished = result, "success", finished
            if outcome.attempt_log is not None:
                outcome.attempt_log += (Attempt(started, finished),)
            self._end(outcome)
            return
        if self._cut_off and isinstance(error, asyncio.CancelledError):
            if outcome.attempt_log is not None:
                outcome.attempt_log += (Attempt(started, finished, error),)
            self._end_cut_off(outcome)
            return
        ends_programs = not isinstance(error, Exception | asyncio.CancelledError)
        wait = None if self._cut_off or ends_programs else self._plan.next_try(outcome, error, self.began, finished)
        self._gate.note_pause()
        if wait is not None or outcome.attempt_log is not None:
            outcome.attempt_log = (*(outcome.attempt_log or ()), Attempt(started, finished, error))
        if wait is not None and not self._cut_off:
            timer = self._loop.call_later(wait, self._is_due, outcome)  # type: ignore[union-attr]
            self._later[outcome.task_id] = outcome, timer
            return
        status: Status = "timeout" if isinstance(error, TimeoutError) else "failed"
        outcome.end("cancelled" if isinstance(error, asyncio.CancelledError) else status, error, finished)
        self._end(outcome)
        if ends_programs:
            self.stop("cancelled", f"an agent raised {type(error).__name__}", error)

    def _is_due(self, outcome: Outcome[T, R]) -> None:
        del self._later[outcome.task_id]
        self._due.append(outcome)
        self._wake()

    # -- the end of a task ----------------------------------------------------------------------------------------

    def _end(self, outcome: Outcome[T, R]) -> None:
        """A task has its outcome: write it down, count it, hand it on, and see whether it ends the run."""
        if self._writer is not None and (error := self._writer.record(outcome)) is not None:
            self._failure = self._failure or error
            self._close(error)  # start nothing that could not be written down
        if outcome.status == "success":
            self._succeeded += 1
        else:
            self._failed += 1
            if self._cut_off is None and (end := self._settings.ends_run(outcome, self._failed)) is not None:
                self.stop("cancelled", *end)
        if self._bar is not None:
            self._bar.update()
        if self._kept is None:
            self._deliver(outcome)

    def _deliver(self, outcome: Outcome[T, R]) -> None:
        """Take an outcome that is not kept."""

    def _end_cut_off(self, outcome: Outcome[T, R]) -> None:
        status, reason = self._cut_off or ("cancelled", "the run was stopped")
        error = TimeoutError(reason) if status == "timeout" else asyncio.CancelledError(reason)
        outcome.end(status if outcome.started is not None else "cancelled", error, self._now())
        self._end(outcome)

    def _fail(self, outcome: Outcome[T, R], error: BaseException) -> None:
        """A function of the user's failed after the call: that is the task's failure."""
        if outcome.finished is None:
            outcome.end("failed", error, self._now())
            self._end(outcome)
            if isinstance(error, Exception):
                return
        self.stop("cancelled", f"{type(error).__name__} was raised", error)

    # -- the end of the run ---------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """The last attempt has ended: give back what the run acquired, and tell those who wait."""
        self._elapsed = self._now()
        if self._attempts.timer is not None:
            self._attempts.close()
        self._give_back()
        self._failure = self._failure or self._source.error
        del self._context, self._dispatcher  # which refer to what the run holds
        self._over.set()

    def _give_back(self) -> None:
        while self._ending:
            try:
                self._ending.pop()()
            except Exception as error:
                self._failure = self._failure or error

    def _wake(self) -> None:
        """Let the dispatcher look what there is to do."""
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    async def _hear(self) -> None:
        """Wait, as the dispatcher, until something has changed."""
        self._news = asyncio.get_running_loop().create_future()
        self._gate.since = None  # a task that waits from here on waits for something else
        await self._news

    async def wait_until_over(self, waiting: Callable[[], Awaitable[Any]] | None = None) -> None:
        """Wait until the run is over, or for `waiting`; if that is cancelled, end the run and wait for its end.

        An attempt that waits for a nested run on its own limiter lends it its slot meanwhile.
        """
        if inside.get() is not None:
            async with self._nesting.awaited():
                await self._wait_for(waiting or self._over.wait)
        else:
            await self._wait_for(waiting or self._over.wait)

    async def _wait_for(self, waiting: Callable[[], Awaitable[Any]]) -> None:
        try:
            self._nesting.check()
            await waiting()
        except BaseException:
            self.stop("cancelled", "left before its end")
            while not self._over.is_set():
                try:
                    await self._over.wait()
                except asyncio.CancelledError:
                    self._attempts.cancel()
            raise
