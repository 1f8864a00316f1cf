"""A virtual loop that asks which waiting task goes next, instead of taking the first.

What it holds: `ChoosingLoop`, and `NotRepeatable`, raised when a scenario does not do the same thing twice.
Guarantees: with an empty script and `fifo=True` it runs exactly as asyncio does; any run is repeated by its script.
Strategy: the loop's ready queue is a deque whose `popleft` asks. Only steps of tasks, timeouts and work handed to
threads are choices; asyncio's own bookkeeping (what gather does when a task ends) touches no state of yours
and runs at once, which keeps the number of orders small without losing one. Used by `agentkit.lab.explorer.explore`.
"""

from __future__ import annotations

import asyncio
import functools
import heapq
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from typing import Any

from agentkit.lab.loops.virtual import VirtualLoop

__all__ = ["ChoosingLoop", "NotRepeatable", "Script"]

_MAX_STEPS = 5_000  # of one run
_REMEDY = "make fresh state inside the scenario, and seed its random numbers"
Handle = Any  # asyncio.Handle; its private fields are read here


Script = tuple[tuple[int, int], ...]  # choice by choice: which one, of how many; after that always the first in line


class NotRepeatable(RuntimeError):
    """The scenario did something else this time. Remedy: make its state inside it, and seed its random numbers."""


def _is_task(owner: Any) -> bool:
    return hasattr(owner, "get_coro")  # not isinstance: nest_asyncio puts another class in the place of asyncio.Task


def is_sleep(handle: Handle) -> bool:
    return getattr(handle._callback, "__name__", "") == "_set_result_unless_cancelled"


def is_bookkeeping(handle: Handle) -> bool:
    """Whether a callback is asyncio's own and runs no code of the reader's."""
    if handle._cancelled:
        return True
    callback = handle._callback
    while isinstance(callback, functools.partial):
        callback = callback.func
    owner = getattr(callback, "__self__", None)
    if _is_task(owner):
        return False
    if isinstance(handle, asyncio.TimerHandle):
        return is_sleep(handle)  # any other timer is a timeout that goes off, and that is a choice
    return asyncio.isfuture(owner) or str(getattr(callback, "__module__", "")).startswith("asyncio.")


class ReadyQueue(deque[Handle]):
    """The loop's queue of what can run now."""

    loop: ChoosingLoop

    def popleft(self) -> Handle:
        loop = self.loop
        if not loop.choosing:
            return self._first()
        loop.check_length()
        handle = self._first() if loop.fifo else self._chosen()
        if not is_bookkeeping(handle):
            loop.note_step(handle)
        return handle

    def _first(self) -> Handle:
        return super().popleft()

    def _chosen(self) -> Handle:
        for i, handle in enumerate(self):
            if is_bookkeeping(handle):
                return self._take(i)
        asleep = self.loop.sleeping() if self.loop.any_latency else []
        pick = self.loop.choose(len(self) + len(asleep))
        if pick < len(self):
            return self._take(pick)
        woken = len(self)
        self.loop.wake(asleep[pick - woken])
        return self.pop() if len(self) > woken else self._chosen()  # nobody wakes if the sleeper was cancelled

    def _take(self, i: int) -> Handle:
        handle = self[i]
        del self[i]
        return handle


class ChoosingLoop(VirtualLoop):
    """A virtual loop that runs its tasks in the order a script says, and notes the choices it had."""

    _ready: ReadyQueue

    def __init__(
        self,
        script: Script = (),
        *,
        fifo: bool = False,
        any_latency: bool = True,
        on_step: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__()
        self.fifo, self.any_latency = fifo, any_latency
        self.choosing = False  # only while the scenario runs, not while the loop is set up and cleaned up
        self.trail: list[tuple[int, int]] = []  # as a script
        self.order: list[str] = []  # the tasks, in the order of their steps
        self._script, self._on_step = script, on_step
        self._names: Counter[str] = Counter()
        self._ready = ReadyQueue(self._ready)
        self._ready.loop = self

    def create_task(self, coro: Coroutine[Any, Any, Any], **kwargs: Any) -> asyncio.Task[Any]:  # type: ignore[override]
        """Create a task named after its function: agent-1, agent-2, ..."""
        if kwargs.get("name") is None:
            name = getattr(coro, "__name__", "task")
            self._names[name] += 1
            kwargs["name"] = f"{name}-{self._names[name]}"
        return super().create_task(coro, **kwargs)

    def choose(self, options: int) -> int:
        if options == 1:
            return 0
        at = len(self.trail)
        pick, expected = self._script[at] if at < len(self._script) else (0, options)
        if options != expected:
            self.choosing = False
            raise NotRepeatable(
                f"{options} tasks could run at choice {at + 1}, and {expected} the last time; {_REMEDY}"
            )
        self.trail.append((pick, options))
        return pick

    def check_end(self) -> None:
        """Raise `NotRepeatable` if the run ended before its script did."""
        if len(self.trail) < len(self._script):
            raise NotRepeatable(
                f"there were {len(self.trail)} choices, and {len(self._script)} the last time; {_REMEDY}"
            )

    def check_length(self) -> None:
        if len(self.order) >= _MAX_STEPS:
            self.choosing = False
            raise RuntimeError(f"the scenario took more than {_MAX_STEPS:,} steps; give it an end, or make it smaller")

    def note_step(self, handle: Handle) -> None:
        owner = getattr(handle._callback, "__self__", None)
        name = owner.get_name() if owner is not None and _is_task(owner) else "a thread or timer"
        self.order.append(name)
        if self._on_step is not None:
            self._on_step(name)

    def sleeping(self) -> list[Handle]:
        """List the sleeps that have not ended, soonest first."""
        pending: list[Handle] = list(self._scheduled)
        return sorted(timer for timer in pending if is_sleep(timer) and not timer._cancelled)

    def wake(self, timer: Handle) -> None:
        """End a sleep now: the answer came sooner. The clock stays where it is, so no timeout goes off for it."""
        i = next(i for i, each in enumerate(self._scheduled) if each is timer)
        del self._scheduled[i]
        heapq.heapify(self._scheduled)
        timer._scheduled = False
        timer._run()
