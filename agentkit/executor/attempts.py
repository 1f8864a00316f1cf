"""The attempts of a run that are in flight, and one timer for all their time limits.

What it holds: `LiveAttempts`; `begun`, which makes an asyncio task that sees an early cancellation; `turn`;
`without_caller`.
Guarantees: no attempt is cancelled early; at most one timer is set, however many attempts there are.
Strategy: the timer is set for the earliest instant. An `asyncio.timeout` per call would set and clear a timer each.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from contextvars import Context
from math import inf
from typing import Any

__all__ = ["LiveAttempts", "begun", "turn", "without_caller"]


class LiveAttempts:
    """Attempts in flight, by the number of their task; the dispatcher adds and removes them itself."""

    __slots__ = ("_in_order", "due", "late", "live", "timer")

    def __init__(self, *, in_order: bool) -> None:
        self._in_order = in_order  # whether the time of those that started later is up later
        self.live: dict[int, tuple[asyncio.Task[None], float]] = {}
        """Each attempt, and when its time is up, on the loop's clock."""
        self.late: set[int] = set()
        """Those that were cancelled because their time was up."""
        self.due = inf
        """When the timer fires."""
        self.timer: asyncio.TimerHandle | None = None
        """What fires then."""

    def cancel(self, me: asyncio.Task[Any] | None = None) -> None:
        """Cancel all, except the running task if it is one."""
        for task, _ in list(self.live.values()):
            if task is not me:
                task.cancel()

    def task_id_of(self, task: asyncio.Task[Any]) -> int | None:
        """The number of the task that an asyncio task attempts, if it does; may be called from another thread."""
        return next((task_id for task_id, (attempt, _) in list(self.live.items()) if attempt is task), None)

    def set_timer(self, loop: asyncio.AbstractEventLoop | None, when: float) -> None:
        """Fire at `when`, which is earlier than all other instants."""
        assert loop is not None
        self.close()
        self.timer, self.due = loop.call_at(when, self._fire, loop), when

    def close(self) -> None:
        """Clear the timer."""
        if self.timer is not None:
            self.timer.cancel()

    def _fire(self, loop: asyncio.AbstractEventLoop) -> None:
        """Cancel the attempts whose time is up, and set the timer for the next one."""
        now, following = max(self.due, loop.time()), inf
        for task_id, (task, when) in list(self.live.items()):
            if when > now:
                following = min(following, when)
                if self._in_order:
                    break
            elif task_id not in self.late:
                self.late.add(task_id)
                task.cancel()
        self.timer, self.due = None, inf
        if following < inf:
            self.set_timer(loop, following)


def begun(
    loop: asyncio.AbstractEventLoop | None, work: Coroutine[Any, Any, None], context: Context | None
) -> asyncio.Task[None]:
    """Make a task of a coroutine that begins with `await turn()`, and begin it: so it sees an early cancellation."""
    try:
        task = loop.create_task(work, context=context)  # type: ignore[union-attr]  # it has begun
    except BaseException:
        work.close()
        raise
    if not work.cr_suspended:  # type: ignore[attr-defined]  # an eager task factory has begun it already
        work.send(None)
    return task


@types.coroutine
def turn() -> Generator[None, None, None]:
    """Give the loop one turn; a coroutine that awaits this can be begun by hand."""
    yield


def without_caller(error: BaseException) -> BaseException:
    """Drop the frame that caught an error from its traceback, so that the error does not keep the run alive."""
    try:
        return error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)
    except Exception:  # an exception that cannot be changed
        return error
