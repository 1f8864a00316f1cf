"""What may serve as an agent, and how it is called.

What it holds: `as_coroutine_function`, which makes one calling convention of all kinds of agents.
Guarantees: a plain function never runs on the event loop's thread (except in serial mode); a thread that outlives
its timeout keeps its slot until it really ends, so that `limit` bounds the threads at work and not just the waiting.
Strategy: async callables are awaited as they are; plain ones go to a pool; one that turns out to return an awaitable
(a lambda around an agent) is called directly from then on.
Taken apart in notebook 06.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import math
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import Any

from agentkit.semaphore import CapacityLimiter

__all__ = ["as_coroutine_function", "is_async", "isolated"]

Call = Callable[[Any], Awaitable[Any]]

MOST_THREADS = 1_000  # a pool makes a thread only when none is idle, and the limiter bounds how many are busy
THREADS_WITHOUT_LIMIT = 32


def is_async(agent_fn: Any) -> bool:
    """Tell whether calling `agent_fn` gives a coroutine: an async function, method, partial or callable object."""
    while isinstance(agent_fn, partial):
        agent_fn = agent_fn.func
    return inspect.iscoroutinefunction(agent_fn) or inspect.iscoroutinefunction(getattr(agent_fn, "__call__", None))  # noqa: B004


def as_coroutine_function(
    agent_fn: Any, limiter: CapacityLimiter, *, pool: Executor | None = None, serial: bool = False
) -> tuple[Call, Callable[[], None] | None]:
    """Return an async callable for `agent_fn`, and what to call when the run has ended."""
    if inspect.isawaitable(agent_fn):
        if inspect.iscoroutine(agent_fn):
            agent_fn.close()
        raise TypeError(
            "agent_fn must be a function of one task, got a coroutine; hand in the function without calling it"
        )
    if not callable(agent_fn):
        raise TypeError(f"agent_fn must be a function of one task, got {agent_fn!r}; write `async def agent(task): …`")
    if is_async(agent_fn):
        if pool is not None:
            raise TypeError(
                "pool is for plain functions, and agent_fn is async; leave pool out, or hand in a plain function"
            )
        return agent_fn, None
    if serial:
        return partial(_inline, agent_fn), None
    if pool is not None:
        return partial(_in_given_pool, agent_fn, pool), None
    threads = THREADS_WITHOUT_LIMIT if limiter.limit == math.inf else MOST_THREADS
    own = ThreadPoolExecutor(threads, thread_name_prefix="agentkit")
    return _InThreads(agent_fn, own, limiter), partial(own.shutdown, wait=False)


def isolated(call: Call) -> Call:
    """Return `call` in a task, and so in a context, of its own for each item."""

    async def in_a_task(task: Any) -> Any:
        return await asyncio.ensure_future(call(task))

    return in_a_task


async def _inline(agent_fn: Callable[[Any], Any], task: Any) -> Any:
    result = agent_fn(task)
    return await result if inspect.isawaitable(result) else result


async def _in_given_pool(agent_fn: Callable[[Any], Any], pool: Executor, task: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(pool, agent_fn, task)


class _Thread:
    """One call in a thread, known to the loop and to the thread."""

    __slots__ = ("abandoned", "begun", "finished", "released")

    def __init__(self) -> None:
        self.begun = self.finished = self.abandoned = self.released = False


class _InThreads:
    """Calls a plain function in threads of the run's own."""

    def __init__(self, agent_fn: Callable[[Any], Any], pool: ThreadPoolExecutor, limiter: CapacityLimiter) -> None:
        self._agent_fn, self._pool, self._limiter = agent_fn, pool, limiter
        self._gives_awaitables = False

    async def __call__(self, task: Any) -> Any:
        if self._gives_awaitables:
            return await _inline(self._agent_fn, task)
        loop, thread = asyncio.get_running_loop(), _Thread()
        work = partial(contextvars.copy_context().run, self._work, loop, thread, task)
        try:
            result = await loop.run_in_executor(self._pool, work)
        except asyncio.CancelledError:
            self._abandon(thread)
            raise
        if inspect.isawaitable(result):
            self._gives_awaitables = True
            result = await result
        return result

    def _work(self, loop: asyncio.AbstractEventLoop, thread: _Thread, task: Any) -> Any:
        thread.begun = True
        try:
            return self._agent_fn(task)
        finally:
            thread.finished = True
            if thread.abandoned and not loop.is_closed():
                try:
                    loop.call_soon_threadsafe(self._give_back, thread)
                except RuntimeError:  # the loop was closed in this very moment; nobody waits for the slot
                    pass

    def _abandon(self, thread: _Thread) -> None:
        """Keep a slot for a thread that goes on after its call was cancelled: threads cannot be stopped."""
        if not thread.begun:
            return
        self._limiter.acquire_anyway()
        thread.abandoned = True  # from here on the thread gives the slot back, unless it has just finished
        if thread.finished:
            self._give_back(thread)

    def _give_back(self, thread: _Thread) -> None:
        if not thread.released:
            thread.released = True
            self._limiter.release()
