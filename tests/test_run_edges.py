"""Runs that are stopped, paused or fed in unusual moments, and calls that share one executor."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from agentkit import (
    AdaptiveLimiter,
    Budget,
    CapacityLimiter,
    Journal,
    ParallelAgentExecutor,
    RateLimiter,
    RetryPolicy,
)
from agentkit.lab import simulate


async def second(task: Any) -> Any:
    """One second of work."""
    await asyncio.sleep(1)
    return task


def now() -> float:
    """Seconds on the loop's clock."""
    return asyncio.get_running_loop().time()


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_call_nested_under_a_budget_that_reserves_does_not_deadlock(limit: int) -> None:
    """A task that waits for the budget holds no slot, which the nested call of another one may need to end."""

    async def main() -> list[Any]:
        budget = Budget(tokens=1000, estimate=lambda task: 400, reserve=True)
        executor = ParallelAgentExecutor(limit, budget=budget)

        async def handler(task: int) -> int:
            await asyncio.sleep(1)
            return await executor.call(task, second)

        calls = [executor.call(task, handler) for task in range(4)]
        return await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 100)

    assert sum(isinstance(answer, int) for answer in simulate(main)) == 2  # which is what the budget pays for


@pytest.mark.parametrize("cancels", [1, 3])
def test_run_ends_although_its_async_source_swallows_a_cancellation(cancels: int) -> None:
    """The source is cancelled again, and what it yielded meanwhile has an outcome."""

    async def source() -> AsyncIterator[int]:
        yield 1
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            pass
        yield 2

    async def main() -> tuple[float, list[str]]:
        run = ParallelAgentExecutor(2).start(source(), second)
        await asyncio.sleep(5)
        for _ in range(cancels):
            run.cancel()
        report = await run
        return now(), [outcome.status for outcome in report]

    assert simulate(main) == (5.0, ["success", "cancelled"])


def test_async_source_with_a_length_is_read_to_its_end() -> None:
    """A queue's length is how much waits in it now, not how many tasks there will be."""

    class Queue:
        left = 3

        def __len__(self) -> int:
            return 0

        def __aiter__(self) -> Queue:
            return self

        async def __anext__(self) -> int:
            if not self.left:
                raise StopAsyncIteration
            self.left -= 1
            return self.left

    assert simulate(ParallelAgentExecutor(2).execute, Queue(), second).results == [2, 1, 0]


def test_task_that_arrived_while_paused_has_an_outcome() -> None:
    """What was taken from an async source and never started is cancelled, not forgotten."""

    async def source() -> AsyncIterator[int]:
        for task in range(9):
            await asyncio.sleep(2)
            yield task

    async def main() -> list[tuple[int, str]]:
        run = ParallelAgentExecutor(5).start(source(), second)
        await asyncio.sleep(3)
        run.pause()
        await asyncio.sleep(3)
        run.cancel()
        return [(outcome.task, outcome.status) for outcome in await run]

    assert simulate(main) == [(0, "success"), (1, "cancelled")]


@pytest.mark.parametrize("where", ["source", "estimate"])
def test_nothing_starts_after_a_function_of_the_users_has_stopped_the_run(where: str) -> None:
    """A run stopped by its own source, or by an estimate, does not start the task in hand."""
    begun: list[int] = []

    async def agent(task: int) -> None:
        begun.append(task)
        await asyncio.sleep(100)

    async def main() -> float:
        def stop(task: int) -> int:
            if task == 1:
                run.cancel()
            return 1

        def source() -> Iterator[int]:
            for task in range(3):
                if where == "source":
                    stop(task)
                yield task

        budget = Budget(tokens=100, estimate=stop) if where == "estimate" else None
        run = ParallelAgentExecutor(5, budget=budget).start(source(), agent)
        await run
        return now()

    assert simulate(main) == 0.0
    assert begun in ([], [0])


def test_pause_holds_a_task_that_waits_for_the_rate() -> None:
    """Whatever a task waits for, it does not start while the run is paused."""
    starts: list[float] = []

    async def agent(task: int) -> None:
        starts.append(now())

    async def main() -> None:
        run = ParallelAgentExecutor(5, rate_limiter=RateLimiter(60)).start(range(4), agent)
        await asyncio.sleep(1.5)
        run.pause()
        await asyncio.sleep(10)
        run.resume()
        await run

    simulate(main)
    assert starts[:2] == [0.0, 1.0]
    assert min(starts[2:]) >= 11.5


def test_nested_run_that_never_starts_is_stopped_with_its_report() -> None:
    """The error of the waiter has the report of a run that is over, and nothing of it runs later."""
    executor, begun = ParallelAgentExecutor(CapacityLimiter(1)), []

    async def inner(task: int) -> None:
        begun.append(task)

    async def wait(run: Any) -> Any:
        return await run

    async def outer(task: int) -> Any:
        run = executor.start([1, 2, 3], inner)
        await asyncio.sleep(1)
        return await asyncio.create_task(wait(run))

    report = simulate(executor.execute, [0], outer)
    assert "can never start" in report[0].reason
    assert [o.status for o in report[0].error.report] == ["cancelled"] * 3
    assert begun == []


@pytest.mark.parametrize("on_error", ["stop", "raise"])
def test_report_survives_a_key_that_repeats_after_the_end(tmp_path: Any, on_error: Any) -> None:
    """Tasks that were never started are looked up in the journal, and a fault there does not cost the report."""

    async def agent(task: int) -> int:
        if task == 2:
            raise LookupError("two")
        return task

    async def main() -> Any:
        journal = Journal(tmp_path / "j", key=str)
        try:
            return await ParallelAgentExecutor(1, journal=journal, on_error=on_error).execute([1, 2, 1, 1], agent)
        except LookupError as error:
            return error.report

    statuses = [outcome.status for outcome in simulate(main)]
    assert statuses[:2] == ["success", "failed"]


@pytest.mark.parametrize("agents", [1, 2])
def test_calls_share_a_pause(agents: int) -> None:
    """A Retry-After told to one call holds back the calls after it, whichever agent they are of."""
    starts: list[float] = []

    class Refused(Exception):
        status_code = 429

        class response:  # noqa: N801  (the attribute of an HTTP library's error)
            headers = {"retry-after": "10"}  # noqa: RUF012

    async def agent(task: int) -> int:
        starts.append(now())
        if len(starts) == 1:
            raise Refused
        return task

    async def other(task: int) -> int:
        return await agent(task)

    async def main() -> None:
        executor = ParallelAgentExecutor(5, retry=RetryPolicy(jitter="none", wait_initial=0.001))
        first = asyncio.create_task(executor.call(0, agent))
        await asyncio.sleep(1)
        await executor.call(1, other if agents == 2 else agent)
        await first

    simulate(main)
    assert starts[0] == 0.0
    assert min(starts[1:]) >= 10.0


def test_call_tells_agents_apart_that_are_equal() -> None:
    """Two agents that compare equal are two agents."""

    @dataclass
    class Named:
        name: str
        model: str = field(compare=False)

        async def __call__(self, task: int) -> str:
            return self.model

    async def main() -> list[str]:
        executor = ParallelAgentExecutor(2)
        return [await executor.call(1, Named("x", model)) for model in ("model-1", "model-2")]

    assert simulate(main) == ["model-1", "model-2"]


def test_call_uses_the_pool_it_is_given_later() -> None:
    """Assigning `pool` counts for the next call."""
    import threading

    def where(task: int) -> str:
        return threading.current_thread().name

    async def main() -> tuple[str, str]:
        executor = ParallelAgentExecutor(2)
        first = await executor.call(1, where)
        with ThreadPoolExecutor(1, "mine") as executor.pool:
            return first, await executor.call(1, where)

    first, later = asyncio.run(main())
    assert first.startswith("agentkit")
    assert later.startswith("mine")


def test_attempts_cancelled_before_their_agent_was_called_cost_nothing() -> None:
    """Only calls that were made count towards a budget."""
    budget = Budget(calls=100)

    async def agent(task: int) -> None:
        raise LookupError(task)

    simulate(ParallelAgentExecutor(10, budget=budget, on_error="stop").execute, range(10), agent)
    assert (budget.statistics().used.calls, budget.statistics().in_flight) == (1, 0)


def test_exception_whose_traceback_cannot_be_changed_is_that_tasks_failure() -> None:
    """An odd exception class ends its task and gives the slot back."""

    class Odd(Exception):
        def with_traceback(self, traceback: Any) -> Any:
            raise ZeroDivisionError

    async def agent(task: int) -> int:
        if task == 1:
            raise Odd
        return task

    assert simulate(ParallelAgentExecutor(1).execute, range(3), agent).results == [0, 2]


def test_listener_that_raises_costs_no_result() -> None:
    """An adaptive limit that cannot tell its listeners leaves the answers alone; the loop's handler hears of it."""
    heard: list[Any] = []

    async def main() -> Any:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: heard.append(context["exception"]))
        limiter = AdaptiveLimiter(2)
        limiter.subscribe(lambda: 1 / 0)
        return await ParallelAgentExecutor(limiter).execute(range(6), second)

    assert simulate(main).results == list(range(6))
    assert heard


def test_context_variables_set_by_hooks_do_not_reach_agents() -> None:
    """An estimate and a source run in a context of their own."""
    user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")

    def source() -> Iterator[int]:
        for task in range(3):
            user.set("the source")
            yield task

    def estimate(task: int) -> int:
        user.set("the estimate")
        return 1

    async def agent(task: int) -> str:
        return user.get()

    executor = ParallelAgentExecutor(2, budget=Budget(tokens=100, estimate=estimate))
    assert simulate(executor.execute, source(), agent).results == ["nobody"] * 3
