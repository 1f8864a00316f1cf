"""Who holds up the loop: async agents that block instead of waiting, by task and line.

What it holds: `Stall`, one entry of `report.stalls`; `StallWatch`, which finds them; `Heart`, which watches a loop.
Guarantees: nothing is measured on the loop's own time but one timer every 50 ms; a loop that is idle, or busy with
many short steps, is no stall; a virtual clock is left alone.
Strategy: the loop sets a beat. A daemon thread, one for all runs, looks at the clock between beats, and where a beat
is overdue it looks at which agent the loop is in. So an agent is named while it blocks, which no measuring afterwards
can do.
Opened by notebook 02.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

__all__ = ["Heart", "Stall", "StallWatch", "Watchman", "is_real", "line_of", "watchman"]

PERIOD = 0.05  # seconds between two beats, and between two looks
HARMLESS = 0.1  # seconds; shorter ones are not noted (asyncio's own limit for slow callbacks in debug mode)
GRAVE = 1.0  # seconds; from here on it is also logged, once per run
MOST = 1_000  # stalls kept of one run
IDLE = 20  # looks at nothing before the thread sleeps: waking it for each of many short runs would cost more

_log = logging.getLogger("agentkit")

Busy = tuple[int, str]  # which task the loop is in, and where in its agent


@dataclass(frozen=True, slots=True)
class Stall:
    """A stretch of time in which one agent kept the loop, and with it all other agents, from going on.

    >>> Stall(2.5, 7, "line 3 of summarise in agents.py")
    <Stall: 2.5 s in task 7, line 3 of summarise in agents.py>
    """

    seconds: float
    """How long, to about 0.05 s."""
    task_id: int
    """The task whose agent it was."""
    where: str
    """The line of the agent."""

    def __repr__(self) -> str:
        return f"<Stall: {self.seconds:.2g} s in task {self.task_id}, {self.where}>"


class StallWatch:
    """Notes what an agent did to the loop's beat. The caller beats; somebody outside the loop looks.

    >>> watch = StallWatch(lambda: (7, "line 3 of summarise in agents.py"), began=0.0)
    >>> watch.look(now=0.1), watch.look(now=0.2), watch.look(now=2.4)
    (None, None, None)
    >>> watch.beat(now=2.5), watch.stalls
    (None, [<Stall: 2.5 s in task 7, line 3 of summarise in agents.py>])
    """

    def __init__(self, busy: Callable[[], Busy | None], began: float) -> None:
        self._busy, self._beaten = busy, began
        self._since = began  # since when the loop has been in `_in`
        self._in: Busy | None = None
        self._lock = threading.Lock()
        self.stalls: list[Stall] = []
        """What was found, in the order in which it happened."""

    def beat(self, now: float) -> None:
        """The loop has come round."""
        with self._lock:
            self._close(now)
            self._beaten = self._since = now

    def look(self, now: float) -> None:
        """Ask whom the loop is in, if it should have come round before now."""
        with self._lock:
            if now - self._beaten <= HARMLESS:
                return
            busy = self._busy()
            if busy is not None and self._in is not None and busy[0] == self._in[0]:
                return
            if self._in is not None or busy is None:  # what follows began after the last look, as far as is known
                self._close(now)
                self._since = now
            self._in = busy

    def _close(self, now: float) -> None:
        if self._in is not None and now - self._since > HARMLESS and len(self.stalls) < MOST:
            self.stalls.append(Stall(now - self._since, *self._in))
        self._in = None


class Heart:
    """A watch that beats on a running loop, and is looked at from the thread of all watches.

    `whose(task)` tells which of the run's tasks, by number, a task of the loop works for.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, whose: Callable[[asyncio.Task[Any]], int | None]) -> None:
        self._loop, self._whose, self._thread = loop, whose, threading.get_ident()
        self.watch = StallWatch(self._busy, time.monotonic())
        self._timer = loop.call_later(PERIOD, self._beat)
        watchman.add(self)

    def stop(self) -> None:
        """End the watch."""
        watchman.remove(self)
        self._timer.cancel()
        self.watch.beat(time.monotonic())
        longest = max(self.watch.stalls, key=lambda stall: stall.seconds, default=None)
        if longest is not None and longest.seconds >= GRAVE:
            _log.warning(
                "task %d kept the event loop for %.2g s (%s) and all other agents waited; await something there, or "
                "make the agent a plain function, which runs in a thread. report.stalls has %d such",
                longest.task_id, longest.seconds, longest.where, len(self.watch.stalls),
            )  # fmt: skip

    def _beat(self) -> None:
        self.watch.beat(time.monotonic())
        self._timer = self._loop.call_later(PERIOD, self._beat)

    def _busy(self) -> Busy | None:
        try:
            task = asyncio.current_task(self._loop)
            task_id = None if task is None else self._whose(task)
        except RuntimeError:  # something changed while this thread was reading it
            return None
        frame = sys._current_frames().get(self._thread)
        return None if task_id is None or frame is None else (task_id, line_of(frame))


def is_real(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether the loop's clock is the machine's; on a virtual one blocking takes no time."""
    return abs(loop.time() - time.monotonic()) < 1


def line_of(frame: FrameType | None) -> str:
    """Say where an agent is: its own line, not that of the library which it calls."""
    agent = frame
    while frame is not None and frame.f_globals.get("__name__") not in ("agentkit.executor.workers", "asyncio.events"):
        agent, frame = frame, frame.f_back
    if agent is None:
        return "somewhere"
    file = agent.f_globals.get("__name__", "")
    return f"line {agent.f_lineno} of {agent.f_code.co_qualname}{f' in {file}' if file != '__main__' else ''}"


class Watchman:
    """The thread that looks at all watches. It comes with the first run, and sleeps while there is none to watch."""

    def __init__(self) -> None:
        self._lock, self._hearts, self._needed = threading.Lock(), set[Heart](), threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, heart: Heart) -> None:
        """Look at this one, too."""
        with self._lock:
            self._hearts.add(heart)
        self._needed.set()
        self.start()

    def remove(self, heart: Heart) -> None:
        """Look at it no more."""
        with self._lock:
            self._hearts.discard(heart)

    def start(self) -> None:
        """Make the thread, if there is none: also after a fork, which threads do not survive."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._walk, name="stalls of agentkit", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # no threads to be had: nothing will be noted
                self._thread = None

    def _walk(self) -> None:
        idle = 0
        while True:
            with self._lock:
                hearts = list(self._hearts)
                idle = 0 if hearts else idle + 1
                if idle > IDLE:
                    self._needed.clear()
            self._needed.wait()
            time.sleep(PERIOD)
            now = time.monotonic()
            for heart in hearts:
                heart.watch.look(now)


watchman = Watchman()
