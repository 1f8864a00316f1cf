"""Run work next to the event loop that is already running in this thread, as in a notebook cell.

What it holds: `beside`, which `simulate`, `explore`, `trace` and `play` run in, and its parts: `running_loop`,
`thread_for` and `throw_into`.
Guarantees: the caller gets the value or the exception of the work itself; what the work prints lands in the caller's
cell; Stop (a KeyboardInterrupt) ends the wait after at most two seconds.
Strategy: a loop cannot run inside another one of the same thread, so the work gets a daemon thread with a copy of the
caller's context. On Stop it is first asked to end, then a KeyboardInterrupt is raised inside it.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

__all__ = ["beside", "running_loop", "thread_for", "throw_into"]

T = TypeVar("T")

_GRACE = 1.0  # real seconds after each of the two steps of Stop
_SLICE = 0.5  # real seconds of a wait after which an interrupt that came in between is seen


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop running in this thread, or None."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def thread_for(work: Callable[[], T], name: str) -> tuple[threading.Thread, Future[T]]:
    """Return a daemon thread that will run `work` in a copy of the caller's context, and a future of its result.

    Start it inside the `try` that handles Stop: an interrupt can come before `start` returns. The future gets the
    value of `work`, or its exception. Wait for the future, not with `Thread.join`: on Python 3.11, a join that is
    interrupted marks the thread as ended.
    """
    answer: Future[T] = Future()
    context = contextvars.copy_context()

    def target() -> None:
        try:
            answer.set_result(context.run(work))
        except BaseException as error:  # SystemExit and KeyboardInterrupt too: the caller decides
            answer.set_exception(error)

    thread = threading.Thread(target=target, name=name, daemon=True)
    return thread, answer


def throw_into(thread: threading.Thread, error: type[BaseException]) -> None:
    """Raise `error` in a thread at its next Python instruction; a call into C has to return first."""
    import ctypes  # not everywhere that Python runs, and needed by Stop alone

    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(error))


def beside(work: Callable[[], T], stop: Callable[[], None] | None = None) -> T:
    """Return `work()`: called here, or in a new thread if a loop is already running in this one.

    `stop`, called from this thread on a KeyboardInterrupt, asks the work to end. If the work is still running a second
    later, or if there is no `stop`, a KeyboardInterrupt is raised inside it, which also ends an endless loop. A call
    into C that does not return (a socket, a lock) cannot be interrupted: a second later, its thread is left behind.
    """
    if running_loop() is None:
        return work()
    thread, answer = thread_for(work, "agentkit-beside")
    try:
        thread.start()
        while wait([answer], _SLICE).not_done:  # a signal just before a wait does not end it
            pass
    except KeyboardInterrupt:
        if stop is not None:
            stop()
            wait([answer], _GRACE)
        if not answer.done():
            throw_into(thread, KeyboardInterrupt)
            wait([answer], _GRACE)
        raise
    thread.join()  # its work is done: so that no thread is left
    return answer.result()
