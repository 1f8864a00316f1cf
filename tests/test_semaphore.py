"""The limiter: first come, first served, resizable, and no cancellation loses, doubles or leaks a slot."""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections import deque
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from agentkit.lab.loops.virtual import Deadlock, simulate
from agentkit.semaphore import CapacityLimiter, LimiterStatistics, QueueFull


async def turns(count: int = 3) -> None:
    """Give everybody who is ready a few turns."""
    for _ in range(count):
        await asyncio.sleep(0)


# -- statistics; the checklist of every primitive is in test_waiters.py ---------------------------------------------


def test_CapacityLimiter_statistics_tell_now_and_peaks():
    """`statistics` is a frozen record of what is, and of the most there ever was."""

    async def main():
        limiter = CapacityLimiter(2)

        async def use():
            async with limiter:
                await asyncio.sleep(1)

        users = [asyncio.create_task(use()) for _ in range(5)]
        await asyncio.sleep(0.5)
        busy, text = limiter.statistics(), repr(limiter)
        await asyncio.gather(*users)
        return busy, text, limiter.statistics()

    busy, text, idle = simulate(main)
    assert busy == LimiterStatistics(in_flight=2, limit=2, queue_depth=3, peak_in_flight=2, peak_queue_depth=3)
    assert text == "<CapacityLimiter 2 of 2 in flight, 3 waiting>"
    assert idle == LimiterStatistics(in_flight=0, limit=2, queue_depth=0, peak_in_flight=2, peak_queue_depth=3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        busy.limit = 3  # type: ignore[misc]


# -- resizing -----------------------------------------------------------------------------------------------------


def test_CapacityLimiter_raising_the_limit_admits_waiters_at_once():
    """Waiters take the new slots in order, at the instant of the change."""

    async def main():
        limiter, started = CapacityLimiter(1), []

        async def use(i):
            async with limiter:
                started.append((i, asyncio.get_running_loop().time()))
                await asyncio.sleep(10)

        users = [asyncio.create_task(use(i)) for i in range(4)]
        await asyncio.sleep(2)
        limiter.limit = 3
        await asyncio.gather(*users)
        return started

    assert simulate(main) == [(0, 0.0), (1, 2.0), (2, 2.0), (3, 10.0)]


def test_CapacityLimiter_lowering_the_limit_interrupts_nobody():
    """After a lowering, holders stay, and nobody is admitted until enough of them have left."""

    async def main():
        limiter, started = CapacityLimiter(3), []

        async def use(i):
            async with limiter:
                started.append((i, asyncio.get_running_loop().time()))
                await asyncio.sleep(i + 1)

        users = [asyncio.create_task(use(i)) for i in range(5)]
        await asyncio.sleep(0)
        limiter.limit = 1
        over = limiter.statistics()
        await asyncio.gather(*users)
        return (over.in_flight, over.limit), started

    assert simulate(main) == ((3, 1), [(0, 0.0), (1, 0.0), (2, 0.0), (3, 3.0), (4, 7.0)])


def test_CapacityLimiter_limit_zero_admits_nobody_until_it_is_raised():
    """0 closes the door; raising it opens it."""

    async def main():
        limiter = CapacityLimiter(0)
        refused = limiter.acquire_nowait()
        asyncio.get_running_loop().call_later(5, setattr, limiter, "limit", 1)
        await limiter.acquire()
        return refused, asyncio.get_running_loop().time()

    assert simulate(main) == (False, 5.0)


def test_CapacityLimiter_limit_none_is_no_limit():
    """None admits everybody; `statistics` calls it infinity."""

    async def main():
        limiter = CapacityLimiter(None)
        for _ in range(10_000):
            await limiter.acquire()
        return limiter.locked(), limiter.limit, repr(limiter)

    assert simulate(main) == (False, math.inf, "<CapacityLimiter 10000 in flight, no limit, 0 waiting>")


def test_CapacityLimiter_limit_none_while_others_wait():
    """Taking the limit away admits all waiters."""

    async def main():
        limiter = CapacityLimiter(1)
        waiters = [asyncio.create_task(limiter.acquire()) for _ in range(50)]
        await turns()
        limiter.limit = None
        await asyncio.gather(*waiters)
        return limiter.statistics().in_flight, limiter.statistics().queue_depth

    assert simulate(main) == (50, 0)


def test_CapacityLimiter_subscribe_hears_of_every_change():
    """A listener is called after each change of the limit, and no more once its subscription has ended."""
    limiter, heard = CapacityLimiter(1), []
    end = limiter.subscribe(lambda: heard.append(limiter.limit))
    limiter.limit = 5
    limiter.limit = None
    end()
    limiter.limit = 2
    assert heard == [5, math.inf]


def test_CapacityLimiter_a_listener_that_raises_keeps_no_other_from_being_called():
    """All are called in order and waiters are admitted; whoever assigned `limit` gets every error."""

    async def main():
        limiter, heard = CapacityLimiter(0), []
        limiter.subscribe(lambda: heard[5])
        limiter.subscribe(lambda: heard.append(1))
        limiter.subscribe(lambda: 1 / 0)
        limiter.subscribe(lambda: heard.append(2))
        waiter = asyncio.create_task(limiter.acquire())
        await turns()
        with pytest.raises(ExceptionGroup, match="limit is 3 now, but listeners raised") as raised:
            limiter.limit = 3
        assert [type(error) for error in raised.value.exceptions] == [IndexError, ZeroDivisionError]
        assert raised.value.exceptions[0].__notes__ == ["raised by the listener of the limiter"]
        await waiter
        return heard, limiter.limit

    assert simulate(main) == ([1, 2], 3)


def test_CapacityLimiter_acquire_anyway_exceeds_the_limit():
    """It takes a slot where none is free, which counts in `in_flight` and in the peak."""

    async def main():
        limiter = CapacityLimiter(1)
        limiter.acquire_anyway()
        within = limiter.statistics().in_flight
        limiter.acquire_anyway()
        over = limiter.statistics().in_flight
        limiter.release()
        return within, over, limiter.statistics().peak_in_flight, limiter.acquire_nowait()

    assert simulate(main) == (1, 2, 2, False)


@pytest.mark.parametrize("max_queue", [0, None])
def test_CapacityLimiter_acquire_again_never_comes_back_without_a_slot(max_queue: int | None):
    """A full queue or a cancellation gets a slot over the limit; otherwise the caller waits its turn."""

    async def main():
        limiter = CapacityLimiter(1, max_queue=max_queue)
        await limiter.acquire()
        task = asyncio.create_task(limiter.acquire_again())
        await turns()
        waiting = not task.done()
        task.cancel()
        await asyncio.wait([task])
        return waiting, task.cancelled(), limiter.statistics().in_flight, limiter.statistics().queue_depth

    assert simulate(main) == ((False, False, 2, 0) if max_queue == 0 else (True, True, 2, 0))


def test_CapacityLimiter_peaks_start_at_zero():
    """A limiter that was never used has had no holder and no waiter."""
    assert CapacityLimiter(3).statistics() == LimiterStatistics(0, 3, 0, 0, 0)


def test_CapacityLimiter_runs_says_whether_several_runs_use_it():
    """Two runs share it, one does not; a run that has left hears of no further change."""
    limiter, heard = CapacityLimiter(1), []
    assert limiter.runs <= 1
    leave_first = limiter.join(lambda: heard.append("first"))
    assert limiter.runs <= 1
    leave_second = limiter.join(lambda: heard.append("second"))
    assert limiter.runs == 2
    limiter.limit = 2
    leave_first()
    assert limiter.runs <= 1
    limiter.limit = 3
    leave_second()
    limiter.limit = 4
    assert heard == ["first", "second", "second"]


# -- a bounded queue ----------------------------------------------------------------------------------------------


def test_CapacityLimiter_full_queue_refuses():
    """With `max_queue`, one waiter too many gets `QueueFull`, and nothing of it stays."""

    async def main():
        limiter = CapacityLimiter(1, max_queue=2)
        await limiter.acquire()
        waiters = [asyncio.create_task(limiter.acquire()) for _ in range(2)]
        await turns()
        with pytest.raises(QueueFull, match="2 callers wait already and max_queue is 2; shed this work"):
            await limiter.acquire()
        for _ in range(3):
            limiter.release()
            await turns()
        return [w.result() for w in waiters], limiter.statistics()

    results, statistics = simulate(main)
    assert results == [True, True]
    assert (statistics.in_flight, statistics.queue_depth, statistics.peak_queue_depth) == (0, 0, 2)


def test_CapacityLimiter_queue_of_zero_refuses_whoever_would_wait():
    """`max_queue=0` is a limiter without a queue."""

    async def main():
        limiter = CapacityLimiter(1, max_queue=0)
        async with limiter:
            with pytest.raises(QueueFull):
                await limiter.acquire()
        return await limiter.acquire()

    assert simulate(main) is True


def test_CapacityLimiter_a_cancelled_waiter_makes_room_in_the_queue():
    """A place in a bounded queue is free again once its waiter was cancelled."""

    async def main():
        limiter = CapacityLimiter(1, max_queue=1)
        await limiter.acquire()
        first = asyncio.create_task(limiter.acquire())
        await turns()
        first.cancel()
        await turns()
        second = asyncio.create_task(limiter.acquire())
        await turns()
        limiter.release()
        return await second

    assert simulate(main) is True


# -- misuse -------------------------------------------------------------------------------------------------------


def test_CapacityLimiter_release_without_acquire():
    """One release too many is an error that names the limiter and the remedy."""
    with pytest.raises(RuntimeError, match=r"<CapacityLimiter 0 of 2 .*: release without acquire; use `async with"):
        CapacityLimiter(2).release()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"limit": -1}, ValueError, "limit must be 0 or more, got -1; use 0 to admit no caller, None for no limit"),
        ({"limit": 2.5}, TypeError, "limit must be a whole number, got 2.5; use"),
        ({"limit": True}, TypeError, "limit must be a whole number, got True; use"),
        ({"limit": "3"}, TypeError, "limit must be a whole number, got '3'; use"),
        ({"limit": math.nan}, TypeError, "limit must be a whole number, got nan; use"),
        ({"limit": 1, "max_queue": -2}, ValueError, "max_queue must be 0 or more, got -2; use 0 to refuse"),
        ({"limit": 1, "max_queue": 0.5}, TypeError, "max_queue must be a whole number, got 0.5; use"),
    ],
)
def test_CapacityLimiter_bad_argument(arguments: dict[str, Any], error: type[Exception], message: str):
    """Each bad value is refused with parameter, rule, value and remedy."""
    with pytest.raises(error) as caught:
        CapacityLimiter(**arguments)
    assert str(caught.value).startswith(message)


def test_CapacityLimiter_bad_limit_assigned_changes_nothing():
    """A refused assignment leaves the limit as it was."""
    limiter = CapacityLimiter(3)
    with pytest.raises(ValueError, match="limit must be 0 or more, got -1"):
        limiter.limit = -1
    assert limiter.limit == 3


# -- in the place of asyncio.Semaphore ----------------------------------------------------------------------------


async def _through(gate: Any) -> list[tuple[str, int, float]]:
    """Ten users, two of them cancelled while they wait and one while it holds; return what happened when."""
    log: list[tuple[str, int, float]] = []

    def note(what, i):
        log.append((what, i, asyncio.get_running_loop().time()))

    async def use(i):
        try:
            async with gate:
                note("in", i)
                await asyncio.sleep(1 + i % 3)
        finally:
            note("out", i)

    users = [asyncio.create_task(use(i)) for i in range(10)]
    await asyncio.sleep(0.5)
    for i in (1, 4, 5):
        users[i].cancel()
    note("locked" if gate.locked() else "open", -1)
    await asyncio.gather(*users, return_exceptions=True)
    await gate.acquire()
    note("locked" if gate.locked() else "open", -1)
    gate.release()
    return log


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
def test_CapacityLimiter_is_a_drop_in_for_Semaphore(limit: int):
    """The same scenario gives the same order at the same instants with either."""
    assert simulate(_through, CapacityLimiter(limit)) == simulate(_through, asyncio.Semaphore(limit))


# -- any interleaving ---------------------------------------------------------------------------------------------


class FreesTooEarly(CapacityLimiter):
    """Broken: a released slot lies free until the waiter wakes up, so a newcomer can take it first."""

    __slots__ = ()

    def release(self) -> None:
        """Free the slot and only wake the longest waiter."""
        self._in_flight -= 1
        free = iter([self._in_flight < self._limit])
        self._waiters.serve(lambda _: next(free, False))

    async def acquire(self) -> bool:
        """Take the slot after waking up, whether or not somebody has it by then."""
        if self._in_flight >= self._limit:
            await self._waiters.wait(None, lambda _: False)
        self.acquire_anyway()
        return True


class LosesOnCancel(CapacityLimiter):
    """Broken: a waiter cancelled after the hand-over keeps the slot for ever."""

    __slots__ = ()

    async def acquire(self) -> bool:
        """Forget the slot when cancelled."""
        if not self.acquire_nowait():
            await self._waiters.wait(None, self._grant)
        return True


class FullOfTheCancelled(CapacityLimiter):
    """Broken: `limit` counts waiters that were cancelled."""

    __slots__ = ()

    def release(self) -> None:
        """Give the slot to the queue, whoever is in it."""
        if not self._waiters:
            self._in_flight -= 1
        else:
            free = iter([True])
            self._waiters.serve(lambda _: next(free, False))


class Model:
    """Drives a limiter step by step and keeps its own account of who should hold a slot."""

    def __init__(self, limiter: CapacityLimiter) -> None:
        self.limiter = limiter
        self.waiting: deque[int] = deque()  # in the order in which they must be served
        self.holding: list[int] = []  # in the order in which they were served
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.gone: set[int] = set()  # cancelled: may be neither waiting nor holding for long
        self.limit: float = limiter.limit

    async def user(self, i: int) -> None:
        """Take a slot and note it."""
        self.waiting.append(i)
        try:
            await self.limiter.acquire()
        except asyncio.CancelledError:
            self.waiting.remove(i)
            raise
        ahead = next(w for w in self.waiting if w not in self.gone or w == i)
        assert ahead == i, f"{i} overtook {ahead}"
        self.waiting.remove(i)
        self.holding.append(i)
        assert len(self.holding) <= max(self.most, self.limit), f"{len(self.holding)} hold {self.limit} slots"
        self.most = len(self.holding)

    most = 0  # holders there were when the limit was lowered last; more is only right if the limit allows it

    async def do(self, action: str, number: int) -> None:
        """Do one thing to the limiter."""
        if action == "acquire":
            i = len(self.tasks)
            self.tasks[i] = asyncio.create_task(self.user(i))
        elif action == "release" and self.holding:
            self.holding.pop(number % len(self.holding))
            self.most = len(self.holding)
            self.limiter.release()
        elif action == "cancel":
            live = [i for i, task in self.tasks.items() if not task.done()]
            if live:
                i = live[number % len(live)]
                self.gone.add(i)
                self.tasks[i].cancel()
        elif action == "resize":
            self.limit = self.limiter.limit = number % 5
            self.most = len(self.holding)
        elif action == "hand over then cancel":
            await self.do("release", number)
            await self.do("cancel", 0)
        elif action == "turn":
            await asyncio.sleep(0)

    async def settle(self) -> None:
        """Let everybody have their turns, then compare the limiter with the account."""
        await turns(5 + len(self.tasks))
        over = [task for task in self.tasks.values() if task.done() and not task.cancelled()]
        for error in [task.exception() for task in over]:
            if error is not None:
                raise error
        now = self.limiter.statistics()
        assert now.in_flight == len(self.holding), f"{now.in_flight} slots taken, {len(self.holding)} held"
        assert now.queue_depth == len(self.waiting)
        assert not self.waiting or now.in_flight >= now.limit, "somebody waits beside a free slot"

    async def play(self, script: list[tuple[str, int]]) -> None:
        """Run a script, then let everybody through and see that all slots are free again."""
        for action, number in script:
            if action == "settle":
                await self.settle()
            else:
                await self.do(action, number)
        await self.settle()
        await self.do("resize", 4)
        while self.holding or self.waiting:
            await self.settle()
            await self.do("release", 0)
        await self.settle()
        assert self.limiter.statistics().in_flight == 0


ACTIONS = st.sampled_from(
    ["acquire", "acquire", "acquire", "release", "hand over then cancel", "cancel", "resize", "turn", "settle"]
)
SCRIPTS = st.lists(st.tuples(ACTIONS, st.integers(0, 3)), max_size=60)


@given(st.integers(0, 4), SCRIPTS)
def test_CapacityLimiter_any_interleaving(limit: int, script: list[tuple[str, int]]):
    """Whatever the order of acquire, release, cancel and resize: no slot is lost, doubled, leaked or jumped."""
    simulate(Model(CapacityLimiter(limit)).play, script)


@pytest.mark.parametrize(
    ("broken", "script"),
    [
        (FreesTooEarly, ["acquire", "acquire", "turn", "turn", "release", "acquire"]),
        (FreesTooEarly, ["acquire", "acquire", "acquire", "settle", "release", "cancel", "settle"]),
        (LosesOnCancel, ["acquire", "acquire", "settle", "release", "cancel", "settle"]),
        (FullOfTheCancelled, ["acquire", "acquire", "settle", "cancel", "release", "settle"]),
    ],
)
def test_CapacityLimiter_broken_ones_are_found_out(broken: type[CapacityLimiter], script: list[str]):
    """The same model catches limiters that free too early, lose on cancel, or hand a slot to a cancelled waiter."""
    steps = [(action, 0) for action in script]
    simulate(Model(CapacityLimiter(1)).play, steps)
    with pytest.raises((AssertionError, Deadlock)):
        simulate(Model(broken(1)).play, steps)


@pytest.mark.parametrize("broken", [FreesTooEarly, LosesOnCancel, FullOfTheCancelled])
def test_CapacityLimiter_broken_ones_are_found_by_chance_too(broken: type[CapacityLimiter]):
    """The generated interleavings alone find each broken limiter."""

    @settings(phases=[Phase.generate], max_examples=500)  # to find one is enough, so no time goes into shrinking it
    @given(st.integers(0, 4), SCRIPTS)
    def any_interleaving(limit, script):
        simulate(Model(broken(limit)).play, script)

    with pytest.raises((AssertionError, Deadlock)):
        any_interleaving()
