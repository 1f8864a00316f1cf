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
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from types import CoroutineType
from typing import Any

from agentkit.outcome import Outcome, Recorder, recorder
from agentkit.semaphore import CapacityLimiter, QueueFull
from agentkit.settings import Settings
from agentkit.watchdog import Watchdog

__all__ = ["Workers"]


class Workers:
    """Runs `call` on each item of `source`, bounded by `limiter`; subclasses say what happens to the outcomes."""

    def __init__(
        self,
        source: Iterator[Any] | AsyncIterator[Any],
        call: Callable[[Any], Awaitable[Any]],
        limiter: CapacityLimiter,
        settings: Settings,
    ) -> None:
        self._source, self._call, self.limiter, self._settings = source, call, limiter, settings
        self._loop: asyncio.AbstractEventLoop | None = None  # None until the run begins
        self._workers: dict[asyncio.Task[None], None] = {}
        self._newborn = False  # a worker was made and has not had its first turn yet
        self._pulled = self._in_flight = self._succeeded = self._failed = 0
        self._exhausted = self._paused = False
        self._cut_off: tuple[str, str] | None = None  # status for what is cut off, and why
        self._failure: BaseException | None = None  # what to raise in the end
        self._gate: deque[asyncio.Future[None]] = deque()  # workers that wait to be let on

    # -- for subclasses -------------------------------------------------------------------------------------------

    def _taken(self, outcome: Outcome) -> None:
        """A task was taken from the source."""

    def _settled(self, outcome: Outcome) -> None:
        """A task has its outcome."""

    def _ended(self) -> None:
        """The last worker has left."""

    def _must_wait(self) -> bool:
        """Whether workers should take nothing new for now."""
        return self._paused

    # -- the life of the run --------------------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._loop is not None:
            return
        loop = self._loop = asyncio.get_running_loop()
        self._began = loop.time()
        self._end: float | None = None
        self._watchdog = Watchdog(loop)
        self._feed = asyncio.Lock()  # one worker at a time may ask an async source
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
        assert self._loop is not None
        if self._newborn or self._exhausted or self._cut_off or len(self._workers) >= max(1, self.limiter.limit):
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
        elif (error := worker.exception()) is not None:  # what is in flight goes on: it is paid for
            self._exhausted, self._failure = True, self._failure or error
            self._cut_off = self._cut_off or ("cancelled", f"the source of tasks failed: {type(error).__name__}")
        if not self._workers:
            self._close()

    def _cut(self, status: str, reason: str, error: BaseException | None = None) -> None:
        """End early: take nothing new, and cancel what is in flight, to be recorded with `status`."""
        if self._cut_off or self._end is not None:
            return
        self._cut_off, self._failure = (status, reason), error
        running = asyncio._get_running_loop() is self._loop  # a timer's callback has a loop but no task
        me = asyncio.current_task() if running else None
        for worker in list(self._workers):
            if worker is not me:
                worker.cancel()
        if not self._workers:
            self._close()

    def _close(self) -> None:
        if self._end is None and self._loop is not None:
            self._end = self._loop.time()
            self._unsubscribe()
            self._watchdog.close()
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
        limiter, holding, outcome = self.limiter, False, None
        slow_source = isinstance(self._source, AsyncIterator)
        try:
            while True:
                if holding and (slow_source or limiter.contended or self._must_wait()):
                    limiter.release()
                    holding = False
                while self._must_wait():
                    await self._wait_at_gate()
                outcome = await self._pull_later() if slow_source else self._pull()
                if outcome is None:
                    return
                self._spawn()
                log.outcome = outcome
                if holding or (holding := await self._slot(outcome)):
                    await self._attempt(outcome, me)
                self._settle(outcome)
                outcome = log.outcome = None
        finally:
            if holding:
                limiter.release()
            if outcome is not None and outcome.finished is None:  # cancelled with a task in hand
                self._mark_cut_off(outcome)
                self._settle(outcome)

    async def _slot(self, outcome: Outcome) -> bool:
        """Wait for a slot; False if a bounded queue refused."""
        while True:
            try:
                await self.limiter.acquire()
            except QueueFull as error:
                self._mark(outcome, "rejected", error)
                return False
            if not self._paused:
                return True
            self.limiter.release()  # paused while this one queued
            await self._wait_at_gate()

    async def _wait_at_gate(self) -> None:
        assert self._loop is not None
        turn = self._loop.create_future()
        self._gate.append(turn)
        await turn

    def _pull(self) -> Outcome | None:
        if self._exhausted or self._cut_off:
            return None
        try:
            task = next(self._source)  # type: ignore[arg-type]
        except StopIteration:
            self._exhausted = True
            return None
        return self._take(task)

    async def _pull_later(self) -> Outcome | None:
        async with self._feed:
            if self._exhausted or self._cut_off:
                return None
            try:
                task = await anext(self._source)  # type: ignore[arg-type]
            except StopAsyncIteration:
                self._exhausted = True
                return None
            return self._take(task, self._now())

    def _take(self, task: Any, submitted: float = 0.0) -> Outcome:
        outcome = Outcome(self._pulled, task, submitted=submitted)
        self._pulled += 1
        self._taken(outcome)
        return outcome

    # -- one attempt ----------------------------------------------------------------------------------------------

    async def _attempt(self, outcome: Outcome, me: asyncio.Task[Any]) -> None:
        assert self._loop is not None
        now = self._loop.time()
        started = now - self._began
        allowed, rule = self._settings.allowed(started - outcome.submitted)
        if allowed <= 0:
            self._mark(outcome, "timeout", TimeoutError(f"not started: {rule} had passed"))
            return
        outcome.started = started
        if watched := bool(rule):
            self._watchdog.watch(me, now + allowed)
        self._in_flight += 1
        try:
            result = await self._call(outcome.task)
        except asyncio.CancelledError as error:
            late = watched and self._watchdog.release(me)
            watched = False
            if me.cancelling():  # neither the watchdog nor the agent itself: the run is being stopped
                raise
            self._mark(
                outcome, *(("timeout", TimeoutError(f"took longer than {rule}")) if late else ("cancelled", error))
            )
        except Exception as error:
            self._mark(outcome, "timeout" if isinstance(error, TimeoutError) else "failed", error)
        else:
            self._mark_result(outcome, result)
        finally:
            self._in_flight -= 1
            if watched:
                self._watchdog.release(me)

    def _mark_result(self, outcome: Outcome, result: Any) -> None:
        if isinstance(result, CoroutineType):
            result.close()
            said = (
                f"the agent returned the coroutine {result.__qualname__}() instead of its value; await it in the agent"
            )
            self._mark(outcome, "failed", TypeError(said))
        else:
            outcome.result = result
            self._mark(outcome, "success", None)

    def _mark(self, outcome: Outcome, status: str, error: BaseException | None) -> None:
        outcome.end(status, error, self._now())

    def _mark_cut_off(self, outcome: Outcome) -> None:
        status, reason = self._cut_off or ("cancelled", "a worker was cancelled")
        error = TimeoutError(reason) if status == "timeout" else asyncio.CancelledError(reason)
        self._mark(outcome, status if outcome.started is not None else "cancelled", error)

    def _settle(self, outcome: Outcome) -> None:
        if outcome.status == "success":
            self._succeeded += 1
        else:
            self._failed += 1
            if not self._cut_off:
                self._consider(outcome)
        self._settled(outcome)

    def _consider(self, outcome: Outcome) -> None:
        """Say whether this failure ends the run."""
        on_error, most = self._settings.on_error, self._settings.max_failures
        if on_error != "collect":
            error = outcome.error if on_error == "raise" else None
            self._cut("cancelled", f"on_error={on_error!r} after task {outcome.task_id}: {outcome.reason}", error)
        elif most is not None and self._failed >= most:
            self._cut("cancelled", f"max_failures={most} reached with task {outcome.task_id}: {outcome.reason}")
