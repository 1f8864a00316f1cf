"""The machinery of a run: worker coroutines that share one source and one limiter.

What it holds: `Workers`, which `Run` turns into a handle for callers.
Guarantees: at most `limiter.limit` tasks in flight; memory grows with that limit, not with the input; every task that
was taken from the source gets exactly one outcome; nobody is left behind when the last worker leaves.
Strategy: each worker takes the next item itself, so there is neither a queue nor an asyncio task per item; a worker
that has found its first item makes two more; a slot is kept from item to item unless others wait for it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from agentkit.executor.attempt import Attempter
from agentkit.executor.gate import Gate
from agentkit.executor.lending import Holder, holder
from agentkit.executor.settings import Settings
from agentkit.executor.source import Source
from agentkit.report.outcome import Outcome, clock, current
from agentkit.semaphore import CapacityLimiter, QueueFull

__all__ = ["Workers"]

FAIR = 0.005, 100  # seconds and tasks: a share of the loop's time for agents that never suspend


class Workers:
    """Attempts each item of `source`, bounded by `limiter`; subclasses say what happens to the outcomes."""

    def __init__(self, source: Source, attempter: Attempter, limiter: CapacityLimiter, settings: Settings) -> None:
        self._source, self._attempter, self.limiter, self._settings = source, attempter, limiter, settings
        self._loop: asyncio.AbstractEventLoop | None = None  # None until the run begins
        self._began = 0.0
        self._end: float | None = None
        self._workers: dict[asyncio.Task[None], Holder | None] = {}  # None until it has had its first turn
        self._staff = self._succeeded = self._failed = 0  # staff: workers that are not about to leave
        self._paused = False
        self._watchful = False  # whether `_must_wait` has to be asked before each task
        self._watched = True  # whether `_settled` has to be told of each outcome
        self._due: deque[Outcome] = deque()  # to be tried again now
        self._later: dict[int, tuple[Outcome, asyncio.TimerHandle]] = {}  # to be tried again when their time comes
        self._cut_off: tuple[str, str] | None = None  # status for what is cut off, and why
        self._failure: BaseException | None = None  # what to raise in the end
        self._gate = Gate()  # where workers wait while nothing is to be taken
        self._fair_until, self._share = FAIR  # until when, and how many tasks, before the loop gets a turn
        self._unturned = False  # whether the loop has yet to come round in this share

    # -- for subclasses -------------------------------------------------------------------------------------------

    def _settled(self, outcome: Outcome) -> None:
        """A task has its outcome."""

    def _ended(self) -> None:
        """The last worker has left."""

    def _must_wait(self) -> bool:
        """Whether workers should take nothing for now."""
        return self._paused

    # -- the life of the run --------------------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._loop is not None:
            return
        loop = self._loop = asyncio.get_running_loop()
        self._attempter.begin(loop)
        self._began = self._attempter.began
        self._limits = [(0.0, self.limiter.limit)]
        self._unsubscribe = self.limiter.subscribe(self._limit_changed)
        self._alarm: asyncio.TimerHandle | None = None
        if (within := self._settings.within) is not None:
            self._alarm = loop.call_later(within, self._cut, "timeout", f"within={within:g} s is over")
        self._spawn()

    def _now(self) -> float:
        """Seconds since the run began; stands still once it has ended."""
        if self._loop is None:
            return 0.0
        return (self._loop.time() if self._end is None else self._end) - self._began

    def _limit_changed(self) -> None:
        self._limits.append((self._now(), self.limiter.limit))
        self._spawn()
        self._gate.let_on()

    def _spawn(self) -> None:
        """Make a worker, if there may be work for it; it makes the next ones when it has found some."""
        assert self._loop is not None
        busy = self._staff - (self._source.waiting if self._due else 0)
        if self._cut_off or (self._source.exhausted and not self._due) or busy >= max(1, self.limiter.limit):
            return
        self._staff += 1
        worker = self._loop.create_task(self._work())
        self._workers[worker] = None
        worker.add_done_callback(self._left)

    def _left(self, worker: asyncio.Task[None]) -> None:
        begun = self._workers.pop(worker)
        if worker.cancelled():
            self._staff -= begun is None
            self._cut("cancelled", "a worker was cancelled")
        elif (fatal := worker.exception()) is not None:
            self._cut("cancelled", f"an agent raised {type(fatal).__name__}", fatal)
        self._close_if_done()

    def _cut(self, status: str, reason: str, error: BaseException | None = None) -> None:
        """End early: take nothing new, and cancel what is in flight, to be recorded with `status`."""
        if self._cut_off or self._end is not None:
            return
        self._cut_off, self._failure = (status, reason), self._failure or error
        running = asyncio._get_running_loop() is self._loop  # a timer's callback has a loop but no task
        me = asyncio.current_task() if running else None
        for worker in list(self._workers):
            if worker is not me:
                worker.cancel()
        waiting = [*self._due, *(outcome for outcome, _ in self._later.values())]
        for _, timer in self._later.values():
            timer.cancel()
        self._later.clear()
        self._due.clear()
        for outcome in waiting:
            self._end_cut_off(outcome)
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self._workers or self._later or self._end is not None or self._loop is None:
            return
        self._end = self._loop.time()
        self._unsubscribe()
        self._attempter.watchdog.close()
        if self._alarm is not None:
            self._alarm.cancel()
        self._ended()

    async def _all_left(self) -> None:
        """Wait until no worker is left, however often the waiting task is cancelled; then pass the cancellation on."""
        cancelled: asyncio.CancelledError | None = None
        while self._workers:
            try:
                await asyncio.wait(self._workers)
            except asyncio.CancelledError as error:
                cancelled = error
                for worker in list(self._workers):
                    worker.cancel()
        if cancelled is not None:
            raise cancelled

    # -- one worker -----------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        me = asyncio.current_task(self._loop)  # with the loop named, it need not ask the system for the process id
        assert me is not None and self._loop is not None  # noqa: PT018
        source, limiter, attempter = self._source, self.limiter, self._attempter
        call, start, raised, returned = attempter.call, attempter.start, attempter.raised, attempter.returned
        self._workers[me] = held = Holder(limiter)
        fresh, holding, outcome, due, slow = True, False, None, self._due, source.slow
        clock.set((self._loop.time, self._began))
        holder.set(held)
        now: float | None = None  # when the last attempt ended, if nothing was waited for since
        try:
            while True:
                if self._watchful and self._must_wait():
                    if holding:
                        limiter.release()
                        holding = False
                    while self._must_wait() and not self._cut_off:
                        await self._gate.wait()
                if holding and (slow or limiter.contended):
                    limiter.release()
                    holding = False
                if due:
                    outcome = due.popleft()
                elif self._cut_off or (not holding and self._staff > limiter.limit and self._staff > 1):
                    return  # also where the limit fell, or a retry is over for which one more was needed
                else:
                    outcome = await source.take_slowly(self._now) if slow else source.take()
                    if outcome is None:
                        return
                if fresh:  # there is work: make two more, so that there are soon as many as the limit allows
                    fresh = False
                    self._spawn()
                    self._spawn()
                current.set(outcome)
                held.outcome = outcome
                if not holding and outcome.finished is None:
                    now = None
                    holding = (not self._paused and limiter.acquire_nowait()) or await self._slot(outcome, me)
                if holding and outcome.finished is None:  # a journal may know the task as done
                    leave = started = None
                    if not attempter.gated or (leave := await attempter.ask_leave(outcome)):
                        started = start(outcome, me, None if leave else now, leave)
                    if started is not None:
                        try:
                            result = await call(outcome.task)
                        except BaseException as error:
                            wait = raised(outcome, error, me, started, leave)
                        else:
                            wait = returned(outcome, result, me, started, leave)
                        if wait is not None:
                            self._try_again(outcome, wait)
                now = outcome.finished
                if now is not None:
                    if outcome.status != "success" or self._watched:
                        self._settle(outcome)
                    else:
                        self._succeeded += 1
                    self._share -= 1
                    if self._share < 0 or now > self._fair_until:
                        await self._be_fair()
                        now = None
                outcome = result = None  # a worker that waits keeps nothing alive
                if me.cancelling() and not self._cut_off:  # an agent has swallowed a cancellation that was for all
                    self._cut("cancelled", "a worker was cancelled")
        finally:
            self._staff -= 1
            if holding:
                limiter.release()
            if outcome is not None and outcome.finished is None:  # cancelled with a task in hand
                self._end_cut_off(outcome)

    async def _slot(self, outcome: Outcome, me: asyncio.Task[Any]) -> bool:
        """Wait for a slot; False if there will be none in time, or a bounded queue refused."""
        while True:
            deadline, watchdog = self._settings.deadline, self._attempter.watchdog
            if watched := deadline is not None and self.limiter.locked():
                watchdog.watch(me, self._began + outcome.submitted + deadline)
            try:
                await self.limiter.acquire()
            except QueueFull as error:
                outcome.end("rejected", error, self._now())
                return False
            except asyncio.CancelledError:
                late, watched = watched and watchdog.release(me), False
                if not late or me.cancelling():
                    raise
                said = f"not started: deadline={deadline:g} s from submission had passed"
                outcome.end("timeout", TimeoutError(said), self._now())
                return False
            finally:
                if watched:
                    watchdog.release(me)
            if not self._paused:
                return True
            self.limiter.release()  # paused while this one queued
            await self._gate.wait()

    async def _be_fair(self) -> None:
        """Begin a new share of the loop's time; but first let the others run, if nobody had a turn in the last one."""
        if self._unturned:
            await asyncio.sleep(0)
        if not self._unturned:
            assert self._loop is not None
            self._unturned = True
            self._loop.call_soon(self._turned)
            self._fair_until, self._share = self._now() + FAIR[0], FAIR[1]

    def _turned(self) -> None:
        self._unturned = False

    # -- what an attempt leads to ---------------------------------------------------------------------------------

    def _try_again(self, outcome: Outcome, wait: float) -> None:
        """Put a task aside for `wait` seconds; meanwhile it holds neither a slot nor a worker."""
        assert self._loop is not None
        self._later[outcome.task_id] = outcome, self._loop.call_later(wait, self._is_due, outcome)

    def _is_due(self, outcome: Outcome) -> None:
        del self._later[outcome.task_id]
        self._due.append(outcome)
        self._gate.let_on(1)
        self._spawn()

    def _settle(self, outcome: Outcome) -> None:
        if outcome.status == "success":
            self._succeeded += 1
        else:
            self._failed += 1
            if not self._cut_off:
                self._consider(outcome)
        self._settled(outcome)

    def _end_cut_off(self, outcome: Outcome) -> None:
        status, reason = self._cut_off or ("cancelled", "a worker was cancelled")
        error = TimeoutError(reason) if status == "timeout" else asyncio.CancelledError(reason)
        outcome.end(status if outcome.started is not None else "cancelled", error, self._now())
        self._settle(outcome)

    def _consider(self, outcome: Outcome) -> None:
        """Say whether this failure ends the run."""
        on_error, most = self._settings.on_error, self._settings.max_failures
        if on_error != "collect":
            error = outcome.error if on_error == "raise" else None
            if isinstance(error, asyncio.CancelledError):  # as it is, it would look as if the caller were cancelled
                error = RuntimeError(f"the agent of task {outcome.task_id} was cancelled from inside")
                error.__cause__ = outcome.error
            self._cut("cancelled", f"on_error={on_error!r} after task {outcome.task_id}: {outcome.reason}", error)
        elif most is not None and self._failed >= most:
            self._cut("cancelled", f"max_failures={most} reached with task {outcome.task_id}: {outcome.reason}")
