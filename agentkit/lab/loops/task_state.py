"""Where a task stands: ready, asleep until when, waiting for what, or ended how, and on which line.

What it holds: `task_state` of a task, the record `TaskState` it returns, `Line`, and `amount`, seconds in words.
Guarantees: no addresses and no paths in what it says; looking at a task changes nothing about it.
Strategy: follow what each suspended coroutine awaits, down to the future at the end; what that future is, or else the
innermost function of a library on the way there, says what is waited for. (Python 3.14 can do a part of this itself:
`asyncio.capture_call_graph`.) Used by `agentkit.lab.tracer.loop`.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

from agentkit.lab.loops.interleaving import show
from agentkit.lab.loops.recorder import is_yours
from agentkit.lab.loops.source import statement
from agentkit.lab.loops.virtual import awaited_frames

__all__ = ["Line", "TaskState", "amount", "line_of", "task_state"]


def amount(seconds: float) -> str:
    """Seconds with their unit, without the dust that sums of decimals leave.

    >>> amount(0.1 + 0.2)
    '0.3 s'
    """
    return f"{round(seconds, 9):.10g} s"


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the reader's code."""

    function: str
    """Name of the function it is part of."""
    number: int
    """Line number in its file or cell."""
    file: str
    """The file, or the name Python gives the cell."""


@dataclass(frozen=True, slots=True)
class TaskState:
    """Where a task stands."""

    task: str
    """Name of the task."""
    state: str
    """`ready`, `sleeping`, `waiting` or `ended`."""
    what: str
    """The same in full: `sleeps until 2 s`, `waits for Lock.acquire`, `returned 3`."""
    line: Line | None
    """The line it is on; None if it has not begun, or has ended."""


def line_of(frame: FrameType) -> Line:
    """Return the line a frame is on, by the first line of the statement."""
    code = frame.f_code
    return Line(code.co_name, statement(code.co_filename, frame.f_lineno), code.co_filename)


def task_state(task: asyncio.Task[Any], sleeps: Mapping[asyncio.Future[Any], float], now: float) -> TaskState:
    """Look where a task stands now; `sleeps` says until when the future of a sleep has to wait."""
    inside: Any = task  # the private fields of a task are read here
    name = task.get_name()
    if task.done():
        return TaskState(name, "ended", _end(inside), None)
    frames = list(awaited_frames(task.get_coro()))
    own = [frame for frame in frames if is_yours(frame)]
    begun = inspect.getcoroutinestate(inside.get_coro()) != inspect.CORO_CREATED
    line = line_of(own[-1]) if begun and own else None
    future = inside._fut_waiter
    if future is None or future.done():
        return TaskState(name, "ready", "ready" if begun else "ready to begin", line)
    if future in sleeps:
        when = sleeps[future]
        held = "is held up, its sleep was over at" if when < now else "sleeps until"
        return TaskState(name, "sleeping", f"{held} {amount(when)}", line)
    return TaskState(name, "waiting", f"waits for {_awaiting(future, frames)}", line)


def _end(task: Any) -> str:
    if task.cancelled():
        return "was cancelled"
    if task._exception is not None:  # task.exception() would count as having seen it
        return f"raised {show(task._exception, 100)}"
    return "ended" if task._result is None else f"returned {show(task._result, 40)}"


def _awaiting(future: Any, frames: Iterable[FrameType]) -> str:
    if hasattr(future, "get_coro"):
        return str(future.get_name())
    children = getattr(future, "_children", None)
    if children is not None:
        return f"gather, {sum(not child.done() for child in children)} left"
    return _library_call(frames)


def _library_call(frames: Iterable[FrameType]) -> str:
    """Name what waits for a future inside a library: `Lock.acquire`, `Queue.get`, `TaskGroup`."""
    inner: list[str] = []
    for frame in frames:
        inner = [] if is_yours(frame) else [*inner, frame.f_code.co_qualname]
    for name in reversed(inner):
        if not name.rpartition(".")[2].startswith("_"):
            return name
    return inner[-1].partition(".")[0] if inner and "." in inner[-1] else "a future"
