"""The loop that `trace` runs on: it looks at its own queues each time a task has had its step.

What it holds: `TraceLoop`, the records `LoopStep` and `Timer` it keeps.
Guarantees: the order is asyncio's own, first in first out; nothing is noted but the reader's own lines and tasks, by
the first line of each statement, so every Python notes the same.
Strategy: a step ends when the next task is taken from the ready queue, or when the loop has nothing left but to wait.
asyncio's own callbacks in between (what `gather` does when a task ends) belong to the step before.
Used by `agentkit.lab.tracer.trace`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

from agentkit.lab.loops.choosing import ChoosingLoop, is_bookkeeping, is_sleep
from agentkit.lab.loops.recorder import is_yours
from agentkit.lab.loops.source import source_of
from agentkit.lab.loops.task_state import Line, TaskState, amount, line_of, task_state
from agentkit.lab.loops.virtual import VirtualLoop

__all__ = ["LoopStep", "Timer", "TraceLoop"]


@dataclass(frozen=True, slots=True)
class Timer:
    """A timer that is set."""

    owner: str
    """The task that sleeps, `timeout of` a task, or the name of the function to be called."""
    when: float
    """The instant it is due, in virtual seconds."""
    late: float
    """How long it has been due, because the loop was held up; 0 as it should be."""

    def __str__(self) -> str:
        return f"{self.owner} at {amount(self.when)}" + (f" ({amount(self.late)} late)" if self.late else "")


@dataclass(frozen=True, slots=True)
class LoopStep:
    """One task's step, and how things stand after it."""

    number: int
    """Counted from 1."""
    task: str
    """Whose step it was."""
    started: float
    """When, in virtual seconds."""
    blocked: float
    """How long the loop was held up, in virtual seconds; 0 as it should be."""
    lines: tuple[Line, ...]
    """The lines it ran, in their order."""
    ready: tuple[str, ...]
    """The tasks in the ready queue after it, the next one first."""
    timers: tuple[Timer, ...]
    """The timers set after it, the next one first."""
    states: tuple[TaskState, ...]
    """All tasks there have been, in the order they were made."""

    @property
    def then(self) -> str:
        """What the task came to: `sleeps until 2 s`, `ready again`, `returned 3`; `done` for what is no task."""
        what = next((s.what for s in self.states if s.task == self.task), "done")
        return "ready again" if what == "ready" else what

    @property
    def ended(self) -> float:
        """When the step was over, in virtual seconds."""
        return self.started + self.blocked


class TraceLoop(ChoosingLoop):
    """A virtual loop in asyncio's own order that keeps a record of its steps."""

    def __init__(self, name: str) -> None:
        super().__init__(fifo=True)
        self.steps: list[LoopStep] = []
        self._name = name
        self._made: list[asyncio.Task[Any]] = []
        self._step: tuple[str, float] | None = None  # who has it, since when
        self._lines: list[Line] = []
        self._going_on: Line | None = None  # the line a task goes on with, until it is known whether it runs another
        self._waits_on: dict[Any, str] = {}  # for what a task waits on: the task's name
        self._met: set[FrameType] = set()
        self._codes: dict[CodeType, None] = {}
        self._before: Any = None

    def create_task(self, coro: Coroutine[Any, Any, Any], **kwargs: Any) -> asyncio.Task[Any]:  # type: ignore[override]
        """Create a task and remember it."""
        task = super().create_task(coro, **kwargs)
        if self.choosing:
            self._made.append(task)
        return task

    async def body(self, main: Callable[..., Awaitable[Any]], args: tuple[Any, ...]) -> Any:
        """Run `main`, and note what happens until it ends."""
        task = asyncio.current_task()
        assert task is not None
        task.set_name(self._name)
        self._made.append(task)
        self._step = (self._name, self._now)
        self.choosing = True
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return await main(*args)

    def end(self) -> None:
        """Close the last step; what follows is cleaning up."""
        sys.settrace(self._before)
        self.choosing = False
        self._close_step()
        self._met.clear()

    def source(self) -> dict[str, dict[int, str]]:
        """Return the lines of every function that ran, by file."""
        return source_of(self._codes)

    def _run_once(self) -> None:
        if self.choosing and not self._ready:  # the clock is about to move
            self._close_step()
        super()._run_once()  # type: ignore[misc]

    def note_step(self, handle: Any) -> None:
        super().note_step(handle)
        self._close_step(handle)
        self._step = (self._label(handle), self._now)

    def _close_step(self, following: Any = None) -> None:
        if self._step is None:
            return
        tracer = sys.gettrace()
        sys.settrace(None)  # what follows is our own work: to trace it would take most of the time
        self._waits_on = {getattr(t, "_fut_waiter"): t.get_name() for t in self._made if not t.done()}  # noqa: B009
        (task, started), self._step = self._step, None
        queue = [*([] if following is None else [following]), *self._ready]
        ready = tuple(self._label(handle) for handle in queue if not is_bookkeeping(handle))
        waiting: list[Any] = sorted(timer for timer in self._scheduled if not timer._cancelled)
        late = [max(0.0, self._now - timer._when) for timer in waiting]
        timers = tuple(Timer(self._label(t), t._when, by) for t, by in zip(waiting, late, strict=True))
        sleeps = {timer._args[0]: timer._when for timer in waiting if is_sleep(timer)}
        stand = tuple(task_state(each, sleeps, self._now) for each in self._made)
        self._commit()
        step = LoopStep(
            number=len(self.steps) + 1,
            task=task,
            started=started,
            blocked=self._now - started,
            lines=tuple(dict.fromkeys(self._lines)),
            ready=ready,
            timers=timers,
            states=stand,
        )
        self.steps.append(step)
        self._lines.clear()
        sys.settrace(tracer)

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        if not is_yours(frame) or frame.f_code.co_filename == "<string>":  # made by namedtuple, and the like
            return None
        if event == "call":
            self._codes.setdefault(frame.f_code)
            if frame in self._met:
                self._going_on = line_of(frame)
            self._met.add(frame)
        elif event == "line":
            self._commit()
            self._lines.append(line_of(frame))
        elif event == "exception" and not self._lines:  # thrown in, as a cancellation is
            self._going_on = self._going_on or line_of(frame)
        return self._trace

    def _commit(self) -> None:
        """Note the line a task went on with."""
        if self._going_on is not None:
            self._lines.append(self._going_on)
            self._going_on = None

    def _label(self, handle: Any) -> str:
        """Say whom a callback or a timer belongs to."""
        callback: Any = handle._callback
        owner: Any = getattr(callback, "__self__", None)
        if hasattr(owner, "get_coro"):
            return str(owner.get_name())
        if is_sleep(handle):
            return self._waits_on.get(handle._args[0], "a sleep")
        if isinstance(owner, asyncio.Timeout):
            return f"timeout of {getattr(owner, '_task').get_name()}"  # noqa: B009
        name = str(getattr(callback, "__name__", "a callback"))
        return "a worker thread" if (name, callback.__module__) == ("work", VirtualLoop.__module__) else name
