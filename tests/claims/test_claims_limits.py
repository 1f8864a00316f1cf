"""Limits, rates and queues: what bounds what, and what waits where."""

import asyncio
import random
import tracemalloc
from collections import Counter, deque

import pytest

from agentkit.lab import Deadlock, simulate
from agentkit.lab.claims import claim

model_call = asyncio.sleep  # to the program a model call is a wait: model_call(seconds, reply)


def now():
    """The running loop's clock, in virtual seconds."""
    return asyncio.get_running_loop().time()


async def limited(semaphore, seconds):
    """One agent: wait for a slot, make a call, say when it was done."""
    async with semaphore:
        await model_call(seconds)
    return now()


@claim("sem-rpm")
def test_semaphore_is_not_a_rate_limit():
    """Semaphore(5), calls of 0.5, 2 and 10 s: 600, 150 and 30 requests start in the first minute."""

    async def main(seconds):
        semaphore, started = asyncio.Semaphore(5), 0

        async def agent():
            nonlocal started
            async with semaphore:
                started += now() < 60
                await model_call(seconds)

        await asyncio.gather(*(agent() for _ in range(700)))
        return started

    assert [simulate(main, seconds) for seconds in (0.5, 2, 10)] == [600, 150, 30]


@claim("sem-bounds")
def test_semaphore_bounds_what_is_in_flight():
    """100 agents of 1 s, Semaphore(5): at most 5 inside, done at 20 s."""

    async def main():
        semaphore, inside, most = asyncio.Semaphore(5), 0, 0

        async def agent():
            nonlocal inside, most
            async with semaphore:
                inside += 1
                most = max(most, inside)
                await model_call(1)
                inside -= 1

        await asyncio.gather(*(agent() for _ in range(100)))
        return most, now()

    assert simulate(main) == (5, 20)


@claim("burst-queues")
def test_burst_above_the_limit_waits():
    """20 calls of 1 s at once, limit 5: five done at 1 s, five each at 2, 3 and 4 s."""

    async def main():
        semaphore = asyncio.Semaphore(5)
        return await asyncio.gather(*(limited(semaphore, 1) for _ in range(20)))

    assert Counter(simulate(main)) == {1: 5, 2: 5, 3: 5, 4: 5}


@claim("slowest-call")
def test_total_time_is_the_slowest_call_only_without_a_limit():
    """Calls of 2, 3, 5, 2, 3, 5 s: limits of 1, 2, 3 and 6 take 20, 12, 9 and 5 s."""

    async def main(limit):
        semaphore = asyncio.Semaphore(limit)
        return max(await asyncio.gather(*(limited(semaphore, seconds) for seconds in (2, 3, 5, 2, 3, 5))))

    assert [simulate(main, limit) for limit in (1, 2, 3, 6)] == [20, 12, 9, 5]


@claim("ninety-percent")
def test_time_saved_depends_on_how_many_run_at_once():
    """Time saved: 3 agents 67 %, 10 agents 90 %, 100 agents with limit 5 80 %."""

    async def main(agents, limit):
        semaphore = asyncio.Semaphore(limit)
        end = max(await asyncio.gather(*(limited(semaphore, 2) for _ in range(agents))))
        return round(100 - 100 * end / (2 * agents))

    assert [simulate(main, *args) for args in ((3, 3), (10, 10), (100, 5))] == [67, 90, 80]


@claim("full-capacity")
def test_semaphore_keeps_every_slot_busy_and_chunks_do_not():
    """Calls of 5, 1, 1, 1, 1, 1 s, two at a time: a semaphore takes 5 s, gather in chunks of two 7 s."""
    jobs = (5, 1, 1, 1, 1, 1)

    async def with_semaphore():
        semaphore = asyncio.Semaphore(2)
        return max(await asyncio.gather(*(limited(semaphore, seconds) for seconds in jobs)))

    async def in_chunks():
        for first in range(0, 6, 2):
            await asyncio.gather(*map(model_call, jobs[first : first + 2]))
        return now()

    assert (simulate(with_semaphore), simulate(in_chunks)) == (5, 7)


@claim("sem-fair")
def test_semaphore_serves_waiters_in_order():
    """Two agents note when they enter and leave, and ask again at once: AABBAABB (3.8 gave AAAABBBB)."""

    async def main():
        semaphore, log = asyncio.Semaphore(1), []

        async def agent(name):
            for _ in range(2):
                async with semaphore:
                    log.append(name)
                    await asyncio.sleep(0)
                    log.append(name)

        await asyncio.gather(agent("A"), agent("B"))
        return "".join(log)

    assert simulate(main) == "AABBAABB"


@claim("sem-cancel")
def test_waiter_woken_and_cancelled_at_once_gives_its_slot_back():
    """A waiter gets its slot and is cancelled in the same turn: the next one still gets in (3.9 hung)."""

    async def main():
        semaphore = asyncio.Semaphore(1)
        await semaphore.acquire()
        waiter = asyncio.create_task(semaphore.acquire())
        await asyncio.sleep(0)
        semaphore.release()
        waiter.cancel()
        await asyncio.wait([waiter])
        return await semaphore.acquire()

    assert simulate(main) is True


@claim("sem-cancel-many")
def test_random_cancellations_lose_no_slot():
    """100 seeded schedules of 12 agents and 8 cancellations on Semaphore(2): afterwards exactly two slots are free."""

    async def main(seed):
        rng, semaphore = random.Random(seed), asyncio.Semaphore(2)
        tasks = [asyncio.create_task(limited(semaphore, rng.choice((0, 0, 1, 2)))) for _ in range(12)]
        for _ in range(8):
            await asyncio.sleep(rng.choice((0, 0, 1)))
            rng.choice(tasks).cancel()
        await asyncio.wait(tasks)
        async with asyncio.timeout(1):
            await semaphore.acquire()
            await semaphore.acquire()
        return semaphore.locked()

    assert all(simulate(main, seed) for seed in range(100))


@claim("sem-release")
def test_release_too_often_raises_the_limit():
    """One release too many on Semaphore(1): two get in. BoundedSemaphore raises ValueError."""

    async def main():
        semaphore = asyncio.Semaphore(1)
        semaphore.release()
        await semaphore.acquire()
        return semaphore.locked()

    assert simulate(main) is False  # one is inside, and there is room for another
    with pytest.raises(ValueError, match="released too many times"):
        asyncio.BoundedSemaphore(1).release()


@claim("resize")
def test_semaphore_cannot_be_resized_or_watched():
    """Its public surface: acquire, locked, release. No limit to set, no queue to read."""
    public = [name for name in dir(asyncio.Semaphore) if not name.startswith("_")]
    assert public == ["acquire", "locked", "release"]


@claim("per-instance")
def test_each_executor_brings_its_own_limit():
    """Three parts of one program, each with its own Semaphore(5): 15 calls in flight."""
    inside = most = 0

    async def agent(semaphore):
        nonlocal inside, most
        async with semaphore:
            inside += 1
            most = max(most, inside)
            await model_call(1)
            inside -= 1

    async def main():
        limits = [asyncio.Semaphore(5) for _ in range(3)]
        await asyncio.gather(*(agent(limit) for limit in limits for _ in range(10)))

    simulate(main)
    assert most == 15


@claim("self-wait")
def test_agents_that_share_a_limit_with_their_children_never_end():
    """Two parents and their children on one Semaphore(2) wait for each other for ever; with 3 slots it takes 3 s."""

    async def main(limit):
        semaphore = asyncio.Semaphore(limit)

        async def child():
            async with semaphore:
                await model_call(1)

        async def parent():
            async with semaphore:
                await model_call(1)
                await child()

        await asyncio.gather(parent(), parent())
        return now()

    assert simulate(main, 3) == 3
    with pytest.raises(Deadlock):
        simulate(main, 2)


@claim("unbounded-queue")
def test_queue_without_a_bound_takes_everything():
    """Ten jobs a second in, one out, for 60 s: about 540 wait without a bound, 10 with maxsize=10."""

    async def main(maxsize):
        jobs, peak = asyncio.Queue(maxsize), 0

        async def consume():
            while True:
                await jobs.get()
                await model_call(1)

        consumer = asyncio.create_task(consume())
        while now() < 60:
            await jobs.put("job")
            peak = max(peak, jobs.qsize())
            await asyncio.sleep(0.1)
        consumer.cancel()
        return peak

    assert 535 <= simulate(main, 0) <= 545
    assert simulate(main, 10) == 10


@claim("sem-memory")
def test_semaphore_bounds_calls_not_waiting_agents():
    """2000 agents on one semaphore use many times the memory of 5 workers that take turns at one source (ratio)."""

    async def gathered():
        semaphore = asyncio.Semaphore(5)
        await asyncio.gather(*(limited(semaphore, 0) for _ in range(2000)))

    async def queued():
        numbers = iter(range(2000))

        async def worker():
            for _ in numbers:
                await model_call(0)

        await asyncio.gather(*(worker() for _ in range(5)))

    def peak(main):
        tracemalloc.start()
        simulate(main)
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    assert peak(gathered) > 5 * peak(queued)


@claim("more-parallel-cost")
def test_more_concurrency_costs_nothing_until_clients_give_up():
    """A server of 8 slots, 64 calls: 8 or 32 at once take 8 s and 64 bills; with a 2.5 s timeout 32 cost 208."""

    async def main(concurrency, timeout):
        client, server, bills, answers = asyncio.Semaphore(concurrency), asyncio.Semaphore(8), [], []

        async def serve():
            async with server:
                bills.append(1)  # generated, so billed, even if nobody listens any more
                await model_call(1)

        async def agent():
            async with client:
                for _ in range(4):
                    try:
                        answers.append(await asyncio.wait_for(asyncio.shield(serve()), timeout))
                        break
                    except TimeoutError:
                        pass

        await asyncio.gather(*(agent() for _ in range(64)))
        end = now()
        await asyncio.sleep(99)
        return len(answers), len(bills), end

    assert [simulate(main, c, 99) for c in (1, 8, 32)] == [(64, 64, 64), (64, 64, 8), (64, 64, 8)]
    assert [simulate(main, c, 2.5) for c in (8, 32)] == [(64, 64, 8), (16, 208, 20)]


@claim("naive-100")
def test_refused_requests_count_and_hammering_starves_itself():
    """60 requests a minute, 100 agents: at once 60 get in; asking again every second still 60; paced all 100."""

    async def main(style):
        recent, accepted = deque(), 0

        async def call():
            nonlocal accepted
            while recent and recent[0] <= now() - 60:
                recent.popleft()
            recent.append(now())  # a refused request counts as well
            accepted += len(recent) <= 60
            return len(recent) <= 60

        async def agent(number):
            await asyncio.sleep(number * 1.25 if style == "paced" else 0)
            for _second in range(300 if style == "again" else 1):
                if await call():
                    break
                await asyncio.sleep(1)

        await asyncio.gather(*map(agent, range(100)))
        return accepted

    assert [simulate(main, style) for style in ("once", "again", "paced")] == [60, 60, 100]


@claim("pacer")
def test_pacing_the_starts_bounds_the_rate_whatever_the_latency():
    """One start per second: 60 in the first minute, and in the worst minute, at 0.5, 2 and 10 s per call."""

    async def main(seconds):
        next_free, starts = 0, []

        async def agent():
            nonlocal next_free
            mine, next_free = max(now(), next_free), max(now(), next_free) + 1
            await asyncio.sleep(mine - now())
            starts.append(now())
            await model_call(seconds)

        await asyncio.gather(*(agent() for _ in range(200)))
        return max(sum(start <= other < start + 60 for other in starts) for start in starts)

    assert [simulate(main, seconds) for seconds in (0.5, 2, 10)] == [60, 60, 60]


@claim("bucket-burst")
def test_full_bucket_lets_almost_twice_the_rate_through_in_its_first_minute():
    """A bucket of 60 that refills one a second, and endless demand: 119 requests start before 60 s."""

    async def main():
        level, refilled, starts = 60, 0, 0
        while now() < 60:
            level, refilled = min(60, level + now() - refilled), now()
            if level >= 1:
                level, starts = level - 1, starts + 1
            else:
                await asyncio.sleep(1 - level)
        return starts

    assert simulate(main) == 119


@claim("tail")
def test_fan_out_makes_the_rare_slow_call_the_usual_one():
    """1 call in 100 is slow: runs of 1, 10 and 100 agents are slow in about 1, 10 and 63 % of cases."""
    rng = random.Random(7)

    def slow_runs(agents):
        return sum(any(rng.random() < 0.01 for _ in range(agents)) for _ in range(2000)) / 2000

    for agents, expected in ((1, 0.01), (10, 0.096), (100, 0.634)):
        assert abs(slow_runs(agents) - expected) < 0.03


@claim("queue-join")
def test_queue_join_waits_for_ever_after_a_crashed_worker():
    """A job that crashes its worker is never marked done: join() never returns."""

    async def main():
        jobs = asyncio.Queue()
        jobs.put_nowait("bad job")

        async def worker():
            await jobs.get()
            raise ValueError  # before jobs.task_done()

        task = asyncio.create_task(worker())
        await asyncio.wait([task])
        task.exception()
        await jobs.join()

    with pytest.raises(Deadlock):
        simulate(main)


@claim("queue-shutdown")
def test_queue_can_be_shut_down_from_3_13():
    """From 3.13 shutdown() ends waiting consumers with an error of their own; 3.11 and 3.12 have none."""
    if not hasattr(asyncio.Queue, "shutdown"):  # 3.11, 3.12: send one None per consumer instead
        return

    async def main():
        jobs = asyncio.Queue()
        consumer = asyncio.create_task(jobs.get())
        await asyncio.sleep(0)
        jobs.shutdown()
        await asyncio.wait([consumer])
        return type(consumer.exception())

    assert simulate(main) is asyncio.QueueShutDown
