"""Who works at a run: workers are made as long as there is work for more, and struck off when they leave.

What it holds: `Crew`, the life of a run from its first worker to its last; `agentkit.executor.workers` is what they do.
Guarantees: as many workers as the limit allows and the work needs; a worker that was cancelled from outside, before its
first turn or after, ends the run; the last one out closes it, once.
Strategy: a worker that has found its first task asks for two more. It strikes itself off as it leaves; only one that
may never get a turn, with nobody else to notice, has a callback, which costs a quarter of what a worker costs.
"""

from __future__ import annotations

import asyncio
from contextvars import Context, copy_context

from agentkit.executor.attempt import Attempter
from agentkit.executor.lending import Holder
from agentkit.executor.settings import Settings
from agentkit.executor.source import Source
from agentkit.report.outcome import clock
from agentkit.semaphore import CapacityLimiter

__all__ = ["Crew"]


class Crew:
    """The workers of a run, and how it begins and ends; subclasses say what the workers do."""

    def __init__(self, source: Source, attempter: Attempter, limiter: CapacityLimiter, settings: Settings) -> None:
        self._source, self._attempter, self.limiter, self._settings = source, attempter, limiter, settings
        self._loop: asyncio.AbstractEventLoop | None = None  # None until the run begins
        self.began = 0.0
        """When the run began, on the loop's clock."""
        self._end: float | None = None
        self._context: Context  # what every worker begins with
        self._workers: dict[asyncio.Task[None], Holder | None] = {}  # None until it has had its first turn
        self._begun = 0  # workers that have had their first turn
        self._wanted, self._making = 0, False  # workers still to be made, and whether they are being made
        self._watchful = source.slow  # whether a worker has to look what is up before each task
        self._cut_off: tuple[str, str] | None = None  # status for what is cut off, and why
        self._failure: BaseException | None = None  # what to raise in the end

    # -- for subclasses -------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        """Be a worker: call `_come` first, and `_leave` in the end."""
        raise NotImplementedError

    def _opened(self) -> None:
        """The run begins; there is no worker yet."""

    def _room(self) -> float:
        """How many more workers there might be work for."""
        raise NotImplementedError

    def _drop(self) -> None:
        """End what waits outside the workers; the run was cut off."""

    def _is_waiting(self) -> bool:
        """Whether something waits outside the workers that will need one."""
        return False

    def _ended(self) -> None:
        """The last worker has left."""

    # -- beginning and end ----------------------------------------------------------------------------------------

    @property
    def stopped(self) -> str | None:
        """Why the run ended early; None if it did not."""
        return self._cut_off and self._cut_off[1]

    def stop(self, status: str, reason: str) -> None:
        """End early: start nothing new, cancel what is in flight and record it with `status`."""
        self._cut(status, reason)

    def begin(self) -> None:
        """Start the workers, once."""
        if self._loop is not None:
            return
        loop = self._loop = asyncio.get_running_loop()
        self._attempter.begin(loop)
        self.began = self._attempter.began
        self._context = copy_context()
        self._context.run(clock.set, (loop.time, self.began))
        self.limits = [(0.0, self.limiter.limit)]  # (seconds since the run began, limit) at each change
        self._unsubscribe = self.limiter.subscribe(self._limit_changed)
        self._alarm: asyncio.TimerHandle | None = None
        if (within := self._settings.within) is not None:
            self._alarm = loop.call_later(within, self._cut, "timeout", f"within={within:g} s is over")
        self._opened()
        self._spawn()

    def _now(self) -> float:
        """Seconds since the run began; stands still once it has ended."""
        if self._loop is None:
            return 0.0
        return (self._loop.time() if self._end is None else self._end) - self.began

    def _in_flight(self) -> int:
        """How many tasks are being attempted now."""
        return sum(held is not None and held.busy for held in self._workers.values())

    def _limit_changed(self) -> None:
        self.limits.append((self._now(), self.limiter.limit))
        self._spawn()

    def _cut(self, status: str, reason: str, error: BaseException | None = None) -> None:
        """End early: take nothing new, and cancel what is in flight, to be recorded with `status`."""
        if self._cut_off or self._end is not None:
            return
        self._cut_off, self._failure, self._watchful = (status, reason), self._failure or error, True
        try:
            me = asyncio.current_task(self._loop) if asyncio.get_running_loop() is self._loop else None
        except RuntimeError:  # called from another thread
            me = None
        for worker, held in list(self._workers.items()):
            if worker is not me:
                worker.cancel()
            if held is None:
                worker.add_done_callback(self._gone)
        self._drop()
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self._workers or self._end is not None or self._loop is None or self._is_waiting():
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

    # -- workers come and leave -----------------------------------------------------------------------------------

    def _spawn(self, count: int = 1) -> None:
        """Make workers, as far as there may be work for them; they ask for the next ones when they have found some."""
        self._wanted += count
        if not self._making:
            self._making = True
            try:
                self._context.copy().run(self._make)
            finally:
                self._making = False

    def _make(self) -> None:
        assert self._loop is not None
        while self._wanted and (room := self._room()) > 0 and not self._cut_off:
            count, self._wanted = min(self._wanted, room), 0
            for _ in range(int(count)):
                worker = self._loop.create_task(self._work())
                if worker not in self._workers and not worker.done():  # an eager task has had its first turn by now
                    self._workers[worker] = None
                if not self._begun:
                    worker.add_done_callback(self._gone)
        self._wanted = 0

    def _come(self) -> tuple[asyncio.Task[None], Holder]:
        """Have a worker's first turn; return who it is, and what it holds."""
        me = asyncio.current_task(self._loop)  # with the loop named, it need not ask the system for the process id
        assert me is not None
        self._workers[me] = held = Holder(self.limiter)
        self._begun += 1
        return me, held

    def _leave(self, me: asyncio.Task[None], held: Holder) -> None:
        """Strike a worker off."""
        if held.holding:
            self.limiter.release()
        del self._workers[me]
        self._begun -= 1
        if not self._begun:
            for worker in self._workers:  # those that have not had a turn
                worker.add_done_callback(self._gone)
            self._close_if_done()

    def _fall(self, me: asyncio.Task[None], error: BaseException) -> None:
        """End the run, for a worker was cancelled, or ended by an error that is meant to end programs."""
        fatal = None if isinstance(error, asyncio.CancelledError) else error
        said = "a worker was cancelled" if fatal is None else f"an agent raised {type(fatal).__name__}"
        self._cut("cancelled", said, fatal)
        me.add_done_callback(_take_note)

    def _gone(self, worker: asyncio.Task[None]) -> None:
        """Strike off a worker that was cancelled before its first turn."""
        if worker in self._workers:
            del self._workers[worker]
            self._cut("cancelled", "a worker was cancelled")
            self._close_if_done()


def _take_note(worker: asyncio.Task[None]) -> None:
    """Its exception is known; asyncio need not warn of it."""
    if not worker.cancelled():
        worker.exception()
