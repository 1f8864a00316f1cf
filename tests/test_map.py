"""`map` and `call`: the results of a run, or the first error with the report of what was done."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkit import Budget, BudgetExceeded, CapacityLimiter, Journal, ParallelAgentExecutor, QueueFull, RetryPolicy
from agentkit.lab import simulate

Strays = Callable[[], list[str]]


async def nap(seconds: float) -> float:
    """Take as long as the task says, and return it."""
    await asyncio.sleep(seconds)
    return seconds


def results(tasks: Any, agent: Any, limit: Any = 3, within: float | None = None, **settings: Any) -> Any:
    """What a map returns, on the virtual clock."""
    return simulate(lambda: ParallelAgentExecutor(limit, **settings).map(tasks, agent, within=within))


# -- results ------------------------------------------------------------------------------------------------------


async def source(tasks: Any) -> AsyncIterator[Any]:
    """An async iterable."""
    for task in tasks:
        await asyncio.sleep(0.1)
        yield task


@pytest.mark.parametrize("limit", [0, 1, 2, 7, None, CapacityLimiter(2)])
@pytest.mark.parametrize("make", [list, tuple, iter, lambda tasks: (task for task in tasks), source])
def test_map_results_are_in_the_order_of_the_input(make: Any, limit: Any):
    """Whatever the tasks come in, and however long each takes."""
    assert results(make([3, 1, 2, 0, 5, 4, 1]), nap, limit) == [3, 1, 2, 0, 5, 4, 1]
    assert results(make([]), nap, limit) == []


def test_map_results_may_be_anything():
    """None, exceptions and objects of any kind are results like others."""
    tasks = [None, ValueError("a result"), object(), [], StopIteration(), asyncio.Lock]

    async def echo(task: Any) -> Any:
        return task

    assert results(tasks, echo) == tasks


@given(
    st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=12),
    st.integers(1, 5),
    st.sampled_from([list, iter, source]),
)
def test_map_is_execute_without_the_report(tasks: list[tuple[float, bool]], limit: int, make: Any):
    """It ends at the same instant as `execute`, with the same results or the same error."""

    async def agent(task: tuple[float, bool]) -> float:
        await asyncio.sleep(task[0])
        if task[1] and task[0] > 1:
            raise ValueError(task)
        return task[0]

    async def ended(way: str) -> Any:
        executor = ParallelAgentExecutor(limit, on_error="raise")
        try:
            done = await getattr(executor, way)(make(tasks), agent)
            said = done.results if way == "execute" else done
        except ValueError as error:
            said = str(error), error.report.results  # type: ignore[attr-defined]
        return said, asyncio.get_running_loop().time()

    assert simulate(ended, "map") == simulate(ended, "execute")


def test_map_longest_first_is_in_the_order_of_the_input_all_the_same():
    """A cost hint changes what starts first, not where its result is."""
    began: list[int] = []

    async def agent(task: int) -> float:
        began.append(task)
        return await nap(task)

    async def main() -> list[float]:
        return await ParallelAgentExecutor(1).map([1, 3, 2], agent, cost=float)

    assert simulate(main) == [1, 3, 2]
    assert began == [3, 2, 1]


def test_map_under_every_limit_of_its_executor(tmp_path: Any):
    """Retries, budget and journal count in a map as they do elsewhere."""
    calls: list[int] = []

    async def flaky(task: int) -> int:
        calls.append(task)
        if calls.count(task) < 2:
            raise ConnectionError
        return task

    def mapped() -> Any:
        journal = Journal(tmp_path / "journal.jsonl", work="flaky 1")
        return results(range(3), flaky, retry=RetryPolicy(), budget=Budget(calls=6), journal=journal)

    assert mapped() == [0, 1, 2]
    assert sorted(calls) == [0, 0, 1, 1, 2, 2]
    assert mapped() == [0, 1, 2]
    assert len(calls) == 6
    with pytest.raises(BudgetExceeded) as caught:
        results(range(3), nap, 1, budget=Budget(calls=2))
    assert caught.value.report.results == [0, 1]  # type: ignore[attr-defined]


def test_call_is_a_map_of_one_task():
    """All calls on one executor share its slots; an error is the agent's own."""
    failure = KeyError("label")

    async def agent(task: int) -> float:
        if task == 9:
            raise failure
        return await nap(task)

    async def main() -> float:
        executor = ParallelAgentExecutor(2)
        assert await asyncio.gather(*(executor.call(task, agent) for task in [2, 2, 2])) == [2, 2, 2]
        with pytest.raises(KeyError) as caught:
            await executor.call(9, agent)
        assert caught.value is failure
        assert executor.limiter.statistics().in_flight == 0
        return asyncio.get_running_loop().time()

    assert simulate(main) == 4


# -- failures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_error", ["collect", "stop", "raise"])
def test_map_first_failure_ends_it(on_error: str, strays: Strays):
    """Nothing starts after it, the others are cancelled, and its own exception is raised, with what was done."""
    began, cleaned = [], []
    failure = KeyError("label")

    async def agent(task: int) -> int:
        began.append(task)
        try:
            await asyncio.sleep(2 if task == 3 else 1 + task)
            if task == 3:
                raise failure
        finally:
            cleaned.append(task)
        return task

    async def main() -> float:
        with pytest.raises(KeyError) as caught:
            await ParallelAgentExecutor(3, on_error=on_error).map(range(100), agent)
        assert caught.value is failure
        report = caught.value.report  # type: ignore[attr-defined]
        assert (report.results, len(report)) == ([0, 1, 2], 100)
        assert "its report is in .report" in caught.value.__notes__[0]
        assert strays() == []
        return asyncio.get_running_loop().time()

    assert simulate(main) == 3.0
    assert began == [0, 1, 2, 3, 4]
    assert sorted(cleaned) == began


def test_map_within(strays: Strays):
    """When the time is over there is no list, but a TimeoutError with what was done."""

    async def main() -> float:
        with pytest.raises(TimeoutError, match=r"within=2.5 s is over") as caught:
            await ParallelAgentExecutor(2).map([1, 2, 3, 4], nap, within=2.5)
        assert caught.value.report.results == [1, 2]  # type: ignore[attr-defined]
        assert strays() == []
        return asyncio.get_running_loop().time()

    assert simulate(main) == 2.5
    assert results([1, 2], nap, within=60) == [1, 2]


def test_map_of_an_agent_that_raises_CancelledError_itself():
    """It does not look as if the caller were cancelled."""

    async def agent(task: int) -> None:
        raise asyncio.CancelledError

    with pytest.raises(RuntimeError, match="the agent of task 0 was cancelled from inside"):
        results([1, 2], agent)


def test_map_cancelled_by_its_caller(strays: Strays):
    """The CancelledError carries the report of what was done and paid for."""

    async def main() -> tuple[list[float], list[str]]:
        mapped = asyncio.create_task(ParallelAgentExecutor(2).map([1, 2, 3, 4], nap))
        await asyncio.sleep(2.5)
        mapped.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await mapped
        return caught.value.report.results, strays()  # type: ignore[attr-defined]

    assert simulate(main) == ([1, 2], [])


def test_map_whose_tasks_are_all_cancelled_from_outside(strays: Strays):
    """It starts no further agent, also where one swallows the cancellation, and says why there is no list."""
    began: list[int] = []

    async def agent(task: int) -> str:
        began.append(task)
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            if task:
                raise OSError("connection closed") from None
        return "partial"

    async def main() -> list[str]:
        mapped = asyncio.ensure_future(ParallelAgentExecutor(2).map(range(10), agent))
        await asyncio.sleep(1)
        for task in asyncio.all_tasks() - {asyncio.current_task(), mapped}:
            task.cancel()
        with pytest.raises((RuntimeError, OSError)) as caught:
            await mapped
        assert caught.value.report.results == ["partial"]  # type: ignore[union-attr]
        return strays()

    assert simulate(main) == []
    assert began == [0, 1]


def test_map_refused_by_a_bounded_queue():
    """A refusal is a failure like others: it ends the map."""
    limiter = CapacityLimiter(1, max_queue=0)

    async def main() -> Any:
        first = asyncio.create_task(ParallelAgentExecutor(limiter).map([5, 5], nap))
        await asyncio.sleep(1)
        with pytest.raises(QueueFull) as caught:
            await ParallelAgentExecutor(limiter).map([1, 2], nap)
        assert caught.value.report.results == []  # type: ignore[attr-defined]
        return await first

    assert simulate(main) == [5, 5]
    assert limiter.statistics().in_flight == 0


# -- the loop -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 10, None])
def test_map_of_agents_that_never_wait_gives_others_a_turn(limit: int | None):
    """Agents that never suspend hold the loop for a few tasks only; without a limit for two hundred."""
    done, seen = 0, []

    async def agent(task: int) -> int:
        nonlocal done
        done += 1
        return task

    async def look() -> None:
        while True:
            seen.append(done)
            await asyncio.sleep(0)

    async def main() -> list[int]:
        looking = asyncio.create_task(look())
        found = await ParallelAgentExecutor(limit).map(range(3000), agent)
        looking.cancel()
        return found

    assert simulate(main) == list(range(3000))
    assert max(after - before for before, after in itertools.pairwise(seen)) <= (limit or 200)
