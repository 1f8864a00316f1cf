"""A hundred research questions three ways, and a million items through a pipeline.

Run with `make bench`. The first prints makespan, bound, calls, tokens and refusals of sequential, parallel and
coordinated work against one provider, in virtual time: exact, and the same on every machine. The second prints
throughput and memory of three stages with a slow middle: throughput in virtual time, memory in blocks of the
interpreter.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from typing import Any

import pytest

from agentkit.agent import ChatAgent
from agentkit.executor import ParallelAgentExecutor
from agentkit.lab import plots
from agentkit.lab.answers import teaching_answer
from agentkit.lab.clock import simulate
from agentkit.lab.provider import Provider
from agentkit.orchestration import CoordinatorOrchestrator, ParallelOrchestrator, Pipeline, SequentialOrchestrator
from agentkit.ratelimit import RateLimiter
from agentkit.report import Report
from agentkit.retry import RetryPolicy

QUESTIONS = [f"Question {i}: what decides the outcome of case {i}?" for i in range(100)]
WHO = ("economist", "engineer", "lawyer")
PER_MINUTE = 500  # of preset tier1-mini
ITEMS = 1_000_000


class World:
    """A provider with its specialists, and an executor that keeps to the account's limits."""

    def __init__(self, limit: int) -> None:
        self.provider = Provider("tier1-mini", seed=6, answer=answer)
        client = self.provider.client()
        self.team = [ChatAgent(name, f"You are an {name}.", client=client, max_tokens=300) for name in WHO]
        self.planner = ChatAgent("planner", "Plan the work.", client=client, max_tokens=300)
        self.lead = ChatAgent("writer", "Join the findings.", client=client, max_tokens=300)
        pace = RateLimiter(requests_per_minute=PER_MINUTE)
        self.executor = ParallelAgentExecutor(limit, rate_limiter=pace, retry=RetryPolicy())


async def sequential(world: World) -> Report:
    """One question after another, one specialist after another."""

    async def work(question: str) -> Any:
        return await SequentialOrchestrator(executor=world.executor).run(world.team, [question] * 3)

    return await ParallelAgentExecutor(1).execute(QUESTIONS, work)


async def parallel(world: World) -> Report:
    """All questions and all specialists at once."""

    async def work(question: str) -> Any:
        return await ParallelOrchestrator(executor=world.executor).run(world.team, [question] * 3)

    return await ParallelAgentExecutor(None).execute(QUESTIONS, work)


async def coordinated(world: World) -> Report:
    """A lead per question: a plan, three specialists, a summary."""
    team = CoordinatorOrchestrator(world.planner, world.team, world.lead, executor=world.executor)
    return await ParallelAgentExecutor(None).execute(QUESTIONS, team)


def answer(request: Any) -> str:
    """Plan when asked for a plan; else what the provider says by itself."""
    if "Answer with a JSON object" in request.prompt:
        return json.dumps({name: f"As {name}: {request.prompt.splitlines()[0]}" for name in WHO})
    return teaching_answer(request)


def bound(way: Any, log: Any) -> float:
    """No client could be quicker with these calls in this order, by the provider's log.

    One at a time: the sum of the answers. Otherwise the account's rate: the n-th call cannot start before its turn, and
    its answer takes as long as it takes.
    """
    seconds = [call.finished - call.arrived for call in log]
    if way is sequential:
        return sum(seconds)
    return max(place * 60 / PER_MINUTE + lasted for place, lasted in enumerate(seconds))


def row(way: Any, limit: int) -> tuple[dict[str, Any], Report]:
    """Run one way on a fresh provider; every number is the provider's own."""

    async def main() -> tuple[dict[str, Any], Report]:
        world, began = World(limit), asyncio.get_running_loop().time()
        report = await way(world)
        makespan, seen = asyncio.get_running_loop().time() - began, world.provider.statistics()
        least = bound(way, world.provider.log)
        assert report.summary.succeeded == len(QUESTIONS)
        return {
            "way": way.__name__, "makespan": makespan, "bound": least, "ratio": makespan / least,
            "calls": seen.arrivals, "tokens": seen.tokens_used, "429s": sum(seen.refused.values()),
        }, report  # fmt: skip

    return simulate(main)


def test_a_hundred_questions_three_ways():
    """Each way is within 1.1 of its bound, and no call is refused."""
    import pandas

    rows, reports = zip(*[row(sequential, 1), row(parallel, 100), row(coordinated, 100)], strict=True)
    frame = pandas.DataFrame(rows).set_index("way")
    print("\n", frame.round(3).to_string())
    print("\n", plots.compare(*reports, labels=list(frame.index)))
    assert (frame["ratio"] <= 1.1).all()
    assert list(frame["calls"]) == [300, 300, 500]
    assert (frame["429s"] == 0).all()


@pytest.mark.timeout(1200)
def test_a_million_items_through_three_stages():
    """Memory does not grow with the items, and the slow middle works all the time."""

    async def quick(item: int) -> int:
        return item

    async def slow(item: int) -> int:
        await asyncio.sleep(0.01)
        return item

    async def main() -> tuple[float, list[int]]:
        loop, memory, seen = asyncio.get_running_loop(), [], 0
        began = loop.time()
        async with Pipeline([(quick, 4), (slow, 8), (quick, 4)], max_queue=16).stream(iter(range(ITEMS))) as flow:
            async for _ in flow:
                seen += 1
                if seen % (ITEMS // 10) == 0:
                    gc.collect()
                    memory.append(sys.getallocatedblocks())
        assert seen == ITEMS
        return ITEMS * 0.01 / 8 / (loop.time() - began), memory

    share, memory = simulate(main)
    print(f"\n {ITEMS:,} items: {share:.4f} of the slowest stage's throughput; memory blocks at each tenth: {memory}")
    assert share >= 0.95
    assert max(memory) - memory[0] < 2_000  # a block is one small object; an item kept would be a million of them
