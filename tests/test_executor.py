"""The executor's front door: order, kinds of input, what a failure means, time limits, arguments, and its figures."""

from __future__ import annotations

import asyncio
import math
import tracemalloc
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkit.executor import ParallelAgentExecutor
from agentkit.lab.loops.virtual import simulate
from agentkit.report import Report
from agentkit.semaphore import CapacityLimiter

LIMITS = [0, 1, 2, 3, 10, None]


def now() -> float:
    """Return the running loop's time."""
    return asyncio.get_running_loop().time()


async def nap(seconds: float) -> float:
    """Take as long as the task says, and return it."""
    await asyncio.sleep(seconds)
    return seconds


async def moody(task: int) -> int:
    """Take a second each; fail at 3."""
    await asyncio.sleep(1)
    if task == 3:
        raise ValueError("three")
    return task


def execute(tasks: Any, agent: Any, limit: Any = 2, within: float | None = None, **settings: Any) -> Report:
    """Execute in virtual time and return the report."""

    async def main():
        return await ParallelAgentExecutor(limit, **settings).execute(tasks, agent, within=within)

    return simulate(main)


# -- results and order --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", LIMITS)
def test_execute_results_are_in_the_order_of_the_input(limit: int | None):
    """Whoever finishes first, the report is in input order, and every task is there once."""
    tasks = [5, 1, 4, 2, 3, 0]
    report = execute(tasks, nap, limit)
    assert report.results == tasks
    assert [o.task_id for o in report.individual_results] == list(range(6))
    assert [o.task for o in report.individual_results] == tasks
    assert report.stopped is None


@pytest.mark.parametrize(("limit", "makespan"), [(0, 12.0), (1, 12.0), (2, 6.0), (3, 4.0), (12, 1.0), (None, 1.0)])
def test_execute_takes_as_long_as_the_limit_demands(limit: int | None, makespan: float):
    """Twelve tasks of a second each take exactly 12 / limit seconds; 0 is one after another."""
    report = execute(range(12), lambda _: nap(1), limit)
    assert (report.summary.makespan, report.summary.peak_in_flight) == (makespan, round(12 / makespan))


def test_execute_starts_are_in_the_order_of_the_input():
    """Tasks are begun first come, first served."""
    begun: list[int] = []

    async def agent(i):
        begun.append(i)
        await asyncio.sleep(1 + i * 7 % 5)

    execute(range(40), agent, 3)
    assert begun == list(range(40))


@pytest.mark.parametrize("limit", LIMITS)
def test_execute_nothing(limit: int | None):
    """An empty input gives an empty report at once."""
    report = execute([], nap, limit)
    assert (len(report), report.summary.total, report.summary.makespan, report.aggregated) == (0, 0, 0.0, None)
    assert repr(report) == "<Report: 0 of 0 succeeded, at most 0 in flight, 0 s>"


def _generator(n):
    yield from range(n)


async def _async_generator(n):
    for i in range(n):
        await asyncio.sleep(0.5)
        yield i


class _AsyncPages:
    """An async iterable that is no generator."""

    def __init__(self, n: int) -> None:
        self._left = iter(range(n))

    def __aiter__(self):
        return self

    async def __anext__(self):
        for i in self._left:
            return i
        raise StopAsyncIteration


@pytest.mark.parametrize("limit", [0, 1, 3, None])
@pytest.mark.parametrize("make", [list, tuple, range, _generator, _async_generator, _AsyncPages, dict.fromkeys])
def test_execute_any_iterable(make: Callable[[Any], Any], limit: int | None):
    """Lists, ranges, generators, async generators, async iterators and the keys of a dict all serve as input."""
    source = make(range(7)) if make in (list, tuple, dict.fromkeys) else make(7)
    assert execute(source, lambda i: nap(i), limit).results == list(range(7))


def test_execute_async_source_sets_the_moment_of_submission():
    """A task of an async source counts as submitted when it arrives; the source is asked when a worker is free."""
    report = execute(_async_generator(3), lambda _: nap(10), 2)
    assert [o.submitted for o in report] == [0.5, 1.0, 11.0]
    assert [o.waited for o in report] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_execute_takes_from_the_source_only_what_it_can_begin(limit: int):
    """A lazy source is never asked for more than `limit` tasks beyond those that are done."""
    ahead: list[int] = []
    done = 0

    def source():
        for i in range(50):
            ahead.append(i + 1 - done)
            yield i

    async def agent(i):
        nonlocal done
        await asyncio.sleep(1 + i % 3)
        done += 1

    execute(source(), agent, limit)
    assert max(ahead) <= limit


def test_execute_agents_see_none_of_the_executor():
    """Tasks may be any objects, None and exceptions among them."""
    tasks = [None, ValueError("a task, not an error"), {"a": 1}, [], StopIteration()]

    async def echo(task):
        return task

    assert execute(tasks, echo).results == tasks


def test_execute_twice_at_the_same_time():
    """One executor may execute two inputs at once; together they keep to its limit."""
    busy: list[int] = []
    executor = ParallelAgentExecutor(3)

    async def agent(_):
        busy.append(executor.limiter.statistics().in_flight)
        await asyncio.sleep(1)

    async def main():
        return await asyncio.gather(executor.execute(range(9), agent), executor.execute(range(9), agent))

    first, second = simulate(main)
    assert max(busy) == 3
    assert max(first.summary.makespan, second.summary.makespan) == 6.0


def test_execute_on_two_loops_one_after_the_other():
    """An executor can be used again after `asyncio.run`."""
    executor = ParallelAgentExecutor(2)

    async def main():
        return (await executor.execute([1, 2, 3], nap)).results

    assert simulate(main) == simulate(main) == [1, 2, 3]


# -- failures -----------------------------------------------------------------------------------------------------


def test_execute_collect_keeps_failures_and_goes_on():
    """A failure is kept as the exception itself; everybody else has a result."""
    report = execute(range(6), moody)
    assert report.results == [0, 1, 2, 4, 5]
    (failure,) = report.failures
    assert (failure.task_id, failure.status, failure.reason) == (3, "failed", "ValueError: three")
    assert isinstance(failure.error, ValueError)
    assert failure.error.__traceback__ is not None
    assert (report.summary.succeeded, report.summary.failed) == (5, 1)


def test_execute_stop_starts_nothing_new_and_returns_what_was_done():
    """`on_error="stop"`: siblings are cancelled and waited for, the rest is not started, every task has an outcome."""
    begun: list[int] = []
    cleaned: list[int] = []

    async def agent(i):
        begun.append(i)
        try:
            await asyncio.sleep(1 if i != 2 else 100)
            if i == 3:
                raise ValueError("three")
        finally:
            cleaned.append(i)

    report = execute(range(10), agent, 2, on_error="stop")
    assert begun == [0, 1, 2, 3]
    assert sorted(cleaned) == begun
    assert [o.status for o in report] == ["success", "success", "cancelled", "failed"] + ["cancelled"] * 6
    assert all(o.error is not None and o.reason for o in report.failures)
    assert report.stopped == "on_error='stop' after task 3: ValueError: three"
    assert report.summary.makespan == 2.0


def test_execute_raise_raises_the_original_exception_with_the_report():
    """`on_error="raise"`: the very exception, not a group; no call starts after it; the report hangs on it."""
    error = ValueError("boom")
    begun: list[int] = []

    async def agent(i):
        begun.append(i)
        await asyncio.sleep(i % 7 + 1)
        if i == 30:
            begun.append(-1)
            raise error

    async def main():
        with pytest.raises(ValueError, match="boom") as caught:
            await ParallelAgentExecutor(8, on_error="raise").execute(range(100), agent)
        return caught.value, asyncio.all_tasks()

    raised, left = simulate(main)
    assert raised is error
    assert begun[-1] == -1, "calls started after the first failure"
    assert len(left) == 1
    assert raised.report.summary.total == 100
    assert raised.report.individual_results[30].error is error
    assert "its report is in .report" in raised.__notes__[0]


def test_execute_raise_failures_at_the_same_instant():
    """When several fail at the same moment, the first in input order is the one that is raised."""

    async def agent(i):
        await asyncio.sleep(1)
        raise ValueError(i)

    with pytest.raises(ValueError, match="0"):
        execute(range(5), agent, 5, on_error="raise")


def test_execute_raise_an_exception_that_cannot_be_changed():
    """An exception that takes no new attributes still arrives as itself."""

    class Frozen(Exception):
        def __setattr__(self, name, value):
            raise AttributeError(f"{name} is frozen")

    async def agent(_):
        raise Frozen("cold")

    with pytest.raises(Frozen, match="cold"):
        execute([1], agent, on_error="raise")


@pytest.mark.parametrize("limit", [1, 3])
def test_execute_max_failures_stops_at_the_nth(limit: int):
    """Failures are kept until there are too many; then the run stops and says so."""

    async def agent(i):
        await asyncio.sleep(1)
        if i % 2:
            raise OSError(i)

    report = execute(range(100), agent, limit, max_failures=3)
    assert sum(o.status == "failed" for o in report) == 3
    assert report.stopped == "max_failures=3 reached with task 5: OSError: 5"
    assert report.summary.total == 100


@pytest.mark.parametrize("error", [ValueError(), ValueError(""), KeyError(), TimeoutError(), Exception(), OSError()])
def test_execute_error_texts_are_never_empty(error: Exception):
    """An exception without a message is told by its type."""

    async def agent(_):
        raise error

    report = execute([1], agent)
    assert report.individual_results[0].reason.startswith(type(error).__name__)
    assert type(error).__name__ in report._repr_html_()


def test_execute_agent_raising_TimeoutError_itself_counts_as_timeout():
    """A timeout of the agent's own making is told apart from other failures, and keeps its message."""

    async def agent(_):
        async with asyncio.timeout(2):
            await asyncio.sleep(5)

    report = execute([1], agent)
    assert (report.individual_results[0].status, report.summary.makespan) == ("timeout", 2.0)


def test_execute_agent_raising_CancelledError_itself_is_one_cancelled_task():
    """A stray CancelledError is the fate of that task alone; the others are done."""

    async def agent(i):
        await asyncio.sleep(1)
        if i == 1:
            raise asyncio.CancelledError
        return i

    report = execute(range(4), agent)
    assert [o.status for o in report] == ["success", "cancelled", "success", "success"]
    assert report.stopped is None


def test_execute_raise_a_CancelledError_of_the_agents_does_not_cancel_the_caller():
    """The caller was not cancelled, so what it gets must not look as if it were: a task group would swallow it."""

    async def agent(_):
        raise asyncio.CancelledError

    async def main():
        try:
            await ParallelAgentExecutor(2, on_error="raise").execute([1], agent)
        except asyncio.CancelledError:
            return "looks cancelled"
        except Exception as error:
            return error
        return "nothing raised"

    assert isinstance(simulate(main), Exception)


def test_execute_agent_raising_a_BaseException_is_raised_and_recorded():
    """What is not an Exception, as a test framework's abort, goes to the caller, and the log says whose it was."""

    class Abort(BaseException):
        pass

    async def agent(i):
        await asyncio.sleep(1)
        if i == 1:
            raise Abort("stop everything")

    async def main():
        with pytest.raises(Abort) as caught:
            await ParallelAgentExecutor(1).execute(range(3), agent)
        return caught.value

    raised = simulate(main)
    outcome = raised.report.individual_results[1]
    assert (outcome.error, outcome.status) == (raised, "failed")
    assert "source" not in raised.report.stopped


def test_execute_agent_that_cancels_others_is_contained():
    """An agent's own task group, failing inside, is an ordinary failure of that task."""

    async def agent(i):
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(100))
            group.create_task(moody(i))

    report = execute([3], agent)
    assert isinstance(report.individual_results[0].error, ExceptionGroup)
    assert report.summary.makespan == 1.0


def test_execute_async_agent_that_returns_a_coroutine():
    """A forgotten `await` is reported, with the name of what was not awaited, and does not warn later."""

    async def inner():
        return 1

    async def agent(_):
        return inner()

    outcome = execute([1], agent).individual_results[0]
    assert outcome.status == "failed"
    assert "inner() instead of its value; await it in the agent" in outcome.reason


# -- the source fails ---------------------------------------------------------------------------------------------


def _breaks_after(n):
    yield from range(n)
    raise OSError("disk gone")


async def _breaks_later(n):
    for i in range(n):
        yield i
    raise OSError("disk gone")


@pytest.mark.parametrize("source", [_breaks_after, _breaks_later])
def test_execute_failing_source_raises_and_keeps_what_is_paid_for(source: Callable[[int], Any]):
    """What was in flight is finished; then the source's error is raised, with the report."""

    async def main():
        with pytest.raises(OSError, match="disk gone") as caught:
            await ParallelAgentExecutor(3).execute(source(5), moody)
        return caught.value.report

    report = simulate(main)
    assert [o.status for o in report] == ["success", "success", "success", "failed", "success"]
    assert report.stopped == "the source of tasks failed: OSError"


class _BrokenShelf:
    """A sized collection whose third item cannot be read, however often one asks."""

    def __len__(self):
        return 5

    def __iter__(self):
        return _BrokenShelf.Reader()

    class Reader:
        """Breaks at 2 and stays broken."""

        def __init__(self) -> None:
            self.n = -1

        def __iter__(self):
            return self

        def __next__(self):
            if self.n >= 1:
                raise OSError("page missing")
            self.n += 1
            return self.n


def test_execute_failing_source_that_stays_broken_still_has_its_report():
    """A source that fails again when asked again does not cost the report."""

    async def main():
        with pytest.raises(OSError, match="page missing") as caught:
            await ParallelAgentExecutor(1).execute(_BrokenShelf(), nap)
        return caught.value

    error = simulate(main)
    assert [o.status for o in error.report][:2] == ["success", "success"]


@pytest.mark.parametrize("stop", ["within", "cancel"])
def test_execute_failing_source_leaves_the_time_limits_in_force(stop: str):
    """After the source has failed, `within` and cancellation still end what is in flight."""

    async def main():
        executor = ParallelAgentExecutor(2)
        task = asyncio.create_task(
            executor.execute(_breaks_after(1), lambda _: nap(1000), within=5 if stop == "within" else None)
        )
        await asyncio.sleep(5)
        if stop == "cancel":
            task.cancel()
        await asyncio.wait([task])
        return now(), len(asyncio.all_tasks())

    assert simulate(main) == (5.0, 1)


# -- time limits --------------------------------------------------------------------------------------------------


def test_execute_timeout_ends_an_attempt_at_its_instant():
    """Each attempt has `timeout` seconds of its own, counted from its start; in time is in time."""
    report = execute([1, 5, 2, 2.999, 3, 4], nap, 2, timeout=3)
    statuses = [o.status for o in report]
    assert statuses[:4] == ["success", "timeout", "success", "success"]
    assert statuses[5] == "timeout"
    assert [o.latency for o in report if o.status == "timeout" and o.task_id != 4] == [3.0, 3.0]
    assert report.failures[0].reason == "TimeoutError: took longer than timeout=3 s"


def test_execute_timeout_without_any_timeout_running_out():
    """A generous timeout changes nothing, and leaves no timer behind to hold up the clock."""

    async def main():
        report = await ParallelAgentExecutor(2, timeout=1000).execute([1, 2, 3], nap)
        return report.results, now()

    assert simulate(main) == ([1, 2, 3], 4.0)


def test_execute_timeout_of_an_agent_that_cleans_up_slowly():
    """The clean-up of a timed-out attempt is waited for, and counted."""

    async def agent(_):
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(4)

    report = execute([1, 2], agent, 1, timeout=3)
    assert [(o.status, o.started, o.finished) for o in report] == [("timeout", 0.0, 7.0), ("timeout", 7.0, 14.0)]


def test_execute_timeout_of_an_agent_that_swallows_the_cancellation():
    """An agent may turn its cancellation into a result; the next task is not harmed by it."""

    async def agent(i):
        try:
            await asyncio.sleep(10 if i == 0 else 1)
        except asyncio.CancelledError:
            await asyncio.sleep(0.5)
            return "partial"
        return "whole"

    report = execute(range(3), agent, 1, timeout=3)
    assert report.results == ["partial", "whole", "whole"]
    assert [o.finished for o in report] == [3.5, 4.5, 5.5]


def test_execute_timeout_of_an_agent_that_raises_in_finally():
    """An error raised by the clean-up is the failure that is recorded; the next task is not harmed."""

    async def agent(i):
        try:
            await asyncio.sleep(10 if i == 0 else 1)
        finally:
            if i == 0:
                raise RuntimeError("clean-up failed")

    report = execute(range(2), agent, 1, timeout=3)
    assert [o.status for o in report] == ["failed", "success"]
    assert isinstance(report.individual_results[0].error, RuntimeError)
    assert report.summary.makespan == 4.0


def test_execute_timeout_equal_to_the_agents_own():
    """The agent's own `asyncio.timeout` at the very same instant does no harm."""

    async def agent(i):
        async with asyncio.timeout(3):
            await asyncio.sleep(10 if i % 2 else 1)

    report = execute(range(6), agent, 2, timeout=3)
    assert [o.status for o in report] == ["success", "timeout"] * 3
    assert report.stopped is None


def test_execute_deadline_counts_from_submission():
    """Waiting counts: with a deadline of 3 s, what starts at 2 s has 1 s left, and what is too late never starts."""
    report = execute([2, 2, 2, 1], nap, 1, deadline=3)
    assert [(o.status, o.started, o.finished) for o in report] == [
        ("success", 0.0, 2.0),
        ("timeout", 2.0, 3.0),
        ("timeout", None, 3.0),
        ("timeout", None, 3.0),
    ]
    assert report.individual_results[1].reason == "TimeoutError: took longer than deadline=3 s from submission"
    assert report.individual_results[2].reason == "TimeoutError: not started: deadline=3 s from submission had passed"


def test_execute_deadline_counts_from_arrival_for_an_async_source():
    """For an async source the deadline begins when the task arrives."""
    report = execute(_async_generator(4), lambda _: nap(1.5), 4, deadline=2)
    assert [o.status for o in report] == ["success"] * 4


def test_execute_deadline_and_timeout_whichever_is_first():
    """Both may be given; the tighter one ends the attempt and is named."""
    report = execute([10, 10], nap, 1, timeout=4, deadline=6)
    assert [(o.finished, "deadline" in o.reason) for o in report] == [(4.0, False), (6.0, True)]


def test_execute_deadline_while_others_hold_every_slot():
    """A task that waits for a slot of a shared limiter is given up at its deadline, not when a slot comes free."""

    async def main():
        limiter = CapacityLimiter(1)
        await limiter.acquire()
        asyncio.get_running_loop().call_later(100, limiter.release)
        report = await ParallelAgentExecutor(limiter, deadline=5).execute([1], nap)
        return report.individual_results[0].status, now()

    assert simulate(main) == ("timeout", 5.0)


def test_execute_within_bounds_the_whole_run():
    """What is in flight when the time is over counts as timeout, the rest as cancelled; what was done stays."""
    report = execute([1, 2, 3, 4, 5], nap, 2, within=3.5)
    assert [o.status for o in report] == ["success", "success", "timeout", "timeout", "cancelled"]
    assert report.summary.makespan == 3.5
    assert report.stopped == "within=3.5 s is over"
    assert report.individual_results[4].reason == "CancelledError: not started: within=3.5 s is over"


def test_execute_within_that_is_never_reached():
    """A run that is done in time leaves no alarm behind."""

    async def main():
        report = await ParallelAgentExecutor(2).execute([1, 2], nap, within=1e6)
        return report.stopped, now()

    assert simulate(main) == (None, 2.0)


def test_execute_within_also_stops_agents_that_never_wait():
    """Agents that never suspend do not keep the loop for themselves: others have their turns in between."""
    turns = 0

    async def agent(_):
        return 1

    async def ticker():
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async def main():
        task = asyncio.create_task(ticker())
        await ParallelAgentExecutor(10).execute(range(20_000), agent)
        task.cancel()

    simulate(main)
    assert turns >= 20, f"the loop had {turns} turns while 20,000 agents ran"


# -- the aggregator -----------------------------------------------------------------------------------------------


def test_execute_aggregator_gets_all_outcomes():
    """A plain aggregator makes `aggregated` from every outcome, failed ones included."""

    async def main():
        count = lambda outcomes: Counter(o.status for o in outcomes)  # noqa: E731
        return (await ParallelAgentExecutor(2).execute(range(5), moody, count)).aggregated

    assert simulate(main) == {"success": 4, "failed": 1}


def test_execute_aggregator_may_be_async():
    """An async aggregator is awaited; it may itself take time."""

    async def best(outcomes):
        await asyncio.sleep(10)
        return max(o.result for o in outcomes)

    async def main():
        report = await ParallelAgentExecutor(2).execute([1, 3, 2], nap, best)
        return report.aggregated, report["aggregated"], now()

    assert simulate(main) == (3, 3, 13.0)


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_execute_aggregator_that_fails_does_not_cost_the_report(kind: str):
    """The aggregator's own error is raised; what was paid for hangs on it."""

    def plain(outcomes):
        raise ZeroDivisionError("no average of nothing")

    async def later(outcomes):
        plain(outcomes)

    async def main():
        with pytest.raises(ZeroDivisionError) as caught:
            await ParallelAgentExecutor(2).execute([1, 2], nap, plain if kind == "plain" else later)
        return caught.value

    error = simulate(main)
    assert error.report.results == [1, 2]
    assert "raised by the aggregator" in error.__notes__[0]


# -- shared limits ------------------------------------------------------------------------------------------------


def test_execute_shared_limiter_is_fair_and_bounded():
    """Two executors on one limiter: never more than its limit together, and neither waits for the other to finish."""
    limiter = CapacityLimiter(4)
    busy = []

    async def agent(_):
        busy.append(limiter.statistics().in_flight)
        await asyncio.sleep(1)

    async def main():
        one, two = ParallelAgentExecutor(limiter), ParallelAgentExecutor(limiter)
        return await asyncio.gather(one.execute(range(40), agent), two.execute(range(40), agent))

    first, second = simulate(main)
    assert max(busy) == 4
    assert abs(first.summary.makespan - second.summary.makespan) <= 2.0
    assert max(first.summary.makespan, second.summary.makespan) == 20.0
    assert limiter.statistics().in_flight == 0


def test_execute_shared_limiter_with_a_bounded_queue_rejects_and_loses_nothing():
    """With `max_queue`, tasks that would have to wait too long in line are rejected; each has its outcome."""
    limiter = CapacityLimiter(2, max_queue=1)

    async def main():
        one, two = ParallelAgentExecutor(limiter), ParallelAgentExecutor(limiter)
        return await asyncio.gather(*(e.execute(range(20), lambda _: nap(1)) for e in (one, two)))

    reports = simulate(main)
    statuses = Counter(o.status for report in reports for o in report)
    assert set(statuses) == {"success", "rejected"}
    assert sum(statuses.values()) == 40
    assert all("max_queue is 1" in o.reason for report in reports for o in report.failures)
    assert limiter.statistics().in_flight == limiter.statistics().queue_depth == 0
    assert limiter.statistics().peak_queue_depth == 1


def test_execute_nested_on_one_limiter():
    """Agents that run sub-agents on the same limiter finish, and keep to the limit."""
    limiter = CapacityLimiter(2)
    working = peak = 0

    async def leaf(i):
        nonlocal working, peak
        working += 1
        peak = max(peak, working)
        await asyncio.sleep(1)
        working -= 1
        return i

    async def lead(i):
        report = await ParallelAgentExecutor(limiter).execute(range(3), leaf)
        return sum(report.results)

    async def main():
        return (await ParallelAgentExecutor(limiter).execute(range(4), lead)).results

    assert simulate(main) == [3, 3, 3, 3]
    assert peak <= 2
    assert limiter.statistics().in_flight == 0


def test_execute_nested_with_limits_of_their_own():
    """Agents may run sub-agents on another executor."""

    async def lead(i):
        return sum((await ParallelAgentExecutor(2).execute(range(3), nap)).results)

    assert execute(range(3), lead, 1).results == [3, 3, 3]


# -- arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"max_concurrency": -1}, ValueError, "max_concurrency must be 0 or more, got -1; use 0 to run one task"),
        ({"max_concurrency": 2.5}, TypeError, "max_concurrency must be a whole number, got 2.5;"),
        (
            {"max_concurrency": True},
            TypeError,
            "max_concurrency must be a whole number, got True;",
        ),
        ({"max_concurrency": "4"}, TypeError, "max_concurrency must be a whole number, got '4';"),
        ({"timeout": 0}, ValueError, "timeout must be above 0, got 0; give seconds, or None for no limit"),
        ({"timeout": -1.5}, ValueError, "timeout must be above 0, got -1.5; give seconds"),
        ({"timeout": math.nan}, ValueError, "timeout must be a finite number, got nan; give seconds"),
        ({"timeout": "5"}, TypeError, "timeout must be a number, got '5'; give seconds, or None"),
        ({"timeout": True}, TypeError, "timeout must be a number, got True; give seconds"),
        ({"deadline": 0}, ValueError, "deadline must be above 0, got 0; give seconds"),
        ({"on_error": "ignore"}, ValueError, "on_error must be one of collect, stop, raise, got 'ignore'; use 'coll"),
        ({"max_failures": 0}, ValueError, "max_failures must be 1 or more, got 0; use None for no"),
        ({"max_failures": 1.5}, TypeError, "max_failures must be a whole number, got 1.5; use None"),
        ({"pool": 4}, TypeError, "pool must be an Executor, got 4; use None for threads"),
    ],
)
def test_ParallelAgentExecutor_bad_argument(arguments: dict[str, Any], error: type[Exception], message: str):
    """Each bad value is refused at once, with parameter, rule, value and remedy."""
    with pytest.raises(error) as caught:
        ParallelAgentExecutor(**arguments)
    assert str(caught.value).startswith(message)
    assert ";" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("one text", nap),
            "tasks must be an iterable of tasks, not a single string, got 'one text'; put it in a list",
        ),
        ((b"bytes", nap), "tasks must be an iterable of tasks, not a single string, got b'bytes'; put it in a list"),
        ((7, nap), "tasks must be an iterable or async iterable, got 7; put a single task in a list"),
        (([1], None), "agent_fn must be a function of one task, got None; write `async def agent(task): …`"),
        (([1], "nap"), "agent_fn must be a function of one task, got 'nap'; write"),
        (([1], nap, "sum"), "aggregator must be a function, got 'sum'; use None for none"),
    ],
)
def test_execute_bad_argument(arguments: tuple[Any, ...], message: str):
    """Bad tasks, agents and aggregators are refused before anything starts."""

    async def main():
        with pytest.raises(TypeError) as caught:
            await ParallelAgentExecutor(2).execute(*arguments)
        return str(caught.value)

    assert simulate(main).startswith(message)


def test_execute_coroutine_instead_of_a_function():
    """An agent that was called by mistake is refused, and closed, so that no second warning follows."""
    called = nap(1)

    async def main():
        with pytest.raises(TypeError, match="got a coroutine; hand in the function without calling it"):
            await ParallelAgentExecutor(2).execute([1], called)

    simulate(main)
    assert called.cr_frame is None


@pytest.mark.parametrize("within", [0, -1, math.nan])
def test_execute_bad_within(within: float):
    """`within` is checked like the other time limits."""
    with pytest.raises(ValueError, match=r"within must be (above 0|a finite number), got"):
        execute([1], nap, within=within)


def test_execute_endless_time_limits_are_none():
    """Infinity is a valid way to say that there is no bound."""
    report = execute([1, 2], nap, timeout=math.inf, deadline=math.inf, within=math.inf)
    assert (report.results, report.summary.makespan) == ([1, 2], 2.0)


def test_start_outside_a_coroutine():
    """Without a running loop there is one clear error."""
    with pytest.raises(RuntimeError, match="no running event loop"):
        ParallelAgentExecutor(2).start([1], nap)


def test_ParallelAgentExecutor_repr_shows_its_limit():
    """The repr tells the limiter's state, or that it is serial."""
    assert repr(ParallelAgentExecutor(4)) == "<ParallelAgentExecutor CapacityLimiter 0 of 4 in flight, 0 waiting>"
    assert repr(ParallelAgentExecutor(0)) == "<ParallelAgentExecutor serial>"


# -- figures ------------------------------------------------------------------------------------------------------

_FATES = st.sampled_from(["ok", "ok", "ok", "fail", "slow", "cancelled"])
_TASKS = st.lists(st.tuples(st.integers(0, 8), _FATES), max_size=25)


@given(
    _TASKS,
    st.sampled_from(LIMITS),
    st.sampled_from([None, 5]),
    st.sampled_from([None, 9]),
    st.sampled_from([None, 7]),
    st.sampled_from([{}, {}, {"on_error": "stop"}, {"max_failures": 2}]),
)
def test_execute_summary_invariants(tasks, limit, timeout, deadline, within, policy):
    """Whatever happens: each task has one outcome in input order, and the figures agree with each other."""

    async def agent(task):
        seconds, fate = task
        seconds += 100 if fate == "slow" else 0
        await asyncio.sleep(seconds)
        if fate == "fail":
            raise ValueError(fate)
        if fate == "cancelled":
            raise asyncio.CancelledError
        return seconds

    report = execute(tasks, agent, limit, within, timeout=timeout, deadline=deadline, **policy)
    summary = report.summary
    assert [o.task_id for o in report] == list(range(len(tasks)))
    assert [o.task for o in report] == tasks
    assert summary.succeeded + summary.failed == summary.total == len(tasks)
    assert sum(summary.by_status.values()) == summary.total
    assert summary.peak_in_flight <= (math.inf if limit is None else max(limit, 1))
    assert summary.makespan >= max((o.latency for o in report if o.latency is not None), default=0.0)
    assert (report.stopped is None) or within or policy
    for o in report:
        assert (o.status == "success") == (o.error is None) == (o.reason == "")
        assert o.started is None or o.submitted <= o.started <= o.finished
        assert o.status != "success" or o.latency == o.result
        assert timeout is None or o.latency is None or o.latency <= timeout
        assert deadline is None or o.finished is None or o.finished <= deadline
    assert within is None or summary.makespan <= within


# -- memory -------------------------------------------------------------------------------------------------------


def _peak_of_stream(count: int) -> int:
    """Stream that many tasks, drop the outcomes, and return the most bytes that were in use."""

    async def agent(i):
        return i

    async def main():
        seen = 0
        async for outcome in ParallelAgentExecutor(50).stream(range(count), agent):
            seen += outcome.result == outcome.task_id
        return seen

    tracemalloc.start()
    try:
        assert simulate(main) == count
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_stream_memory_does_not_grow_with_the_input():
    """Streamed and dropped, three times the tasks need the same memory: well under half a megabyte."""
    few, many = _peak_of_stream(20_000), _peak_of_stream(60_000)
    assert many < 500_000
    assert many < few + 20_000
