"""The machinery of a run: worker coroutines that share one source and one limiter.

What it holds: `Workers`, which `Run` turns into a handle for callers.
Guarantees: at most `limiter.limit` tasks in flight; memory grows with that limit, not with the input; every task that
was taken from the source gets exactly one outcome; nobody is left behind when the last worker leaves.
Strategy: each worker takes the next item itself, so there is neither a queue nor an asyncio task per item; a worker
that has found an item makes the next worker; a slot is kept from item to item unless others wait for it.
Taken apart in notebook 03.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from typing import Any

from agentkit.attempt import Attempter
from agentkit.lending import Holder, holder
from agentkit.outcome import Outcome, Recorder, recorder
from agentkit.semaphore import CapacityLimiter, QueueFull
from agentkit.settings import Settings

__all__ = ["Workers"]

FAIR = 0.005, 500  # seconds and tasks after which workers whose agents never suspend give the loop a turn


class Workers:
    """Attempts each item of `source`, bounded by `limiter`; subclasses say what happens to the outcomes."""

    def __init__(
        self,
        source: Iterator[Any] | AsyncIterator[Any],
        attempter: Attempter,
        limiter: CapacityLimiter,
        settings: Settings,
    ) -> None:
        self._source, self._attempter, self.limiter, self._settings = source, attempter, limiter, settings
        self._loop: asyncio.AbstractEventLoop | None = None  # None until the run begins
        self._began = 0.0
        self._end: float | None = None
        self._workers: dict[asyncio.Task[None], None] = {}
        self._newborn = False  # a worker was made and has not had its first turn yet
        self._feeding = 0  # workers that wait for a slow source
        self._pulled = self._succeeded = self._failed = 0
        self._exhausted = self._paused = False
        self._due: deque[Outcome] = deque()  # to be tried again now
        self._later: dict[int, tuple[Outcome, asyncio.TimerHandle]] = {}  # to be tried again when their time comes
        self._cut_off: tuple[str, str] | None = None  # status for what is cut off, and why
        self._source_error: str | None = None  # why there will be no more tasks, if not because all were taken
        self._failure: BaseException | None = None  # what to raise in the end
        self._gate: deque[asyncio.Future[None]] = deque()  # workers that wait to be let on
        self._fair_until, self._share = FAIR  # until when, and how many tasks, before the loop gets a turn
        self._turn_due = False

    # -- for subclasses -------------------------------------------------------------------------------------------

    def _taken(self, outcome: Outcome) -> None:
        """A task was taken from the source."""

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
        self._feed = asyncio.Lock()  # one worker at a time may ask a slow source
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
        self._let_on(len(self._gate))

    def _spawn(self) -> None:
        """Make a worker, if there may be work for it; it makes the next one when it has found some."""
        assert self._loop is not None
        busy = len(self._workers) - (self._feeding if self._due else 0)
        done = self._cut_off or (self._exhausted and not self._due)
        if self._newborn or done or busy >= max(1, self.limiter.limit):
            return
        self._newborn = True
        worker = self._loop.create_task(self._work())
        self._workers[worker] = None
        worker.add_done_callback(self._left)

    def _left(self, worker: asyncio.Task[None]) -> None:
        del self._workers[worker]
        if worker.cancelled():  # also before its first turn
            self._newborn = False
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
        while self._workers:
            await asyncio.wait(self._workers)

    def _let_on(self, count: int) -> None:
        while count and self._gate:
            turn = self._gate.popleft()
            if not turn.done():
                turn.set_result(None)
                count -= 1

    # -- one worker -----------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        me = asyncio.current_task()
        assert me is not None
        assert self._loop is not None
        self._newborn = False
        log = Recorder(self._loop, self._began)
        recorder.set(log)
        limiter, attempt, holding, outcome = self.limiter, self._attempter.attempt, False, None
        holder.set(Holder(limiter))
        slow_source = isinstance(self._source, AsyncIterator)
        try:
            while True:
                if holding and (slow_source or limiter.contended or self._must_wait()):
                    limiter.release()
                    holding = False
                while self._must_wait():
                    await self._wait_at_gate()
                if len(self._workers) > limiter.limit and len(self._workers) > 1 and not self._due:
                    return  # the limit fell, or a retry is over for which one more was needed
                outcome = (
                    self._due.popleft() if self._due else await self._pull_slowly() if slow_source else self._pull()
                )
                if outcome is None:
                    return
                if not self._newborn:
                    self._spawn()
                log.outcome = outcome
                if holding or (holding := await self._slot(outcome, me)):
                    wait = await attempt(outcome, me)
                    if wait is not None:
                        self._try_again(outcome, wait)
                if outcome.finished is not None:
                    self._settle(outcome)
                    self._share -= 1
                    if self._share < 0 or outcome.finished > self._fair_until:
                        await self._give_a_turn()
                outcome = log.outcome = None
        finally:
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
            await self._wait_at_gate()

    async def _wait_at_gate(self) -> None:
        assert self._loop is not None
        turn = self._loop.create_future()
        self._gate.append(turn)
        await turn

    async def _give_a_turn(self) -> None:
        """Let everybody else on the loop run, so that agents that never suspend cannot freeze it."""
        assert self._loop is not None
        if not self._turn_due:  # one new share for all: a hundred workers would otherwise grant themselves one each
            self._turn_due = True
            self._loop.call_soon(self._new_turn)
        await asyncio.sleep(0)

    def _new_turn(self) -> None:
        self._turn_due = False
        self._fair_until, self._share = self._now() + FAIR[0], FAIR[1]

    def _pull(self) -> Outcome | None:
        if self._exhausted or self._cut_off:
            return None
        try:
            task = next(self._source)  # type: ignore[arg-type]
        except StopIteration:
            self._exhausted = True
            return None
        except Exception as error:
            self._source_failed(error)
            return None
        outcome = Outcome(self._pulled, task)
        self._pulled += 1
        self._taken(outcome)
        return outcome

    async def _pull_slowly(self) -> Outcome | None:
        self._feeding += 1
        try:
            async with self._feed:
                if self._exhausted or self._cut_off:
                    return None
                task = await anext(self._source)  # type: ignore[arg-type]
        except StopAsyncIteration:
            self._exhausted = True
            return None
        except Exception as error:
            self._source_failed(error)
            return None
        finally:
            self._feeding -= 1
        outcome = Outcome(self._pulled, task, submitted=self._now())
        self._pulled += 1
        self._taken(outcome)
        return outcome

    def _source_failed(self, error: Exception) -> None:
        """Take nothing new; what is in flight goes on, since it is paid for."""
        self._exhausted, self._failure = True, self._failure or error
        self._source_error = f"the source of tasks failed: {type(error).__name__}"

    # -- what an attempt leads to ---------------------------------------------------------------------------------

    def _try_again(self, outcome: Outcome, wait: float) -> None:
        """Put a task aside for `wait` seconds; meanwhile it holds neither a slot nor a worker."""
        assert self._loop is not None
        self._later[outcome.task_id] = outcome, self._loop.call_later(wait, self._is_due, outcome)

    def _is_due(self, outcome: Outcome) -> None:
        del self._later[outcome.task_id]
        self._due.append(outcome)
        self._let_on(1)
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
            if isinstance(
                error, asyncio.CancelledError
            ):  # raised as it is, it would look as if the caller were cancelled
                error = RuntimeError(f"the agent of task {outcome.task_id} was cancelled from inside")
                error.__cause__ = outcome.error
            self._cut("cancelled", f"on_error={on_error!r} after task {outcome.task_id}: {outcome.reason}", error)
        elif most is not None and self._failed >= most:
            self._cut("cancelled", f"max_failures={most} reached with task {outcome.task_id}: {outcome.reason}")
