"""Threads: what the GIL does and does not do, what is atomic, and what a pool is."""

import asyncio
import contextlib
import contextvars
import hashlib
import os
import queue
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from agentkit.lab import simulate
from agentkit.lab.claims import claim

CPUS = (os.process_cpu_count if hasattr(os, "process_cpu_count") else os.cpu_count)() or 1
POOL_SIZE = min(32, CPUS + 4)  # of the pool behind asyncio.to_thread


def in_threads(*functions):
    """Run the functions in a thread each, all started together; give back what they return."""
    start = threading.Barrier(len(functions))

    def run(function):
        start.wait(10)
        return function()

    with ThreadPoolExecutor(len(functions)) as pool:
        return list(pool.map(run, functions))


@contextlib.contextmanager
def switch_interval(seconds):
    """Let the interpreter change threads that often, and put the old setting back."""
    old = sys.getswitchinterval()
    sys.setswitchinterval(seconds)
    try:
        yield
    finally:
        sys.setswitchinterval(old)


@contextlib.contextmanager
def other_thread():
    """A thread that counts its turns, and gives way after each; yields the list [turns]."""
    turns, stop = [0], threading.Event()

    def run():
        while not stop.is_set():
            turns[0] += 1
            time.sleep(1e-5)  # gives the GIL back; nothing waits for it

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield turns
    finally:
        stop.set()
        thread.join()


@claim("append-atomic")
def test_list_append_from_threads_loses_nothing():
    """8 threads append 5,000 each, switching as often as possible: 40,000 entries, each thread's in order."""
    log = []

    def agent(name):
        for number in range(5000):
            log.append((name, number))

    with switch_interval(1e-6):
        in_threads(*(lambda name=name: agent(name) for name in range(8)))
    assert len(log) == 40_000
    assert all([n for who, n in log if who == name] == list(range(5000)) for name in range(8))


@claim("own-keys")
def test_dict_writes_to_different_keys_lose_nothing():
    """8 threads store 5,000 entries each under their own keys in one dict: 40,000 entries."""
    state = {}

    def agent(name):
        for number in range(5000):
            state[name, number] = "output"

    with switch_interval(1e-6):
        in_threads(*(lambda name=name: agent(name) for name in range(8)))
    assert len(state) == 40_000


@claim("check-then-append")
def test_check_then_append_overfills():
    """Room for 10, 9 taken, two threads check and then append: 11."""
    slots, both_have_checked = [0] * 9, threading.Barrier(2)

    def agent():
        if len(slots) < 10:
            both_have_checked.wait(5)
            slots.append(1)

    in_threads(agent, agent)
    assert len(slots) == 11


@claim("lost-update")
def test_read_then_write_in_threads_loses_an_update():
    """Two threads add an entry to one history by read, add, write: one entry is kept."""
    state, both_have_read = {"history": ()}, threading.Barrier(2)

    def agent(name):
        old = state["history"]
        both_have_read.wait(5)
        state["history"] = (*old, name)

    in_threads(lambda: agent("A"), lambda: agent("B"))
    assert len(state["history"]) == 1


@claim("counter-threads")
def test_plain_increment_loses_nothing_and_one_call_brings_the_race_back():
    """`count += 1` cannot be split on 3.10 to 3.14 with the GIL; with a function call between read and write it can."""
    count = 0

    def note():
        pass

    def plain():
        nonlocal count
        for _ in range(50_000):
            count += 1

    def with_a_call():
        nonlocal count
        for _ in range(50_000):
            seen = count
            note()  # here the interpreter looks whether another thread wants its turn
            count = seen + 1

    def total(increment):
        nonlocal count
        count = 0
        in_threads(increment, increment, increment, increment)
        return count

    with switch_interval(1e-6):
        assert total(plain) == 200_000
        assert any(total(with_a_call) < 200_000 for _ in range(50))


@claim("hammer-tests")
def test_hammer_passes_on_a_bug_that_a_barrier_shows():
    """Hammering `count += 1` finds nothing; two threads made to read before either writes count 1, not 2."""
    count, both_have_read = 0, threading.Barrier(2)

    def hammered():
        nonlocal count
        for _ in range(50_000):
            count += 1

    with switch_interval(1e-6):
        in_threads(hammered, hammered)
    assert count == 100_000  # the test is green, and the code is not thread-safe

    def forced():
        nonlocal count
        seen = count
        both_have_read.wait(5)
        count = seen + 1

    count = 0
    in_threads(forced, forced)
    assert count == 1


@claim("gil-await")
def test_await_does_not_hand_over_the_GIL():
    """While 1000 coroutines take turns, another thread makes no step; it does while the loop really waits."""
    seen = []

    async def main(turns):
        async def agent():
            seen.append(turns[0])
            await asyncio.sleep(0)

        await asyncio.gather(*(agent() for _ in range(1000)))
        for _ in range(1000):  # a real wait lets it run
            if turns[0] > seen[-1]:
                break
            await asyncio.sleep(0.001)
        return turns[0]

    with switch_interval(30), other_thread() as turns:
        after_a_wait = asyncio.run(main(turns))
    assert len(seen) == 1000
    assert len(set(seen)) == 1
    assert after_a_wait > seen[-1]


@claim("async-needs-gil")
def test_coroutines_overlap_in_one_thread():
    """Ten waits of 1 s take 1 s, all in one thread: there is nothing for a GIL to arbitrate."""

    async def agent():
        await asyncio.sleep(1)
        return threading.get_ident()

    async def main():
        threads = await asyncio.gather(*(agent() for _ in range(10)))
        return len(set(threads)), asyncio.get_running_loop().time()

    assert simulate(main) == (1, 1)


@claim("cpu-needs-processes")
def test_C_code_lets_other_threads_run_and_pure_Python_does_not():
    """With forced switching off, another thread stands still during pure Python and runs on during hashing in C."""
    blob = b"x" * 1_000_000
    with switch_interval(30), other_thread() as turns:
        before = turns[0]
        sum(number * number for number in range(100_000))
        during_python = turns[0] - before
        rounds = 0
        while turns[0] == before and rounds < 2000:
            hashlib.sha256(blob)
            rounds += 1
    assert during_python == 0
    assert turns[0] > before


@claim("threads-cpu")
def test_threads_keep_no_second_core_busy_with_pure_Python():
    """Two threads of pure Python burn no more than about one second of CPU per second of clock (ratio)."""

    def work():
        for _ in range(600_000):
            pass

    clock, cpu = time.perf_counter(), time.process_time()
    in_threads(work, work)
    cores = (time.process_time() - cpu) / (time.perf_counter() - clock)
    assert cores < 1.5


@claim("loop-overhead")
def test_one_more_task_costs_microseconds():
    """1000 tasks that do nothing cost far less CPU than a thousandth of one 2 s model call each (ratio)."""

    async def nothing():
        pass

    async def main():
        await asyncio.gather(*(nothing() for _ in range(1000)))

    cpu = time.process_time()
    asyncio.run(main())
    per_task = (time.process_time() - cpu) / 1000
    assert per_task < 2 / 1000


@claim("async-optional")
def test_threads_overlap_waits_as_well():
    """50 threads wait at the same moment, without asyncio: a barrier of 50 opens."""
    everybody_is_waiting = threading.Barrier(50)

    def model_call():
        everybody_is_waiting.wait(30)
        return "reply"

    assert in_threads(*[model_call] * 50) == ["reply"] * 50


@claim("blocking-stalls")
def test_blocking_call_in_a_coroutine_stops_every_other_agent():
    """A tool that waits for five heartbeats of the loop: called directly it sees none, in a thread all five."""
    for in_thread in (False, True):
        five_beats = threading.Event()

        async def heart(signal=five_beats):
            for _ in range(5):
                await asyncio.sleep(0)
            signal.set()

        async def main(signal=five_beats, in_thread=in_thread, heart=heart):
            beating = asyncio.create_task(heart())
            seen = await asyncio.to_thread(signal.wait, 5) if in_thread else signal.wait(0.05)
            await beating
            return seen

        assert asyncio.run(main()) == in_thread


@claim("blocking-client")
def test_blocking_client_works_in_a_coroutine_one_call_at_a_time():
    """Four blocking calls: all answer either way; called directly 1 in flight at most, via to_thread 4."""
    in_flight, most, all_four = 0, 0, threading.Barrier(4)

    def blocking_call(together):
        nonlocal in_flight, most
        in_flight += 1
        most = max(most, in_flight)
        if together:
            all_four.wait(5)  # opens only if all four are in flight
        in_flight -= 1
        return "reply"

    async def direct():
        return blocking_call(False)

    async def main(in_threads):
        calls = (asyncio.to_thread(blocking_call, True) if in_threads else direct() for _ in range(4))
        return await asyncio.gather(*calls)

    assert (asyncio.run(main(False)), most) == (["reply"] * 4, 1)
    assert asyncio.run(main(True)) == ["reply"] * 4  # the barrier opened


@claim("to-thread-per-call")
def test_to_thread_uses_a_small_pool():
    """100 calls at once run in min(32, CPUs + 4) threads, not in 100."""
    pool_is_full = threading.Barrier(POOL_SIZE)

    def tool(number):
        if number < POOL_SIZE:
            pool_is_full.wait(10)  # so that every thread of the pool is made
        return threading.get_ident()

    async def main():
        return await asyncio.gather(*(asyncio.to_thread(tool, number) for number in range(100)))

    assert len(set(asyncio.run(main()))) == POOL_SIZE


@claim("pool-for-hundreds")
def test_default_pool_bounds_blocking_calls_at_its_size():
    """100 blocking calls: the default pool starts only its size, a pool of 100 set as default starts all."""
    started = threading.Semaphore(0)

    def tool(release):
        started.release()
        release.wait(10)

    async def main(size):
        release = threading.Event()
        if size:
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(size))
        calls = [asyncio.create_task(asyncio.to_thread(tool, release)) for _ in range(100)]
        await asyncio.sleep(0)  # all are handed to the pool
        running = 0
        while started.acquire(timeout=5 if running < (size or POOL_SIZE) else 0.02):
            running += 1
        release.set()
        await asyncio.gather(*calls)
        return running

    assert asyncio.run(main(None)) == POOL_SIZE
    started = threading.Semaphore(0)
    assert asyncio.run(main(100)) == 100


@claim("dns-shares-pool")
def test_name_lookups_queue_behind_blocking_tools():
    """The default pool is full of tools: the loop's own getaddrinfo waits until one of them ends."""
    release = threading.Event()

    async def main():
        tools = [asyncio.create_task(asyncio.to_thread(release.wait, 10)) for _ in range(POOL_SIZE)]
        await asyncio.sleep(0)
        lookup = asyncio.create_task(asyncio.get_running_loop().getaddrinfo("127.0.0.1", 80))
        _, waiting = await asyncio.wait([lookup], timeout=0.02)
        release.set()
        await asyncio.gather(*tools)
        return lookup in waiting, (await lookup)[0][0]

    assert asyncio.run(main()) == (True, socket.AF_INET)


@claim("executor-with")
def test_leaving_a_with_block_of_a_pool_blocks_the_loop():
    """A job waits for a heartbeat of the loop: awaited inside the block it gets one, outside it never does."""

    async def main(inside):
        beat, loop = threading.Event(), asyncio.get_running_loop()
        loop.call_later(0.001, beat.set)
        with ThreadPoolExecutor(1) as pool:
            job = loop.run_in_executor(pool, beat.wait, 5 if inside else 0.05)
            if inside:
                await job
        return await job  # leaving the block waited for the job, with the loop standing still

    assert asyncio.run(main(True)) is True
    assert asyncio.run(main(False)) is False


@claim("queue-in-coroutine")
def test_queue_Queue_get_blocks_the_loop():
    """A message is due at 1 s: queue.Queue.get in a coroutine never lets it be sent, asyncio.Queue gets it."""

    async def main(messages, get):
        async def producer():
            await asyncio.sleep(1)
            messages.put_nowait("message")

        async def consumer():
            try:
                return await get(messages)
            except queue.Empty:
                return "empty"

        return (await asyncio.gather(producer(), consumer()))[1]

    async def blocking_get(messages):
        return messages.get(timeout=0.05)  # without the timeout: for ever

    assert simulate(main, queue.Queue(), blocking_get) == "empty"
    assert simulate(main, asyncio.Queue(), asyncio.Queue.get) == "message"


@claim("pool-self-wait")
def test_pool_job_that_waits_for_its_own_pool_never_ends():
    """A pool of one thread, whose job submits a second job and waits for it."""
    with ThreadPoolExecutor(1) as pool:

        def parent():
            child = pool.submit(int)
            with pytest.raises(TimeoutError):
                child.result(timeout=0.05)  # without the timeout: for ever
            return child.done()

        assert pool.submit(parent).result() is False


@claim("contextvars-threads")
def test_context_variables_reach_to_thread_but_not_run_in_executor():
    """A run id set by the caller: a task and to_thread see it, run_in_executor does not."""
    run_id = contextvars.ContextVar("run_id", default="lost")

    async def task():
        return run_id.get()

    async def main():
        run_id.set("run-7")
        in_executor = asyncio.get_running_loop().run_in_executor(None, run_id.get)
        return await asyncio.gather(task(), asyncio.to_thread(run_id.get), in_executor)

    assert asyncio.run(main()) == ["run-7", "run-7", "lost"]


@claim("time-time")
def test_time_time_can_be_set_back():
    """The clock of time.time() is adjustable; perf_counter, and the loop's clock, are not."""
    assert time.get_clock_info("time").adjustable
    assert not time.get_clock_info("perf_counter").adjustable
    assert not time.get_clock_info("monotonic").adjustable
