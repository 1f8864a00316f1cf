"""What may serve as an agent, and how it is called.

What it holds: `as_coroutine_function`, which makes one calling convention of all kinds of agents.
Guarantees: a plain function never runs on the event loop's thread (except in serial mode); a call in a pool that
outlives its timeout keeps its slot until it really ends, so that `limit` bounds the calls at work, not just those
that are awaited; `StopIteration`, which no future can carry, becomes a `RuntimeError` where it is raised.
Strategy: async callables are awaited as they are; plain ones go to a pool; one that turns out to return an awaitable
(a lambda around an agent) is called directly from then on.
Taken apart in notebook 06.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable, Callable
from concurrent import futures
from functools import partial
from types import AsyncGeneratorType, CoroutineType
from typing import Any

from agentkit.semaphore import CapacityLimiter

__all__ = ["UNFINISHED", "as_coroutine_function", "forgotten_await", "is_async"]

Call = Callable[[Any], Awaitable[Any]]

UNFINISHED = (CoroutineType, asyncio.Future, AsyncGeneratorType)
"""What an agent returns that forgot to await."""
MAX_THREADS = 1_000  # a pool makes a thread only when none is idle, and the limiter bounds how many are busy


def is_async(agent_fn: Any) -> bool:
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
        return partial(_inline, agent_fn), None
    if pool is not None:
        return _InPool(agent_fn, pool, limiter), None
    threads = futures.ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="agentkit")
    return _InPool(agent_fn, threads, limiter), partial(threads.shutdown, wait=False)


def _check_agent(agent_fn: Any) -> None:
    if inspect.iscoroutine(agent_fn):
        agent_fn.close()
        raise TypeError(
            "agent_fn must be a function of one task, got a coroutine; hand in the function without calling it"
        )
    if not callable(agent_fn):
        raise TypeError(f"agent_fn must be a function of one task, got {agent_fn!r}; write `async def agent(task): …`")
    if inspect.isasyncgenfunction(agent_fn):
        raise TypeError(
            f"agent_fn must return one value, got the async generator {agent_fn!r}; return a list instead of yielding"
        )
    if inspect.isclass(agent_fn) and any("__call__" in vars(base) for base in agent_fn.__mro__):
        raise TypeError(f"agent_fn must be an agent, got the class {agent_fn.__name__}; hand in an instance of it")


def forgotten_await(result: Any) -> TypeError:
    """The error for an agent that returned something unfinished."""
    kind = type(result).__name__
    if isinstance(result, CoroutineType):
        result.close()
        kind = f"coroutine {result.__qualname__}()"
    return TypeError(f"the agent returned the {kind} instead of its value; await it in the agent")


async def _inline(agent_fn: Callable[[Any], Any], task: Any) -> Any:
    result = agent_fn(task)
    return await result if inspect.isawaitable(result) else result


class _Call:
    """A plain function as a pool runs it; it can be sent to another process."""

    def __init__(self, agent_fn: Callable[[Any], Any]) -> None:
        self._agent_fn = agent_fn

    def __call__(self, task: Any) -> Any:
        try:
            return self._agent_fn(task)
        except StopIteration as error:
            raise RuntimeError(f"the agent raised StopIteration({error.value!r}), which ends an iterator") from error


class _Submission:
    """Takes the place of a pool in `run_in_executor`, and keeps the future of the one call submitted to it."""

    def __init__(self, pool: futures.Executor) -> None:
        self._pool = pool
        self.future: futures.Future[Any] | None = None

    def submit(self, function: Callable[..., Any], *args: Any) -> futures.Future[Any]:
        self.future = self._pool.submit(function, *args)
        return self.future


class _InPool:
    """Calls a plain function in a pool: threads of the run's own, or whatever pool was given."""

    def __init__(self, agent_fn: Callable[[Any], Any], pool: futures.Executor, limiter: CapacityLimiter) -> None:
        self._agent_fn, self._call, self._pool, self._limiter = agent_fn, _Call(agent_fn), pool, limiter
        elsewhere = getattr(futures, "InterpreterPoolExecutor", ())  # from Python 3.14 on; its threads share nothing
        self._shares = isinstance(pool, futures.ThreadPoolExecutor) and not isinstance(pool, elsewhere)
        self._gives_awaitables = False

    async def __call__(self, task: Any) -> Any:
        if self._gives_awaitables:
            return await _inline(self._agent_fn, task)
        loop, submission = asyncio.get_running_loop(), _Submission(self._pool)
        work: tuple[Any, ...] = (self._call, task)
        if self._shares:  # a context cannot be sent to a process
            work = (contextvars.copy_context().run, *work)
        try:
            result = await loop.run_in_executor(submission, *work)  # type: ignore[arg-type]
        except asyncio.CancelledError:
            self._keep_slot(loop, submission.future)
            raise
        if inspect.isawaitable(result):
            self._gives_awaitables = True
            result = await result
        return result

    def _keep_slot(self, loop: asyncio.AbstractEventLoop, future: futures.Future[Any] | None) -> None:
        """Hold a slot for a call that runs on although it was cancelled: threads and processes cannot be stopped."""
        if future is None or future.cancel() or future.done():
            return
        self._limiter.acquire_anyway()

        def give_back(_: object) -> None:
            try:
                loop.call_soon_threadsafe(self._limiter.release)
            except RuntimeError:  # the loop is closed, and so nothing else touches the limiter on it
                self._limiter.release()

        future.add_done_callback(give_back)
