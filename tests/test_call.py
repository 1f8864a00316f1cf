"""Everything that may serve as an agent, and plain functions in real threads and processes: bounded, never torn."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from multiprocessing import get_context

import pytest

from agentkit.executor import ParallelAgentExecutor
from agentkit.executor.call import as_coroutine_function
from agentkit.lab.loops.virtual import simulate
from agentkit.report import Report
from agentkit.report.outcome import span
from agentkit.semaphore import CapacityLimiter

PATIENCE = 30  # seconds after which a test that hangs fails; none waits for it otherwise


async def until(condition: Callable[[], object]) -> None:
    """Come back when the condition holds: threads have no event that a loop could wait for."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


async def double(task: int) -> int:
    """Twice the task, a moment later."""
    await asyncio.sleep(0)
    return 2 * task


def double_now(task: int) -> int:
    """Twice the task."""
    return 2 * task


class Agents:
    """Methods that serve as agents."""

    async def later(self, task: int) -> int:
        """Twice the task, async."""
        return await double(task)

    def now(self, task: int) -> int:
        """Twice the task, plain."""
        return 2 * task

    @staticmethod
    async def static(task: int) -> int:
        """Twice the task, async and static."""
        return await double(task)

    @classmethod
    async def of_class(cls, task: int) -> int:
        """Twice the task, async and bound to the class."""
        return await double(task)


class Callable1:
    """An object with an async `__call__`."""

    async def __call__(self, task: int) -> int:
        """Twice the task."""
        return await double(task)


class Callable2:
    """An object with a plain `__call__`."""

    def __call__(self, task: int) -> int:
        """Twice the task."""
        return 2 * task


async def add(a: int, task: int) -> int:
    """Async, to be made partial."""
    return a + task


AGENTS = {
    "async function": double,
    "plain function": double_now,
    "async method": Agents().later,
    "plain method": Agents().now,
    "static method": Agents.static,
    "class method": Agents.of_class,
    "async object": Callable1(),
    "plain object": Callable2(),
    "partial of an async function": partial(lambda a, task: double(task), None),
    "partial of a partial": partial(partial(double)),
    "partial of an object": partial(Callable1()),
    "lambda around an async function": lambda task: double(task),
    "plain lambda": lambda task: 2 * task,
    "function that returns a task": lambda task: double(task),
    "built-in": (2).__mul__,
}


@pytest.mark.parametrize("limit", [0, 1, 3, None])
@pytest.mark.parametrize("kind", AGENTS)
def test_agent_of_any_kind(kind: str, limit: int | None):
    """Functions, methods, partials, lambdas and callable objects serve as agents, async or plain, serial or not."""

    async def main():
        return (await ParallelAgentExecutor(limit).execute(range(6), AGENTS[kind])).results

    assert simulate(main) == [0, 2, 4, 6, 8, 10]
    assert asyncio.run(main()) == [0, 2, 4, 6, 8, 10]


def test_agent_that_only_sometimes_returns_an_awaitable():
    """A lambda that answers from a cache, and asks an async agent otherwise, is right both ways."""
    cache = {1: "cached", 3: "cached"}

    async def main():
        return (await ParallelAgentExecutor(1).execute(range(5), lambda i: cache.get(i) or double(i))).results

    assert asyncio.run(main()) == [0, "cached", 4, "cached", 8]


def test_agent_partial_of_async():
    """A partial of an async function is recognised as async."""

    async def main():
        return (await ParallelAgentExecutor(2).execute([1, 2], partial(add, 10))).results

    assert simulate(main) == [11, 12]


def test_agent_async_with_a_pool_is_refused():
    """A pool is of no use to an async agent, and saying so beats ignoring it."""

    async def main():
        with ThreadPoolExecutor(1) as pool:
            await ParallelAgentExecutor(2, pool=pool).execute([1], double)

    with pytest.raises(TypeError, match="pool is for plain functions, and agent_fn is async; leave pool out"):
        simulate(main)


def test_agent_plain_failing():
    """A plain function's exception is a failure like any other, traceback included."""

    async def main():
        return await ParallelAgentExecutor(2).execute([2, 1, 0], lambda i: 2 // i)

    report = asyncio.run(main())
    assert [o.status for o in report] == ["success", "success", "failed"]
    assert isinstance(report.failures[0].error, ZeroDivisionError)
    assert report.failures[0].error.__traceback__ is not None


# -- serial -------------------------------------------------------------------------------------------------------


def test_serial_runs_in_the_callers_own_thread():
    """`max_concurrency=0` calls a plain function in this very thread, one after another, so a debugger can follow."""
    threads: list[int] = []

    async def main():
        await ParallelAgentExecutor(0).execute(range(5), lambda _: threads.append(threading.get_ident()))

    asyncio.run(main())
    assert set(threads) == {threading.get_ident()}
    assert len(threads) == 5


# -- real threads -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 4])
def test_threads_are_as_many_as_the_limit_and_no_more(limit: int):
    """As many plain functions as the limit allows are at work at once, and none of them on the loop's thread."""
    together, lock = threading.Barrier(limit, timeout=PATIENCE), threading.Lock()
    idents: set[int] = set()
    at_work = most = 0

    def agent(_):
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        idents.add(threading.get_ident())
        together.wait()  # passes only when `limit` of them are inside at once
        with lock:
            at_work -= 1

    async def main():
        return (await ParallelAgentExecutor(limit).execute(range(4 * limit), agent)).summary.succeeded

    assert asyncio.run(main()) == 4 * limit
    assert most == limit
    assert threading.get_ident() not in idents


def test_threads_do_not_block_the_loop():
    """While a plain function waits, the loop goes on: only something on the loop can let it go."""
    let_go = threading.Event()

    async def main():
        asyncio.get_running_loop().call_later(0.001, let_go.set)
        return (await ParallelAgentExecutor(2).execute([1], lambda _: let_go.wait(PATIENCE))).results

    assert asyncio.run(main()) == [True]


def test_threads_end_with_the_run():
    """After the run its threads are gone."""

    async def main():
        await ParallelAgentExecutor(3).execute(range(9), double_now)

    asyncio.run(main())
    for thread in threading.enumerate():
        if thread.name.startswith("agentkit_"):
            thread.join(PATIENCE)
            assert not thread.is_alive()


@pytest.mark.parametrize("own", [True, False])
def test_threads_see_the_callers_context(own):
    """`span` works from a thread, of the run's own or of a pool that was given, and lands in the right task."""

    def agent(i):
        with span(f"work {i}"):
            pass

    async def main():
        with nullcontext() if own else ThreadPoolExecutor(3) as pool:
            return await ParallelAgentExecutor(3, pool=pool).execute(range(20), agent)

    assert [[s.name for s in o.spans] for o in asyncio.run(main())] == [[f"work {i}"] for i in range(20)]


def test_threads_timed_out_keep_their_slot_until_they_end():
    """A thread cannot be stopped: after its timeout it still counts, so no second one starts beside it."""
    let_go, begun = threading.Event(), []

    def agent(i):
        begun.append(i)
        if i == 0:
            let_go.wait(PATIENCE)
        return i

    async def main():
        executor = ParallelAgentExecutor(1, timeout=0.01)
        run = executor.start(range(3), agent)
        await until(lambda: run.statistics().failed)
        for _ in range(20):  # turns in which the next task would start, were the slot free
            await asyncio.sleep(0)
        before = list(begun), executor.limiter.statistics().in_flight
        let_go.set()
        report = await run
        return before, [o.status for o in report], executor.limiter

    before, statuses, limiter = asyncio.run(main())
    assert before == ([0], 1)
    assert statuses == ["timeout", "success", "success"]
    assert limiter.statistics().in_flight == 0


def test_threads_cancelled_run_returns_at_once_and_the_slot_comes_back_later():
    """Cancelling does not wait for the thread; its slot is free again when the thread has ended."""
    let_go, inside = threading.Event(), threading.Event()

    def agent(_):
        inside.set()
        let_go.wait(PATIENCE)

    async def main():
        executor = ParallelAgentExecutor(2)
        run = executor.start([1], agent)
        await asyncio.to_thread(inside.wait, PATIENCE)
        run.cancel()
        report = await run
        held = executor.limiter.statistics().in_flight
        let_go.set()
        await until(lambda: not executor.limiter.statistics().in_flight)
        return report.summary.by_status, held

    assert asyncio.run(main()) == ({"cancelled": 1}, 1)


def test_threads_span_of_a_timed_out_thread_does_not_land_in_another_task():
    """What a thread logs after its timeout is not put down to the task its worker has gone on to."""
    logged, next_begun = threading.Event(), threading.Event()

    def agent(i):
        if i == 0:
            next_begun.wait(PATIENCE)
            with span("late"):
                pass
            logged.set()
        else:
            next_begun.set()
            logged.wait(PATIENCE)

    async def main():
        executor = ParallelAgentExecutor(1, timeout=0.3)
        run = executor.start([0, 1], agent)
        await until(lambda: run.statistics().failed)
        executor.limiter.limit = 2  # the thread of task 0 keeps its slot; this is one for task 1
        return [o.task_id for o in await run if o.spans]

    assert asyncio.run(main()) in ([], [0])


# -- pools --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 3])
def test_pool_of_threads(limit: int):
    """With `pool=` the functions run there, and the pool stays open for others."""
    names: set[str] = set()

    def agent(i):
        names.add(threading.current_thread().name.split("_")[0])
        return 2 * i

    with ThreadPoolExecutor(2, thread_name_prefix="mine") as pool:

        async def main():
            return (await ParallelAgentExecutor(limit, pool=pool).execute(range(8), agent)).results

        assert asyncio.run(main()) == [2 * i for i in range(8)]
        assert pool.submit(int).result() == 0
    assert names == {"mine"}


def test_pool_of_processes():
    """A module-level function runs in other processes; a lambda, which cannot travel, is a failure that says so."""
    with ProcessPoolExecutor(2, mp_context=get_context("forkserver")) as pool:

        async def main() -> tuple[Report, Report]:
            executor = ParallelAgentExecutor(2, pool=pool)
            return await executor.execute(range(6), abs), await executor.execute([1], lambda i: i)

        ran, refused = asyncio.run(main())
    assert ran.results == [0, 1, 2, 3, 4, 5]
    assert refused.failures[0].status == "failed"
    assert "pickle" in refused.failures[0].reason.lower() or "lambda" in refused.failures[0].reason


# -- what is no agent ---------------------------------------------------------------------------------------------


class _Caller:
    def __call__(self, task):
        return task


def test_agent_class_instead_of_instance_is_refused_at_once():
    """A class whose instances are agents is a slip; a class that is a plain function of a task, as `str`, is not."""
    with pytest.raises(TypeError, match="hand in an instance"):
        as_coroutine_function(_Caller, CapacityLimiter(1))
    assert asyncio.run(ParallelAgentExecutor(1).execute([1, 2], str)).results == ["1", "2"]


def test_agent_that_yields_is_refused_at_once():
    """An async generator gives many values and no result."""

    async def pages(task):
        yield task

    with pytest.raises(TypeError, match="return a list instead of yielding"):
        as_coroutine_function(pages, CapacityLimiter(1))


def test_agent_that_returns_a_pending_future_has_failed():
    """A task that nobody awaited is no result; the error says what was forgotten."""

    async def forgetful(_):
        return asyncio.create_task(asyncio.sleep(0))

    async def main():
        return await ParallelAgentExecutor(1).execute([1], forgetful)

    outcome = simulate(main).individual_results[0]
    assert (outcome.status, "await it in the agent" in outcome.reason) == ("failed", True)


def test_given_pool_call_that_outlives_its_timeout_keeps_its_slot():
    """A hung call in a pool of one thread does not time out those behind it: they wait for its slot."""
    release = threading.Event()

    def agent(i):
        if i == 0:
            release.wait(10)
        return i

    async def main():
        with ThreadPoolExecutor(1) as pool:
            executor = ParallelAgentExecutor(1, timeout=0.5, pool=pool)
            run = executor.start(range(3), agent)
            await until(lambda: run.statistics().failed and executor.limiter.statistics().in_flight == 1)
            started = run.statistics().succeeded + run.statistics().in_flight  # nobody, though nobody is attempted
            release.set()
            return started, [o.status for o in (await run).individual_results]

    assert asyncio.run(main()) == (0, ["timeout", "success", "success"])
