"""The loop that `trace` runs on: it records its queues after each step of a task.

What it holds: `TraceLoop`, and its records, `LoopStep` and `Timer`.
Guarantees: the order is asyncio's own, first in, first out. Only the reader's own lines and tasks are recorded, by the
first line of each statement, so the record is the same on every Python.
Strategy: a step ends when the loop takes the next task from the ready queue, or has to wait. asyncio's own callbacks
in between (what `gather` does when a task ends) belong to the step before.
Used by `agentkit.lab.tracer.trace`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

from agentkit.lab.loops.choosing import ChoosingLoop
from agentkit.lab.loops.frames import is_yours
from agentkit.lab.loops.internals import (
    Handle,
    callback_of,
    is_bookkeeping,
    is_sleep,
    is_task,
    owner_of,
    slept_on,
    task_under,
    waited_for,
)
from agentkit.lab.loops.source import source_of
from agentkit.lab.loops.task_state import Line, TaskState, amount, line_of, task_state
from agentkit.lab.loops.virtual import VirtualLoop

__all__ = ["LoopStep", "Timer", "TraceLoop"]


@dataclass(frozen=True, slots=True)
class Timer:
    """A pending timer."""

    owner: str
    """The task that sleeps, `timeout of` a task, or the name of the callback."""
    when: float
    """When it is due, in virtual seconds."""
    late: float
    """How long it has been overdue because the loop was blocked; normally 0."""

    def __str__(self) -> str:
        return f"{self.owner} at {amount(self.when)}" + (f" ({amount(self.late)} late)" if self.late else "")


@dataclass(frozen=True, slots=True)
class LoopStep:
    """One step of a task, and the state of the loop after it."""

    number: int
    """Counted from 1."""
    task: str
    """The task that ran."""
    started: float
    """When it started, in virtual seconds."""
    blocked: float
    """How long the step blocked the loop, in virtual seconds; normally 0."""
    lines: tuple[Line, ...]
    """The lines it ran, in order."""
    ready: tuple[str, ...]
    """The tasks in the ready queue after it, the next one first."""
    timers: tuple[Timer, ...]
    """The pending timers after it, the next one first."""
    states: tuple[TaskState, ...]
    """The state of every task so far, in the order they were made."""

    @property
    def then(self) -> str:
        """What the task did next: `sleeps until 2 s`, `ready again`, `returned 3`; `done` for a plain callback."""
        what = next((s.what for s in self.states if s.task == self.task), "done")
        return "ready again" if what == "ready" else what

    @property
    def ended(self) -> float:
        """When the step ended, in virtual seconds."""
        return self.started + self.blocked


class TraceLoop(ChoosingLoop):
    """A virtual loop that keeps asyncio's own order and records every step."""

    def __init__(self, name: str) -> None:
        super().__init__(fifo=True)
        self.steps: list[LoopStep] = []
        self._name = name
        self._made: list[asyncio.Task[Any]] = []
        self._step: tuple[str, float] | None = None  # the current step: its task, and when it started
        self._lines: list[Line] = []
        self._resumed_at: Line | None = None  # the line a task resumed at, until it runs it
        self._waiting: dict[Any, str] = {}  # for the future a task waits for: the task's name
        self._seen: set[FrameType] = set()
        self._codes: dict[CodeType, None] = {}
        self._before: Any = None

    def create_task(self, coro: Coroutine[Any, Any, Any], **kwargs: Any) -> asyncio.Task[Any]:  # type: ignore[override]
        """Create a task and record it."""
        task = super().create_task(coro, **kwargs)
        if self.choosing:
            self._made.append(task)
        return task

    async def body(self, main: Callable[..., Awaitable[Any]], args: tuple[Any, ...]) -> Any:
        """Run `main` and record every step until it ends."""
        task = asyncio.current_task()
        assert task is not None
        task.set_name(self._name)
        self._made.append(task)
        self._step = (self._name, self.time())
        self.choosing = True
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return await main(*args)

    def end(self) -> None:
        """End the last step and stop recording; the rest is cleanup."""
        sys.settrace(self._before)
        self.choosing = False
        self._close_step()
        self._seen.clear()

    def source(self) -> dict[str, dict[int, str]]:
        """Return the lines of every function that ran, by file."""
        return source_of(self._codes)

    def _run_once(self) -> None:
        if self.choosing and not self._ready:  # the clock is about to move
            self._close_step()
        super()._run_once()  # type: ignore[misc]

    def note_step(self, handle: Handle) -> None:
        """Record the step that has just ended, and start the next one."""
        super().note_step(handle)
        self._close_step(handle)
        self._step = (self._label(handle), self.time())

    def _close_step(self, following: Handle = None) -> None:
        """Record the current step, if there is one; `following` is about to run and still counts as ready."""
        if self._step is None:
            return
        tracer = sys.gettrace()
        sys.settrace(None)  # tracing our own code would take most of the time
        self._waiting = {waited_for(task): task.get_name() for task in self._made if not task.done()}
        (task, started), self._step = self._step, None
        queue = [*([] if following is None else [following]), *self._ready]
        ready = tuple(self._label(handle) for handle in queue if not is_bookkeeping(handle))
        waiting = sorted(timer for timer in self._scheduled if not timer.cancelled())
        late = [max(0.0, self.time() - timer.when()) for timer in waiting]
        timers = tuple(Timer(self._label(t), t.when(), by) for t, by in zip(waiting, late, strict=True))
        sleeps = {slept_on(timer): timer.when() for timer in waiting if is_sleep(timer)}
        states = tuple(task_state(each, sleeps, self.time()) for each in self._made)
        self._commit()
        step = LoopStep(
            number=len(self.steps) + 1,
            task=task,
            started=started,
            blocked=self.time() - started,
            lines=tuple(dict.fromkeys(self._lines)),
            ready=ready,
            timers=timers,
            states=states,
        )
        self.steps.append(step)
        self._lines.clear()
        sys.settrace(tracer)

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        if not is_yours(frame) or frame.f_code.co_filename == "<string>":  # generated by namedtuple and the like
            return None
        if event == "call":
            self._codes.setdefault(frame.f_code)
            if frame in self._seen:
                self._resumed_at = line_of(frame)
            self._seen.add(frame)
        elif event == "line":
            self._commit()
            self._lines.append(line_of(frame))
        elif event == "exception" and not self._lines:  # raised at an await, as a cancellation is
            self._resumed_at = self._resumed_at or line_of(frame)
        return self._trace

    def _commit(self) -> None:
        """Record the line that the task resumed at."""
        if self._resumed_at is not None:
            self._lines.append(self._resumed_at)
            self._resumed_at = None

    def _label(self, handle: Handle) -> str:
        """Return the name of the task, or of the function, that a callback or a timer belongs to."""
        callback, owner = callback_of(handle), owner_of(handle)
        if is_task(owner):
            return str(owner.get_name())
        if is_sleep(handle):
            return self._waiting.get(slept_on(handle), "a sleep")
        if isinstance(owner, asyncio.Timeout):
            return f"timeout of {task_under(owner).get_name()}"
        name = str(getattr(callback, "__name__", "a callback"))
        return "a worker thread" if (name, callback.__module__) == ("work", VirtualLoop.__module__) else name
