"""One measurement of one system, in a process of its own; `bench_executor.py` starts it and reads what it prints.

By hand: `python tests/benchmarks/probes.py overhead "agentkit, streamed" 20000`, which prints the figures as JSON.
Where both sides of a ratio compute and never wait, processor time is counted, so that other work on the machine does
not decide; where time passes waiting, it is the clock's.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import itertools
import json
import math
import random
import statistics
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from systems import WAYS, Agent, Way  # a file beside this one

Figures = dict[str, float]


# -- cost of a call -----------------------------------------------------------------------------------------------


async def trivial(_: Any) -> None:
    """An agent that gives the loop one turn and does nothing."""
    await asyncio.sleep(0)


def processor_seconds(way: Way, agent: Agent, tasks: Iterable[Any], at_once: int) -> float:
    """Processor time of one run on a loop of its own."""
    gc.collect()
    began = time.process_time()
    asyncio.run(as_coroutine(way, agent, tasks, at_once))
    return time.process_time() - began


async def as_coroutine(way: Way, *arguments: Any, into: list[Any] | None = None) -> None:
    """Await what `way` returns; `asyncio.run` wants a coroutine.

    It returns nothing, since asyncio 3.11 takes the `repr` of what the main task returned, and a report's is not free.
    """
    result = await way(*arguments)
    if into is not None:
        into.append(result)


def overhead(system: str, tasks: int, at_once: int = 100) -> Figures:
    """Cost per task, as a multiple of bare gather; the two take turns, and the median of the ratios counts."""
    rounds, way, bare = (15 if tasks <= 5000 else 5), WAYS[system], WAYS["gather"]
    ratios, seconds = [], []
    for warm_up in (True, *[False] * rounds):
        unit = processor_seconds(bare, trivial, range(tasks), at_once)
        seconds.append(processor_seconds(way, trivial, range(tasks), at_once))
        if not warm_up:
            ratios.append(seconds[-1] / unit)
    return {"ratio": statistics.median(ratios), "us": statistics.median(seconds[1:]) / tasks * 1e6}


def call(calls: int = 2000) -> Figures:
    """Cost of one call after another, every limit on, as a multiple of a semaphore and a timeout around the agent."""
    from agentkit import Budget, ParallelAgentExecutor, RateLimiter, RetryPolicy

    async def with_all() -> None:
        rate, budget = RateLimiter(1e9, burst=1_000_000), Budget(calls=10**9)
        executor = ParallelAgentExecutor(
            100, timeout=30, deadline=60, retry=RetryPolicy(), rate_limiter=rate, budget=budget
        )
        for task in range(calls):
            await executor.call(task, trivial)

    async def by_hand() -> None:
        semaphore = asyncio.Semaphore(100)
        for task in range(calls):
            async with semaphore, asyncio.timeout(30):
                await trivial(task)

    def seconds(work: Callable[[], Coroutine[Any, Any, None]]) -> float:
        began = time.process_time()
        asyncio.run(work())
        return time.process_time() - began

    pairs = [(seconds(by_hand), seconds(with_all)) for _ in range(7)]
    return {"ratio": statistics.median(own / unit for unit, own in pairs[1:]), "us": pairs[-1][1] / calls * 1e6}


def fair(limit: int = 10, seconds: float = 5.0) -> Figures:
    """Three endless streams on one limiter, for some virtual seconds: the most tasks one has done, over the fewest."""
    from itertools import count

    from agentkit import CapacityLimiter, ParallelAgentExecutor
    from agentkit.lab import simulate

    async def main() -> list[int]:
        limiter, done = CapacityLimiter(limit), [0, 0, 0]

        async def run(number: int) -> None:
            async with ParallelAgentExecutor(limiter).stream(count(), lambda _: asyncio.sleep(0.01)) as stream:
                async for _ in stream:
                    done[number] += 1

        runs = [asyncio.create_task(run(number)) for number in range(3)]
        await asyncio.sleep(seconds)
        for task in runs:
            task.cancel()
        await asyncio.wait(runs)
        return done

    done = simulate(main)
    return {"ratio": max(done) / max(1, min(done)), "fewest": min(done)}


def nested(system: str, tasks: int = 5000) -> Figures:
    """How many times slower it gets when nest_asyncio is applied."""
    import nest_asyncio

    def cost() -> float:
        return statistics.median(processor_seconds(WAYS[system], trivial, range(tasks), 100) for _ in range(9))

    cost()
    before = cost()
    nest_asyncio.apply()
    cost()
    return {"ratio": cost() / before}


# -- memory -------------------------------------------------------------------------------------------------------


def memory(system: str, tasks: int, at_once: int = 100) -> Figures:
    """Most traced memory at any moment of a run over a generator, above what was there before."""
    way = WAYS[system]
    asyncio.run(as_coroutine(way, trivial, iter(range(200)), at_once))
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    asyncio.run(as_coroutine(way, trivial, iter(range(tasks)), at_once))
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    return {"MB": peak / 1e6, "bytes": peak / tasks}


def kept(system: str, tasks: int = 20_000) -> Figures:
    """Most traced memory of a run whose results are kept, per task; the tasks themselves were there before."""
    items = list(range(tasks))
    way = WAYS[system]
    asyncio.run(as_coroutine(way, trivial, items[:200], 100))
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    results: list[Any] = []
    asyncio.run(as_coroutine(way, trivial, items, 100, into=results))
    gc.collect()
    now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {"kept": (now - before) / tasks, "peak": (peak - before) / tasks}


def journal(system: str = "agentkit") -> Figures:
    """What a journal adds to each task, next to the plainest journal there is; see `bench_journal.py`."""
    from bench_journal import REPLY, costs

    cost = costs(REPLY.text)
    return {"us": cost["record"], "ratio": cost["record"] / cost["yardstick"]}


def million(system: str = "agentkit, streamed", tasks: int = 1_000_000) -> Figures:
    """How much the process grows while it streams a million tasks from a generator."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    asyncio.run(as_coroutine(WAYS[system], trivial, iter(range(20_000)), 100))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    asyncio.run(as_coroutine(WAYS[system], trivial, iter(range(tasks)), 100))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"MB": grown * unit / 1e6, "seconds": time.perf_counter() - began}


# -- rate ---------------------------------------------------------------------------------------------------------

RATE, SPAN = 200, 3.0  # starts per second, seconds


def limiter_agentkit() -> Callable[[], Awaitable[Any]]:
    """Leave to start, from agentkit."""
    from agentkit import RateLimiter

    return RateLimiter(RATE * 60).acquire


def limiter_aiolimiter(rate: float, period: float) -> Callable[[], Awaitable[Any]]:
    """Leave to start, from aiolimiter."""
    from aiolimiter import AsyncLimiter

    return AsyncLimiter(rate, period).acquire


def limiter_streamable() -> Callable[[], Awaitable[Any]]:
    """Leave to start, from streamable: the next item of a throttled stream."""
    from datetime import timedelta
    from itertools import count

    from streamable import stream

    lock = asyncio.Lock()
    items: AsyncIterator[int] = aiter(stream(count()).throttle(RATE, per=timedelta(seconds=1)))

    async def acquire() -> None:
        async with lock:
            await anext(items)

    return acquire


LIMITERS: dict[str, Callable[[], Callable[[], Awaitable[Any]]]] = {
    "agentkit": limiter_agentkit,
    "aiolimiter": lambda: limiter_aiolimiter(RATE, 1),
    "aiolimiter, AsyncLimiter(1, 1/200)": lambda: limiter_aiolimiter(1, 1 / RATE),
    "streamable": limiter_streamable,
}


def rate(system: str) -> Figures:
    """Asked for 200 per second by 50 callers for 3 s: share achieved, most in any 1 s, starts in the first 0.1 s."""
    starts: list[float] = []

    async def caller(acquire: Callable[[], Awaitable[Any]], until: float) -> None:
        while True:
            await acquire()
            starts.append(time.perf_counter())
            if starts[-1] >= until:
                return

    async def own() -> float:
        acquire = LIMITERS[system]()
        began = time.perf_counter()
        callers = [asyncio.create_task(caller(acquire, began + SPAN)) for _ in range(50)]
        await asyncio.wait(callers, timeout=SPAN + 0.05)
        for task in callers:
            task.cancel()
        await asyncio.wait(callers)
        return began

    async def aiometer() -> float:
        began = time.perf_counter()

        async def start(_: int) -> None:
            starts.append(time.perf_counter())

        import aiometer as library

        async def run() -> None:
            await library.run_on_each(start, range(int(RATE * (SPAN + 1))), max_per_second=RATE)

        await asyncio.wait_for(asyncio.gather(asyncio.wait([asyncio.create_task(run())], timeout=SPAN)), SPAN + 1)
        return began

    began = asyncio.run(aiometer() if system == "aiometer" else own())
    at = [start - began for start in starts if start - began < SPAN]
    most, first = 0, 0
    for last, moment in enumerate(at):
        while at[first] <= moment - 1.0:
            first += 1
        most = max(most, last - first + 1)
    return {"achieved": len(at) / (RATE * SPAN), "most": most, "first": sum(moment < 0.1 for moment in at)}


# -- makespan -----------------------------------------------------------------------------------------------------


def durations() -> list[float]:
    """200 lognormal sleeps of 20 ms on average: 3.914 s together, the longest 0.142 s."""
    rng = random.Random(0)
    return [rng.lognormvariate(math.log(0.02) - 0.5, 1.0) for _ in range(200)]


QUIET = 1.09
"""What gather needs on the real clock of a machine with nothing else to do; on the virtual clock it is 1.059."""


def makespan(system: str, clock: str = "real") -> Figures:
    """Time of 200 calls at 10 at once over its lower bound: median of five, or exact on the virtual clock.

    `net` is the same less what other work on the machine adds, which is seen at gather in turns with it.
    """
    sleeps = durations()
    bound = max(sum(sleeps) / 10, max(sleeps))

    async def main(way: Way) -> float:
        time_now = asyncio.get_running_loop().time
        began = time_now()
        await way(asyncio.sleep, sleeps, 10)
        return (time_now() - began) / bound

    if clock == "virtual":
        from agentkit.lab.loops.virtual import simulate

        return {"ratio": simulate(main, WAYS[system])}
    pairs = [[asyncio.run(main(way)) for way in (WAYS["gather"], WAYS[system])] for _ in range(5)]
    bare, ratio = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {"ratio": ratio, "net": ratio - max(0.0, bare - QUIET)}


# -- failure and cancellation -------------------------------------------------------------------------------------


class Calls:
    """Calls of 10 to 30 ms, one of which may fail; remembers what was started and what is still running."""

    def __init__(self, failing: int | None = None) -> None:
        self.failing, self.failed = failing, False
        self.started_after, self.live = 0, 0
        rng = random.Random(2)
        self.seconds = [rng.uniform(0.01, 0.03) for _ in range(1000)]

    async def __call__(self, number: int) -> None:
        """Make one call."""
        self.started_after += self.failed
        self.live += 1
        try:
            await asyncio.sleep(self.seconds[number])
            if number == self.failing:
                self.failed = True
                raise ValueError("call 100 failed")
        finally:
            self.live -= 1


def failure(system: str) -> Figures:
    """1,000 calls at 20 at once, the 100th fails: how many start after it, watched for another 1.5 s."""

    async def main() -> Figures:
        calls = Calls(failing=100)

        async def agent(number: int) -> None:
            await calls(number)

        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        raised = ""
        try:
            await WAYS[system](agent, range(1000), 20)
        except BaseException as error:
            raised = type(error).__name__
        await asyncio.sleep(0.05)
        live = calls.live
        await asyncio.sleep(1.45)
        return {"started": calls.started_after, "live": live, "raised as it is": raised == "ValueError"}

    return asyncio.run(main())


def cancel(system: str) -> Figures:
    """The same, cancelled from outside after 0.2 s: calls still running and tasks left, five turns later."""

    async def main() -> Figures:
        calls = Calls()

        async def agent(number: int) -> None:
            await calls(number)

        run = asyncio.create_task(as_coroutine(WAYS[system], agent, range(1000), 20))
        await asyncio.sleep(0.2)
        run.cancel()
        await asyncio.wait([run])
        for _ in range(5):  # turns of the loop for those who clean up in the background
            await asyncio.sleep(0)
        return {"live": calls.live, "stray": len(asyncio.all_tasks()) - 1}

    return asyncio.run(main())


# -- the loop, and threads ----------------------------------------------------------------------------------------


def stall(system: str, tasks: int = 20_000) -> Figures:
    """Longest time (ms) that 20,000 tasks of 20 us which never suspend keep the loop from a timer; median of five.

    In processor time: while the machine does something else, nobody is kept waiting by the loop.
    """

    async def agent(_: Any) -> None:
        until = time.perf_counter() + 20e-6
        while time.perf_counter() < until:
            pass

    async def main() -> float:
        loop, beats = asyncio.get_running_loop(), [time.process_time()]
        timer: list[asyncio.TimerHandle] = []

        def beat() -> None:
            beats.append(time.process_time())
            timer[:] = [loop.call_later(0.0005, beat)]

        beat()
        await asyncio.sleep(0.01)
        await WAYS[system](agent, range(tasks), 100)
        beats.append(time.process_time())
        timer[0].cancel()
        return max(b - a for a, b in itertools.pairwise(beats)) * 1000

    return {"ms": statistics.median(asyncio.run(main()) for _ in range(5))}


def nap(_: Any) -> None:
    """A blocking call of 20 ms."""
    time.sleep(0.02)


async def blocking_agentkit(tasks: Iterable[int]) -> None:
    """A plain function is an agent; its threads are made when they are needed."""
    from agentkit import ParallelAgentExecutor

    await ParallelAgentExecutor(50).execute(tasks, nap)


async def blocking_to_thread(tasks: Iterable[int]) -> None:
    """What the tutorials show: `to_thread`, whose pool is as large as the machine has processors, and 4."""
    await WAYS["gather"](lambda task: asyncio.to_thread(nap, task), tasks, 50)


async def blocking_anyio(tasks: Iterable[int]) -> None:
    """Threads of anyio, 50 at once."""
    import anyio

    limiter = anyio.CapacityLimiter(50)
    await anyio.amap(lambda task: anyio.to_thread.run_sync(nap, task, limiter=limiter), tasks)


async def blocking_streamable(tasks: Iterable[int]) -> None:
    """Threads of streamable, 50 at once; it blocks the loop meanwhile."""
    from streamable import stream

    stream(tasks).map(nap, concurrency=50)()


BLOCKING = {
    "agentkit": blocking_agentkit,
    "gather": blocking_to_thread,
    "anyio": blocking_anyio,
    "streamable": blocking_streamable,
}


def blocking(system: str) -> Figures:
    """Time of 200 blocking calls of 20 ms, 50 at once, over its lower bound of 80 ms; median of five."""

    def once() -> float:
        began = time.perf_counter()
        asyncio.run(BLOCKING[system](range(200)))
        return time.perf_counter() - began

    return {"ratio": statistics.median(once() for _ in range(5)) / 0.08}


# -- limits that are not known ------------------------------------------------------------------------------------


def adaptive(scenario: str) -> Figures:
    """Worst of three seeds of a scenario of bench_adaptive.py: makespan over its bound, refusals per 1,000 calls."""
    bench = importlib.import_module("bench_adaptive")
    name = next(name for name in bench.SCENARIOS if name.startswith(f"{scenario} "))
    found = [bench.measure(name, seed=seed) for seed in range(3)]
    return {"ratio": max(ratio for ratio, _ in found), "refused": max(refused for _, refused in found)}


def known_rate() -> Figures:
    """Scenario C with its limit known."""
    bench = importlib.import_module("bench_adaptive")
    name = next(name for name in bench.SCENARIOS if name.startswith("C "))
    ratio, refused = bench.measure(name, bench.CapacityLimiter(60), pace=bench.RateLimiter(600, window=5))
    return {"ratio": ratio, "refused": refused}


PROBES: dict[str, Callable[..., Figures]] = {
    probe.__name__: probe
    for probe in (
        overhead, call, fair, nested, memory, kept, million, rate, makespan, failure, cancel, stall, blocking, adaptive,
        known_rate, journal,
    )
}  # fmt: skip

if __name__ == "__main__":
    name, *words = sys.argv[1:]
    print(json.dumps(PROBES[name](*(int(word) if word.isdigit() else word for word in words))))
