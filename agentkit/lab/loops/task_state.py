"""What a task is doing now: ready, sleeping until when, waiting for what, or how it ended; and on which line.

What it holds: `task_state` of a task, the record `TaskState` it returns, `Line`, and `amount`, seconds in words.
Guarantees: descriptions hold no addresses and no paths; reading the state of a task does not change the task.
Strategy: follow what each suspended coroutine awaits, down to a future. What the task waits for is the kind of that
future, or else the innermost library function on the way. (Python 3.14 has part of this:
`asyncio.capture_call_graph`.) Used by `agentkit.lab.tracer.loop` and `agentkit.lab.explorer.play_loop`.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

from agentkit.lab.loops.frames import awaited_frames, is_yours
from agentkit.lab.loops.interleaving import show
from agentkit.lab.loops.internals import is_task, raised_by, waited_for
from agentkit.lab.loops.source import statement

__all__ = ["Line", "TaskState", "amount", "line_of", "task_state"]


def amount(seconds: float) -> str:
    """Return seconds with their unit, rounded so that floating-point errors do not show.

    >>> amount(0.1 + 0.2)
    '0.3 s'
    """
    return f"{round(seconds, 9):.10g} s"


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the reader's code."""

    function: str
    """Name of its function."""
    number: int
    """Line number in its file or cell."""
    file: str
    """The file, or the name Python gives the cell."""


@dataclass(frozen=True, slots=True)
class TaskState:
    """What a task is doing, and on which line."""

    task: str
    """Name of the task."""
    state: str
    """`ready`, `sleeping`, `waiting` or `ended`."""
    what: str
    """The state in full: `sleeps until 2 s`, `waits for Lock.acquire`, `returned 3`."""
    line: Line | None
    """The line it is on; None before its first step and after its last."""


def line_of(frame: FrameType) -> Line:
    """Return the line a frame is on: the first line of its statement."""
    code = frame.f_code
    return Line(code.co_name, statement(code.co_filename, frame.f_lineno), code.co_filename)


def task_state(task: asyncio.Task[Any], sleeps: Mapping[asyncio.Future[Any], float], now: float) -> TaskState:
    """Return what a task is doing at the time `now`; `sleeps` maps the future of each sleep to its end."""
    name = task.get_name()
    if task.done():
        return TaskState(name, "ended", _end(task), None)
    coro: Any = task.get_coro()
    frames = list(awaited_frames(coro))
    own = [frame for frame in frames if is_yours(frame)]
    begun = inspect.getcoroutinestate(coro) != inspect.CORO_CREATED
    line = line_of(own[-1]) if begun and own else None
    future = waited_for(task)
    if future is None or future.done():
        return TaskState(name, "ready", "ready" if begun else "ready to begin", line)
    if future in sleeps:
        when = sleeps[future]
        held = "is held up, its sleep was over at" if when < now else "sleeps until"
        return TaskState(name, "sleeping", f"{held} {amount(when)}", line)
    return TaskState(name, "waiting", f"waits for {_awaiting(future, frames)}", line)


def _end(task: asyncio.Task[Any]) -> str:
    """Return how a finished task ended, in words."""
    if task.cancelled():
        return "was cancelled"
    error = raised_by(task)
    if error is not None:
        return f"raised {show(error, 100)}"
    return "ended" if task.result() is None else f"returned {show(task.result(), 40)}"


def _awaiting(future: Any, frames: Iterable[FrameType]) -> str:
    """Return what a task waits for, in words."""
    if is_task(future):
        return str(future.get_name())
    children = getattr(future, "_children", None)
    if children is not None:
        return f"gather, {sum(not child.done() for child in children)} left"
    return _library_call(frames)


def _library_call(frames: Iterable[FrameType]) -> str:
    """Return the library function that waits for the future: `Lock.acquire`, `Queue.get`, `TaskGroup`."""
    inner: list[str] = []
    for frame in frames:
        if frame.f_code.co_qualname != "Waiters.wait":  # the queue that agentkit's own primitives share
            inner = [] if is_yours(frame) else [*inner, frame.f_code.co_qualname]
    for name in reversed(inner):
        if not name.rpartition(".")[2].startswith("_"):
            return name
    return inner[-1].partition(".")[0] if inner and "." in inner[-1] else "a future"
