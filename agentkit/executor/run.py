"""A run in progress: one dispatcher, one asyncio task per attempt.

What it holds: `BaseRun`, which does the work, `Run`, the handle that `ParallelAgentExecutor.start` returns, and
`RunStatistics`. `Stream`, the other handle, is in `stream.py`.
Guarantees: at most `limiter.limit` tasks in flight; every task taken from the source gets exactly one outcome; what an
agent does to its asyncio task or to its context ends with that attempt; when a run is over, no task, timer or slot of
it is left. Not for threads; bound to the loop it began on.
Strategy: the dispatcher does all the waiting of the run, in this order: for a task to do, for a slot, for what the
attempt must be granted. Then it starts the attempt in an asyncio task and context of its own. An attempt ends in
`_attempt`, and nowhere else. One timer serves all time limits.
Opened by notebook 03.
"""

from __future__ import annotations

import asyncio
import types
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass
from math import inf
from types import AsyncGeneratorType, CoroutineType, TracebackType
from typing import Any, Self

from agentkit.executor.grants import Gate, Grant
from agentkit.executor.settings import Plan
from agentkit.limits import BudgetExceeded, NeverFits
from agentkit.report import Outcome, Report, attach
from agentkit.report.outcome import Attempt, clock, current
from agentkit.report.stalls import LoopMonitor, Stall, is_real
from agentkit.semaphore import QueueFull

__all__ = ["BaseRun", "Run", "RunStatistics", "run_of"]

BATCH = 200  # attempts started in a row, where no limit makes the dispatcher wait, before the loop gets a turn
_UNFINISHED = (CoroutineType, asyncio.Future, AsyncGeneratorType)  # what an agent returns that forgot to await

run_of: ContextVar[BaseRun | None] = ContextVar("agentkit run", default=None)
"""The run whose attempt the running code belongs to."""


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
    """Seconds since the run began; fixed once it has ended."""


class BaseRun:
    """What `Run` and `Stream` share: starting attempts, ending them, and ending the run."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._source, self.limiter, self._settings = plan, plan.source, plan.limiter, plan.settings
        self._call, self._retries, self._timed = plan.call, plan.retries, plan.settings.timed
        self._loop: asyncio.AbstractEventLoop | None = None  # None until the run begins
        self.began = 0.0
        """When the run began, on the loop's clock."""
        self.limits: list[tuple[float, float]] = []
        """`(seconds since the run began, limit)` for the beginning and each change of the limit."""
        self.stalls: list[Stall] = []
        """Agents that blocked the loop so far, and for how long."""
        self._gate = Gate(plan.agent, plan.rate_limiter, plan.budget, plan.retries)
        self._live: dict[asyncio.Task[None], tuple[float, Outcome]] = {}  # attempts: when their time is up, and whose
        self._late: set[asyncio.Task[None]] = set()  # attempts cancelled because their time was up
        self._due: deque[Outcome] = deque()  # to be tried again now
        self._later: dict[int, tuple[Outcome, asyncio.TimerHandle]] = {}  # to be tried again after a wait
        self._alarm: asyncio.TimerHandle | None = None  # the next time limit
        self._alarm_at = inf
        self._news: asyncio.Future[None] | None = None  # what the dispatcher waits for
        self._over = asyncio.Event()
        self._elapsed: float | None = None  # once the run is over
        self._cut_off: tuple[str, str] | None = None  # status of what is cut off, and why
        self._failure: BaseException | None = None  # what to raise in the end
        self._monitor: LoopMonitor | None = None
        self._paused = False
        self._succeeded = self._failed = 0
        self._ending: list[Callable[[], object]] = []  # what was acquired, last first to be given back

    # -- what a caller may do -------------------------------------------------------------------------------------

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
        in_flight, backing_off = len(self._live), len(self._later) + len(self._due)
        total = self._source.total
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

    def stop(self, status: str, reason: str, failure: BaseException | None = None) -> None:
        """End early: start nothing more, cancel what is in flight and record it with `status`."""
        if self._cut_off or self._over.is_set() or self._loop is None:
            return
        self._cut_off, self._failure = (status, reason), self._failure or failure
        waiting = [*self._due, *(outcome for outcome, _ in self._later.values())]
        for _, timer in self._later.values():
            timer.cancel()
        self._later.clear()
        self._due.clear()
        for outcome in waiting:
            self._end_cut_off(outcome)
        self._source.close()
        me = asyncio.current_task(self._loop)
        for task in (self._dispatcher, *self._live):
            if task is not me:
                task.cancel()

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
        of = "" if now.total is None else f" of {now.total}"
        name = type(self).__name__
        return f"<{name}: {now.succeeded + now.failed}{of} done, {now.failed} failed, {state}, {now.elapsed:.3g} s>"

    # -- beginning ------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start the run, once: all of it, or, if anything raises, nothing."""
        if self._loop is not None:
            return
        loop, plan = asyncio.get_running_loop(), self._plan
        self.began = loop.time()
        try:
            if plan.writer is not None:
                plan.writer.open(self._now)
                self._ending.append(plan.writer.close)
            if plan.close is not None:
                self._ending.append(plan.close)
            if (bar := plan.open_bar(self._source.total)) is not None:
                self._ending.append(bar.close)
            self._bar, self._time = bar, loop.time
            self._gate.begin(loop.time, self.began)
            self._context = copy_context()
            self._context.run(clock.set, (loop.time, self.began))
            self._parent = run_of.get(), current.get()
            self._context.run(run_of.set, self)
            self._loop = loop
            self._dispatcher = _begun(loop, self._dispatch(), self._context)
            self._context.run(self._source.start, self._now, self._wake)
        except BaseException:
            self._loop = None
            self._give_back()
            raise
        if (within := self._settings.within) is not None:
            self._ending.append(loop.call_later(within, self.stop, "timeout", f"within={within:g} s is over").cancel)
        if not plan.serial and is_real(loop):
            self._monitor = LoopMonitor(loop, self._works_for)
            self.stalls = self._monitor.detector.stalls
            self._ending.append(self._monitor.stop)
        self.limiter.runs += 1
        self._ending.append(self._leave_limiter)
        self.limits = [(0.0, self.limiter.limit)]
        self._ending.append(self.limiter.subscribe(self._limit_changed))

    def _now(self) -> float:
        """Seconds since the run began; fixed once it has ended."""
        if self._elapsed is not None:
            return self._elapsed
        return 0.0 if self._loop is None else self._loop.time() - self.began

    def _limit_changed(self) -> None:
        self.limits.append((self._now(), self.limiter.limit))
        self._wake()

    def _leave_limiter(self) -> None:
        self.limiter.runs -= 1

    def _works_for(self, task: asyncio.Task[Any]) -> int | None:
        """The number of the agent's task that an asyncio task works for; called from another thread."""
        found = self._live.get(task)
        return None if found is None else found[1].task_id

    # -- the dispatcher -------------------------------------------------------------------------------------------

    async def _dispatch(self) -> None:
        outcome, started = None, 0
        try:
            await _turn()  # an eager task factory begins this before `begin` has returned
            while (outcome := await self._next()) is not None:
                grant = None
                if outcome.finished is None:
                    grant = await self._admit(outcome)
                if outcome.finished is None:
                    self._start(outcome, grant)
                    started += 1
                    if self.limiter.runs > 1 or started % BATCH == 0:
                        await asyncio.sleep(0)  # the others on this limiter have their turn before the next slot
                else:
                    self._end(outcome)
                outcome = None
        except asyncio.CancelledError:
            self.stop("cancelled", "the task that runs it was cancelled")
            if outcome is not None and outcome.finished is None:
                self._end_cut_off(outcome)
        except BaseException as error:
            self.stop("cancelled", f"it failed: {type(error).__name__}", error)
        while self._live or self._source.feeder is not None:
            try:
                await self._hear()
            except asyncio.CancelledError:  # once more: for agents that swallow it
                for task in list(self._live):
                    task.cancel()
        self._finish()

    async def _next(self) -> Outcome | None:
        """Wait for the next task to do; None when there will be none."""
        source = self._source
        while self._cut_off is None:
            if not self._paused and len(self._live) < max(1, self.limiter.limit):
                if self._due:
                    return self._due.popleft()
                if self._has_room() and (outcome := source.take()) is not None and self._recall(outcome):
                    self._keep(outcome)
                    return outcome
            if source.at_end and not (self._live or self._due or self._later):
                return None
            await self._hear()
        return None

    def _recall(self, outcome: Outcome) -> bool:
        """Ask the journal whether a task is done already; where it cannot say, the input ends."""
        if self._plan.writer is not None:
            try:
                self._plan.writer.recall(outcome)
            except Exception as error:
                self._source.fail(error)
                return False
        return True

    async def _admit(self, outcome: Outcome) -> Grant | None:
        """Wait for a slot, and for what the attempt must be granted; the outcome has ended if it cannot be had."""
        limiter, gate, deadline, holding, grant = self.limiter, self._gate, self._settings.deadline, False, None
        try:
            if limiter.acquire_nowait():
                holding = True
                if gate.is_open:
                    return None
            until = None if deadline is None else self.began + outcome.submitted + deadline
            async with asyncio.timeout_at(until):
                while not holding:
                    await self._slot()
                    holding = True
                    while self._paused:
                        limiter.release()
                        holding = False
                        await self._hear()
                if not gate.is_open:
                    grant = await gate.ask(outcome)
            if gate.closed is None:
                return grant
            error: Exception
            status, error = gate.closed
        except (QueueFull, NeverFits, BudgetExceeded) as refused:
            status, error = "rejected", refused
            if isinstance(refused, BudgetExceeded):
                self._close(refused)
        except TimeoutError:
            status, error = "timeout", TimeoutError(f"not started: deadline={deadline:g} s from submission had passed")
        except Exception as raised:
            status, error = "failed", raised
        except BaseException:
            self._release(holding, grant)
            raise
        outcome.end(status, error, self._now())
        self._release(holding, grant)
        return None

    async def _slot(self) -> None:
        """Wait for a slot; raises at once where no slot can ever come free."""
        await self.limiter.acquire()

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

    def _start(self, outcome: Outcome, grant: Grant | None) -> None:
        """Start an attempt, which from here on holds the slot and the grant."""
        handed_over = False
        try:
            now, when = self._time() - self.began, inf
            if self._timed:
                seconds = self._settings.seconds_left(now - outcome.submitted)
                if seconds <= 0:
                    rule = self._settings.rule(now - outcome.submitted)
                    outcome.end("timeout", TimeoutError(f"not started: {rule} had passed"), now)
                    self._end(outcome)
                    return
                when = self.began + now + seconds
            context = self._context.copy()
            if grant is not None and grant.claim is not None:
                context.run(grant.claim.begin)
            if self._retries is not None:
                self._retries.start(self.began + now, outcome.started is not None)
            if outcome.started is None:
                outcome.started = now
            self._live[_begun(self._loop, self._attempt(outcome, grant, now), context)] = when, outcome
            handed_over = True
            if when < self._alarm_at:
                self._set_alarm(when)
        except BudgetExceeded as error:
            self._close(error)
            outcome.end("rejected", error, self._now())
            self._end(outcome)
        finally:
            if not handed_over:
                self._release(True, grant)

    def _keep(self, outcome: Outcome) -> None:
        """A task was taken from the source."""

    def _has_room(self) -> bool:
        """Whether a new task may be taken from the source."""
        return True

    # -- time limits ----------------------------------------------------------------------------------------------

    def _set_alarm(self, when: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        assert self._loop is not None
        self._alarm, self._alarm_at = self._loop.call_at(when, self._ring), when

    def _ring(self) -> None:
        """Cancel the attempts whose time is up, and set the timer for the next one."""
        assert self._loop is not None
        now, following = max(self._alarm_at, self._loop.time()), inf
        for task, (when, _) in list(self._live.items()):
            if when > now:
                following = min(following, when)
                if self._settings.deadline is None:
                    break  # attempts are in the order in which their time is up
            elif task not in self._late:
                self._late.add(task)
                task.cancel()
        self._alarm, self._alarm_at = None, inf
        if following < inf:
            self._set_alarm(following)

    # -- an attempt -----------------------------------------------------------------------------------------------

    async def _attempt(self, outcome: Outcome, grant: Grant | None, started: float) -> None:
        """Call the agent once. Everything that can come of it ends here."""
        result = error = None
        try:
            await _turn()
            current.set(outcome)
            result = await self._call(outcome.task)
        except BaseException as raised:
            error = raised.with_traceback(raised.__traceback__ and raised.__traceback__.tb_next)
        me = asyncio.current_task(self._loop)
        try:
            if error is None and isinstance(result, _UNFINISHED):
                error, result = _forgotten_await(result), None
            elif isinstance(error, asyncio.CancelledError) and me in self._late:
                error = TimeoutError(f"took longer than {self._settings.rule(started - outcome.submitted)}")
            self._settle(outcome, result, error, grant, started)
        except BaseException as raised:
            self._fail(outcome, raised)
        finally:
            self._live.pop(me, None)  # type: ignore[arg-type]
            self._late.discard(me)  # type: ignore[arg-type]
            self.limiter.release()
            self._wake()
            self = outcome = grant = me = result = error = None  # type: ignore[assignment]  # the agent's frame may live

    def _settle(
        self, outcome: Outcome, result: Any, error: BaseException | None, grant: Grant | None, started: float
    ) -> None:
        """Correct what was granted, then try again later or end the outcome."""
        plan, finished, tokens = self._plan, self._time() - self.began, None
        try:
            if error is None and (grant is not None or plan.observe is not None):
                tokens = plan.tokens(result)
        finally:
            if grant is not None:
                grant.settle(result, tokens and tokens.total_tokens, error)
        if error is None:
            if plan.observe is not None:
                written = tokens.output_tokens if tokens else 0
                per_token = (finished - started) / written if written else None
                plan.observe(self.began + started, self.began + finished, per_token=per_token)
            outcome.result, outcome.status, outcome.finished = result, "success", finished
            if outcome.attempt_log is not None:
                outcome.attempt_log += (Attempt(started, finished),)
            self._end(outcome)
        elif self._cut_off and isinstance(error, asyncio.CancelledError):
            self._end_cut_off(outcome)
        elif not isinstance(error, Exception | asyncio.CancelledError):
            outcome.end("failed", error, finished)
            self._end(outcome)
            self.stop("cancelled", f"an agent raised {type(error).__name__}", error)
        else:
            wait = None if self._cut_off else self._wait_before_retry(outcome, error, started, finished)
            if wait is not None or outcome.attempt_log is not None:
                outcome.attempt_log = (*(outcome.attempt_log or ()), Attempt(started, finished, error))
            if wait is not None and not self._cut_off:
                timer = self._loop.call_later(wait, self._is_due, outcome)  # type: ignore[union-attr]
                self._later[outcome.task_id] = outcome, timer
                return
            status = "timeout" if isinstance(error, TimeoutError) else "failed"
            outcome.end("cancelled" if isinstance(error, asyncio.CancelledError) else status, error, finished)
            self._end(outcome)

    def _wait_before_retry(
        self, outcome: Outcome, error: BaseException, started: float, finished: float
    ) -> float | None:
        """Tell the limits of a failure, and return the seconds until the next attempt; None for no other."""
        plan, now = self._plan, self.began + finished
        if plan.rate_limiter is not None:
            plan.rate_limiter.update_from(error)
        if plan.observe is not None and plan.is_overload(error):
            plan.observe(self.began + started, now, refused=True)
        if plan.retries is None or outcome.started is None:
            return None
        kind = plan.retries.policy.kind
        alike = sum(a.error is not None and kind(a.error) == kind(error) for a in outcome.attempt_log or ())
        wait = plan.retries.next_wait(error, alike + 1, self.began + outcome.started, now)
        self._gate.note_pause()
        deadline = self._settings.deadline
        if wait is not None and deadline is not None and finished + wait >= outcome.submitted + deadline:
            return None  # it could not end in time
        return wait

    def _is_due(self, outcome: Outcome) -> None:
        del self._later[outcome.task_id]
        self._due.append(outcome)
        self._wake()

    # -- the end of a task ----------------------------------------------------------------------------------------

    def _end(self, outcome: Outcome) -> None:
        """A task has its outcome: write it down, count it, hand it on, and see whether it ends the run."""
        writer = self._plan.writer
        if writer is not None and (error := writer.record(outcome)) is not None:
            self._failure = self._failure or error
            self._close(error)  # start nothing that could not be written down
        if outcome.status == "success":
            self._succeeded += 1
        else:
            self._failed += 1
            if self._cut_off is None:
                self._consider(outcome)
        if self._bar is not None:
            self._bar.update()
        self._deliver(outcome)

    def _deliver(self, outcome: Outcome) -> None:
        """A task has its outcome."""

    def _end_cut_off(self, outcome: Outcome) -> None:
        status, reason = self._cut_off or ("cancelled", "the run was stopped")
        error = TimeoutError(reason) if status == "timeout" else asyncio.CancelledError(reason)
        outcome.end(status if outcome.started is not None else "cancelled", error, self._now())
        self._end(outcome)

    def _fail(self, outcome: Outcome, error: BaseException, *, count: bool = True) -> None:
        """A function of the user's failed after the call; that is the task's failure."""
        outcome.result = None
        outcome.end("failed", error, self._now())
        if count:
            self._end(outcome)
        if not isinstance(error, Exception):
            self.stop("cancelled", f"{type(error).__name__} was raised", error)

    def _consider(self, outcome: Outcome) -> None:
        """See whether this failure ends the run."""
        on_error, most = self._settings.on_error, self._settings.max_failures
        if on_error != "collect":
            error = outcome.error if on_error == "raise" else None
            if isinstance(error, asyncio.CancelledError):  # as it is, it would look as if the caller were cancelled
                error = RuntimeError(f"the agent of task {outcome.task_id} was cancelled from inside")
                error.__cause__ = outcome.error
            self.stop("cancelled", f"on_error={on_error!r} after task {outcome.task_id}: {outcome.reason}", error)
        elif most is not None and self._failed >= most:
            self.stop("cancelled", f"max_failures={most} reached with task {outcome.task_id}: {outcome.reason}")

    # -- the end of the run ---------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """The last attempt has ended: give back what the run acquired, and tell those who wait."""
        self._elapsed = self._now()
        if self._alarm is not None:
            self._alarm.cancel()
        self._give_back()
        self._failure = self._failure or self._source.error
        self._context, self._parent = Context(), (None, None)  # which refer to this run
        self._over.set()
        self._deliver_end()

    def _deliver_end(self) -> None:
        """The run is over."""

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
        assert self._loop is not None
        self._news = self._loop.create_future()
        try:
            await self._news
        finally:
            self._news = None

    async def wait_until_over(self, waiting: Callable[[], Awaitable[Any]] | None = None) -> None:
        """Wait until the run is over, or for `waiting`; if that is cancelled, end the run and wait for its end."""
        outer = run_of.get()
        lent = outer is not None and outer.limiter is self.limiter and outer.is_attempt(asyncio.current_task())
        if lent:
            self.limiter.release()
        try:
            await (waiting or self._over.wait)()
        except BaseException:
            self.stop("cancelled", "left before its end")
            while not self._over.is_set():
                try:
                    await self._over.wait()
                except asyncio.CancelledError:
                    for task in list(self._live):
                        task.cancel()
            raise
        finally:
            if lent:
                await self._take_back()

    async def _take_back(self) -> None:
        """Reacquire a slot that was lent, in FIFO order; if that fails, take it over the limit."""
        try:
            await self.limiter.acquire()
        except QueueFull:
            self.limiter.acquire_anyway()
        except BaseException:
            self.limiter.acquire_anyway()
            raise

    def is_attempt(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether an asyncio task is an attempt of this run, and not one that an agent started."""
        return task in self._live


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
        self._kept: list[Outcome] = []
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

    def _keep(self, outcome: Outcome) -> None:
        self._kept.append(outcome)

    def _made(self) -> Report:
        """The report, made once, of the outcomes in input order."""
        if self._report is None:
            broken, source = self._source.error, self._source
            reason = self.stopped or (broken and f"the source of tasks failed: {type(broken).__name__}")
            outcomes = self._kept + (source.rest(reason, self._plan.writer) if reason else [])
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


@types.coroutine
def _turn() -> Generator[None, None, None]:
    """Give the loop one turn; what calls this can be begun by hand."""
    yield


def _begun(
    loop: asyncio.AbstractEventLoop | None, work: Coroutine[Any, Any, None], context: Context
) -> asyncio.Task[None]:
    """Make a task of a coroutine that begins with `_turn()`, and is inside its `try` already.

    So a cancellation before its first turn is seen by it. An eager task factory has begun it by itself.
    """
    assert loop is not None
    task = loop.create_task(work, context=context)
    if not work.cr_suspended:  # type: ignore[attr-defined]  # coroutines have it, the abstract class does not
        work.send(None)
    return task


def _forgotten_await(result: Any) -> TypeError:
    kind = type(result).__name__
    if isinstance(result, CoroutineType):
        result.close()
        kind = f"coroutine {result.__qualname__}()"
    return TypeError(f"the agent returned the {kind} instead of its value; await it in the agent")
