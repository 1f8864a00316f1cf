"""AdaptiveLimiter: grows while calls succeed, is cut once per burst of refusals, and stays within its bounds."""

from __future__ import annotations

import asyncio
import importlib.util
import math
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkit import ChatAgent, ParallelAgentExecutor
from agentkit.lab.loops.virtual import simulate
from agentkit.lab.provider.latency import Latency
from agentkit.lab.provider.provider import Provider
from agentkit.semaphore import CapacityLimiter
from agentkit.semaphore.adaptive import AdaptiveLimiter


def load(name: str) -> ModuleType:
    """Import a module of tests/benchmarks by its file."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


bench = load("bench_adaptive")


def full(limiter: AdaptiveLimiter) -> AdaptiveLimiter:
    """Take every slot."""
    while limiter.acquire_nowait():
        pass
    return limiter


class CutsEveryTime(AdaptiveLimiter):
    """Broken: takes every refusal for news."""

    __slots__ = ()

    def observe(
        self, started: float, finished: float, *, refused: bool = False, per_token: float | None = None
    ) -> None:
        """Forget when the last cut was."""
        self._cut_at = -math.inf
        super().observe(started, finished, refused=refused, per_token=per_token)


@pytest.mark.parametrize(("kind", "limit"), [(AdaptiveLimiter, 90), (CutsEveryTime, 12)])
def test_AdaptiveLimiter_is_cut_once_by_one_burst(kind: type[AdaptiveLimiter], limit: int) -> None:
    """Twenty calls that started together are refused together: one cut; cutting on each leaves an eighth."""
    limiter = full(kind(100))
    for _ in range(20):
        limiter.observe(0.0, 1.0, refused=True)
    assert limiter.limit == limit
    limiter.observe(0.5, 1.5, refused=True)  # started before the cut: says nothing about the new limit
    if kind is AdaptiveLimiter:
        assert limiter.limit == limit
        limiter.observe(1.0, 2.0, refused=True)
        assert limiter.limit == 81


def test_AdaptiveLimiter_starts_slowly_and_doubles_in_each_round() -> None:
    """Before the first refusal each success earns a slot."""
    limiter = full(AdaptiveLimiter(10))
    for _ in range(10):
        limiter.observe(0.0, 1.0)
        full(limiter)
    assert limiter.limit == 20


def test_AdaptiveLimiter_returns_fast_to_its_ceiling_and_passes_it_slowly() -> None:
    """After a cut it is back at what was taken before within a round; the first slot above costs dozens of calls."""
    limiter = full(AdaptiveLimiter(31))
    limiter.observe(0.0, 1.0, refused=True)
    assert limiter.statistics().ceiling == 30
    successes = 0
    while limiter.limit < 30:
        limiter.observe(2.0, 3.0)
        full(limiter)
        successes += 1
    assert successes <= 7
    while limiter.limit < 31:
        limiter.observe(2.0, 3.0)
        full(limiter)
        successes += 1
    assert 30 <= successes <= 50


def test_AdaptiveLimiter_grows_only_while_it_is_used_up() -> None:
    """Successes of a job that needs few slots say nothing about more."""
    limiter = AdaptiveLimiter(10)
    for _ in range(5):
        limiter.acquire_nowait()
    for _ in range(100):
        limiter.observe(0.0, 1.0)
    assert limiter.limit == 10


def test_AdaptiveLimiter_old_successes_do_not_undo_a_cut() -> None:
    """Calls that started before the cut and end well afterwards do not let it grow."""
    limiter = full(AdaptiveLimiter(20))
    limiter.observe(0.0, 1.0, refused=True)
    for _ in range(50):
        limiter.observe(0.5, 2.0)
    assert limiter.limit == 18


def test_AdaptiveLimiter_finds_its_way_back_from_a_collapse() -> None:
    """Refused down to 1 in a row of cuts, it climbs quickly to half of where it came from."""
    limiter = full(AdaptiveLimiter(40))
    for second in range(60):
        limiter.observe(second, second + 0.5, refused=True)
        while limiter.statistics().in_flight > limiter.limit:
            limiter.release()
    assert limiter.limit == 1
    successes = 0
    while limiter.limit < 19:
        full(limiter).observe(100.0, 101.0)
        successes += 1
    assert successes <= 40


def test_AdaptiveLimiter_obeys_whoever_turns_the_knob() -> None:
    """Assigning a limit is a new start from there; 0 stays shut, and bounds hold again with the next report."""
    limiter = full(AdaptiveLimiter(10, max_limit=50))
    limiter.observe(0.0, 1.0, refused=True)
    limiter.limit = 25
    full(limiter).observe(1.0, 2.0)
    assert limiter.limit == 26
    limiter.limit = 0
    limiter.observe(1.0, 2.0)
    limiter.observe(1.0, 2.0, refused=True)
    assert limiter.limit == 0
    limiter.limit = None
    limiter.observe(1.0, 2.0)
    assert limiter.limit == 50


def test_AdaptiveLimiter_gradient_cuts_before_anything_is_refused() -> None:
    """Latency per token doubles: the limit falls; without gradient, or with odd samples, it does not."""

    def after(gradient: bool, samples: list[float]) -> float:
        limiter = full(AdaptiveLimiter(20, gradient=gradient))
        for second, sample in enumerate([0.01] * 20 + samples):
            limiter.observe(second, second + 1.0, per_token=sample)
            full(limiter)
        return limiter.limit

    assert after(False, [0.03] * 30) == 70
    assert after(True, [0.01] * 30) == 45  # half as fast, since latency tells later than a refusal
    assert after(True, [0.0, -1.0, math.inf, math.nan] * 5) == 40
    assert after(True, [0.03] * 60) < 20


def test_AdaptiveLimiter_gradient_settles_where_a_server_slows_down() -> None:
    """A server that takes any number and divides its speed among them beyond 20: the limit stays near the knee."""

    async def main(gradient: bool) -> float:
        limiter, loop = AdaptiveLimiter(5, gradient=gradient, max_limit=200), asyncio.get_running_loop()
        area = since = 0.0

        async def worker() -> None:
            nonlocal area, since
            while loop.time() < 600:
                async with limiter:
                    started, load = loop.time(), max(1.0, limiter.statistics().in_flight / 20)
                    await asyncio.sleep(load)
                    if loop.time() > 300:
                        area, since = area + limiter.limit * (loop.time() - max(since, 300)), loop.time()
                    limiter.observe(started, loop.time(), per_token=load / 100)

        async with asyncio.TaskGroup() as group:
            for _ in range(200):
                group.create_task(worker())
        return area / (since - 300)

    assert 20 <= simulate(main, True) <= 35
    assert simulate(main, False) > 100


def test_AdaptiveLimiter_gradient_is_not_misled_by_short_answers() -> None:
    """Answers of 1 to 1000 tokens, each after half a second of waiting for the first: no slowdown, so no cut."""
    rng = random.Random(0)
    limiter = full(AdaptiveLimiter(20, gradient=True))
    for second in range(400):
        tokens = 1 + int(rng.expovariate(1 / 150))
        seconds = 0.5 + tokens / 100
        limiter.observe(second, second + seconds, per_token=seconds / tokens)
        full(limiter)
    assert limiter.statistics().cuts == 0


def test_AdaptiveLimiter_gradient_keeps_a_provider_of_few_slots_busy() -> None:
    """A provider with 8 slots and answers of any length: nearly all it can do, and no long line before it."""

    async def main(limiter: CapacityLimiter) -> tuple[float, float]:
        provider = Provider("open", latency=Latency(base=0.5, speed=100, mean_output=150, slots=8))
        agent = ChatAgent("analyst", client=provider.client())
        report = await ParallelAgentExecutor(limiter).execute([f"question {i}" for i in range(300)], agent)
        assert report.summary.latency_p95 is not None
        return report.summary.throughput, report.summary.latency_p95

    most, patience = simulate(main, CapacityLimiter(16))
    reached, p95 = simulate(main, AdaptiveLimiter(4, gradient=True))
    assert reached > 0.9 * most
    assert p95 < 2.5 * patience


def test_AdaptiveLimiter_grows_as_fast_where_calls_end_together() -> None:
    """Calls of one length that end in the same instant double the limit in a round, as scattered ones do."""

    async def main(limiter: AdaptiveLimiter) -> int:
        async def agent(task: int) -> None:
            await asyncio.sleep(2)

        await ParallelAgentExecutor(limiter).execute(range(2 + 4 + 8 + 16), agent)
        return limiter.statistics().peak_in_flight

    assert simulate(main, AdaptiveLimiter(2)) == 16


events = st.lists(
    st.tuples(st.booleans(), st.floats(0, 5), st.one_of(st.none(), st.floats(0.001, 1)), st.integers(0, 3)),
    max_size=200,
)


@given(events, st.integers(1, 5), st.integers(0, 20), st.integers(0, 100), st.booleans())
def test_AdaptiveLimiter_stays_within_its_bounds(
    events: list[tuple[bool, float, float | None, int]], least: int, more: int, most: int, gradient: bool
) -> None:
    """Whatever is reported, in whatever order: min_limit <= limit <= max_limit, and listeners hear of every change."""
    limiter = AdaptiveLimiter(least + more, min_limit=least, max_limit=least + more + most, gradient=gradient)
    heard = [limiter.limit]
    limiter.subscribe(lambda: heard.append(limiter.limit))
    for second, (refused, ago, per_token, taken) in enumerate(events):
        for _ in range(taken):
            limiter.acquire_nowait()
        limiter.observe(second - ago, second, refused=refused, per_token=per_token)
        assert least <= limiter.limit <= least + more + most
        assert limiter.limit == int(limiter.limit) == heard[-1]
        assert limiter.statistics().refusals >= limiter.statistics().cuts or gradient


def test_AdaptiveLimiter_is_a_capacity_limiter() -> None:
    """First come first served, cancellation-safe, and waiters are let in as it grows."""

    async def main() -> tuple[list[int], int]:
        limiter, order = AdaptiveLimiter(1), list[int]()

        async def work(number: int) -> None:
            started = asyncio.get_running_loop().time()
            async with limiter:
                order.append(number)
                await asyncio.sleep(1)
                limiter.observe(started, asyncio.get_running_loop().time())

        tasks = [asyncio.create_task(work(number)) for number in range(8)]
        await asyncio.sleep(0.5)
        tasks[2].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(limiter, CapacityLimiter)
        return order, limiter.statistics().in_flight

    assert simulate(main) == ([0, 1, 3, 4, 5, 6, 7], 0)


def test_AdaptiveLimiter_calls_end_simultaneously_relative_to_their_duration() -> None:
    """Half a second apart is not simultaneous for calls of one second, whatever the time of day; 5 ms apart is."""
    limiter = full(AdaptiveLimiter(10))
    limiter.observe(1000.0, 1001.0)
    assert limiter.limit == 11  # all slots were in use
    for _ in range(5):
        limiter.release()
    limiter.observe(1000.0, 1001.005)
    assert limiter.limit == 12
    limiter.observe(1000.5, 1001.5)
    assert limiter.limit == 12


def test_AdaptiveLimiter_starts_with_ten_slots() -> None:
    """The default of `initial`."""
    assert AdaptiveLimiter().limit == 10


def test_AdaptiveLimiter_tells_its_state() -> None:
    """What a capacity limiter says, and what it has learned."""
    limiter = full(AdaptiveLimiter(10))
    assert repr(limiter) == "<AdaptiveLimiter 10 of 10 in flight, 0 waiting; no ceiling met, 0 refusals, 0 cuts>"
    limiter.observe(0.0, 1.0, refused=True)
    limiter.observe(0.0, 1.0, refused=True)
    seen = limiter.statistics()
    assert (seen.in_flight, seen.limit, seen.ceiling, seen.refusals, seen.cuts) == (10, 9, 9, 2, 1)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"initial": 0}, ValueError, "initial must be 1 or more, got 0; for a fixed limit"),
        (
            {"initial": 10, "max_limit": 5},
            ValueError,
            "max_limit must be 10 or more, got 5; it must not be below initial",
        ),
        ({"initial": 2.5}, TypeError, "initial must be a whole number, got 2.5"),
        ({"initial": 10, "min_limit": True}, TypeError, "min_limit must be a whole number, got True"),
    ],
)
def test_AdaptiveLimiter_names_what_is_wrong(arguments: dict[str, int], error: type[Exception], says: str) -> None:
    """Parameter, rule, value, remedy."""
    with pytest.raises(error, match=says):
        AdaptiveLimiter(**arguments)


@pytest.mark.parametrize("name", bench.GOALS)
def test_AdaptiveLimiter_reaches_the_goals(name: str) -> None:
    """Near the capacity of a provider it was told nothing about, at few refusals; the bench does not use this seed."""
    ratio, refused = bench.measure(name, seed=11)
    most_ratio, most_refused = bench.GOALS[name]
    assert ratio <= most_ratio
    assert refused <= most_refused


@pytest.mark.parametrize(
    ("status", "code", "refusals"),
    [
        (429, "", 1),
        (503, "", 1),
        (529, "overloaded_error", 1),
        (500, "server_is_overloaded", 1),
        (500, "", 0),
        (400, "", 0),
    ],
)
def test_AdaptiveLimiter_hears_of_refusals_and_overload_only(status: int, code: str, refusals: int) -> None:
    """What says that there was no room counts, whatever its status; other failures say nothing about the limit."""

    class Refusal(Exception):
        status_code = status

    Refusal.code = code  # type: ignore[attr-defined]

    async def agent(task: str) -> None:
        raise Refusal

    limiter = AdaptiveLimiter(10)
    simulate(ParallelAgentExecutor(limiter).execute, ["why?"], agent)
    assert limiter.statistics().refusals == refusals
