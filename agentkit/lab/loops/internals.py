"""What asyncio has no public way to ask: whose callback a handle runs, and which future a task waits for.

What it holds: one function per question, so that every read of a private field of asyncio is in this file.
Guarantee: reading changes nothing. (`task.exception()`, for one, would mark the exception as retrieved.)
Used by the loops of `choosing`, `agentkit.lab.explorer.play_loop` and `agentkit.lab.tracer.loop`.
"""

from __future__ import annotations

import asyncio
import functools
from typing import Any

__all__ = [
    "Handle",
    "callback_of",
    "is_bookkeeping",
    "is_sleep",
    "is_task",
    "owner_of",
    "raised_by",
    "slept_on",
    "task_under",
    "waited_for",
]

Handle = Any  # asyncio.Handle or asyncio.TimerHandle


def is_task(owner: Any) -> bool:
    """Whether an object is a task. Not by isinstance: nest_asyncio replaces `asyncio.Task` by another class."""
    return hasattr(owner, "get_coro")


def callback_of(handle: Handle) -> Any:
    """Return the function that a handle calls."""
    return handle._callback  # noqa: SLF001  (asyncio has no public access to a handle's callback)


def owner_of(handle: Handle) -> Any:
    """Return the object whose method a handle calls: a task for a step of that task; None for a plain function."""
    return getattr(callback_of(handle), "__self__", None)


def is_sleep(handle: Handle) -> bool:
    """Whether a timer ends an `asyncio.sleep`."""
    return getattr(callback_of(handle), "__name__", "") == "_set_result_unless_cancelled"


def slept_on(timer: Handle) -> Any:
    """Return the future that the timer of an `asyncio.sleep` sets."""
    return timer._args[0]  # noqa: SLF001  (asyncio has no public access to a handle's arguments)


def is_bookkeeping(handle: Handle) -> bool:
    """Whether a callback is asyncio's own and runs none of the reader's code."""
    if handle.cancelled():
        return True
    callback = callback_of(handle)
    while isinstance(callback, functools.partial):
        callback = callback.func
    owner = getattr(callback, "__self__", None)
    if is_task(owner):
        return False
    if isinstance(handle, asyncio.TimerHandle):
        return is_sleep(handle)  # any other timer is a timeout that fires, and that is a choice
    return asyncio.isfuture(owner) or str(getattr(callback, "__module__", "")).startswith("asyncio.")


def waited_for(task: Any) -> Any:
    """Return the future that a task waits for; None if it is ready or done."""
    return task._fut_waiter  # noqa: SLF001  (asyncio has no public access to it)


def raised_by(task: Any) -> BaseException | None:
    """Return the exception that a finished task raised, without marking it as retrieved."""
    error: BaseException | None = task._exception  # noqa: SLF001  (task.exception() would mark it)
    return error


def task_under(timeout: Any) -> Any:
    """Return the task that entered an `asyncio.timeout` block."""
    return timeout._task  # noqa: SLF001  (asyncio has no public access to it)
