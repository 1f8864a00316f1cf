"""`map`: results and nothing else, in both its ways: without records, and as a usual run whose records are dropped."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from agentkit.executor.mapping import LOOK, Mapping
from hypothesis import given
from hypothesis import strategies as st

from agentkit import (
    Budget,
    BudgetExceeded,
    CapacityLimiter,
    Journal,
    ParallelAgentExecutor,
    QueueFull,
    RetryPolicy,
    span,
)
from agentkit.lab.loops.virtual import simulate
from agentkit.report.stalls import LoopMonitor

Strays = Callable[[], list[str]]
WAYS = pytest.mark.parametrize("settings", [{}, {"timeout": 1e6}], ids=["bare", "recorded"])


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


@WAYS
@pytest.mark.parametrize("limit", [0, 1, 2, 7, None, CapacityLimiter(2)])
@pytest.mark.parametrize("make", [list, tuple, iter, lambda tasks: (task for task in tasks), source])
def test_map_results_are_in_the_order_of_the_input(make: Any, limit: Any, settings: dict[str, Any]):
    """Whatever the tasks come in, and however long each takes."""
    assert results(make([3, 1, 2, 0, 5, 4, 1]), nap, limit, **settings) == [3, 1, 2, 0, 5, 4, 1]


@WAYS
def test_map_of_nothing(settings: dict[str, Any]):
    """No tasks, no results."""
    assert results([], nap, **settings) == results(iter([]), nap, **settings) == []


@WAYS
def test_map_takes_any_agent(settings: dict[str, Any]):
    """Async functions, plain ones, and plain ones that give coroutines."""

    class Agent:
        async def __call__(self, task: int) -> int:
            return await nap(task)

    for agent in (nap, Agent(), lambda task: task, lambda task: nap(task)):
        assert results([2, 1, 3], agent, **settings) == [2, 1, 3]


@WAYS
def test_map_results_may_be_anything(settings: dict[str, Any]):
    """None, exceptions and objects of any kind are results like others."""
    tasks = [None, ValueError("a result"), object(), [], StopIteration(), asyncio.Lock]

    async def echo(task: Any) -> Any:
        return task

    assert results(tasks, echo, **settings) == tasks


@given(
    st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=12),
    st.integers(1, 5),
    st.sampled_from([list, iter, source]),
)
def test_map_is_execute_without_records(tasks: list[tuple[float, bool]], limit: int, make: Any):
    """Both ways of a map end at the same instant as `execute`, with the same results or the same error."""

    async def agent(task: tuple[float, bool]) -> float:
        await asyncio.sleep(task[0])
        if task[1] and task[0] > 1:
            raise ValueError(task)
        return task[0]

    async def ended(way: str) -> Any:
        settings = {"timeout": 1e6} if way == "recorded" else {}
        executor = ParallelAgentExecutor(limit, on_error="raise", **settings)
        try:
            done = await (executor.execute if way == "execute" else executor.map)(make(tasks), agent)
            said = done.results if way == "execute" else done
        except ValueError as error:
            if way == "execute":
                error.results = {o.task_id: o.result for o in error.report if o.status == "success"}
            said = str(error), error.results
        return said, asyncio.get_running_loop().time()

    assert simulate(ended, "bare") == simulate(ended, "recorded") == simulate(ended, "execute")


def test_map_longest_first_is_in_the_order_of_the_input_all_the_same():
    """A cost hint changes what starts first, not where its result stands."""
    began: list[int] = []

    async def agent(task: int) -> int:
        began.append(task)
        return await nap(task)

    async def main() -> list[int]:
        return await ParallelAgentExecutor(1).map([1, 3, 2], agent, cost=float)

    assert simulate(main) == [1, 3, 2]
    assert began == [3, 2, 1]


def test_map_with_all_else_an_executor_does(tmp_path: Any):
    """Retries, budget and journal count in a map as they do elsewhere."""
    calls: list[int] = []

    async def flaky(task: int) -> int:
        calls.append(task)
        if calls.count(task) < 2:
            raise ConnectionError
        return task

    def mapped() -> Any:
        journal = Journal(tmp_path / "journal.jsonl", work="flaky 1")
        return results(range(3), flaky, retry=RetryPolicy(seed=1), budget=Budget(calls=6), journal=journal)

    assert mapped() == [0, 1, 2]
    assert sorted(calls) == [0, 0, 1, 1, 2, 2]
    assert mapped() == [0, 1, 2]
    assert len(calls) == 6
    with pytest.raises(BudgetExceeded) as caught:
        results(range(3), nap, 1, budget=Budget(calls=2))
    assert caught.value.results == {0: 0, 1: 1}


# -- failures -----------------------------------------------------------------------------------------------------


@WAYS
@pytest.mark.parametrize("on_error", ["collect", "stop", "raise"])
def test_map_first_failure_ends_it(on_error: str, settings: dict[str, Any], strays: Strays):
    """Nothing starts after it, the others are cancelled, and its own exception is raised, with what was there."""
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
            await ParallelAgentExecutor(3, on_error=on_error, **settings).map(range(100), agent)
        assert caught.value is failure
        assert caught.value.results == {0: 0, 1: 1, 2: 2}
        assert "the 3 results it had are in .results, by task number" in caught.value.__notes__[0]
        assert strays() == []
        return asyncio.get_running_loop().time()

    assert simulate(main) == 3.0
    assert began == [0, 1, 2, 3, 4, 5]
    assert sorted(cleaned) == began


@WAYS
def test_map_failure_that_cannot_be_changed(settings: dict[str, Any]):
    """It is raised as it is."""

    class Sealed(Exception):
        def __setattr__(self, name: str, value: object) -> None:
            raise AttributeError(name)

    async def agent(task: int) -> None:
        raise Sealed

    with pytest.raises(Sealed):
        results([1], agent, **settings)


@WAYS
def test_map_of_an_agent_that_forgets_to_await(settings: dict[str, Any]):
    """A coroutine is no result."""

    async def agent(task: int) -> Any:
        return nap(task)

    with pytest.raises(TypeError, match=r"the agent returned the coroutine nap\(\) instead of its value") as caught:
        results([1, 2], agent, 1, **settings)
    assert caught.value.results == {}


@WAYS
@pytest.mark.parametrize("make", [lambda fail: fail(), lambda fail: source(fail())])
def test_map_of_a_source_that_fails(make: Any, settings: dict[str, Any]):
    """Its error is raised once what it gave is done."""

    def tasks() -> Any:
        yield 1
        yield 2
        raise OSError("the file is gone")

    with pytest.raises(OSError, match="the file is gone") as caught:
        results(make(tasks), nap, **settings)
    assert caught.value.results == {0: 1, 1: 2}


@WAYS
def test_map_within(settings: dict[str, Any], strays: Strays):
    """When the time is over there is no list, but a TimeoutError with what was done."""

    async def main() -> float:
        with pytest.raises(TimeoutError, match=r"within=2.5 s is over") as caught:
            await ParallelAgentExecutor(2, **settings).map([1, 2, 3, 4], nap, within=2.5)
        assert caught.value.results == {0: 1, 1: 2}
        assert strays() == []
        return asyncio.get_running_loop().time()

    assert simulate(main) == 2.5
    assert results([1, 2], nap, within=60, **settings) == [1, 2]


@WAYS
def test_map_of_an_agent_that_raises_CancelledError_itself(settings: dict[str, Any]):
    """It does not look as if the caller were cancelled."""

    async def agent(task: int) -> None:
        raise asyncio.CancelledError

    with pytest.raises(RuntimeError, match="the agent of task 0 was cancelled from inside"):
        results([1, 2], agent, **settings)


@WAYS
def test_map_of_an_agent_that_raises_a_BaseException(settings: dict[str, Any], strays: Strays):
    """What is meant to end programs passes through."""

    class Abort(BaseException):
        pass

    async def agent(task: int) -> None:
        await asyncio.sleep(task)
        if task == 1:
            raise Abort

    async def main() -> list[str]:
        with pytest.raises(Abort):
            await ParallelAgentExecutor(3, **settings).map(range(9), agent)
        return strays()

    assert simulate(main) == []


@WAYS
def test_map_worker_cancelled_from_outside(settings: dict[str, Any], strays: Strays):
    """Whoever cancels all tasks stops a map: no further agent is called, also where one swallows it."""
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
        mapped = asyncio.ensure_future(ParallelAgentExecutor(2, **settings).map(range(10), agent))
        await asyncio.sleep(1)
        for task in asyncio.all_tasks() - {asyncio.current_task(), mapped}:
            task.cancel()
        with pytest.raises((RuntimeError, OSError)):
            await mapped
        return strays()

    assert simulate(main) == []
    assert began == [0, 1]


# -- slots --------------------------------------------------------------------------------------------------------


@WAYS
def test_map_keeps_to_the_limit_while_it_changes(settings: dict[str, Any]):
    """Never more at work than slots, save those that had begun when one was taken away; never fewer than could be."""
    executor, most, busy = ParallelAgentExecutor(4, **settings), [0], 0
    dice = random.Random(5)

    async def agent(task: int) -> int:
        nonlocal busy
        busy += 1
        most[-1] = max(most[-1], busy)
        await asyncio.sleep(dice.uniform(0.1, 1))
        busy -= 1
        return task

    async def turn() -> list[tuple[int, int]]:
        seen = []
        for limit in (1, 6, 2, 0, 3):
            executor.limiter.limit = limit
            await asyncio.sleep(2)  # whoever was too many has left
            most.append(busy)
            await asyncio.sleep(4)
            seen.append((limit, most[-1]))
        return seen

    async def main() -> Any:
        mapped = asyncio.create_task(executor.map(range(200), agent))
        seen = await turn()
        return seen, await mapped

    seen, found = simulate(main)
    assert seen == [(1, 1), (6, 6), (2, 2), (0, 0), (3, 3)]
    assert found == list(range(200))


@WAYS
def test_map_shares_a_limiter(settings: dict[str, Any]):
    """Two maps on one limiter get on side by side, and keep to it together."""
    limiter = CapacityLimiter(4)
    done: list[str] = []

    async def agent(name: str) -> str:
        await asyncio.sleep(1)
        done.append(name)
        return name

    async def main() -> Any:
        one, two = (ParallelAgentExecutor(limiter, **settings).map([name] * 12, agent) for name in "ab")
        return await asyncio.gather(one, two)

    assert simulate(main) == [["a"] * 12, ["b"] * 12]
    assert limiter.statistics().peak_in_flight == 4
    assert limiter.statistics().in_flight == 0
    assert {"a", "b"} == set(done[:12])


@WAYS
def test_map_refused_by_a_bounded_queue(settings: dict[str, Any]):
    """A refusal is a failure like others: it ends the map."""
    limiter = CapacityLimiter(1, max_queue=0)

    async def main() -> Any:
        first = asyncio.create_task(ParallelAgentExecutor(limiter).map([5, 5], nap))
        await asyncio.sleep(1)
        with pytest.raises(QueueFull) as caught:
            await ParallelAgentExecutor(limiter, **settings).map([1, 2], nap)
        assert caught.value.results == {}
        return await first

    assert simulate(main) == [5, 5]
    assert limiter.statistics().in_flight == 0


class Leaf:
    """An agent that takes a second, and knows how many were at work at once."""

    def __init__(self) -> None:
        self.working = self.peak = 0

    async def __call__(self, task: int) -> int:
        """Count, wait and give the task back."""
        self.working += 1
        self.peak = max(self.peak, self.working)
        await asyncio.sleep(1)
        self.working -= 1
        return task


@WAYS
def test_map_nested_on_one_limiter(settings: dict[str, Any]):
    """Agents that map sub-agents on the same limiter finish, and keep to the limit."""
    limiter, leaf = CapacityLimiter(2), Leaf()

    async def lead(task: int) -> int:
        return sum(await ParallelAgentExecutor(limiter, **settings).map(range(3), leaf))

    assert results(range(4), lead, limiter, **settings) == [3, 3, 3, 3]
    assert leaf.peak <= 2
    assert limiter.statistics().in_flight == 0


@WAYS
def test_map_what_an_agent_left_behind_holds_no_slot(settings: dict[str, Any]):
    """A task left over from an earlier item maps on the same limiter; it lends no slot, for it has none."""
    limiter, leaf = CapacityLimiter(2), Leaf()
    left: list[asyncio.Task[Any]] = []

    async def late() -> list[int]:
        await asyncio.sleep(1.5)
        return await ParallelAgentExecutor(limiter, **settings).map(range(4), leaf)

    async def lead(task: int) -> int:
        if task == 0:
            left.append(asyncio.create_task(late()))
        return await leaf(task)

    async def main() -> Any:
        return await ParallelAgentExecutor(limiter, **settings).map(range(8), lead), await left[0]

    assert simulate(main) == (list(range(8)), [0, 1, 2, 3])
    assert leaf.peak == 2


def test_map_inside_an_agent_adds_no_spans_to_its_record():
    """Where no record is kept, spans belong to nobody; those of the agent around it are its own."""

    async def leaf(task: int) -> None:
        with span("inside"):
            await asyncio.sleep(1)

    async def lead(task: int) -> None:
        with span("around"):
            await ParallelAgentExecutor(2).map(range(3), leaf)

    async def main() -> list[str]:
        report = await ParallelAgentExecutor(1).execute([1], lead)
        return [s.name for s in report.individual_results[0].spans]

    assert simulate(main) == ["around"]


# -- the loop -----------------------------------------------------------------------------------------------------


def gaps(agent: Callable[[int], Any], tasks: range, limit: int) -> list[int]:
    """How many tasks a map has done each time before somebody else on the loop had a turn again."""
    done, seen = 0, []

    async def counted(task: int) -> int:
        nonlocal done
        done += 1
        agent(task)
        return task

    async def look() -> None:
        while True:
            seen.append(done)
            await asyncio.sleep(0)

    async def main() -> list[int]:
        looking = asyncio.create_task(look())
        found = await ParallelAgentExecutor(limit).map(tasks, counted)
        looking.cancel()
        return found

    assert simulate(main) == list(tasks)
    return [after - before for before, after in itertools.pairwise(seen)]


@pytest.mark.parametrize("limit", [1, 10])
def test_map_of_agents_that_never_wait_gives_others_a_turn(limit: int):
    """Agents that never suspend hold the loop for a share of the tasks only."""
    first, *later = gaps(lambda task: None, range(3000), limit)
    assert first <= 220
    assert max(later) <= 110


def test_map_of_agents_that_never_wait_and_take_their_time_gives_others_a_turn(monkeypatch: pytest.MonkeyPatch):
    """The share is also one of time; here each call takes one millisecond of the run's clock."""
    milliseconds: list[int] = []
    monkeypatch.setattr(Mapping, "_now", lambda run: len(milliseconds) / 1000)
    assert max(gaps(milliseconds.append, range(200), 1)) <= 2 * (5 + LOOK)


@WAYS
def test_map_tells_the_watch_whose_agent_the_loop_is_in(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    """So that an agent that blocks is named in the log, as in any run."""
    asked: list[Any] = []

    class Watched(LoopMonitor):
        def __init__(self, loop: Any, task_id_of: Any) -> None:
            super().__init__(loop, task_id_of)
            asked.append(task_id_of)

    async def agent(task: int) -> Any:
        return asked[0](asyncio.current_task())

    monkeypatch.setattr("agentkit.executor.run.LoopMonitor", Watched)
    assert asyncio.run(ParallelAgentExecutor(2, **settings).map(range(4), agent)) == [0, 1, 2, 3]
    assert len(asked) == 1


# -- arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tasks", "agent", "message"),
    [
        ("one text", nap, "tasks must be an iterable of tasks, not a single string, got 'one text'; put it in a list"),
        (7, nap, "tasks must be an iterable or async iterable, got 7; put a single task in a list"),
        (nap, [1, 2], "tasks must be an iterable or async iterable, got <function nap"),
        ([1], None, "agent_fn must be a function of one task, got None"),
    ],
)
def test_map_bad_argument(tasks: Any, agent: Any, message: str):
    """The same texts as everywhere."""
    with pytest.raises(TypeError) as caught:
        results(tasks, agent)
    assert str(caught.value).startswith(message)


def test_map_with_its_arguments_the_wrong_way_round():
    """Who writes the function first, as other maps want it, is told the order."""
    with pytest.raises(TypeError, match=r"; tasks come first, then the agent$"):
        results(nap, [1, 2])
