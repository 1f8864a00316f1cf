"""One timer for all timeouts: exact, never early, and without a trace on the task it spared."""

from __future__ import annotations

import asyncio

import pytest

from agentkit.executor.watchdog import Watchdog
from agentkit.lab.loops.virtual import simulate


def now() -> float:
    """Return the running loop's time."""
    return asyncio.get_running_loop().time()


async def watched(dog: Watchdog, seconds: float, work: float) -> tuple[bool, float]:
    """Work under the watchdog; return whether the time ran out, and when it ended."""
    me = asyncio.current_task()
    assert me is not None
    dog.watch(me, now() + seconds)
    try:
        await asyncio.sleep(work)
    except asyncio.CancelledError:
        assert dog.release(me)
        assert me.cancelling() == 0
        return True, now()
    assert not dog.release(me)
    return False, now()


def test_Watchdog_cancels_each_task_at_its_own_instant():
    """Many tasks under one watchdog: each that is still busy is cancelled at its instant, the others never."""

    async def main():
        dog = Watchdog(asyncio.get_running_loop())
        work = [(5, 3), (2, 9), (4, 4.5), (2, 1), (2, 8), (7, 6)]
        return await asyncio.gather(*(watched(dog, *w) for w in work)), repr(dog)

    results, text = simulate(main)
    assert results == [(False, 3.0), (True, 2.0), (True, 4.0), (False, 1.0), (True, 2.0), (False, 6.0)]
    assert text == "<Watchdog: 0 watched>"


def test_Watchdog_sets_one_timer():
    """However many tasks are watched, at most one timer is set."""

    async def main():
        dog = Watchdog(asyncio.get_running_loop())
        tasks = [asyncio.create_task(watched(dog, 10 + i, 1000)) for i in range(50)]
        await asyncio.sleep(1)
        timers = [t for t in asyncio.get_running_loop()._scheduled if not t.cancelled() and 2 < t.when() < 900]
        await asyncio.gather(*tasks)
        return len(timers), now()

    assert simulate(main) == (1, 59.0)


def test_Watchdog_an_earlier_instant_comes_first_though_set_later():
    """A shorter timeout set after a longer one is not held up by it."""

    async def main():
        dog = Watchdog(asyncio.get_running_loop())
        late = asyncio.create_task(watched(dog, 100, 1000))
        await asyncio.sleep(1)
        return await watched(dog, 5, 1000), await late

    assert simulate(main) == ((True, 6.0), (True, 100.0))


def test_Watchdog_the_same_task_again_and_again():
    """A worker is watched for one attempt after the other; what ran out before does not count again."""

    async def main():
        dog = Watchdog(asyncio.get_running_loop())
        return [await watched(dog, 3, work) for work in (1, 5, 2, 9, 1)]

    assert simulate(main) == [(False, 1.0), (True, 4.0), (False, 6.0), (True, 9.0), (False, 10.0)]


def test_Watchdog_close_spares_everybody():
    """After `close` nobody is cancelled, and no timer holds up the clock."""

    async def main():
        dog = Watchdog(asyncio.get_running_loop())
        task = asyncio.create_task(watched(dog, 5, 50))
        await asyncio.sleep(1)
        dog.close()
        return await task

    assert simulate(main) == (False, 50.0)


def test_Watchdog_a_cancellation_from_outside_is_not_taken_back():
    """A task cancelled by somebody else before its time stays cancelled."""

    async def work(dog):
        me = asyncio.current_task()
        dog.watch(me, now() + 10)
        try:
            await asyncio.sleep(100)
        finally:
            assert not dog.release(me)

    async def main():
        task = asyncio.create_task(work(Watchdog(asyncio.get_running_loop())))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return task.cancelled(), now()

    assert simulate(main) == (True, 1.0)
