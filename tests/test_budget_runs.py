"""Runs within a budget, by the provider's own count; nothing that was paid for is lost."""

from __future__ import annotations

import asyncio
import itertools
from types import SimpleNamespace

import pytest

from agentkit import ChatAgent, ParallelAgentExecutor, RateLimiter, RetryPolicy, Usage
from agentkit.agent.reply import Reply
from agentkit.journal import Journal
from agentkit.lab.loops.virtual import simulate
from agentkit.lab.provider.faults import Faults
from agentkit.lab.provider.provider import Provider
from agentkit.limits import Budget, BudgetExceeded

TOKENS, COST = 20_000, 250
MOST = 5 + 250  # tokens of a prompt below and its answer, at most


def fifty(budget, *, count=400, seed=0, faults=None, **options):
    """Fifty agents at once ask `count` questions; the report, and what the provider counted."""

    async def main():
        provider = Provider("open", seed=seed, faults=faults)
        agent = ChatAgent("asker", client=provider.client(), max_tokens=COST)
        executor = ParallelAgentExecutor(50, budget=budget, **options)
        return await executor.execute([f"Question {i:03}?" for i in range(count)], agent), provider.statistics()

    return simulate(main)


@pytest.mark.parametrize("seed", range(3))
def test_Budget_is_exceeded_by_calls_in_flight_at_most(seed):
    """Fifty in flight: tokens and money go over by no more than what those fifty use; calls do not go over at all."""
    budget = Budget(tokens=TOKENS)
    report, provider = fifty(budget, seed=seed)
    assert TOKENS < provider.tokens_used <= TOKENS + 50 * MOST
    assert budget.statistics().used.tokens == provider.tokens_used
    report, provider = fifty(Budget(calls=77), seed=seed)
    assert provider.arrivals == 77
    assert report.summary.by_status == {"success": 77, "rejected": 323}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("faults", [None, Faults(rates={"server_error": 0.1, "cut": 0.1})], ids=["calm", "faults"])
def test_Budget_with_reserve_is_never_exceeded(seed, faults):
    """By the provider's own count, also where calls fail half-way and are tried again; and it is nearly used up."""
    budget = Budget(tokens=TOKENS, reserve=True)
    report, provider = fifty(budget, seed=seed, faults=faults, retry=RetryPolicy(wait_initial=0.1))
    assert provider.tokens_used <= TOKENS
    assert provider.tokens_used <= budget.statistics().used.tokens <= TOKENS
    assert provider.tokens_used >= TOKENS - 2 * MOST or faults
    assert budget.statistics().in_flight == budget.statistics().queue_depth == 0
    assert report.summary.by_status["rejected"] > 0


def test_Budget_money_with_reserve_is_never_exceeded():
    """Money is tokens by price."""
    budget = Budget(money=0.01, prices=(0.15, 0.60), reserve=True)
    _, provider = fifty(budget)
    assert 0.009 < budget.statistics().used.money <= 0.01
    assert budget.statistics().used.tokens == provider.tokens_used


def test_Budget_that_runs_out_says_how_many_tasks_did_not_start():
    """The run ends with its report; what was in flight is in it; the rest is rejected with the reason."""
    report, provider = fifty(Budget(tokens=TOKENS))
    not_started = 400 - report.summary.succeeded
    assert report.summary.succeeded == provider.completed == provider.arrivals
    assert report.stopped.startswith(f"{not_started} of 400 tasks not started: 20,000 tokens allowed, ")
    assert ", the next needs about " in report.stopped
    assert all(isinstance(o.error, BudgetExceeded) and not o.attempts for o in report.failures)


def test_Budget_raises_where_the_run_is_told_to_raise():
    """The error carries the report."""
    with pytest.raises(BudgetExceeded, match=r"of 400 tasks not started: 77 calls allowed, 77 used") as caught:
        fifty(Budget(calls=77), on_error="raise")
    assert caught.value.report.summary.total == 400


@pytest.mark.parametrize("kind", ["generator", "async"])
def test_Budget_ends_a_run_over_an_endless_source(kind):
    """What has no end cannot be rejected task by task; the run takes nothing more."""

    async def endless():
        for i in itertools.count():
            yield i

    async def agent(task):
        await asyncio.sleep(1)
        return Reply("x", Usage(1, 10, 0))

    async def main():
        tasks = itertools.count() if kind == "generator" else endless()
        return await ParallelAgentExecutor(5, budget=Budget(tokens=1_000)).execute(tasks, agent)

    report = simulate(main)
    assert 100 <= report.summary.succeeded <= 105
    assert 1 <= report.summary.by_status["rejected"] <= 5


def test_Budget_ends_a_run_whose_source_never_says_another_word():
    """An async source that waits for ever does not keep a run open that may start nothing more."""

    async def talk_then_wait():
        yield 1
        yield 2
        yield 3
        await asyncio.Event().wait()

    async def agent(task):
        await asyncio.sleep(1)
        return Reply("x", Usage(1, 10, 0))

    async def main():
        return await ParallelAgentExecutor(5, budget=Budget(calls=2)).execute(talk_then_wait(), agent)

    assert simulate(main).summary.by_status == {"success": 2, "rejected": 1}


def test_Budget_is_shared_between_executors_and_can_be_raised_meanwhile():
    """Two runs spend from one budget; raising it lets both go on."""

    async def agent(task):
        await asyncio.sleep(1)
        return Reply("x", Usage(1, 10, 0))

    async def main():
        budget = Budget(tokens=100, reserve=True, estimate=lambda task: 10)
        runs = [ParallelAgentExecutor(3, budget=budget).start(range(20), agent) for _ in range(2)]
        await asyncio.sleep(1.5)
        budget.tokens = 200
        reports = [await run for run in runs]
        return sum(len(report.results) for report in reports), budget.statistics().used.tokens

    assert simulate(main) == (20, 200)


def test_Budget_of_a_nested_run_is_counted_once_and_does_not_lock_itself_out():
    """A task that runs others under the same budget hands on what was set aside for it."""

    async def specialist(task):
        await asyncio.sleep(1)
        return Reply("x", Usage(1, 10, 0))

    async def main():
        budget = Budget(tokens=100, reserve=True, estimate=lambda task: 10)
        inner, outer = (ParallelAgentExecutor(10, budget=budget) for _ in range(2))

        async def lead(task):
            report = await inner.execute(range(2), specialist)
            return SimpleNamespace(usage=report.summary.usage)

        report = await outer.execute(range(5), lead)
        return report.summary.succeeded, budget.statistics()

    succeeded, now = simulate(main)
    assert succeeded == 5
    assert (now.used.calls, now.used.tokens, now.in_flight) == (10, 100, 0)


def test_Budget_counts_a_call_that_timed_out_as_the_provider_does():
    """Hanging up does not get the money back."""

    async def main():
        provider = Provider("open")
        agent = ChatAgent("asker", client=provider.client(), max_tokens=COST)
        budget = Budget(tokens=TOKENS, reserve=True)
        executor = ParallelAgentExecutor(10, budget=budget, timeout=0.6)
        report = await executor.execute([f"Question {i:03}?" for i in range(60)], agent)
        return report, provider.statistics(), budget.statistics()

    report, provider, now = simulate(main)
    assert report.summary.by_status["timeout"] > 5
    assert provider.abandoned > 5
    assert provider.tokens_used <= now.used.tokens <= TOKENS


def test_Budget_gives_back_what_a_cancelled_or_late_task_had_not_used():
    """Waiting for the rate, or past its deadline, a task has made no call."""

    async def agent(task):
        return Reply("x", Usage(1, 10, 0))

    async def main():
        budget = Budget(tokens=1_000, reserve=True, estimate=lambda task: 10)
        executor = ParallelAgentExecutor(
            10, budget=budget, rate_limiter=RateLimiter(requests_per_minute=60), deadline=4.5
        )
        report = await executor.execute(range(30), agent, within=20)
        return report.summary.succeeded, budget.statistics()

    succeeded, now = simulate(main)
    assert 0 < succeeded < 30
    assert (now.used.calls, now.in_flight, now.held.tokens) == (succeeded, 0, 0)


def test_Budget_is_not_touched_by_what_a_journal_knows(tmp_path):
    """A run that ran out is resumed with more money, and pays only for the rest."""

    async def agent(task):
        await asyncio.sleep(1)
        return Reply("x", Usage(1, 10, 0))

    async def main(tokens):
        budget = Budget(tokens=tokens, reserve=True, estimate=lambda task: 10)
        executor = ParallelAgentExecutor(5, budget=budget, journal=Journal(tmp_path / "j"))
        return await executor.execute(range(30), agent), budget.statistics().used.tokens

    report, used = simulate(main, 200)
    assert (report.summary.by_status, used) == ({"success": 20, "rejected": 10}, 200)
    report, used = simulate(main, 200)
    assert (report.summary.by_status, used) == ({"success": 30}, 100)


def test_executor_refuses_what_is_no_budget_and_no_journal():
    """Each error names the parameter and the remedy."""
    with pytest.raises(TypeError, match=r"budget must be a Budget, got 100; make one with Budget"):
        ParallelAgentExecutor(budget=100)
    with pytest.raises(TypeError, match=r"journal must be a Journal, got 'runs.jsonl'; make one with Journal"):
        ParallelAgentExecutor(journal="runs.jsonl")
