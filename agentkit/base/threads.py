"""Plain functions called from asyncio: in a pool of threads or processes.

A call that outlives its caller keeps its slot until it really ends, also after its loop is closed, so that a limit
bounds the calls at work, not just those that are awaited. Threads see the caller's context variables.
Taken apart in notebook 06.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Callable
from concurrent import futures
from typing import Any

__all__ = ["InPool", "inline"]


async def inline(fn: Callable[[Any], Any], task: Any) -> Any:
    """Call a function where it is, and await what it returns if that can be awaited."""
    result = fn(task)
    return await result if inspect.isawaitable(result) else result


def _call(fn: Callable[[Any], Any], task: Any) -> Any:
    """Call a function in a pool; no future can carry `StopIteration`."""
    try:
        return fn(task)
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


class InPool:
    """A plain function as an async one: each call runs in a pool.

    A function that turns out to return an awaitable, such as a lambda around an agent, is called directly from then on.
    `hold()` and `release()` take and give back a slot for a call that runs on after its caller was cancelled.
    """

    def __init__(
        self,
        fn: Callable[[Any], Any],
        pool: futures.Executor,
        hold: Callable[[], object],
        release: Callable[[], object],
    ) -> None:
        self._fn, self._pool, self._hold, self._release = fn, pool, hold, release
        elsewhere = getattr(futures, "InterpreterPoolExecutor", ())  # from Python 3.14 on; its threads share nothing
        self._shares = isinstance(pool, futures.ThreadPoolExecutor) and not isinstance(pool, elsewhere)
        self._gives_awaitables = False

    async def __call__(self, task: Any) -> Any:
        """Call the function in the pool."""
        if self._gives_awaitables:
            return await inline(self._fn, task)
        loop, submission = asyncio.get_running_loop(), _Submission(self._pool)
        work: tuple[Any, ...] = (_call, self._fn, task)
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
        self._hold()

        def give_back(_: object) -> None:
            try:
                if loop.is_running():
                    loop.call_soon_threadsafe(self._release)
                    return
            except RuntimeError:  # it has been closed in this instant
                pass
            self._release()  # nothing on that loop uses the limit any more

        future.add_done_callback(give_back)
