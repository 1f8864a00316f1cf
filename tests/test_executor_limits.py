"""The executor with everything on: retries, rates, adaptive limits, cost hints, a progress bar."""

from __future__ import annotations

import asyncio
import contextvars
import sys
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

from agentkit import AdaptiveLimiter, ChatAgent, ParallelAgentExecutor, RateLimiter, RetryPolicy, Usage
from agentkit.lab import Faults, Limits, Provider, simulate


class Refused(Exception):
    """A 429 as the openai client raises it."""

    status_code, code = 429, "rate_limit_exceeded"


def policy(**options: Any) -> RetryPolicy:
    """Return a policy whose waits are exact: 1, 2, 4 s."""
    return RetryPolicy(**{"attempts": 4, "wait_initial": 1.0, "jitter": "none", "budget": None, **options})


def failing(times: int, error: type[Exception] = TimeoutError) -> Any:
    """Return an agent that needs a second and fails that many times for each task, and a log of its calls."""
    calls: list[tuple[int, float]] = []

    async def agent(task: int) -> str:
        calls.append((task, asyncio.get_running_loop().time()))
        await asyncio.sleep(1)
        if sum(number == task for number, _ in calls) <= times:
            raise error(f"try {len(calls)}")
        return f"answer {task}"

    return agent, calls


def execute(tasks: Any, agent: Any, *args: Any, **options: Any) -> Any:
    """Run an executor in virtual time and return its report."""
    how = {name: options.pop(name) for name in ("within", "cost") if name in options}

    async def main() -> Any:
        return await ParallelAgentExecutor(*args, **options).execute(tasks, agent, **how)

    return simulate(main)


# -- retries ------------------------------------------------------------------------------------------------------


def test_retry_until_it_succeeds():
    """A task that fails twice is tried three times, after 1 and 2 seconds, and all attempts are in its outcome."""
    agent, calls = failing(2)
    report = execute([0], agent, 1, retry=policy())
    assert calls == [(0, 0.0), (0, 2.0), (0, 5.0)]
    [outcome] = report
    assert (outcome.status, outcome.started, outcome.finished) == ("success", 0.0, 6.0)
    assert [(a.started, a.finished, type(a.error)) for a in outcome.attempts] == [
        (0.0, 1.0, TimeoutError),
        (2.0, 3.0, TimeoutError),
        (5.0, 6.0, type(None)),
    ]
    assert report.summary.retries == 2


def test_retry_gives_up_with_the_last_error():
    """When the attempts are used up the outcome has the last error, and the status that goes with it."""
    agent, calls = failing(9)
    [outcome] = execute([0], agent, 1, retry=policy(attempts=2))
    assert (len(calls), outcome.status, str(outcome.error)) == (2, "timeout", "try 2")
    assert len(outcome.attempts) == 2


def test_retry_programming_errors_are_not_tried_again():
    """A KeyError comes back each time, so it is not retried."""
    agent, calls = failing(9, KeyError)
    [outcome] = execute([0], agent, 1, retry=policy())
    assert (len(calls), outcome.status) == (1, "failed")


def test_retry_backing_off_holds_no_slot():
    """While one task backs off, the next has the only slot."""
    agent, calls = failing(1)
    report = execute([0, 1, 2], agent, 1, retry=policy())
    assert [task for task, _ in calls] == [0, 1, 0, 1, 2, 2]
    assert report.summary.peak_in_flight == 1
    assert report.summary.makespan == 7.0


def test_retry_statistics_tell_who_backs_off():
    """A run says how many tasks wait to be tried again; they count neither as waiting nor as in flight."""
    agent, _ = failing(1)

    async def main() -> Any:
        run = ParallelAgentExecutor(2, retry=policy()).start([0, 1], agent)
        await asyncio.sleep(1.5)
        seen = run.statistics()
        await run
        return seen

    seen = simulate(main)
    assert (seen.waiting, seen.in_flight, seen.backing_off, seen.failed) == (0, 0, 2, 0)


@pytest.mark.parametrize("how", ["cancel", "within", "leave", "stop"])
def test_retry_ended_while_backing_off(how: str, strays: Any):
    """A run that ends early takes those that back off with it: each has an outcome, and no timer is left."""
    agent, calls = failing(9)

    async def breaks(task: int) -> Any:
        if task == 1:
            await asyncio.sleep(1.5)
            raise KeyError(task)
        return await agent(task)

    async def main() -> Any:
        stop = how == "stop"
        executor = ParallelAgentExecutor(
            2, retry=policy(wait_initial=1000, wait_max=1000), on_error="stop" if stop else "collect"
        )
        run = executor.start(
            [0, 1] if stop else [0], breaks if stop else agent, within=1.5 if how == "within" else None
        )
        await asyncio.sleep(1.5)
        if how == "leave":
            async with run:
                pass
        elif how == "cancel":
            run.cancel()
        report = await run
        return report, asyncio.get_running_loop().time(), strays()

    report, end, left = simulate(main)
    assert (end, left, len(calls)) == (1.5, [], 1)
    assert report.individual_results[0].status == ("timeout" if how == "within" else "cancelled")
    assert report.individual_results[0].finished == 1.5


def test_retry_that_could_not_end_before_the_deadline_is_not_made():
    """A back-off that reaches past the deadline is not waited for: the failure stands."""
    agent, calls = failing(9)
    [outcome] = execute([0], agent, 1, retry=policy(wait_initial=10), deadline=8)
    assert (len(calls), outcome.finished, outcome.status) == (1, 1.0, "timeout")


def test_retry_while_paused_waits_for_resume():
    """A task whose back-off ends during a pause is tried again after it."""
    agent, calls = failing(1)

    async def main() -> Any:
        run = ParallelAgentExecutor(1, retry=policy()).start([0], agent)
        await asyncio.sleep(1.5)
        run.pause()
        await asyncio.sleep(8.5)
        run.resume()
        return await run

    report = simulate(main)
    assert (report.results, [at for _, at in calls]) == (["answer 0"], [0.0, 10.0])


@pytest.mark.parametrize("ordered", [False, True])
def test_retry_in_a_stream_with_a_full_window(ordered: bool):
    """Tasks that back off fill the window of a stream; they are tried again all the same, and every one comes out."""
    agent, _ = failing(2)

    async def main() -> Any:
        stream = ParallelAgentExecutor(2, retry=policy()).stream(range(30), agent, ordered=ordered)
        return [outcome.task_id async for outcome in stream if outcome.status == "success"]

    got = simulate(main)
    assert sorted(got) == list(range(30))
    assert got == list(range(30)) or not ordered


def test_retry_with_a_slow_source():
    """A retry does not have to wait until a slow source brings the next task."""
    agent, calls = failing(1)

    async def pages() -> Any:
        yield 0
        await asyncio.sleep(1000)
        yield 1

    report = execute(pages(), agent, 2, retry=policy())
    assert calls[:2] == [(0, 0.0), (0, 2.0)]
    assert report.summary.succeeded == 2


def test_retry_the_provider_is_obeyed():
    """A herd against 300 requests a minute: every task succeeds, and nobody comes back before the time it was told."""

    async def main() -> Any:
        provider = Provider("lesson")
        agent = ChatAgent("herd", client=provider.client())
        report = await ParallelAgentExecutor(50, retry=RetryPolicy(attempts=10)).execute(range(60), agent)
        return report, provider.statistics()

    report, seen = simulate(main)
    assert report.summary.succeeded == 60
    assert report.summary.retries == sum(seen.refused.values())


# -- rates --------------------------------------------------------------------------------------------------------


def test_rate_limiter_no_call_is_refused():
    """At the provider's own rate every call is let in, and the limiter does not dawdle."""

    async def main() -> Any:
        provider = Provider("lesson")
        executor = ParallelAgentExecutor(100, rate_limiter=RateLimiter(300))
        report = await executor.execute(range(100), ChatAgent("paced", client=provider.client()))
        return report, provider.statistics()

    report, seen = simulate(main)
    assert (report.summary.succeeded, dict(seen.refused)) == (100, {})
    starts = sorted(outcome.started for outcome in report)
    assert starts[-1] == pytest.approx(99 * 0.2)


def test_rate_limiter_tokens_are_corrected_by_usage():
    """What an answer really cost replaces the estimate, so that later calls need not wait for nothing."""
    limiter = RateLimiter(tokens_per_minute=1000, estimate=lambda task: 500)

    async def agent(_: int) -> Any:
        await asyncio.sleep(1)
        return SimpleNamespace(usage=Usage(1, 10, 40))

    report = execute(range(10), agent, 10, rate_limiter=limiter)
    assert limiter.statistics().tokens == 500
    assert report.summary.makespan < 60


def test_rate_limiter_what_can_never_fit_is_rejected():
    """A task larger than the limit itself is rejected at once; the others run."""
    limiter = RateLimiter(tokens_per_minute=100, estimate=len)
    report = execute(["a", "b" * 500, "c"], lambda task: task, 2, rate_limiter=limiter)
    assert [o.status for o in report] == ["success", "rejected", "success"]
    assert "500" in report.individual_results[1].reason


def test_rate_limiter_shared_by_two_executors():
    """Two executors with one limiter start no more than its rate together."""
    starts: list[float] = []

    async def agent(_: int) -> None:
        starts.append(asyncio.get_running_loop().time())

    async def main() -> None:
        limiter = RateLimiter(60)
        both = [ParallelAgentExecutor(5, rate_limiter=limiter).execute(range(5), agent) for _ in range(2)]
        await asyncio.gather(*both)

    simulate(main)
    assert starts == pytest.approx(range(10))


# -- adaptive limits ----------------------------------------------------------------------------------------------


def test_adaptive_limit_finds_what_the_provider_takes():
    """Told nothing, it ends near the thirty that a provider serves at once, and few calls are refused."""
    busy, most, refusals = 0, 30, count()

    async def agent(_: int) -> str:
        nonlocal busy
        if busy >= most:
            next(refusals)
            raise Refused("too many at once")
        busy += 1
        try:
            await asyncio.sleep(2)
        finally:
            busy -= 1
        return "served"

    limiter = AdaptiveLimiter(5, max_limit=200)
    report = execute(range(2000), agent, limiter, retry=RetryPolicy(attempts=20, budget=None))
    assert report.summary.succeeded == 2000
    assert 20 <= limiter.limit <= 32
    assert next(refusals) <= 60
    assert len(report.limits) > 5
    assert report.summary.makespan <= 1.2 * 2000 * 2 / most


def test_adaptive_limit_is_not_moved_by_other_errors():
    """A bug in the agent says nothing about the provider: the limit stays."""
    limiter = AdaptiveLimiter(5)

    async def agent(_: int) -> None:
        await asyncio.sleep(1)
        raise KeyError("bug")

    execute(range(50), agent, limiter)
    assert limiter.limit == 5


# -- the rest -----------------------------------------------------------------------------------------------------


def test_cost_longest_first_shortens_the_tail():
    """With the longest first the run ends sooner; the results stand in input order all the same."""
    tasks = [1, 1, 1, 1, 4]
    plain = execute(tasks, asyncio.sleep, 2)
    sorted_first = execute(tasks, asyncio.sleep, 2, cost=lambda seconds: seconds)
    assert (plain.summary.makespan, sorted_first.summary.makespan) == (6.0, 4.0)
    assert [o.task for o in sorted_first] == tasks
    assert [o.task_id for o in sorted_first] == [0, 1, 2, 3, 4]
    assert sorted_first.individual_results[4].started == 0


def test_cost_stopped_early_every_task_has_its_outcome():
    """Also with another order of starts, those that never started are in the report under their own number."""
    report = execute([1, 2, 3], asyncio.sleep, 1, cost=lambda seconds: seconds, within=3.5)
    assert [(o.task_id, o.task, o.status) for o in report] == [
        (0, 1, "cancelled"),
        (1, 2, "timeout"),
        (2, 3, "success"),
    ]


@pytest.mark.parametrize(("tasks", "cost"), [(iter([1]), len), ([1], "long"), (range(0), 3)])
def test_cost_refuses_what_cannot_be_sorted(tasks: Any, cost: Any):
    """Sorting needs all tasks and a function."""
    with pytest.raises(TypeError, match="cost"):
        execute(tasks, asyncio.sleep, 1, cost=cost)


def test_each_attempt_has_a_context_of_its_own():
    """What an agent leaves in a context variable is gone for the next task."""
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)

    async def agent(i: int) -> int:
        before = variable.get()
        variable.set(i)
        await asyncio.sleep(1)
        return before

    assert execute([1, 2, 3], agent, 1).results == [0, 0, 0]


def test_timeout_reaches_the_agent_in_its_own_task():
    """A timeout reaches the agent in its own task."""
    ended: list[int] = []

    async def agent(i: int) -> None:
        try:
            await asyncio.sleep(i)
        finally:
            ended.append(i)

    report = execute([1, 9], agent, 2, timeout=3)
    assert ([o.status for o in report], ended, report.summary.makespan) == (["success", "timeout"], [1, 9], 3.0)


def test_progress_is_silent_where_nobody_looks(capsys: Any):
    """Without a terminal and outside a notebook there is no bar, and no output."""
    execute([1, 2], asyncio.sleep, 2, progress=True)
    assert capsys.readouterr().err == "" or "ipykernel" in sys.modules


def test_progress_counts_every_outcome(monkeypatch: Any):
    """The bar moves once per outcome, whatever its status, and is closed at the end."""
    seen: list[Any] = []
    bar = SimpleNamespace(update=lambda: seen.append(1), close=lambda: seen.append("closed"))
    monkeypatch.setattr("agentkit.executor.dispatch.open_bar", lambda total: seen.append(total) or bar)
    execute([1, 2, 9], asyncio.sleep, 2, progress=True, timeout=5)
    assert seen == [3, 1, 1, 1, "closed"]


@pytest.mark.parametrize(("name", "value"), [("rate_limiter", 300), ("retry", 3)])
def test_arguments_of_the_wrong_kind_name_the_remedy(name: str, value: Any):
    """A number where an object is wanted is a clear error."""
    with pytest.raises(TypeError, match=f"{name} must be a"):
        ParallelAgentExecutor(2, **{name: value})


def test_everything_on_at_once():
    """Retries, rate, adaptive limit, time limits and faults together: every task has one outcome."""

    async def main() -> Any:
        provider = Provider(
            "open", limits=Limits(requests_per_minute=600, quantum=1), faults=Faults({"server_error": 0.1})
        )
        executor = ParallelAgentExecutor(
            AdaptiveLimiter(10),
            rate_limiter=RateLimiter(600),
            retry=RetryPolicy(attempts=6, budget=None),
            timeout=60,
            deadline=600,
        )
        report = await executor.execute(range(300), ChatAgent("all", client=provider.client(), max_tokens=100))
        return report, executor.limiter.statistics()

    report, limiter = simulate(main)
    assert [o.task_id for o in report] == list(range(300))
    assert report.summary.succeeded == 300
    assert report.summary.retries > 10
    assert limiter.in_flight == 0
    assert "retries" in repr(report.plot("timeline"))
