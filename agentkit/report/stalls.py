"""Stall detection: finds async agents that block the event loop, by task and line.

A heartbeat on the loop, one timer every 50 ms, is checked by a daemon thread. If a beat is overdue, the thread looks up
which task the loop is running and at which line, while it blocks. Measuring step times afterwards could not name the
line. A loop that is idle, or busy with many short steps, does not count as stalled. Opened by notebook 02.
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

__all__ = ["LoopMonitor", "MonitorThread", "Stall", "StallDetector", "line_of", "monitor_thread"]

PERIOD = 0.05  # seconds between two beats, and between two checks
MIN_STALL = 0.1  # seconds; shorter ones are ignored (asyncio's default slow_callback_duration)
LOGGED = 1.0  # seconds; a run whose longest stall reaches this logs a warning when it ends
MAX_STALLS = 1_000  # stalls kept per run
IDLE = 20  # checks without any monitor before the thread parks: waking it for each of many short runs costs more

_log = logging.getLogger("agentkit")

Busy = tuple[int, str]  # id of the task that the loop is running, and the line of its agent


@dataclass(frozen=True, slots=True)
class Stall:
    """An interval in which one agent blocked the event loop, and with it all other agents.

    >>> Stall(2.5, 7, "line 3 of summarise in agents.py")
    <Stall: 2.5 s in task 7, line 3 of summarise in agents.py>
    """

    seconds: float
    """Duration, accurate to about 0.05 s."""
    task_id: int
    """The task whose agent blocked."""
    where: str
    """The line at which the agent blocked."""

    def __repr__(self) -> str:
        return f"<Stall: {self.seconds:.2g} s in task {self.task_id}, {self.where}>"


class StallDetector:
    """Finds stalls from heartbeats: the loop calls `beat`, another thread `check`, which asks `running` for the task.

    >>> detector = StallDetector(lambda: (7, "line 3 of summarise in agents.py"), began=0.0)
    >>> detector.check(now=0.1), detector.check(now=0.2), detector.check(now=2.4)
    (None, None, None)
    >>> detector.beat(now=2.5), detector.stalls
    (None, [<Stall: 2.5 s in task 7, line 3 of summarise in agents.py>])
    """

    def __init__(self, running: Callable[[], Busy | None], began: float) -> None:
        self._running, self._last_beat = running, began
        self._since = began  # when the loop started running `_suspect`, as far as is known
        self._suspect: Busy | None = None  # found in an overdue check; None if no beat is overdue
        self._lock = threading.Lock()
        self.stalls: list[Stall] = []
        """The stalls found, in chronological order."""

    def beat(self, now: float) -> None:
        """Record that the loop completed an iteration; called on the loop."""
        with self._lock:
            self._close(now)
            self._last_beat = self._since = now

    def check(self, now: float) -> None:
        """If the next beat is overdue, record which task the loop is running; called from another thread."""
        with self._lock:
            if now - self._last_beat <= MIN_STALL:
                return
            busy = self._running()
            if busy is not None and self._suspect is not None and busy[0] == self._suspect[0]:
                return
            if self._suspect is not None or busy is None:  # the next task began after the last check, at the earliest
                self._close(now)
                self._since = now
            self._suspect = busy

    def _close(self, now: float) -> None:
        if self._suspect is not None and now - self._since > MIN_STALL and len(self.stalls) < MAX_STALLS:
            self.stalls.append(Stall(now - self._since, *self._suspect))
        self._suspect = None


class LoopMonitor:
    """Monitors a running event loop for stalls: a heartbeat timer on the loop, checked by `monitor_thread`.

    `task_id_of` maps an asyncio task to the id of the task it works on, or None; the monitor thread calls it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, task_id_of: Callable[[asyncio.Task[Any]], int | None]) -> None:
        self._loop, self._task_id_of, self._thread = loop, task_id_of, threading.get_ident()
        self.detector = StallDetector(self._running, time.monotonic())
        self._timer = loop.call_later(PERIOD, self._beat)
        monitor_thread.add(self)

    def stop(self) -> None:
        """Stop monitoring; logs a warning if the longest stall took a second or more."""
        monitor_thread.remove(self)
        self._timer.cancel()
        self.detector.beat(time.monotonic())
        longest = max(self.detector.stalls, key=lambda stall: stall.seconds, default=None)
        if longest is not None and longest.seconds >= LOGGED:
            _log.warning(
                "task %d kept the event loop for %.2g s (%s) and all other agents waited; await something there, or "
                "make the agent a plain function, which runs in a thread. report.stalls has %d such",
                longest.task_id, longest.seconds, longest.where, len(self.detector.stalls),
            )  # fmt: skip

    def _beat(self) -> None:
        self.detector.beat(time.monotonic())
        self._timer = self._loop.call_later(PERIOD, self._beat)

    def _running(self) -> Busy | None:
        """Return the task that the loop is running, and its line; called from the monitor thread."""
        try:
            task = asyncio.current_task(self._loop)
            task_id = None if task is None else self._task_id_of(task)
        except RuntimeError:  # a container changed size while this thread was iterating over it
            return None
        frame = sys._current_frames().get(self._thread)  # noqa: SLF001  (the only way to another thread's frame)
        return None if task_id is None or frame is None else (task_id, line_of(frame))


def line_of(frame: FrameType | None) -> str:
    """Return the line at which an agent is running: its own line, not that of a library it calls."""
    agent = frame
    while frame is not None and frame.f_globals.get("__name__") not in ("agentkit.executor.dispatch", "asyncio.events"):
        agent, frame = frame, frame.f_back
    if agent is None:
        return "somewhere"
    file = agent.f_globals.get("__name__", "")
    return f"line {agent.f_lineno} of {agent.f_code.co_qualname}{f' in {file}' if file != '__main__' else ''}"


class MonitorThread:
    """Daemon thread shared by all monitored loops; started by the first run, parked while no loop is monitored."""

    def __init__(self) -> None:
        self._lock, self._needed = threading.Lock(), threading.Event()
        self.monitors = set[LoopMonitor]()
        self._thread: threading.Thread | None = None

    def add(self, monitor: LoopMonitor) -> None:
        """Start checking this monitor."""
        with self._lock:
            self.monitors.add(monitor)
        self._needed.set()
        self.start()

    def remove(self, monitor: LoopMonitor) -> None:
        """Stop checking this monitor."""
        with self._lock:
            self.monitors.discard(monitor)

    def start(self) -> None:
        """Start the thread if it is not running; after a fork it has to be started again."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="stall monitor of agentkit", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # the system allows no more threads: stalls go undetected
                self._thread = None

    def _run(self) -> None:
        idle = 0
        while True:
            with self._lock:
                monitors = list(self.monitors)
                idle = 0 if monitors else idle + 1
                if idle > IDLE:
                    self._needed.clear()
            self._needed.wait()
            time.sleep(PERIOD)
            now = time.monotonic()
            for monitor in monitors:
                monitor.detector.check(now)


monitor_thread = MonitorThread()
