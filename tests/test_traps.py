"""Faults that asyncio programs are known for, each as a small program, on every kind of event loop."""

from __future__ import annotations

import asyncio
import gc
import importlib
import itertools
import pickle
import pkgutil
import sys
import threading
import warnings
import weakref
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

import agentkit
import agentkit.lab
from agentkit import (
    Budget,
    CapacityLimiter,
    ParallelAgentExecutor,
    Pipeline,
    RateLimiter,
    Reply,
    RetryPolicy,
    Usage,
)
from agentkit.lab import simulate

Strays = Callable[[], list[str]]
Run = Callable[..., Any]

KINDS = ["usual", "debug", "uvloop", "eager", "virtual"]


@pytest.fixture(params=KINDS)
def loop_kind(request: pytest.FixtureRequest) -> Run:
    """A function that runs a coroutine function on a new event loop of some kind."""
    kind, factory, debug = request.param, None, False
    if kind == "virtual":
        return simulate
    if kind == "uvloop":
        factory = pytest.importorskip("uvloop").new_event_loop
    elif kind == "eager":
        if sys.version_info < (3, 12):
            pytest.skip("eager tasks came with Python 3.12")

        def factory() -> asyncio.AbstractEventLoop:
            loop = asyncio.new_event_loop()
            loop.set_task_factory(asyncio.eager_task_factory)
            return loop
    elif kind == "debug":
        debug = True

    def run(main: Callable[..., Any], *args: Any) -> Any:
        with asyncio.Runner(debug=debug, loop_factory=factory) as runner:
            return runner.run(main(*args))

    return run


async def turns(count: int = 20) -> None:
    """Give the loop some turns."""
    for _ in range(count):
        await asyncio.sleep(0)


class Answer:
    """A result that can be weakly referenced."""


# -- beginning and order ----------------------------------------------------------------------------------------------


def test_agents_start_after_start_and_in_the_order_of_the_input(loop_kind: Run):
    """On an eager loop too: none inside `start`, and none out of turn."""
    begun: list[int] = []

    async def agent(task: int) -> int:
        begun.append(task)
        await asyncio.sleep(0)
        return task

    async def main() -> list[int]:
        run = ParallelAgentExecutor(3).start(range(9), agent)
        assert begun == []
        return (await run).results

    assert loop_kind(main) == begun == list(range(9))


@pytest.mark.parametrize("after", range(6))
def test_tasks_all_cancelled_in_one_tick_lose_no_slot(loop_kind: Run, after: int, strays: Strays):
    """A task cancelled before its first turn never runs its body; its slot must come back all the same."""

    async def agent(task: int) -> None:
        await asyncio.Event().wait()

    async def main() -> tuple[Any, list[str]]:
        executor = ParallelAgentExecutor(2)
        run = executor.start(range(5), agent)
        await turns(after)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        report = await run
        assert (len(report), report.summary.succeeded) == (5, 0)
        return executor.limiter.statistics().in_flight, strays()

    assert loop_kind(main) == (0, [])


def test_every_task_taken_has_one_outcome_when_the_run_is_cut(loop_kind: Run):
    """Also the one that was taken from the source and had no slot yet."""
    taken = []

    def source() -> Any:
        for number in itertools.count():
            taken.append(number)
            yield number

    async def agent(task: int) -> None:
        await asyncio.Event().wait()

    async def main() -> Any:
        limiter = CapacityLimiter(2)
        await limiter.acquire()
        run = ParallelAgentExecutor(limiter).start(source(), agent)
        await turns()
        run.cancel()
        return await run

    report = loop_kind(main)
    assert [outcome.task_id for outcome in report] == taken
    assert {outcome.status for outcome in report} == {"cancelled"}


# -- what ends programs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_exit_in_an_agent_reaches_the_caller_and_not_the_loop(loop_kind: Run, kind: type[BaseException]):
    """With the report of what was done, and the loop goes on."""

    async def agent(task: int) -> int:
        await asyncio.sleep(0)
        if task == 2:
            raise kind(2)
        return task

    async def main() -> list[int]:
        executor = ParallelAgentExecutor(2)
        with pytest.raises(kind) as caught:
            await executor.execute(range(9), agent)
        report = caught.value.report  # type: ignore[attr-defined]
        assert (report.results[:2], len(report)) == ([0, 1], 9)
        return (await executor.execute([0, 1], agent)).results

    assert loop_kind(main) == [0, 1]


def find(task: int) -> int:
    """Look up something that is not there."""
    return next(found for found in (1, 2) if found == task)


@pytest.mark.parametrize("pool", ["own", "threads", "serial"])
def test_StopIteration_in_a_plain_agent_is_its_failure(loop_kind: Run, pool: str):
    """No future can carry it; the run must not wait for one that never ends."""

    async def main() -> Any:
        with ThreadPoolExecutor(1) as given:
            executor = ParallelAgentExecutor(0 if pool == "serial" else 2, pool=given if pool == "threads" else None)
            return await executor.execute([1, 2, 3], find)

    report = loop_kind(main)
    assert [outcome.status for outcome in report] == ["success", "success", "failed"]
    assert "StopIteration" in report.failures[0].reason


def test_StopIteration_in_a_process_is_its_failure():
    """The same, with a function that is sent to another process."""
    with ProcessPoolExecutor(1) as pool:
        report = asyncio.run(ParallelAgentExecutor(2, pool=pool).execute([1, 3], find))
    assert [outcome.status for outcome in report] == ["success", "failed"]
    assert "StopIteration" in report.failures[0].reason


# -- cancellations of others ------------------------------------------------------------------------------------------


async def _library(way: str) -> None:
    """Time out as aiohttp up to 3.10.5 and others did: cancel the current task, catch that, and never uncancel.

    It `raises` an error of its own, or `swallows` the cancellation.
    """
    me = asyncio.current_task()
    assert me is not None
    asyncio.get_running_loop().call_soon(me.cancel)
    try:
        await asyncio.sleep(1)
    except asyncio.CancelledError:
        if way == "raises":
            raise TimeoutError("from the library") from None


@pytest.mark.parametrize("way", ["swallows", "raises", "leaves a timer", "cancels itself"])
def test_library_that_cancels_the_task_and_leaves_it_so(loop_kind: Run, way: str):
    """One slow request of ten costs one task at most, not the run."""

    async def agent(task: int) -> int:
        if task != 3:
            await turns(3)
            return task
        if way == "cancels itself":
            asyncio.current_task().cancel()  # type: ignore[union-attr]
            return task
        if way == "leaves a timer":
            asyncio.get_running_loop().call_later(0.001, asyncio.current_task().cancel)  # type: ignore[union-attr]
            return task
        await _library(way)
        return task

    async def main() -> Any:
        report = await ParallelAgentExecutor(2, timeout=60).execute(range(10), agent)
        await asyncio.sleep(0.002)
        return report

    report = loop_kind(main)
    assert report.summary.succeeded == (9 if way == "raises" else 10)
    assert report.stopped is None


@pytest.mark.parametrize("way", ["raises", "swallows"])
def test_library_that_cancels_the_task_in_a_pipeline(way: str):
    """The other items pass through all stages."""

    async def agent(item: int) -> int:
        if item == 3:
            await _library(way)
        return item

    report = simulate(lambda: Pipeline([agent, agent]).execute(range(10)))
    assert report.results == [item for item in range(10) if way == "swallows" or item != 3]


def test_timeout_in_the_past_on_every_loop(loop_kind: Run):
    """Where a timer's instant has passed already, uvloop returns a handle without `when()`."""

    async def agent(task: int) -> None:
        await asyncio.Event().wait()

    async def main() -> Any:
        return await ParallelAgentExecutor(2, timeout=1e-9).execute(range(4), agent)

    assert loop_kind(main).summary.by_status == {"timeout": 4}


@pytest.mark.parametrize("way", ["cancel", "timeout"])
def test_paid_results_survive_a_cancellation(loop_kind: Run, way: str):
    """Stop in a notebook, or a timeout around the run: the report is on the exception."""

    async def agent(task: int) -> int:
        if task > 1:
            await asyncio.Event().wait()
        return task

    async def main() -> Any:
        executor = ParallelAgentExecutor(3)
        if way == "timeout":
            with pytest.raises(TimeoutError) as caught:
                async with asyncio.timeout(0.005):
                    await executor.execute(range(5), agent)
            return caught.value.__cause__
        running = asyncio.create_task(executor.execute(range(5), agent))
        await turns()
        running.cancel()
        with pytest.raises(asyncio.CancelledError) as cut:
            await running
        return cut.value

    report = loop_kind(main).report
    assert (report.results, len(report)) == ([0, 1], 5)


# -- what is kept and what is left ------------------------------------------------------------------------------------


@pytest.fixture
def _no_collector() -> Any:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_collector")
@pytest.mark.parametrize("way", ["execute", "map", "one error is kept"])
def test_results_are_freed_without_the_collector(loop_kind: Run, way: str):
    """No cycle holds them once the report is gone, and one kept error does not hold the others' results."""
    alive: list[weakref.ref[Answer]] = []

    async def agent(task: int) -> Answer:
        await asyncio.sleep(0)
        if way == "one error is kept" and task == 2:
            raise KeyError(task)
        answer = Answer()
        alive.append(weakref.ref(answer))
        return answer

    async def main() -> int:
        executor = ParallelAgentExecutor(2)
        kept = None
        if way == "map":
            await executor.map(range(5), agent)
        else:
            report = await executor.execute(range(5), agent)
            kept = report.failures[0].error if report.failures else None
            del report
        await turns()
        assert (kept is not None) == (way == "one error is kept")
        return sum(ref() is not None for ref in alive)

    assert loop_kind(main) == 0
    assert len(alive) >= 4


def test_stream_with_timeouts_keeps_no_ended_attempt(loop_kind: Run):
    """The time limits of attempts that have ended hold neither their tasks nor their results."""
    alive: list[weakref.ref[Answer]] = []

    async def agent(task: int) -> Answer:
        await asyncio.sleep(0)
        answer = Answer()
        alive.append(weakref.ref(answer))
        return answer

    async def main() -> int:
        most = 0
        async with ParallelAgentExecutor(2, timeout=1e6).stream(range(50), agent) as stream:
            async for outcome in stream:
                del outcome
                most = max(most, sum(ref() is not None for ref in alive))
        return most

    assert loop_kind(main) <= 12
    assert len(alive) == 50


def test_stream_collected_on_another_thread_ends_its_run(loop_kind: Run, strays: Strays):
    """A reader in a cycle is finalized wherever the collector runs; the run is ended on its own loop."""

    class Holder:
        stream: Any

    async def agent(task: int) -> int:
        if task:
            await asyncio.Event().wait()
        return task

    async def read(executor: ParallelAgentExecutor) -> None:
        holder = Holder()
        holder.stream = reader = aiter(executor.stream(range(10), agent))
        holder.me = holder  # type: ignore[attr-defined]
        assert (await anext(reader)).result == 0

    async def main() -> tuple[int, list[str]]:
        executor = ParallelAgentExecutor(2)
        await read(executor)
        collector = threading.Thread(target=gc.collect)
        collector.start()
        collector.join()
        await turns()
        return executor.limiter.statistics().in_flight, strays()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gc.disable()
        try:
            assert loop_kind(main) == (0, [])
        finally:
            gc.enable()
    assert [warning.category for warning in caught] == [ResourceWarning]


def test_thread_that_outlives_its_loop_gives_its_slot_back():
    """A module-level executor is used in one `asyncio.run` after another; no slot is lost on the way."""
    executor, released = ParallelAgentExecutor(2, timeout=0.01), threading.Event()

    def agent(task: int) -> int:
        if task:
            released.wait(60)
        return task

    first = asyncio.run(executor.execute([1, 2], agent))
    assert first.summary.by_status == {"timeout": 2}
    assert executor.limiter.statistics().in_flight == 2
    released.set()
    for thread in threading.enumerate():
        if thread.name.startswith("agentkit_"):
            thread.join(60)
    assert executor.limiter.statistics().in_flight == 0
    executor.timeout = None
    assert asyncio.run(executor.map([0, 0, 0], agent)) == [0, 0, 0]


def test_endless_streams_on_one_limiter_get_equal_shares():
    """The slot that is released goes to the run whose turn it is, not to the one that wakes first."""
    limiter, done = CapacityLimiter(10), [0, 0, 0]

    async def agent(task: int) -> None:
        await asyncio.sleep(0.01)

    async def read(number: int) -> None:
        async with ParallelAgentExecutor(limiter).stream(itertools.count(), agent) as stream:
            async for _ in stream:
                done[number] += 1
                if asyncio.get_running_loop().time() >= 1:
                    break

    async def main() -> None:
        await asyncio.gather(*(read(number) for number in range(3)))

    simulate(main)
    assert max(done) - min(done) <= 0.1 * max(done)
    assert sum(done) >= 900


# -- runs that end early say so ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", [{"on_error": "stop"}, {"max_failures": 1}, {"budget": Budget(calls=3)}], ids=lambda s: next(iter(s))
)
def test_pipeline_whose_stage_ends_early_has_every_item(settings: dict[str, Any]):
    """Each item has an outcome, and the report says why the run ended."""

    async def slow(item: int) -> int:
        await asyncio.sleep(1)
        return item

    async def bad(item: int) -> int:
        if item == 3:
            raise ValueError(item)
        return await slow(item)

    stage = (bad, ParallelAgentExecutor(2, **settings))
    report = simulate(lambda: Pipeline([slow, stage, slow]).execute(range(20)))
    assert len(report) == 20
    assert report.stopped


def test_pipeline_whose_agent_ends_programs_raises_that():
    """What is meant to end programs reaches the caller."""

    class Abort(BaseException):
        pass

    async def bad(item: int) -> int:
        await asyncio.sleep(1)
        if item == 3:
            raise Abort
        return item

    with pytest.raises(Abort):
        simulate(lambda: Pipeline([bad, bad]).execute(range(20)))


@pytest.mark.parametrize("how", ["stop", "max_failures", "within"])
def test_stream_that_was_stopped_says_so(loop_kind: Run, how: str):
    """It yields fewer outcomes than there are tasks, and `stopped` says why."""

    async def agent(task: int) -> int:
        await asyncio.sleep(0.001)
        if how != "within" and task == 2:
            raise ValueError(task)
        return task

    async def main() -> tuple[int, str | None]:
        settings: dict[str, Any] = {"stop": {"on_error": "stop"}, "max_failures": {"max_failures": 1}}.get(how, {})
        executor, within = ParallelAgentExecutor(1, **settings), 0.003 if how == "within" else None
        async with executor.stream(range(1000), agent, within=within) as stream:
            count = len([outcome async for outcome in stream if outcome.started is not None])
            return count, stream.stopped

    count, stopped = loop_kind(main)
    assert count < 1000
    assert stopped is not None
    assert how in stopped


# -- functions and figures of others ----------------------------------------------------------------------------------


def test_usage_as_a_dict_of_input_and_output_corrects_the_rate(loop_kind: Run):
    """Some endpoints state no total."""

    async def agent(task: int) -> Any:
        return SimpleNamespace(usage={"input_tokens": 3, "output_tokens": 4})

    async def main() -> float:
        rate = RateLimiter(1e6, 1e9, burst=10)
        report = await ParallelAgentExecutor(2, rate_limiter=rate).execute(range(6), agent)
        assert report.summary.succeeded == 6
        return rate.statistics().tokens

    assert loop_kind(main) == 6 * 7


def test_agent_without_instructions_under_a_limit_of_tokens(loop_kind: Run):
    """`instructions = None` is no reason to fail."""

    class Agent:
        instructions = None
        max_tokens = None

        async def __call__(self, task: str) -> str:
            return task

    async def main() -> list[str]:
        rate = RateLimiter(1e6, 1e9, burst=10)
        return await ParallelAgentExecutor(2, rate_limiter=rate, budget=Budget(tokens=1e6)).map(["a", "b"], Agent())

    assert loop_kind(main) == ["a", "b"]


@pytest.mark.parametrize("what", ["estimate", "price"])
def test_error_of_an_estimate_is_not_taken_for_a_refusal(what: str):
    """It is a ValueError as `BudgetExceeded` is, but nothing refused the task."""

    class Agent:
        model = "unknown"

        async def __call__(self, task: str) -> str:
            return task

    budget = Budget(tokens=100, estimate=int) if what == "estimate" else Budget(money=1, prices={"small": (1, 2)})
    report = simulate(lambda: ParallelAgentExecutor(2, budget=budget).execute(["many"], Agent()))
    assert report.summary.by_status == {"failed": 1}
    assert report.stopped is None


def test_claim_is_given_back_where_a_later_estimate_raises():
    """Twice refused, and the whole budget is there for the next run."""
    budget = Budget(calls=2)

    async def agent(task: str) -> Reply:
        return Reply("done", Usage(1, 1, 1))

    async def main() -> list[Any]:
        rate = RateLimiter(tokens_per_minute=1e6, estimate=lambda task: {"a": 1}[task])
        executor = ParallelAgentExecutor(2, budget=budget, rate_limiter=rate)
        for _ in range(2):
            assert (await executor.execute(["odd"], agent)).summary.by_status == {"failed": 1}
        return await ParallelAgentExecutor(2, budget=budget).map(["a", "b"], agent)

    assert len(simulate(main)) == 2
    assert budget.statistics().in_flight == 0


# -- chance -----------------------------------------------------------------------------------------------------------


def _waits(policy: RetryPolicy) -> list[float | None]:
    retries = policy.begin()
    return [retries.next_wait(TimeoutError(), attempt, 0.0, 0.0) for attempt in range(1, 5)]


def test_jitter_differs_between_runs_and_can_be_reproduced():
    """Two replicas must not retry together; inside `simulate` the same numbers come again."""

    async def main() -> Any:
        return _waits(RetryPolicy()), _waits(RetryPolicy())

    assert _waits(RetryPolicy()) != _waits(RetryPolicy())
    first = simulate(main)
    assert first[0] != first[1]
    assert simulate(main) == first
    assert simulate(main, seed=1) != first
    assert _waits(RetryPolicy(seed=5)) == _waits(RetryPolicy(seed=5))


# -- exceptions -------------------------------------------------------------------------------------------------------


def _exceptions() -> list[type[BaseException]]:
    """Every exception that a module of agentkit defines in public."""
    found: list[Any] = [getattr(package, name) for package in (agentkit, agentkit.lab) for name in package.__all__]
    for module in pkgutil.walk_packages(agentkit.__path__, "agentkit."):
        if not module.name.endswith("__main__") and ".plots" not in module.name:
            loaded = importlib.import_module(module.name)
            found += [getattr(loaded, name) for name in getattr(loaded, "__all__", ())]
    kinds = {thing for thing in found if isinstance(thing, type) and issubclass(thing, BaseException)}
    return sorted((kind for kind in kinds if kind.__module__.startswith("agentkit")), key=lambda kind: kind.__name__)


MADE: dict[str, Callable[[Any], BaseException]] = {
    "ApiError": lambda kind: kind("bad_request", "slow down", param="model", headers={"a": "b"}),
    "BrokenAnswer": lambda kind: kind("cut", Reply("Once")),
    "BudgetExceeded": lambda kind: kind("tokens", 10, 9, 2),
    "Conflict": lambda kind: kind("key 'a' has changed", "a"),
    "Deadlock": lambda kind: kind(1.0, [("task-1", "line 3")]),
}


@pytest.mark.parametrize("kind", _exceptions(), ids=lambda kind: kind.__name__)
def test_exception_can_be_pickled(kind: type[BaseException]):
    """One that cannot breaks a whole pool of processes."""
    error = MADE.get(kind.__name__, lambda kind: kind("said"))(kind)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)
    assert {name: str(value) for name, value in vars(again).items()} == {
        name: str(value) for name, value in vars(error).items()
    }
