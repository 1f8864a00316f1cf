"""Workers come and leave: made as they are needed, cancelled before their first turn, made by an eager loop."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkit import CapacityLimiter, ParallelAgentExecutor
from agentkit.lab.loops.virtual import simulate
from agentkit.report.stalls import monitor_thread

Strays = Callable[[], list[str]]
WAYS = pytest.mark.parametrize("way", ["execute", "map"])


async def nap(seconds: float) -> float:
    """Take as long as the task says, and return it."""
    await asyncio.sleep(seconds)
    return seconds


async def turn(task: int) -> int:
    """Give the loop one turn."""
    await asyncio.sleep(0)
    return task


@WAYS
@pytest.mark.parametrize("turns", range(8))
def test_workers_cancelled_from_outside_after_so_many_turns(way: str, turns: int, strays: Strays):
    """Whoever cancels all workers, those that had no turn yet among them, ends the run, and no slot is lost."""
    limiter = CapacityLimiter(20)
    called: list[int] = []

    async def agent(task: int) -> int:
        called.append(task)
        await asyncio.sleep(10)
        return task

    async def main() -> Any:
        run = asyncio.ensure_future(getattr(ParallelAgentExecutor(limiter), way)(iter(range(100)), agent))
        for _ in range(turns):
            await asyncio.sleep(0)
        workers = asyncio.all_tasks() - {asyncio.current_task(), run}
        for task in workers:
            task.cancel()
        before = len(called)
        if not workers:  # it has not begun; let it, and all is well
            assert turns == 0
            return
        (ended,) = await asyncio.gather(run, return_exceptions=True)
        assert getattr(ended, "stopped", str(ended)) == "a worker was cancelled"
        assert len(called) == before
        assert asyncio.get_running_loop().time() == 0.0
        assert strays() == []

    simulate(main)
    assert limiter.statistics().in_flight == limiter.statistics().queue_depth == 0


def test_first_worker_cancelled_before_its_first_turn(strays: Strays):
    """There is nobody but a callback to notice."""

    async def main() -> Any:
        run = ParallelAgentExecutor(3).start(range(9), nap)
        (worker,) = asyncio.all_tasks() - {asyncio.current_task()}
        worker.cancel()
        report = await run
        return report.stopped, len(report), strays()

    assert simulate(main) == ("a worker was cancelled", 9, [])


def test_workers_cancelled_after_those_who_made_them_left(strays: Strays):
    """The one worker that had a turn has found the end of the tasks; those it made are cancelled before theirs."""

    async def at_once(task: int) -> int:
        for other in asyncio.all_tasks() - {asyncio.current_task(), owner}:
            other.cancel()
        return task

    async def main() -> Any:
        nonlocal owner
        owner = asyncio.current_task()
        report = await ParallelAgentExecutor(3).execute(iter([1]), at_once)
        return report.results, report.stopped, strays()

    owner: asyncio.Task[Any] | None = None
    assert simulate(main) == ([1], "a worker was cancelled", [])


def test_run_left_alone_when_the_loop_ends():
    """`asyncio.run` cancels what its main coroutine leaves behind; such a run ends too, and nobody watches it on."""
    runs = []

    async def main(turns: int) -> None:
        runs.append(ParallelAgentExecutor(3).start(range(9), nap))
        for _ in range(turns):
            await asyncio.sleep(0)

    for turns in range(4):
        asyncio.run(main(turns))
    assert ["stopped: a worker was cancelled" in repr(run) for run in runs] == [True] * 4
    assert not monitor_thread.monitors


@WAYS
def test_what_fails_at_the_end_keeps_nobody_waiting(way: str, monkeypatch: pytest.MonkeyPatch):
    """Say that the pool of threads cannot be shut down: the run is over all the same."""

    def fail(pool: Any, **_: Any) -> None:
        shutdown(pool)
        raise OSError("not now")

    shutdown = ThreadPoolExecutor.shutdown
    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", fail)

    async def main() -> Any:
        said: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: said.append(context["exception"]))
        found = await getattr(ParallelAgentExecutor(2), way)(["a", "b"], str.upper)
        await asyncio.sleep(0)
        gc.collect()
        return list(getattr(found, "results", found)), [repr(error) for error in said]

    assert asyncio.run(asyncio.wait_for(main(), 30)) == (["A", "B"], ["OSError('not now')"])


@WAYS
def test_workers_begin_with_the_context_of_the_run(way: str):
    """What an agent sets in its context is not handed to workers that are made meanwhile."""
    variable = contextvars.ContextVar("variable", default="unset")
    executor, seen = ParallelAgentExecutor(1), []

    async def agent(task: int) -> None:
        seen.append(variable.get())
        if task == 0:
            variable.set("set by task 0")
            executor.limiter.limit = 2
        await asyncio.sleep(1 + task)

    async def main() -> None:
        variable.set("set by the caller")
        await getattr(executor, way)(range(2), agent)

    simulate(main)
    assert seen == ["set by the caller"] * 2


@WAYS
@pytest.mark.skipif(sys.version_info < (3, 12), reason="no eager tasks before Python 3.12")
@pytest.mark.parametrize("limit", [1, 10, 1000])
def test_eager_tasks(way: str, limit: int, strays: Strays):
    """On a loop that runs tasks while it makes them, workers do not make each other ever deeper."""
    busy = peak = 0

    async def agent(task: int) -> int:
        nonlocal busy, peak
        busy += 1
        peak = max(peak, busy)
        await asyncio.sleep(0)
        busy -= 1
        return task

    async def main() -> list[str]:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        executor, settings = ParallelAgentExecutor(limit), {"within": 60}
        for each in (agent, turn, itself):
            found = await getattr(executor, way)(range(2000 if limit > 1 else 40), each, **settings)
            assert list(getattr(found, "results", found)) == list(range(2000 if limit > 1 else 40))
        return strays()

    assert asyncio.run(main()) == []
    assert peak == limit


async def itself(task: int) -> int:
    """Never wait."""
    return task


# -- a stream whose limit changes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [False, True])
def test_stream_of_many_workers_whose_limit_falls(ordered: bool):
    """Most of them wait for the reader when the limit falls; those who leave then let the others on."""

    async def main() -> list[int]:
        executor = ParallelAgentExecutor(None)
        asyncio.get_running_loop().call_later(1.5, setattr, executor.limiter, "limit", 1)
        read = []
        async for outcome in executor.stream([2] * 23 + [1] * 7, nap, ordered=ordered):
            read.append(outcome.result)
            await asyncio.sleep(0.1)
        return sorted(read)

    assert simulate(main) == [1] * 7 + [2] * 23


@given(
    st.lists(st.sampled_from([0, 0.5, 1, 3]), min_size=10, max_size=40),
    st.sampled_from([3, 10, None]),
    st.lists(st.tuples(st.floats(0, 3), st.sampled_from(["pause", 1, 2, 12])), max_size=5),
    st.sampled_from([0.01, 0.3]),
    st.booleans(),
)
def test_stream_ends_whatever_is_done_to_it(
    tasks: list[float], limit: int | None, turns: list[tuple[float, Any]], reading: float, ordered: bool
):
    """Pauses, limits up and down, a slow reader: each task has its outcome, once, and nobody waits for ever."""

    async def main() -> list[int]:
        executor, loop, read = ParallelAgentExecutor(limit), asyncio.get_running_loop(), []
        run = executor.stream(tasks, nap, ordered=ordered)
        for at, what in turns:
            if what == "pause":
                loop.call_later(at, run.pause)
                loop.call_later(at + 1, run.resume)
            else:
                loop.call_later(at, setattr, executor.limiter, "limit", what)
        async for outcome in run:
            read.append(outcome.task_id)
            await asyncio.sleep(reading)
        assert executor.limiter.statistics().in_flight == 0
        return read

    read = simulate(main)
    assert sorted(read) == list(range(len(tasks)))
    assert not ordered or read == sorted(read)
