"""What may serve as an agent, and how it is called.

What it holds: `as_coroutine_function`, which makes one calling convention of all kinds of agents.
Strategy: async callables are awaited as they are; plain ones go to a pool (`agentkit.base.threads`).
Taken apart in notebook 06.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from concurrent import futures
from functools import partial
from types import AsyncGeneratorType, CoroutineType
from typing import Any

from agentkit.base.arguments import refusal
from agentkit.base.threads import InPool, inline
from agentkit.semaphore import CapacityLimiter

__all__ = ["MAX_THREADS", "UNFINISHED", "as_coroutine_function", "forgotten_await", "is_async"]

Call = Callable[[Any], Awaitable[Any]]

UNFINISHED = (CoroutineType, asyncio.Future, AsyncGeneratorType)
"""What an agent returns that forgot to await."""
MAX_THREADS = 1_000  # a pool makes a thread only when none is idle, and the limiter bounds how many are busy


def is_async(agent_fn: object) -> bool:
    """Tell whether calling `agent_fn` gives a coroutine: an async function, method, partial or callable object."""
    while isinstance(agent_fn, partial):
        agent_fn = agent_fn.func
    return inspect.iscoroutinefunction(agent_fn) or inspect.iscoroutinefunction(getattr(agent_fn, "__call__", None))  # noqa: B004


def as_coroutine_function(
    agent_fn: Any, limiter: CapacityLimiter, *, pool: futures.Executor | None = None, serial: bool = False
) -> tuple[Call, Callable[[], None] | None]:
    """Return an async callable for `agent_fn`, and what to call when the run has ended."""
    _check_agent(agent_fn)
    if is_async(agent_fn):
        if pool is not None:
            raise TypeError(
                "pool is for plain functions, and agent_fn is async; leave pool out, or write a plain function"
            )
        return agent_fn, None
    if serial:
        return partial(inline, agent_fn), None
    if pool is not None:
        return InPool(agent_fn, pool, limiter.acquire_anyway, limiter.release), None
    threads = futures.ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="agentkit")
    return InPool(agent_fn, threads, limiter.acquire_anyway, limiter.release), partial(threads.shutdown, wait=False)


def _check_agent(agent_fn: Any) -> None:
    if inspect.iscoroutine(agent_fn):
        agent_fn.close()
        raise TypeError(
            "agent_fn must be a function of one task, got a coroutine; hand in the function without calling it"
        )
    if not callable(agent_fn):
        rule, remedy = "must be a function of one task", "write `async def agent(task): …`"
        raise refusal("agent_fn", rule, agent_fn, remedy, TypeError)
    if inspect.isasyncgenfunction(agent_fn):
        raise TypeError(
            f"agent_fn must return one value, got the async generator {agent_fn!r}; return a list instead of yielding"
        )
    if inspect.isclass(agent_fn) and any("__call__" in vars(base) for base in agent_fn.__mro__):
        raise TypeError(f"agent_fn must be an agent, got the class {agent_fn.__name__}; hand in an instance of it")


def forgotten_await(result: object) -> TypeError:
    """The error for an agent that returned something unfinished."""
    kind = type(result).__name__
    if isinstance(result, CoroutineType):
        result.close()
        kind = f"coroutine {result.__qualname__}()"
    return TypeError(f"the agent returned the {kind} instead of its value; await it in the agent")
