"""What workers do: take a task, wait for a slot, attempt it, settle what became of it.

What it holds: `Workers`, which `Run` turns into a handle for callers; `agentkit.executor.crew` makes the workers.
Guarantees: at most `limiter.limit` tasks in flight; memory grows with that limit, not with the input; every task that
was taken from the source gets exactly one outcome.
Strategy: each worker takes the next item itself, so there is neither a queue nor an asyncio task per item. It keeps its
slot from item to item, unless others wait for it; whatever may be in the way then is asked for in one line.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from agentkit.executor.attempt import Attempter
from agentkit.executor.crew import Crew
from agentkit.executor.gate import Gate
from agentkit.executor.lending import Holder, holder
from agentkit.executor.settings import Settings
from agentkit.executor.source import Source
from agentkit.report.outcome import Outcome, current
from agentkit.semaphore import CapacityLimiter, QueueFull

__all__ = ["Workers"]

FAIR = 0.005, 100  # seconds and tasks: a share of the loop's time for agents that never suspend


class Workers(Crew):
    """Attempts each item of `source`, bounded by `limiter`; subclasses say what happens to the outcomes."""

    def __init__(self, source: Source, attempter: Attempter, limiter: CapacityLimiter, settings: Settings) -> None:
        super().__init__(source, attempter, limiter, settings)
        self._succeeded = self._failed = 0
        self._paused = False
        self._watched = True  # whether `_settled` has to be told of each outcome
        self._due: deque[Outcome] = deque()  # to be tried again now
        self._later: dict[int, tuple[Outcome, asyncio.TimerHandle]] = {}  # to be tried again when their time comes
        self._gate = Gate()  # where workers wait while nothing is to be taken
        self._fair_until, self._share = FAIR  # until when, and how many tasks, before the loop gets a turn
        self._unturned = False  # whether the loop has yet to come round in this share

    # -- for subclasses -------------------------------------------------------------------------------------------

    def _settled(self, outcome: Outcome) -> None:
        """A task has its outcome."""

    def _must_wait(self) -> bool:
        """Whether workers should take nothing for now."""
        return self._paused

    # -- what the crew asks and tells -----------------------------------------------------------------------------

    def _room(self) -> float:
        if self._source.exhausted and not self._due:
            return 0
        busy = len(self._workers) - (self._source.waiting if self._due else 0)
        return max(1, self.limiter.limit) - busy

    def _is_waiting(self) -> bool:
        return bool(self._later)

    def _limit_changed(self) -> None:
        super()._limit_changed()
        self._gate.let_on()

    def _drop(self) -> None:
        waiting = [*self._due, *(outcome for outcome, _ in self._later.values())]
        for _, timer in self._later.values():
            timer.cancel()
        self._later.clear()
        self._due.clear()
        for outcome in waiting:
            self._end_cut_off(outcome)

    # -- one worker -----------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        me, held = self._come()
        limiter, attempter, due, slow = self.limiter, self._attempter, self._due, self._source.slow
        take, call, time, began, usual = self._source.take, attempter.call, attempter.time, self.began, attempter.usual
        work_for = current.set
        holder.set(held)
        outcome = None
        now: float | None = None  # when the last attempt ended, if nothing was waited for since
        try:
            while True:
                look = self._watchful and (slow or self._cut_off or self._must_wait())
                if look or not held.holding or limiter.contended or due:
                    outcome, now = await self._take_in_turn(me, held), None
                else:
                    outcome = take()
                if outcome is None:
                    self._gate.let_on(1)  # who was let on and takes nothing lets the next one on
                    return
                work_for(outcome)
                if outcome.finished is None:  # a journal may know the task as done; a bounded queue may have refused it
                    leave = None
                    if attempter.plain:
                        outcome.started = started = time() - began if now is None else now
                    elif not attempter.gated or (leave := await attempter.ask_leave(outcome)):
                        started = attempter.start(outcome, me, None if leave else now, leave)
                if outcome.finished is None:
                    held.doing = outcome
                    try:
                        result = await call(outcome.task)
                    except BaseException as error:
                        if (wait := attempter.raised(outcome, error, me, started, leave)) is not None:
                            self._try_again(outcome, wait, held)
                    else:
                        outcome.result, outcome.status, outcome.finished = result, "success", time() - began
                        wait = None if type(result) in usual else attempter.returned(outcome, me, started, leave)
                        if wait is not None:
                            self._try_again(outcome, wait, held)
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
        except BaseException as error:
            if outcome is not None and outcome.finished is None:  # cancelled with a task in hand
                self._end_cut_off(outcome)
            self._fall(me, error)
            raise
        finally:
            self._leave(me, held)

    async def _take_in_turn(self, me: asyncio.Task[Any], held: Holder) -> Outcome | None:
        """Return the next task, with a slot for it, when it is this worker's turn; None if it is to leave."""
        limiter, source, first = self.limiter, self._source, held.doing is None
        held.doing = None
        waits = self._watchful and self._must_wait() and not self._cut_off
        if held.holding and (waits or source.slow or limiter.contended):
            limiter.release()
            held.holding = False
        while waits:
            await self._gate.wait()
            waits = self._must_wait() and not self._cut_off
        if self._due:
            outcome = self._due.popleft()
        elif self._cut_off or (not held.holding and len(self._workers) > max(1, limiter.limit)):
            return None  # also where the limit fell, or a retry is over for which one more was needed
        else:
            taken = await source.take_slowly(self._now) if source.slow else source.take()
            if taken is None:
                return None
            outcome = taken
        if first:  # there is work: make two more, so that there are soon as many as the limit allows
            self._spawn(2)
        if not held.holding and outcome.finished is None:
            try:
                held.holding = (not self._paused and limiter.acquire_nowait()) or await self._slot(outcome, me)
            except BaseException:
                if outcome.finished is None:
                    self._end_cut_off(outcome)
                raise
        return outcome

    async def _slot(self, outcome: Outcome, me: asyncio.Task[Any]) -> bool:
        """Wait for a slot; False if there will be none in time, or a bounded queue refused."""
        while True:
            deadline, watchdog = self._settings.deadline, self._attempter.watchdog
            if watched := deadline is not None and self.limiter.locked():
                watchdog.watch(me, self.began + outcome.submitted + deadline)
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
            self._begin_share()

    def _begin_share(self) -> None:
        self._fair_until, self._share = self._now() + FAIR[0], FAIR[1]

    def _turned(self) -> None:
        self._unturned = False

    # -- what an attempt leads to ---------------------------------------------------------------------------------

    def _try_again(self, outcome: Outcome, wait: float, held: Holder) -> None:
        """Put a task aside for `wait` seconds; meanwhile it holds neither a slot nor a worker."""
        assert self._loop is not None
        held.doing = None
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
