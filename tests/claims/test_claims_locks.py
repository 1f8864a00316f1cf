"""Locks and races: what loses an update, what a lock does about it, and what it costs."""

import asyncio
import itertools
import selectors
import threading

import pytest

from agentkit.lab import Deadlock, simulate
from agentkit.lab.claims import claim

model_call = asyncio.sleep  # to the program a model call is a wait: model_call(seconds, reply)


def now():
    """The running loop's clock, in virtual seconds."""
    return asyncio.get_running_loop().time()


@claim("async-counter")
def test_async_counter_loses_the_same_updates_every_time():
    """Two or ten agents add 1000 each, with an await between read and write: always exactly 1000."""

    async def main(agents):
        count = 0

        async def agent():
            nonlocal count
            for _ in range(1000):
                seen = count
                await asyncio.sleep(0)
                count = seen + 1

        await asyncio.gather(*(agent() for _ in range(agents)))
        return count

    assert [simulate(main, agents) for agents in (1, 2, 10)] == [1000, 1000, 1000]


@claim("async-counter-worst")
def test_async_counter_worst_case_needs_a_second_await():
    """Two agents add 3 each, in every possible order: never below 3, with one more await down to 2."""

    def agent(box, second_await):
        for _ in range(3):
            seen = box[0]
            yield  # stands for an await
            box[0] = seen + 1
            if second_await:
                yield

    def outcomes(second_await, steps):
        for turns_of_a in itertools.combinations(range(2 * steps), steps):
            box = [0]
            a, b = agent(box, second_await), agent(box, second_await)
            for turn in range(2 * steps):
                next(a if turn in turns_of_a else b, None)
            yield box[0]

    one, two = list(outcomes(False, 4)), list(outcomes(True, 7))
    assert (len(one), min(one), max(one)) == (70, 3, 6)
    assert (len(two), min(two), max(two)) == (3432, 2, 6)


@claim("async-prevents-races")
def test_neither_async_nor_a_semaphore_prevents_a_lost_update():
    """20 agents count to 20 across a model call: no limit 1, Semaphore(5) 4, Semaphore(1) 20."""

    async def main(limit):
        semaphore, count = asyncio.Semaphore(limit), 0

        async def agent():
            nonlocal count
            async with semaphore:
                seen = count
                await model_call(1)
                count = seen + 1

        await asyncio.gather(*(agent() for _ in range(20)))
        return count

    assert [simulate(main, limit) for limit in (20, 5, 1)] == [1, 4, 20]


@claim("lock-fix-cost")
def test_lock_held_across_a_model_call_makes_agents_take_turns():
    """Ten agents of 1 s: lock across the call 10 s; update after the call, no lock at all, 1 s. Both count 10."""

    async def main(locked):
        lock, total = asyncio.Lock(), 0

        async def agent():
            nonlocal total
            if locked:
                async with lock:
                    seen = total
                    total = seen + await model_call(1, 1)
            else:
                reply = await model_call(1, 1)
                total += reply  # no await between read and write

        await asyncio.gather(*(agent() for _ in range(10)))
        return total, now()

    assert simulate(main, True) == (10, 10)
    assert simulate(main, False) == (10, 1)


@claim("augmented-await")
def test_augmented_assignment_with_an_await_inside_loses_updates():
    """`total += await call()` reads total before it waits: ten agents add 1, one addition is kept."""

    async def main():
        total = 0

        async def agent():
            nonlocal total
            total += await model_call(1, 1)

        await asyncio.gather(*(agent() for _ in range(10)))
        return total

    assert simulate(main) == 1


@claim("sleep0-danger")
def test_sleep_0_is_harmless_outside_the_update():
    """The same sleep(0): between read and write 1000 of 2000 are kept, before them all 2000, without a lock."""

    async def main(inside):
        count = 0

        async def agent():
            nonlocal count
            for _ in range(1000):
                seen = count
                await asyncio.sleep(0)
                count = (seen if inside else count) + 1

        await asyncio.gather(agent(), agent())
        return count

    assert (simulate(main, True), simulate(main, False)) == (1000, 2000)


@claim("lock-advisory")
def test_lock_binds_only_those_who_take_it():
    """Two writers of 100: both take the lock, 200 are counted; only one of them takes it, 100."""

    async def main(both_careful):
        lock, count = asyncio.Lock(), 0

        async def careful():
            nonlocal count
            for _ in range(100):
                async with lock:
                    seen = count
                    await asyncio.sleep(0)
                    count = seen + 1

        async def careless():
            nonlocal count
            for _ in range(100):
                count += 1
                await asyncio.sleep(0)

        await asyncio.gather(careful(), careful() if both_careful else careless())
        return count

    assert (simulate(main, True), simulate(main, False)) == (200, 100)


@claim("races-only-at-await")
def test_code_without_await_still_races_in_threads():
    """An increment with no await in it: two on the loop count 2, two in threads can count 1."""
    count, both_have_read = 0, threading.Barrier(2)

    def tool(meet):
        nonlocal count
        seen = count
        if meet:
            both_have_read.wait(5)  # force the order that chance gives one day
        count = seen + 1

    tool(False), tool(False)
    assert count == 2

    async def main():
        await asyncio.gather(asyncio.to_thread(tool, True), asyncio.to_thread(tool, True))

    asyncio.run(main())
    assert count == 3  # four increments


@claim("async-with-deadlock")
def test_async_with_does_not_prevent_deadlock():
    """All with `async with`: opposite order never ends, the same order takes 2 s."""

    async def main(opposite):
        x, y = asyncio.Lock(), asyncio.Lock()

        async def agent(first, second):
            async with first:
                await model_call(1)
                async with second:
                    pass

        await asyncio.gather(agent(x, y), agent(y, x) if opposite else agent(x, y))
        return now()

    assert simulate(main, False) == 2
    with pytest.raises(Deadlock):
        simulate(main, True)


@claim("lock-reentrant")
def test_asyncio_Lock_is_not_reentrant():
    """A task that holds the lock and asks for it again waits for itself, for ever."""

    async def main():
        lock = asyncio.Lock()
        async with lock, lock:
            pass

    with pytest.raises(Deadlock):
        simulate(main)


@claim("lock-fair")
def test_asyncio_Lock_serves_waiters_in_order():
    """Two agents note when they enter and leave, and ask again at once: AABBAABB, nobody is passed over."""

    async def main():
        lock, log = asyncio.Lock(), []

        async def agent(name):
            for _ in range(2):
                async with lock:
                    log.append(name)
                    await asyncio.sleep(0)
                    log.append(name)

        await asyncio.gather(agent("A"), agent("B"))
        return "".join(log)

    assert simulate(main) == "AABBAABB"


@claim("thread-lock-in-coroutine")
def test_threading_Lock_held_across_an_await_freezes_the_loop():
    """A holds it for 1 s of waiting, B asks at 0.5 s: the loop stands still, so A can never give it back."""

    async def main():
        lock, heartbeats = threading.Lock(), []

        async def holder():
            with lock:
                await model_call(1)

        async def heart():
            for _ in range(20):
                heartbeats.append(now())
                await asyncio.sleep(0.1)

        async def second():
            await asyncio.sleep(0.5)
            before = len(heartbeats)
            return lock.acquire(timeout=0.05), len(heartbeats) - before  # without the timeout: for ever

        return (await asyncio.gather(holder(), heart(), second()))[2]

    assert simulate(main) == (False, 0)


@claim("asyncio-lock-threads")
def test_asyncio_Lock_does_not_wake_another_threads_loop():
    """Released in this thread, the lock's waiter sleeps on in its own, until something else wakes that loop."""
    idle, got_it, lock = threading.Event(), threading.Event(), asyncio.Lock()

    class Selector(selectors.DefaultSelector):
        def select(self, timeout=None):
            if timeout is None:
                idle.set()  # the loop is about to sleep with no timer to wake it
            return super().select(timeout)

    loop = asyncio.SelectorEventLoop(Selector())

    async def waiter():
        async with lock:
            got_it.set()

    asyncio.run(lock.acquire())
    thread = threading.Thread(target=loop.run_until_complete, args=(waiter(),))
    thread.start()
    idle.wait(5)
    lock.release()
    assert not got_it.wait(0.05)  # free, and nobody was told
    loop.call_soon_threadsafe(lambda: None)
    assert got_it.wait(5)
    thread.join()
    loop.close()


@claim("lock-at-import")
def test_lock_may_be_made_before_any_loop_runs():
    """A lock made at import, two agents, 1000 increments each: 2000, no error (before 3.10 it was one)."""
    lock, count = asyncio.Lock(), 0

    async def agent():
        nonlocal count
        for _ in range(1000):
            async with lock:
                seen = count
                await asyncio.sleep(0)
                count = seen + 1

    async def main():
        await asyncio.gather(agent(), agent())

    asyncio.run(main())
    assert count == 2000


@claim("lock-across-loops")
def test_lock_fails_in_a_second_loop_only_when_contended():
    """One module-level lock, four runs: free, free and contended pass, the next contended one raises."""
    lock = asyncio.Lock()

    async def agent():
        async with lock:
            await asyncio.sleep(0)

    async def main(agents):
        await asyncio.gather(*(agent() for _ in range(agents)))

    asyncio.run(main(1))
    asyncio.run(main(1))
    asyncio.run(main(2))
    with pytest.raises(RuntimeError, match="different event loop"):
        asyncio.run(main(2))


@claim("event-pulse")
def test_event_set_and_cleared_at_once_still_wakes_the_waiters():
    """set() then clear() with no await between: whoever was waiting wakes, whoever comes later waits for ever."""

    async def main():
        event = asyncio.Event()
        early = asyncio.create_task(event.wait())
        await asyncio.sleep(0)
        event.set()
        event.clear()
        late = asyncio.create_task(event.wait())
        done, waiting = await asyncio.wait([early, late], timeout=60)
        return early in done, late in waiting

    assert simulate(main) == (True, True)


@claim("condition-recheck")
def test_notified_waiter_may_find_nothing():
    """One item, one waiter notified; a third task was before it at the lock and takes the item: `if` finds 0."""

    async def main():
        condition, items = asyncio.Condition(), []

        async def waiter():
            async with condition:
                if not items:  # should be: while not items
                    await condition.wait()
                return len(items)

        async def thief():
            async with condition:
                items.pop()

        task = asyncio.create_task(waiter())
        await asyncio.sleep(0)
        async with condition:
            robbery = asyncio.create_task(thief())
            await asyncio.sleep(0)  # the thief is first in the queue for the lock
            items.append("job")
            condition.notify()
        await robbery
        return await task

    assert simulate(main) == 0
