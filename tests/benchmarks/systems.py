"""How each library runs one agent over many tasks, a bounded number at a time; used by `probes.py`.

Each way is an async function of (agent, tasks, at_once). It imports its library inside, so that a process which
measures one of them loads no other. Libraries are used as their documentation shows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

Agent = Callable[[Any], Awaitable[Any]]
Way = Callable[[Agent, Iterable[Any], int], Awaitable[Any]]


async def bare(agent: Agent, tasks: Iterable[Any], at_once: int) -> list[Any]:
    """What everybody writes first, and the unit of every ratio: a semaphore, and gather over all tasks."""
    slots = asyncio.Semaphore(at_once)

    async def one(task: Any) -> Any:
        async with slots:
            return await agent(task)

    return await asyncio.gather(*(one(task) for task in tasks))


async def agentkit(agent: Agent, tasks: Iterable[Any], at_once: int) -> Any:
    """Plain `execute`: an outcome record per task."""
    from agentkit import ParallelAgentExecutor

    return await ParallelAgentExecutor(at_once, on_error="raise").execute(tasks, agent)


async def agentkit_map(agent: Agent, tasks: Iterable[Any], at_once: int) -> Any:
    """Plain `map`: results and nothing else, as the others keep them."""
    from agentkit import ParallelAgentExecutor

    return await ParallelAgentExecutor(at_once).map(tasks, agent)


async def agentkit_isolated(agent: Agent, tasks: Iterable[Any], at_once: int) -> Any:
    """A timeout per attempt, a retry policy with its budget, an asyncio task and a context for each attempt."""
    from agentkit import ParallelAgentExecutor, RetryPolicy

    executor = ParallelAgentExecutor(at_once, timeout=30, retry=RetryPolicy(), on_error="raise")
    run = executor.start(tasks, agent)
    run.statistics()
    return await run


async def agentkit_stream(agent: Agent, tasks: Iterable[Any], at_once: int) -> None:
    """Outcomes as they finish, dropped; with timeout and retries."""
    from agentkit import ParallelAgentExecutor, RetryPolicy

    async for _ in ParallelAgentExecutor(at_once, timeout=30, retry=RetryPolicy()).stream(tasks, agent):
        pass


async def agentkit_ordered(agent: Agent, tasks: Iterable[Any], at_once: int) -> None:
    """Outcomes in input order, dropped."""
    from agentkit import ParallelAgentExecutor

    async for _ in ParallelAgentExecutor(at_once).stream(tasks, agent, ordered=True):
        pass


async def agentkit_longest_first(agent: Agent, tasks: Iterable[Any], at_once: int) -> Any:
    """`execute` with the cost of each task known: a task is its own cost here."""
    from agentkit import ParallelAgentExecutor

    return await ParallelAgentExecutor(at_once).execute(tasks, agent, cost=float)


async def streamable(agent: Agent, tasks: Iterable[Any], at_once: int) -> None:
    """In input order, as streamable does unless told otherwise."""
    from streamable import stream

    async for _ in stream(tasks).map(agent, concurrency=at_once):
        pass


async def streamable_completed(agent: Agent, tasks: Iterable[Any], at_once: int) -> None:
    """As completed, by streamable."""
    from streamable import stream

    async for _ in stream(tasks).map(agent, concurrency=at_once, as_completed=True):
        pass


async def aiometer(agent: Agent, tasks: Iterable[Any], at_once: int) -> None:
    """As completed, by aiometer, which needs a sequence."""
    import aiometer

    async with aiometer.amap(agent, list(tasks), max_at_once=at_once) as results:
        async for _ in results:
            pass


async def anyio(agent: Agent, tasks: Iterable[Any], at_once: int) -> list[Any]:
    """The `amap` of anyio, under a capacity limiter."""
    import anyio

    limiter = anyio.CapacityLimiter(at_once)

    async def one(task: Any) -> Any:
        async with limiter:
            return await agent(task)

    return await anyio.amap(one, tasks)


async def tqdm(agent: Agent, tasks: Iterable[Any], at_once: int) -> list[Any]:
    """The gather of tqdm with its bar off, under a semaphore."""
    from tqdm.asyncio import tqdm

    slots = asyncio.Semaphore(at_once)

    async def one(task: Any) -> Any:
        async with slots:
            return await agent(task)

    return await tqdm.gather(*(one(task) for task in tasks), disable=True)


WAYS: dict[str, Way] = {
    "agentkit": agentkit,
    "agentkit, map": agentkit_map,
    "agentkit: timeout, retries, isolated": agentkit_isolated,
    "agentkit, streamed": agentkit_stream,
    "agentkit, ordered": agentkit_ordered,
    "agentkit, longest first": agentkit_longest_first,
    "gather": bare,
    "streamable": streamable,
    "streamable, as completed": streamable_completed,
    "aiometer": aiometer,
    "anyio": anyio,
    "tqdm": tqdm,
}
